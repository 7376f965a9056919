"""Consumers run when they are called: what only makes a coroutine or a generator is refused, at start where it shows
there, otherwise by what it returns. A connect consumer that denies by raising would let everybody in.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from offload.exceptions import ConfigurationError

_TRANSPARENT = ("offload", "django_offload")
"""Packages whose decorators return what the consumer returns. Somebody else's may well run a coroutine."""


def check_plain(consumer: Any, what: str, may_yield: bool = False) -> None:
    """Refuse what runs nothing when it is called.

    Args:
        consumer: a callable.
        what: it is, for people.
        may_yield: whether a generator function will do, since what it gives is iterated over.

    Raises:
        ConfigurationError: it is a coroutine function, or a generator function.
    """
    function = consumer
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    function = inspect.unwrap(function, stop=lambda wrapper: not _is_transparent(wrapper))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        kind = "a coroutine function"
    elif inspect.isgeneratorfunction(function) and not may_yield:
        kind = "a generator function"
    else:
        return
    raise ConfigurationError(f"{what} is {kind}, which does nothing when it is called; write it with plain def")


def check_arguments(consumer: Any, what: str, leading: int, groups: Iterable[str]) -> None:
    """Refuse what cannot be called with the named groups of its routing's filters.

    Args:
        consumer: a callable. Somebody else's decorator may take, or give, whatever it likes.
        what: it is, for people.
        leading: how many positional arguments there are before the groups.
        groups: their names.

    Raises:
        ConfigurationError: it takes others.
    """
    function = inspect.unwrap(consumer, stop=lambda wrapper: not _is_transparent(wrapper))
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return  # compiled, and does not tell
    names = list(groups)
    # A class method has its first one already.
    leading -= inspect.ismethod(consumer)
    try:
        signature.bind(*[None] * leading, **dict.fromkeys(names))
    except TypeError as error:
        given = f"the named groups {', '.join(names)} of its filters" if names else "no named groups of its filters"
        raise ConfigurationError(f"{what} does not take {given}: {error}") from None


def _is_transparent(wrapper: Any) -> bool:
    # A wrapper's __module__ is that of what it wraps.
    names = getattr(wrapper, "__globals__", {})
    return str(names.get("__name__")).partition(".")[0] in _TRANSPARENT


def check_result(consumer: Callable[..., Any], result: object) -> None:
    """Refuse what a consumer returns instead of having run. To be called for what is not None.

    Its type tells, whoever compiled it: nothing of the object itself is evaluated, since it may be a lazy one.

    Raises:
        TypeError
    """
    kind: Any = type(result)
    if _is_to_be_run(kind):
        if hasattr(kind, "throw"):
            result.close()  # type: ignore[attr-defined]
        raise TypeError(f"{name_of(consumer)} returned a {kind.__name__} and has not run; write plain def")


@functools.lru_cache(256)
def _is_to_be_run(kind: type) -> bool:
    # As the interpreter looks them up: whatever a metaclass answers to any name.
    names = {name for base in kind.__mro__ for name in vars(base)}
    # A greenlet, too, has a method throw, and has been started.
    return "__await__" in names or "athrow" in names or {"throw", "__next__"} <= names


def run_plain(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call what is a consumer, or a part of one. Returns what it returns, if that may be.

    Raises:
        TypeError: see `check_result`; and what it raises itself.
    """
    result = function(*args, **kwargs)
    if result is not None:
        check_result(function, result)
    return result


def name_of(consumer: Callable[..., Any]) -> str:
    """A consumer's name for logs: module and qualified name."""
    target = getattr(consumer, "__wrapped__", consumer)
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', type(target).__name__)}"
