-- What watchers of runs ask, where SQLite says it in its own way.

-- name: skip_runs
-- The run at a place of the list of runs, newest first.
SELECT x.id AS id FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT 1 OFFSET :limit - 1

-- name: skip_runs_by_part
-- The run at a place of the list of the runs of some jobs, in some statuses, or both.
WITH RECURSIVE {newest}
SELECT v.id AS id FROM page v WHERE v.id IS NOT NULL ORDER BY v.id DESC LIMIT 1 OFFSET :limit - 1

-- name: skip_runs_by_label
-- The run at a place of the list of the runs that carry some labels.
SELECT x.id AS id FROM {runs} x WHERE x.labels <> '{}' AND {run_filter} ORDER BY x.id DESC LIMIT 1 OFFSET :limit - 1

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
