// SPDX-License-Identifier: GPL-2.0
/* See origin.h. */

#include <linux/blkdev.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs_struct.h>
#include <linux/highmem.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/uidgid.h>
#include <linux/uio.h>
#include <linux/writeback.h>

#include "origin.h"

#define VREMOTE_NOBODY 65534

/* struct cred is opaque to Rust, and its setters are inline. The capabilities follow the uid, as in nfsd. */
const struct cred *vremote_origin_become(u32 uid, u32 gid, const u32 *groups, unsigned int ngroups, bool squash)
{
	struct group_info *info;
	struct cred *new;
	unsigned int i;

	new = prepare_kernel_cred(&init_task);
	if (!new)
		return ERR_PTR(-ENOMEM);
	info = groups_alloc(ngroups);
	if (!info) {
		abort_creds(new);
		return ERR_PTR(-ENOMEM);
	}
	if (squash && uid == 0)
		uid = VREMOTE_NOBODY;
	if (squash && gid == 0)
		gid = VREMOTE_NOBODY;
	for (i = 0; i < ngroups; i++)
		info->gid[i] = KGIDT_INIT(squash && groups[i] == 0 ? VREMOTE_NOBODY : groups[i]);
	groups_sort(info);
	set_groups(new, info);
	put_group_info(info);

	new->fsuid = KUIDT_INIT(uid);
	new->fsgid = KGIDT_INIT(gid);
	if (uid != 0)
		cap_clear(new->cap_effective);
	return override_creds(new);
}

/* Inline in the kernel. */
void vremote_origin_unbecome(const struct cred *old)
{
	put_cred(revert_creds(old));
}

/*
 * What remotes write is written by work items, which may do whatever the kernel may. With these credentials they may not what is for programs
 * of this node alone: take the blocks that ext4 reserves for a user (by fsuid) or for root, exceed quotas (CAP_SYS_RESOURCE), leave set-id
 * bits to what is changed (CAP_FSETID). All other rights stay: whether a file may be written to was asked when it was opened.
 */
static const struct cred *afar;

int vremote_origin_init(void)
{
	struct cred *new = prepare_kernel_cred(&init_task);

	if (!new)
		return -ENOMEM;
	new->fsuid = KUIDT_INIT(VREMOTE_NOBODY);
	cap_lower(new->cap_effective, CAP_SYS_RESOURCE);
	cap_lower(new->cap_effective, CAP_FSETID);
	afar = new;
	return 0;
}

void vremote_origin_exit(void)
{
	put_cred(afar);
}

/*
 * The flags are macros. A root that is given keeps "..", and absolute symlinks, from leading further up only while nothing moves. With
 * LOOKUP_BENEATH the kernel looks whether anything did (-EAGAIN), and in the end whether what was found is below the root (-EXDEV).
 */
int vremote_origin_lookup(const struct path *root, const char *name, bool follow, struct path *path)
{
	return vfs_path_lookup(root->dentry, root->mnt, name, LOOKUP_BENEATH | (follow ? LOOKUP_FOLLOW : 0), path);
}

/* The flags are macros. An empty name is the path itself, as in open_by_handle_at(2). */
struct file *vremote_origin_open(const struct path *path, int flags)
{
	return file_open_root(path, "", flags | O_LARGEFILE | O_NOCTTY | O_NONBLOCK, 0);
}

/*
 * Joins calls whose flags are macros. A file that is created gets the mode as it is: the umask that counts, the opener's, has been
 * applied there.
 */
struct file *vremote_origin_create(const struct path *directory, const char *name, int flags, umode_t mode)
{
	struct file *file = file_open_root(directory, name, flags | O_NOFOLLOW | O_LARGEFILE | O_NOCTTY | O_NONBLOCK, mode);
	struct iattr attr = { .ia_valid = ATTR_MODE | ATTR_FORCE, .ia_mode = S_IFREG | (mode & 07777) };

	if (!IS_ERR(file) && file->f_mode & FMODE_CREATED && (file_inode(file)->i_mode & 07777) != (mode & 07777)) {
		inode_lock(file_inode(file));
		notify_change(file_mnt_idmap(file), file->f_path.dentry, &attr, NULL);
		inode_unlock(file_inode(file));
	}
	return file;
}

