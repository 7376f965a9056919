"""The commands, and what each does with its settings."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from offload import __version__
from offload.exceptions import ConfigurationError, InvalidChannelName, OffloadError
from offload.layers.addresses.hub_path import MOVED_VARIABLE, RUNTIME_DIR_VARIABLE
from offload.server import logs, system
from offload.server.agents import sitecustomize
from offload.server.control import BOOT_FAILED, BootError
from offload.server.directory import Directory
from offload.server.handover import VARIABLE as HANDOVER_VARIABLE
from offload.server.patch import patch
from offload.server.supervisor import Supervisor
from offload.settings import DEFAULT_LAYER, SERVE, WORKER, Settings
from offload.settings.command_line import USAGE, Parser
from offload.settings.reading import Reader, Reading, left_as_they_were, lines, summary

if TYPE_CHECKING:
    from offload.observe.statsd import StatsD

log = logging.getLogger("offload.server")

USAGE_ERROR = 2
FAILED = 1

COMMANDS = (WORKER, "send", "group-send", "check", "settings")
_OWN_VARIABLES = (RUNTIME_DIR_VARIABLE, MOVED_VARIABLE, HANDOVER_VARIABLE, sitecustomize.VARIABLE)


def reader(arguments: Sequence[str], command: str = SERVE) -> Reader:
    """Of the settings of a command line, and of this process's environment."""
    return Reader(arguments, os.environ, command, _OWN_VARIABLES, __version__)


def supervise(arguments: Sequence[str], command: str) -> int:
    """``offload APP`` and ``offload worker APP``."""
    system.ensure_streams()
    source = reader(arguments, command)
    if source.asked:
        return check(source, "print_config" in source.asked)
    reading = source.read()
    settings = reading.settings
    directory, statsd = _enter(settings)
    tell(reading)
    entry, what = ("offload.server.worker", "worker") if command == WORKER else (Supervisor.entry, Supervisor.what)

    def reread() -> Settings:
        anew = source.read()
        _set_up_logs(anew.settings)
        os.environ.update(anew.settings.process.variables)
        tell(anew)
        for changed in left_as_they_were(settings, anew.settings):
            log.warning("%s is changed by a restart, not by a reload", changed)
        return anew.settings

    return Supervisor(settings, directory, entry, what, reread, statsd).run()


def _enter(settings: Settings) -> tuple[Directory, StatsD | None]:
    """What comes before any code of the project's: its environment, directory and log."""
    if not settings.app:
        raise ConfigurationError("APP is missing; write MODULE[:CALLABLE], for instance project.wsgi")
    os.environ.update(settings.process.variables)
    directory = Directory(settings.process.chdir, settings.process.pythonpath)
    directory.enter()
    return directory, _set_up_logs(settings)


def _set_up_logs(settings: Settings) -> StatsD | None:
    """The log, and figures of it for StatsD."""
    logs.set_up(settings.log)
    metrics = settings.metrics
    if metrics.statsd_host is None:
        return None
    from offload.observe.statsd import StatsD, StatsDHandler

    statsd = StatsD(metrics.statsd_host, metrics.statsd_prefix, metrics.dogstatsd_tags)
    logging.getLogger("offload").addHandler(StatsDHandler(statsd))
    return statsd


def tell(reading: Reading) -> None:
    """What a reading has to say, into the log."""
    came_from = summary(reading.settings)
    if came_from:
        log.info("settings: %s", came_from)
    for difference in reading.differences:
        log.info("%s", difference)
    for remark in reading.remarks:
        log.warning("%s", remark)


def check(source: Reader, prints: bool = False) -> int:
    """``offload check APP``, and ``--check-config``; with ``--print-config`` the settings are printed, too."""
    try:
        reading = source.read()
        settings = reading.settings
        if prints:
            print_settings(settings)
        _enter(settings)
    except ConfigurationError as error:
        print(f"offload: error: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    tell(reading)
    # As in a server process, before the application is imported.
    patch()
    from offload.server.check import Check

    found = Check(settings)
    for problem in found.problems:
        print(f"offload: error: {problem}", file=sys.stderr)  # noqa: T201
    for problem in found.unreachable:
        print(f"offload: warning: {problem}", file=sys.stderr)  # noqa: T201
    if not found.problems:
        print(f"{settings.app}: nothing is wrong")  # noqa: T201
    return FAILED if found.problems else 0


def print_settings(settings: Settings) -> None:
    """``offload settings``, and a part of ``--print-config``."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines(settings, SERVE)))
        sys.stdout.flush()
    except BrokenPipeError:
        # Its reader has seen enough, as `head` has; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def send(arguments: Sequence[str], command: str) -> int:
    """``offload send`` and ``offload group-send``."""
    target = "GROUP" if command == "group-send" else "CHANNEL"
    parser = Parser(prog=f"offload {command}", description=f"Send one message to a {target.lower()}.")
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
    from offload.layers.addresses.urls import layer_from_url
    from offload.layers.memory import MemoryLayer

    with closing(layer_from_url(parsed.layer or os.environ.get("OFFLOAD_LAYER") or DEFAULT_LAYER)) as layer:
        (layer.group_send if command == "group-send" else layer.send)(parsed.target, content)
    if isinstance(layer, MemoryLayer):
        raise OffloadError(
            "the layer 'memory' lives in the memory of this process, so the message reached nobody; "
            "name the server's with --layer or OFFLOAD_LAYER"
        )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit status."""
    if arguments is None:
        sitecustomize.begin_clean()
    args = list(sys.argv[1:] if arguments is None else arguments)
    command = args[0] if args and args[0] in COMMANDS else SERVE
    try:
        return _run(command, args if command == SERVE else args[1:])
    except (ConfigurationError, InvalidChannelName) as error:
        print(f"offload: error: {error}", file=sys.stderr)  # noqa: T201
        return BOOT_FAILED if isinstance(error, BootError) else USAGE_ERROR
    except (OffloadError, TypeError) as error:
        print(f"offload: error: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return 130


def _run(command: str, arguments: Sequence[str]) -> int:
    if command in (SERVE, WORKER):
        if not arguments and not reader((), command).read().settings.app:
            print(USAGE, end="", file=sys.stderr)  # noqa: T201
            return USAGE_ERROR
        return supervise(arguments, command)
    if command == "check":
        return check(reader(arguments))
    if command == "settings":
        print_settings(reader(arguments).read().settings)
        return 0
    return send(arguments, command)
