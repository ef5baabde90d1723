-- Reading events: of a run, and the feed over all runs (events.py).

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
