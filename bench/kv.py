"""The key-value store from a component: what a read costs, and how many durable writes there are to a second."""

import http.client
import random
import subprocess
import sys
import time

import measure
import report
import servers
from servers import LOAD_CORE, TOOLS, Unavailable

# What a read may cost above a hello of the same component.
GET_US_MAX = 10.0
# Connections that write at once.
PUT_CONNECTIONS = (1, 16, 64)
# Ours over theirs, of the time a write: twice as many a second.
PUT_BAR = 0.5
VALUE_BYTES = 100
# Both sides write under random keys of so many.
KEYS = 100_000
# What Redis's own client writes before the clock counts.
REDIS_WARM = 1_000

# wrk's random numbers are the same in each run. Where a row would stay as it is SQLite writes nothing, and nothing is
# measured: so each run has a seed of its own, and each write another value.
SEED_LUA = "math.randomseed({seed})\n"
# Each write is a request of its own.
PUT_LUA = f"""
request = function()
    local value = string.rep("x", {VALUE_BYTES} - 10) .. string.format("%010d", math.random(2^31))
    return wrk.format("PUT", "/put?key:" .. math.random({KEYS}), nil, value)
end
"""
# One request writes so many, one after the other: the component is the client, as Redis's own is.
PUTS = 200
PUTS_LUA = f"""
request = function() return wrk.format("GET", "/puts?{PUTS}-" .. math.random(2^31)) end
"""


def put_one(target, key):
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    connection.request("PUT", f"/put?{key}", b"x" * VALUE_BYTES, {"Host": target.host})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise Unavailable(f"PUT /put?{key} is answered with {answer.status}: {said[:200]!r}")


def get(run, ground, case):
    """Both by turns: the same component, the same bytes, once with a look at the store and once without."""
    ground.guest("kv")
    hello, read = (ground.firm.target("kv", path) for path in ("/hello", "/get"))
    put_one(hello, "hello")
    if run.answer(ground.firm, hello) != run.answer(ground.firm, read):
        raise Unavailable("/get answers other bytes than /hello")
    failed = {}
    samples = run.alternate(case.id, {"get": (ground.firm, read), "hello": (ground.firm, hello)}, failed, ground.folder)
    if failed:
        raise Unavailable("; ".join(failed.values()))
    above = [a.cpu_us - b.cpu_us for a, b in zip(samples["get"], samples["hello"])]
    middle = sorted(above)[len(above) // 2]
    both = " and ".join(f"{sorted(sample.cpu_us for sample in samples[name])[len(above) // 2]:.1f} µs for {name}" for name in ("get", "hello"))
    return [report.row(case, "the bar itself", round(middle, 2), GET_US_MAX, report.CPU_UNIT, 1.0, f"the bar is {GET_US_MAX:.0f} µs above hello; {both}")]


def put(run, ground, case):
    ground.guest("kv")
    ours = ground.firm.target("kv")
    put_one(ours, "hello")
    redis = servers.redis(ground.folder / "redis")
    try:
        within = [put_row(run, ground, case, ours, redis, connections, PUTS_LUA, PUTS) for connections in PUT_CONNECTIONS]
        return within + [put_row(run, ground, case, ours, redis, connections, PUT_LUA, 1) for connections in PUT_CONNECTIONS]
    finally:
        redis.stop()


def put_row(run, ground, case, target, redis, connections, lua, puts):
    """Wall time a write, ours and theirs by turns."""
    ours, theirs, costs = [], [], []
    redis_seconds(redis.port, connections, REDIS_WARM)
    seeded = lambda: SEED_LUA.format(seed=random.getrandbits(31)) + lua
    measure.wrk(target, 1, ground.folder, connections, seeded())
    for _ in range(run.rounds):
        sample = measure.sample(ground.firm, target, run.seconds, ground.folder, connections, seeded())
        ours.append(1e6 / sample.rps / puts)
        before, cpu = redis.cpu_seconds(), sample.cpu_us / puts
        # As many as Redis does in about the same time: the last round's, or a guess.
        count = int(run.seconds * 1e6 / theirs[-1]) if theirs else 2_000 * connections
        theirs.append(redis_seconds(redis.port, connections, count) * 1e6 / count)
        costs.append((cpu, (redis.cpu_seconds() - before) * 1e6 / count))
        print_round(case, connections, ours[-1], theirs[-1])
    middle = lambda values: sorted(values)[len(values) // 2]
    at_ours, at_theirs = (middle([cost[side] for cost in costs]) for side in (0, 1))
    note = f"{1e6 / middle(ours):,.0f} writes a second against {1e6 / middle(theirs):,.0f}; CPU {at_ours:.0f} µs a write against {at_theirs:.0f}"
    peer = f"redis, {connections} connections" + ("; ours, a request each" if puts == 1 else "")
    return report.row(case, peer, round(middle(ours), 2), round(middle(theirs), 2), "µs a write", PUT_BAR, note)


def print_round(case, connections, ours, theirs):
    print(f"  {case.id:14} {connections:3} connections   ours {ours:8.1f} µs   redis {theirs:8.1f} µs a write", file=sys.stderr, flush=True)


def redis_seconds(port, connections, count):
    """What Redis's own client needs for so many writes."""
    command = ["taskset", "-c", str(LOAD_CORE), TOOLS / "redis/usr/bin/redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", str(connections),
               "-n", str(count), "-r", str(KEYS), "-d", str(VALUE_BYTES), "-t", "set", "--csv"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=servers.REDIS_ENVIRONMENT)
    for line in ran.stdout.splitlines():
        fields = [field.strip('"') for field in line.split(",")]
        if fields[0] == "SET":
            return count / float(fields[1])
    raise Unavailable(f"redis-benchmark says: {ran.stderr.strip() or ran.stdout.strip()}")
