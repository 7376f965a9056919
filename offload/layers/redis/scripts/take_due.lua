-- KEYS: delayed messages. ARGV: most.
-- Returns: those that are due; the milliseconds until the next is, if there is one.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
if #due > 0 then redis.call('ZREM', KEYS[1], unpack(due)) end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #following == 0 then return {due} end
return {due, math.max(0, tonumber(following[2]) - now)}
