"""The peers' packages: a virtual environment for Python, node_modules for Node; made on demand and again on change."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import BUILD, ROOT, SUITE, VENV
from benchmarks.harness.model import BenchmarkError, Contender
from benchmarks.harness.processes import last_line

NODE = SUITE / "peers" / "node"


class Environments:
    """What is installed for the contenders. A package that cannot be had is an error of those who need it only.

    Args:
        python: the interpreter of the Python contenders.
        revision: an earlier commit of ours to measure against; None for the peers.
    """

    def __init__(self, python: str = sys.executable, revision: str | None = None) -> None:
        self.python = python
        self.revision = revision
        self.before = BUILD / "before"
        self._venv = VENV if python == sys.executable else VENV.with_name(f"{VENV.name}-{Path(python).name}")
        self._errors: dict[str, str] = {}
        self._versions: dict[str, str] = {}

    @property
    def bin(self) -> Path:
        """The programs of the Python contenders."""
        return self._venv / "bin"

    def prepare(self, contenders: list[Contender]) -> None:
        """Install what these contenders need, if it is not there yet."""
        runtimes = {contender.runtime for contender in contenders}
        if "python" in runtimes:
            python = [contender for contender in contenders if contender.runtime == "python"]
            self._prepare_python({name for it in python for name in (*it.packages, *it.accelerators)})
            if self.revision is not None:
                self._prepare_before(self.revision)
        if "node" in runtimes:
            self._prepare_node()

    def check(self, contender: Contender) -> None:
        """Raise the error that keeps this contender from being measured, if there is one."""
        for name in (contender.runtime, *contender.packages):
            if name in self._errors:
                raise BenchmarkError(f"{name} cannot be installed: {self._errors[name]}")

    def versions(self, contender: Contender) -> dict[str, str]:
        names = (*contender.packages, *contender.accelerators)
        return {name: self._versions[name] for name in names if name in self._versions}

    def _prepare_python(self, packages: set[str]) -> None:
        stamp = self._venv / "bench.stamp"
        version = subprocess.run([self.python, "-VV"], capture_output=True, check=True).stdout
        wanted = hashlib.sha256((ROOT / "setup.cfg").read_bytes() + version).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"making {self._venv.name}", file=sys.stderr)
            error = _run([self.python, "-m", "venv", str(self._venv)]) or self._pip("--editable", f"{ROOT}[bench]")
            if not error:
                stamp.write_text(wanted)
            elif error := self._pip("--editable", f"{ROOT}[redis]"):  # then without the peers
                self._errors["python"] = error
                return
        self._read_versions()
        # What the extra does not name, or could not install: one by one, so that one peer's trouble stays its own.
        for package in sorted(packages - self._versions.keys() - self._errors.keys()):
            if error := self._pip(package):
                self._errors[package] = error
        self._read_versions()

    def _read_versions(self) -> None:
        script = (
            "import json\n"
            "from importlib.metadata import distributions\n"
            "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in distributions()}))"
        )
        done = subprocess.run([str(self.bin / "python"), "-c", script], capture_output=True, text=True, check=True)
        self._versions.update(json.loads(done.stdout))

    def _pip(self, *arguments: str) -> str | None:
        return _run([*_pip(self._venv), *arguments])

    def _prepare_before(self, revision: str) -> None:
        """A checkout of an earlier commit, with an environment of its own."""
        commit = ("git", "-C", str(self.before), "rev-parse", "HEAD")
        wanted = subprocess.run(
            ["git", "rev-parse", f"{revision}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
        )
        if wanted.returncode:
            raise BenchmarkError(f"--before {revision}: git knows no such commit")
        stands = self.before.exists() and subprocess.run(commit, capture_output=True, text=True).stdout == wanted.stdout
        if stands and (self.before / ".venv/bin/offload").exists():
            return
        print(f"making {self.before.name} of {revision}", file=sys.stderr)
        shutil.rmtree(self.before, ignore_errors=True)
        error = (
            _run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(self.before)])
            or _run(["git", "-C", str(self.before), "checkout", "--quiet", wanted.stdout.strip()])
            or _run([self.python, "-m", "venv", str(self.before / ".venv")])
            or _run([*_pip(self.before / ".venv"), "--editable", f"{self.before}[redis]"])
        )
        if error:
            raise BenchmarkError(f"--before {revision}: {error}")

    def _prepare_node(self) -> None:
        npm = shutil.which("npm")
        if not npm or not shutil.which("node"):
            self._errors["node"] = "node and npm are not on this machine"
            return
        modules = NODE / "node_modules" / ".package-lock.json"
        if not modules.exists() or modules.stat().st_mtime < (NODE / "package-lock.json").stat().st_mtime:
            print("installing the Node peers", file=sys.stderr)
            error = _run([npm, "ci", "--no-audit", "--no-fund", "--prefix", str(NODE)])
            if error:
                self._errors["node"] = error
                return
        for package in ("ws", "ioredis"):
            manifest = json.loads((NODE / "node_modules" / package / "package.json").read_text())
            self._versions[package] = manifest["version"]


def _pip(venv: Path) -> list[str]:
    return [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _run(command: list[str]) -> str | None:
    """Run a command. Returns the last line of its complaint, None when it had none."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not done.returncode:
        return None
    return last_line(done.stdout + done.stderr) or f"{Path(command[0]).name} ended with {done.returncode}"
