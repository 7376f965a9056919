"""Several Redis servers as one: which of them holds a key, by rendezvous hashing.

A key lives where the BLAKE2b hash (8 bytes, big-endian) of ``<the shard's address>\\n<key>`` is the highest. So a
further shard takes its share of the keys from all the others, and no other key moves. The address is as errors show it.
Where a key has braces, what is in them counts for it, as in a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from offload.exceptions import LayerUnavailable
from offload.layers.backend import Owner
from offload.layers.link.future import Unclaimed
from offload.layers.redis.commands import Commands
from offload.layers.redis.resp import Argument
from offload.layers.redis.scripts import PUSH, TAKE, Script
from offload.layers.redis.server import Refused, Server
from offload.layers.redis.subscriber import Router, Subscriber


class Shard:
    """One server, and this process's connections to it; each is opened when it is needed.

    Args:
        owner, router, sharded: as of `Subscriber`.
    """

    def __init__(self, server: Server, owner: Owner, router: Router | None = None, sharded: bool = False) -> None:
        self.shown = server.shown
        self.commands = Commands(server, lambda: self.subscriber.link.renew())
        self.subscriber = Subscriber(server, owner, lambda: self.commands.link.is_busy, router, sharded)
        self._server = server

    def check(self) -> None:
        """Whether it is there and takes what it is sent; raises ``LayerUnavailable``."""
        self.commands.run("PING")
        try:
            hello = self.commands.run("HELLO")
        except Refused:
            return  # forbidden
        self._server.check(hello)

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        self.subscriber.close()
        self.commands.link.close()

    def drop(self) -> None:
        """In a forked child."""
        self.subscriber.drop()
        self.commands.link.drop()


@dataclass(slots=True)
class Pushed:
    """What became of a message for several queues.

    Attributes:
        full: queues that were passed over.
        expired: messages that were found to have.
        failure: of a server, whose queues may not have got it; the others' have.
    """

    full: int = 0
    expired: int = 0
    failure: LayerUnavailable | None = None

    def add(self, counts: Sequence[int]) -> None:
        """As the script returns them."""
        self.full += counts[0]
        self.expired += counts[1]


class Ring:
    """The shards of a layer, one or more."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._shards = {shard.shown: shard for shard in shards}
        self._only = next(iter(self._shards.values())) if len(self._shards) == 1 else None

    @property
    def publish_command(self) -> str:
        """What publishes. Raises ``LayerUnavailable`` when that cannot be found out."""
        return "PUBLISH"

    def publish(self, name: str, payload: bytes) -> int:
        """Returns how many are subscribed, as far as is known; 0 only where nobody is."""
        listening: int = self.run(name, self.publish_command, name, payload)
        return listening

    def push(self, capacities: Mapping[str, int], payload: bytes, lifetime: int) -> Pushed:
        """Put a message into several queues, with one command to each server that has some of them.

        Args:
            capacities: the queues' keys, and how many messages each holds.
            lifetime: milliseconds.
        """
        pushed = Pushed()
        for _, keys in self.parts(capacities):
            try:
                pushed.add(self.run_script(PUSH, keys, payload, lifetime, *[capacities[key] for key in keys]))
            except LayerUnavailable as error:
                pushed.failure = error
        return pushed

    def shards(self) -> list[Shard]:
        """Those there are now. Raises ``LayerUnavailable`` when that cannot be found out."""
        return list(self._shards.values())

    def run(self, key: str, *command: Argument) -> Any:
        """A command for one key, as `Commands.run`."""
        return self._find(key).commands.run(*command)

    def run_script(
        self, script: Script, keys: Sequence[str], *arguments: Argument, unclaimed: Unclaimed | None = None
    ) -> Any:
        """A script, as `Commands.run_script`; its keys are of one of the `parts`."""
        return self._find(keys[0]).commands.run_script(script, keys, *arguments, unclaimed=unclaimed)

    def take(self, shard: Shard, keys: Sequence[str], unclaimed: Unclaimed) -> Any:
        """`TAKE` for one of the `parts`."""
        return shard.commands.run_script(TAKE, keys, unclaimed=unclaimed)

    def note_move(self) -> None:
        """Keys may not be where they were looked for. Neither waits nor raises."""

    def unlink(self, keys: Iterable[str]) -> None:
        """Delete them, with one command to each server that has some of them."""
        for shard, some in self.parts(keys):
            shard.commands.run("UNLINK", *some)

    def parts(self, keys: Iterable[str]) -> list[tuple[Shard, list[str]]]:
        """The keys by the servers that have them."""
        if self._only is not None:
            keys = list(keys)
            return [(self._only, keys)] if keys else []
        parts: dict[str, tuple[Shard, list[str]]] = {}
        for key in keys:
            shard = self._find(key)
            parts.setdefault(shard.shown, (shard, []))[1].append(key)
        return list(parts.values())

    def subscribe(self, name: str, number: int) -> bool:
        """As `Subscriber.subscribe`. Returns False when it is not known where; then `learn`."""
        self._find(name).subscriber.subscribe(name, number)
        return True

    def learn(self) -> None:
        """Have it known where names are. Raises ``LayerUnavailable``."""

    def unsubscribe(self, name: str) -> None:
        """As `Subscriber.unsubscribe`."""
        self._find(name).subscriber.unsubscribe(name)

    def close(self) -> None:
        """For good."""
        for shard in list(self._shards.values()):
            shard.close()

    def drop(self) -> None:
        """In a forked child."""
        for shard in self._shards.values():
            shard.drop()

    def _find(self, key: str) -> Shard:
        if self._only is not None:
            return self._only
        name = key.partition("{")[2].partition("}")[0] or key
        weights = {blake2b(f"{shown}\n{name}".encode(), digest_size=8).digest(): shown for shown in self._shards}
        return self._shards[weights[max(weights)]]  # of bytes, the first counts the most
