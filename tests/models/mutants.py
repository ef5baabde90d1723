"""Stores that are broken on purpose, one mistake each, such as a slip in a .sql file would make.

The quick ones are found within some seconds, and hunted in every run of the tests, on one database each; the others
with `HYPOTHESIS_PROFILE=long`.
"""

from __future__ import annotations

from tests.models.bench import Mutant

QUICK_ON_SQLITE = frozenset(
    {
        "a claim takes what is held",
        "a merge overlooks the idempotency key",
        "an event is told to the wrong count",
        "a renewal revives cancelled runs",
        "a crash too many is allowed",
        "a live run is failed for its crashes",
    }
)
QUICK_ON_POSTGRES = frozenset({"a cancel keeps the slot", "one slot too many is handed out"})

SQLITE = (
    Mutant("a claim takes what is held", "claim", "x.hold IS NULL", "true"),
    Mutant("a claim does not heed its floor", "claim", "x.rank >= :floor", ":floor = :floor"),
    Mutant("an older generation may write", "write_runs", "AND generation = :generation", ""),
    Mutant("a write in doubt is refused the second time", "write_runs", "r.writes >= :number", "r.writes > :number"),
    Mutant("a new checkpoint does not forgive crashes", "write_runs", "+ 1, crashes = 0", "+ 1"),
    Mutant("being handed back counts as an attempt", "write_runs", "attempt - (:status = 'pending')", "attempt"),
    Mutant("a stored step is overwritten", "write_runs", "WHERE durably_steps.status <> 'completed'", "WHERE true"),
    Mutant("a completed run loses its output", "write_runs", "output = c.output, error = NULL", "error = NULL"),
    Mutant("a step's start is not told", "write_runs", ":events = 2 THEN", ":events = 9 THEN"),
    Mutant("a start that was told before is told again", "write_runs", ":events = 2 THEN", ":events > 0 THEN"),
    Mutant("a step starts when it ends", "write_runs", "THEN :started_at END", "THEN :completed_at END"),
    Mutant("slots are handed out by id", "admit", "ORDER BY r.rank, r.id", "ORDER BY r.id"),
    Mutant("a merge overlooks the idempotency key", "merge_runs", "d.idempotency_key = i.idempotency_key", "false"),
    Mutant("a priority is forgotten", "insert_runs", ":priority * :priority_us", "0 * :priority_us"),
    Mutant("a new run forgets its event", "insert_new_runs", "'run:trigger'", "'run:resume'"),
    Mutant("an event is told to the wrong count", "cancel_runs", "slot = 0, seq = seq + 1", "slot = 0"),
    Mutant("a resumed run keeps its error", "resume_runs", "error = NULL, ", ""),
    Mutant("a renewal revives cancelled runs", "renew", "AND +durably_runs.status = 'leased'", ""),
    Mutant("a crash too many is allowed", "claim_expired", "x.crashes + 1 <", "x.crashes <"),
    Mutant("a live run is failed for its crashes", "fail_crashed", "AND r.lease_expires_at <= :now", ""),
    Mutant("a purge takes any status", "purge_runs", "x.status = :status AND", "x.status <> :status AND"),
    Mutant(
        "a purge forgets the steps",
        "purge_runs",
        "DELETE FROM durably_steps WHERE",
        "DELETE FROM durably_steps WHERE 0 AND",
    ),
    Mutant(
        "a deletion forgets the logs",
        "delete_runs",
        "DELETE FROM durably_logs WHERE",
        "DELETE FROM durably_logs WHERE 0 AND",
    ),
    Mutant("a key in use is forgotten", "purge_keys", "k.active = 0", "true"),
    Mutant("an event of that very age goes", "purge_events", "old.created_at <", "old.created_at <="),
    Mutant("a start time is missed by a hair", "release_due", "r.available_at <= :now", "r.available_at < :now"),
    Mutant("a page repeats its neighbour's last run", "list_runs", "x.id < coalesce", "x.id <= coalesce"),
    Mutant("a run that took steps over begins at one of them", "copy_steps", "max(s.position) + 1", "max(s.position)"),
    Mutant("a run that started gets more steps", "copy_steps", "AND r.generation = 0", ""),
    Mutant(
        "a deleted run comes back with its trigger",
        "insert_runs",
        "NOT EXISTS (SELECT 1 FROM durably_events e WHERE e.run_id =",
        "NOT EXISTS (SELECT 1 FROM durably_events e WHERE false AND e.run_id =",
    ),
    Mutant("a deletion takes a slot with it", "delete_runs", "AND NOT r.slot", ""),
    Mutant("what a user's transaction triggers is not held", "inside_insert", "THEN 'admit' END", "THEN NULL END"),
    Mutant("what a user's transaction triggers is never put in line", "admit_inside", "hold = 'key'", "hold = 'admit'"),
    Mutant("what a user's transaction cancels keeps its slot", "free_inside", "SET slot = 0", "SET slot = 1"),
    Mutant("a user's cancel takes back its slot", "inside_cancel", "hold = NULL, ", "hold = NULL, slot = 0, "),
    Mutant("a user's retrigger miscounts its steps", "inside_copy", "count(*) AS steps", "count(*) + 1 AS steps"),
    Mutant(
        "a worker does not see what users triggered",
        "look",
        "a.hold = 'admit'",
        "a.hold = 'admit' AND a.status = 'none'",
    ),
    Mutant("the newest is told as the oldest", "oldest_pending", "x.job, x.id LIMIT", "x.job, x.id DESC LIMIT"),
    Mutant("what ended long ago counts as lately", "count_ended", "x.completed_at >", "x.completed_at <"),
    Mutant("a page begins one run too early", "skip_runs", ":limit - 1", "max(:limit - 2, 0)"),
    Mutant("a list by status overlooks jobs", "list_runs_by_part", "x.job < v.job", "x.job > v.job"),
    Mutant("a list takes the parts as they come", "list_runs_by_part", "ORDER BY 3 DESC", ""),
)

