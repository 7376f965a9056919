"""What must happen in one piece on the server, as Lua, and how its keys are laid out.

A queue is a list at ``<prefix>channel:<name>``. An item is thirteen digits, the millisecond at which it expires by the
server's clock, and the payload. An item without them, as other programs may push, does not expire. A queue's key
itself expires some seconds after its last message, so that what expired is counted when somebody looks.

Channels that are members of a group are a sorted set at ``<prefix>group:<name>:channels``, scored by the millisecond
at which the membership ends.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

STAMP_LENGTH = 13
_STAMP = re.compile(rb"\d{13}")


class Script:
    """A script and the name that the server knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        # SHA-1 names it and protects nothing.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# A queue that is not full may hold expired messages: who takes passes over them. Only the head is looked at, since
# messages of one queue expire in the order in which they came unless their senders' settings differ.
_PUSH = """
local expired = 0
local function push(key, payload, lifetime, capacity)
    local length = redis.call('LLEN', key)
    while length >= capacity do
        local ends = tonumber(string.sub(redis.call('LINDEX', key, 0), 1, 13))
        if not ends or ends > now then return false end
        redis.call('LPOP', key)
        length = length - 1
        expired = expired + 1
    end
    redis.call('RPUSH', key, string.format('%013.0f', now + lifetime) .. payload)
    if redis.call('PTTL', key) < lifetime + 10000 then redis.call('PEXPIRE', key, lifetime + 10000) end
    return true
end
"""

# KEYS: queue. ARGV: payload, lifetime, capacity. Returns: 1 or, when the queue is full, 0; messages that had expired.
SEND = Script(
    _NOW
    + _PUSH
    + """
local sent = push(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return {sent and 1 or 0, expired}
"""
)

# KEYS: queues in the order to look at them. Returns: messages that had expired; a queue's number and its item, or not.
TAKE = Script(
    _NOW
    + """
local expired = 0
for number, key in ipairs(KEYS) do
    local item = redis.call('LPOP', key)
    while item do
        local ends = tonumber(string.sub(item, 1, 13))
        if not ends or ends > now then return {expired, number, item} end
        expired = expired + 1
        item = redis.call('LPOP', key)
    end
end
return {expired}
"""
)

# KEYS: member channels. ARGV: pub/sub channel, payload, prefix of queues, lifetime, capacity, (pattern, capacity)...
# Returns: full queues passed over; messages that had expired.
GROUP_SEND = Script(
    """
redis.call('PUBLISH', ARGV[1], ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
"""
    + _NOW
    + _PUSH
    + """
local function capacity_of(channel)
    for place = 6, #ARGV, 2 do
        if string.find(channel, ARGV[place]) then return tonumber(ARGV[place + 1]) end
    end
    return tonumber(ARGV[5])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local full = 0
for _, channel in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if not push(ARGV[3] .. channel, ARGV[2], tonumber(ARGV[4]), capacity_of(channel)) then full = full + 1 end
end
return {full, expired}
"""
)

# KEYS: member channels. ARGV: channel, lifetime.
GROUP_ADD = Script(
    _NOW
    + """
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
"""
)


def payload_of(item: bytes) -> bytes:
    """A queue's item without its stamp."""
    return item[STAMP_LENGTH:] if _STAMP.match(item) else item


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def capacity_arguments(capacities: Mapping[str, int]) -> Iterator[str | int]:
    """The capacities by glob as arguments of `GROUP_SEND`."""
    for glob, capacity in capacities.items():
        yield lua_pattern(glob)
        yield capacity


def lua_pattern(glob: str) -> str:
    """A glob, as ``fnmatch`` knows them, in the pattern language of Lua."""
    pattern = "^"
    place = 0
    while place < len(glob):
        character = glob[place]
        place += 1
        if character == "*":
            pattern += ".*"
        elif character == "?":
            pattern += "."
        elif character == "[" and (end := _end_of_set(glob, place)) >= 0:
            inside = glob[place:end]
            place = end + 1
            negated = inside.startswith("!")
            members = _set(inside[negated:])
            if members:
                pattern += f"[{'^' if negated else ''}{members}]"
            else:  # such as [z-a]; Lua has no empty set
                pattern += "." if negated else "[^%z%Z]"
        else:
            pattern += character if character.isalnum() else f"%{character}"
    return f"{pattern}$"


def _end_of_set(glob: str, place: int) -> int:
    """A bracket right behind the opening one, or behind its ``!``, belongs to the set."""
    if glob[place : place + 1] == "!":
        place += 1
    return glob.find("]", place + 1)


def _set(inside: str) -> str:
    """Ranges stay; all else is escaped."""
    made = ""
    place = 0
    while place < len(inside):
        if inside[place + 1 : place + 2] == "-" and place + 2 < len(inside):
            first, last = inside[place], inside[place + 2]
            place += 3
            if first <= last:
                # Escaped characters make no ranges in Lua: the few characters that names may have are spelled out.
                made += "".join(_escaped(chr(code)) for code in range(ord(first), min(ord(last), 127) + 1))
            continue
        made += _escaped(inside[place])
        place += 1
    return made


def _escaped(character: str) -> str:
    return character if character.isalnum() else f"%{character}"
