-- What only SQLite says. One writer at a time, so nothing is locked; but there is no statement that does several
-- things, so a block may hold several statements. The one that changes a verdict comes after all that test it.
-- A "+" before a column keeps the planner from walking that column's index instead of looking up the items' ids.
-- INDEXED BY stands where SQLite, which has no statistics, would rather take another index.
-- A block's rows are those of its last statement with rows, or what it gave to durably_rows(:block, names, JSON arrays).
-- What is written most often becomes the body of a trigger (see sqlite_calls.py): there, an UPDATE's own table has no
-- alias, rows come back through durably_rows only, and `-- each: x` runs what follows once a row of the batch x, whose
-- columns are parameters, until the next `-- each: y` or `-- once`; `-- once: x` is left out when x is empty.

-- fragment: now
:now

-- fragment: uuid_e_run_id
e.run_id

-- fragment: uuid_s_run_id
s.run_id

-- fragment: uuid_l_run_id
l.run_id

-- fragment: text_e_labels
e.labels

-- fragment: param_run_id
:run_id

-- fragment: param_after_seq
:after_seq

-- fragment: param_limit
:limit

-- fragment: by_held
INDEXED BY {runs}_held

-- fragment: run_columns
r.id AS id, r.job AS job, r.input AS input, r.status AS status, r.hold AS hold, r.priority AS priority,
r.idempotency_key AS idempotency_key, r.concurrency_key AS concurrency_key, r.labels AS labels,
r.generation AS generation, r.attempt AS attempt, r.crashes AS crashes, r.output AS output, r.error AS error,
r.progress AS progress, r.next_step AS next_step, r.completed_steps AS completed_steps, r.lease_owner AS lease_owner,
r.lease_expires_at AS lease_expires_at, r.available_at AS available_at, r.created_at AS created_at,
r.started_at AS started_at, r.completed_at AS completed_at, r.rank AS rank

-- fragment: returned_columns
id, job, input, status, hold, priority, idempotency_key, concurrency_key, labels, generation, attempt, crashes, output,
error, progress, next_step, completed_steps, lease_owner, lease_expires_at, available_at, created_at, started_at,
completed_at, rank

-- name: lock_keys
-- Make the rows of these keys.
INSERT INTO {concurrency_keys} (key)
SELECT value FROM json_each(:keys) WHERE true
ON CONFLICT (key) DO NOTHING

-- name: lock_runs
-- Nothing to lock: there is one writer.
SELECT 1 WHERE false

-- name: admit
-- Hand the free slots of these keys to the runs that wait for them, by rank.
UPDATE {runs}
SET hold = NULL, slot = 1
WHERE id IN (
    SELECT waiting.id
    FROM (
        SELECT h.id, row_number() OVER (PARTITION BY h.concurrency_key ORDER BY h.rank, h.id) AS place,
               k."limit" - k.active AS slots
        FROM {concurrency_keys} k
        CROSS JOIN json_each((
            SELECT json_group_array(w.id)
            FROM (
                SELECT r.id
                FROM {runs} r
                WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key'
                ORDER BY r.rank, r.id
                LIMIT (
                    SELECT max(f."limit" - f.active, 0)
                    FROM {concurrency_keys} f
                    WHERE f.key IN (SELECT value FROM json_each(:keys))
                    ORDER BY 1 DESC
                    LIMIT 1
                )
            ) w
        )) j
        CROSS JOIN {runs} h ON h.id = j.value
        WHERE k.key IN (SELECT value FROM json_each(:keys)) AND k.active < k."limit"
    ) waiting
    WHERE waiting.place <= waiting.slots
);
UPDATE {concurrency_keys}
SET active = (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = {concurrency_keys}.key)
WHERE key IN (SELECT value FROM json_each(:keys))

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
-- each: new_items
INSERT INTO durably_collected (id, job, input)
VALUES (:id, :job, :input);
-- once
INSERT INTO {runs} (id, job, input, status, rank, seq, created_at)
SELECT c.id, c.job, c.input, 'pending', :now, 1, :now
FROM durably_collected c;
INSERT INTO {events} (run_id, seq, type, job, created_at)
SELECT c.id, 1, 'run:trigger', c.job, :now
FROM durably_collected c;
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

-- fragment: by_status
INDEXED BY {runs}_by_status

-- fragment: x_status
x.status

-- fragment: x_job
x.job

-- fragment: before
coalesce(:before, '~')

