"""The app that `INSTALLED_APPS` names."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.core.management import get_commands
from django.core.signals import setting_changed

from django_offload import conf
from django_offload.binding import Binding
from django_offload.checks import (
    check_acceptance,
    check_async_views,
    check_channel_layers,
    check_databases,
    check_deployment,
    check_routing,
    check_settings,
    check_users,
)
from django_offload.connections import make_cooperative
from django_offload.handshake import forget_middleware
from django_offload.settings import PREFIX


class OffloadConfig(AppConfig):
    """Tells offload, once Django's settings are known, what this project wants of it."""

    name = "django_offload"
    verbose_name = "offload"

    def ready(self) -> None:
        """Configure offload; imports no routing and connects to nothing."""
        conf.apply()
        make_cooperative()
        Binding.register_all()
        checks.register(check_settings, "offload")
        checks.register(check_channel_layers, "offload")
        checks.register(check_routing, "offload")
        checks.register(check_acceptance, "offload")
        checks.register(check_users, "offload")
        checks.register(check_async_views, "offload", deploy=True)
        checks.register(check_deployment, "offload", deploy=True)
        checks.register(check_databases, "offload", deploy=True)
        _take_runserver()
        if apps.is_installed("django.contrib.auth"):
            from django_offload.users import connect_signals

            connect_signals()
        setting_changed.connect(_reapply, dispatch_uid="django_offload")


def _take_runserver() -> None:
    """Make ours the ``runserver``, wherever in ``INSTALLED_APPS`` this app stands, in place of Django's own ones.

    Somebody else's that stands first is what the project wants.
    """
    commands = get_commands()
    if commands.get("runserver") in ("django.core", "django.contrib.staticfiles"):
        commands["runserver"] = OffloadConfig.name


def _reapply(*, setting: str, **kwargs: Any) -> None:
    # Tests override settings; nothing made of the old ones must outlive them.
    forget_middleware()
    if setting in ("CHANNEL_LAYERS", "ROOT_URLCONF"):
        conf.apply_layers()
    elif setting.startswith(PREFIX):
        conf.apply_policies()
