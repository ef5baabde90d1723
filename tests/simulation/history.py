"""What happened in one simulation: what the database noted, what user code really did, and what callers were told."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from durably.testing import Loss, SimulatedDatabase
from durably.testing.served import Request

IMAGE = (
    "status", "generation", "hold", "slot", "rank", "crashes", "attempt", "lease_expires_at", "concurrency_key", "job",
    "idempotency_key", "output", "error", "completed_at", "completed_steps", "input", "available_at",
)  # fmt: skip
"""The columns of a run that are noted whenever one of them changes."""
_LEASE = IMAGE.index("lease_expires_at")


def _image(row: str) -> str:
    return f"json_array({', '.join(f'{row}.{column}' for column in IMAGE)})"


_CHANGED = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in IMAGE if column != "lease_expires_at")
_STEP = "name", "status", "output", "generation", "position"


def _step(row: str) -> str:
    return f"json_array({', '.join(f'{row}.{column}' for column in _STEP)})"


AUDIT = f"""
CREATE TABLE audit (n INTEGER PRIMARY KEY, txn INTEGER, kind TEXT, run_id TEXT, old TEXT, new TEXT);
CREATE TRIGGER audit_run_insert AFTER INSERT ON durably_runs BEGIN
    INSERT INTO audit (txn, kind, run_id, new) VALUES (simulated_transaction(), 'run', NEW.id, {_image("NEW")}); END;
CREATE TRIGGER audit_run_update AFTER UPDATE ON durably_runs WHEN {_CHANGED} BEGIN
    INSERT INTO audit (txn, kind, run_id, old, new)
    VALUES (simulated_transaction(), 'run', NEW.id, {_image("OLD")}, {_image("NEW")}); END;
CREATE TRIGGER audit_run_delete AFTER DELETE ON durably_runs BEGIN
    INSERT INTO audit (txn, kind, run_id, old) VALUES (simulated_transaction(), 'run', OLD.id, {_image("OLD")}); END;
CREATE TRIGGER audit_lease AFTER UPDATE OF lease_expires_at ON durably_runs
WHEN NEW.lease_expires_at IS NOT NULL BEGIN
    INSERT INTO audit (txn, kind, run_id, new)
    VALUES (simulated_transaction(), 'lease', NEW.id, json_array(NEW.generation, NEW.lease_expires_at)); END;
CREATE TRIGGER audit_step_insert AFTER INSERT ON durably_steps BEGIN
    INSERT INTO audit (txn, kind, run_id, new)
    VALUES (simulated_transaction(), 'step', NEW.run_id, {_step("NEW")}); END;
CREATE TRIGGER audit_step_update AFTER UPDATE ON durably_steps BEGIN
    INSERT INTO audit (txn, kind, run_id, old, new)
    VALUES (simulated_transaction(), 'step', NEW.run_id, {_step("OLD")}, {_step("NEW")}); END;
CREATE TRIGGER audit_step_delete AFTER DELETE ON durably_steps BEGIN
    INSERT INTO audit (txn, kind, run_id, old)
    VALUES (simulated_transaction(), 'step', OLD.run_id, {_step("OLD")}); END;
CREATE TRIGGER audit_event AFTER INSERT ON durably_events BEGIN
    INSERT INTO audit (txn, kind, run_id, new)
    SELECT simulated_transaction(), 'event', NEW.run_id, json_array(2 * NEW.id - 1, NEW.seq - 1, 'step:start', NEW.step)
    WHERE NEW.started_at IS NOT NULL;
    INSERT INTO audit (txn, kind, run_id, new)
    VALUES (simulated_transaction(), 'event', NEW.run_id, json_array(2 * NEW.id, NEW.seq, NEW.type, NEW.step)); END;
CREATE TRIGGER audit_event_delete AFTER DELETE ON durably_events BEGIN
    INSERT INTO audit (txn, kind, run_id, old)
    SELECT simulated_transaction(), 'gone', OLD.run_id, json_array(OLD.seq - 1, 'step:start', OLD.created_at)
    WHERE OLD.started_at IS NOT NULL;
    INSERT INTO audit (txn, kind, run_id, old)
    VALUES (simulated_transaction(), 'gone', OLD.run_id, json_array(OLD.seq, OLD.type, OLD.created_at)); END;
CREATE TRIGGER audit_limit AFTER UPDATE OF "limit" ON durably_concurrency_keys BEGIN
    INSERT INTO audit (txn, kind, run_id, new)
    VALUES (simulated_transaction(), 'limit', NEW.key, json_array(NEW."limit")); END;
