#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The wire format (rust/proto/wire.rs) for tests: headers to and from bytes, what passes on an interface, and forged datagrams.

Deliberately written anew and not generated from the Rust source: a change of the format has to be made twice, on purpose.
"""

import socket
import struct
import time

PORT = 1104
MAGIC = b"VRMT"
VERSION = 1
FORMAT = "<4sBBHQQ16sBBHHHQQQQQIII"
HEADER_BYTES = 100
ENVELOPE_BYTES = 40
FRAGMENT_BYTES = 1366
FIELDS = ("magic", "version", "what", "text", "peer_epoch", "epoch", "tag", "kind", "zero", "flags", "status", "fragment", "seq",
          "request", "file", "index", "size", "length", "offset", "count")

KINDS = {"Hello": 1, "HelloAck": 2, "Reply": 3, "Lookup": 16, "Open": 17, "Close": 18, "GetAttr": 19, "SetSize": 20,
         "Write": 21, "Commit": 22,
         "List": 23, "ReadLink": 24, "Make": 25, "Link": 26, "Remove": 27, "Rename": 28, "SetAttr": 29,
         "Allocate": 31, "GetShared": 32, "GetModified": 33, "Grant": 34, "Invalidate": 35, "Recall": 36,
         "Ack": 37, "Put": 38, "GetXattr": 39, "SetXattr": 40, "ListXattr": 41,
         "Lock": 30, "Unlocked": 42, "Working": 43, "StatFs": 44,
         "GetFileAttr": 45, "SetFileAttr": 46}
NAMES = {number: name for name, number in KINDS.items()}
FLAGS = {"WRITE": 1, "DATA": 2, "KEEP": 4, "HAVE": 8, "APPEND": 16, "RETRY": 32, "DATASYNC": 64, "TOUCHED": 128}
PAGE_KINDS = ("GetShared", "GetModified", "Grant", "Invalidate", "Recall", "Ack", "Put")

assert struct.calcsize(FORMAT) == HEADER_BYTES


def encode(kind, payload=b"", **fields):
    """One datagram. `kind` is a name or a number; every field may be set to any value, right or wrong."""
    header = dict(magic=MAGIC, version=VERSION, what=0, text=(HEADER_BYTES - ENVELOPE_BYTES + len(payload)) & 0xffff, tag=bytes(16),
                  kind=KINDS.get(kind, kind), zero=0, flags=0, epoch=0, peer_epoch=0, seq=0, request=1,
                  file=0, index=0, size=0, length=len(payload), offset=0, count=0, fragment=FRAGMENT_BYTES, status=0)
    header.update(fields)
    return struct.pack(FORMAT, *(header[name] for name in FIELDS)) + payload


def decode(datagram):
    """The header as a dictionary, with the kind's name and the flags' names; None if it is none of ours."""
    if len(datagram) < HEADER_BYTES or datagram[:4] != MAGIC:
        return None
    header = dict(zip(FIELDS, struct.unpack(FORMAT, datagram[:HEADER_BYTES])))
    header["kind"] = NAMES.get(header["kind"], str(header["kind"]))
    header["flags"] = [name for name, bit in FLAGS.items() if header["flags"] & bit]
    return header


def datagrams(payload):
    """The datagrams in what a capture shows as one packet: with segmentation offload several lie one behind the other."""
    while payload:
        header = decode(payload)
        if not header:
            yield payload
            return
        end = HEADER_BYTES + min(max(header["length"] - header["offset"], 0), header["fragment"])
        yield payload[:end]
        payload = payload[end:]


class Capture:
    """Everything of VRemote that passes an interface, in order."""

    def __init__(self, interface="eth0"):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self.socket.bind((interface, 0))
        self.marks = 0
        self.marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def packets(self, to="10.77.0.1", limit=10):
        """What has passed so far, as (sender, receiver, UDP payload). A datagram of our own marks the place up to which."""
        self.marks += 1
        mark = b"vremote-mark %d" % self.marks
        self.marker.sendto(mark, (to, 9))
        self.socket.settimeout(limit)
        while True:
            frame = self.socket.recv(1 << 17)
            if frame[12:14] != b"\x08\x00" or frame[23] != 17:
                continue
            start = 14 + (frame[14] & 15) * 4
            ports = struct.unpack(">HH", frame[start:start + 4])
            length = struct.unpack(">H", frame[start + 4:start + 6])[0]
            payload = frame[start + 8:]
            if length >= 8 and len(payload) > length - 8 and len(payload) < 100:
                payload = payload[:length - 8]  # Ethernet pads short frames
            if ports[1] == 9 and payload == mark:
                return
            if PORT in ports:
                yield socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]), payload


def raw_sender(source, receiver, source_port=PORT, port=PORT):
    """A function that sends datagrams with any source address and port of this machine, past the socket that owns the port."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    raw.bind((source, 0))
    raw.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER = IP_PMTUDISC_DONT: large ones may be cut

    def send(payload):
        for _ in range(1000):
            try:
                # Checksum 0: none.
                return raw.sendto(struct.pack(">HHHH", source_port, port, 8 + len(payload), 0) + payload, (receiver, 0))
            except (BlockingIOError, OSError) as error:
                if error.errno not in (11, 105):  # EAGAIN, ENOBUFS
                    raise
                time.sleep(0.001)

    return send
