"""A Redis Cluster: its masters as shards, each with the keys and the sharded pub/sub channels of its slots.

Where a master has no sharded pub/sub (before Redis 7), channels are plain ones, which reach all nodes.

redis-py finds the nodes and knows the slots. Commands go to the nodes through the layer's own connections, as with
other shards, which share round trips. A node that answers that a slot is elsewhere has not executed the command: it is
sent there. After such an answer, and after a failure, the slots are asked for anew. While some keys of a command are
here and others there, it waits until the slot is moved, but not for long.
"""

from __future__ import annotations

import logging
import time
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.link.future import Future, Unclaimed
from offload.layers.link.thread import Duty, refuse_real_thread
from offload.layers.redis.access import Access
from offload.layers.redis.address import RedisAddress
from offload.layers.redis.commands import Commands
from offload.layers.redis.resp import Argument
from offload.layers.redis.scripts import PUSH, TAKE, Script
from offload.layers.redis.server import Refused, SlotDivided, SlotMoved
from offload.layers.redis.shards import Pushed, Ring, Shard
from offload.layers.redis.subscriber import Subscriber

logger = logging.getLogger("offload.layer")

_REDIRECTIONS = 5
_PAUSE = 0.2  # seconds between questions for the slots while a node is gone, or for keys while their slot is moved


