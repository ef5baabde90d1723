-- Runs: storing new ones, and what became of each (runs.py).

-- fragment: unstarted
-- The newest run of the item's job and key that never started.
(SELECT t.id FROM {runs} t
 WHERE t.concurrency_key = i.concurrency_key
   AND t.job = i.job
   AND t.status = 'pending'
   AND t.generation = 0
 ORDER BY t.rank DESC, t.id DESC
 LIMIT 1)

-- fragment: untouched
-- The item is not stored yet: neither as a run of its own, be that gone, nor by its idempotency key, nor as a replacement.
NOT EXISTS (SELECT 1 FROM {runs} o WHERE o.id = i.id)
AND NOT EXISTS (SELECT 1 FROM {runs} d WHERE d.job = i.job AND d.idempotency_key = i.idempotency_key)
AND NOT EXISTS (SELECT 1 FROM {runs} p WHERE p.replaced_by = i.id)
AND (SELECT e.id FROM {events} e WHERE e.run_id = i.id LIMIT 1) IS NULL

-- fragment: became
-- What an item turned into, most specific first.
CASE
    WHEN own.id IS NOT NULL THEN 'created'
    WHEN dup.id IS NOT NULL AND dup.input_digest = i.input_digest THEN 'idempotent'
    WHEN dup.id IS NOT NULL THEN 'conflict'
    WHEN swapped.id IS NOT NULL THEN 'replaced'
    WHEN i.if_pending = 'skip' THEN 'coalesced'
    ELSE 'conflict'
END

-- name: get_run
-- One run.
SELECT {run_columns}
FROM {runs} r
WHERE r.id = {param_run_id}
