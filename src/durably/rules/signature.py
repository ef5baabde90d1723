"""What the signature of a job's function says: its colour, its input type, its output type.

The classes of the first parameter live in a layer above and are recognised by their `colour`. Whatever cannot
work is a UsageError that names the job and the remedy, when the function is decorated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Annotated, NoReturn, get_args, get_origin, get_type_hints

from durably.codec import PLAIN_JSON
from durably.errors import UsageError

_Parameter = inspect.Parameter
_POSITIONAL = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)
_CLASSES = {"async": "Step", "sync": "SyncStep"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSignature:
    """What a job's function takes and gives."""

    is_async: bool
    takes_input: bool
    input_type: object
    """`None` when the function takes no input."""
    output_type: object
    """PLAIN_JSON when the function does not say."""


def read_signature(job: str, fn: object) -> JobSignature:
    """The signature of a function that is to become `job`. Raises UsageError with the remedy."""
    function = _plain_function(job, fn)
    parameters = _parameters(job, function)
    hints = _hints(job, function)
    is_async = inspect.iscoroutinefunction(function)
    _check_step(job, parameters[0], hints, is_async=is_async)
    takes_input = len(parameters) > 1
    if takes_input and parameters[1].name not in hints:
        name = parameters[1].name
        _refuse(job, f"annotate the parameter {name!r}, as in {name}: ImportInput ({name}: object for any JSON)")
    return JobSignature(
        is_async=is_async,
        takes_input=takes_input,
        input_type=hints[parameters[1].name] if takes_input else None,
        output_type=hints.get("return", PLAIN_JSON),
    )


def _refuse(job: str, reason: str) -> NoReturn:
    raise UsageError(f"job {job!r}: {reason}")


def _plain_function(job: str, fn: object) -> Callable[..., object]:
    if not isinstance(fn, FunctionType | MethodType):
        kind = "the class" if isinstance(fn, type) else "an object of type"
        name = fn.__name__ if isinstance(fn, type) else type(fn).__name__
        _refuse(job, f"@job goes onto a function (async def or def), not {kind} {name}")
    if fn.__name__ == "<lambda>":
        _refuse(job, "a lambda has no annotations: write a function (async def or def)")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        _refuse(job, "a generator cannot be a job: return one value, and store each part with step.run")
    return fn


def _parameters(job: str, fn: Callable[..., object]) -> list[inspect.Parameter]:
    found = list(inspect.signature(fn).parameters.values())
    for parameter in found:
        if parameter.kind not in _POSITIONAL:
            text = str(parameter).partition(":")[0]
            _refuse(job, f"takes (step) or (step, input), so {text} cannot be filled: put it into the input type")
        if parameter.default is not _Parameter.empty:
            _refuse(job, f"the parameter {parameter.name!r} has a default: give it to a field of the input type")
    if len(found) not in (1, 2):
        names = ", ".join(parameter.name for parameter in found)
        _refuse(job, f"takes (step) or (step, input), not ({names}): put several values into one input type")
    return found


def _hints(job: str, fn: Callable[..., object]) -> dict[str, object]:
    try:
        return get_type_hints(fn, localns=_enclosed(fn), include_extras=True)
    except NameError as error:
        reason = (
            f"an annotation cannot be read ({error}): define the type at the top of a module, "
            "and import it at run time, not only under TYPE_CHECKING"
        )
        raise UsageError(f"job {job!r}: {reason}") from error
    except (TypeError, AttributeError, SyntaxError) as error:
        raise UsageError(f"job {job!r}: an annotation cannot be read ({error})") from error


def _enclosed(fn: Callable[..., object]) -> dict[str, object]:
    """Variables of enclosing functions that `fn` uses. A cell that is empty so far is left out."""
    function = inspect.unwrap(fn)
    code = getattr(function, "__code__", None)
    cells: tuple[CellType, ...] = getattr(function, "__closure__", None) or ()
    found: dict[str, object] = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _check_step(job: str, parameter: inspect.Parameter, hints: dict[str, object], *, is_async: bool) -> None:
    """An annotation that is missing leaves no doubt: `async def` gets a Step, `def` a SyncStep."""
    if parameter.name not in hints:
        return
    colour = _colour(hints[parameter.name])
    right = "async" if is_async else "sync"
    if colour is None:
        name = parameter.name
        _refuse(job, f"the first parameter must be the step, as in step: {_CLASSES[right]}; {name!r} is not one")
    if colour != right:
        keyword, other = ("async def", "a plain def") if is_async else ("def", "an async def")
        remedy = f"annotate step: {_CLASSES[right]}, or make it {other}"
        _refuse(job, f"{keyword} takes a {_CLASSES[right]}, not a {_CLASSES[colour]}: {remedy}")


def _colour(annotation: object) -> str | None:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    colour = getattr(get_origin(annotation) or annotation, "colour", None)
    return colour if colour in _CLASSES else None
