"""The scenarios: what is done, on which databases, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chaos import blows, damage
from chaos.arena import Arena
from chaos.audit import Dialect
from chaos.disks import is_root
from chaos.jobs import Work, chain, flaky, hot, keyed, threaded
from chaos.load import Order

Play = Callable[[Arena], Awaitable[None]]

WITHOUT_PRIVILEGES = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search,-fowner",
    "--inh-caps=-dac_override,-dac_read_search,-fowner",
)
"""Starts a process of root to which permissions of files mean what they say."""
BOTH: tuple[Dialect, ...] = ("sqlite", "postgres")
MIX = (
    Order(chain, Work(steps=5, pause=0.05)),
    Order(threaded, Work(steps=4, pause=0.05)),
    Order(keyed, Work(steps=3, pause=0.02, key="one")),
    Order(keyed, Work(steps=3, pause=0.05, key="three")),
    Order(flaky, Work(steps=4, pause=0.05, failing=0.2)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A way to break things."""

    name: str
    what: str
    """What is done, in a few words."""
    databases: tuple[Dialect, ...]
    play: Play
    seconds: float
    """Of faults, in the full form."""
    orders: Sequence[Order] = MIX
    megabytes: int = 0
    """Of a small disk, where it needs one of its own."""
    settings: tuple[tuple[str, str], ...] = ()
    """Of the server, where it needs one of its own."""
    prefix: tuple[str, ...] = ()
    """The command that starts its workers."""


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="workers-killed",
        what="SIGKILL of a worker every second",
        databases=BOTH,
        play=blows.workers_killed,
        seconds=60,
    ),
    Scenario(
        name="storm",
        what="failing, resumed, re-triggered and cancelled runs, stopped and killed workers",
        databases=BOTH,
        play=blows.storm,
        seconds=15,
        orders=(
            Order(flaky, Work(steps=4, pause=0.02, failing=0.7)),
            Order(chain, Work(steps=4, pause=0.5)),
            Order(keyed, Work(steps=3, pause=0.02, failing=0.5, key="three")),
            Order(threaded, Work(steps=3, pause=0.02)),
        ),
    ),
    Scenario(
        name="hot-priority",
        what="a flood of runs with a priority, that never ebbs",
        databases=BOTH,
        play=blows.hot_priority,
        seconds=10,
        orders=(Order(hot, Work(steps=2, pause=0.02), priority=1),),
    ),
    Scenario(
        name="server-killed",
        what="PostgreSQL killed (immediate) and started again",
        databases=("postgres",),
        play=blows.server_killed,
        seconds=35,
    ),
    Scenario(
        name="backends-terminated",
        what="pg_terminate_backend on all connections",
        databases=("postgres",),
        play=blows.backends_terminated,
        seconds=12,
    ),
    Scenario(
        name="network",
        what="a network that delays, cuts, loses answers, and is a black hole",
        databases=("postgres",),
        play=blows.network,
        seconds=30,
    ),
    Scenario(
        name="connections-exhausted",
        what="max_connections reached by others",
        databases=("postgres",),
        play=blows.connections_exhausted,
        seconds=15,
        settings=(("max_connections", "30"),),
    ),
    Scenario(
        name="disk-full",
        what="a full disk, for longer than a lease",
        databases=("sqlite",),
        play=damage.disk_full,
        seconds=15,
        megabytes=16,
    ),
    Scenario(
        name="disk-full",
        what="a full disk, for longer than a lease",
        databases=("postgres",),
        play=damage.disk_full,
        seconds=15,
        megabytes=256,
        settings=(("max_wal_size", "32MB"), ("min_wal_size", "32MB")),
    ),
    Scenario(
        name="read-only",
        what="a file that workers may not write to",
        databases=("sqlite",),
        play=damage.read_only,
        seconds=6,
        prefix=WITHOUT_PRIVILEGES if is_root() else (),
    ),
    Scenario(
        name="read-only",
        what="a server that takes no writes",
        databases=("postgres",),
        play=damage.standby,
        seconds=6,
    ),
    Scenario(
        name="corrupted",
        what="a file without its header, cut in half, full of garbage",
        databases=("sqlite",),
        play=damage.corrupted,
        seconds=0,
    ),
    Scenario(
        name="pooled",
        what="behind PgBouncer in transaction mode, which dies, as do its connections",
        databases=("postgres",),
        play=damage.pooled,
        seconds=20,
    ),
)
