"""SQLite in memory that goes from one world to the next: emptied, but with all that it has compiled.

Compiling the statements takes SQLite longer than a short simulation takes to run them. Only rows could tell one world
of another, and they are gone with their counters: what a world sees does not depend on those before it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from durably.store import catalogue
from durably.store.sqlite_calls import Opened, connect
from durably.store.url import DatabaseUrl

_PREFIX = "durably_"
_KEPT = f"{_PREFIX}migrations"


class Memory:
    """Lends a database in memory to one world after the other. For one thread."""

    def __init__(self, script: str = "") -> None:
        """`script` adds tables and triggers to those of durably; they are emptied like them.

        In its SQL `simulated_transaction()` is the number of the transaction that writes.
        """
        self.script = script
        self._spare: Loan | None = None

    def lend(self, number: Callable[[], int]) -> Loan:
        """A database without rows. `number` says which transaction writes."""
        known = catalogue.load("sqlite", _PREFIX)
        if self._spare is None or self._spare.known is not known:  # other statements: a bug planted on purpose
            return Loan(self, known, number)
        spare, self._spare = self._spare, None
        spare.number = number
        return spare

    def keep(self, loan: Loan) -> None:
        """Lend it again."""
        self.close()
        self._spare = loan

    def close(self) -> None:
        """Give up what is not lent."""
        if self._spare is not None:
            self._spare.raw.close()
            self._spare = None


class Loan:
    """A database in memory in the hands of one world."""

    def __init__(self, memory: Memory, known: catalogue.Catalogue, number: Callable[[], int]) -> None:
        self.known = known
        self.number = number
        self._memory = memory
        self._opened: Opened | None = None
        self._is_prepared = False

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection, to look into the database. Raises LookupError before it is open."""
        if self._opened is None:
            raise LookupError("the database is not open")
        return self._opened.raw

    def connect(self, url: DatabaseUrl) -> Opened:
        """The one connection that there is."""
        if self._opened is None:
            self._opened = connect(url)
            self._opened.raw.create_function("simulated_transaction", 0, self._number_now)
        return self._opened

    def prepare(self) -> None:
        """Run the script, once durably's tables are there."""
        if not self._is_prepared:
            self._is_prepared = True
            self.raw.executescript(self._memory.script)

    def give_back(self) -> None:
        """Empty the database and let the next world have it; one that cannot be emptied is closed."""
        if self._opened is None:
            return
        try:
            self._empty(self._opened.raw)
        except sqlite3.Error:
            self._opened.raw.close()
        else:
            self._memory.keep(self)

    def _number_now(self) -> int:
        """`number` is another world's each time, and SQLite would compile all anew for another function."""
        return self.number()

    def _empty(self, raw: sqlite3.Connection) -> None:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        tables = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        raw.execute("BEGIN")
        for _ in range(2):  # triggers of the script may note in one table what goes from another one
            for table in tables:
                if table != _KEPT:
                    raw.execute(f'DELETE FROM "{table}"')  # noqa: S608  # names of ours
        raw.execute("COMMIT")
