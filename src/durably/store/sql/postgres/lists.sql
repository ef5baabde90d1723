-- Pages of runs, by the index that narrows most (runs.py, overview.py).

-- fragment: by_status
-- PostgreSQL chooses by itself.

-- fragment: x_status
x.status COLLATE "C"

-- fragment: x_job
x.job COLLATE "C"

-- fragment: before
coalesce(:before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')

-- fragment: other_filters
(:labels::text IS NULL OR x.labels @> :labels::text::jsonb)
AND (:concurrency_key::text IS NULL OR x.concurrency_key = :concurrency_key::text)

-- fragment: wide_filter
(:jobs::text[] IS NULL OR x.job = ANY (:jobs::text[]))
AND (:statuses::text[] IS NULL OR x.status = ANY (:statuses::text[]))
AND {other_filters}

-- fragment: run_filter
{wide_filter} AND x.id < {before}

-- fragment: parts
-- The parts of the index (status, job, id) that a filter takes: each of its statuses with each of its jobs. Without jobs
-- the index is walked from job to job, which is one look-up for each job that has runs in a status, however many these
-- are. The last part of such a walk has no job.
part (status, job) AS (
    SELECT s.status, coalesce(j.job, (SELECT x.job FROM {runs} x WHERE {x_status} = s.status ORDER BY {x_job} DESC LIMIT 1))
    FROM unnest(:statuses::text[]) AS s (status)
    LEFT JOIN unnest(:jobs::text[]) AS j (job) ON true
    UNION ALL
    SELECT v.status, (SELECT x.job FROM {runs} x WHERE {x_status} = v.status AND {x_job} < v.job ORDER BY {x_job} DESC LIMIT 1)
    FROM part v
    WHERE :jobs::text[] IS NULL AND v.job IS NOT NULL
)

-- fragment: of_part
-- What of a part meets the filter. Rows are compared, for only this index has them in that order: where the statistics
-- know few jobs, PostgreSQL would rather walk all ids. The index's order is that of bytes, so that nobody else uses it.
({x_status}, {x_job}, x.id) < (v.status, v.job, {before})
AND ({x_status}, {x_job}, x.id) >= (v.status, v.job, '00000000-0000-0000-0000-000000000000')
AND {other_filters}

-- fragment: newest
-- The newest of all parts, by their ids. The limit taken of each of n parts would be n times too much: at first it is
-- limit / sqrt(n), and then what may be missing of those that have more; so at most about 2 * limit * sqrt(n) are read.
{parts},
share AS MATERIALIZED (
    SELECT ceil(least(:limit::bigint, 1000000000) / sqrt(greatest(count(*), 1)))::integer AS runs FROM part
),
near AS MATERIALIZED (
    SELECT v.status, v.job, ARRAY (
        SELECT x.id
        FROM {runs} x
        WHERE {of_part}
        ORDER BY {x_status} DESC, {x_job} DESC, x.id DESC
        LIMIT (SELECT runs FROM share)
    ) AS ids
    FROM part v
),
bound AS MATERIALIZED (
    SELECT coalesce(
        (SELECT i.id FROM near CROSS JOIN unnest(near.ids) AS i (id) ORDER BY i.id DESC LIMIT 1 OFFSET :limit::bigint - 1),
        '00000000-0000-0000-0000-000000000000'
    ) AS id
),
page AS (
    SELECT i.id FROM near CROSS JOIN unnest(near.ids) AS i (id)
    UNION ALL
    SELECT more.id
    FROM near v
    CROSS JOIN share
    CROSS JOIN bound
    CROSS JOIN LATERAL (
        SELECT x.id
        FROM {runs} x
        WHERE ({x_status}, {x_job}, x.id) < (v.status, v.job, v.ids[share.runs])
          AND ({x_status}, {x_job}, x.id) > (v.status, v.job, bound.id)
          AND {other_filters}
        ORDER BY {x_status} DESC, {x_job} DESC, x.id DESC
        LIMIT :limit::bigint - share.runs
    ) more
    WHERE v.ids[share.runs] > bound.id
)

-- name: list_runs
-- A page of runs, newest first.
SELECT {run_columns}
FROM (SELECT x.* FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT :limit::bigint) r
ORDER BY r.id DESC

-- name: list_runs_by_part
-- A page of the runs of some jobs, in some statuses, or both.
WITH RECURSIVE {newest}
SELECT {run_columns}
FROM (SELECT id FROM page ORDER BY id DESC LIMIT :limit::bigint) found
CROSS JOIN LATERAL (SELECT x.* FROM {runs} x WHERE x.id = found.id OFFSET 0) r
ORDER BY r.id DESC

-- name: list_runs_by_label
-- A page of the runs that carry some labels.
WITH found AS MATERIALIZED (
    SELECT x.*
    FROM {runs} x
    WHERE x.labels <> '{}' AND x.labels @> :labels::text::jsonb AND {run_filter}
)
SELECT {run_columns}
FROM found r
ORDER BY r.id DESC
LIMIT :limit::bigint

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
