-- Write one job's record, or renew its lease; and keep the index of all jobs right. Nothing else
-- ever changes a record; only sweep.lua changes the index as well.
--
-- To add a field of the record: read it in HMGET, compare it in `changed`, store it by `put`; then
-- `Record` in status.py and the arguments in storage/write.py.
--
-- KEYS[1]  → the key of the record, a hash; all other keys are derived from it (see keys.py), and
--            belong to the same slot of a Cluster, where they may be declared as further keys
-- ARGV[1]  → state to write
-- ARGV[2]  → created: identifies the run, ms since the epoch
-- ARGV[3]  → attempt: 0 while pending, then 1, 2, ...
-- ARGV[4]  → name
-- ARGV[5]  → lease, in ms from now; 0 for none
-- ARGV[6]  → TTL, in ms
-- ARGV[7]  → the host name of the process that runs the attempt; empty if none does
-- ARGV[8]  → reason; may be empty
-- ARGV[9]  → progress, decimal 0..100; empty for none
-- ARGV[10] → age of the run or attempt: ms since it began, by the writer's monotonic clock
-- ARGV[11] → age of the event: ms since what the write reports happened; 0 while an attempt runs
-- ARGV[12] → the server's time when the write was sent, as the writer knows it, in ms since the
--            epoch; 0 if unknown. A server that was frozen executes commands long after they were
--            sent; the ages are corrected by that delay.
-- ARGV[13] → estimated seconds until the attempt succeeds; empty if unknown
-- ARGV[14] → what there is of a result (`ResultState` in status.py); absent or empty if nothing is
-- ARGV[15] → the result, to be stored beside the record; may be empty
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
--
-- The index lists each job in one sorted set, that of its state; only a change of state touches it.
-- The member is the UUID in 16 bytes. The score is `created` of an unfinished job; that of a
-- finished one is when it finished, in ms, plus 1/4096 for each quarter of a ms until this write
-- stored it (at most 4095), so that a reader can tell what was stored since it last looked; but
-- never less than `created`, which comes from another clock: no job moves back. The sorted set
-- `index:due` says when to look for expired jobs: its members are "state:span:expiry", where `span`
-- and `expiry` count spans of time since the epoch; some jobs whose score is in `span` may expire
-- in `expiry`. The score is the end of `expiry` in ms.

-- storage/write.py inserts the states from status.py: pairs "stored>written" that are allowed within
-- one attempt, and lists of states, each between spaces.
local TRANSITIONS = ' @transitions@ '
local UNFINISHED_STATES = ' @unfinished@ '
local FINAL_STATES = ' @final@ '
local SPAN_MS = 30000
local unpack = unpack or table.unpack  -- its name depends on the version of Lua
-- A sorted set is kept longer than the records in it, by at least half of this time: records that
-- are renewed meanwhile are found by sweep.lua, which extends the TTL again.
local MARGIN_MS = 3600000

local key, state, name, worker = KEYS[1], ARGV[1], ARGV[4], ARGV[7]
local reason, progress, eta = ARGV[8], ARGV[9], ARGV[13]
local created, attempt = tonumber(ARGV[2]), tonumber(ARGV[3])
local lease, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
local age, event_age, sent = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local is_final = string.find(FINAL_STATES, ' ' .. state .. ' ', 1, true)

local stored = redis.call('HMGET', key,
  'created', 'attempt', 'state', 'progress', 'reason', 'name', 'updated', 'result', 'eta')
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

-- `updated` never goes back, not even when the server's clock does, or after a failover.
local updated = now - delay - event_age
if updated < stored_updated then updated = stored_updated end

if changed and (new_run or not is_well_formed or state ~= stored_state) then
  -- Move the job's entry to the sorted set of its state. This comes before the record: if Redis
  -- refuses a command, nothing is written. If an earlier record of the job has just expired, its
  -- entry may still be in another set: readers skip it, and sweep.lua removes it.
  local base = string.sub(key, 1, -37)
  local uuid = string.sub(key, -36)
  if string.find(uuid, '^%x+%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x+$') then
    local function byte(n) return tonumber(string.sub(uuid, n, n + 1), 16) end
    local id = string.char(byte(1), byte(3), byte(5), byte(7), byte(10), byte(12), byte(15), byte(17),
      byte(20), byte(22), byte(25), byte(27), byte(29), byte(31), byte(33), byte(35))
    local index, due, score = base .. 'index:' .. state, base .. 'index:due', created
    if is_final and updated > created then
      local late = math.floor(4 * (time[1] * 1000 + time[2] / 1000 - updated))
      score = string.format('%.17g', updated + math.max(0, math.min(late, 4095)) / 4096)
    end
    local expiry = math.floor((now + ttl) / SPAN_MS)
    local group = string.format('%s:%d:%d', state, math.floor(tonumber(score) / SPAN_MS), expiry)
    redis.call('ZADD', index, score, id)
    redis.call('ZADD', due, (expiry + 1) * SPAN_MS, group)
    if redis.call('PTTL', index) < ttl + MARGIN_MS / 2 then
      redis.call('PEXPIRE', index, ttl + MARGIN_MS)
    end
    -- It outlives every sorted set that it says when to sweep.
    if redis.call('PTTL', due) < ttl + 2 * MARGIN_MS then
      redis.call('PEXPIRE', due, ttl + 4 * MARGIN_MS)
    end
    if is_well_formed and state ~= stored_state then
      redis.call('ZREM', base .. 'index:' .. stored_state, id)
    elseif stored[3] and not is_well_formed then
      for other in string.gmatch(UNFINISHED_STATES .. FINAL_STATES, '%S+') do
        if other ~= state then redis.call('ZREM', base .. 'index:' .. other, id) end
      end
    end
  end
end

-- What differs from the stored record: one command sets it, and one deletes what no longer applies.
local set, unset = {}, {}
local function put(field, value, stored_value)
  if value == (stored_value or '') then return end
  if value == '' then unset[#unset + 1] = field
  else set[#set + 1] = field; set[#set + 1] = value end
end

if changed then
  set[1], set[2] = 'updated', updated
  put('progress', progress, stored[4])
  put('reason', reason, stored[5])
  put('eta', eta, stored[9])
  put('state', state, stored[3])
  if name ~= stored[6] then set[#set + 1] = 'name'; set[#set + 1] = name end  -- also an empty one
  if not same_attempt then
    put('created', ARGV[2], stored[1])
    put('attempt', ARGV[3], stored[2])
    put('worker', worker)
    if worker ~= '' then put('started', now - delay - age)
    else unset[#unset + 1] = 'worker'; unset[#unset + 1] = 'started' end
    unset[#unset + 1] = 'expires'
    if stored[8] then
      unset[#unset + 1] = 'result'
      redis.call('DEL', key .. ':result')
    end
  end
  if new_run then put('previous', stored[1]) end
  if is_final then put('expires', now + ttl) end
  if ARGV[14] and ARGV[14] ~= '' then
    put('result', ARGV[14])
    if ARGV[15] ~= '' then redis.call('SET', key .. ':result', ARGV[15], 'PX', ttl) end
  end
  if lease == 0 and stored[3] then unset[#unset + 1] = 'lease' end
end
if lease > 0 then set[#set + 1] = 'lease'; set[#set + 1] = now + lease end
if #unset > 0 and stored[3] then redis.call('HDEL', key, unpack(unset)) end
if #set > 0 then redis.call('HSET', key, unpack(set)) end
redis.call('PEXPIRE', key, ttl)
return nothing_written + (took_over and 3 or changed and 2 or 1)
