// SPDX-License-Identifier: GPL-2.0

//! Moves of which it was decided here, without the other node, that the tree is this node's ([`crate::commit`]). Kept on the disk until the
//! other node has nothing of it any more: it may be back after this one has started anew.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use vremote_channel::JobId;

use crate::protocol::Name;

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
        fs::create_dir_all(&self.directory)?;
        let path = self.directory.join(name.as_str());
        write(&path, &claim)?;
        fs::File::open(path)?.sync_all()?;
        fs::File::open(&self.directory)?.sync_all()?;
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

/// Puts a value into a file, all of it or, on an error or if this program is killed, nothing: what was there stays then. Should the machine fail,
/// it may be lost.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    let written =
        fs::File::create(&new).and_then(|mut file| file.write_all(&serde_json::to_vec(value)?));
    written
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_there_after_a_start_and_until_it_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("claims");
        let claim = Claim {
            job: JobId::new(),
            peer: "b".into(),
            boot: "1".into(),
        };
        let claims = Claims::load(directory.clone());
        assert!(!claims.holds(&claim.job));
        claims.add(claim.clone()).unwrap();
        claims.add(claim.clone()).unwrap();
        fs::write(directory.join("x.new"), "{").unwrap();
        let claims = Claims::load(directory.clone());
        assert!(claims.holds(&claim.job));
        assert!(!claims.holds(&JobId::new()));
        let all = claims.all();
        assert_eq!(all.len(), 1);
        claims.remove(&all[0].0);
        assert!(!Claims::load(directory).holds(&claim.job));
    }
}
