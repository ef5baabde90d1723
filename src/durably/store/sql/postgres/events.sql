-- Reading events: of a run, and the feed over all runs (events.py).

-- name: feed
-- A page of the rows of the feed over all runs, with the gaps that are looked at again.
SELECT {event_columns}
FROM (
    SELECT g.* FROM {events} g WHERE g.id = ANY (:gaps_id::bigint[]) AND g.id <= :after::bigint
    UNION ALL
    (SELECT n.* FROM {events} n WHERE n.id > :after::bigint ORDER BY n.id LIMIT :limit::integer)
) e
{event_payloads}
ORDER BY e.id
LIMIT :limit::integer

-- name: feed_horizon
-- Every transaction before this one has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin

-- name: feed_barrier
-- A transaction number above all that have written so far.
SELECT pg_current_xact_id()::text::bigint AS barrier

-- name: recent_events
-- A page of the rows of the feed over all runs, read backwards.
SELECT {event_columns}
FROM (SELECT * FROM {events} x WHERE x.id <= :last::bigint ORDER BY x.id DESC LIMIT :limit::integer) e
{event_payloads}
ORDER BY e.id DESC
