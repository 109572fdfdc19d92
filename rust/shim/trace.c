// SPDX-License-Identifier: GPL-2.0
/* See trace.h. Trace events are macros over inline functions. */

#include "trace.h"

#define CREATE_TRACE_POINTS
#include "vremote_events.h"

void vremote_trace_message(bool sent, const u8 *peer, size_t peer_bytes, const struct vremote_trace_message *message)
{
	trace_vremote_message(sent, peer, peer_bytes, message);
}

void vremote_trace_peer(const u8 *peer, size_t peer_bytes, const u8 *what, size_t what_bytes)
{
	trace_vremote_peer(peer, peer_bytes, what, what_bytes);
}

void vremote_trace_directory(u64 file, u64 index, u64 seq, int owner, unsigned int sharers, u8 home)
{
	trace_vremote_directory(file, index, seq, owner, sharers, home);
}

void vremote_trace_copy(u64 file, u64 index, u64 seq, u8 state)
{
	trace_vremote_copy(file, index, seq, state);
}
