-- Concurrency keys: their limits, their counters, those that nobody uses (keys.py).

-- name: set_limit
-- Set how many runs of a key may be leased at once.
UPDATE {concurrency_keys}
SET "limit" = :limit
WHERE key = :key

-- name: audit_keys
-- Mend counters that drifted. Returns the mended keys.
UPDATE {concurrency_keys}
SET active = (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = {concurrency_keys}.key)
WHERE key IN (SELECT value FROM json_each(:keys))
  AND active <> (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = {concurrency_keys}.key)
RETURNING key

-- name: purge_keys
-- Forget keys that nobody uses and whose limit is the default.
DELETE FROM {concurrency_keys}
WHERE key IN (
    SELECT k.key
    FROM {concurrency_keys} k
    WHERE k.active = 0
      AND k."limit" = 1
      AND NOT EXISTS (
          SELECT 1 FROM {runs} r {by_held} WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key'
      )
    ORDER BY k.key
    LIMIT :limit
)
RETURNING key

-- name: list_limits
-- A page of concurrency keys, with what holds their slots and what waits for them (counted up to 1000).
SELECT k.key, k."limit", k.active,
       (SELECT count(*) FROM (SELECT 1 FROM {runs} r {by_held} WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key' LIMIT 1000)) AS waiting
FROM {concurrency_keys} k
WHERE k.key > :after
ORDER BY k.key
LIMIT :limit
