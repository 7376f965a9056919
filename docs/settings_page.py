"""Writes reference/settings.md from the settings themselves: ``make docs``; a test holds the page to them."""

from __future__ import annotations

from pathlib import Path

from offload.settings import GROUPS, OPTIONS, SERVE, WORKER

PAGE = Path(__file__).resolve().parent / "reference" / "settings.md"

HEAD = """\
# Settings

Each setting of `offload APP` and `offload worker APP`, with its flag, its variable, and its name in a configuration
file. Later sources win: defaults, the file, variables, flags; [From gunicorn](../howto/from-gunicorn.md) tells more.
Times are seconds, sizes are bytes. A wrong value is one line with the nearest right word, and exit status 2.
`offload settings` prints the settings in effect, and where each came from.
"""


def table(command: str, group: str) -> str:
    """The options of one group that a command takes; empty where it takes none."""
    rows = []
    for option in OPTIONS.values():
        if option.group == group and command in option.commands:
            flags = ", ".join(f"`{flag}`" for flag in option.flags)
            value = f" {option.kind.metavar}" if option.kind.metavar else ""
            shown = f"`{option.shown}`" if option.shown else ""
            text = option.text.replace("|", "\\|")
            names = f"`{option.name}`" if option.gunicorn in (None, option.name) else f"`{option.gunicorn}`"
            variable = f"`{option.variable}`" if option.flags else ""
            rows.append(f"| {flags}{value} | {variable} | {names} | {shown} | {text} |\n")
    return (
        "".join(["| flag | variable | in a file | default | meaning |\n| --- | --- | --- | --- | --- |\n", *rows])
        if rows
        else ""
    )


def section(command: str) -> str:
    """The options of one command, a table for each group."""
    tables = {group.title: table(command, name) for name, group in GROUPS.items()}
    return "\n".join(f"### {title[:1].upper()}{title[1:]}\n\n{rows}" for title, rows in tables.items() if rows)


def page() -> str:
    """The whole page."""
    return f"{HEAD}\n## offload APP\n\n{section(SERVE)}\n## offload worker APP\n\n{section(WORKER)}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
