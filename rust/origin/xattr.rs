// SPDX-License-Identifier: GPL-2.0

//! Extended attributes of this node's files, as remotes read and change them: those of users (`user.`) alone, with the rights of the
//! remote user and the errors of the local file system.
//!
//! They are read of everything that a remote may look up, and changed where names are: below an export. The others tell of rights that
//! are the origin's business (`security.`, `system.`), or of its administrator's (`trusted.`): `EOPNOTSUPP`.

use kernel::{error::to_result, prelude::*};

use super::{
    export::{c_string, Acting, CName},
    namespace::{look, meant, open_file, open_file_in, place},
    serve,
};
use crate::bindings;
use crate::proto::{
    limits::MAX_XATTR,
    nodes::Node,
    wire::{xattr as bits, Attributes, Credentials, Header, Names, Xattr},
};

/// What the names of users' attributes begin with.
const USER: &[u8] = b"user.";

/// An attribute's name for the kernel, if it is one of a user's.
fn name_of(xattr: &Xattr<'_>) -> Result<CName> {
    if !xattr.name.starts_with(USER) {
        return Err(EOPNOTSUPP);
    }
    c_string(xattr.name)
}

/// `GetXattr`: into `value` the value, into `reply` its length.
pub(super) fn get(
    node: Node,
    header: &Header,
    payload: &[u8],
    reply: &mut Header,
    value: &mut KVVec<u8>,
) -> Result {
    let (user, rest) = Credentials::decode(payload).ok_or(EINVAL)?;
    let names = Names::decode(header, rest).ok_or(EINVAL)?;
    let attribute = name_of(&Xattr::decode(names.second).ok_or(EINVAL)?)?;
    let open = open_file(node, header)?;
    let room = header.size.min(MAX_XATTR as u64) as usize;
    if room != 0 {
        *value = KVVec::zeroed(room, GFP_KERNEL)?;
    }
    let bytes = look(
        &user,
        names.first,
        &open,
        header.index,
        || Err(ENODATA),
        |object| {
            // SAFETY: The path is counted, the attribute's name ends with NUL, the buffer is ours; we may sleep.
            let bytes = unsafe {
                bindings::vremote_names_get_xattr(
                    object.as_ptr(),
                    attribute.as_char_ptr(),
                    value.as_mut_ptr(),
                    room,
                )
            };
            to_result(bytes.min(0) as c_int)?;
            Ok(bytes as usize)
        },
    )?;
    value.truncate(bytes);
    reply.count = bytes as u32;
    Ok(())
}

/// `SetXattr`; gives the attributes of the file then.
pub(super) fn set(node: Node, header: &Header, payload: &[u8]) -> Result<Attributes> {
    let (user, rest) = Credentials::decode(payload).ok_or(EINVAL)?;
    let names = Names::decode(header, rest).ok_or(EINVAL)?;
    let xattr = Xattr::decode(names.second).ok_or(EINVAL)?;
    let attribute = name_of(&xattr)?;
    let (value, flags) = match header.size {
        bits::REMOVE if xattr.value.is_empty() => (core::ptr::null(), 0),
        // Both at once are for the file system to answer, as from a local program.
        flags if flags & !(bits::CREATE | bits::REPLACE) == 0 => {
            (xattr.value.as_ptr(), flags as c_int)
        }
        _ => return Err(EINVAL),
    };
    let (export, rest) = place(names.first)?;
    let open = open_file_in(node, header, &export)?;
    let _acting = Acting::begin(&user, export.root_squash)?;
    let object = meant(&export, rest, &open, header.index)?;
    // SAFETY: The path is counted, the attribute's name ends with NUL, the value has so many bytes; we may sleep.
    to_result(unsafe {
        bindings::vremote_names_set_xattr(
            object.as_ptr(),
            attribute.as_char_ptr(),
            value,
            xattr.value.len(),
            flags,
        )
    })?;
    object.attributes()
}

/// `ListXattr`: into `list` the names of users' attributes.
pub(super) fn list(node: Node, header: &Header, payload: &[u8], list: &mut KVVec<u8>) -> Result {
    let (user, path) = serve::who_and_where(payload)?;
    let open = open_file(node, header)?;
    let mut all = KVVec::<u8>::zeroed(MAX_XATTR, GFP_KERNEL)?;
    let bytes = look(
        &user,
        path,
        &open,
        header.index,
        || Ok(0),
        |object| {
            // SAFETY: The path is counted, the buffer is ours; we may sleep.
            let bytes = unsafe {
                bindings::vremote_names_list_xattr(object.as_ptr(), all.as_mut_ptr(), all.len())
            };
            // More than the kernel lets a program have; the number is that of listxattr(2).
            if bytes == ERANGE.to_errno() as isize {
                return Err(E2BIG);
            }
            to_result(bytes.min(0) as c_int)?;
            Ok(bytes as usize)
        },
    )?;
    all.truncate(bytes);
    let names = all.split_inclusive(|byte| *byte == 0);
    for name in names.filter(|name| name.starts_with(USER)) {
        list.extend_from_slice(name, GFP_KERNEL)?;
    }
    Ok(())
}
