"""What a run says: a table on the terminal, and JSON, Markdown and a chart in a folder."""

import json
from html import escape


CPU_UNIT = "µs of CPU a request"


def row(case, peer, ours=None, theirs=None, unit="", bar=None, note="", **more):
    """One line of the results: `ratio` is ours ÷ theirs, and `bar` the largest that is good enough."""
    ratio = round(ours / theirs, 3) if ours is not None and theirs else None
    met = ratio <= bar if ratio is not None and bar is not None else None
    found = {"case": case.id, "title": case.title, "peer": peer, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio, "bar": bar, "met": met}
    return found | more | ({"note": note} if note else {})


def figure(value, digits=None):
    if value is None:
        return "–"
    return f"{value:,.{(1 if abs(value) >= 10 else 2) if digits is None else digits}f}"


def verdict(row):
    return "–" if row["met"] is None else "met" if row["met"] else "not met"


HEAD = ["case", "peer", "ours", "theirs", "unit", "ratio", "bar", "", "ours rps", "theirs rps", "ours p50/p99 µs", "theirs p50/p99 µs"]


def cells(row):
    def times(side):
        values = row.get(f"{side}_p50_us"), row.get(f"{side}_p99_us")
        return "–" if None in values else f"{values[0]:,.0f}/{values[1]:,.0f}"

    return [
        row["title"], row["peer"], figure(row["ours"]), figure(row["theirs"]), row["unit"], figure(row["ratio"], 2), figure(row["bar"], 2), verdict(row),
        figure(row.get("ours_rps"), 0), figure(row.get("theirs_rps"), 0), times("ours"), times("theirs"),
    ]


def table(rows):
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    left = {0, 1, 4, 7}
    text = []
    for line in lines:
        aligned = [cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths))]
        text.append("  ".join(aligned).rstrip())
    text.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(text)


def notes(rows):
    return [f"{row['case']}, {row['peer']}: {row['note']}" for row in rows if row.get("note")]


def write(folder, rows, facts):
    folder.mkdir(parents=True, exist_ok=True)
    shown = [{key: row[key] for key in row if key != "title"} for row in rows]
    (folder / "latest.json").write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in shown) + "\n]\n")
    (folder / "latest.md").write_text(markdown(rows, facts))
    (folder / "latest.svg").write_text(chart(rows))


def markdown(rows, facts):
    def line(cells):
        return "| " + " | ".join(cells) + " |"

    text = ["# Firmament against others, side by side", "", "Written by `bench/run`; how it measures is in [bench/README.md](../README.md).", ""]
    text += [line(["fact", "value"]), line(["---", "---"]), *(line([name, value]) for name, value in facts.items()), ""]
    text += ["![Ours to theirs](latest.svg)", "", "CPU is that of the server's whole process tree.", ""]
    text += [line([head or "bar met?" for head in HEAD]), line(["---", "---", "--:", "--:", "---"] + ["--:"] * (len(HEAD) - 5)), *(line(cells(row)) for row in rows), ""]
    if notes(rows):
        text += [*(f"- {note}" for note in notes(rows)), ""]
    return "\n".join(text)


# ---- the chart ----

WIDTH, LEFT, RIGHT, STEP, TOP = 900, 330, 190, 26, 64


def chart(rows):
    """A bar a row: ours as a share of theirs, with a tick where the bar to reach lies."""
    drawn = [row for row in rows if row["ratio"] is not None]
    # One that is far out must not press all others flat: it is cut, and its number stands beside it.
    longest = min(4.0, max([1.25, *(row["ratio"] * 1.05 for row in drawn), *(row["bar"] or 0 for row in drawn)]))
    height = TOP + STEP * len(drawn) + 40
    scale = (WIDTH - LEFT - RIGHT) / longest
    base = TOP + STEP * len(drawn)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" role="img" '
        'aria-label="Ours divided by theirs">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="12" y="24" font-size="16" font-weight="600" fill="#111">Ours ÷ theirs</text>',
        '<text x="12" y="44" fill="#555">Shorter is better. The black tick is the bar to reach; the grey line is the peer itself.</text>',
    ]
    one = LEFT + scale
    parts.append(f'<line x1="{one:.1f}" y1="{TOP - 6}" x2="{one:.1f}" y2="{base}" stroke="#999" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{one:.1f}" y="{base + 16}" text-anchor="middle" fill="#555">1.0</text>')
    for number, row in enumerate(drawn):
        y = TOP + STEP * number
        color = {True: "#2b7a4b", False: "#c2571a", None: "#5b7083"}[row["met"]]
        width = min(row["ratio"], longest) * scale
        parts.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end" fill="#111">{escape(row["case"])} vs {escape(row["peer"])}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y + 3}" width="{width:.1f}" height="{STEP - 9}" rx="2" fill="{color}"/>')
        if row["bar"] is not None:
            tick = LEFT + row["bar"] * scale
            parts.append(f'<line x1="{tick:.1f}" y1="{y}" x2="{tick:.1f}" y2="{y + STEP - 3}" stroke="#000" stroke-width="2.5"/>')
        text = f'{row["ratio"]:.2f}  ({row["ours"]:,.4g} / {row["theirs"]:,.4g} {escape(row["unit"].split()[0])})'
        parts.append(f'<text x="{LEFT + max(width, (row["bar"] or 0) * scale) + 8:.1f}" y="{y + 15}" fill="#111">{text}</text>')
    legend = [("#2b7a4b", "bar met"), ("#c2571a", "not met"), ("#5b7083", "no bar set")]
    for number, (color, text) in enumerate(legend):
        x = 12 + 90 * number
        parts.append(f'<rect x="{x}" y="{base + 8}" width="10" height="10" fill="{color}"/><text x="{x + 15}" y="{base + 17}" fill="#555">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])
