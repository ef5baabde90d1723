-- What is done to runs from outside: cancel, resume, delete (actions.py).

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
