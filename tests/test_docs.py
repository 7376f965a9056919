"""What the documentation says is true: its code runs, its links lead somewhere, its settings page is the settings."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import gunicorn
import pytest
from gunicorn.config import KNOWN_SETTINGS
from websockets.sync.client import connect

from docs import gunicorn_page, settings_page
from offload.layers.backend import Backend
from offload.settings import SERVE
from offload.settings.command_line import settings_parser
from offload.settings.unused import UNUSED
from tests.serving import DEADLINE, ROOT, serving

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_block(page: Path, language: str, containing: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if containing in block]
    return str(block)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs" / "tutorial" / "first-chat.md"], ids=lambda p: p.name
)
def test_the_chat_of_a_page_runs_in_several_processes(page: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(code_block(page, "python", "def ws_receive"))
    env = {"PYTHONPATH": str(ROOT), "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")}
    with (
        serving("chat", workers=2, cwd=tmp_path, env=env) as server,
        contextlib.ExitStack() as clients,
    ):
        url = server.url("/chat/lobby/", "ws")
        members = [clients.enter_context(connect(url)) for _ in range(4)]
        members[0].send("hello")
        assert [member.recv(DEADLINE) for member in members] == ["hello"] * 4
        sent = subprocess.run(
            [sys.executable, "-m", "offload", "group-send", "chat-lobby", '{"text": "from the shell"}'],
            cwd=tmp_path, env=server.environ, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        assert [member.recv(DEADLINE) for member in members] == ["from the shell"] * 4


def test_the_settings_page_is_what_the_settings_say() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run: make docs"


def test_page_on_gunicorn_answers_for_each_of_its_settings() -> None:
    text = gunicorn_page.PAGE.read_text()
    for setting in KNOWN_SETTINGS:
        assert gunicorn_page.answer(setting), setting.name
    if f"that of gunicorn {gunicorn.__version__}.\n" in text:
        assert text == gunicorn_page.page(), "run: make docs"


def test_flags_of_gunicorn_are_taken() -> None:
    flags = set(settings_parser(SERVE, "").format_help().split()) | {f for u in UNUSED.values() for f in u.flags}
    flags = {flag.rstrip(",") for flag in flags}
    for setting in KNOWN_SETTINGS:
        for flag in setting.cli or ():
            assert flag in flags, f"{setting.name}: {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_versions_are_those_of_the_package() -> None:
    metadata = (ROOT / "setup.cfg").read_text()
    rows = dict(re.findall(r"^\| (\S+) \| (\d.*) \|$", (ROOT / "docs/reference/versions.md").read_text(), re.MULTILINE))
    pythons = re.findall(r"Language :: Python :: (3\.\d+)", metadata)
    djangos = re.findall(r"Django :: (\d\.\d)", metadata)
    assert rows["Python"] == ", ".join(pythons)
    assert rows["Django"] == ", ".join(djangos) + ", and what is newer"
    for package, name in {"gevent": "gevent", "redis-py": r"redis\[hiredis\]"}.items():
        [oldest] = set(re.findall(rf"^    {name} >= (.*)$", metadata, re.MULTILINE))
        assert rows[package] == f"{oldest} and newer"


def test_every_option_that_the_documentation_names_exists() -> None:
    flags = subprocess.run(
        [sys.executable, "-c", "from offload.settings import OPTIONS\n"
         "print(*[flag for option in OPTIONS.values() for flag in option.flags])"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    known = {*flags, "--layer", "--help", "--version"}
    for page in PAGES:
        for flag in re.findall(r"`offload [^`]*?(--[a-z-]+)", page.read_text()):
            assert flag in known, f"{page.name} names {flag}"


def test_files_that_contributors_are_sent_to_exist() -> None:
    names = re.findall(r"`((?:offload|django_offload|docs|tests|examples)/[\w./-]+)`", PAGES[1].read_text())
    assert len(names) > 20
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_reading_path_has_twelve_files_and_the_classes_that_it_names() -> None:
    rows = re.findall(r"^\| (\d+) \| `(.*?)` \| (.*) \|$", PAGES[1].read_text(), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 13))
    for _, name, reason in rows:
        source = (ROOT / name).read_text()
        for word in re.findall(r"`([A-Z]\w+|prepare)`", reason.partition(":")[0]):
            assert re.search(rf"^(class|def) {word}\b", source, re.MULTILINE), f"{name} has no {word}"


def test_page_counts_the_methods_of_a_layer() -> None:
    methods = [name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")]
    assert len(methods) <= 16
    assert f"fills in the {len(methods)} methods of" in (ROOT / "docs/howto/write-a-layer.md").read_text()
