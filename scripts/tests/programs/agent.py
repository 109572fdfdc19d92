#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs, in a node, what a test on the host sends, one line at a time; answers each with one line.

A line is a token, which the answer repeats, and Python (a record separator, 0x1e, stands for a newline in it). The answer is an
expression's value (text as it is, all else as Python writes it), "ok" for a statement, the errno's name if the system refused, or
another exception's text. What a test opened stays open until the agent ends, which is when the test does.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import re
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

import wire

REMOTE, ORIGIN = 0o20, 0o10
RO, WO, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CREAT, EXCL, TRUNC, APPEND, DIRECTORY = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY
PAGE = 4096
# ENOTSUP is the same number; manual pages of system calls say this.
errno.errorcode[errno.EOPNOTSUPP] = "EOPNOTSUPP"
HERE = os.path.dirname(os.path.abspath(__file__))


# Files.

def share(path, flags=RW):
    """Opens a file of this node and offers it to the others."""
    return os.open(path, flags | REMOTE | ORIGIN)


def remote(path, flags=RW, mode=0o644, **where):
    """Opens a file of another node."""
    return os.open(path, flags | REMOTE, mode, **where)


def put(path, data):
    """A new local file with these bytes, in place of an old one."""
    with open(path, "wb") as f:
        f.write(data)


def get(path):
    with open(path, "rb") as f:
        return f.read()


