// SPDX-License-Identifier: GPL-2.0
/* See names.h. */

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fileattr.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/string.h>
#include <linux/unaligned.h>
#include <linux/xattr.h>

#include "names.h"

/* The directory that a name is in, and the name's last part. The export itself (an empty name) is not to be touched. */
static int parent_of(const struct path *root, const char *name, struct path *parent, struct qstr *last)
{
	const char *slash = strrchr(name, '/');
	char *directory;
	int err;

	*last = QSTR(slash ? slash + 1 : name);
	if (!last->len)
		return -EBUSY;
	if (!slash) {
		*parent = *root;
		path_get(parent);
		return 0;
	}
	directory = kstrndup(name, slash - name, GFP_KERNEL);
	if (!directory)
		return -ENOMEM;
	err = vfs_path_lookup(root->dentry, root->mnt, directory, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, parent);
	kfree(directory);
	return err;
}

/* As parent_of, and the file system may be written to until let_go. */
static int parent_to_change(const struct path *root, const char *name, struct path *parent, struct qstr *last)
{
	int err = parent_of(root, name, parent, last);

	if (err)
		return err;
	err = mnt_want_write(parent->mnt);
	if (err)
		path_put(parent);
	return err;
}

static void let_go(struct path *parent)
{
	mnt_drop_write(parent->mnt);
	path_put(parent);
}

/*
 * A directory, a symlink to `target`, a FIFO, a socket's name, or an empty file; devices are this node's own. The umask that counts, the
 * caller's, has been applied there.
 */
int vremote_names_make(const struct path *root, const char *name, umode_t mode, const char *target)
{
	struct iattr attr = { .ia_valid = ATTR_MODE | ATTR_FORCE };
	struct dentry *dentry;
	struct mnt_idmap *idmap;
	struct path parent;
	struct qstr last;
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
	err = parent_to_change(root, name, &parent, &last);
	if (err)
		return err;
	idmap = mnt_idmap(parent.mnt);
	dentry = start_creating(idmap, parent.dentry, &last);
	err = PTR_ERR_OR_ZERO(dentry);
	if (!err && d_is_positive(dentry))
		err = -EEXIST;
	if (!err && S_ISLNK(mode)) {
		err = vfs_symlink(idmap, d_inode(parent.dentry), dentry, target, NULL);
	} else if (!err && S_ISDIR(mode)) {
		/* Drops what it was given if it fails. */
		dentry = vfs_mkdir(idmap, d_inode(parent.dentry), dentry, mode, NULL);
		err = PTR_ERR_OR_ZERO(dentry);
	} else if (!err && S_ISREG(mode)) {
		err = vfs_create(idmap, dentry, mode, NULL);
	} else if (!err) {
		err = vfs_mknod(idmap, d_inode(parent.dentry), dentry, mode, 0, NULL);
	}
	if (!err && !S_ISLNK(mode) && d_is_positive(dentry)) {
		attr.ia_mode = (d_inode(dentry)->i_mode & ~01777) | (mode & 01777);
		inode_lock_nested(d_inode(dentry), I_MUTEX_CHILD);
		if (d_inode(dentry)->i_mode != attr.ia_mode)
			notify_change(idmap, dentry, &attr, NULL);
		inode_unlock(d_inode(dentry));
	}
	end_creating(dentry);
	let_go(&parent);
	return err;
}

/* A second name of a file. */
int vremote_names_link(const struct path *root, const char *from, const char *name)
{
	struct path old, parent;
	struct dentry *dentry;
	struct qstr last;
	int err;

	err = vfs_path_lookup(root->dentry, root->mnt, from, 0, &old);
	if (err)
		return err;
	err = parent_to_change(root, name, &parent, &last);
	if (err)
		goto put;
	err = -EXDEV;
	if (old.mnt != parent.mnt)
		goto drop;
	dentry = start_creating(mnt_idmap(parent.mnt), parent.dentry, &last);
	err = PTR_ERR_OR_ZERO(dentry);
	if (!err)
		err = vfs_link(old.dentry, mnt_idmap(parent.mnt), d_inode(parent.dentry), dentry, NULL);
	end_creating(dentry);
drop:
	let_go(&parent);
put:
	path_put(&old);
	return err;
}

