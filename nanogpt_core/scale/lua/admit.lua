-- Applies records of ended attempts; then, for each request, reserves a cost and a start time, or confirms a time.
-- Returns a list: first generation, rate, workers, peak and the server's time; then for each request its status, the
-- microseconds until its start, and the amount that is committed.

-- One JSON array: worker, rate that was set or 0; generation, committed amount, peak and time of the last reply to the
-- worker; whether it could not reach the server, records, requests.
local worker, given_rate, generation, known_amount, known_peak, known_time, was_away, records, requests =
  unpack(cjson.decode(ARGV[1]))

-- Rate: the same algorithm and constants as in nanogpt_core/http/rate_limiter.py, which explains them.

local DEFAULT_RATE, MAX_DEFAULT_RATE, MIN_RATE = 25, 100, 0.2
local USED_SHARE, DECREASE_FACTOR = 0.98, 0.95
local MAX_GROWTH, MIN_GROWTH, GROWTH_DIVISOR, NEAR_PEAK_FACTOR = 0.04, 5e-6, 64, 1.5
local WINDOW, LOOK_BACK, HISTORY = 0.99 * SECOND, 1.1 * SECOND, 10 * SECOND

local function rate_at(time)
  local peak = get('peak', 0)
  local most = given_rate > 0 and given_rate or MAX_DEFAULT_RATE
  if peak == 0 and given_rate > 0 then return given_rate end
  local growth, plateau = get('growth', MAX_GROWTH), 0
  if peak > 0 then
    plateau = (peak * (1 - DECREASE_FACTOR) / growth) ^ (1 / 3)
  else
    peak = DEFAULT_RATE
  end
  local busy = get('busy', 0) - math.max(0, get('busy_until', 0) - time) / SECOND
  return math.min(math.max(peak + growth * (busy - plateau) ^ 3, MIN_RATE), most)
end

local function nth_last_start(n)
  return tonumber(redis.call('ZRANGE', starts, -n, -n, 'WITHSCORES')[2])
end

local function count_and_period()
  local rate = rate_at(math.huge)
  local count = math.ceil(rate)
  return count, count / rate / USED_SHARE * SECOND
end

local function forget_old_starts()
  local _, period = count_and_period()
  redis.call('ZREMRANGEBYSCORE', starts, '-inf', now - math.max(2 * period, HISTORY))
end

local function reserve_start(id, gathers)
  local count, period = count_and_period()
  local earliest = math.max(now, get('paused', 0))
  local start = earliest
  local half = nth_last_start(math.floor((count + 1) / 2))
  local oldest = half and nth_last_start(count)
  if oldest then start = math.max(start, oldest + period) end
  local burst = not gathers and get('peak', 0) == 0 and (not oldest or oldest + 2 * period <= now)
  if not burst and half and half + period > now then
    local last, spacing = nth_last_start(1), period / count
    if gathers then
      local used = redis.call('ZCOUNT', starts, string.format('(%.0f', last - period), last)
      spacing = math.max(spacing, (nth_last_start(used) + period - last) / math.max(1, count - used + 1))
    end
    start = math.max(start, last + spacing)
  end
  start = math.ceil(start)
  if not gathers or rate_at(math.huge) < math.max(get('peak', 0), DEFAULT_RATE) then
    local busy_until = get('busy_until', 0)
    set('busy', get('busy', 0) + math.max(0, start - math.max(earliest, busy_until)) / SECOND)
    set('busy_until', math.max(busy_until, start))
  end
  redis.call('ZADD', starts, start, id)
  return start
end

-- Returns the start time: now, or a later one if the caller woke early, a pause has begun or too many are late.
local function confirm_start(id, gathers)
  local start = tonumber(redis.call('ZSCORE', starts, id))
  if start and now >= get('paused', 0) then
    if start > now + SECOND / 1000 then return start end
    redis.call('ZADD', starts, now, id)
    local rate = rate_at(math.huge)
    local count = math.ceil(rate)
    local first = string.format('(%.0f', now - count / rate * SECOND)
    if redis.call('ZCOUNT', starts, first, now) <= count then return now end
  end
  redis.call('ZREM', starts, id)
  return reserve_start(id, gathers)
end

local function most_accepted(first, last)
  local found = redis.call('ZRANGEBYSCORE', starts, first, last, 'WITHSCORES')
  local times, most, begin = {}, 0, 1
  for n = 2, #found, 2 do times[#times + 1] = tonumber(found[n]) end
  for n, time in ipairs(times) do
    while time - times[begin] > WINDOW do begin = begin + 1 end
    most = math.max(most, n - begin + 1)
  end
  return most
end

