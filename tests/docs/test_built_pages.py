"""The built documentation: Sphinx warns of nothing, and each page fits a desk's screen and a telephone's."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import offload
from django_offload import testing
from docs.log_lines import lines as log_lines
from offload import consumers
from tests.browser import chromium
from tests.serving import ROOT

WIDTHS = (1280, 390)
SIZE = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages in HTML; `make docs` is the same."""
    built = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", str(built / "trees")]
    run = subprocess.run([*command, "docs", str(built / "html")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return sorted((built / "html").rglob("*.html"))


def test_pages_fit_the_width_of_a_desk_and_of_a_telephone_in_light_and_dark(pages: list[Path], tmp_path: Path) -> None:
    assert {"index", "settings", "layers", "search"} <= {page.stem for page in pages}
    too_wide = []
    backgrounds = {}
    with chromium(tmp_path / "profile") as browser:
        for page in pages:
            browser.get(page.as_uri())
            for width in WIDTHS:
                metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                wanted, there = browser.execute_script(SIZE)
                if wanted > there:
                    too_wide.append(f"{page.stem} takes {wanted} pixels of {there}")
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            backgrounds[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert too_wide == []
    assert backgrounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}


def test_python_api_has_each_public_name(pages: list[Path]) -> None:
    (page,) = (page.read_text() for page in pages if page.stem == "python-api")
    names = [*offload.__all__, *consumers.__all__, *testing.__all__]
    assert [name for name in names if f'<span class="pre">{name}</span>' not in page] == []


def test_log_lines_are_there_for_each_logger(pages: list[Path]) -> None:
    (page,) = (page.read_text() for page in pages if page.stem == "log-lines")
    assert re.findall(r"<h2>(offload\.\w+)<", page) == [
        "offload.server", "offload.http", "offload.websocket", "offload.consumer", "offload.layer",
    ]  # fmt: skip
    words = html.unescape(re.sub("<[^>]+>", "", page))
    assert [text for lines in log_lines().values() for _, text in lines if text not in words] == []


def test_each_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [
        name
        for path in sorted((ROOT / "docs").glob("*/*.md"))
        if f"({(name := str(path.relative_to(ROOT / 'docs')))})" not in index
    ]
    assert missing == []
