// SPDX-License-Identifier: GPL-2.0

//! One representative for all states that differ in numbers only.

use vremote_proto::directory::{Requester, Tx};
use vremote_proto::nodes::Node;

use super::{Body, Work, World};

impl<const R: usize, const P: usize> World<R, P> {
    /// Renumbers seqs, request ids and versions, which are compared and never counted, in their order.
    pub fn canonical(&mut self) {
        for home in &mut self.home {
            if home.page.owner.is_none() {
                home.page.seq = 0;
                home.page.request = 0;
            }
        }
        let mut ranks = Ranks::new();
        self.seqs(&mut |seq| ranks.add(*seq));
        self.seqs(&mut |seq| *seq = ranks.of(*seq));
        self.next_seq = ranks.len() + 1;
        for node in 0..R {
            let mut ranks = Ranks::new();
            self.requests(node, &mut |request| ranks.add(*request));
            self.requests(node, &mut |request| *request = ranks.of(*request));
            self.remotes[node].next = ranks.len() + 1;
        }
        for page in 0..P {
            let mut ranks = Ranks::new();
            self.versions(page, &mut |version| ranks.add(*version));
            self.versions(page, &mut |version| *version = ranks.of(*version));
            self.home[page].last = ranks.len();
        }
        self.network.sort_unstable();
    }

    fn seqs(&mut self, visit: &mut impl FnMut(&mut u64)) {
        for home in &mut self.home {
            visit(&mut home.page.seq);
            if let Some(tx) = &mut home.tx {
                visit(&mut tx.seq);
                visit_requesters(tx, &mut |requester| {
                    if let Requester::Remote { held, .. } = requester {
                        visit(held);
                    }
                });
            }
            if let Some(Work::Grant { seq, .. }) = &mut home.work {
                visit(seq);
            }
        }
        for away in self.remotes.iter_mut().flat_map(|remote| &mut remote.pages) {
            visit(&mut away.copy.seq);
            visit(&mut away.sent.0);
            if let Some(pending) = &mut away.pending {
                visit(&mut pending.barrier);
            }
            if let Some(put) = &mut away.put {
                visit(&mut put.seq);
            }
        }
        for message in &mut self.network {
            match &mut message.body {
                Body::Get { held, .. } => visit(held),
                Body::Grant { seq, .. }
                | Body::Invalidate { seq }
                | Body::Recall { seq, .. }
                | Body::Ack { seq }
                | Body::Put { seq, .. } => visit(seq),
                Body::Refuse { .. } | Body::PutDone { .. } => {}
            }
        }
    }

    fn requests(&mut self, of: usize, visit: &mut impl FnMut(&mut u64)) {
        let name = of as Node;
        for home in &mut self.home {
            if home.page.owner == Some(name) {
                visit(&mut home.page.request);
            }
            if let Some(tx) = &mut home.tx {
                if let Some(put) = tx.put.as_mut().filter(|put| put.node == name) {
                    visit(&mut put.request);
                }
                visit_requesters(tx, &mut |requester| match requester {
                    Requester::Remote { node, request, .. }
                    | Requester::WriteBack { node, request, .. }
                        if *node == name =>
                    {
                        visit(request);
                    }
                    _ => {}
                });
            }
            if let Some(Work::Grant { node, request, .. }) = &mut home.work {
                if *node == name {
                    visit(request);
                }
            }
        }
        for away in &mut self.remotes[of].pages {
            if let Some(pending) = &mut away.pending {
                visit(&mut pending.request);
            } else {
                away.sent = (0, false);
            }
            if let Some(put) = &mut away.put {
                visit(&mut put.request);
            }
        }
        for message in self
            .network
            .iter_mut()
            .filter(|message| message.node == name)
        {
            match &mut message.body {
                Body::Get { request, .. }
                | Body::Grant { request, .. }
                | Body::Refuse { request }
                | Body::Put { request, .. }
                | Body::PutDone { request, .. } => visit(request),
                Body::Invalidate { .. } | Body::Recall { .. } | Body::Ack { .. } => {}
            }
        }
    }

    fn versions(&mut self, page: usize, visit: &mut impl FnMut(&mut u64)) {
        let home = &mut self.home[page];
        visit(&mut home.data);
        visit(&mut home.latest);
        if let Some(Work::Install { data }) = &mut home.work {
            visit(data);
        }
        for remote in &mut self.remotes {
            let away = &mut remote.pages[page];
            if let Some(folio) = &mut away.folio {
                visit(&mut folio.data);
            }
            if let Some(put) = &mut away.put {
                visit(&mut put.data);
            }
        }
        for message in self
            .network
            .iter_mut()
            .filter(|message| message.page == page as u8)
        {
            match &mut message.body {
                Body::Grant {
                    data: Some(data), ..
                }
                | Body::Put { data, .. } => visit(data),
                _ => {}
            }
        }
    }
}

/// Visits the requests that a transaction knows.
fn visit_requesters(tx: &mut Tx, visit: &mut impl FnMut(&mut Requester)) {
    visit(&mut tx.current);
    for requester in tx.queue.iter_mut() {
        visit(requester);
    }
}

/// Most different numbers that a small world has of one kind.
const MAX_RANKS: usize = 64;

/// Numbers in use, in order, to be replaced by their ranks. 0 keeps its meaning.
struct Ranks {
    numbers: [u64; MAX_RANKS],
    count: usize,
}

impl Ranks {
    fn new() -> Ranks {
        Ranks {
            numbers: [0; MAX_RANKS],
            count: 0,
        }
    }

    fn used(&self) -> &[u64] {
        &self.numbers[..self.count]
    }

    fn add(&mut self, number: u64) {
        if number == 0 {
            return;
        }
        if let Err(at) = self.used().binary_search(&number) {
            assert!(
                self.count < MAX_RANKS,
                "this world is too large to be renumbered"
            );
            self.numbers.copy_within(at..self.count, at + 1);
            self.numbers[at] = number;
            self.count += 1;
        }
    }

    fn len(&self) -> u64 {
        self.count as u64
    }

    fn of(&self, number: u64) -> u64 {
        self.used()
            .binary_search(&number)
            .map_or(0, |at| at as u64 + 1)
    }
}