local function decrease(start)
  if start > get('event_known', 0) then
    set('event_known', now)
    set('event_first', start)
    set('event_rate', rate_at(start))
    set('event_peak', get('peak', 0))
    set('event_growth', get('growth', MAX_GROWTH))
    set('event_refusals', 0)
  end
  add('event_refusals', 1)
  local first, rate = math.min(get('event_first', start), start), get('event_rate', MAX_DEFAULT_RATE)
  local accepted = most_accepted(first - LOOK_BACK, get('event_known', now))
  local lowest_peak = rate / 2
  if accepted + get('event_refusals', 1) >= lowest_peak then lowest_peak = math.min(lowest_peak, 1) end
  local peak, before = math.max(lowest_peak, MIN_RATE, math.min(rate, accepted)), get('event_peak', 0)
  if before == 0 then before = DEFAULT_RATE end
  local growth = MAX_GROWTH
  if peak / before < NEAR_PEAK_FACTOR and before / peak < NEAR_PEAK_FACTOR then
    growth = math.max(get('event_growth', MAX_GROWTH) / GROWTH_DIVISOR, MIN_GROWTH)
  end
  set('event_first', first)
  set('peak', peak)
  set('growth', growth)
  set('busy', 0)
  set('busy_until', 0)
end

-- Records
local function is_new(id)
  redis.call('ZREMRANGEBYSCORE', done, '-inf', now - 600 * SECOND)
  return redis.call('ZADD', done, 'NX', now, id) == 1
end

local apply = {}

-- id, kind ("answered", "uncertain", "refused" or "unsent"), reserved amount, amount, tokens, texts, 1 if Redis was
-- not reachable
function apply.settle(id, kind, reserved, amount, tokens, texts, unreserved)
  if kind == 'unsent' then redis.call('ZREM', starts, id) end
  if redis.call('HDEL', open, id) == 1 then
    add('open', 0 - reserved)
  elseif redis.call('HDEL', released, id) == 0 and not (unreserved == 1 and is_new(id)) then
    return -- it was settled before, or the server has lost its data and counts it as restored
  end
  if kind ~= 'unsent' then add(kind, 1) end
  if kind == 'uncertain' then
    add('uncertain_amount', amount)
  elseif kind == 'answered' then
    add('spent', amount)
    add('tokens', tokens)
    add('texts', texts)
  end
end

-- id, 1 if the service refused the request (429), length of the pause in microseconds
function apply.pause(id, is_refusal, pause)
  local start = tonumber(redis.call('ZSCORE', starts, id))
  if is_refusal == 1 and start then
    redis.call('ZREM', starts, id)
    decrease(start)
  end
  set('paused', math.max(get('paused', 0), math.ceil(now + pause)))
  redis.call('ZREMRANGEBYSCORE', starts, string.format('(%.0f', now), '+inf')
end

-- id, texts from the cache, repeated texts, amount
function apply.saving(id, cached, repeated, amount)
  if is_new(id) then
    add('cached', cached)
    add('repeated', repeated)
    add('saved', amount)
  end
end

-- The script

local current = state.generation
if not current then
  current = worker .. '@' .. string.format('%.0f', now)
  set('generation', current)
end
if generation ~= '' and generation ~= current and not state.was_reset then
  -- The server has lost its data: the highest amount that a worker knows is taken as committed.
  if known_amount > get('restored', 0) then set('restored', known_amount) end
  if get('peak', 0) == 0 and known_peak > 0 then set('peak', known_peak) end
end
local last_time = get('time', now)
if last_time > now + SECOND then
  -- The server's clock was set back, for example by a failover: the times that it has given out are in the future.
  redis.call('ZREMRANGEBYSCORE', starts, string.format('(%.0f', now), '+inf')
  set('paused', math.min(get('paused', 0), now + math.max(0, get('paused', 0) - last_time)))
  set('busy_until', math.min(get('busy_until', 0), now))
  set('event_known', math.min(get('event_known', 0), now))
  set('time', now) -- once, and not for each worker
end
if generation ~= current or math.floor(now / SECOND) ~= math.floor(known_time / SECOND) then
  set('time', now)
  redis.call('ZADD', workers, now, worker)
  redis.call('ZREMRANGEBYSCORE', workers, '-inf', now - 60 * SECOND)
  set('workers', redis.call('ZCARD', workers))
  forget_old_starts()
end

if was_away then
  -- This worker sent at its share until now, and others may not be back yet.
  set('paused', math.max(get('paused', 0), now + SECOND))
end

for _, record in ipairs(records) do
  apply[record[1]](unpack(record, 2))
end

-- action ("", "reserve" or "confirm"), id, amount or -1, budget or -1, seconds to count as abandoned, texts, whether
-- texts gather while it waits
local function admit(action, id, amount, budget, patience, texts, gathers)
  local status, start = 0, now
  local committed = get('restored', 0) + get('spent', 0) + get('uncertain_amount', 0) + get('open', 0)
  if action == 'reserve' and budget >= 0 and amount >= 0 and committed + amount > budget
      and redis.call('HEXISTS', open, id) == 0 then
    status = 2
  elseif action ~= '' then
    start = action == 'reserve' and reserve_start(id, gathers) or confirm_start(id, gathers)
    status = start > now and 1 or 0
    if amount >= 0 and action == 'reserve' then
      local entry = string.format('%.0f %s %.0f %.0f', amount, worker, start + patience * SECOND, texts)
      if redis.call('HSET', open, id, entry) == 1 then
        add('open', amount)
        committed = committed + amount
      end
    end
  end
  return {status, start - now, committed}
end

local replies = {{}}
for _, request in ipairs(requests) do
  replies[#replies + 1] = admit(unpack(request))
end
save()
replies[1] = {current, math.floor(rate_at(math.huge) * 1000), get('workers', 1), math.floor(get('peak', 0) * 1000), now}
return replies
