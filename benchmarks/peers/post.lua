-- Posts the body in the file $BODY with the header lines in $HEADERS; prints what came of it as one line of JSON.
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
for name, value in os.getenv("HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
   wrk.headers[name] = value
end

function done(summary, latency, requests)
   local errors = summary.errors
   print(string.format(
      '{"requests": %d, "errors": %d, "us": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d}',
      summary.requests,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      summary.duration,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)
   ))
end
