/* SPDX-License-Identifier: MIT */
/*
 * Adds up the numbers below N on two nodes: the even ones here, the odd ones on the node at ADDRESS. The child leaves its result in
 * FILE, which it has open since before it left, so the bytes come back by themselves; and tells by its exit status that it is done.
 *
 *	cc -o sum sum.c $(pkg-config --cflags --libs vremote) && ./sum ADDRESS N FILE
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vremote.h>

/* What the child says. */
struct part {
	uint64_t sum;
	int32_t pid;
	char node[65];
};

/* The exit status of a child that has written its part. */
#define DONE 42

static uint64_t add(uint64_t from, uint64_t below)
{
	uint64_t sum = 0;

	for (uint64_t n = from; n < below; n += 2)
		sum += n;
	return sum;
}

static int die(const char *what)
{
	fprintf(stderr, "sum: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct part part = { 0 };
	uint64_t below, here;
	pid_t child;
	int file, status;

	if (argc != 4) {
		fprintf(stderr, "usage: sum ADDRESS N FILE\n");
		return 2;
	}
	below = strtoull(argv[2], NULL, 10);
	file = open(argv[3], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (file < 0)
		return die(argv[3]);

	child = vremote_fork(argv[1]);
	if (child < 0)
		return die("vremote_fork");
	if (child == 0) {
		struct utsname node;

		part.sum = add(1, below);
		part.pid = getpid();
		if (uname(&node) == 0)
			snprintf(part.node, sizeof(part.node), "%s", node.nodename);
		_exit(pwrite(file, &part, sizeof(part), 0) == sizeof(part) ? DONE : 1);
	}

	here = add(0, below);
	if (vremote_wait(child, &status, 0) != child)
		return die("vremote_wait");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != DONE) {
		fprintf(stderr, "sum: the child has ended with status %#x\n", status);
		return 1;
	}
	if (pread(file, &part, sizeof(part), 0) != sizeof(part))
		return die(argv[3]);
	printf("here %" PRIu64 " there %" PRIu64 " sum %" PRIu64 "\n", here, part.sum, here + part.sum);
	printf("the child was process %d of %s%s\n", part.pid, part.node, part.pid == child ? "" : ", which is not what I was told");
	return part.pid != child;
}
