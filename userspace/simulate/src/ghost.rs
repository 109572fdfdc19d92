// SPDX-License-Identifier: GPL-2.0

//! What must hold, seen by somebody who sees everything at once.
//!
//! Each page has a history: the versions that were the last one, in the order in which they became it. A write enters the history in
//! the moment in which it takes effect. What a node loses with its lease goes out of it again, and so does what was not on the disk of
//! an origin that crashed: both put an older version at its end once more. That order is the witness for linearizability:
//!
//! - a write that returned took effect between its call and its return, once, on top of the last version;
//! - a read returns a version that was the last one at some moment between its call and its return, an fstat the size;
//! - what an `fsync` had confirmed is never behind what a loss puts back; nor is what the origin itself had of the page;
//! - whatever is lost is told by the next `fsync` of everybody whose descriptor was open then.
//!
//! What a node shows although its origin has taken it back is never right. Only what an origin granted before it crashed may be used until
//! the lease ends, as SEMANTICS.md says: each life of an origin has a history of its own, and the old one is good for that long.

use std::collections::BTreeMap;

use crate::{
    executor::Time,
    folio::{Stamp, ZERO},
};

/// A page of a file, anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Node whose file it is.
    pub origin: usize,
    /// Which of its files.
    pub file: usize,
    /// Page index.
    pub index: u64,
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {} of n{}/{}", self.index, self.origin, self.file)
    }
}

/// The stamp of a page beyond the end of the file.
pub const ABSENT: Stamp = Stamp::MAX;

/// One version of a page.
#[derive(Clone, Debug)]
struct Version {
    stamp: Stamp,
    since: Time,
    /// Who wrote it.
    writer: Option<usize>,
    /// When the write returned.
    returned: Option<Time>,
    /// When a loss has taken it away.
    lost: Option<Time>,
    /// That was an error of the disk, which is told as such.
    by_disk: bool,
}

/// The history of a page.
#[derive(Clone, Debug)]
struct History {
    versions: Vec<Version>,
    /// The last version that the origin had itself.
    home: usize,
    /// A version that is on disk for certain, or a later one is.
    synced: usize,
    /// Up to this one, what is not on disk was reported as an error of it.
    excused: usize,
}

impl History {
    fn new(stamp: Stamp, since: Time) -> History {
        History {
            versions: vec![Version {
                stamp,
                since,
                writer: None,
                returned: None,
                lost: None,
                by_disk: false,
            }],
            home: 0,
            synced: 0,
            excused: 0,
        }
    }

    fn last(&self) -> &Version {
        &self.versions[self.versions.len() - 1]
    }

    fn place(&self, stamp: Stamp) -> Option<usize> {
        self.versions
            .iter()
            .rposition(|version| version.stamp == stamp)
    }

    /// The same for what is on disk. A page that was not written out since it was behind the end of the file is a hole: as old as that.
    fn place_on_disk(&self, stamp: Stamp) -> Option<usize> {
        let hole = self.place(ABSENT).filter(|_| stamp == ZERO);
        self.place(stamp).max(hole)
    }

    fn push(&mut self, stamp: Stamp, since: Time, writer: Option<usize>) -> usize {
        self.versions.push(Version {
            stamp,
            since,
            writer,
            returned: None,
            lost: None,
            by_disk: false,
        });
        self.versions.len() - 1
    }

    /// What a failing disk may have done: a version that it did not take, and that the page cache forgot, is followed by an older one, or is
    /// still shown where it is cached.
    fn is_excused(&self, stamp: Stamp) -> bool {
        let last = self.versions.len() - 1;
        self.place(stamp).is_some_and(|place| {
            let forgotten = last < self.excused && place >= self.synced;
            let cached = place < self.excused && self.versions[place].lost.is_some();
            forgotten || cached
        })
    }

    /// All versions behind this one are lost; gives those that were not before.
    fn lose(&mut self, place: usize, now: Time, by_disk: bool) -> Vec<Version> {
        let behind = self.versions[place + 1..].iter_mut();
        behind
            .filter(|version| version.lost.is_none())
            .map(|version| {
                version.lost = Some(now);
                version.by_disk = by_disk;
                version.clone()
            })
            .collect()
    }

