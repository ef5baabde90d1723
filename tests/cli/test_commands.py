"""The commands in pipes: what they print, their JSON, their exit codes; on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from durably import Durably
from durably.cli.exits import ExitCode
from tests.cli.calls import Call, do, executed, objects, ok, on_both, rows
from tests.support.app import NO_RUN

# --- runs -------------------------------------------------------------------------------------------


def test_runs_are_lines_in_a_pipe(call: Call, url: str) -> None:
    first, second = executed(url, 1, fails=1)
    found = rows(call("runs"))
    assert [row[:4] for row in found] == [
        [second.id, "fail", "failed", "1 steps"],
        [first.id, "add", "completed", "1/2"],
    ]
    assert found[0][-1] == "ZeroDivisionError: division by zero"
    assert found[0][4].endswith("+00:00")


@on_both
def test_runs_can_be_filtered_and_paged(call: Call, url: str) -> None:
    runs = executed(url, 1, 2, 3, fails=1)
    do(url, lambda durably: durably.trigger("add", 1, labels={"tenant": "a"}, concurrency_key="k"))
    assert len(rows(call("runs", "--job", "add"))) == 4
    assert len(rows(call("runs", "-j", "add", "-j", "fail"))) == 5
    assert [row[1] for row in rows(call("runs", "--status", "failed"))] == ["fail"]
    assert [row[2] for row in rows(call("runs", "--label", "tenant=a", "--key", "k"))] == ["pending"]
    assert [row[0] for row in rows(call("runs", "--before", runs[2].id, "-n", "1"))] == [runs[1].id]


@on_both
def test_runs_as_json_have_their_values(call: Call, url: str) -> None:
    executed(url, 1)
    [run] = objects(call("runs", "--json"))
    assert (run["input"], run["output"], run["status"], run["lease"]) == (1, 2, "completed", None)
    assert run["progress"] == {"current": 1, "total": 2, "message": "half"}


def test_nothing_found_prints_nothing(call: Call) -> None:
    ok(call("migrate"))
    for command in ("runs", "events", "limits"):
        assert ok(call(command)) == ""


def test_a_waiting_run_says_what_it_waits_for(call: Call, url: str) -> None:
    async def work(durably: Durably) -> None:
        await durably.trigger("add", 1, concurrency_key="k")
        await durably.trigger("add", 1, concurrency_key="k")
        await durably.trigger("add", 1, delay=timedelta(hours=1))

    do(url, work)
    due, held, free = rows(call("runs"))
    assert due[-1].startswith("waits until 20")
    assert (held[-1], free[-1]) == ("waits for key k", "")


# --- show -------------------------------------------------------------------------------------------


@on_both
def test_show_tells_everything_about_a_run(call: Call, url: str) -> None:
    done, failed = executed(url, 1, fails=1)
    found = rows(call("show", done.id))
    facts = {row[0]: row[1] for row in found if len(row) == 2}
    assert (facts["job"], facts["status"], facts["input"], facts["output"]) == ("add", "completed", "1", "2")
    kinds = [row[0] for row in found]
    assert (kinds.count("step"), kinds.count("lease"), kinds.count("log")) == (1, 1, 1)
    assert next(row for row in found if row[0] == "log")[-1] == 'adding {"n":1}'
    assert next(row for row in found if row[0] == "lease")[-1] == "complete"
    broken = rows(call("show", failed.id))
    assert [row[1:3] for row in broken if row[0] == "step"] == [["good", "completed"], ["bad", "failed"]]
    assert ["error", "ZeroDivisionError: division by zero"] in broken
    assert any("Traceback" in row[1] for row in broken if row[0] == "error")


def test_show_as_json_is_one_object(call: Call, url: str) -> None:
    [failed] = executed(url, fails=1)
    [found] = objects(call("show", failed.id, "--json"))
    assert [step["name"] for step in found["steps"]] == ["good", "bad"]
    assert "Traceback" in found["error"]["traceback"]
    assert [lease["end"] for lease in found["leases"]] == ["fail"]


def test_a_run_that_does_not_exist_is_exit_code_3(call: Call) -> None:
    ok(call("migrate"))
    for command in ("show", "cancel", "resume", "retrigger", "delete"):
        result = call(command, NO_RUN)
        assert (result.exit_code, result.stdout) == (ExitCode.NOT_FOUND, "")
        assert result.stderr == f"durably: run not found: {NO_RUN}\n"


def test_what_a_job_wrote_cannot_steer_the_terminal(call: Call, url: str) -> None:
    do(url, lambda durably: durably.trigger("add", "\x1b[2Jgone\u202e", labels={"a": "\x07"}))
    for command in (("runs", "-s", "pending"), ("events",)):
        assert "\x1b" not in ok(call(*command))
    run = rows(call("runs"))[0][0]
    assert not {"\x1b", "\x07", "\u202e"} & set(ok(call("show", run)))


# --- events -----------------------------------------------------------------------------------------


@on_both
def test_events_come_oldest_first_and_go_on_after_a_cursor(call: Call, url: str) -> None:
    [run] = executed(url, 1)
    found = rows(call("events"))
    assert [row[2] for row in found] == [
        "run:trigger", "run:leased", "log:write", "run:progress", "step:start", "step:complete", "run:complete",
    ]  # fmt: skip
    after = rows(call("events", "--after", found[2][0]))
    assert after == found[3:]
    assert rows(call("events", "-n", "2")) == found[-2:]
    assert len(rows(call("events", "--run", run.id))) == len(found)
    assert ok(call("events", "--job", "other")) == ""
    assert [one["type"] for one in objects(call("events", "--json", "-n", "1"))] == ["run:complete"]
    assert ok(call("events", "-n", "0")) == ""


def test_following_a_run_ends_with_it(call: Call, url: str) -> None:
    [run] = executed(url, 1)
    found = rows(call("events", "--run", run.id, "--follow"))
    assert (found[0][2], found[-1][2]) == ("run:trigger", "run:complete")
    assert rows(call("events", "--run", run.id, "--follow", "--after", found[0][0])) == found[1:]


def test_a_run_and_a_job_cannot_be_asked_for_together(call: Call) -> None:
    ok(call("migrate"))
    result = call("events", "--run", NO_RUN, "--job", "add")
    assert (result.exit_code, result.stderr) == (1, "durably: --run: cannot be used together with --job or --label\n")


# --- acting -----------------------------------------------------------------------------------------


@on_both
def test_trigger_prints_the_id_of_the_run(call: Call, url: str) -> None:
    ok(call("migrate"))
    options = ("--label", "tenant=a", "--priority", "3", "--delay", "2h", "--concurrency-key", "k")
    run_id = ok(call("trigger", "add", '{"a": [1]}', *options)).strip()
    [run] = objects(call("runs", "--json"))
    assert (run["id"], run["input"], run["labels"], run["priority"]) == (run_id, {"a": [1]}, {"tenant": "a"}, 3)
    assert (run["concurrency_key"], run["hold"]) == ("k", "time")
    assert objects(call("trigger", "add", "-", "--json", stdin="[1, 2]"))[0]["input"] == [1, 2]
    assert objects(call("trigger", "add", "--json"))[0]["input"] is None


def test_a_trigger_that_finds_its_run_says_so(call: Call) -> None:
    ok(call("migrate"))
    first = ok(call("trigger", "add", "1", "--idempotency-key", "x"))
    again = call("trigger", "add", "1", "--idempotency-key", "x")
    assert (again.stdout, again.exit_code) == (first, 0)
    assert again.stderr == f"durably: idempotent: run {first.strip()} was there already\n"
    conflict = call("trigger", "add", "2", "--idempotency-key", "x")
    assert (conflict.exit_code, conflict.stdout) == (ExitCode.CONFLICT, "")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("trigger", "add", "{"), 1, "JSON: this is no JSON"),
        (("trigger", "add", "text"), 1, "a text needs its quotes"),
        (("trigger", "", "1"), 1, "job"),
        (("trigger", "add", "1", "--label", "x"), 1, "--label: 'x' must look like name=value"),
        (("trigger", "add", "1", "--delay", "soon"), 1, "--delay: 'soon' is no duration"),
        (("trigger", "add", "1", "--if-pending", "maybe"), 2, "queue"),
        (("runs", "--status", "done"), 2, "completed"),
        (("runs", "--limit", "0"), 2, "--limit"),
        (("limits", "k", "-1"), 2, ""),
        (("purge",), 2, "--older-than"),
        (("purge", "--older-than", "old"), 1, "--older-than: 'old' is no duration"),
        (("events", "--after", "-1"), 2, "--after"),
        (("limits", "k", "9" * 30), 1, "limit: "),
        (("runs", "--interval", "inf"), 2, "--interval"),
        (("worker", "app:durably", "app", "--grace", "inf"), 2, "--grace"),
        (("serve", "app:durably", "app", "--grace", "1e300"), 2, "--grace"),
        (("worker", "app.py:durably", "app"), 1, "without its ending: app"),
        (("nothing",), 2, "nothing"),
    ],
)
def test_wrong_arguments_are_named(call: Call, arguments: tuple[str, ...], code: int, says: str) -> None:
    ok(call("migrate"))
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@on_both
def test_runs_are_cancelled_resumed_retriggered_and_deleted(call: Call, url: str) -> None:
    waiting = ok(call("migrate")) and ok(call("trigger", "add", "1")).strip()
    assert ok(call("cancel", waiting)) == f"{waiting}\n"
    again = call("cancel", waiting)
    assert (again.exit_code, again.stderr) == (4, f"durably: cannot cancel already cancelled run: {waiting}\n")
    [failed] = executed(url, fails=1)
    assert objects(call("resume", failed.id, "--json"))[0]["status"] == "pending"
    new = ok(call("retrigger", waiting)).strip()
    assert objects(call("show", new, "--json"))[0]["input"] == 1
    ok(call("delete", waiting))
    assert call("show", waiting).exit_code == 3


def test_one_run_that_cannot_be_cancelled_does_not_keep_the_others_from_it(call: Call) -> None:
    ok(call("migrate"))
    first, second = (ok(call("trigger", "add", "1")).strip() for _ in range(2))
    result = call("cancel", first, NO_RUN, second)
    assert (result.exit_code, result.stdout) == (3, f"{first}\n{second}\n")
    assert {row[2] for row in rows(call("runs"))} == {"cancelled"}


def test_retrigger_can_copy_steps(call: Call, url: str) -> None:
    [failed] = executed(url, fails=1)
    new = ok(call("retrigger", failed.id, "--from-step", "bad")).strip()
    assert [row[1] for row in rows(call("show", new)) if row[0] == "step"] == ["good"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--jobs", "nothing"), "no job matches 'nothing': there are block, version, wait, who"),
        (("--exclude", "*"), "no job is left"),
        (("--jobs", "who,"), "--jobs and --exclude need names"),
    ],
)
def test_jobs_that_are_not_there_are_named(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], says: str
) -> None:
    names = ("who", "wait", "block", "version")
    jobs = "".join(f"@job('{name}')\nasync def {name}(step: Step) -> None: ...\n" for name in names)
    name = f"app_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"from durably import *\ndurably = Durably.from_env()\n{jobs}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    result = call("worker", f"{name}:durably", name, *options)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_version_says_what_it_runs_on(call: Call) -> None:
    [found] = objects(call("version", "--json"))
    assert found["durably"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert ["durably", found["durably"]] in rows(call("version"))


def test_the_shell_completes_commands_and_choices() -> None:
    command = [sys.executable, "-c", "from durably.cli import main; import sys; sys.argv[0] = 'durably'; main()"]
    given = {"_DURABLY_COMPLETE": "complete_bash", "COMP_WORDS": "durably runs --status f", "COMP_CWORD": "3"}
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == ["failed"], done.stderr


def test_a_cursor_beyond_everything_is_the_end(call: Call) -> None:
    ok(call("migrate"))
    assert ok(call("events", "--after", "9" * 30)) == ""


@pytest.mark.parametrize("arguments", [("-h",), ("runs", "-h"), ("worker", "-h")])
def test_help_has_a_short_name(call: Call, arguments: tuple[str, ...]) -> None:
    assert "Usage:" in ok(call(*arguments))


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    do(url, lambda durably: durably.trigger_many("add", range(1000)))
    shell = f"{sys.executable} -m durably.cli events -n 1000 --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    command = ["bash", "-c", shell]
    done = subprocess.run(
        command, env=os.environ | {"DURABLY_URL": url}, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")


def test_the_documented_exit_codes_are_those_there_are() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    documented = [
        line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()
    ]
    assert [int(code) for code in documented] == [code.value for code in ExitCode]
