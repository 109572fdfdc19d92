# SPDX-License-Identifier: GPL-2.0
"""Bars with 95 % intervals: one SVG for each group of measures of scripts/bench."""

from html import escape

from samples import SYSTEMS, digits, summary

WIDTH, LABEL, VALUE, TOP, BAR, GAP = 900, 190, 230, 34, 22, 30
COLOURS = {"local": "#bbbbbb", "nfs": "#ee6677", "nfs_tls": "#aa3377", "vremote": "#4477aa", "vremote_plain": "#66ccee", None: "#ccbb44"}
FILES = ("nfs", "nfs_tls", "vremote", "vremote_plain")
ALL = ("local", *FILES)
STREAM = ("iperf3, TCP", "stream", "iperf3", "rate")
ECHO, ECHO_PAGE = ("UDP echo", "echo", "echo", "p50"), ("UDP echo, 4 KiB", "echo_page", "echo", "p50")


def each(measure, key, systems=ALL, suffix=""):
    return [(SYSTEMS[system] + suffix, measure, system, key) for system in systems]


def sharers(who):
    return [("UDP echo", "sharers_echo", "echo", "p50"), *[(f"{k} have it, too", f"upgrade_{who}_{k}", "vremote", "p50") for k in (1, 3, 7)]]


# file: title of the panel, unit, bars: (label, measure, system, key)
GROUPS = {
    "throughput": [
        ("sequential read, client cold, origin warm", "MB/s", [STREAM, *each("cold", "rate", FILES)]),
        ("write of a new file + fsync", "MB/s", [STREAM, *each("write", "rate")]),
        ("write over an old file + fsync", "MB/s", [STREAM, *each("overwrite", "rate")])],
    "warm": [
        ("sequential read, warm", "MB/s", each("warm", "rate")),
        ("loads through a mapping, warm", "MB/s", each("map", "rate")),
        ("loads through a mapping, first touch of cached pages", "MB/s", each("map", "first_rate"))],
    "latency": [
        ("4 KiB random read, cold, p50", "us", [ECHO_PAGE, *each("random", "p50", FILES)]),
        ("4 KiB random read, cold, p99", "us", [("UDP echo, 4 KiB", "echo_page", "echo", "p99"), *each("random", "p99", FILES)])],
    "pingpong": [
        ("a page written by two nodes in turns, per transfer, p50", "us",
         [ECHO, *each("pingpong", "p50", FILES), *each("pingpong_locked", "p50", FILES, ", locks")])],
    "faults": [
        (f"sequential read, cold, {how}", "MB/s", each(measure, "rate", FILES))
        for how, measure in (("lossless", "clean_read"), ("1 % lost, 1 % twice, 5 % out of order", "rough_read"))] + [
        (f"4 KiB random read, cold, p99.9, {how}", "us", each(measure, "p999", FILES))
        for how, measure in (("lossless", "clean_random"), ("1 % lost, 1 % twice, 5 % out of order", "rough_random"))],
    "wire": [
        ("bytes received for each byte of 1 % random 4 KiB", "", each("random", "wire", FILES)),
        ("bytes received for each byte of a sequential read", "", each("cold", "wire", FILES))],
    "cpu": [
        (f"host processor time, {what}", "s/GB", each(measure, "cpu_per_gb", FILES))
        for what, measure in (("sequential read, cold", "cold"), ("write of a new file", "write"), ("write over an old file", "overwrite"))],
    "sharers": [
        ("write by the origin to a page of others, p50", "us", sharers("origin")),
        ("write by a remote to a page of others, p50", "us", sharers("remote"))],
}


def panel(parts, top, title, unit, bars):
    """Draws it; the height below it."""
    most = max(entry["median"] for _, _, entry in bars)
    # Of two or three rounds an interval can reach very far.
    most = min(1.6 * most, max(most, *(entry.get("interval_95", [0])[-1] for _, _, entry in bars)))
    scale = (WIDTH - LABEL - VALUE) / most
    parts.append(f'<text x="12" y="{top - 10}" font-weight="bold">{escape(title)}{f", {unit}" if unit else ""}</text>')
    for number, (label, system, entry) in enumerate(bars):
        y = top + number * BAR
        middle = y + BAR / 2
        parts.append(f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y + 3}" width="{max(entry["median"] * scale, 1):.1f}" height="{BAR - 6}" '
                     f'fill="{COLOURS.get(system, COLOURS[None])}"/>')
        text, end = digits(entry["median"]), entry["median"] * scale
        if "interval_95" in entry:
            low, high = entry["interval_95"]
            left, right = LABEL + low * scale, LABEL + min(high, most) * scale
            tick = f"M{right:.1f} {middle - 4}v8" if high <= most else ""
            parts.append(f'<path d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 4}v8{tick}" stroke="#222" stroke-width="1.3" fill="none"/>')
            text += f" [{digits(low)}, {digits(high)}]"
            end = max(end, right - LABEL)
        parts.append(f'<text x="{LABEL + end + 8:.1f}" y="{middle + 4}" fill="#444">{text}</text>')
    return top + len(bars) * BAR


def draw(samples):
    """{file name: SVG} of all groups that have something to show."""
    note = f"bars: medians of {samples.rounds()} rounds; whiskers: 95 % intervals"
    pictures = {}
    for name, panels in GROUPS.items():
        parts, height = [], 0
        for title, unit, bars in panels:
            known = [(label, system, summary(samples.values(measure, system, key).values())) for label, measure, system, key in bars]
            known = [bar for bar in known if bar[2] and bar[2]["median"] > 0]
            if any(system in SYSTEMS for _, system, _ in known):
                height = panel(parts, height + TOP, title, unit, known)
        if parts:
            height += GAP
            parts.append(f'<text x="12" y="{height - 8}" font-size="11" fill="#666">{escape(note)}</text>')
            pictures[f"{name}.svg"] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13">\n'
                '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")
    return pictures
