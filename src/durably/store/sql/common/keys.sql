-- Concurrency keys: their limits, their counters, those that nobody uses (keys.py).

-- name: find_drift
-- Keys whose counter differs from the runs that hold their slots.
SELECT k.key
FROM {concurrency_keys} k
WHERE k.active <> (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = k.key)
ORDER BY k.key
LIMIT 1000

-- name: find_stranded
-- Keys with a free slot beside a waiting run.
SELECT k.key
FROM {concurrency_keys} k
WHERE k.active < k."limit"
  AND (
      SELECT r.id FROM {runs} r {by_held} WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key' LIMIT 1
  ) IS NOT NULL
ORDER BY k.key
LIMIT 1000
