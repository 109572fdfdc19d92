// SPDX-License-Identifier: GPL-2.0

//! The module's files in configfs and debugfs, and the keys of peers beside them.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, ToSocketAddrs},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde_json::Value;
use vremote_channel::{key, node, Key};

use crate::problem::Problem;

/// Linux errno numbers that have no [`ErrorKind`] of their own that says it as well.
const ENOTUNIQ: i32 = 76;
const ENOKEY: i32 = 126;
const ENOSPC: i32 = 28;
const EBUSY: i32 = 16;
const EAFNOSUPPORT: i32 = 97;
const EINVAL: i32 = 22;
const EEXIST: i32 = 17;

/// Version of the status document that this tool understands.
const DOCUMENT_VERSION: u64 = 2;

/// Longest name of a directory in configfs.
const MAX_NAME: usize = 255;

/// A peer as configured.
pub(crate) struct Peer {
    /// Its name.
    pub(crate) name: String,
    /// Its address and port; empty if none has been written.
    pub(crate) address: String,
}

/// An export as configured.
pub(crate) struct Export {
    /// The directory; empty if none has been written.
    pub(crate) path: PathBuf,
    /// Root of a peer is nobody here.
    pub(crate) root_squash: bool,
    /// In force.
    pub(crate) enabled: bool,
}

/// Where everything is.
pub(crate) struct Control {
    sys: PathBuf,
    keys: PathBuf,
}

impl Control {
    /// In `/sys` and `/etc/vremote/keys`.
    pub(crate) fn new() -> Control {
        Control {
            sys: PathBuf::from("/sys"),
            keys: PathBuf::from(node::KEYS),
        }
    }

    fn configfs(&self) -> PathBuf {
        self.sys.join("kernel/config")
    }

    fn debugfs(&self) -> PathBuf {
        self.sys.join("kernel/debug")
    }

    /// A directory of the module in configfs.
    fn directory(&self, name: &str) -> Result<PathBuf, Problem> {
        let path = self.configfs().join("vremote").join(name);
        if path.is_dir() {
            return Ok(path);
        }
        Err(self.why_missing("configfs", self.configfs(), path))
    }

    /// Why something of the module is not to be found in `place`.
    fn why_missing(&self, kind: &'static str, place: PathBuf, path: PathBuf) -> Problem {
        if !self.sys.join("module/vremote").exists() {
            Problem::NotLoaded
        } else if is_forbidden(&path) || is_forbidden(&place) {
            Problem::NotRoot(path)
        } else {
            Problem::NotMounted { kind, place }
        }
    }

    /// Makes a node a peer, and takes a copy of its key. Without `key` the copy of before is used.
    pub(crate) fn add_peer(
        &self,
        name: &str,
        address: &str,
        key: Option<&Path>,
    ) -> Result<(), Problem> {
        check_name(name)?;
        let address = resolve(address)?;
        let given = key.is_some();
        let stored = self.keys.join(name);
        let key = match key {
            None if !stored.exists() => None,
            path => Some(Key::read(path.unwrap_or(&stored))?),
        };
        let directory = self.configure_peer(name, &address, key.as_ref())?;
        if let Some(key) = key.filter(|_| given) {
            key.store(&self.keys, name).inspect_err(|_| {
                let _ = fs::remove_dir(&directory);
            })?;
        }
        Ok(())
    }

