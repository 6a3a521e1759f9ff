-- Concurrency; the twin of core/rate_limiter/concurrency.py. A sorted set: "units:check id" by when it was taken; before all
-- slots stand three numbers as scores: minus when the last was taken ("seen"), the units held, the time-out.
local concurrency = {}
algorithms[4] = concurrency
local SLOTS = 1e14 -- slots have greater scores than that

function concurrency.read(key)
  local s = { key = key, algorithm = concurrency, seen = 0, held = 0, timeout = 0 }
  local first = redis.call('ZRANGE', key, 0, 2, 'WITHSCORES')
  for i = 1, #first, 2 do
    s[first[i]] = tonumber(first[i + 1])
  end
  s.seen = -s.seen
  return s
end

local function free_timed_out(s, now)
  if s.held == 0 then return end
  for _, slot in ipairs(redis.call('ZRANGEBYSCORE', s.key, SLOTS, now - s.timeout)) do
    s.held, s.dirty = s.held - tonumber(string.match(slot, '^%d+')), true
    redis.call('ZREM', s.key, slot)
  end
end

function concurrency.adopt(s, now, requests, timeout, check_id)
  if s.timeout ~= timeout then
    free_timed_out(s, now)
    s.timeout, s.dirty = timeout, s.dirty or s.held > 0
  end
  s.requests, s.check_id = requests, check_id
end

function concurrency.fits(s, now, cost)
  free_timed_out(s, now)
  return s.held + cost <= s.requests or cost == 0
end

function concurrency.charge(s, now, cost)
  local added = redis.call('ZADD', s.key, now, string.format('%.0f:%s', cost, s.check_id))
  s.held, s.seen, s.dirty = s.held + added * cost, now, true
end

function concurrency.penalize() end

function concurrency.release(s, cost)
  if redis.call('ZREM', s.key, string.format('%.0f:%s', cost, s.check_id)) == 1 then
    s.held, s.dirty = s.held - cost, true
  end
end

function concurrency.refund() end

function concurrency.report(s)
  if s.held == 0 then return 0, 0, 0 end
  local oldest = redis.call('ZRANGEBYSCORE', s.key, SLOTS, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local newest = redis.call('ZRANGE', s.key, -1, -1, 'WITHSCORES')
  return s.held, tonumber(oldest[2]), tonumber(newest[2])
end

function concurrency.write(s)
  redis.call('ZADD', s.key, -s.seen, 'seen', s.held, 'held', s.timeout, 'timeout')
  redis.call('PEXPIRE', s.key, ttl_ms(s.seen + s.timeout))
end
