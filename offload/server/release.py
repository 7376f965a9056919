"""What processes are forked with: the settings, the directory of the code, and the hooks.

A reload tries those of now; where that fails, the ones that serve already hold again.
"""

from __future__ import annotations

from collections.abc import Callable

from offload.server.directory import Directory
from offload.server.hooks import Hooks
from offload.server.pid_file import PidFile
from offload.settings import Settings


class Release:
    """The code and the settings of the next process.

    Args:
        settings: those of the start.
        directory: where it runs; entered again at each renewal.
        reread: reads the settings anew, or raises ConfigurationError; None keeps them.

    Attributes:
        settings: those of the next process.
        hooks: of these settings.
        pid_file: found again wherever the directory leads.
    """

    def __init__(self, settings: Settings, directory: Directory, reread: Callable[[], Settings] | None) -> None:
        self.settings = self._settled = settings
        self.hooks = Hooks(settings)
        self.pid_file = PidFile(settings.process.pid)
        self._directory = directory
        self._reread = reread

    @property
    def places(self) -> list[str]:
        """The directories whose code is importable."""
        return self._directory.places

    def renew(self) -> None:
        """Take the settings and the directory of now.

        Raises:
            ConfigurationError: they are wrong; those that were settled hold.
        """
        try:
            self._directory.enter()
            if self._reread is not None:
                self.settings = self._reread()
        except BaseException:
            self.settings = self._settled
            self._directory.go_back()
            raise
        self.hooks.renew(self.settings)
        self.pid_file.renew()

    def settle(self) -> None:
        """A process serves with these."""
        self._directory.settle()
        self._settled = self.settings

    def go_back(self) -> None:
        """Take those that were settled last."""
        self.settings = self._settled
        self.hooks.renew(self.settings)
        if self._directory.go_back():
            self.pid_file.renew()
