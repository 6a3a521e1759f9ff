-- Decides the checks of ARGV[1], one after the other, each seeing the charges before it; the twin of verdict.py.
-- ARGV[1] is msgpack, flat: time (0: the server's), number of checks, where the first check begins, then the rules: of each the
-- algorithm, the step and four parameters. Then of each check its number of counters, and of each counter the index of its key,
-- the place of its rule and the cost: counters of one limit, which are most of a call's, share a rule. The answer is flat too: of
-- each check 1 admitted, 0 refused or 2 unseeded, and its time; of each counter 1 if it fits, and three numbers of its algorithm.
-- A negative number n says that there are -1 - n counters, and that two notes stand before them, each the index of its key (0:
-- there is none), how long it lives in ms, and its text:
-- - a record, which is kept with the time if the check is admitted; without a text it is taken away, and where there is none
--   the check does nothing: whoever takes the record settles, once;
-- - the verdict of a check that is decided once, which is kept beside the text. If there is one already, the check does
--   nothing, its verdict is 3 without counters, and what was kept is a further element of the answer.
-- Where a key holds what we did not write, its check does nothing (a reset takes it away) and the others go on: its verdict is 4
-- without counters, and two further elements of the answer are the key and what Redis said. So all keys of a check are read
-- before anything is written for it.
local SHADOW, CHARGE_REFUSED, FORCE, RELEASE, RESET, REFUND, STRIDE = 1, 2, 3, 4, 5, 6, 3
local ask, answer, states, kept = cmsgpack.unpack(ARGV[1]), {}, {}, {}
server_us, spare_ms = ask[1], 60000
if server_us == 0 then
  local time = redis.call('TIME')
  server_us, spare_ms = time[1] * 1000000 + time[2], 0
end
local position, length = ask[3], 0
for _ = 1, ask[2] do
  local size, record, once, may, unread, why = ask[position], nil, nil, true, nil, nil
  local now, verdict, fits = server_us, 1, {}
  if size < 0 then
    record, once = ask[position + 1] > 0 and position, ask[position + 4] > 0 and position + 3
    size, position = -1 - size, position + 6
    may = not record or ask[record + 3] ~= '' or redis.call('EXISTS', KEYS[ask[record + 1]]) == 1
    if not may then verdict = 0 end
  end
  local first, last, answered = position + 1, position + size * STRIDE, length
  position = last + 1
  local ok, earlier = true, nil
  if once then
    ok, earlier = pcall(redis.call, 'GET', KEYS[ask[once + 1]])
    if not ok then unread, why, last = KEYS[ask[once + 1]], earlier, first - 1 end
  end
  if ok and earlier then
    kept[#kept + 1], verdict, last = earlier, 3, first - 1
  end
  for p = first, last, STRIDE do
    local s, r = states[ask[p]], ask[p + 1]
    if not s then
      local read, key = algorithms[ask[r]].read, KEYS[ask[p]]
      ok, s = pcall(read, key)
      if ok and not (s.seen < 9007199254740992 and s.seen % 1 == 0) then -- text, whose bytes are no time
        ok, s = false, 'it is no state of a counter'
      end
      if not ok and ask[r + 1] == RESET then
        redis.call('DEL', key)
        ok, s = true, read(key)
      end
      if not ok then
        unread, why, last = key, s, first - 1
        break
      end
      states[ask[p]] = s
    end
    if s.seen > now then now = s.seen end
  end
  if unread then
    kept[#kept + 1], kept[#kept + 2], verdict = unread, type(why) == 'table' and why.err or why, 4
  end
  for p = first, last, STRIDE do
    local s, r = states[ask[p]], ask[p + 1]
    local step = ask[r + 1]
    if step == RELEASE then -- whatever the numbers were when the slot was taken, those of today hold for the others
      s.check_id = ask[r + 4]
    elseif step >= FORCE and (s.window or 0) > 0 and s.algorithm.ends(s) > now then -- likewise, of a check settled later
      s.algorithm.adopt(s, now, s.requests or ask[r + 2], s.window, ask[r + 4])
    else
      s.algorithm.adopt(s, now, ask[r + 2], ask[r + 3], ask[r + 4], ask[r + 5])
    end
    if s.unseeded and step <= FORCE then
      verdict = 2
    elseif verdict ~= 2 then
      fits[p] = step == RELEASE or s.algorithm.fits(s, now, ask[p + 2]) or step >= FORCE
      if not fits[p] and step ~= SHADOW then verdict = 0 end
    end
  end
  if record and verdict == 1 then
    local text = ask[record + 3]
    if text == '' then
      redis.call('DEL', KEYS[ask[record + 1]])
    else
      redis.call('SET', KEYS[ask[record + 1]], cmsgpack.pack({ now, text }), 'PX', ask[record + 2] + spare_ms)
    end
  end
  answer[length + 1], answer[length + 2] = verdict, now
  length = length + 2
  for p = first, last, STRIDE do
    local s, r, cost, fit = states[ask[p]], ask[p + 1], ask[p + 2], fits[p]
    local step, x, y, z = ask[r + 1], 0, 0, 0
    if not may or verdict == 2 then
      fit = false
    elseif step == REFUND then
      s.algorithm.refund(s, now, cost, ask[r + 5])
    elseif step == RELEASE then
      s.algorithm.release(s, cost)
    elseif step == RESET then
      redis.call('DEL', s.key)
      states[ask[p]] = nil
    elseif verdict == 1 and fit and cost > 0 then
      s.algorithm.charge(s, now, cost)
    elseif verdict == 0 and not fit and step == CHARGE_REFUSED then
      s.algorithm.penalize(s, now, cost)
    end
    if verdict ~= 2 and (step <= FORCE or step == REFUND) then x, y, z = s.algorithm.report(s, now, cost, fit) end
    answer[length + 1], answer[length + 2], answer[length + 3], answer[length + 4] = fit and 1 or 0, x, y, z
    length = length + 4
  end
  if once and verdict < 2 then
    local numbers = {}
    for i = answered + 1, length do
      numbers[#numbers + 1] = answer[i]
    end
    redis.call('SET', KEYS[ask[once + 1]], cmsgpack.pack({ ask[once + 3], numbers }), 'PX', ask[once + 2] + spare_ms)
  end
end
for _, s in pairs(states) do
  if s.dirty then s.algorithm.write(s) end
end
if #kept > 0 then return { cmsgpack.pack(answer), unpack(kept) } end
return cmsgpack.pack(answer)