def read_all(fd):
    parts, at = [], 0
    while part := os.pread(fd, 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def write_all(fd, data, at=0):
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def data(count, seed=0):
    """The same random bytes for the same seed, on every node."""
    return random.Random(seed).randbytes(count)


def sha(what):
    """sha256 of bytes, of a descriptor or of a path."""
    if isinstance(what, int):
        what = read_all(what)
    elif isinstance(what, str):
        what = get(what)
    return hashlib.sha256(what).hexdigest()


def size(fd):
    return os.fstat(fd).st_size


def exists(path):
    return os.path.lexists(path)


class Disk:
    """A disk of this node that a test can make fail and stand still: a device in front of a file `image` in a directory, with an ext4."""

    def __init__(self, directory, mebibytes, *options):
        self.name, self.sectors = "vremote-" + os.path.basename(directory), mebibytes * 2048
        image = directory + "/image"
        put(image, b"")
        os.truncate(image, mebibytes << 20)
        self.loop = run(f"losetup --find --show {image}")
        run(f"dmsetup create {self.name} --table '0 {self.sectors} linear {self.loop} 0'")
        self.device = "/dev/dm-" + run(f"dmsetup info -c --noheadings -o minor {self.name}")
        run(f"mkfs.ext4 -q -b {PAGE} {' '.join(options)} {self.device}")

    def mount(self, at):
        os.makedirs(at, exist_ok=True)
        run(f"mount {self.device} {at}")

    def _is_now(self, target):
        self.stand_still()
        run(f"dmsetup load {self.name} --table '0 {self.sectors} {target}'")
        self.go_on()

    def fail(self):
        """All reads and writes are errors."""
        self._is_now("error")

    def be_well(self):
        self._is_now(f"linear {self.loop} 0")

    def stand_still(self):
        """Reads and writes wait."""
        run(f"dmsetup suspend --nolockfs --noflush {self.name}")

    def go_on(self):
        run(f"dmsetup resume {self.name}")

    def remove(self):
        run(f"dmsetup remove {self.name} && losetup -d {self.loop}")


LIBC = ctypes.CDLL(None, use_errno=True)


def libc(name, *args):
    """A function of the C library, with numbers, bytes and buffers; its result, or OSError for -1."""
    function = getattr(LIBC, name)
    function.restype = ctypes.c_long
    result = function(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    if ctypes.c_int(result).value == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def pinned(page, references=1280):
    """Pipes that have a page of memory so often (mmap, writable) that it looks to the kernel as if a device had it, until they are closed."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    one = struct.pack("2Q", start, PAGE)
    pipes = []
    while references > 0:
        pipes.append(os.pipe())
        slots = fcntl.fcntl(pipes[-1][1], 1031, 1 << 20) // PAGE  # F_SETPIPE_SZ
        assert libc("vmsplice", pipes[-1][1], one * slots, slots, 0) == slots * PAGE
        references -= slots
    return pipes


KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32


def fallocate(fd, mode, at, count):
    libc("fallocate", fd, mode, at, count)


def allocated(content, mode, at, count):
    """What fallocate makes of a file with this content."""
    if mode == COLLAPSE:
        return content[:at] + content[at + count:]
    if mode == INSERT:
        return content[:at] + bytes(count) + content[at:]
    longer = content + bytes(max(at + count - len(content), 0))
    if mode & (PUNCH_HOLE | ZERO):
        longer = longer[:at] + bytes(count) + longer[at + count:]
    return longer[:len(content)] if mode & KEEP_SIZE else longer


def overwritten(content, at, new):
    return content[:at] + new + content[at + len(new):]


def differs(got, wanted):
    """True if they are equal, else where they are not."""
    if got == wanted:
        return True
    at = next((at for at, pair in enumerate(zip(got, wanted)) if pair[0] != pair[1]), min(len(got), len(wanted)))
    return f"{len(got)} bytes, {len(wanted)} wanted; at {at}: {got[at:at + 20]!r} instead of {wanted[at:at + 20]!r}"


def alignment(fd):
    """Whether statx claims an alignment for direct I/O."""
    result = ctypes.create_string_buffer(256)
    libc("statx", fd, b"", 0x1000, 0x2000, result)  # AT_EMPTY_PATH, STATX_DIOALIGN
    return bool(struct.unpack_from("<I", result.raw)[0] & 0x2000)


def limited(call, *args, limit):
    """The call with RLIMIT_FSIZE, in a process of its own."""
    def both():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return call(*args)
    return as_user(0, 0, [], both)


def moved(move, source, target, count, **where):
    """Repeats a call that moves bytes from one descriptor to another until it has moved so many, or moves none any more."""
    done = 0
    while done < count:
        step = move(source, target, count - done, **{name: at + done for name, at in where.items()})
        if not step:
            break
        done += step
    return done


def spliced(source, target, count, at_source=0, at_target=0):
    """Moves bytes through a pipe."""
    out, into = os.pipe()
    done = 0
    while done < count:
        filled = os.splice(source, into, min(count - done, 65536), offset_src=at_source + done)
        if not filled:
            break
        done += moved(os.splice, out, target, filled, offset_dst=at_target + done)
    os.close(out)
    os.close(into)
    return done


# What went wrong, how long it took, who did it.

def error_of(call, *args, **kwargs):
    """The errno's name, or "none"."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "none"


def timed(call, *args, **kwargs):
    """(errno's name or the result, seconds)."""
    start = time.monotonic()
    try:
        result = call(*args, **kwargs)
    except OSError as error:
        result = errno.errorcode.get(error.errno, str(error.errno))
    return result, time.monotonic() - start


def bounded(call, names, limit, least=0):
    """Whether the call fails with one of the errnos within so many seconds, and not before `least`."""
    result, seconds = timed(call)
    return True if result in names.split() and least <= seconds <= limit else f"{result!r} after {seconds:.1f} s"


def as_user(uid, gid, groups, call, *args):
    """The call's result, or the errno's name, in a process with these ids."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(theirs, text_of(call(*args)).encode())
        except OSError as error:
            os.write(theirs, errno.errorcode.get(error.errno, "?").encode())
        finally:
            os._exit(0)
    os.close(theirs)
    parts = b""
    while part := os.read(ours, 65536):
        parts += part
    os.close(ours)
    os.waitpid(child, 0)
    return parts.decode()


def ends(call, *args):
    """How a process ends that makes the call: "done", "exception", or the name of the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            call(*args)
            os._exit(0)
        except Exception as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "exception" if os.WEXITSTATUS(status) else "done"


def bounded_end(call, how, limit):
    """Whether a process that makes the call ends like this within so many seconds."""
    end, seconds = timed(ends, call)
    return True if end == how and seconds <= limit else f"{end} after {seconds:.1f} s"


def absent():
    """A page of memory whose bytes never come, so that a write of it does not end, and a descriptor: when it is closed, they do."""
    memory = mmap.mmap(-1, PAGE)
    missing = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC)  # userfaultfd
    fcntl.ioctl(missing, 0xC018AA3F, struct.pack("3Q", 0xAA, 0, 0))  # UFFDIO_API
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(missing, 0xC020AA00, struct.pack("4Q", start, PAGE, 1, 0))  # UFFDIO_REGISTER, for missing pages
    return memory, missing


def wait(condition, limit=10):
    """Whether the condition becomes true within so many seconds."""
    end = time.monotonic() + limit
    while not (result := condition()):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return result


def run(command, status=0):
    """A shell command's output; its status must be this one."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != status:
        raise RuntimeError(f"'{command}' ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.stdout.strip()


def prepare(call, opened, path=""):
    """A program of its own that has a file open and will make the call, with `fd` and `path`, when it is told to."""
    program = f"""import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
fd, path = os.open({opened!r}, os.O_RDWR), {path!r}
print("ready", flush=True)
input()
{call}"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    return child


def interrupted(child, number, kinds):
    """Whether the program waits in its call (it sends messages of these kinds again and again), and whether a signal then ends
    it within 1.5 s."""
    def sent():
        return sum(counts("tx").get(kind, 0) for kind in kinds.split())
    start = sent()
    child.stdin.write(b"\n")
    child.stdin.flush()
    if not wait(lambda: child.poll() is not None or sent() >= start + 2, 4) or child.poll() is not None:
        return f"it does not wait (status {child.poll()})"
    begin = time.monotonic()
    child.send_signal(number)
    try:
        child.wait(12)
    except subprocess.TimeoutExpired:
        return "it does not end"
    seconds = time.monotonic() - begin
    return True if child.returncode == -number and seconds < 1.5 else f"status {child.returncode} after {seconds:.1f} s"


# The module's own view.

def status():
    with open("/sys/kernel/debug/vremote/status") as f:
        return json.load(f)


def peers():
    return {peer["name"]: peer for peer in status()["peers"]}


def counts(what="tx", peer=None):
    """Messages sent ("tx") or received ("rx") by kind, to or from one peer or all."""
    total = {}
    for name, entry in peers().items():
        if peer in (None, name):
            for kind, count in entry[what].items():
                total[kind] = total.get(kind, 0) + count
    return total


class Change:
    """What was counted since it was made."""

    def __init__(self, peer=None):
        self.peer = peer
        self.start = self.now()

    def now(self):
        entries = [entry for name, entry in peers().items() if self.peer in (None, name)]
        return {"tx": counts("tx", self.peer), "rx": counts("rx", self.peer),
                **{key: sum(entry[key] for entry in entries) for key in ("tx_bytes", "rx_bytes", "retransmits", "drops")}}

    def messages(self):
        """Both directions by kind, without the signs of life."""
        now, result = self.now(), {}
        for way in "tx", "rx":
            for kind, count in now[way].items():
                count -= self.start[way].get(kind, 0)
                if count and kind not in ("Hello", "HelloAck"):
                    result[kind] = result.get(kind, 0) + count
        return result

    def of(self, key):
        return self.now()[key] - self.start[key]

    def page_messages(self):
        return sum(count for kind, count in self.messages().items() if kind in wire.PAGE_KINDS)


def calm(do, tries=20):
    """What do(change) returns of a time in which nothing had to be sent again: a busy machine answers late, and who counts messages
    must not count those twice."""
    for _ in range(tries):
        change = Change()
        result = do(change)
        if not change.of("retransmits"):
            return result
    raise AssertionError(f"something was sent again in each of {tries} times")


def drops():
    return status()["drops"]


def shared(path):
    """The origin's entry for a file."""
    for entry in status()["shares"]:
        if entry["path"] == path:
            return entry
    return None


def remotes():
    """What is known here of files of other nodes."""
    return status()["remote_files"]


def origin_state(path):
    """M, S or I of the only page of a file of this node."""
    entry = shared(path)
    if not entry:
        return "M"
    return "I" if entry["pages_owned"] else "S" if entry["pages_shared"] else "M"


def remote_state(node, ino):
    """M, S or I of the only page of a file of another node."""
    for entry in remotes():
        if entry["node"] == node and entry["ino"] == ino:
            return "M" if entry["modified"] else "W" if entry["writing"] else "S" if entry["shared"] else "I"
    return "I"


def idle():
    """Whether nothing is open, exported or under way here; what there is, if not."""
    document = status()
    left = [f"export {entry['path']}" for entry in document["exports"]]
    for entry in document["shares"]:
        if entry["descriptors"] or entry["remote_opens"] or entry["transactions"]:
            left.append(f"share {entry}")
    for entry in remotes():
        if entry["readers"] or entry["writers"] or entry["gets"] or entry["puts"]:
            left.append(f"remote {entry}")
    return "; ".join(left) or True


def no_exports():
    base = "/sys/kernel/config/vremote/exports"
    for name in os.listdir(base):
        os.rmdir(f"{base}/{name}")


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


class Trace:
    """The module's trace events about one page."""

    ROOT = "/sys/kernel/tracing"
    EVENT = re.compile(r" vremote_(message|directory|copy): (.*)")

    def __init__(self, page=0):
        self.page = page
        self.puts = set()
        with open(f"{self.ROOT}/events/vremote/enable", "w") as f:
            f.write("1")
        self.clear()

    def clear(self):
        with open(f"{self.ROOT}/trace", "w") as f:
            f.write("")

    def take(self, file):
        """What happened since the last time, as [way, node, kind, flags, request] for a message and [state, letter] for a state."""
        with open(f"{self.ROOT}/trace") as f:
            lines = f.readlines()
        self.clear()
        events = []
        for line in lines:
            match = self.EVENT.search(line)
            if not match:
                continue
            fields = dict(re.findall(r"(\w+)=(\S*)", match[2]))
            if int(fields["file"]) != file or int(fields["page"]) != self.page:
                continue
            if match[1] == "message":
                way, node, kind = match[2].split()[:3]
                if kind == "Put":
                    self.puts.add(fields["request"])
                if kind in wire.PAGE_KINDS or kind == "Reply" and fields["request"] in self.puts:
                    events.append([way, node, kind, fields["flags"].replace("|", " "), fields["request"]])
            else:
                events.append(["state", fields.get("home") or fields["state"]])
        return events


def conversation(here, there, states, us, them):
    """Events of two nodes in one order that can have been: a message is received after it was sent. A row for each message, with
    both nodes' states when it has been dealt with; `states` is brought up to date. RETRY flags are left out: the other node sees
    the first one that arrives."""
    queues, names, sent, rows = {us: list(here), them: list(there)}, {us: them, them: us}, set(), []

    def ready(node):
        head = queues[node][0] if queues[node] else None
        return head and (head[0] != "from" or (node, head[2], head[4]) in sent)

    node = us
    while queues[us] or queues[them]:
        if not ready(node):
            node = names[node]
            if not ready(node):
                break
        event = queues[node].pop(0)
        if event[0] == "state":
            states[node] = event[1]
        elif event[0] == "to":
            key = (names[node], event[2], event[4])
            if key not in sent:
                sent.add(key)
                rows.append([node, names[node], f"{event[2]} {event[3]}".strip(), {}])
        if rows:
            rows[-1][3] = dict(states)
    return rows


# Load.

def append(fd, name, count, width=57):
    """Appends `count` records of `width` bytes, each with one write."""
    for number in range(count):
        record = f"{name} {number} ".encode()
        os.write(fd, record + b"." * (width - 1 - len(record)) + b"\n")


def appended(blob, writers, count, width=57):
    """Whether the bytes are exactly the records of all writers, each writer's in order."""
    if len(blob) != len(writers) * count * width:
        return f"{len(blob)} bytes instead of {len(writers) * count * width}"
    following = dict.fromkeys(writers, 0)
    for at in range(0, len(blob), width):
        record = blob[at:at + width]
        name, number, rest = (record.decode("latin-1") + "  ").split(" ", 2)
        if record[-1:] != b"\n" or rest.strip(" \n").strip("."):
            return f"torn record at byte {at}: {record!r}"
        if following.get(name) != int(number):
            return f"record {name} {number} at byte {at}, {following.get(name)} expected"
        following[name] += 1
    return True


def stress(fd, me, others, pages, seconds, seed):
    """Random writes of increasing numbers into this node's own slots of many pages, random reads of all slots: a number that
    somebody has read must never go back, and this node's own must be the last one written. Gives the last numbers, or what
    was wrong. Slot k of a page is its bytes 512 * k to 512 * k + 8."""
    rng = random.Random(seed)
    mine, seen, number = {}, {}, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        page = rng.randrange(pages)
        if rng.random() < 0.4:
            number += 1
            os.pwrite(fd, struct.pack("<Q", number), page * PAGE + 512 * me)
            mine[page] = number
        else:
            slot = rng.choice(others + [me])
            value = struct.unpack("<Q", os.pread(fd, 8, page * PAGE + 512 * slot))[0]
            if slot == me and value != mine.get(page, 0):
                return f"page {page}: {value} read, {mine.get(page, 0)} written here"
            if value < seen.get((page, slot), 0):
                return f"page {page}, slot {slot}: {value} after {seen[page, slot]}"
            seen[page, slot] = value
    return json.dumps(mine)


def slots(fd, me, pages):
    """What the slots of one writer hold, as `stress` gives it."""
    got = {page: struct.unpack("<Q", os.pread(fd, 8, page * PAGE + 512 * me))[0] for page in range(pages)}
    return json.dumps({page: value for page, value in got.items() if value})


def same_slots(one, other):
    return json.loads(one) == json.loads(other)


# The conversation.

def text_of(value):
    text = value if isinstance(value, str) else "ok" if value is None else repr(value)
    return text.replace("\\", "\\\\").replace("\n", "\\n") if isinstance(value, str) else text


def evaluate(line, names):
    text = line.replace("\x1e", "\n")
    try:
        try:
            code = compile(text, "test", "eval")
        except SyntaxError:
            exec(compile(text, "test", "exec"), names)
            return "ok"
        return text_of(eval(code, names))
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except Exception as error:  # the test's own mistake, or a result that it did not expect
        return text_of(f"{type(error).__name__}: {error}")


def main():
    os.umask(0o022)
    names = dict(globals())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        token, _, text = line.rstrip("\n").partition(" ")
        answers.write(f"{token} {evaluate(text, names)}\n")


if __name__ == "__main__":
    main()
