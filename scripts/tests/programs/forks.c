// SPDX-License-Identifier: GPL-2.0
/*
 * Calls libvremote in one of several ways and prints what came of it. In the child nothing is printed: it is on another node.
 *
 *	forks available
 *	forks errno ADDRESS            a fork that should fail: prints why
 *	forks exit ADDRESS STATUS      the child ends with STATUS
 *	forks kill ADDRESS SIGNAL      the child is killed
 *	forks signals ADDRESS          signals that end system calls come all the time; the child is killed
 *	forks nohang|twice|late|wait|socket|lost ADDRESS
 *	forks many ADDRESS N           N children at once
 *	forks series ADDRESS N         N children, one after the other: the milliseconds of each fork, and the bytes that eth0 has sent for it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <vremote.h>

static int print_errno(void)
{
	puts(strerrorname_np(errno));
	return 0;
}

static int print_status(int status)
{
	if (WIFEXITED(status))
		printf("exited %d\n", WEXITSTATUS(status));
	else
		printf("killed %d\n", WTERMSIG(status));
	return 0;
}

static void ignore(int number)
{
	(void)number;
}

/* A signal that ends system calls with EINTR, every so many milliseconds; 0: no more. */
static void interrupt(int milliseconds)
{
	struct itimerval every = { { 0, milliseconds * 1000 }, { 0, milliseconds * 1000 } };
	struct sigaction action = { .sa_handler = ignore };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

/* A child that runs until it is killed. */
static pid_t sleeper(const char *address)
{
	pid_t child = vremote_fork(address);

	if (child == 0)
		for (;;)
			pause();
	return child;
}

static int many(const char *address, int count)
{
	pid_t children[64];
	int good = 0, status;

	for (int k = 0; k < count && k < 64; k++) {
		children[k] = vremote_fork(address);
		if (children[k] == 0)
			_exit(k);
		if (children[k] < 0)
			perror("vremote_fork");
	}
	for (int k = 0; k < count && k < 64; k++)
		if (children[k] > 0 && vremote_wait(children[k], &status, 0) == children[k] && WIFEXITED(status) &&
		    WEXITSTATUS(status) == k)
			good++;
	printf("%d of %d\n", good, count);
	return 0;
}

static unsigned long long sent(void)
{
	unsigned long long bytes = 0;
	FILE *f = fopen("/sys/class/net/eth0/statistics/tx_bytes", "r");

	if (!f || fscanf(f, "%llu", &bytes) != 1)
		perror("tx_bytes");
	if (f)
		fclose(f);
	return bytes;
}

static double milliseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int series(const char *address, int count)
{
	for (int k = 0; k < count; k++) {
		unsigned long long bytes = sent();
		double begun = milliseconds(), forked;
		pid_t child = vremote_fork(address);
		int status;

		if (child == 0)
			_exit(0);
		forked = milliseconds();
		if (child < 0 || vremote_wait(child, &status, 0) != child || status)
			return print_errno();
		printf("%.1f %llu\n", forked - begun, sent() - bytes);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "", *address = argc > 2 ? argv[2] : NULL;
	int number = argc > 3 ? atoi(argv[3]) : 0, status = 0;
	pid_t child;

	if (!strcmp(what, "available"))
		return printf("%d\n", vremote_available()) < 0;
	if (!strcmp(what, "many"))
		return many(address, number);
	if (!strcmp(what, "series"))
		return series(address, number);
	if (!strcmp(what, "socket") && socket(AF_INET, SOCK_STREAM, 0) < 0)
		return 1;
	if (!strcmp(what, "socket")) {
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
			return 1;
	}
	if (!strcmp(what, "signals"))
		interrupt(20);
	if (!strcmp(what, "exit") || !strcmp(what, "twice") || !strcmp(what, "late")) {
		child = myfork(address);
		if (child == 0)
			_exit(number);
	} else {
		child = sleeper(address);
	}
	if (child < 0)
		return print_errno();
	if (!strcmp(what, "exit"))
		return vremote_wait(child, &status, 0) == child ? print_status(status) : print_errno();
	if (!strcmp(what, "kill")) {
		if (vremote_kill(child, number) || vremote_wait(child, &status, 0) != child)
			return print_errno();
		return print_status(status);
	}
	if (!strcmp(what, "signals")) {
		if (vremote_kill(child, SIGKILL))
			return print_errno();
		interrupt(0);
		return vremote_wait(child, &status, 0) == child ? print_status(status) : print_errno();
	}
	if (!strcmp(what, "nohang")) {
		printf("%d then ", vremote_wait(child, NULL, WNOHANG));
		if (vremote_kill(child, SIGKILL) || vremote_wait(child, &status, 0) != child)
			return print_errno();
		return print_status(status);
	}
	if (!strcmp(what, "twice")) {
		if (vremote_wait(child, NULL, 0) != child || vremote_wait(child, NULL, 0) != -1)
			return 1;
		return print_errno();
	}
	/* Its node is lost meanwhile, and does not come back; then it does, and does not know the child. */
	if (!strcmp(what, "lost")) {
		int waits = 0;

		if (vremote_wait(child, NULL, 0) != -1)
			return 1;
		print_errno();
		fflush(stdout);
		while (vremote_wait(child, NULL, 0) == -1 && errno == EHOSTUNREACH && ++waits < 600)
			usleep(200000);
		return print_errno();
	}
	if (!strcmp(what, "late")) {
		while (vremote_kill(child, 0) == 0)
			usleep(50000);
		return print_errno();
	}
	if (!strcmp(what, "wait")) {
		pid_t got = waitpid(-1, NULL, WNOHANG);
		int error = errno;

		vremote_kill(child, SIGKILL);
		vremote_wait(child, NULL, 0);
		errno = error;
		return got < 0 ? print_errno() : 1;
	}
	vremote_kill(child, SIGKILL);
	vremote_wait(child, NULL, 0);
	puts("a child that should not be there");
	return 1;
}
