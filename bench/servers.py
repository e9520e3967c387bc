"""Servers under measurement: each runs in a folder of its own on loopback, pinned to one core, and ends by its own
process id, however this program ends."""

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import platform
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
CACHE = Path(os.environ.get("FIRM_CACHE") or Path.home() / ".cache/firmament")
TOOLS = CACHE / "bench"

SERVER_CORE = 0
LOAD_CORE = 1
# What a server may take to its first answer: a JavaScript component is mapped, not compiled, by then.
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 5
# Descriptors of a server. A box takes half of its descriptors for connections, and the largest case has 10,000 of them.
DESCRIPTORS = 65_536
# What follows a start or an attack: the sweep of what 10,000 apps hold, requests that still run into their limits.
SETTLE_SECONDS_MAX = 60
# wasmtime compiles 13 MB of JavaScript engine in 10 s, and this machine may be busy.
COMPILE_SECONDS_MAX = 300


# What a service manager would give them. RUST_BACKTRACE above all must not come along from a developer's shell: with
# it wasmtime walks the stack for each error that it makes, and it makes one whenever an instance ends (77 µs a request, not 61).
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("RUST_", "FIRM_", "CARGO_", "MALLOC_", "GLIBC_"))}

# Unpacked, not installed: it finds its libraries beside itself.
REDIS_ENVIRONMENT = ENVIRONMENT | {"LD_LIBRARY_PATH": str(TOOLS / "redis/usr/lib" / f"{platform.machine()}-linux-gnu")}


class Unavailable(Exception):
    """A case can't be measured; the reason is for people."""


class Target:
    """Where a server answers a case: an address and the name that it is asked for."""

    def __init__(self, scheme, port, host, path="/"):
        self.scheme, self.port, self.host, self.path = scheme, port, host, path

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}{self.path}"

    def ask(self):
        """One request, as wrk sends it: (status, headers, body)."""
        if self.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", self.path, headers={"Host": self.host})
            answer = connection.getresponse()
            cipher = f"{connection.sock.version()} {connection.sock.cipher()[0]}" if self.scheme == "https" else None
            return answer.status, dict(answer.getheaders()), answer.read(), cipher


def installed(tool):
    path = TOOLS / tool
    if not path.exists():
        raise Unavailable(f"{tool} is missing; run bench/install")
    return path


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def last_lines(text, count=3):
    return " ".join(text.strip().splitlines()[-count:])[:600] or "it said nothing"


class Server:
    """A child process and its descendants."""

    # Every one that was started and not yet stopped, so that none is left behind whatever breaks.
    running = []

    def __init__(self, name, command, folder, env=ENVIRONMENT, pinned=True):
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.said = folder / "said.log"
        with self.said.open("wb") as said:
            # A session of its own: Ctrl-C is for this program alone, which then stops its servers in turn.
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True, preexec_fn=pin_and_die_with_parent if pinned else die_with_parent,
            )
        self.running.append(self)

    @property
    def pid(self):
        return self.process.pid

    def last_words(self):
        return last_lines(self.said.read_text(errors="replace"))

    def wait_for(self, fact, what):
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            if self.process.poll() is not None:
                raise Unavailable(f"{self.name} ended at its start: {self.last_words()}")
            if result := fact():
                return result
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name}: {what} took more than {START_SECONDS_MAX} s: {self.last_words()}")
            time.sleep(0.02)

    def wait_until_it_listens(self, port):
        def listens():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return True

        self.wait_for(listens, "listening")

    def tree(self):
        """Its process id and those of all its descendants."""
        children = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
        found, frontier = [], [self.pid]
        while frontier:
            pid = frontier.pop()
            found.append(pid)
            frontier += children.get(pid, [])
        return found

    def cpu_seconds(self):
        """utime + stime of the tree, with what descendants that ended meanwhile have used."""
        ticks = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def settle(self):
        """Waits until it is at rest: less than a tenth of a core is used."""
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.5)
            if self.cpu_seconds() - before < 0.05:
                return

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self in self.running:
            self.running.remove(self)

    @classmethod
    def stop_all(cls):
        for server in reversed(cls.running.copy()):
            server.stop()


