"""A database that is used: many runs in every state, to look at plans and costs.

The rows are made by SQL, since only their number and their columns' values matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from durably.model import (
    Change,
    EventType,
    IfPending,
    Lease,
    NewRun,
    RunFilter,
    RunStatus,
    RunWrite,
    StepRecord,
    StepStatus,
    StoredRun,
)
from durably.store import actions, care, due, events, keys, leases, overview, runs, steps
from durably.store.operation import Operation
from tests.support.store import AT, LEASE, a_checkpoint, an_end, an_event, fill

MANY = 20_000
IF_PENDING: tuple[IfPending, ...] = ("skip", "replace", "reject", "queue")
JOBS = tuple(f"job-{place}" for place in range(20))

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
_COLUMNS = "id, job, input, status, rank, created_at, seq"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of runs that have the same state. Their numbers follow those of the group before."""

    name: str
    count: int
    job: str
    status: str
    more: Mapping[str, str]


def groups(many: int) -> list[Group]:
    """What fills the database: `many` of each kind that a cost must not grow with, and a few that are at work."""
    return [
        Group("finished", many, "'job-' || (i % 20)", "completed", {"completed_at": "{now}"}),
        Group("unserved", many, "'unserved'", "pending", {"labels": "{label}"}),
        Group("behind", many, "'job-1'", "pending", {"concurrency_key": "'busy'", "hold": "'key'"}),
        Group("later", many, "'job-2'", "pending", {"available_at": "{later}", "hold": "'time'"}),
        Group(
            "failed", 50, "'job-3'", "failed", {"completed_at": "{now}", "error": '\'{{"type":"E","message":"m"}}\''}
        ),
        Group("leased", 100, "'job-' || (i % 20)", "leased", {"generation": "1", "lease_expires_at": "{later}"}),
        Group("expired", 20, "'job-4'", "leased", {"generation": "1", "lease_expires_at": "{early}"}),
        Group("claimable", 200, "'job-' || (i % 20)", "pending", {}),
        Group("due", 20, "'job-5'", "pending", {"available_at": "{early}", "hold": "'time'"}),
        Group(
            "slots",
            20,
            "'job-6'",
            "leased",
            {
                "generation": "1",
                "lease_expires_at": "{later}",
                "concurrency_key": "'key-' || (i % 20)",
                "slot": "{true}",
            },
        ),
        Group("old", 20, "'job-7'", "completed", {"completed_at": "{early}"}),
        Group("rare", 5, "'job-8'", "pending", {"labels": "{rare}", "concurrency_key": "'rare'", "slot": "{true}"}),
    ]


def number_of(name: str, many: int) -> int:
    """The number of a group's first run."""
    first = 1
    for group in groups(many):
        if group.name == name:
            return first
        first += group.count
    raise KeyError(name)


def run_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


def statements(many: int, *, postgres: bool) -> list[str]:
    """SQL that fills an empty database."""
    made: list[str] = []
    first = 1
    for group in groups(many):
        columns, values = ", ".join(group.more), ", ".join(group.more.values())
        extra = (f", {columns}", f", {values}") if group.more else ("", "")
        numbers = _NUMBERS.replace("{first}", str(first)).replace("{last}", str(first + group.count - 1))
        insert = f"INSERT INTO {{runs}} ({_COLUMNS}{extra[0]})"
        select = f"SELECT {{id}}, {group.job}, '1', '{group.status}', i, {{now}}, 3{extra[1]} FROM n"
        made.append(_dialect(f"{insert} {numbers} {select}", postgres=postgres))
        first += group.count
    numbers = _NUMBERS.replace("{first}", "1").replace("{last}", str(first - 1))
    for seq, kind in enumerate(("run:trigger", "run:leased", "log:write"), 1):
        values = f"{{id}}, {seq}, '{kind}', 'job', {{now}}"
        made.append(f"INSERT INTO {{events}} (run_id, seq, type, job, created_at) {numbers} SELECT {values} FROM n")
    values = "{id}, 'a', 0, 'completed', '1', 1, {now}, {now}"
    columns = "run_id, name, position, status, output, generation, started_at, completed_at"
    made.append(f"INSERT INTO {{steps}} ({columns}) {numbers} SELECT {values} FROM n")
    columns = "run_id, seq, level, message, created_at"
    made.append(f"INSERT INTO {{logs}} ({columns}) {numbers} SELECT {{id}}, 3, 'info', 'm', {{now}} FROM n")
    numbers = _NUMBERS.replace("{first}", "0").replace("{last}", "499")
    made.append(
        f"INSERT INTO {{concurrency_keys}} (key, active) {numbers}"
        " SELECT 'key-' || i, CASE WHEN i < 20 THEN 1 ELSE 0 END FROM n"
    )
    made.append("INSERT INTO {concurrency_keys} (key, active) VALUES ('busy', 1)")
    made.append("INSERT INTO {concurrency_keys} (key, active, \"limit\") VALUES ('rare', 5, 5)")
    return [fill(_dialect(text, postgres=postgres), postgres=postgres) for text in made]


