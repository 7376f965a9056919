"""The configuration file: a Python file, or a module, of gunicorn's form, and how it is read anew.

It runs in the supervisor, where nothing is patched for gevent: what patches there waits for the server processes,
which are patched before anything of theirs is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
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
    trace, line = error.__traceback__, None
    while trace is not None:
        if os.path.basename(trace.tb_frame.f_code.co_filename) == os.path.basename(name):
            line = trace.tb_lineno
        trace = trace.tb_next
    return name if line is None else f"{name}, line {line}"


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
    """Have gevent patch nothing meanwhile."""
    finder = _PatchesLater()
    sys.meta_path.insert(0, finder)
    if _PATCHES in sys.modules:
        finder.hold(sys.modules[_PATCHES])
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.let_go()


class _PatchesLater(MetaPathFinder, Loader):
    """Imports gevent's patches with functions that do nothing in their place."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}
        self._module: ModuleType | None = None
        self._loader: Loader | None = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if name != _PATCHES or self._loader is not None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._loader, spec.loader = spec.loader, self
                return spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `Loader`."""
        assert self._loader is not None
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See `Loader`."""
        assert self._loader is not None
        self._loader.exec_module(module)
        self.hold(module)

    def hold(self, module: ModuleType) -> None:
        """Put functions that do nothing in the place of those that patch."""
        self._module = module
        self._held = {name: value for name, value in vars(module).items() if name.startswith("patch_")}
        for name in self._held:
            setattr(module, name, _patch_nothing)

    def let_go(self) -> None:
        """Put them back."""
        for name, value in self._held.items():
            setattr(self._module, name, value)


def _patch_nothing(*arguments: Any, **keywords: Any) -> bool:
    return False
