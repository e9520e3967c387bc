#!/usr/bin/env python3
"""Keeps one box under mixed load, with hostile tenants among the others, and looks for what grows. See
docs/performance.md.

bench/soak.py             an hour, or what FIRM_SOAK says: 5m, 90s, 2h
bench/soak.py --firm PATH measures a binary that is there already

It passes when memory is flat after the warm-up, descriptors, threads and mappings return to what they were, and
nobody but the hostile apps saw an error. Writes bench/results/soak.json and soak.svg.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import soak_loads as loads
import soak_report as report
from build import binary_of
from servers import BENCH, ROOT, Firm, Server, Unavailable

# What isn't looked at: caches fill, databases open, and the allocator and the pool of instances find their size with the
# worst that each attack does. So it is a share of the time, or two rounds of all attacks where that is more.
WARM_UP, WARM_UP_ROUNDS, WARM_UP_MAX = 0.3, 2, 0.6
# What memory may grow by, by the line that fits it best, over all of the time after the warm-up: as a share, or in bytes
# where that is more. The allocator keeps what it had at its worst, in an arena a thread, and an attack lands on one core
# and then on another: a soak of few rounds sees the steps, not yet the level. It finds leaks that are fast; the hour
# finds the others.
GROWTH_MAX, GROWTH_BYTES_MAX, GROWTH_BYTES_SHORT_MAX, SHORT_ROUNDS = 0.10, 24 << 20, 160 << 20, 10
# Each new component stays mapped, with its first contents: two descriptors and four mappings (crates/base/src/limits.rs,
# PROGRAMS_LOADED_MAX).
DESCRIPTORS_A_PROGRAM, MAPPINGS_A_PROGRAM = 2, 4
# Of its file as many pages as run: 260 KB were seen. They are the kernel's to take back, and no memory of the box's own.
MAPPED_BYTES_A_PROGRAM = 320 << 10
# What may come and go at any moment: a log that is turned over, a database's checkpoint, a helper thread.
DESCRIPTORS_SLACK, THREADS_SLACK = 16, 8
# A place in the pool of instances that was used once stays mapped: memory, tables and stack, each between two guards.
# About 200 instances live at once here, at the most.
MAPPINGS_SLACK = 200 * 6
# Connections that nobody uses are closed after IDLE_TIME_MAX, 75 s, and attacks run into limits of 30 s.
COOL_DOWN_SECONDS_MAX = 150


def duration(text):
    found = re.fullmatch(r"(\d+)(s|m|h)", text)
    if not found:
        sys.exit(f"error: FIRM_SOAK is `{text}`\n  help: write it as in 90s, 5m or 1h")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


class Sampler(threading.Thread):
    """What the box holds, each second."""

    def __init__(self, firm, tally):
        super().__init__(daemon=True)
        self.firm, self.tally = firm, tally
        self.samples, self.over = [], threading.Event()
        self.begun = time.monotonic()

    def run(self):
        while not self.over.wait(max(0.0, self.begun + len(self.samples) + 1 - time.monotonic())):
            self.samples.append(self.look())

    def look(self):
        proc = Path(f"/proc/{self.firm.pid}")
        sizes = dict(re.findall(r"^(Rss|Pss|Anonymous|Shared_Clean):\s+(\d+)", (proc / "smaps_rollup").read_text(), re.M))
        threads = int(re.search(r"^Threads:\s+(\d+)", (proc / "status").read_text(), re.M)[1])
        with (proc / "maps").open("rb") as maps:
            mappings = sum(1 for _ in maps)
        return {
            "at": round(time.monotonic() - self.begun, 1),
            "rss": int(sizes["Rss"]) * 1024, "pss": int(sizes["Pss"]) * 1024, "anonymous": int(sizes["Anonymous"]) * 1024,
            "descriptors": len(os.listdir(proc / "fd")), "threads": threads, "mappings": mappings,
            "cpu": round(self.firm.cpu_seconds(), 2),
            "requests": self.tally.requests(), "errors": self.tally.errors(),
        }


def slope(points):
    """Of the line that fits best, by least squares."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def warm_up(seconds):
    """How long nothing is judged."""
    return min(max(WARM_UP * seconds, WARM_UP_ROUNDS * loads.round_seconds(seconds)), WARM_UP_MAX * seconds)


def growth(samples, what):
    """(bytes or things that the fitted line rises by after the warm-up, its mean there)."""
    begin = warm_up(samples[-1]["at"])
    after = [(sample["at"], sample[what]) for sample in samples if sample["at"] >= begin]
    rise = slope(after) * (after[-1][0] - after[0][0])
    return rise, sum(value for _, value in after) / len(after)


