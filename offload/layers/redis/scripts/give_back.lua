-- KEYS: queue. ARGV: an item that was taken from its head a moment ago.
redis.call('LPUSH', KEYS[1], ARGV[1])
local ends = tonumber(string.sub(ARGV[1], 1, 13))
if ends and redis.call('PTTL', KEYS[1]) < 0 then
    redis.call('PEXPIRE', KEYS[1], math.max(ends - now, 0) + 10000)
end
