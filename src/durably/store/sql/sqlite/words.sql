-- What only SQLite says. One writer at a time, so nothing is locked; but there is no statement that does several
-- things, so a block may hold several statements. The one that changes a verdict comes after all that test it.
-- A "+" before a column keeps the planner from walking that column's index instead of looking up the items' ids.
-- INDEXED BY stands where SQLite, which has no statistics, would rather take another index.
-- A block's rows are those of its last statement with rows, or what it gave to durably_rows(:block, names, JSON arrays).
-- What is written most often becomes the body of a trigger (see sqlite_calls.py): there, an UPDATE's own table has no
-- alias, rows come back through durably_rows only, and `-- each: x` runs what follows once a row of the batch x, whose
-- columns are parameters, until the next `-- each: y` or `-- once`; `-- once: x` is left out when x is empty. What
-- `-- ahead: x` collects is for the part after it, which finds rows of nothing but NULL too and deletes all of them.

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
