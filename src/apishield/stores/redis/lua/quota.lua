-- Quota; the twin of core/rate_limiter/quota.py. Stored: start, end, used, seen. The node knows the calendar: where the
-- state of the period around now is missing, the check is undecided until it sends the period with what was used before.
local quota = {}
algorithms[5] = quota

function quota.read(key)
  local starts, ends, used, seen = 0, 0, 0, 0
  local raw = redis.call('GET', key)
  if raw then
    starts, ends, used, seen = struct.unpack('<dddd', raw)
  end
  return { key = key, algorithm = quota, starts = starts, ends = ends, used = used, seen = seen, kept = ends }
end

function quota.adopt(s, now, requests, starts, ends, used)
  s.requests = requests
  if now >= s.ends and starts <= now and now < ends then
    s.starts, s.ends, s.used, s.dirty = starts, ends, used, true
  end
  s.unseeded = now >= s.ends
end

function quota.fits(s, now, cost)
  return s.used + cost <= s.requests or cost == 0
end

function quota.charge(s, now, cost)
  s.used, s.seen, s.dirty = s.used + cost, now, true
end

function quota.penalize(s, now, cost)
  if s.used < s.requests then quota.charge(s, now, math.min(cost, s.requests - s.used)) end
end

function quota.refund(s, now, cost, charged)
  if s.starts <= charged and now < s.ends then
    s.used, s.dirty = math.max(0, s.used - cost), true
  end
end

function quota.report(s)
  return s.used, s.starts, s.ends
end

function quota.write(s)
  keep(s.key, struct.pack('<dddd', s.starts, s.ends, s.used, s.seen), s.ends, s.kept)
end
