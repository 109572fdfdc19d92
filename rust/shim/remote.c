// SPDX-License-Identifier: GPL-2.0
/*
 * C that remote/ and folio.rs cannot express: inlines and macros of the page cache, and the set-up of a file system type, whose
 * fs_context the kernel's bindings keep opaque.
 */
#include <linux/backing-dev.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs_context.h>
#include <linux/fs_struct.h>
#include <linux/fileattr.h>
#include <linux/highmem.h>
#include <linux/highuid.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/stat.h>
#include <linux/statfs.h>
#include <linux/swap.h>
#include <linux/uio.h>
#include <linux/writeback.h>
#include <linux/xarray.h>

#include "names.h"
#include "remote.h"

/* Inline around __filemap_get_folio_mpol with ERR_PTR. */
struct folio *vremote_folio_find(struct address_space *mapping, unsigned long index)
{
	struct folio *folio = filemap_get_folio(mapping, index);

	return IS_ERR(folio) ? NULL : folio;
}

/*
 * Inlines. Not __filemap_get_folio: no signal ends its wait for the lock, and whoever holds that may be waiting for the network. -EINTR:
 * killed.
 */
int vremote_folio_create(struct address_space *mapping, unsigned long index, struct folio **folio)
{
	int status;

	for (;;) {
		*folio = vremote_folio_find(mapping, index);
		if (!*folio) {
			status = vremote_folio_add(mapping, index, folio);
			if (status == -EEXIST)
				continue;
			return status;
		}
		status = folio_lock_killable(*folio);
		if (!status && (*folio)->mapping == mapping) {
			folio_mark_accessed(*folio);
			return 0;
		}
		if (!status)
			folio_unlock(*folio);
		folio_put(*folio);
		*folio = NULL;
		if (status)
			return status;
	}
}

/* Inline. */
void vremote_folio_get(struct folio *folio)
{
	folio_get(folio);
}

/* Inline. */
void vremote_folio_put(struct folio *folio)
{
	folio_put(folio);
}

/* Inline: the fast path of __folio_lock. */
void vremote_folio_lock(struct folio *folio)
{
	folio_lock(folio);
}

/* Inline. */
bool vremote_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}

/* Inline, with the barrier that orders the flag before the bytes. */
bool vremote_folio_uptodate(struct folio *folio)
{
	return folio_test_uptodate(folio);
}

/* Flag functions are made by macros. */
bool vremote_folio_dirty(struct folio *folio)
{
	return folio_test_dirty(folio);
}

/* Inline. */
bool vremote_folio_writeback(struct folio *folio)
{
	return folio_test_writeback(folio);
}

/* Inline. */
bool vremote_folio_mapped(struct folio *folio)
{
	return folio_mapped(folio);
}

/* Inline. */
bool vremote_folio_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

/* A member of nested anonymous unions, whose Rust names change with every kernel. */
unsigned long vremote_folio_index(struct folio *folio)
{
	return folio->index;
}

/* As above. */
struct address_space *vremote_folio_mapping(struct folio *folio)
{
	return folio->mapping;
}

/* Macro. */
void *vremote_folio_address(struct folio *folio)
{
	return folio_address(folio);
}

/* A macro on some architectures, a function on others. */
void vremote_folio_flush(struct folio *folio)
{
	flush_dcache_folio(folio);
}

/* mapping_gfp_constraint is inline, and filemap_alloc_folio a macro. A folio that is there already is -EEXIST. */
int vremote_folio_add(struct address_space *mapping, unsigned long index, struct folio **folio)
{
	gfp_t gfp = mapping_gfp_constraint(mapping, GFP_KERNEL);
	int status;

	*folio = filemap_alloc_folio(mapping_gfp_mask(mapping), 0, NULL);
	if (!*folio)
		return -ENOMEM;
	status = filemap_add_folio(mapping, *folio, index, gfp);
	if (status) {
		folio_put(*folio);
		*folio = NULL;
	}
	return status;
}

