"""Django signals around consumers, with the names of Channels 1.1.

`consumer_started` and `consumer_finished` are sent before and after each consumer, in its greenlet, while its database
connections are open; `worker_ready` in each `runworker` process, before it takes its first message.
"""

from __future__ import annotations

from django.dispatch import Signal

from offload.consumers.dispatch.local import Dispatch

consumer_started = Signal()
consumer_finished = Signal()
worker_ready = Signal()


def send_started() -> None:
    """Send `consumer_started`."""
    consumer_started.send(sender=Dispatch, environ={})


def send_finished() -> None:
    """Send `consumer_finished`."""
    consumer_finished.send(sender=Dispatch)


def send_worker_ready() -> None:
    """Send `worker_ready`."""
    worker_ready.send(sender=Dispatch)
