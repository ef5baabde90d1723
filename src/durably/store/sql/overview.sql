-- What watchers of runs ask, in both dialects; what differs is in sqlite_overview.sql and postgres_overview.sql.

-- name: run_snapshot
-- One run, with the number of its last event.
SELECT {run_columns}, r.seq AS seq
FROM {runs} r
WHERE r.id = {param_run_id}

-- name: schema_version
-- The newest migration that was applied.
SELECT coalesce(max(version), 0) AS version
FROM {migrations}

-- name: recent_leases
-- Who leased runs lately.
SELECT e.payload, e.created_at
FROM (SELECT * FROM {events} ORDER BY id DESC LIMIT 500) e
WHERE e.type = 'run:leased'

-- name: count_runs
-- How many runs of each job are in each status.
SELECT x.job, x.status, count(*) AS runs
FROM {runs} x
WHERE {run_filter}
GROUP BY x.job, x.status

-- name: oldest_pending
-- The run that has been pending for longest.
SELECT {run_columns}
FROM (SELECT * FROM {runs} x WHERE x.status = 'pending' AND {run_filter} ORDER BY x.id LIMIT 1) r

-- name: run_by_key
-- The run of a job with an idempotency key.
SELECT {run_columns}
FROM {runs} r
WHERE r.job = :job AND r.idempotency_key = :key
