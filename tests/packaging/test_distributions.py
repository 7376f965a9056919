"""The source distribution and the wheel, as they would be published."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from offload import __version__
from tests.distributions import build
from tests.serving import ROOT

REPOSITORY = "https://github.com/django-offload/django-offload"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both."""
    return build(tmp_path_factory.mktemp("distributions"))


def test_an_index_would_take_both(dist: Path) -> None:
    files = sorted(dist.iterdir())
    assert [file.name for file in files] == [
        f"django_offload-{__version__}-py3-none-any.whl", f"django_offload-{__version__}.tar.gz",
    ]  # fmt: skip
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_the_wheel_has_the_two_packages_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "offload", "django_offload", f"django_offload-{__version__}.dist-info",
    }  # fmt: skip
    assert {"offload/py.typed", "django_offload/py.typed", "offload/layers/redis/scripts/push.lua"} <= set(names)


@pytest.mark.parametrize(
    "needed",
    ["tests/serving.py", "docs/index.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "conf/Procfile"],
)
def test_the_source_distribution_has_what_a_packager_needs(dist: Path, needed: str) -> None:
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        assert f"django_offload-{__version__}/{needed}" in archive.getnames()


def test_a_user_with_strict_types_is_content(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    user = tmp_path / "user.py"
    user.write_text((ROOT / "tests/packaging/strict_user.py").read_text())
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "/dev/null", "--cache-dir", "cache", user]
    checked = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_the_readme_of_an_index_page_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert targets
    for target in targets:
        found = re.fullmatch(rf"{re.escape(REPOSITORY)}/(?:blob|tree)/main/(.*)", target)
        assert found, f"a page of an index cannot follow {target}"
        assert (ROOT / found[1]).exists(), target
