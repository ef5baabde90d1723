-- What is done in a transaction of the user's, over the user's connection (see inside.py). Its codecs and row factories
-- are not known, so a statement takes text or numbers and gives one text: JSON, with times as microseconds since 1970. No
-- row of a key is touched, no statement may fail for what the data say, and none holds a percent sign or a question mark,
-- which drivers take for placeholders.

-- name: inside_look
-- Whether our tables are here, and what this place is called while the server runs.
SELECT json_build_object(
    'is_here', to_regclass('{runs}') IS NOT NULL AND to_regclass('{migrations}') IS NOT NULL,
    'place', concat_ws(' ', to_regclass('{runs}')::oid, current_database(), extract(epoch FROM pg_postmaster_start_time()))
)::text

-- name: inside_version
-- The schema's version, the oldest code that it serves, and when its first migration was applied.
SELECT json_build_object(
    'version', coalesce(max(version), 0), 'serves', coalesce(max(serves), 0),
    'born', (extract(epoch FROM min(applied_at)) * 1000000)::bigint
)::text
FROM {migrations}

-- fragment: inside_items
(
    SELECT (e->>0)::integer AS ord, (e->>1)::uuid AS id, e->>2 AS job, e->>3 AS input, e->>4 AS input_digest,
           e->>5 AS idempotency_key, e->>6 AS concurrency_key, e->>7 AS if_pending, (e->>8)::jsonb AS labels,
           (e->>9)::integer AS priority, (e->>10)::bigint AS delay_us, (e->>12)::timestamptz AS run_at
    FROM json_array_elements(:items::text::json) AS x (e)
) i

-- name: inside_insert
-- Store runs that are not there yet. Keyed ones wait until a worker has put them in line. Workers learn of the commit.
WITH inserted AS (
    INSERT INTO {runs} (id, job, input, input_digest, status, hold, rank, priority, available_at, idempotency_key,
                        concurrency_key, labels, seq, created_at)
    SELECT i.id, i.job, i.input, i.input_digest, 'pending',
           CASE WHEN i.start_at > i.now THEN 'time' WHEN i.concurrency_key IS NOT NULL THEN 'admit' END,
           (extract(epoch FROM greatest(i.start_at, i.now)) * 1000000)::bigint - i.priority * :priority_us::text::bigint,
           i.priority, i.start_at, i.idempotency_key, i.concurrency_key, i.labels, 1, i.now
    FROM (
        SELECT i.*, clock.now,
               coalesce(i.run_at, clock.now + i.delay_us * interval '1 microsecond') AS start_at
        FROM {inside_items}
        CROSS JOIN (SELECT clock_timestamp() AS now) clock
    ) i
    ORDER BY i.job, i.idempotency_key, i.ord
    ON CONFLICT DO NOTHING
    RETURNING id, job, labels, created_at
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, 1, 'run:trigger', job, nullif(labels, '{}'), created_at
    FROM inserted
)
SELECT pg_notify(:channel::text, :note::text)::text

-- fragment: run_as_json
json_build_object(
    'id', r.id, 'job', r.job, 'input', r.input, 'status', r.status, 'hold', r.hold, 'priority', r.priority,
    'idempotency_key', r.idempotency_key, 'concurrency_key', r.concurrency_key, 'labels', r.labels::text,
    'generation', r.generation, 'attempt', r.attempt, 'crashes', r.crashes, 'output', r.output, 'error', r.error,
    'progress', r.progress, 'next_step', r.next_step, 'completed_steps', r.completed_steps,
    'lease_owner', r.lease_owner, 'lease_expires_at', (extract(epoch FROM r.lease_expires_at) * 1000000)::bigint,
    'available_at', (extract(epoch FROM r.available_at) * 1000000)::bigint,
    'created_at', (extract(epoch FROM r.created_at) * 1000000)::bigint,
    'started_at', (extract(epoch FROM r.started_at) * 1000000)::bigint,
    'completed_at', (extract(epoch FROM r.completed_at) * 1000000)::bigint
)

