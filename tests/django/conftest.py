"""A small Django project, set up once, for the tests of django_offload.

This directory must not get an ``__init__.py``: it would become the package ``django``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.core.management import call_command

from offload.consumers import configuration

sys.path.insert(0, str(Path(__file__).parent))
os.environ["DJANGO_SETTINGS_MODULE"] = "testsite.settings"
django.setup()
# Settings are read by now. Programs that other tests start must not inherit them, nor other tests this configuration.
del os.environ["DJANGO_SETTINGS_MODULE"]
configuration.reset()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connections, transaction  # noqa: E402
from django.test import override_settings  # noqa: E402

from django_offload import conf  # noqa: E402


@pytest.fixture(scope="session")
def _database() -> Iterator[None]:
    call_command("migrate", verbosity=0, interactive=False)
    yield
    connections.close_all()


@pytest.fixture
def db(_database: None) -> Iterator[None]:
    """The database, in a transaction that is rolled back, as in Django's TestCase."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    conf.apply()
    yield
    configuration.reset()


SESSION_ENGINES = ["db", "cache", "cached_db", "file", "signed_cookies"]


@pytest.fixture(params=SESSION_ENGINES)
def any_session_engine(request: pytest.FixtureRequest, tmp_path: Path, db: None) -> Iterator[str]:
    """Each of Django's session backends in turn."""
    engine = f"django.contrib.sessions.backends.{request.param}"
    with override_settings(SESSION_ENGINE=engine, SESSION_FILE_PATH=str(tmp_path)):
        yield request.param


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("ada", password="difference engine")
