-- Each request reads a random one of the names c00000, c00001, ... (NAMES of them) below the
-- URL. At the end, the script prints the result as a line of JSON.

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
  -- Format all requests in advance, so that a request costs the same for any number of names.
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
