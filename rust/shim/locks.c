// SPDX-License-Identifier: GPL-2.0
/*
 * Locks of files, by fcntl(2) and flock(2). C because struct file_lock is randomized, and its fields are read through macros and
 * set up by inlines.
 */
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/once.h>
#include <linux/random.h>
#include <linux/siphash.h>

#include "locks.h"

static const unsigned char types[] = { F_UNLCK, F_RDLCK, F_WRLCK };

static u8 kind_of(unsigned char type)
{
	return type == F_RDLCK ? 1 : type == F_WRLCK ? 2 : 0;
}

/*
 * An owner is an address of this kernel: other nodes get a keyed hash of it, which is as good to compare. Two owners of one file with
 * the same 64 bits are not to be expected.
 */
static u64 name_of(fl_owner_t owner)
{
	static siphash_key_t key;

	get_random_once(&key, sizeof(key));
	return siphash_1u64((unsigned long)owner, &key);
}

void vremote_lock_read(const struct file_lock *request, struct vremote_lock *lock)
{
	*lock = (struct vremote_lock){
		.owner = name_of(request->c.flc_owner),
		.start = request->fl_start,
		.end = request->fl_end,
		.pid = max(request->c.flc_pid, 0),
		.kind = kind_of(request->c.flc_type),
		.flock = request->c.flc_flags & FL_FLOCK,
		.wait = request->c.flc_flags & FL_SLEEP,
	};
}

/* Notes in this kernel's own tables what the origin has granted, so that it is given back when the owner closes the file. */
int vremote_lock_note(struct file *file, struct file_lock *request)
{
	return locks_lock_file_wait(file, request);
}

static bool any_wanted(struct file *file, struct list_head *locks)
{
	struct file_lock *lock;

	for_each_file_lock(lock, locks)
		if (lock->c.flc_file == file && !list_empty(&lock->c.flc_blocked_requests))
			return true;
	return false;
}

/* Whether a task of this kernel waits for a lock that was made by this descriptor. */
bool vremote_lock_contended(struct file *file)
{
	struct file_lock_context *context = locks_inode_context(file_inode(file));
	bool wanted;

	if (!context)
		return false;
	spin_lock(&context->flc_lock);
	wanted = any_wanted(file, &context->flc_posix) || any_wanted(file, &context->flc_flock);
	spin_unlock(&context->flc_lock);
	return wanted;
}

/* Forgets what is noted in the range of the request. Says whether there was anything. */
bool vremote_lock_forget(struct file *file, struct file_lock *request)
{
	unsigned char type = request->c.flc_type;
	unsigned int flags = request->c.flc_flags;
	int status;

	request->c.flc_type = F_UNLCK;
	request->c.flc_flags |= FL_EXISTS;
	status = locks_lock_file_wait(file, request);
	request->c.flc_type = type;
	request->c.flc_flags = flags;
	return status != -ENOENT;
}

/* Whether F_GETLK finds something among the locks of this node; then the request says what. */
bool vremote_lock_find(struct file *file, struct file_lock *request)
{
	unsigned char type = request->c.flc_type;

	posix_test_lock(file, request);
	if (request->c.flc_type != F_UNLCK)
		return true;
	request->c.flc_type = type;
	return false;
}

/* What F_GETLK finds. The owner runs somewhere else, so its number says nothing here: negative, as lockd does it. */
void vremote_lock_report(struct file_lock *request, const struct vremote_lock *lock)
{
	request->c.flc_type = types[lock->kind];
	if (!lock->kind)
		return;
	request->fl_start = lock->start;
	request->fl_end = lock->end;
	request->c.flc_pid = -(pid_t)lock->pid;
}

static void fill(struct file_lock *fl, struct file *holder, const struct vremote_lock *lock)
{
	locks_init_lock(fl);
	fl->c.flc_file = holder;
	fl->c.flc_owner = holder;
	fl->c.flc_flags = lock->flock ? FL_FLOCK : FL_POSIX;
	fl->c.flc_type = types[lock->kind];
	fl->c.flc_pid = -(pid_t)lock->pid;
	fl->fl_start = lock->start;
	fl->fl_end = lock->end;
}

/* Does not wait: -EAGAIN if it would have to. */
int vremote_lock_set(struct file *holder, const struct vremote_lock *lock)
{
	struct file_lock fl;
	int status;

	fill(&fl, holder, lock);
	if (!lock->flock)
		status = vfs_lock_file(holder, F_SETLK, &fl, NULL);
	else if (holder->f_op->flock)
		status = holder->f_op->flock(holder, F_SETLK, &fl);
	else
		status = locks_lock_file_wait(holder, &fl);
	locks_release_private(&fl);
	return status;
}

/* By fcntl(2) only. What is in the way, or kind 0. */
int vremote_lock_test(struct file *holder, struct vremote_lock *lock)
{
	struct file_lock fl;
	int status;

	fill(&fl, holder, lock);
	status = vfs_test_lock(holder, &fl);
	if (!status) {
		lock->kind = kind_of(fl.c.flc_type);
		lock->start = fl.fl_start;
		lock->end = fl.fl_end;
		lock->pid = abs(fl.c.flc_pid);
	}
	locks_release_private(&fl);
	return status;
}
