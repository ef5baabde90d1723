-- What watchers of runs ask, where SQLite says it in its own way.

-- name: skip_runs
-- The run at a place of the list of runs, newest first.
SELECT x.id AS id FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT 1 OFFSET :offset - 1

-- name: skip_runs_by_job
-- The run at a place of the list of the runs of some jobs, each looked at through its own part of the index.
SELECT page.value AS id
FROM json_each(:jobs) v
CROSS JOIN json_each((
    SELECT json_group_array(c.id)
    FROM (SELECT x.id FROM {runs} x WHERE x.job = v.value AND {run_filter} ORDER BY x.id DESC LIMIT :offset) c
)) page
ORDER BY page.value DESC
LIMIT 1 OFFSET :offset - 1

-- name: skip_runs_by_status
-- The run at a place of the list of the runs in some statuses, each looked at through its own part of the index.
SELECT page.value AS id
FROM json_each(:statuses) v
CROSS JOIN json_each((
    SELECT json_group_array(c.id)
    FROM (SELECT x.id FROM {runs} x WHERE x.status = v.value AND {run_filter} ORDER BY x.id DESC LIMIT :offset) c
)) page
ORDER BY page.value DESC
LIMIT 1 OFFSET :offset - 1

-- name: skip_runs_by_label
-- The run at a place of the list of the runs that carry some labels.
SELECT x.id AS id FROM {runs} x WHERE x.labels <> '{}' AND {run_filter} ORDER BY x.id DESC LIMIT 1 OFFSET :offset - 1

-- name: count_ended
-- How many runs ended lately, by status.
SELECT x.status, count(*) AS runs
FROM {runs} x INDEXED BY {runs}_ended
WHERE x.status IN ('completed', 'failed', 'cancelled') AND x.completed_at > :now - :within_us AND {run_filter}
GROUP BY x.status

-- name: lease_owners
-- Who holds leases.
SELECT x.lease_owner AS owner, count(*) AS runs, max(x.lease_expires_at) AS expires_at
FROM {runs} x INDEXED BY {runs}_leased
WHERE x.status = 'leased'
GROUP BY x.lease_owner