def pin_and_die_with_parent():
    os.sched_setaffinity(0, {SERVER_CORE})
    die_with_parent()


def die_with_parent():
    # What a service manager would give it: 10,000 connections need room. Raising it is for root alone.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    # PR_SET_PDEATHSIG, for a `kill -9` of this program: nothing else could stop its servers then.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


# ---- ours ----


class Firm(Server):
    """`firm up` and what was pushed to it."""

    def __init__(self, binary, folder, pinned=True):
        folder.mkdir(parents=True)
        self.pinned = pinned
        # A copy, so that a build that goes on beside this run changes nothing in it.
        self.binary = shutil.copy2(binary, folder / "firm")
        self.tls, self.plain = free_port(), free_port()
        self.env = ENVIRONMENT | {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "share"), "NO_COLOR": "1"}
        if CACHE != Path.home() / ".cache/firmament" or "XDG_CACHE_HOME" in os.environ:
            (folder / "cache").mkdir()
            (folder / "cache/firmament").symlink_to(CACHE)
            self.env["XDG_CACHE_HOME"] = str(folder / "cache")
        self.data = folder / "data"
        self.start()

    def start(self):
        """Starts it, after a `stop` too: same data, same ports. Gives the seconds until it serves."""
        up = ["up", "--serve-plain", "--dir", str(self.data), "--port", str(self.tls), "--http-port", str(self.plain)]
        begun = time.monotonic()
        super().__init__("firm up", [self.binary, *up], self.data.parent / "up", self.env, self.pinned)
        self.wait_for(self.serves, "serving")
        taken = time.monotonic() - begun
        # The command line finds it by the context that it registers once it serves.
        self.wait_for(lambda: self.call("status").returncode == 0, "registering its context")
        return taken

    def serves(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return Target("https", self.tls, "api.localhost", "/v1/health").ask()[0] == 200

    def token(self):
        return (self.data / "operator.token").read_text().strip()

    def call(self, *args):
        return subprocess.run([self.binary, *args], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def push(self, path, app, tenant=None):
        pushed = self.call("push", str(path), "--app", app, "--json", *(["--tenant", tenant] if tenant else []))
        if pushed.returncode != 0:
            raise Unavailable(f"firm push {app}: {last_lines(pushed.stderr or pushed.stdout, 12)}")
        return json.loads(pushed.stdout.strip().splitlines()[-1])

    def target(self, app, path="/", tls=False, tenant="main"):
        return Target("https" if tls else "http", self.tls if tls else self.plain, f"{app}.{tenant}.localhost", path)

    def push_guest(self, source, app):
        """Pushes a guest from source, or what an earlier push built of it when neither it nor the recipe changed.
        Gives the component, which peers get too."""
        built = source / ".firm/build/app.wasm"
        inputs = [file for top in (source, ROOT / "crates/studio/src/build", ROOT / "crates/studio/wit") for file in top.rglob("*") if file.is_file()]
        newest = max((file.stat().st_mtime for file in inputs if ".firm" not in file.parts), default=0)
        if built.exists() and built.stat().st_mtime > newest:
            self.push_built(built, source / "firm.toml", app)
        else:
            self.push(source, app)
        if not built.exists():
            raise Unavailable(f"firm push left no component at {built}")
        return built

    def push_built(self, component, manifest, app, change=lambda manifest: manifest, tenant=None):
        """Pushes a built component with the manifest that its source has, or with a change of it."""
        with tempfile.TemporaryDirectory(dir=self.data.parent) as folder:
            shutil.copy2(component, Path(folder) / "app.wasm")
            text = manifest.read_text().replace('source = "."', 'source = "app.wasm"')
            (Path(folder) / "firm.toml").write_text(change(text))
            self.push(folder, app, tenant)

    def knows(self, key):
        """Does its manifest have this key?"""
        return f'"{key}"' in self.call("schema").stdout


# ---- theirs ----


def nginx(folder, sites):
    """nginx as one tunes it for small files: one worker, no access log, open files kept, no limit on keep-alive, and
    for each size what was fastest on trial: without sendfile a tiny file takes 5.9 µs in place of 7.8, 10 KB 14.6 in
    place of 8.5."""
    binary = installed("nginx/usr/sbin/nginx")
    plain, tls = free_port(), free_port()
    folder.mkdir(parents=True)
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(openssl, cwd=folder, capture_output=True, check=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"""
{user} worker_processes 1; daemon off; pid nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    types {{ text/plain txt; application/octet-stream bin; }}
    access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
    keepalive_timeout 600; keepalive_requests 1000000000;
    open_file_cache max=100 inactive=600s; open_file_cache_valid 600s; open_file_cache_min_uses 1;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    server {{
        listen 127.0.0.1:{plain} reuseport;
        listen 127.0.0.1:{tls} ssl reuseport;
        ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.2 TLSv1.3;
        root {sites};
        location = /hello.txt {{ sendfile off; }}
    }}
}}
""")
    server = Server("nginx", [binary, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"], folder)
    server.plain, server.tls = plain, tls
    server.wait_until_it_listens(plain)
    return server


def redis(folder):
    """Redis that answers a write when it is durable, as our KV does: each turn of its loop ends with one fdatasync for
    all writes of that turn. No snapshots beside it."""
    binary = installed("redis/usr/bin/redis-server")
    port = free_port()
    folder.mkdir(parents=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always",
               "--save", "", "--auto-aof-rewrite-percentage", "0", "--daemonize", "no"]
    server = Server("redis", [binary, *options], folder, REDIS_ENVIRONMENT)
    server.port = port
    server.wait_until_it_listens(port)
    return server


def workerd(folder, script):
    binary = installed("workerd/node_modules/.bin/workerd")
    port = free_port()
    folder.mkdir(parents=True)
    shutil.copy2(script, folder / "hello.js")
    (folder / "config.capnp").write_text(f"""
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (modules = [(name = "hello.js", esModule = embed "hello.js")], compatibilityDate = "2026-01-01"))],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")],
);
""")
    server = Server("workerd", [binary, "serve", "config.capnp"], folder)
    server.port = port
    server.wait_until_it_listens(port)
    return server


# The options by which crates/sandbox makes fresh instances cheap.
WASMTIME_POOL = ["-Opooling-memory-keep-resident=1048576", "-Opooling-table-keep-resident=1048576", "-Opooling-pagemap-scan=y"]
WASMTIME_P2 = ["-Scli"]
WASMTIME_P3 = ["-Scli", "-Sp3", "-Wcomponent-model-async=y"]


def wasmtime(folder, wasm, options, serve_options=()):
    """`wasmtime serve` of the same component, compiled beforehand."""
    binary = installed("bin/wasmtime")
    key = hashlib.sha256(wasm.read_bytes() + " ".join([os.readlink(binary), *options]).encode()).hexdigest()[:32]
    compiled = TOOLS / f"compiled/{key}.cwasm"
    if not compiled.exists():
        compiled.parent.mkdir(exist_ok=True)
        part = compiled.with_suffix(f".{os.getpid()}")
        engine = [option for option in options if not option.startswith("-S")]
        try:
            made = subprocess.run([binary, "compile", *engine, "-o", part, wasm], capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"wasmtime compile took more than {COMPILE_SECONDS_MAX} s") from None
        if made.returncode != 0:
            raise Unavailable(f"wasmtime compile: {last_lines(made.stderr, 8)}")
        part.rename(compiled)
    port = free_port()
    server = Server("wasmtime serve", [binary, "serve", "--allow-precompiled", "--addr", f"127.0.0.1:{port}", *options, *serve_options, compiled], folder)
    server.port = port
    server.wait_until_it_listens(port)
    return server
