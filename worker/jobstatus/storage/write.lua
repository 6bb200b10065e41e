-- Write one job's record, or renew its lease. Nothing else ever changes a record.
--
-- To add a field of the record: read it in HMGET, compare it in `changed`, store it in HSET; then
-- `Record` in status.py and the arguments in storage/write.py.
--
-- KEYS[1]  → the key of the record, a hash
-- ARGV[1]  → state to write
-- ARGV[2]  → created: identifies the run, ms since the epoch
-- ARGV[3]  → attempt: 0 while pending, then 1, 2, ...
-- ARGV[4]  → name
-- ARGV[5]  → lease, in ms from now; 0 for none
-- ARGV[6]  → TTL, in ms
-- ARGV[7]  → reason; may be empty
-- ARGV[8]  → progress, decimal 0..100; empty for none
-- ARGV[9]  → age of the run or attempt: ms since it began, by the writer's monotonic clock
-- ARGV[10] → age of the event: ms since what the write reports happened; 0 while an attempt runs
-- ARGV[11] → the server's time when the write was sent, as the writer knows it, in ms since the
--            epoch; 0 if unknown. A server that was frozen executes commands long after they were
--            sent; the ages are corrected by that delay.
--
-- Runs are ordered without the clocks of the processes that enqueue them, which may be wrong:
-- `created` only identifies a run. A run that began, by its age, after the stored run last changed
-- is newer. A run that began before that, or that the stored run has replaced (`previous`), is
-- older.
--
-- Returns 8 * (the server's time in ms) + 1 + the result, one of:
--    3  the visible status changed, and the previous attempt of the run was still shown as running
--    2  the visible status changed
--    1  only the lease and the TTL were renewed
--    0  nothing was written: the attempt or the run is in a final state
--   -1  nothing was written: a later attempt or run has reported
-- A stored record whose run, attempt or state is malformed is replaced.

-- storage/write.py inserts the states from status.py: pairs "stored>written" that are allowed within
-- one attempt, and lists of states, each between spaces.
local TRANSITIONS = ' @transitions@ '
local UNFINISHED_STATES = ' @unfinished@ '
local FINAL_STATES = ' @final@ '

local key, state, name, reason, progress = KEYS[1], ARGV[1], ARGV[4], ARGV[7], ARGV[8]
local created, attempt = tonumber(ARGV[2]), tonumber(ARGV[3])
local lease, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
local age, event_age, sent = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

local stored = redis.call('HMGET', key,
  'created', 'attempt', 'state', 'progress', 'reason', 'name', 'updated')
local stored_created, stored_attempt = tonumber(stored[1] or ''), tonumber(stored[2] or '')
local stored_progress = tonumber(stored[4] or '')
local stored_state = stored[3] or ''
local is_unfinished = string.find(UNFINISHED_STATES, ' ' .. stored_state .. ' ', 1, true)
local is_well_formed = stored_created and stored_attempt
  and (is_unfinished or string.find(FINAL_STATES, ' ' .. stored_state .. ' ', 1, true))
local stored_updated = tonumber(stored[7] or '') or 0
local same_attempt, new_run, took_over = false, false, false
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local nothing_written = 8 * now + 1
local delay = 0
if sent > 0 and now > sent then delay = now - sent end

if ttl < 1 then
  return redis.error_reply('ERR the TTL is not positive')
end
if is_well_formed then
  new_run = created ~= stored_created
  if new_run then
    -- If the server's clock was set back, `updated` is in the future and says nothing about order.
    -- Rounding of the ages may cost 1 ms.
    local is_older = stored_updated <= now and now - delay - age + 1 < stored_updated
    if is_older or created == tonumber(redis.call('HGET', key, 'previous') or '') then
      return nothing_written - 1
    end
  elseif attempt < stored_attempt then
    return nothing_written - 1
  else
    same_attempt = attempt == stored_attempt
    took_over = not same_attempt and lease > 0 and state == stored_state
    local may_follow = is_unfinished
    if same_attempt then
      may_follow = string.find(TRANSITIONS, ' ' .. stored_state .. '>' .. state .. ' ', 1, true)
    end
    if not may_follow then
      return nothing_written
    end
  end
end

-- Progress never decreases within an attempt.
if same_attempt and stored_progress and (progress == '' or tonumber(progress) < stored_progress) then
  progress = stored[4]
end

local changed = not same_attempt or state ~= stored_state or progress ~= (stored[4] or '')
  or reason ~= (stored[5] or '') or name ~= stored[6]

if changed then
  -- `updated` never goes back, not even when the server's clock does, or after a failover.
  local updated = now - delay - event_age
  if updated < stored_updated then updated = stored_updated end
  redis.call('HSET', key, 'name', name, 'state', state, 'created', ARGV[2],
    'attempt', ARGV[3], 'updated', updated)
  if reason ~= '' then redis.call('HSET', key, 'reason', reason)
  elseif stored[5] then redis.call('HDEL', key, 'reason') end
  if progress ~= '' then redis.call('HSET', key, 'progress', progress)
  elseif stored[4] then redis.call('HDEL', key, 'progress') end
  if new_run then redis.call('HSET', key, 'previous', stored[1]) end
end
if lease > 0 then
  redis.call('HSET', key, 'lease', now + lease)
elseif changed then
  redis.call('HDEL', key, 'lease')
end
redis.call('PEXPIRE', key, ttl)
return nothing_written + (took_over and 3 or changed and 2 or 1)
