"""Tests wait for events, under deadlines. Whatever sleeps all the same is named here, with what it sleeps for.

Counted in the text, so that programs which tests write are seen too, whatever language they are in.
"""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent

SLEEPS = {
    "deployment/test_containers.py": (1, "a program that ends at once, and after its parent"),
    "dispatch/site.py": (1, "a consumer that outlasts --dispatch-timeout"),
    "http/apps/busy.py": (1, "the timer whose lateness is measured"),
    "http/apps/freezing.py": (1, "a process that stands still, for longer than the deadlines of its clients"),
    "http/apps/lasting.py": (1, "a request that outlasts the timeout of an earlier one"),
    "http/test_connection_states.py": (1, "one turn of the loop, a step of the machine"),
    "layers/test_conformance_mutants.py": (1, "races, held open for the suite to find"),
    "layers/test_ipc.py": (1, "one turn of the loop, in which a receive begins that is killed then"),
    "layers/test_redis_joining.py": (1, "turns of the loop, as many as between two consumers"),
    "layers/test_redis_killed.py": (1, "one turn of the loop, in which sends are queued that are killed then"),
    "layers/test_redis_subscriber.py": (1, "turns of the loop, after each of which an add is killed"),
    "server/children.py": (1, "an import that never comes back, and ends should nobody kill it"),
    "server/test_blocked_loop.py": (2, "a task that holds the loop for long, and one that is long and does not"),
    "server/test_coroutines.py": (1, "timers of coroutines side by side"),
    "server/test_preload.py": (1, "the timer of a thread that goes on after a fork"),
    "stalls.py": (1, "the stand-still of the machine that is measured"),
    "transport/test_fairness.py": (2, "the timer whose lateness is measured, and a task that gives way once"),
    "websocket/apps/flask_app.py": (2, "the loops that gevent-websocket's users write"),
    "websocket/apps/raw.py": (1, "the loop that gevent-websocket's users write"),
}
"""How many are in each file, and what for."""

# A call, also of what is looked up by its name; or the function, or the program, with its seconds.
_SLEEP = re.compile(r"""\bsleep(?:["')]*\(|,| \d|["'], ["']\d)""")


def test_nothing_sleeps_that_could_wait_for_an_event() -> None:
    found = {str(path.relative_to(TESTS)): len(_SLEEP.findall(path.read_text())) for path in TESTS.rglob("*.py")}
    assert {name: count for name, count in found.items() if count} == {
        name: count for name, (count, _) in SLEEPS.items()
    }