/* Macro. */
void vremote_folio_start_writeback(struct folio *folio)
{
	folio_start_writeback(folio);
}

/*
 * fs_context is opaque in the bindings: the type and its context operations are C, what they fill in is Rust. One superblock
 * serves all mounts, of all namespaces.
 */
static int (*fill_super)(struct super_block *sb);

static int fs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	return fill_super(sb);
}

static int fs_get_tree(struct fs_context *fc)
{
	return get_tree_single(fc, fs_fill_super);
}

static const struct fs_context_operations fs_context_ops = {
	.get_tree = fs_get_tree,
};

static int fs_init_context(struct fs_context *fc)
{
	fc->ops = &fs_context_ops;
	/* An open by path makes the superblock as well, whatever user namespace the task is in. */
	fc->global = true;
	return 0;
}

static struct file_system_type fs_type = {
	.owner = THIS_MODULE,
	.name = "vremote",
	.init_fs_context = fs_init_context,
	.kill_sb = kill_anon_super,
};
MODULE_ALIAS_FS("vremote");

int vremote_fs_register(int (*fill)(struct super_block *sb))
{
	fill_super = fill;
	return register_filesystem(&fs_type);
}

void vremote_fs_unregister(void)
{
	unregister_filesystem(&fs_type);
}

/*
 * The internal mount exists while somebody opens a file through it and, by the file's own reference, while that file is open: a
 * lasting one would keep the module loaded for ever, because a superblock counts as a user of its type.
 */
static struct vfsmount *internal_mount;
static int internal_users;

int vremote_fs_pin(struct path *root)
{
	int status = simple_pin_fs(&fs_type, &internal_mount, &internal_users);

	if (status)
		return status;
	root->mnt = mntget(internal_mount);
	root->dentry = dget(internal_mount->mnt_root);
	return 0;
}

void vremote_fs_unpin(struct path *root)
{
	path_put(root);
	simple_release_fs(&internal_mount, &internal_users);
}

/* backing_dev_info's fields are read through macros elsewhere; kept in one place with its set-up. */
int vremote_fs_set_up(struct super_block *sb, unsigned long readahead_pages)
{
	int status = super_setup_bdi(sb);

	if (status)
		return status;
	sb->s_bdi->ra_pages = readahead_pages;
	sb->s_bdi->io_pages = readahead_pages;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_time_gran = 1;
	/* Whether set-id bits count is for the mount to say (nosuid); a superblock has no word in that. */
	sb->s_flags |= SB_NOATIME;
	return 0;
}

/* kuid_t, kgid_t and the link count are set through inlines; i_lock keeps the fields of one answer together. */
void vremote_inode_update(struct inode *inode, const struct vremote_attributes *attributes)
{
	kuid_t uid = make_kuid(&init_user_ns, attributes->uid);
	kgid_t gid = make_kgid(&init_user_ns, attributes->gid);

	spin_lock(&inode->i_lock);
	if (!inode->i_mode)
		inode->i_mode = attributes->mode;
	else
		inode->i_mode = (inode->i_mode & S_IFMT) | (attributes->mode & ~S_IFMT);
	inode->i_uid = uid_valid(uid) ? uid : make_kuid(&init_user_ns, overflowuid);
	inode->i_gid = gid_valid(gid) ? gid : make_kgid(&init_user_ns, overflowgid);
	inode->i_blocks = attributes->blocks;
	set_nlink(inode, attributes->nlink);
	inode_set_atime_to_ts(inode, attributes->atime);
	inode_set_mtime_to_ts(inode, attributes->mtime);
	inode_set_ctime_to_ts(inode, attributes->ctime);
	spin_unlock(&inode->i_lock);
}

/* The count is set through inlines. One of the names was removed; of a directory that is all. */
void vremote_inode_loses_name(struct inode *inode)
{
	spin_lock(&inode->i_lock);
	if (S_ISDIR(inode->i_mode))
		clear_nlink(inode);
	else if (inode->i_nlink)
		drop_nlink(inode);
	spin_unlock(&inode->i_lock);
}

