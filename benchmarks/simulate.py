"""How a group's messages pass through many processes and Redis servers, by simulation: for sizes that no bench has.

    python -m benchmarks.simulate                          a million and ten million connections: what they need
    python -m benchmarks.simulate --connections 250000
    python -m benchmarks.simulate --check                  the same model beside real servers here, at three sizes

Processes and Redis servers take what has arrived, work on it together, and pass it on: the busier they are, the less a
message costs. `Costs` and `MEASURED` are CPU times of one core of one machine, an Intel Xeon of 2026. Standard library
alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

US = 1e-6


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds of CPU, and bytes. A turn is what a process, or Redis, does between two polls."""

    receive: float = 6.4 * US
    """A client's message, to the consumer's send: P1's echo less one delivery."""
    publish_turn: float = 42 * US
    """Handing commands to Redis, once a turn; a lone send costs its greenlet 51."""
    publish: float = 9 * US
    listen_turn: float = 60 * US
    """Waking up for what Redis has sent, once a turn."""
    decode: float = 15 * US
    write: float = 3.8 * US
    """Writing to one socket, once a turn: nearly all of it is the kernel's."""
    frame: float = 0.25 * US
    """Each further message for that socket in the same turn: from P2 and P2-senders."""
    redis_turn: float = 34 * US
    redis_command: float = 4.4 * US
    redis_write: float = 5.1 * US
    """Writing to one subscribed process, once a turn."""
    redis_message: float = 0.5 * US
    connection_bytes: int = 2300
    process_bytes: int = 40_000_000
    network: float = 100 * US
    """One way, between two machines."""
    wire_bytes: int = 66 + 4
    """Around a payload to a client: Ethernet, IP, TCP and the frame's head."""
    layer_bytes: int = 60
    """Around a payload from Redis, many in a segment: names, msgpack, and the reply's own form."""


MEASURED = {(500, 1): 4.4 * US, (500, 16): 0.78 * US}
"""Seconds of CPU of one delivery by P2 and P2-senders, on the machine of `Costs`: by members, and members that talk."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What clients do."""

    connections: int
    memberships: int = 3
    largest: int = 10_000
    skew: float = 0.7
    ranks: int = 20_000
    """Of so many groups the n-th largest has ``largest / n ** skew`` members; more connections have more such lots."""
    each_minute: float = 0.5
    """Messages of one member to one group."""
    most_each_second: float = 2.0
    """Messages that a group has at most: nobody reads more."""
    payload: int = 200

    def sizes(self) -> list[int]:
        """Members of each group, until all memberships are given."""
        left, found = self.connections * self.memberships, []
        lot = [max(2, int(self.largest / rank**self.skew)) for rank in range(1, self.ranks + 1)]
        for size in itertools.cycle(lot):
            found.append(min(size, left))
            left -= size
            if left <= 0:
                break
        return found

    def rates(self, sizes: Sequence[int]) -> list[float]:
        """Messages a second of each group."""
        return [min(size * self.each_minute / 60, self.most_each_second) for size in sizes]


