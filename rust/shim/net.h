/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What net/, config.rs and stats.rs need from C: inline functions, macros, and sequences over structures that the kernel's
 * bindings keep opaque. Every function says in net.c why it is not Rust.
 */
#ifndef VREMOTE_SHIM_NET_H
#define VREMOTE_SHIM_NET_H

#include <linux/net.h>
#include <linux/types.h>
#include <linux/uio.h>

struct sk_buff;
struct task_struct;
struct workqueue_struct;

/* One UDP socket; addresses and ports are in host order. */
int vremote_net_open(u16 port, struct socket **sock, u16 *bound);
void vremote_net_shutdown(struct socket *sock);
int vremote_net_send(struct socket *sock, u32 address, u16 port, struct kvec *parts, size_t count, size_t bytes,
		     u16 segment);
bool vremote_net_backlog(struct socket *sock);

/* What arrived in one go; address and port of the sender, in host order. */
struct vremote_packet {
	struct sk_buff *skb;
	u32 bytes;
	u32 segment;
	u32 address;
	u16 port;
};

int vremote_net_receive(struct socket *sock, struct vremote_packet *packet);
void vremote_net_free(struct sk_buff *skb);

/* Threads and delayed work */
struct task_struct *vremote_net_thread(int (*run)(void *data), void *data, const char *name);
void vremote_net_thread_begin(void);
unsigned int vremote_net_noio_begin(void);
void vremote_net_noio_end(unsigned int flags);
struct workqueue_struct *vremote_net_workqueue(const char *name, bool urgent);
void vremote_net_workqueue_flush(struct workqueue_struct *queue);
int vremote_net_timer_start(void (*run)(void));
void vremote_net_timer_arm(u64 microseconds);
void vremote_net_timer_stop(void);

/* The node, and logging */
void vremote_net_nodename(u8 *name, size_t bytes);
bool vremote_net_may_log(void);

#endif
