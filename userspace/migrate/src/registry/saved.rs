// SPDX-License-Identifier: GPL-2.0

//! The files by which trees that leave or have left outlive the daemon.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};
use vremote_channel::JobId;

use super::{lock, Parting, Record, Registry, State};
use crate::{claims, control::HeldFile, protocol::Name};

/// A tree that leaves or has left, in a file, for a daemon that starts anew.
#[derive(Serialize, Deserialize)]
struct Saved {
    title: String,
    at: Away,
    files: Vec<HeldFile>,
}

/// Where it is.
#[derive(Serialize, Deserialize)]
enum Away {
    Leaving(Box<Parting>),
    Moved { to: String },
}

/// What those files say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Trees that were about to leave.
    pub(crate) leaving: Vec<Name>,
    /// Trees of which a file cannot be read.
    pub(crate) unread: Vec<Name>,
}

/// Where those files are: not for longer than this node runs.
pub(super) const AWAY: &str = "/run/vremote/away";

/// What the name of a file ends in that is beside one of them: it says of which move the tree goes on here, found out while no daemon ran.
const STAYED: &str = "stayed";

/// [`Registry::stayed`] for the daemon that is started next.
pub(crate) fn note_stayed(name: &Name, job: &JobId) -> io::Result<()> {
    claims::write(
        &Path::new(AWAY).join(name.as_str()).with_extension(STAYED),
        job,
    )
}

impl Registry {
    /// Notes a tree that leaves or has left. On an error the file is as it was.
    pub(super) fn save(&self, name: &Name, record: &Record) -> io::Result<()> {
        let at = match &record.state {
            State::Leaving(parting) | State::Undecided { parting, .. } => {
                Away::Leaving(Box::new(parting.clone()))
            }
            State::Moved { to } => Away::Moved { to: to.clone() },
            _ => return Ok(()),
        };
        let saved = Saved {
            title: record.title.clone(),
            at,
            files: record.files.iter().map(|(file, _)| file.clone()).collect(),
        };
        claims::make_private(&self.away)?;
        claims::write(&self.away.join(name.as_str()), &saved)
    }

    /// [`Registry::save`], for want of anything better to do than to say if it fails.
    pub(super) fn save_moved(&self, name: &Name, record: &Record) {
        if let Err(error) = self.save(name, record) {
            eprintln!("vremoted: {}: {error}", self.away.display());
        }
    }

    pub(super) fn unsave(&self, name: &Name) {
        let path = self.away.join(name.as_str());
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(path.with_extension(STAYED));
    }

    /// Whether it was found out, while no daemon ran, that the tree of a move goes on here.
    pub(crate) fn has_stayed(&self, name: &Name, job: &JobId) -> bool {
        let path = self.away.join(name.as_str()).with_extension(STAYED);
        let noted = fs::read(path).map(|bytes| serde_json::from_slice::<JobId>(&bytes));
        // Of an earlier move of the tree it says nothing.
        matches!(noted, Ok(Ok(noted)) if noted == *job)
    }

    /// Trees that had left, or were about to, before the daemon started; `hold` opens their files.
    pub(crate) fn load(&self, hold: impl Fn(&HeldFile) -> io::Result<File>) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        claims::tidy(&self.away);
        let entries = match fs::read_dir(&self.away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = Name::try_from(entry.file_name().to_string_lossy().into_owned());
            let Ok(name) = name else {
                continue;
            };
            let saved = fs::read(entry.path())
                .and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).map_err(io::Error::from));
            let saved = match saved {
                Ok(saved) => saved,
                Err(error) => {
                    eprintln!(
                        "vremoted: job {name}: {}: {error}; remove it if you know that the tree is not at another node",
                        entry.path().display()
                    );
                    loaded.unread.push(name);
                    continue;
                }
            };
            let files = saved
                .files
                .into_iter()
                .filter_map(|file| match hold(&file) {
                    Ok(open) => Some((file, open)),
                    Err(error) => {
                        eprintln!(
                            "vremoted: job {name}: {}: {error}",
                            String::from_utf8_lossy(&file.path)
                        );
                        None
                    }
                });
            let files = files.collect();
            let state = match saved.at {
                Away::Leaving(parting) => {
                    loaded.leaving.push(name.clone());
                    State::Leaving(*parting)
                }
                Away::Moved { to } => State::Moved { to },
            };
            lock(&self.trees).insert(name, Record::new(&saved.title, state, files));
        }
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::Part,
        protocol::Whereabouts,
        registry::{
            tests::{never, registry, tree},
            Doubt,
        },
    };

    fn commit(registry: &Registry, name: &Name, job: JobId) {
        let doubt = Doubt {
            job,
            boot: "1".into(),
            processes: Vec::new(),
            homes: Vec::new(),
            lazy: false,
        };
        registry
            .advance(name, |parting| parting.doubt = Some(doubt))
            .unwrap();
    }

    #[test]
    fn a_commit_outlives_the_daemon() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        assert_eq!(registry.part(&job), Part::Nothing);
        commit(&registry, &name, job);
        assert_eq!(registry.part(&job), Part::Undecided);
        let again = Registry::at(place.path().join("away"));
        assert_eq!(again.load(never).unwrap().leaving, [name.clone()]);
        assert_eq!(again.part(&job), Part::Undecided);
        again.undecided(&name);
        assert!(again.list()[0].advice.is_some());
        // Two decide: one does.
        assert!(again.decide(&name).is_some());
        assert!(again.decide(&name).is_none());
        again.moved(&name, "b");
        assert_eq!(again.part(&job), Part::Nothing);
        let last = Registry::at(place.path().join("away"));
        assert_eq!(last.load(never).unwrap(), Loaded::default());
        assert_eq!(last.whereabouts(&name), Whereabouts::Moved("b".into()));
    }

    #[test]
    fn what_was_found_out_is_of_one_move() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        commit(&registry, &name, job);
        assert!(!registry.has_stayed(&name, &job));
        let note = place
            .path()
            .join("away")
            .join(name.as_str())
            .with_extension(STAYED);
        claims::write(&note, &job).unwrap();
        assert!(registry.has_stayed(&name, &job));
        assert!(!registry.has_stayed(&name, &JobId::new()));
        registry.stayed(&name);
        assert!(!note.exists());
    }

    #[test]
    fn what_cannot_be_read_does_not_leave() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        let away = place.path().join("away");
        assert_eq!(registry.load(never).unwrap(), Loaded::default());
        fs::create_dir(&away).unwrap();
        fs::write(away.join(name.as_str()), "{}").unwrap();
        assert_eq!(registry.load(never).unwrap().unread, [name.clone()]);
        registry.unread(&name);
        registry.found(&name, "prog", 7);
        assert!(registry.leave(tree(&name), None).is_err());
        assert!(registry.arrive(&name, "prog", "b", job, None).is_err());
        assert_eq!(registry.whereabouts(&name), Whereabouts::Moving);
        assert!(away.join(name.as_str()).exists());
    }
}
