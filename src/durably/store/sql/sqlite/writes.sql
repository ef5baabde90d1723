-- What lease holders write: steps, logs, events, counters and endings (steps.py, write_rows.py).

-- fragment: fence
+status = 'leased' AND generation = :generation AND writes < :number

-- fragment: passed
-- The fence let it through: its number was stored a moment ago, and what had been stored before would not be leased.
r.status = 'leased' AND r.generation = :generation AND r.writes = :number

-- fragment: was_refused
changes() = 0
AND NOT EXISTS (SELECT 1 FROM {runs} r WHERE r.id = :id AND r.generation = :generation AND r.writes >= :number)

-- fragment: of_run
r.job, nullif(r.labels, '{}')

-- name: write_runs
-- Everything that lease holders wrote: steps, logs, events, counters and endings, each run behind its fence.
-- Returns the runs that were refused. The update of a checkpoint names no column of an index. Runs that complete are
-- collected first: the update of their indexes would open all of them for each run.
-- each: checkpoints
UPDATE {runs}
SET writes = :number, seq = seq + :events, completed_steps = completed_steps + 1, next_step = :position + 1, crashes = 0
WHERE id = :id AND {fence};
SELECT durably_rows(:block, 'id', json_array(json_array(:id))) WHERE {was_refused};
SELECT RAISE(IGNORE) WHERE changes() = 0;
INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)
VALUES (:id, :name, :position, 'completed', :output, :generation, :started_at, :completed_at);
INSERT INTO {events} (run_id, seq, type, job, labels, step, position, started_at, created_at)
SELECT r.id, r.seq, 'step:complete', {of_run}, :name, :position, CASE WHEN :events = 2 THEN :started_at END, :completed_at
FROM {runs} r
WHERE r.id = :id;
-- each: completions
INSERT INTO durably_completed (place, id, job, labels, seq, number, output)
SELECT r.rowid, r.id, {of_run}, r.seq + 1, :number, :output
FROM {runs} r
WHERE r.id = :id AND {fence};
SELECT durably_rows(:block, 'id', json_array(json_array(:id))) WHERE {was_refused};
-- once: completions
UPDATE {runs}
SET writes = c.number, seq = c.seq, status = 'completed', slot = 0, output = c.output, error = NULL, lease_owner = NULL,
    lease_expires_at = NULL, completed_at = :now
FROM durably_completed c
WHERE {runs}.rowid = c.place;
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT c.id, c.seq, 'run:complete', c.job, c.labels, :now
FROM durably_completed c;
DELETE FROM durably_completed;
-- each: other_steps
SELECT RAISE(IGNORE) WHERE NOT EXISTS (SELECT 1 FROM {runs} WHERE id = :run_id AND {fence});
INSERT INTO {steps} (run_id, name, position, status, output, error, generation, started_at, completed_at)
VALUES (:run_id, :name, :position, :status, :output, :error, :generation, :started_at, :completed_at)
ON CONFLICT (run_id, name) DO UPDATE
SET position = excluded.position, status = excluded.status, output = excluded.output, error = excluded.error,
    generation = excluded.generation, started_at = excluded.started_at, completed_at = excluded.completed_at
WHERE {steps}.status <> 'completed';
INSERT INTO {events} (run_id, seq, type, job, labels, step, position, started_at, created_at)
SELECT r.id, r.seq + :place, 'step:complete', {of_run}, :name, :position, CASE WHEN :events = 2 THEN :started_at END,
       :completed_at
FROM {runs} r
WHERE r.id = :run_id AND :events > 0;
-- each: other_logs
INSERT INTO {logs} (run_id, seq, step, level, message, data, created_at)
SELECT id, seq + :place, :step, :level, :message, :data, :created_at
FROM {runs}
WHERE id = :run_id AND {fence};
-- each: other_events
INSERT INTO {events} (run_id, seq, type, job, labels, step, position, payload, created_at)
SELECT r.id, r.seq + :place, :type, {of_run}, :step, :position, :payload, :created_at
FROM {runs} r
WHERE r.id = :run_id AND {fence};
-- each: other_runs
UPDATE {runs}
SET writes = :number,
    seq = seq + :events,
    completed_steps = completed_steps + :completed,
    next_step = coalesce(:next_step, next_step),
    crashes = CASE WHEN :completed > 0 THEN 0 ELSE crashes END,
    progress = coalesce(:progress, progress)
WHERE id = :id AND {fence};
SELECT durably_rows(:block, 'id', json_array(json_array(:id))) WHERE {was_refused};
-- each: other_forgotten
DELETE FROM {steps}
WHERE run_id = :id AND EXISTS (SELECT 1 FROM {runs} r WHERE r.id = :id AND {passed});
-- each: other_slots
UPDATE {concurrency_keys}
SET active = max(active - 1, 0)
WHERE key = (SELECT r.concurrency_key FROM {runs} r WHERE r.id = :id AND r.slot AND {passed});
-- each: other_endings
INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
SELECT r.id, r.seq, :type, {of_run}, :payload, :now
FROM {runs} r
WHERE r.id = :id AND {passed};
UPDATE {runs}
SET status = :status,
    slot = slot AND :status = 'pending',
    attempt = attempt - (:status = 'pending'),
    output = :output,
    error = :error,
    lease_owner = NULL,
    lease_expires_at = NULL,
    completed_at = CASE WHEN :status <> 'pending' THEN :now END
WHERE id = :id AND +status = 'leased' AND generation = :generation AND writes = :number

-- fragment: cancelled_step
FROM {runs} r
WHERE r.id = :run_id AND r.generation = :generation AND r.status = 'cancelled'
  AND NOT EXISTS (
      SELECT 1 FROM {events} e
      WHERE e.run_id = :run_id AND e.type = 'step:cancel' AND e.step = :step AND e.created_at = :at AND e.seq <= r.seq
  )

-- name: cancel_step
-- Note the step that a cancel interrupted; the one thing that the last generation may still write.
INSERT INTO {events} (run_id, seq, type, job, labels, step, position, created_at)
SELECT r.id, r.seq + 1, 'step:cancel', r.job, nullif(r.labels, '{}'), :step, :position, :at
{cancelled_step};
UPDATE {runs}
SET seq = (SELECT max(e.seq) FROM {events} e WHERE e.run_id = :run_id)
WHERE id = :run_id AND generation = :generation AND status = 'cancelled'
