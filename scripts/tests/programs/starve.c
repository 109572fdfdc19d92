// SPDX-License-Identifier: GPL-2.0
/*
 * starve FILE: every call that it makes on the file, in each of many ways, is made again and again: the first time the first allocation of
 * the kernel for it fails, then the second one, and so on until it has no more that could. What a call says must be so: if it succeeds it
 * has done its work; if it fails it has said ENOMEM (or another errno that is allowed below), and the file is as it was or as it should
 * be. With memory it then works. The kernel counts the allocations (/proc/thread-self/fail-nth).
 *
 * Prints for each call how many allocations failed, and how it ended then; status 1 and the reason at the first thing that is wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, MOST = 400 };

static const char *path;
static char model[PAGES * PAGE], fresh[PAGES * PAGE], seen[2 * PAGES * PAGE];
static off_t size = sizeof(model);
static int fd, nth, spare = -1;
static char other[4096];
static sigjmp_buf fault;

static void wrong(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	fputs("wrong: ", stdout);
	vprintf(format, list);
	puts("");
	exit(1);
}

static void set(int n)
{
	char text[16];
	int bytes = snprintf(text, sizeof(text), "%d", n);

	if (pwrite(nth, text, bytes, 0) != bytes)
		wrong("fail-nth: %s", strerror(errno));
}

/* Whether the n-th allocation has come, and failed. */
static int came(void)
{
	char text[16] = "";

	if (pread(nth, text, sizeof(text) - 1, 0) < 1)
		wrong("fail-nth: %s", strerror(errno));
	return atoi(text) == 0;
}

/* The calls. Each returns 0 or an errno. */

static int do_open(void)
{
	spare = open(path, O_RDWR);
	return spare < 0 ? errno : 0;
}
static int do_read(void)
{
	ssize_t got = pread(fd, seen, sizeof(seen), 0);

	if (got < 0)
		return errno;
	if (got > size)
		wrong("read: %zd bytes of %lld", got, (long long)size);
	if (memcmp(seen, model, got))
		wrong("read: other bytes");
	return got == size ? 0 : EAGAIN; /* a short read */
}
static int do_write(void)
{
	ssize_t put = pwrite(fd, fresh + 100, 5 * PAGE, 100);

	return put < 0 ? errno : put == 5 * PAGE ? 0 : EAGAIN;
}
static int do_small(void)
{
	ssize_t put = pwrite(fd, fresh + 9 * PAGE + 7, 20, 9 * PAGE + 7);

	return put < 0 ? errno : put == 20 ? 0 : EAGAIN;
}
static int do_store(void)
{
	char *map;
	int error = 0;

	map = mmap(NULL, sizeof(model), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return errno;
	if (sigsetjmp(fault, 1))
		error = EFAULT;
	else
		memcpy(map + 12 * PAGE, fresh + 12 * PAGE, 2 * PAGE);
	munmap(map, sizeof(model));
	return error;
}
static int do_load(void)
{
	char *map;
	int error = 0;

	map = mmap(NULL, sizeof(model), PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return errno;
	if (sigsetjmp(fault, 1))
		error = EFAULT;
	else if (memcmp(map, model, sizeof(model)))
		wrong("load: other bytes");
	munmap(map, sizeof(model));
	return error;
}
static int do_fsync(void)
{
	return fsync(fd) ? errno : 0;
}
static int do_truncate(void)
{
	return ftruncate(fd, 14 * PAGE) ? errno : 0;
}
static int do_append(void) /* fills it up again */
{
	ssize_t put = pwrite(fd, fresh + 14 * PAGE, 2 * PAGE, 14 * PAGE);

	return put < 0 ? errno : put == 2 * PAGE ? 0 : EAGAIN;
}
static int do_punch(void)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, PAGE) ? errno : 0;
}
static int do_stat(void)
{
	struct stat st;

	if (stat(path, &st))
		return errno;
	if (st.st_size != size)
		wrong("stat: %lld bytes instead of %lld", (long long)st.st_size, (long long)size);
	return 0;
}
static int do_lock(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10 };

	return fcntl(fd, F_SETLK, &lock) ? errno : 0;
}
static int do_unlock(void)
{
	struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_SETLK, &lock) ? errno : 0;
}
static int do_link(void)
{
	return link(path, other) ? errno : 0;
}
static int do_unlink(void)
{
	return unlink(other) ? errno : 0;
}
static int do_xattr(void)
{
	return setxattr(path, "user.starve", "some", 4, 0) ? errno : 0;
}
static int do_close(void)
{
	return close(spare) ? errno : 0;
}

/* What a call may have done to the file when it has failed: 0 nothing; else the range that may be new. */
struct call {
	const char *name;
	int (*make)(void);
	off_t from, to;	/* bytes of `fresh` that it writes */
	off_t grown;	/* size after it, if it sets that */
	int hole;	/* it writes zeros instead */
	int once;	/* what says that it has been done before, which a failed call may have */
};

