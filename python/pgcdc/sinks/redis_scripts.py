"""What runs inside Redis: each change is held against the position of the row's last one, and applied, in one step.

All scripts are of one table. What they keep of it beside the user's keys:

- `KEYS[1]`, a hash: the position of each row that is there; of a counted row also what it counts for;
- `KEYS[2]`, a string: the floor, the position of the last TRUNCATE, below which nothing is applied any more;
- for each row that is gone a string of its own, its tombstone, with its position, for `ARGV[2]` seconds; `ARGV[1]` is
  what their names begin with.

Positions are compared as text. They are of one length, and digits come before letters in every collation.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ADD", "COUNT", "EMPTY", "FLOOR", "KEEP"]

_GUARD: Final = """
local function is_new(row, position, known)
  local floor = redis.call('GET', KEYS[2])
  if floor and position < floor then return false end
  local last = known or redis.call('GET', ARGV[1] .. row)
  return not last or string.sub(last, 1, 25) < position
end
local function bury(row, position)
  redis.call('HDEL', KEYS[1], row)
  redis.call('SET', ARGV[1] .. row, position, 'EX', ARGV[2])
end
"""

KEEP: Final = (
    _GUARD
    + """
-- KEYS[3…]: the keys. ARGV[3]: after how many seconds a value expires, 0 for never. ARGV[4]: what values are, 'json' or
-- 'hash'. Then for each key its position, how many words follow, and these: the value, or fields and values; none, and
-- the row is gone.
local at = 5
local is_json = ARGV[4] == 'json'
for number = 3, #KEYS do
  local key, position, count = KEYS[number], ARGV[at], tonumber(ARGV[at + 1])
  if is_new(key, position, redis.call('HGET', KEYS[1], key)) then
    if count == 0 or not is_json then redis.call('UNLINK', key) end
    if count == 0 then
      bury(key, position)
    else
      if is_json then
        redis.call('SET', key, ARGV[at + 2])
      else
        redis.call('HSET', key, unpack(ARGV, at + 2, at + 1 + count))
      end
      if ARGV[3] ~= '0' then redis.call('EXPIRE', key, ARGV[3]) end
      redis.call('HSET', KEYS[1], key, position)
    end
  end
  at = at + 2 + count
end
return {}
"""
)
"""Set keys, or delete them."""

_CHANGE: Final = """
local function change(key, command, amount)
  local made = redis.pcall(command, key, amount)
  if type(made) == 'table' and made.err then return false end
  if made == 0 then redis.call('UNLINK', key) end
  return true
end
-- A counted row: position, amount, a space, the counter's key.
local function parts(known)
  local space = string.find(known, ' ', 1, true)
  return string.sub(known, 26, space - 1), string.sub(known, space + 1)
end
"""

COUNT: Final = (
    _GUARD
    + _CHANGE
    + """
-- For each row its name, position, what it counts for (an empty key: it is gone), and how much. Gives the numbers of
-- the rows whose counter is none.
local refused = {}
for at = 3, #ARGV, 4 do
  local row, position, key, amount = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local known = redis.call('HGET', KEYS[1], row)
  if is_new(row, position, known) then
    local good = true
    if key ~= '' then good = change(key, 'INCRBY', amount) end
    if good and known then
      local before, former = parts(known)
      good = change(former, 'DECRBY', before)
      if not good and key ~= '' then change(key, 'DECRBY', amount) end
    end
    if not good then
      table.insert(refused, (at - 3) / 4)
    elseif key == '' then
      bury(row, position)
    else
      redis.call('HSET', KEYS[1], row, position .. amount .. ' ' .. key)
    end
  end
end
return refused
"""
)
"""Count rows: what a row counted for before is taken off again."""

FLOOR: Final = """
local floor = redis.call('GET', KEYS[2])
if not floor or floor < ARGV[1] then redis.call('SET', KEYS[2], ARGV[1]) end
return {}
"""
"""Apply nothing below `ARGV[1]` any more. Rows of a copy that begins with a TRUNCATE have the same position as it."""

EMPTY: Final = (
    _CHANGE
    + """
-- ARGV[1]: the position of the TRUNCATE; ARGV[2]: whether rows are counted. Then rows.
for number = 3, #ARGV do
  local row = ARGV[number]
  local known = redis.call('HGET', KEYS[1], row)
  if known and string.sub(known, 1, 25) < ARGV[1] then
    if ARGV[2] == '1' then
      local before, former = parts(known)
      change(former, 'DECRBY', before)
    else
      redis.call('UNLINK', row)
    end
    redis.call('HDEL', KEYS[1], row)
  end
end
return {}
"""
)
"""Remove rows that were written before a TRUNCATE."""

ADD: Final = """
-- KEYS[3]: the stream. ARGV[1]: how many entries it keeps about, 0 for all. Then for each entry its id, action, table,
-- position and change. An id that is not above the last one was added before, if an entry with it has this position, or
-- it is below all that the stream keeps. What comes late, and copied rows, which have no number yet, go to the end.
-- Gives the numbers of the entries that cannot be added.
local refused = {}
local function was_there(id, position)
  if string.sub(id, -1) == '*' then return false end
  local found = redis.call('XRANGE', KEYS[3], id, id)[1]
  if found then
    for number = 1, #found[2], 2 do
      if found[2][number] == 'position' then return found[2][number + 1] == position end
    end
    return false
  end
  -- One before all that is kept would have been removed by now.
  return ARGV[1] ~= '0' and #redis.call('XRANGE', KEYS[3], '-', id, 'COUNT', 1) == 0
end
local function at_the_end()
  local told = redis.call('XINFO', 'STREAM', KEYS[3])
  for number = 1, #told, 2 do
    if told[number] == 'last-generated-id' then return string.match(told[number + 1], '^%d+') .. '-*' end
  end
end
for at = 2, #ARGV, 5 do
  local arguments = {KEYS[3]}
  if ARGV[1] ~= '0' then
    for _, word in ipairs({'MAXLEN', '~', ARGV[1]}) do table.insert(arguments, word) end
  end
  for _, word in ipairs({ARGV[at], 'action', ARGV[at + 1], 'table', ARGV[at + 2], 'position', ARGV[at + 3],
      'change', ARGV[at + 4]}) do
    table.insert(arguments, word)
  end
  local made = redis.pcall('XADD', unpack(arguments))
  if type(made) == 'table' and made.err and string.find(made.err, 'equal or smaller', 1, true) then
    if was_there(ARGV[at], ARGV[at + 3]) then
      made = nil
    else
      arguments[#arguments - 8] = at_the_end()
      made = redis.pcall('XADD', unpack(arguments))
    end
  end
  if type(made) == 'table' and made.err then table.insert(refused, (at - 2) / 5) end
end
return refused
"""
"""Add changes to a stream."""
