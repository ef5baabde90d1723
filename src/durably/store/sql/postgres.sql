-- What only PostgreSQL says. Rows that are to be changed are locked first, in the statement that tests them
-- (READ COMMITTED re-checks only the conditions of the level that locks), and in the order of their ids. Items arrive
-- sorted by id; LATERAL keeps that order and looks each row up by its key, whatever the statistics say.
-- A batch's column `:x::text::uuid[]` is sent as the text of an array, which takes the driver a tenth of the time. It is
-- for what needs no quotes in there: ids, numbers, times, words of ours.

-- fragment: now
(SELECT coalesce(:now::timestamptz, clock_timestamp()))

-- fragment: uuid_e_run_id
e.run_id::text

-- fragment: uuid_s_run_id
s.run_id::text

-- fragment: uuid_l_run_id
l.run_id::text

-- fragment: text_e_labels
e.labels::text

-- fragment: param_run_id
:run_id::uuid

-- fragment: param_after_seq
:after_seq::bigint

-- fragment: param_limit
:limit::integer

-- fragment: by_held
-- PostgreSQL chooses by itself.

-- fragment: run_columns
r.id::text AS id, r.job, r.input, r.status, r.hold, r.priority, r.idempotency_key, r.concurrency_key,
r.labels::text AS labels, r.generation, r.attempt, r.crashes, r.output, r.error, r.progress, r.next_step,
r.completed_steps, r.lease_owner, r.lease_expires_at, r.available_at, r.created_at, r.started_at, r.completed_at,
r.rank

-- name: lock_keys
-- Make and lock the rows of these keys, in order; everything that gives or takes a slot comes after it.
INSERT INTO {concurrency_keys} (key)
SELECT k.key
FROM unnest(:keys::text[]) AS k (key)
ORDER BY k.key
ON CONFLICT (key) DO UPDATE SET key = excluded.key

-- name: lock_runs
-- Lock these runs, in order.
SELECT r.id
FROM {runs} r
WHERE r.id = ANY (:runs::uuid[])
ORDER BY r.id
FOR NO KEY UPDATE

-- name: admit
-- Hand the free slots of these keys to the runs that wait for them, by rank.
WITH free AS (
    SELECT key, greatest("limit" - active, 0) AS slots
    FROM {concurrency_keys}
    WHERE key = ANY (:keys::text[])
),
chosen AS MATERIALIZED (
    SELECT waiting.id
    FROM free
    CROSS JOIN LATERAL (
        SELECT r.id
        FROM {runs} r
        WHERE r.concurrency_key = free.key AND r.status = 'pending' AND r.hold = 'key'
        ORDER BY r.rank, r.id
        LIMIT free.slots
    ) waiting
),
promoted AS (
    UPDATE {runs} r
    SET hold = NULL, slot = true
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.concurrency_key
)
UPDATE {concurrency_keys} k
SET active = k.active + n.runs
FROM (SELECT concurrency_key, count(*)::integer AS runs FROM promoted GROUP BY concurrency_key) n
WHERE k.key = n.concurrency_key

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

-- fragment: by_status
-- PostgreSQL chooses by itself.

-- fragment: x_status
x.status COLLATE "C"

-- fragment: x_job
x.job COLLATE "C"

