"""Bugs planted on purpose: a simulation that does not find them proves nothing.

Each one changes the SQL as it is loaded, or replaces a method. A change that no longer hits anything fails: whoever
rewrites what it aims at has to aim it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durably.runtime import claims, execution, maintenance, renewer, steps, tenure
from durably.store import operation
from durably.testing import SimulatedEnvironment
from tests.simulation.plants import (
    IS_LEFT,
    Plant,
    called_twice,
    deaf_to_cancel,
    decides,
    drops_steps,
    event_outside,
    forgets_doubts,
    generous,
    inside_try,
    keeps_lease,
    live,
    method,
    never,
    new_ids,
    no_load,
    no_loop,
    no_starts,
    nothing,
    one_step_more,
    only_woken,
    sql,
    starts_untold,
    uninterrupted,
    without_slot,
)


@dataclass(frozen=True)
class Bug:
    """A bug, how it is planted, and a seed whose simulation finds it."""

    name: str
    breaks: str
    """The guarantee that does not hold any more, or `end`."""
    plant: Plant
    seed: int

    def is_found(self, findings: Sequence[str]) -> bool:
        """Whether it is this bug that was found: not that its SQL does not run."""
        return any(finding.startswith(f"{self.breaks}:") for finding in findings)


"""What is copied is still somebody else's step."""

