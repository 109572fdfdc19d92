// SPDX-License-Identifier: GPL-2.0

//! What this node itself does with its shared files: asks for pages that remotes hold, and waits for them. The hooks of the kernel end
//! here.

use kernel::{
    prelude::*,
    sync::{
        atomic::ordering::{Full, Relaxed},
        barrier::smp_mb,
        Arc,
    },
};

use super::{
    pages::{Context, Outbox},
    share::{Share, State, Ticket, Waiter},
};
use crate::proto::{
    directory::{self, Event, Phase, Requester, Want},
    nodes::Node,
};

/// Pages that a local task asks for at a time.
const ASKS: usize = 64;

/// Passes over a frozen range: the first one outlasts what was queued before the freeze, the second takes it.
const FREEZE_PASSES: usize = 2;

/// A page that a local task has asked for. Who drops it does not want it any more.
struct Asked<'a> {
    share: &'a Arc<Share>,
    index: u64,
    /// Of the ticket.
    number: u64,
    waiter: Arc<Waiter>,
    /// It was waited for until it came: the task goes on with it.
    came: bool,
}

impl Asked<'_> {
    /// Waits until the page has come, or cannot.
    fn wait(mut self) -> Result {
        // A round ends by its own limit, or when the lease of a silent holder has run out; a few may stand before ours in the queue.
        self.waiter.event.wait(crate::net::longest_round_us())?;
        self.came = true;
        match self.waiter.status.load(Relaxed) {
            0 => Ok(()),
            status if status == u32::from(directory::status::AGAIN) => {
                // The page's queue is full of others; they are served in milliseconds.
                kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
                Ok(())
            }
            status => Err(Error::from_errno(-(status as i32))),
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.came {
            return;
        }
        let ticket = {
            let mut state = self.share.state.lock();
            let at = state.tickets.iter().position(|t| t.number == self.number);
            at.map(|at| state.tickets.remove(at))
        };
        if ticket.is_none() {
            // It has come meanwhile, and is kept until somebody has looked.
            self.share.taken(self.index);
        }
    }
}

impl Share {
    /// Whether the caller may read page `index` from disk or page cache (`Want::Read`), or change it (`Want::Write`). With
    /// the folio lock held the answer stays true until it is released.
    pub(crate) fn at_home(&self, index: u64, want: Want) -> bool {
        // After the caller inserted its folio: pairs with the barrier in `grant`.
        smp_mb(Full);
        self.state.lock().at_home(index, want, super::task())
    }

    /// [`Share::at_home`], asked under the folio lock by a task that goes on if so. If the page was kept for local tasks until one
    /// has looked, that one has.
    pub(crate) fn look(self: &Arc<Self>, index: u64, want: Want) -> bool {
        let at_home = self.at_home(index, want);
        if at_home {
            self.taken(index);
        }
        at_home
    }

    /// A local task that was woken has the page, or does not want it any more.
    fn taken(self: &Arc<Self>, index: u64) {
        let turn = {
            let state = self.state.lock();
            let active = state.active.get(&index);
            active
                .is_some_and(|active| active.tx.as_ref().is_some_and(|tx| tx.phase == Phase::Turn))
        };
        if turn {
            self.drive(
                index,
                Event::Taken,
                None,
                Context::Receive,
                &mut Outbox::default(),
            );
        }
    }

    /// Makes the page readable or writable here, waiting for other nodes if it must.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if a holder does not answer in time, `EINTR` if the task was killed, `ENOMEM`, `EIO`.
    pub(crate) fn acquire(self: &Arc<Self>, index: u64, want: Want) -> Result {
        loop {
            if self.at_home(index, want) {
                return Ok(());
            }
            if self.state.lock().is_orphan(index) {
                self.restore(index)?;
                continue;
            }
            self.ask(index, want, &mut Outbox::default())?.wait()?;
            if want == Want::Read {
                // What came home is in the page cache: nobody looks under the folio lock any more.
                self.taken(index);
            }
        }
    }

    /// Like [`Share::acquire`] for all pages of a range that remotes hold, many at a time.
    ///
    /// Remotes may ask for pages again meanwhile, so at the end all of them were here, but not all at once. To have that,
    /// [`Share::freeze`].
    pub(crate) fn acquire_range(self: &Arc<Self>, first: u64, last: u64, want: Want) -> Result {
        self.acquire_from(None, first, last, want)
    }

    /// Before a sync, and before something reads past the hooks: brings home what remotes have written of a range, and writes it to disk
    /// with what is dirty here. A page of it that is granted away meanwhile is written to disk first: in the stash no sync would find it,
    /// and return as if it were on disk.
    ///
    /// # Errors
    ///
    /// As [`Share::acquire`].
    pub(crate) fn pull(self: &Arc<Self>, first: u64, last: u64) -> Result {
        self.state.lock().pulls += 1;
        let home = self.acquire_range(first, last, Want::Read);
        if home.is_ok() {
            self.write_out(first, last);
        }
        self.state.lock().pulls -= 1;
        home
    }

