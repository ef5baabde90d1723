"""Values as text that harms no terminal: what a job wrote must not move the cursor or colour the screen."""

from __future__ import annotations

import unicodedata


def plain(value: object) -> str:
    """The value as text, control characters shown as escapes; None is empty. Tabs and ends of lines stay."""
    if value is None:
        return ""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in {"Cc", "Cf", "Cs"} and letter not in "\t\n" else letter
        for letter in text
    )


def shortened(text: str, length: int) -> str:
    """The first line, at most so long."""
    line = text.partition("\n")[0]
    return line if len(line) <= length else f"{line[: length - 1]}…"
