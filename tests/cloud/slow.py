"""Visitors who are slow, idle or silent, each at its limit and one below it, all at once.

    slow.py AUTHORITY HOST PORT PLAIN_PORT [long]

Each trial runs in a thread and says how it ended; one that didn't end as it should fails the script. `long` waits for the
idle ones to be closed too; without it they are only seen to be left alone for as long as the others take.
"""

import http.client
import socket
import sys
import threading
import time

import h2.events
from h2_client import Client, connect

# What lies between a limit and its being seen: a look a second, and a busy machine.
LATE_SECONDS_MAX = 12
# The limits of crates/base/src/limits.rs.
HANDSHAKE, HEADERS, GRACE, IDLE = 10, 15, 20, 75
RATE = 500
# Those who are slow, but not too slow, and those who are idle, but not for too long, are watched for so long.
WATCHED = GRACE + 5


def plain(where, receive=None):
    stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    stream.settimeout(IDLE + 2 * LATE_SECONDS_MAX)
    stream.connect(("127.0.0.1", where[3]))
    return stream


def head(where, path, method="GET", more=""):
    return f"{method} {path} HTTP/1.1\r\nhost: {where[1]}\r\n{more}\r\n".encode()


def until_closed(stream, feed=lambda: None):
    """What came until the connection was closed. `feed` is called once a second."""
    came = b""
    stream.settimeout(1)
    deadline = time.monotonic() + IDLE + 2 * LATE_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            feed()
            data = stream.recv(65536)
            if not data:
                return came
            came += data
        except TimeoutError:
            pass
        except OSError:
            return came
    raise AssertionError("it was never closed")


def ask(stream, where):
    stream.sendall(head(where, "/"))
    answer = http.client.HTTPResponse(stream)
    answer.begin()
    assert answer.status == 200 and answer.read(), answer.status


def until_reset(stream, feed):
    """What was read may hide a reset for long: it is asked for."""
    deadline = time.monotonic() + 2 * GRACE + LATE_SECONDS_MAX
    while time.monotonic() < deadline:
        if stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return
        feed()
        time.sleep(0.5)
    raise AssertionError("it was never closed")


# ---- trials: a limit in seconds, and what is done; those without a limit must be left alone ----


def silent(where):
    assert until_closed(plain(where)) == b""


def half_a_head(where):
    stream = plain(where)
    stream.sendall(head(where, "/")[:-4])
    assert until_closed(stream) == b""


def a_head_by_the_byte(where):
    stream, letters = plain(where), iter(head(where, "/" + 1000 * "a"))
    assert until_closed(stream, lambda: stream.sendall(bytes([next(letters)]))) == b""


def half_a_second_head(where):
    stream = plain(where)
    ask(stream, where)
    stream.sendall(b"GET / HT")
    assert until_closed(stream) == b""


def half_a_handshake(where):
    stream = socket.create_connection(("127.0.0.1", where[2]))
    stream.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert until_closed(stream) == b""


def half_a_preface(where):
    stream = connect(*where[:3], "h2")
    stream.sendall(b"PRI * HTTP/2.0\r\n")
    until_closed(stream)


def body(where, per_second, length):
    stream = plain(where)
    stream.sendall(head(where, "/count", "POST", f"content-length: {length}\r\n"))
    return stream, lambda: stream.sendall(per_second * b"x")


