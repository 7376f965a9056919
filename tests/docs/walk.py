"""A page of the documentation as its reader walks it: files are written, commands are run, in the page's order.

A fenced block is a file where the line before it names one (``chat/models.py`:``), or a file's further lines (``At the
end of `mysite/settings.py`:``). A block of ``sh`` is commands.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.serving import DEADLINE

_BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?P<end>[Aa]t the end of )?`(?P<name>[\w./-]+\.\w+)`:$")


@dataclass(frozen=True)
class Step:
    """One block: a file of the reader's, or commands."""

    file: str | None
    appended: bool
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines for a shell, where it is no file."""
        return [] if self.file else self.text.splitlines()


def steps(page: Path) -> Iterator[Step]:
    """What the page has its reader do, in order; blocks that only show something are left out."""
    for block in _BLOCK.finditer(page.read_text()):
        named = _FILE.search(block["before"])
        if block["language"] == "sh":
            yield Step(None, False, block["text"])
        elif named:
            yield Step(named["name"], bool(named["end"]), block["text"])


class Reader:
    """A person who follows a page in a directory, with a new environment in ``.venv``.

    Args:
        directory: empty.
        wheels: where pip finds the wheel of this checkout.
        env: for the commands.
    """

    def __init__(self, directory: Path, wheels: Path, env: Mapping[str, str]) -> None:
        self.directory = directory
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OFFLOAD_")},
            "PATH": f"{directory}/.venv/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            **env,
        }

    def write(self, step: Step) -> None:
        """Write a step's file."""
        assert step.file is not None
        path = self.directory / step.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if step.appended else "") + step.text)

    def run(self, *commands: str) -> str:
        """Run commands in a shell; what they print. The first that fails is the end."""
        done = subprocess.run(
            ["sh", "-ec", "\n".join(commands)], cwd=self.directory, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{commands}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@contextlib.contextmanager
def running(reader: Reader, command: str) -> Iterator[None]:
    """A server of the page, until it is told to end."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"], cwd=reader.directory, env=reader.env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "is ready" in line or "Quit the server" in line:
                ready.set()
        ready.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert ready.wait(DEADLINE), lines
        assert process.poll() is None, lines
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE)
        thread.join(DEADLINE)
        process.stdout.close()
