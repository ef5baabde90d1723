"""What the facts about a database mean: one finding a check, each with its remedy. Pure; reading them is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from durably.model import Condition, Finding, Level

MAX_SKEW = timedelta(seconds=1)
MAX_EXPIRED = timedelta(seconds=10)
"""A worker takes over what expired within a poll interval; after so long there is none."""
MAX_WAITING = timedelta(minutes=1)
MAX_TRANSACTION = timedelta(minutes=10)
MIN_DEAD = 10_000
"""Fewer dead rows are not worth a word."""
MAX_DEAD_SHARE = 0.2
MIN_INDEX_BYTES = 8 * 1024 * 1024
MAX_INDEX_GROWTH = 3
MIN_FREE_PAGES = 2500
MAX_FREE_SHARE = 0.5
MAX_WAL_BYTES = 64 * 1024 * 1024
MAX_SLOT_BYTES = 1024 * 1024 * 1024
_SHOWN = 5
_ROUNDED = 10

_Check = Callable[[Condition], Iterator[Finding]]


def diagnose(condition: Condition) -> list[Finding]:
    """The findings of all checks, in their order; a check that found nothing says that it is ok."""
    return [finding for name, check, well in _CHECKS for finding in _findings(name, check(condition), well)]


def _findings(name: str, found: Iterator[Finding], well: str) -> Sequence[Finding]:
    return list(found) or [Finding(check=name, level=Level.OK, message=well)]


def _schema(condition: Condition) -> Iterator[Finding]:
    version = max((migration.version for migration in condition.migrations), default=0)
    if version > condition.newest:
        message = (
            f"the database has schema version {version}, this durably knows {condition.newest}: it still serves it"
        )
        yield _warning("schema", message, "upgrade durably here when the deployment is over")


def _clock(condition: Condition) -> Iterator[Finding]:
    if abs(condition.skew) > MAX_SKEW + condition.uncertainty:
        direction = "ahead of" if condition.skew > timedelta(0) else "behind"
        message = f"this machine's clock is {_span(abs(condition.skew))} {direction} the database's"
        remedy = "run NTP on both; leases are safe, for the database's clock judges them, but times in logs are not"
        yield _warning("clock", message, remedy)


def _wake_ups(condition: Condition) -> Iterator[Finding]:
    if condition.connections.hears is False:
        message = "LISTEN hears nothing, probably because of a pooler: workers only poll, and runs start later"
        yield _warning("wake-ups", message, "give a direct connection as listen_url= (DURABLY_LISTEN_URL)")


def _slots(condition: Condition) -> Iterator[Finding]:
    if condition.drifted_keys:
        message = f"slots are miscounted, or free beside waiting runs: {_names(condition.drifted_keys)}"
        yield _problem("slots", message, "run a worker: it mends them within two minutes; report it if they come back")


def _leases(condition: Condition) -> Iterator[Finding]:
    for late in condition.expired:
        age = condition.now - late.since
        if age > MAX_EXPIRED:
            message = f"{_runs(late.runs)} of {late.job!r} expired up to {_span(age)} ago, and nobody continues them"
            yield _problem("leases", message, f"start a worker that has {late.job!r}; look at the logs of the last one")


def _jobs(condition: Condition) -> Iterator[Finding]:
    for waiting in condition.waiting:
        age = condition.now - waiting.since
        count = f"{_runs(waiting.runs)} of {waiting.job!r} waiting for {_span(max(age, timedelta(0)))}"
        if condition.served is not None and waiting.job not in condition.served:
            message = f"{count}, and no job here has this name"
            remedy = "start a worker that has it, or cancel them; those with a concurrency key keep its slot"
            yield _problem("jobs", message, remedy)
        elif not waiting.is_served and age > MAX_WAITING:
            message = f"{count}, and none is being executed: nobody serves this job, or all workers are busy"
            yield _warning("jobs", message, "start a worker that has it; those with a concurrency key keep its slot")


def _bloat(condition: Condition) -> Iterator[Finding]:
    if not condition.is_server:
        yield from _free_pages(condition)
        return
    for table in condition.tables:
        if table.dead > max(MIN_DEAD, MAX_DEAD_SHARE * (table.entries + table.dead)):
            when = f"last vacuumed {table.vacuumed_at:%Y-%m-%d %H:%M}" if table.vacuumed_at else "never vacuumed"
            message = f"{table.name} has {table.dead:,} dead rows beside {table.entries:,} live ones; {when}"
            yield _warning("bloat", message, f"VACUUM {table.name}; then see why autovacuum does not")
    for index in condition.indexes:
        if index.bytes > max(MIN_INDEX_BYTES, MAX_INDEX_GROWTH * index.expected):
            message = f"index {index.name} takes {_size(index.bytes)} where about {_size(index.expected)} would do"
            yield _warning("bloat", message, f"REINDEX INDEX CONCURRENTLY {index.name}")


def _free_pages(condition: Condition) -> Iterator[Finding]:
    for file in condition.tables:
        if file.dead > max(MIN_FREE_PAGES, MAX_FREE_SHARE * file.entries):
            free = _size(file.bytes * file.dead // max(file.entries, 1))
            message = f"{free} of the {_size(file.bytes)} of {file.name} are free; new rows will use them"
            yield _warning("bloat", message, "to give them back: stop the workers and run VACUUM")


def _autovacuum(condition: Condition) -> Iterator[Finding]:
    if not condition.server.is_vacuuming:
        message = "autovacuum is off on this server: tables and indexes will only grow"
        yield _problem("autovacuum", message, "ALTER SYSTEM SET autovacuum = on, and reload")
    if off := [table.name for table in condition.tables if not table.is_vacuumed]:
        remedy = f"ALTER TABLE {off[0]} RESET (autovacuum_enabled)"
        yield _problem("autovacuum", f"autovacuum is off for {_names(off)}", remedy)
    oldest = condition.server.oldest_transaction
    if oldest is not None and oldest > MAX_TRANSACTION:
        message = f"a transaction is open for {_span(oldest)}: no vacuum removes what died since"
        remedy = "find it (SELECT pid, query FROM pg_stat_activity ORDER BY xact_start LIMIT 1) and end it"
        yield _warning("autovacuum", message, remedy)


def _wal(condition: Condition) -> Iterator[Finding]:
    size = condition.connections.wal_bytes
    if size is not None and size > MAX_WAL_BYTES:
        message = f"the write-ahead log has {_size(size)}: some connection reads for very long"
        remedy = "end long reads of the file (an open shell, a backup); an idle worker then truncates the log"
        yield _warning("wal", message, remedy)
    kept = condition.server.slot_bytes
    if kept is not None and kept > MAX_SLOT_BYTES:
        message = f"an idle replication slot keeps {_size(kept)} of the write-ahead log"
        yield _warning("wal", message, "drop the slot (pg_drop_replication_slot), or bring its reader back")


_CHECKS: tuple[tuple[str, _Check, str], ...] = (
    ("schema", _schema, "the tables are up to date"),
    ("clock", _clock, "this machine's clock agrees with the database's"),
    ("wake-ups", _wake_ups, "workers hear of new runs at once"),
    ("slots", _slots, "the slots of all concurrency keys are counted right"),
    ("leases", _leases, "no lease has expired without being taken over"),
    ("jobs", _jobs, "no job has runs that nobody serves"),
    ("bloat", _bloat, "tables and indexes are no larger than they should be"),
    ("autovacuum", _autovacuum, "nothing keeps dead rows from being removed"),
    ("wal", _wal, "the write-ahead log is of a normal size"),
)


def _warning(check: str, message: str, remedy: str) -> Finding:
    return Finding(check=check, level=Level.WARNING, message=message, remedy=remedy)


def _problem(check: str, message: str, remedy: str) -> Finding:
    return Finding(check=check, level=Level.PROBLEM, message=message, remedy=remedy)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count}{' or more' if count >= 1000 else ''} runs"  # noqa: PLR2004  # counted so far


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _span(time: timedelta) -> str:
    """A duration in its largest unit: 90 s, 12 min, 5 h, 3 days."""
    seconds = time.total_seconds()
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            count = seconds / unit
            number = f"{count:.0f}" if count >= _ROUNDED else f"{count:.1f}".removesuffix(".0")
            return f"{number} {name}"
    return f"{seconds / 86_400:.0f} days"


def _size(count: int) -> str:
    """Bytes in their largest unit: 12 MiB."""
    size, units = float(count), ("B", "KiB", "MiB", "GiB")
    for unit in units:
        if size < 1024 or unit == units[-1]:  # noqa: PLR2004  # a KiB
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{count} B"
