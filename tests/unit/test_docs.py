"""What the docs repeat of the code is what the code says."""

from __future__ import annotations

from pathlib import Path

from durably.rules.transitions import mermaid

DOCS = Path(__file__).parents[2] / "docs"


def test_the_diagram_of_the_statuses_is_that_of_the_table() -> None:
    assert f"```mermaid\n{mermaid()}```" in (DOCS / "statuses.md").read_text(encoding="utf-8")
