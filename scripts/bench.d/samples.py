# SPDX-License-Identifier: GPL-2.0
"""The samples of scripts/bench, what follows from each, and what they say together."""

import math
import statistics

# 97.5 % points of Student's t by degrees of freedom.
T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
     2.093, 2.086]

SYSTEMS = {"local": "ext4, local", "nfs": "NFSv4.2", "nfs_tls": "NFSv4.2, TLS", "vremote": "VRemote", "vremote_plain": "VRemote, plain"}

# Of the messages about pages, those that are requests: each is one round trip with its answer.
ROUND_TRIPS = ("GetShared", "GetModified", "Recall", "Invalidate")
PAGE_MESSAGES = (*ROUND_TRIPS, "Grant", "Ack", "Put")


def derive(sample):
    """What follows from one line of samples.tsv."""
    size, seconds = sample.get("bytes"), sample.get("seconds")
    # Those of others than VRemote are not counted.
    ours = sample["system"].startswith("vremote")
    messages = {key: value for key, value in sample.items() if ours and key.startswith("msg.")}
    if ours and "retransmits" in sample:
        sample["messages"] = sum(messages.values())
        sample["page_messages"] = sum(messages.get(f"msg.{kind}", 0) for kind in PAGE_MESSAGES)
    if size and seconds:
        sample["rate"] = size / seconds / 1e6
    if sample.get("first_bytes") and sample.get("first_seconds"):
        sample["first_rate"] = sample["first_bytes"] / sample["first_seconds"] / 1e6
    if size and "rx_bytes" in sample and sample["system"] != "local":
        sample["wire"] = sample["rx_bytes"] / size
    transfers = sample.get("transfers")
    if transfers:
        sample["round_trips"] = sum(messages.get(f"msg.{kind}", 0) for kind in ROUND_TRIPS) / transfers
        sample["messages_each"] = sum(messages.values()) / transfers
        # Whose turn it is is said in one packet there and one back for two transfers.
        sample["packets_each"] = (sample["rx_packets"] + sample["tx_packets"]) / transfers - 1
        sample["disk_writes_each"] = sample["origin_writes"] / transfers
    if sample.get("times"):
        sample["invalidations_each"] = sample.get("msg.Invalidate", 0) / sample["times"]


def objection(sample):
    """Why a sample is not of what it is meant to be of, or None."""
    measure, system = sample["measure"], sample["system"]
    if system == "local":
        return None
    if measure == "lease" and sample["seconds"] < 2:
        return f"waited for {sample['seconds']:.3f} s: nobody held the page"
    if measure in ("cold", "random", "clean_read", "rough_read", "clean_random", "rough_random"):
        if sample["wire"] < 0.95:
            return f"only {sample['wire']:.2f} of its bytes came over the network: it was not cold"
        if sample["origin_reads"] > 10:
            return f"the origin read its disk {sample['origin_reads']:.0f} times: it was not warm"
    if measure in ("warm", "map") and sample["rx_bytes"] > 1e6:
        return f"{sample['rx_bytes']:.0f} bytes came over the network: it was not warm"
    return None


class Samples:
    def __init__(self):
        self.all, self.missing = [], []  # missing: (system, measure or "all", why)

    def read(self, directory):
        """Adds the samples of a run, and what it did not measure."""
        with open(f"{directory}/samples.tsv") as file:
            for line in file:
                turn, measure, system, pairs = line.rstrip("\n").split("\t")
                sample = {"round": int(turn), "measure": measure, "system": system}
                sample.update((key, float(value)) for key, value in (pair.split("=") for pair in pairs.split()))
                derive(sample)
                why = objection(sample)
                if why:
                    self.missing.append((system, measure, f"round {turn}: {why}"))
                else:
                    self.all.append(sample)
        with open(f"{directory}/missing.tsv") as file:
            self.missing += [tuple(line.rstrip("\n").split("\t")) for line in file]
        # What it costs to start a program and to count is in every sample; to drop the caches before, in those of cold ones.
        idle = {cold: self.values(measure, "host", "cpu") for cold, measure in ((False, "nothing"), (True, "nothing_cold"))}
        for sample in self.all:
            before = idle["cold" in sample].get(sample["round"])
            if "rate" in sample and before is not None:
                seconds = sample["cpu"] - before
                if seconds > 0:
                    sample["cpu_per_gb"] = seconds / (sample["bytes"] / 1e9)

    def values(self, measure, system, key):
        """{round: value}"""
        return {sample["round"]: sample[key] for sample in self.all
                if sample["measure"] == measure and sample["system"] == system and key in sample}

    def systems(self):
        return [system for system in SYSTEMS if any(sample["system"] == system for sample in self.all)]

    def rounds(self):
        return max((sample["round"] for sample in self.all), default=0)

    def why_missing(self, *wanted):
        """Why one of these (measure, system) has no values."""
        for measure, system in wanted:
            if not any(sample["measure"] == measure and sample["system"] == system for sample in self.all):
                for entry_system, entry_measure, why in self.missing:
                    if entry_system == system and entry_measure in ("all", measure):
                        return why
        if any(measure.startswith(("sharers", "upgrade")) for measure, _ in wanted):
            return "scripts/bench --sharers does"
        return "not asked for in this run"


def summary(values):
    """Median, and a 95 % interval by Student's t on the logarithms: with a handful of rounds anything finer would pretend to know more."""
    values = list(values)
    if not values:
        return None
    result = {"median": statistics.median(values), "count": len(values)}
    if len(values) > 2 and min(values) > 0:
        logs = [math.log(value) for value in values]
        half = T[min(len(values) - 1, len(T)) - 1] * statistics.stdev(logs) / math.sqrt(len(values))
        middle = statistics.mean(logs)
        result["interval_95"] = [math.exp(middle - half), math.exp(middle + half)]
    return result


def ratio(over, under):
    """Of values of the same round."""
    return summary(over[turn] / under[turn] for turn in over if turn in under and under[turn] > 0)


def digits(value):
    """As many as say something."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show(entry, interval=True):
    if not entry:
        return "-"
    text = digits(entry["median"])
    if interval and "interval_95" in entry:
        text += " [{}, {}]".format(*map(digits, entry["interval_95"]))
    return text
