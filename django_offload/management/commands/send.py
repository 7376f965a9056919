"""``manage.py send CHANNEL JSON``."""

from __future__ import annotations

from django_offload.management.base import SendingCommand
from offload.interfaces import Content, Layer


class Command(SendingCommand):
    help = "Put one message into a channel."
    target = "channel"

    def send(self, layer: Layer, name: str, content: Content) -> None:
        layer.send(name, content)
