-- What there is to do for a worker, and runs whose time has come (due.py).

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
