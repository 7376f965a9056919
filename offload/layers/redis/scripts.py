"""What must happen in one piece on the server, as Lua, and how its keys are laid out.

A queue is a list at ``<prefix>channel:<name>``. An item is thirteen digits, the millisecond at which it expires by the
server's clock, and the payload. An item without them, as other programs may push, does not expire. A queue's key
itself expires some seconds after its last message, so that what expired is counted when somebody looks.

Channels that are members of a group are a sorted set at ``<prefix>members:{<prefix>group:<name>}``, scored by the
millisecond at which the membership ends. The braces keep it on that node of a cluster that has the group's pub/sub
channel, ``<prefix>group:<name>``. Delayed messages are a sorted set at ``<prefix>delayed``, scored by the millisecond
at which they are due. Likewise ``<prefix>left:{<prefix>inbox:<process>}``, a list of what a process is to
do when its connection is back.
"""

from __future__ import annotations

import hashlib
import re

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
# messages of one queue expire in the order in which they came unless their senders' settings differ. What fails has
# pushed nothing: its sender is told so.
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
    local renews = redis.call('PTTL', key) < lifetime + 10000
    redis.call('RPUSH', key, string.format('%013.0f', now + lifetime) .. payload)
    if renews then
        local refusal = redis.pcall('PEXPIRE', key, lifetime + 10000)
        if type(refusal) == 'table' and refusal.err then
            redis.call('RPOP', key)
            redis.call('PEXPIRE', key, lifetime + 10000)  -- fails again
        end
    end
    return true
end
"""

# KEYS: queues. ARGV: payload, lifetime, and each queue's capacity. Returns: full queues passed over; messages that had
# expired.
PUSH = Script(
    _NOW
    + _PUSH
    + """
local full = 0
for number, key in ipairs(KEYS) do
    if not push(key, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[number + 2])) then full = full + 1 end
end
return {full, expired}
"""
)

# As PUSH, for one node of a cluster, whose queues are in several slots and so cannot be KEYS. ARGV: payload, lifetime,
# and each queue with its capacity. A node that has not got one of them stops before anything is written.
PUSH_ACROSS = Script(
    _NOW
    + _PUSH
    + """
for number = 3, #ARGV, 2 do redis.call('LLEN', ARGV[number]) end
local full = 0
for number = 3, #ARGV, 2 do
    if not push(ARGV[number], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[number + 1])) then full = full + 1 end
end
return {full, expired}
"""
)

# KEYS: queues in the order to look at them; ARGV instead, for one node of a cluster, whose queues are in several slots
# and so cannot be KEYS. A node that has not got one of them stops before anything is taken. Returns: messages that had
# expired; a queue and its item, or not.
TAKE = Script(
    _NOW
    + """
local keys = KEYS
if #keys == 0 then
    keys = ARGV
    for _, key in ipairs(keys) do redis.call('LLEN', key) end
end
local expired = 0
for _, key in ipairs(keys) do
    local item = redis.call('LPOP', key)
    while item do
        local ends = tonumber(string.sub(item, 1, 13))
        if not ends or ends > now then return {expired, key, item} end
        expired = expired + 1
        item = redis.call('LPOP', key)
    end
end
return {expired}
"""
)

# KEYS: queue. ARGV: an item that was taken from its head a moment ago.
GIVE_BACK = Script(
    _NOW
    + """
redis.call('LPUSH', KEYS[1], ARGV[1])
local ends = tonumber(string.sub(ARGV[1], 1, 13))
if ends and redis.call('PTTL', KEYS[1]) < 0 then
    redis.call('PEXPIRE', KEYS[1], math.max(ends - now, 0) + 10000)
end
"""
)

# KEYS: member channels. ARGV: PUBLISH or SPUBLISH, pub/sub channel, payload. Returns: the member channels, or nothing.
# It publishes last: what fails has sent nothing.
GROUP_SEND = Script(
    """
local members = false
if redis.call('EXISTS', KEYS[1]) == 1 then
"""
    + _NOW
    + """
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    members = redis.call('ZRANGE', KEYS[1], 0, -1)
end
redis.call(ARGV[1], ARGV[2], ARGV[3])
return members
"""
)

# KEYS: delayed messages. ARGV: milliseconds, and the message with its channel and what tells it from its like.
KEEP = Script(
    _NOW
    + """
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
"""
)

# KEYS: delayed messages. ARGV: most. Returns: those that are due; the milliseconds until the next is, if there is one.
TAKE_DUE = Script(
    _NOW
    + """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
if #due > 0 then redis.call('ZREM', KEYS[1], unpack(due)) end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #following == 0 then return {due} end
return {due, math.max(0, tonumber(following[2]) - now)}
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