-- fragment: before
coalesce(:before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')

-- fragment: other_filters
(:labels::text IS NULL OR x.labels @> :labels::text::jsonb)
AND (:concurrency_key::text IS NULL OR x.concurrency_key = :concurrency_key::text)

-- fragment: wide_filter
(:jobs::text[] IS NULL OR x.job = ANY (:jobs::text[]))
AND (:statuses::text[] IS NULL OR x.status = ANY (:statuses::text[]))
AND {other_filters}

-- fragment: run_filter
{wide_filter} AND x.id < {before}

-- fragment: parts
-- The parts of the index (status, job, id) that a filter takes: each of its statuses with each of its jobs. Without jobs
-- the index is walked from job to job, which is one look-up for each job that has runs in a status, however many these
-- are. The last part of such a walk has no job.
part (status, job) AS (
    SELECT s.status, coalesce(j.job, (SELECT x.job FROM {runs} x WHERE {x_status} = s.status ORDER BY {x_job} DESC LIMIT 1))
    FROM unnest(:statuses::text[]) AS s (status)
    LEFT JOIN unnest(:jobs::text[]) AS j (job) ON true
    UNION ALL
    SELECT v.status, (SELECT x.job FROM {runs} x WHERE {x_status} = v.status AND {x_job} < v.job ORDER BY {x_job} DESC LIMIT 1)
    FROM part v
    WHERE :jobs::text[] IS NULL AND v.job IS NOT NULL
)

-- fragment: of_part
-- What of a part meets the filter. Rows are compared, for only this index has them in that order: where the statistics
-- know few jobs, PostgreSQL would rather walk all ids. The index's order is that of bytes, so that nobody else uses it.
({x_status}, {x_job}, x.id) < (v.status, v.job, {before})
AND ({x_status}, {x_job}, x.id) >= (v.status, v.job, '00000000-0000-0000-0000-000000000000')
AND {other_filters}

-- fragment: newest
-- The newest of all parts, by their ids. The limit taken of each of n parts would be n times too much: at first it is
-- limit / sqrt(n), and then what may be missing of those that have more; so at most about 2 * limit * sqrt(n) are read.
{parts},
share AS MATERIALIZED (
    SELECT ceil(least(:limit::bigint, 1000000000) / sqrt(greatest(count(*), 1)))::integer AS runs FROM part
),
near AS MATERIALIZED (
    SELECT v.status, v.job, ARRAY (
        SELECT x.id
        FROM {runs} x
        WHERE {of_part}
        ORDER BY {x_status} DESC, {x_job} DESC, x.id DESC
        LIMIT (SELECT runs FROM share)
    ) AS ids
    FROM part v
),
bound AS MATERIALIZED (
    SELECT coalesce(
        (SELECT i.id FROM near CROSS JOIN unnest(near.ids) AS i (id) ORDER BY i.id DESC LIMIT 1 OFFSET :limit::bigint - 1),
        '00000000-0000-0000-0000-000000000000'
    ) AS id
),
page AS (
    SELECT i.id FROM near CROSS JOIN unnest(near.ids) AS i (id)
    UNION ALL
    SELECT more.id
    FROM near v
    CROSS JOIN share
    CROSS JOIN bound
    CROSS JOIN LATERAL (
        SELECT x.id
        FROM {runs} x
        WHERE ({x_status}, {x_job}, x.id) < (v.status, v.job, v.ids[share.runs])
          AND ({x_status}, {x_job}, x.id) > (v.status, v.job, bound.id)
          AND {other_filters}
        ORDER BY {x_status} DESC, {x_job} DESC, x.id DESC
        LIMIT :limit::bigint - share.runs
    ) more
    WHERE v.ids[share.runs] > bound.id
)

-- name: list_runs
-- A page of runs, newest first.
SELECT {run_columns}
FROM (SELECT x.* FROM {runs} x WHERE {run_filter} ORDER BY x.id DESC LIMIT :limit::bigint) r
ORDER BY r.id DESC

-- name: list_runs_by_part
-- A page of the runs of some jobs, in some statuses, or both.
WITH RECURSIVE {newest}
SELECT {run_columns}
FROM (SELECT id FROM page ORDER BY id DESC LIMIT :limit::bigint) found
CROSS JOIN LATERAL (SELECT x.* FROM {runs} x WHERE x.id = found.id OFFSET 0) r
ORDER BY r.id DESC

-- name: list_runs_by_label
-- A page of the runs that carry some labels.
WITH found AS MATERIALIZED (
    SELECT x.*
    FROM {runs} x
    WHERE x.labels <> '{}' AND x.labels @> :labels::text::jsonb AND {run_filter}
)
SELECT {run_columns}
FROM found r
ORDER BY r.id DESC
LIMIT :limit::bigint

-- fragment: claim_changes
status = 'leased', generation = r.generation + 1, writes = 0, attempt = r.attempt + 1, seq = r.seq + 1,
token = :token::uuid, lease_owner = :owner::text,
lease_expires_at = clock.now + :lease_us::bigint * interval '1 microsecond',
started_at = coalesce(r.started_at, clock.now)

-- fragment: claimed_columns
-- The others are the same in all runs that are leased, but for the rank.
r.id::text AS id, r.job, r.input, r.priority, r.idempotency_key, r.concurrency_key, nullif(r.labels, '{}')::text AS labels,
r.generation, r.attempt, r.crashes, r.progress, r.next_step, r.completed_steps, r.lease_expires_at, r.available_at,
r.created_at, r.started_at

-- fragment: leased_event
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
    SELECT r.id, r.seq, 'run:leased', r.job, nullif(r.labels, '{}'),
           json_build_object('owner', r.lease_owner, 'generation', r.generation, 'attempt', r.attempt,
                             'leaseMs', :lease_us::bigint / 1000)::text,
           {now}
    FROM claimed r
)

