-- What lease holders write: steps, logs, events, counters and endings (steps.py, write_rows.py).

-- name: write_runs
-- Everything that lease holders wrote: steps, logs, events, counters and endings, each run behind its fence. The fence
-- is the update's own condition: it locks each run where it tests it. The status is tested in a way that fits no index,
-- so that runs are looked up by their ids, and locked in that order. What has nothing to do is left out. Returns what was
-- refused; the lock shows what was committed while the update waited, which may have been this same write.
-- Where each run does no more than store a new step or complete, a smaller statement does it.
-- if: plain
WITH held AS (
    UPDATE {runs} r
    SET seq = r.seq + i.events,
        -- if: completions
        status = CASE WHEN i.name IS NULL THEN 'completed' ELSE r.status END,
        slot = r.slot AND i.name IS NOT NULL,
        output = CASE WHEN i.name IS NULL THEN i.output END,
        error = NULL,
        lease_owner = CASE WHEN i.name IS NOT NULL THEN r.lease_owner END,
        lease_expires_at = CASE WHEN i.name IS NOT NULL THEN r.lease_expires_at END,
        completed_at = CASE WHEN i.name IS NULL THEN {now} END,
        -- end
        -- if: checkpoints
        completed_steps = r.completed_steps + CASE WHEN i.name IS NULL THEN 0 ELSE 1 END,
        next_step = coalesce(i.position + 1, r.next_step),
        crashes = CASE WHEN i.name IS NULL THEN r.crashes ELSE 0 END,
        -- end
        writes = i.number
    FROM
    {plain_items}
    WHERE r.id = i.id
      -- if: many
      AND r.id = ANY ((SELECT :plain_id::text::uuid[])::uuid[])
      -- end
      AND coalesce(r.status = 'leased', false) AND r.generation = i.generation AND r.writes < i.number
    RETURNING r.id, r.generation, r.job, nullif(r.labels, '{}') AS labels, r.seq, i.events, i.name, i.position, i.output,
              i.started_at, coalesce(i.completed_at, r.completed_at) AS ended_at
)
-- if: checkpoints
, step AS (
    INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)
    SELECT id, name, position, 'completed', output, generation, started_at, ended_at
    FROM held
    WHERE name IS NOT NULL
)
-- end
, event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, step, position, started_at, created_at)
    SELECT id, seq, CASE WHEN name IS NULL THEN 'run:complete' ELSE 'step:complete' END, job, labels, name, position,
           CASE WHEN events = 2 THEN started_at END, ended_at
    FROM held
)
SELECT i.id::text AS id
FROM
{plain_items}
LEFT JOIN LATERAL (SELECT x.generation, x.writes FROM {runs} x WHERE x.id = i.id FOR NO KEY UPDATE) r ON true
WHERE (SELECT count(*) FROM held) < cardinality(:plain_id::text::uuid[])
  AND NOT EXISTS (SELECT 1 FROM held WHERE held.id = i.id)
  AND NOT coalesce(r.generation = i.generation AND r.writes >= i.number, false);
