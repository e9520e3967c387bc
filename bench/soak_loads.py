"""What happens to the box during a soak: visitors of good apps, their developers, and hostile tenants."""

import contextlib
import http.client
import itertools
import os
import random
import socket
import ssl
import subprocess
import sys
import threading

import kv
import measure
import neighbours
from api import Api
from cases import reusing
from push import unseen
from servers import BENCH, ROOT, Unavailable

# One wrk after another, so that its counts come in while the soak runs.
SLICE_SECONDS = 10
VISITORS = 6
# Visitors wait between two requests: the box is to be busy, not drowned, beside its hostile tenants.
PACED_LUA = "delay = function() return math.random(10, 40) end\n"
# A slow answer is no wrong answer: the box and its load share the machine's cores.
WRK_TIMEOUT_SECONDS = 60
# A release, a rollback, and a look at what answers, each so often; and a component that nobody has seen.
PUSH_EVERY_SECONDS, COMPONENT_EVERY_SECONDS = 4, 30
# What each kind of attack gets, and how many kinds there are; in a short soak each gets less, so that all come round.
HOSTILE_SECONDS_MIN, HOSTILE_SECONDS_MAX, HOSTILE_KINDS, ROUNDS_MIN = 3, 12, 12, 4
ERRORS_SHOWN = 5


def hostile_seconds(seconds):
    return min(max(seconds / (ROUNDS_MIN * HOSTILE_KINDS), HOSTILE_SECONDS_MIN), HOSTILE_SECONDS_MAX)


def round_seconds(seconds):
    """One round of all attacks, in a soak of so many seconds."""
    return hostile_seconds(seconds) * HOSTILE_KINDS