/*
 * Sequence over members that are opaque to Rust. Who may run a program need not be able to read it: the caller's rights decide
 * whether it may be run, the kernel's serve to read it.
 */
struct file *vremote_origin_open_to_run(const struct path *path)
{
	struct inode *inode = d_inode(path->dentry);
	const struct cred *cred;
	struct file *file;
	int err;

	err = inode_permission(mnt_idmap(path->mnt), inode, MAY_EXEC | MAY_OPEN);
	if (!err && (!S_ISREG(inode->i_mode) || path->mnt->mnt_flags & MNT_NOEXEC))
		err = -EACCES;
	if (err)
		return ERR_PTR(err);
	cred = prepare_kernel_cred(&init_task);
	if (!cred)
		return ERR_PTR(-ENOMEM);
	file = dentry_open(path, O_RDONLY | O_LARGEFILE, cred);
	put_cred(cred);
	return file;
}

/*
 * dentry_open with the kernel's credentials: read and write if the mount allows it, else read. It does not count as a writer: that would
 * keep programs of this node from being run. Closed by vremote_origin_close.
 */
struct file *vremote_origin_reopen(struct file *file)
{
	const struct cred *cred = prepare_kernel_cred(&init_task);
	struct file *own;

	if (!cred)
		return ERR_PTR(-ENOMEM);
	own = dentry_open(&file->f_path, O_RDWR | O_LARGEFILE | O_NOATIME, cred);
	if (!IS_ERR(own))
		put_write_access(file_inode(own));
	else
		own = dentry_open(&file->f_path, O_RDONLY | O_LARGEFILE | O_NOATIME, cred);
	put_cred(cred);
	return own;
}

/* The reverse: fput takes away what was counted when it was opened. */
void vremote_origin_close(struct file *own)
{
	if (own->f_mode & FMODE_WRITER)
		atomic_inc(&file_inode(own)->i_writecount);
	fput(own);
}

/* Inline. A remote opens for writing: -ETXTBSY while a program is run from the file, and none can be until the end. */
int vremote_origin_write_begin(struct file *file)
{
	return get_write_access(file_inode(file));
}

/* Inline. */
void vremote_origin_write_end(struct file *file)
{
	put_write_access(file_inode(file));
}

/* get_fs_root is inline. Work items have an empty root directory; this is that of the process that calls. */
void vremote_origin_root(struct path *path)
{
	get_fs_root(current->fs, path);
}

/* The flags are macros. */
int vremote_origin_path(const char *name, struct path *path)
{
	return kern_path(name, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, path);
}

/* f_path is a member of a union. */
void vremote_origin_path_of_file(struct file *file, struct path *path)
{
	*path = file->f_path;
	path_get(path);
}

/* A task that exits has lost its root directory. */
char *vremote_origin_path_text(const struct path *path, char *buffer, int bytes)
{
	return current->fs ? d_path(path, buffer, bytes) : ERR_PTR(-ESRCH);
}

/* Inlines, and structures that are opaque to Rust. */
bool vremote_origin_is_of(const struct path *path, struct file *file)
{
	return d_inode(path->dentry) == file_inode(file);
}

/* Also if the name is gone: the directory that it was in stays known. f_path is a member of a union. */
bool vremote_origin_is_below(struct file *file, const struct path *root)
{
	return path_is_under(&file->f_path, root);
}

/* f_path is a member of a union; credentials are opaque to Rust. */
int vremote_origin_truncate(struct file *file, loff_t size)
{
	CLASS(override_creds, before)(afar);

	return vfs_truncate(&file->f_path, size);
}

/* As above. */
int vremote_origin_allocate(struct file *file, int mode, loff_t offset, loff_t bytes)
{
	CLASS(override_creds, before)(afar);

	return vfs_fallocate(file, mode, offset, bytes);
}

/* The flags are macros. */
int vremote_origin_stat(const struct path *path, struct kstat *stat, u32 *generation)
{
	*generation = d_inode(path->dentry)->i_generation;
	return vfs_getattr(path, stat, STATX_BASIC_STATS, AT_STATX_SYNC_AS_STAT);
}

