"""The configuration file: a Python file, or a module, of gunicorn's form, and how it is read anew.

It runs in the supervisor, where nothing is patched for gevent: what patches there waits for the server processes,
which are patched before anything of theirs is imported.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from offload.exceptions import ConfigurationError

DEFAULT_FILES = ("offload.conf.py", "gunicorn.conf.py")
_MODULE_NAME = "__config__"
_PATCHES = "gevent.monkey"


class ConfigFile:
    """A configuration file.

    Args:
        place: ``PATH``, ``file:PATH`` or ``python:MODULE``.

    Attributes:
        name: what messages call it.
    """

    def __init__(self, place: str) -> None:
        self.name = place.removeprefix("file:").removeprefix("python:")
        self._is_module = place.startswith("python:")
        # By the name of the directory, which at a reload may be a link to another release.
        self._directory = current_directory()
        # What it imported of the project's: with it, this is read anew.
        self._imported: dict[str, ModuleType] = {}

    def read(self) -> Mapping[str, Any]:
        """Run it.

        Returns:
            Its names.

        Raises:
            ConfigurationError: it is not there, or fails.
        """
        for name in self._imported:
            sys.modules.pop(name, None)
        before = dict(sys.modules)
        importlib.invalidate_caches()
        try:
            with _importable(self._directory), _unpatched():
                names = vars(self._run())
        except BaseException:
            # Those that run go on with what they had.
            sys.modules.update(self._imported)
            raise
        installed = tuple(os.path.realpath(sysconfig.get_path(path)) for path in ("stdlib", "purelib", "platlib"))
        for name, module in list(sys.modules.items()):
            origin = getattr(module, "__file__", None)
            if before.get(name) is module or not origin or name.partition(".")[0] in ("offload", "django_offload"):
                continue
            if not os.path.realpath(origin).startswith(installed):
                self._imported[name] = module
        return names

    def _run(self) -> ModuleType:
        path = os.path.join(self._directory, self.name)
        if not self._is_module and (os.path.isdir(path) or not os.path.exists(path)):
            raise ConfigurationError(f"there is no configuration file {self.name!r} in {self._directory}")
        try:
            if self._is_module:
                return importlib.import_module(self.name)
            loader = SourceFileLoader(_MODULE_NAME, path)
            spec = importlib.util.spec_from_file_location(_MODULE_NAME, path, loader=loader)
            assert spec is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[_MODULE_NAME] = module
            # Not by its own means, which take what is compiled already for a file of the same second and size.
            exec(loader.source_to_code(loader.get_data(path), path), vars(module))
        except ModuleNotFoundError as error:
            if error.name == self.name:
                raise ConfigurationError(f"there is no configuration module {self.name!r}") from error
            remedy = "; install it, or leave its lines out" if error.name == "gunicorn" else ""
            raise ConfigurationError(
                f"{self.name} needs the module {error.name!r}, which is not installed{remedy}"
            ) from error
        except (Exception, SystemExit) as error:
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ConfigurationError(f"{_line_of(error, self.name)}: {type(error).__name__}: {why}") from error
        return module


def current_directory() -> str:
    """The current directory, by the name that a shell knows it by, if that is true.

    Raises:
        ConfigurationError: it is gone.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise ConfigurationError(
            f"the current directory is gone: {error.strerror}; change to another, or name one with --chdir"
        ) from error
    name = os.environ.get("PWD", "")
    try:
        return name if os.path.isabs(name) and os.path.samefile(name, here) else here
    except OSError:
        return here


def find(place: str | None) -> ConfigFile | None:
    """The configuration file that is named, or else a default one that is there."""
    if place:
        return ConfigFile(place)
    return next((ConfigFile(name) for name in DEFAULT_FILES if os.path.isfile(name)), None)


def _line_of(error: BaseException, name: str) -> str:
    """Where in the file it failed, as far as that is known."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{name}, line {error.lineno}"
    own = os.path.basename(name)
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if os.path.basename(frame.filename) == own
    ]
    return f"{name}, line {lines[-1]}" if lines else name


@contextlib.contextmanager
def _importable(directory: str) -> Iterator[None]:
    if directory in sys.path:
        yield
        return
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)


@contextlib.contextmanager
def _unpatched() -> Iterator[None]:
    """Have gevent patch nothing meanwhile: as soon as its patches are imported, functions that do nothing stand in."""
    held: dict[str, Any] = {}
    real_import = builtins.__import__

    def hold() -> None:
        # Again and again: while it is being imported, it gets its names one after the other.
        for name, value in list(vars(sys.modules.get(_PATCHES, builtins)).items()):
            if name.startswith("patch_") and value is not _patch_nothing:
                held[name] = value
                setattr(sys.modules[_PATCHES], name, _patch_nothing)

    def importing(*arguments: Any, **keywords: Any) -> ModuleType:
        module: ModuleType = real_import(*arguments, **keywords)
        hold()
        return module

    # Not a finder of modules, which others wrap in finders of their own.
    builtins.__import__ = importing
    hold()
    try:
        yield
    finally:
        builtins.__import__ = real_import
        for name, value in held.items():
            setattr(sys.modules[_PATCHES], name, value)


def _patch_nothing(*arguments: Any, **keywords: Any) -> bool:
    return False