-- fragment: other_filters
(:labels IS NULL OR NOT EXISTS (
    SELECT 1 FROM json_each(:labels) f
    WHERE NOT EXISTS (SELECT 1 FROM json_each(x.labels) l WHERE l.key = f.key AND l.value = f.value)
))
AND (:concurrency_key IS NULL OR x.concurrency_key = :concurrency_key)

-- fragment: run_filter
(:jobs IS NULL OR x.job IN (SELECT value FROM json_each(:jobs)))
AND (:statuses IS NULL OR x.status IN (SELECT value FROM json_each(:statuses)))
AND {other_filters}
AND x.id < {before}

-- fragment: parts
-- The parts of the index (status, job, id) that a filter takes: each of its statuses with each of its jobs. Without jobs
-- the index is walked from job to job, which is one look-up for each job that has runs in a status, however many these
-- are. The last part of such a walk has no job.
part (status, job) AS (
    SELECT s.value, coalesce(j.value, (
        SELECT x.job FROM {runs} x {by_status} WHERE x.status = s.value ORDER BY x.job DESC LIMIT 1
    ))
    FROM json_each(:statuses) s
    LEFT JOIN json_each(:jobs) j
    UNION ALL
    SELECT v.status, (
        SELECT x.job FROM {runs} x {by_status} WHERE x.status = v.status AND x.job < v.job ORDER BY x.job DESC LIMIT 1
    )
    FROM part v
    WHERE :jobs IS NULL AND v.job IS NOT NULL
)

-- fragment: of_part
-- What of a part meets the filter.
x.status = v.status AND x.job = v.job AND x.id < {before} AND {other_filters}

-- fragment: newest
-- The newest of all parts, by their ids: each part's newest waits in a queue, and who leaves it is followed by the next
-- of its part. That is one look-up for each part and one for each run.
{parts},
page (status, job, id) AS (
    SELECT v.status, v.job, (SELECT x.id FROM {runs} x {by_status} WHERE {of_part} ORDER BY x.id DESC LIMIT 1)
    FROM part v
    UNION ALL
    SELECT v.status, v.job, (
        SELECT x.id
        FROM {runs} x {by_status}
        WHERE x.status = v.status AND x.job = v.job AND x.id < v.id AND {other_filters}
        ORDER BY x.id DESC
        LIMIT 1
    )
    FROM page v
    WHERE v.id IS NOT NULL
    ORDER BY 3 DESC
    LIMIT :limit
)

-- name: list_runs
-- A page of runs, newest first.
SELECT {run_columns}
FROM (SELECT * FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT :limit) r
ORDER BY r.id DESC

-- name: list_runs_by_part
-- A page of the runs of some jobs, in some statuses, or both.
WITH RECURSIVE {newest}
SELECT {run_columns}
FROM page v
CROSS JOIN {runs} r ON r.id = v.id
ORDER BY r.id DESC

-- name: list_runs_by_label
-- A page of the runs that carry some labels.
SELECT {run_columns}
FROM (SELECT * FROM {runs} x WHERE x.labels <> '{}' AND {run_filter} ORDER BY x.id DESC LIMIT :limit) r
ORDER BY r.id DESC

-- fragment: claimable
SELECT r.rowid
FROM json_each(:jobs) w
CROSS JOIN json_each((
    SELECT json_group_array(c.place)
    FROM (
        SELECT x.rowid AS place
        FROM {runs} x
        WHERE x.job = w.value AND x.status = 'pending' AND x.hold IS NULL AND x.rank >= :floor
        ORDER BY x.rank, x.id
        LIMIT :limit
    ) c
)) candidate
CROSS JOIN {runs} r ON r.rowid = candidate.value
ORDER BY r.rank, r.id
LIMIT :limit

-- fragment: leased_event
run_id, seq, type, job, labels, payload, created_at)
SELECT r.id, r.seq + 1, 'run:leased', r.job, nullif(r.labels, '{}'),
       json_object('owner', :owner, 'generation', r.generation + 1, 'attempt', r.attempt + 1, 'leaseMs', :lease_us / 1000),
       {now}

-- fragment: claim_changes
status = 'leased', generation = generation + 1, writes = 0, attempt = attempt + 1, seq = seq + 1, token = :token,
lease_owner = :owner, lease_expires_at = :now + :lease_us, started_at = coalesce(started_at, :now)

-- fragment: claimed_names
id, job, input, priority, idempotency_key, concurrency_key, labels, generation, attempt, crashes, progress, next_step,
completed_steps, lease_expires_at, available_at, created_at, started_at

