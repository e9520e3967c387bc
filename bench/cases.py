"""What is measured against what, and the bars of the project's front-end issue."""

from dataclasses import dataclass, field
from typing import Callable

import crowd
import kv
import neighbours
import push
import servers
from servers import BENCH, ROOT, TOOLS, Target, Unavailable


@dataclass
class Peer:
    name: str
    # Starts the peer in a folder: (server, target).
    start: Callable
    # The ratio of CPU a request, ours to theirs, that is to be reached; None where none was set.
    bar: float | None = None
    note: str = ""


@dataclass
class Case:
    """CPU a request, ours and theirs by turns."""

    id: str
    title: str
    # Makes `firm up` serve it: a target.
    ours: Callable
    peers: list[Peer] = field(default_factory=list)

    def rows(self, run, ground):
        return run.case(self, ground)


@dataclass
class Scenario:
    """What has a measure of its own. It gives its rows itself."""

    id: str
    title: str
    # (run, ground, case): rows.
    measure: Callable

    def rows(self, run, ground):
        return self.measure(run, ground, self)


def reusing(manifest):
    """A manifest whose component's instances serve one request after another."""
    return manifest.replace("[components.app]\n", "[components.app]\nreuse = true\n")


class Ground:
    """What the cases stand on: our node, and the folders that theirs run in."""

    def __init__(self, firm, folder):
        self.firm, self.folder = firm, folder
        self._nginx = self._sites = None
        self._guests = {}

    def sites(self):
        if self._sites is None:
            sites = self.folder / "sites"
            sites.mkdir(exist_ok=True)
            # That is what makes it a static site to `firm push`.
            (sites / "index.html").write_text("<!doctype html><title>bench</title>")
            (sites / "hello.txt").write_bytes(b"Hello, world!")
            # Bytes that don't compress or repeat, the same in each run.
            ten_kb = b"".join(b"%08x" % (number * 2654435761 & 0xFFFFFFFF) for number in range(1250))
            (sites / "ten.txt").write_bytes(ten_kb)
            self.firm.push(sites, "files")
            self._sites = sites
        return self._sites

    def nginx(self):
        if self._nginx is None:
            self._nginx = servers.nginx(self.folder / "nginx", self.sites())
        return self._nginx

    def guest(self, app):
        if app not in self._guests:
            self._guests[app] = self.firm.push_guest(BENCH / "guests" / app, app)
        return self._guests[app]

    def reused(self, app):
        """The same component once more, as an app whose instances serve one request after another."""
        if not self.firm.knows("reuse"):
            raise Unavailable("not there: this build's manifest has no `reuse`")
        component, manifest = self.guest(app), BENCH / "guests" / app / "firm.toml"
        self.firm.push_built(component, manifest, f"{app}-reused", reusing)
        return f"{app}-reused"

    def probe(self, app, change, tenant):
        """The hostile guest of the tests, with a change of its manifest."""
        source = ROOT / "tests/guests/probe"
        component = self.firm.push_guest(source, "probe")
        self.firm.push_built(component, source / "firm.toml", app, change, tenant)


def all_cases(ground):
    def static(case, title, path, tls, bar):
        def ours():
            ground.sites()
            return ground.firm.target("files", path, tls)

        def theirs(_folder):
            server = ground.nginx()
            return server, Target("https" if tls else "http", server.tls if tls else server.plain, "files.main.localhost", path)

        return Case(case, title, ours, [Peer("nginx", theirs, bar)])

    def component(case, title, app, peers):
        def ours():
            ground.guest(app)
            return ground.firm.target(app)

        return Case(case, title, ours, peers)

    def reused(case, title, app, peers):
        return Case(case, title, lambda: ground.firm.target(ground.reused(app)), peers)

    def wasmtime(app, options, *serve_options):
        def start(folder):
            server = servers.wasmtime(folder, ground.guest(app), options, serve_options)
            return server, Target("http", server.port, f"{app}.main.localhost")

        return start

    def workerd(app, script):
        def start(folder):
            server = servers.workerd(folder, BENCH / "guests/workerd" / script)
            return server, Target("http", server.port, f"{app}.main.localhost")

        return start

    p2, p3 = servers.WASMTIME_P2, servers.WASMTIME_P3
    return [
        static("static-13b", "static file, 13 bytes", "/hello.txt", False, 1.0),
        static("static-10kb", "static file, 10 KB", "/ten.txt", False, 1.0),
        static("tls-13b", "static file, 13 bytes, TLS", "/hello.txt", True, 1.1),
        static("tls-10kb", "static file, 10 KB, TLS", "/ten.txt", True, 1.1),
        component("rust-02", "Rust component 0.2, fresh instance", "hello", [
            Peer("wasmtime serve", wasmtime("hello", p2), 0.30),
            Peer("wasmtime serve, our pool options", wasmtime("hello", p2 + servers.WASMTIME_POOL)),
            Peer("workerd", workerd("hello", "hello.js"), 0.65, "JavaScript in a shared isolate"),
        ]),
        reused("rust-02-reused", "Rust component 0.2, reused instance", "hello", [
            Peer("workerd", workerd("hello", "hello.js"), None, "JavaScript in a shared isolate"),
        ]),
        component("rust-03", "Rust component 0.3, fresh instance", "hello3", [
            Peer("wasmtime serve, fresh", wasmtime("hello3", p3, "--max-instance-reuse-count=1"), None, "fresh on both sides"),
        ]),
        reused("rust-03-reused", "Rust component 0.3, reused instance", "hello3", [
            Peer("wasmtime serve", wasmtime("hello3", p3), 0.5, "theirs as it comes: an instance serves 128 requests, 16 at once"),
            Peer("workerd", workerd("hello3", "hello.js"), 0.35, "JavaScript in a shared isolate"),
        ]),
        component("js", "JavaScript component, fresh instance", "hello-js", [
            Peer("wasmtime serve", wasmtime("hello-js", p2), 0.4),
            Peer("workerd", workerd("hello-js", "hello.js"), None, "JavaScript in a shared isolate; ours is fresh"),
        ]),
        reused("js-reused", "JavaScript component, reused instance", "hello-js", [
            Peer("workerd", workerd("hello-js", "hello.js"), None, "JavaScript in a shared isolate"),
        ]),
        Scenario("kv-get", "KV get from a component, above hello", kv.get),
        Scenario("kv-put", "KV put from a component, durable", kv.put),
        Scenario("push", "push of a component to its first answer", push.to_first_answer),
        Scenario("idle", "10,000 deployed idle apps", crowd.idle),
        Scenario("neighbours", "a good app beside a hostile one", neighbours.measured),
    ]


def versions():
    """(name, command) of everything that takes part."""
    return {
        "nginx": [TOOLS / "nginx/usr/sbin/nginx", "-v"],
        "redis": ["env", f"LD_LIBRARY_PATH={servers.REDIS_ENVIRONMENT['LD_LIBRARY_PATH']}", TOOLS / "redis/usr/bin/redis-server", "--version"],
        "wasmtime": [TOOLS / "bin/wasmtime", "--version"],
        "workerd": [TOOLS / "workerd/node_modules/.bin/workerd", "--version"],
        "wrk": ["wrk", "-v"],
    }
