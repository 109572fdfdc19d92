// SPDX-License-Identifier: GPL-2.0
/*
 * The clockwork of scripts/bench. Every command prints one line of numbers; times are taken in here, so that starting a program
 * through the cluster tool is not in them.
 *
 *   measure serve                     answers each datagram on port 7007 with 1400 bytes, until it is killed
 *   measure echo ADDRESS TIMES        64 bytes out, 1400 back, one after the other: p50 and p99 in microseconds
 *   measure read PATH                 sequential, 1 MiB a call: bytes and seconds
 *   measure random PATH TIMES SEED    4 KiB at random pages, each page at most once, one after the other: p50 and p99 in microseconds
 *   measure write PATH BYTES          1 MiB a call, then fsync: bytes and seconds
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PORT 7007
#define OUT 64
#define BACK 1400
#define PAGE 4096
#define CHUNK (1 << 20)

static char buffer[CHUNK] __attribute__((aligned(4096)));

static void die(const char *what)
{
	fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_percentiles(double *times, size_t count)
{
	qsort(times, count, sizeof(*times), compare);
	printf("%.1f %.1f\n", times[count / 2] * 1e6, times[count * 99 / 100] * 1e6);
}

static void serve(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) }, from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t length;

	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)))
		die("bind");
	for (;;) {
		length = sizeof(from);
		if (recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &length) < 0)
			die("recvfrom");
		/* What came tells which question is answered. */
		if (sendto(fd, buffer, BACK, 0, (struct sockaddr *)&from, length) < 0 && errno != ENOBUFS)
			die("sendto");
	}
}

static void echo(const char *address, size_t count)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct timeval limit = { .tv_sec = 1 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	double *times = calloc(count, sizeof(*times));
	uint64_t number;
	size_t i, lost = 0;

	if (fd < 0 || !times || inet_pton(AF_INET, address, &to.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		die(address);
	for (i = 0; i < count; i++) {
		double start = now();

		for (;;) {
			number = i;
			memcpy(buffer, &number, sizeof(number));
			if (send(fd, buffer, OUT, 0) != OUT)
				die("send");
			do {
				number = ~0ULL;
				if (recv(fd, buffer, sizeof(buffer), 0) >= (ssize_t)sizeof(number))
					memcpy(&number, buffer, sizeof(number));
			} while (number != i && number != ~0ULL);
			if (number == i)
				break;
			if (++lost > 10)
				die("no answer");
			start = now();
		}
		times[i] = now() - start;
	}
	print_percentiles(times, count);
}

static void sequential(const char *path)
{
	int fd = open(path, O_RDONLY);
	double start = now();
	uint64_t total = 0;
	ssize_t got;

	if (fd < 0)
		die(path);
	while ((got = read(fd, buffer, CHUNK)) > 0)
		total += got;
	if (got < 0)
		die("read");
	printf("%llu %.6f\n", (unsigned long long)total, now() - start);
}

static void random_pages(const char *path, size_t count, unsigned int seed)
{
	int fd = open(path, O_RDONLY);
	double *times = calloc(count, sizeof(*times));
	size_t pages, i, j, swap, *order;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		die(path);
	pages = st.st_size / PAGE;
	order = calloc(pages, sizeof(*order));
	if (!times || !order || pages < count) {
		fprintf(stderr, "measure: %s has less than %zu pages\n", path, count);
		exit(1);
	}
	srandom(seed);
	for (i = 0; i < pages; i++)
		order[i] = i;
	for (i = 0; i < count; i++) {
		j = i + random() % (pages - i);
		swap = order[i];
		order[i] = order[j];
		order[j] = swap;
	}
	for (i = 0; i < count; i++) {
		double start = now();

		if (pread(fd, buffer, PAGE, (off_t)order[i] * PAGE) != PAGE)
			die("pread");
		times[i] = now() - start;
	}
	print_percentiles(times, count);
}

static void write_and_sync(const char *path, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0644);
	uint64_t total = 0;
	double start;
	size_t i;

	if (fd < 0)
		die(path);
	srandom(bytes + getpid());
	for (i = 0; i < sizeof(buffer); i += 4)
		*(uint32_t *)(buffer + i) = random();
	start = now();
	while (total < bytes) {
		ssize_t put = write(fd, buffer, bytes - total < CHUNK ? bytes - total : CHUNK);

		if (put <= 0)
			die("write");
		total += put;
	}
	if (fsync(fd))
		die("fsync");
	printf("%llu %.6f\n", (unsigned long long)total, now() - start);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "serve"))
		serve();
	else if (argc == 4 && !strcmp(argv[1], "echo"))
		echo(argv[2], strtoull(argv[3], NULL, 0));
	else if (argc == 3 && !strcmp(argv[1], "read"))
		sequential(argv[2]);
	else if (argc == 5 && !strcmp(argv[1], "random"))
		random_pages(argv[2], strtoull(argv[3], NULL, 0), strtoul(argv[4], NULL, 0));
	else if (argc == 4 && !strcmp(argv[1], "write"))
		write_and_sync(argv[2], strtoull(argv[3], NULL, 0));
	else {
		fprintf(stderr, "usage: see the head of measure.c\n");
		return 2;
	}
	return 0;
}
