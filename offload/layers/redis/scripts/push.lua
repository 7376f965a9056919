-- KEYS: queues. ARGV: payload, lifetime, each queue's capacity.
-- For one node of a cluster, whose queues are in several slots and so cannot be KEYS, ARGV goes on with the queues. A
-- node that has not got one of them stops before anything is written.
-- Returns: full queues passed over; messages that had expired.
local payload, lifetime = ARGV[1], tonumber(ARGV[2])
local keys = KEYS
if #keys == 0 then
    keys = {}
    local number = (#ARGV - 2) / 2
    for place = 1, number do keys[place] = ARGV[2 + number + place] end
    for _, key in ipairs(keys) do redis.call('LLEN', key) end
end

local expired = 0
-- A queue that is not full may hold expired messages: who takes passes over them. Only the head is looked at, since
-- messages of one queue expire in the order in which they came unless their senders' settings differ. What fails has
-- pushed nothing: its sender is told so.
local function push(key, capacity)
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

local full = 0
for place, key in ipairs(keys) do
    if not push(key, tonumber(ARGV[2 + place])) then full = full + 1 end
end
return {full, expired}
