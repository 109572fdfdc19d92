// SPDX-License-Identifier: GPL-2.0
/*
 * The clockwork of scripts/bench. Every command prints one line of KEY=VALUE; times are taken in here, so that starting a program
 * through the cluster tool is not in them. p50, p99 and p999 are of single operations, in microseconds.
 *
 *   measure serve                         does what the commands below want of an ADDRESS, on UDP port 7007, until it is killed
 *   measure echo ADDRESS BACK TIMES       64 bytes out, BACK bytes back, in datagrams of 1400, one after the other: p50 p99 p999
 *   measure disk ADDRESS                  what the disk vdb has done there so far: reads writes
 *   measure read PATH [PASSES]            sequential, 1 MiB a call: bytes seconds
 *   measure map PATH PASSES               loads of 8 bytes through a mapping, one after the other: bytes seconds of so many passes, and
 *                                         first_bytes first_seconds of one before them, in which pages are mapped
 *   measure random PATH TIMES SEED        4 KiB at random pages, each page at most once, one after the other: bytes p50 p99 p999
 *   measure write PATH BYTES              1 MiB a call, then fsync: bytes seconds
 *   measure touch PATH                    writes one byte: seconds
 *   measure pingpong PATH ADDRESS THEIRS TIMES [lock]
 *                                         this side writes to the page PATH, then the other to the same, which is THEIRS there, and so on;
 *                                         each sees what the other wrote last. With fcntl locks if they are asked for. p50 p99 p999 of half
 *                                         the time of a write here and one there, near_p50 of one here, far_p50 of one there; transfers
 *   measure upgrade PATH TIMES ADDRESS …  a write to a page of PATH that this node and all of these have read: p50 p99 p999 times
 *   measure nothing                       what all the others take that is not measured
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define PORT 7007
#define OUT 64
#define SEGMENT 1400
#define PAGE 4096
#define CHUNK (1 << 20)
#define PATIENCE 30
#define MOST_SHARERS 16

enum what { ECHO, DISK, TURN, READ, CLOSE };

/* Of an ECHO only the first OUT bytes are sent. */
struct request {
	uint64_t number;	/* the same again: sent again */
	uint32_t what;
	uint32_t back;		/* ECHO: so many bytes are to come */
	uint32_t lock;		/* TURN */
	uint64_t value;		/* TURN: to be written */
	uint64_t offset;	/* READ */
	char path[256];		/* TURN, READ */
};

struct answer {
	uint64_t number;
	uint64_t error;		/* an errno, or 0 */
	uint64_t values[2];	/* DISK: reads, writes; TURN: nanoseconds, what the other had written */
};

_Static_assert(offsetof(struct request, path) <= OUT, "an echo has no path");

static char buffer[CHUNK] __attribute__((aligned(PAGE)));

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

static double *new_times(size_t count)
{
	double *times = calloc(count, sizeof(*times));

	if (!times || !count)
		die("so many times");
	return times;
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		die(path);
	return fd;
}

static off_t size_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		die("fstat");
	return st.st_size;
}

/* Percentiles. */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double percentile(double *times, size_t count, unsigned int per_mille)
{
	qsort(times, count, sizeof(*times), compare);
	return times[count * per_mille / 1000] * 1e6;
}

static void print_percentiles(double *times, size_t count)
{
	printf("p50=%.1f p99=%.1f p999=%.1f", percentile(times, count, 500), percentile(times, count, 990),
	       percentile(times, count, 999));
}

/* One side of a ping-pong, also as the server plays it. */

/*
 * Writes this side's half of the page, and reads the other's. Without a lock the write comes first: it alone brings the page, and reading
 * it then is for nothing. Under a lock a program reads before it writes.
 */
static int take_turn(int fd, unsigned int side, uint64_t value, uint64_t *other, int lock, double *seconds)
{
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = PAGE };
	off_t here = side * (PAGE / 2), there = PAGE / 2 - here;
	double start = now();

	errno = 0;
	if (lock && (fcntl(fd, F_SETLKW, &range) || pread(fd, other, sizeof(*other), there) != sizeof(*other)))
		return errno ? errno : EIO;
	if (pwrite(fd, &value, sizeof(value), here) != sizeof(value))
		return errno ? errno : EIO;
	if (!lock && pread(fd, other, sizeof(*other), there) != sizeof(*other))
		return errno ? errno : EIO;
	range.l_type = F_UNLCK;
	if (lock && fcntl(fd, F_SETLK, &range))
		return errno;
	*seconds = now() - start;
	return 0;
}

