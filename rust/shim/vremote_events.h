/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events, below events/vremote in tracefs. Off, each costs one jump that is not taken.
 *
 *	echo 1 > /sys/kernel/tracing/events/vremote/enable; cat /sys/kernel/tracing/trace_pipe
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vremote

#if !defined(VREMOTE_SHIM_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define VREMOTE_SHIM_EVENTS_H

#include <linux/tracepoint.h>

/* The numbers of Kind and of flags in rust/proto/wire.rs. */
#define vremote_kinds \
	{ 1, "Hello" }, { 2, "HelloAck" }, { 3, "Reply" }, { 16, "Lookup" }, { 17, "Open" }, { 18, "Close" }, \
	{ 19, "GetAttr" }, { 20, "SetSize" }, { 21, "Write" }, { 22, "Commit" }, { 23, "List" }, { 24, "ReadLink" }, \
	{ 25, "Make" }, { 26, "Link" }, { 27, "Remove" }, { 28, "Rename" }, { 29, "SetAttr" }, \
	{ 30, "Lock" }, { 31, "Allocate" }, { 32, "GetShared" }, { 33, "GetModified" }, \
	{ 34, "Grant" }, { 35, "Invalidate" }, { 36, "Recall" }, { 37, "Ack" }, { 38, "Put" }, \
	{ 39, "GetXattr" }, { 40, "SetXattr" }, { 41, "ListXattr" }, \
	{ 42, "Unlocked" }, { 43, "Working" }, { 44, "StatFs" }, \
	{ 45, "GetFileAttr" }, { 46, "SetFileAttr" }
#define vremote_flags \
	{ 1, "WRITE" }, { 2, "DATA" }, { 4, "KEEP" }, { 8, "HAVE" }, { 16, "APPEND" }, { 32, "RETRY" }, \
	{ 64, "DATASYNC" }, { 128, "TOUCHED" }

/* A whole message, sent or received. */
TRACE_EVENT(vremote_message,
	TP_PROTO(bool sent, const u8 *peer, size_t peer_bytes, const struct vremote_trace_message *m),
	TP_ARGS(sent, peer, peer_bytes, m),
	TP_STRUCT__entry(
		__field(bool, sent)
		__array(char, peer, 32)
		__field(u8, kind)
		__field(u16, flags)
		__field(u16, status)
		__field(u32, length)
		__field(u32, count)
		__field(u64, file)
		__field(u64, index)
		__field(u64, seq)
		__field(u64, request)
	),
	TP_fast_assign(
		size_t n = min_t(size_t, peer_bytes, 31);

		__entry->sent = sent;
		memcpy(__entry->peer, peer, n);
		__entry->peer[n] = 0;
		__entry->kind = m->kind;
		__entry->flags = m->flags;
		__entry->status = m->status;
		__entry->length = m->length;
		__entry->count = m->count;
		__entry->file = m->file;
		__entry->index = m->index;
		__entry->seq = m->seq;
		__entry->request = m->request;
	),
	TP_printk("%s %s %s file=%llu page=%llu seq=%llu request=%llx flags=%s count=%u bytes=%u status=%u",
		  __entry->sent ? "to" : "from", __entry->peer, __print_symbolic(__entry->kind, vremote_kinds),
		  __entry->file, __entry->index, __entry->seq, __entry->request,
		  __print_flags(__entry->flags, "|", vremote_flags), __entry->count, __entry->length,
		  __entry->status)
);

/* The record of a page at its origin changed. owner: slot of a peer, -1 for none. home: M, S or I, what the origin has. */
TRACE_EVENT(vremote_directory,
	TP_PROTO(u64 file, u64 index, u64 seq, int owner, unsigned int sharers, char home),
	TP_ARGS(file, index, seq, owner, sharers, home),
	TP_STRUCT__entry(
		__field(u64, file)
		__field(u64, index)
		__field(u64, seq)
		__field(int, owner)
		__field(unsigned int, sharers)
		__field(char, home)
	),
	TP_fast_assign(
		__entry->file = file;
		__entry->index = index;
		__entry->seq = seq;
		__entry->owner = owner;
		__entry->sharers = sharers;
		__entry->home = home;
	),
	TP_printk("file=%llu page=%llu home=%c owner=%d sharers=%u seq=%llu", __entry->file, __entry->index,
		  __entry->home, __entry->owner, __entry->sharers, __entry->seq)
);

/* The state of a page at a remote changed: M, S, I, or W while it is being written back. */
TRACE_EVENT(vremote_copy,
	TP_PROTO(u64 file, u64 index, u64 seq, char state),
	TP_ARGS(file, index, seq, state),
	TP_STRUCT__entry(
		__field(u64, file)
		__field(u64, index)
		__field(u64, seq)
		__field(char, state)
	),
	TP_fast_assign(
		__entry->file = file;
		__entry->index = index;
		__entry->seq = seq;
		__entry->state = state;
	),
	TP_printk("file=%llu page=%llu state=%c seq=%llu", __entry->file, __entry->index, __entry->state, __entry->seq)
);

/* The session with a peer, in words: up, down, started anew, fenced. */
TRACE_EVENT(vremote_peer,
	TP_PROTO(const u8 *peer, size_t peer_bytes, const u8 *what, size_t what_bytes),
	TP_ARGS(peer, peer_bytes, what, what_bytes),
	TP_STRUCT__entry(
		__array(char, peer, 32)
		__array(char, what, 96)
	),
	TP_fast_assign(
		size_t n = min_t(size_t, peer_bytes, 31);

		memcpy(__entry->peer, peer, n);
		__entry->peer[n] = 0;
		n = min_t(size_t, what_bytes, 95);
		memcpy(__entry->what, what, n);
		__entry->what[n] = 0;
	),
	TP_printk("peer=%s what=%s", __entry->peer, __entry->what)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE vremote_events
#include <trace/define_trace.h>
