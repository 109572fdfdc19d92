// SPDX-License-Identifier: GPL-2.0
/*
 * A shared library to be loaded from a remote file: code, data that is changed where it is loaded, and a function of the C library
 * that it takes the place of, so that a program shows by what it prints whether it was preloaded.
 */
#include <unistd.h>

int answer(void);

static int numbers[2048] = { [0] = 40, [2047] = 2 };

int answer(void)
{
	return numbers[0]++ + numbers[2047];
}

uid_t getuid(void)
{
	return 4711;
}
