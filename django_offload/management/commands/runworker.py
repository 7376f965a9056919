"""``manage.py runworker``: run the consumers of named channels, and of servers with ``--dispatch layer``."""

from __future__ import annotations

from collections.abc import Sequence

from django_offload.management.processes import ProcessCommand


class Command(ProcessCommand):
    help = "Run the consumers of named channels; the options are those of offload worker."

    def command(self, arguments: Sequence[str]) -> list[str]:
        return ["worker", *_translated(arguments)]


def _translated(arguments: Sequence[str]) -> list[str]:
    """Options of Channels 1 as ours: ``--layer`` named an alias there, and ``--threads`` what runs side by side."""
    found: list[str] = []
    waiting = ""
    for argument in arguments:
        name, given, value = argument.partition("=")
        if waiting:
            name, given, value, waiting = waiting, "=", argument, ""
        elif name in ("--layer", "--threads") and not given:
            waiting = name
            continue
        if name == "--threads":
            found += ["--concurrency", value]
        elif name == "--layer" and given:
            found += ["--layer" if ":" in value else "--alias", value]
        else:
            found.append(argument)
    return [*found, waiting] if waiting else found
