-- Concurrency; the twin of core/rate_limiter/concurrency.py. A sorted set: "cost:check id" by when it was taken; before all
-- slots stand two numbers as scores, minus when the last was taken ("seen"), and the units held ("held").
local concurrency = {}
algorithms[4] = concurrency

function concurrency.read(key)
  local first = redis.call('ZRANGE', key, 0, 1, 'WITHSCORES')
  return { key = key, seen = first[2] and -first[2] or 0, held = first[4] and tonumber(first[4]) or 0 }
end

function concurrency.adopt(s, now, requests, timeout, check_id)
  s.requests, s.timeout, s.check_id = requests, timeout, check_id
end

function concurrency.fits(s, now, cost)
  local lapsed = s.held > 0 and redis.call('ZRANGEBYSCORE', s.key, 1e12, now - s.timeout) or {}
  for _, slot in ipairs(lapsed) do
    s.held = s.held - tonumber(string.match(slot, '^%d+'))
    redis.call('ZREM', s.key, slot)
    s.dirty = true
  end
  return s.held + cost <= s.requests or cost == 0
end

function concurrency.charge(s, now, cost)
  redis.call('ZADD', s.key, now, string.format('%.0f:%s', cost, s.check_id))
  s.held, s.seen, s.dirty = s.held + cost, now, true
end

function concurrency.penalize() end

function concurrency.release(s, cost)
  if redis.call('ZREM', s.key, string.format('%.0f:%s', cost, s.check_id)) == 1 then
    s.held, s.dirty = s.held - cost, true
  end
end

function concurrency.report(s)
  if s.held == 0 then return 0, 0, 0 end
  local offset = redis.call('ZSCORE', s.key, 'seen') and 2 or 0
  local oldest = redis.call('ZRANGE', s.key, offset, offset, 'WITHSCORES')
  local newest = redis.call('ZRANGE', s.key, -1, -1, 'WITHSCORES')
  return s.held, tonumber(oldest[2]), tonumber(newest[2])
end

function concurrency.write(s)
  redis.call('ZADD', s.key, -s.seen, 'seen', s.held, 'held')
  redis.call('PEXPIRE', s.key, ttl_ms(s.seen + s.timeout))
end
