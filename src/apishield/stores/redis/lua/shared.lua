-- What the algorithms share. Times are microseconds in doubles, which hold integers up to 2^53 exactly.
local algorithms = {}
local server_us, spare_ms
local texts = {}

-- How long a state is of use that says nothing after `expires_us`: at least a second, at most three centuries. As text, once
-- for all states of a call that live equally long: to write numbers out is a tenth of what a counter costs.
local function ttl_ms(expires_us)
  local ms = math.min(1e13, math.max(1000, math.ceil((expires_us - server_us) / 1000)) + spare_ms)
  local text = texts[ms]
  if not text then
    text = string.format('%.0f', ms)
    texts[ms] = text
  end
  return text
end

-- `kept_us`: until when it is kept already, if it is; to set that anew costs as much as writing the value.
local function keep(key, value, expires_us, kept_us)
  if expires_us == kept_us then
    redis.call('SET', key, value, 'KEEPTTL')
  else
    redis.call('SET', key, value, 'PX', ttl_ms(expires_us))
  end
end

-- a * b = whole * m + part, exactly, for a < 2^53, b < 2^42, m < 2^42; `whole` only as far as a double goes.
local function multiply_and_divide(a, b, m)
  local product = a * b
  if product < 4503599627370496 then
    local part = math.fmod(product, m)
    return (product - part) / m, part
  end
  local rest = math.fmod(a, m)
  local whole, part = (a - rest) / m * b, 0
  local limbs, high = 1099511627776, 0
  while limbs >= 1 do
    local digit = math.floor(b / limbs) % 1024
    local sum = part * 1024 + rest * digit
    part = math.fmod(sum, m)
    high = high * 1024 + (sum - part) / m
    limbs = limbs / 1024
  end
  return whole + high, part
end
