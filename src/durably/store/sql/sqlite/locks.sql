-- Rows that an operation locks before all else, and slots of keys, which are handed out after it (operation.py).

-- name: lock_keys
-- Make the rows of these keys.
INSERT INTO {concurrency_keys} (key)
SELECT value FROM json_each(:keys) WHERE true
ON CONFLICT (key) DO NOTHING

-- name: lock_runs
-- Nothing to lock: there is one writer.
SELECT 1 WHERE false

-- name: admit
-- Hand the free slots of these keys to the runs that wait for them, by rank.
UPDATE {runs}
SET hold = NULL, slot = 1
WHERE id IN (
    SELECT waiting.id
    FROM (
        SELECT h.id, row_number() OVER (PARTITION BY h.concurrency_key ORDER BY h.rank, h.id) AS place,
               k."limit" - k.active AS slots
        FROM {concurrency_keys} k
        CROSS JOIN json_each((
            SELECT json_group_array(w.id)
            FROM (
                SELECT r.id
                FROM {runs} r
                WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key'
                ORDER BY r.rank, r.id
                LIMIT (
                    SELECT max(f."limit" - f.active, 0)
                    FROM {concurrency_keys} f
                    WHERE f.key IN (SELECT value FROM json_each(:keys))
                    ORDER BY 1 DESC
                    LIMIT 1
                )
            ) w
        )) j
        CROSS JOIN {runs} h ON h.id = j.value
        WHERE k.key IN (SELECT value FROM json_each(:keys)) AND k.active < k."limit"
    ) waiting
    WHERE waiting.place <= waiting.slots
);
UPDATE {concurrency_keys}
SET active = (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = {concurrency_keys}.key)
WHERE key IN (SELECT value FROM json_each(:keys))