/* A member of an anonymous union. */
unsigned int vremote_inode_links(struct inode *inode)
{
	return inode->i_nlink;
}

/*
 * Inline. Unlike that of the kernel: what has no name any more may be open on another node still, and what was written to it here is
 * not to be thrown away.
 */
int vremote_inode_drop(struct inode *inode)
{
	return inode_unhashed(inode);
}

/* nop_mnt_idmap is a pointer to a type that the bindings keep opaque. */
void vremote_inode_fill_stat(struct inode *inode, struct kstat *stat, u32 mask)
{
	generic_fillattr(&nop_mnt_idmap, mask, inode, stat);
	/* The kernel takes it for a dummy, because it is not changed here. */
	stat->result_mask |= STATX_ATIME;
}

/* Inline over a wrapped enum. */
bool vremote_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

/* A macro without lockdep. What iget finds out by itself for a new directory: its lock is taken before those of the files in it. */
void vremote_inode_is_directory(struct inode *inode)
{
	lockdep_annotate_inode_mutex_key(inode);
}

/* Inline. */
int vremote_inode_lock(struct inode *inode)
{
	return inode_lock_killable(inode);
}

/* Inline. */
bool vremote_inode_trylock(struct inode *inode)
{
	return inode_trylock(inode);
}

/* Inline. */
void vremote_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

/* Inline. Whether a program is run from it. */
bool vremote_inode_runs(struct inode *inode)
{
	return atomic_read(&inode->i_writecount) < 0;
}

/* Inline. */
bool vremote_dentry_in_lookup(struct dentry *dentry)
{
	return d_in_lookup(dentry);
}

/* A member of nested anonymous unions. The caller holds the parent's lock, so the name does not change. */
const char *vremote_dentry_name(struct dentry *dentry, unsigned int *length)
{
	*length = dentry->d_name.len;
	return (const char *)dentry->d_name.name;
}

/* FMODE_* are casts to a checked type. */
void vremote_mark_created(struct file *file)
{
	file->f_mode |= FMODE_CREATED;
}

/* As above. Without it the kernel refuses O_DIRECT, at open and at fcntl. */
void vremote_allow_direct(struct file *file)
{
	file->f_mode |= FMODE_CAN_ODIRECT;
}

/* As above. */
bool vremote_file_is_opened(struct file *file)
{
	return file->f_mode & FMODE_OPENED;
}

/* kuid_t and group_info are read through inlines, current_cred() is a macro. */
unsigned int vremote_current_ids(u32 *uid, u32 *gid, u32 *groups, unsigned int max)
{
	const struct cred *cred = current_cred();
	unsigned int i, count = min_t(unsigned int, cred->group_info->ngroups, max);

	*uid = from_kuid_munged(&init_user_ns, cred->fsuid);
	*gid = from_kgid_munged(&init_user_ns, cred->fsgid);
	for (i = 0; i < count; i++)
		groups[i] = from_kgid_munged(&init_user_ns, cred->group_info->gid[i]);
	return count;
}

/* Inline. */
bool vremote_dir_emit(struct dir_context *ctx, const char *name, int length, u64 ino, unsigned int type)
{
	return dir_emit(ctx, name, length, ino, type);
}

/* Inline. */
int vremote_to_user(char *to, const void *from, size_t bytes)
{
	return copy_to_user((char __user *)to, from, bytes) ? -EFAULT : 0;
}

/* The ids are members of a union, of types that are structures of one member. Uid, then gid. */
void vremote_wanted_ids(const struct iattr *wanted, u32 *ids)
{
	ids[0] = from_kuid(&init_user_ns, wanted->ia_uid);
	ids[1] = from_kgid(&init_user_ns, wanted->ia_gid);
}

/* Inline, and kfree_link's argument has no type. */
void vremote_link_keep(struct delayed_call *done, void *target)
{
	set_delayed_call(done, kfree_link, target);
}