    /// [`Share::acquire_range`] for those pages that one node holds.
    pub(super) fn acquire_from(
        self: &Arc<Self>,
        holder: Option<Node>,
        first: u64,
        last: u64,
        want: Want,
    ) -> Result {
        let mut from = Some(first);
        while let Some(start) = from {
            let mut asked: [Option<Asked<'_>>; ASKS] = [const { None }; ASKS];
            let mut out = Outbox::default();
            let mut next = Some(start);
            for slot in &mut asked {
                let away = next
                    .and_then(|next| self.state.lock().next_away(next, last, want, super::task()));
                let Some(index) = away else {
                    next = None;
                    break;
                };
                if holder.is_some_and(|holder| !self.state.lock().is_held(index, holder)) {
                    next = index.checked_add(1);
                    continue;
                }
                self.restore(index)?;
                *slot = Some(self.ask(index, want, &mut out)?);
                next = index.checked_add(1);
            }
            drop(out);
            for asked in asked.into_iter().flatten() {
                let index = asked.index;
                asked.wait()?;
                // The last version may be in the stash yet, as its owner had written nothing; or the page's queue was full.
                self.acquire(index, want)?;
                self.taken(index);
            }
            from = next;
        }
        Ok(())
    }

    /// Puts a request of this node into the page's queue.
    fn ask(self: &Arc<Self>, index: u64, want: Want, out: &mut Outbox) -> Result<Asked<'_>> {
        let waiter = Waiter::new()?;
        let number = {
            let mut room = KVec::new();
            loop {
                let mut state = self.state.lock();
                if state.tickets.len() < state.tickets.capacity() {
                    let number = state.next_ticket;
                    state.next_ticket += 1;
                    let _ = state.tickets.push_within_capacity(Ticket {
                        number,
                        waiter: waiter.clone(),
                    });
                    break number;
                }
                let wanted = state.tickets.capacity() * 2 + 16;
                if room.capacity() >= wanted {
                    core::mem::swap(&mut state.tickets, &mut room);
                    for ticket in room.drain_all() {
                        let _ = state.tickets.push_within_capacity(ticket);
                    }
                    continue;
                }
                drop(state);
                room = KVec::with_capacity(wanted, GFP_KERNEL)?;
            }
        };
        self.drive(
            index,
            Event::Request(Requester::Local {
                ticket: number,
                want,
            }),
            None,
            Context::Receive,
            out,
        );
        Ok(Asked {
            share: self,
            index,
            number,
            waiter,
            came: false,
        })
    }

    /// Whether the last version of every page is here.
    pub(super) fn is_home(&self) -> bool {
        let task = super::task();
        let away = self.state.lock().next_away(0, u64::MAX, Want::Read, task);
        away.is_none()
    }

    /// Holds off remotes from the pages `first..=last`, and takes from them what they have there.
    pub(crate) fn freeze(self: &Arc<Self>, first: u64, last: u64) -> Result {
        let mut room = KVec::new();
        loop {
            let mut state = self.state.lock();
            if state.frozen.push_within_capacity((first, last)).is_ok() {
                break;
            }
            let wanted = state.frozen.len() * 2 + 4;
            if room.capacity() >= wanted {
                core::mem::swap(&mut state.frozen, &mut room);
                for range in room.drain_all() {
                    let _ = state.frozen.push_within_capacity(range);
                }
                continue;
            }
            drop(state);
            room = KVec::with_capacity(wanted, GFP_KERNEL)?;
        }
        // What was asked before the freeze may still be granted during the first pass, not after it.
        let taken =
            (0..FREEZE_PASSES).try_for_each(|_| self.acquire_range(first, last, Want::Write));
        if taken.is_err() {
            self.thaw(first, last);
        }
        taken
    }

    /// Ends [`Share::freeze`].
    pub(crate) fn thaw(&self, first: u64, last: u64) {
        let mut state = self.state.lock();
        if let Some(at) = state
            .frozen
            .iter()
            .position(|range| *range == (first, last))
        {
            let _ = state.frozen.remove(at);
        }
    }
}

impl State {
    /// See [`Share::at_home`].
    fn at_home(&self, index: u64, want: Want, task: usize) -> bool {
        let active = self.active.get(&index);
        let none = None;
        let tx = active.map_or(&none, |active| &active.tx);
        let installing = tx.as_ref().is_some_and(|tx| tx.phase == Phase::Installing);
        let worker = active.is_some_and(|active| active.worker == task);
        if (worker && installing) || self.restorer == task {
            return true;
        }
        // Neither is it for who grants the page: until the stash is put back, what is on disk is old.
        if self.stash.get(&index).is_some() {
            return false;
        }
        if worker {
            return true;
        }
        let page = self.pages.get(&index).copied().unwrap_or_default();
        match want {
            Want::Read => directory::home_may_read(&page, tx),
            Want::Write => directory::home_may_write(&page, tx),
        }
    }

    /// Whether the page's last version is in the stash, and nobody is its owner. While bytes of one that is gone are being installed, those
    /// are the last version: the stash must not come after them.
    pub(super) fn is_orphan(&self, index: u64) -> bool {
        let tx = self
            .active
            .get(&index)
            .and_then(|active| active.tx.as_ref());
        self.stash.get(&index).is_some()
            && tx.is_none_or(|tx| tx.phase != Phase::Installing)
            && self
                .pages
                .get(&index)
                .is_none_or(|page| page.owner.is_none())
    }

    /// Whether this remote holds the page.
    fn is_held(&self, index: u64, node: Node) -> bool {
        self.pages
            .get(&index)
            .is_some_and(|page| page.owner == Some(node) || page.sharers.contains(node))
    }

    /// The first page from `first` to `last` that this node may not `want` as things are.
    fn next_away(&self, first: u64, last: u64, want: Want, task: usize) -> Option<u64> {
        let mut from = first;
        loop {
            let pages = self
                .pages
                .cursor_lower_bound(&from)
                .map(|cursor| *cursor.current().0);
            let stash = self
                .stash
                .cursor_lower_bound(&from)
                .map(|cursor| *cursor.current().0);
            let index = match (pages, stash) {
                (Some(a), Some(b)) => a.min(b),
                (a, b) => a.or(b)?,
            };
            if index > last {
                return None;
            }
            if !self.at_home(index, want, task) {
                return Some(index);
            }
            from = index.checked_add(1)?;
        }
    }
}
