// SPDX-License-Identifier: GPL-2.0

//! Streams of pages, and the jobs that wait for them.

use std::sync::mpsc::{Receiver, Sender};

use vremote_channel::{Channel, JobId};

use super::{lock, Registry};
use crate::problem::Problem;

/// A job that waits for a stream of pages.
#[derive(Debug)]
pub(super) struct Waiting {
    peer: String,
    pages: Sender<Channel>,
}

impl Registry {
    /// Whoever knows `id`, and is `peer`, may send a stream of pages, which comes out of the receiver.
    pub(crate) fn expect(&self, id: JobId, peer: &str) -> Receiver<Channel> {
        let (pages, receiver) = std::sync::mpsc::channel();
        let peer = peer.into();
        lock(&self.waiting).insert(id, Waiting { peer, pages });
        receiver
    }

    /// The job `id` expects nothing any more.
    pub(crate) fn expect_no_more(&self, id: &JobId) {
        lock(&self.waiting).remove(id);
    }

    /// A stream of pages has come.
    pub(crate) fn pages(&self, id: &JobId, channel: Channel) -> Result<(), Problem> {
        let waiting = lock(&self.waiting);
        match waiting.get(id) {
            Some(job) if job.peer == channel.peer.name => job
                .pages
                .send(channel)
                .map_err(|_| Problem::plain("the job has ended")),
            _ => Err(Problem::plain("there is no such job")),
        }
    }
}
