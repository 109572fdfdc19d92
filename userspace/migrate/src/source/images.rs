// SPDX-License-Identifier: GPL-2.0

//! The images of a tree that leaves: where they are put, and how they get to the target, with the places of files there written into them.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::Move;
use crate::{
    images::{self, Kind, Place, Places},
    problem::Problem,
    protocol::{Name, Request, PIECE},
    tree::Tree,
};

/// Where the images of a tree that leaves are put, all but its memory. Removed with this; by the daemon, if this program is killed.
pub(super) struct Images(pub(super) PathBuf);

impl Images {
    pub(super) fn make(name: &Name) -> Result<Images, Problem> {
        let path = leaving(name);
        let _ = fs::remove_dir_all(&path);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.map_err(|error| Problem::plain(format!("{}: {error}", path.display())))?;
        Ok(Images(path))
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the directories of all trees that leave are.
pub(crate) const LEAVING: &str = "/run/vremote/leaving";

/// The directory for a tree that leaves.
pub(crate) fn leaving(name: &Name) -> PathBuf {
    Path::new(LEAVING).join(name.as_str())
}

impl Move {
    pub(super) fn send_images(&mut self, directory: &Path) -> Result<(), Problem> {
        let mut images = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".img") && entry.file_type()?.is_file() {
                images.push(name);
            }
        }
        let places = self.places(directory, &images)?;
        for name in images {
            let path = directory.join(&name);
            let kind = Kind::of(&name);
            let bytes = fs::read(&path)?;
            let bytes = images::rewrite(kind, &bytes, &places)
                .map_err(|error| Problem::plain(format!("{name}: {error}")))?;
            let mut pieces = bytes.chunks(PIECE).peekable();
            if pieces.peek().is_none() {
                self.send_piece(&name, &[])?;
            }
            for piece in pieces {
                self.send_piece(&name, piece)?;
            }
        }
        Ok(())
    }

    fn send_piece(&mut self, name: &str, piece: &[u8]) -> Result<(), Problem> {
        self.sent_images += piece.len() as u64;
        self.writer.send(&Request::Image {
            name: name.into(),
            piece: piece.into(),
        })?;
        Ok(())
    }

    /// The places of the files in the images, now that nothing changes any more.
    fn places(&mut self, directory: &Path, names: &[String]) -> Result<Places, Problem> {
        let malformed = |name: &str, error| Problem::plain(format!("{name}: {error}"));
        let mut found = Vec::new();
        let mut nameless = Vec::new();
        for name in names {
            let kind = Kind::of(name);
            if kind == Kind::Other {
                continue;
            }
            let bytes = fs::read(directory.join(name))?;
            found.extend(images::files(kind, &bytes).map_err(|error| malformed(name, error))?);
            if kind == Kind::Remap {
                nameless.extend(images::nameless(&bytes).map_err(|error| malformed(name, error))?);
            }
        }
        found.retain(|file| !nameless.contains(&file.id));
        // What it has opened since the preflight.
        if found
            .iter()
            .any(|file| !self.known.contains_key(&file.path))
        {
            let now = Tree::look(self.order.root.pid)?;
            let new: Vec<_> = now
                .named_files()
                .into_iter()
                .filter(|(path, _)| !self.known.contains_key(path))
                .collect();
            self.blockers = now.blockers;
            self.place(&new)?;
            if let Some(blocker) = self.blockers.first() {
                return Err(blocker.clone());
            }
        }
        let places = found.into_iter().map(|file| {
            let place = self.known.get(&file.path).cloned();
            (file.id, place.unwrap_or(Place::Same))
        });
        Ok(places.collect::<HashMap<_, _>>())
    }
}
