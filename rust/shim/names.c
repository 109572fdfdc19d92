// SPDX-License-Identifier: GPL-2.0
/* See names.h. */

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fileattr.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/statfs.h>
#include <linux/string.h>
#include <linux/unaligned.h>
#include <linux/xattr.h>

#include "names.h"

/*
 * A directory, a symlink to `target`, a FIFO, a socket's name, or an empty file; devices are this node's own. The umask that counts, the
 * caller's, has been applied there.
 */
int vremote_names_make(const struct path *directory, const char *name, umode_t mode, const char *target)
{
	struct iattr attr = { .ia_valid = ATTR_MODE | ATTR_FORCE };
	struct mnt_idmap *idmap = mnt_idmap(directory->mnt);
	struct inode *parent = d_inode(directory->dentry);
	struct dentry *dentry;
	int err;

	switch (mode & S_IFMT) {
	case S_IFLNK:
		if (!*target)
			return -EINVAL;
		break;
	case S_IFDIR:
	case S_IFREG:
	case S_IFIFO:
	case S_IFSOCK:
		break;
	case S_IFCHR:
	case S_IFBLK:
		return -EPERM;
	default:
		return -EINVAL;
	}
	err = mnt_want_write(directory->mnt);
	if (err)
		return err;
	dentry = start_creating(idmap, directory->dentry, &QSTR(name));
	err = PTR_ERR_OR_ZERO(dentry);
	if (!err && d_is_positive(dentry))
		err = -EEXIST;
	if (!err && S_ISLNK(mode)) {
		err = vfs_symlink(idmap, parent, dentry, target, NULL);
	} else if (!err && S_ISDIR(mode)) {
		/* Drops what it was given if it fails. */
		dentry = vfs_mkdir(idmap, parent, dentry, mode, NULL);
		err = PTR_ERR_OR_ZERO(dentry);
	} else if (!err && S_ISREG(mode)) {
		err = vfs_create(idmap, dentry, mode, NULL);
	} else if (!err) {
		err = vfs_mknod(idmap, parent, dentry, mode, 0, NULL);
	}
	if (!err && !S_ISLNK(mode) && d_is_positive(dentry)) {
		attr.ia_mode = (d_inode(dentry)->i_mode & ~01777) | (mode & 01777);
		inode_lock_nested(d_inode(dentry), I_MUTEX_CHILD);
		if (d_inode(dentry)->i_mode != attr.ia_mode)
			notify_change(idmap, dentry, &attr, NULL);
		inode_unlock(d_inode(dentry));
	}
	end_creating(dentry);
	mnt_drop_write(directory->mnt);
	return err;
}

/* A second name of a file. */
int vremote_names_link(const struct path *file, const struct path *directory, const char *name)
{
	struct mnt_idmap *idmap = mnt_idmap(directory->mnt);
	struct dentry *dentry;
	int err;

	err = mnt_want_write(directory->mnt);
	if (err)
		return err;
	err = -EXDEV;
	if (file->mnt != directory->mnt)
		goto drop;
	dentry = start_creating(idmap, directory->dentry, &QSTR(name));
	err = PTR_ERR_OR_ZERO(dentry);
	if (!err)
		err = vfs_link(file->dentry, idmap, d_inode(directory->dentry), dentry, NULL);
	end_creating(dentry);
drop:
	mnt_drop_write(directory->mnt);
	return err;
}

int vremote_names_remove(const struct path *directory, const char *name, bool is_directory)
{
	struct mnt_idmap *idmap = mnt_idmap(directory->mnt);
	struct inode *parent = d_inode(directory->dentry);
	struct inode *inode = NULL;
	struct dentry *dentry;
	int err;

	err = mnt_want_write(directory->mnt);
	if (err)
		return err;
	dentry = start_removing(idmap, directory->dentry, &QSTR(name));
	err = PTR_ERR_OR_ZERO(dentry);
	if (!err && is_directory) {
		err = vfs_rmdir(idmap, parent, dentry, NULL);
	} else if (!err) {
		/* Its blocks are freed after the directory is unlocked. */
		inode = d_inode(dentry);
		ihold(inode);
		err = vfs_unlink(idmap, parent, dentry, NULL);
	}
	end_removing(dentry);
	iput(inode);
	mnt_drop_write(directory->mnt);
	return err;
}

int vremote_names_rename(const struct path *from, const char *name, const struct path *to, const char *new_name, unsigned int flags)
{
	struct renamedata data = {
		.mnt_idmap = mnt_idmap(from->mnt),
		.old_parent = from->dentry,
		.new_parent = to->dentry,
		.flags = flags,
	};
	int err;

	/* What the system call checks; whiteouts are for overlays of this node. */
	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	if (from->mnt != to->mnt)
		return -EXDEV;
	err = mnt_want_write(from->mnt);
	if (err)
		return err;
	err = start_renaming(&data, 0, &QSTR(name), &QSTR(new_name));
	if (!err) {
		err = vfs_rename(&data);
		end_renaming(&data);
	}
	mnt_drop_write(from->mnt);
	return err;
}

