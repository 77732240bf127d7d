-- Reads what is below the URL: one of NAMES names, c00000 and so on, each time another.
-- Prints what came of it as JSON, in a line of its own.

local names = tonumber(os.getenv("NAMES"))
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

function init()
  math.randomseed(seed)
  wrk.headers["X-Vault-Token"] = os.getenv("VAULT_TOKEN")
  requests = {}
  -- Made once, so that a name costs the same among many as alone.
  for i = 1, names do
    requests[i] = wrk.format("GET", wrk.path .. string.format("c%05d", i - 1))
  end
end

function request()
  return requests[math.random(names)]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\n{"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
