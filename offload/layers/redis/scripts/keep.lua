-- KEYS: delayed messages. ARGV: milliseconds, and the message with its channel and what tells it from its like.
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