def slow_body(where):
    stream, feed = body(where, RATE // 5, 1_000_000)
    came = until_closed(stream, feed)
    assert came.startswith(b"HTTP/1.1 408 "), came


def slow_chunks(where):
    stream = plain(where)
    stream.sendall(head(where, "/count", "POST", "transfer-encoding: chunked\r\n"))
    came = until_closed(stream, lambda: stream.sendall(b"1\r\nx\r\n"))
    assert came.startswith(b"HTTP/1.1 408 "), came


def slow_stream(where):
    client = Client(*where[:3])
    number = client.ask("/count", "POST", ends=False)
    client.socket.settimeout(1)
    stream = client.streams[number]
    deadline = time.monotonic() + GRACE + LATE_SECONDS_MAX
    while not stream.ended and time.monotonic() < deadline:
        client.h2.send_data(number, b"x")
        client.flush()
        try:
            client.until(lambda: stream.ended)
        except TimeoutError:
            pass
    assert stream.status == 408, stream.status


def fast_enough_body(where):
    length = 3 * RATE * WATCHED
    stream, feed = body(where, 3 * RATE, length)
    for _ in range(WATCHED):
        feed()
        time.sleep(1)
    answer = http.client.HTTPResponse(stream)
    answer.begin()
    assert (answer.status, answer.read()) == (200, str(length).encode())


def reads_nothing(where, path="/files/large0.bin"):
    stream = plain(where, receive=4096)
    stream.sendall(head(where, path))
    until_reset(stream, lambda: None)


def reads_nothing_of_an_app(where):
    reads_nothing(where, "/big?bytes=100000000")


def reads_a_little(where):
    stream = plain(where, receive=4096)
    stream.sendall(head(where, "/files/large0.bin"))
    until_reset(stream, lambda: stream.recv(RATE // 20))


def reads_slowly(where):
    """Slow, but not too slow: a small buffer, emptied at ten times the least rate."""
    stream = plain(where, receive=4096)
    stream.sendall(head(where, "/files/large0.bin"))
    came = 0
    for _ in range(2 * WATCHED):
        data = stream.recv(5 * RATE)
        assert data, f"closed after {came} bytes"
        came += len(data)
        time.sleep(0.5)


def closes_amid_pings(client, seconds):
    """Is the connection closed within so long, though it is pinged each second?"""
    client.socket.settimeout(1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        client.h2.ping(b"still up")
        try:
            client.flush()
            client.until(lambda: False)
        except TimeoutError:
            pass
        except (AssertionError, OSError):
            return True
    return False


def gives_no_window(where, path="/files/large0.bin"):
    client = Client(*where[:3])
    # Its window is 65,535 bytes, and never moves.
    client.h2.acknowledge_received_data = lambda size, number: None
    client.ask(path)
    # Pings and their answers are no progress.
    assert closes_amid_pings(client, GRACE + LATE_SECONDS_MAX), "it was never closed"


def gives_an_app_no_window(where):
    gives_no_window(where, "/big?bytes=1000000")


def idle(where, long):
    stream = plain(where)
    ask(stream, where)
    time.sleep(WATCHED)
    ask(stream, where)
    if long:
        begun = time.monotonic()
        assert until_closed(stream) == b""
        assert IDLE <= time.monotonic() - begun <= IDLE + LATE_SECONDS_MAX


def idle_with_pings(where, long):
    client = Client(*where[:3])
    client.answer(client.ask("/"))
    begun = time.monotonic()
    ended = closes_amid_pings(client, IDLE + LATE_SECONDS_MAX if long else WATCHED)
    assert ended == long, ended
    took = time.monotonic() - begun
    assert not long or took >= IDLE, took
    if not long:
        client.socket.settimeout(30)
        client.answer(client.ask("/"))


LIMITS = {
    silent: HEADERS,
    half_a_head: HEADERS,
    a_head_by_the_byte: HEADERS,
    half_a_second_head: HEADERS,
    half_a_handshake: HANDSHAKE,
    slow_body: GRACE,
    slow_chunks: GRACE,
    slow_stream: GRACE,
    reads_nothing: GRACE,
    reads_nothing_of_an_app: GRACE,
    reads_a_little: GRACE,
    gives_no_window: GRACE,
    gives_an_app_no_window: GRACE,
}

if __name__ == "__main__":
    authority, host, port, plain_port, *more = sys.argv[1:]
    where, long = (authority, host, int(port), int(plain_port)), more == ["long"]
    faults = []

    def run(name, trial, limit):
        begun = time.monotonic()
        try:
            trial()
            took = time.monotonic() - begun
            # The kernel's own buffers fill before anything waits.
            most = 2 * limit + LATE_SECONDS_MAX if limit else took
            assert limit is None or limit - 1 <= took <= most, f"after {took:.1f} s, not {limit} s"
            print(f"{name}: {'cut' if limit else 'left alone'}, {took:.1f} s", flush=True)
        except Exception as error:
            faults.append(f"{name}: {error!r}")

    # Names are given, for a thread has no trial of its own in a loop.
    trials = [(trial.__name__, lambda trial=trial: trial(where), limit) for trial, limit in LIMITS.items()]
    trials += [(trial.__name__, lambda trial=trial: trial(where), None) for trial in (fast_enough_body, reads_slowly)]
    trials += [(trial.__name__, lambda trial=trial: trial(where, long), None) for trial in (idle, idle_with_pings)]
    if long:
        trials.append(("half_a_preface", lambda: half_a_preface(where), IDLE))
    threads = [threading.Thread(target=run, args=trial) for trial in trials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, "\n".join(faults)