POSTGRES = (
    Mutant("a cancel keeps the slot", "cancel_runs", "k.active - n.runs", "k.active"),
    Mutant("one slot too many is handed out", "admit", '"limit" - active', '"limit" + 1 - active'),
    Mutant("an end keeps the slot", "write_runs", "k.active - n.runs", "k.active"),
    Mutant(
        "an older generation may write what nearly every write is",
        "write_runs",
        "r.generation = i.generation AND r.writes < i.number\n    RETURNING",
        "r.writes < i.number\n    RETURNING",
    ),
    Mutant(
        "an older generation may write",
        "write_runs",
        "r.generation = i.generation AND r.writes < i.number\n      -- if",
        "r.writes < i.number\n      -- if",
    ),
    Mutant("a lone checkpoint does not forgive crashes", "write_runs", "r.crashes ELSE 0", "r.crashes ELSE r.crashes"),
    Mutant("a step's start is not told", "write_runs", "= 2 THEN started_at END, c", "= 9 THEN started_at END, c"),
    Mutant(
        "a plain step's start is not told", "write_runs", "= 2 THEN started_at END, e", "= 9 THEN started_at END, e"
    ),
    Mutant(
        "a start that was told before is told again",
        "write_runs",
        "events = 2 THEN started_at END, c",
        "events > 0 THEN started_at END, c",
    ),
    Mutant(
        "the start of a plain step that was told before is told again",
        "write_runs",
        "events = 2 THEN started_at END, e",
        "name IS NOT NULL THEN started_at END, e",
    ),
    Mutant("a plain step starts when it ends", "write_runs", "THEN started_at END, e", "THEN ended_at END, e"),
    Mutant("a completed run loses its output", "write_runs", "THEN i.output END", "THEN NULL END"),
    Mutant("a claim takes too many", "claim", "LIMIT :limit::integer\n),", "LIMIT :limit::integer * 2\n),"),
    Mutant("a replacement loses its input", "merge_runs", "THEN hit.input ELSE r.input", "THEN r.input ELSE r.input"),
    Mutant("a new run forgets its event", "insert_new_runs", "'run:trigger'", "'run:resume'"),
    Mutant(
        "new runs are served first", "insert_new_runs", "epoch FROM clock.now", "epoch FROM '2001-01-01'::timestamptz"
    ),
    Mutant("a deleted run comes back with its trigger", "insert_runs", "e.run_id = i.id LIMIT 1", "false LIMIT 1"),
    Mutant("a deletion takes a slot with it", "delete_runs", "AND NOT x.slot", ""),
    Mutant("what a user's transaction cancels keeps its slot", "free_inside", "SET slot = false", "SET slot = true"),
    Mutant("what a user's transaction triggers is never put in line", "admit_inside", "hold = 'key'", "hold = 'admit'"),
    Mutant("leases that are in force count as expired", "read_expired", "<=", ">="),
    Mutant("a claim takes what is held", "claim", "hold IS NULL", "id IS NOT NULL"),
    Mutant("a claim does not heed its floor", "claim", "c.rank >= :floor::bigint", ":floor::bigint IS NOT NULL"),
    Mutant("a stored step is overwritten", "write_runs", "WHERE s.status <> 'completed'", "WHERE true"),
    Mutant("a write in doubt is refused the second time", "write_runs", "r.writes >= i.number", "r.writes > i.number"),
    Mutant(
        "a new checkpoint does not forgive crashes", "write_runs", "i.completed > 0 THEN 0", "i.completed > 9 THEN 0"
    ),
    Mutant("being handed back counts as an attempt", "write_runs", "e.status = 'pending' THEN 1", "false THEN 1"),
    Mutant("slots are handed out by id", "admit", "ORDER BY r.rank, r.id", "ORDER BY r.id"),
    Mutant("a merge overlooks the idempotency key", "merge_runs", "d.idempotency_key = i.idempotency_key", "false"),
    Mutant("an event is told to the wrong count", "cancel_runs", "seq = r.seq + 1", "seq = r.seq"),
    Mutant("a renewal revives cancelled runs", "renew", "AND x.status = 'leased'", ""),
    Mutant("a crash too many is allowed", "claim_expired", "r.crashes + 1 <", "r.crashes <"),
    Mutant(
        "a live run is failed for its crashes", "fail_crashed", "AND x.lease_expires_at <=", "AND x.lease_expires_at >="
    ),
    Mutant("a purge takes any status", "purge_runs", "r.status = :status", "r.status <> :status"),
    Mutant("a purge forgets the steps", "purge_runs", "WHERE s.run_id =", "WHERE false AND s.run_id ="),
    Mutant("a deletion forgets the logs", "delete_runs", "WHERE l.run_id =", "WHERE false AND l.run_id ="),
    Mutant("a key in use is forgotten", "purge_keys", "k.active = 0", "true"),
    Mutant(
        "a worker does not see what users triggered",
        "look",
        "a.hold = 'admit'",
        "a.hold = 'admit' AND a.status = 'none'",
    ),
    Mutant("a start time is missed by a hair", "release_due", "r.available_at <=", "r.available_at <"),
    Mutant("a list by status overlooks jobs", "list_runs_by_part", '"C" < v.job', '"C" > v.job'),
    Mutant("a list leaves out what a part has more", "list_runs_by_part", "v.ids[share.runs] > bound.id", "false"),
    Mutant(
        "a place in a list is one further",
        "skip_runs_by_part",
        "v.id DESC LIMIT 1 OFFSET :limit::bigint - 1",
        "v.id DESC LIMIT 1 OFFSET :limit::bigint",
    ),
)