/* Mode, owner and times, of a symlink itself if it is one. */
int vremote_names_change(const struct path *path, const struct vremote_change *change)
{
	struct inode *inode = d_inode(path->dentry);
	struct iattr attr = {
		.ia_valid = change->valid & ~ATTR_KILL_SUID,
		.ia_atime = change->atime,
		.ia_mtime = change->mtime,
	};
	int err;

	err = mnt_want_write(path->mnt);
	if (err)
		return err;
	inode_lock(inode);
	if (change->valid & ATTR_MODE)
		attr.ia_mode = (inode->i_mode & S_IFMT) | (change->mode & 07777);
	if (change->valid & ATTR_UID)
		attr.ia_vfsuid = VFSUIDT_INIT(KUIDT_INIT(change->uid));
	if (change->valid & ATTR_GID)
		attr.ia_vfsgid = VFSGIDT_INIT(KGIDT_INIT(change->gid));
	/* As chown(2) does. A change of the mode says itself what becomes of these bits; both together are a BUG. */
	if (change->valid & (ATTR_UID | ATTR_GID | ATTR_KILL_SUID) && !(change->valid & ATTR_MODE) && !S_ISDIR(inode->i_mode))
		attr.ia_valid |= ATTR_KILL_SUID | ATTR_KILL_PRIV | setattr_should_drop_sgid(mnt_idmap(path->mnt), inode);
	err = notify_change(mnt_idmap(path->mnt), path->dentry, &attr, NULL);
	inode_unlock(inode);
	mnt_drop_write(path->mnt);
	return err;
}

/* Links of procfs and the like jump: their get_link needs a path walk around it. Such have a readlink of their own. */
static bool is_magic(const struct dentry *link)
{
	return d_inode(link)->i_op->readlink;
}

/* Where a symlink leads; its length. */
ssize_t vremote_names_read_link(const struct path *path, u8 *buffer, size_t bytes)
{
	DEFINE_DELAYED_CALL(done);
	const char *target;
	ssize_t length;

	if (!d_is_symlink(path->dentry) || is_magic(path->dentry))
		return -EINVAL;
	touch_atime(path);
	target = vfs_get_link(path->dentry, &done);
	if (IS_ERR(target))
		return PTR_ERR(target);
	length = min(strlen(target), bytes);
	memcpy(buffer, target, length);
	do_delayed_call(&done);
	return length;
}

/* The value of an extended attribute, or without room for it its length only. */
ssize_t vremote_names_get_xattr(const struct path *path, const char *attribute, u8 *value, size_t bytes)
{
	return vfs_getxattr(mnt_idmap(path->mnt), path->dentry, attribute, bytes ? value : NULL, bytes);
}

/* Sets an extended attribute, or removes it if there is no value. */
int vremote_names_set_xattr(const struct path *path, const char *attribute, const u8 *value, size_t bytes, int flags)
{
	int err = mnt_want_write(path->mnt);

	if (err)
		return err;
	if (value)
		err = vfs_setxattr(mnt_idmap(path->mnt), path->dentry, attribute, value, bytes, flags);
	else
		err = vfs_removexattr(mnt_idmap(path->mnt), path->dentry, attribute);
	mnt_drop_write(path->mnt);
	return err;
}

/* The names of all extended attributes, of every kind, each with its NUL. */
ssize_t vremote_names_list_xattr(const struct path *path, u8 *names, size_t bytes)
{
	return vfs_listxattr(path->dentry, (char *)names, bytes);
}

/* A file system that has no flags says so by a number that programs never see; its ioctl(2) says ENOTTY. */
static int of_program(int err)
{
	return err == -ENOIOCTLCMD ? -ENOTTY : err;
}

/* What lsattr(1) shows. */
int vremote_names_get_fileattr(const struct path *path, struct vremote_fileattr *attr)
{
	struct file_kattr found = { .flags_valid = true };
	int err = vfs_fileattr_get(path->dentry, &found);

	attr->flags = found.flags;
	attr->xflags = found.fsx_xflags;
	attr->extent_bytes = found.fsx_extsize;
	attr->extents = found.fsx_nextents;
	attr->project = found.fsx_projid;
	attr->cow_extent_bytes = found.fsx_cowextsize;
	return of_program(err);
}

/* Who sets these says how bytes or names are kept here: no file that has them, or gets them from its directory, can be shared. */
#define STORAGE_FLAGS (FS_JOURNAL_DATA_FL | FS_DAX_FL | FS_CASEFOLD_FL)

