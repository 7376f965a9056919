"""From all sources to settings, at the start and at each reload, with remarks for the log; and settings to text.

Later sources win: the defaults, and in their place the variables that gunicorn reads as defaults (``PORT``,
``WEB_CONCURRENCY``, ``FORWARDED_ALLOW_IPS``); the configuration file; the variables ``GUNICORN_CMD_ARGS`` and
``OFFLOAD_<NAME>``; the command line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from offload.exceptions import ConfigurationError, near_matches
from offload.settings.command_line import parse
from offload.settings.config_file import find
from offload.settings.groups import DEFAULT_LAYER, OPTIONS, Settings
from offload.settings.kinds import Number
from offload.settings.option import SERVE, Option, Source
from offload.settings.unused import SPECIAL, UNUSED

CONFIG_VARIABLE = "OFFLOAD_CONFIG"
ARGUMENTS_VARIABLE = "GUNICORN_CMD_ARGS"
_ASKED = ("check_config", "print_config")
_DEFAULT_VARIABLES = {"WEB_CONCURRENCY": "workers", "FORWARDED_ALLOW_IPS": "forwarded_allow_ips"}
_SOURCE_COLUMN = 48
_FILE_NAMES: Mapping[str, Option] = {
    **OPTIONS, **{option.gunicorn: option for option in OPTIONS.values() if option.gunicorn is not None}
}  # fmt: skip


class File(Protocol):
    """Where settings are read by their names; messages call it by `name`."""

    @property
    def name(self) -> str: ...

    def read(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        settings: of all sources; without an application where none names it.
        file: the configuration file, as messages call it; None where there is none.
        remarks: for the log, a line each: what has no effect, and what is unknown.
        differences: for the log, a line each: what was set, and means something else than to gunicorn.
    """

    settings: Settings
    file: str | None
    remarks: tuple[str, ...]
    differences: tuple[str, ...]


