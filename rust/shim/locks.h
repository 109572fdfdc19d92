/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What origin/lock.rs and remote/lock.rs need from C: struct file_lock is randomized and full of lists, its fields are macros and
 * inlines to everybody else.
 */
#ifndef VREMOTE_SHIM_LOCKS_H
#define VREMOTE_SHIM_LOCKS_H

#include <linux/types.h>

struct file;
struct file_lock;

/* A lock as the network knows it. Bytes from start to end, both included; `kind`: 0 none, 1 read, 2 write. */
struct vremote_lock {
	u64 owner;
	u64 start;
	u64 end;
	u32 pid;
	u8 kind;
	bool flock;
	bool wait;
};

/* At a remote */
void vremote_lock_read(const struct file_lock *request, struct vremote_lock *lock);
int vremote_lock_note(struct file *file, struct file_lock *request);
bool vremote_lock_contended(struct file *file);
bool vremote_lock_forget(struct file *file, struct file_lock *request);
bool vremote_lock_find(struct file *file, struct file_lock *request);
void vremote_lock_report(struct file_lock *request, const struct vremote_lock *lock);

/* At the origin */
int vremote_lock_set(struct file *holder, const struct vremote_lock *lock);
int vremote_lock_test(struct file *holder, struct vremote_lock *lock);

#endif
