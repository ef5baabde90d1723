"""durably with the inserts of its events cut out of the SQL: the difference to `ours` is what events cost."""

from __future__ import annotations

from functools import partial

from bench.subjects.ours import work
from bench.task import serve

if __name__ == "__main__":
    serve(partial(work, events=False))
