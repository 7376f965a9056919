"""P7: the database, and what a consumer asks of it. All servers of the comparison use these settings."""

from __future__ import annotations

import os

from django.db import connection

CONNECTIONS = 200
WAIT = "select pg_sleep(0.01)"


def databases() -> dict[str, dict[str, object]]:
    """Django's DATABASES: the PostgreSQL whose socket is in the directory BENCHMARK_POSTGRES, behind Django's pool."""
    return {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": os.environ["BENCHMARK_POSTGRES"],
            "OPTIONS": {"pool": {"min_size": CONNECTIONS, "max_size": CONNECTIONS}},
        }
    }


def wait() -> None:
    """What takes 10 ms in the database, and nothing here."""
    with connection.cursor() as cursor:
        cursor.execute(WAIT)
        cursor.fetchone()
