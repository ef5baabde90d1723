"""What the docs repeat of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from durably.cli.commands import app
from durably.rules.configuration import SETTINGS, variable
from durably.rules.transitions import mermaid
from tests.models.mutants import POSTGRES, SQLITE
from tests.simulation.planted import BUGS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_diagram_of_the_statuses_is_that_of_the_table() -> None:
    assert f"```mermaid\n{mermaid()}```" in (DOCS / "statuses.md").read_text(encoding="utf-8")


def test_the_page_on_configuration_lists_every_variable() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(DURABLY_\w+)` \| `(\w+)`", text, re.MULTILINE) == [
        (variable(name), name) for name in SETTINGS
    ]


def test_the_page_on_the_command_line_names_every_command_and_option() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    group: Any = get_command(app)
    for name, command in group.commands.items():
        assert f"durably {name}" in text
        options = {flag for each in command.params if not getattr(each, "hidden", False) for flag in each.opts}
        assert not {flag for flag in options if flag.startswith("--") and flag not in text}


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target, anchor in re.findall(
            r"\]\((?!https?:)([\w/.-]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")
        ):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, anchor


def test_the_page_on_reliability_names_tests_and_planted_mistakes_that_are_there() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (DOCS.parent / path).exists(), path
    known = {planted.name for planted in (*BUGS, *SQLITE, *POSTGRES)}
    promises = re.findall(r"^\| G(\d+) [\w ]+\| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in promises] == list(range(1, 15))
    for number, tests, mistakes in promises:
        assert re.findall(r"`tests/[\w/]+\.py`", tests), f"G{number}"
        named = set(re.findall(r"\*([^*]+)\*", mistakes))
        assert named, f"G{number}"
        assert named <= known, f"G{number}: {named - known}"
        assert {bug.name for bug in BUGS if bug.breaks == f"G{number}"} <= named, f"G{number}"
    assert f"{len(BUGS)} planted bugs" in text
