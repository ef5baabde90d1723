-- Pages of runs, by the index that narrows most (runs.py, overview.py).

-- fragment: by_status
INDEXED BY {runs}_by_status

-- fragment: x_status
x.status

-- fragment: x_job
x.job

-- fragment: before
coalesce(:before, '~')

-- fragment: other_filters
(:labels IS NULL OR NOT EXISTS (
    SELECT 1 FROM json_each(:labels) f
    WHERE NOT EXISTS (SELECT 1 FROM json_each(x.labels) l WHERE l.key = f.key AND l.value = f.value)
))
AND (:concurrency_key IS NULL OR x.concurrency_key = :concurrency_key)

-- fragment: run_filter
(:jobs IS NULL OR x.job IN (SELECT value FROM json_each(:jobs)))
AND (:statuses IS NULL OR x.status IN (SELECT value FROM json_each(:statuses)))
AND {other_filters}
AND x.id < {before}

-- fragment: parts
-- The parts of the index (status, job, id) that a filter takes: each of its statuses with each of its jobs. Without jobs
-- the index is walked from job to job, which is one look-up for each job that has runs in a status, however many these
-- are. The last part of such a walk has no job.
part (status, job) AS (
    SELECT s.value, coalesce(j.value, (
        SELECT x.job FROM {runs} x {by_status} WHERE x.status = s.value ORDER BY x.job DESC LIMIT 1
    ))
    FROM json_each(:statuses) s
    LEFT JOIN json_each(:jobs) j
    UNION ALL
    SELECT v.status, (
        SELECT x.job FROM {runs} x {by_status} WHERE x.status = v.status AND x.job < v.job ORDER BY x.job DESC LIMIT 1
    )
    FROM part v
    WHERE :jobs IS NULL AND v.job IS NOT NULL
)

-- fragment: of_part
-- What of a part meets the filter.
x.status = v.status AND x.job = v.job AND x.id < {before} AND {other_filters}

-- fragment: newest
-- The newest of all parts, by their ids: each part's newest waits in a queue, and who leaves it is followed by the next
-- of its part. That is one look-up for each part and one for each run.
{parts},
page (status, job, id) AS (
    SELECT v.status, v.job, (SELECT x.id FROM {runs} x {by_status} WHERE {of_part} ORDER BY x.id DESC LIMIT 1)
    FROM part v
    UNION ALL
    SELECT v.status, v.job, (
        SELECT x.id
        FROM {runs} x {by_status}
        WHERE x.status = v.status AND x.job = v.job AND x.id < v.id AND {other_filters}
        ORDER BY x.id DESC
        LIMIT 1
    )
    FROM page v
    WHERE v.id IS NOT NULL
    ORDER BY 3 DESC
    LIMIT :limit
)

-- name: list_runs
-- A page of runs, newest first.
SELECT {run_columns}
FROM (SELECT * FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT :limit) r
ORDER BY r.id DESC

-- name: list_runs_by_part
-- A page of the runs of some jobs, in some statuses, or both.
WITH RECURSIVE {newest}
SELECT {run_columns}
FROM page v
CROSS JOIN {runs} r ON r.id = v.id
ORDER BY r.id DESC

-- name: list_runs_by_label
-- A page of the runs that carry some labels.
SELECT {run_columns}
FROM (SELECT * FROM {runs} x WHERE x.labels <> '{}' AND {run_filter} ORDER BY x.id DESC LIMIT :limit) r
ORDER BY r.id DESC

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
