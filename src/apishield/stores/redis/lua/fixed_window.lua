-- Fixed window; the twin of core/rate_limiter/fixed_window.py. Stored: window, end, used, seen.
local fixed_window = {}
algorithms[1] = fixed_window

function fixed_window.read(key)
  local window, ends, used, seen = 0, 0, 0, 0
  local raw = redis.call('GET', key)
  if raw then
    window, ends, used, seen = struct.unpack('<dddd', raw)
  end
  return { key = key, algorithm = fixed_window, window = window, ends = ends, used = used, seen = seen, kept = ends }
end

function fixed_window.adopt(s, now, requests, window)
  s.requests = requests
  if s.window ~= window then
    if s.used > 0 then
      if now >= s.ends then s.used = 0 end
      s.ends = s.seen - s.seen % window + window
      s.dirty = true
    end
    s.window = window
  end
end

function fixed_window.fits(s, now, cost)
  return (now < s.ends and s.used or 0) + cost <= s.requests or cost == 0
end

function fixed_window.charge(s, now, cost)
  if now < s.ends then
    s.used = s.used + cost
  else
    s.used, s.ends = cost, now - now % s.window + s.window
  end
  s.seen, s.dirty = now, true
end

function fixed_window.penalize(s, now, cost)
  local left = s.requests - (now < s.ends and s.used or 0)
  if left > 0 then fixed_window.charge(s, now, math.min(cost, left)) end
end

function fixed_window.refund(s, now, cost, charged)
  if s.ends - s.window <= charged and now < s.ends then
    s.used, s.dirty = math.max(0, s.used - cost), true
  end
end

function fixed_window.report(s, now)
  return now < s.ends and s.used or 0, 0, 0
end

-- From when on it says no more than none.
function fixed_window.ends(s)
  return s.ends
end

function fixed_window.write(s)
  keep(s.key, struct.pack('<dddd', s.window, s.ends, s.used, s.seen), s.ends, s.kept)
end
