-- Gives one unit of a quota back to the counter that it came from.
--
-- KEYS[1]  the counter
-- ARGV[1]  its epoch when the unit was taken
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1]
   and tonumber(redis.call('HGET', KEYS[1], 'used') or 0) > 0 then
  redis.call('HINCRBY', KEYS[1], 'used', -1)
  return 1
end
return 0