class Cluster(Ring):
    """
    Args:
        address: its ``nodes`` are asked first.
        make_shard: makes one of a node's address, of this, and of whether it has sharded pub/sub.
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
        self._client: Any = None
        self._sharded = True
        self._stale = False
        self._asked = 0.0  # when
        self._waiting: deque[Future] = deque()  # for an answer
        self._duty = Duty(self._learn_all, "offload-redis-slots")

    @property
    def publish_command(self) -> str:
        self._look()
        return "SPUBLISH" if self._sharded else "PUBLISH"

    def publish(self, name: str, payload: bytes) -> int:
        return super().publish(name, payload) or int(not self._sharded and self._is_heard_elsewhere(name))

    def _is_heard_elsewhere(self, name: str) -> bool:
        """Plain messages reach all nodes, and so who subscribed before the slot moved, or whose node is gone."""
        for shard in self.shards():
            try:
                if int(shard.commands.run("PUBSUB", "NUMSUB", name)[1]):
                    return True
            except LayerUnavailable:
                # Whoever was subscribed there is looking for another node, and may have found one asked before.
                return True
        return False

    def push(self, capacities: Mapping[str, int], payload: bytes, lifetime: int) -> Pushed:
        pushed = Pushed()
        for shard, keys in self.parts(capacities):
            try:
                most = [capacities[key] for key in keys]
                pushed.add(shard.commands.run_script(PUSH, [], payload, lifetime, *most, *keys))
            except Refused:
                # One of them is elsewhere, or just being moved: each by itself is sent after its slot.
                self._stale = True
                for key in keys:
                    try:
                        pushed.add(self.run_script(PUSH, [key], payload, lifetime, capacities[key]))
                    except LayerUnavailable as error:
                        pushed.failure = error
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

    def take(self, shard: Shard, keys: Sequence[str], unclaimed: Unclaimed) -> Any:
        try:
            return shard.commands.run_script(TAKE, [], *keys, unclaimed=unclaimed)
        except LayerUnavailable as error:
            self._stale = True
            if not isinstance(error, Refused):
                raise  # otherwise as in `push`
        expired = 0
        for key in keys:
            number, *found = self.run_script(TAKE, [key], unclaimed=unclaimed)
            expired += number
            if found:
                return [expired, *found]
        return [expired]

    def note_move(self) -> None:
        self._stale = True

    def unlink(self, keys: Iterable[str]) -> None:
        """Each for itself: one command names keys of one slot, not of one node."""
        for key in keys:
            self.run(key, "UNLINK", key)

    def subscribers(self, names: Iterable[str]) -> list[tuple[str, Subscriber]]:
        """Where names belong after a subscriber lost its connection."""
        self.learn()
        return [(name, self._find(name).subscriber) for name in names]

    def follow(self, moved: SlotMoved) -> Subscriber:
        return self._follow(moved).subscriber

    def subscribe(self, name: str, number: int) -> bool:
        if self._client is None:
            return False
        try:
            return super().subscribe(name, number)
        except LayerUnavailable:
            return False  # a slot that no node had when they were asked

    def unsubscribe(self, name: str) -> None:
        for shard in list(self._shards.values()):
            shard.subscriber.unsubscribe(name)

    def close(self) -> None:
        super().close()
        if self._client is not None:
            self._client.close()

    def _at_owner(self, key: str, call: Callable[[Commands, bool], Any]) -> Any:
        ends = time.monotonic() + self._timeout
        shard, asking, redirections = self._find(key), False, 0
        while redirections < _REDIRECTIONS:
            try:
                return call(shard.commands, asking)
            except SlotMoved as error:
                shard, asking = self._follow(error), error.asking
                redirections += 1
            except SlotDivided:
                self._stale = True
                if time.monotonic() >= ends:
                    raise
                time.sleep(_PAUSE)
                shard, asking, redirections = self._find(key), False, 0
            except LayerUnavailable:
                self._stale = True
                raise
        raise LayerUnreachable(f"layer 'redis' was sent from node to node of {self._address.shown} for one key")

    def _follow(self, moved: SlotMoved) -> Shard:
        self._stale = self._stale or not moved.asking
        return self._shard_at(moved.host, moved.port)

    def _find(self, key: str) -> Shard:
        self._look()
        try:
            node = self._client.get_node_from_key(key)
        except (RedisError, RedisClusterException) as error:
            self._stale = True
            raise self._failure(error) from None
        return self._shard_at(node.host, node.port)

    def _shard_at(self, host: str, port: int) -> Shard:
        scheme = "rediss" if self._address.encrypted else "redis"
        shown = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/0"
        with self._lock:
            shard = self._shards.get(shown)
            if shard is None:
                arguments = {**self._address.arguments, "host": host, "port": port}
                address = RedisAddress(shown, arguments, encrypted=self._address.encrypted)
                shard = self._shards[shown] = self._make_shard(address, self, self._sharded)
        return shard

    def _look(self) -> None:
        """Have the slots known. Nodes that are well do not wait because one that is asked is not: once anything is
        known, it is gone by until something newer is."""
        if self._client is None:
            refuse_real_thread("redis")
            self.learn()
        elif self._stale and time.monotonic() - self._asked >= _PAUSE:
            self._asked = time.monotonic()
            self._waiting.append(Future())
            self._duty.ensure()

    def learn(self) -> None:
        """Ask for the slots, or wait for who asks."""
        answer = Future()
        self._waiting.append(answer)
        self._duty.ensure()
        answer.result()

    def _learn_all(self) -> None:
        """In a thread of its own, which nobody interrupts."""
        while not self._duty.may_end(lambda: bool(self._waiting)):
            reason = ""
            try:
                if self._client is None:
                    client = self._ask()
                    self._sharded = self._has_sharded_pubsub(client)
                    self._client = client
                else:
                    self._client.nodes_manager.initialize()
                self._stale = False
            except (RedisError, RedisClusterException, OSError, ValueError) as error:
                reason = str(self._failure(error))
            self._asked = time.monotonic()
            while self._waiting:  # one bounded wait for all, not one after the other
                answer = self._waiting.popleft()
                if reason:
                    answer.fail(LayerUnreachable(reason))
                else:
                    answer.resolve(None)

    def _ask(self) -> RedisCluster:
        arguments: dict[str, Any] = {**self._address.arguments}
        arguments.pop("db", None)
        if arguments.pop("connection_class", None):
            arguments.update(ssl=True, **self._access.tls)
        return RedisCluster(
            startup_nodes=[ClusterNode(*host) for host in self._address.nodes],  # type: ignore[no-untyped-call]
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
                text = (
                    "layer 'redis': %s:%s has no sharded pub/sub, which Redis 7 brought; every message to a group"
                    " goes to all nodes of %s"
                )
                logger.warning(text, node.host, node.port, self._address.shown)
                return False
        return True

    def _failure(self, error: Exception) -> LayerUnreachable:
        reason = str(error.__cause__ or error).rstrip(".")
        return LayerUnreachable(
            f"layer 'redis' cannot reach {self._address.shown}: {reason}; start Redis there, or choose another layer"
        )