/*
 * What chattr(1) does. `mapping`: that of the file, to find it by if it is shared; the pointer is not to be followed.
 *
 * A local program may change one of the flags above between the two calls, and that be undone here. It breaks no file that is shared
 * meanwhile: ext4 itself refuses to change data journalling of one, and DAX begins when a file is read in anew.
 */
int vremote_names_set_fileattr(const struct path *path, const struct vremote_fileattr *wanted, bool by_flags,
			       struct address_space **mapping)
{
	struct file_kattr old = { .flags_valid = true }, new = {};
	int err = mnt_want_write(path->mnt);

	if (err)
		return err;
	err = vfs_fileattr_get(path->dentry, &old);
	if (err)
		goto drop;
	if (by_flags) {
		/* Whether a file has extents can be seen, not set: it stays, as for local programs all such flags do. */
		fileattr_fill_flags(&new, (wanted->flags & ~FS_EXTENT_FL) | (old.flags & FS_EXTENT_FL));
	} else {
		fileattr_fill_xflags(&new, wanted->xflags & FS_XFLAGS_MASK & ~FS_XFLAG_RDONLY_MASK);
		new.fsx_extsize = wanted->extent_bytes;
		new.fsx_projid = wanted->project;
		new.fsx_cowextsize = wanted->cow_extent_bytes;
	}
	if ((new.flags ^ old.flags) & STORAGE_FLAGS & (by_flags ? ~0U : FS_COMMON_FL))
		err = -EOPNOTSUPP;
	else
		err = vfs_fileattr_set(mnt_idmap(path->mnt), path->dentry, &new);
	*mapping = d_inode(path->dentry)->i_mapping;
drop:
	mnt_drop_write(path->mnt);
	return of_program(err);
}

/* fsync of a directory: its names are on the disk when this returns. */
int vremote_names_sync(const struct path *path, bool datasync)
{
	struct file *file;
	int err;

	/* dentry_open asks for nothing: opening a FIFO would wait for its other end, opening a device do anything. */
	if (!d_can_lookup(path->dentry))
		return -ENOTDIR;
	file = dentry_open(path, O_RDONLY | O_DIRECTORY | O_LARGEFILE, current_cred());
	if (IS_ERR(file))
		return PTR_ERR(file);
	err = vfs_fsync(file, datasync);
	fput(file);
	return err;
}

/* How much room there is where something is. struct kstatfs is opaque to Rust. */
int vremote_names_space(const struct path *path, struct vremote_space *space)
{
	struct kstatfs found;
	int err;

	err = vfs_statfs(path, &found);
	if (err)
		return err;
	space->block_bytes = found.f_frsize ?: found.f_bsize;
	space->blocks = found.f_blocks;
	space->free = found.f_bfree;
	space->available = found.f_bavail;
	space->files = found.f_files;
	space->files_free = found.f_ffree;
	return 0;
}

/* Entries as rust/proto/wire.rs has them (Entry), one behind the other. */
struct listing {
	struct dir_context context;
	u8 *buffer;
	size_t used;
	size_t room;
	/* Where the last entry keeps the position of the next one. */
	u8 *next;
};

#define ENTRY_HEAD 20

static bool add_entry(struct dir_context *context, const char *name, int length, loff_t offset, u64 ino, unsigned int type)
{
	struct listing *listing = container_of(context, struct listing, context);
	u8 *entry = listing->buffer + listing->used;

	if (listing->room - listing->used < ENTRY_HEAD + length)
		return false;
	if (listing->next)
		put_unaligned_le64(offset, listing->next);
	put_unaligned_le64(ino, entry + 8);
	put_unaligned_le16(type, entry + 16);
	put_unaligned_le16(length, entry + 18);
	memcpy(entry + ENTRY_HEAD, name, length);
	listing->next = entry;
	listing->used += ENTRY_HEAD + length;
	return true;
}

/* Fills the buffer from the position on; 0 bytes: there is no more. */
ssize_t vremote_names_list(const struct path *directory, u64 *position, u8 *buffer, size_t bytes)
{
	struct listing listing = {
		.context.actor = add_entry,
		.buffer = buffer,
		.room = bytes,
	};
	struct file *file;
	loff_t at;
	int err;

	file = file_open_root(directory, "", O_RDONLY | O_DIRECTORY | O_LARGEFILE, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	at = vfs_llseek(file, *position, SEEK_SET);
	err = at < 0 ? at : iterate_dir(file, &listing.context);
	*position = listing.context.pos;
	if (listing.next)
		put_unaligned_le64(listing.context.pos, listing.next);
	fput(file);
	return err < 0 ? err : listing.used;
}
