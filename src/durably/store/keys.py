"""Concurrency keys: their limits, and the audit of their counters."""

from __future__ import annotations

from collections.abc import Sequence

from durably.store import rows
from durably.store.operation import Operation, Statement, Wake


def set_limit(key: str, limit: int) -> Operation[None]:
    """Let up to `limit` runs of this key be leased at once; 0 stops it. Waiting runs move up at once."""
    return Operation(
        statements=(Statement("set_limit", {"key": key, "limit": limit}),),
        decode=lambda _: None,
        keys=(key,),
        wakes=Wake.WORK,
    )


def find_drift() -> Operation[list[str]]:
    """Keys whose counter is wrong, or that have a free slot beside a waiting run. Empty unless something broke."""
    return Operation(
        statements=(Statement("find_drift", {}), Statement("find_stranded", {})),
        decode=lambda results: sorted({_key(row) for found in results for row in found}),
        readonly=True,
    )


def audit_keys(keys: Sequence[str]) -> Operation[list[str]]:
    """Count these keys' slots anew and hand out what is free. Returns the keys whose counter was wrong."""
    return Operation(
        statements=(Statement("audit_keys", {"keys": tuple(keys)}),),
        decode=lambda results: sorted(_key(row) for row in results[0]),
        keys=tuple(sorted(keys)),
        wakes=Wake.WORK,
    )


def purge_keys(limit: int) -> Operation[int]:
    """Forget up to `limit` keys that nobody uses and whose limit is the default. Returns how many went.

    It comes after the slots were handed out: a key that a write of the same transaction has locked, and whose run is
    not in its slot yet, looks unused before that.
    """
    return Operation(
        statements=(), reads=(Statement("purge_keys", {"limit": limit}),), decode=lambda results: len(results[0])
    )


def _key(row: rows.AnyRow) -> str:
    return str(row["key"])
