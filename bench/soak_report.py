"""What a soak says: JSON, and a plot of what the box held."""

import json
from html import escape

# Points of a plot and of the JSON: an hour has 3,600 samples, and nobody sees more.
POINTS_MAX = 720


def thinned(samples):
    step = max(1, -(-len(samples) // POINTS_MAX))
    return samples[::step]


def write(folder, facts, samples, before, after, tally, found, passed):
    folder.mkdir(parents=True, exist_ok=True)
    kept = thinned(samples)
    verdicts = [{"what": what, "well": well, "said": said} for what, well, said in found]
    loads = {name: {"requests": tally.count(name), "errors": tally.failed[name]} for name in tally.names()}
    head = {"passed": passed, **facts, "verdicts": verdicts, "loads": loads, "before": before, "after": after}
    text = json.dumps(head, ensure_ascii=False, indent=1)
    # One sample a line, so that two soaks can be compared line by line.
    lines = ",\n".join("  " + json.dumps(sample) for sample in kept)
    (folder / "soak.json").write_text(f'{text[:-2]},\n "samples": [\n{lines}\n ]\n}}\n')
    (folder / "soak.svg").write_text(plot(facts, kept, found, passed))


WIDTH, LEFT, RIGHT, PANEL, GAP, TOP = 900, 70, 150, 130, 44, 70


def rates(samples, what):
    """What was counted a second, between one sample and the next of ten."""
    points = []
    for number in range(10, len(samples), 10):
        a, b = samples[number - 10], samples[number]
        points.append((b["at"], (b[what] - a[what]) / max(0.1, b["at"] - a["at"])))
    return points


def plot(facts, samples, found, passed):
    def points(what, scale=1.0):
        return [(sample["at"], sample[what] * scale) for sample in samples]

    panels = [
        ("memory, MB", [("RSS", "#c2571a", points("rss", 1e-6)), ("PSS", "#5b7083", points("pss", 1e-6)), ("anonymous", "#2b7a4b", points("anonymous", 1e-6))]),
        ("descriptors and threads", [("descriptors", "#5b7083", points("descriptors")), ("threads", "#c2571a", points("threads"))]),
        ("mappings", [("mappings", "#5b7083", points("mappings"))]),
        ("a second", [("good apps' requests", "#2b7a4b", rates(samples, "requests")), ("CPU, 1 % of a core", "#5b7083", [(at, value * 100) for at, value in rates(samples, "cpu")])]),
    ]
    height = TOP + len(panels) * (PANEL + GAP) + 20
    last = max(1.0, samples[-1]["at"])
    verdict = "passed" if passed else "NOT passed: " + "; ".join(what for what, well, _ in found if not well)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="What the box held during the soak">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="600" fill="#111">Soak of {facts["seconds"] / 60:.0f} min: {escape(verdict)}</text>',
        f'<text x="12" y="44" fill="#555">{escape(facts["firm"])}, {facts["cores"]} cores, {facts["date"]}</text>',
    ]
    for number, (title, lines) in enumerate(panels):
        y = TOP + number * (PANEL + GAP)
        top = max([1.0, *(value for _, _, line in lines for _, value in line)]) * 1.05
        parts.append(f'<text x="{LEFT}" y="{y - 6}" fill="#111" font-weight="600">{escape(title)}</text>')
        for share in (0, 0.5, 1):
            at = y + PANEL * (1 - share)
            parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{top * share:,.0f}</text>')
        for place, (name, color, line) in enumerate(lines):
            drawn = " ".join(f"{LEFT + (WIDTH - LEFT - RIGHT) * x / last:.1f},{y + PANEL * (1 - value / top):.1f}" for x, value in line)
            parts.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="1.3"/>')
            parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{y + 14 + 16 * place}" fill="{color}">{escape(name)}</text>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{y + PANEL + 15}" text-anchor="end" fill="#555">{last / 60:.1f} min</text>')
    return "\n".join([*parts, "</svg>", ""])
