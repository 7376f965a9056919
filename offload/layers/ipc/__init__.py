"""The layer of one machine: a hub process behind a Unix socket that only this user can open.

The supervisor starts and watches the hub (``offload.hub.server``). Any process of the same user can use the layer, with
or without gevent: a script started in the project's directory finds the hub of the site that runs there.

The hub's memory is all there is. When it is killed, what waited in queues, memberships of queues, and sessions are
gone; processes come back to the new one by themselves, with their reply channels and groups.
"""

from __future__ import annotations

import math
import os
from typing import Any

from offload.exceptions import ConfigurationError
from offload.layers.addresses.hub_path import RUNTIME_DIR_VARIABLE, absolute, check_length, default_path
from offload.layers.backend import Backend, Owner
from offload.layers.front import LayerBase
from offload.layers.ipc import wire
from offload.layers.ipc.connection import HubServer
from offload.layers.ipc.hub_backend import HubBackend

__all__ = ["RUNTIME_DIR_VARIABLE", "IPCLayer", "default_path"]


class IPCLayer(LayerBase):
    """A layer shared by the processes of one user on one machine.

    Args:
        path: the hub's socket; by default that of the `directory`.
        directory: the project's; by default the current one. See `default_path`.
        timeout: seconds to wait for the hub before ``LayerUnavailable``.
        max_unsent: bytes that may wait for a hub that does not read; past it senders are refused at once.
        settings: see ``offload.layers.words.settings.LayerSettings``.

    Attributes:
        path: the hub's socket, absolute.
        timeout: as above.
    """

    name = "ipc"
    extra_settings = {"timeout": float}

    def __init__(
        self,
        path: str | None = None,
        *,
        directory: str | None = None,
        timeout: float = 5.0,
        max_unsent: int = 32 * 1024 * 1024,
        **settings: Any,
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise ConfigurationError(f"layer setting timeout={timeout!r} must be a number of seconds above 0")
        super().__init__(**settings)
        if (largest := self.codec.max_encoded_size) > wire.MAX_PAYLOAD_BYTES:
            sealed = f" ({largest} when sealed)" if self.settings.encryption_keys else ""
            raise ConfigurationError(
                f"layer setting max_size={self.settings.max_size}{sealed} is over the {wire.MAX_PAYLOAD_BYTES} bytes"
                " that the ipc layer carries"
            )
        self.timeout = float(timeout)
        self.path = default_path(directory) if path is None else check_length(absolute(path))
        # Root may use another user's hub, but only one that was named: the default is a name that anybody could guess.
        self._foreign = path is not None and os.geteuid() == 0
        self._max_unsent = max_unsent
        self._hub_expected = False

    def make_backend(self, owner: Owner) -> Backend:
        server = HubServer(self.path, self.timeout, owner, is_foreign=self._foreign, is_expected=self._hub_expected)
        return HubBackend(server, owner, self._max_unsent)

    @classmethod
    def largest_size(cls, is_sealed: bool) -> int:
        # Sealed messages are a third larger, and have a head.
        return wire.MAX_PAYLOAD_BYTES // 4 * 3 - 1024 if is_sealed else wire.MAX_PAYLOAD_BYTES

    @property
    def place(self) -> str:
        """See `LayerBase.place`."""
        return f"ipc://{self.path}"

    def expect_hub(self) -> None:
        """From now on, wait up to `timeout` for a hub that is not there: somebody is starting it. A process that has
        been connected does so anyway; others are told at once that there is none."""
        self._hub_expected = True
        self.backend.server.is_expected = True

    def hub_statistics(self) -> dict[str, int]:
        """What the hub holds under this prefix now (``pending``, ``channels``, ``groups``, ``sessions``, ``clients``,
        ``subscriptions``, ``waiting`` ...), and its counters since its start (``full``, ``expired``).

        Raises:
            LayerUnavailable: as all that needs the hub.
        """
        counts: dict[str, int] = self.backend.request(wire.STATISTICS, again=True)
        return counts
