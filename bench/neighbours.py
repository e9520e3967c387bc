"""A good app's latency while a hostile one of another tenant does its worst, each kind in turn."""

import collections
import contextlib
import os
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time

import measure
import report
from api import Api
from servers import LOAD_CORE, Unavailable

P99_BAR = 2.0
# The good app's visitors: so many, each with a pause between its requests. It is far from what the box can do, so
# that what they wait for is the box and not one another.
VISITORS = 16
PACED_LUA = "delay = function() return math.random(10, 30) end\n"
SECONDS, ROUNDS = 5, 5
# What the hostile side needs to be under way, and at the most to open its connections.
HEAD_START_SECONDS, OPENING_SECONDS_MAX = 0.5, 20

# A box takes half of its descriptors for connections, and at that bound it accepts nobody: with fewer descriptors than a
# service manager gives, the crowd must leave room, or it is that bound which is measured.
CROWD = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 500)

# The most that a manifest may ask for, but for the memory: 500 instances of 1 GiB would be the machine's end, not the
# neighbour's, and whoever shares this machine would pay for it.
WORST = {'memory = "64MiB"': 'memory = "256MiB"', 'cpu = "200ms"': 'cpu = "60s"', 'timeout = "5s"': 'timeout = "10m"\nconcurrency = 500'}


def worst(manifest):
    for mild, bad in WORST.items():
        if mild not in manifest:
            raise Unavailable(f"tests/guests/probe/firm.toml has no `{mild}` any more")
        manifest = manifest.replace(mild, bad)
    return manifest


class Attack:
    """Something hostile that runs until it is stopped, on the load's core and always behind the load."""

    def __init__(self, target):
        self.target = target

    def start(self):
        raise NotImplementedError

    def wait(self):
        """Until it is under way."""
        time.sleep(HEAD_START_SECONDS)

    def stop(self):
        raise NotImplementedError


class Requests(Attack):
    """So many connections that ask for the same again and again."""

    def __init__(self, target, path, connections):
        super().__init__(target)
        self.path, self.connections = path, connections

    def start(self):
        url = f"http://127.0.0.1:{self.target.port}{self.path}"
        command = ["nice", "-n", "19", "taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{self.connections}", "-d600s", "--timeout", "600s", "-H", f"Host: {self.target.host}", url]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Sockets(Attack):
    """So many connections by hand: each asks once, and again a second after an answer; or never reads one."""

    def __init__(self, target, path, connections, reads):
        super().__init__(target)
        self.path, self.connections, self.reads = path, connections, reads

    def start(self):
        self.over, self.opened = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def wait(self):
        self.opened.wait(OPENING_SECONDS_MAX)

    def stop(self):
        self.over.set()
        self.thread.join()

    def run(self):
        # The thread alone: `nice` and affinity are a thread's own on Linux.
        os.sched_setaffinity(0, {LOAD_CORE})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        asked = f"GET {self.path} HTTP/1.1\r\nHost: {self.target.host}\r\n\r\n".encode()
        selector, held, again = selectors.DefaultSelector(), [], collections.deque()
        refused = 0
        for number in range(self.connections):
            if self.over.is_set():
                break
            taken = self.connect(number, asked)
            if taken is None:
                refused += 1
                continue
            held.append(taken)
            if self.reads:
                selector.register(taken, selectors.EVENT_READ)
        self.opened.set()
        if refused:
            print(f"  of the attack's {self.connections} connections {refused} were refused", file=sys.stderr, flush=True)
        while not self.over.wait(0.01):
            for key, _ in selector.select(0):
                if self.read(key.fileobj):
                    again.append((time.monotonic() + 1, key.fileobj))
                else:
                    selector.unregister(key.fileobj)
            while again and again[0][0] <= time.monotonic():
                with contextlib.suppress(OSError):  # it was closed: one less
                    again.popleft()[1].send(asked)
        for taken in held:
            taken.close()
        selector.close()

    def connect(self, number, asked):
        """None where it is refused."""
        # From many addresses of loopback: no one has so many ports free, and no limit of one client's is meant.
        source = (f"127.0.{1 + number // 200 % 200}.{1 + number % 200}", 0)
        try:
            taken = socket.create_connection(("127.0.0.1", self.target.port), timeout=5, source_address=source)
            if not self.reads:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            taken.sendall(asked)
            taken.setblocking(False)
            return taken
        except OSError:
            return None

    def read(self, taken):
        """Is it still open?"""
        try:
            return bool(taken.recv(65536))
        except BlockingIOError:
            return True
        except OSError:
            return False


