"""P10: sends to groups from a process of its own, that serves nothing.

python -m benchmarks.apps.sender times            for each group named on stdin, the microseconds that a send took us
python -m benchmarks.apps.sender calls N GROUP    commands of N sends as JSON: what clients sent, what scripts executed
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time

import redis

from offload import Group, configure

CONTENT = {"text": "x" * 64}
END = "benchmark:end"


def times() -> None:
    for line in sys.stdin:
        group = Group(line.strip())
        began = time.perf_counter()
        group.send(CONTENT)
        print((time.perf_counter() - began) * 1e6, flush=True)


def calls(number: int, name: str) -> dict[str, dict[str, int]]:
    found = {"clients": collections.Counter[str](), "scripts": collections.Counter[str]()}
    group, address = Group(name), os.environ["BENCHMARK_REDIS"]
    with redis.Redis.from_url(address) as server, redis.Redis.from_url(address) as watcher:
        # Connected, and introduced, before anything is counted.
        group.send(CONTENT)
        server.ping()
        with watcher.monitor() as monitor:
            for _ in range(number):
                group.send(CONTENT)
            server.get(END)
            while END not in (said := monitor.next_command())["command"]:
                found["scripts" if said["client_type"] == "lua" else "clients"][said["command"].split()[0].lower()] += 1
    return {who: dict(counts) for who, counts in found.items()}


if __name__ == "__main__":
    configure(os.environ["BENCHMARK_REDIS"])
    if sys.argv[1] == "times":
        times()
    else:
        print(json.dumps(calls(int(sys.argv[2]), sys.argv[3])))
