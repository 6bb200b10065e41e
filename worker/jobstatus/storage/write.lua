-- Write one job's record, or renew its lease: the only thing that ever changes a record.
--
-- KEYS[1] → the job's hash
-- ARGV[1] → the write, as a MessagePack array:
--    [1] created: the run, ms since the epoch    [2] attempt    [3] state    [4] name
--    [5] reason; empty for none                  [6] progress, decimal 0..100; empty for none
--    [7] lease in ms from now; 0 for none        [8] TTL in ms
--    [9] stored states that this one may follow within its attempt, as " a b c "
--   [10] stored states that a later attempt of the run may follow, as " a b c "
--   [11] stored states that end a run, as " a b c "
--   [12] age of the run or attempt: ms since it began, by its writer's monotonic clock
--   [13] age of the news: ms since that happened which the write reports; 0 for a running attempt
--   [14] the server's time in ms when the write was sent, as its writer knows it; 0: unknown. What a
--        frozen server finds in its sockets when it wakes up is older than its ages say.
--
-- Runs are ordered without the clocks of those who enqueue them, which may be wrong: `created` only
-- names a run. A run that began (now - [12]) after the stored run last changed is a newer one; one
-- that began before that, or that the stored run has replaced (`previous`), is an older one.
--
-- Returns 8 * (the server's time in ms) + 1 + one of these:
--    2: what a poller sees moved; 3: it did, and an earlier attempt of the run was still shown as
--    running; 1: only lease and TTL were renewed; 0: nothing, the attempt or the run is over; -1:
--    nothing, a later attempt or run has reported.
-- A stored record whose run, attempt or state can't be read is replaced.

local key = KEYS[1]
local created, attempt, state, name, reason, progress, lease, ttl,
  follows, unfinished, over, age, news_age, sent = unpack(cmsgpack.unpack(ARGV[1]))

local stored = redis.call('HMGET', key,
  'created', 'attempt', 'state', 'progress', 'reason', 'name', 'updated')
local stored_created, stored_attempt = tonumber(stored[1] or ''), tonumber(stored[2] or '')
local stored_progress = tonumber(stored[4] or '')
local stored_state = ' ' .. (stored[3] or '') .. ' '
local is_readable = stored_created and stored_attempt
  and string.find(unfinished .. over, stored_state, 1, true)
local stored_updated = tonumber(stored[7] or '') or 0
local same_attempt, new_run, took_over = false, false, false
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local done = 8 * now + 1
local delay = 0
if sent > 0 and now > sent then delay = now - sent end

if ttl < 1 then
  return redis.error_reply('ERR the TTL is not positive')
end
if is_readable then
  new_run = created ~= stored_created
  if new_run then
    -- Where a server clock was set back, `updated` is in the future and says nothing.
    -- 1 ms is what rounding the ages may cost.
    local is_older = stored_updated <= now and now - delay - age + 1 < stored_updated
    if is_older or created == tonumber(redis.call('HGET', key, 'previous') or '') then
      return done - 1
    end
  elseif attempt < stored_attempt then
    return done - 1
  else
    same_attempt = attempt == stored_attempt
    took_over = not same_attempt and lease > 0 and state == stored[3]
    local may_follow = same_attempt and follows or unfinished
    if not string.find(may_follow, stored_state, 1, true) then
      return done
    end
  end
end

-- Progress never falls within an attempt.
if same_attempt and stored_progress and (progress == '' or tonumber(progress) < stored_progress) then
  progress = stored[4]
end

local changed = not same_attempt or state ~= stored[3] or progress ~= (stored[4] or '')
  or reason ~= (stored[5] or '') or name ~= stored[6]

if changed then
  -- A clock that was set back, or a new primary's, never takes `updated` back.
  local updated = now - delay - news_age
  if updated < stored_updated then updated = stored_updated end
  redis.call('HSET', key, 'name', name, 'state', state, 'created', created,
    'attempt', attempt, 'updated', updated)
  if reason ~= '' then redis.call('HSET', key, 'reason', reason)
  elseif stored[5] then redis.call('HDEL', key, 'reason') end
  if progress ~= '' then redis.call('HSET', key, 'progress', progress)
  elseif stored[4] then redis.call('HDEL', key, 'progress') end
  if new_run then redis.call('HSET', key, 'previous', stored_created) end
end
if lease > 0 then
  redis.call('HSET', key, 'lease', now + lease)
elseif changed then
  redis.call('HDEL', key, 'lease')
end
redis.call('PEXPIRE', key, ttl)
return done + (took_over and 3 or changed and 2 or 1)
