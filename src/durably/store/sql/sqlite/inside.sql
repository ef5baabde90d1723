-- What is done in a transaction of the user's, over the user's connection (see inside.py). Its row factory is not known,
-- so a statement takes text or numbers and gives one text: JSON, with times as microseconds since 1970. No row of a key is
-- touched, no statement may fail for what the data say, and none holds a percent sign or a question mark, which drivers
-- take for placeholders. What writes begins with INSERT or UPDATE: only then Python's sqlite3 begins a transaction.

-- name: inside_look
-- Whether our tables are here, and in which file.
SELECT json_object(
    'is_here', (SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND name IN ('{runs}', '{migrations}')) = 2,
    'file', (SELECT file FROM pragma_database_list WHERE name = 'main')
)

-- name: inside_version
-- The schema's version, the oldest code that it serves, and when its first migration was applied.
SELECT json_object('version', coalesce(max(version), 0), 'serves', coalesce(max(serves), 0), 'born', min(applied_at))
FROM {migrations}

-- name: inside_insert
-- Store runs that are not there yet. Keyed ones wait until a worker has put them in line.
INSERT INTO {runs} (id, job, input, input_digest, status, hold, rank, priority, available_at, idempotency_key,
                    concurrency_key, labels, created_at)
SELECT i.id, i.job, i.input, i.input_digest, 'pending',
       CASE WHEN i.start_at > :now THEN 'time' WHEN i.concurrency_key IS NOT NULL THEN 'admit' END,
       max(coalesce(i.start_at, :now), :now) - i.priority * :priority_us,
       i.priority, i.start_at, i.idempotency_key, i.concurrency_key, i.labels, :now
FROM {new_runs}
WHERE true
ORDER BY i.ord
ON CONFLICT DO NOTHING;
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT r.id, 1, 'run:trigger', r.job, nullif(r.labels, '{}'), r.created_at
FROM {new_runs}
CROSS JOIN {runs} r ON r.id = i.id
WHERE r.seq = 0
ORDER BY i.ord;
UPDATE {runs}
SET seq = 1
WHERE seq = 0 AND id IN (SELECT value->>1 FROM json_each(:items))

-- fragment: run_as_json
json_object(
    'id', r.id, 'job', r.job, 'input', r.input, 'status', r.status, 'hold', r.hold, 'priority', r.priority,
    'idempotency_key', r.idempotency_key, 'concurrency_key', r.concurrency_key, 'labels', r.labels,
    'generation', r.generation, 'attempt', r.attempt, 'crashes', r.crashes, 'output', r.output, 'error', r.error,
    'progress', r.progress, 'next_step', r.next_step, 'completed_steps', r.completed_steps,
    'lease_owner', r.lease_owner, 'lease_expires_at', r.lease_expires_at, 'available_at', r.available_at,
    'created_at', r.created_at, 'started_at', r.started_at, 'completed_at', r.completed_at
)

-- name: inside_enqueued
-- What became of each item: the run that has its id, or the one that has its idempotency key.
SELECT json_group_array(json(f.found))
FROM (
    SELECT json_object(
        'became', CASE
            WHEN r.id = i.id THEN 'created'
            WHEN r.input_digest = i.input_digest THEN 'idempotent'
            ELSE 'conflict'
        END,
        'run', {run_as_json}
    ) AS found
    FROM {new_runs}
    LEFT JOIN {runs} own ON own.id = i.id
    LEFT JOIN {runs} dup ON dup.job = i.job AND dup.idempotency_key = i.idempotency_key
    CROSS JOIN {runs} r ON r.id = coalesce(own.id, dup.id)
    ORDER BY i.ord
) f

-- name: inside_run
-- One run.
SELECT {run_as_json}
FROM {runs} r
WHERE r.id = :run_id

-- name: inside_cancel
-- Cancel a run that is not over. The slot that it has is given back by a worker, after the commit.
INSERT INTO {events} (run_id, seq, type, job, labels, created_at)
SELECT r.id, r.seq + 1, 'run:cancel', r.job, nullif(r.labels, '{}'), :now
FROM {runs} r
WHERE r.id = :run_id AND r.status IN ('pending', 'leased');
UPDATE {runs}
SET status = 'cancelled', hold = NULL, seq = seq + 1, request = :token,
    lease_owner = NULL, lease_expires_at = NULL, completed_at = :now
WHERE id = :run_id AND +status IN ('pending', 'leased')

-- name: inside_changed
-- The run, and whether it was this request that changed it.
SELECT json_object('done', r.request IS :token, 'run', {run_as_json})
FROM {runs} r
WHERE r.id = :run_id

-- name: inside_steps
-- A run's finished steps, in the order in which they started.
SELECT json_group_array(json(f.found))
FROM (
    SELECT json_object(
        'run_id', s.run_id, 'name', s.name, 'position', s.position, 'status', s.status, 'output', s.output,
        'error', s.error, 'generation', s.generation, 'started_at', s.started_at, 'completed_at', s.completed_at
    ) AS found
    FROM {steps} s
    WHERE s.run_id = :run_id
    ORDER BY s.position, s.name
) f

-- name: inside_copy
-- Give a new run checkpoints of another one.
INSERT INTO {steps} (run_id, name, position, status, output, generation, started_at, completed_at)
SELECT :run_id, s.value->>0, s.value->>1, 'completed', s.value->>2, 0, s.value->>3, s.value->>4
FROM json_each(:steps) s
WHERE true
ON CONFLICT DO NOTHING;
UPDATE {runs}
SET completed_steps = n.steps, next_step = n.next_step
FROM (
    SELECT count(*) AS steps, coalesce(max(s.position) + 1, 0) AS next_step FROM {steps} s WHERE s.run_id = :run_id
) n
WHERE {runs}.id = :run_id AND n.steps > 0

-- name: keys_of_inside
-- The keys of runs that transactions of users have triggered, and of those that they have cancelled in their slots.
SELECT DISTINCT found.concurrency_key AS key
FROM (
    SELECT * FROM (
        SELECT a.concurrency_key FROM {runs} a INDEXED BY {runs}_admit WHERE a.hold = 'admit'
        ORDER BY a.concurrency_key LIMIT :limit
    )
    UNION ALL
    SELECT * FROM (
        SELECT u.concurrency_key FROM {runs} u INDEXED BY {runs}_unfreed WHERE u.slot AND u.status = 'cancelled'
        ORDER BY u.concurrency_key LIMIT :limit
    )
) found
ORDER BY key

-- name: admit_inside
-- Put what transactions of users have triggered with these keys in line.
UPDATE {runs} INDEXED BY {runs}_admit
SET hold = 'key'
WHERE hold = 'admit' AND concurrency_key IN (SELECT value FROM json_each(:keys))

-- name: free_inside
-- Give back the slots of these keys whose runs were cancelled in transactions of users; `admit` counts them anew.
UPDATE {concurrency_keys}
SET active = max(active - n.runs, 0)
FROM (
    SELECT u.concurrency_key, count(*) AS runs
    FROM {runs} u INDEXED BY {runs}_unfreed
    WHERE u.slot AND u.status = 'cancelled' AND u.concurrency_key IN (SELECT value FROM json_each(:keys))
    GROUP BY u.concurrency_key
) n
WHERE {concurrency_keys}.key = n.concurrency_key;
UPDATE {runs} INDEXED BY {runs}_unfreed
SET slot = 0
WHERE slot AND status = 'cancelled' AND concurrency_key IN (SELECT value FROM json_each(:keys))
