-- KEYS: member channels; the group's counter. ARGV: PUBLISH or SPUBLISH, pub/sub channel, payload; the counter's lifetime.
-- Returns: the member channels, or nothing. What fails has sent nothing; a counter that is forbidden fails nothing.
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local members = false
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now())
    members = redis.call('ZRANGE', KEYS[1], 0, -1)
end
redis.call(ARGV[1], ARGV[2], ARGV[3])
local sent = redis.pcall('HINCRBY', KEYS[2], 'sent', 1)
if sent == 1 then redis.pcall('HSET', KEYS[2], 'since', now()) end
if type(sent) == 'number' and sent % 16 == 1 then redis.pcall('PEXPIRE', KEYS[2], ARGV[4]) end
return members
