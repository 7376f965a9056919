"""An environment of a stranger's: a new one, with the wheel of this checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributions import build


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which pip finds the wheel."""
    return build(tmp_path_factory.mktemp("distributions"), "--wheel")
