"""A visitor's task: ordered by a view, done by a worker, told to every page that the visitor has open.

Two notes in the cache, each with one writer: the views write a visitor's latest order, the worker writes how far it is.
A status is both in one. It may reach a page twice, or after a later one: see `isNews` in page.js.
"""

import json
import logging
import secrets
import time
from typing import Any

from django.conf import settings
from django.core.cache import cache

from offload import Channel, Group
from offload.exceptions import LayerUnavailable, OffloadError
from primes.sieve import PARTS, count_primes

log = logging.getLogger(__name__)

KEPT_SECONDS = 24 * 3600
Status = dict[str, Any]


class NotTaken(Exception):
    """The order could not be given to the workers."""


def group_of(visitor: str) -> Group:
    """The reply channels of all pages that a visitor has open; a site with users takes the user's id."""
    return Group(f"visitor-{visitor}")


def latest(visitor: str) -> Status:
    """What is known of the visitor's latest task."""
    order = cache.get(f"order-{visitor}")
    if order is None:
        return {"task": None, "state": "none"}
    if order["cancelled"]:
        return _status(order, "cancelled")
    return cache.get(f"progress-{order['task']}") or _status(order, "waiting")


def begin(visitor: str, limit: int) -> None:
    """Give an order to the workers. It takes the place of the visitor's earlier one.

    Raises:
        NotTaken: nobody has it; the visitor's earlier task, if any, is cancelled.
    """
    order = {"task": secrets.token_urlsafe(9), "limit": limit, "begun": time.time(), "cancelled": False}
    _note_order(visitor, order)
    try:
        _put({"visitor": visitor, "task": order["task"], "limit": limit, "begun": order["begun"]})
    except NotTaken:
        _note_order(visitor, {**order, "cancelled": True})
        _send(visitor, _status(order, "cancelled"))
        raise
    _send(visitor, _status(order, "waiting"))


def cancel(visitor: str) -> None:
    """Have the visitor's task end; its worker looks after each part of it."""
    if latest(visitor)["state"] in ("waiting", "running"):
        order = cache.get(f"order-{visitor}")
        _note_order(visitor, {**order, "cancelled": True})
        _send(visitor, _status(order, "cancelled"))


def run(visitor: str, task: str, limit: int, begun: float) -> None:
    """Do the work and tell how far it is. Called by a consumer or by a Celery task, in any process."""
    order = {"task": task, "limit": limit, "begun": begun}
    try:
        for done, found in enumerate(count_primes(limit), 1):
            if not _is_wanted(visitor, task):
                return
            _tell(visitor, _status(order, "running" if done < PARTS else "done", done, found))
            # Where consumers are greenlets, the others get a turn.
            time.sleep(0)
    except Exception:
        _tell(visitor, _status(order, "failed"))
        raise


def _put(order: dict[str, Any]) -> None:
    try:
        if settings.CELERY_BROKER_URL:
            _put_to_celery(order)
        else:
            Channel("primes.count").send(order)
    except OffloadError as error:
        log.warning("an order was not taken: %s", error)
        raise NotTaken from error


def _put_to_celery(order: dict[str, Any]) -> None:
    from project.celery import count

    try:
        count.delay(**order)
    except count.OperationalError as error:
        log.warning("an order was not taken: %s", error)
        raise NotTaken from error


def _is_wanted(visitor: str, task: str) -> bool:
    order = cache.get(f"order-{visitor}")
    return order is not None and order["task"] == task and not order["cancelled"]


def _tell(visitor: str, status: Status) -> None:
    # First the note, then the message: a page that joins in between finds the one or gets the other.
    cache.set(f"progress-{status['task']}", status, KEPT_SECONDS)
    _send(visitor, status)


def _send(visitor: str, status: Status) -> None:
    try:
        group_of(visitor).send({"text": json.dumps(status)})
    except LayerUnavailable as error:
        # The work is worth more than the news of it, and the next news has all of this in it.
        log.warning("the pages were not told: %s", error)


def _note_order(visitor: str, order: dict[str, Any]) -> None:
    cache.set(f"order-{visitor}", order, KEPT_SECONDS)


def _status(order: dict[str, Any], state: str, done: int = 0, found: int = 0) -> Status:
    return {
        "task": order["task"],
        "limit": order["limit"],
        "begun": order["begun"],
        "state": state,
        "done": done,
        "parts": PARTS,
        "found": found,
    }
