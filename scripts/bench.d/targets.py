# SPDX-License-Identifier: GPL-2.0
"""What VRemote wants to reach, and whether a run of scripts/bench says that it does.

A target is met if the median is. Of counters, which do not jitter, it is the worst round.
"""

from collections import namedtuple

from samples import ratio, show, summary

# over and under: (measure, system, key); without `under` it is `over` itself. In `plain` targets VRemote is not encrypted; the others are judged
# encrypted, and the same figure of the plain one stands beside.
Target = namedtuple("Target", "row what sense bound over under plain", defaults=(None, False))

V, P = "vremote", "vremote_plain"
TARGETS = [
    Target(1, "sequential read, cold: rate over NFSv4.2", ">=", 1.0, ("cold", V, "rate"), ("cold", "nfs", "rate")),
    Target(1, "… over NFSv4.2 with TLS", ">=", 2.0, ("cold", V, "rate"), ("cold", "nfs_tls", "rate")),
    Target(1, "… plain, over NFSv4.2", ">=", 3.0, ("cold", P, "rate"), ("cold", "nfs", "rate"), True),
    Target(1, "… plain, over iperf3", ">=", 0.8, ("cold", P, "rate"), ("stream", "iperf3", "rate"), True),
    Target(2, "4 KiB random read, cold, p50 over UDP echo with 4 KiB", "<=", 1.15, ("random", V, "p50"), ("echo_page", "echo", "p50")),
    Target(2, "… p50 over NFSv4.2", "<=", 0.5, ("random", V, "p50"), ("random", "nfs", "p50")),
    Target(2, "… p99 over UDP echo with 4 KiB", "<=", 1.5, ("random", V, "p99"), ("echo_page", "echo", "p99")),
    Target(3, "warm read: messages about pages", "count", 0, ("warm", V, "page_messages")),
    Target(3, "… rate over local ext4", ">=", 0.98, ("warm", V, "rate"), ("warm", "local", "rate")),
    Target(3, "… loads through a mapping over local ext4", "within", 1.0, ("map", V, "rate"), ("map", "local", "rate")),
    Target(4, "page written in turns: round trips per transfer", "count", 1, ("pingpong", V, "round_trips")),
    Target(4, "… disk writes of the origin per transfer", "count", 0, ("pingpong", V, "disk_writes_each")),
    Target(4, "… p50 over UDP echo", "<=", 1.25, ("pingpong", V, "p50"), ("echo", "echo", "p50")),
    Target(4, "… NFSv4.2 with locks over it, p50", ">=", 20, ("pingpong_locked", "nfs", "p50"), ("pingpong", V, "p50")),
    Target(5, "write by the origin to a page of 3 others, p50 over UDP echo", "<=", 1.3, ("upgrade_origin_3", V, "p50"), ("sharers_echo", "echo", "p50")),
    Target(5, "… of 7 others", "<=", 2.0, ("upgrade_origin_7", V, "p50"), ("sharers_echo", "echo", "p50")),
    Target(5, "write by a remote to a page of 3 others, p50 over UDP echo", "<=", 1.3, ("upgrade_remote_3", V, "p50"), ("sharers_echo", "echo", "p50")),
    Target(5, "… of 7 others", "<=", 2.0, ("upgrade_remote_7", V, "p50"), ("sharers_echo", "echo", "p50")),
    Target(6, "write of a new file + fsync: time over NFSv4.2", "<=", 0.8, ("write", V, "seconds"), ("write", "nfs", "seconds")),
    Target(6, "… over an old file", "<=", 0.8, ("overwrite", V, "seconds"), ("overwrite", "nfs", "seconds")),
    Target(7, "1 % lost, 1 % twice, 5 % out of order: rate over lossless", ">=", 0.7, ("rough_read", V, "rate"), ("clean_read", V, "rate")),
    Target(7, "… 4 KiB random read, p99.9 over UDP echo with 4 KiB, lossless", "<=", 4.0, ("rough_random", V, "p999"), ("clean_echo", "echo", "p50")),
    Target(8, "node with a modified page stands still: wait of the origin, s", "<=", 11, ("lease", V, "seconds")),
    Target(11, "1 % random 4 KiB: bytes received over bytes read", "<=", 1.10, ("random", V, "wire")),
    Target(11, "sequential read: bytes received over bytes read", "<=", 1.03, ("cold", V, "wire")),
    *[Target(13, f"processor time per GB, {what}: plain over NFSv4.2", "<=", 0.8, (measure, P, "cpu_per_gb"), (measure, "nfs", "cpu_per_gb"), True)
      for measure, what in (("cold", "cold read"), ("write", "new file"), ("overwrite", "old file"))],
    *[Target(13, f"processor time per GB, {what}: encrypted over NFSv4.2 with TLS", "<=", 0.8, (measure, V, "cpu_per_gb"), (measure, "nfs_tls", "cpu_per_gb"))
      for measure, what in (("cold", "cold read"), ("write", "new file"), ("overwrite", "old file"))],
]

# What else was promised, and where it is shown.
ELSEWHERE = {
    6: "that nothing is lost that was acknowledged: tests 51-power and 96-crash",
    8: "that nothing old is read: test 62-lease",
    9: "migration: make bench-moves",
    10: "migration: make bench-moves",
    12: "forks: make bench-moves",
}

SIGNS = {">=": "≥ ", "<=": "≤ ", "count": "", "within": ""}


def measured(samples, target, over, under):
    values = samples.values(*over)
    if target.sense == "count":
        return max(values.values()) if values else None
    return ratio(values, samples.values(*under)) if under else summary(values.values())


def is_met(target, result):
    match target.sense:
        case ">=":
            return result["median"] >= target.bound
        case "<=":
            return result["median"] <= target.bound
        case "within":  # nothing that these rounds could tell from it
            return result.get("interval_95", [result["median"]])[-1] >= target.bound
        case "count":  # a page's first way is another; a journal has its own times
            return abs(result - target.bound) <= 0.02


def judge(samples, target):
    """One target as it stands in results.json."""
    result = measured(samples, target, target.over, target.under)
    entry = {"row": target.row, "what": target.what, "bound": f"{SIGNS[target.sense]}{target.bound:g}"}
    if result is None:
        used = [side[:2] for side in (target.over, target.under) if side]
        return entry | {"verdict": f"not measured: {samples.why_missing(*used)}"}
    entry |= {"value": result, "verdict": "met" if is_met(target, result) else "missed"}
    if not target.plain:
        beside = [side and (side[0], P if side[1] == V else side[1], side[2]) for side in (target.over, target.under)]
        plain = measured(samples, target, *beside)
        if plain is not None:
            entry["value_plain"] = plain
    return entry


def judge_all(samples):
    return [judge(samples, target) for target in TARGETS]


def show_value(value):
    if isinstance(value, dict):
        return show(value)
    return "-" if value is None else f"{value:.3g}"
