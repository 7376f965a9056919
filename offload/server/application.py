"""Finding what to serve: the application's module, its callable, and its routing."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from offload.consumers.routing import is_routing
from offload.exceptions import ConfigurationError, near_matches

DEFAULT_CALLABLE = "application"


def load_module(spec: str) -> ModuleType:
    """Import the module of ``MODULE[:CALLABLE]``.

    Raises:
        ConfigurationError: there is no such module. An error inside the module comes through as it is.
    """
    module_name = spec.partition(":")[0]
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"cannot import {module_name!r}: there is no module {error.name!r} in {os.getcwd()} or on the Python path"
            # One word may be meant as something else.
            + ("" if {".", ":"} & set(spec) else "; the commands are worker, send, group-send, check and settings")
        ) from error
    except (ValueError, TypeError) as error:
        if module_name and not module_name.startswith("."):
            raise
        raise ConfigurationError(f"{spec!r} is not MODULE:CALLABLE, for instance project.wsgi:application") from error


def load_application(spec: str, may_be_routing: bool = False) -> tuple[ModuleType, Callable[..., Any]]:
    """Import ``MODULE[:CALLABLE]``; the callable may be a call that makes it, with literals as arguments.

    Args:
        spec: as the command line has it.
        may_be_routing: whether the module need not have a WSGI callable, where a ``channel_routing`` is in it.

    Returns:
        The module and its WSGI callable; without one, what answers every request with 404.

    Raises:
        ConfigurationError: as `load_module`, and when the module has no such callable.
    """
    module = load_module(spec)
    module_name, _, name = spec.partition(":")
    if may_be_routing and not name and not hasattr(module, DEFAULT_CALLABLE) and hasattr(module, "channel_routing"):
        return module, websockets_only
    name, call = _parted(spec, name or DEFAULT_CALLABLE)
    target: Any = module
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            near = near_matches(part, _callables(target), 0.4)
            hint = f"; did you mean {module_name}:{near[0]}?" if near else f"; name yours as {module_name}:NAME"
            raise ConfigurationError(f"module {module_name!r} has no {name!r}{hint}") from None
    if not callable(target):
        raise ConfigurationError(f"{module_name}:{name} is a {type(target).__name__}, not a WSGI callable")
    if call is not None:
        target = _called(spec, target, call)
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__):
        raise ConfigurationError(f"{module_name}:{name} is an ASGI application; {_wsgi_hint(module_name)}")
    return module, target


def check_routing_name(module: ModuleType) -> None:
    """Find a module's routing that has another name than ``channel_routing``, which alone is looked for.

    Raises:
        ConfigurationError: there is one.
    """
    named = [name for name, value in vars(module).items() if is_routing(value)]
    near = near_matches("channel_routing", named, 0.0)
    if near:
        raise ConfigurationError(
            f"module {module.__name__!r} has routes in {near[0]!r}, and no 'channel_routing'; name it that, "
            f"or run with --routing {module.__name__}:{near[0]}"
        )


def _parted(spec: str, text: str) -> tuple[str, ast.Call | None]:
    """The name in ``NAME``, ``NAME.NAME`` or ``NAME(LITERAL, KEY=LITERAL)``, and the call, if it is one."""
    try:
        expression = ast.parse(text, mode="eval").body
    except SyntaxError:
        expression = None
    call = expression if isinstance(expression, ast.Call) else None
    named = expression if call is None else call.func
    name = ast.unparse(named) if named is not None else ""
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(f"{spec!r} is not MODULE:NAME, or a call as in MODULE:NAME('text', key=1)")
    return name, call


def _called(spec: str, factory: Callable[..., Any], call: ast.Call) -> Callable[..., Any]:
    """What a factory makes; the arguments are literals."""
    try:
        arguments = [ast.literal_eval(argument) for argument in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        raise ConfigurationError(
            f"{spec!r} is a call with arguments other than literals, such as 'text' or 1"
        ) from None
    try:
        inspect.signature(factory).bind(*arguments, **keywords)
    except TypeError as error:
        raise ConfigurationError(f"{spec!r} cannot be called so: {error}") from None
    except ValueError:
        # Made in C, and tells nothing of itself; the call will.
        pass
    application = factory(*arguments, **keywords)
    if not callable(application):
        raise ConfigurationError(f"{spec!r} made a {type(application).__name__}, not a WSGI callable")
    return application  # type: ignore[no-any-return]


def websockets_only(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The WSGI application of a server that has none."""
    body = b"this server has WebSockets only\n"
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _wsgi_hint(module_name: str) -> str:
    package, _, last = module_name.rpartition(".")
    beside = f"{package}.wsgi" if package else "wsgi"
    if last == "asgi" and importlib.util.find_spec(beside) is not None:
        return f"offload serves WSGI: did you mean {beside}?"
    return "offload serves WSGI: name a callable application(environ, start_response)"


def _callables(target: Any) -> list[str]:
    # What a module has from us is there to be called by it, not by a server.
    return [
        name
        for name, value in getattr(target, "__dict__", {}).items()
        if callable(value) and not str(getattr(value, "__module__", "")).startswith("offload.")
    ]
