// SPDX-License-Identifier: GPL-2.0

//! Configuration at run time: `/sys/kernel/config/vremote`.
//!
//! - `drained`: writing 1 begins a hand-over of this origin and returns when what remotes have written is on disk
//!   (`origin/drain.rs`); writing 0 ends it.
//! - `peers/<name>/`: made with mkdir; writing `key` (the pre-shared key of the pair, 64 hexadecimal digits; never shown) and then
//!   `address` ("10.0.0.2" or "10.0.0.2:1104") makes the node a peer, once; rmdir removes the peer. Without a key, `address` is `ENOKEY`,
//!   unless the module was loaded with `plain=1`.
//! - `exports/<id>/`: made with mkdir; `path` (an absolute path) and `root_squash` (0 or 1, default 1) can be written until
//!   `enabled` is; writing 1 there exports the directory, writing 0 ends that, and so does rmdir.
//!
//! The tool `vremote` is the interface for people. Each directory holds a reference to the module: unloading is refused while
//! there are peers or exports, as configfs does for every module.

use core::{net::Ipv4Addr, str::FromStr};

use kernel::{
    bindings,
    configfs::{self, configfs_attrs, HasGroup},
    error::to_result,
    fmt::Write,
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    str::{kstrtobool_bytes, CString, Formatter},
    sync::{Arc, Mutex},
};

use crate::{
    net::peer,
    proto::{
        limits::{MAX_NAME, MAX_PATH},
        secure::{Key, KEY_BYTES},
    },
};

/// Port that an address without one means: ours.
static PORT: kernel::sync::SetOnce<u16> = kernel::sync::SetOnce::new();

/// Whether peers without a key are taken.
static PLAIN: kernel::sync::SetOnce<bool> = kernel::sync::SetOnce::new();

/// A written attribute without the newline that `echo` adds.
fn trimmed(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// "10.0.0.2" or "10.0.0.2:1104". `EAFNOSUPPORT` for what looks like IPv6, `EINVAL` for everything else.
fn parse_address(text: &[u8]) -> Result<(u32, u16)> {
    let text = core::str::from_utf8(trimmed(text))?.trim();
    if text.starts_with('[') || text.matches(':').nth(1).is_some() {
        return Err(EAFNOSUPPORT);
    }
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => (address, port.parse::<u16>().map_err(|_| EINVAL)?),
        None => (text, PORT.copy().unwrap_or(crate::proto::limits::PORT)),
    };
    let address = Ipv4Addr::from_str(address).map_err(|_| EINVAL)?;
    Ok((u32::from(address), port))
}

/// 64 hexadecimal digits. `EINVAL`.
fn parse_key(text: &[u8]) -> Result<Key> {
    let digit = |at: usize| char::from(text[at]).to_digit(16).ok_or(EINVAL);
    if text.len() != 2 * KEY_BYTES {
        return Err(EINVAL);
    }
    let mut bytes = [0; KEY_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (digit(2 * at)? << 4 | digit(2 * at + 1)?) as u8;
    }
    Ok(Key::take(&mut bytes))
}

/// The directory `vremote`: holds `drained` and the two others, nothing can be made in it.
struct Root;

/// `drained`.
#[vtable]
impl configfs::AttributeOperations<0> for Root {
    type Data = Root;

    fn show(_root: &Root, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let mut out = Formatter::new(page);
        writeln!(out, "{}", u8::from(crate::origin::is_drained()))?;
        Ok(out.bytes_written())
    }

    fn store(_root: &Root, page: &[u8]) -> Result {
        crate::origin::drain(kstrtobool_bytes(page)?)
    }
}

/// The directory `peers`.
struct Peers;

/// One directory in `peers`.
#[pin_data(PinnedDrop)]
struct PeerItem {
    name: CString,
    #[pin]
    state: Mutex<PeerState>,
}

struct PeerState {
    /// Until the address has been written.
    key: Option<Key>,
    /// Whether it has.
    added: bool,
}

/// The directory `exports`.
struct Exports;

/// One directory in `exports`.
#[pin_data(PinnedDrop)]
struct ExportItem {
    id: CString,
    #[pin]
    state: Mutex<ExportState>,
}

struct ExportState {
    path: KVec<u8>,
    root_squash: bool,
    enabled: bool,
}

#[vtable]
impl configfs::GroupOperations for Peers {
    type Child = PeerItem;

    fn make_group(&self, name: &CStr) -> Result<impl PinInit<configfs::Group<PeerItem>, Error>> {
        if name.to_bytes().len() > MAX_NAME {
            return Err(ENAMETOOLONG);
        }
        let item_type = configfs_attrs! {
            container: configfs::Group<PeerItem>,
            data: PeerItem,
            attributes: [
                address: 0,
                key: 1,
            ],
        };
        let own_name: CString = name.try_into()?;
        Ok(configfs::Group::new(
            name.try_into()?,
            item_type,
            try_pin_init!(PeerItem {
                name: own_name,
                state <- new_mutex!(PeerState { key: None, added: false }),
            }),
        ))
    }
}