static const struct call calls[] = {
	{ .name = "open", .make = do_open },
	{ .name = "read", .make = do_read },
	{ .name = "load", .make = do_load },
	{ .name = "write", .make = do_write, .from = 100, .to = 100 + 5 * PAGE },
	{ .name = "write in a page", .make = do_small, .from = 9 * PAGE + 7, .to = 9 * PAGE + 27 },
	{ .name = "store", .make = do_store, .from = 12 * PAGE, .to = 14 * PAGE },
	{ .name = "fsync", .make = do_fsync },
	{ .name = "truncate", .make = do_truncate, .grown = 14 * PAGE },
	{ .name = "write at the end", .make = do_append, .from = 14 * PAGE, .to = 16 * PAGE, .grown = 16 * PAGE },
	{ .name = "punch a hole", .make = do_punch, .from = 2 * PAGE, .to = 3 * PAGE, .hole = 1 },
	{ .name = "stat", .make = do_stat },
	{ .name = "lock", .make = do_lock },
	{ .name = "unlock", .make = do_unlock },
	{ .name = "link", .make = do_link, .once = EEXIST },
	{ .name = "unlink", .make = do_unlink, .once = ENOENT },
	{ .name = "setxattr", .make = do_xattr },
	{ .name = "close", .make = do_close, .once = EBADF },
};

static void renew(const struct call *call, unsigned int n)
{
	off_t at;

	memcpy(fresh, model, sizeof(fresh));
	for (at = call->from; at < call->to; at++)
		fresh[at] = call->hole ? 0 : (char)(n * 31 + at * 7 + 1);
}

/* What the file has, without faults: as it was, or as the call makes it, byte by byte; after a call that succeeded, the latter. */
static void verify(const struct call *call, int done)
{
	ssize_t got = pread(fd, seen, sizeof(seen), 0);
	off_t after = call->grown ? call->grown : size, at;

	if (got < 0)
		wrong("%s: the file cannot be read afterwards: %s", call->name, strerror(errno));
	/* A write at the end may have come to an end in between. */
	if (done ? got != after : got < (size < after ? size : after) || got > (size > after ? size : after))
		wrong("%s (%s): %zd bytes, %lld before", call->name, done ? "done" : "failed", got, (long long)size);
	for (at = 0; at < got; at++) {
		int in = at >= call->from && at < call->to;

		if (in && seen[at] == fresh[at])
			continue;
		if ((!in || !done) && at < size && seen[at] == model[at])
			continue;
		wrong("%s (%s): byte %lld is %d; it was %d and is to be %d", call->name, done ? "done" : "failed", (long long)at, seen[at], model[at], fresh[at]);
	}
	size = got;
	memset(model, 0, sizeof(model));
	memcpy(model, seen, got);
}

static int allowed(int error)
{
	/* EAGAIN: a short count. EFAULT: SIGBUS. EIO: a page could not be fetched. That nobody says ETIMEDOUT is for the test to see. */
	return error == ETIMEDOUT || error == ENOMEM || error == EAGAIN || error == EFAULT || error == EIO || error == ENOLCK || error == ENOBUFS;
}

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(fault, 1);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_bus };
	unsigned int i;

	if (argc != 2)
		return 2;
	path = argv[1];
	snprintf(other, sizeof(other), "%s.other", path);
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGBUS, &action, NULL);
	fd = open(path, O_RDWR);
	nth = open("/proc/thread-self/fail-nth", O_RDWR);
	if (fd < 0 || nth < 0 || mlockall(MCL_CURRENT | MCL_FUTURE)) {
		perror(path);
		return 2;
	}
	munlockall(); /* it was to have all pages in; mappings of the file must come one by one */
	if (pread(fd, model, sizeof(model), 0) != sizeof(model)) {
		perror(path);
		return 2;
	}
	for (i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		const struct call *call = &calls[i];
		unsigned int n, failed = 0, fine = 0, kinds[256] = { 0 };

		for (n = 1; n <= MOST; n++) {
			int error, injected;

			/* What is kept goes, so that there is something to allocate. */
			if (call->make != do_fsync) {
				fsync(fd);
				posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
			} else {
				/* This write is confirmed, and stays so whatever comes of the fsync. */
				memset(model + 3 * PAGE, n, 2 * PAGE);
				if (pwrite(fd, model + 3 * PAGE, 2 * PAGE, 3 * PAGE) != 2 * PAGE)
					wrong("write: %s", strerror(errno));
			}
			if (call->make == do_truncate || call->make == do_append) {
				/* Both change the size, and have to find it as they need it. */
				if (ftruncate(fd, call->make == do_append ? 14 * PAGE : 16 * PAGE))
					wrong("%s: the size cannot be set: %s", call->name, strerror(errno));
				off_t now = call->make == do_append ? 14 * PAGE : 16 * PAGE;

				if (now < size)
					memset(model + now, 0, size - now);
				size = now;
			}
			if (call->make == do_close && n > 1 && do_open())
				wrong("open: %s", strerror(errno));
			renew(call, n);
			set(n);
			error = call->make();
			injected = came();
			set(0);
			if (injected && error) {
				if (!allowed(error))
					wrong("%s: allocation %u fails: %s", call->name, n, strerror(error));
				failed++;
				kinds[error & 255]++;
				verify(call, 0);
				/* Now that there is memory. A close is over in any case. */
				error = call->make == do_close ? 0 : call->make();
				if (error && error == call->once)
					error = 0;
			} else if (injected) {
				fine++;
			}
			if (error)
				wrong("%s, with memory (after allocation %u): %s", call->name, n, strerror(error));
			verify(call, 1);
			if (call->make == do_open && injected)
				close(spare);
			if (call->make == do_link && injected)
				unlink(other);
			if (call->make == do_unlink && injected && link(path, other))
				wrong("link: %s", strerror(errno));
			if (!injected)
				break;
		}
		printf("%s: %u allocations failed, and the call %u times:", call->name, failed + fine, failed);
		for (n = 0; n < 256; n++)
			if (kinds[n])
				printf(" %s %u", n == EAGAIN ? "short" : n == EFAULT ? "SIGBUS" : strerrorname_np(n), kinds[n]);
		puts("");
	}
	puts("done");
	return 0;
}
