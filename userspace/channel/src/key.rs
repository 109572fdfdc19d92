// SPDX-License-Identifier: GPL-2.0

//! Key files: 32 random bytes in base64 and a newline, as `wg genpsk` writes them; mode 0600.
//!
//! A key is never shown, and is wiped from memory when it is dropped. What the crate `snow` copies of it for a handshake lasts
//! as long as that, a few milliseconds.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use base64ct::{Base64, Encoding};
use rustix::{fs::OFlags, process::geteuid};
use zeroize::Zeroizing;

use crate::Error;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Characters of a key in its file, without the newline.
const TEXT_BYTES: usize = 44;

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// A file with that name is there already.
    #[error("there is a file of that name already, which is not overwritten")]
    Exists,
    /// A directory, a device, a symbolic link or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// Group or others can do something with it.
    #[error("others than its owner can use it (mode {0:04o})")]
    Open(u32),
    /// Neither root nor this process's user owns it.
    #[error("it belongs to another user ({0})")]
    Foreign(u32),
    /// Not 32 bytes in base64.
    #[error("it is not 32 bytes in base64")]
    Malformed,
    /// The kernel refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Fault {
    /// What to do about it, in case of the file `path`.
    pub(crate) fn fix(&self, path: &Path) -> Option<String> {
        let path = path.display();
        Some(match self {
            Fault::Missing => "vremote keygen FILE makes a key; copy it to the other node, and on both: vremote peer add NAME ADDRESS FILE".into(),
            Fault::Exists => "take another name, or remove that file if no node uses it".into(),
            Fault::NotAFile => "give the file itself that vremote keygen made".into(),
            Fault::Open(_) => format!("if nobody has read it: chmod 600 {path}; otherwise make a new key"),
            Fault::Foreign(_) => format!("if that user may know it: chown root {path}; otherwise make a new key"),
            Fault::Malformed => "copy it again from where vremote keygen made it, or make a new one for both nodes".into(),
            Fault::Io(_) => return None,
        })
    }
}

/// What two nodes share.
pub struct Key(
    /// In one place, however the key is passed on: what is moved leaves a copy behind.
    Box<Zeroizing<[u8; KEY_BYTES]>>,
);

impl Key {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Key {
        let mut key = Key(Box::default());
        // Fails only on kernels without getrandom(2), older than any that this project supports.
        getrandom::fill(&mut **key.0).expect("getrandom(2) is there");
        key
    }

    /// Reads a key file; [`Error::Key`] if it is missing, no regular file, not only its owner's (root or this user), or malformed.
    pub fn read(path: &Path) -> Result<Key, Error> {
        read(path).map_err(|why| Error::Key {
            path: path.into(),
            why,
        })
    }

    /// Writes it to a new file, which is on the disk then; [`Error::Key`] if the file exists or cannot be written, and then nothing is left.
    pub fn create(&self, path: &Path) -> Result<(), Error> {
        let failed = |why| Error::Key {
            path: path.into(),
            why,
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => failed(Fault::Exists),
            _ => failed(error.into()),
        })?;
        self.write(&file).map_err(|error| {
            let _ = fs::remove_file(path);
            failed(error.into())
        })
    }

    /// Puts it into the file `name` of a directory for keys, in the place of an older one, if there is one: at any time, and
    /// after a crash, there is a whole key or none. Makes the directory, for its owner alone, if it is not there.
    pub fn store(&self, directory: &Path, name: &str) -> Result<(), Error> {
        let path = directory.join(name);
        let stored = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .and_then(|()| {
                let file = tempfile::Builder::new()
                    .permissions(fs::Permissions::from_mode(0o600))
                    .tempfile_in(directory)?;
                self.write(file.as_file())?;
                file.persist(&path).map_err(|error| error.error)?;
                File::open(directory)?.sync_all()
            });
        stored.map_err(|error| Error::Key {
            path,
            why: error.into(),
        })
    }

    fn write(&self, mut file: &File) -> io::Result<()> {
        let mut text = Zeroizing::new([b'\n'; TEXT_BYTES + 1]);
        Base64::encode(&**self.0, &mut text[..TEXT_BYTES]).map_err(io::Error::other)?;
        file.write_all(&*text)?;
        file.sync_all()
    }

    /// 64 hexadecimal digits, as the kernel module takes it.
    pub fn hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
        }
        text
    }

    /// The bytes, for the handshake.
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// Removes the key `name` of a directory for keys; whether there was one.
pub fn remove(directory: &Path, name: &str) -> Result<bool, Error> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::Key {
            path,
            why: error.into(),
        }),
    }
}

