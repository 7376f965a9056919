"""The command line: flags and environment to settings, and what each command does with them."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NoReturn

from offload import __version__
from offload.exceptions import ConfigurationError, InvalidChannelName, OffloadError
from offload.layers.addresses.urls import layer_from_url
from offload.layers.ipc.path import RUNTIME_DIR_VARIABLE
from offload.layers.memory import MemoryLayer
from offload.server import logs, streams
from offload.server.directory import Directory
from offload.server.supervisor import Supervisor
from offload.settings import GROUPS, OPTIONS, SERVE, WORKER, Settings

log = logging.getLogger("offload.server")

USAGE_ERROR = 2
FAILED = 1
BOOT_FAILED = 3

_VARIABLES = {"WEB_CONCURRENCY": "workers", "FORWARDED_ALLOW_IPS": "forwarded_allow_ips"}
COMMANDS = ("worker", "send", "group-send")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest right name."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            known = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(wrong, known, 1, 0.65)
            hint = f"; did you mean {near[0]}?" if near else f"; '{self.prog} --help' lists all"
            kind = "option" if wrong.startswith("-") else "argument"
            raise ConfigurationError(f"unknown {kind} {wrong!r}{hint}")
        return parsed


_DESCRIPTIONS = {
    "serve": "Serve a WSGI application over HTTP, and its consumers over WebSockets.",
    "worker": "Run the consumers of named channels; no HTTP.",
}


def settings_parser(command: str) -> argparse.ArgumentParser:
    """The flags of ``offload APP`` ("serve") and of ``offload worker APP`` ("worker")."""
    name = "offload" if command == "serve" else f"offload {command}"
    parser = _Parser(
        prog=name,
        usage=f"{name} [OPTIONS] APP",
        description=_DESCRIPTIONS[command],
        epilog="Other commands: offload worker APP, offload send CHANNEL JSON, offload group-send GROUP JSON "
        "(see their --help)."
        if command == "serve"
        else None,
        allow_abbrev=False,
    )
    parser.add_argument("app", metavar="APP", help='MODULE[:CALLABLE]; the callable defaults to "application"')
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
    parser.add_argument("--version", action="version", version=f"offload {__version__}")
    return parser


def read_settings(arguments: Sequence[str], environ: Mapping[str, str], command: str = SERVE) -> Settings:
    """Defaults, then the environment (``OFFLOAD_<NAME>``, ``PORT``, ``WEB_CONCURRENCY``), then flags.

    Raises:
        ConfigurationError: a flag, variable or value is wrong.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    port = environ.get("PORT")
    if port:
        values["bind"] = OPTIONS["bind"].read(f"0.0.0.0:{port}", "PORT")
        sources["bind"] = "PORT"
    variables = [*_VARIABLES.items(), *((option.variable, name) for name, option in OPTIONS.items())]
    for variable, name in variables:
        if environ.get(variable):
            values[name] = OPTIONS[name].read(environ[variable], variable)
            sources[name] = variable
    parsed = vars(settings_parser(command).parse_args(list(arguments)))
    app = parsed.pop("app")
    for name, value in parsed.items():
        if value is not None:
            flag = OPTIONS[name].flags[-1]
            values[name] = OPTIONS[name].read(value, flag)
            sources[name] = flag
    if (
        command == SERVE
        and port
        and values["bind"] == (f"0.0.0.0:{port}",)
        and not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536)
    ):
        raise ConfigurationError(f"PORT is {port!r}, which is not the number of a port")
    return Settings.of(app, values, sources)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none; others may have their own reasons to begin like that.

    Raises:
        ConfigurationError: one is nearly a setting.
    """
    known = {option.variable for option in OPTIONS.values()} | {RUNTIME_DIR_VARIABLE}
    unknown = sorted(name for name in environ if name.startswith("OFFLOAD_") and name not in known)
    for name in unknown:
        # What they have in common says nothing.
        suffixes = [other.removeprefix("OFFLOAD_") for other in sorted(known)]
        near = difflib.get_close_matches(name.removeprefix("OFFLOAD_"), suffixes, 1, 0.8)
        if near:
            raise ConfigurationError(f"unknown variable {name}; did you mean OFFLOAD_{near[0]}?")
    return unknown


def supervise(arguments: Sequence[str], command: str) -> int:
    """``offload APP`` and ``offload worker APP``."""
    streams.ensure()
    settings = read_settings(arguments, os.environ, command)
    unknown = unknown_variables(os.environ)
    directory = Directory(settings.process.chdir, settings.process.pythonpath)
    directory.enter()
    logs.set_up(settings.log.level, settings.log.file)
    if unknown:
        log.warning("not settings, and ignored: %s", ", ".join(unknown))
    if command == WORKER:
        return Supervisor(settings, directory, "offload.server.worker", "worker").run()
    return Supervisor(settings, directory).run()


def send(arguments: Sequence[str], command: str) -> int:
    """``offload send`` and ``offload group-send``."""
    target = "GROUP" if command == "group-send" else "CHANNEL"
    parser = _Parser(prog=f"offload {command}", description=f"Send one message to a {target.lower()}.")
    parser.add_argument("--layer", action="append", metavar="URL", help="the layer's address (default: ipc:)")
    parser.add_argument("target", metavar=target)
    parser.add_argument("content", metavar="JSON", help='an object, for instance {"text": "hello"}')
    parsed = parser.parse_args(list(arguments))
    try:
        parsed.content.encode()
        content = json.loads(parsed.content)
    except UnicodeEncodeError:
        raise ConfigurationError("the content is not UTF-8") from None
    except RecursionError:
        raise ConfigurationError("the content is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"the content is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f'the content is a JSON {type(content).__name__}; write an object: {{"text": "hello"}}'
        )
    with closing(layer_from_url(parsed.layer or os.environ.get("OFFLOAD_LAYER") or "ipc:")) as layer:
        (layer.group_send if command == "group-send" else layer.send)(parsed.target, content)
    if isinstance(layer, MemoryLayer):
        raise OffloadError(
            "the layer 'memory' lives in the memory of this process, so the message reached nobody; "
            "name the server's with --layer or OFFLOAD_LAYER"
        )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit status."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    command = args[0] if args and args[0] in COMMANDS else None
    try:
        if command is None:
            return supervise(args, SERVE)
        return supervise(args[1:], command) if command == WORKER else send(args[1:], command)
    except (ConfigurationError, InvalidChannelName) as error:
        print(f"offload: error: {error}", file=sys.stderr)  # noqa: T201
        from offload.server.control import BootError

        return BOOT_FAILED if isinstance(error, BootError) else USAGE_ERROR
    except (OffloadError, TypeError) as error:
        print(f"offload: error: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return 130
