"""Forms of requests that two servers may read as two different things, sent to this node, nginx and haproxy alike.

    smuggling.py AUTHORITY HOST PORT PLAIN_PORT PEERS

Prints the table of docs/smuggling.md. HOST runs the probe (tests/guests/probe); PEERS is the folder in which
`tools/install test` unpacked nginx and haproxy, which answer 200 to whatever they understand. It ends with a traceback when
this node answers a form otherwise than it must.
"""

import contextlib
import http.client
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import hpack
from h2_client import connect, frames_of
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

SILENCE_SECONDS = 1.2
REFUSED = "refused"

# ---- HTTP/1: what it is, the request, and what it must come to here ----


def get(fields="", line="GET / HTTP/1.1", host="Host: HOST\r\n"):
    return f"{line}\r\n{host}{fields}\r\n"


def post(fields, body, line="POST /count HTTP/1.1"):
    return f"{line}\r\nHost: HOST\r\n{fields}\r\n{body}"


def chunked(body):
    return post("Transfer-Encoding: chunked\r\n", body)


CHUNKS = "3\r\nabc\r\n0\r\n\r\n"
# It stands behind each form. Whoever answers it has taken the form for a whole request, or its body for another one.
BEHIND = "GET /again HTTP/1.1\r\nHost: HOST\r\nX-Behind: yes\r\n\r\n"