/* MAY_* as a number, and inlines. Whether the caller has these rights. */
int vremote_origin_may(const struct path *path, int rights)
{
	return rights ? inode_permission(mnt_idmap(path->mnt), d_inode(path->dentry), rights) : 0;
}

/*
 * Whether the pages of the file can be kept coherent; -errno says why not. The tests are macros and inlines.
 *
 * Blocks of a page: a Put makes whole pages dirty, and smaller blocks would have to be dirtied one by one.
 */
int vremote_origin_shareable(struct file *file)
{
	struct inode *inode = file_inode(file);

	if (S_ISDIR(inode->i_mode))
		return -EISDIR;
	if (!S_ISREG(inode->i_mode))
		return -ENXIO;
	if (!(file->f_op->fop_flags & FOP_COHERENT))
		return -EOPNOTSUPP;
	if (IS_DAX(inode) || IS_SWAPFILE(inode) || IS_VERITY(inode) || IS_ENCRYPTED(inode))
		return -EOPNOTSUPP;
	if (i_blocksize(inode) != PAGE_SIZE || mapping_min_folio_order(inode->i_mapping))
		return -EOPNOTSUPP;
	if (!inode->i_mapping->a_ops->write_begin || !inode->i_mapping->a_ops->write_end)
		return -EOPNOTSUPP;
	return 0;
}

/* Inline in the kernel. */
struct address_space *vremote_origin_mapping(struct file *file)
{
	return file->f_mapping;
}

/* i_size_read is inline, and i_mapping a field of a structure with many unions. */
u64 vremote_origin_size(struct file *file)
{
	return i_size_read(file_inode(file));
}

/* file_inode is inline, and i_nlink a member of a union. */
bool vremote_origin_deleted(struct file *file)
{
	return !file_inode(file)->i_nlink;
}

/* FMODE_WRITE is a cast macro. */
bool vremote_origin_writable(struct file *file)
{
	return file->f_mode & FMODE_WRITE;
}

/* IS_APPEND and IS_IMMUTABLE are macros. */
bool vremote_origin_overwritable(struct file *file)
{
	return !IS_APPEND(file_inode(file)) && !IS_IMMUTABLE(file_inode(file));
}

/* A field of a structure with many unions. */
struct address_space *vremote_origin_inode_mapping(struct inode *inode)
{
	return inode->i_mapping;
}

/* file_inode is inline. */
int vremote_origin_mark(struct file *file)
{
	return coherent_mark(file_inode(file));
}

/* Inline in the kernel; direct I/O in flight looks at the mark under the lock. */
void vremote_origin_unmark(struct file *file)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
	mapping_clear_coherent(inode->i_mapping);
	inode_unlock(inode);
}

/* read_mapping_folio is inline. */
struct folio *vremote_origin_read_folio(struct file *file, unsigned long index)
{
	return read_mapping_folio(file->f_mapping, index, file);
}

/*
 * DEFINE_READAHEAD is a macro. Starts reading count pages; does not wait, not even for a truncation, which may wait for the caller:
 * then each page is read when it is wanted.
 */
void vremote_origin_readahead(struct file *file, unsigned long index, unsigned int count)
{
	DEFINE_READAHEAD(ractl, file, &file->f_ra, file->f_mapping, index);

	if (!filemap_invalidate_trylock_shared(file->f_mapping))
		return;
	page_cache_ra_unbounded(&ractl, count, 0);
	filemap_invalidate_unlock_shared(file->f_mapping);
}

/*
 * The range is computed with loff_t, and errors stay in the mapping, where each descriptor's next fsync finds them; the functions that
 * return them take them out of it. What finds no blocks is thrown away by ext4, which tells its caller only.
 */
