-- What looks after a database: its health, its limits, the end of its event feed. Nothing here is on a hot path.

-- name: read_clock
-- What the database's clock says.
SELECT {now} AS now

-- name: read_schema
-- The migrations that were applied.
SELECT version, name, serves, applied_at
FROM {migrations}
ORDER BY version

-- name: read_waiting
-- For each job with claimable runs: how many (counted up to 1000), since when, and whether one of the job is executed.
WITH RECURSIVE waiting (job) AS (
    (SELECT r.job FROM {runs} r WHERE r.status = 'pending' AND r.hold IS NULL ORDER BY r.job LIMIT 1)
    UNION ALL
    SELECT (SELECT r.job FROM {runs} r WHERE r.status = 'pending' AND r.hold IS NULL AND r.job > w.job ORDER BY r.job LIMIT 1)
    FROM waiting w
    WHERE w.job IS NOT NULL
)
SELECT w.job,
       (SELECT count(*)::integer FROM (SELECT 1 FROM {runs} r WHERE r.job = w.job AND r.status = 'pending' AND r.hold IS NULL LIMIT 1000) c) AS runs,
       (SELECT greatest(r.available_at, r.created_at)
        FROM {runs} r
        WHERE r.job = w.job AND r.status = 'pending' AND r.hold IS NULL
        ORDER BY r.rank, r.id LIMIT 1) AS since,
       EXISTS (SELECT 1 FROM {runs} r WHERE r.job = w.job AND r.status = 'leased' AND r.lease_expires_at > {now}) AS is_served
FROM waiting w
WHERE w.job IS NOT NULL
ORDER BY w.job
LIMIT 1000

-- name: read_expired
-- Leases that ran out, job by job, and since when.
SELECT r.job, count(*)::integer AS runs, min(r.lease_expires_at) AS since
FROM {runs} r
WHERE r.status = 'leased' AND r.lease_expires_at <= {now}
GROUP BY r.job
ORDER BY r.job
LIMIT 1000

-- name: read_tables
-- Our tables: live and dead rows as the statistics have them, bytes, and whether autovacuum looks after them.
SELECT c.oid::regclass::text AS name, s.n_live_tup AS entries, s.n_dead_tup AS dead, pg_table_size(c.oid) AS bytes,
       coalesce((SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'autovacuum_enabled'), true) AS is_vacuumed,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at
FROM pg_class c
JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.oid IN ('{runs}'::regclass, '{steps}'::regclass, '{logs}'::regclass, '{events}'::regclass, '{concurrency_keys}'::regclass)
ORDER BY c.relname

-- name: read_indexes
-- The B-trees on our tables: bytes, and about how many their entries would take if they were packed anew.
SELECT c.oid::regclass::text AS name, pg_relation_size(c.oid) AS bytes,
       (c.reltuples * (16 + coalesce((
           SELECT sum(st.avg_width + 4)
           FROM pg_attribute a
           JOIN pg_attribute ta ON ta.attrelid = i.indrelid AND ta.attnum = ANY (i.indkey) AND ta.attname = a.attname
           JOIN pg_class t ON t.oid = i.indrelid
           JOIN pg_namespace n ON n.oid = t.relnamespace
           JOIN pg_stats st ON st.schemaname = n.nspname AND st.tablename = t.relname AND st.attname = a.attname
           WHERE a.attrelid = c.oid
       ), 32)) / 0.9)::bigint AS expected
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am am ON am.oid = c.relam AND am.amname = 'btree'
WHERE i.indrelid IN ('{runs}'::regclass, '{steps}'::regclass, '{logs}'::regclass, '{events}'::regclass, '{concurrency_keys}'::regclass)
  AND c.reltuples >= 0
ORDER BY c.relname

-- name: read_server
-- Whether the server vacuums, how old the oldest open transaction is, and how much log idle replication slots keep.
SELECT current_setting('autovacuum')::boolean AS is_vacuuming,
       (SELECT extract(epoch FROM max(clock_timestamp() - a.xact_start))::float8
        FROM pg_stat_activity a
        WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND a.datname = current_database()) AS oldest_s,
       (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), p.restart_lsn))::bigint FROM pg_replication_slots p WHERE NOT p.active) AS slot_bytes
