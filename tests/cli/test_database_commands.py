"""The commands that look after a database, and what every command does about one that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from durably.cli.commands import app
from durably.cli.exits import ExitCode
from tests.cli.calls import Call, do, executed, objects, ok, on_both, rows


@on_both
def test_purge_asks_nobody_in_a_pipe(call: Call, url: str) -> None:
    executed(url, *range(5), fails=1)
    assert ok(call("purge", "--older-than", "0s", "--dry-run")) == "6\n"
    assert ok(call("purge", "--older-than", "1d", "--yes")) == "0\n"
    refused = call("purge", "--older-than", "0s")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--yes" in refused.stderr
    assert ok(call("purge", "--older-than", "0s", "--yes", "--status", "completed", "--limit", "2")) == "2\n"
    assert ok(call("purge", "--older-than", "0s", "-y")) == "4\n"
    assert ok(call("runs")) == ""


@on_both
def test_limits_are_listed_and_set(call: Call) -> None:
    ok(call("migrate"))
    ok(call("limits", "k", "3"))
    ok(call("trigger", "add", "1", "--concurrency-key", "k"))
    ok(call("trigger", "add", "1", "--concurrency-key", "other"))
    assert rows(call("limits")) == [["k", "3", "1", "0"], ["other", "1", "1", "0"]]
    assert objects(call("limits", "k", "--json")) == [{"key": "k", "limit": 3, "active": 1, "waiting": 0}]


# --- operating --------------------------------------------------------------------------------------


@on_both
def test_reading_needs_tables_and_makes_none(call: Call, url: str, tmp_path: Path) -> None:
    for command in (("runs",), ("events",), ("migrate", "--check"), ("trigger", "add", "1")):
        result = call(*command)
        assert (result.exit_code, result.stdout) == (ExitCode.SCHEMA, "")
        assert "durably migrate" in result.stderr
    assert list(tmp_path.iterdir()) == []
    doctor = call("doctor")
    assert doctor.exit_code == ExitCode.FINDINGS
    assert doctor.stdout.startswith("problem\tschema\t")
    assert doctor.stdout.endswith("\trun `durably migrate`\n")


@on_both
def test_migrate_prints_what_it_applied_once(call: Call) -> None:
    sql = ok(call("migrate", "--print-sql"))
    assert sql.count("CREATE TABLE") == 6
    assert ok(call("migrate")).splitlines()[0] == "0001 initial"
    assert ok(call("migrate")) == ok(call("migrate", "--check")) == ok(call("migrate", "--print-sql")) == ""


@on_both
def test_doctor_says_what_is_wrong_and_what_to_do(call: Call, url: str, tmp_path: Path) -> None:
    executed(url, 1)
    assert {row[0] for row in rows(call("doctor"))} == {"ok"}
    do(url, lambda durably: durably.trigger("unknown"))
    assert {row[0] for row in rows(call("doctor", "--strict"))} == {"ok"}  # it waits for a moment only
    result = call("doctor", "--jobs", "tests.support.some_jobs", "--json")
    [found] = [one for one in map(json.loads, result.stdout.splitlines()) if one["level"] != "ok"]
    assert (result.exit_code, found["check"], found["level"]) == (7, "jobs", "problem")
    assert "start a worker" in found["remedy"]


# --- without a database -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("runs",), ("doctor",), ("migrate",), ("purge", "--older-than", "1d")])
def test_a_database_that_cannot_be_reached_is_exit_code_5(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--url", "postgresql://me:s3cr3t@127.0.0.1:1/jobs"])
    assert (result.exit_code, result.stdout) == (ExitCode.UNAVAILABLE, "")
    assert result.stderr.startswith("durably: the database is not available")
    assert "s3cr3t" not in result.stderr


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_what_the_database_refuses_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that the server does not know, rights that are missing."""
    monkeypatch.setenv("DURABLY_URL", f"{url}?no_such_setting=1")
    result = CliRunner().invoke(app, ["runs"])
    assert result.exit_code == ExitCode.ERROR
    assert result.stderr.startswith('durably: the database refuses: unrecognized configuration parameter "no_such')
    assert result.stderr.count("\n") == 1


def test_the_url_must_be_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DURABLY_URL", raising=False)
    result = CliRunner().invoke(app, ["runs"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("durably: DURABLY_URL: is not set")


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DURABLY_LEASE", "long")
    result = CliRunner().invoke(app, ["runs", "--url", f"sqlite:///{tmp_path}/x.db"])
    assert result.stderr == "durably: DURABLY_LEASE: 'long' is no duration: write 30s, 500ms, 5m, 2h or 7d\n"
