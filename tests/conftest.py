"""The table of `make chaos`: what is promised, what was done, what was seen. And Ctrl-C, for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

_PROMISE, _SEEN = "chaos promise", "chaos seen"


def pytest_configure() -> None:
    # Where a shell runs the tests in the background, they and what they start would ignore it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _promise(request: pytest.FixtureRequest, record_property) -> None:  # type: ignore[no-untyped-def]
    """Have the report of a test of chaos name its promise, in whichever process it runs."""
    for mark in request.node.iter_markers("chaos"):
        record_property(_PROMISE, mark.args[0])


@pytest.fixture
def saw(record_property):  # type: ignore[no-untyped-def]
    """Called with a few words: what a test of chaos has seen, figures above all."""
    return lambda words: record_property(_SEEN, words)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("markexpr") != "chaos":
        return
    terminalreporter.section("chaos")
    for promise, done, seen in sorted(_rows(terminalreporter)):
        terminalreporter.write_line(f"| {promise} | {done} | {seen} |")


def _rows(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, str]]:
    for outcome, word in (("passed", "held"), ("failed", "BROKEN")):
        for report in terminalreporter.getreports(outcome):
            properties = dict(report.user_properties)
            if report.when == "call" and _PROMISE in properties:
                done = report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " ")
                yield properties[_PROMISE], done, "; ".join(filter(None, (word, properties.get(_SEEN))))