BUGS = (
    Bug(
        "the fence is removed",
        "G4",
        sql("write_runs", (r"generation = :generation", "generation >= :generation")),
        41,
    ),
    Bug("writes are not numbered", "G9", sql("write_runs", (r"writes < :number", "true")), 11),
    Bug(
        "a claim takes runs that are held",
        "G7",
        sql("claim", (r"x\.hold IS NULL", "true"), (r"status = 'leased', ", "status = 'leased', hold = NULL, ")),
        1,
    ),
    Bug(
        "a claim takes leases that are in force",
        "G3",
        sql("claim_expired", (r"x\.lease_expires_at <= :now", "true")),
        3,
    ),
    Bug(
        "a takeover keeps the generation",
        "G3",
        sql("claim_expired", (r"generation = generation \+ 1", "generation = generation")),
        1,
    ),
    Bug("a takeover counts no crash", "G13", sql("claim_expired", (r"crashes = crashes \+ 1", "crashes = crashes")), 1),
    Bug(
        "being handed back counts as a crash",
        "G13",
        sql("write_runs", (r"attempt = attempt -", "crashes = crashes + (:status = 'pending'), attempt = attempt -")),
        7,
    ),
    Bug(
        "a checkpoint leaves the count of crashes",
        "G13",
        sql(
            "write_runs",
            (r"CASE WHEN :completed > 0 THEN 0 ELSE crashes END", "crashes"),
            (r", crashes = 0", ""),
        ),
        1,
    ),
    Bug("crashes are counted too early", "end", sql("claim_expired", (r"x\.crashes \+ 1 <", "x.crashes + 2 <")), 3),
    Bug("a crash too many is allowed", "G13", sql("claim_expired", (r"x\.crashes \+ 1 <", "x.crashes <")), 29),
    Bug(
        "a dead worker's runs wait longer than they must",
        "G6",
        sql("claim_expired", (r"x\.lease_expires_at <= :now", "x.lease_expires_at <= :now - 4000000")),
        2,
    ),
    Bug(
        "a doubtful claim takes what others hold",
        "G3",
        sql("claimed", (r"r\.token = :token", "r.token IS NOT NULL")),
        0,
    ),
    Bug(
        "a refused write is told as stored",
        "G5",
        sql("write_runs", (r"(?s)(SELECT durably_rows.*)", r"\1 AND false")),
        4,
    ),
    Bug("what was cancelled is still written to", "G4", sql("write_runs", (r"[+r.]*status = 'leased' AND", "")), 4),
    Bug(
        "a completed run loses its output",
        "G12",
        sql("write_runs", (r"output = c\.output, error = NULL", "error = NULL")),
        2,
    ),
    Bug("an idempotency key is lost", "G2", sql("insert_runs", (r":idempotency_key", "NULL")), 2),
    Bug("a concurrency key is lost", "G7", sql("insert_runs", (r":concurrency_key AS", "NULL AS")), 0),
    Bug("a start time is lost", "G1", sql("insert_runs", (r"coalesce\(:run_at, :now \+ :delay_us\)", ":run_at")), 0),
    Bug(
        "a start time is missed",
        "G6",
        sql("release_due", (r"r\.available_at <= :now", "r.available_at <= :now - 4000000")),
        70,
    ),
    Bug("a step is called twice", "G5", method(steps.Steps, "perform", called_twice), 0),
    Bug("the start of a step is never told", "G9", starts_untold, 4),
    Bug(
        "another input gets the old run",
        "G2",
        sql("read_enqueued", (r"dup\.input_digest = i\.input_digest", "true")),
        25,
    ),
    Bug(
        "slots are handed out beyond the limit",
        "G7",
        sql(
            "admit",
            (r'k\."limit" - k\.active AS slots', "2 AS slots"),
            (r'max\(f\."limit" - f\.active, 0\)', "2"),
            (r'AND k\.active < k\."limit"', ""),
        ),
        2,
    ),
    Bug(
        "slots are handed out to the youngest",
        "G7",
        sql("admit", (r"ORDER BY r\.rank, r\.id", "ORDER BY r.rank DESC, r.id DESC")),
        2,
    ),
    Bug(
        "due runs pass by their key",
        "G7",
        sql("release_due", (r"\(r\.concurrency_key IS NULL OR r\.slot\)", "true")),
        1,
    ),
    Bug(
        "what is completed can be resumed", "G8", sql("resume_runs", (r"= 'failed'", "IN ('failed', 'completed')")), 11
    ),
    Bug(
        "a cancel leaves no event",
        "G9",
        sql("cancel_runs", (r"WHERE r\.status IN \('pending', 'leased'\);?$", "WHERE false")),
        0,
    ),
    Bug("the event of a cancel is stored later", "G9", event_outside, 24),
    Bug("the start of a step is lost", "G9", sql("write_runs", (r":events = 2 THEN", ":events = 9 THEN")), 4),
    Bug("a start that was told is told again", "G9", sql("write_runs", (r":events = 2 THEN", ":events > 0 THEN")), 0),
    Bug("readers see no start of a step that ran through", "G9", no_starts, 4),
    Bug("the feed skips an event", "G9", sql("feed", (r"e\.id > :after", "e.id > :after + (:after > 3)")), 0),
    Bug("an end does not pass its slot on", "G7", method(operation.Operation, "_admission", without_slot), 2),
    Bug("the end is stored inside the user's try", "G12", method(execution.Execution, "_write", inside_try), 11),
    Bug("leases are renewed from the worker's loop", "G6", method(SimulatedEnvironment, "start_loop", no_loop), 10),
    Bug("a claim in doubt is forgotten", "G6", method(claims.Claims, "_resolve_doubts", forgets_doubts), 10),
    Bug("a step returns the live value", "G11", method(steps.Steps, "complete", live), 3),
    Bug("the code is not interrupted", "G10", method(execution.Execution, "interrupt", uninterrupted), 16),
    Bug("the keeper is deaf to cancels", "G10", method(renewer.Renewer, "_end", deaf_to_cancel), 81),
    Bug(
        "the belief in a lease never ends",
        "G3",
        method(tenure.Tenure, "is_certain", lambda _: property(lambda _: True)),
        77,
    ),
    Bug("the belief in a lease lasts too long", "G3", method(tenure.Tenure, "extend", generous), 156),
    Bug("a stored step is not loaded", "G5", method(steps.Steps, "load", no_load), 2),
    Bug("only wake-ups lead to a look", "end", method(maintenance.Maintenance, "_rest", only_woken), 1),
    Bug("a failed run loses its steps", "G12", decides(drops_steps), 1),
    Bug("a stopping worker keeps its leases", "G6", decides(keeps_lease), 7),
    Bug("a repeated trigger gets another id", "G1", new_ids, 35),
    Bug("a retrigger takes over the step that it begins with", "G5", one_step_more, 5),
    Bug(
        "what is deleted while it is retriggered takes its steps with it",
        "G5",
        sql("copy_steps", (r"WHERE EXISTS", f"{IS_LEFT} AND EXISTS")),
        16,
    ),
    Bug(
        "what a user's transaction triggers is never put in line",
        "end",
        sql("admit_inside", (r"WHERE hold", "WHERE false AND hold")),
        1,
    ),
    Bug(
        "what a user's transaction cancels keeps its slot",
        "G7",
        sql("free_inside", (r"WHERE slot", "WHERE false AND slot")),
        4,
    ),
    Bug("a purge takes what has just ended", "G12", sql("purge_runs", (r"x\.completed_at < [^\n]*", "true")), 0),
    Bug("a purge takes events of today", "G9", sql("purge_events", (r"old\.created_at < [^\n]*", "true")), 0),
    Bug("nothing is ever purged", "G12", method(maintenance.Maintenance, "purge", never), 0),
    Bug(
        "a purge leaves the steps",
        "G12",
        sql("purge_runs", (r"DELETE FROM durably_steps WHERE", "DELETE FROM durably_steps WHERE false AND")),
        0,
    ),
    Bug(
        "a renewal never shortens a lease",
        "G6",
        sql("renew", (r"= :now \+ :lease_us", "= max(lease_expires_at, :now + :lease_us)")),
        28,
    ),
    Bug("a thread is not told that its run is over", "end", method(steps.Steps, "check", nothing), 5),
)
