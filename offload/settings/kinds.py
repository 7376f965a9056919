"""Kinds of values: how a text, or a configuration file's own value, becomes what a setting keeps.

Each kind reads values from every source, so a value means the same on the command line, in a variable and in a file.
"""

from __future__ import annotations

import grp
import importlib
import inspect
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from offload.exceptions import ConfigurationError, near_matches

LARGEST = 2**31 - 1
"""No number may be larger: neither the kernel's integers nor a loop's timers take more."""
AS_IT_IS = object()


class Kind(Protocol):
    """A kind of values."""

    @property
    def metavar(self) -> str | None:
        """What stands for a value in the help; None for an option without one."""

    @property
    def parsing(self) -> Mapping[str, Any]:
        """Further arguments of argparse's ``add_argument``."""

    def read(self, value: Any, where: str, default: Any) -> Any:
        """A value as its setting keeps it.

        Args:
            value: a str, or what a configuration file has; never None.
            where: who said it, for the message: a flag, a variable, a name in a file.
            default: the setting's.

        Raises:
            ConfigurationError: in one sentence, with the value and the bound.
        """


@dataclass(frozen=True, eq=False, repr=False)
class Number:
    """A number within bounds.

    Args:
        type: int or float.
        low, high: the bounds, both allowed.
        zero: what is kept for 0, where 0 stands for something else.
    """

    type: type[int] | type[float] = int
    low: float = 0
    high: float = LARGEST
    metavar: str = "N"
    zero: Any = AS_IT_IS
    parsing: ClassVar[Mapping[str, Any]] = {}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        try:
            number = self.type(value)
            if isinstance(value, float) and number != value and value == value:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            word = "a whole number" if self.type is int else "a number"
            raise ConfigurationError(f"{where} is {value!r}, which is not {word}") from None
        if number == 0 and self.zero is not AS_IT_IS:
            return self.zero
        if not self.low <= number <= self.high:
            bound = (
                f"{self.low} or more"
                if self.high == LARGEST and number < LARGEST
                else f"from {self.low} to {self.high}"
            )
            raise ConfigurationError(f"{where} is {number}, but it must be {bound}")
        return number


@dataclass(frozen=True, eq=False, repr=False)
class Text:
    """A text as it is."""

    metavar: str = "TEXT"
    parsing: ClassVar[Mapping[str, Any]] = {}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise ConfigurationError(f"{where} is {value!r}, which is not a text")
        return value


@dataclass(frozen=True, eq=False, repr=False)
class Choice:
    """One of a few words.

    Args:
        words: the choices.
        synonyms: other words for them.
        alone: what a flag without a value means; None where it needs one.
    """

    words: Sequence[str]
    synonyms: Mapping[str, str] = field(default_factory=dict)
    alone: str | None = None
    metavar: str = "WORD"

    @property
    def parsing(self) -> Mapping[str, Any]:
        """See `Kind`."""
        return {} if self.alone is None else {"nargs": "?", "const": self.alone}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        word = str(value).strip().lower()
        word = self.synonyms.get(word, word)
        if word not in self.words:
            near = near_matches(word, self.words)
            remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(self.words)}"
            raise ConfigurationError(f"{where} is {value!r}; {remedy}")
        return word


@dataclass(frozen=True, eq=False, repr=False)
class Items:
    """Several texts, as a tuple: a repeated flag, a list in a file, or one text.

    Args:
        commas: whether commas in a text part it.
        check: raises ValueError for an item that cannot be.
        required: whether there must be one.
    """

    metavar: str = "TEXT"
    commas: bool = True
    check: Callable[[str], object] | None = None
    required: bool = False
    parsing: ClassVar[Mapping[str, Any]] = {"action": "append"}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        parts: list[str] = []
        for part in value if isinstance(value, (list, tuple, set)) else [value]:
            if not isinstance(part, (str, os.PathLike)):
                raise ConfigurationError(f"{where} has {part!r}, which is not a text")
            parts.append(os.fspath(part))
        pieces = tuple(parts)
        if self.commas:
            pieces = tuple(piece.strip() for part in parts for piece in part.split(",") if piece.strip())
        for piece in pieces:
            try:
                if self.check is not None:
                    self.check(piece)
            except ValueError as error:
                raise ConfigurationError(f"{where} has {piece!r}: {error}") from None
        if self.required and not pieces:
            raise ConfigurationError(f"{where} is empty; leave it out for {', '.join(default)}")
        return pieces


@dataclass(frozen=True, eq=False, repr=False)
class Switch:
    """On or off: a flag without a value, a bool in a file, a word in a variable."""

    metavar: ClassVar[str | None] = None
    parsing: ClassVar[Mapping[str, Any]] = {"action": "store_const", "const": True}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        word = str(value).strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
        raise ConfigurationError(f"{where} is {value!r}; write true or false")


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """Bits of file modes: a number, or a text in which octal digits begin with 0, as gunicorn reads it."""

    metavar: str = "MASK"
    parsing: ClassVar[Mapping[str, Any]] = {}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        try:
            text = str(value).strip().lower()
            mask = int(text, 8 if text[:1] == "0" and text[1:2].isdigit() else 0)
        except ValueError:
            mask = -1
        if not 0 <= mask <= 0o777:
            raise ConfigurationError(f"{where} is {value!r}, which is no mask of file modes from 000 to 777")
        return mask


@dataclass(frozen=True, eq=False, repr=False)
class Account:
    """A user or a group of this machine, by name or number; kept as its number."""

    metavar: str
    parsing: ClassVar[Mapping[str, Any]] = {}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        if isinstance(value, int) or (value.isascii() and value.isdigit()):
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid if self.metavar == "USER" else grp.getgrnam(value).gr_gid
        except KeyError:
            raise ConfigurationError(f"{where} is {value!r}, and there is no such {self.metavar.lower()}") from None


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A dict of a configuration file."""

    metavar: ClassVar[str | None] = None
    parsing: ClassVar[Mapping[str, Any]] = {}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{where} is {value!r}, which is not a dict")
        return dict(value)


@dataclass(frozen=True, eq=False, repr=False)
class Hook:
    """A function of a configuration file, or the dotted name of one.

    Args:
        arguments: names of what it is called with.
        optional: how many of them, from the end, it may leave out.
    """

    arguments: tuple[str, ...]
    optional: int = 0
    metavar: ClassVar[str | None] = None
    parsing: ClassVar[Mapping[str, Any]] = {}

    def read(self, value: Any, where: str, default: Any) -> Any:
        """See `Kind`."""
        if isinstance(value, str):
            module, _, name = value.rpartition(".")
            try:
                value = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigurationError(f"{where} is {value!r}, which cannot be imported: {error}") from error
        if not callable(value):
            raise ConfigurationError(f"{where} is {value!r}, which is not a function")
        for left_out in range(self.optional + 1):
            given = self.arguments[: len(self.arguments) - left_out]
            if _takes(value, len(given)):
                return value if not left_out else _shortened(value, len(given))
        raise ConfigurationError(f"{where} does not take the arguments ({', '.join(self.arguments)})")


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        # Made in C, and tells nothing of itself.
        return True
    return True


def _shortened(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments[:count])
