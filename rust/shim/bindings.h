/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: the headers of our own C, and kernel headers for the names in the file allowlist.
 */
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 3, 0) || LINUX_VERSION_CODE >= KERNEL_VERSION(7, 4, 0)
#error "vremote is written for Linux 7.3; this is another kernel line. Build against a 7.3.y tree with patches/ applied."
#endif

/* As rust/bindings/bindings_helper.h: keeps the types of enums the same as in kernel::bindings. */
#include <linux/hrtimer_types.h>

#include <crypto/chacha20poly1305.h>
#include <linux/completion.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>

#include "crypto.h"
#include "locks.h"
#include "names.h"
#include "net.h"
#include "origin.h"
#include "remote.h"
#include "trace.h"
