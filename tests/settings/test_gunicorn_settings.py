"""Each setting of the installed gunicorn is taken: its flag, its default in a file, and its hooks."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from gunicorn import config

from offload.settings import OPTIONS
from tests.settings.conftest import Read

VALUES = {
    "config": "empty.py",
    "user": "0",
    "group": "0",
    "chdir": ".",
    "statsd_host": "127.0.0.1:8125",
    "raw_env": "NAME=value",
    "raw_paste_global_conf": "name=value",
    "ssl_version": "TLS",
    "cert_reqs": "1",
    "worker_class": "gthread",
    "logger_class": "gunicorn.glogging.Logger",
    "http_protocols": "h1",
    "reload_engine": "poll",
}
"""For flags whose default would not do as a value."""


def with_flags() -> list[Any]:
    return [setting for setting in config.KNOWN_SETTINGS if setting.cli]


@pytest.mark.parametrize("setting", with_flags(), ids=lambda setting: setting.name)
def test_flag_is_taken(read: Read, setting: Any) -> None:
    Path("empty.py").write_text("")
    for flag in setting.cli:
        # check_config and its like are no settings, and are asked for.
        arguments = [flag] if setting.action in ("store_true", "store_const") else [flag, _value_for(setting)]
        reading = read("shop", *arguments)
        assert reading.settings.app == "shop"


def test_flag_that_gunicorn_22_alone_has_is_taken(read: Read) -> None:
    assert read("shop", "--tolerate-dangerous-framing").remarks == (
        "--tolerate-dangerous-framing has no effect: such requests are refused: "
        "proxies and servers must not differ on where one ends",
    )


def _value_for(setting: Any) -> str:
    value = VALUES.get(setting.name, setting.default)
    if isinstance(value, list):
        value = value[0] if value else "x"
    return "1" if value is None or value == "" else str(value)


def test_file_with_all_of_gunicorns_defaults_changes_nothing_and_is_silent(read: Read) -> None:
    lines = []
    for setting in config.KNOWN_SETTINGS:
        try:
            ast.literal_eval(repr(setting.default))
        except (ValueError, SyntaxError):
            continue
        if setting.name not in ("config", "user", "group", "chdir", "control_socket", "worker_class"):
            lines.append(f"{setting.name} = {setting.default!r}")
    assert len(lines) > 80
    Path("gunicorn.conf.py").write_text("\n".join(lines))
    reading = read("shop")
    assert reading.remarks == ()
    changed = {name for name, option in OPTIONS.items() if reading.settings.value_of(name) != option.default}
    # Told by the table of defaults that differ, in the page on gunicorn.
    assert changed <= {"worker_connections", "ws_max_size", "logconfig_dict", "secure_scheme_headers"}


def test_default_hooks_of_gunicorns_are_taken(read: Read) -> None:
    hooks = [setting for setting in config.KNOWN_SETTINGS if setting.section == "Server Hooks"]
    for setting in hooks:
        Path("gunicorn.conf.py").write_text(
            f"from gunicorn.config import {setting.__name__} as _setting\n{setting.name} = _setting.{setting.name}\n"
        )
        assert read("shop").settings.value_of(setting.name) is not None
    assert len(hooks) > 15
