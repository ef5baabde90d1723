"""Which type the result of a step has: what its function's return annotation says. Nothing is called here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import CellType, FunctionType
from typing import get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from durably.codec import PLAIN_JSON, Codec, codec_for
from durably.errors import UsageError
from durably.jobs import Target


class Function:
    """What is known of a step's function."""

    __slots__ = ("codec", "is_async")

    def __init__(self, codec: Codec[object], *, is_async: bool) -> None:
        self.codec = codec
        self.is_async = is_async
        """A plain function is called in a thread."""


_known: WeakKeyDictionary[FunctionType, Function] = WeakKeyDictionary()
_types: WeakKeyDictionary[FunctionType, object] = WeakKeyDictionary()


def function_of(step: str, fn: object, returns: object = None) -> Function:
    """What is known of `fn`; `returns` wins over its annotation. Raises UsageError, naming the step."""
    if returns is not None or type(fn) is not FunctionType:
        check_function(step, fn)
        return Function(codec_for(return_type(fn) if returns is None else returns), is_async=is_async(fn))
    known = _known.get(fn)
    if known is None:
        known = _known[fn] = Function(codec_for(return_type(fn)), is_async=is_async(fn))
    return known


def return_type(fn: object) -> object:
    """The type that `fn` returns, awaited if it is async; a class returns itself; PLAIN_JSON without annotation.

    Raises UsageError when the annotation names something that cannot be found at run time.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return fn
    function = _function(fn)
    if function is None:
        return PLAIN_JSON
    if function not in _types:
        _types[function] = _awaited(_annotation(function))
    return _types[function]


def is_async(fn: object) -> bool:
    """Whether calling `fn` gives a coroutine; a plain function is called in a thread."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - not whether, but how


def check_function(step: str, fn: object) -> None:
    """Raise UsageError, naming the step, for what cannot be called."""
    if isinstance(fn, Target):
        raise UsageError(f"step {step!r}: {fn!r} is a job, not a function: step.trigger starts a run of it")
    if not callable(fn):
        raise UsageError(f"step {step!r}: needs a function, not a {type(fn).__name__}")


def _function(fn: object) -> FunctionType | None:
    fn = getattr(fn, "__func__", fn)
    if isinstance(fn, FunctionType):
        return fn
    call: object = getattr(type(fn), "__call__", None)  # noqa: B004 - its annotations are wanted
    return call if isinstance(call, FunctionType) else None


def _annotation(function: FunctionType) -> object:
    try:
        annotation: object = function.__annotations__.get("return", PLAIN_JSON)
        return _evaluated(function, annotation) if isinstance(annotation, str) else annotation
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"the return annotation of {function.__qualname__} cannot be read ({error}): "
            "import its types at run time, or pass returns="
        ) from error


def _evaluated(function: FunctionType, annotation: str) -> object:
    """Only the return annotation: the parameters may have types that exist for type checkers only."""

    def stand_in() -> None: ...

    stand_in.__annotations__ = {"return": annotation}
    hints = get_type_hints(
        stand_in,
        globalns=inspect.unwrap(function).__globals__,
        localns=_enclosed(function),
        include_extras=True,
    )
    return hints["return"]


def _enclosed(function: Callable[..., object]) -> dict[str, object]:
    """Variables of the enclosing functions, for types that are defined there."""
    inner = inspect.unwrap(function)
    names: tuple[str, ...] = getattr(getattr(inner, "__code__", None), "co_freevars", ())
    cells: tuple[CellType, ...] = getattr(inner, "__closure__", None) or ()
    found: dict[str, object] = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _awaited(annotation: object) -> object:
    """A plain function may return an awaitable, which is awaited too."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Coroutine and len(arguments) == 3:  # noqa: PLR2004 - what it yields, takes and returns
        return arguments[2]
    if origin is Awaitable and arguments:
        return arguments[0]
    return annotation
