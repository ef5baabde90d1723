"""The pure decisions: statuses, endings, captured errors, waiting times."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durably.codec import codec_for
from durably.errors import Cancelled, Interrupt, LeaseLost, Stopping, ValidationError
from durably.model import TERMINAL, Ending, RunError, RunStatus
from durably.rules.naming import check_job_name
from durably.rules.outcome import (
    MAX_MESSAGE_BYTES,
    MAX_TRACEBACK_BYTES,
    Interrupted,
    Raised,
    Returned,
    capture,
    decide,
    printable,
)
from durably.rules.schedule import backoff_seconds
from durably.rules.transitions import TRANSITIONS, OperationName, may, mermaid

ERROR = RunError(type="ValueError", message="bad row", step="read")


# --- transitions -------------------------------------------------------------------------------------------


def test_a_terminal_run_changes_only_by_resume_and_delete() -> None:
    changes = {
        (status, operation)
        for (status, operation), target in TRANSITIONS.items()
        if status in TERMINAL and target is not status
    }
    deletes = {(status, OperationName.DELETE) for status in TERMINAL}
    assert changes == deletes | {(RunStatus.FAILED, OperationName.RESUME)}


def test_only_a_lease_holder_ends_a_run() -> None:
    for operation in (OperationName.COMPLETE, OperationName.FAIL, OperationName.RELEASE, OperationName.WRITE):
        assert [status for status in RunStatus if may(status, operation)] == [RunStatus.LEASED]


def test_every_status_can_be_reached_and_left() -> None:
    targets = set(TRANSITIONS.values())
    assert targets == {None, *RunStatus}
    assert {status for status, _ in TRANSITIONS} == set(RunStatus)
    assert {operation for _, operation in TRANSITIONS} == set(OperationName)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[RunStatus.PENDING, OperationName.COMPLETE] = RunStatus.COMPLETED  # type: ignore[index] # pyright: ignore[reportIndexIssue]


def test_the_diagram_shows_what_the_table_says() -> None:
    assert mermaid() == (
        "stateDiagram-v2\n"
        "    [*] --> pending: trigger\n"
        "    pending --> leased: claim\n"
        "    pending --> cancelled: cancel\n"
        "    leased --> failed: fail crashed, fail\n"
        "    leased --> completed: complete\n"
        "    leased --> pending: release\n"
        "    leased --> cancelled: cancel\n"
        "    failed --> pending: resume\n"
        "    completed --> [*]: delete\n"
        "    failed --> [*]: delete\n"
        "    cancelled --> [*]: delete\n"
    )


# --- outcome -----------------------------------------------------------------------------------------------


def test_each_finish_has_its_ending() -> None:
    assert decide(Returned("[1]")) == Ending(status=RunStatus.COMPLETED, output_json="[1]")
    assert decide(Raised(ERROR)) == Ending(status=RunStatus.FAILED, error=ERROR)
    assert decide(Interrupted(Stopping("1"))) == Ending(status=RunStatus.PENDING)
    assert decide(Interrupted(Cancelled("1"))) is None
    assert decide(Interrupted(LeaseLost("1"))) is None


def test_steps_are_dropped_only_when_the_run_completed() -> None:
    completed = decide(Returned("1"), preserve_steps=False)
    assert completed is not None
    assert not completed.keep_steps
    for finish in (Raised(ERROR), Interrupted(Stopping("1"))):
        ending = decide(finish, preserve_steps=False)
        assert ending is not None
        assert ending.keep_steps


def test_an_interrupt_without_a_rule_is_not_taken_for_success() -> None:
    with pytest.raises(TypeError, match="no rule for the interrupt Interrupt"):
        decide(Interrupted(Interrupt("1")))


@pytest.mark.parametrize("finish", [Returned("1"), Raised(ERROR), Interrupted(Stopping("1"))])
def test_an_ending_leads_where_the_table_says(finish: Any) -> None:
    ending = decide(finish)
    targets = {target for (status, _), target in TRANSITIONS.items() if status is RunStatus.LEASED}
    assert ending is not None
    assert ending.status in targets


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - gives it a traceback
    except BaseException as caught:  # noqa: BLE001
        return caught


def test_a_captured_error_has_type_message_traceback_and_step() -> None:
    error = capture(raised(ValueError("bad row")), step="read")
    assert (error.type, error.message, error.step) == ("ValueError", "bad row", "read")
    assert error.traceback is not None
    assert error.traceback.startswith("Traceback (most recent call last):")
    assert "raise error" in error.traceback
    assert error.traceback.rstrip().endswith("ValueError: bad row")


def test_frames_of_durably_are_left_out_of_a_traceback() -> None:
    with pytest.raises(ValidationError) as caught:
        codec_for(int).validate("3", field="input")
    error = capture(caught.value)
    assert error.traceback is not None
    assert "test_rules.py" in error.traceback
    assert "durably/codec" not in error.traceback
    assert "ValidationError: input:" in error.traceback


def test_frames_of_durably_stay_where_there_are_no_others() -> None:
    with pytest.raises(ValidationError) as caught:
        check_job_name("")
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert "naming.py" in (capture(error).traceback or "")


def test_causes_and_groups_are_kept() -> None:
    group = ExceptionGroup("several", [ValueError("one"), OSError("two")])
    group.__cause__ = raised(KeyError("inner"))
    error = capture(raised(group))
    for part in ("KeyError: 'inner'", "ValueError: one", "OSError: two"):
        assert part in (error.traceback or "")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        Mute(),
        ValueError("\ud800\x00"),
        asyncio.CancelledError(),
        SystemExit(3),
        KeyboardInterrupt(),
        RecursionError("x" * 100_000),
        ValueError("\U0001f600" * 50_000),
    ],
)
def test_any_error_can_be_captured_and_stored(error: BaseException) -> None:
    captured = capture(raised(error))
    assert captured.type == type(error).__name__
    assert len(captured.message.encode()) <= MAX_MESSAGE_BYTES
    assert len((captured.traceback or "").encode()) <= MAX_TRACEBACK_BYTES
    assert "\x00" not in captured.message + (captured.traceback or "")


def test_a_loop_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert capture(one).message == "one"


@given(st.text(st.characters(codec=None)), st.integers(20, 200))
def test_printable_text_can_be_stored_and_keeps_its_limit(text: str, limit: int) -> None:
    assert len(printable(text, max_bytes=limit).encode()) <= limit
    assert "\x00" not in printable(text, max_bytes=limit)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=50))
def test_printable_text_that_fits_is_unchanged(text: str) -> None:
    assert printable(text, max_bytes=200) == text


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    text = printable("a" * 1000 + "b" * 1000, max_bytes=100)
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "[... cut ...]" in text


# --- schedule ----------------------------------------------------------------------------------------------


def test_waiting_times_double_up_to_the_cap() -> None:
    assert [backoff_seconds(n, 1, base=1, cap=8) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 8]
    assert [backoff_seconds(n, 0, base=1, cap=8) for n in (1, 2, 3, 4, 5)] == [0.5, 1, 2, 4, 4]
    assert [backoff_seconds(n, 1) for n in (1, 2, 3, 9, 10, 11)] == [0.1, 0.2, 0.4, 25.6, 30, 30]


@given(st.integers(-5, 10**9), st.floats(0, 1, exclude_max=True))
def test_no_waiting_time_is_zero_or_beyond_the_cap(attempt: int, chance: float) -> None:
    assert 0.05 <= backoff_seconds(attempt, chance) <= 30
