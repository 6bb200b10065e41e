-- Remove the entries of expired records from the index, in bounded steps. write.lua documents the
-- index. Whoever may write status may call this at any time; calling it twice does no harm.
--
-- KEYS[1] → any key on the server: a proxy finds the server by it
-- ARGV[1] → what all keys of the shard begin with
-- ARGV[2] → how many entries to examine at most
-- ARGV[3] → the group to continue with, as this script has returned it; empty for the first one
-- ARGV[4] → how many entries of that group to skip: those that remain
--
-- Returns the group to continue with and the entries to skip; an empty group: the next one that is
-- due; nothing at all if none is due.

-- Both as in write.lua.
local SPAN_MS = 30000
local MARGIN_MS = 3600000

local base, limit, group, skip = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local due = base .. 'index:due'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if group == '' then
  group = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 1)[1]
  if not group then return {} end
end
local state, span = string.match(group, '^([%l_]+):(%d+):%d+$')
if not state then
  redis.call('ZREM', due, group)
  return { '', 0 }
end

local index = base .. 'index:' .. state
local entries = redis.call('ZRANGEBYSCORE', index,
  span * SPAN_MS, '(' .. (span + 1) * SPAN_MS, 'LIMIT', skip, limit)
local remaining, longest_ttl, later = 0, 0, {}
for _, id in ipairs(entries) do
  local key = base .. string.format(
    '%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x', string.byte(id, 1, 16))
  local ttl = redis.call('PTTL', key)
  if ttl > 0 and redis.call('HGET', key, 'state') == state then
    remaining = remaining + 1
    longest_ttl = math.max(longest_ttl, ttl)
    later[math.floor((now + ttl) / SPAN_MS)] = true
  else
    redis.call('ZREM', index, id)
  end
end
for expiry in pairs(later) do
  redis.call('ZADD', due, (expiry + 1) * SPAN_MS, string.format('%s:%d:%d', state, span, expiry))
end
local function keep_index(sorted_set, margin)
  local ttl = redis.call('PTTL', sorted_set)
  if ttl >= 0 and ttl < longest_ttl + margin / 2 then
    redis.call('PEXPIRE', sorted_set, longest_ttl + margin)
  end
end
if longest_ttl > 0 then
  keep_index(index, MARGIN_MS)
  keep_index(due, 4 * MARGIN_MS)
end
if #entries == limit then
  return { group, skip + remaining }
end
if skip > 0 then
  -- Between the steps, jobs may have left the set, and others have moved to ranks that were skipped:
  -- look again later.
  redis.call('ZADD', due, now + SPAN_MS, group)
else
  redis.call('ZREM', due, group)
end
return { '', 0 }
