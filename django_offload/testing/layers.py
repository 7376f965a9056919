"""What a test runs with instead of the project's: layers in memory, and other routings."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from django_offload import conf
from offload.consumers import configuration
from offload.consumers.configuration import DEFAULT
from offload.consumers.routing import include

T = TypeVar("T", bound=Callable[..., Any])


@contextlib.contextmanager
def memory_layers() -> Iterator[None]:
    """Fresh layers for every alias: in memory, or as ``TEST_CONFIG`` says. Routings stay as they are."""
    aliases = list(conf.entries())
    _renew(aliases)
    try:
        yield
    finally:
        for alias in aliases:
            configuration.close(alias)
        # With settings that are no longer overridden, where the test did that.
        _renew(list(conf.entries()))


def _renew(aliases: Sequence[str]) -> None:
    for alias in aliases:
        layer = functools.partial(conf.build_layer, alias, for_tests=True)
        configuration.configure(layer, alias=alias, routing=configuration.router_source(alias))


class apply_routes:
    """Other routes for a test: a context manager, and a decorator of functions and test case classes.

    Args:
        routes: a route, a list of routes, a list of such lists, or the dotted path of one.
        aliases: the layers whose routing it replaces.
    """

    def __init__(self, routes: Any, aliases: Sequence[str] = (DEFAULT,)) -> None:
        if isinstance(routes, (list, tuple)):
            routes = [include(entry) if isinstance(entry, (str, list, tuple)) else entry for entry in routes]
        elif not isinstance(routes, str):
            routes = [routes]
        self._routes = routes
        self._aliases = list(aliases)
        self._before: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self._before.append({alias: configuration.router_source(alias) for alias in self._aliases})
        for alias in self._aliases:
            configuration.configure(routing=self._routes, alias=alias)

    def __exit__(self, *error: object) -> None:
        for alias, routing in self._before.pop().items():
            configuration.configure(routing=[] if routing is None else routing, alias=alias)

    enter, exit = __enter__, __exit__

    def __call__(self, target: T) -> T:
        """Decorate a function, or a class of test cases for all of its tests."""
        if isinstance(target, type):
            set_up: Any = target.setUpClass  # type: ignore[attr-defined]

            def set_up_class(cls: Any) -> None:
                self.__enter__()
                cls.addClassCleanup(self.__exit__)
                set_up.__func__(cls)

            target.setUpClass = classmethod(set_up_class)  # type: ignore[attr-defined]
            return target

        @functools.wraps(target)
        def with_routes(*args: Any, **kwargs: Any) -> Any:
            with self:
                return target(*args, **kwargs)

        return with_routes  # type: ignore[return-value]
