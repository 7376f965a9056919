"""Who hears of a visitor's task, and the worker's end of it."""

import json

from django_offload.decorators import http_session
from offload import DenyConnection
from primes import tasks


@http_session
def ws_connect(message):
    visitor = message.http_session and message.http_session.get("visitor")
    if not visitor:
        raise DenyConnection("no visitor's cookie; the page gives one")
    # First join, then look: what happens in between comes twice, and not never. The page leaves with its connection.
    tasks.group_of(visitor).add(message.reply_channel)
    message.reply_channel.send({"text": json.dumps(tasks.latest(visitor))})


def count(message):
    """Of the channel ``primes.count``: runs in ``offload worker``, which serves no page and holds no socket."""
    tasks.run(**message.content)
