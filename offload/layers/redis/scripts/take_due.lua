-- KEYS: delayed messages; what this taker was given. ARGV: most, and most bytes of several; the batch that he received; the
-- number of the next; for how many milliseconds it is kept for him.
-- Returns: the number of a batch with its messages; the milliseconds until the next is due, if there is one.
local given = redis.call('LRANGE', KEYS[2], 0, -1)
if #given == 0 or given[1] == ARGV[3] then
    redis.call('DEL', KEYS[2])
    given = {ARGV[4]}
    local size = 0
    for _, message in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
        size = size + #message
        if #given > 1 and size > tonumber(ARGV[2]) then break end
        given[#given + 1] = message
    end
    if #given > 1 then
        redis.call('ZREM', KEYS[1], unpack(given, 2))
        redis.call('RPUSH', KEYS[2], unpack(given))
        redis.call('PEXPIRE', KEYS[2], ARGV[5])
    end
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #following == 0 then return {given} end
return {given, math.max(0, tonumber(following[2]) - now)}
