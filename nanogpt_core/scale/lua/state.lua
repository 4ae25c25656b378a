-- Beginning of the scripts that read the state: the keys, the server's time, and the hash of the state.
-- Times are microseconds since 1970 by TIME. Amounts are whole billionths of a US dollar: sums are exact. Lua's numbers
-- are exact up to 2^53: nine million US dollars.
-- All keys of one name share a hash tag, which puts them into one slot of a cluster:
--   state     hash        "generation", sums of the ledger, the learned rate, the end of the pause, number of workers, and
--                         the time of a request of the last second in which there was one
--   open      hash        attempts that are not settled: amount, worker, time to count as abandoned, texts
--   starts    sorted set  start times of the last ten seconds, and reserved ones, by attempt
--   workers   sorted set  workers, by the time of their last request
--   done      sorted set  records without a reservation that were applied, for ten minutes
--   released  hash        attempts that were released by hand, with their amounts

local state_key, open, starts, workers, done, released = unpack(KEYS)
local SECOND = 1000000
local clock = redis.call('TIME')
local now = clock[1] * SECOND + clock[2]
-- The hash is read once and written once: a command costs about 1.5 microseconds, and a request needed thirty of them.
local state, changed = {}, {}
local fields = redis.call('HGETALL', state_key)
for n = 1, #fields, 2 do state[fields[n]] = fields[n + 1] end
local function get(name, default) return (state[name] or default) + 0 end -- an error if it is no number
local function set(name, value) state[name], changed[name] = value, true end
local function add(name, amount) set(name, get(name, 0) + amount) end
local function save()
  local list = {}
  for name in pairs(changed) do
    list[#list + 1] = name
    list[#list + 1] = state[name]
  end
  if #list > 0 then redis.call('HSET', state_key, unpack(list)) end
end
