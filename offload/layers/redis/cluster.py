"""A Redis Cluster: its masters as shards, each with the keys and the sharded pub/sub channels of its slots.

Where a master has no sharded pub/sub (before Redis 7), channels are plain ones, which reach all nodes.

redis-py finds the nodes and knows the slots. Commands go to the nodes through the layer's own connections, as with
other shards, which share round trips. A node that answers that a slot is elsewhere has not executed the command: it is
sent there. After such an answer, and after a failure, the slots are asked for anew.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import RLock
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.redis.access import Access
from offload.layers.redis.address import RedisAddress
from offload.layers.redis.calls import Unclaimed
from offload.layers.redis.commands import Commands
from offload.layers.redis.scripts import PUSH_ACROSS, Script
from offload.layers.redis.server import Refused, SlotMoved, refuse_real_thread
from offload.layers.redis.shards import Pushed, Ring, Shard
from offload.layers.redis.subscriber import Subscriber
from offload.layers.redis.wire import Argument

logger = logging.getLogger("offload.layer")

_REDIRECTIONS = 5
_PAUSE = 0.2  # seconds between questions for the slots while a node is gone

T = TypeVar("T")


class Cluster(Ring):
    """
    Args:
        address: its ``nodes`` are asked first.
        make_shard: makes one of a node's address, of what tells the owners of names, and of whether it has sharded
            pub/sub.
        timeout: seconds for a question to one node.
        access: certificates.
    """

    def __init__(
        self,
        address: RedisAddress,
        make_shard: Callable[[RedisAddress, Any, bool], Shard],
        timeout: float,
        access: Access,
    ) -> None:
        super().__init__([])
        self._address = address
        self._make_shard = make_shard
        self._timeout = timeout
        self._access = access
        self._lock = RLock()
        self._first: threading.Lock | None = None  # made when first needed; of who asks while nothing is known
        self._asker: object = None  # who asks anew
        self._why = ""  # nothing is known
        self._client: Any = None
        self._asked = 0.0  # when
        self._stale = False
        self._sharded = True

    @property
    def publish_command(self) -> str:
        self._look()
        return "SPUBLISH" if self._sharded else "PUBLISH"

    def is_heard_elsewhere(self, name: str) -> bool:
        """Plain messages reach all nodes, and so who subscribed before the slot moved, or whose node is gone."""
        if self._sharded:
            return False
        for shard in self.shards():
            try:
                if int(shard.commands.run("PUBSUB", "NUMSUB", name)[1]):
                    return True
            except LayerUnavailable:
                # Whoever was subscribed there is looking for another node, and may have found one asked before.
                return True
        return False

    def push(self, capacities: Mapping[str, int], payload: bytes, lifetime: int) -> Pushed:
        nodes: dict[str, tuple[Shard, list[str]]] = {}
        for key in capacities:
            shard = self._find(key)
            nodes.setdefault(shard.shown, (shard, []))[1].append(key)
        pushed = Pushed()
        for shard, keys in nodes.values():
            try:
                pushed.add(
                    shard.commands.run_script(
                        PUSH_ACROSS, [], payload, lifetime, *[part for key in keys for part in (key, capacities[key])]
                    )
                )
            except Refused:
                # One of them is elsewhere, or just being moved: each by itself is sent after its slot.
                self._stale = True
                singly = super().push({key: capacities[key] for key in keys}, payload, lifetime)
                pushed.add((singly.full, singly.expired))
                pushed.failure = singly.failure or pushed.failure
            except LayerUnavailable as error:
                self._stale = True
                pushed.failure = error
        return pushed

    def shards(self) -> list[Shard]:
        self._look()
        return [self._shard_at(node.host, node.port) for node in self._client.get_primaries()]

    def run(self, key: str, *command: Argument) -> Any:
        return self._at_owner(key, lambda commands, asking: commands.run(*command, asking=asking))

    def run_script(
        self, script: Script, keys: Sequence[str], *arguments: Argument, unclaimed: Unclaimed | None = None
    ) -> Any:
        return self._at_owner(
            keys[0],
            lambda commands, asking: commands.run_script(script, keys, *arguments, asking=asking, unclaimed=unclaimed),
        )

    def parts(self, keys: Iterable[str]) -> list[tuple[Shard, list[str]]]:
        """Each for itself: one command names keys of one slot, not of one node."""
        return [(self._find(key), [key]) for key in keys]

    def subscribe(self, name: str) -> None:
        self._following(name, lambda shard, asking: shard.subscriber.subscribe(name))

    def unsubscribe(self, name: str) -> None:
        for shard in list(self._shards.values()):
            shard.subscriber.unsubscribe(name)

    def place(self, name: str) -> str:
        client = self._client
        if client is None:
            return ""
        try:
            node = client.get_node_from_key(name)
        except (RedisError, RedisClusterException):
            return ""  # no node has it now
        return f"{node.host}:{node.port}"

    def close(self, *, wait: bool = True) -> None:
        super().close(wait=wait)
        if self._client is not None:
            self._client.close()

    def _at_owner(self, key: str, call: Callable[[Commands, bool], T]) -> T:
        return self._following(key, lambda shard, asking: call(shard.commands, asking))

    def _following(self, key: str, call: Callable[[Shard, bool], T]) -> T:
        shard, asking = self._find(key), False
        for _ in range(_REDIRECTIONS):
            try:
                return call(shard, asking)
            except SlotMoved as error:
                shard, asking = self._shard_at(error.host, error.port), error.asking
                self._stale = self._stale or not asking
            except LayerUnavailable:
                self._stale = True
                raise
        raise LayerUnreachable(f"layer 'redis' was sent from node to node of {self._address.shown} for one key")

    def _find(self, key: str) -> Shard:
        self._look()
        try:
            node = self._client.get_node_from_key(key)
        except (RedisError, RedisClusterException) as error:
            self._stale = True
            raise self._failure(error) from None
        return self._shard_at(node.host, node.port)

    def _owners(self, names: Iterable[str]) -> list[tuple[str, Subscriber]]:
        """Where names belong after a subscriber lost its connection."""
        self._stale = True
        return [(name, self._find(name).subscriber) for name in names]

    def _shard_at(self, host: str, port: int) -> Shard:
        scheme = "rediss" if self._address.encrypted else "redis"
        shown = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/0"
        shard = self._shards.get(shown)
        if shard is None:
            with self._lock:
                shard = self._shards.get(shown)
                if shard is None:
                    arguments = {**self._address.arguments, "host": host, "port": port}
                    address = RedisAddress(shown, arguments, encrypted=self._address.encrypted)
                    shard = self._shards[shown] = self._make_shard(address, self._owners, self._sharded)
        return shard

    def _look(self) -> None:
        """Ask for the slots, unless they are known."""
        if self._client is not None and not self._stale:
            return
        refuse_real_thread()
        # A signal may raise anywhere in here, and the next must be able to ask all the same.
        if self._client is None:
            started = time.monotonic()
            with self._lock:
                if self._first is None:
                    self._first = threading.Lock()
            with self._first:
                self._learn(started)
            return
        # Nodes that are well must not wait because one that is asked is not: meanwhile the others go by what was known.
        asker = object()
        try:
            with self._lock:
                if self._asker is not None or not self._stale or time.monotonic() - self._asked < _PAUSE:
                    return
                self._asker = asker
            try:
                self._client.nodes_manager.initialize()
                self._stale = False
            except (RedisError, RedisClusterException):
                pass  # what was known may still be right; who finds it is not gets the error of that node
            self._asked = time.monotonic()
        finally:
            if self._asker is asker:
                self._asker = None

    def _learn(self, started: float) -> None:
        """Ask for the first time, unless somebody has done so since then."""
        if self._client is not None:
            return
        if self._asked >= started:
            raise LayerUnreachable(self._why)  # one bounded wait for all, not one after the other
        try:
            client = self._ask()
            self._sharded = self._has_sharded_pubsub(client)
        except (RedisError, RedisClusterException) as error:
            failure = self._failure(error)
            self._why, self._asked = str(failure), time.monotonic()
            raise failure from None
        self._stale = False
        self._asked = time.monotonic()
        self._client = client

    def _ask(self) -> RedisCluster:
        arguments: dict[str, Any] = {**self._address.arguments}
        arguments.pop("db", None)
        if arguments.pop("connection_class", None):
            arguments.update(ssl=True, **self._access.tls)
        return RedisCluster(
            startup_nodes=[_node(*host) for host in self._address.nodes],
            require_full_coverage=False,
            socket_connect_timeout=self._timeout,
            socket_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **arguments,
        )

    def _has_sharded_pubsub(self, client: RedisCluster) -> bool:
        """Whether all masters have it: those of a cluster that is just being brought up to Redis 7 have not, and all
        processes must publish and subscribe alike."""
        nodes: Any = client
        for node in nodes.get_primaries():
            try:
                (known,) = nodes.execute_command("COMMAND INFO", "SSUBSCRIBE", target_nodes=node)
            except (RedisError, RedisClusterException):
                continue  # gone, or not allowed to tell
            if known is None:
                logger.warning(
                    "layer 'redis': %s:%s has no sharded pub/sub, which Redis 7 brought; every message to a group"
                    " goes to all nodes of %s",
                    node.host,
                    node.port,
                    self._address.shown,
                )
                return False
        return True

    def _failure(self, error: Exception) -> LayerUnreachable:
        reason = str(error.__cause__ or error).rstrip(".")
        return LayerUnreachable(
            f"layer 'redis' cannot reach {self._address.shown}: {reason}; start Redis there, or choose another layer"
        )


def _node(host: str, port: int) -> ClusterNode:
    return ClusterNode(host, port)  # type: ignore[no-untyped-call]