int vremote_names_remove(const struct path *root, const char *name, bool directory)
{
	struct inode *inode = NULL;
	struct dentry *dentry;
	struct path parent;
	struct qstr last;
	int err;

	err = parent_to_change(root, name, &parent, &last);
	if (err)
		return err;
	dentry = start_removing(mnt_idmap(parent.mnt), parent.dentry, &last);
	err = PTR_ERR_OR_ZERO(dentry);
	if (!err && directory) {
		err = vfs_rmdir(mnt_idmap(parent.mnt), d_inode(parent.dentry), dentry, NULL);
	} else if (!err) {
		/* Its blocks are freed after the directory is unlocked. */
		inode = d_inode(dentry);
		ihold(inode);
		err = vfs_unlink(mnt_idmap(parent.mnt), d_inode(parent.dentry), dentry, NULL);
	}
	end_removing(dentry);
	iput(inode);
	let_go(&parent);
	return err;
}

int vremote_names_rename(const struct path *root, const char *from, const char *to, unsigned int flags)
{
	struct path old, new;
	struct qstr old_last, new_last;
	struct renamedata data = {};
	int err;

	/* What the system call checks; whiteouts are for overlays of this node. */
	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	err = parent_to_change(root, from, &old, &old_last);
	if (err)
		return err;
	err = parent_of(root, to, &new, &new_last);
	if (err)
		goto drop;
	err = -EXDEV;
	if (old.mnt != new.mnt)
		goto put;
	data.mnt_idmap = mnt_idmap(old.mnt);
	data.old_parent = old.dentry;
	data.new_parent = new.dentry;
	data.flags = flags;
	err = start_renaming(&data, 0, &old_last, &new_last);
	if (err)
		goto put;
	err = vfs_rename(&data);
	end_renaming(&data);
put:
	path_put(&new);
drop:
	let_go(&old);
	return err;
}

/*
 * What has the name now, if it is what is meant: the open file, or the inode of that number (0: any). An open file is found without its name as
 * well, but by its name first: the mount that it is meant by may be for reading only.
 */
static int find_inode(struct file *file, const struct path *root, const char *name, u64 ino, struct path *path)
{
	const struct inode *found;
	int err = 0;

	if (*name) {
		err = vfs_path_lookup(root->dentry, root->mnt, name, 0, path);
	} else {
		*path = *root;
		path_get(path);
	}
	if (!err) {
		found = d_inode(path->dentry);
		if (file ? found == file_inode(file) : !ino || found->i_ino == ino)
			return 0;
		path_put(path);
		err = -ESTALE;
	}
	if (file) {
		*path = file->f_path;
		path_get(path);
		err = 0;
	}
	return err;
}

/* Mode, owner and times, of a symlink itself if it is one. */
int vremote_names_change(struct file *file, const struct path *root, const char *name, u64 ino,
			 const struct vremote_change *change)
{
	struct iattr attr = {
		.ia_valid = change->valid & ~ATTR_KILL_SUID,
		.ia_atime = change->atime,
		.ia_mtime = change->mtime,
	};
	struct path path;
	int err;

	err = find_inode(file, root, name, ino, &path);
	if (err)
		return err;
	err = mnt_want_write(path.mnt);
	if (err)
		goto put;
	inode_lock(d_inode(path.dentry));
	if (change->valid & ATTR_MODE)
		attr.ia_mode = (d_inode(path.dentry)->i_mode & S_IFMT) | (change->mode & 07777);
	if (change->valid & ATTR_UID)
		attr.ia_vfsuid = VFSUIDT_INIT(KUIDT_INIT(change->uid));
	if (change->valid & ATTR_GID)
		attr.ia_vfsgid = VFSGIDT_INIT(KGIDT_INIT(change->gid));
	/* As chown(2) does. A change of the mode says itself what becomes of these bits; both together are a BUG. */
	if (change->valid & (ATTR_UID | ATTR_GID | ATTR_KILL_SUID) && !(change->valid & ATTR_MODE) && !S_ISDIR(d_inode(path.dentry)->i_mode))
		attr.ia_valid |= ATTR_KILL_SUID | ATTR_KILL_PRIV | setattr_should_drop_sgid(mnt_idmap(path.mnt),
											    d_inode(path.dentry));
	err = notify_change(mnt_idmap(path.mnt), path.dentry, &attr, NULL);
	inode_unlock(d_inode(path.dentry));
	mnt_drop_write(path.mnt);
put:
	path_put(&path);
	return err;
}

/* Links of procfs and the like jump: their get_link needs a path walk around it. Such have a readlink of their own. */
static bool is_magic(const struct dentry *link)
{
	return d_inode(link)->i_op->readlink;
}

