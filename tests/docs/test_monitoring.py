"""The view of the page on monitoring, served."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.serving import DEADLINE, ROOT, serving
from tests.test_docs import code_block


def test_a_view_gives_the_counters_to_prometheus(tmp_path: Path) -> None:
    page = ROOT / "docs" / "howto" / "monitoring.md"
    (tmp_path / "site_app.py").write_text(code_block(page, "python", "def metrics"))
    with serving("site_app:metrics", cwd=tmp_path) as server:
        for expected in (0, 1):
            with urllib.request.urlopen(server.url(), timeout=DEADLINE) as answer:
                lines = answer.read().decode().splitlines()
            assert f'offload_http_requests{{pid="{server.pids[0]}"}} {expected}' in lines
