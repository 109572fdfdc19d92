// SPDX-License-Identifier: GPL-2.0
/*
 * flight uring|aio [-d|-a] FROM TO
 *
 * Copies a file by requests of which several are in flight: by io_uring, or by the older interface (io_submit). Each place reads a piece
 * of FROM and then writes it to TO, which is created. -d: both with O_DIRECT. Pieces have an odd size, so that none is aligned; with -a,
 * which is O_DIRECT too, all are: a local file wants that, and a size that is.
 * Raw system calls: no library is needed for either.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PLACES 16
#define PIECE 30011
#define ALIGNED_PIECE 28672

struct place {
	char bytes[PIECE] __attribute__((aligned(4096)));
	off_t offset;
	size_t count, done;
	int writing;
	struct iocb iocb;
};

static struct place places[PLACES];
static int from, to;

static void die(const char *what, int error)
{
	fprintf(stderr, "flight: %s: %s\n", what, strerror(error));
	exit(1);
}

/* The way that requests take: submit one, and wait for one that is done. */
struct way {
	void (*begin)(void);
	void (*submit)(struct place *place);
	struct place *(*wait)(long *result);
};

/* ---- io_uring */
static struct {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
} ring;

static char *map_ring(size_t bytes, off_t what)
{
	char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, what);

	if (map == MAP_FAILED)
		die("mmap of the ring", errno);
	return map;
}

static void uring_begin(void)
{
	struct io_uring_params p = { 0 };
	char *sq, *cq;

	ring.fd = syscall(SYS_io_uring_setup, PLACES, &p);
	if (ring.fd < 0)
		die("io_uring_setup", errno);
	sq = map_ring(p.sq_off.array + p.sq_entries * sizeof(unsigned int), IORING_OFF_SQ_RING);
	cq = map_ring(p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	ring.sqes = (void *)map_ring(p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring.sq_tail = (void *)(sq + p.sq_off.tail);
	ring.sq_mask = (void *)(sq + p.sq_off.ring_mask);
	ring.sq_array = (void *)(sq + p.sq_off.array);
	ring.cq_head = (void *)(cq + p.cq_off.head);
	ring.cq_tail = (void *)(cq + p.cq_off.tail);
	ring.cq_mask = (void *)(cq + p.cq_off.ring_mask);
	ring.cqes = (void *)(cq + p.cq_off.cqes);
}

static void uring_submit(struct place *place)
{
	unsigned int tail = *ring.sq_tail, at = tail & *ring.sq_mask;

	ring.sqes[at] = (struct io_uring_sqe){
		.opcode = place->writing ? IORING_OP_WRITE : IORING_OP_READ,
		.fd = place->writing ? to : from,
		.addr = (unsigned long)(place->bytes + place->done),
		.len = place->count - place->done,
		.off = place->offset + place->done,
		.user_data = (unsigned long)place,
	};
	ring.sq_array[at] = at;
	__atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 0, 0, NULL, 0) != 1)
		die("io_uring_enter", errno);
}

static struct place *uring_wait(long *result)
{
	unsigned int head = *ring.cq_head;
	struct io_uring_cqe *cqe;
	struct place *place;

	while (head == __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE))
		if (syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 && errno != EINTR)
			die("io_uring_enter", errno);
	cqe = &ring.cqes[head & *ring.cq_mask];
	*result = cqe->res;
	place = (void *)(unsigned long)cqe->user_data;
	__atomic_store_n(ring.cq_head, head + 1, __ATOMIC_RELEASE);
	return place;
}

/* ---- io_submit */
static aio_context_t context;

static void aio_begin(void)
{
	if (syscall(SYS_io_setup, PLACES, &context))
		die("io_setup", errno);
}

static void aio_submit(struct place *place)
{
	struct iocb *iocb = &place->iocb;

	*iocb = (struct iocb){
		.aio_lio_opcode = place->writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
		.aio_fildes = place->writing ? to : from,
		.aio_buf = (unsigned long)(place->bytes + place->done),
		.aio_nbytes = place->count - place->done,
		.aio_offset = place->offset + place->done,
		.aio_data = (unsigned long)place,
	};
	if (syscall(SYS_io_submit, context, 1, &iocb) != 1)
		die("io_submit", errno);
}

static struct place *aio_wait(long *result)
{
	struct io_event event;

	while (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		if (errno != EINTR)
			die("io_getevents", errno);
	*result = event.res;
	return (void *)(unsigned long)event.data;
}

static const struct way ways[] = {
	{ uring_begin, uring_submit, uring_wait },
	{ aio_begin, aio_submit, aio_wait },
};

int main(int argc, char **argv)
{
	const struct way *way = &ways[argc > 1 && !strcmp(argv[1], "aio")];
	int flags = argc == 5 ? O_DIRECT : 0, busy = 0;
	off_t piece = argc == 5 && !strcmp(argv[2], "-a") ? ALIGNED_PIECE : PIECE;
	struct stat stat;
	off_t next = 0;

	if (argc < 4) {
		fprintf(stderr, "flight uring|aio [-d|-a] FROM TO\n");
		return 2;
	}
	from = open(argv[argc - 2], O_RDONLY | flags);
	to = open(argv[argc - 1], O_WRONLY | O_CREAT | O_TRUNC | flags, 0644);
	if (from < 0 || to < 0 || fstat(from, &stat))
		die("open", errno);
	way->begin();
	for (;;) {
		struct place *place = NULL;
		long result;

		if (busy < PLACES && next < stat.st_size) {
			for (place = places; place->count; place++)
				;
			place->offset = next;
			place->count = stat.st_size - next < piece ? stat.st_size - next : piece;
			next += place->count;
			busy++;
		} else if (busy) {
			place = way->wait(&result);
			if (result <= 0)
				die(place->writing ? "write" : "read", result ? -result : ENODATA);
			place->done += result;
			if (place->done == place->count) {
				place->done = 0;
				if (place->writing) {
					place->writing = 0;
					place->count = 0;
					busy--;
					continue;
				}
				place->writing = 1;
			}
		} else {
			break;
		}
		way->submit(place);
	}
	return 0;
}