/* struct kstatfs is opaque to Rust. */
void vremote_fill_space(struct kstatfs *to, const struct vremote_space *space)
{
	to->f_bsize = space->block_bytes;
	to->f_frsize = space->block_bytes;
	to->f_blocks = space->blocks;
	to->f_bfree = space->free;
	to->f_bavail = space->available;
	to->f_files = space->files;
	to->f_ffree = space->files_free;
}

/* struct file_kattr has bit fields, and is opaque to Rust. */
void vremote_fill_fileattr(struct file_kattr *to, const struct vremote_fileattr *attr)
{
	to->flags = attr->flags;
	to->fsx_xflags = attr->xflags;
	to->fsx_extsize = attr->extent_bytes;
	to->fsx_nextents = attr->extents;
	to->fsx_projid = attr->project;
	to->fsx_cowextsize = attr->cow_extent_bytes;
}

/* As above. Says whether only the first field counts; else only the others do. */
bool vremote_wanted_fileattr(const struct file_kattr *wanted, struct vremote_fileattr *attr)
{
	attr->flags = wanted->flags;
	attr->xflags = wanted->fsx_xflags;
	attr->extent_bytes = wanted->fsx_extsize;
	attr->extents = wanted->fsx_nextents;
	attr->project = wanted->fsx_projid;
	attr->cow_extent_bytes = wanted->fsx_cowextsize;
	return wanted->flags_valid;
}

/* Inline. */
bool vremote_dir_emit_dots(struct file *file, struct dir_context *ctx)
{
	return dir_emit_dots(file, ctx);
}

/* Inline. The page cache keeps a reference while the folio is locked. */
struct folio *vremote_readahead_next(struct readahead_control *ractl)
{
	return readahead_folio(ractl);
}

/* Value entries are made and read by inlines. */
u64 vremote_word_load(struct xarray *words, unsigned long index)
{
	void *entry = xa_load(words, index);

	return xa_is_value(entry) ? xa_to_value(entry) : 0;
}

/* As above. Afterwards a store at this index needs no memory. */
int vremote_word_reserve(struct xarray *words, unsigned long index)
{
	int status;

	if (xa_load(words, index))
		return 0;
	status = xa_insert(words, index, xa_mk_value(0), GFP_NOFS);
	return status == -EBUSY ? 0 : status;
}

/* As above. */
int vremote_word_store(struct xarray *words, unsigned long index, u64 word)
{
	return xa_err(xa_store(words, index, xa_mk_value(word), GFP_ATOMIC));
}

/* Inline. */
void vremote_words_init(struct xarray *words)
{
	xa_init(words);
}

/* XA_PRESENT is a cast. The first word at or behind *index that is not 0, or 0. */
u64 vremote_word_next(struct xarray *words, unsigned long *index)
{
	void *entry;

	for (entry = xa_find(words, index, ULONG_MAX, XA_PRESENT); entry;
	     entry = xa_find_after(words, index, ULONG_MAX, XA_PRESENT))
		if (xa_to_value(entry))
			return xa_to_value(entry);
	return 0;
}

/* Inline. */
void vremote_mapping_error(struct address_space *mapping, int error)
{
	mapping_set_error(mapping, error);
}

/* A bit field's neighbour: kept in C with the enum that it is compared to. */
bool vremote_wbc_integrity(const struct writeback_control *wbc)
{
	return wbc->sync_mode == WB_SYNC_ALL;
}

/* Macro, with a lock class of its own. */
void vremote_wait_init(struct wait_queue_head *queue)
{
	init_waitqueue_head(queue);
}

/* Macro. `how`: 0 nothing ends the wait early, 1 a fatal signal, 2 any. 1: changed, 0: time is up, negative: a signal. */
long vremote_wait_change(struct wait_queue_head *queue, const u32 *changes, u32 seen, unsigned long microseconds,
			 unsigned int how)
{
	unsigned long limit = usecs_to_jiffies(min_t(unsigned long, microseconds, UINT_MAX)) + 1;
	long left;

	if (how == 2)
		left = wait_event_interruptible_timeout(*queue, READ_ONCE(*changes) != seen, limit);
	else if (how == 1)
		left = wait_event_killable_timeout(*queue, READ_ONCE(*changes) != seen, limit);
	else
		left = wait_event_timeout(*queue, READ_ONCE(*changes) != seen, limit);
	return left > 0 ? 1 : left;
}