HTTP1 = {
    "Two lengths": {
        "differing": post("Content-Length: 3\r\nContent-Length: 5\r\n", "abcde"),
        "the same twice": post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        "the same in a list": post("Content-Length: 3, 3\r\n", "abc"),
        "differing in a list": post("Content-Length: 3, 5\r\n", "abcde"),
        "the second folded": post("Content-Length: 3\r\nX: y\r\n Content-Length: 5\r\n", "abcde"),
    },
    "A length that is none": {
        "signed": post("Content-Length: +3\r\n", "abc"),
        "negative": post("Content-Length: -1\r\n", "abc"),
        "hexadecimal": post("Content-Length: 0x3\r\n", "abc"),
        "empty": post("Content-Length:\r\n", "abc"),
        "with a letter": post("Content-Length: 3a\r\n", "abc"),
        "of 2^64 and 3": post("Content-Length: 18446744073709551619\r\n", "abc"),
        "quoted": post('Content-Length: "3"\r\n', "abc"),
    },
    "A length and a coding": {
        "length first": post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        "coding first": post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        "length too long": post("Content-Length: 500\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        "length of none, and a coding": post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        "names in capitals": post("CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n"),
    },
    "A coding that isn't `chunked`": {
        "unknown": post("Transfer-Encoding: xchunked\r\n", CHUNKS),
        "chunked, identity": post("Transfer-Encoding: chunked, identity\r\n", CHUNKS),
        "identity, chunked": post("Transfer-Encoding: identity, chunked\r\n", CHUNKS),
        "gzip, chunked": post("Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
        "chunked twice": post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        "chunked, and in another field identity": post(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKS
        ),
        "quoted": post('Transfer-Encoding: "chunked"\r\n', CHUNKS),
        "behind a vertical tab": post("Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
        "with a parameter": post("Transfer-Encoding: chunked;a=b\r\n", CHUNKS),
        "empty": post("Transfer-Encoding:\r\n", CHUNKS),
        "folded": post("Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
        "in HTTP/1.0": post("Transfer-Encoding: chunked\r\n", CHUNKS, "POST /count HTTP/1.0"),
    },
    "A name that isn't one": {
        "a space before the colon": post("Content-Length : 3\r\n", "abc"),
        "a tab before the colon": post("Transfer-Encoding\t: chunked\r\n", CHUNKS),
        "a space in front": get(" X: a\r\n", host=""),
        "a space within": get("X Y: a\r\n"),
        "no colon": get("X\r\n"),
        "empty": get(": a\r\n"),
        "a NUL within": get("X\0Y: a\r\n"),
        "not ASCII": get("X\xff: a\r\n"),
    },
    "A line that isn't one": {
        "folded": get("X: a\r\n b\r\n"),
        "LF alone after the request line": get().replace("HTTP/1.1\r\n", "HTTP/1.1\n"),
        "LF alone after a field": get("X: a\nY: b\r\n"),
        "LF alone before a length": post("X: a\nContent-Length: 3\r\n", "abc"),
        "LF alone at the end": get()[:-2] + "\n",
        "LF alone throughout": get().replace("\r\n", "\n"),
        "CR alone in a value": get("X: a\rY: b\r\n"),
        "CR alone after a field": get("X: a\r"),
        "CR CR LF": get("X: a\r\r\n"),
        "a NUL in a value": get("X: a\0b\r\n"),
        "a control character in a value": get("X: a\x01b\r\n"),
    },
    "A chunk that isn't one": {
        "size too large": chunked("fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        "size of 2^64 and 3": chunked("10000000000000003\r\nabc\r\n0\r\n\r\n"),
        "size negative": chunked("-1\r\nabc\r\n0\r\n\r\n"),
        "size signed": chunked("+3\r\nabc\r\n0\r\n\r\n"),
        "size with 0x": chunked("0x3\r\nabc\r\n0\r\n\r\n"),
        "size empty": chunked("\r\nabc\r\n0\r\n\r\n"),
        "size with an underscore": chunked("0_3\r\nabc\r\n0\r\n\r\n"),
        "LF alone after the size": chunked("3\nabc\r\n0\r\n\r\n"),
        "LF alone in an extension": chunked("3;a\nb\r\nabc\r\n0\r\n\r\n"),
        "CR alone in an extension": chunked("3;a\rb\r\nabc\r\n0\r\n\r\n"),
        "longer than its size": chunked("3\r\nabcX\r\n0\r\n\r\n"),
        "LF alone after the data": chunked("3\r\nabc\n0\r\n\r\n"),
        "an extension of 100 KB": chunked(f"3;{100_000 * 'a'}\r\nabc\r\n0\r\n\r\n"),
        "trailers of 100 KB": chunked(f"3\r\nabc\r\n0\r\n{1_000 * ('x: ' + 97 * 'a' + chr(13) + chr(10))}\r\n"),
    },
    "A request line that isn't one": {
        "HTTP/0.9": "GET /\r\n",
        "no version": get(line="GET /"),
        "HTTP/1.2": get(line="GET / HTTP/1.2"),
        "HTTP/2.0": get(line="GET / HTTP/2.0"),
        "HTTP/11.1": get(line="GET / HTTP/11.1"),
        "http in small letters": get(line="GET / http/1.1"),
        "two spaces": get(line="GET  / HTTP/1.1"),
        "a tab": get(line="GET\t/ HTTP/1.1"),
        "a space in the target": get(line="GET /a b HTTP/1.1"),
        "a NUL in the target": get(line="GET /a\0b HTTP/1.1"),
        "something behind the version": get(line="GET / HTTP/1.1 x"),
        "a method with a colon": get(line="GE:T / HTTP/1.1"),
        "the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    },
    "A host that isn't one": {
        "none": get(host=""),
        "two": get(host="Host: HOST\r\nHost: evil.example\r\n"),
        "the same twice": get(host="Host: HOST\r\nHost: HOST\r\n"),
        "with a user": get(host="Host: evil@HOST\r\n"),
        "with a path": get(host="Host: HOST/evil\r\n"),
        "with a space": get(host="Host: HOST evil\r\n"),
        "empty": get(host="Host:\r\n"),
        "another one than the target's": get(line="GET http://evil.example/ HTTP/1.1"),
        "the target's with a user": get(line="GET http://HOST@evil.example/ HTTP/1.1"),
    },
}

# What is in order, or harmless, and comes to this here: statuses, and whether the connection stays.
ALLOWED = {
    "In order": {
        "a body that nobody reads": (post("Content-Length: 3\r\n", "abc", "POST / HTTP/1.1"), "200 + 200, open"),
        "chunks": (chunked(CHUNKS), "200, closed"),
        "chunks with an extension": (chunked("3;a=b\r\nabc\r\n0\r\n\r\n"), "200, closed"),
        "chunks with trailers": (chunked("3\r\nabc\r\n0\r\nX: y\r\n\r\n"), "200, closed"),
        "empty lines in front": ("\r\n\r\n" + get(), "200 + 200, open"),
        "the target with its host": (get(line="GET http://HOST/ HTTP/1.1"), "200 + 200, open"),
        "a method in small letters is another method": (get(line="get / HTTP/1.1"), "200 + 200, open"),
        "HTTP/1.0 ends the connection": (get(line="GET / HTTP/1.0"), "200, closed"),
        "an upgrade to h2c is left alone": (
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            "200 + 200, open",
        ),
        "an upgrade to WebSocket": (
            get(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            ),
            "501 + 200, open",
        ),
        "a tunnel": (get(line="CONNECT HOST:443 HTTP/1.1"), "501, closed"),
    }
}

# ---- HTTP/2: fields, as they stand in the head, and the body ----

GET2 = [(":method", "GET"), (":scheme", "https"), (":authority", "HOST"), (":path", "/")]
POST2 = [(":method", "POST"), (":scheme", "https"), (":authority", "HOST"), (":path", "/count")]


def but(**changed):
    """A GET with other pseudo-header fields."""
    return [(name, changed.get(name[1:], value)) for name, value in GET2 if changed.get(name[1:], value) is not None]


HTTP2 = {
    "HTTP/2: fields of HTTP/1": {
        "transfer-encoding": (POST2 + [("transfer-encoding", "chunked")], b"0\r\n\r\n"),
        "connection": (GET2 + [("connection", "close")], None),
        "keep-alive": (GET2 + [("keep-alive", "timeout=5")], None),
        "proxy-connection": (GET2 + [("proxy-connection", "keep-alive")], None),
        "upgrade": (GET2 + [("upgrade", "websocket")], None),
        "te: gzip": (GET2 + [("te", "gzip")], None),
    },
    "HTTP/2: what would be two lines": {
        "CR LF in a value": (GET2 + [("x", "a\r\ntransfer-encoding: chunked")], None),
        "LF in a value": (GET2 + [("x", "a\nb: c")], None),
        "CR in a value": (GET2 + [("x", "a\rb")], None),
        "a NUL in a value": (GET2 + [("x", "a\0b")], None),
        "CR LF in a name": (GET2 + [("x: y\r\nz", "a")], None),
        "a colon in a name": (GET2 + [("x:y", "a")], None),
        "a space in a name": (GET2 + [("x y", "a")], None),
        "capitals in a name": (GET2 + [("Content-Length", "3")], None),
        "an empty name": (GET2 + [("", "a")], None),
        "CR LF in the path": (but(path="/ HTTP/1.1\r\nx: y"), None),
        "a space in the path": (but(path="/ HTTP/1.1"), None),
        "CR LF in the method": (but(method="GET / HTTP/1.1\r\nx: y\r\n\r\n"), None),
        "a space in the method": (but(method="GET /"), None),
        "CR LF in the authority": (but(authority="HOST\r\nx: y"), None),
    },
    "HTTP/2: another host": {
        "a host field that differs": (GET2 + [("host", "evil.example")], None),
        "two host fields": (GET2 + [("host", "HOST"), ("host", "evil.example")], None),
        "no authority, no host": (but(authority=None), None),
        "an authority with a user": (but(authority="evil@HOST"), None),
        "a path with a host": (but(path="http://evil.example/"), None),
        "a path without a slash": (but(path="evil"), None),
    },
    "HTTP/2: pseudo-header fields": {
        "two paths": (GET2 + [(":path", "/evil")], None),
        "two methods": (GET2 + [(":method", "POST")], None),
        "two authorities": (GET2 + [(":authority", "evil.example")], None),
        "two schemes": (GET2 + [(":scheme", "http")], None),
        "one after the fields": (GET2[:3] + [("x", "y"), GET2[3]], None),
        "an unknown one": (GET2 + [(":evil", "x")], None),
        "one of an answer": (GET2 + [(":status", "200")], None),
        "no path": (but(path=None), None),
        "an empty path": (but(path=""), None),
        "no method": (but(method=None), None),
        "no scheme": (but(scheme=None), None),
        "CONNECT with a protocol": (but(method="CONNECT") + [(":protocol", "websocket")], None),
        "CONNECT with a path": (but(method="CONNECT"), None),
    },
    "HTTP/2: lengths": {
        "more than was sent": (POST2 + [("content-length", "5")], b"abc"),
        "less than was sent": (POST2 + [("content-length", "1")], b"abc"),
        "a length, and no body": (POST2 + [("content-length", "3")], None),
        "differing": (POST2 + [("content-length", "3"), ("content-length", "5")], b"abc"),
        "signed": (POST2 + [("content-length", "+3")], b"abc"),
    },
}


def http1(port, host, request):
    """What a request comes to: the statuses, and whether the connection stays."""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.settimeout(SILENCE_SECONDS)
        came, closed = b"", False
        with contextlib.suppress(OSError):
            # It may be closed before all is sent.
            stream.sendall((request + BEHIND).replace("HOST", host).encode("latin-1"))
        try:
            while data := stream.recv(65536):
                came += data
            closed = True
        except TimeoutError:
            pass
        except OSError:
            closed = True
    statuses = re.findall(rb"HTTP/1\.[01] (\d{3})", came)
    if came and not statuses:
        # HTTP/0.9 has an answer without a head.
        statuses = [b"a body"]
    said = " + ".join(status.decode() for status in statuses) or "no answer"
    return f"{said}, {'closed' if closed else 'open'}"


def block(fields, host):
    """A head as it is told, and not as HPACK's encoder would have it."""
    encode = lambda text: text.replace("HOST", host).encode("latin-1")
    length = lambda text: (
        bytes([len(text)]) if len(text) < 127 else b"\x7f" + bytes([(len(text) - 127) & 127 | 128, (len(text) - 127) >> 7])
    )
    literal = lambda text: length(encode(text)) + encode(text)
    return b"".join(b"\x00" + literal(name) + literal(value) for name, value in fields)


def http2(open_stream, host, fields, body):
    """What a request comes to: a status, a reset of its stream, or the end of the connection."""
    with open_stream() as stream:
        head = HeadersFrame(1, data=block(fields, host))
        head.flags.add("END_HEADERS")
        frames = [SettingsFrame(0), head]
        if body is None:
            head.flags.add("END_STREAM")
        else:
            frames.append(DataFrame(1, data=body, flags=["END_STREAM"]))
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(frame.serialize() for frame in frames))
        stream.settimeout(5)
        decoder = hpack.Decoder()
        try:
            for frame in frames_of(stream):
                match frame:
                    case HeadersFrame():
                        return str(dict(decoder.decode(frame.data))[":status"])
                    case RstStreamFrame():
                        return "stream reset"
                    case GoAwayFrame() if frame.error_code:
                        return "connection ended"
        except OSError:
            pass
        return "connection ended"


# ---- the peers ----

NGINX = """
daemon off; master_process off; worker_processes 1; pid DIR/nginx.pid; error_log DIR/nginx.log crit;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
    server { listen 127.0.0.1:ONE; location / { return 200 "ok"; } }
    server { listen 127.0.0.1:TWO http2; location / { return 200 "ok"; } }
}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend one
    bind 127.0.0.1:ONE
    option http-buffer-request
    http-request return status 200 content-type text/plain string ok
frontend two
    bind 127.0.0.1:TWO proto h2
    http-request return status 200 content-type text/plain string ok
"""


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@contextlib.contextmanager
def peer(program, template, arguments):
    """A peer on two ports of its own: HTTP/1, and HTTP/2 in the clear."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = free_port(), free_port()
        config = pathlib.Path(folder) / "config"
        config.write_text(template.replace("DIR", folder).replace("ONE", str(one)).replace("TWO", str(two)))
        child = subprocess.Popen([str(part).replace("CONFIG", str(config)) for part in [program, *arguments]])
        try:
            for port in (one, two):
                while True:
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                        break
                    assert child.poll() is None, f"{program} ended with {child.returncode}"
                    time.sleep(0.02)
            yield one, two
        finally:
            child.terminate()
            child.wait()


def version(program):
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
    return re.search(r"(\d+\.\d+)", said.stdout + said.stderr).group(1)


def table(authority, host, port, plain_port, peers):
    programs = {name: peers / "bin" / name for name in ("nginx", "haproxy")}
    for name, program in programs.items():
        assert program.is_file(), f"{program} is missing\n  help: tools/install test"
    faults, rows = [], []

    def row(section, what, ask, wanted):
        ours, *theirs = [ask(server) for server in servers]
        if wanted == REFUSED:
            status, _, end = ours.partition(", ")
            good = (re.fullmatch(r"4\d\d|5\d\d|no answer", status) and end == "closed") or (
                re.fullmatch(r"4\d\d|stream reset|connection ended", ours)
            )
        else:
            good = ours == wanted
        if not good:
            faults.append(f"{section}, {what}: {ours}, not {wanted}")
        rows.append((section, what, ours, *theirs))

    with contextlib.ExitStack() as stack:
        nginx = stack.enter_context(peer(programs["nginx"], NGINX, ["-c", "CONFIG", "-e", "/dev/null"]))
        haproxy = stack.enter_context(peer(programs["haproxy"], HAPROXY, ["-f", "CONFIG", "-q"]))
        servers = [(plain_port, port), nginx, haproxy]
        asked = []
        for section, forms in [*HTTP1.items(), *ALLOWED.items()]:
            for what, form in forms.items():
                request, wanted = form if isinstance(form, tuple) else (form, REFUSED)
                asked.append((section, what, lambda server, request=request: http1(server[0], host, request), wanted))
        for section, forms in HTTP2.items():
            for what, (fields, body) in forms.items():
                def ask(server, fields=fields, body=body):
                    ours = server[1] == port
                    clear = lambda: socket.create_connection(("127.0.0.1", server[1]))
                    return http2((lambda: connect(authority, host, port, "h2")) if ours else clear, host, fields, body)
                asked.append((section, what, ask, REFUSED))
        # Most wait for silence; together they wait as long as one.
        threads = [threading.Thread(target=row, args=one) for one in asked]
        for start in range(0, len(threads), 16):
            for thread in threads[start : start + 16]:
                thread.start()
            for thread in threads[start : start + 16]:
                thread.join()
    assert len(rows) == len(asked), "a form could not be tried: see above"
    assert not faults, "\n".join(faults)
    order = [one[:2] for one in asked]
    rows.sort(key=lambda row: order.index(row[:2]))
    titles = ("this node", *(f"{name} {version(program)}" for name, program in programs.items()))
    return rows, titles


def written(rows, titles):
    text = """# Requests that two servers may read differently

A request that a proxy takes for one and a server for two is how requests are smuggled past the proxy's rules, or into a
neighbour's connection. Here is what each such form comes to, here and at two peers as Debian ships them; each server
is sent the form and a second request right behind it. Written by `tests/cloud/smuggling.py` in `make test`, which fails where
this node doesn't refuse what it must or where the table is no longer true; `UPDATE_EXPECT=1` writes it anew.

`400, closed` is one answer and the end of the connection. `200 + 200, open` are two answers: the form was understood as
a request of its own, and so was what stood behind it. Over HTTP/2 each request has a stream of its own, and only its own
fate is told. RFC 9112 lets a server be more patient in some of these (a lone LF, a length beside chunks); this node
isn't, as whoever stands in front of it may see something else in them. A connection ends with the answer to a
body in chunks (`crates/web/src/listen/heads.rs`).
"""
    section = None
    for row in rows:
        if row[0] != section:
            section = row[0]
            text += f"\n## {section}\n\n| form | {' | '.join(titles)} |\n| --- | --- | --- | --- |\n"
        text += f"| {' | '.join(row[1:])} |\n"
    return text


if __name__ == "__main__":
    authority, host, port, plain_port, peers = sys.argv[1:]
    print(written(*table(authority, host, int(port), int(plain_port), pathlib.Path(peers))), end="")
