"""``manage.py offload``: serve the project as in production."""

from __future__ import annotations

from collections.abc import Sequence

from django_offload.management.processes import ProcessCommand


class Command(ProcessCommand):
    help = "Serve the project; the options are those of the offload command."

    def command(self, arguments: Sequence[str]) -> list[str]:
        return list(arguments)
