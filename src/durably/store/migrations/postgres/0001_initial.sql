-- Runs, their steps, logs and events, and the slots of concurrency keys.

CREATE TABLE {runs} (
    id uuid PRIMARY KEY,
    job text NOT NULL,
    input text NOT NULL,
    input_digest text,
    status text NOT NULL CHECK (status IN ('pending', 'leased', 'completed', 'failed', 'cancelled')),
    hold text CHECK (hold IN ('key', 'time', 'admit')),
    slot boolean NOT NULL DEFAULT false,
    rank bigint NOT NULL,
    priority integer NOT NULL DEFAULT 0,
    available_at timestamptz,
    idempotency_key text,
    concurrency_key text,
    labels jsonb NOT NULL DEFAULT '{}',
    replaced_by uuid,
    generation integer NOT NULL DEFAULT 0,
    writes integer NOT NULL DEFAULT 0,
    seq integer NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    token uuid,
    request uuid,
    lease_owner text,
    lease_expires_at timestamptz,
    progress text,
    next_step integer NOT NULL DEFAULT 0,
    completed_steps integer NOT NULL DEFAULT 0,
    output text,
    error text,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    completed_at timestamptz,
    CHECK (hold IS NULL OR status = 'pending'),
    CHECK (NOT slot OR status IN ('pending', 'leased', 'cancelled')),
    CHECK (completed_at IS NULL = (status IN ('pending', 'leased')))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

-- What may be claimed, job by job, oldest first.
CREATE INDEX runs_claimable ON {runs} (job, rank, id) WHERE status = 'pending' AND hold IS NULL;
-- What waits for its start time.
CREATE INDEX runs_due ON {runs} (available_at, id) WHERE status = 'pending' AND hold = 'time';
-- What waits for a slot of its key, in order.
CREATE INDEX runs_held ON {runs} (concurrency_key, rank, id) WHERE status = 'pending' AND hold = 'key';
-- What if_pending looks at: runs of a key that never started.
CREATE INDEX runs_unstarted ON {runs} (concurrency_key, job, rank, id)
    WHERE status = 'pending' AND generation = 0 AND concurrency_key IS NOT NULL;
-- Who occupies slots.
CREATE INDEX runs_slots ON {runs} (concurrency_key) WHERE slot;
-- What was done in transactions of users, where keys are not touched: who has yet to be put in line for its key, and who
-- was cancelled and has yet to give its slot back.
CREATE INDEX runs_admit ON {runs} (concurrency_key) WHERE hold = 'admit';
CREATE INDEX runs_unfreed ON {runs} (concurrency_key) WHERE slot AND status = 'cancelled';
-- Leases, without their times: renewals and checkpoints touch no index. In runs_by_status what has gone on would stay in
-- the way until a vacuum; here its place is taken by others.
CREATE INDEX runs_leased ON {runs} (job) WHERE status = 'leased';
CREATE UNIQUE INDEX runs_idempotency ON {runs} (job, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX runs_replaced_by ON {runs} (replaced_by) WHERE replaced_by IS NOT NULL;
-- Pages and numbers of runs, for ids sort by creation. Each claim and each end changes it, which is why there is no second
-- one of all runs. In the order of bytes, so that only statements that say so use it: for any other, where the statistics
-- tell nothing, PostgreSQL may find it as good as the index that is meant, and it is full of what has gone on.
CREATE INDEX runs_by_status ON {runs} (status COLLATE "C", job COLLATE "C", id);
-- What a purge looks at.
CREATE INDEX runs_ended ON {runs} (status, completed_at, id) WHERE completed_at IS NOT NULL;
CREATE INDEX runs_by_label ON {runs} USING gin (labels jsonb_path_ops) WHERE labels <> '{}';

CREATE TABLE {steps} (
    run_id uuid NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    status text NOT NULL CHECK (status IN ('completed', 'failed')),
    output text,
    error text,
    generation integer NOT NULL,
    started_at timestamptz NOT NULL,
    completed_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, name)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

CREATE TABLE {logs} (
    run_id uuid NOT NULL,
    seq integer NOT NULL,
    step text,
    level text NOT NULL,
    message text NOT NULL,
    data text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

CREATE TABLE {events} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    seq integer NOT NULL,
    type text NOT NULL,
    job text NOT NULL,
    labels jsonb,
    step text,
    position integer,
    payload text,
    -- When the step of a `step:complete` started whose row says its `step:start` too: the event with the number before.
    started_at timestamptz,
    created_at timestamptz NOT NULL,
    UNIQUE (run_id, seq)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

CREATE TABLE {concurrency_keys} (
    key text PRIMARY KEY,
    active integer NOT NULL DEFAULT 0,
    "limit" integer NOT NULL DEFAULT 1 CHECK ("limit" >= 0)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 1
);
