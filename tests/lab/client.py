#!/usr/bin/env python3
"""What the lab's tests do from inside a box.

    client.py connect ADDRESS SECONDS COUNT    connects to the echo of box.py and gives the slowest round trip in ms
    client.py say WORD                         sends a word to both multicast groups
    client.py end ADDRESS                      ends the box at an address
"""
import socket
import sys
import time

PORT = 7741
GROUP4, GROUP6 = "239.77.0.1", "ff02::4d:1"


def connect(address, seconds, count):
    with socket.create_connection((address, PORT), timeout=float(seconds)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        for number in range(int(count)):
            # More than one segment of TCP's: each must come through whole.
            sent = bytes([number % 256]) * 5000
            begun, got = time.monotonic(), b""
            connection.sendall(sent)
            while len(got) < len(sent):
                more = connection.recv(65536)
                assert more, "the connection was closed"
                got += more
            assert got == sent
            trips.append((time.monotonic() - begun) * 1000)
        print(max(trips))


def say(word):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four:
        # As far as a router would let it.
        four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        four.sendto(word.encode(), (GROUP4, PORT))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.sendto(word.encode(), (GROUP6, PORT, 0, socket.if_nametoindex("eth0")))


def end(address):
    with socket.create_connection((address, PORT), timeout=5) as connection:
        connection.sendall(b"end")
        assert connection.recv(1) == b""


{"connect": connect, "say": say, "end": end}[sys.argv[1]](*sys.argv[2:])
