"""SQL for looking at the table of events as it is: a row may stand for two events."""

from __future__ import annotations

TOLD = (
    "(SELECT 2 * id AS id, run_id, seq, type, step FROM {events} UNION ALL"
    " SELECT 2 * id - 1, run_id, seq - 1, 'step:start', step FROM {events} WHERE started_at IS NOT NULL)"
)
"""In place of `{events}`: a row an event, with the ids that readers get."""
