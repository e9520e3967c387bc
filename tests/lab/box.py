#!/usr/bin/env python3
"""Stands in for `firm box` where only the lab around it is tested.

Called as `box.py box --dir DIR …`. Makes itself a key at its first start, echoes on TCP port 7741, and writes down in
DIR/heard what comes to it by multicast. SIGTERM ends it; what it is sent on that port with `end` ends it with code 3.
"""
import base64
import os
import signal
import socket
import struct
import sys
import threading

PORT = 7741
GROUP4, GROUP6 = "239.77.0.1", "ff02::4d:1"

disk = sys.argv[sys.argv.index("--dir") + 1]


def identity():
    path = os.path.join(disk, "box", "id")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "w") as file:
            file.write(base64.b32encode(os.urandom(32)).decode().lower().rstrip("=") + "\n")
        os.rename(path + ".new", path)


def echo(connection):
    with connection:
        while data := connection.recv(65536):
            if data == b"end":
                print("told to end", file=sys.stderr, flush=True)
                os._exit(3)
            connection.sendall(data)


def hear(receiver):
    while True:
        data, sender = receiver.recvfrom(2048)
        with open(os.path.join(disk, "heard"), "a") as file:
            file.write(f"{data.decode()} from {sender[0].split('%')[0]}\n")


def receivers():
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    four.bind((GROUP4, PORT))
    index = socket.if_nametoindex("eth0")
    four.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton(GROUP4), bytes(4), index)
    )
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind((GROUP6, PORT, 0, index))
    six.setsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("i", index)
    )
    return four, six


def end(*_):
    with open(os.path.join(disk, "ended"), "w") as file:
        file.write("in order\n")
    os._exit(0)


signal.signal(signal.SIGTERM, end)
identity()
for one in receivers():
    threading.Thread(target=hear, args=(one,), daemon=True).start()
listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
print("called with", *sys.argv[1:], file=sys.stderr, flush=True)
print("G'day", flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=echo, args=(accepted,), daemon=True).start()
