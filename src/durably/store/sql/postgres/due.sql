-- What there is to do for a worker, and runs whose time has come (due.py).

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
