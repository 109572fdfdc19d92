// SPDX-License-Identifier: GPL-2.0
/*
 * counter [-o] [-m] [-l SECONDS] PATH SLOT PARTIES TIMES LEAD
 *
 * Opens PATH with O_REMOTE (-o: O_REMOTE | O_ORIGIN), maps it with -m to load and store instead of reading and writing, and adds 1, so many times, to the 64-bit number in its slot of the first page:
 * bytes 1024 * SLOT to 1024 * SLOT + 8. Nobody else writes those; a value that is not the one written last is an error at once.
 * The parties (slots 0 to PARTIES - 1) wait for each other before they begin, in the second page, and then none is ever more than LEAD
 * turns ahead of another (0: as fast as each can), which it sees in the others' slots. Prints the number and the seconds.
 * Gives up after 300 seconds, or as many as -l says.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef O_ORIGIN
#define O_ORIGIN 00000010
#endif
#ifndef O_REMOTE
#define O_REMOTE 00000020
#endif

#define SLOT_BYTES 1024
#define MAX_PARTIES 4
#define BARRIER 4096

static int fd;
static volatile char *map;
static unsigned int slot, parties;
static time_t deadline;

static void die(const char *what)
{
	fprintf(stderr, "counter: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t get(off_t offset)
{
	uint64_t value;

	if (map)
		return *(volatile uint64_t *)(map + offset);
	if (pread(fd, &value, sizeof(value), offset) != sizeof(value))
		die("read");
	return value;
}

static void put(off_t offset, uint64_t value)
{
	if (map)
		*(volatile uint64_t *)(map + offset) = value;
	else if (pwrite(fd, &value, sizeof(value), offset) != sizeof(value))
		die("write");
}

/* Until all others' numbers in the page at this offset are what they should be at least. */
static void wait_for(off_t page, const uint64_t *least, uint64_t more)
{
	unsigned int other;

	for (other = 0; other < parties; other++) {
		while (other != slot && get(page + other * SLOT_BYTES) < least[other] + more) {
			if (time(NULL) > deadline) {
				fprintf(stderr, "counter: party %u does not go on\n", other);
				exit(1);
			}
			sched_yield();
		}
	}
}

int main(int argc, char **argv)
{
	uint64_t times, lead, i, value, expected, turn, base[MAX_PARTIES] = {}, round[MAX_PARTIES];
	int flags = O_RDWR | O_REMOTE, mapped = 0, limit = 300, option;
	struct timespec from, to;

	while ((option = getopt(argc, argv, "oml:")) != -1) {
		if (option == 'o')
			flags |= O_ORIGIN;
		else if (option == 'm')
			mapped = 1;
		else if (option == 'l')
			limit = atoi(optarg);
		else
			return 2;
	}
	argc -= optind - 1;
	argv += optind - 1;
	if (argc != 6 || (slot = atoi(argv[2])) >= MAX_PARTIES || (parties = atoi(argv[3])) > MAX_PARTIES) {
		fprintf(stderr, "usage: counter [-o] [-m] [-l SECONDS] PATH SLOT PARTIES TIMES LEAD\n");
		return 2;
	}
	times = strtoull(argv[4], NULL, 0);
	lead = strtoull(argv[5], NULL, 0);
	deadline = time(NULL) + limit;
	fd = open(argv[1], flags);
	if (fd < 0)
		die(argv[1]);
	if (mapped) {
		map = mmap(NULL, 2 * BARRIER, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			die("mmap");
	}

	/* All are as far as each other when a run begins. */
	expected = get(slot * SLOT_BYTES);
	for (i = 0; i < MAX_PARTIES; i++)
		base[i] = expected;
	turn = get(BARRIER + slot * SLOT_BYTES) + 1;
	for (i = 0; i < MAX_PARTIES; i++)
		round[i] = turn;
	put(BARRIER + slot * SLOT_BYTES, turn);
	wait_for(BARRIER, round, 0);

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (i = 0; i < times; i++) {
		if (lead && i > lead)
			wait_for(0, base, i - lead);
		value = get(slot * SLOT_BYTES);
		if (value != expected) {
			fprintf(stderr, "counter: turn %llu: %llu read, %llu written\n", (unsigned long long)i,
				(unsigned long long)value, (unsigned long long)expected);
			return 1;
		}
		put(slot * SLOT_BYTES, ++expected);
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%llu %.3f\n", (unsigned long long)expected,
	       (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9);
	return 0;
}
