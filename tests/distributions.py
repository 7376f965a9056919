"""The project's own distributions, made as they would be published."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT


def build(directory: Path, *kinds: str) -> Path:
    """Both distributions, or those of ``--wheel`` and ``--sdist``, in `directory`.

    They are made of what git knows, so that leftovers of a working tree cannot hide a gap.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout with git")
    tree = directory / "tree"
    tree.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    archive = subprocess.run(
        ["tar", "-c", "--null", "-T", "-"], cwd=ROOT, input=listed, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=tree, input=archive.stdout, check=True)
    made = directory / "dist"
    subprocess.run([sys.executable, "-m", "build", *kinds, "--outdir", made, tree], capture_output=True, check=True)
    return made
