-- Reading events: of a run, and the feed over all runs (events.py).

-- name: feed
-- A page of the rows of the feed over all runs; one writer at a time leaves no gaps.
SELECT {event_columns}
FROM {events} e
{event_payloads}
WHERE e.id > :after
ORDER BY e.id
LIMIT :limit

-- name: feed_horizon
-- There are no transactions beside this one.
SELECT 0 AS xmin

-- name: feed_barrier
-- There are no transactions beside this one.
SELECT 0 AS barrier

-- name: recent_events
-- A page of the rows of the feed over all runs, read backwards.
SELECT {event_columns}
FROM {events} e
{event_payloads}
WHERE e.id <= :last
ORDER BY e.id DESC
LIMIT :limit
