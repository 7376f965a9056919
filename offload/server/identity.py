"""What a process is to the system: its user and groups, and its title in the list of processes."""

from __future__ import annotations

import os
import pwd

from offload.exceptions import ConfigurationError
from offload.settings import ProcessOptions, Settings


def become(options: ProcessOptions) -> None:
    """Take on --user, --group and --initgroups.

    Raises:
        ConfigurationError: the system does not let this user become another.
    """
    user, group = options.user, options.group
    try:
        if group is not None and group != os.getegid():
            os.setgid(group)
        if user is not None and user != os.geteuid():
            if options.initgroups:
                os.initgroups(pwd.getpwuid(user).pw_name, os.getegid())
            elif os.geteuid() == 0:
                os.setgroups([os.getegid()])
            os.setuid(user)
    except PermissionError as error:
        raise ConfigurationError(
            f"user {os.geteuid()} may not become user {user}, group {group}: start the server as root, "
            "or leave --user and --group out"
        ) from error


def give_title(what: str, settings: Settings) -> None:
    """Have `ps` and `top` show what this process is; without effect where setproctitle is not installed."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"offload: {what} [{settings.process.name or settings.app}]")
