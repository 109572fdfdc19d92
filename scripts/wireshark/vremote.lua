-- SPDX-License-Identifier: GPL-2.0
--
-- VRemote for Wireshark and tshark, from version 4.4 on (Lua 5.4): the format of rust/proto/envelope.rs and rust/proto/wire.rs.
--
--   wireshark -X lua_script:scripts/wireshark/vremote.lua FILE
--   tshark -X lua_script:scripts/wireshark/vremote.lua -o vremote.keylog:KEYS -r FILE        (scripts/tshark has one of its own)
--
-- Without keys there is nothing to see but envelopes. Modules that were loaded with keylog=1 show them, each as a line:
--
--   VREMOTE <session, 16 hexadecimal digits> <key, 64 hexadecimal digits>
--
-- A session has a number and a key for each direction; the number is the one in the envelope. /sys/kernel/debug/vremote/keylog of a node
-- has both directions of its last sessions; the files of several nodes may be put one behind the other. Other lines are skipped.
--
-- Deliberately written anew and not generated from the Rust source: a change of the format has to be made twice, on purpose.
-- scripts/tests/check/dissector compares both.

local vremote = Proto("vremote", "VRemote")

vremote.prefs.port = Pref.uint("UDP port", 1104, "The port that the nodes serve on")
vremote.prefs.keylog = Pref.string("Key log", "", "File with session keys, from modules that were loaded with keylog=1")

-- ---- the format

local MAGIC, VERSION = "VRMT", 1
local CLEAR_BYTES, ENVELOPE_BYTES, BODY_BYTES = 24, 40, 60
local HANDSHAKE_BYTES, COOKIE_BYTES = 120, 80
local PAGE_BYTES, FRAGMENT_BYTES, MAX_PAYLOAD = 4096, 1366, 72 * 1024
local MAX_BATCH_PAGES, MAX_GROUPS, MAX_PAGES = 256, 64, 1 << 51
local ATTRIBUTES_BYTES = 92

-- Names for numbers from `first` on.
local function numbered(names, first, words)
    for word in words:gmatch("%S+") do
        names[first] = word
        first = first + 1
    end
    return names
end

local WHAT = numbered({}, 0, "Open First Second Cookie Message")
local WHOLE_BYTES = {First = HANDSHAKE_BYTES, Second = HANDSHAKE_BYTES, Cookie = COOKIE_BYTES}

local KINDS = numbered(numbered({}, 1, "Hello HelloAck Reply"), 16, [[
    Lookup Open Close GetAttr SetSize Write Commit List ReadLink Make Link Remove Rename SetAttr Lock Allocate GetShared GetModified
    Grant Invalidate Recall Ack Put GetXattr SetXattr ListXattr Unlocked Working StatFs GetFileAttr SetFileAttr]])

local function set(words)
    local members = {}
    for word in words:gmatch("%S+") do members[word] = true end
    return members
end

local ANSWERS = set("HelloAck Reply Grant Ack Working")
local OF_PAGE = set("GetShared GetModified Grant Invalidate Recall Ack Put")
local GETS = set("GetShared GetModified")
local GREETINGS = set("Hello HelloAck")

-- What `index`, `size` and `count` are, by kind.
local INDEX = {
    Lookup = "rights that are asked about: 4 to read, 2 to write, 1 to run or search",
    Open = "open flags", Write = "byte offset", Commit = "inode number of a directory", ReadLink = "1: to the end of the chain",
    Make = "mode", Remove = "1: a directory", Rename = "flags of renameat2(2)", SetAttr = "inode number", Allocate = "byte offset",
    GetXattr = "inode number", SetXattr = "inode number", ListXattr = "inode number", GetFileAttr = "inode number",
    SetFileAttr = "inode number",
}
local SIZE = {
    HelloAck = "lease, microseconds", Open = "creation mode", SetSize = "new size of the file", List = "position", Allocate = "bytes",
    GetXattr = "room for the value", SetXattr = "bits: 1 create, 2 replace, 4 remove", Reply = "size of the file",
    Grant = "size of the file", SetFileAttr = "1: the flags, 2: all but these",
}
local COUNT = {
    Commit = "errors of the disk that are known", Make = "bytes of the path", Link = "bytes of the path", Rename = "bytes of the path",
    SetAttr = "bytes of the path", GetXattr = "bytes of the path", SetXattr = "bytes of the path", Allocate = "mode of fallocate(2)",
    GetShared = "pages", GetModified = "pages", SetFileAttr = "bytes of the path",
}

local FLAGS = {"WRITE", "DATA", "KEEP", "HAVE", "APPEND", "RETRY", "DATASYNC", "TOUCHED"}
local RETRY, ALL_FLAGS = 1 << 5, (1 << 8) - 1

local ERRNOS = numbered({[0] = "success"}, 1, [[
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR
    EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS
    ENOTEMPTY ELOOP]])
for number, name in pairs({
    [61] = "ENODATA", [71] = "EPROTO", [74] = "EBADMSG", [75] = "EOVERFLOW", [76] = "ENOTUNIQ", [90] = "EMSGSIZE", [95] = "EOPNOTSUPP",
    [105] = "ENOBUFS", [107] = "ENOTCONN", [110] = "ETIMEDOUT", [113] = "EHOSTUNREACH", [116] = "ESTALE", [117] = "EUCLEAN",
    [121] = "EREMOTEIO", [122] = "EDQUOT", [126] = "ENOKEY",
}) do ERRNOS[number] = name end