#[vtable]
impl configfs::AttributeOperations<0> for PeerItem {
    type Data = PeerItem;

    fn show(item: &PeerItem, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let mut out = Formatter::new(page);
        if let Some(peer) = peer::by_name(item.name.to_bytes()).filter(|_| item.state.lock().added)
        {
            let (address, port) = peer.addr();
            let a = address.to_be_bytes();
            writeln!(out, "{}.{}.{}.{}:{port}", a[0], a[1], a[2], a[3])?;
        }
        Ok(out.bytes_written())
    }

    fn store(item: &PeerItem, page: &[u8]) -> Result {
        let (address, port) = parse_address(page)?;
        let mut state = item.state.lock();
        if state.added {
            return Err(EBUSY);
        }
        if state.key.is_none() && PLAIN.copy() != Some(true) {
            pr_warn!(
                "peer {} has no key: nothing is said to it, see `vremote keygen`\n",
                &*item.name
            );
            return Err(ENOKEY);
        }
        peer::add(item.name.to_bytes(), address, port, state.key.clone())?;
        state.key = None;
        state.added = true;
        Ok(())
    }
}

/// `key`.
#[vtable]
impl configfs::AttributeOperations<1> for PeerItem {
    type Data = PeerItem;

    /// Nothing: a key is shown to nobody.
    fn show(_item: &PeerItem, _page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        Ok(0)
    }

    fn store(item: &PeerItem, page: &[u8]) -> Result {
        let key = parse_key(trimmed(page))?;
        let mut state = item.state.lock();
        if state.added {
            return Err(EBUSY);
        }
        state.key = Some(key);
        Ok(())
    }
}

#[pinned_drop]
impl PinnedDrop for PeerItem {
    fn drop(self: Pin<&mut Self>) {
        if self.state.lock().added {
            // It can only be missing if the whole service has ended.
            let _ = peer::remove(self.name.to_bytes());
        }
    }
}

#[vtable]
impl configfs::GroupOperations for Exports {
    type Child = ExportItem;

    fn make_group(&self, name: &CStr) -> Result<impl PinInit<configfs::Group<ExportItem>, Error>> {
        if name.to_bytes().len() > MAX_NAME {
            return Err(ENAMETOOLONG);
        }
        let item_type = configfs_attrs! {
            container: configfs::Group<ExportItem>,
            data: ExportItem,
            attributes: [
                path: 0,
                root_squash: 1,
                enabled: 2,
            ],
        };
        let id: CString = name.try_into()?;
        Ok(configfs::Group::new(
            name.try_into()?,
            item_type,
            try_pin_init!(ExportItem {
                id,
                state <- new_mutex!(ExportState { path: KVec::new(), root_squash: true, enabled: false }),
            }),
        ))
    }
}

/// `path`.
#[vtable]
impl configfs::AttributeOperations<0> for ExportItem {
    type Data = ExportItem;

    fn show(item: &ExportItem, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let state = item.state.lock();
        let bytes = state.path.len();
        if bytes == 0 {
            return Ok(0);
        }
        // A path has at most PATH_MAX - 1 bytes, a page has PATH_MAX.
        page.get_mut(..bytes)
            .ok_or(EOVERFLOW)?
            .copy_from_slice(&state.path);
        *page.get_mut(bytes).ok_or(EOVERFLOW)? = b'\n';
        Ok(bytes + 1)
    }

    fn store(item: &ExportItem, page: &[u8]) -> Result {
        let text = trimmed(page);
        if text.first() != Some(&b'/') || text.contains(&0) {
            return Err(EINVAL);
        }
        if text.len() > MAX_PATH {
            return Err(ENAMETOOLONG);
        }
        let mut path = KVec::with_capacity(text.len(), GFP_KERNEL)?;
        path.extend_from_slice(text, GFP_KERNEL)?;
        let mut state = item.state.lock();
        if state.enabled {
            return Err(EBUSY);
        }
        state.path = path;
        Ok(())
    }
}

/// `root_squash`.
#[vtable]
impl configfs::AttributeOperations<1> for ExportItem {
    type Data = ExportItem;

    fn show(item: &ExportItem, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let mut out = Formatter::new(page);
        writeln!(out, "{}", u8::from(item.state.lock().root_squash))?;
        Ok(out.bytes_written())
    }

    fn store(item: &ExportItem, page: &[u8]) -> Result {
        let root_squash = kstrtobool_bytes(page)?;
        let mut state = item.state.lock();
        if state.enabled {
            return Err(EBUSY);
        }
        state.root_squash = root_squash;
        Ok(())
    }
}