-- name: claim
-- Lease the first claimable runs of these jobs, each job looked at through its own part of the index. Candidates are
-- locked one after the other, until there are enough. Their state is tested in a way that fits no index: a plan that was
-- made while few runs were waiting would look through all that wait.
WITH chosen AS MATERIALIZED (
    SELECT r.id
    FROM (
        SELECT first.id
        FROM unnest(:jobs::text[]) AS j (job)
        CROSS JOIN LATERAL (
            SELECT c.id, c.rank
            FROM {runs} c
            WHERE c.job = j.job AND c.status = 'pending' AND c.hold IS NULL AND c.rank >= :floor::bigint
            ORDER BY c.rank, c.id
            LIMIT :limit::integer * 4
        ) first
        ORDER BY first.rank, first.id
        LIMIT :limit::integer * 4
    ) candidate
    CROSS JOIN LATERAL (
        SELECT x.id
        FROM {runs} x
        WHERE x.id = candidate.id AND coalesce(x.status = 'pending' AND x.hold IS NULL, false)
        FOR NO KEY UPDATE SKIP LOCKED
    ) r
    LIMIT :limit::integer
),
claimed AS (
    UPDATE {runs} r
    SET {claim_changes}
    FROM (SELECT {now} AS now) clock
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND coalesce(r.status = 'pending' AND r.hold IS NULL, false)
    RETURNING r.*
),
{leased_event}
SELECT {claimed_columns}
FROM claimed r
ORDER BY r.rank, r.id

-- name: claim_expired
-- Lease runs of these jobs whose lease has run out, but none of the `held` ones; they keep their slots.
WITH chosen AS MATERIALIZED (
    SELECT r.id
    FROM {runs} r
    WHERE r.job = ANY (:jobs::text[])
      AND r.status = 'leased'
      AND r.lease_expires_at <= {now}
      AND r.crashes + 1 < :max_crashes::integer
      AND r.id <> ALL (:held::uuid[])
    ORDER BY r.rank, r.id
    LIMIT :limit::integer
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE {runs} r
    SET {claim_changes}, crashes = r.crashes + 1
    FROM chosen, (SELECT {now} AS now) clock
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
      AND r.status = 'leased' AND r.lease_expires_at <= clock.now
    RETURNING r.*
),
{leased_event}
SELECT {run_columns}
FROM claimed r

-- name: claimed
-- What a claim with this token got.
SELECT {run_columns}
FROM {runs} r
WHERE r.job = ANY (:jobs::text[]) AND r.status = 'leased' AND r.token = :token::uuid
ORDER BY r.rank, r.id

-- name: crashed
-- Runs of these jobs whose lease ran out too often without a new checkpoint.
SELECT {run_columns}
FROM {runs} r
WHERE r.job = ANY (:jobs::text[])
  AND r.status = 'leased'
  AND r.lease_expires_at <= {now}
  AND r.crashes + 1 >= :max_crashes::integer
ORDER BY r.rank, r.id
LIMIT :limit::integer

