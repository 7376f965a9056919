"""P9: a consumer of a named channel, for `offload worker`. Run as a module, it fills the channel."""

import os

from benchmarks.apps.hello import application
from benchmarks.peers.jobs import TEXT, TOTAL, count
from offload import Channel, Message, configure, route

__all__ = ["application", "channel_routing"]


def run(message: Message) -> None:
    count(message["text"])


channel_routing = [route("jobs", run)]

if __name__ == "__main__":
    configure(os.environ["BENCHMARK_LAYER"])
    for _ in range(TOTAL):
        Channel("jobs").send({"text": TEXT})
