-- What watchers of runs ask, where PostgreSQL says it in its own way.

-- name: skip_runs
-- The run at a place of the list of runs, newest first.
SELECT x.id::text AS id FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT 1 OFFSET :limit::bigint - 1

-- name: skip_runs_by_part
-- The run at a place of the list of the runs of some jobs, in some statuses, or both.
WITH RECURSIVE {newest}
SELECT v.id::text AS id FROM page v ORDER BY v.id DESC LIMIT 1 OFFSET :limit::bigint - 1

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
LIMIT 1 OFFSET :limit::bigint - 1

-- name: count_ended
-- How many runs ended lately, by status. The id fits no index here, see count_runs.
SELECT x.status, count(*) AS runs
FROM {runs} x
WHERE x.status IN ('completed', 'failed', 'cancelled')
  AND x.completed_at > {now} - :within_us::bigint * interval '1 microsecond'
  AND {wide_filter}
  AND coalesce(x.id < {before}, false)
GROUP BY x.status

-- name: lease_owners
-- Who holds leases.
SELECT x.lease_owner AS owner, count(*) AS runs, max(x.lease_expires_at) AS expires_at
FROM {runs} x
WHERE x.status = 'leased'
GROUP BY x.lease_owner