def _dialect(text: str, *, postgres: bool) -> str:
    """The text with ids, times and truth as the dialect writes them."""
    if postgres:
        words = {
            "id": "('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid",
            "now": "now()",
            "later": "now() + interval '1 day'",
            "early": "now() - interval '1 day'",
            "true": "true",
        }
    else:
        now = "(CAST(strftime('%s', 'now') AS INTEGER) * 1000000)"
        words = {
            "id": "printf('00000000-0000-7000-8000-%012x', i)",
            "now": now,
            "later": f"({now} + 86400000000)",
            "early": f"({now} - 86400000000)",
            "true": "1",
        }
    words |= {"label": """'{"kind":"common"}'""", "rare": """'{"kind":"rare"}'"""}
    for name, value in words.items():
        text = text.replace("{" + name + "}", value)
    return text.replace("{{", "{").replace("}}", "}") if "{{" in text else text


# --- the operations that are looked at ---------------------------------------------------------------


def operations(many: int, new_id: str) -> dict[str, Operation[Any]]:
    """Every operation, as it would be run on the filled database; names as in the test's reports."""

    def some(name: str, count: int) -> list[str]:
        first = number_of(name, many)
        return [run_id(first + place) for place in range(count)]

    def changes(name: str, key: str | None = None) -> list[Change]:
        return [Change(run_id=each, concurrency_key=key, token=new_id) for each in some(name, 10)]

    expired = [_stored(each) for each in some("expired", 10)]
    leased = [_stored(each) for each in some("leased", 50)]
    slots = [
        _stored(each, f"key-{(number_of('slots', many) + place) % 20}") for place, each in enumerate(some("slots", 10))
    ]
    claim: dict[str, Any] = {"limit": 10, "owner": "me", "token": new_id, "lease": LEASE}
    page = {"statuses": (RunStatus.PENDING,), "before": run_id(number_of("rare", many) + 3)}
    plain = [replace(_new(), id=_fresh(place)) for place in range(50)]
    keyed = [
        replace(
            _new(), id=_fresh(100 + place), concurrency_key=f"key-{place}", idempotency_key=f"i{place}", if_pending=kind
        )
        for place, kind in enumerate(IF_PENDING)
    ]
    busy = replace(_new("job-1"), id=_fresh(200), concurrency_key="busy", if_pending="skip")
    retriggered = runs.retrigger(replace(_new(), id=_fresh(300)), _write(leased[0]).steps)
    writes = [_write(run) for run in leased]
    return {
        "claim": leases.claim(JOBS, **claim),
        "claim, nothing there": leases.claim(["absent", "job-0"], **claim, floor=2**60),
        "claim_expired": leases.claim_expired(JOBS, **claim, max_crashes=3),
        "claim_expired, some held": leases.claim_expired(
            JOBS, **claim, max_crashes=3, held=[run.id for run in expired]
        ),
        "look": due.look(JOBS, max_crashes=3),
        "look, nothing there": due.look(["absent"], max_crashes=3),
        "claimed": leases.claimed(JOBS, token=new_id),
        "crashed": leases.crashed(JOBS, max_crashes=1, limit=10),
        "fail_crashed": leases.fail_crashed(expired, max_crashes=1),
        "renew": leases.renew([Lease(run.id, 1) for run in leased], lease=LEASE),
        "lapsed": leases.lapsed([Lease(run.id, 1) for run in (*leased, *expired)]),
        "write_runs": steps.write_fast.build(writes),
        "write_runs, endings": steps.write_keyed.build([an_end(run) for run in slots]),
        "cancel_step": steps.cancel_step(Lease(leased[0].id, 1), an_event(EventType.STEP_CANCEL)),
        "enqueue, plain": runs.enqueue.build(plain),
        "enqueue, keyed": runs.enqueue.build(keyed),
        "enqueue behind a busy key": runs.enqueue.build([busy]),
        "retrigger": retriggered,
        "get_run": runs.get_run(leased[0].id),
        "list": runs.list_runs(RunFilter(limit=20)),
        "list, next page": runs.list_runs(RunFilter(limit=20, before=run_id(many))),
        "list by job": runs.list_runs(RunFilter(jobs=("job-1", "job-9"), limit=20)),
        "list by job, next page": runs.list_runs(RunFilter(jobs=("job-1",), before=run_id(many // 2), limit=20)),
        "list by status": runs.list_runs(RunFilter(statuses=(RunStatus.FAILED, RunStatus.LEASED), limit=20)),
        "list by status, next page": runs.list_runs(RunFilter(**page, limit=20)),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - fields
        "list by job and status": runs.list_runs(RunFilter(jobs=("job-8",), statuses=(RunStatus.PENDING,), limit=20)),
        "list by label": runs.list_runs(RunFilter(labels={"kind": "rare"}, limit=20)),
        "skip": overview.skip_runs(RunFilter(), offset=20),
        "skip by job": overview.skip_runs(RunFilter(jobs=("job-1", "job-9")), offset=20),
        "skip by status": overview.skip_runs(RunFilter(statuses=(RunStatus.PENDING,)), offset=20),
        "count of a few": overview.count_runs(
            RunFilter(jobs=("job-8",), statuses=(RunStatus.PENDING,)), within=timedelta(0)
        ),
        "read_expired": care.read_expired(),
        "count_purgeable": care.count_purgeable(older_than=timedelta(hours=12), statuses=(RunStatus.COMPLETED,)),
        "load_steps": steps.load_steps(leased[0].id),
        "load_logs": events.load_logs(leased[0].id),
        "run_events": events.run_events(leased[0].id),
        "feed": events.feed(after=3 * many, gaps=(), limit=100),
        "feed with gaps": events.feed(after=3 * many, gaps=(5, 7, 3 * many - 1, 10**9), limit=100),
        "last_event_id": events.last_event_id(),
        "cancel": actions.cancel.build(changes("claimable")),
        "cancel of slots": actions.cancel.build(
            [Change(run_id=run.id, concurrency_key=run.concurrency_key, token=new_id) for run in slots]
        ),
        "resume": actions.resume.build(changes("failed")),
        "delete": actions.delete.build(changes("finished")),
        "purge_runs": actions.purge_runs(older_than=timedelta(hours=12), status=RunStatus.COMPLETED, limit=10),
        "purge_runs, nothing old": actions.purge_runs(
            older_than=timedelta(days=9), status=RunStatus.COMPLETED, limit=10
        ),
        "purge_events": events.purge_events(older_than=timedelta(seconds=-1), limit=20),
        "set_limit": keys.set_limit("busy", 3),
        "audit_keys": keys.audit_keys(["busy", "key-1", "key-2"]),
        "find_drift": keys.find_drift(),
        "purge_keys": keys.purge_keys(10),
        "release_due": due.release_due(10),
        "admit_due": due.admit_due(["busy", "key-1"]),
    }


def _fresh(place: int) -> str:
    return f"00000000-0001-7000-8000-{place:012x}"


def _new(job: str = "job-9") -> NewRun:
    return NewRun(id="", job=job, input_json="1", input_digest="d", labels={"kind": "new"})


def _write(run: StoredRun) -> RunWrite:
    step = StepRecord(
        run_id=run.id,
        name="b",
        position=1,
        status=StepStatus.COMPLETED,
        output_json="1",
        error=None,
        generation=1,
        started_at=AT,
        completed_at=AT,
    )
    return replace(a_checkpoint(run), steps=(step,))


def _stored(id: str, key: str | None = None) -> StoredRun:
    """As much of a row as a write needs."""
    none: dict[str, Any] = dict.fromkeys(
        ("hold", "idempotency_key", "output_json", "error", "progress", "lease_owner", "lease_expires_at")
    )
    none |= dict.fromkeys(("available_at", "started_at", "completed_at"))
    counts: dict[str, Any] = dict.fromkeys(("priority", "attempt", "crashes", "next_step", "completed_steps"), 0)
    return StoredRun(
        id=id,
        job="job",
        input_json="1",
        status=RunStatus.LEASED,
        concurrency_key=key,
        labels={},
        generation=1,
        created_at=AT,
        **none,
        **counts,
    )
