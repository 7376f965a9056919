"""One option: its declaration at a field of a group, and the collection of all by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from offload.settings.kinds import AS_IT_IS, LARGEST, Choice, Hook, Items, Kind, Number, Switch, Table, Text

SERVE = "serve"
WORKER = "worker"
BOTH = (SERVE, WORKER)
_SERVE = (SERVE,)


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Where a value was read.

    Attributes:
        what: a flag, a variable, a name in a file.
        place: the file, or the variable that has flags; None for this command line and this environment.
    """

    what: str
    place: str | None = None

    def __str__(self) -> str:
        return self.what if self.place is None else f"{self.what} in {self.place}"


@dataclass(frozen=True, eq=False, repr=False)
class Option:
    """One option.

    Attributes:
        flags: on the command line; none for what only a configuration file can have.
        text: what it means, for the help and the docs.
        kind: reads its values.
        commands: which take it, of "serve" and "worker".
        name: in variables and configuration files.
        gunicorn: the name in gunicorn's configuration files, where that is another.
        differs: how its meaning differs from gunicorn's, in one clause; None where it does not.
        at_start: whether a reload leaves it as it was.
        shown: the default, as people read it.
        group: the field of `Settings`.
        field: the field of that group.
        default: where nobody says anything.
    """

    flags: tuple[str, ...]
    text: str
    kind: Kind
    commands: tuple[str, ...]
    name: str
    gunicorn: str | None
    differs: str | None
    at_start: bool
    shown: str
    default: Any
    group: str = ""
    field: str = ""

    @property
    def flag(self) -> str:
        """The flag that messages name."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    @property
    def variable(self) -> str:
        """The environment's name for it."""
        return f"OFFLOAD_{self.name.upper()}"

    def read(self, value: Any, where: str) -> Any:
        """A value as the field keeps it; see `Kind.read`."""
        return self.kind.read(value, where, self.default)


def declare(
    kind: Kind,
    default: Any,
    flags: str,
    text: str,
    *,
    commands: tuple[str, ...] = _SERVE,
    name: str | None = None,
    gunicorn: str | None = None,
    differs: str | None = None,
    at_start: bool = False,
    shown: str | None = None,
) -> Any:
    """A field of a group.

    Args:
        kind: reads its values.
        default: where nobody says anything.
        flags: separated by spaces; the first long one names it. None for what only a configuration file can have.
        text: what it means, in one clause that begins without a capital.
        commands: which take it.
        name: in variables and configuration files, where the flag does not say it.
        gunicorn: the name in gunicorn's configuration files, where that is another.
        differs: how its meaning differs from gunicorn's.
        at_start: whether a reload leaves it as it was.
        shown: the default, as people read it, where `default` does not tell.
    """
    if name is None:
        name = next(flag for flag in flags.split() if flag.startswith("--"))[2:].replace("-", "_")
    if shown is None:
        shown = ", ".join(default) if isinstance(default, tuple) else "" if default is None else str(default)
    option = Option(tuple(flags.split()), text, kind, commands, name, gunicorn, differs, at_start, shown, default)
    return field(default=default, metadata={"option": option})


def whole(
    default: int | None, flags: str, text: str, *, low: int = 0, high: int = LARGEST, zero: Any = AS_IT_IS, **more: Any
) -> Any:
    """A whole number; ``zero=None`` keeps None for 0, which stands for no limit."""
    return declare(Number(int, low, high, "N", zero), default, flags, text, **more)


def size(
    default: int | None, flags: str, text: str, *, low: int = 0, high: int = LARGEST, zero: Any = AS_IT_IS, **more: Any
) -> Any:
    """A number of bytes; see `whole`."""
    return declare(Number(int, low, high, "BYTES", zero), default, flags, text, **more)


def seconds(default: float | None, flags: str, text: str, *, low: float = 0, zero: Any = AS_IT_IS, **more: Any) -> Any:
    """A time in seconds; see `whole`."""
    return declare(Number(float, low, LARGEST, "S", zero), default, flags, text, **more)


def words(default: str | None, flags: str, text: str, *, metavar: str, **more: Any) -> Any:
    """A text."""
    return declare(Text(metavar), default, flags, text, **more)


def choice(
    default: str,
    flags: str,
    text: str,
    choices: tuple[str, ...],
    *,
    metavar: str,
    synonyms: Mapping[str, str] | None = None,
    alone: str | None = None,
    **more: Any,
) -> Any:
    """One of a few words."""
    return declare(Choice(choices, synonyms or {}, alone, metavar), default, flags, text, **more)


def items(
    default: tuple[str, ...],
    flags: str,
    text: str,
    *,
    metavar: str,
    commas: bool = True,
    check: Any = None,
    required: bool = False,
    **more: Any,
) -> Any:
    """Several texts; with `commas` one text may name several."""
    return declare(Items(metavar, commas, check, required), default, flags, text, **more)


def switch(flags: str, text: str, **more: Any) -> Any:
    """On or off; off unless somebody asks for it."""
    return declare(Switch(), False, flags, text, shown="", **more)


def table(name: str, text: str, **more: Any) -> Any:
    """A dict of a configuration file."""
    return declare(Table(), None, "", text, name=name, **more)


def hook(name: str, arguments: str, text: str, *, optional: int = 0, **more: Any) -> Any:
    """A function of a configuration file; see `Hook`."""
    return declare(Hook(tuple(arguments.split()), optional), None, "", text, name=name, **more)


def options_of(groups: Mapping[str, Any]) -> Mapping[str, Option]:
    """All options by their names, in the order of their declaration.

    Args:
        groups: by the field of `Settings`; each a dataclass whose fields `declare` made.

    Raises:
        TypeError: two have one name.
    """
    found: dict[str, Option] = {}
    for group, options in groups.items():
        for spec in fields(options):
            option = replace(spec.metadata["option"], group=group, field=spec.name)
            if option.name in found:
                raise TypeError(f"two options are called {option.name}")
            found[option.name] = option
    return found
