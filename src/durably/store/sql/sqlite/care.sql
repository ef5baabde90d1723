-- What looks after a database: its health, its limits, the end of its event feed. Nothing here is on a hot path.

-- name: read_clock
-- What the database's clock says.
SELECT :now AS now

-- name: read_schema
-- The migrations that were applied.
SELECT version, name, serves, applied_at
FROM {migrations}
ORDER BY version

-- name: read_waiting
-- For each job with claimable runs: how many (counted up to 1000), since when, and whether one of the job is executed.
WITH RECURSIVE waiting (job) AS (
    SELECT min(r.job) FROM {runs} r INDEXED BY {runs}_claimable WHERE r.status = 'pending' AND r.hold IS NULL
    UNION ALL
    SELECT (SELECT min(r.job) FROM {runs} r INDEXED BY {runs}_claimable WHERE r.status = 'pending' AND r.hold IS NULL AND r.job > w.job)
    FROM waiting w
    WHERE w.job IS NOT NULL
)
SELECT w.job,
       (SELECT count(*) FROM (SELECT 1 FROM {runs} r INDEXED BY {runs}_claimable WHERE r.job = w.job AND r.status = 'pending' AND r.hold IS NULL LIMIT 1000)) AS runs,
       (SELECT max(coalesce(r.available_at, 0), r.created_at)
        FROM {runs} r INDEXED BY {runs}_claimable
        WHERE r.job = w.job AND r.status = 'pending' AND r.hold IS NULL
        ORDER BY r.rank, r.id LIMIT 1) AS since,
       EXISTS (SELECT 1 FROM {runs} r {by_status} WHERE r.job = w.job AND r.status = 'leased' AND r.lease_expires_at > :now) AS is_served
FROM waiting w
WHERE w.job IS NOT NULL
ORDER BY w.job
LIMIT 1000

-- name: read_expired
-- Leases that ran out, job by job, and since when.
SELECT r.job, count(*) AS runs, min(r.lease_expires_at) AS since
FROM {runs} r {by_status}
WHERE r.status = 'leased' AND r.lease_expires_at <= :now
GROUP BY r.job
ORDER BY r.job
LIMIT 1000

-- name: read_tables
-- The file: pages, free pages, bytes. SQLite has no autovacuum of this kind.
SELECT 'the database file' AS name, p.page_count AS entries, f.freelist_count AS dead, p.page_count * s.page_size AS bytes,
       1 AS is_vacuumed, NULL AS vacuumed_at
FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s

-- name: read_indexes
-- SQLite merges the pages of an index by itself.
SELECT NULL AS name, 0 AS bytes, 0 AS expected
WHERE false

-- name: read_server
-- There is no server.
SELECT 1 AS is_vacuuming, NULL AS oldest_s, NULL AS slot_bytes
