"""One measurement: wrk on one core, a server on the other, and what the server's CPU time was meanwhile."""

import json
import os
import resource
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from servers import LOAD_CORE, Unavailable

CONNECTIONS = 32
# wrk ends by itself after its time; this is for one that doesn't.
WRK_GRACE_SECONDS = 20

# What wrk counted, exact and in one line: its own text rounds.
DONE_LUA = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "micros": %d, "p50": %d, "p99": %d, "errors": %d, "refused": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
"""


@dataclass
class Sample:
    cpu_us: float
    rps: float
    p50_us: float
    p99_us: float
    # The share of the whole machine that neither the server nor wrk used.
    others: float


def machine_busy_seconds():
    """CPU seconds that all cores were busy, time stolen by the hypervisor included."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def wrk(target, seconds, folder, connections=CONNECTIONS, lua="", timeout=2):
    """`timeout` is what an answer may take, in seconds. `lua` may say what wrk's own functions `request` and `delay` do."""
    script = folder / f"{threading.get_native_id()}.lua"
    script.write_text(DONE_LUA + lua)
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{timeout}s", "--latency", "-s", str(script), "-H", f"Host: {target.host}", target.url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + timeout + WRK_GRACE_SECONDS)
    for line in ran.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise Unavailable(f"wrk says: {ran.stderr.strip() or ran.stdout.strip()}")


def sample(server, target, seconds, folder, connections=CONNECTIONS, lua=""):
    busy, load, cpu = machine_busy_seconds(), children_seconds(), server.cpu_seconds()
    counted = wrk(target, seconds, folder, connections, lua)
    cpu = server.cpu_seconds() - cpu
    load, busy = children_seconds() - load, machine_busy_seconds() - busy
    if counted["requests"] == 0:
        raise Unavailable(f"{server.name} answered no request within {seconds} s")
    if counted["refused"] or counted["errors"]:
        raise Unavailable(f"{server.name}: {counted['refused']} answers were not 200, {counted['errors']} broke off, of {counted['requests']}")
    elapsed = counted["micros"] / 1e6
    others = max(0.0, busy - load - cpu) / (elapsed * os.cpu_count())
    return Sample(cpu * 1e6 / counted["requests"], counted["requests"] / elapsed, counted["p50"], counted["p99"], others)