    /// The stamps that were the last one at some moment from `from` to `to`.
    fn within(&self, from: Time, to: Time) -> impl Iterator<Item = Stamp> + '_ {
        let ends = self
            .versions
            .iter()
            .skip(1)
            .map(|version| version.since)
            .chain([Time::MAX]);
        self.versions
            .iter()
            .zip(ends)
            .filter(move |(version, end)| version.since <= to && *end >= from)
            .map(|(version, _)| version.stamp)
    }
}

/// A life of an origin.
#[derive(Default)]
struct Life {
    pages: BTreeMap<(usize, u64), History>,
    /// When its disk failed to take something of a file.
    errors: Vec<(usize, Time)>,
    /// When it crashed.
    ended: Option<Time>,
}

/// What an fsync that returned without an error is to be held to.
pub struct Sync {
    /// When it was called.
    pub called: Time,
    /// When its descriptor was opened.
    pub opened: Time,
    /// When the last fsync of that which failed had returned.
    pub told: Time,
    /// When the last one had that said that bytes are lost.
    pub told_of_loss: Time,
}

/// Bytes that were written, and are lost: by whom, of which file, when that was, and when the write had returned.
struct Loss {
    node: usize,
    origin: usize,
    file: usize,
    time: Time,
    returned: Time,
}

/// All histories.
pub struct Ghost {
    now: Time,
    /// Of each origin, its lives.
    lives: Vec<Vec<Life>>,
    /// Stamps that took effect: when, and in which life of the origin.
    effects: BTreeMap<Stamp, (Time, usize)>,
    losses: Vec<Loss>,
    /// Bytes that never came to their origin: by whom, of which file, when they were written.
    stranded: Vec<(usize, Page, Time)>,
    /// When a node crashed last.
    deaths: BTreeMap<usize, Time>,
    /// When a node noted last that bytes of it are lost: node, origin, file.
    reports: BTreeMap<(usize, usize, usize), Time>,
    /// Sessions that ended by a fence: the origin's epoch, and when.
    fenced: BTreeMap<u64, Time>,
    violation: Option<String>,
}

impl Ghost {
    /// Each origin's files, each with its pages.
    pub fn new(disks: &[Vec<Vec<Option<Stamp>>>]) -> Ghost {
        let lives = disks.iter().map(|files| {
            let mut life = Life::default();
            for (file, pages) in files.iter().enumerate() {
                for (index, stamp) in (0..).zip(pages) {
                    life.pages
                        .insert((file, index), History::new(stamp.unwrap_or(ZERO), 0));
                }
            }
            vec![life]
        });
        Ghost {
            now: 0,
            lives: lives.collect(),
            effects: BTreeMap::new(),
            losses: Vec::new(),
            stranded: Vec::new(),
            deaths: BTreeMap::new(),
            reports: BTreeMap::new(),
            fenced: BTreeMap::new(),
            violation: None,
        }
    }

