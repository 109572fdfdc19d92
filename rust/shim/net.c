// SPDX-License-Identifier: GPL-2.0
/* See net.h. */

#include <linux/in.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/net.h>
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>
#include <linux/socket.h>
#include <linux/udp.h>
#include <linux/utsname.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/udp.h>

#include "net.h"

/* Room for the datagrams of several thousand pages in flight; counted with the kernel's overhead. */
#define VREMOTE_BUFFER (16 << 20)

static int set_option(struct socket *sock, int level, int name, int value)
{
	return do_sock_setsockopt(sock, false, level, name, KERNEL_SOCKPTR(&value), sizeof(value));
}

/*
 * struct sock is opaque to Rust, and the options are macros. May sleep. The socket allocates with GFP_NOIO: its packets
 * write dirty pages home when memory is short.
 */
int vremote_net_open(u16 port, struct socket **result, u16 *bound)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct socket *sock;
	int err;

	err = sock_create_kern(&init_net, AF_INET, SOCK_DGRAM, IPPROTO_UDP, &sock);
	if (err)
		return err;
	sock->sk->sk_allocation = GFP_NOIO;
	sock->sk->sk_use_task_frag = false;
	sock->sk->sk_rcvtimeo = HZ;
	err = set_option(sock, SOL_SOCKET, SO_SNDBUFFORCE, VREMOTE_BUFFER) ?:
	      set_option(sock, SOL_SOCKET, SO_RCVBUFFORCE, VREMOTE_BUFFER) ?:
	      set_option(sock, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE) ?:
	      set_option(sock, SOL_UDP, UDP_GRO, 1) ?:
	      kernel_bind(sock, (struct sockaddr_unsized *)&name, sizeof(name));
	if (err)
		goto release;
	err = kernel_getsockname(sock, (struct sockaddr *)&name);
	if (err < 0)
		goto release;
	*bound = ntohs(name.sin_port);
	*result = sock;
	return 0;
release:
	sock_release(sock);
	return err;
}

/* SHUT_RDWR is an enum that bindgen renames. Whoever waits in vremote_net_receive wakes up. */
void vremote_net_shutdown(struct socket *sock)
{
	kernel_sock_shutdown(sock, SHUT_RDWR);
}

/*
 * Control messages are made of macros. Sends the parts as datagrams of `segment` bytes each (the last one may be shorter),
 * or, with segment 0, as one datagram. Never waits for buffer space.
 */
int vremote_net_send(struct socket *sock, u32 address, u16 port, struct kvec *parts, size_t count, size_t bytes,
		     u16 segment)
{
	struct sockaddr_in name = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(address),
	};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(u16))];
	} control = {};
	struct msghdr message = {
		.msg_name = &name,
		.msg_namelen = sizeof(name),
		.msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL,
	};
	int sent;

	if (segment) {
		control.header.cmsg_level = SOL_UDP;
		control.header.cmsg_type = UDP_SEGMENT;
		control.header.cmsg_len = CMSG_LEN(sizeof(segment));
		memcpy(CMSG_DATA(&control.header), &segment, sizeof(segment));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
	}
	sent = kernel_sendmsg(sock, &message, parts, count, bytes);
	return sent < 0 ? sent : 0;
}

/*
 * struct sk_buff is opaque to Rust, and its parts are reached through inlines. The next packet with an intact checksum: several
 * datagrams of `segment` bytes each but the last one if the kernel has joined them, else one, and segment 0. Waits for at most
 * a second (EAGAIN). After vremote_net_shutdown there is none, and no error. Who takes the packet frees it (vremote_net_free).
 */
int vremote_net_receive(struct socket *sock, struct vremote_packet *packet)
{
	struct sk_buff *skb;
	int err;

	packet->skb = NULL;
	skb = skb_recv_udp(sock->sk, 0, &err);
	if (!skb)
		return sock->sk->sk_shutdown & RCV_SHUTDOWN ? 0 : err;
	if (skb_checksum_complete(skb)) {
		kfree_skb(skb);
		return -EBADMSG;
	}
	packet->skb = skb;
	packet->bytes = skb->len;
	packet->segment = skb_is_gso(skb) ? skb_shinfo(skb)->gso_size : 0;
	packet->address = ntohl(ip_hdr(skb)->saddr);
	packet->port = ntohs(udp_hdr(skb)->source);
	return 0;
}

/* Inline. */
void vremote_net_free(struct sk_buff *skb)
{
	consume_skb(skb);
}

/* Both queues of a UDP socket are reached through inlines only. A hint: nothing is locked. */
bool vremote_net_backlog(struct socket *sock)
{
	return !skb_queue_empty_lockless(&udp_sk(sock->sk)->reader_queue) ||
	       !skb_queue_empty_lockless(&sock->sk->sk_receive_queue);
}

/* kthread_run is a macro. The thread must not return before kthread_stop. */
struct task_struct *vremote_net_thread(int (*run)(void *data), void *data, const char *name)
{
	return kthread_run(run, data, "%s", name);
}

/* Inline: what this thread allocates waits for no I/O, as much of that I/O ends only when the thread goes on. */
void vremote_net_thread_begin(void)
{
	memalloc_noio_save();
}

/* Inline, both: the same for a while. */
unsigned int vremote_net_noio_begin(void)
{
	return memalloc_noio_save();
}

void vremote_net_noio_end(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

/* alloc_workqueue is a macro, its flags are an enum that changes with the kernel. */
struct workqueue_struct *vremote_net_workqueue(const char *name, bool urgent)
{
	return alloc_workqueue("%s", WQ_UNBOUND | WQ_MEM_RECLAIM | (urgent ? WQ_HIGHPRI : 0), 0, name);
}

/* flush_workqueue is a macro. */
void vremote_net_workqueue_flush(struct workqueue_struct *queue)
{
	__flush_workqueue(queue);
}

/*
 * One delayed work for the whole module: cancelling one is missing in kernel::workqueue. It sends writes again, so what it
 * allocates waits for no I/O.
 */
static struct workqueue_struct *timer_queue;
static void (*timer_run)(void);

static void timer_work(struct work_struct *work)
{
	unsigned int flags = memalloc_noio_save();

	timer_run();
	memalloc_noio_restore(flags);
}

static DECLARE_DELAYED_WORK(timer, timer_work);

int vremote_net_timer_start(void (*run)(void))
{
	timer_run = run;
	timer_queue = vremote_net_workqueue("vremote_timer", true);
	return timer_queue ? 0 : -ENOMEM;
}

/* In any context; moves the work to that time from now. */
void vremote_net_timer_arm(u64 microseconds)
{
	mod_delayed_work(timer_queue, &timer, usecs_to_jiffies(min_t(u64, microseconds, 60 * USEC_PER_SEC)));
}

/* The caller takes care that nothing arms it again. */
void vremote_net_timer_stop(void)
{
	cancel_delayed_work_sync(&timer);
	destroy_workqueue(timer_queue);
	timer_queue = NULL;
}

/* Inline; the name may change at any time, so it is copied. */
void vremote_net_nodename(u8 *name, size_t bytes)
{
	strscpy((char *)name, init_utsname()->nodename, bytes);
}

/* A rate limit is a macro. */
bool vremote_net_may_log(void)
{
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 20);

	return __ratelimit(&limit);
}
