-- Begins again at 0.

redis.call('DEL', unpack(KEYS))
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'was_reset', 1)
