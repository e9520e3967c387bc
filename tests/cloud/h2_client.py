"""A client that curl can't be: several HTTP/2 streams at once, and bodies that stream both ways.

    h2_client.py AUTHORITY HOST PORT TRIAL…

Runs each trial on a connection of its own against the probe (tests/guests/probe) and prints its name when the
cloud did what it should; otherwise it ends with a traceback.
"""

import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame

SILENCE_SECONDS_MAX = 30


class Stream:
    """What came on one stream so far."""

    def __init__(self):
        self.status = None
        self.body = bytearray()
        self.ended = False
        self.reset = None


def frames_of(stream):
    """The frames that come on a connection, read without h2's state machine, until it closes."""
    rest = b""
    while data := stream.recv(65536):
        rest += data
        while len(rest) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(rest)[:9])
            if len(rest) < 9 + length:
                break
            frame.parse_body(memoryview(rest)[9 : 9 + length])
            rest = rest[9 + length :]
            yield frame


def connect(authority, host, port, protocol):
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols([protocol])
    plain = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_SECONDS_MAX)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secure = context.wrap_socket(plain, server_hostname=host)
    assert secure.selected_alpn_protocol() == protocol, secure.selected_alpn_protocol()
    return secure


class Client:
    """One HTTP/2 connection. Nothing is read but in `until`, so a trial decides what has to be there before it goes on."""

    def __init__(self, authority, host, port):
        self.socket = connect(authority, host, port, "h2")
        self.host = f"{host}:{port}"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.streams = {}
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def ask(self, path, method="GET", ends=True):
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = Stream()
        head = [(":method", method), (":scheme", "https"), (":authority", self.host), (":path", path)]
        self.h2.send_headers(number, head, end_stream=ends)
        self.flush()
        return number

    def send(self, number, data, ends=False):
        """Sends as the windows allow, and reads what comes meanwhile."""
        while data:
            self.until(lambda: self.h2.local_flow_control_window(number) > 0 or self.streams[number].ended)
            assert not self.streams[number].ended, "the answer ended before the request"
            size = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(data))
            self.h2.send_data(number, data[:size])
            data = data[size:]
            self.flush()
        if ends:
            self.h2.end_stream(number)
            self.flush()

    def until(self, fact):
        while not fact():
            data = self.socket.recv(65536)
            assert data, "the cloud closed the connection"
            for event in self.h2.receive_data(data):
                self.take(event)
            self.flush()

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        match event:
            case h2.events.ResponseReceived(headers=headers):
                stream.status = int(dict(headers)[":status"])
            case h2.events.DataReceived(data=data, flow_controlled_length=size, stream_id=number):
                stream.body += data
                self.h2.acknowledge_received_data(size, number)
            case h2.events.StreamEnded():
                stream.ended = True
            case h2.events.StreamReset(error_code=code):
                stream.reset, stream.ended = code, True
            case h2.events.ConnectionTerminated():
                raise AssertionError(f"the cloud said GOAWAY: {event}")

    def answer(self, number, status=200):
        stream = self.streams[number]
        self.until(lambda: stream.ended)
        assert (stream.status, stream.reset) == (status, None), (stream.status, stream.reset, bytes(stream.body))
        return bytes(stream.body)


def concurrent(*where):
    """Short requests come and go while a long one streams on the same connection."""
    client = Client(*where)
    long = client.ask("/sse?n=1000&ms=20")
    client.until(lambda: client.streams[long].body)
    short = [client.ask("/") for _ in range(30)]
    for number in short:
        assert client.answer(number) == b"hello from the probe\n"
    assert not client.streams[long].ended
    client.h2.reset_stream(long)
    client.flush()
    # The connection is as good as before.
    assert client.answer(client.ask("/again")) == b"1"


def both_ways(*where):
    """Each piece of the request comes back before the next is sent."""
    client = Client(*where)
    echo = client.ask("/echo", "POST", ends=False)
    whole = b""
    for piece in range(8):
        part = f"piece {piece}\n".encode()
        client.send(echo, part)
        whole += part
        client.until(lambda: bytes(client.streams[echo].body) == whole)
    client.send(echo, b"", ends=True)
    assert client.answer(echo) == whole


def both_ways_http1(authority, host, port, halfway=lambda: None):
    """The same, with HTTP/1.1's chunks."""
    stream = connect(authority, host, port, "http/1.1")
    head = f"POST /echo HTTP/1.1\r\nhost: {host}:{port}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    stream.sendall(head.encode())
    came = b""
    for piece in range(8):
        if piece == 4:
            halfway()
        part = f"piece {piece}\n".encode()
        stream.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        while part not in came:
            data = stream.recv(65536)
            assert data, f"the cloud closed the connection after {came}"
            came += data
    assert came.startswith(b"HTTP/1.1 200 "), came
    stream.sendall(b"0\r\n\r\n")
    while not came.endswith(b"\r\n0\r\n\r\n"):
        data = stream.recv(65536)
        assert data, f"the cloud closed the connection after {came}"
        came += data


def across_a_drain(*where):
    """A request whose body is half sent when the node is told to stop: it is answered to its end."""
    both_ways_http1(*where, halfway=lambda: drained(*where))


def drained(authority, host, port):
    """Says that it is time to stop the node, and waits until new requests are refused."""
    print("halfway", flush=True)
    while True:
        try:
            stream = connect(authority, host, port, "http/1.1")
            stream.sendall(f"GET / HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
            if not stream.recv(65536).startswith(b"HTTP/1.1 200 "):
                return
        except OSError:
            return
        time.sleep(0.02)


def large(*where):
    """Bodies larger than every window, several at once, up and down."""
    client = Client(*where)
    size = 1_500_000
    down = [client.ask(f"/big?bytes={size}") for _ in range(3)]
    sent = bytes(range(256)) * (size // 256)
    up = client.ask("/echo", "POST", ends=False)
    client.send(up, sent, ends=True)
    assert client.answer(up) == sent
    for number in down:
        assert client.answer(number) == b"x" * size


def first_before_last(*where):
    """The first event is here while the guest still has others to make."""
    client = Client(*where)
    events = client.ask("/sse?n=3&ms=700")
    stream = client.streams[events]
    client.until(lambda: b"event 0" in stream.body)
    assert b"event 2" not in stream.body and not stream.ended
    assert client.answer(events).count(b"data: ") == 3


TRIALS = {trial.__name__: trial for trial in (concurrent, both_ways, both_ways_http1, across_a_drain, large, first_before_last)}

if __name__ == "__main__":
    authority, host, port, *names = sys.argv[1:]
    for name in names:
        TRIALS[name](authority, host, int(port))
        print(name, flush=True)