/* Macro. */
void vremote_wait_wake(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

/* Inline. */
bool vremote_killed(void)
{
	return fatal_signal_pending(current);
}

/* f_path is a member of an anonymous union. */
struct dentry *vremote_file_dentry(struct file *file)
{
	return file->f_path.dentry;
}

/* Inline. */
size_t vremote_iov_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

/* Inline. */
ssize_t vremote_write_sync(struct kiocb *iocb, ssize_t count)
{
	return generic_write_sync(iocb, count);
}

/* IOCB_* are casts of checked types. */
bool vremote_kiocb_is_append(const struct kiocb *iocb)
{
	return iocb->ki_flags & IOCB_APPEND;
}

/* As above. */
bool vremote_kiocb_is_nowait(const struct kiocb *iocb)
{
	return iocb->ki_flags & IOCB_NOWAIT;
}

/* get_fs_pwd is inline, f_path a member of an anonymous union. Descriptors with O_PATH count as well. */
int vremote_base_path(int dfd, struct path *path)
{
	struct file *file;

	if (dfd == AT_FDCWD) {
		get_fs_pwd(current->fs, path);
		return 0;
	}
	file = fget_raw(dfd);
	if (!file)
		return -EBADF;
	*path = file->f_path;
	path_get(path);
	fput(file);
	return 0;
}

/* Inline. */
bool vremote_path_is_deleted(const struct path *path)
{
	return d_unlinked(path->dentry);
}

/* The type is known here only. */
bool vremote_path_is_ours(const struct path *path)
{
	return path->dentry->d_sb->s_type == &fs_type;
}

/* kern_path is not in the kernel's bindings, LOOKUP_* are not constants there. The root of a mount of ours, or -ENOENT. */
int vremote_mounted_at(const char *name, struct path *root)
{
	int status = kern_path(name, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, root);

	if (status)
		return -ENOENT;
	if (vremote_path_is_ours(root) && root->dentry == root->dentry->d_sb->s_root)
		return 0;
	path_put(root);
	return -ENOENT;
}

/* Inline. */
bool vremote_file_is_directory(struct file *file)
{
	return S_ISDIR(file_inode(file)->i_mode);
}

/*
 * O_REMOTE is refused below a given root, because nobody has resolved the path then; here that has been done. The flag is put back
 * before anybody else sees the file: F_GETFL and fdinfo must show how it was opened.
 */
struct file *vremote_open_below(const struct path *root, const char *name, int flags, umode_t mode)
{
	struct file *file = file_open_root(root, name, flags & ~O_REMOTE, mode);

	if (!IS_ERR(file))
		file->f_flags |= flags & O_REMOTE;
	return file;
}

/* As above, for a file of this node. */
struct file *vremote_open_local(const char *name, int flags, umode_t mode)
{
	struct file *file = filp_open(name, flags & ~O_REMOTE, mode);

	if (!IS_ERR(file))
		file->f_flags |= flags & O_REMOTE;
	return file;
}

/* Inline. */
struct folio *vremote_fault_folio(const struct vm_fault *vmf)
{
	return page_folio(vmf->page);
}

/* vma_flags are a member of an anonymous union. A shared mapping of what was opened for reading has no VM_SHARED. */
bool vremote_fault_is_shared(const struct vm_fault *vmf)
{
	return vmf->vma->vm_flags & VM_MAYSHARE;
}

/* Inline: a superblock that is being frozen lets nobody dirty a page. */
void vremote_fault_begin(struct inode *inode)
{
	sb_start_pagefault(inode->i_sb);
}

/* Inline. */
void vremote_fault_end(struct inode *inode)
{
	sb_end_pagefault(inode->i_sb);
}
