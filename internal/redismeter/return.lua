-- Returns units of a quota to the counter that they came from.
--
-- KEYS[1]  the counter
-- ARGV[1]  its epoch when the units were taken
-- ARGV[2]  how many
local counter = redis.call('HMGET', KEYS[1], 'used', 'epoch')
if counter[2] == ARGV[1] and tonumber(counter[1]) >= tonumber(ARGV[2]) then
  redis.call('HINCRBY', KEYS[1], 'used', -ARGV[2])
  return 1
end
return 0
