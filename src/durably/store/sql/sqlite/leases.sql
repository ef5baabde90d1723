-- Leases: claims, renewals, and what becomes of those that ran out (leases.py).

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
