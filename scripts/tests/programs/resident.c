// SPDX-License-Identifier: GPL-2.0
/*
 * A process to be moved, for scripts/bench-moves and tests: MIB of memory with random contents, of which it changes a page each PAUSE
 * milliseconds (1), and a file that it has open. What it says goes to LOG, a line each; bytes are those that eth0 of its node has received.
 *
 *   resident MIB FILE LOG [PAUSE]
 *
 *   ready
 *   arrived NODE BYTES           its first instructions on another node; BYTES since that node has started
 *   random TOUCHED BYTES SECONDS (SIGUSR1) 1 % of the pages of FILE, at random, each read once; BYTES received meanwhile
 *   scan TOUCHED BYTES SECONDS   (SIGUSR2) all of FILE, in order
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define CHUNK (1 << 20)

static volatile sig_atomic_t asked;
static char buffer[CHUNK];
static int out;

static void ask(int signal)
{
	asked = signal;
}

static void die(const char *what)
{
	fprintf(stderr, "resident: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t next(void)
{
	static uint64_t state = 88172645463325252ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned long long received(void)
{
	unsigned long long bytes = 0;
	FILE *f = fopen("/sys/class/net/eth0/statistics/rx_bytes", "r");

	if (!f || fscanf(f, "%llu", &bytes) != 1)
		die("rx_bytes");
	fclose(f);
	return bytes;
}

/* Returns the bytes read. */
static unsigned long long read_random(int fd, uint64_t pages)
{
	uint64_t count = pages / 100, n;
	unsigned char *seen = calloc(pages, 1);

	if (!seen)
		die("memory");
	for (n = 0; n < count;) {
		uint64_t page = next() % pages;

		if (seen[page])
			continue;
		seen[page] = 1;
		n++;
		if (pread(fd, buffer, PAGE, page * PAGE) != PAGE)
			die("read");
	}
	free(seen);
	return count * PAGE;
}

static unsigned long long scan(int fd)
{
	unsigned long long bytes = 0;
	ssize_t got;

	while ((got = pread(fd, buffer, CHUNK, bytes)) > 0)
		bytes += got;
	if (got < 0)
		die("read");
	return bytes;
}

int main(int argc, char **argv)
{
	struct utsname before, here;
	struct stat st;
	uint64_t words, word, *memory;
	long pause;
	int fd;

	if (argc != 4 && argc != 5) {
		fprintf(stderr, "resident MIB FILE LOG [PAUSE]\n");
		return 2;
	}
	pause = argc == 5 ? atol(argv[4]) : 1;
	words = strtoull(argv[1], NULL, 10) << 17;
	fd = open(argv[2], O_RDONLY);
	out = open(argv[3], O_WRONLY | O_APPEND | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || out < 0 || fstat(fd, &st))
		die("open");
	memory = mmap(NULL, words * 8 + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("memory");
	for (word = 0; word < words; word++)
		memory[word] = next();
	signal(SIGUSR1, ask);
	signal(SIGUSR2, ask);
	uname(&before);
	dprintf(out, "ready\n");
	for (;;) {
		int what = asked;

		nanosleep(&(struct timespec){ .tv_sec = pause / 1000, .tv_nsec = pause % 1000 * 1000000 }, NULL);
		memory[words ? next() % words : 0]++;
		uname(&here);
		if (strcmp(here.nodename, before.nodename)) {
			dprintf(out, "arrived %s %llu\n", here.nodename, received());
			before = here;
		}
		if (what) {
			unsigned long long bytes = received(), touched;
			double begun = now();

			asked = 0;
			touched = what == SIGUSR1 ? read_random(fd, st.st_size / PAGE) : scan(fd);
			dprintf(out, "%s %llu %llu %.3f\n", what == SIGUSR1 ? "random" : "scan", touched, received() - bytes, now() - begun);
		}
	}
}
