-- Token bucket; the twin of core/rate_limiter/token_bucket.py. Stored: window, requests, used, part, seen;
-- what is missing from the full bucket is `used` tokens and part/window of one.
local token_bucket = {}
algorithms[3] = token_bucket

function token_bucket.read(key)
  local window, requests, used, part, seen = 0, 0, 0, 0, 0
  local raw = redis.call('GET', key)
  if raw then
    window, requests, used, part, seen = struct.unpack('<ddddd', raw)
  end
  return { key = key, algorithm = token_bucket, window = window, requests = requests, used = used, part = part, seen = seen }
end

-- What is missing at `now`, after the refill since the last charge; it is asked for up to three times a check.
local function missing(s, now)
  if s.at == now then return s.used_at, s.part_at end
  s.at, s.used_at, s.part_at = now, 0, 0
  if s.used == 0 and s.part == 0 then return 0, 0 end
  local whole, part = multiply_and_divide(now - s.seen, s.requests, s.window)
  local used = s.used - whole
  part = s.part - part
  if part < 0 then used, part = used - 1, part + s.window end
  if used < 0 then return 0, 0 end
  s.used_at, s.part_at = used, part
  return used, part
end

local function put(s, now, used, part)
  s.used, s.part, s.seen, s.dirty = used, part, now, true
  s.at, s.used_at, s.part_at = now, used, part
end

function token_bucket.adopt(s, now, requests, window, burst)
  s.burst = burst
  if s.requests == requests and s.window == window then return end
  if s.window > 0 then
    local used, part = missing(s, now)
    if s.window ~= window then
      local whole, rest = multiply_and_divide(part, window, s.window)
      part = rest > 0 and whole + 1 or whole
      if part == window then used, part = used + 1, 0 end
    end
    s.used, s.part = used, part
    if used + part > 0 then s.seen, s.dirty = now, true end
  end
  s.requests, s.window, s.at = requests, window, nil
end

function token_bucket.fits(s, now, cost)
  local used, part = missing(s, now)
  return used + cost + (part > 0 and 1 or 0) <= s.burst or cost == 0
end

function token_bucket.charge(s, now, cost)
  local used, part = missing(s, now)
  put(s, now, used + cost, part)
end

function token_bucket.penalize(s, now, cost)
  local used, part = missing(s, now)
  if used + cost >= s.burst then
    cost = math.max(0, s.burst - used)
    if used < s.burst then part = 0 end
  end
  put(s, now, used + cost, part)
end

-- Gives back what the refill since the charge has not given back already.
function token_bucket.refund(s, now, cost, charged)
  local used, part = missing(s, now)
  if used == 0 and part == 0 then return end
  local whole, rest = multiply_and_divide(math.max(0, now - charged), s.requests, s.window)
  if whole < cost then
    used, part = used - (cost - whole), part + rest
    if part >= s.window then used, part = used + 1, part - s.window end
    if used < 0 then used, part = 0, 0 end
  end
  put(s, now, used, part)
end

function token_bucket.report(s, now)
  local used, part = missing(s, now)
  return used, part, 0
end

-- From when on it is full, and says no more than none.
function token_bucket.ends(s)
  return s.seen + math.ceil((s.used * s.window + s.part) / s.requests)
end

function token_bucket.write(s)
  keep(s.key, struct.pack('<ddddd', s.window, s.requests, s.used, s.part, s.seen), token_bucket.ends(s))
end
