"""The same site under gunicorn, which knows nothing of channel layers."""

from __future__ import annotations

from offload import configure
from tests.deployment.site import application

__all__ = ["application"]

configure("ipc:")
