"""Where an HTTP connection may be, what may happen to it, and where it goes then.

Pure: a table, which the connection follows. One request is served at a time, and its answer is the last one or leaves
the connection to the next (RFC 9112, section 9).
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where an HTTP connection is. Each state has its own deadline, but for `SERVING` and `LEFT`."""

    IDLE = "no request"
    HEAD = "a request's head is arriving"
    BODY = "a request's body is arriving, and is collected before the application has it"
    SERVING = "the application has a request"
    DISCARDING = "the request is answered; what its application left of the body is dropped"
    ENDING = "nothing more is served; the client may still read"
    LEFT = "the connection has ended, or is another handler's"

    # By identity, without a call of Python's.
    __hash__ = object.__hash__


class Event(Enum):
    """What may happen to an HTTP connection."""

    HEAD_BEGAN = "some bytes of a head, but not all, are there"
    BODY_BEGAN = "a head is whole, and its body is to be collected"
    REQUEST = "a request goes to the application"
    ANSWERED = "the request is answered, and nothing of it is still to come"
    ANSWERED_EARLY = "the request is answered, and the rest of its body is still to come"
    RESTED = "the server stops, and the client has not begun a request"
    LAST = "no further request is served"
    LEAVES = "the connection ends, or becomes another handler's"

    __hash__ = object.__hash__


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.IDLE: {
        Event.HEAD_BEGAN: State.HEAD,
        Event.BODY_BEGAN: State.BODY,
        Event.REQUEST: State.SERVING,
        Event.RESTED: State.IDLE,
        Event.LAST: State.ENDING,
        Event.LEAVES: State.LEFT,
    },
    State.HEAD: {
        Event.BODY_BEGAN: State.BODY,
        Event.REQUEST: State.SERVING,
        Event.RESTED: State.IDLE,
        Event.LAST: State.ENDING,
        Event.LEAVES: State.LEFT,
    },
    State.BODY: {
        Event.REQUEST: State.SERVING,
        Event.LAST: State.ENDING,
        Event.LEAVES: State.LEFT,
    },
    State.SERVING: {
        Event.ANSWERED: State.IDLE,
        Event.ANSWERED_EARLY: State.DISCARDING,
        Event.LAST: State.ENDING,
        Event.LEAVES: State.LEFT,
    },
    State.DISCARDING: {
        Event.ANSWERED: State.IDLE,
        Event.LAST: State.ENDING,
        Event.LEAVES: State.LEFT,
    },
    State.ENDING: {
        Event.LAST: State.ENDING,
        Event.LEAVES: State.LEFT,
    },
    State.LEFT: {
        Event.LEAVES: State.LEFT,
    },
}
"""From a state, by an event, to a state. What is not here cannot happen: a request arrives only where none is under
way, and only the one that is under way is answered."""
