"""Hears what boxes say on a segment, beside one of them: for each name on standard input, when it was first heard."""

import socket
import struct
import sys
import threading
import time

GROUP, PORT = "224.0.0.251", 5353

ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
ear.bind(("", PORT))
ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4sii", socket.inet_aton(GROUP), 0, socket.if_nametoindex("eth0")))
packets, more = [], threading.Condition()


def listen():
    while True:
        packet = ear.recv(65536)
        # Answers alone: who asks for a name hasn't been heard.
        if packet[2] & 0x80:
            with more:
                packets.append((time.monotonic(), packet))
                more.notify()


threading.Thread(target=listen, daemon=True).start()
print("listening", flush=True)
for name in sys.stdin:
    name, at = name.strip().encode(), 0
    with more:
        while True:
            found = next((when for when, packet in packets[at:] if name in packet), None)
            if found is not None:
                break
            at = len(packets)
            more.wait()
    print(found, flush=True)
