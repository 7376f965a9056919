"""The command line in the process that tests: what it refuses, what it reads, and nothing of it left behind."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offload import cli
from offload.settings.reading import Reading

Refused = Callable[..., tuple[int, str]]
Read = Callable[..., Reading]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty directory, no variables of others, and the log, the path and the modules as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in (*os.environ,):
        if name.startswith("OFFLOAD_") or name in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            monkeypatch.delenv(name)
    log = logging.getLogger("offload")
    before: dict[str, Any] = {"handlers": log.handlers, "level": log.level, "propagate": log.propagate}
    modules = set(sys.modules)
    yield
    vars(log).update(before)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs a command that is to be refused; its status, and its one line without ``offload: error: ``."""

    def run(*arguments: str, **environ: str) -> tuple[int, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        status = cli.main(arguments)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("offload: error: ")
        return status, lines[0].removeprefix("offload: error: ")

    return run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads the settings of a command line of ``offload``."""

    def run(*arguments: str, **environ: str) -> Reading:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return cli.reader(arguments).read()

    return run