class Clock:
    """Events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), do))

    def run(self, until: float = math.inf) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()


@dataclasses.dataclass(frozen=True)
class Message:
    """One message to a group."""

    group: int
    sent: float


class Node:
    """One core: takes all that waits, works for as long as that costs, and passes it on."""

    def __init__(self, clock: Clock, work: Callable[[list[tuple[bool, Message]]], tuple[float, Callable[[], None]]]):
        self._clock = clock
        self._work = work
        self._waiting: list[tuple[bool, Message]] = []
        self._busy = False
        self.cpu = 0.0

    def take(self, is_client: bool, message: Message) -> None:
        """A message has arrived, of a client or of Redis."""
        self._waiting.append((is_client, message))
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        self._busy = True
        batch, self._waiting = self._waiting, []
        cost, pass_on = self._work(batch)
        self.cpu += cost
        self._clock.after(cost, lambda: self._end(pass_on))

    def _end(self, pass_on: Callable[[], None]) -> None:
        pass_on()
        self._busy = False
        if self._waiting:
            self._begin()


class Service:
    """Processes with members of groups, and Redis servers between them."""

    def __init__(self, sizes: Sequence[int], processes: int, shards: int, costs: Costs, seed: int = 1) -> None:
        self.clock, self.costs, self.sizes = Clock(), costs, sizes
        self._random = random.Random(seed)
        self._homes: dict[int, Counter[int]] = {}
        self.processes = [Node(self.clock, self._process(number)) for number in range(processes)]
        self.shards = [Node(self.clock, self._shard) for _ in range(shards)]
        self.latencies: list[float] = []
        self.deliveries = self.layer_messages = self.messages = 0
        self.delivered: Callable[[Message, int], None] = lambda message, members: None

    def homes(self, group: int) -> Counter[int]:
        """How many members of a group each process has: wherever the proxy put them."""
        found = self._homes.get(group)
        if found is None:
            count = len(self.processes)
            found = self._homes[group] = Counter(self._random.choices(range(count), k=self.sizes[group]))
        return found

    def send(self, group: int) -> None:
        """A member, on whichever process, sends to a group."""
        self.messages += 1
        home = self._random.choice(list(self.homes(group)))
        self.processes[home].take(True, Message(group, self.clock.now))

    def _process(self, number: int) -> Callable[[list[tuple[bool, Message]]], tuple[float, Callable[[], None]]]:
        def work(batch: list[tuple[bool, Message]]) -> tuple[float, Callable[[], None]]:
            costs = self.costs
            published = [message for is_client, message in batch if is_client]
            heard = [message for is_client, message in batch if not is_client]
            cost = len(published) * (costs.receive + costs.publish) + len(heard) * costs.decode
            cost += costs.publish_turn * bool(published) + costs.listen_turn * bool(heard)
            for group, count in Counter(message.group for message in heard).items():
                cost += self.homes(group)[number] * (costs.write + count * costs.frame)

            def pass_on() -> None:
                for message in published:
                    shard = self.shards[message.group % len(self.shards)]
                    self.clock.after(costs.network, lambda message=message, shard=shard: shard.take(True, message))
                for message in heard:
                    members = self.homes(message.group)[number]
                    self.deliveries += members
                    self.latencies.append(self.clock.now - message.sent)
                    self.delivered(message, members)

            return cost, pass_on

        return work

    def _shard(self, batch: list[tuple[bool, Message]]) -> tuple[float, Callable[[], None]]:
        costs = self.costs
        written: dict[int, list[Message]] = defaultdict(list)
        for _, message in batch:
            for process in self.homes(message.group):
                written[process].append(message)
        copies = sum(map(len, written.values()))
        self.layer_messages += copies
        cost = costs.redis_turn + len(batch) * costs.redis_command
        cost += len(written) * costs.redis_write + copies * costs.redis_message

        def pass_on() -> None:
            for process, messages in written.items():
                node = self.processes[process]
                self.clock.after(
                    costs.network, lambda node=node, messages=messages: [node.take(False, each) for each in messages]
                )

        return cost, pass_on


def simulate(traffic: Traffic, processes: int, shards: int, seconds: float, costs: Costs, seed: int = 1) -> Service:
    """Let clients send for so long, at random times, and all that is under way arrive."""
    sizes = traffic.sizes()
    rates = traffic.rates(sizes)
    service, chance = Service(sizes, processes, shards, costs, seed), random.Random(seed)
    groups = chance.choices(range(len(sizes)), rates, k=round(sum(rates) * seconds))
    for group in groups:
        service.clock.after(chance.random() * seconds, lambda group=group: service.send(group))
    service.clock.run()
    return service


def rounds(size: int, senders: int, costs: Costs, seconds: float = 1.0) -> Service:
    """The bench's own work: one process, and each sender sends its next message when all have the last one."""
    service = Service([size], 1, 1, costs)
    service.delivered = lambda message, members: service.send(0) if service.clock.now < seconds else None
    for _ in range(senders):
        service.send(0)
    service.clock.run()
    return service


