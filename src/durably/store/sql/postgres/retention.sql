-- Deleting what is old (actions.py, events.py, care.py).

-- name: purge_runs
-- Delete terminal runs that ended before a time, oldest first, with their steps and logs.
WITH chosen AS MATERIALIZED (
    SELECT r.id
    FROM {runs} r
    WHERE r.status = :status::text AND NOT r.slot AND r.completed_at < {now} - :older_than_us::bigint * interval '1 microsecond'
    ORDER BY r.completed_at, r.id
    LIMIT :limit::integer
    FOR UPDATE SKIP LOCKED
),
steps AS (DELETE FROM {steps} s WHERE s.run_id = ANY (ARRAY (SELECT id FROM chosen))),
logs AS (DELETE FROM {logs} l WHERE l.run_id = ANY (ARRAY (SELECT id FROM chosen))),
gone AS (
    DELETE FROM {runs} r
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen))
    RETURNING r.id, r.seq, r.job, r.labels
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq + 1, 'run:delete', job, nullif(labels, '{}'), {now}
    FROM gone
)
SELECT id::text AS id
FROM gone

-- name: purge_events
-- Delete the oldest rows of events that are older than a time. Returns those that went.
WITH old AS MATERIALIZED (
    SELECT id, created_at
    FROM {events}
    ORDER BY id
    LIMIT :limit::integer
)
DELETE FROM {events} e
WHERE e.id = ANY (ARRAY (
    SELECT id FROM old WHERE created_at < {now} - :older_than_us::bigint * interval '1 microsecond'
))
RETURNING e.id

-- name: count_purgeable
-- How many runs in these statuses ended before a time.
SELECT count(*)::bigint AS runs
FROM {runs} r
WHERE r.status = ANY (:statuses::text[])
  AND r.completed_at < {now} - :older_than_us::bigint * interval '1 microsecond'

-- name: shrink_wal
-- PostgreSQL keeps its log in order by itself.
SELECT 0 AS busy
