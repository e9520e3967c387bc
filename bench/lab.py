"""A lab of boxes as the bench drives it: its own folder, operator and contexts, ended by itself."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

# What a fact may take to become true before the bench gives up.
FACT_SECONDS_MAX = 60


class Failed(Exception):
    """A command that wasn't done."""


class Lab:
    """So many blank boxes with the operator's seal, on one segment or two."""

    def __init__(self, firm, boxes, segments=2):
        self.firm_binary = str(firm)
        self.folder = tempfile.TemporaryDirectory(prefix="firm-bench-lab-")
        root = Path(self.folder.name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FIRM_") or name == "FIRM_CACHE"}
        self.env = kept | {"FIRM_LAB_DIR": str(root / "lab"), "XDG_CONFIG_HOME": str(root / "config"), "XDG_DATA_HOME": str(root / "share"), "NO_COLOR": "1"}
        self.root, self.authority = root, root / "authority.pem"
        self.firm("operator", "seal", "--out", str(root / "seal.json"))
        self.json("lab", "up", "--boxes", str(boxes), "--segments", str(segments), "--seal", str(root / "seal.json"), "--detach")
        self.look()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([self.firm_binary, "lab", "down"], env=self.env, capture_output=True, check=False)
        self.folder.cleanup()

    def run(self, *args):
        return subprocess.run([self.firm_binary, *args], env=self.env, cwd=self.root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    def firm(self, *args):
        ran = self.run(*args)
        if ran.returncode != 0:
            raise Failed(f"firm {' '.join(args)}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def json(self, *args):
        return json.loads(self.firm(*args, "--json"))

    def look(self):
        self.boxes = self.json("lab", "status")["boxes"]

    def apply(self, cloud, counts):
        """Has the boxes become a cloud, so many of each role, by one command. Boxes of segment b are met at their addresses."""
        seeds = [it["v4"] for it in self.boxes if it["segment"] == "b"]
        groups = "".join(f'\n[[boxes]]\nroles = "{roles}"\ncount = {count}\n' for roles, count in counts.items())
        file = self.root / "cloud.toml"
        file.write_text(f'cloud = "{cloud}"\ndomain = "localhost"\nseeds = {json.dumps(seeds)}\n{groups}')
        self.json("apply", str(file))
        context = tomllib.loads((self.root / "config/firm/contexts.toml").read_text())["contexts"][cloud]
        self.token = context["token"]
        self.authority.write_text(context["authority"])
        roles = {it["id"]: it["roles"] for it in self.view(0)["boxes"]}
        self.of_role = {role: [number for number, it in enumerate(self.boxes) if role in roles[it["id"]]] for role in counts}

    def kill(self, box):
        self.json("lab", "kill", self.boxes[box]["box"])

    def start(self, box):
        self.json("lab", "start", self.boxes[box]["box"])

    def page(self, app, says):
        """Pushes a page that says so; whether it was done."""
        folder = self.root / "site"
        folder.mkdir(exist_ok=True)
        (folder / "index.html").write_text(says)
        return self.run("push", str(folder), "--app", app).returncode == 0

    def line(self, box, host):
        return Line(self.boxes[box]["v4"], host, self.authority)

    def view(self, box):
        """How the cloud is, as a box says. None while it doesn't."""
        try:
            status, body = self.line(box, "api.localhost").get("/v1/boxes", {"authorization": f"Bearer {self.token}"})
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if status == 200 else None

    def leader(self, box):
        view = self.view(box)
        names = [it["id"] for it in self.boxes]
        return names.index(view["leader"]) if view and view.get("leader") in names else None

    def is_one(self, box, boxes):
        """Do all of these live and hold as much of the record as whoever leads, by the word of one?"""
        view = self.view(box)
        if not view or not view.get("leader"):
            return False
        vitals = {it["id"]: it.get("vitals") for it in view["boxes"]}
        held = [vitals.get(self.boxes[it]["id"]) for it in boxes]
        return all(it and it["heard_ms_ago"] < 2_000 for it in held) and len({it["record_index"] for it in held}) == 1


class Line(http.client.HTTPSConnection):
    """A connection to a box, for a host's name."""

    def __init__(self, address, host, authority):
        self.tls = ssl.create_default_context(cafile=authority)
        super().__init__(host, context=self.tls, timeout=10)
        self.address = address

    def connect(self):
        plain = socket.create_connection((self.address, 443), timeout=self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.host)

    def get(self, path="/", headers=None):
        self.request("GET", path, headers=headers or {})
        got = self.getresponse()
        return got.status, got.read()

    def says(self, text):
        """Is the page at `/` this?"""
        try:
            return self.get() == (200, text.encode())
        except (OSError, http.client.HTTPException):
            self.close()
            return False


def until(what, fact, pause=0.002):
    """Waits until it is so, and says how many seconds that took."""
    began = time.monotonic()
    while not fact():
        if time.monotonic() - began > FACT_SECONDS_MAX:
            sys.exit(f"error: it took more than {FACT_SECONDS_MAX} s until {what}")
        time.sleep(pause)
    return time.monotonic() - began
