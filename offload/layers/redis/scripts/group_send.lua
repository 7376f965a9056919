-- KEYS: member channels. ARGV: PUBLISH or SPUBLISH, pub/sub channel, payload.
-- Returns: the member channels, or nothing. It publishes last: what fails has sent nothing.
local members = false
if redis.call('EXISTS', KEYS[1]) == 1 then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    members = redis.call('ZRANGE', KEYS[1], 0, -1)
end
redis.call(ARGV[1], ARGV[2], ARGV[3])
return members
