"""Writes howto/from-gunicorn.md: offload's answer to each setting of gunicorn's; a test holds the page to both.

Needs gunicorn, whose list of settings it walks through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gunicorn
from gunicorn.config import KNOWN_SETTINGS

from offload.exceptions import ConfigurationError
from offload.settings import OPTIONS, Option
from offload.settings.unused import SPECIAL, UNUSED

PAGE = Path(__file__).resolve().parent / "howto" / "from-gunicorn.md"
OF_THE_MACHINE = ("bind", "workers", "forwarded_allow_ips", "user", "group", "chdir")
"""Their defaults in gunicorn depend on where it runs."""

HEAD = """\
# From gunicorn

Write `offload` for `gunicorn`, and keep the rest of the line:

    gunicorn project.wsgi -c gunicorn.conf.py -b 0.0.0.0:8000 -w 4
    offload  project.wsgi -c gunicorn.conf.py -b 0.0.0.0:8000 -w 4

It reads the same configuration file, flags and variables, and answers the same signals. Requests run in greenlets,
as under gunicorn's gevent workers: there is nothing to say with `-k`.

Look before you serve:

    offload check project.wsgi -c gunicorn.conf.py       what is wrong with the project and its settings; exit 0 or 1
    offload settings -c gunicorn.conf.py                 every setting, and where its value came from

## Where settings come from

Later ones win:

1. the defaults; `PORT`, `WEB_CONCURRENCY` and `FORWARDED_ALLOW_IPS` stand in for three of them, as with gunicorn;
2. the configuration file: `-c`, else `OFFLOAD_CONFIG`, else `./offload.conf.py`, else `./gunicorn.conf.py`;
3. `GUNICORN_CMD_ARGS`;
4. `OFFLOAD_<NAME>`, one variable for each setting of the [list](../reference/settings.md);
5. the command line.

The log names the sources at the start. It lists names that are no settings once, and ignores them. A wrong value is
one line with the nearest right word, exit status 2, and nothing is started. A reload (HUP) reads the file anew; a
file that is wrong leaves the old processes and settings in force.

The file runs before the processes are forked. A `monkey.patch_all()` in it does nothing there: offload patches each
process before it imports anything of yours. Hooks are called with gunicorn's arguments.

`offload worker` reads a file only where `-c` names one, since the server's file has the server's number of processes
and pid file. It reads no `GUNICORN_CMD_ARGS`.

The application may be a call, as with gunicorn: `offload "app:create_app('production')"`.

## What becomes of each setting

"Taken" means: with gunicorn's meaning. Names are those of configuration files. The list is that of gunicorn {version}.
"""


def answer(setting: Any) -> str:
    """What becomes of a setting of gunicorn's, for its row.

    Raises:
        KeyError: nothing was decided.
    """
    by_name = {option.gunicorn or option.name: option for option in OPTIONS.values()}
    if setting.name in by_name:
        return _taken(by_name[setting.name], setting)
    if setting.name in UNUSED:
        return f"no effect: {UNUSED[setting.name].why}"
    return SPECIAL[setting.name][1]


def _taken(option: Option, setting: Any) -> str:
    text = f"taken: {option.text}" if option.differs is None else f"taken, but different: {option.differs}"
    if setting.name not in OF_THE_MACHINE and setting.default is not None:
        try:
            is_same = option.read(setting.default, setting.name) == option.default
        except ConfigurationError:
            # The default itself is nothing that a user could write.
            is_same = True
        if not is_same and option.shown:
            text += f"; default: `{option.shown}`"
    return text


def page() -> str:
    """The whole page."""
    parts = [HEAD.format(version=gunicorn.__version__)]
    section = None
    for setting in sorted(KNOWN_SETTINGS, key=lambda known: (known.section, known.order)):
        if setting.section != section:
            section = setting.section
            parts.append(f"\n### {section}\n\n| setting | flags | here |\n| --- | --- | --- |\n")
        flags = ", ".join(f"`{flag}`" for flag in setting.cli or ())
        parts.append(f"| `{setting.name}` | {flags} | {answer(setting)} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
