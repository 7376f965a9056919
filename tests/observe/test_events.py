"""What is counted of WebSockets: each event is told of in one file, so that a name changes there and in the list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from offload.observe.observer import WebSocketEvent

OFFLOAD = Path(__file__).resolve().parents[2] / "offload"


@pytest.mark.parametrize("event", get_args(WebSocketEvent))
def test_an_event_is_told_of_in_one_file(event: str) -> None:
    calls = re.compile(rf'websocket\([^\n]*"{event}"|^_FAULTS.*"{event}"', re.MULTILINE)
    # A fault of the protocol is told of by its close code.
    files = [path.name for path in OFFLOAD.rglob("*.py") if calls.search(path.read_text())]
    assert len(files) == 1, files
