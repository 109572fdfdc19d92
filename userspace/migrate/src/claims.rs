// SPDX-License-Identifier: GPL-2.0

//! Moves of which it was decided here, without the other node, that the tree is this node's ([`crate::commit`]). Kept on the disk until the
//! other node has nothing of it any more: it may be back after this one has started anew.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use vremote_channel::JobId;

use crate::protocol::Name;

/// What a file's name ends in until all of it is written.
const NEW: &str = "new";

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// The move.
    pub(crate) job: JobId,
    /// The other node of it.
    pub(crate) peer: String,
    /// That node's boot id at the commit.
    pub(crate) boot: String,
}

/// All of them, each in a file of a random name.
#[derive(Debug)]
pub(crate) struct Claims {
    directory: PathBuf,
    all: Mutex<BTreeMap<Name, Claim>>,
}

impl Claims {
    /// Those of a directory, which is made with the first. A file that cannot be read is named in the log, and stays.
    pub(crate) fn load(directory: PathBuf) -> Claims {
        let mut all = BTreeMap::new();
        tidy(&directory);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(name) = Name::try_from(entry.file_name().to_string_lossy().into_owned()) else {
                continue;
            };
            let claim = fs::read(entry.path())
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
            match claim {
                Ok(claim) => drop(all.insert(name, claim)),
                Err(error) => eprintln!("vremoted: {}: {error}", entry.path().display()),
            }
        }
        Claims {
            directory,
            all: Mutex::new(all),
        }
    }

    /// A panic in another thread leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Claim>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more. It is on the disk when this returns; on an error nothing is claimed.
    pub(crate) fn add(&self, claim: Claim) -> io::Result<()> {
        let mut all = self.lock();
        if all.values().any(|old| *old == claim) {
            return Ok(());
        }
        let name = Name::new()?;
        // Who knows a move's id may send pages for it.
        make_private(&self.directory)?;
        let path = self.directory.join(name.as_str());
        let directory = || fs::File::open(&self.directory)?.sync_all();
        put(&path, &claim, fs::File::sync_all)
            .and_then(|()| directory())
            .inspect_err(|_| {
                let _ = fs::remove_file(&path);
            })?;
        all.insert(name, claim);
        Ok(())
    }

    /// Whether this move's tree is claimed.
    pub(crate) fn holds(&self, job: &JobId) -> bool {
        self.lock().values().any(|claim| claim.job == *job)
    }

    /// All, to ask the other nodes about.
    pub(crate) fn all(&self) -> Vec<(Name, Claim)> {
        let all = self.lock();
        all.iter()
            .map(|(name, claim)| (name.clone(), claim.clone()))
            .collect()
    }

    /// The other node has nothing of it any more.
    pub(crate) fn remove(&self, name: &Name) {
        self.lock().remove(name);
        let _ = fs::remove_file(self.directory.join(name.as_str()));
    }
}

/// Makes a directory that only root may look into; it may be there.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700))
}

/// Puts a value into a file, all of it or, on an error or if this program is killed, nothing: what was there stays then. Should the machine fail,
/// it may be lost.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    put(path, value, |_| Ok(()))
}

/// [`write`]; `written`: what is to be done before the file has its name.
fn put(
    path: &Path,
    value: &impl Serialize,
    written: impl FnOnce(&fs::File) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_extension(NEW);
    let made = fs::File::create(&new).and_then(|mut file| {
        file.write_all(&serde_json::to_vec(value)?)?;
        written(&file)
    });
    made.and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// As the daemon starts: removes what the one before it was writing into a directory when it was killed.
pub(crate) fn tidy(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|is| is == NEW) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_cannot_be_noted_is_none() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("claims");
        fs::write(&directory, "no directory").unwrap();
        let claims = Claims::load(directory);
        let claim = Claim {
            job: JobId::new(),
            peer: "b".into(),
            boot: "1".into(),
        };
        assert!(claims.add(claim.clone()).is_err());
        assert!(!claims.holds(&claim.job));
    }

    #[test]
    fn a_claim_is_there_after_a_start_and_until_it_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("claims");
        let claim = Claim {
            job: JobId::new(),
            peer: "b".into(),
            boot: "1".into(),
        };
        fs::create_dir(&directory).unwrap();
        let claims = Claims::load(directory.clone());
        assert!(!claims.holds(&claim.job));
        claims.add(claim.clone()).unwrap();
        claims.add(claim.clone()).unwrap();
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let half = directory.join("0123456789abcdef.new");
        fs::write(&half, "{").unwrap();
        let claims = Claims::load(directory.clone());
        assert!(!half.exists());
        assert!(claims.holds(&claim.job));
        assert!(!claims.holds(&JobId::new()));
        let all = claims.all();
        assert_eq!(all.len(), 1);
        claims.remove(&all[0].0);
        assert!(!Claims::load(directory).holds(&claim.job));
    }
}
