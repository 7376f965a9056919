"""Writes reference/settings.md from the settings themselves: ``make docs``; a test holds the page to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offload.settings import setting_fields

PAGE = Path(__file__).resolve().parent / "reference" / "settings.md"

HEAD = """\
# Settings

Each setting of `offload APP` and `offload worker APP`, with its flag. Later ones win: defaults, then the environment
(`OFFLOAD_<NAME>`; also `PORT` and `WEB_CONCURRENCY` as gunicorn reads them), then flags. Times are seconds, sizes are
bytes. A wrong flag, value or variable is one line, and exit status 2.
"""


def shown(value: Any) -> str:
    """A default, as the table shows it."""
    if value is None or value in ((), ""):
        return ""
    return f"`{', '.join(value)}`" if isinstance(value, tuple) else f"`{value}`"


def table(command: str) -> str:
    """The settings of one command."""
    rows = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for name, spec in setting_fields(command).items():
        meta = spec.metadata
        flags = ", ".join(f"`{flag}`" for flag in meta["flags"])
        value = f" {meta['metavar']}" if meta.get("metavar") else ""
        text = meta["text"].replace("|", "\\|")
        rows.append(f"| {flags}{value} | `OFFLOAD_{name.upper()}` | {shown(spec.default)} | {text} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    return f"{HEAD}\n## offload APP\n\n{table('serve')}\n\n## offload worker APP\n\n{table('worker')}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