-- name: inside_enqueued
-- What became of each item: the run that has its id, or the one that has its idempotency key.
SELECT coalesce(json_agg(json_build_object('became', f.became, 'run', f.run) ORDER BY f.ord), '[]')::text
FROM (
    SELECT i.ord, {run_as_json} AS run,
           CASE
               WHEN r.id = i.id THEN 'created'
               WHEN r.input_digest = i.input_digest THEN 'idempotent'
               ELSE 'conflict'
           END AS became
    FROM {inside_items}
    LEFT JOIN LATERAL (SELECT o.id FROM {runs} o WHERE o.id = i.id OFFSET 0) own ON true
    LEFT JOIN LATERAL (
        SELECT d.id FROM {runs} d WHERE d.job = i.job AND d.idempotency_key = i.idempotency_key OFFSET 0
    ) dup ON true
    CROSS JOIN LATERAL (SELECT * FROM {runs} x WHERE x.id = coalesce(own.id, dup.id) OFFSET 0) r
) f

-- name: inside_run
-- One run.
SELECT {run_as_json}::text
FROM {runs} r
WHERE r.id = :run_id::text::uuid

-- name: inside_cancel
-- Cancel a run that is not over. The slot that it has is given back by a worker, after the commit.
WITH changed AS (
    UPDATE {runs} r
    SET status = 'cancelled', hold = NULL, seq = r.seq + 1, request = :token::text::uuid,
        lease_owner = NULL, lease_expires_at = NULL, completed_at = clock_timestamp()
    WHERE r.id = :run_id::text::uuid AND r.status IN ('pending', 'leased')
    RETURNING r.id, r.seq, r.job, r.labels, r.completed_at
),
event AS (
    INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
    SELECT id, seq, 'run:cancel', job, nullif(labels, '{}'), completed_at
    FROM changed
)
SELECT pg_notify(:channel::text, :note::text)::text

-- name: inside_changed
-- The run, and whether it was this request that changed it.
SELECT json_build_object('done', coalesce(r.request = :token::text::uuid, false), 'run', {run_as_json})::text
FROM {runs} r
WHERE r.id = :run_id::text::uuid

-- name: inside_steps
-- A run's finished steps, in the order in which they started.
SELECT coalesce(json_agg(json_build_object(
    'run_id', s.run_id, 'name', s.name, 'position', s.position, 'status', s.status, 'output', s.output, 'error', s.error,
    'generation', s.generation, 'started_at', (extract(epoch FROM s.started_at) * 1000000)::bigint,
    'completed_at', (extract(epoch FROM s.completed_at) * 1000000)::bigint
) ORDER BY s.position, s.name), '[]')::text
FROM {steps} s
WHERE s.run_id = :run_id::text::uuid

-- name: inside_copy
-- Give a new run checkpoints of another one.
WITH copied AS (
    INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)
    SELECT :run_id::text::uuid, e->>0, (e->>1)::integer, 'completed', e->>2, 0,
           timestamptz 'epoch' + (e->>3)::bigint * interval '1 microsecond',
           timestamptz 'epoch' + (e->>4)::bigint * interval '1 microsecond'
    FROM json_array_elements(:steps::text::json) AS x (e)
    ON CONFLICT DO NOTHING
    RETURNING position
)
UPDATE {runs} r
SET completed_steps = n.steps, next_step = n.next_step
FROM (SELECT count(*)::integer AS steps, coalesce(max(position) + 1, 0) AS next_step FROM copied) n
WHERE r.id = :run_id::text::uuid AND n.steps > 0

-- name: keys_of_inside
-- The keys of runs that transactions of users have triggered, and of those that they have cancelled in their slots.
SELECT DISTINCT found.concurrency_key AS key
FROM (
    (SELECT a.concurrency_key FROM {runs} a WHERE a.hold = 'admit' ORDER BY a.concurrency_key LIMIT :limit::integer)
    UNION ALL
    (
        SELECT u.concurrency_key FROM {runs} u WHERE u.slot AND u.status = 'cancelled'
        ORDER BY u.concurrency_key LIMIT :limit::integer
    )
) found
ORDER BY key

-- name: admit_inside
-- Put what transactions of users have triggered with these keys in line.
UPDATE {runs} r
SET hold = 'key'
WHERE r.hold = 'admit' AND r.concurrency_key = ANY (:keys::text[])

-- name: free_inside
-- Give back the slots of these keys whose runs were cancelled in transactions of users.
WITH freed AS (
    UPDATE {runs} r
    SET slot = false
    WHERE r.slot AND r.status = 'cancelled' AND r.concurrency_key = ANY (:keys::text[])
    RETURNING r.concurrency_key
)
UPDATE {concurrency_keys} k
SET active = greatest(k.active - n.runs, 0)
FROM (SELECT concurrency_key, count(*)::integer AS runs FROM freed GROUP BY concurrency_key) n
WHERE k.key = n.concurrency_key
