-- Sliding window; the twin of core/rate_limiter/sliding_window.py, over the log of window_log.lua.
local sliding_window = {}
algorithms[2] = sliding_window

function sliding_window.read(key)
  local window, seen, total, oldest, last, last_cost, head, count = 0, 0, 0, 0, 0, 0, 0, 0
  local raw = redis.call('GETRANGE', key, '0', HEADER_END)
  if raw ~= '' then
    window, seen, total, oldest, last, last_cost, head, count = struct.unpack(HEADER, raw)
  end
  return {
    key = key, algorithm = sliding_window, window = window, seen = seen, total = total, oldest = oldest, last = last,
    last_cost = last_cost, head = head, count = count,
  }
end

-- Adds units to the entry of their slot, or begins one.
local function file(s, when, units)
  local slot = math.ceil(s.window / 1000)
  if s.last_cost > 0 and math.floor(s.last / slot) == math.floor(when / slot) then
    s.last_cost = s.last_cost + units
  else
    if s.last_cost > 0 then append(s, s.last, s.last_cost) end
    s.last_cost = units
  end
  s.last = when
end

function sliding_window.adopt(s, now, requests, window)
  s.requests = requests
  if s.window == window then return end
  if s.total > 0 then
    forget(s, now)
    local list, count = entries(s, 0, s.count)
    list[2 * count + 1], list[2 * count + 2] = s.last, s.last_cost
    s.head, s.count, s.last_cost, s.window, s.dirty = 0, 0, 0, window, true
    for i = 1, 2 * count + 1, 2 do
      if list[i + 1] > 0 then file(s, list[i], list[i + 1]) end
    end
  end
  s.window = window
end

function sliding_window.fits(s, now, cost)
  forget(s, now)
  return s.total + cost <= s.requests or cost == 0
end

function sliding_window.charge(s, now, cost)
  file(s, now, cost)
  s.total, s.seen, s.dirty = s.total + cost, now, true
end

function sliding_window.penalize(s, now, cost)
  sliding_window.charge(s, now, math.min(cost, s.requests))
  while s.total > s.requests do
    local list, count = entries(s, 0, 2)
    local taken = math.min(s.total - s.requests, list[2] or s.last_cost)
    s.total = s.total - taken
    if count == 0 then
      s.last_cost = s.last_cost - taken
    elseif taken == list[2] then
      drop(s, list, 1)
    else
      redis.call('SETRANGE', s.key, at(s, 0), struct.pack(ENTRY, list[1], list[2] - taken))
    end
  end
end

-- Takes units back from the entry of the slot that was charged, if it is still there.
function sliding_window.refund(s, now, cost, charged)
  forget(s, now)
  local width = math.ceil(s.window / 1000)
  local slot, index = math.floor(charged / width), 0
  if s.last_cost > 0 and math.floor(s.last / width) == slot then
    local taken = math.min(cost, s.last_cost)
    s.last_cost, s.total, s.dirty = s.last_cost - taken, s.total - taken, true
    return
  end
  while index < s.count do
    local list, count = entries(s, index, CHUNK)
    for i = 0, count - 1 do
      local when, units = list[2 * i + 1], list[2 * i + 2]
      if math.floor(when / width) == slot then
        local taken = math.min(cost, units)
        s.total, s.dirty = s.total - taken, true
        if taken == units then return remove(s, index + i) end
        redis.call('SETRANGE', s.key, at(s, index + i), struct.pack(ENTRY, when, units - taken))
        return
      end
    end
    index = index + count
  end
end

-- When the entry leaves that makes room for `cost`; 0 where that never happens.
local function first_fit(s, cost)
  if cost > s.requests then return 0 end
  local need, index = s.total + cost - s.requests, 0
  if need <= 1 and s.count > 0 then return s.oldest + s.window end
  while index < s.count do
    local list, count = entries(s, index, CHUNK)
    for i = 1, 2 * count, 2 do
      need = need - list[i + 1]
      if need <= 0 then return list[i] + s.window end
    end
    index = index + count
  end
  return s.last + s.window
end

function sliding_window.report(s, now, cost, fit)
  return s.total, s.last, fit and 0 or first_fit(s, cost)
end

-- From when on it says no more than none.
function sliding_window.ends(s)
  return s.last + s.window
end

function sliding_window.write(s)
  local older
  if s.count == 0 then
    s.head, older = 0, ''
  elseif s.head >= COMPACT_AFTER then
    older = redis.call('GETRANGE', s.key, at(s, 0), at(s, s.count) - 1)
    s.head = 0
  end
  local header = struct.pack(HEADER, s.window, s.seen, s.total, s.oldest, s.last, s.last_cost, s.head, s.count)
  if older then return keep(s.key, header .. older, s.last + s.window) end
  redis.call('SETRANGE', s.key, '0', header)
  redis.call('PEXPIRE', s.key, ttl_ms(s.last + s.window))
end
