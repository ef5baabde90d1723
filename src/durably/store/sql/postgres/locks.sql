-- Rows that an operation locks before all else, and slots of keys, which are handed out after it (operation.py).

-- name: lock_keys
-- Make and lock the rows of these keys, in order; everything that gives or takes a slot comes after it.
INSERT INTO {concurrency_keys} (key)
SELECT k.key
FROM unnest(:keys::text[]) AS k (key)
ORDER BY k.key
ON CONFLICT (key) DO UPDATE SET key = excluded.key

-- name: lock_runs
-- Lock these runs, in order.
SELECT r.id
FROM {runs} r
WHERE r.id = ANY (:runs::uuid[])
ORDER BY r.id
FOR NO KEY UPDATE

-- name: admit
-- Hand the free slots of these keys to the runs that wait for them, by rank.
WITH free AS (
    SELECT key, greatest("limit" - active, 0) AS slots
    FROM {concurrency_keys}
    WHERE key = ANY (:keys::text[])
),
chosen AS MATERIALIZED (
    SELECT waiting.id
    FROM free
    CROSS JOIN LATERAL (
        SELECT r.id
        FROM {runs} r
        WHERE r.concurrency_key = free.key AND r.status = 'pending' AND r.hold = 'key'
        ORDER BY r.rank, r.id
        LIMIT free.slots
    ) waiting
),
promoted AS (
    UPDATE {runs} r
    SET hold = NULL, slot = true
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.concurrency_key
)
UPDATE {concurrency_keys} k
SET active = k.active + n.runs
FROM (SELECT concurrency_key, count(*)::integer AS runs FROM promoted GROUP BY concurrency_key) n
WHERE k.key = n.concurrency_key