/* Where a symlink leads; its length. */
ssize_t vremote_names_read_link(const struct path *root, const char *name, u8 *buffer, size_t bytes)
{
	DEFINE_DELAYED_CALL(done);
	const char *target;
	struct path path;
	ssize_t length;
	int err;

	err = vfs_path_lookup(root->dentry, root->mnt, name, 0, &path);
	if (err)
		return err;
	if (d_is_symlink(path.dentry) && !is_magic(path.dentry)) {
		touch_atime(&path);
		target = vfs_get_link(path.dentry, &done);
	} else {
		target = ERR_PTR(-EINVAL);
	}
	if (IS_ERR(target)) {
		length = PTR_ERR(target);
	} else {
		length = min(strlen(target), bytes);
		memcpy(buffer, target, length);
		do_delayed_call(&done);
	}
	path_put(&path);
	return length;
}

/* The absolute path of a path, and behind it `last`, if there is one; its length. */
static ssize_t put_path(const struct path *path, const char *last, u8 *buffer, size_t bytes)
{
	char *at = d_path(path, (char *)buffer, bytes);
	size_t length, more = last ? strlen(last) + 1 : 0;

	if (IS_ERR(at))
		return PTR_ERR(at);
	length = strlen(at);
	memmove(buffer, at, length);
	if (length + more > bytes)
		return -ENAMETOOLONG;
	if (last) {
		buffer[length] = '/';
		memcpy(buffer + length + 1, last, more - 1);
	}
	return length + more;
}

/* The same for what a symlink leads to that is not there, but its directory is: it can be made. */
static ssize_t resolve_missing(const struct path *root, const char *name, u8 *buffer, size_t bytes)
{
	char *at = kstrdup(name, GFP_KERNEL), *next, *last;
	DEFINE_DELAYED_CALL(done);
	const char *target;
	struct path path;
	ssize_t length;
	int hops;

	for (hops = 0; at && hops < MAXSYMLINKS; hops++) {
		length = vfs_path_lookup(root->dentry, root->mnt, at, LOOKUP_BENEATH, &path);
		last = strrchr(at, '/');
		if (length == -ENOENT) {
			next = last ? last + 1 : at;
			if (!*next || !strcmp(next, ".") || !strcmp(next, ".."))
				goto out;
			if (last)
				*last = 0;
			length = vfs_path_lookup(root->dentry, root->mnt, last ? at : ".",
						 LOOKUP_FOLLOW | LOOKUP_DIRECTORY | LOOKUP_BENEATH, &path);
			if (!length) {
				length = put_path(&path, next, buffer, bytes);
				path_put(&path);
			}
			goto out;
		}
		if (length)
			goto out;
		if (!d_is_symlink(path.dentry)) {
			/* It was made in this moment. */
			length = put_path(&path, NULL, buffer, bytes);
			path_put(&path);
			goto out;
		}
		target = is_magic(path.dentry) ? ERR_PTR(-ELOOP) : vfs_get_link(path.dentry, &done);
		if (IS_ERR(target))
			next = ERR_CAST(target);
		else if (*target == '/')
			next = ERR_PTR(-ELOOP);
		else
			next = kasprintf(GFP_KERNEL, "%.*s%s", last ? (int)(last - at) + 1 : 0, at, target);
		do_delayed_call(&done);
		clear_delayed_call(&done);
		path_put(&path);
		if (IS_ERR(next)) {
			length = PTR_ERR(next);
			goto out;
		}
		kfree(at);
		at = next;
	}
	length = at ? -ELOOP : -ENOMEM;
out:
	kfree(at);
	return length;
}

/*
 * Where a path leads when its last name is followed as well: an absolute path of this node. Nothing leads out of the root, and what is
 * absolute would.
 */
ssize_t vremote_names_resolve(const struct path *root, const char *name, u8 *buffer, size_t bytes)
{
	struct path path;
	ssize_t length;

	length = vfs_path_lookup(root->dentry, root->mnt, name, LOOKUP_FOLLOW | LOOKUP_BENEATH, &path);
	if (!length) {
		length = put_path(&path, NULL, buffer, bytes);
		path_put(&path);
	} else if (length == -ENOENT) {
		length = resolve_missing(root, name, buffer, bytes);
	}
	return length == -EXDEV ? -ELOOP : length;
}

