-- What both dialects accept. {tables}, {now} and the fragments are filled in when the file is loaded.

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

-- fragment: event_columns
-- An event with the payload that its row only refers to; with `started_at` it is the event before too, the step's start.
e.id, {uuid_e_run_id} AS run_id, e.seq, e.type, e.job, {text_e_labels} AS labels, e.step, e.position, e.payload, e.started_at,
e.created_at,
r.output AS run_output,
s.output AS step_output, s.started_at AS step_started_at, s.completed_at AS step_completed_at,
l.level AS log_level, l.message AS log_message, l.data AS log_data

-- fragment: event_payloads
LEFT JOIN {runs} r ON e.type = 'run:complete' AND r.id = e.run_id
LEFT JOIN {steps} s ON e.type = 'step:complete' AND s.run_id = e.run_id AND s.name = e.step
LEFT JOIN {logs} l ON e.type = 'log:write' AND l.run_id = e.run_id AND l.seq = e.seq

-- name: get_run
-- One run.
SELECT {run_columns}
FROM {runs} r
WHERE r.id = {param_run_id}

-- name: load_steps
-- The finished steps of a run, in the order in which they started.
SELECT {uuid_s_run_id} AS run_id, s.name, s.position, s.status, s.output, s.error, s.generation, s.started_at, s.completed_at
FROM {steps} s
WHERE s.run_id = {param_run_id}
ORDER BY s.position, s.name

-- name: load_logs
-- A page of a run's log.
SELECT {uuid_l_run_id} AS run_id, l.seq, l.step, l.level, l.message, l.data, l.created_at
FROM {logs} l
WHERE l.run_id = {param_run_id}
  AND l.seq > {param_after_seq}
ORDER BY l.seq
LIMIT {param_limit}

-- name: run_events
-- The rows of a page of a run's events; the first one may say the event before the page too.
SELECT {event_columns}
FROM {events} e
{event_payloads}
WHERE e.run_id = {param_run_id}
  AND e.seq > {param_after_seq}
ORDER BY e.seq
LIMIT {param_limit}

-- name: last_event_id
-- The newest row of events, 0 when there is none.
SELECT coalesce(max(id), 0) AS id
FROM {events}

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
