-- KEYS: queues in the order to look at them; or ARGV, as in push.lua.
-- Returns: messages that had expired; a queue and its item, or not.
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
