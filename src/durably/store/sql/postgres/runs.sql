-- Runs: storing new ones, and what became of each (runs.py).

-- fragment: new_runs
unnest(
    :items_ord::integer[], :items_id::uuid[], :items_job::text[], :items_input::text[], :items_input_digest::text[],
    :items_idempotency_key::text[], :items_concurrency_key::text[], :items_if_pending::text[], :items_labels::text[],
    :items_priority::integer[], :items_delay_us::bigint[], :items_run_at::timestamptz[]
) AS i (
    ord, id, job, input, input_digest, idempotency_key, concurrency_key, if_pending, labels, priority, delay_us, run_at
)

-- name: pin_unstarted
-- Lock the waiting runs that these items may be merged into. The lock and the test are at one level: a target that
-- somebody claims meanwhile is passed over for the next.
SELECT target.id
FROM {new_runs}
CROSS JOIN LATERAL (
    SELECT t.id
    FROM {runs} t
    WHERE t.concurrency_key = i.concurrency_key AND t.job = i.job AND t.status = 'pending' AND t.generation = 0
    ORDER BY t.rank DESC, t.id DESC
    LIMIT 1
    FOR UPDATE
) target
WHERE i.if_pending <> 'queue'

-- name: merge_runs
-- Merge items into waiting runs: "replace" swaps the input, "skip" only leaves an event.
WITH hit AS MATERIALIZED (
    SELECT i.id AS trigger_id, i.input, i.labels::jsonb AS labels, i.if_pending = 'replace' AS replaces,
           {unstarted} AS run_id
    FROM {new_runs}
    WHERE i.if_pending IN ('skip', 'replace') AND {untouched}
),
merged AS (
    UPDATE {runs} r
    SET seq = r.seq + 1,
        input = CASE WHEN hit.replaces THEN hit.input ELSE r.input END,
        replaced_by = CASE WHEN hit.replaces THEN hit.trigger_id ELSE r.replaced_by END
    FROM hit
    WHERE r.id = ANY (ARRAY (SELECT run_id FROM hit)) AND r.id = hit.run_id
    RETURNING r.id, r.seq, r.job, r.labels, hit.replaces, hit.input AS new_input, hit.labels AS new_labels
)
INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
SELECT m.id, m.seq, CASE WHEN m.replaces THEN 'run:replace' ELSE 'run:coalesced' END, m.job, nullif(m.labels, '{}'),
       CASE WHEN NOT m.replaces THEN '{"skippedInput":' || m.new_input || ',"skippedLabels":' || m.new_labels || '}' END,
       {now}
FROM merged m

-- fragment: other_runs
unnest(
    :other_items_ord::integer[], :other_items_id::uuid[], :other_items_job::text[], :other_items_input::text[],
    :other_items_input_digest::text[], :other_items_idempotency_key::text[], :other_items_concurrency_key::text[],
    :other_items_if_pending::text[], :other_items_labels::text[], :other_items_priority::integer[],
    :other_items_delay_us::bigint[], :other_items_run_at::timestamptz[]
) AS i (
    ord, id, job, input, input_digest, idempotency_key, concurrency_key, if_pending, labels, priority, delay_us, run_at
)

