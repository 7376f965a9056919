"""``manage.py group_send GROUP JSON``."""

from __future__ import annotations

from django_offload.management.base import SendingCommand
from offload.interfaces import Content, Layer


class Command(SendingCommand):
    help = "Send one message to each member of a group."
    target = "group"

    def send(self, layer: Layer, name: str, content: Content) -> None:
        layer.group_send(name, content)
