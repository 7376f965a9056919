"""Tests wait for events, under deadlines. Whatever sleeps all the same is named here, with what it sleeps for."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent

SLEEPS = {
    "django/test_django_servers.py": "the end of a process that is no child of the test",
    "django/test_django_settings.py": "a coroutine that would go on",
    "http/apps/busy.py": "the timer whose lateness is measured",
    "http/apps/freezing.py": "a process that stands still",
    "http/apps/lasting.py": "a request that outlasts the timeout of an earlier one",
    "layers/test_conformance_mutants.py": "races, held open for the suite to find",
    "layers/test_layer_inbox.py": "the way to a server that is far",
    "transport/test_connection_ends.py": "the pace of a client",
    "transport/test_fairness.py": "the timer whose lateness is measured",
    "websocket/apps/flask_app.py": "the loop that gevent-websocket's users write",
    "websocket/apps/raw.py": "the loop that gevent-websocket's users write",
}


def _sleeps(path: Path) -> bool:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    sleeps = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "sleep"]
    # No seconds give way to others, and are no wait.
    return any([ast.unparse(argument) for argument in call.args] != ["0"] for call in sleeps)


def test_nothing_sleeps_that_could_wait_for_an_event() -> None:
    assert {str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py") if _sleeps(path)} == SLEEPS.keys()
