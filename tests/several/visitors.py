#!/usr/bin/env python3
"""Visitors of several web boxes at once, each of whom asks one box again and again over one connection.

    visitors.py --authority PEM --host HOST [--path /] [--each N] [--rate PER-SECOND] [--first N] --more N ADDRESS...

Says `all are answered` when each address has answered so many times. Once one of them fails, the others are asked so many times
more; then it prints for each address how many requests were answered, how many were cut off (they were sent, or the line was
open), how often no line was to be had, and the first failure, as one line of JSON.
"""
import argparse
import http.client
import json
import socket
import ssl
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--authority", required=True)
parser.add_argument("--host", required=True)
parser.add_argument("--path", default="/")
parser.add_argument("--each", type=int, default=4)
parser.add_argument("--rate", type=float, default=0, help="requests a second of all visitors together; 0: as fast as they come")
parser.add_argument("--first", type=int, default=1)
parser.add_argument("--more", type=int, required=True)
parser.add_argument("addresses", nargs="+")
args = parser.parse_args()

tls = ssl.create_default_context(cafile=args.authority)
lock = threading.Lock()
seen = {address: {"answered": 0, "failed": 0, "cut_off": 0, "first": None, "since": 0} for address in args.addresses}
failing = threading.Event()
ended = threading.Event()
between = args.each * len(args.addresses) / args.rate if args.rate else 0


class Line(http.client.HTTPSConnection):
    """A connection to an address, for the host's name."""

    def __init__(self, address):
        super().__init__(args.host, context=tls, timeout=10)
        self.address = address

    def connect(self):
        plain = socket.create_connection((self.address, 443), timeout=self.timeout)
        self.sock = tls.wrap_socket(plain, server_hostname=args.host)


def visit(address):
    line, due = Line(address), time.monotonic()
    while not ended.is_set():
        due += between
        if between and due > time.monotonic():
            time.sleep(due - time.monotonic())
        why, is_open = None, line.sock is not None
        try:
            line.request("GET", args.path)
            got = line.getresponse()
            got.read()
            if got.status != 200:
                why = f"status {got.status}"
        except (OSError, http.client.HTTPException) as error:
            line.close()
            why = repr(error)
        with lock:
            it = seen[address]
            if why is None:
                it["answered"] += 1
                it["since"] += failing.is_set()
            else:
                it["failed"] += 1
                it["cut_off"] += is_open
                it["first"] = it["first"] or why
                failing.set()
            whole = [it for it in seen.values() if not it["failed"]]
            if failing.is_set() and all(it["since"] >= args.more for it in whole):
                ended.set()
        if why:
            # Whoever was refused asks again a moment later, as a browser would.
            ended.wait(0.05)


threads = [threading.Thread(target=visit, args=(address,), daemon=True) for address in args.addresses for _ in range(args.each)]
for thread in threads:
    thread.start()
while not all(it["answered"] >= args.first for it in seen.values()):
    if ended.wait(0.01) or failing.is_set():
        break
else:
    print("all are answered", flush=True)
ended.wait()
for thread in threads:
    thread.join()
print(json.dumps(seen), flush=True)