    /// Tells the module of a peer. Its directory in configfs.
    fn configure_peer(
        &self,
        name: &str,
        address: &str,
        key: Option<&Key>,
    ) -> Result<PathBuf, Problem> {
        let directory = self.directory("peers")?.join(name);
        fs::create_dir(&directory).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Problem::refused(
                format!("there is a peer {name} already"),
                format!("vremote peer del {name}, if its address has changed"),
            ),
            _ => refusal(&format!("peer {name}"), &directory, error),
        })?;
        let keyed = key.map_or(Ok(()), |key| fs::write(directory.join("key"), &*key.hex()));
        let written = keyed.and_then(|()| fs::write(directory.join("address"), address));
        written.map_err(|error| {
            let _ = fs::remove_dir(&directory);
            match error.raw_os_error() {
                Some(EEXIST | ENOTUNIQ) => Problem::refused(
                    format!(
                        "{name} is this node's own name, or another peer has the address {address}"
                    ),
                    "vremote peer show lists the peers, uname -n the own name",
                ),
                Some(EINVAL) => Problem::plain(format!("{address} is no address of a single node")),
                Some(ENOKEY) => Problem::refused(
                    format!("there is no key for {name}"),
                    format!("vremote keygen FILE makes one; both nodes need the same: vremote peer add {name} {address} FILE"),
                ),
                Some(EAFNOSUPPORT) => Problem::plain("only IPv4 addresses are supported"),
                Some(ENOSPC) => Problem::plain("there are as many peers as the module can have"),
                _ => refusal(&format!("peer {name}"), &directory, error),
            }
        })?;
        Ok(directory)
    }

    /// Forgets a peer and its key. A key without a peer is forgotten, too.
    pub(crate) fn del_peer(&self, name: &str) -> Result<(), Problem> {
        check_name(name)?;
        // First of all, so that it is gone whatever the module says.
        let had_key = key::remove(&self.keys, name)?;
        let directory = self.directory("peers")?.join(name);
        fs::remove_dir(&directory).or_else(|error| match error.kind() {
            ErrorKind::NotFound if had_key => Ok(()),
            ErrorKind::NotFound => Err(Problem::refused(
                format!("there is no peer {name}"),
                "vremote peer show lists the peers",
            )),
            _ => Err(refusal(&format!("peer {name}"), &directory, error)),
        })
    }

    /// All peers, by name.
    pub(crate) fn peers(&self) -> Result<Vec<Peer>, Problem> {
        let directory = self.directory("peers")?;
        let peers = entries(&directory)?.into_iter().map(|name| {
            let address = read_attribute(&directory.join(&name).join("address"))?;
            Ok(Peer {
                name: name.to_string_lossy().into_owned(),
                address: String::from_utf8_lossy(&address).into_owned(),
            })
        });
        peers.collect()
    }

    /// Exports a directory.
    pub(crate) fn add_export(&self, path: &Path, root_squash: bool) -> Result<(), Problem> {
        let shown = path.display();
        let path = fs::canonicalize(path)
            .map_err(|error| Problem::plain(format!("{shown}: {}", said(&error))))?;
        if !path.is_dir() {
            return Err(Problem::refused(
                format!("{} is not a directory", path.display()),
                "export the directory that holds it",
            ));
        }
        if self.find_export(&path)?.is_some() {
            return Err(Problem::refused(
                format!("{} is exported already", path.display()),
                "vremote export del takes it back, if it was with other options",
            ));
        }
        let directory = self.directory("exports")?.join(export_id(&path));
        let failed = |error| refusal(&format!("export {}", path.display()), &directory, error);
        fs::create_dir(&directory).map_err(failed)?;
        let written = fs::write(directory.join("path"), path.as_os_str().as_bytes())
            .and_then(|()| {
                fs::write(
                    directory.join("root_squash"),
                    if root_squash { "1" } else { "0" },
                )
            })
            .and_then(|()| fs::write(directory.join("enabled"), "1"));
        written.map_err(|error| {
            let _ = fs::remove_dir(&directory);
            failed(error)
        })
    }

    /// Takes an export back. The directory need not exist any more.
    pub(crate) fn del_export(&self, path: &Path) -> Result<(), Problem> {
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let found = match self.find_export(path)? {
            Some(found) => Some(found),
            None => self.find_export(&canonical)?,
        };
        let Some(directory) = found else {
            return Err(Problem::refused(
                format!("{} is not exported", path.display()),
                "vremote export show lists the exports",
            ));
        };
        fs::remove_dir(&directory)
            .map_err(|error| refusal(&format!("export {}", path.display()), &directory, error))
    }

    /// The configfs directory of the export of this path.
    fn find_export(&self, path: &Path) -> Result<Option<PathBuf>, Problem> {
        let directory = self.directory("exports")?;
        for name in entries(&directory)? {
            let entry = directory.join(name);
            if read_attribute(&entry.join("path"))? == path.as_os_str().as_bytes() {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// All exports.
    pub(crate) fn exports(&self) -> Result<Vec<Export>, Problem> {
        let directory = self.directory("exports")?;
        let exports = entries(&directory)?.into_iter().map(|name| {
            let entry = directory.join(name);
            let path = read_attribute(&entry.join("path"))?;
            Ok(Export {
                path: std::ffi::OsString::from_vec(path).into(),
                root_squash: read_attribute(&entry.join("root_squash"))? != b"0",
                enabled: read_attribute(&entry.join("enabled"))? == b"1",
            })
        });
        exports.collect()
    }

    /// Begins a hand-over of this node's files, and waits for what remotes have written; or ends it.
    pub(crate) fn drain(&self, begin: bool) -> Result<(), Problem> {
        let attribute = self.directory("")?.join("drained");
        fs::write(&attribute, if begin { "1" } else { "0" }).map_err(|error| {
            if error.kind() == ErrorKind::PermissionDenied {
                return Problem::NotRoot(attribute);
            }
            Problem::refused(
                format!("not everything is home and on disk: {}", said(&error)),
                "dmesg | grep vremote names the files; other nodes write nothing meanwhile; then vremote drain again, or vremote drain --end",
            )
        })
    }

    /// Removes all exports and all peers.
    pub(crate) fn clear(&self) -> Result<(), Problem> {
        for name in ["exports", "peers"] {
            let directory = self.directory(name)?;
            for entry in entries(&directory)? {
                let entry = directory.join(entry);
                fs::remove_dir(&entry)
                    .map_err(|error| refusal(&entry.display().to_string(), &entry, error))?;
            }
        }
        Ok(())
    }

    /// The status document as the module writes it.
    pub(crate) fn status_text(&self) -> Result<String, Problem> {
        let path = self.debugfs().join("vremote/status");
        match fs::read(&path) {
            Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    || error.kind() == ErrorKind::PermissionDenied =>
            {
                Err(self.why_missing("debugfs", self.debugfs(), path))
            }
            Err(error) => Err(Problem::Document(said(&error))),
        }
    }

    /// The status document.
    pub(crate) fn status(&self) -> Result<Value, Problem> {
        let text = self.status_text()?;
        let document: Value =
            serde_json::from_str(&text).map_err(|error| Problem::Document(error.to_string()))?;
        match document["version"].as_u64() {
            Some(DOCUMENT_VERSION) => Ok(document),
            Some(version) => Err(Problem::Document(format!(
                "it has version {version}, not {DOCUMENT_VERSION}"
            ))),
            None => Err(Problem::Document("it has no version".into())),
        }
    }
}

/// Whether the way to `path` is closed to this user.
fn is_forbidden(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// What a peer may be called.
fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty()
        || name == "."
        || name == ".."
        || name.contains(['/', '\0'])
        || name.len() > MAX_NAME
    {
        return Err(Problem::refused(
            format!("'{name}' is no name for a node"),
            format!("1 to {MAX_NAME} bytes without a slash; best what uname -n says there"),
        ));
    }
    Ok(())
}

/// An address for the module: "A.B.C.D" or "A.B.C.D:PORT", from that or from a host name.
fn resolve(text: &str) -> Result<String, Problem> {
    if text
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_ipv6())
        || text.starts_with('[')
    {
        return Err(Problem::plain("only IPv4 addresses are supported"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let wrong_port = |_| {
        Problem::refused(
            format!("'{}' is no port", port.unwrap_or_default()),
            "ADDRESS:PORT with a port from 1 to 65535",
        )
    };
    let port = port
        .map(str::parse::<std::num::NonZeroU16>)
        .transpose()
        .map_err(wrong_port)?;
    let address = match host.parse::<Ipv4Addr>() {
        Ok(address) => address,
        Err(_) => look_up(host)?,
    };
    Ok(port.map_or_else(|| address.to_string(), |port| format!("{address}:{port}")))
}

/// The first IPv4 address of a host.
fn look_up(host: &str) -> Result<Ipv4Addr, Problem> {
    let unknown = || {
        Problem::refused(
            format!("'{host}' is neither an IPv4 address nor a host name that can be resolved"),
            "give the node's IPv4 address",
        )
    };
    let found = (host, 0).to_socket_addrs().map_err(|_| unknown())?;
    let mut addresses = found.filter_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    addresses.next().ok_or_else(unknown)
}

/// Name of an export's directory in configfs: the path with every slash and percent sign escaped; of a path too long for
/// that, the end of it, behind a number that tells it from others.
fn export_id(path: &Path) -> PathBuf {
    let mut id = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' => id.extend_from_slice(b"%2F"),
            b'%' => id.extend_from_slice(b"%25"),
            byte => id.push(*byte),
        }
    }
    if id.len() > MAX_NAME {
        // FNV-1a.
        let hash = id.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut short = String::new();
        let _ = write!(short, "{hash:016x}-");
        let rest = id.split_off(id.len() - (MAX_NAME - short.len()));
        id = short.into_bytes();
        id.extend_from_slice(&rest);
    }
    PathBuf::from(OsStr::from_bytes(&id))
}

/// Names in a directory, sorted.
fn entries(directory: &Path) -> Result<Vec<std::ffi::OsString>, Problem> {
    let failed = |error| refusal(&directory.display().to_string(), directory, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

/// What an attribute says, without its newline. An entry that has gone in the meantime says nothing.
fn read_attribute(path: &Path) -> Result<Vec<u8>, Problem> {
    match fs::read(path) {
        Ok(mut text) => {
            if text.last() == Some(&b'\n') {
                text.pop();
            }
            Ok(text)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(refusal(&path.display().to_string(), path, error)),
    }
}

/// An error of the kernel as it would say it, without "(os error N)".
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

/// What the kernel refused.
fn refusal(what: &str, path: &Path, error: io::Error) -> Problem {
    if error.kind() == ErrorKind::PermissionDenied {
        return Problem::NotRoot(path.to_path_buf());
    }
    if error.raw_os_error() == Some(EBUSY) {
        return Problem::refused(
            format!("{what}: in use"),
            "close what uses it, and try again",
        );
    }
    Problem::refused(
        format!("{what}: {}", said(&error)),
        "dmesg | grep vremote may say more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that looks like /sys; without the kernel behind it, attributes are plain files.
    struct Sys(PathBuf);

    impl Sys {
        fn new() -> Sys {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let place =
                std::env::temp_dir().join(format!("vremote-cli-{}-{number}", std::process::id()));
            fs::create_dir_all(&place).unwrap();
            Sys(place)
        }
        fn dir(&self, path: &str) {
            fs::create_dir_all(self.0.join(path)).unwrap();
        }
        fn file(&self, path: &str, text: &str) {
            self.dir(Path::new(path).parent().unwrap().to_str().unwrap());
            fs::write(self.0.join(path), text).unwrap();
        }
        fn control(&self) -> Control {
            Control {
                sys: self.0.clone(),
                keys: self.0.join("keys"),
            }
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn says_what_is_missing() {
        let sys = Sys::new();
        assert!(matches!(sys.control().peers(), Err(Problem::NotLoaded)));
        assert!(matches!(sys.control().status(), Err(Problem::NotLoaded)));
        sys.dir("module/vremote");
        assert!(matches!(
            sys.control().peers(),
            Err(Problem::NotMounted {
                kind: "configfs",
                ..
            })
        ));
        assert!(matches!(
            sys.control().status(),
            Err(Problem::NotMounted {
                kind: "debugfs",
                ..
            })
        ));
    }

    #[test]
    fn adds_and_shows_peers() {
        let sys = Sys::new();
        sys.dir("kernel/config/vremote/peers");
        let control = sys.control();
        control.add_peer("b", "10.0.0.2", None).unwrap();
        control.add_peer("a", "10.0.0.3:99", None).unwrap();
        let peers = control.peers().unwrap();
        let shown: Vec<_> = peers
            .iter()
            .map(|peer| (peer.name.as_str(), peer.address.as_str()))
            .collect();
        assert_eq!(shown, [("a", "10.0.0.3:99"), ("b", "10.0.0.2")]);
        assert!(control.add_peer("b", "10.0.0.4", None).is_err());
        assert!(control.add_peer("x/y", "10.0.0.4", None).is_err());
        assert!(control.del_peer("none").is_err());
    }

    #[test]
    fn keys_come_and_go_with_their_peers() {
        let sys = Sys::new();
        sys.dir("kernel/config/vremote/peers");
        let control = sys.control();
        let (file, stored) = (sys.0.join("psk"), sys.0.join("keys/b"));
        assert!(control.add_peer("b", "10.0.0.2", Some(&file)).is_err());
        assert!(
            control.peers().unwrap().is_empty(),
            "refused without the key"
        );
        Key::generate().create(&file).unwrap();
        control.add_peer("b", "10.0.0.2", Some(&file)).unwrap();
        let same = || fs::read(&stored).unwrap() == fs::read(&file).unwrap();
        assert!(same());
        let peer = sys.0.join("kernel/config/vremote/peers/b");
        assert_eq!(
            fs::read_to_string(peer.join("key")).unwrap(),
            *Key::read(&file).unwrap().hex(),
            "what the module is told"
        );

        let other = sys.0.join("other");
        Key::generate().create(&other).unwrap();
        assert!(control.add_peer("b", "10.0.0.2", Some(&other)).is_err());
        assert!(same(), "a refusal changes nothing");

        // The module has been loaded anew: it has no peers, but the key is there.
        let forget = || {
            for attribute in ["address", "key"] {
                fs::remove_file(peer.join(attribute)).unwrap();
            }
        };
        forget();
        fs::remove_dir(&peer).unwrap();
        control.add_peer("b", "10.0.0.2", None).unwrap();
        assert!(same());

        forget();
        control.del_peer("b").unwrap();
        assert!(!stored.exists());
        assert!(control.del_peer("b").is_err());

        // Where a key cannot be put there is no peer.
        fs::remove_dir(sys.0.join("keys")).unwrap();
        sys.file("keys", "");
        assert!(control.add_peer("c", "10.0.0.3", Some(&file)).is_err());
    }

    #[test]
    fn adds_and_shows_exports() {
        let sys = Sys::new();
        sys.dir("kernel/config/vremote/exports");
        sys.dir("data/50%");
        let control = sys.control();
        let path = fs::canonicalize(sys.0.join("data/50%")).unwrap();
        control.add_export(&path, false).unwrap();
        let exports = control.exports().unwrap();
        assert_eq!(exports.len(), 1);
        assert_eq!(exports[0].path, path);
        assert!(!exports[0].root_squash && exports[0].enabled);
        assert!(control.add_export(&path, false).is_err(), "twice");
        assert!(
            control.add_export(&path.join("none"), true).is_err(),
            "missing"
        );
        assert!(control.del_export(Path::new("/none")).is_err());
    }

    #[test]
    fn understands_addresses() {
        assert_eq!(resolve("10.0.0.2").unwrap(), "10.0.0.2");
        assert_eq!(resolve("10.0.0.2:5").unwrap(), "10.0.0.2:5");
        for wrong in [
            "::1",
            "[::1]:5",
            "10.0.0.2:",
            "10.0.0.2:0",
            "10.0.0.2:70000",
            "",
            "10.0.0.2:5:6",
        ] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn export_names_fit_and_differ() {
        assert_eq!(
            export_id(Path::new("/srv/a%b")),
            Path::new("%2Fsrv%2Fa%25b")
        );
        let long = |tail: &str| {
            export_id(Path::new(&format!(
                "/{}{tail}{}",
                "a".repeat(200),
                "b".repeat(300)
            )))
        };
        assert_eq!(long("x").as_os_str().len(), MAX_NAME);
        assert_ne!(long("x"), long("y"));
    }

    #[test]
    fn checks_the_document() {
        let sys = Sys::new();
        for (text, good) in [
            ("{\"version\":2}", true),
            ("{\"version\":1}", false),
            ("{}", false),
            ("{", false),
        ] {
            sys.file("kernel/debug/vremote/status", text);
            assert_eq!(sys.control().status().is_ok(), good, "{text}");
        }
    }
}
