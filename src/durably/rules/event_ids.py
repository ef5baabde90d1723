"""The ids of events. A row of the table has two: the even one, and before it one for a second event that it stands for.

The row of a step that ran through says its `step:start` too. All other rows leave their first id out.
"""

from __future__ import annotations


def last_id(row: int) -> int:
    """The id of the event that the row is about: 2 for row 1, 4 for row 2."""
    return 2 * row


def first_id(event_id: int) -> int:
    """The lowest id that the row of this event may have: 1 for 1 and 2, 3 for 3 and 4."""
    return event_id - 1 + event_id % 2


def row_of(event_id: int) -> int:
    """The row of this event: 1 for 1 and 2, 2 for 3 and 4."""
    return (event_id + 1) // 2


def last_whole_row(event_id: int) -> int:
    """The last row of which nothing comes after this event: 0 for 1, 1 for 2 and 3."""
    return event_id // 2