-- if: runs
WITH
-- if: slots
kept AS MATERIALIZED (
    SELECT r.id, r.concurrency_key
    FROM (SELECT id FROM unnest(:slots_id::text::uuid[]) AS u (id) ORDER BY id) i
    CROSS JOIN LATERAL (
        SELECT x.id, x.slot, x.concurrency_key FROM {runs} x WHERE x.id = i.id FOR NO KEY UPDATE
    ) r
    WHERE r.slot
),
-- end
held AS (
    UPDATE {runs} r
    SET writes = i.number,
        seq = r.seq + i.events,
        -- if: steps
        completed_steps = r.completed_steps + i.completed,
        next_step = coalesce(i.next_step, r.next_step),
        crashes = CASE WHEN i.completed > 0 THEN 0 ELSE r.crashes END,
        -- end
        -- if: endings
        status = coalesce(e.status, r.status),
        slot = r.slot AND coalesce(e.status, 'leased') IN ('leased', 'pending'),
        attempt = r.attempt - CASE WHEN e.status = 'pending' THEN 1 ELSE 0 END,
        output = e.output,
        error = e.error,
        lease_owner = CASE WHEN e.status IS NULL THEN r.lease_owner END,
        lease_expires_at = CASE WHEN e.status IS NULL THEN r.lease_expires_at END,
        completed_at = CASE WHEN e.status IN ('completed', 'failed', 'cancelled') THEN {now} END,
        -- end
        progress = coalesce(i.progress, r.progress)
    FROM unnest(
        :runs_id::text::uuid[], :runs_generation::text::integer[], :runs_number::text::integer[],
        :runs_events::text::integer[], :runs_completed::text::integer[], :runs_next_step::text::integer[],
        :runs_progress::text[]
    ) AS i (id, generation, number, events, completed, next_step, progress)
    -- if: endings
    LEFT JOIN unnest(
        :endings_id::text::uuid[], :endings_status::text::text[], :endings_output::text[], :endings_error::text[],
        :endings_place::text::integer[], :endings_type::text::text[], :endings_payload::text[]
    ) AS e (id, status, output, error, place, type, payload) ON e.id = i.id
    -- end
    WHERE r.id = ANY ((SELECT :runs_id::text::uuid[])::uuid[]) AND r.id = i.id
      AND coalesce(r.status = 'leased', false) AND r.generation = i.generation AND r.writes < i.number
      -- if: slots
      AND (SELECT count(*) FROM kept) >= 0
      -- end
    RETURNING r.id, r.generation, r.job, nullif(r.labels, '{}') AS labels, r.seq - i.events AS seq
              -- if: endings
              , e.place, e.type, e.payload, coalesce(r.completed_at, {now}) AS ended_at
              -- end
)
-- if: steps
, written AS MATERIALIZED (
    SELECT i.*, held.generation, held.seq, held.job, held.labels
    FROM unnest(
        :steps_run_id::text::uuid[], :steps_name::text[], :steps_position::text::integer[], :steps_status::text::text[],
        :steps_output::text[], :steps_error::text[], :steps_started_at::text::timestamptz[],
        :steps_completed_at::text::timestamptz[], :steps_events::text::integer[], :steps_place::text::integer[]
    ) AS i (run_id, name, position, status, output, error, started_at, completed_at, events, place)
    JOIN held ON held.id = i.run_id
)
, step AS (
    INSERT INTO {steps} AS s (run_id, name, position, status, output, error, generation, started_at, completed_at)
    SELECT w.run_id, w.name, w.position, w.status, w.output, w.error, w.generation, w.started_at, w.completed_at
    FROM written w
    -- if: forgotten
    WHERE w.run_id <> ALL ((SELECT :forgotten_id::text::uuid[])::uuid[])
    -- end
    ON CONFLICT (run_id, name) DO UPDATE
    SET position = excluded.position, status = excluded.status, output = excluded.output, error = excluded.error,
        generation = excluded.generation, started_at = excluded.started_at, completed_at = excluded.completed_at
    WHERE s.status <> 'completed'
)
-- end
-- if: forgotten
, forgotten AS (
    DELETE FROM {steps} s
    WHERE s.run_id = ANY (ARRAY (
        SELECT held.id FROM held WHERE held.id = ANY ((SELECT :forgotten_id::text::uuid[])::uuid[])
    ))
)
-- end
-- if: logs
, log AS (
    INSERT INTO {logs} (run_id, seq, step, level, message, data, created_at)
    SELECT i.run_id, held.seq + i.place, i.step, i.level, i.message, i.data, i.created_at
    FROM unnest(
        :logs_run_id::text::uuid[], :logs_place::text::integer[], :logs_step::text[], :logs_level::text::text[],
        :logs_message::text[], :logs_data::text[], :logs_created_at::text::timestamptz[]
    ) AS i (run_id, place, step, level, message, data, created_at)
    JOIN held ON held.id = i.run_id
)
-- end
-- if: slots
, freed AS (
    UPDATE {concurrency_keys} k
    SET active = greatest(k.active - n.runs, 0)
    FROM (
        SELECT kept.concurrency_key, count(*)::integer AS runs
        FROM kept
        JOIN held ON held.id = kept.id
        GROUP BY kept.concurrency_key
    ) n
    WHERE k.key = n.concurrency_key
)
-- end
-- if: steps or events or endings
, event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, step, position, payload, started_at, created_at)
    {written_events}
    ORDER BY seq
)
-- end
SELECT i.id::text AS id
FROM unnest(:runs_id::text::uuid[], :runs_generation::text::integer[], :runs_number::text::integer[])
     AS i (id, generation, number)
