"""The command line: a parser made of the declarations, and errors of one line with the nearest right word."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from offload.exceptions import ConfigurationError, near_matches
from offload.settings.groups import GROUPS, OPTIONS
from offload.settings.option import SERVE, WORKER
from offload.settings.unused import SPECIAL, UNUSED

USAGE = """\
usage: offload [OPTIONS] APP                     serve a WSGI application, and its consumers over WebSockets
       offload worker [OPTIONS] APP              run the consumers of named channels; no HTTP
       offload send [--layer URL] CHANNEL JSON   put one message into a channel
       offload group-send [--layer URL] GROUP JSON
       offload check [OPTIONS] APP               import APP, read settings and routing, say what is wrong
       offload settings [OPTIONS] [APP]          the settings in effect, and where each came from
       offload --help                            all options

APP is MODULE[:CALLABLE], for instance project.wsgi, app:application or "app:create_app()".
"""
_DESCRIPTIONS = {
    SERVE: "Serve a WSGI application over HTTP, and its consumers over WebSockets.",
    WORKER: "Run the consumers of named channels; no HTTP.",
}


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, with the nearest right name."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        raise ConfigurationError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser.parse_args`."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            known = [
                flag for action in self._actions if action.help != argparse.SUPPRESS for flag in action.option_strings
            ]
            near = near_matches(wrong, known, 0.65)
            hint = f"; did you mean {near[0]}?" if near else f"; '{self.prog} --help' lists all"
            kind = "option" if wrong.startswith("-") else "argument"
            raise ConfigurationError(f"unknown {kind} {wrong!r}{hint}")
        return parsed


def settings_parser(command: str, version: str) -> Parser:
    """The flags of ``offload APP`` ("serve") and of ``offload worker APP`` ("worker")."""
    name = "offload" if command == SERVE else f"offload {command}"
    parser = Parser(
        prog=name,
        usage=f"{name} [OPTIONS] APP",
        description=_DESCRIPTIONS[command],
        epilog="Other commands: worker, send, group-send, check and settings; offload alone lists them."
        if command == SERVE
        else None,
        allow_abbrev=False,
    )
    parser.add_argument(
        "app", metavar="APP", nargs="?", help='MODULE[:CALLABLE]; the callable defaults to "application"'
    )
    parser.add_argument("-v", "--version", action="version", version=f"offload {version}")
    parser.add_argument(*SPECIAL["config"][0].split(), metavar="FILE", help=SPECIAL["config"][1])
    if command == SERVE:
        for special in ("check_config", "print_config"):
            flag, text = SPECIAL[special]
            parser.add_argument(flag, action="store_true", help=text)
    for name, group in GROUPS.items():
        options = [o for o in OPTIONS.values() if o.group == name and command in o.commands and o.flags]
        section = parser.add_argument_group(group.title)
        for option in options:
            section.add_argument(
                *option.flags,
                dest=option.name,
                metavar=option.kind.metavar,
                default=None,
                help=(option.text + (f" (default: {option.shown})" if option.shown else "")).replace("%", "%%"),
                **option.kind.parsing,
            )
    if command == SERVE:
        for name, unused in UNUSED.items():
            if unused.flags:
                action: dict[str, Any] = {"action": "store_const", "const": True} if unused.is_switch else {}
                parser.add_argument(*unused.flags, dest=name, help=argparse.SUPPRESS, **action)
    return parser


def parse(command: str, arguments: Sequence[str], version: str = "") -> dict[str, Any]:
    """What the command line has, by the names of options and of gunicorn's settings; None for what it has not.

    Args:
        command: "serve" or "worker".
        arguments: what follows it.
        version: what ``--version`` prints.

    Raises:
        ConfigurationError: an unknown option or argument, or a missing value.
    """
    parsed: dict[str, Any] = vars(settings_parser(command, version).parse_args(list(arguments)))
    return parsed
