/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What origin/ and hooks.rs need from C: inline functions, macros, and sequences over structures that the kernel's
 * bindings keep opaque. Every function says in origin.c why it is not Rust.
 */
#ifndef VREMOTE_SHIM_ORIGIN_H
#define VREMOTE_SHIM_ORIGIN_H

#include <linux/coherent.h>
#include <linux/fs.h>
#include <linux/path.h>
#include <linux/stat.h>

struct cred;

/* Credentials: of what remotes write, and of a remote opener */
int vremote_origin_init(void);
void vremote_origin_exit(void);
const struct cred *vremote_origin_become(u32 uid, u32 gid, const u32 *groups, unsigned int ngroups, bool squash);
void vremote_origin_unbecome(const struct cred *old);

/* Paths and files */
int vremote_origin_lookup(const struct path *root, const char *name, bool follow, struct path *path);
struct file *vremote_origin_open(const struct path *path, int flags);
struct file *vremote_origin_create(const struct path *directory, const char *name, int flags, umode_t mode);
struct file *vremote_origin_open_to_run(const struct path *path);
struct file *vremote_origin_reopen(struct file *file);
void vremote_origin_close(struct file *own);
int vremote_origin_write_begin(struct file *file);
void vremote_origin_write_end(struct file *file);
void vremote_origin_root(struct path *path);
int vremote_origin_path(const char *name, struct path *path);
void vremote_origin_path_of_file(struct file *file, struct path *path);
char *vremote_origin_path_text(const struct path *path, char *buffer, int bytes);
bool vremote_origin_is_of(const struct path *path, struct file *file);
bool vremote_origin_is_below(struct file *file, const struct path *root);
int vremote_origin_truncate(struct file *file, loff_t size);
int vremote_origin_allocate(struct file *file, int mode, loff_t offset, loff_t bytes);
int vremote_origin_stat(const struct path *path, struct kstat *stat, u32 *generation);
int vremote_origin_may(const struct path *path, int rights);
int vremote_origin_shareable(struct file *file);
struct address_space *vremote_origin_mapping(struct file *file);
u64 vremote_origin_size(struct file *file);
bool vremote_origin_deleted(struct file *file);
bool vremote_origin_writable(struct file *file);
bool vremote_origin_overwritable(struct file *file);
struct address_space *vremote_origin_inode_mapping(struct inode *inode);

/* The coherent mark of a mapping */
int vremote_origin_mark(struct file *file);
void vremote_origin_unmark(struct file *file);

/* Pages */
struct folio *vremote_origin_read_folio(struct file *file, unsigned long index);
void vremote_origin_readahead(struct file *file, unsigned long index, unsigned int count);
void vremote_origin_write_out(struct file *file, u64 first, u64 last);
int vremote_origin_install(struct file *file, unsigned long index, const void *data, size_t bytes, bool dirty);
void vremote_origin_touch(struct file *file);
ssize_t vremote_origin_write(struct file *file, const void *data, size_t bytes, loff_t *pos, bool append);
int vremote_origin_sync(struct file *file, bool datasync);

/* Work and waiting */
unsigned long vremote_origin_task(void);
u64 vremote_origin_memory_pages(void);

#endif