def verdicts(samples, before, after, programs, tally, firm):
    """(what was looked at, was it well, in words)."""
    found = []
    for what in ("rss", "anonymous"):
        rise, mean = growth(samples, what)
        short = samples[-1]["at"] < SHORT_ROUNDS * loads.round_seconds(samples[-1]["at"])
        mapped = MAPPED_BYTES_A_PROGRAM * programs if what == "rss" else 0
        well = rise <= max(GROWTH_MAX * mean, GROWTH_BYTES_SHORT_MAX if short else GROWTH_BYTES_MAX) + mapped
        found.append((f"{what} is flat", well, f"{rise / 1e6:+.1f} MB after the warm-up, of {mean / 1e6:.1f} MB on average"))
    bounds = {
        "descriptors": DESCRIPTORS_A_PROGRAM * programs + DESCRIPTORS_SLACK,
        "threads": THREADS_SLACK,
        "mappings": MAPPINGS_A_PROGRAM * programs + MAPPINGS_SLACK,
    }
    for what, more in bounds.items():
        well = after[what] <= before[what] + more
        found.append((f"{what} return", well, f"{before[what]} before, {after[what]} after; {more} more are well, {programs} components came meanwhile"))
    errors = tally.errors()
    found.append(("no error but the hostile apps'", errors == 0, f"{errors} of {tally.requests():,} requests" + "".join(f"; {line}" for line in tally.first_errors())))
    quiet = [load for load in tally.names() if tally.count(load) == 0]
    found.append(("every load was served", not quiet, f"{len(tally.names())} loads" + (f"; none of {', '.join(quiet)}" if quiet else "")))
    said = firm.said.read_text(errors="replace")
    panics = [line for line in said.splitlines() if "panicked" in line]
    found.append(("nothing panicked", not panics, panics[0][:200] if panics else "the box's own log has no panic"))
    return found


def cool_down(sampler, before):
    """Waits until what the loads left behind is gone, or the time is up: then the verdict says what stayed."""
    deadline = time.monotonic() + COOL_DOWN_SECONDS_MAX
    while time.monotonic() < deadline:
        look = sampler.look()
        if look["descriptors"] <= before["descriptors"] + 4 and look["threads"] <= before["threads"]:
            return
        time.sleep(1)


def soak(firm, folder, seconds, hostile):
    tally = loads.Tally()
    world = loads.World(firm, folder, tally, hostile, seconds)
    world.lay()
    firm.settle()
    sampler = Sampler(firm, tally)
    # Everything was asked for once: databases are open, components mapped, logs begun.
    before = sampler.look()
    say(f"before: RSS {before['rss'] / 1e6:.0f} MB, {before['descriptors']} descriptors, {before['threads']} threads, {before['mappings']} mappings")
    sampler.begun = time.monotonic()
    sampler.start()
    world.start()
    try:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(30, left))
            if firm.process.poll() is not None:
                raise Unavailable(f"the box ended: {firm.last_words()}")
            last = sampler.samples[-1]
            say(f"{last['at']:6.0f} s  RSS {last['rss'] / 1e6:6.1f} MB  {last['descriptors']:5} descriptors  {last['threads']:3} threads  "
                f"{last['mappings']:5} mappings  {last['requests']:9,} requests  {last['errors']} errors  hostile: {world.hostile_now}")
    finally:
        world.stop()
        sampler.over.set()
    sampler.join()
    cool_down(sampler, before)
    after = sampler.look()
    found = verdicts(sampler.samples, before, after, world.programs, tally, firm)
    firm.stop()
    begun = firm.start()
    found.append(("it starts again with all its data", world.all_there(), f"{begun:.2f} s"))
    return sampler.samples, before, after, tally, found


def say(text):
    print(text, file=sys.stderr, flush=True)


def facts(firm, seconds):
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "firm": f"{subprocess.run([firm.binary, '--version'], capture_output=True, text=True, check=False).stdout.strip()}, {revision}",
        "cores": os.cpu_count(), "seconds": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--firm", type=Path, help="the firm binary; built from this tree unless given")
    parser.add_argument("--out", type=Path, default=BENCH / "results", help="folder for soak.json and soak.svg")
    parser.add_argument("--no-hostile", action="store_true", help="without hostile tenants, to tell their part")
    args = parser.parse_args()
    seconds = duration(os.environ.get("FIRM_SOAK") or "1h")
    if not shutil.which("wrk"):
        sys.exit("error: wrk is missing\n  help: bench/install load")
    # Both end as an exception does: by way of the `finally` that stops the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    binary = args.firm or binary_of()
    with tempfile.TemporaryDirectory(prefix="firm-soak-") as folder:
        folder = Path(folder)
        try:
            firm = Firm(binary.resolve(), folder / "firm", pinned=False)
            samples, before, after, tally, found = soak(firm, folder, seconds, not args.no_hostile)
            known = facts(firm, seconds)
        except Unavailable as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            Server.stop_all()
    passed = all(well for _, well, _ in found)
    for what, well, words in found:
        print(f"{'well' if well else 'NOT WELL':8}  {what}: {words}")
    report.write(args.out, known, samples, before, after, tally, found, passed)
    print(f"written to {args.out}/soak.json and soak.svg")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
