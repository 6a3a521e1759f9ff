-- Decides the checks of ARGV[1], one after the other, each seeing the charges before it; the twin of verdict.py.
-- ARGV[1] is msgpack, flat: time (0: the server's), number of checks, then of each check its number of counters and of each
-- counter the index of its key, the algorithm, the step, the cost and four parameters. The answer is flat too: of each check
-- 1 admitted, 0 refused or 2 unseeded, and its time; of each counter 1 if it fits, and three numbers of its algorithm.
local SHADOW, CHARGE_REFUSED, FORCE, RELEASE, RESET, STRIDE = 1, 2, 3, 4, 5, 8
local ask, answer, states = cmsgpack.unpack(ARGV[1]), {}, {}
server_us, spare_ms = ask[1], 60000
if server_us == 0 then
  local time = redis.call('TIME')
  server_us, spare_ms = time[1] * 1000000 + time[2], 0
end
local position, length = 3, 0
for _ = 1, ask[2] do
  local first, last = position + 1, position + ask[position] * STRIDE
  position = last + 1
  local now, verdict, fits = server_us, 1, {}
  for p = first, last, STRIDE do
    local s = states[ask[p]]
    if not s then
      s = algorithms[ask[p + 1]].read(KEYS[ask[p]])
      s.key, s.algorithm = KEYS[ask[p]], algorithms[ask[p + 1]]
      states[ask[p]] = s
    end
    if s.seen > now then now = s.seen end
  end
  for p = first, last, STRIDE do
    local s = states[ask[p]]
    s.algorithm.adopt(s, now, ask[p + 4], ask[p + 5], ask[p + 6], ask[p + 7])
    if s.unseeded and ask[p + 2] <= FORCE then
      verdict = 2
    elseif verdict ~= 2 then
      fits[p] = s.algorithm.fits(s, now, ask[p + 3]) or ask[p + 2] >= FORCE
      if not fits[p] and ask[p + 2] ~= SHADOW then verdict = 0 end
    end
  end
  answer[length + 1], answer[length + 2] = verdict, now
  length = length + 2
  for p = first, last, STRIDE do
    local s, cost, fit = states[ask[p]], ask[p + 3], fits[p]
    if ask[p + 2] == RELEASE then
      s.algorithm.release(s, cost)
    elseif ask[p + 2] == RESET then
      redis.call('DEL', s.key)
      states[ask[p]] = nil
    elseif verdict == 1 and fit and cost > 0 then
      s.algorithm.charge(s, now, cost)
    elseif verdict == 0 and not fit and ask[p + 2] == CHARGE_REFUSED then
      s.algorithm.penalize(s, now, cost)
    end
    answer[length + 1] = fit and 1 or 0
    answer[length + 2], answer[length + 3], answer[length + 4] = 0, 0, 0
    if verdict ~= 2 and ask[p + 2] <= FORCE then
      answer[length + 2], answer[length + 3], answer[length + 4] = s.algorithm.report(s, now, cost, fit)
    end
    length = length + 4
  end
end
for _, s in pairs(states) do
  if s.dirty then s.algorithm.write(s) end
end
return cmsgpack.pack(answer)
