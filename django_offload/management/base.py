"""What the sending commands have in common: their arguments, and one line for whatever goes wrong."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from argparse import ArgumentParser
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError

from django_offload import conf
from offload.consumers.configuration import DEFAULT, layer_for
from offload.exceptions import OffloadError
from offload.interfaces import Content, Layer
from offload.layers.memory import MemoryLayer


class SendingCommand(ABC, BaseCommand):
    """Sends one JSON object through a layer.

    Attributes:
        target: what the first argument names.
    """

    # A project whose checks fail may still have something to say to its clients.
    requires_system_checks = []
    target: ClassVar[str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(self.target, metavar=self.target.upper(), help=f"the {self.target}'s name")
        parser.add_argument("content", metavar="JSON", help="""an object, for instance '{"text": "hello"}'""")
        parser.add_argument("--alias", default=DEFAULT, help="the layer's alias in CHANNEL_LAYERS (default: default)")

    def handle(self, *args: Any, **options: Any) -> None:
        content = _object(options["content"])
        try:
            layer = layer_for(options["alias"])
            if problem := conf.other_layer(options["alias"], layer):
                self.stderr.write(f"warning: {problem}")
            self.send(layer, options[self.target], content)
        except (OffloadError, TypeError) as error:
            raise CommandError(str(error)) from error
        if self.from_command_line and isinstance(layer, MemoryLayer):
            raise CommandError(
                f"the layer {options['alias']!r} lives in the memory of this process, so the message reached nobody; "
                "use the IPC or the Redis layer in CHANNEL_LAYERS"
            )

    @abstractmethod
    def send(self, layer: Layer, name: str, content: Content) -> None:
        """Send it to what `target` names."""

    from_command_line = False

    def run_from_argv(self, argv: list[str]) -> None:
        # Called from code, the process may have members of its own.
        self.from_command_line = True
        super().run_from_argv(argv)


def _object(text: str) -> Content:
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise CommandError("the content is nested too deeply") from error
    except ValueError as error:
        raise CommandError(
            f"""{text!r} is not JSON ({error}); write an object, as in '{{"text": "hello"}}'"""
        ) from error
    if not isinstance(content, dict):
        raise CommandError(f"""{text!r} is not a JSON object; write for instance '{{"text": "hello"}}'""")
    return content
