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
