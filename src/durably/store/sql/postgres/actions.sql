-- What is done to runs from outside: cancel, resume, delete (actions.py).

-- fragment: changes
unnest(:items_id::uuid[], :items_token::uuid[]) AS i (id, token)

-- name: cancel_runs
-- Cancel runs that are not over yet. Returns the changed rows.
WITH chosen AS MATERIALIZED (
    SELECT r.id, r.slot, i.token
    FROM {changes}
    CROSS JOIN LATERAL (
        SELECT x.id, x.slot FROM {runs} x WHERE x.id = i.id AND x.status IN ('pending', 'leased') FOR NO KEY UPDATE
    ) r
),
changed AS (
    UPDATE {runs} r
    SET status = 'cancelled', hold = NULL, slot = false, seq = r.seq + 1, request = chosen.token,
        lease_owner = NULL, lease_expires_at = NULL, completed_at = {now}
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*, chosen.slot AS had_slot
),
freed AS (
    UPDATE {concurrency_keys} k
    SET active = greatest(k.active - n.runs, 0)
    FROM (SELECT concurrency_key, count(*)::integer AS runs FROM changed WHERE had_slot GROUP BY concurrency_key) n
    WHERE k.key = n.concurrency_key
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq, 'run:cancel', job, nullif(labels, '{}'), completed_at
    FROM changed
)
SELECT {run_columns}
FROM changed r

-- name: resume_runs
-- Let failed runs continue after their last checkpoint. Returns the changed rows.
WITH chosen AS MATERIALIZED (
    SELECT r.id, i.token
    FROM {changes}
    CROSS JOIN LATERAL (SELECT x.id FROM {runs} x WHERE x.id = i.id AND x.status = 'failed' FOR NO KEY UPDATE) r
),
changed AS (
    UPDATE {runs} r
    SET status = 'pending', hold = CASE WHEN r.concurrency_key IS NOT NULL THEN 'key' END, seq = r.seq + 1,
        request = chosen.token, crashes = 0, error = NULL, completed_at = NULL
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq, 'run:resume', job, nullif(labels, '{}'), {now}
    FROM changed
)
SELECT {run_columns}
FROM changed r

-- name: delete_runs
-- Delete runs that are over, with their steps and logs; not one that still has its slot. Returns the rows that went.
WITH chosen AS MATERIALIZED (
    SELECT r.id, i.token
    FROM {changes}
    CROSS JOIN LATERAL (
        SELECT x.id
        FROM {runs} x
        WHERE x.id = i.id AND x.status IN ('completed', 'failed', 'cancelled') AND NOT x.slot
        FOR UPDATE
    ) r
),
steps AS (DELETE FROM {steps} s WHERE s.run_id = ANY (ARRAY (SELECT id FROM chosen))),
logs AS (DELETE FROM {logs} l WHERE l.run_id = ANY (ARRAY (SELECT id FROM chosen))),
gone AS (
    DELETE FROM {runs} r
    USING chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*, chosen.token AS deleted_by
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
    SELECT id, seq + 1, 'run:delete', job, nullif(labels, '{}'), json_build_object('request', deleted_by)::text, {now}
    FROM gone
)
SELECT {run_columns}
FROM gone r

-- name: read_changed
-- What became of each change: done when the run carries the request's token.
SELECT i.id::text AS item, coalesce(r.request = i.token, false) AS done, {run_columns}
FROM {changes}
JOIN {runs} r ON r.id = i.id

-- name: read_deleted
-- Which deletions of these requests are already stored.
SELECT i.id::text AS item
FROM {changes}
JOIN {events} e ON e.run_id = i.id
WHERE e.type = 'run:delete' AND e.payload = json_build_object('request', i.token)::text