class Reader:
    """Reads the settings of one command line, once or again.

    Args:
        arguments: what follows the command.
        environ: its variables.
        command: "serve" or "worker".
        own_variables: variables of offload's that are no settings.
        version: what ``--version`` prints.
        file: read in place of a configuration file that is named or lies there.

    Attributes:
        asked: what the command line asks for instead of serving: "check_config", "print_config".

    Raises:
        ConfigurationError: the command line is wrong, or that in ``GUNICORN_CMD_ARGS``.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        command: str = SERVE,
        own_variables: Sequence[str] = (),
        version: str = "",
        file: File | None = None,
    ) -> None:
        self._environ = dict(environ)
        self._command = command
        self._own_variables = own_variables
        self._flags = parse(command, arguments, version)
        # A worker is started beside the server of a project, whose file has the server's number and pid file.
        self._more_flags = self._further_flags() if command == SERVE else {}
        self.asked = frozenset(name for name in _ASKED if self._flags.get(name) or self._more_flags.get(name))
        place = self._flags["config"] or environ.get(CONFIG_VARIABLE) or self._more_flags.get("config")
        self._file: File | None = file or (find(place) if place or command == SERVE else None)

    def _further_flags(self) -> dict[str, Any]:
        try:
            return parse(SERVE, shlex.split(self._environ.get(ARGUMENTS_VARIABLE, "")))
        except (ValueError, ConfigurationError) as error:
            raise ConfigurationError(f"{ARGUMENTS_VARIABLE}: {error}") from None

    def read(self) -> Reading:
        """Read all sources; the configuration file anew.

        Raises:
            ConfigurationError: in one sentence, what is wrong, and where.
        """
        said = _Said()
        self._take_file(said)
        self._take_flags(self._more_flags, said, ARGUMENTS_VARIABLE)
        for option in OPTIONS.values():
            if option.flags and self._environ.get(option.variable):
                said.set(option, self._environ[option.variable], Source(option.variable))
        self._take_flags(self._flags, said, None)
        self._take_defaults(said)
        said.remarks += self._unknown_variables()
        return Reading(
            Settings.of(self._flags["app"] or said.app, said.values, said.sources),
            self._file.name if self._file is not None else None,
            tuple(said.remarks),
            tuple(said.differences()),
        )

    def _take_file(self, said: _Said) -> None:
        file = self._file
        if file is None:
            return
        unknown: list[str] = []
        for name, value in file.read().items():
            option = _FILE_NAMES.get(name)
            if option is not None:
                if value is not None and self._command in option.commands:
                    said.set(option, value, Source(name, file.name))
            elif name == "wsgi_app":
                said.app = value or ""
            elif name in UNUSED:
                text = f"{name} = {value!r}" if isinstance(value, (str, int, float)) else name
                said.leave(name, value, Source(text, file.name))
            elif name not in SPECIAL and not name.startswith("_"):
                unknown += _unknown_name(name, value, self._command)
        if unknown:
            said.remarks.append(f"{file.name}: not settings, and ignored: {', '.join(unknown)}")

    def _take_flags(self, flags: Mapping[str, Any], said: _Said, place: str | None) -> None:
        for name, value in flags.items():
            if value is None:
                continue
            if name in OPTIONS:
                said.set(OPTIONS[name], value, Source(OPTIONS[name].flag, place))
            elif name in UNUSED:
                flag = UNUSED[name].flags[-1]
                said.leave(name, value, Source(flag if UNUSED[name].is_switch else f"{flag} {value}", place))

    def _take_defaults(self, said: _Said) -> None:
        for variable, name in _DEFAULT_VARIABLES.items():
            value = self._environ.get(variable)
            # No address is a list of addresses, too; no number is as good as no variable.
            if name not in said.values and (value or (value is not None and name == "forwarded_allow_ips")):
                said.set(OPTIONS[name], value, Source(variable))
        port = self._environ.get("PORT")
        if port and "bind" not in said.values and self._command == SERVE:
            if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
                raise ConfigurationError(f"PORT is {port!r}, which is not the number of a port")
            said.set(OPTIONS["bind"], f"0.0.0.0:{port}", Source("PORT"))

    def _unknown_variables(self) -> list[str]:
        """Variables that look like settings and are none; others may have their own reasons to begin like that."""
        known = {option.variable for option in OPTIONS.values() if option.flags}
        known |= {CONFIG_VARIABLE, *self._own_variables}
        unknown = sorted(name for name in self._environ if name.startswith("OFFLOAD_") and name not in known)
        for name in unknown:
            # What they have in common says nothing.
            suffixes = [other.removeprefix("OFFLOAD_") for other in sorted(known)]
            near = near_matches(name.removeprefix("OFFLOAD_"), suffixes, 0.8)
            if near:
                raise ConfigurationError(f"unknown variable {name}; did you mean OFFLOAD_{near[0]}?")
        return [f"not settings, and ignored: {', '.join(unknown)}"] if unknown else []


def left_as_they_were(at_start: Settings, anew: Settings) -> Iterator[str]:
    """Settings that were changed since the start, and that a reload does not change, by their sources."""
    for name, option in OPTIONS.items():
        if option.at_start and at_start.value_of(name) != anew.value_of(name):
            yield str(anew.sources.get(name, name))


def lines(settings: Settings, command: str) -> Iterator[str]:
    """The settings in effect: a line for each option of a command, as a configuration file has it, with its source."""
    for name, option in OPTIONS.items():
        if command in option.commands:
            text = f"{name} = {_shown(option, settings.value_of(name))}"
            yield f"{text:<{_SOURCE_COLUMN}}  # {settings.sources.get(name, 'default')}"


def summary(settings: Settings) -> str:
    """Where the settings came from, in one line; empty where all are defaults."""
    places: dict[str, list[str]] = {}
    for source in (settings.sources[name] for name in OPTIONS if name in settings.sources):
        place = source.place or ("command line" if source.what.startswith("-") else "environment")
        places.setdefault(place, []).append(source.what)
    return "; ".join(f"{place} ({', '.join(names)})" for place, names in places.items())


def _shown(option: Option, value: Any) -> str:
    if isinstance(option.kind, Number) and value == option.kind.zero:
        return "0"
    if isinstance(value, tuple):
        return repr(list(value) or ([DEFAULT_LAYER] if option.name == "layer" else []))
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
    return repr(value)


class _Said:
    """What the sources said so far; a later word on the same option replaces an earlier one."""

    def __init__(self) -> None:
        self.app = ""
        self.values: dict[str, Any] = {}
        self.sources: dict[str, Source] = {}
        self.remarks: list[str] = []

    def set(self, option: Option, value: Any, source: Source) -> None:
        self.values[option.name] = option.read(value, str(source))
        self.sources[option.name] = source

    def leave(self, name: str, value: Any, source: Source) -> None:
        if not UNUSED[name].is_silent(value):
            self.remarks.append(f"{source} has no effect: {UNUSED[name].why}")

    def differences(self) -> Iterator[str]:
        for name, value in self.values.items():
            option, source = OPTIONS[name], self.sources[name]
            if option.differs is not None and value != option.default and source.what != option.variable:
                yield f"{source}: {option.differs}"


def _unknown_name(name: str, value: Any, command: str) -> Iterator[str]:
    """A name of a configuration file that may have been meant as a setting of the command."""
    known = [known for known, option in _FILE_NAMES.items() if command in option.commands]
    near = near_matches(name.lower(), [*known, *UNUSED], 0.8)
    if near:
        yield f"{name} (did you mean {near[0]}?)"
    elif not isinstance(value, ModuleType) and not callable(value):
        yield name