LEFT JOIN LATERAL (SELECT x.generation, x.writes FROM {runs} x WHERE x.id = i.id FOR NO KEY UPDATE) r ON true
WHERE (SELECT count(*) FROM held) < cardinality(:runs_id::text::uuid[])
  AND NOT EXISTS (SELECT 1 FROM held WHERE held.id = i.id)
  AND NOT coalesce(r.generation = i.generation AND r.writes >= i.number, false)

-- fragment: plain_items
-- One row is sent as values: functions that return sets, and joins with them, take longer than all that it stores.
-- if: lone
(
    SELECT :lone_id::uuid AS id, :lone_generation::integer AS generation, :lone_number::integer AS number,
           :lone_events::integer AS events, :lone_name::text AS name, :lone_position::integer AS position,
           :lone_output::text AS output, :lone_started_at::timestamptz AS started_at,
           :lone_completed_at::timestamptz AS completed_at
) AS i
-- end
-- if: many
(
    SELECT u.id, u.generation, u.number, u.events, u.name, u.position, u.output,
           to_timestamp(u.started_at) AS started_at, to_timestamp(u.completed_at) AS completed_at
    FROM unnest(
        :plain_id::text::uuid[], :plain_generation::text::integer[], :plain_number::text::integer[],
        :plain_events::text::integer[], :plain_name::text[], :plain_position::text::integer[], :plain_output::text[],
        :plain_started_at::text::float8[], :plain_completed_at::text::float8[]
    ) AS u (id, generation, number, events, name, position, output, started_at, completed_at)
) AS i
-- end

-- fragment: written_events
-- Those that the rows of steps stand for, all others, and those of endings.
SELECT id AS run_id, seq, NULL AS type, job, labels, NULL AS step, NULL::integer AS position, NULL AS payload,
       NULL::timestamptz AS started_at, NULL::timestamptz AS created_at
FROM held
WHERE false
-- if: steps
UNION ALL
SELECT run_id, seq + place, 'step:complete', job, labels, name, position, NULL,
       CASE WHEN events = 2 THEN started_at END, completed_at
FROM written
WHERE events > 0
-- end
-- if: events
UNION ALL
SELECT held.id, held.seq + i.place, i.type, held.job, held.labels, i.step, i.position, i.payload, NULL, i.created_at
FROM unnest(
    :events_run_id::text::uuid[], :events_place::text::integer[], :events_type::text::text[], :events_step::text[],
    :events_position::text::integer[], :events_payload::text[], :events_created_at::text::timestamptz[]
) AS i (run_id, place, type, step, position, payload, created_at)
JOIN held ON held.id = i.run_id
-- end
-- if: endings
UNION ALL
SELECT id, seq + place, type, job, labels, NULL, NULL, payload, NULL, ended_at
FROM held
WHERE type IS NOT NULL
-- end

-- name: cancel_step
-- Note the step that a cancel interrupted; the one thing that the last generation may still write.
WITH run AS (
    UPDATE {runs} r
    SET seq = r.seq + 1
    WHERE r.id = :run_id::uuid AND r.generation = :generation::integer AND r.status = 'cancelled'
      AND NOT EXISTS (
          SELECT 1 FROM {events} e
          WHERE e.run_id = :run_id::uuid AND e.type = 'step:cancel' AND e.step = :step::text
            AND e.created_at = :at::timestamptz
      )
    RETURNING r.id, r.seq, r.job, r.labels
)
INSERT INTO {events} (run_id, seq, type, job, labels, step, position, created_at)
SELECT run.id, run.seq, 'step:cancel', run.job, nullif(run.labels, '{}'), :step::text, :position::integer, :at::timestamptz
FROM run
