/* SPDX-License-Identifier: MIT */
/*
 * VRemote: files of other nodes, and children on them. Link with -lvremote (pkg-config vremote).
 *
 * Made from userspace/libvremote/src/c.rs; do not edit.
 */

#ifndef VREMOTE_H
#define VREMOTE_H

#include <fcntl.h>
#include <sys/types.h>
#include <sys/wait.h>

/* Flags of open(2). The numbers are octal. */
#ifndef O_ORIGIN
#define O_ORIGIN 00000010 /* with O_REMOTE: share this local file with other nodes while it is open */
#endif
#ifndef O_REMOTE
#define O_REMOTE 00000020 /* open the file of another node */
#endif

/**
 * vremote_available(): a stock kernel. It ignores O_REMOTE and O_ORIGIN, and opens, or truncates, the local file: do not use them.
 */
#define VREMOTE_STOCK_KERNEL 0

/**
 * vremote_available(): the kernel knows the flags, but the module vremote is not loaded: open() with them fails with EOPNOTSUPP.
 */
#define VREMOTE_NO_MODULE 1

/**
 * vremote_available(): O_REMOTE and O_ORIGIN work.
 */
#define VREMOTE_AVAILABLE 2

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Whether O_REMOTE and O_ORIGIN can be used: one of the three values above. Never fails; asks no other node, and leaves errno alone.
 */
int vremote_available(void);

/**
 * Like fork(), but the child runs on the node at the IPv4 address `ip`: there it gets 0; the caller gets its number, which is what
 * getpid() says in the child. Both then run at the same time. Its open files and its program follow page by page.
 *
 * The child is the leader of a session of its own; its standard input, output and error are /dev/null if they were a terminal, a pipe or a
 * socket. Other pipes and sockets must not be open, and its working directory must be on the other node, too, or be shared. It is no child
 * for wait(): use vremote_wait(). It cannot be moved on by vremote-migrate.
 *
 * Returns -1 and sets errno, and then there is no child:
 *
 * EINVAL: `ip` is no IPv4 address. EHOSTDOWN: vremoted does not run on this node. EHOSTUNREACH: no peer has that address, or it cannot be
 * reached. EACCES: the two nodes have no common key. EBUSY: the program has something that cannot be moved, such as a socket. EAGAIN,
 * ENOMEM: no process can be made. EMFILE, ENFILE: no descriptor. EPERM: the daemon refuses it. EPROTO: library and daemon are of different
 * releases. EIO: anything else; if the other node was lost in the moment in which the child was to begin there, it may have begun, and is
 * killed when that node is back. The log of vremoted says the reason in words.
 *
 * # Safety
 *
 * `ip` is NULL or a string. For what a child of a program with several threads may do, see fork(2).
 */
pid_t vremote_fork(const char *ip);

/**
 * The old name of vremote_fork().
 *
 * # Safety
 *
 * As vremote_fork().
 */
pid_t myfork(const char *ip);

/**
 * Like waitpid() for a child of vremote_fork(): waits for its end and stores its status, for WIFEXITED() and so on, unless `status` is
 * NULL. `options`: 0, or WNOHANG not to wait. Returns `child`; 0 with WNOHANG if the child has not ended.
 *
 * Returns -1 and sets errno: ECHILD: no such child of this process, or it was waited for before. EINVAL: unknown options. EINTR: a
 * signal handler ran. EHOSTUNREACH: the child's node has not answered for 60 s: the child may run on, and can be waited for again; or that
 * node does not know the child any more: it is lost, and waiting again is ECHILD. EHOSTDOWN: vremoted does not run on this node.
 *
 * vremoted keeps children in its memory. If that of this node ends during the wait, it is EHOSTDOWN; once it has been started anew, ECHILD: the
 * child may run on, but how it ends cannot be learnt any more. If that of the child's node is started anew, the child may run on as well, but is
 * not known there: EHOSTUNREACH once, and then ECHILD.
 *
 * # Safety
 *
 * `status` is NULL or can be written.
 */
pid_t vremote_wait(pid_t child,
                   int *status,
                   int options);

/**
 * Like kill() for a child of vremote_fork(). Returns 0, or -1 and sets errno: ESRCH: no such child of this process, or it has ended.
 * EINVAL: no such signal, or one for real time. EHOSTUNREACH: its node cannot be reached. EHOSTDOWN: vremoted does not run on this node.
 */
int vremote_kill(pid_t child,
                 int signal);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VREMOTE_H */
