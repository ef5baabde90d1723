"""What the worker processes load: `durably worker demo.app:durably demo.jobs`."""

from __future__ import annotations

import os
from datetime import timedelta

from demo.databases import open_tables
from durably import Durably

VARIABLE = "DEMO_DATABASE"
LEASE = timedelta(seconds=5)  # SQLite's default; PostgreSQL's is 30 s, which is long to watch

url = os.environ.get(VARIABLE, "sqlite:///demo.db")
durably = Durably(url, lease=LEASE)
tables = open_tables(url)
