/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What origin/{namespace,xattr,fileattr}.rs need from C: changes of directories and attributes, which the kernel makes by sequences
 * over structures that its bindings keep opaque, with the rights of the caller. What is changed was looked up before (origin/lookup.rs);
 * a name is one component in a directory.
 */
#ifndef VREMOTE_SHIM_NAMES_H
#define VREMOTE_SHIM_NAMES_H

#include <linux/fs.h>
#include <linux/path.h>
#include <linux/time64.h>
#include <linux/types.h>

struct address_space;

/* What is to be set; bits of `valid` are those of struct iattr. ATTR_KILL_SUID: by chown(2). */
struct vremote_change {
	u32 valid;
	u32 mode;
	u32 uid;
	u32 gid;
	struct timespec64 atime;
	struct timespec64 mtime;
};

/* What statfs(2) shows. */
struct vremote_space {
	u64 block_bytes;
	u64 blocks;
	u64 free;
	u64 available;
	u64 files;
	u64 files_free;
};

/* struct file_kattr without its bit fields. */
struct vremote_fileattr {
	u32 flags;
	u32 xflags;
	u32 extent_bytes;
	u32 extents;
	u32 project;
	u32 cow_extent_bytes;
};

int vremote_names_make(const struct path *directory, const char *name, umode_t mode, const char *target);
int vremote_names_link(const struct path *file, const struct path *directory, const char *name);
int vremote_names_remove(const struct path *directory, const char *name, bool is_directory);
int vremote_names_rename(const struct path *from, const char *name, const struct path *to, const char *new_name, unsigned int flags);
int vremote_names_change(const struct path *path, const struct vremote_change *change);
ssize_t vremote_names_read_link(const struct path *path, u8 *buffer, size_t bytes);
ssize_t vremote_names_get_xattr(const struct path *path, const char *attribute, u8 *value, size_t bytes);
int vremote_names_set_xattr(const struct path *path, const char *attribute, const u8 *value, size_t bytes, int flags);
ssize_t vremote_names_list_xattr(const struct path *path, u8 *names, size_t bytes);
int vremote_names_get_fileattr(const struct path *path, struct vremote_fileattr *attr);
int vremote_names_set_fileattr(const struct path *path, const struct vremote_fileattr *wanted, bool by_flags,
			       struct address_space **mapping);
int vremote_names_sync(const struct path *path, bool datasync);
int vremote_names_space(const struct path *path, struct vremote_space *space);
ssize_t vremote_names_list(const struct path *directory, u64 *position, u8 *buffer, size_t bytes);

#endif
