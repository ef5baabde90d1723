"""Durably over HTTP: routes for triggers, looks and actions, and streams of events (SSE). Needs `durably[http]`.

    app = create_app(durably, jobs=[import_csv], auth=Auth(authenticate=check_token))

gives a Starlette application, to be mounted anywhere or served alone.
"""

from durably.http.app import create_app
from durably.http.auth import Auth, Reject, RunsFilter, TriggerRequest

__all__ = ["Auth", "Reject", "RunsFilter", "TriggerRequest", "create_app"]
