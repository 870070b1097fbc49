-- Takes a token of a throttle and units of a quota for each of some callers, for
-- as many of them as both permit. redis_rate(KEYS, ARGV) is that library's own
-- script, which decides about tokens; see script.go.
--
-- KEYS     the quota's counter for a key and window, if there is a quota: a hash of
--            used          units used, by all
--            epoch         a random name of this counter
--            alone         of used, what replicas took while Redis was away
--            alone:REPLICA what one of them took
--            trip:REPLICA  the last trip of one of them that changed it, as
--                          "NUMBER UNITS TIME"; dropped when it is old
--          and redis_rate's bucket, if there is a throttle
-- ARGV[1]  the number of callers
-- ARGV[2]  the throttle's burst, rate [3] and period [4]; '' for no throttle
-- ARGV[5]  units for each caller; with 0 the counter is only brought up to date
-- ARGV[6]  the window's start in milliseconds since 1970, end [7] and limit [8];
--          '' for no quota
-- ARGV[9]  the number of this trip, higher than those before
-- ARGV[10] the last trip whose answer the replica knows: a later one that took
--          units is undone, since nobody has them
-- ARGV[11] what the ledger says was used, without alone; '' if not known
-- ARGV[12] a random epoch, in case the counter has to be made
-- ARGV[13] after how long a trip is old, in milliseconds
-- ARGV[14] this replica, and what it took alone [15]; '' if nothing
-- ARGV[16] others and what they took alone, as the ledger has it
--
-- Returns {state, through, granted, used, epoch, now, wait}: how many callers
-- the throttle let through, how many of these have units, and how many seconds
-- the next one has to wait for a token. The state is 1 done, -1 wrong window,
-- -2 no counter and nothing to make it with, or -3 too late: a later trip came
-- before. Nothing is taken unless it is 1.
local callers, cost = tonumber(ARGV[1]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local trip = tonumber(ARGV[9])
local quota = ARGV[6] ~= ''
local mine = 'trip:' .. ARGV[14]
local used, epoch, alone, taken, changed, made

if quota then
  if now < tonumber(ARGV[6]) or now >= tonumber(ARGV[7]) then
    return {-1, 0, 0, 0, '', now, ''}
  end
  local counter = redis.call('HMGET', KEYS[1], 'used', 'epoch', 'alone', mine)
  used, epoch, alone = tonumber(counter[1]), counter[2], tonumber(counter[3] or 0)
  local last, units = string.match(counter[4] or '0 0', '^(%d+) (%d+)')
  last, units = tonumber(last), tonumber(units)
  if last > trip then
    return {-3, 0, 0, 0, '', now, ''}
  end
  if not used or not epoch then
    if ARGV[11] == '' then
      return {-2, 0, 0, 0, '', now, ''}
    end
    used, epoch, alone, made = 0, ARGV[12], 0, true
  end
  taken = 0
  if last == trip then
    taken = units -- by another command of this trip
  elseif last > tonumber(ARGV[10]) then
    used, changed = math.max(0, used - units), true
  end
  if ARGV[11] ~= '' and used - alone < tonumber(ARGV[11]) then
    used, changed = alone + tonumber(ARGV[11]), true
  end
  if ARGV[11] ~= '' and not made then
    local all = redis.call('HGETALL', KEYS[1])
    for i = 1, #all, 2 do
      local at = string.match(all[i + 1], '^%d+ %d+ (%d+)$')
      if at and string.sub(all[i], 1, 5) == 'trip:' and tonumber(at) + ARGV[13] < now then
        redis.call('HDEL', KEYS[1], all[i])
      end
    end
  end
  for i = ARGV[15] == '' and 16 or 14, #ARGV, 2 do
    local field, total = 'alone:' .. ARGV[i], tonumber(ARGV[i + 1])
    local before = tonumber(redis.call('HGET', KEYS[1], field) or 0)
    -- What this replica says of itself is so. What the ledger says of others
    -- may be old.
    if total > before or (i == 14 and total < before) then
      redis.call('HSET', KEYS[1], field, total)
      used, alone, changed = used + total - before, alone + total - before, true
    end
  end
end

-- Where tokens for all are not there, half as many are tried, and so on, until
-- either all have one or redis_rate refuses a single one.
local through, wait = callers, ''
if ARGV[2] ~= '' then
  through = 0
  local step = callers
  while step > 0 do
    local answer = redis_rate({KEYS[#KEYS]}, {ARGV[2], ARGV[3], ARGV[4], step})
    if answer[1] > 0 then
      through = through + step
      step = math.min(step, callers - through)
    else
      wait = answer[3]
      step = math.floor(step / 2)
    end
  end
end

if not quota then
  return {1, through, through, 0, '', now, wait}
end
local granted = through
if cost > 0 then
  granted = math.max(0, math.min(through, math.floor((tonumber(ARGV[8]) - used) / cost)))
end
used, taken = used + granted * cost, taken + granted * cost
if changed or made or granted * cost > 0 then
  redis.call('HSET', KEYS[1], 'used', used, 'alone', alone, 'epoch', epoch,
    mine, string.format('%.0f %.0f %.0f', trip, taken, now))
  if made then
    redis.call('PEXPIREAT', KEYS[1], ARGV[7])
  end
end
return {1, through, granted, used, epoch, now, wait}
