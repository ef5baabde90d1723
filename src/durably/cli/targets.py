"""What the arguments of a command name: a Durably object, and jobs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from durably import Durably, Job, SyncDurably, ValidationError


def make_current_directory_importable() -> None:
    """Let `durably worker app:durably` find app.py where the command is given."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def find_durably(spec: str) -> Durably:
    """Return the Durably object of `module:attribute`, or the one behind a SyncDurably. Raises ValidationError."""
    if ":" not in spec:
        raise ValidationError("DURABLY", f"{spec!r} must look like module:attribute, as in app:durably")
    found = _find(spec, field="DURABLY")
    if isinstance(found, SyncDurably):
        return found.asynchronous
    if not isinstance(found, Durably):
        raise ValidationError("DURABLY", f"{spec} is no Durably object but of type {type(found).__name__}")
    return found


def find_jobs(specs: Sequence[str]) -> list[Job[Any, Any] | str]:
    """Return what `durably.worker` takes: module names as they are, `module:attribute` as the jobs found there.

    Raises ValidationError.
    """
    jobs: list[Job[Any, Any] | str] = []
    for spec in specs:
        if ":" not in spec:
            _module(spec, field="JOBS")
            jobs.append(spec)
            continue
        found = _find(spec, field="JOBS")
        for one in found if _is_iterable(found) else [found]:
            if not _is_job(one):
                raise ValidationError("JOBS", f"{spec} is no job but of type {type(one).__name__}: is @job missing?")
            jobs.append(one)
    return jobs


def find_attribute(spec: str, *, field: str) -> object:
    """Return what `module:attribute` names. Raises ValidationError, naming `field`."""
    if ":" not in spec:
        raise ValidationError(field, f"{spec!r} must look like module:attribute")
    return _find(spec, field=field)


def _is_iterable(found: object) -> TypeGuard[Iterable[object]]:
    return isinstance(found, Iterable)


def _is_job(found: object) -> TypeGuard[Job[Any, Any]]:
    return isinstance(found, Job)


def _find(spec: str, *, field: str) -> object:
    name, _, path = spec.partition(":")
    found: object = _module(name, field=field)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise ValidationError(field, f"module {name!r} has no {path!r}") from error
    return found


def _module(name: str, *, field: str) -> object:
    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        missing = getattr(error, "name", None) or name
        if not (name == missing or name.startswith(f"{missing}.")):
            raise  # the module is there, but something that it imports is not: its traceback says where
        hint = f"; a module is named without its ending: {name[:-3]}" if name.endswith(".py") else ""
        raise ValidationError(field, f"there is no module {name!r} here or among what is installed{hint}") from error
