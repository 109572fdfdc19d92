# SPDX-License-Identifier: GPL-2.0
"""Extended attributes."""

import contextlib
import ctypes
import os

from calls import *
from transcript import *


@scenario
def attributes(t):
    make_all()
    for kind in ("file", "dir", "fifo", "sock"):
        t(f"{kind}, set", os.setxattr, kind, "user.a", b"value")
        t(f"{kind}, get", os.getxattr, kind, "user.a")
        t(f"{kind}, list", os.listxattr, kind)
    for kind in ("link", "dangling"):
        t(f"{kind} itself, set", os.setxattr, kind, "user.a", b"x", follow_symlinks=False)
        t(f"{kind} itself, get", os.getxattr, kind, "user.a", follow_symlinks=False)
        t(f"{kind} itself, list", os.listxattr, kind, follow_symlinks=False)
    t("by a symlink", os.getxattr, "link", "user.a")
    create, replace = os.XATTR_CREATE, os.XATTR_REPLACE
    for name, flags in (("CREATE", create), ("REPLACE", replace), ("both", create | replace), ("unknown", 8)):
        t(f"{name} of what is there", os.setxattr, "file", "user.a", b"new", flags)
        t(f"{name} of what is not", os.setxattr, "file", "user.none-" + name, b"new", flags)
    for name in ("user.", "user", "", ".x", "none.x", "USER.x", "trusted.x", "security.x", "system.x", "system.posix_acl_access",
                 "user." + "n" * 250, "user." + "n" * 251, "user.with space", "user.\xff"):
        label = name if len(name) < 40 else f"{len(name)} bytes"
        t(f"'{label}', set", os.setxattr, "file", name, b"x")
        t(f"'{label}', get", os.getxattr, "file", name)
        t(f"'{label}', remove", os.removexattr, "file", name)
    for count in (0, 1, 255, 1000, 3000, 5000, 65536, 65537):
        t(f"{count} bytes", os.setxattr, "dir", "user.large", b"v" * count)
        with contextlib.suppress(OSError):
            os.removexattr("dir", "user.large")
    room = ctypes.create_string_buffer(100)
    t("length only", lambda: (libc("getxattr", b"file", b"user.a", None, 0), libc("listxattr", b"file", None, 0)))
    t("too little room, get", libc, "getxattr", b"file", b"user.a", room, 2)
    t("too little room, list", libc, "listxattr", b"file", room, 2)
    t("exactly enough room", libc, "getxattr", b"file", b"user.a", room, 3)
    t("missing, get", os.getxattr, "file", "user.missing")
    t("missing, remove", os.removexattr, "file", "user.missing")
    fd = os.open("file", RO)
    t("by a descriptor for reading", lambda: os.setxattr(fd, "user.fd", b"fd") or os.getxattr("file", "user.fd"))
    t("by O_PATH", lambda: os.getxattr(os.open("file", PATH), "user.a"))
    t("removed by a descriptor", lambda: os.removexattr(fd, "user.fd") or os.listxattr("file"))
    t.times("times, set", ["file"], os.setxattr, "file", "user.t", b"1")
    t.times("times, get", ["file"], os.getxattr, "file", "user.t")
    t.times("times, remove", ["file"], os.removexattr, "file", "user.t")
    t.times("times, refused", ["file"], result, os.removexattr, "file", "user.t")
    os.link("file", "hard")
    t("of all names", os.listxattr, "hard")
    t("after a rename", lambda: os.rename("hard", "moved") or os.getxattr("moved", "user.a"))
    make_users("mine", "theirs")
    make_users("theirs-hidden", bits=0o600)
    make_users("theirs-open", bits=0o666)
    make_users("theirs-sticky", kind="dir", bits=0o1777)
    for name in ("theirs", "theirs-hidden", "theirs-open"):
        os.setxattr(name, "user.a", b"a")

    def user():
        for name in ("mine", "theirs", "theirs-hidden", "theirs-open", "theirs-sticky"):
            t(f"user, {name}, set", os.setxattr, name, "user.b", b"b")
            t(f"user, {name}, get", os.getxattr, name, "user.a")
            t(f"user, {name}, list", os.listxattr, name)
            t(f"user, {name}, remove", os.removexattr, name, "user.a")
        t("user, trusted", os.setxattr, "mine", "trusted.x", b"x")

    t.user(OWNER, OWNER, [], user)