local TYPES = {
    [1] = "FIFO", [2] = "character device", [4] = "directory", [6] = "block device", [8] = "file", [10] = "symlink", [12] = "socket",
}
local LOCKS = {[0] = "unlock", "read", "write"}
local TAGS = {[0] = "not checked", "right", "wrong"}

-- ---- ChaCha20-Poly1305 (RFC 8439). Wireshark 4.4 has no cryptography for Lua.

-- The block function, with its arguments and results as sixteen words of the state. Written out by a program, as a call for each quarter
-- round would take most of the time.
local chacha20_block = (function()
    local quarter = [[
        A = A + B & 0xffffffff D = D ~ A D = (D << 16 | D >> 16) & 0xffffffff
        C = C + D & 0xffffffff B = B ~ C B = (B << 12 | B >> 20) & 0xffffffff
        A = A + B & 0xffffffff D = D ~ A D = (D << 8 | D >> 24) & 0xffffffff
        C = C + D & 0xffffffff B = B ~ C B = (B << 7 | B >> 25) & 0xffffffff
    ]]
    local rounds, state, start, sums = {}, {}, {}, {}
    for _, q in ipairs({
        {0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}, {0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14},
    }) do
        local words = {A = "x" .. q[1], B = "x" .. q[2], C = "x" .. q[3], D = "x" .. q[4]}
        rounds[#rounds + 1] = quarter:gsub("%u", words)
    end
    for word = 0, 15 do
        state[#state + 1], start[#start + 1] = "x" .. word, "s" .. word
        sums[#sums + 1] = ("x%d + s%d & 0xffffffff"):format(word, word)
    end
    start = table.concat(start, ", ")
    return load(("return function(%s) local %s = %s for _ = 1, 10 do %s end return %s end"):format(
        start, table.concat(state, ", "), start, table.concat(rounds, "\n"), table.concat(sums, ", ")))()
end)()

-- One block of 64 bytes. `nonce`: the counter of a datagram; the nonce's first four bytes are zero.
local function keystream(key, block, nonce)
    local k0, k1, k2, k3, k4, k5, k6, k7 = string.unpack("<I4I4I4I4I4I4I4I4", key)
    return string.pack("<I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4", chacha20_block(
        0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, k0, k1, k2, k3, k4, k5, k6, k7,
        block, 0, nonce & 0xffffffff, nonce >> 32))
end

local function decrypt(key, nonce, text)
    local words = "<" .. ("i8"):rep(8)
    local parts = {}
    local padded = text .. ("\0"):rep(-#text % 64)
    for at = 1, #padded, 64 do
        local a0, a1, a2, a3, a4, a5, a6, a7 = string.unpack(words, padded, at)
        local b0, b1, b2, b3, b4, b5, b6, b7 = string.unpack(words, keystream(key, (at - 1) // 64 + 1, nonce))
        parts[#parts + 1] = string.pack(words, a0 ~ b0, a1 ~ b1, a2 ~ b2, a3 ~ b3, a4 ~ b4, a5 ~ b5, a6 ~ b6, a7 ~ b7)
    end
    return table.concat(parts):sub(1, #text)
end

-- Poly1305 in limbs of 26 bits, whose products fit 64.
local function tag_of(key, nonce, ad, text)
    local low, high, s_low, s_high = string.unpack("<i8i8i8i8", keystream(key, 0, nonce))
    low, high = low & 0x0ffffffc0fffffff, high & 0x0ffffffc0ffffffc
    local M = 0x3ffffff
    local r0, r1, r2, r3, r4 = low & M, low >> 26 & M, (low >> 52 | high << 12) & M, high >> 14 & M, high >> 40
    local t1, t2, t3, t4 = 5 * r1, 5 * r2, 5 * r3, 5 * r4
    local h0, h1, h2, h3, h4 = 0, 0, 0, 0, 0
    local data = table.concat({
        ad, ("\0"):rep(-#ad % 16), text, ("\0"):rep(-#text % 16), string.pack("<i8i8", #ad, #text),
    })
    for at = 1, #data, 16 do
        low, high = string.unpack("<i8i8", data, at)
        h0 = h0 + (low & M)
        h1 = h1 + (low >> 26 & M)
        h2 = h2 + ((low >> 52 | high << 12) & M)
        h3 = h3 + (high >> 14 & M)
        h4 = h4 + (high >> 40 | 1 << 24)
        local d0 = h0 * r0 + h1 * t4 + h2 * t3 + h3 * t2 + h4 * t1
        local d1 = h0 * r1 + h1 * r0 + h2 * t4 + h3 * t3 + h4 * t2 + (d0 >> 26)
        local d2 = h0 * r2 + h1 * r1 + h2 * r0 + h3 * t4 + h4 * t3 + (d1 >> 26)
        local d3 = h0 * r3 + h1 * r2 + h2 * r1 + h3 * r0 + h4 * t4 + (d2 >> 26)
        local d4 = h0 * r4 + h1 * r3 + h2 * r2 + h3 * r1 + h4 * r0 + (d3 >> 26)
        h0 = (d0 & M) + 5 * (d4 >> 26)
        h1, h2, h3, h4 = (d1 & M) + (h0 >> 26), d2 & M, d3 & M, d4 & M
        h0 = h0 & M
    end
    -- Carried through, and reduced by 2^130 - 5 if it is not less.
    for _ = 1, 2 do
        h2, h1 = h2 + (h1 >> 26), h1 & M
        h3, h2 = h3 + (h2 >> 26), h2 & M
        h4, h3 = h4 + (h3 >> 26), h3 & M
        h0, h4 = h0 + 5 * (h4 >> 26), h4 & M
        h1, h0 = h1 + (h0 >> 26), h0 & M
    end
    if h4 == M and h3 == M and h2 == M and h1 == M and h0 >= M - 4 then
        h0, h1, h2, h3, h4 = h0 - (M - 4), 0, 0, 0, 0
    end
    low, high = h0 | h1 << 26 | h2 << 52, h2 >> 12 | h3 << 14 | h4 << 40
    local sum = low + s_low
    return string.pack("<i8i8", sum, high + s_high + (math.ult(sum, low) and 1 or 0))
end

-- ---- keys

local keys, key_log_trouble, key_log_read = {}, nil, 0

local function read_keys()
    local path = vremote.prefs.keylog
    keys, key_log_trouble, key_log_read = {}, nil, os.time()
    if path == "" then return end
    local file, why = io.open(path, "r")
    if not file then
        key_log_trouble = "The key log cannot be read: " .. why
        return
    end
    for line in file:lines() do
        local session, key = line:match("^VREMOTE (%x+) (%x+)%s*$")
        if session and #session == 16 and #key == 64 then
            keys[session:lower()] = key:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
        end
    end
    file:close()
end

-- The key of a session. While packets are being captured, new sessions begin: then the file is read again, once a second at most.
local function key_of(session)
    local name = ("%016x"):format(session)
    if not keys[name] and vremote.prefs.keylog ~= "" and key_log_read ~= os.time() then read_keys() end
    return keys[name]
end

-- ---- fields

local f = {}

local function field(name, make, title, ...)
    f[name:gsub("%.", "_")] = ProtoField[make]("vremote." .. name, title, ...)
end

field("magic", "string", "Magic")
field("version", "uint8", "Version")
field("what", "uint8", "Datagram", base.DEC, WHAT)
field("text_length", "uint16", "Bytes of text")
field("session", "uint64", "Session", base.HEX)
field("counter", "uint64", "Counter")
field("peer_epoch", "uint64", "Receiver's epoch", base.HEX)
field("epoch", "uint64", "Sender's epoch", base.HEX)
field("tag", "bytes", "Tag")
field("tag.status", "uint8", "Tag is", base.DEC, TAGS)
field("text", "bytes", "Encrypted")
field("padding", "bytes", "Padding")
field("drop", "string", "A node drops this, and counts it as")
field("ephemeral", "bytes", "Ephemeral public key")
field("greeting", "bytes", "Greeting, encrypted")
field("mac1", "bytes", "mac1")
field("mac2", "bytes", "mac2")
field("nonce", "bytes", "Nonce")
field("cookie", "bytes", "Cookie, encrypted")

field("kind", "uint8", "Kind", base.DEC, KINDS)
field("zero", "uint8", "Zero")
field("flags", "uint16", "Flags", base.HEX)
for place, name in ipairs(FLAGS) do
    field("flags." .. name:lower(), "bool", name, 16, nil, 1 << (place - 1))
end
field("status", "uint16", "Status", base.DEC, ERRNOS)
field("fragment_size", "uint16", "Bytes of a fragment")
field("seq", "uint64", "Seq")
field("request", "uint64", "Request")
field("file", "uint64", "File")
field("index", "uint64", "Index")
field("page", "uint64", "Page")
field("size", "uint64", "Size")
field("length", "uint32", "Bytes of payload")
field("offset", "uint32", "Offset of the fragment")
field("count", "uint32", "Count")

field("fragment", "bytes", "Fragment")
field("fragment.number", "uint32", "Fragment")
field("fragment.count", "uint32", "Fragments of the message")
field("fragment.missing", "uint32", "Fragments that are missing so far")
field("reassembled_in", "framenum", "Complete in", base.NONE)
field("request_in", "framenum", "Answers the request in", base.NONE, frametype.REQUEST)
field("answer_in", "framenum", "First answer in", base.NONE, frametype.RESPONSE)
field("repeats", "framenum", "Sent first in", base.NONE, frametype.DUP_ACK)
field("time", "relative_time", "Time since the request was sent first")

field("node", "string", "Node's name")
field("uid", "uint32", "User")
field("gid", "uint32", "Group")
field("group", "uint32", "Supplementary group")
field("path", "string", "Path")
field("target", "string", "Target")
field("data", "bytes", "Data")
field("missing", "bytes", "Bitmap of missing pages")
field("attr", "none", "Attributes")
field("attr.ino", "uint64", "Inode number")
field("attr.generation", "uint64", "Generation")
field("attr.device", "uint64", "Device", base.HEX)
field("attr.size", "uint64", "Size of the file")
field("attr.blocks", "uint64", "Blocks of 512 bytes")
field("attr.mode", "uint32", "Mode", base.OCT)
field("attr.nlink", "uint32", "Links")
field("attr.uid", "uint32", "Owner")
field("attr.gid", "uint32", "Owner's group")
field("attr.atime", "absolute_time", "Last access")
field("attr.mtime", "absolute_time", "Last change of the data")
field("attr.ctime", "absolute_time", "Last change of the inode")
field("change.valid", "uint32", "Sets (1 mode, 2 user, 4 group, 8 atime now, 16 atime, 32 mtime now, 64 mtime, 128 as chown(2))", base.HEX)
field("lock.owner", "uint64", "Owner of the lock", base.HEX)
field("lock.start", "uint64", "First byte")
field("lock.end", "uint64", "Last byte")
field("lock.pid", "uint32", "Process")
field("lock.kind", "uint8", "Lock", base.DEC, LOCKS)
field("lock.flock", "bool", "By flock(2)", 8, nil, 1)
field("lock.test", "bool", "Only a test", 8, nil, 2)
field("lock.wait", "bool", "The owner waits", 8, nil, 4)
field("entry", "none", "Entry")
field("entry.next", "uint64", "Position behind it")
field("entry.ino", "uint64", "Inode number of the entry")
field("entry.type", "uint16", "Type", base.DEC, TYPES)
field("entry.name", "string", "Name")
field("xattr.name", "string", "Extended attribute")
field("xattr.value", "bytes", "Value")
field("file_attr.flags", "uint32", "Flags of the file, FS_*_FL", base.HEX)
field("file_attr.xflags", "uint32", "Flags of the file, FS_XFLAG_*", base.HEX)
for _, name in ipairs({"extent_bytes", "extents", "project", "cow_extent_bytes"}) do
    field("file_attr." .. name, "uint32", "File: " .. name:gsub("_", " "))
end
for _, name in ipairs({"block_bytes", "blocks", "free", "available", "files", "files_free"}) do
    field("space." .. name, "uint64", "File system: " .. name:gsub("_", " "))
end

local expert_malformed = ProtoExpert.new("vremote.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local expert_payload = ProtoExpert.new("vremote.payload.malformed", "Malformed payload", expert.group.MALFORMED, expert.severity.WARN)
local expert_tag = ProtoExpert.new("vremote.tag.wrong", "Wrong tag", expert.group.CHECKSUM, expert.severity.ERROR)
local expert_no_key = ProtoExpert.new("vremote.no_key", "No key", expert.group.UNDECODED, expert.severity.NOTE)
local expert_key_log = ProtoExpert.new("vremote.keylog.unreadable", "Key log", expert.group.UNDECODED, expert.severity.WARN)
local expert_cut = ProtoExpert.new("vremote.cut", "Cut by the capture", expert.group.UNDECODED, expert.severity.NOTE)
local expert_open = ProtoExpert.new("vremote.open", "Not encrypted", expert.group.SECURITY, expert.severity.WARN)
local expert_retry = ProtoExpert.new("vremote.retry", "Sent again", expert.group.SEQUENCE, expert.severity.NOTE)
local expert_status = ProtoExpert.new("vremote.refused", "Refused", expert.group.RESPONSE_CODE, expert.severity.NOTE)

local fields = {}
for _, one in pairs(f) do fields[#fields + 1] = one end
vremote.fields = fields
vremote.experts = {
    expert_malformed, expert_payload, expert_tag, expert_no_key, expert_key_log, expert_cut, expert_open, expert_retry, expert_status,
}

-- ---- payloads

-- An error of its own: it means the packet, not this file.
local SHORT = {}

-- Reads what is behind each other in a buffer, and shows it.
local Cursor = {}
Cursor.__index = Cursor

function Cursor.new(buffer)
    return setmetatable({buffer = buffer, at = 0, left = buffer:len()}, Cursor)
end

function Cursor:take(bytes)
    if bytes > self.left then error(SHORT, 0) end
    local range = self.buffer(self.at, bytes)
    self.at, self.left = self.at + bytes, self.left - bytes
    return range
end

-- Shows an integer; gives it.
function Cursor:number(tree, which, bytes)
    local range = self:take(bytes)
    tree:add_le(which, range)
    return (string.unpack("<i" .. bytes, range:raw()))
end

-- Shows so many bytes as text, which they should be; gives it.
function Cursor:text(tree, which, bytes)
    if bytes == 0 then return "" end
    local range = self:take(bytes)
    tree:add_packet_field(which, range, ENC_UTF_8)
    return range:raw()
end

function Cursor:bytes(tree, which, bytes)
    if bytes == 0 then return end
    tree:add(which, self:take(bytes))
end

function Cursor:moment(tree, which)
    local range = self:take(12)
    local seconds, nanoseconds = string.unpack("<i8I4", range:raw())
    tree:add(which, range, NSTime.new(seconds, nanoseconds))
end

local function quoted(text)
    return '"' .. text:gsub("%c", "?") .. '"'
end

local function credentials(c, tree)
    c:number(tree, f.uid, 4)
    c:number(tree, f.gid, 4)
    local groups = string.unpack("<I2", c:take(2):raw())
    if groups > MAX_GROUPS then error(SHORT, 0) end
    for _ = 1, groups do c:number(tree, f.group, 4) end
end

local function path(c, tree)
    credentials(c, tree)
    return quoted(c:text(tree, f.path, c.left))
end

-- Path and something behind it; the header's `count` says where.
local function path_and(behind)
    return function(c, tree, header)
        credentials(c, tree)
        local first = quoted(c:text(tree, f.path, header.count))
        return first .. (behind(c, tree) or "")
    end
end

local function target(c, tree)
    if c.left == 0 then return end
    return ", " .. quoted(c:text(tree, f.target, c.left))
end

local function attributes(c, tree)
    if c.left == 0 then return end
    local attr = tree:add(f.attr, c.buffer(c.at, math.min(c.left, ATTRIBUTES_BYTES)))
    for _, name in ipairs({"ino", "generation", "device", "size", "blocks"}) do c:number(attr, f["attr_" .. name], 8) end
    for _, name in ipairs({"mode", "nlink", "uid", "gid"}) do c:number(attr, f["attr_" .. name], 4) end
    for _, name in ipairs({"atime", "mtime", "ctime"}) do c:moment(attr, f["attr_" .. name]) end
end

local function change(c, tree)
    c:number(tree, f.change_valid, 4)
    for _, name in ipairs({"mode", "uid", "gid"}) do c:number(tree, f["attr_" .. name], 4) end
    for _, name in ipairs({"atime", "mtime"}) do c:moment(tree, f["attr_" .. name]) end
end

local function lock(c, tree)
    c:number(tree, f.lock_owner, 8)
    local first = c:number(tree, f.lock_start, 8)
    local last = c:number(tree, f.lock_end, 8)
    local pid = c:number(tree, f.lock_pid, 4)
    local kind = c:number(tree, f.lock_kind, 1)
    local bits = c:take(1)
    for _, name in ipairs({"flock", "test", "wait"}) do tree:add(f["lock_" .. name], bits) end
    c:take(2)
    return ("%s %s to %s of process %d"):format(
        LOCKS[kind] or "?", first, last == math.maxinteger and "the end" or last, pid)
end

local function xattr(c, tree)
    local name = c:text(tree, f.xattr_name, string.unpack("B", c:take(1):raw()))
    c:bytes(tree, f.xattr_value, c.left)
    return ", " .. name
end

local function entries(c, tree)
    local count = 0
    while c.left > 0 do
        local entry = tree:add(f.entry, c.buffer(c.at, c.left))
        local from = c.at
        c:number(entry, f.entry_next, 8)
        c:number(entry, f.entry_ino, 8)
        c:number(entry, f.entry_type, 2)
        local name = c:text(entry, f.entry_name, string.unpack("<I2", c:take(2):raw()))
        entry:set_len(c.at - from)
        entry:append_text(" " .. quoted(name))
        count = count + 1
    end
    return count .. " entries"
end

local function xattr_names(c, tree)
    while c.left > 0 do
        local name = c.buffer(c.at, c.left):raw():match("^(%Z+)%z")
        if not name then error(SHORT, 0) end
        c:text(tree, f.xattr_name, #name)
        c:take(1)
    end
end

local function file_attr(c, tree)
    for _, name in ipairs({"flags", "xflags", "extent_bytes", "extents", "project", "cow_extent_bytes"}) do
        c:number(tree, f["file_attr_" .. name], 4)
    end
end

local function space(c, tree)
    for _, name in ipairs({"block_bytes", "blocks", "free", "available", "files", "files_free"}) do
        c:number(tree, f["space_" .. name], 8)
    end
end

local function data(c, tree) c:bytes(tree, f.data, c.left) end
local function bitmap(c, tree) c:bytes(tree, f.missing, c.left) end
local function node(c, tree) return quoted(c:text(tree, f.node, c.left)) end

-- Each gets a cursor, the tree and the header; and may give a text for the list of packets.
local PAYLOADS = {
    Hello = node, HelloAck = node, Lookup = path, Open = path, Write = data, List = path, ReadLink = path, Make = path_and(target),
    Link = path_and(target), Remove = path, Rename = path_and(target), SetAttr = path_and(change), Lock = lock, GetShared = bitmap,
    GetModified = bitmap, Grant = data, Put = data, GetXattr = path_and(xattr), SetXattr = path_and(xattr), ListXattr = path, StatFs = path,
    GetFileAttr = path, SetFileAttr = path_and(file_attr),
    Commit = path, -- of a directory; that of a file has no payload
}

-- The same for replies, by the kind of the request.
local REPLIES = {
    Lookup = attributes, Open = attributes, GetAttr = attributes, SetSize = attributes, Make = attributes, Link = attributes,
    SetAttr = attributes, Allocate = attributes, Write = attributes, SetXattr = attributes, Lock = lock, List = entries,
    ListXattr = xattr_names, StatFs = space,
    GetFileAttr = file_attr, SetFileAttr = attributes,
    ReadLink = function(c, tree) return quoted(c:text(tree, f.target, c.left)) end,
    GetXattr = function(c, tree) c:bytes(tree, f.xattr_value, c.left) end,
}

-- ---- messages

-- What is known of a datagram is found out when it is seen first, in the order of the capture, and kept: by the packet's number and the
-- datagram's place in it.
local known = {}
-- Messages of which fragments have come, by sender, receiver and header.
local assemblies = {}
-- Requests, by who asks, who is asked, and id.
local requests = {}

local function unsigned(number)
    if number >= 0 then return ("%d"):format(number) end
    local tenth = (number >> 1) // 5
    return ("%d%d"):format(tenth, number - tenth * 10)
end

local HEADER = "<BB I2I2I2 i8i8i8i8i8 I4I4I4"

local function parse(text)
    local h = {}
    h.number, h.zero, h.flags, h.status, h.fragment, h.seq, h.request, h.file, h.index, h.size, h.length, h.offset, h.count =
        string.unpack(HEADER, text)
    h.kind = KINDS[h.number]
    return h
end

-- What is wrong with a header, as a node would see it: the name of its counter, and why. Nothing if nothing is.
local function complaint(h, fragment_bytes, epoch, peer_epoch)
    if not h.kind then return "kind", "there is no kind " .. h.number end
    local pages = GETS[h.kind] and h.count or 1
    local expected = math.min(math.max(h.length - h.offset, 0), h.fragment)
    for _, rule in ipairs({
        {h.zero == 0, "the byte behind the kind is not 0"},
        {h.flags & ~ALL_FLAGS == 0, "unknown flags"},
        {h.length <= MAX_PAYLOAD, "the payload is too long"},
        {h.fragment >= 256 and h.fragment <= FRAGMENT_BYTES, "fragments of such a size are not sent"},
        {h.fragment > 0 and h.offset % h.fragment == 0, "the offset is not that of a fragment"},
        {h.offset < h.length or h.offset == 0, "the offset is behind the payload"},
        {h.status < 4096, "the status is no errno"},
        {h.seq >> 60 == 0, "the seq is too large"},
        {h.size >= 0, "the size is too large"},
        {h.index >= 0 and h.index <= math.maxinteger - h.length, "the index is too large"},
        {not OF_PAGE[h.kind] or h.index <= MAX_PAGES - pages, "there are no such pages"},
        {not GETS[h.kind] or h.count >= 1 and h.count <= MAX_BATCH_PAGES, "so many pages are not asked for"},
        {not (h.kind == "Grant" or h.kind == "Put") or h.length <= PAGE_BYTES, "the payload is longer than a page"},
        {GREETINGS[h.kind] or h.request ~= 0, "the request has no id"},
        {epoch ~= 0 and (GREETINGS[h.kind] or peer_epoch ~= 0), "an epoch is 0"},
    }) do
        if not rule[1] then return "field", rule[2] end
    end
    if fragment_bytes < expected then return "truncated", ("the fragment has %d bytes instead of %d"):format(fragment_bytes, expected) end
    if fragment_bytes > expected then return "field", ("the fragment has %d bytes instead of %d"):format(fragment_bytes, expected) end
end

local function ends(pinfo)
    local from = tostring(pinfo.src) .. ":" .. pinfo.src_port
    local to = tostring(pinfo.dst) .. ":" .. pinfo.dst_port
    return from, to
end

-- Puts a fragment to the others of its message. Notes in `note` which one it is, how many are missing then, and, if none is, the payload.
local function assemble(note, h, text, pinfo)
    local fragment = text:sub(BODY_BYTES + 1)
    if h.length <= h.fragment then
        note.payload = fragment
        return
    end
    local from, to = ends(pinfo)
    -- All of the header but `offset` and the flag of a retransmission.
    local name = table.concat({
        from, to, text:sub(1, 2), string.pack("<I2", h.flags & ~RETRY), text:sub(5, 52), text:sub(57, BODY_BYTES),
    }, "|")
    local message = assemblies[name]
    if not message then
        message = {fragments = {}, count = (h.length + h.fragment - 1) // h.fragment, missing = (h.length + h.fragment - 1) // h.fragment}
        assemblies[name] = message
    end
    local number = h.offset // h.fragment + 1
    if not message.fragments[number] then
        message.fragments[number] = fragment
        message.missing = message.missing - 1
    end
    note.message, note.number, note.missing = message, number, message.missing
    if message.missing == 0 then
        message.complete_in = pinfo.number
        note.payload = table.concat(message.fragments)
        message.fragments = nil
        assemblies[name] = nil
    end
end

-- Notes the request that an answer answers, and the other way round.
local function connect(note, h, pinfo)
    local from, to = ends(pinfo)
    local space = GREETINGS[h.kind] and "greeting" or "request" -- Hellos count by their sender's clock.
    local is_answer = ANSWERS[h.kind]
    local name = table.concat({space, is_answer and to or from, is_answer and from or to, h.request}, "|")
    local request = requests[name]
    if is_answer then
        note.request = request
        if request and h.kind ~= "Working" then request.answer = request.answer or pinfo.number end
    elseif h.kind ~= "Unlocked" then
        if not request or h.flags & RETRY == 0 and h.offset == 0 then
            -- (An id may be used again in a new session.)
            request = {kind = h.kind, frame = pinfo.number, time = pinfo.rel_ts}
            requests[name] = request
        end
        note.asks = request
    end
end

-- Epochs are those of an open datagram's envelope; those of a session are known to be right.
local function first_look(note, text, pinfo, epoch, peer_epoch)
    note.text = text
    if #text < BODY_BYTES then
        note.complaint, note.why = "truncated", "it is too short for a header"
        return
    end
    note.header = parse(text)
    note.complaint, note.why = complaint(note.header, #text - BODY_BYTES, epoch, peer_epoch)
    if note.complaint then return end
    assemble(note, note.header, text, pinfo)
    connect(note, note.header, pinfo)
end

local function flag_names(h)
    local names = {}
    for place, name in ipairs(FLAGS) do
        if h.flags & 1 << (place - 1) ~= 0 then names[#names + 1] = name end
    end
    return names
end

-- What the list of packets says of a header.
local function summary(h, note)
    local words = {h.kind}
    local function add(...) words[#words + 1] = string.format(...) end
    if h.kind == "Reply" and note.request then add("to %s", note.request.kind) end
    if h.status ~= 0 then add("%s", ERRNOS[h.status] or "errno " .. h.status) end
    if h.file ~= 0 then add("file %s", unsigned(h.file)) end
    if OF_PAGE[h.kind] then
        if GETS[h.kind] and h.count > 1 then add("pages %d-%d", h.index, h.index + h.count - 1) else add("page %d", h.index) end
    elseif h.kind == "Write" and h.flags & 1 << 4 == 0 or h.kind == "Allocate" then
        add("at byte %d", h.index)
    end
    for _, name in ipairs(flag_names(h)) do add("%s", name) end
    if h.kind == "Write" then add("%d bytes", h.length) end
    if h.kind == "HelloAck" then add("lease %d us", h.size) end
    if h.kind == "SetSize" or h.kind == "Grant" or h.kind == "Reply" and h.size ~= 0 then add("size %d", h.size) end
    if h.seq ~= 0 then add("seq %d", h.seq) end
    if not GREETINGS[h.kind] then add("#%s", unsigned(h.request)) end
    return table.concat(words, " ")
end

local function show_header(tree, range, h)
    local function add(which, at, bytes, meaning)
        local item = tree:add_le(which, range(at, bytes))
        if meaning then item:append_text(" (" .. meaning .. ")") end
        return item
    end
    add(f.kind, 0, 1)
    add(f.zero, 1, 1)
    local flags = add(f.flags, 2, 2, h.flags ~= 0 and table.concat(flag_names(h), " ") or nil)
    for _, name in ipairs(FLAGS) do flags:add_le(f["flags_" .. name:lower()], range(2, 2)) end
    add(f.status, 4, 2)
    add(f.fragment_size, 6, 2)
    add(f.seq, 8, 8)
    add(f.request, 16, 8)
    add(f.file, 24, 8)
    if OF_PAGE[h.kind] then add(f.page, 32, 8) else add(f.index, 32, 8, INDEX[h.kind]) end
    add(f.size, 40, 8, SIZE[h.kind])
    add(f.length, 48, 4)
    add(f.offset, 52, 4)
    add(f.count, 56, 4, COUNT[h.kind])
end

local function show_fragment(tree, range, note, message)
    tree:add(f.fragment, range)
    tree:add(f.fragment_number, note.number):set_generated()
    tree:add(f.fragment_count, message.count):set_generated()
    tree:add(f.fragment_missing, note.missing):set_generated()
    if message.complete_in then tree:add(f.reassembled_in, message.complete_in):set_generated() end
end

local function show_request(tree, h, note, pinfo)
    local asks, request = note.asks, note.request
    if asks and asks.answer then tree:add(f.answer_in, asks.answer):set_generated() end
    if asks and h.flags & RETRY ~= 0 then
        if asks.frame ~= pinfo.number then tree:add(f.repeats, asks.frame):set_generated() end
        tree:add_proto_expert_info(expert_retry, "Sent again, as no answer had come")
    end
    if request then
        tree:add(f.request_in, request.frame):set_generated()
        local passed = math.floor((pinfo.rel_ts - request.time) * 1e9 + 0.5)
        tree:add(f.time, NSTime.new(passed // 1000000000, passed % 1000000000)):set_generated()
    end
    if h.status ~= 0 then
        tree:add_proto_expert_info(expert_status, "Refused: " .. (ERRNOS[h.status] or "errno " .. h.status))
    end
end

-- Shows the payload; gives a text for the list of packets.
local function show_payload(tree, h, note)
    local shows = PAYLOADS[h.kind]
    if h.kind == "Reply" then shows = note.request and REPLIES[note.request.kind] or data end
    if h.length == 0 or not shows then return end
    local buffer = ByteArray.new(note.payload, true):tvb("VRemote payload")
    local sub = tree:add(vremote, buffer(), ("Payload, %d bytes"):format(h.length))
    local cursor = Cursor.new(buffer)
    local fine, said = pcall(shows, cursor, sub, h)
    if not fine and said ~= SHORT then error(said, 0) end
    if not fine or cursor.left ~= 0 then
        sub:add_proto_expert_info(expert_payload, "This is no payload for a " .. h.kind)
        return
    end
    return said
end

-- Says what a node would make of something malformed; gives a text for the list of packets.
local function complain(tree, counter, why)
    tree:add(f.drop, counter):set_generated():add_proto_expert_info(expert_malformed, "Malformed: " .. why)
    return "malformed: " .. why
end

-- A message, or its fragment, that lies open. `range`: its bytes, if there are any.
local function show_message(tree, range, note, pinfo)
    if note.complaint then
        if note.header then show_header(tree:add(vremote, range(0, BODY_BYTES), "Header"), range, note.header) end
        return complain(tree, note.complaint, note.why)
    end
    local h = note.header
    show_header(tree:add(vremote, range(0, BODY_BYTES), "Header: " .. h.kind), range, h)
    show_request(tree, h, note, pinfo)
    if note.message then show_fragment(tree, range(BODY_BYTES), note, note.message) end
    local text = summary(h, note)
    if note.message then
        local state = note.payload and "complete" or note.missing .. " missing"
        text = ("%s [fragment %d of %d, %s]"):format(text, note.number, note.message.count, state)
    end
    local said = note.payload and show_payload(tree, h, note)
    return said and text .. " " .. said or text
end

-- ---- datagrams

local function show_handshake(tree, buffer, at, what)
    local function add(which, bytes)
        tree:add(which, buffer(at, bytes))
        at = at + bytes
    end
    if what == "Cookie" then
        add(f.nonce, 24)
        add(f.cookie, 16)
    else
        add(f.ephemeral, 32)
        add(f.greeting, 16)
        add(f.mac1, 16)
        add(f.mac2, 16)
    end
end

local HANDSHAKE_TEXT = {First = "Handshake, first message", Second = "Handshake, second message", Cookie = "Cookie: prove your address"}

-- A sealed message: checks the tag and decrypts, once.
local function unseal(note, clear, session, counter, tag, sealed, pinfo)
    local key = key_of(session)
    if not key then return end
    note.right = tag_of(key, counter, clear, sealed) == tag
    if note.right then first_look(note, decrypt(key, counter, sealed), pinfo) end
end

-- One datagram, which begins at byte `at`. Gives how many bytes are its own, nothing if nobody can say, and a text for the list of packets.
local function datagram(buffer, at, pinfo, item)
    local left = buffer:reported_length_remaining(at)
    local here = buffer:len() - at
    local function drop(counter, why)
        return nil, complain(item, counter, why)
    end
    local function cut()
        item:add_proto_expert_info(expert_cut, "The capture has only a part of it")
        return nil, "cut by the capture"
    end
    if left < CLEAR_BYTES then return drop("truncated", "it is too short for an envelope") end
    if here < CLEAR_BYTES then return cut() end
    local clear = buffer:raw(at, CLEAR_BYTES)
    local magic, version, number, length, session, counter = string.unpack("<c4BBI2i8i8", clear)
    item:add(f.magic, buffer(at, 4))
    if magic ~= MAGIC then return drop("magic", "it does not begin with " .. MAGIC) end
    item:add(f.version, buffer(at + 4, 1))
    if version ~= VERSION then return drop("version", "its format has another version") end
    local what = WHAT[number]
    item:add(f.what, buffer(at + 5, 1))
    if not what then return drop("kind", "there is no datagram of kind " .. number) end
    item:add_le(f.text_length, buffer(at + 6, 2))
    item:add_le(what == "Open" and f.peer_epoch or f.session, buffer(at + 8, 8))
    item:add_le(what == "Open" and f.epoch or f.counter, buffer(at + 16, 8))
    local bytes = ENVELOPE_BYTES + length
    if bytes > left then return drop("truncated", ("it has %d bytes less than it says"):format(bytes - left)) end
    if WHOLE_BYTES[what] and (bytes ~= WHOLE_BYTES[what] or at == 0 and left ~= bytes) then
        return drop("field", "it does not have the size of a " .. what)
    end
    if bytes > here then return cut() end
    item:set_len(bytes)
    item:add(f.tag, buffer(at + CLEAR_BYTES, 16))
    local text_at = at + ENVELOPE_BYTES

    local text = HANDSHAKE_TEXT[what]
    if text then
        show_handshake(item, buffer, text_at, what)
        return bytes, text
    end

    local name = pinfo.number .. ":" .. at
    local note = known[name]
    local sealed = length > 0 and buffer:raw(text_at, length) or ""
    if what == "Open" then
        item:add_proto_expert_info(expert_open, "Not encrypted: a module that was loaded with plain=1")
        if not note then
            note = {}
            known[name] = note
            first_look(note, sealed, pinfo, counter, session)
        end
        return bytes, show_message(item, length > 0 and buffer(text_at, length) or nil, note, pinfo)
    end

    if not note then
        note = {}
        known[name] = note
        unseal(note, clear, session, counter, buffer:raw(at + CLEAR_BYTES, 16), sealed, pinfo)
    end
    if length > 0 then item:add(f.text, buffer(text_at, length)) end
    item:add(f.tag_status, note.right == nil and 0 or note.right and 1 or 2):set_generated()
    text = ("Message, %d bytes, counter %s"):format(length, unsigned(counter))
    if note.right == nil then
        if key_log_trouble then
            item:add_proto_expert_info(expert_key_log, key_log_trouble)
        else
            item:add_proto_expert_info(expert_no_key, "There is no key log with a key for this session")
        end
        return bytes, text
    elseif not note.right then
        item:add(f.drop, "forged"):set_generated():add_proto_expert_info(expert_tag, "The tag is wrong: it was damaged or forged")
        return bytes, text .. ", wrong tag"
    elseif note.text == "" then
        return bytes, show_message(item, nil, note, pinfo)
    end
    local plain = ByteArray.new(note.text, true):tvb("VRemote message")
    return bytes, show_message(item, plain(), note, pinfo)
end

-- Segmentation offload makes one packet of several datagrams, each with its padding: so a capture has them.
function vremote.dissector(buffer, pinfo, tree)
    local at, total, texts = 0, buffer:len(), {}
    pinfo.cols.protocol = "VRemote"
    repeat
        local item = tree:add(vremote, buffer(at))
        local bytes, text = datagram(buffer, at, pinfo, item)
        item:append_text(": " .. text)
        texts[#texts + 1] = text
        at = bytes and at + bytes or total
        if at < total then
            local rest = buffer:raw(at)
            local padding = #rest:match("^\0*")
            if rest:sub(padding + 1, padding + #MAGIC) ~= MAGIC then padding = #rest end
            if padding > 0 then tree:add(f.padding, buffer(at, padding)) end
            at = at + padding
        end
    until at >= total
    if #texts > 1 then table.insert(texts, 1, #texts .. " datagrams: ") end
    local more = #texts > 5 and " …" or ""
    pinfo.cols.info = texts[1] .. table.concat(texts, " | ", 2, math.min(#texts, 5)) .. more
    return total
end

-- ---- registration

function vremote.init()
    known, assemblies, requests = {}, {}, {}
    read_keys()
end

local ports, port = DissectorTable.get("udp.port"), nil

local function serve()
    if port == vremote.prefs.port then return end
    if port then ports:remove(port, vremote) end
    port = vremote.prefs.port
    ports:add(port, vremote)
end
vremote.prefs_changed = serve
serve()
