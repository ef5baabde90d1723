-- What watchers of runs ask, in both dialects; what differs is beside each of them.

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
-- How many runs of each job are in each status; of some there may be none. The id is tested in a way that fits no index:
-- PostgreSQL would rather walk all ids where the statistics know few jobs.
WITH RECURSIVE {parts}
SELECT v.job, v.status, (
    SELECT count(*)
    FROM {runs} x {by_status}
    WHERE {x_status} = v.status AND {x_job} = v.job AND {other_filters} AND coalesce(x.id < {before}, false)
) AS runs
FROM part v
WHERE v.job IS NOT NULL

-- name: oldest_pending
-- The run that has been pending for longest.
SELECT {run_columns}
FROM {runs} r
WHERE r.id = (
    WITH RECURSIVE {parts}
    SELECT first.id
    FROM (
        SELECT (SELECT x.id FROM {runs} x {by_status} WHERE {of_part} ORDER BY {x_status}, {x_job}, x.id LIMIT 1) AS id
        FROM part v
    ) first
    WHERE first.id IS NOT NULL
    ORDER BY first.id
    LIMIT 1
)

-- name: run_by_key
-- The run of a job with an idempotency key.
SELECT {run_columns}
FROM {runs} r
WHERE r.job = :job AND r.idempotency_key = :key