-- name: fail_crashed
-- Fail runs that keep crashing, unless somebody moved them on.
WITH chosen AS MATERIALIZED (
    SELECT r.id, r.slot
    FROM unnest(:items_id::uuid[], :items_generation::integer[]) AS i (id, generation)
    CROSS JOIN LATERAL (
        SELECT x.id, x.slot
        FROM {runs} x
        WHERE x.id = i.id AND x.generation = i.generation AND x.status = 'leased' AND x.lease_expires_at <= {now}
        FOR NO KEY UPDATE
    ) r
),
failed AS (
    UPDATE {runs} r
    SET status = 'failed', slot = false, seq = r.seq + 1, crashes = r.crashes + 1, error = :error::text,
        lease_owner = NULL, lease_expires_at = NULL, completed_at = {now}
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*, chosen.slot AS had_slot
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
    SELECT r.id, r.seq, 'run:fail', r.job, nullif(r.labels, '{}'), :payload::text, r.completed_at
    FROM failed r
),
freed AS (
    UPDATE {concurrency_keys} k
    SET active = greatest(k.active - n.runs, 0)
    FROM (SELECT concurrency_key, count(*)::integer AS runs FROM failed WHERE had_slot GROUP BY concurrency_key) n
    WHERE k.key = n.concurrency_key
)
SELECT {run_columns}
FROM failed r

-- name: renew
-- Extend leases. Rows that somebody has locked are passed over, so that one of them cannot hold up the others.
WITH item AS MATERIALIZED (
    SELECT i.id, i.generation
    FROM unnest(:items_id::uuid[], :items_generation::integer[]) AS i (id, generation)
),
mine AS MATERIALIZED (
    SELECT r.id, r.generation
    FROM item i
    CROSS JOIN LATERAL (
        SELECT x.id, x.generation
        FROM {runs} x
        WHERE x.id = i.id AND x.generation = i.generation AND x.status = 'leased'
        FOR NO KEY UPDATE SKIP LOCKED
    ) r
),
renewed AS (
    UPDATE {runs} r
    SET lease_expires_at = clock.now + :lease_us::bigint * interval '1 microsecond'
    FROM mine, (SELECT {now} AS now) clock
    WHERE r.id = ANY (ARRAY (SELECT id FROM mine)) AND r.id = mine.id
)
SELECT i.id::text AS id, i.generation, mine.id IS NOT NULL AS renewed, r.status, r.generation = i.generation AS same
FROM item i
LEFT JOIN mine ON mine.id = i.id AND mine.generation = i.generation
LEFT JOIN LATERAL (SELECT x.status, x.generation FROM {runs} x WHERE x.id = i.id OFFSET 0) r ON true

-- name: lapsed
-- Those of these leases that are not in force: void, or run out.
SELECT i.id::text AS id, i.generation, false AS renewed, r.status, r.generation = i.generation AS same
FROM unnest(:items_id::uuid[], :items_generation::integer[]) AS i (id, generation)
LEFT JOIN LATERAL (
    SELECT x.status, x.generation, x.lease_expires_at
    FROM {runs} x
    WHERE x.id = i.id
    OFFSET 0
) r ON true
WHERE (r.status = 'leased' AND r.generation = i.generation AND r.lease_expires_at > {now}) IS NOT TRUE

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

-- fragment: changes
unnest(:items_id::uuid[], :items_token::uuid[]) AS i (id, token)

-- name: cancel_runs
-- Cancel runs that are not over yet. Returns the changed rows.
WITH chosen AS MATERIALIZED (
    SELECT r.id, r.slot, i.token
    FROM {changes}
    CROSS JOIN LATERAL (
        SELECT x.id, x.slot FROM {runs} x WHERE x.id = i.id AND x.status IN ('pending', 'leased') FOR NO KEY UPDATE
    ) r
),
changed AS (
    UPDATE {runs} r
    SET status = 'cancelled', hold = NULL, slot = false, seq = r.seq + 1, request = chosen.token,
        lease_owner = NULL, lease_expires_at = NULL, completed_at = {now}
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*, chosen.slot AS had_slot
),
freed AS (
    UPDATE {concurrency_keys} k
    SET active = greatest(k.active - n.runs, 0)
    FROM (SELECT concurrency_key, count(*)::integer AS runs FROM changed WHERE had_slot GROUP BY concurrency_key) n
    WHERE k.key = n.concurrency_key
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq, 'run:cancel', job, nullif(labels, '{}'), completed_at
    FROM changed
)
SELECT {run_columns}
FROM changed r

