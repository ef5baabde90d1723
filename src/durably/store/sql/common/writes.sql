-- What lease holders write: steps, logs, events, counters and endings (steps.py, write_rows.py).

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