"""
"""Notes every change in the transaction that makes it; of events what readers get, who see two in some rows."""


@dataclass(frozen=True, slots=True)
class Change:
    """A row of the audit table: a row of ours before and after (None: there was none), and the transaction."""

    txn: int
    kind: str
    run: str
    """The run's id; of a limit the key."""
    old: dict[str, Any] | None
    new: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction: when it was committed, and whose it was."""

    at: float
    author: str
    names: str
    now_us: int
    """What the clock of the database showed."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that user code did, after transaction number `txn`."""

    at: float
    txn: int
    process: str
    kind: str
    run: str
    generation: int
    step: str = ""
    value: Any = None


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a client, from before its first transaction to after its last one."""

    process: str
    kind: str
    began: float
    ended: float
    txn: int
    """The last transaction when it returned."""
    run: str | None
    """The run that it was about or that it returned."""
    error: str | None
    """The class of what it raised."""
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Heard:
    """An event that the subscriber was given, after transaction number `txn`."""

    run: str
    seq: int
    txn: int
    id: int | None
    type: str
    step: str | None


@dataclass(slots=True)
class Deed:
    """Something that a client did in a transaction of its own."""

    kind: str
    run: str
    tag: str = ""
    disposition: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """What was asked for."""


@dataclass(slots=True)
class Visit:
    """A transaction of a client's own."""

    process: str
    outcome: str = "open"
    """`committed`, `rolled back`, or `unknown`; `open` when its process died."""
    deeds: list[Deed] = field(default_factory=list[Deed])


_FIELDS = {
    "step": _STEP,
    "event": ("id", "seq", "type", "step"),
    "gone": ("seq", "type", "created_at"),
    "lease": ("generation", "expires"),
    "limit": ("limit",),
}


class History:
    """Collects what happens, in order."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self.database = database
        self.transactions: dict[int, Transaction] = {}
        self.effects: list[Effect] = []
        self.calls: list[Call] = []
        self.visits: list[Visit] = []
        self.copies: dict[str, tuple[str, str]] = {}
        """Of each run that is to take over steps: from which run, and before which step."""
        self.heard: list[Heard] = []
        """What the subscriber was given."""
        self.stopped: list[tuple[str, float, int]] = []
        """Processes whose worker was stopped in good order: when, and the last transaction then."""
        self.started: list[tuple[str, float]] = []
        """When each process began to work."""
        self.begun: list[str] = []
        """The kinds of calls that were begun, whether or not anybody was told of their end."""
        self.raw: sqlite3.Connection = database.raw
        self._read = 0
        database.observe = self._observe

    def _observe(self, request: Request, is_committed: bool) -> None:  # noqa: FBT001  # as it is called
        """Note a transaction, and what it changed."""
        world, number = self.database.world, self.database.transaction
        names = "+".join(statement.name for statement in request.statements)
        if not is_committed:
            world.note(f"{request.process.name:10} not done: {names} ({request.fate.loss.value})")
            return
        now_us = self.database.environment.now_us()
        self.transactions[number] = Transaction(world.now, request.process.name, names, now_us)
        lost = "" if request.fate.loss is Loss.NONE else f" ({request.fate.loss.value})"
        world.note(f"{request.process.name:10} #{number} {names}{lost}")
        if request.readonly:
            return
        for row in self.raw.execute("SELECT * FROM audit WHERE n > ? ORDER BY n", (self._read,)):
            self._read = row["n"]
            old, new = (_row(row["kind"], row[name]) for name in ("old", "new"))
            world.note(f"{'':10}   {row['kind']} {row['run_id']} {_difference(old, new)}")

    def note(self, effect: Effect) -> None:
        """Note what user code did."""
        self.effects.append(effect)
        value = "" if effect.value is None else f" {effect.value}"
        self.database.world.note(
            f"{effect.process:10}   code: {effect.kind} {effect.step} of {effect.run}@{effect.generation}{value}"
        )

    def called(self, call: Call) -> None:
        """Note what a client was told."""
        self.calls.append(call)
        shown = " ".join(f"{name}={value}" for name, value in call.detail.items())
        self.database.world.note(f"{call.process:10}   {call.kind} {shown} -> {call.run} {call.error or ''}")

    def changes(self) -> list[Change]:
        """All that the audit table holds."""
        return [
            Change(row["txn"], row["kind"], row["run_id"], _row(row["kind"], row["old"]), _row(row["kind"], row["new"]))
            for row in self.raw.execute("SELECT * FROM audit ORDER BY n")
        ]

    def open_runs(self) -> int:
        """How many runs have not ended."""
        query = "SELECT count(*) FROM durably_runs WHERE status IN ('pending', 'leased')"
        count: int = self.raw.execute(query).fetchone()[0]
        return count

    def overdue(self, kept: float) -> int:
        """How many runs ended more than `kept` seconds ago."""
        query = "SELECT count(*) FROM durably_runs WHERE completed_at < ?"
        count: int = self.raw.execute(query, (self.database.environment.now_us() - kept * 1e6,)).fetchone()[0]
        return count

    def last_event(self) -> tuple[str, int] | None:
        """Run and seq of the newest event."""
        row = self.raw.execute("SELECT run_id, seq FROM durably_events ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else (row[0], row[1])


def _row(kind: str, text: str | None) -> dict[str, Any] | None:
    return None if text is None else dict(zip(_FIELDS.get(kind, IMAGE), json.loads(text), strict=True))


def _difference(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    """What changed, for the trace."""
    if new is None:
        return "is gone"
    changed = [name for name in new if old is None or old[name] != new[name]]
    before = {} if old is None else {name: old[name] for name in changed}
    shown = (
        f"{name}={before[name]}->{new[name]}" if before.get(name) is not None else f"{name}={new[name]}"
        for name in changed
    )
    return " ".join(one for one in shown if not one.endswith("=None"))
