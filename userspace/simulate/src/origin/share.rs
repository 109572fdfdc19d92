// SPDX-License-Identifier: GPL-2.0

//! Shared files of a node: `rust/origin/share.rs`.
//!
//! A file that was opened once stays shared, as below an export. Left out: sharing by a descriptor, and its end.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
};

use vremote_proto::{
    directory::{self, Action, Page, Tx},
    nodes::Node as Slot,
};

use super::{directory::Context, file::LocalFile};
use crate::{
    node::Node,
    wait::{Changes, Mutex, Work},
};

/// Bytes of one page on their way, or kept.
pub type Bytes = Rc<[u8]>;

/// A transaction and what belongs to it while it runs.
#[derive(Default)]
pub struct Active {
    /// The transaction.
    pub tx: Option<Tx>,
    /// Bytes of the `Put` that is to be installed.
    pub incoming: Option<Bytes>,
    /// What a work item has to do for this page.
    pub deferred: Option<Action>,
    /// The task whose own accesses to the page the hooks let pass.
    pub worker: u64,
    /// Request in flight of the current round.
    pub round: u64,
}

/// A local task that waits for a page.
pub struct Ticket {
    /// Names it.
    pub number: u64,
    /// What it waits on.
    pub waiter: Rc<Waiter>,
}

/// What a local task waits on.
pub struct Waiter {
    /// It has its turn.
    pub event: Changes,
    /// errno, 0 for success.
    pub status: std::cell::Cell<u16>,
}

/// How often a node has the file open.
#[derive(Clone, Copy)]
pub struct Opens {
    /// Which one.
    pub node: Slot,
    /// For reading.
    pub readers: u32,
    /// For writing.
    pub writers: u32,
}

/// The part of a [`Share`] that changes.
#[derive(Default)]
pub struct State {
    /// The file's counter of decisions.
    pub next_seq: u64,
    /// Number of the next ticket.
    pub next_ticket: u64,
    /// Records of pages that some remote holds.
    pub pages: BTreeMap<u64, Page>,
    /// Pages with a transaction.
    pub active: BTreeMap<u64, Active>,
    /// Last versions of pages that were dirty here when ownership was granted away.
    pub stash: BTreeMap<u64, Bytes>,
    /// Local tasks that wait.
    pub tickets: Vec<Ticket>,
    /// The task that puts an orphaned stash back.
    pub restorer: u64,
    /// Ranges of pages that are being truncated.
    pub frozen: Vec<(u64, u64)>,
    /// Opens of remotes.
    pub opens: Vec<Opens>,
    /// Syncs under way, those included that may have begun before it was shared: what is dirty goes to disk before it is granted away.
    pub syncs: u32,
}

impl State {
    /// Counts of a node's opens of the file.
    pub fn opens_of(&mut self, node: Slot) -> Option<&mut Opens> {
        self.opens.iter_mut().find(|opens| opens.node == node)
    }

    /// Whether requests for this page must wait until a truncation is over.
    pub fn is_frozen(&self, index: u64) -> bool {
        let inside = |&(first, last): &(u64, u64)| first <= index && index <= last;
        self.frozen.iter().any(inside)
    }
}

/// A shared file.
pub struct Share {
    node: Weak<Node>,
    /// File id on the wire.
    pub id: u64,
    /// The file.
    pub file: Rc<LocalFile>,
    /// What changes.
    pub state: RefCell<State>,
    /// Held while an orphaned stash is put back.
    pub restoring: Mutex,
    grants: Work,
    installs: Work,
}

impl Share {
    /// The share of a file; makes it one if it is not.
    pub async fn of(file: &Rc<LocalFile>) -> Rc<Share> {
        if let Some(share) = file.share() {
            return share;
        }
        // Marking happens under i_rwsem.
        let _inode = file.i_rwsem.lock_always().await;
        if let Some(share) = file.share() {
            return share;
        }
        let node = file.node();
        let id = node.next_share.replace(node.next_share.get() + 1);
        let share = Rc::new(Share {
            node: Rc::downgrade(&node),
            id,
            file: file.clone(),
            state: RefCell::new(State {
                next_seq: 1,
                next_ticket: 1,
                syncs: 1,
                ..State::default()
            }),
            restoring: Mutex::new(&node.world.sim),
            grants: Work::default(),
            installs: Work::default(),
        });
        node.shares.borrow_mut().insert(id, share.clone());
        file.set_share(&share);
        let cleaned = share.clone();
        node.world.sim.spawn(node.home(), async move {
            cleaned.file.write_all_out().await;
            cleaned.state.borrow_mut().syncs -= 1;
        });
        share
    }

    /// The node of the file.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn node(&self) -> Rc<Node> {
        self.node
            .upgrade()
            .expect("nothing of a node outlives its crash")
    }

    /// Forgets everything: the node is dead.
    pub fn clear(&self) {
        let state = self.state.take();
        drop(state);
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// Takes the next place in the order of decisions, together with the size.
    pub fn stamp(&self) -> (u64, u64) {
        let seq = directory::take_seq(&mut self.state.borrow_mut().next_seq);
        (seq, self.size())
    }

    /// Has the work item run that does such an action.
    pub fn kick(self: &Rc<Share>, context: Context) {
        let work = |share: &Rc<Share>| match context {
            Context::Installs => share.installs.queue(),
            _ => share.grants.queue(),
        };
        if work(self) {
            let share = self.clone();
            let node = self.node();
            node.world.sim.spawn(node.home(), async move {
                while match context {
                    Context::Installs => share.installs.begin(),
                    _ => share.grants.begin(),
                } {
                    share.run_deferred(context).await;
                }
            });
        }
    }
}