class Tally:
    """Requests and errors, by load."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts, self.failed, self.said = {}, {}, []

    def add(self, name, requests, errors=0, why=""):
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + requests
            self.failed[name] = self.failed.get(name, 0) + errors
            if errors:
                self.said.append(f"{name}: {why}")

    def names(self):
        return sorted(self.counts)

    def count(self, name):
        return self.counts.get(name, 0)

    def requests(self):
        return sum(self.counts.values())

    def errors(self):
        return sum(self.failed.values())

    def first_errors(self):
        return self.said[:ERRORS_SHOWN]


class World:
    def __init__(self, firm, folder, tally, hostile, seconds):
        self.seconds = seconds
        self.firm, self.folder, self.tally = firm, folder, tally
        self.api, self.with_hostile = Api(firm), hostile
        self.over, self.threads = threading.Event(), []
        # Components that came while it ran: each stays mapped.
        self.programs = 0
        self.hostile_now = "none"

    # ---- before ----

    def lay(self):
        """Deploys every app, and asks each once."""
        site = self.folder / "site"
        site.mkdir()
        (site / "index.html").write_text("<!doctype html><title>soak</title>")
        (site / "hello.txt").write_bytes(b"Hello, world!")
        # More than a chunk of the largest size, so that it is sent piece by piece.
        (site / "large.bin").write_bytes(random.Random(1).randbytes(6 << 20))
        self.firm.push(site, "files")
        self.component = self.firm.push_guest(BENCH / "guests/hello", "hello")
        self.firm.push_guest(BENCH / "guests/hello3", "hello3")
        self.firm.push_guest(BENCH / "guests/kv", "kv")
        self.firm.push_built(self.component, BENCH / "guests/hello/firm.toml", "reused", reusing)
        kv.put_one(self.firm.target("kv"), "hello")
        self.push_site(0)
        for _, target, _ in self.visits():
            self.ask("lay", target)
        if self.with_hostile:
            self.lay_hostile()

    def lay_hostile(self):
        self.api.call("POST", "/tenants", {"tenant": "hostile"})
        source = ROOT / "tests/guests/probe"
        probe = self.firm.push_guest(source, "probe")
        self.firm.push_built(probe, source / "firm.toml", "probe", tenant="hostile")
        self.hostile = self.firm.target("probe", tenant="hostile")
        self.ask("lay", self.hostile)

    def visits(self):
        """(name, target, what wrk is told) of the visitors who come all the time."""
        target = self.firm.target
        return [
            ("static", target("files", "/hello.txt"), ""),
            ("static over TLS", target("files", "/hello.txt", tls=True), ""),
            ("0.2", target("hello"), ""),
            ("0.2 over TLS", target("hello", tls=True), ""),
            ("0.2 reused", target("reused"), ""),
            ("0.3", target("hello3"), ""),
            ("kv get", target("kv", "/get"), ""),
            ("kv put", target("kv", "/get"), kv.PUT_LUA),
        ]

    def ask(self, name, target):
        status, headers, body, _ = target.ask()
        if status != 200:
            raise Unavailable(f"{name}: {target.url} at {target.host} is answered with {status}: {body[:200]!r}")
        return headers, body

    # ---- while it runs ----

    def start(self):
        for name, target, lua in self.visits():
            self.go(self.visit, name, target, lua)
        for work in (self.large, self.newcomers, self.releases, self.components):
            self.go(work)
        if self.with_hostile:
            for work in (self.attacks, self.noise, self.junk):
                self.go(work)

    def go(self, work, *args):
        def run():
            while not self.over.is_set():
                try:
                    work(*args)
                except Exception as error:  # whatever it is, it is an error that a good app's people saw
                    if not self.over.is_set():
                        self.tally.add(work.__name__, 0, 1, f"{type(error).__name__}: {error}")
                        self.over.wait(1)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def visit(self, name, target, lua):
        counted = measure.wrk(target, SLICE_SECONDS, self.folder, VISITORS, PACED_LUA + lua, WRK_TIMEOUT_SECONDS)
        errors = counted["refused"] + counted["errors"]
        self.tally.add(name, counted["requests"], errors, f"{counted['refused']} not 200, {counted['errors']} broke off")

    def large(self):
        """A large file, whole and in part."""
        target = self.firm.target("files", "/large.bin", tls=True)
        _, body = self.ask("large file", target)
        if len(body) != 6 << 20:
            raise Unavailable(f"the large file has {len(body)} bytes")
        self.tally.add("large file", 1)
        self.over.wait(1)

    def newcomers(self):
        """Somebody new each time: a handshake, one request, and away."""
        for target in (self.firm.target("files", "/hello.txt", tls=True), self.firm.target("hello")):
            self.ask("newcomer", target)
            self.tally.add("newcomers", 1)
        self.over.wait(0.1)

    def push_site(self, number):
        site = self.folder / "released"
        site.mkdir(exist_ok=True)
        (site / "index.html").write_text(f"<!doctype html><title>release {number}</title>")
        self.firm.push(site, "released")

    def releases(self):
        """A push, and back again: what answers must be what was just released."""
        target = self.firm.target("released")
        for number in itertools.count(1):
            self.push_site(number)
            self.expect_release(target, number)
            self.api.call("POST", "/tenants/main/apps/released/stages/live/rollback", {})
            self.expect_release(target, number - 1)
            # The next push starts from what was pushed, not from what was rolled back to.
            self.push_site(number)
            if self.over.wait(PUSH_EVERY_SECONDS):
                return

    def expect_release(self, target, number):
        _, body = self.ask("released", target)
        if f"release {number}<" not in body.decode():
            raise Unavailable(f"it answers {body[:80]!r}, not release {number}")
        self.tally.add("releases", 1)

    def components(self):
        """A component under a new digest, compiled and called."""
        path = self.folder / "unseen.wasm"
        path.write_bytes(unseen(self.component))
        self.firm.push(path, "compiled")
        self.programs += 1
        self.ask("compiled", self.firm.target("compiled"))
        self.tally.add("components", 1)
        self.over.wait(COMPONENT_EVERY_SECONDS)

    # ---- the hostile ----

    def attacks(self):
        """One kind after another."""
        at = self.hostile
        kinds = {
            "loops": neighbours.Requests(at, "/loop", 4),
            "memory bombs": neighbours.Requests(at, "/bomb", 4),
            "recursion": neighbours.Requests(at, "/recurse", 8),
            "traps": neighbours.Requests(at, "/trap", 8),
            "traps mid-stream": neighbours.Requests(at, "/trap-mid-stream", 8),
            "mute": neighbours.Requests(at, "/mute", 8),
            "log floods": neighbours.Requests(at, "/log?n=20000&line=" + "x" * 100, 4),
            "hoards": neighbours.Requests(at, "/hoard?what=fields", 4),
            "huge responses": neighbours.Requests(at, "/big?bytes=100000000000", 4),
            "slow readers": neighbours.Sockets(at, "/big?bytes=100000000", 200, False),
            "a crowd": neighbours.Sockets(at, "/sleep?ms=3000", 2_000, True),
            "kv": neighbours.Requests(at, "/kv?bucket=probe&op=set&key=k&value=" + "v" * 1000, 16),
        }
        assert len(kinds) == HOSTILE_KINDS, "a round is as long as all of them"
        for name, attack in kinds.items():
            if self.over.is_set():
                return
            self.hostile_now = name
            attack.start()
            self.over.wait(hostile_seconds(self.seconds))
            attack.stop()

    def noise(self):
        """Bytes that are no HTTP, halves of requests, and connections that only open."""
        port = random.choice([self.firm.plain, self.firm.tls])
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as taken:
            taken.sendall(random.choice([
                b"", os.urandom(200), b"GET / HTTP/1.1\r\nHost: probe.hostile.localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                b"GET /" + b"a" * 40_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(500), b"POST / HTTP/1.1\r\nHost: probe.hostile.localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            ]))
            if random.random() < 0.5:
                # Nobody waits for an answer.
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.over.wait(0.02)

    def junk(self):
        """Calls of the API that are refused, and components that are none."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPSConnection("127.0.0.1", self.firm.tls, timeout=10, context=context)
            with contextlib.closing(connection):
                token = random.choice(["", "Bearer nobody", f"Bearer {self.firm.token()}x"])
                connection.request("POST", "/v1/tenants/main/apps/files/releases", os.urandom(1000), {"Host": "api.localhost", "Authorization": token})
                connection.getresponse().read()
        broken = bytearray(self.component.read_bytes())
        for _ in range(20):
            broken[random.randrange(len(broken))] = random.randrange(256)
        path = self.folder / "junk.wasm"
        path.write_bytes(broken)
        # It may be one that still compiles; it is never called.
        subprocess.run([self.firm.binary, "push", str(path), "--app", "junk", "--tenant", "hostile"], env=self.firm.env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.over.wait(5)

    # ---- after ----

    def all_there(self):
        try:
            for name, target, _ in self.visits():
                self.ask(name, target)
            return True
        except (Unavailable, OSError) as error:
            print(f"  {error}", file=sys.stderr, flush=True)
            return False
