"""The limit of open files: each connection takes one, and the usual limit is for programs that open few."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("offload.server")

_OTHERS = 64
"""Descriptors that a process needs besides those of its connections: libraries, logs, links to the layer."""
_MOST = 1 << 20
"""Taken where the system has no limit; a table that is larger costs memory, and programs that close all of it time."""


def raise_limit(connections: int, is_asked_for: bool) -> None:
    """Raise the soft limit to the hard one, for this process and its children; say it where that is too low.

    Args:
        connections: those that one process promises to hold.
        is_asked_for: whether somebody has set that number, and is to be warned.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    if soft != resource.RLIM_INFINITY and soft < connections + _OTHERS:
        log.log(
            logging.WARNING if is_asked_for else logging.DEBUG,
            "a process may open %d files, so it holds fewer connections than --worker-connections %d; raise the hard "
            "limit (ulimit -Hn, LimitNOFILE= of systemd), or lower the option",
            soft, connections,
        )  # fmt: skip
