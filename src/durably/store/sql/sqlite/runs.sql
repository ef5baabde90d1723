-- Runs: storing new ones, and what became of each (runs.py).

-- fragment: new_runs
(SELECT value->>0 AS ord, value->>1 AS id, value->>2 AS job, value->>3 AS input, value->>4 AS input_digest,
        value->>5 AS idempotency_key, value->>6 AS concurrency_key, value->>7 AS if_pending, value->>8 AS labels,
        value->>9 AS priority, coalesce(value->>11, :now + (value->>10)) AS start_at
 FROM json_each(:items)) i

-- name: pin_unstarted
-- Nothing to pin: there is one writer.
SELECT 1 WHERE false

-- name: merge_runs
-- Merge items into waiting runs: "replace" swaps the input, "skip" only leaves an event.
INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
SELECT t.id, t.seq + 1, CASE i.if_pending WHEN 'replace' THEN 'run:replace' ELSE 'run:coalesced' END, t.job,
       nullif(t.labels, '{}'),
       CASE i.if_pending WHEN 'skip' THEN '{"skippedInput":' || i.input || ',"skippedLabels":' || i.labels || '}' END,
       {now}
FROM {new_runs}
CROSS JOIN {runs} t ON t.id = {unstarted}
WHERE i.if_pending IN ('skip', 'replace') AND {untouched}
ORDER BY i.ord;
UPDATE {runs}
SET seq = seq + 1,
    input = CASE WHEN hit.replaces THEN hit.input ELSE {runs}.input END,
    replaced_by = CASE WHEN hit.replaces THEN hit.trigger_id ELSE {runs}.replaced_by END
FROM (
    SELECT i.id AS trigger_id, i.input, i.if_pending = 'replace' AS replaces, {unstarted} AS run_id
    FROM {new_runs}
    WHERE i.if_pending IN ('skip', 'replace') AND {untouched}
) hit
WHERE {runs}.id = hit.run_id

-- fragment: report_stored
-- Tell what was there already, and leave it alone.
SELECT durably_rows(:block, 'id, hold, available_at, created_at',
                    json_array(json_array(r.id, r.hold, r.available_at, r.created_at)))
FROM {runs} r
WHERE r.id = :id AND changes() = 0;
SELECT RAISE(IGNORE) WHERE changes() = 0;

-- name: insert_runs
-- Store the items that are not there yet and not merged; keyed ones wait for a slot. Returns those that were there,
-- and a row without id that says when the others were stored. Events without a run are those of one that was deleted
-- before its trigger, in doubt, came again.
-- each: plain_items
INSERT INTO {runs} (id, job, input, status, rank, seq, created_at)
SELECT :id, :job, :input, 'pending', :now, 1, :now
WHERE NOT EXISTS (SELECT 1 FROM {events} e WHERE e.run_id = :id)
ON CONFLICT DO NOTHING;
{report_stored}
INSERT INTO {events} (run_id, seq, type, job, created_at)
VALUES (:id, 1, 'run:trigger', :job, :now);
-- each: other_items
INSERT INTO {runs} (id, job, input, input_digest, status, hold, rank, priority, available_at, idempotency_key,
                    concurrency_key, labels, seq, created_at)
SELECT i.id, i.job, :input, :input_digest, 'pending',
       CASE WHEN i.start_at > :now THEN 'time' WHEN i.concurrency_key IS NOT NULL THEN 'key' END,
       max(coalesce(i.start_at, :now), :now) - :priority * :priority_us,
       :priority, i.start_at, :idempotency_key, i.concurrency_key, :labels, 1, :now
FROM (SELECT :id AS id, :job AS job, :concurrency_key AS concurrency_key,
             coalesce(:run_at, :now + :delay_us) AS start_at) i
WHERE (:if_pending = 'queue' OR {unstarted} IS NULL)
  AND NOT EXISTS (SELECT 1 FROM {runs} p WHERE p.replaced_by = i.id)
  AND NOT EXISTS (SELECT 1 FROM {events} e WHERE e.run_id = i.id)
ON CONFLICT DO NOTHING;
{report_stored}
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
VALUES (:id, 1, 'run:trigger', :job, nullif(:labels, '{}'), :now);
-- once
SELECT durably_rows(:block, 'id, hold, available_at, created_at', json_array(json_array(NULL, NULL, NULL, :now)))

-- name: insert_new_runs
-- Store items that say nothing but job and input. It fails as a whole when one of them was stored before. Returns when
-- they were stored. They are collected first: to open all indexes of runs for each takes longer than to store it.
-- ahead: new_items
INSERT INTO durably_collected (id, job, input)
VALUES (:id, :job, :input);
-- once
INSERT INTO {runs} (id, job, input, status, rank, seq, created_at)
SELECT c.id, c.job, c.input, 'pending', :now, 1, :now
FROM durably_collected c
WHERE c.id IS NOT NULL;
INSERT INTO {events} (run_id, seq, type, job, created_at)
SELECT c.id, 1, 'run:trigger', c.job, :now
FROM durably_collected c
WHERE c.id IS NOT NULL;
DELETE FROM durably_collected;
SELECT durably_rows(:block, 'created_at', json_array(json_array(:now)))

-- name: read_enqueued
-- What became of each item.
SELECT i.ord AS ord, {became} AS became, {run_columns}
FROM {new_runs}
LEFT JOIN {runs} own ON own.id = i.id
LEFT JOIN {runs} dup ON dup.job = i.job AND dup.idempotency_key = i.idempotency_key
LEFT JOIN {runs} swapped ON swapped.replaced_by = i.id
CROSS JOIN {runs} r ON r.id = coalesce(own.id, dup.id, swapped.id, CASE WHEN i.if_pending <> 'queue' THEN {unstarted} END)
ORDER BY i.ord

-- name: copy_steps
-- Give a new run checkpoints of another one.
INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)
SELECT :run_id, s.value->>0, s.value->>1, 'completed', s.value->>2, 0, s.value->>3, s.value->>4
FROM json_each(:steps) s
WHERE EXISTS (SELECT 1 FROM {runs} r WHERE r.id = :run_id AND r.generation = 0)
ON CONFLICT DO NOTHING;
UPDATE {runs}
SET completed_steps = n.steps, next_step = n.next_step
FROM (
    SELECT count(*) AS steps, coalesce(max(s.position) + 1, 0) AS next_step FROM {steps} s WHERE s.run_id = :run_id
) n
WHERE {runs}.id = :run_id AND {runs}.generation = 0 AND n.steps > 0
