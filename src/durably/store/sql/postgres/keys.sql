-- Concurrency keys: their limits, their counters, those that nobody uses (keys.py).

-- name: set_limit
-- Set how many runs of a key may be leased at once.
UPDATE {concurrency_keys}
SET "limit" = :limit::integer
WHERE key = :key::text

-- name: audit_keys
-- Mend counters that drifted. Returns the mended keys.
UPDATE {concurrency_keys} k
SET active = n.runs
FROM (
    SELECT c.key, (SELECT count(*)::integer FROM {runs} r WHERE r.slot AND r.concurrency_key = c.key) AS runs
    FROM unnest(:keys::text[]) AS c (key)
) n
WHERE k.key = n.key AND k.active <> n.runs
RETURNING k.key

-- name: purge_keys
-- Forget keys that nobody uses and whose limit is the default.
WITH idle AS MATERIALIZED (
    SELECT k.key
    FROM {concurrency_keys} k
    WHERE k.active = 0
      AND k."limit" = 1
      AND (
          SELECT r.id FROM {runs} r WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key' LIMIT 1
      ) IS NULL
    ORDER BY k.key
    LIMIT :limit::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM {concurrency_keys} k
WHERE k.key = ANY (ARRAY (SELECT key FROM idle)) AND k.active = 0
RETURNING k.key

-- name: list_limits
-- A page of concurrency keys, with what holds their slots and what waits for them (counted up to 1000).
SELECT k.key, k."limit", k.active,
       (SELECT count(*)::integer FROM (SELECT 1 FROM {runs} r WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key' LIMIT 1000) c) AS waiting
FROM {concurrency_keys} k
WHERE k.key > :after::text
ORDER BY k.key
LIMIT :limit::integer