/* The server. */

static int disk_counts(uint64_t *counts)
{
	unsigned long long reads, writes;
	FILE *file = fopen("/proc/diskstats", "r");
	char line[256];
	int found = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%*u %*u vdb %llu %*u %*u %*u %llu", &reads, &writes) == 2) {
			counts[0] = reads;
			counts[1] = writes;
			found = 1;
		}
	if (file)
		fclose(file);
	return found ? 0 : ENODEV;
}

static void answer_to(const struct request *request, struct answer *answer)
{
	static char path[sizeof(request->path)];
	static int fd = -1;
	double seconds = 0;
	uint64_t word;

	answer->error = 0;
	if (request->what == DISK) {
		answer->error = disk_counts(answer->values);
		return;
	}
	if (fd >= 0 && (request->what == CLOSE || strcmp(path, request->path))) {
		close(fd);
		fd = -1;
	}
	if (request->what == CLOSE)
		return;
	if (fd < 0) {
		memcpy(path, request->path, sizeof(path));
		fd = open(path, O_RDWR);
		if (fd < 0) {
			answer->error = errno;
			return;
		}
		posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	}
	if (request->what == TURN)
		answer->error = take_turn(fd, 1, request->value, &answer->values[1], request->lock, &seconds);
	else if (pread(fd, &word, sizeof(word), request->offset) != sizeof(word))
		answer->error = errno ? errno : EIO;
	answer->values[0] = seconds * 1e9;
}

/* More than a datagram leaves in one call, and is cut on its way, as a kernel with something to say does it. */
static void send_back(int fd, struct sockaddr_in *to, void *what, size_t length)
{
	union {
		char bytes[CMSG_SPACE(sizeof(uint16_t))];
		struct cmsghdr align;
	} control = {};
	struct iovec part = { .iov_base = what, .iov_len = length };
	struct msghdr message = {
		.msg_name = to, .msg_namelen = sizeof(*to), .msg_iov = &part, .msg_iovlen = 1,
	};
	uint16_t segment = SEGMENT;
	struct cmsghdr *header;

	if (length > SEGMENT) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = IPPROTO_UDP;
		header->cmsg_type = UDP_SEGMENT;
		header->cmsg_len = CMSG_LEN(sizeof(segment));
		memcpy(CMSG_DATA(header), &segment, sizeof(segment));
	}
	if (sendmsg(fd, &message, 0) < 0 && errno != ENOBUFS)
		die("sendmsg");
}

static void serve(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) }, from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct request request;
	struct answer answer = {};
	socklen_t length;
	size_t at;

	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)))
		die("bind");
	for (;;) {
		length = sizeof(from);
		memset(&request, 0, sizeof(request));
		if (recvfrom(fd, &request, sizeof(request), 0, (struct sockaddr *)&from, &length) < OUT)
			continue;
		request.path[sizeof(request.path) - 1] = 0;
		if (request.what == ECHO) {
			if (request.back > CHUNK)
				continue;
			/* Each datagram tells what it answers. */
			for (at = 0; at < request.back; at += SEGMENT)
				memcpy(buffer + at, &request.number, sizeof(request.number));
			send_back(fd, &from, buffer, request.back);
			continue;
		}
		if (request.number != answer.number) {
			answer_to(&request, &answer);
			answer.number = request.number;
		}
		send_back(fd, &from, &answer, sizeof(answer));
	}
}

/* Its clients. */

static int talk_to(const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct timeval limit = { .tv_sec = 1 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

	if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		die(address);
	setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on));
	return fd;
}

/* Sends a request, and waits for all of its answer, which is in the buffer then; -1 after a second. */
static int exchange(int fd, const struct request *request, size_t length, size_t back)
{
	size_t got = 0;

	if (send(fd, request, length, 0) != (ssize_t)length && errno != ECONNREFUSED)
		die("send");
	while (got < back) {
		ssize_t part = recv(fd, buffer, sizeof(buffer), 0);

		if (part < 0) {
			if (errno == ECONNREFUSED)
				sleep(1);
			return -1;
		}
		if (part >= (ssize_t)sizeof(request->number) && !memcmp(buffer, &request->number, sizeof(request->number)))
			got += part;
	}
	return 0;
}