fn read(path: &Path) -> Result<Key, Fault> {
    // Without following a link, or waiting for the other end of a FIFO.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags as i32)
        .open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Fault::NotAFile
        }
        _ => error.into(),
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Fault::NotAFile);
    }
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return Err(Fault::Foreign(metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(Fault::Open(metadata.mode() & 0o7777));
    }
    // One byte more than can be right, so that what is too long is seen.
    let mut text = Zeroizing::new([0; TEXT_BYTES + 2]);
    let mut length = 0;
    loop {
        match file.read(&mut text[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let line = text[..length]
        .strip_suffix(b"\n")
        .unwrap_or(&text[..length]);
    let mut key = Key(Box::default());
    match Base64::decode(line, &mut **key.0) {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(key),
        _ => Err(Fault::Malformed),
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn fault(path: &Path) -> Fault {
        match Key::read(path) {
            Err(Error::Key { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    fn file(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_key_is_read_back_and_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let key = Key::generate();
        key.create(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, 45));
        assert_eq!(Key::read(&path).unwrap().bytes(), key.bytes());
        assert_ne!(Key::generate().bytes(), key.bytes());
        let again = Key::generate().create(&path);
        assert!(matches!(
            again,
            Err(Error::Key {
                why: Fault::Exists,
                ..
            })
        ));
        assert_eq!(Key::read(&path).unwrap().bytes(), key.bytes());
        assert_eq!(format!("{key:?}"), "Key(…)");
    }

    #[test]
    fn the_text_is_that_of_wg_genpsk() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [format!("{text}\n"), text.to_string()] {
            file(&path, &text, 0o600);
            assert_eq!(
                Key::read(&path).unwrap().bytes().as_slice(),
                (0..32).collect::<Vec<u8>>()
            );
        }
        for wrong in [
            "",
            "\n",
            &text[1..],
            &format!("{text}\n\n"),
            &format!("{text}\r\n"),
            &format!(" {text}\n"),
            &format!("{text}\n{text}\n"),
            &text.replace('=', "A"),
            &text.replace('=', ""),
            &text.replace('A', "-"),
            &text.replace("8=", "9="),
        ] {
            file(&path, wrong, 0o600);
            assert!(matches!(fault(&path), Fault::Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_private_regular_file_will_do() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        assert!(matches!(fault(&path), Fault::Missing));
        Key::generate().create(&path).unwrap();
        for mode in [0o640, 0o620, 0o604, 0o602, 0o601, 0o610, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(fault(&path), Fault::Open(said) if said == mode),
                "{mode:o}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        Key::read(&path).unwrap();
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(fault(&link), Fault::NotAFile));
        assert!(matches!(fault(place.path()), Fault::NotAFile));
        let fifo = place.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        assert!(
            matches!(fault(&fifo), Fault::NotAFile),
            "without waiting for a writer"
        );
    }

    #[test]
    fn stored_keys_are_private_replaced_and_removed() {
        let place = tempfile::tempdir().unwrap();
        let keys = place.path().join("etc/vremote/keys");
        for _ in 0..2 {
            let key = Key::generate();
            key.store(&keys, "b").unwrap();
            assert_eq!(Key::read(&keys.join("b")).unwrap().bytes(), key.bytes());
        }
        assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(
            fs::read_dir(&keys).unwrap().count(),
            1,
            "nothing else is left"
        );
        assert!(remove(&keys, "b").unwrap());
        assert!(!remove(&keys, "b").unwrap());
    }
}
