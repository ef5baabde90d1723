"""Triggers that write down every change of a run's or step's row in the same transaction, and what they wrote.

They depend on nothing of what is tested but the names of its tables and columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

IMAGE = (
    "status", "generation", "hold", "slot", "crashes", "attempt", "lease_expires_at", "concurrency_key", "error",
    "job", "idempotency_key", "output",
)  # fmt: skip
"""The columns of a run that are noted when one of them changes; a lease's time is noted with the others."""
STEP = ("name", "status", "output", "generation")

Dialect = Literal["sqlite", "postgres"]


@dataclass(frozen=True, slots=True)
class Change:
    """A row before and after; None: there was none."""

    at: float
    """Seconds since 1970, by the database's clock."""
    txn: str | None
    """The transaction; None where the database does not say."""
    kind: Literal["run", "step"]
    run: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


def triggers(dialect: Dialect) -> list[str]:
    """The statements that begin the audit."""
    return _sqlite() if dialect == "sqlite" else _postgres()


def _sqlite() -> list[str]:
    def image(row: str, columns: Sequence[str]) -> str:
        return f"json_array({', '.join(f'{row}.{name}' for name in columns)})"

    def note(table: str, what: str, condition: str, run: str, old: str, new: str) -> str:
        kind = table.removeprefix("durably_").removesuffix("s")
        return (
            f"CREATE TRIGGER chaos_{kind}_{what} AFTER {what} ON {table} {condition} BEGIN "  # noqa: S608 - of our own names
            "INSERT INTO chaos_audit (at, kind, run, old, new) VALUES "
            f"((julianday('now') - 2440587.5) * 86400.0, '{kind}', {run}, {old}, {new}); END"
        )

    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in IMAGE if name != "lease_expires_at")
    made = [
        "CREATE TABLE chaos_audit (n INTEGER PRIMARY KEY, at REAL, txn TEXT, kind TEXT, run TEXT, old TEXT, new TEXT)"
    ]
    for table, columns, run, condition in (
        ("durably_runs", IMAGE, "id", f"WHEN {changed}"),
        ("durably_steps", STEP, "run_id", ""),
    ):
        old, new = image("OLD", columns), image("NEW", columns)
        made.append(note(table, "INSERT", "", f"NEW.{run}", "NULL", new))
        made.append(note(table, "UPDATE", condition, f"NEW.{run}", old, new))
        made.append(note(table, "DELETE", "", f"OLD.{run}", old, "NULL"))
    return made


def _postgres() -> list[str]:
    def image(row: str, columns: Sequence[str]) -> str:
        epoch = f"(extract(epoch FROM {row}.lease_expires_at) * 1000000)::bigint"
        values = (epoch if name == "lease_expires_at" else f"{row}.{name}" for name in columns)
        return f"jsonb_build_array({', '.join(values)})::text"

    changed = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in IMAGE if name != "lease_expires_at")
    columns = "n bigserial PRIMARY KEY, at double precision, txn text, kind text, run text, old text, new text"
    made = [f"CREATE TABLE public.chaos_audit ({columns})"]
    for kind, names, run, condition in (("run", IMAGE, "id", changed), ("step", STEP, "run_id", "true")):
        old, new = image("OLD", names), image("NEW", names)
        body = (
            f"IF TG_OP = 'UPDATE' THEN IF NOT ({condition}) THEN RETURN NULL; END IF; END IF; "  # noqa: S608 - of our own names
            "INSERT INTO public.chaos_audit (at, txn, kind, run, old, new) VALUES "
            f"(extract(epoch FROM clock_timestamp()), pg_current_xact_id()::text, '{kind}', "
            f"CASE WHEN TG_OP = 'DELETE' THEN OLD.{run} ELSE NEW.{run} END, "
            f"CASE WHEN TG_OP <> 'INSERT' THEN {old} END, CASE WHEN TG_OP <> 'DELETE' THEN {new} END); RETURN NULL;"
        )
        made.append(f"CREATE FUNCTION public.chaos_{kind}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
        after = f"AFTER INSERT OR UPDATE OR DELETE ON durably.{kind}s FOR EACH ROW"
        made.append(f"CREATE TRIGGER chaos_{kind} {after} EXECUTE FUNCTION public.chaos_{kind}()")
    return made


READ = "SELECT at, txn, kind, run, old, new FROM chaos_audit ORDER BY n"


def change_of(row: dict[str, Any]) -> Change:
    """A row of the audit."""
    columns = IMAGE if row["kind"] == "run" else STEP

    def image(text: str | None) -> dict[str, Any] | None:
        return None if text is None else dict(zip(columns, json.loads(text), strict=True))

    return Change(row["at"], row["txn"], row["kind"], row["run"], image(row["old"]), image(row["new"]))
