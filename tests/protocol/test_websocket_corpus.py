"""What fuzzing found worth keeping, replayed."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.websocket_case import check

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus" / "websocket"


def test_kept_cases_hold() -> None:
    cases = sorted(CORPUS.iterdir())
    assert len(cases) > 100
    for case in cases:
        check(case.read_bytes())
