"""The directory that the server runs in, and what is importable from there.

Deployments switch a symbolic link to the new code and reload. So the directory is kept by its name, and entered by it
again at each reload. In between the processes stay where they are, link or no link: what one of them imports late, and
what takes the place of one that died, is of the release that the others run. Only what ``--pythonpath`` names by
absolute paths is found wherever these lead at the moment.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from offload.exceptions import ConfigurationError
from offload.layers.addresses.hub_path import MOVED_VARIABLE, as_at_the_start
from offload.settings.config_file import current_directory


class Directory:
    """Where the server runs.

    Args:
        chdir: what ``--chdir`` says; None to stay in the current directory.
        pythonpath: what ``--pythonpath`` says: directories, separated by commas, of which others than absolute ones
            begin here.

    Raises:
        ConfigurationError: the current directory is needed, and gone.
    """

    def __init__(self, chdir: str | None, pythonpath: str | None) -> None:
        self._chdir = chdir
        if chdir is None:
            self._name = current_directory()
        else:
            self._name = chdir if os.path.isabs(chdir) else os.path.join(current_directory(), chdir)
        self._pythonpath = [place for place in (pythonpath or "").split(",") if place]
        self._on_path: list[str] = []
        # Where there is code that runs.
        self._settled: str | None = None
        # By name, where what is importable was at the start.
        self._at_the_start: dict[str, str] = {}
        # From where it was at any time since.
        self._moved: dict[str, str] = {}

    def enter(self) -> None:
        """Go where the name leads now, and make that importable in place of where it led before.

        Raises:
            ConfigurationError: the directory cannot be entered.
        """
        try:
            if self._chdir is not None or self._on_path:
                os.chdir(self._name)
            self._take_over()
        except OSError as error:
            if self._chdir is None and isinstance(error, PermissionError):
                # It was started where it may not go by itself, and stays there.
                return
            name = self._name if self._chdir is None else self._chdir
            raise ConfigurationError(f"cannot change to the directory {name!r}: {error.strerror}") from error

    @property
    def places(self) -> list[str]:
        """The directories whose code is importable, those of ``--pythonpath`` and where it runs."""
        return list(self._on_path)

    def settle(self) -> None:
        """What was entered last is of use."""
        self._settled = self._on_path[-1]

    def go_back(self) -> bool:
        """Return to what was of use, from what is not.

        Returns:
            Whether it has left for another directory.
        """
        if self._settled is None or self._settled == self._on_path[-1]:
            return False
        try:
            os.chdir(self._settled)
            self._take_over()
        except OSError:
            # Taken away meanwhile: there is nothing to go back to.
            return False
        return True

    def _take_over(self) -> None:
        """Make the current directory importable in place of the last one."""
        places = [*(os.path.abspath(place) for place in reversed(self._pythonpath)), os.getcwd()]
        moved = dict(zip(self._on_path, places, strict=False))
        sys.path[:] = [moved.get(place, place) for place in sys.path]
        for place in places:
            if place not in sys.path:
                sys.path.insert(0, place)
        self._on_path = places
        # What is remembered of a directory's contents is kept by a time that two releases may have in common.
        importlib.invalidate_caches()
        self._keep_the_hub()

    def _keep_the_hub(self) -> None:
        """Have the processes forked from now on look for the hub by the directory of the start.

        Its socket's name follows from the directory, and all processes of a server are to meet, old and new.
        """
        if not self._at_the_start:
            names = (self._name, *sys.path)
            self._at_the_start = {name: as_at_the_start(os.path.realpath(name)) for name in names}
            return
        for name, start in self._at_the_start.items():
            now = os.path.realpath(name)
            if now != start:
                self._moved[now] = start
        if self._moved:
            os.environ[MOVED_VARIABLE] = json.dumps(self._moved)
