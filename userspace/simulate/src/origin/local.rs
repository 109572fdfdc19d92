// SPDX-License-Identifier: GPL-2.0

//! What a node itself does with its shared files: `rust/origin/local.rs`, to which the kernel's hooks lead (`rust/hooks.rs`).

use std::{cell::Cell, rc::Rc};

use nix::errno::Errno;
use vremote_proto::directory::{self, Event, Phase, Requester, Want};

use super::share::{Share, State, Ticket, Waiter};
use crate::{
    bug::Bug,
    wait::{sleep, Changes, Result, Wait},
};

const ASKS: usize = 64;
const FREEZE_PASSES: usize = 2;

/// A page that a local task has asked for. Who drops it does not want it any more.
struct Asked<'a> {
    share: &'a Rc<Share>,
    index: u64,
    number: u64,
    waiter: Rc<Waiter>,
    came: bool,
}

impl Asked<'_> {
    async fn wait(mut self) -> Result {
        let node = self.share.node();
        self.waiter
            .event
            .wait_once(node.longest_round_us(), Wait::Killable)
            .await?;
        self.came = true;
        match self.waiter.status.get() {
            0 => Ok(()),
            directory::status::AGAIN => {
                sleep(&node.world.sim, 1_000).await;
                Ok(())
            }
            status => Err(Errno::from_raw(i32::from(status))),
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.came {
            return;
        }
        let ticket = {
            let mut state = self.share.state.borrow_mut();
            let at = state.tickets.iter().position(|t| t.number == self.number);
            at.map(|at| state.tickets.remove(at))
        };
        if ticket.is_none() {
            self.share.taken(self.index);
        }
    }
}

impl Share {
    /// Whether the caller may read page `index` from disk or page cache, or change it.
    pub fn at_home(&self, index: u64, want: Want) -> bool {
        let task = self.node().world.sim.current_number();
        self.state.borrow().at_home(index, want, task)
    }

    /// Whether a remote is the page's owner.
    pub fn is_owned(&self, index: u64) -> bool {
        let state = self.state.borrow();
        state
            .pages
            .get(&index)
            .is_some_and(|page| page.owner.is_some())
    }

    /// [`Share::at_home`], asked under the folio lock by a task that goes on if so.
    pub fn look(self: &Rc<Self>, index: u64, want: Want) -> bool {
        let at_home = self.at_home(index, want);
        if at_home {
            self.taken(index);
        }
        at_home
    }

    fn taken(self: &Rc<Self>, index: u64) {
        let turn = {
            let state = self.state.borrow();
            let tx = state.active.get(&index).and_then(|active| active.tx);
            tx.is_some_and(|tx| tx.phase == Phase::Turn)
        };
        if turn {
            self.drive(index, Event::Taken, None);
        }
    }

    /// Makes the page readable or writable here, waiting for other nodes if it must.
    pub async fn acquire(self: &Rc<Self>, index: u64, want: Want) -> Result {
        loop {
            if self.at_home(index, want) {
                return Ok(());
            }
            if self.state.borrow().is_orphan(index) {
                Box::pin(self.restore(index)).await?;
                continue;
            }
            self.ask(index, want).wait().await?;
            if want == Want::Read {
                self.taken(index);
            }
        }
    }

    /// Like [`Share::acquire`] for all pages of a range that remotes hold, many at a time.
    pub async fn acquire_range(self: &Rc<Self>, first: u64, last: u64, want: Want) -> Result {
        let node = self.node();
        let task = node.world.sim.current_number();
        let mut from = Some(first);
        while let Some(start) = from {
            let mut asked = Vec::new();
            let mut next = Some(start);
            while asked.len() < ASKS {
                let away =
                    next.and_then(|next| self.state.borrow().next_away(next, last, want, task));
                let Some(index) = away else {
                    next = None;
                    break;
                };
                Box::pin(self.restore(index)).await?;
                asked.push(self.ask(index, want));
                next = index.checked_add(1);
            }
            for asked in asked {
                let index = asked.index;
                asked.wait().await?;
                if !node.world.has(Bug::StashLeft) {
                    self.acquire(index, want).await?;
                }
                self.taken(index);
            }
            from = next;
        }
        Ok(())
    }

    /// What remotes have of the file comes home and goes to disk, with everything that was here.
    pub async fn pull(self: &Rc<Self>) -> Result {
        self.state.borrow_mut().syncs += 1;
        let pulled = self.acquire_range(0, u64::MAX, Want::Read).await;
        if pulled.is_ok() {
            self.file.write_all_out().await;
        }
        self.state.borrow_mut().syncs -= 1;
        pulled
    }

    fn ask(self: &Rc<Self>, index: u64, want: Want) -> Asked<'_> {
        let waiter = Rc::new(Waiter {
            event: Changes::new(&self.node().world.sim),
            status: Cell::new(0),
        });
        let number = {
            let mut state = self.state.borrow_mut();
            let number = state.next_ticket;
            state.next_ticket += 1;
            state.tickets.push(Ticket {
                number,
                waiter: waiter.clone(),
            });
            number
        };
        let requester = Requester::Local {
            ticket: number,
            want,
        };
        self.drive(index, Event::Request(requester), None);
        Asked {
            share: self,
            index,
            number,
            waiter,
            came: false,
        }
    }

    /// Holds off remotes from the pages `first..=last`, and takes from them what they have there.
    pub async fn freeze(self: &Rc<Self>, first: u64, last: u64) -> Result {
        if self.node().world.has(Bug::TruncatedUnfrozen) {
            return Ok(());
        }
        self.state.borrow_mut().frozen.push((first, last));
        for _ in 0..FREEZE_PASSES {
            let taken = self.acquire_range(first, last, Want::Write).await;
            if taken.is_err() {
                self.thaw(first, last);
                return taken;
            }
        }
        Ok(())
    }

    /// Ends [`Share::freeze`].
    pub fn thaw(&self, first: u64, last: u64) {
        let mut state = self.state.borrow_mut();
        let at = state
            .frozen
            .iter()
            .position(|range| *range == (first, last));
        if let Some(at) = at {
            state.frozen.remove(at);
        }
    }
}

impl State {
    fn at_home(&self, index: u64, want: Want, task: u64) -> bool {
        let active = self.active.get(&index);
        let own = |of: u64| of != 0 && of == task;
        if active.is_some_and(|active| own(active.worker)) || own(self.restorer) {
            return true;
        }
        if self.stash.contains_key(&index) {
            return false;
        }
        let page = self.pages.get(&index).copied().unwrap_or_default();
        let none = None;
        let tx = active.map_or(&none, |active| &active.tx);
        match want {
            Want::Read => directory::home_may_read(&page, tx),
            Want::Write => directory::home_may_write(&page, tx),
        }
    }

    /// Whether the page's last version is in the stash, and nobody is its owner. While bytes of one that is gone are being installed, those
    /// are the last version.
    pub fn is_orphan(&self, index: u64) -> bool {
        let tx = self.active.get(&index).and_then(|active| active.tx);
        self.stash.contains_key(&index)
            && tx.is_none_or(|tx| tx.phase != Phase::Installing)
            && self
                .pages
                .get(&index)
                .is_none_or(|page| page.owner.is_none())
    }

    fn next_away(&self, first: u64, last: u64, want: Want, task: u64) -> Option<u64> {
        let mut from = first;
        loop {
            let page = self.pages.range(from..).next().map(|(index, _)| *index);
            let stash = self.stash.range(from..).next().map(|(index, _)| *index);
            let index = match (page, stash) {
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
