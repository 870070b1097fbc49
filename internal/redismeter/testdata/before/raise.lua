-- Raises a quota's counter to what is known to have been used, and makes it if
-- there is none. Doing it again changes nothing.
--
-- KEYS[1]  the counter
-- ARGV[1]  the window's start, in milliseconds since 1970
-- ARGV[2]  the window's end, the first millisecond after it
-- ARGV[3]  what is known to have been used
-- ARGV[4]  a random name for the counter, if it has to be made
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now < tonumber(ARGV[1]) or now >= tonumber(ARGV[2]) then
  return 0
end

local counter = redis.call('HMGET', KEYS[1], 'used', 'epoch')
if not counter[1] or not counter[2] then
  redis.call('HSET', KEYS[1], 'used', ARGV[3], 'epoch', ARGV[4])
  redis.call('PEXPIREAT', KEYS[1], ARGV[2])
elseif tonumber(counter[1]) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'used', ARGV[3])
end
return 1
