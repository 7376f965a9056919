"""``manage.py check --deploy`` has nothing against the examples."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.serving import ROOT


@pytest.mark.parametrize("https", ["0", "1"])
@pytest.mark.parametrize("example", ["chat", "progress"])
def test_the_examples_pass_the_checks_for_deployment(example: str, https: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "DEBUG"],
        cwd=ROOT / "examples" / example,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SECRET_KEY": secrets.token_urlsafe(60), "HTTPS": https},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("System check identified no issues")
