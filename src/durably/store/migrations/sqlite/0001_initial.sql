-- Runs, their steps, logs and events, and the slots of concurrency keys. Times are microseconds since 1970.
-- Checks compare with OR: for `IN` with more than two values SQLite looks into a table of them, at each row.

CREATE TABLE {runs} (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    input TEXT NOT NULL,
    input_digest TEXT,
    status TEXT NOT NULL CHECK (
        status = 'pending' OR status = 'leased' OR status = 'completed' OR status = 'failed' OR status = 'cancelled'
    ),
    hold TEXT CHECK (hold IS NULL OR hold = 'key' OR hold = 'time' OR hold = 'admit'),
    slot INTEGER NOT NULL DEFAULT 0,
    rank INTEGER NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    available_at INTEGER,
    idempotency_key TEXT,
    concurrency_key TEXT,
    labels TEXT NOT NULL DEFAULT '{}',
    replaced_by TEXT,
    generation INTEGER NOT NULL DEFAULT 0,
    writes INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    token TEXT,
    request TEXT,
    lease_owner TEXT,
    lease_expires_at INTEGER,
    progress TEXT,
    next_step INTEGER NOT NULL DEFAULT 0,
    completed_steps INTEGER NOT NULL DEFAULT 0,
    output TEXT,
    error TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    CHECK (hold IS NULL OR status = 'pending'),
    CHECK (NOT slot OR status = 'pending' OR status = 'leased' OR status = 'cancelled'),
    CHECK ((completed_at IS NULL) = (status IN ('pending', 'leased')))
);

-- What may be claimed, job by job, oldest first.
CREATE INDEX {runs}_claimable ON {runs} (job, rank, id) WHERE status = 'pending' AND hold IS NULL;
-- What waits for its start time.
CREATE INDEX {runs}_due ON {runs} (available_at, id) WHERE status = 'pending' AND hold = 'time';
-- What waits for a slot of its key, in order.
CREATE INDEX {runs}_held ON {runs} (concurrency_key, rank, id) WHERE status = 'pending' AND hold = 'key';
-- What if_pending looks at: runs of a key that never started.
CREATE INDEX {runs}_unstarted ON {runs} (concurrency_key, job, rank, id)
    WHERE status = 'pending' AND generation = 0 AND concurrency_key IS NOT NULL;
-- Who occupies slots.
CREATE INDEX {runs}_slots ON {runs} (concurrency_key) WHERE slot;
-- What was done in transactions of users, where keys are not touched: who has yet to be put in line for its key, and who
-- was cancelled and has yet to give its slot back.
CREATE INDEX {runs}_admit ON {runs} (concurrency_key) WHERE hold = 'admit';
CREATE INDEX {runs}_unfreed ON {runs} (concurrency_key) WHERE slot AND status = 'cancelled';
CREATE UNIQUE INDEX {runs}_idempotency ON {runs} (job, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX {runs}_replaced_by ON {runs} (replaced_by) WHERE replaced_by IS NOT NULL;
-- Pages and numbers of runs, for ids sort by creation; and leases, without their times: renewals and checkpoints touch no
-- index. Each claim and each end changes it, which is why there is no second one of all runs.
CREATE INDEX {runs}_by_status ON {runs} (status, job, id);
-- What a purge looks at.
CREATE INDEX {runs}_ended ON {runs} (status, completed_at, id) WHERE completed_at IS NOT NULL;

CREATE TABLE {steps} (
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    position INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('completed', 'failed')),
    output TEXT,
    error TEXT,
    generation INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    completed_at INTEGER NOT NULL,
    PRIMARY KEY (run_id, name)
);

CREATE TABLE {logs} (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    step TEXT,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (run_id, seq)
);

CREATE TABLE {events} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    job TEXT NOT NULL,
    labels TEXT,
    step TEXT,
    position INTEGER,
    payload TEXT,
    -- When the step of a `step:complete` started whose row says its `step:start` too: the event with the number before.
    started_at INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (run_id, seq)
);

CREATE TABLE {concurrency_keys} (
    key TEXT PRIMARY KEY,
    active INTEGER NOT NULL DEFAULT 0,
    "limit" INTEGER NOT NULL DEFAULT 1 CHECK ("limit" >= 0)
) WITHOUT ROWID;
