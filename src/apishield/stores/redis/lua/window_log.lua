-- The log of charges of a sliding window: a header of eight doubles (window, seen, total, oldest, last, last_cost, head,
-- count), then entries of 12 bytes (when, units). The youngest entry is `last`; `count` older ones begin at index `head`.
local HEADER_BYTES, ENTRY_BYTES, HEADER, ENTRY = 64, 12, '<dddddddd', '<dI4'
local HEADER_END = '63' -- as text, which Redis need not write out
local CHUNK, COMPACT_AFTER, MAX_ENTRY_UNITS = 64, 32, 4294967295

local function at(s, index)
  return HEADER_BYTES + (s.head + index) * ENTRY_BYTES
end

-- Up to `wanted` of the older entries from the index-th on, as when, units, when, units, ...
local function entries(s, index, wanted)
  local list, count = {}, math.min(wanted, s.count - index)
  if count <= 0 then return list, 0 end
  local raw = redis.call('GETRANGE', s.key, at(s, index), at(s, index + count) - 1)
  for i = 0, count - 1 do
    list[2 * i + 1], list[2 * i + 2] = struct.unpack(ENTRY, raw, i * ENTRY_BYTES + 1)
  end
  return list, count
end

local function append(s, when, units)
  if units > MAX_ENTRY_UNITS then
    s.total, units = s.total - units + MAX_ENTRY_UNITS, MAX_ENTRY_UNITS
  end
  if s.count == 0 then s.oldest = when end
  redis.call('SETRANGE', s.key, at(s, s.count), struct.pack(ENTRY, when, units))
  s.count = s.count + 1
end

-- Drops the first `n` of the `list` of entries; `oldest` is 0 where the next is not at hand.
local function drop(s, list, n)
  s.head, s.count, s.oldest = s.head + n, s.count - n, list[2 * n + 1] or 0
end

-- Takes the index-th entry out; those before it move up.
local function remove(s, index)
  if index == 0 then return drop(s, (entries(s, 0, 2)), 1) end
  local older = redis.call('GETRANGE', s.key, at(s, 0), at(s, index) - 1)
  redis.call('SETRANGE', s.key, at(s, 1), older)
  s.head, s.count = s.head + 1, s.count - 1
end

local function forget(s, now)
  local horizon = now - s.window
  if s.last_cost + s.count > 0 and s.last <= horizon then
    s.total, s.last_cost, s.head, s.count, s.seen, s.dirty = 0, 0, 0, 0, s.last + s.window, true
  end
  while s.count > 0 and s.oldest <= horizon do
    local list, count = entries(s, 0, CHUNK)
    local n = 0
    while n < count and list[2 * n + 1] <= horizon do
      s.total, n = s.total - list[2 * n + 2], n + 1
    end
    if n > 0 then s.seen, s.dirty = math.max(s.seen, list[2 * n - 1] + s.window), true end
    drop(s, list, n)
  end
end
