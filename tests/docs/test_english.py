"""Pages, explanations of options, and messages are in plain English; see ``english.py``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from offload.settings import OPTIONS
from tests.docs.english import faults
from tests.serving import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
MODULES = [path for package in ("offload", "django_offload") for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_in_plain_english(page: Path) -> None:
    assert faults(page.read_text()) == []


def test_options_are_explained_in_plain_english() -> None:
    texts = [(option.name, text) for option in OPTIONS.values() for text in (option.text, option.differs or "")]
    assert [(name, fault) for name, text in texts for fault in faults(text)] == []


def test_messages_are_in_plain_english() -> None:
    """Those of the log and of exceptions: the texts with which something is called."""
    found = []
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        texts = [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
        found += [(path.name, fault) for text in texts if isinstance(text, str) for fault in faults(text)]
    assert found == []


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("What it never read is named in the log.", "avoid 'What it never read is named in the log.'"),
        ("The log names it: what it never read is lost.", "avoid ': what it never read is lost.'"),
        ("The answer is waited for.", "avoid 'is waited for'"),
        ("Each connection has its turn.", "avoid 'has its turn'"),
        ("The log says so.", "avoid 'says so'"),
        ("It has the file by the name that the shell had for it.", "avoid 'by the name that'"),
        ("`--one` is short. `--two` " + "goes on " * 14 + "still.", "30 words"),
        ("| cell | " + "word " * 30 + "|", "30 words"),
    ],
)
def test_a_sentence_with_a_fault_is_found(sentence: str, fault: str) -> None:
    (found,) = faults(sentence)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "page",
    [
        "What is a consumer?",
        "The log names the file that it never read.",
        "It ends. `code` begins a sentence, " + "and goes on " * 7 + "to its end.",
        "```\n" + "word " * 40 + "\n```\n",
        "# " + "word " * 40,
    ],
)
def test_a_page_without_a_fault_passes(page: str) -> None:
    assert faults(page) == []