-- fragment: claimed_columns
-- {claimed_names} as the claim leaves them. The others are the same in all runs that are leased, but for the rank.
r.id, r.job, r.input, r.priority, r.idempotency_key, r.concurrency_key, r.labels, r.generation + 1, r.attempt + 1,
r.crashes, r.progress, r.next_step, r.completed_steps, :now + :lease_us, r.available_at, r.created_at,
coalesce(r.started_at, :now)

-- name: claim
-- Lease the first claimable runs of these jobs, each job looked at through its own part of the index. They are chosen
-- once, into a temporary table of the connection, which keeps their order.
DELETE FROM durably_chosen;
INSERT INTO durably_chosen (place)
{claimable};
SELECT durably_rows(:block, '{claimed_names}', found)
FROM (
    SELECT json_group_array(json_array({claimed_columns})) AS found, count(*) AS runs
    FROM durably_chosen c
    CROSS JOIN {runs} r ON r.rowid = c.place
)
WHERE runs > 0;
INSERT INTO {events} ({leased_event}
FROM durably_chosen c
CROSS JOIN {runs} r ON r.rowid = c.place;
UPDATE {runs}
SET {claim_changes}
WHERE rowid IN (SELECT place FROM durably_chosen)

-- fragment: expired
SELECT x.id
FROM {runs} x {by_status}
WHERE x.job IN (SELECT value FROM json_each(:jobs))
  AND x.status = 'leased'
  AND x.lease_expires_at <= :now
  AND x.crashes + 1 < :max_crashes
  AND x.id NOT IN (SELECT value FROM json_each(:held))
ORDER BY x.rank, x.id
LIMIT :limit

-- name: claim_expired
-- Lease runs of these jobs whose lease has run out, but none of the `held` ones; they keep their slots.
INSERT INTO {events} ({leased_event}
FROM {runs} r
WHERE r.id IN ({expired})
ORDER BY r.rank, r.id;
UPDATE {runs} AS r
SET {claim_changes}, crashes = crashes + 1
WHERE r.id IN ({expired})
RETURNING {returned_columns}

-- name: claimed
-- What a claim with this token got.
SELECT {run_columns}
FROM {runs} r {by_status}
WHERE r.job IN (SELECT value FROM json_each(:jobs)) AND r.status = 'leased' AND r.token = :token
ORDER BY r.rank, r.id

-- name: crashed
-- Runs of these jobs whose lease ran out too often without a new checkpoint.
SELECT {run_columns}
FROM {runs} r {by_status}
WHERE r.job IN (SELECT value FROM json_each(:jobs))
  AND r.status = 'leased'
  AND r.lease_expires_at <= :now
  AND r.crashes + 1 >= :max_crashes
ORDER BY r.rank, r.id
LIMIT :limit

-- fragment: crashed_items
(SELECT value->>0 AS id, value->>1 AS generation FROM json_each(:items)) i
CROSS JOIN {runs} r ON r.id = i.id AND r.generation = i.generation AND r.status = 'leased' AND r.lease_expires_at <= :now

-- name: fail_crashed
-- Fail runs that keep crashing, unless somebody moved them on.
INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
SELECT r.id, r.seq + 1, 'run:fail', r.job, nullif(r.labels, '{}'), :payload, :now
FROM {crashed_items};
UPDATE {concurrency_keys}
SET active = max(active - n.runs, 0)
FROM (SELECT r.concurrency_key, count(*) AS runs FROM {crashed_items} WHERE r.slot GROUP BY r.concurrency_key) n
WHERE {concurrency_keys}.key = n.concurrency_key;
UPDATE {runs} AS r
SET status = 'failed', slot = 0, seq = seq + 1, crashes = crashes + 1, error = :error,
    lease_owner = NULL, lease_expires_at = NULL, completed_at = :now
WHERE r.id IN (SELECT r.id FROM {crashed_items})
RETURNING {returned_columns}

-- name: renew
-- Extend leases.
UPDATE {runs}
SET lease_expires_at = :now + :lease_us
FROM (SELECT value->>0 AS id, value->>1 AS generation FROM json_each(:items)) i
WHERE {runs}.id = i.id AND {runs}.generation = i.generation AND +{runs}.status = 'leased';
SELECT i.id AS id, i.generation AS generation, r.status IS 'leased' AND r.generation IS i.generation AS renewed, r.status AS status,
       r.generation = i.generation AS same
FROM (SELECT value->>0 AS id, value->>1 AS generation FROM json_each(:items)) i
LEFT JOIN {runs} r ON r.id = i.id

-- name: lapsed
-- Those of these leases that are not in force: void, or run out.
SELECT i.id AS id, i.generation AS generation, 0 AS renewed, r.status AS status, r.generation = i.generation AS same
FROM (SELECT value->>0 AS id, value->>1 AS generation FROM json_each(:items)) i
LEFT JOIN {runs} r ON r.id = i.id
WHERE (r.status = 'leased' AND r.generation = i.generation AND r.lease_expires_at > :now) IS NOT TRUE

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

-- fragment: changes
(SELECT value->>0 AS id, value->>1 AS token FROM json_each(:items)) i

-- name: cancel_runs
-- Cancel runs that are not over yet. Returns the changed rows.
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT r.id, r.seq + 1, 'run:cancel', r.job, nullif(r.labels, '{}'), :now
FROM {changes}
CROSS JOIN {runs} r ON r.id = i.id
WHERE r.status IN ('pending', 'leased');
UPDATE {concurrency_keys}
SET active = max(active - n.runs, 0)
FROM (
    SELECT r.concurrency_key, count(*) AS runs
    FROM {changes}
    CROSS JOIN {runs} r ON r.id = i.id
    WHERE r.status IN ('pending', 'leased') AND r.slot
    GROUP BY r.concurrency_key
) n
WHERE {concurrency_keys}.key = n.concurrency_key;
UPDATE {runs}
SET status = 'cancelled', hold = NULL, slot = 0, seq = seq + 1, request = i.token,
    lease_owner = NULL, lease_expires_at = NULL, completed_at = :now
FROM {changes}
WHERE {runs}.id = i.id AND +{runs}.status IN ('pending', 'leased')
RETURNING {returned_columns}

-- name: resume_runs
-- Let failed runs continue after their last checkpoint. Returns the changed rows.
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT r.id, r.seq + 1, 'run:resume', r.job, nullif(r.labels, '{}'), :now
FROM {changes}
CROSS JOIN {runs} r ON r.id = i.id
WHERE r.status = 'failed';
UPDATE {runs}
SET status = 'pending', hold = CASE WHEN {runs}.concurrency_key IS NOT NULL THEN 'key' END, seq = seq + 1,
    request = i.token, crashes = 0, error = NULL, completed_at = NULL
FROM {changes}
WHERE {runs}.id = i.id AND +{runs}.status = 'failed'
RETURNING {returned_columns}

-- fragment: deletable
SELECT r.id FROM {changes} CROSS JOIN {runs} r ON r.id = i.id WHERE r.status IN ('completed', 'failed', 'cancelled') AND NOT r.slot

-- name: delete_runs
-- Delete runs that are over, with their steps and logs; not one that still has its slot. Returns the rows that went.
INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
SELECT r.id, r.seq + 1, 'run:delete', r.job, nullif(r.labels, '{}'), json_object('request', i.token), :now
FROM {changes}
CROSS JOIN {runs} r ON r.id = i.id
WHERE r.status IN ('completed', 'failed', 'cancelled') AND NOT r.slot;
DELETE FROM {steps} WHERE run_id IN ({deletable});
DELETE FROM {logs} WHERE run_id IN ({deletable});
DELETE FROM {runs} AS r
WHERE r.id IN ({deletable})
RETURNING {returned_columns}

-- name: read_changed
-- What became of each change: done when the run carries the request's token.
SELECT i.id AS item, coalesce(r.request = i.token, 0) AS done, {run_columns}
FROM {changes}
CROSS JOIN {runs} r ON r.id = i.id

-- name: read_deleted
-- Which deletions of these requests are already stored.
SELECT i.id AS item
FROM {changes}
CROSS JOIN {events} e ON e.run_id = i.id
WHERE e.type = 'run:delete' AND e.payload = json_object('request', i.token)

-- fragment: purgeable
SELECT x.id
FROM {runs} x
WHERE x.status = :status AND NOT x.slot AND x.completed_at < :now - :older_than_us
ORDER BY x.completed_at, x.id
LIMIT :limit

-- name: purge_runs
-- Delete terminal runs that ended before a time, oldest first, with their steps and logs.
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT r.id, r.seq + 1, 'run:delete', r.job, nullif(r.labels, '{}'), :now
FROM {runs} r
WHERE r.id IN ({purgeable});
DELETE FROM {steps} WHERE run_id IN ({purgeable});
DELETE FROM {logs} WHERE run_id IN ({purgeable});
DELETE FROM {runs}
WHERE id IN ({purgeable})
RETURNING id

-- name: purge_events
-- Delete the oldest rows of events that are older than a time. Returns those that went.
DELETE FROM {events}
WHERE id IN (
    SELECT old.id
    FROM (SELECT e.id, e.created_at FROM {events} e ORDER BY e.id LIMIT :limit) old
    WHERE old.created_at < :now - :older_than_us
)
RETURNING id

-- name: feed
-- A page of the rows of the feed over all runs; one writer at a time leaves no gaps.
SELECT {event_columns}
FROM {events} e
{event_payloads}
WHERE e.id > :after
ORDER BY e.id
LIMIT :limit

-- name: feed_horizon
-- There are no transactions beside this one.
SELECT 0 AS xmin

-- name: feed_barrier
-- There are no transactions beside this one.
SELECT 0 AS barrier

-- name: set_limit
-- Set how many runs of a key may be leased at once.
UPDATE {concurrency_keys}
SET "limit" = :limit
WHERE key = :key

-- name: audit_keys
-- Mend counters that drifted. Returns the mended keys.
UPDATE {concurrency_keys}
SET active = (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = {concurrency_keys}.key)
WHERE key IN (SELECT value FROM json_each(:keys))
  AND active <> (SELECT count(*) FROM {runs} r WHERE r.slot AND r.concurrency_key = {concurrency_keys}.key)
RETURNING key

-- name: purge_keys
-- Forget keys that nobody uses and whose limit is the default.
DELETE FROM {concurrency_keys}
WHERE key IN (
    SELECT k.key
    FROM {concurrency_keys} k
    WHERE k.active = 0
      AND k."limit" = 1
      AND NOT EXISTS (
          SELECT 1 FROM {runs} r {by_held} WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key'
      )
    ORDER BY k.key
    LIMIT :limit
)
RETURNING key

-- name: release_due
-- Make due runs claimable: those without a key, and those that kept their slot.
UPDATE {runs}
SET hold = NULL
WHERE id IN (
    SELECT r.id
    FROM {runs} r INDEXED BY {runs}_due
    WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= :now AND (r.concurrency_key IS NULL OR r.slot)
    ORDER BY r.available_at, r.id
    LIMIT :limit
)
RETURNING id

-- name: due_keys
-- The keys of due runs that have to wait for a slot.
SELECT DISTINCT due.concurrency_key AS key
FROM (
    SELECT r.concurrency_key
    FROM {runs} r INDEXED BY {runs}_due
    WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= :now
      AND r.concurrency_key IS NOT NULL AND NOT r.slot
    ORDER BY r.available_at, r.id
    LIMIT :limit
) due
ORDER BY key

-- name: look
-- What there is to do for a worker of these jobs, and the microseconds until the next run is due.
SELECT
    EXISTS (
        SELECT 1
        FROM json_each(:jobs) j
        CROSS JOIN {runs} r INDEXED BY {runs}_claimable ON r.job = j.value AND r.status = 'pending' AND r.hold IS NULL
    ) AS claimable,
    late.expired,
    late.crashed,
    EXISTS (
        SELECT 1
        FROM {runs} r INDEXED BY {runs}_due
        WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= :now
    )
    OR EXISTS (SELECT 1 FROM {runs} a INDEXED BY {runs}_admit WHERE a.hold = 'admit')
    OR EXISTS (SELECT 1 FROM {runs} u INDEXED BY {runs}_unfreed WHERE u.slot AND u.status = 'cancelled') AS due,
    (
        SELECT r.available_at - :now
        FROM {runs} r INDEXED BY {runs}_due
        WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at > :now
        ORDER BY r.available_at
        LIMIT 1
    ) AS wait_us
FROM (
    SELECT coalesce(max(x.crashes + 1 < :max_crashes), 0) AS expired,
           coalesce(max(x.crashes + 1 >= :max_crashes), 0) AS crashed
    FROM {runs} x {by_status}
    WHERE x.job IN (SELECT value FROM json_each(:jobs)) AND x.status = 'leased' AND x.lease_expires_at <= :now
) late

-- name: hold_due
-- Move due runs of these keys to the queue of their key.
UPDATE {runs} INDEXED BY {runs}_due
SET hold = 'key'
WHERE status = 'pending' AND hold = 'time' AND available_at <= :now
  AND concurrency_key IN (SELECT value FROM json_each(:keys)) AND NOT slot