/// `enabled`.
#[vtable]
impl configfs::AttributeOperations<2> for ExportItem {
    type Data = ExportItem;

    fn show(item: &ExportItem, page: &mut [u8; PAGE_SIZE]) -> Result<usize> {
        let mut out = Formatter::new(page);
        writeln!(out, "{}", u8::from(item.state.lock().enabled))?;
        Ok(out.bytes_written())
    }

    fn store(item: &ExportItem, page: &[u8]) -> Result {
        let enable = kstrtobool_bytes(page)?;
        let mut state = item.state.lock();
        if enable && !state.enabled {
            if state.path.is_empty() {
                return Err(EINVAL);
            }
            crate::origin::export_add(item.id.to_bytes(), &state.path, state.root_squash)?;
        } else if !enable && state.enabled {
            crate::origin::export_del(item.id.to_bytes());
        }
        state.enabled = enable;
        Ok(())
    }
}

#[pinned_drop]
impl PinnedDrop for ExportItem {
    fn drop(self: Pin<&mut Self>) {
        if self.state.lock().enabled {
            crate::origin::export_del(self.id.to_bytes());
        }
    }
}

/// A directory that the module itself has made in another one.
///
/// # Invariants
///
/// `group` is registered below its parent, and this value owns the reference of it that the release of the group's item
/// drops.
struct Directory<T: 'static> {
    group: *const configfs::Group<T>,
}

// SAFETY: Groups are used by any task that looks at the directory; unregistering one may happen in any task as well.
unsafe impl<T: Send + Sync> Send for Directory<T> {}
// SAFETY: Nothing can be done with a shared `Directory`.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: 'static> Directory<T> {
    /// Registers `group` below `parent`.
    fn new(
        parent: &configfs::Subsystem<Root>,
        group: Arc<configfs::Group<T>>,
    ) -> Result<Directory<T>> {
        let group = Arc::into_raw(group);
        // SAFETY: Both pointers come from references and lie in live allocations.
        let result = to_result(unsafe {
            bindings::configfs_register_group(
                configfs::Subsystem::<Root>::group(parent).cast_mut(),
                configfs::Group::<T>::group(group).cast_mut(),
            )
        });
        if let Err(error) = result {
            // SAFETY: The pointer comes from `into_raw` above, and nobody else has it.
            drop(unsafe { Arc::from_raw(group) });
            return Err(error);
        }
        // INVARIANT: Registered, and the reference of `into_raw` is the one that the release drops.
        Ok(Directory { group })
    }
}

impl<T: 'static> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant it is registered and its reference is ours; the last reference to the item,
        // dropped here or by whoever still has a file of the directory open, frees the group.
        unsafe {
            let group = configfs::Group::<T>::group(self.group).cast_mut();
            bindings::configfs_unregister_group(group);
            bindings::config_item_put(&raw mut (*group).cg_item);
        }
    }
}

/// The directories while they exist. Fields are dropped in this order: children first.
pub struct Config {
    _peers: Directory<Peers>,
    _exports: Directory<Exports>,
    _root: Pin<KBox<configfs::Subsystem<Root>>>,
}

impl Config {
    /// Makes the directories. `port` is what an address without one means, `plain` whether peers need no key. Process context; `ENOMEM`, and `EEXIST` if
    /// there is such a subsystem.
    pub fn new(port: u16, plain: bool) -> Result<Config> {
        PORT.populate(port);
        PLAIN.populate(plain);
        let root_type = configfs_attrs! {
            container: configfs::Subsystem<Root>,
            data: Root,
            attributes: [
                drained: 0,
            ],
        };
        let root = KBox::pin_init(
            configfs::Subsystem::new(c"vremote", root_type, Ok::<_, Error>(Root)),
            GFP_KERNEL,
        )?;
        let peers_type = configfs_attrs! {
            container: configfs::Group<Peers>,
            data: Peers,
            child: PeerItem,
            attributes: [],
        };
        let peers = Arc::pin_init(
            configfs::Group::new(c"peers".try_into()?, peers_type, Ok::<_, Error>(Peers)),
            GFP_KERNEL,
        )?;
        let exports_type = configfs_attrs! {
            container: configfs::Group<Exports>,
            data: Exports,
            child: ExportItem,
            attributes: [],
        };
        let exports = Arc::pin_init(
            configfs::Group::new(
                c"exports".try_into()?,
                exports_type,
                Ok::<_, Error>(Exports),
            ),
            GFP_KERNEL,
        )?;
        Ok(Config {
            _peers: Directory::new(&root, peers)?,
            _exports: Directory::new(&root, exports)?,
            _root: root,
        })
    }
}
