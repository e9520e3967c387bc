"""What is measured against what, and the bars of the project's front-end issue."""

from dataclasses import dataclass, field
from typing import Callable

import servers
from servers import BENCH, ROOT, TOOLS, Target


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
    id: str
    title: str
    # Makes `firm up` serve it: a target.
    ours: Callable
    peers: list[Peer] = field(default_factory=list)


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
            source = {"hello": BENCH / "guests/hello", "hello-js": BENCH / "guests/hello-js", "p3hello": ROOT / "tests/guests/p3hello"}[app]
            self._guests[app] = self.firm.push_guest(source, app)
        return self._guests[app]


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
        component("rust-03", "Rust component 0.3", "p3hello", [
            Peer("wasmtime serve", wasmtime("p3hello", p3), 0.5, "theirs is reused for 128 requests, 16 at once; ours is fresh, as there is no reuse yet"),
            Peer("wasmtime serve, fresh", wasmtime("p3hello", p3, "--max-instance-reuse-count=1"), None, "fresh on both sides"),
            Peer("workerd", workerd("p3hello", "hello-host.js"), 0.35, "JavaScript in a shared isolate; ours is fresh"),
        ]),
        component("js", "JavaScript component, fresh instance", "hello-js", [
            Peer("wasmtime serve", wasmtime("hello-js", p2), 0.4),
            Peer("workerd", workerd("hello-js", "hello.js"), None, "JavaScript in a shared isolate; ours is fresh"),
        ]),
    ]


def versions():
    """(name, command) of everything that takes part."""
    return {
        "nginx": [TOOLS / "nginx/usr/sbin/nginx", "-v"],
        "wasmtime": [TOOLS / "bin/wasmtime", "--version"],
        "workerd": [TOOLS / "workerd/node_modules/.bin/workerd", "--version"],
        "wrk": ["wrk", "-v"],
    }
