-- Takes one unit of a quota, unless none is left or there is no counter.
--
-- KEYS[1]  the counter of a key and window: a hash of used and epoch
-- ARGV[1]  the window's start, in milliseconds since 1970
-- ARGV[2]  the window's end, the first millisecond after it
-- ARGV[3]  the quota's limit
--
-- Returns {result, used, epoch, now}, the result being 1 granted, 0 refused,
-- -1 wrong window: the caller's clock is off, and -2 no counter: it has to be
-- made with raise.lua, by someone who knows what was used already.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now < tonumber(ARGV[1]) or now >= tonumber(ARGV[2]) then
  return {-1, 0, '', now}
end

local counter = redis.call('HMGET', KEYS[1], 'used', 'epoch')
local used, epoch = tonumber(counter[1]), counter[2]
if not used or not epoch then
  return {-2, 0, '', now}
end
if used >= tonumber(ARGV[3]) then
  return {0, used, epoch, now}
end
return {1, redis.call('HINCRBY', KEYS[1], 'used', 1), epoch, now}
