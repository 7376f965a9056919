"""The two servers that programs on one machine can meet at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.anywhere.places import Place, place


@pytest.fixture(scope="module", params=["redis", "ipc"])
def meeting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found