void vremote_origin_write_out(struct file *file, u64 first, u64 last)
{
	struct address_space *mapping = file->f_mapping;
	loff_t start = min_t(u64, first, LLONG_MAX >> PAGE_SHIFT) << PAGE_SHIFT;
	loff_t end = last >= LLONG_MAX >> PAGE_SHIFT ? LLONG_MAX : ((loff_t)last << PAGE_SHIFT) + PAGE_SIZE - 1;

	mapping_set_error(mapping, filemap_fdatawrite_range(mapping, start, end));
	filemap_fdatawait_range_keep_errors(mapping, start, end);
}

/*
 * Puts bytes that came home into the page cache and marks them dirty, the way a store through a mapping would: without
 * the inode lock, which a task that waits for these very bytes may hold. Nothing is written at or beyond i_size; truncation
 * holds off installs by resize_begin.
 *
 * `dirty`: the page was when it went away. What room it had on the disk was given up then, perhaps only room that is for root, and is
 * taken back whatever there is: bytes that a program of this node has written must not be lost for want of it.
 */
int vremote_origin_install(struct file *file, unsigned long index, const void *data, size_t bytes, bool dirty)
{
	CLASS(override_creds, before)(dirty ? kernel_cred() : afar);
	struct address_space *mapping = file->f_mapping;
	struct inode *inode = file_inode(file);
	loff_t pos = (loff_t)index << PAGE_SHIFT;
	loff_t size = i_size_read(inode);
	struct folio *folio;
	void *fsdata = NULL;
	int ret;

	if (pos >= size)
		return 0;
	bytes = min_t(loff_t, bytes, size - pos);
	if (!bytes)
		return 0;
	/* Not file_start_write: the caller may be in a write to the same file system. */
	sb_start_pagefault(inode->i_sb);
	ret = mapping->a_ops->write_begin(NULL, mapping, pos, bytes, &folio, &fsdata);
	if (!ret) {
		memcpy_to_folio(folio, offset_in_folio(folio, pos), data, bytes);
		/*
		 * The bytes end where the file did for their owner: behind that are zeros. What write_begin has read from the disk may be
		 * older than the truncation whose zeros were in the page that went away.
		 */
		folio_zero_segment(folio, offset_in_folio(folio, pos) + bytes, offset_in_folio(folio, pos) + PAGE_SIZE);
		flush_dcache_folio(folio);
		ret = mapping->a_ops->write_end(NULL, mapping, pos, bytes, bytes, folio, fsdata);
		ret = ret < 0 ? ret : ret < bytes ? -EIO : 0;
	}
	sb_end_pagefault(inode->i_sb);
	balance_dirty_pages_ratelimited(mapping);
	return ret;
}

/*
 * Inlines. The times of the file say that it was written to: its bytes come home later, when nobody writes any more. Not file_start_write,
 * see above.
 */
void vremote_origin_touch(struct file *file)
{
	struct super_block *sb = file_inode(file)->i_sb;

	sb_start_pagefault(sb);
	file_update_time(file);
	sb_end_pagefault(sb);
}

/*
 * iov_iter_kvec is used with a stack kvec; RWF_APPEND is a cast macro. Of a file that is for appending only the kernel looks when it is
 * opened, and this descriptor was not opened by the one who writes.
 */
ssize_t vremote_origin_write(struct file *file, const void *data, size_t bytes, loff_t *pos, bool append)
{
	struct kvec vec = { .iov_base = (void *)data, .iov_len = bytes };
	CLASS(override_creds, before)(afar);
	struct iov_iter iter;

	if (!append && IS_APPEND(file_inode(file)))
		return -EPERM;
	iov_iter_kvec(&iter, ITER_SOURCE, &vec, 1, bytes);
	return vfs_iter_write(file, &iter, pos, append ? RWF_APPEND : 0);
}

/* The file is nobody's: what its cursor of errors has missed is not to be told to who happens to ask first. */
int vremote_origin_sync(struct file *file, bool datasync)
{
	int missed = file_check_and_advance_wb_err(file);

	(void)missed;
	return vfs_fsync(file, datasync);
}

/* current is a macro. The number only tells tasks apart. */
unsigned long vremote_origin_task(void)
{
	return (unsigned long)current;
}

/* Inline. Pages of memory that this machine has. */
u64 vremote_origin_memory_pages(void)
{
	return totalram_pages();
}
