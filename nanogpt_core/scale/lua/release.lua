-- Takes abandoned reservations out of the budget; returns their sum.

local sum = 0
local entries = redis.call('HGETALL', open)
for n = 1, #entries, 2 do
  local amount, abandoned_at = entries[n + 1]:match('^(%d+) %S+ (%d+)')
  if tonumber(abandoned_at) < now then
    redis.call('HDEL', open, entries[n])
    redis.call('HSET', released, entries[n], amount)
    add('open', 0 - amount)
    sum = sum + amount
  end
end
save()
return sum
