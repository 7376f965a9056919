"""How long the machine stood still: time limits of tests are for what they test, not for who else has the processor.

A process of its own sleeps for moments and tells by how much it overslept.
"""

from __future__ import annotations

import subprocess
import sys
import threading

_PROGRAM = """
import sys, time
last = time.monotonic()
while True:
    time.sleep(0.02)
    now = time.monotonic()
    if now - last > 0.12:
        print(now - last, flush=True)
    last = now
"""


class Stalls:
    """Watches within a ``with`` block."""

    def __enter__(self) -> Stalls:
        self._gaps: list[float] = []
        self._process = subprocess.Popen([sys.executable, "-S", "-c", _PROGRAM], stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def seconds(self) -> float:
        """The sum of all stand-stills so far."""
        return sum(self._gaps)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._gaps.append(float(line))
