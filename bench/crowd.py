"""10,000 deployed apps that nobody visits: what they cost in memory, at a start, and the one that somebody visits."""

import json
import os
import sys
import time
from pathlib import Path

import report
from api import Api
from servers import Firm, Unavailable

APPS, FEW = 10_000, 10
MEMORY_GB_MAX = 1.5
LOOK_UP_BAR = 1.1


def say(text):
    print(f"  idle           {text}", file=sys.stderr, flush=True)


def template(ground, firm):
    """One app of a static site and a component, and the release that it ended in: its manifest and its index."""
    project = ground.folder / "crowd"
    if not project.exists():
        (project / "public").mkdir(parents=True)
        (project / "public/index.html").write_text("<!doctype html><title>bench</title>")
        (project / "public/hello.txt").write_bytes(b"Hello, world!")
        (project / "app.wasm").write_bytes(ground.guest("hello").read_bytes())
        (project / "firm.toml").write_text(
            '[components.app]\nsource = "app.wasm"\n\n[static.site]\ndir = "public"\n\n'
            '[[route]]\npath = "/"\nstatic = "site"\n\n[[route]]\npath = "/code"\ncomponent = "app"\n')
    firm.push(project, "template")
    routes = [{"path": "/", "static": "site"}, {"path": "/code", "component": "app"}]
    manifest = {"components": {"app": {"source": "app.wasm"}}, "static": {"site": {"dir": "public"}}, "route": routes}
    return manifest, index_of(firm)


def index_of(firm):
    """The release's index, which is a chunk like others: the one that is JSON."""
    for path in sorted(Path(firm.data, "chunks").rglob("*")):
        if path.is_file() and path.stat().st_size < 10_000:
            text = path.read_bytes()
            if text.startswith(b"{") and b'"statics"' in text:
                return json.loads(text)
    raise Unavailable("the template's index isn't among its chunks")


def deploy(api, manifest, index, count):
    """`count` apps, each with an index of its own: a file has another name in each. Gives the seconds that it took."""
    site, files = next(iter(index["statics"].items()))

    def push(number):
        own = files | {f"number-{number}.txt": files["hello.txt"]}
        body = {"manifest": manifest, "index": index | {"statics": {site: own}}}
        return "POST", f"/tenants/main/apps/app-{number}/releases", body

    begun = time.monotonic()
    api.each(push(number) for number in range(count))
    return time.monotonic() - begun


def memory(firm):
    """(RSS, PSS) of the process tree in GB."""
    rss = pss = 0
    for pid in firm.tree():
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Rss:", "Pss:")):
                    size = int(line.split()[1]) * 1024
                    rss, pss = (rss + size, pss) if line.startswith("Rss:") else (rss, pss + size)
        except OSError:
            continue  # it has ended meanwhile
    return rss / 1e9, pss / 1e9


def idle(run, ground, case):
    """Two boxes side by side, one with few apps and one with many, asked by turns."""
    # For trying out: the bars are for 10,000.
    many_apps = int(os.environ.get("BENCH_APPS") or APPS)
    few, many = (Firm(ground.firm.binary, ground.folder / name) for name in ("few", "many"))
    try:
        taken = {}
        for firm, count in ((few, FEW), (many, many_apps)):
            taken[count] = deploy(Api(firm), *template(ground, firm), count)
        say(f"{many_apps} apps were pushed in {taken[many_apps]:.0f} s")
        pushed_rss, _ = memory(many)
        many.stop()
        started = many.start()
        rss, pss = memory(many)
        say(f"start with them {started:.2f} s, RSS {rss:.3f} GB, PSS {pss:.3f} GB; RSS {pushed_rss:.3f} GB after the pushes")
        # The first sweep reads every release's index.
        many.settle()
        failed, sides = {}, {"ours": (many, many.target(f"app-{many_apps // 2}", "/hello.txt")), "few": (few, few.target(f"app-{FEW // 2}", "/hello.txt"))}
        for server, target in sides.values():
            run.answer(server, target)
        samples = run.alternate(case.id, sides, failed, ground.folder)
        if failed:
            raise Unavailable("; ".join(failed.values()))
    finally:
        few.stop()
        many.stop()
    at_many, at_few = (sorted(sample.cpu_us for sample in samples[name])[len(samples[name]) // 2] for name in ("ours", "few"))
    pushed = f"pushed over the API in {taken[many_apps]:.0f} s, 16 at once"
    memory_note = f"the larger of the RSS after a start and after the pushes: {rss:.3f} and {pushed_rss:.3f} GB; {pss:.3f} GB of PSS after the start; {pushed}"
    return [
        report.row(case, "the bar itself: memory", round(max(rss, pushed_rss), 3), MEMORY_GB_MAX, "GB", 1.0, memory_note),
        report.row(case, f"{FEW} apps: static hello", round(at_many, 2), round(at_few, 2), report.CPU_UNIT, LOOK_UP_BAR, "ours with 10,000 apps, theirs is ours with 10"),
        report.row(case, "start", round(started, 2), None, "s", None, "from exec to the first answer of the API, with 10,000 apps"),
    ]