-- name: insert_runs
-- Store the items that are not there yet and not merged; keyed ones wait for a slot. Returns the other items, the
-- plain ones that were there already, and a row without id that says when the rest was stored. Events without a run
-- are those of one that was deleted before its trigger, in doubt, came again.
WITH clock AS MATERIALIZED (SELECT {now} AS now)
-- if: plain_items
, plain AS (
    INSERT INTO {runs} (id, job, input, status, rank, seq, created_at)
    SELECT i.id, i.job, i.input, 'pending', (extract(epoch FROM clock.now) * 1000000)::bigint, 1, clock.now
    FROM unnest(:plain_items_id::text::uuid[], :plain_items_job::text[], :plain_items_input::text[]) AS i (id, job, input)
    CROSS JOIN clock
    WHERE (SELECT e.id FROM {events} e WHERE e.run_id = i.id LIMIT 1) IS NULL
    ON CONFLICT (id) DO NOTHING
    RETURNING id, job, created_at
)
, plain_event AS (
    INSERT INTO {events} (run_id, seq, type, job, created_at)
    SELECT id, 1, 'run:trigger', job, created_at
    FROM plain
)
-- end
-- if: other_items
, other AS (
    INSERT INTO {runs} (id, job, input, input_digest, status, hold, rank, priority, available_at, idempotency_key,
                        concurrency_key, labels, seq, created_at)
    SELECT i.id, i.job, i.input, i.input_digest, 'pending',
           CASE WHEN i.start_at > i.now THEN 'time' WHEN i.concurrency_key IS NOT NULL THEN 'key' END,
           (extract(epoch FROM greatest(i.start_at, i.now)) * 1000000)::bigint - i.priority * :priority_us::bigint,
           i.priority, i.start_at, i.idempotency_key, i.concurrency_key, i.labels::jsonb, 1, i.now
    FROM (
        SELECT i.*, clock.now, coalesce(i.run_at, clock.now + i.delay_us * interval '1 microsecond') AS start_at
        FROM {other_runs}
        CROSS JOIN clock
    ) i
    WHERE (i.if_pending = 'queue' OR {unstarted} IS NULL)
      AND NOT EXISTS (SELECT 1 FROM {runs} p WHERE p.replaced_by = i.id)
      AND (SELECT e.id FROM {events} e WHERE e.run_id = i.id LIMIT 1) IS NULL
    ORDER BY i.job, i.idempotency_key, i.ord
    ON CONFLICT DO NOTHING
    RETURNING id, job, labels, hold, available_at, created_at
)
, other_event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, 1, 'run:trigger', job, nullif(labels, '{}'), created_at
    FROM other
)
-- end
SELECT NULL AS id, NULL AS hold, NULL::timestamptz AS available_at, clock.now AS created_at
FROM clock
-- if: plain_items
UNION ALL
SELECT r.id::text, r.hold, r.available_at, r.created_at
FROM unnest(:plain_items_id::text::uuid[]) AS i (id)
JOIN {runs} r ON r.id = i.id
WHERE (SELECT count(*) FROM plain) < cardinality(:plain_items_id::text::uuid[])
-- end
-- if: other_items
UNION ALL
SELECT id::text, hold, available_at, created_at
FROM other
UNION ALL
SELECT r.id::text, r.hold, r.available_at, r.created_at
FROM unnest(:other_items_id::uuid[]) AS i (id)
JOIN {runs} r ON r.id = i.id
WHERE (SELECT count(*) FROM other) < cardinality(:other_items_id::uuid[])
-- end

-- name: insert_new_runs
-- Store items that say nothing but job and input. It fails as a whole when one of them was stored before. Returns when
-- they were stored.
WITH clock AS MATERIALIZED (SELECT {now} AS now),
added AS (
    INSERT INTO {runs} (id, job, input, status, rank, seq, created_at)
    SELECT i.id, i.job, i.input, 'pending', (extract(epoch FROM clock.now) * 1000000)::bigint, 1, clock.now
    FROM unnest(
        :new_items_id::text::uuid[], string_to_array(:new_items_job::text, E'\x1f'),
        string_to_array(:new_items_input::text, E'\x1f')
    ) AS i (id, job, input)
    CROSS JOIN clock
    RETURNING id, job, created_at
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, created_at)
    SELECT id, 1, 'run:trigger', job, created_at
    FROM added
)
SELECT clock.now AS created_at
FROM clock

-- name: read_enqueued
-- What became of each item.
SELECT i.ord, {became} AS became, {run_columns}
FROM {new_runs}
LEFT JOIN LATERAL (SELECT o.id FROM {runs} o WHERE o.id = i.id OFFSET 0) own ON true
LEFT JOIN LATERAL (
    SELECT d.id, d.input_digest FROM {runs} d WHERE d.job = i.job AND d.idempotency_key = i.idempotency_key OFFSET 0
) dup ON true
LEFT JOIN LATERAL (SELECT p.id FROM {runs} p WHERE p.replaced_by = i.id OFFSET 0) swapped ON true
CROSS JOIN LATERAL (
    SELECT * FROM {runs} x WHERE x.id = coalesce(own.id, dup.id, swapped.id, CASE WHEN i.if_pending <> 'queue' THEN {unstarted} END) OFFSET 0
) r
ORDER BY i.ord

-- name: copy_steps
-- Give a new run checkpoints of another one.
WITH copied AS (
    INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)
    SELECT :run_id::uuid, s.name, s.position, 'completed', s.output, 0, s.started_at, s.completed_at
    FROM unnest(
        :steps_name::text[], :steps_position::integer[], :steps_output::text[],
        :steps_started_at::timestamptz[], :steps_completed_at::timestamptz[]
    ) AS s (name, position, output, started_at, completed_at)
    WHERE EXISTS (SELECT 1 FROM {runs} r WHERE r.id = :run_id::uuid AND r.generation = 0)
    ON CONFLICT DO NOTHING
    RETURNING position
)
UPDATE {runs} r
SET completed_steps = n.steps, next_step = n.next_step
FROM (SELECT count(*)::integer AS steps, coalesce(max(position) + 1, 0) AS next_step FROM copied) n
WHERE r.id = :run_id::uuid AND r.generation = 0 AND n.steps > 0
