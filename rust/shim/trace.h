/* SPDX-License-Identifier: GPL-2.0 */
/* What trace.rs needs from C: trace events are macros. */
#ifndef VREMOTE_SHIM_TRACE_H
#define VREMOTE_SHIM_TRACE_H

#include <linux/types.h>

/* The fields of a message's header that are traced. */
struct vremote_trace_message {
	u64 file;
	u64 index;
	u64 seq;
	u64 request;
	u32 length;
	u32 count;
	u16 flags;
	u16 status;
	u8 kind;
};

void vremote_trace_message(bool sent, const u8 *peer, size_t peer_bytes, const struct vremote_trace_message *message);
void vremote_trace_peer(const u8 *peer, size_t peer_bytes, const u8 *what, size_t what_bytes);
void vremote_trace_directory(u64 file, u64 index, u64 seq, int owner, unsigned int sharers, u8 home);
void vremote_trace_copy(u64 file, u64 index, u64 seq, u8 state);

#endif