-- name: resume_runs
-- Let failed runs continue after their last checkpoint. Returns the changed rows.
WITH chosen AS MATERIALIZED (
    SELECT r.id, i.token
    FROM {changes}
    CROSS JOIN LATERAL (SELECT x.id FROM {runs} x WHERE x.id = i.id AND x.status = 'failed' FOR NO KEY UPDATE) r
),
changed AS (
    UPDATE {runs} r
    SET status = 'pending', hold = CASE WHEN r.concurrency_key IS NOT NULL THEN 'key' END, seq = r.seq + 1,
        request = chosen.token, crashes = 0, error = NULL, completed_at = NULL
    FROM chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq, 'run:resume', job, nullif(labels, '{}'), {now}
    FROM changed
)
SELECT {run_columns}
FROM changed r

-- name: delete_runs
-- Delete runs that are over, with their steps and logs; not one that still has its slot. Returns the rows that went.
WITH chosen AS MATERIALIZED (
    SELECT r.id, i.token
    FROM {changes}
    CROSS JOIN LATERAL (
        SELECT x.id
        FROM {runs} x
        WHERE x.id = i.id AND x.status IN ('completed', 'failed', 'cancelled') AND NOT x.slot
        FOR UPDATE
    ) r
),
steps AS (DELETE FROM {steps} s WHERE s.run_id = ANY (ARRAY (SELECT id FROM chosen))),
logs AS (DELETE FROM {logs} l WHERE l.run_id = ANY (ARRAY (SELECT id FROM chosen))),
gone AS (
    DELETE FROM {runs} r
    USING chosen
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
    RETURNING r.*, chosen.token AS deleted_by
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, payload, created_at)
    SELECT id, seq + 1, 'run:delete', job, nullif(labels, '{}'), json_build_object('request', deleted_by)::text, {now}
    FROM gone
)
SELECT {run_columns}
FROM gone r

-- name: read_changed
-- What became of each change: done when the run carries the request's token.
SELECT i.id::text AS item, coalesce(r.request = i.token, false) AS done, {run_columns}
FROM {changes}
JOIN {runs} r ON r.id = i.id

-- name: read_deleted
-- Which deletions of these requests are already stored.
SELECT i.id::text AS item
FROM {changes}
JOIN {events} e ON e.run_id = i.id
WHERE e.type = 'run:delete' AND e.payload = json_build_object('request', i.token)::text

-- name: purge_runs
-- Delete terminal runs that ended before a time, oldest first, with their steps and logs.
WITH chosen AS MATERIALIZED (
    SELECT r.id
    FROM {runs} r
    WHERE r.status = :status::text AND NOT r.slot AND r.completed_at < {now} - :older_than_us::bigint * interval '1 microsecond'
    ORDER BY r.completed_at, r.id
    LIMIT :limit::integer
    FOR UPDATE SKIP LOCKED
),
steps AS (DELETE FROM {steps} s WHERE s.run_id = ANY (ARRAY (SELECT id FROM chosen))),
logs AS (DELETE FROM {logs} l WHERE l.run_id = ANY (ARRAY (SELECT id FROM chosen))),
gone AS (
    DELETE FROM {runs} r
    WHERE r.id = ANY (ARRAY (SELECT id FROM chosen))
    RETURNING r.id, r.seq, r.job, r.labels
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq + 1, 'run:delete', job, nullif(labels, '{}'), {now}
    FROM gone
)
SELECT id::text AS id
FROM gone

-- name: purge_events
-- Delete the oldest rows of events that are older than a time. Returns those that went.
WITH old AS MATERIALIZED (
    SELECT id, created_at
    FROM {events}
    ORDER BY id
    LIMIT :limit::integer
)
DELETE FROM {events} e
WHERE e.id = ANY (ARRAY (
    SELECT id FROM old WHERE created_at < {now} - :older_than_us::bigint * interval '1 microsecond'
))
RETURNING e.id

-- name: feed
-- A page of the rows of the feed over all runs, with the gaps that are looked at again.
SELECT {event_columns}
FROM (
    SELECT g.* FROM {events} g WHERE g.id = ANY (:gaps_id::bigint[]) AND g.id <= :after::bigint
    UNION ALL
    (SELECT n.* FROM {events} n WHERE n.id > :after::bigint ORDER BY n.id LIMIT :limit::integer)
) e
{event_payloads}
ORDER BY e.id
LIMIT :limit::integer