    /// Sets the clock.
    pub fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// What went wrong, once.
    pub fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    fn fail(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// The number of an origin's present life.
    pub fn life(&self, origin: usize) -> usize {
        self.lives[origin].len() - 1
    }

    fn history(&mut self, life: usize, page: Page) -> &mut History {
        self.lives[page.origin][life]
            .pages
            .entry((page.file, page.index))
            .or_insert_with(|| History::new(ABSENT, 0))
    }

    fn present(&mut self, page: Page) -> &mut History {
        let life = self.life(page.origin);
        self.history(life, page)
    }

    /// The last version of a page.
    pub fn last(&mut self, page: Page) -> Stamp {
        self.present(page).last().stamp
    }

    // ---- writes ------------------------------------------------------------------------------------------------

    fn takes_effect(&mut self, page: Page, stamp: Stamp, life: usize) {
        let now = self.now;
        if self.effects.insert(stamp, (now, life)).is_some() {
            self.fail(format!("write {stamp} to {page} took effect a second time"));
        }
    }

    /// A write at the origin itself, on top of whatever is there.
    pub fn written_at_home(&mut self, page: Page, stamp: Stamp, writer: usize) {
        let life = self.life(page.origin);
        self.takes_effect(page, stamp, life);
        let now = self.now;
        let history = self.present(page);
        history.home = history.push(stamp, now, Some(writer));
    }

    /// A write in the cache of a remote, in a session with this life of the origin. `before`: what it found in the page, `None` if that is torn; `owner`: the
    /// origin's directory says that it may.
    pub fn written_away(
        &mut self,
        page: Page,
        life: usize,
        before: Option<Stamp>,
        stamp: Stamp,
        writer: usize,
        owner: bool,
    ) {
        if life == self.life(page.origin) && !owner {
            // Of no effect: it must not return.
            return;
        }
        self.takes_effect(page, stamp, life);
        let now = self.now;
        let history = self.history(life, page);
        let last = history.last().stamp;
        let excused = before.is_some_and(|before| history.is_excused(before));
        history.push(stamp, now, Some(writer));
        if before != Some(last) && !excused {
            let before = before.map_or("of torn bytes".into(), name);
            self.fail(format!(
                "write {stamp} to {page} went to version {before}, and {last} was the last one"
            ));
        }
    }

    /// A write of these stamps from page `first` on returned, as it was called at `called`.
    pub fn write_returned(&mut self, first: Page, stamps: &[Stamp], called: Time) {
        let now = self.now;
        for (at, stamp) in stamps.iter().enumerate() {
            let page = Page {
                index: first.index + at as u64,
                ..first
            };
            let Some((time, life)) = self.effects.get(stamp).copied() else {
                self.fail(format!(
                    "write {stamp} to {page} returned, and nobody will see it"
                ));
                continue;
            };
            if time < called {
                self.fail(format!(
                    "write {stamp} to {page} took effect at {time}, and was called at {called}"
                ));
            }
            let history = self.history(life, page);
            let Some(place) = history.place(*stamp) else {
                self.fail(format!("write {stamp} went elsewhere than to {page}"));
                continue;
            };
            let version = &mut history.versions[place];
            version.returned = Some(now);
            let version = version.clone();
            if version.lost.is_some() {
                // Before it returned, which is to be told all the same.
                self.lost(page, &version);
            }
        }
    }

    fn lost(&mut self, page: Page, version: &Version) {
        if version.by_disk {
            return;
        }
        if let (Some(node), Some(time), Some(returned)) =
            (version.writer, version.lost, version.returned)
        {
            self.losses.push(Loss {
                node,
                origin: page.origin,
                file: page.file,
                time,
                returned,
            });
        }
    }

    /// Bytes of a remote are in the origin's page cache.
    pub fn came_home(&mut self, page: Page, stamp: Stamp) {
        let history = self.present(page);
        let last = history.last().stamp;
        history.home = history.versions.len() - 1;
        if last != stamp {
            self.fail(format!(
                "version {stamp} of {page} came home, and {last} was the last one"
            ));
        }
    }

    // ---- losses ------------------------------------------------------------------------------------------------

    /// The owner of a page is gone, or its bytes were refused: this version of the origin is the last one again.
    pub fn taken_back(&mut self, page: Page, stamp: Stamp) {
        let history = self.present(page);
        if history.last().stamp == stamp {
            return;
        }
        let home = history.home;
        let Some(place) = history.place(stamp) else {
            return self.fail(format!(
                "{page} is taken back in version {stamp}, of nobody"
            ));
        };
        let stranded: Vec<_> = history.versions[home + 1..]
            .iter()
            .filter(|version| version.returned.is_some() && version.lost.is_none())
            .filter_map(|version| Some((version.writer?, page, version.since)))
            .collect();
        if place < history.synced {
            let synced = history.versions[history.synced].stamp;
            self.fail(format!(
                "{page} is taken back in version {stamp}, and an fsync had confirmed {synced}"
            ));
        } else if place < home && home >= history.excused {
            let home = history.versions[home].stamp;
            self.fail(format!(
                "{page} is taken back in version {stamp}, and the origin had {home}"
            ));
        }
        self.stranded.extend(stranded);
        self.put_back(page, place, stamp, false);
    }

    /// A node notes that bytes it wrote to a file are lost.
    pub fn reported(&mut self, node: usize, file: Page) {
        let key = (node, file.origin, file.file);
        self.reports.insert(key, self.now);
    }

    /// At the end, when everybody knows of everything: whoever still had bytes that never came to their origin has noted that they are lost.
    pub fn all_is_reported(&mut self) {
        let silent = self.stranded.iter().find(|(node, page, since)| {
            let report = self.reports.get(&(*node, page.origin, page.file));
            report
                .max(self.deaths.get(node))
                .is_none_or(|last| last < since)
        });
        if let Some((node, page, since)) = silent {
            let text =
                format!("n{node} did not note that what it wrote to {page} at {since} is lost");
            self.fail(text);
        }
    }

    fn put_back(&mut self, page: Page, place: usize, stamp: Stamp, by_disk: bool) {
        let now = self.now;
        let history = self.present(page);
        let losses = history.lose(place, now, by_disk);
        history.home = history.push(stamp, now, None);
        for version in losses {
            self.lost(page, &version);
        }
    }

    /// The size of a file changes, from and to so many pages.
    pub fn resized(&mut self, file: Page, before: u64, after: u64) {
        let now = self.now;
        for index in before.min(after)..before.max(after) {
            let history = self.present(Page { index, ..file });
            let stamp = if index < after { ZERO } else { ABSENT };
            if history.last().stamp != stamp {
                history.home = history.push(stamp, now, None);
            }
        }
    }

    /// The disk of the origin did not take this version of a page; the page cache has forgotten that it is to be written.
    pub fn not_written(&mut self, page: Page, stamp: Stamp) {
        let history = self.present(page);
        if let Some(place) = history.place(stamp) {
            history.excused = history.excused.max(place + 1);
        }
    }

    /// Something of this file will not get to the origin's disk.
    pub fn disk_error(&mut self, file: Page) {
        let (life, now) = (self.life(file.origin), self.now);
        self.lives[file.origin][life].errors.push((file.file, now));
    }

    /// A clean page left the origin's page cache; the disk has that version of it.
    pub fn dropped_clean(&mut self, page: Page, cached: Stamp, stored: Stamp) {
        let history = self.present(page);
        if cached == stored || history.last().stamp != cached {
            return;
        }
        match history.place_on_disk(stored) {
            Some(place) if (history.synced..history.excused).contains(&place) => {
                self.put_back(page, place, stored, true);
            }
            _ => self.fail(format!(
                "{page} was clean in version {cached}, and its disk has {stored}"
            )),
        }
    }

    /// An origin crashed; what its disk has of each page, and how many pages each file has.
    pub fn restarted(
        &mut self,
        origin: usize,
        pages: &[u64],
        stored: impl Fn(usize, u64) -> Stamp,
    ) {
        let now = self.now;
        let old = self.life(origin);
        let mut life = Life::default();
        let mut losses = Vec::new();
        let mut behind = None;
        self.lives[origin][old].ended = Some(now);
        for (&(file, index), history) in &mut self.lives[origin][old].pages {
            let stamp = if index < pages[file] {
                stored(file, index)
            } else {
                ABSENT
            };
            let page = Page {
                origin,
                file,
                index,
            };
            let place = history.place_on_disk(stamp).unwrap_or(0);
            if place < history.synced {
                let synced = history.versions[history.synced].stamp;
                behind = Some(format!(
                    "after a crash {page} is version {}, and an fsync had confirmed {}",
                    name(stamp),
                    name(synced)
                ));
            }
            losses.extend(
                history
                    .lose(place, now, false)
                    .into_iter()
                    .map(|v| (page, v)),
            );
            life.pages.insert((file, index), History::new(stamp, now));
        }
        self.lives[origin].push(life);
        for (page, version) in losses {
            self.lost(page, &version);
        }
        if let Some(text) = behind {
            self.fail(text);
        }
    }

    // ---- sessions ----------------------------------------------------------------------------------------------

    /// The session that an origin knows by this epoch of its own ends by a fence.
    pub fn fence(&mut self, epoch: u64) {
        let now = self.now;
        self.fenced.entry(epoch).or_insert(now);
    }

    /// Whether that has happened.
    pub fn is_fenced(&self, epoch: u64) -> bool {
        self.fenced.contains_key(&epoch)
    }

    /// Something that a remote did in a session with this life of an origin, and that epoch of it, returned, and so counts. `lease`: for
    /// how long a life that is over may still be shown.
    pub fn counts(&mut self, origin: usize, life: usize, epoch: u64, lease: u64, what: &str) {
        let now = self.now;
        if let Some(time) = self.fenced.get(&epoch).copied() {
            self.fail(format!(
                "{what} returned, and its node was fenced at {time}"
            ));
        }
        let ended = self.lives[origin][life].ended;
        if let Some(time) = ended.filter(|time| now > time + lease) {
            self.fail(format!(
                "{what} returned, and the lease of an origin that crashed at {time} is over"
            ));
        }
    }

    // ---- reads and syncs ---------------------------------------------------------------------------------------

    /// A read that was called at `called` returned this version of a page.
    pub fn read(&mut self, page: Page, stamp: Stamp, called: Time, life: usize) {
        let now = self.now;
        let history = self.history(life, page);
        if !history.within(called, now).any(|other| other == stamp) && !history.is_excused(stamp) {
            let last = history.last().stamp;
            let first = history.within(called, now).next().unwrap_or(last);
            self.fail(format!(
                "a read of {page} returned version {}, and from its call to its return {} to {} were the last ones",
                name(stamp),
                name(first),
                name(last)
            ));
        }
    }

    /// An fstat that was called at `called` said that a file has so many pages: then the last of them was there at some moment until it
    /// returned, and the one behind it was not.
    pub fn sized(&mut self, file: Page, pages: u64, called: Time, life: usize) {
        let now = self.now;
        let mut seen = |index, there: bool| {
            let history = self.history(life, Page { index, ..file });
            let wrong = history
                .within(called, now)
                .all(|stamp| (stamp == ABSENT) == there);
            !wrong
        };
        if !(pages == 0 || seen(pages - 1, true)) || !seen(pages, false) {
            self.fail(format!(
                "an fstat of n{}/{} said that it has {pages} pages, and it never had from its call to its return",
                file.origin, file.file
            ));
        }
    }

    /// An fsync returned. `node` synced, and only its own writes unless it is the origin.
    pub fn synced(&mut self, file: Page, node: usize, life: usize, sync: &Sync) {
        let Sync {
            called,
            opened,
            told,
            told_of_loss,
        } = *sync;
        let all = node == file.origin;
        for (&(number, _), history) in &mut self.lives[file.origin][life].pages {
            if number != file.file {
                continue;
            }
            let safe = history.versions.iter().rposition(|version| {
                (all || version.writer == Some(node))
                    && version.lost.is_none()
                    && version.returned.is_some_and(|time| time < called)
            });
            if let Some(place) = safe.filter(|place| *place >= history.excused) {
                history.synced = history.synced.max(place);
            }
        }
        let between = |time: Time| time > opened && time < called;
        let error = self.lives[file.origin][life]
            .errors
            .iter()
            .find(|(number, time)| *number == file.file && between(*time) && *time > told);
        if let Some((_, time)) = error {
            let time = *time;
            self.fail(format!(
                "an fsync of n{node} returned, and did not tell of the disk's error at {time}"
            ));
        }
        let loss = self.losses.iter().find(|loss| {
            loss.node == node
                && (loss.origin, loss.file) == (file.origin, file.file)
                && between(loss.time)
                // Another program's write may have lost bytes before it returned: each descriptor is told once.
                && loss.returned > told
                && loss.time > told_of_loss
        });
        if let Some(loss) = loss {
            let time = loss.time;
            self.fail(format!(
                "an fsync of n{node} returned, and did not tell that it lost bytes at {time}"
            ));
        }
    }

    /// A node crashed: nobody is left there to be told of losses.
    pub fn died(&mut self, node: usize) {
        self.losses.retain(|loss| loss.node != node);
        self.deaths.insert(node, self.now);
    }
}

fn name(stamp: Stamp) -> String {
    match stamp {
        ABSENT => "none (the end of the file)".into(),
        stamp => stamp.to_string(),
    }
}
