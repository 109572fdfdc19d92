/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What remote/ and folio.rs need from C: inline functions, macros, and structures that the kernel's bindings keep opaque.
 * Every function says in remote.c why it is not called from Rust.
 */
#ifndef VREMOTE_SHIM_REMOTE_H
#define VREMOTE_SHIM_REMOTE_H

#include <linux/fs.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/wait.h>

struct dir_context;
struct file_kattr;
struct kstatfs;
struct vremote_fileattr;
struct vremote_space;
struct vm_fault;

/* Folios (folio.rs) */
struct folio *vremote_folio_find(struct address_space *mapping, unsigned long index);
int vremote_folio_create(struct address_space *mapping, unsigned long index, struct folio **folio);
void vremote_folio_get(struct folio *folio);
void vremote_folio_put(struct folio *folio);
void vremote_folio_lock(struct folio *folio);
bool vremote_folio_trylock(struct folio *folio);
bool vremote_folio_uptodate(struct folio *folio);
bool vremote_folio_dirty(struct folio *folio);
bool vremote_folio_writeback(struct folio *folio);
bool vremote_folio_mapped(struct folio *folio);
bool vremote_folio_pinned(struct folio *folio);
unsigned long vremote_folio_index(struct folio *folio);
struct address_space *vremote_folio_mapping(struct folio *folio);
void *vremote_folio_address(struct folio *folio);
void vremote_folio_flush(struct folio *folio);

int vremote_folio_add(struct address_space *mapping, unsigned long index, struct folio **folio);
void vremote_folio_start_writeback(struct folio *folio);

/* The file system type and its superblock (remote/fs.rs) */
int vremote_fs_register(int (*fill)(struct super_block *sb));
void vremote_fs_unregister(void);
int vremote_fs_pin(struct path *root);
void vremote_fs_unpin(struct path *root);
int vremote_fs_set_up(struct super_block *sb, unsigned long readahead_pages);

/* Inodes and names (remote/inode.rs) */
struct vremote_attributes {
	u64 blocks;
	u32 mode;
	u32 nlink;
	u32 uid;
	u32 gid;
	struct timespec64 atime;
	struct timespec64 mtime;
	struct timespec64 ctime;
};

enum {
	VREMOTE_LOOKUP_RCU = LOOKUP_RCU,
	VREMOTE_LOOKUP_REVAL = LOOKUP_REVAL,
	VREMOTE_LOOKUP_PARENT = LOOKUP_PARENT,
	VREMOTE_LOOKUP_OPEN = LOOKUP_OPEN,
	VREMOTE_LOOKUP_CREATE = LOOKUP_CREATE,
	VREMOTE_LOOKUP_FOLLOW = LOOKUP_FOLLOW,
	VREMOTE_LOOKUP_DIRECTORY = LOOKUP_DIRECTORY,
};

void vremote_inode_update(struct inode *inode, const struct vremote_attributes *attributes);
void vremote_inode_fill_stat(struct inode *inode, struct kstat *stat, u32 mask);
void vremote_inode_loses_name(struct inode *inode);
unsigned int vremote_inode_links(struct inode *inode);
int vremote_inode_drop(struct inode *inode);
bool vremote_inode_is_new(struct inode *inode);
void vremote_inode_is_directory(struct inode *inode);
int vremote_inode_lock(struct inode *inode);
bool vremote_inode_trylock(struct inode *inode);
void vremote_inode_unlock(struct inode *inode);
bool vremote_inode_runs(struct inode *inode);
bool vremote_dentry_in_lookup(struct dentry *dentry);
const char *vremote_dentry_name(struct dentry *dentry, unsigned int *length);
void vremote_mark_created(struct file *file);
void vremote_allow_direct(struct file *file);
bool vremote_file_is_opened(struct file *file);
unsigned int vremote_current_ids(u32 *uid, u32 *gid, u32 *groups, unsigned int max);
bool vremote_dir_emit(struct dir_context *ctx, const char *name, int length, u64 ino, unsigned int type);
int vremote_to_user(char *to, const void *from, size_t bytes);
void vremote_wanted_ids(const struct iattr *wanted, u32 *ids);
void vremote_link_keep(struct delayed_call *done, void *target);
void vremote_fill_space(struct kstatfs *to, const struct vremote_space *space);
void vremote_fill_fileattr(struct file_kattr *to, const struct vremote_fileattr *attr);
bool vremote_wanted_fileattr(const struct file_kattr *wanted, struct vremote_fileattr *attr);
bool vremote_dir_emit_dots(struct file *file, struct dir_context *ctx);

/* Pages (remote/pages.rs) */
struct folio *vremote_readahead_next(struct readahead_control *ractl);
u64 vremote_word_load(struct xarray *words, unsigned long index);
int vremote_word_reserve(struct xarray *words, unsigned long index);
int vremote_word_store(struct xarray *words, unsigned long index, u64 word);
void vremote_words_init(struct xarray *words);
u64 vremote_word_next(struct xarray *words, unsigned long *index);
void vremote_mapping_error(struct address_space *mapping, int error);
bool vremote_wbc_integrity(const struct writeback_control *wbc);

/* Waiting */
void vremote_wait_init(struct wait_queue_head *queue);
long vremote_wait_change(struct wait_queue_head *queue, const u32 *changes, u32 seen, unsigned long microseconds,
			 unsigned int how);
void vremote_wait_wake(struct wait_queue_head *queue);
bool vremote_killed(void);

/* Reading and writing (remote/file.rs) */
struct dentry *vremote_file_dentry(struct file *file);
size_t vremote_iov_count(const struct iov_iter *iter);
ssize_t vremote_write_sync(struct kiocb *iocb, ssize_t count);
bool vremote_kiocb_is_append(const struct kiocb *iocb);
bool vremote_kiocb_is_nowait(const struct kiocb *iocb);

/* Mappings of processes (remote/map.rs) */
struct folio *vremote_fault_folio(const struct vm_fault *vmf);
bool vremote_fault_is_shared(const struct vm_fault *vmf);
void vremote_fault_begin(struct inode *inode);
void vremote_fault_end(struct inode *inode);

/* Opening by any path (remote/resolve.rs) */
int vremote_base_path(int dfd, struct path *path);
bool vremote_path_is_deleted(const struct path *path);
bool vremote_path_is_ours(const struct path *path);
int vremote_mounted_at(const char *name, struct path *root);
bool vremote_file_is_directory(struct file *file);
struct file *vremote_open_below(const struct path *root, const char *name, int flags, umode_t mode);
struct file *vremote_open_local(const char *name, int flags, umode_t mode);

#endif