-- name: feed_horizon
-- Every transaction before this one has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin

-- name: feed_barrier
-- A transaction number above all that have written so far.
SELECT pg_current_xact_id()::text::bigint AS barrier

-- name: set_limit
-- Set how many runs of a key may be leased at once.
UPDATE {concurrency_keys}
SET "limit" = :limit::integer
WHERE key = :key::text

-- name: audit_keys
-- Mend counters that drifted. Returns the mended keys.
UPDATE {concurrency_keys} k
SET active = n.runs
FROM (
    SELECT c.key, (SELECT count(*)::integer FROM {runs} r WHERE r.slot AND r.concurrency_key = c.key) AS runs
    FROM unnest(:keys::text[]) AS c (key)
) n
WHERE k.key = n.key AND k.active <> n.runs
RETURNING k.key

-- name: purge_keys
-- Forget keys that nobody uses and whose limit is the default.
WITH idle AS MATERIALIZED (
    SELECT k.key
    FROM {concurrency_keys} k
    WHERE k.active = 0
      AND k."limit" = 1
      AND (
          SELECT r.id FROM {runs} r WHERE r.concurrency_key = k.key AND r.status = 'pending' AND r.hold = 'key' LIMIT 1
      ) IS NULL
    ORDER BY k.key
    LIMIT :limit::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM {concurrency_keys} k
WHERE k.key = ANY (ARRAY (SELECT key FROM idle)) AND k.active = 0
RETURNING k.key

-- name: release_due
-- Make due runs claimable: those without a key, and those that kept their slot.
WITH chosen AS MATERIALIZED (
    SELECT r.id
    FROM {runs} r
    WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= {now}
      AND (r.concurrency_key IS NULL OR r.slot)
    ORDER BY r.available_at, r.id
    LIMIT :limit::integer
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {runs} r
SET hold = NULL
FROM chosen
WHERE r.id = ANY (ARRAY (SELECT id FROM chosen)) AND r.id = chosen.id
RETURNING r.id::text AS id

-- name: due_keys
-- The keys of due runs that have to wait for a slot.
SELECT DISTINCT due.concurrency_key AS key
FROM (
    SELECT r.concurrency_key
    FROM {runs} r
    WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= {now}
      AND r.concurrency_key IS NOT NULL AND NOT r.slot
    ORDER BY r.available_at, r.id
    LIMIT :limit::integer
) due
ORDER BY key

-- name: look
-- What there is to do for a worker of these jobs, and the microseconds until the next run is due.
SELECT
    EXISTS (
        SELECT 1
        FROM unnest(:jobs::text[]) AS j (job)
        CROSS JOIN LATERAL (
            SELECT 1
            FROM {runs} r
            WHERE r.job = j.job AND r.status = 'pending' AND r.hold IS NULL
            LIMIT 1
        ) first
    ) AS claimable,
    late.expired,
    late.crashed,
    EXISTS (
        SELECT 1
        FROM {runs} r
        WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= {now}
    )
    OR EXISTS (SELECT 1 FROM {runs} a WHERE a.hold = 'admit')
    OR EXISTS (SELECT 1 FROM {runs} u WHERE u.slot AND u.status = 'cancelled') AS due,
    (
        SELECT (extract(epoch FROM r.available_at - {now}) * 1000000)::bigint
        FROM {runs} r
        WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at > {now}
        ORDER BY r.available_at
        LIMIT 1
    ) AS wait_us
FROM (
    SELECT coalesce(bool_or(r.crashes + 1 < :max_crashes::integer), false) AS expired,
           coalesce(bool_or(r.crashes + 1 >= :max_crashes::integer), false) AS crashed
    FROM {runs} r
    WHERE r.job = ANY (:jobs::text[]) AND r.status = 'leased' AND r.lease_expires_at <= {now}
) late

-- name: hold_due
-- Move due runs of these keys to the queue of their key.
UPDATE {runs} r
SET hold = 'key'
WHERE r.status = 'pending' AND r.hold = 'time' AND r.available_at <= {now}
  AND r.concurrency_key = ANY (:keys::text[]) AND NOT r.slot