/* The value of an extended attribute, or without room for it its length only. */
ssize_t vremote_names_get_xattr(struct file *file, const struct path *root, const char *name, u64 ino, const char *attribute,
				u8 *value, size_t bytes)
{
	struct path path;
	ssize_t length = find_inode(file, root, name, ino, &path);

	if (length)
		return length;
	length = vfs_getxattr(mnt_idmap(path.mnt), path.dentry, attribute, bytes ? value : NULL, bytes);
	path_put(&path);
	return length;
}

/* Sets an extended attribute, or removes it if there is no value. */
int vremote_names_set_xattr(struct file *file, const struct path *root, const char *name, u64 ino, const char *attribute,
			    const u8 *value, size_t bytes, int flags)
{
	struct path path;
	int err = find_inode(file, root, name, ino, &path);

	if (err)
		return err;
	err = mnt_want_write(path.mnt);
	if (err)
		goto put;
	if (value)
		err = vfs_setxattr(mnt_idmap(path.mnt), path.dentry, attribute, value, bytes, flags);
	else
		err = vfs_removexattr(mnt_idmap(path.mnt), path.dentry, attribute);
	mnt_drop_write(path.mnt);
put:
	path_put(&path);
	return err;
}

/* The names of all extended attributes, of every kind, each with its NUL. */
ssize_t vremote_names_list_xattr(struct file *file, const struct path *root, const char *name, u64 ino, u8 *names, size_t bytes)
{
	struct path path;
	ssize_t length = find_inode(file, root, name, ino, &path);

	if (length)
		return length;
	length = vfs_listxattr(path.dentry, (char *)names, bytes);
	path_put(&path);
	return length;
}

/* A file system that has no flags says so by a number that programs never see; its ioctl(2) says ENOTTY. */
static int of_program(int err)
{
	return err == -ENOIOCTLCMD ? -ENOTTY : err;
}

/* What lsattr(1) shows. */
int vremote_names_get_fileattr(struct file *file, const struct path *root, const char *name, u64 ino,
			       struct vremote_fileattr *attr)
{
	struct file_kattr found = { .flags_valid = true };
	struct path path;
	int err = find_inode(file, root, name, ino, &path);

	if (err)
		return err;
	err = vfs_fileattr_get(path.dentry, &found);
	path_put(&path);
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
int vremote_names_set_fileattr(struct file *file, const struct path *root, const char *name, u64 ino,
			       const struct vremote_fileattr *wanted, bool by_flags, struct address_space **mapping)
{
	struct file_kattr old = { .flags_valid = true }, new = {};
	struct path path;
	int err = find_inode(file, root, name, ino, &path);

	if (err)
		return err;
	err = mnt_want_write(path.mnt);
	if (err)
		goto put;
	err = vfs_fileattr_get(path.dentry, &old);
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
		err = vfs_fileattr_set(mnt_idmap(path.mnt), path.dentry, &new);
	*mapping = d_inode(path.dentry)->i_mapping;
drop:
	mnt_drop_write(path.mnt);
put:
	path_put(&path);
	return of_program(err);
}

/* fsync of a directory: its names are on the disk when this returns. */
int vremote_names_sync(const struct path *root, const char *name, u64 ino, bool datasync)
{
	struct file *file;
	struct path path;
	int err = find_inode(NULL, root, name, ino, &path);

	if (err)
		return err;
	/* dentry_open asks for nothing: opening a FIFO would wait for its other end, opening a device do anything. */
	if (!d_can_lookup(path.dentry)) {
		path_put(&path);
		return -ENOTDIR;
	}
	file = dentry_open(&path, O_RDONLY | O_DIRECTORY | O_LARGEFILE, current_cred());
	path_put(&path);
	if (IS_ERR(file))
		return PTR_ERR(file);
	err = vfs_fsync(file, datasync);
	fput(file);
	return err;
}

/* How much room there is where a name is. struct kstatfs is opaque to Rust. */
int vremote_names_space(const struct path *root, const char *name, struct vremote_space *space)
{
	struct kstatfs found;
	struct path path;
	int err;

	err = vfs_path_lookup(root->dentry, root->mnt, *name ? name : ".", 0, &path);
	if (err)
		return err;
	err = vfs_statfs(&path, &found);
	path_put(&path);
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
ssize_t vremote_names_list(const struct path *root, const char *name, u64 *position, u8 *buffer, size_t bytes)
{
	struct listing listing = {
		.context.actor = add_entry,
		.buffer = buffer,
		.room = bytes,
	};
	struct file *file;
	loff_t at;
	int err;

	file = file_open_root(root, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_LARGEFILE, 0);
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