def attacks(target):
    """By name, and in words."""
    return {
        "loop": ("endless loops, 64 at once", Requests(target, "/loop", 64)),
        "bomb": ("memory bombs, 16 at once", Requests(target, "/bomb", 16)),
        "crowd": (f"{CROWD:,} concurrent requests", Sockets(target, "/sleep?ms=60000", CROWD, True)),
        "fill": ("large memory filled by one instruction, 16 at once", Requests(target, "/fill?mib=200", 16)),
        "log": ("log floods, 16 at once", Requests(target, "/log?n=100000&line=" + "x" * 100, 16)),
        "tables": ("tables of host handles grown without end, 16 at once", Requests(target, "/hoard?what=fields", 16)),
        "recurse": ("deep recursion, 64 at once", Requests(target, "/recurse", 64)),
        "huge": ("huge responses, 16 at once", Requests(target, "/big?bytes=100000000000", 16)),
        "slow": ("slow readers of huge responses, 500", Sockets(target, "/big?bytes=100000000000", 500, False)),
    }


def measure_one(ground, target, seconds):
    """(p50, p99) in µs. Every answer must be the right one."""
    counted = measure.wrk(target, seconds, ground.folder, VISITORS, PACED_LUA)
    if counted["requests"] == 0 or counted["refused"] or counted["errors"]:
        raise Unavailable(f"of the good app's {counted['requests']} requests {counted['refused']} were not answered with 200 and {counted['errors']} broke off")
    return counted["p50"], counted["p99"]


def middle(values):
    return sorted(values)[len(values) // 2]


def measure_all(run, ground, hostile):
    ground.guest("hello")
    good = ground.firm.target("hello")
    kinds, seconds = attacks(hostile), SECONDS if run.rounds > 1 else 1
    quiet, found, failed = [], {name: [] for name in kinds}, {}
    for _ in range(min(ROUNDS, run.rounds)):
        quiet.append(measure_one(ground, good, seconds))
        print(f"  {'quiet':14} p50 {quiet[-1][0]:8.0f} µs   p99 {quiet[-1][1]:8.0f} µs", file=sys.stderr, flush=True)
        for name, (_, attack) in kinds.items():
            if name in failed or hostile_only(name):
                continue
            attack.start()
            try:
                attack.wait()
                found[name].append(measure_one(ground, good, seconds))
                print(f"  {name:14} p50 {found[name][-1][0]:8.0f} µs   p99 {found[name][-1][1]:8.0f} µs", file=sys.stderr, flush=True)
            except (Unavailable, subprocess.TimeoutExpired) as error:
                failed[name] = str(error)
                print(f"  {name:14} {error}", file=sys.stderr, flush=True)
            finally:
                attack.stop()
            ground.firm.settle()
    return kinds, quiet, found, failed


def hostile_only(name):
    """BENCH_ATTACK=loop tries one of them alone."""
    return name != os.environ.get("BENCH_ATTACK", name)


def measured(run, ground, case):
    Api(ground.firm).call("POST", "/tenants", {"tenant": "hostile"})
    ground.probe("probe", worst, "hostile")
    kinds, quiet, found, failed = measure_all(run, ground, ground.firm.target("probe", tenant="hostile"))
    quiet_p50, quiet_p99 = middle([pair[0] for pair in quiet]), middle([pair[1] for pair in quiet])
    rows = []
    for name, (words, _) in kinds.items():
        if name in failed:
            row = report.row(case, words, None, quiet_p99, "µs of p99", P99_BAR, failed[name])
            rows.append(row | {"met": False})
        elif found[name]:
            p50, p99 = middle([pair[0] for pair in found[name]]), middle([pair[1] for pair in found[name]])
            times = {"ours_p50_us": p50, "ours_p99_us": p99, "theirs_p50_us": quiet_p50, "theirs_p99_us": quiet_p99}
            rows.append(report.row(case, words, p99, quiet_p99, "µs of p99", P99_BAR, "theirs is ours when all is quiet", **times))
    return rows
