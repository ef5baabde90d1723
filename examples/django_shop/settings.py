"""The shop's settings: PostgreSQL where DATABASE_URL says so, else a file of SQLite."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

URL = os.environ.get("DATABASE_URL", "sqlite:///shop.db")
_parts = urlsplit(URL)

SECRET_KEY = "for the example only"  # noqa: S105  # it signs nothing
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["examples.django_shop"]
ROOT_URLCONF = "examples.django_shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_SQLITE: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": URL.removeprefix("sqlite:///"),
    "OPTIONS": {"transaction_mode": "IMMEDIATE"},  # a transaction that reads first may write later, beside a worker
}
_POSTGRES: dict[str, Any] = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": _parts.path[1:],
    "HOST": _parts.hostname,
    "PORT": _parts.port,
    "USER": _parts.username,
    "PASSWORD": _parts.password or "",
}
DATABASES = {"default": _SQLITE if _parts.scheme == "sqlite" else _POSTGRES}
