-- What watchers of runs ask, where PostgreSQL says it in its own way.

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
