"""Writes reference/settings.md from the settings themselves: ``make docs``; a test holds the page to them."""

from __future__ import annotations

from pathlib import Path

from offload.settings import GROUPS, OPTIONS, SERVE, WORKER

PAGE = Path(__file__).resolve().parent / "reference" / "settings.md"

HEAD = """\
# Settings

Each setting of `offload APP` and `offload worker APP`, with its flag. Later ones win: defaults, then the environment
(`OFFLOAD_<NAME>`; also `PORT` and `WEB_CONCURRENCY` as gunicorn reads them), then flags. Times are seconds, sizes are
bytes. A wrong flag, value or variable is one line, and exit status 2.
"""


def table(command: str, group: str) -> str:
    """The options of one group that a command takes; empty where it takes none."""
    rows = []
    for option in OPTIONS.values():
        if option.group == group and command in option.commands and option.flags:
            flags = ", ".join(f"`{flag}`" for flag in option.flags)
            value = f" {option.kind.metavar}" if option.kind.metavar else ""
            shown = f"`{option.shown}`" if option.shown else ""
            text = option.text.replace("|", "\\|")
            rows.append(f"| {flags}{value} | `{option.variable}` | {shown} | {text} |\n")
    return "".join(["| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n", *rows]) if rows else ""


def section(command: str) -> str:
    """The options of one command, a table for each group."""
    tables = {group.title: table(command, name) for name, group in GROUPS.items()}
    return "\n".join(f"### {title[:1].upper()}{title[1:]}\n\n{rows}" for title, rows in tables.items() if rows)


def page() -> str:
    """The whole page."""
    return f"{HEAD}\n## offload APP\n\n{section(SERVE)}\n## offload worker APP\n\n{section(WORKER)}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
