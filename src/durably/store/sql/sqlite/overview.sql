-- What watchers of runs ask, where SQLite says it in its own way.

-- name: count_ended
-- How many runs ended lately, by status.
SELECT v.column1 AS status, count(*) AS runs
FROM (VALUES ('completed'), ('failed'), ('cancelled')) v
CROSS JOIN {runs} x INDEXED BY {runs}_ended ON x.status = v.column1 AND x.completed_at > :now - :within_us
WHERE {run_filter}
GROUP BY v.column1

-- name: lease_owners
-- Who holds leases.
SELECT x.lease_owner AS owner, count(*) AS runs, max(x.lease_expires_at) AS expires_at
FROM {runs} x {by_status}
WHERE x.status = 'leased'
GROUP BY x.lease_owner