def plan(traffic: Traffic, costs: Costs, each: int = 20_000, busy: float = 0.6, messages: int = 4000) -> Iterator[str]:
    """What a number of connections needs, so that no core is busier than `busy` on average."""
    processes, shards = max(1, math.ceil(traffic.connections / each)), 1
    seconds = messages / sum(traffic.rates(traffic.sizes()))
    while True:
        service = simulate(traffic, processes, shards, seconds, costs)
        loads = [
            statistics.fmean(node.cpu for node in nodes) / seconds / busy
            for nodes in (service.processes, service.shards)
        ]
        if max(loads) <= 1:
            break
        # A core that is behind works cheaper than one that is not: so by small steps.
        processes, shards = math.ceil(processes * max(1, loads[0])), math.ceil(shards * max(1, loads[1]))
    late = statistics.quantiles(service.latencies, n=100)
    rate = {name: getattr(service, name) / seconds for name in ("messages", "deliveries", "layer_messages")}
    memory = traffic.connections * costs.connection_bytes + processes * costs.process_bytes
    out = rate["deliveries"] * (traffic.payload + costs.wire_bytes) * 8
    between = rate["layer_messages"] * (traffic.payload + costs.layer_bytes) * 8
    yield f"{traffic.connections:,} connections, {len(service.sizes):,} groups"
    yield f"  {rate['messages']:,.0f} messages and {rate['deliveries']:,.0f} deliveries a second"
    machines = math.ceil(processes / 28)
    yield f"  {processes:,} processes, {loads[0] * busy:.0%} busy: {machines:,} machines of 32 cores"
    yield f"  {shards:,} Redis servers, {loads[1] * busy:.0%} busy, {rate['layer_messages']:,.0f} copies a second"
    yield f"  {memory / 1e9:,.1f} GB of memory"
    yield f"  {out / 1e9:,.1f} Gbit/s to clients, {between / 1e9:,.2f} Gbit/s from Redis to processes"
    yield f"  from send to delivery: median {late[49] * 1000:.1f} ms, p99 {late[98] * 1000:.1f} ms"


def check(seconds: float = 3.0) -> Iterator[str]:
    """The model beside a real server and a real Redis here, at sizes that gave none of the costs: CPU of a delivery."""
    from benchmarks.harness import contenders, native
    from benchmarks.harness.environments import Environments
    from benchmarks.harness.machine import choose_pinning
    from benchmarks.harness.measure import Bench

    native.build()
    room = contenders.offload("benchmarks.apps.room", "/room", redis=True)
    bench = Bench(Environments(), choose_pinning(True), 1, seconds, 1.0, 0)
    bench.environments.prepare([room])
    for size, senders in ((100, 1), (200, 4), (1000, 4)):
        load = ("fanout", "--connections", str(size), "--senders", str(senders), "--size", "64")
        sample = bench.timed(room, *load)
        measured = sample.detail["server_cpu"] / sample.value
        model = rounds(size, senders, Costs())
        simulated = model.processes[0].cpu / model.deliveries
        yield f"{size} members, {senders} talk: {measured / US:.2f} us measured, {simulated / US:.2f} us simulated"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description="Plan past one machine.")
    parser.add_argument("--connections", type=int, action="append", help="default: 1,000,000 and 10,000,000")
    parser.add_argument("--check", action="store_true", help="compare the model with real servers on this machine")
    options = parser.parse_args()
    if options.check:
        for line in check():
            print(line, flush=True)
        return
    for connections in options.connections or (1_000_000, 10_000_000):
        print("\n".join(plan(Traffic(connections), Costs())), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
