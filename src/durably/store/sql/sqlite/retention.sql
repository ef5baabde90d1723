-- Deleting what is old (actions.py, events.py, care.py).

-- fragment: purgeable
SELECT x.id
FROM {runs} x
WHERE x.status = :status AND NOT x.slot AND x.completed_at < :now - :older_than_us
ORDER BY x.completed_at, x.id
LIMIT :limit

-- name: purge_runs
-- Delete terminal runs that ended before a time, oldest first, with their steps and logs.
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT r.id, r.seq + 1, 'run:delete', r.job, nullif(r.labels, '{}'), :now
FROM {runs} r
WHERE r.id IN ({purgeable});
DELETE FROM {steps} WHERE run_id IN ({purgeable});
DELETE FROM {logs} WHERE run_id IN ({purgeable});
DELETE FROM {runs}
WHERE id IN ({purgeable})
RETURNING id

-- name: purge_events
-- Delete the oldest rows of events that are older than a time. Returns those that went.
DELETE FROM {events}
WHERE id IN (
    SELECT old.id
    FROM (SELECT e.id, e.created_at FROM {events} e ORDER BY e.id LIMIT :limit) old
    WHERE old.created_at < :now - :older_than_us
)
RETURNING id

-- name: count_purgeable
-- How many runs in these statuses ended before a time.
SELECT count(*) AS runs
FROM json_each(:statuses) s
CROSS JOIN {runs} r INDEXED BY {runs}_ended ON r.status = s.value AND r.completed_at < :now - :older_than_us

-- name: shrink_wal
-- Move what the write-ahead log holds into the database and cut the log, unless somebody uses it.
PRAGMA wal_checkpoint(TRUNCATE)
