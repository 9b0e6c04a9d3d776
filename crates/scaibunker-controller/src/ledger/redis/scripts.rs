//! The ledger's steps as Redis carries them out: each script is one atomic step.
//!
//! | key | holds |
//! | --- | --- |
//! | `filled` | that the ledger was filled from the database since Redis was last empty |
//! | `charges` | by bunker id, a charge's text: `paused amount{6} bucket…` |
//! | `counters` | by `bucket#n`, the sum of resource n, absent for zero |
//! | `alive` | workers by the time until which they count as alive |
//! | `rate:{key}:{minute}` | requests in a minute |
//!
//! Sums are exact up to 2^53, which no sum of `u32` sizes of fewer than two million bunkers reaches.

use redis::Script;

/// What the scripts share.
const SHARED: &str = r"
local function words(text)
  local list = {}
  for word in string.gmatch(text, '%S+') do list[#list + 1] = word end
  return list
end
local function amounts_of(charge)
  local amounts = {}
  for n = 1, 6 do amounts[n] = tonumber(charge[n + 1]) end
  return amounts
end
local function add(counters, charge, sign)
  local amounts = amounts_of(charge)
  for at = 8, #charge do
    -- A paused bunker keeps its CPU on its worker alone.
    local is_left_out = charge[1] == '1' and string.sub(charge[at], 1, 7) ~= 'worker:'
    for n = 1, 6 do
      if amounts[n] > 0 and not (n == 3 and is_left_out) then
        local field = charge[at] .. '#' .. n
        local sum = redis.call('HINCRBY', counters, field, string.format('%.0f', sign * amounts[n]))
        if sum <= 0 then redis.call('HDEL', counters, field) end
      end
    end
  end
end
local function set(charges, counters, bunker, text)
  local before = redis.call('HGET', charges, bunker)
  if before then
    add(counters, words(before), -1)
    redis.call('HDEL', charges, bunker)
  end
  if text ~= '' then
    redis.call('HSET', charges, bunker, text)
    add(counters, words(text), 1)
  end
end
-- The first cap that stands against the amounts: {profile, resource, current, asked}, counted from 0.
local function exceeded(counters, amounts, first, only)
  for at = first, #ARGV, 7 do
    local bucket = ARGV[at]
    if not only or only[bucket] then
      for n = 1, 6 do
        local cap = tonumber(ARGV[at + n])
        if cap >= 0 and amounts[n] > 0 then
          local current = tonumber(redis.call('HGET', counters, bucket .. '#' .. n) or '0')
          if current + amounts[n] > cap then return {(at - first) / 7, n - 1, current, amounts[n]} end
        end
      end
    end
  end
  return nil
end
";

/// Refuses to work on a ledger that is empty because Redis was.
const FILLED: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('LOST the ledger is empty')
end
";

const RESERVE: &str = r"
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return {} end
local refusal = exceeded(KEYS[3], amounts_of(words(ARGV[2])), 3)
if refusal then return refusal end
set(KEYS[2], KEYS[3], ARGV[1], ARGV[2])
return {}
";

const RELEASE: &str = r"
local was_charged = redis.call('HEXISTS', KEYS[2], ARGV[1])
set(KEYS[2], KEYS[3], ARGV[1], '')
return was_charged
";

const PAUSE: &str = r"
local text = redis.call('HGET', KEYS[2], ARGV[1])
if not text or string.sub(text, 1, 1) == '1' then return 0 end
set(KEYS[2], KEYS[3], ARGV[1], '1' .. string.sub(text, 2))
return 1
";

const RESUME: &str = r"
local text = redis.call('HGET', KEYS[2], ARGV[1])
if not text or string.sub(text, 1, 1) == '0' then return {} end
local charge = words(text)
local own = {}
for at = 8, #charge do own[charge[at]] = true end
local cpu = {0, 0, tonumber(charge[4]), 0, 0, 0}
local refusal = exceeded(KEYS[3], cpu, 2, own)
if refusal then return refusal end
set(KEYS[2], KEYS[3], ARGV[1], '0' .. string.sub(text, 2))
return {}
";

const USAGE: &str = r"
local sums = {}
for at = 1, #ARGV do
  for n = 1, 6 do sums[#sums + 1] = tonumber(redis.call('HGET', KEYS[3], ARGV[at] .. '#' .. n) or '0') end
end
return sums
";

const SNAPSHOT: &str = r"
return {redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
";

const CORRECT: &str = r"
set(KEYS[2], KEYS[3], ARGV[1], ARGV[2])
return 1
";

const RECOUNT: &str = r"
redis.call('DEL', KEYS[3])
for _, text in ipairs(redis.call('HVALS', KEYS[2])) do add(KEYS[3], words(text), 1) end
return 1
";

const REBUILD: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
for at = 1, #ARGV, 2 do set(KEYS[2], KEYS[3], ARGV[at], ARGV[at + 1]) end
redis.call('SET', KEYS[1], '1')
return 1
";

/// `KEYS`: this minute's and the one before it, of each window; `ARGV`: milliseconds into the
/// minute, then each window's limit. The condition is that of `domain::rate`.
const ADMIT: &str = r"
local counts, admits = {}, 1
for at = 1, #KEYS, 2 do
  local current = tonumber(redis.call('GET', KEYS[at]) or '0')
  local previous = tonumber(redis.call('GET', KEYS[at + 1]) or '0')
  counts[at], counts[at + 1] = current, previous
  local used = current + math.ceil(previous * (60000 - tonumber(ARGV[1])) / 60000)
  if used + 1 > tonumber(ARGV[(at + 1) / 2 + 1]) then admits = 0 end
end
if admits == 1 then
  for at = 1, #KEYS, 2 do
    counts[at] = redis.call('INCR', KEYS[at])
    redis.call('PEXPIRE', KEYS[at], 120000)
  end
end
counts[#counts + 1] = admits
return counts
";

const NOTE_ALIVE: &str = r"
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[2]), ARGV[1])
return 1
";

const ALIVE: &str = r"
local now = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now[1] * 1000 + math.floor(now[2] / 1000))
return redis.call('ZRANGE', KEYS[1], 0, -1)
";

/// Every script, with what it needs of the shared part.
pub(super) struct Scripts {
    pub reserve: Script,
    pub release: Script,
    pub pause: Script,
    pub resume: Script,
    pub usage: Script,
    pub snapshot: Script,
    pub correct: Script,
    pub recount: Script,
    pub rebuild: Script,
    pub admit: Script,
    pub note_alive: Script,
    pub alive: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let filled = |body: &str| Script::new(&format!("{SHARED}{FILLED}{body}"));
        Self {
            reserve: filled(RESERVE),
            release: filled(RELEASE),
            pause: filled(PAUSE),
            resume: filled(RESUME),
            usage: filled(USAGE),
            snapshot: filled(SNAPSHOT),
            correct: filled(CORRECT),
            recount: filled(RECOUNT),
            rebuild: Script::new(&format!("{SHARED}{REBUILD}")),
            admit: Script::new(ADMIT),
            note_alive: Script::new(NOTE_ALIVE),
            alive: Script::new(ALIVE),
        }
    }
}
