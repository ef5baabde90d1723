-- What watchers of runs ask, where PostgreSQL says it in its own way.

-- name: skip_runs
-- The run at a place of the list of runs, newest first.
SELECT x.id::text AS id FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT 1 OFFSET :offset::bigint - 1

-- name: skip_runs_by_job
-- The run at a place of the list of the runs of some jobs, each looked at through its own part of the index.
SELECT r.id::text AS id
FROM unnest(:jobs::text[]) AS v (value)
CROSS JOIN LATERAL (
    SELECT x.id FROM {runs} x WHERE x.job = v.value AND {run_filter} ORDER BY x.id DESC LIMIT :offset::bigint
) r
ORDER BY r.id DESC
LIMIT 1 OFFSET :offset::bigint - 1

-- name: skip_runs_by_status
-- The run at a place of the list of the runs in some statuses, each looked at through its own part of the index.
SELECT r.id::text AS id
FROM unnest(:statuses::text[]) AS v (value)
CROSS JOIN LATERAL (
    SELECT x.id FROM {runs} x WHERE x.status = v.value AND {run_filter} ORDER BY x.id DESC LIMIT :offset::bigint
) r
ORDER BY r.id DESC
LIMIT 1 OFFSET :offset::bigint - 1

-- name: skip_runs_by_label
-- The run at a place of the list of the runs that carry some labels.
WITH found AS MATERIALIZED (
    SELECT x.id
    FROM {runs} x
    WHERE x.labels <> '{}' AND x.labels @> :labels::text::jsonb AND {run_filter}
)
SELECT r.id::text AS id
FROM found r
ORDER BY r.id DESC
LIMIT 1 OFFSET :offset::bigint - 1

-- name: count_ended
-- How many runs ended lately, by status.
SELECT x.status, count(*) AS runs
FROM {runs} x
WHERE x.status IN ('completed', 'failed', 'cancelled')
  AND x.completed_at > {now} - :within_us::bigint * interval '1 microsecond'
  AND {run_filter}
GROUP BY x.status

-- name: lease_owners
-- Who holds leases.
SELECT x.lease_owner AS owner, count(*) AS runs, max(x.lease_expires_at) AS expires_at
FROM {runs} x
WHERE x.status = 'leased'
GROUP BY x.lease_owner
