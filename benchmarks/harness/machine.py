"""What the figures were measured on, without saying whose machine it is; and which CPU does what."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import resource
import subprocess
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.harness.model import BenchmarkError


@dataclasses.dataclass(frozen=True)
class Pinning:
    """CPU of the server, and CPU of the client and Redis. None: the kernel decides."""

    server: int | None = None
    client: int | None = None

    def __str__(self) -> str:
        if self.server is None:
            return "not pinned"
        return f"server on CPU {self.server}, client and Redis on CPU {self.client}"


def choose_pinning(wanted: bool) -> Pinning:
    """The first two CPUs that this process may use, if it has two and pinning is wanted."""
    cpus = sorted(os.sched_getaffinity(0))
    return Pinning(cpus[0], cpus[1]) if wanted and len(cpus) > 1 else Pinning()


def raise_descriptor_limit(needed: int) -> None:
    """Let this process and its children open `needed` descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    except (ValueError, OSError) as error:
        raise BenchmarkError(
            f"needs {needed} open files, the hard limit is {hard}; raise it with ulimit -Hn"
        ) from error


_BUILD = (
    "import platform, sysconfig; c = sysconfig.get_config_var('CONFIG_ARGS') or ''; "
    "print(platform.python_implementation(), platform.python_version(), "
    "'(optimized build)' if '--enable-optimizations' in c else '(build without profile-guided optimization)')"
)
"""Worth a factor of 1.2: a figure says little without it."""


def describe(python: str) -> dict[str, str]:
    """CPU, memory, kernel and the programs that are no packages; `python` is the interpreter that serves."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 1024**2:.0f} GiB" if memory else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": subprocess.run([python, "-c", _BUILD], capture_output=True, text=True, check=True).stdout.strip(),
        "node": _version("node", "--version"),
        "redis": _version("redis-server", "--version"),
        "offload": _commit(),
        "cc": _version("cc", "--version"),
    }


def _commit() -> str:
    """The commit that is measured; "+" when files of the packages differ from it."""
    git = ("git", "-C", str(ROOT))
    try:
        head = subprocess.run((*git, "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=True).stdout
        status = (*git, "status", "--porcelain", "--", "offload", "django_offload")
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "not from a repository"
    return f"commit {head.strip()}{'+' if changed else ''}"


def _version(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "not found"
    found = re.search(r"\d+\.\d+(\.\d+)?", output)
    return found[0] if found else "unknown"