/* No number is used twice, by whichever process. */
static uint64_t next_number(void)
{
	static uint64_t number;
	struct timespec t;

	if (!number) {
		clock_gettime(CLOCK_REALTIME, &t);
		number = t.tv_sec * 1000000000ULL + t.tv_nsec;
	}
	return ++number;
}

static void ask(int fd, struct request *request, struct answer *answer)
{
	int tries = PATIENCE;

	request->number = next_number();
	while (exchange(fd, request, sizeof(*request), sizeof(*answer))) {
		if (!--tries) {
			fprintf(stderr, "measure: no answer within %d s\n", PATIENCE);
			exit(1);
		}
	}
	memcpy(answer, buffer, sizeof(*answer));
	if (answer->error) {
		errno = answer->error;
		die("the other side");
	}
}

static void name_path(struct request *request, const char *path)
{
	if (strlen(path) >= sizeof(request->path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	strcpy(request->path, path);
}

static void ask_to_close(int fd)
{
	struct request request = { .what = CLOSE };
	struct answer answer;

	ask(fd, &request, &answer);
}

static void echo(const char *address, size_t back, size_t count)
{
	struct request request = { .what = ECHO, .back = back };
	int fd = talk_to(address), lost = 0;
	double *times = new_times(count);
	size_t i;

	for (i = 0; i < count; i++) {
		double start;

		do {
			if (lost > PATIENCE) {
				fprintf(stderr, "measure: %s does not answer\n", address);
				exit(1);
			}
			request.number = next_number();
			start = now();
		} while (exchange(fd, &request, OUT, back) && ++lost);
		times[i] = now() - start;
	}
	print_percentiles(times, count);
	printf("\n");
}

static void disk(const char *address)
{
	struct request request = { .what = DISK };
	struct answer answer;

	ask(talk_to(address), &request, &answer);
	printf("reads=%llu writes=%llu\n", (unsigned long long)answer.values[0], (unsigned long long)answer.values[1]);
}

static void pingpong(const char *path, const char *address, const char *theirs, size_t count, int lock)
{
	struct request request = { .what = READ, .lock = lock };
	double *near = new_times(count), *far = new_times(count), *mean = new_times(count);
	int other = talk_to(address), fd, error;
	uint64_t seen, last = 0;
	struct answer answer;
	size_t i;

	/* The other one opens first, so that a server of NFS does not delegate the file. */
	name_path(&request, theirs);
	ask(other, &request, &answer);
	fd = open_file(path, O_RDWR);
	request.what = TURN;
	for (i = 0; i < count; i++) {
		request.value = next_number();
		error = take_turn(fd, 0, request.value, &seen, lock, &near[i]);
		if (error) {
			errno = error;
			die(path);
		}
		if (i && seen != last) {
			fprintf(stderr, "measure: turn %zu: what the other side wrote before is not seen here\n", i);
			exit(1);
		}
		last = request.value;
		ask(other, &request, &answer);
		if (answer.values[1] != last) {
			fprintf(stderr, "measure: turn %zu: what was written here is not seen on the other side\n", i);
			exit(1);
		}
		far[i] = answer.values[0] / 1e9;
		mean[i] = (near[i] + far[i]) / 2;
	}
	close(fd);
	ask_to_close(other);
	print_percentiles(mean, count);
	printf(" near_p50=%.1f far_p50=%.1f transfers=%zu\n", percentile(near, count, 500), percentile(far, count, 500), 2 * count);
}

static void upgrade(const char *path, size_t count, char **addresses, size_t sharers)
{
	struct request request = { .what = READ };
	double *times = new_times(count);
	int fd = open_file(path, O_RDWR), others[MOST_SHARERS];
	size_t i, k, pages = size_of(fd) / PAGE;
	struct answer answer;
	uint64_t word;

	if (sharers > MOST_SHARERS || pages < count) {
		fprintf(stderr, "measure: at most %d sharers, and as many times as %s has pages\n", MOST_SHARERS, path);
		exit(1);
	}
	name_path(&request, path);
	for (k = 0; k < sharers; k++)
		others[k] = talk_to(addresses[k]);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (i = 0; i < count; i++) {
		double start;

		/* Not one after the other: nothing is to be read ahead. */
		request.offset = i * 7 % pages * PAGE;
		if (pread(fd, &word, sizeof(word), request.offset) != sizeof(word))
			die("pread");
		for (k = 0; k < sharers; k++)
			ask(others[k], &request, &answer);
		start = now();
		if (pwrite(fd, &i, sizeof(i), request.offset) != sizeof(i))
			die("pwrite");
		times[i] = now() - start;
	}
	close(fd);
	for (k = 0; k < sharers; k++)
		ask_to_close(others[k]);
	print_percentiles(times, count);
	printf(" times=%zu\n", count);
}

/* Files alone. */

static void sequential(const char *path, unsigned int passes)
{
	int fd = open_file(path, O_RDONLY);
	double start = now();
	uint64_t total = 0;
	ssize_t got = 0;

	while (passes-- && got >= 0) {
		if (lseek(fd, 0, SEEK_SET))
			die("lseek");
		while ((got = read(fd, buffer, CHUNK)) > 0)
			total += got;
	}
	if (got < 0)
		die("read");
	printf("bytes=%llu seconds=%.6f\n", (unsigned long long)total, now() - start);
}

static void load_all(const volatile uint64_t *map, size_t words)
{
	size_t i;

	for (i = 0; i < words; i++)
		(void)map[i];
}

static void mapped(const char *path, unsigned int passes)
{
	int fd = open_file(path, O_RDONLY);
	size_t size = size_of(fd) & ~7UL;
	double start = now(), first;
	unsigned int i;
	void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		die("mmap");
	load_all(map, size / 8);
	first = now() - start;
	start = now();
	for (i = 0; i < passes; i++)
		load_all(map, size / 8);
	printf("bytes=%llu seconds=%.6f first_bytes=%zu first_seconds=%.6f\n", (unsigned long long)size * passes, now() - start, size,
	       first);
}

static void random_pages(const char *path, size_t count, unsigned int seed)
{
	int fd = open_file(path, O_RDONLY);
	double *times = new_times(count);
	size_t pages = size_of(fd) / PAGE, i, j, swap, *order;

	order = calloc(pages, sizeof(*order));
	if (!order || pages < count) {
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
	printf(" bytes=%zu\n", count * PAGE);
}

static void write_and_sync(const char *path, uint64_t bytes)
{
	int fd = open_file(path, O_WRONLY | O_CREAT);
	uint64_t total = 0;
	double start;
	size_t i;

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
	printf("bytes=%llu seconds=%.6f\n", (unsigned long long)total, now() - start);
}

static void touch(const char *path)
{
	int fd = open_file(path, O_RDWR);
	double start = now();

	if (pwrite(fd, "t", 1, 0) != 1)
		die(path);
	printf("seconds=%.6f\n", now() - start);
}

static size_t number(const char *text)
{
	return strtoull(text, NULL, 0);
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";

	if (argc == 2 && !strcmp(command, "serve"))
		serve();
	else if (argc == 5 && !strcmp(command, "echo"))
		echo(argv[2], number(argv[3]), number(argv[4]));
	else if (argc == 3 && !strcmp(command, "disk"))
		disk(argv[2]);
	else if ((argc == 3 || argc == 4) && !strcmp(command, "read"))
		sequential(argv[2], argc == 4 ? number(argv[3]) : 1);
	else if (argc == 4 && !strcmp(command, "map"))
		mapped(argv[2], number(argv[3]));
	else if (argc == 5 && !strcmp(command, "random"))
		random_pages(argv[2], number(argv[3]), number(argv[4]));
	else if (argc == 4 && !strcmp(command, "write"))
		write_and_sync(argv[2], number(argv[3]));
	else if (argc == 3 && !strcmp(command, "touch"))
		touch(argv[2]);
	else if ((argc == 6 || (argc == 7 && !strcmp(argv[6], "lock"))) && !strcmp(command, "pingpong"))
		pingpong(argv[2], argv[3], argv[4], number(argv[5]), argc == 7);
	else if (argc >= 5 && !strcmp(command, "upgrade"))
		upgrade(argv[2], number(argv[3]), argv + 4, argc - 4);
	else if (argc == 2 && !strcmp(command, "nothing"))
		printf("seconds=0\n");
	else {
		fprintf(stderr, "usage: see the head of measure.c\n");
		return 2;
	}
	return 0;
}
