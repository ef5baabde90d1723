-- Leases: claims, renewals, and what becomes of those that ran out (leases.py).

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
