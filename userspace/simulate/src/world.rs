// SPDX-License-Identifier: GPL-2.0

//! A run: nodes, network, disks, what fails when, and how it ends.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use vremote_exercise::random::Random;
use vremote_proto::{copy::State as CopyState, limits::PAGE_BYTES};

use crate::{
    bug::Bug,
    client::{Call, Client},
    disk::Disk,
    executor::{Event, Home, Sim, Sink, Time},
    folio::Stamp,
    ghost::{Ghost, Page},
    network::{Network, Quality},
    node::{Clock, Node},
    profile::{Fault, Profile, Shape, Trouble},
    remote::state::Inode,
    wait::sleep,
};

const SECOND: Time = 1_000_000;

/// Whom the director's task belongs to.
const NOBODY: Home = Home {
    node: usize::MAX,
    life: 0,
};

/// What can be said of a node.
struct Place {
    node: Option<Rc<Node>>,
    clock: Clock,
    /// It stands still until then.
    paused: Time,
}

/// All of it.
pub struct World {
    /// Time and tasks.
    pub sim: Rc<Sim>,
    /// What the run is like.
    pub shape: Shape,
    bug: Option<Bug>,
    places: RefCell<Vec<Place>>,
    /// The network.
    pub network: RefCell<Network>,
    /// The disks, by node.
    pub disks: Vec<Rc<Disk>>,
    ghost: RefCell<Ghost>,
    /// Who has which epoch.
    epochs: RefCell<BTreeMap<u64, Home>>,
    stamps: Cell<Stamp>,
    calls: RefCell<BTreeMap<u64, Call>>,
    last_call: Cell<u64>,
    clients: Cell<usize>,
    ending: Cell<bool>,
    disturbed: Cell<Option<Time>>,
    fences: Cell<u64>,
    crashes: Cell<u64>,
    done: Cell<bool>,
    failure: RefCell<Option<String>>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Hash of its whole trace.
    pub hash: u64,
    /// Nodes that took part.
    pub nodes: usize,
    /// Events.
    pub events: u64,
    /// System calls.
    pub calls: u64,
    /// Nodes that were fenced.
    pub fences: u64,
    /// Crashes.
    pub crashes: u64,
    /// How long it was, microseconds.
    pub time: Time,
    /// What went wrong.
    pub failure: Option<String>,
}

/// Runs the schedule of a profile and a seed. `sink` gets each line of its trace.
pub fn run(profile: Profile, seed: u64, bug: Option<Bug>, sink: Option<Sink>) -> Outcome {
    let mut random = Random::new(seed, &[profile as u64]);
    let shape = Shape::draw(profile, &mut random);
    let clocks: Vec<Clock> = (0..shape.nodes)
        .map(|_| Clock {
            start: random.between(SECOND, 1000 * SECOND),
            gain: random.between(0, 2 * shape.gain) as i64 - shape.gain as i64,
        })
        .collect();
    let worst = shape.network;
    let network = Network::new(shape.nodes, || Quality {
        delay: worst.delay / 2 + random.below(worst.delay),
        loss: random.below(worst.loss + 1),
        ..worst
    });
    let mut last: Stamp = 0;
    let files: Vec<Vec<Vec<Option<Stamp>>>> = (0..shape.nodes)
        .map(|_| {
            let mut pages = |random: &mut Random| {
                let mut page = || {
                    last += 1;
                    (!random.once_in(4)).then_some(last)
                };
                (0..shape.pages).map(|_| page()).collect()
            };
            (0..shape.files).map(|_| pages(&mut random)).collect()
        })
        .collect();
    let sim = Sim::new(random, shape.jitter, sink);
    let world = Rc::new(World {
        disks: files
            .iter()
            .map(|files| Disk::new(&sim, files.clone()))
            .collect(),
        ghost: RefCell::new(Ghost::new(&files)),
        sim,
        bug,
        places: RefCell::new(
            clocks
                .into_iter()
                .map(|clock| Place {
                    node: None,
                    clock,
                    paused: 0,
                })
                .collect(),
        ),
        network: RefCell::new(network),
        epochs: RefCell::default(),
        stamps: Cell::new(last),
        calls: RefCell::default(),
        last_call: Cell::new(0),
        clients: Cell::new(0),
        ending: Cell::new(false),
        disturbed: Cell::new(None),
        fences: Cell::new(0),
        crashes: Cell::new(0),
        done: Cell::new(false),
        failure: RefCell::new(None),
        shape,
    });
    world.clone().go()
}

impl World {
    fn go(self: Rc<World>) -> Outcome {
        for number in 0..self.shape.nodes {
            self.start(number);
        }
        self.sim.spawn(NOBODY, direct(self.clone()));
        while !self.done.get() && self.failure.borrow().is_none() {
            let Some(event) = self.sim.next_event() else {
                self.fail("nothing happens any more".into());
                break;
            };
            self.happen(event);
        }
        let outcome = Outcome {
            hash: self.sim.hash(),
            nodes: self.shape.nodes,
            events: self.sim.events(),
            calls: self.last_call.get(),
            fences: self.fences.get(),
            crashes: self.crashes.get(),
            time: self.sim.now(),
            failure: self.failure.borrow().clone(),
        };
        // Everybody knows everybody: nothing would be freed by itself.
        self.sim.end(NOBODY.node);
        for number in 0..self.shape.nodes {
            self.stop(number);
        }
        self.sim.clear();
        outcome
    }

    fn happen(self: &Rc<World>, event: Event) {
        let (number, life) = match &event {
            Event::Task { id, .. } => match self.sim.home(*id) {
                Some(home) => (home.node, Some(home.life)),
                None => return,
            },
            Event::Receive(home) | Event::Timer(home) => (home.node, Some(home.life)),
            Event::Arrival { to, .. } => (*to, None),
        };
        if number == NOBODY.node {
            if let Event::Task { id, alarm } = event {
                self.sim.run(id, alarm);
            }
            return;
        }
        let (node, paused) = {
            let place = &self.places.borrow()[number];
            (place.node.clone(), place.paused)
        };
        let Some(node) = node else { return };
        if life.is_some_and(|life| life != node.home().life) {
            return;
        }
        match event {
            // The network card does not stand still.
            Event::Arrival { from, datagram, .. } => node.arrived(from, datagram),
            event if self.sim.now() < paused => {
                let time = paused + self.sim.below(100);
                self.sim.at(time, event);
            }
            Event::Task { id, alarm } => self.sim.run(id, alarm),
            Event::Receive(_) => node.receive(),
            Event::Timer(_) => node.timer(),
        }
    }

    /// The planted bug.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Something is wrong: the run ends.
    pub fn fail(&self, text: String) {
        self.sim.note(None, &[9], || format!("WRONG: {text}"));
        self.failure.borrow_mut().get_or_insert(text);
    }

    // ---- nodes -------------------------------------------------------------------------------------------------

    /// The node with this number, if it runs.
    pub fn node(&self, number: usize) -> Option<Rc<Node>> {
        self.places.borrow()[number].node.clone()
    }

    fn start(self: &Rc<World>, number: usize) {
        let clock = self.places.borrow()[number].clock;
        let life = self.ghost(|ghost| ghost.life(number)) as u64;
        self.sim.note(Some(number), &[10], || "starts".into());
        let node = Node::start(self, number, life, clock);
        self.places.borrow_mut()[number].node = Some(node.clone());
        for _ in 0..self.shape.clients {
            if !self.ending.get() {
                self.clients.set(self.clients.get() + 1);
                self.sim.spawn(node.home(), Client::new(&node).run());
            }
        }
        self.sim.spawn(node.home(), housekeeping(node));
    }

    /// The node is gone; nothing of it is left but its disk.
    fn stop(&self, number: usize) {
        let Some(node) = self.places.borrow_mut()[number].node.take() else {
            return;
        };
        node.die();
        // What tasks hold may begin others as it goes.
        self.sim.end(number);
        self.sim.end(number);
        node.clear();
        self.calls
            .borrow_mut()
            .retain(|_, call| call.node != number);
        debug_assert_eq!(Rc::strong_count(&node), 1, "a node outlives its crash");
    }

    fn crash(&self, number: usize) {
        if self.node(number).is_none() {
            return;
        }
        self.sim.note(Some(number), &[11], || "crashes".into());
        self.crashes.set(self.crashes.get() + 1);
        if !self.ending.get() {
            self.clients.set(self.clients.get() - self.shape.clients);
        }
        self.stop(number);
        let disk = &self.disks[number];
        disk.lose_power();
        let pages: Vec<u64> = (0..self.shape.files)
            .map(|file| disk.size(file) / PAGE_BYTES as u64)
            .collect();
        self.ghost(|ghost| {
            ghost.died(number);
            ghost.restarted(number, &pages, |file, page| disk.look(file, page));
        });
    }

    // ---- what nodes tell ---------------------------------------------------------------------------------------

    /// A random epoch, which nobody has had.
    pub fn new_epoch(&self, home: Home) -> u64 {
        let epoch = 1 + self.sim.below(u64::MAX - 1);
        self.epochs.borrow_mut().insert(epoch, home);
        epoch
    }

    /// The life of the node that has this epoch.
    pub fn life_of(&self, epoch: u64) -> usize {
        let epochs = self.epochs.borrow();
        epochs.get(&epoch).map_or(0, |home| home.life as usize)
    }

    /// A stamp that nothing was written with.
    pub fn new_stamp(&self) -> Stamp {
        self.stamps.set(self.stamps.get() + 1);
        self.stamps.get()
    }

    /// Tells the ghost, or asks it, and looks whether something is wrong.
    pub fn ghost<T>(&self, with: impl FnOnce(&mut Ghost) -> T) -> T {
        let mut ghost = self.ghost.borrow_mut();
        ghost.set_now(self.sim.now());
        let told = with(&mut ghost);
        if let Some(text) = ghost.take_violation() {
            drop(ghost);
            self.fail(text);
        }
        told
    }

    fn note_version(&self, node: usize, page: Page, stamp: Stamp, what: &str) {
        let words = [17, page.origin as u64, page.file as u64, page.index, stamp];
        self.sim.note(Some(node), &words, || {
            format!("version {stamp} of {page} {what}")
        });
    }

    /// Bytes of a remote are in the origin's page cache.
    pub fn came_home(&self, page: Page, stamp: Stamp) {
        self.note_version(page.origin, page, stamp, "is in the page cache");
        self.ghost(|ghost| ghost.came_home(page, stamp));
    }

    /// A write took effect at the origin.
    pub fn ghost_write_home(&self, page: Page, stamp: Stamp, writer: usize) {
        self.note_version(page.origin, page, stamp, "is written");
        self.ghost(|ghost| ghost.written_at_home(page, stamp, writer));
        self.nobody_shows_another(page, Some(page.origin));
    }

    /// The version of the origin is the last one again.
    pub fn ghost_taken_back(&self, page: Page, stamp: Stamp) {
        self.note_version(page.origin, page, stamp, "is the last one again");
        self.ghost(|ghost| ghost.taken_back(page, stamp));
        self.nobody_shows_another(page, None);
    }

    /// A file has another size, in bytes.
    pub fn ghost_resized(&self, file: Page, before: u64, after: u64) {
        let pages = |bytes: u64| bytes / PAGE_BYTES as u64;
        self.ghost(|ghost| ghost.resized(file, pages(before), pages(after)));
    }

    /// A remote wrote to a page in its cache.
    pub fn written_away(
        &self,
        node: &Node,
        inode: &Inode,
        page: Page,
        before: Option<Stamp>,
        stamp: Stamp,
    ) {
        let (session, copy) = {
            let state = inode.state.borrow();
            if state.file == 0 {
                // The session is over: it will not return.
                return;
            }
            (state.session, state.copy(page.index))
        };
        self.note_version(node.number, page, stamp, "is written");
        let life = self.life_of(session.1);
        let owner = self.node(page.origin).is_some_and(|origin| {
            let share = origin.files[page.file].share();
            let record = share.and_then(|share| {
                let state = share.state.borrow();
                state.pages.get(&page.index).copied()
            });
            record.is_some_and(|record| {
                record.owner.map(usize::from) == Some(node.number) && record.seq == copy.seq
            })
        });
        if self.ghost(|ghost| ghost.is_fenced(session.1)) {
            // Of no effect, whatever has become of the origin since: it must not return.
            return;
        }
        self.ghost(|ghost| {
            ghost.written_away(page, life, before, stamp, node.number, owner);
        });
        if owner && life == self.ghost(|ghost| ghost.life(page.origin)) {
            self.nobody_shows_another(page, Some(node.number));
        }
    }

    /// The origin refused a page, which was held under the grant `seq`, and its bytes are discarded.
    pub fn refused(&self, node: &Node, page: Page, seq: u64, stamp: Option<Stamp>) {
        let Some(origin) = self.node(page.origin) else {
            return;
        };
        let file = &origin.files[page.file];
        let Some(share) = file.share() else { return };
        let record = share.state.borrow().pages.get(&page.index).copied();
        let owner = record.is_some_and(|record| {
            record.owner.map(usize::from) == Some(node.number) && record.seq == seq
        });
        if owner && stamp == Some(self.ghost(|ghost| ghost.last(page))) {
            file.taken_back(page.index);
        }
    }

    /// A session of an origin with this epoch ended by a fence.
    pub fn fenced(&self, epoch: u64) {
        self.fences.set(self.fences.get() + 1);
        self.ghost(|ghost| ghost.fence(epoch));
    }

    /// What a mapping could show at any moment: no node but `writer` may read another version of a page than the last one.
    fn nobody_shows_another(&self, page: Page, writer: Option<usize>) {
        let (last, life) = self.ghost(|ghost| (ghost.last(page), ghost.life(page.origin)));
        let mut wrong = None;
        for place in self.places.borrow().iter() {
            let Some(node) = &place.node else { continue };
            if Some(node.number) == writer {
                continue;
            }
            let folio = if node.number == page.origin {
                node.files[page.file].mapping.find(page.index)
            } else {
                let inodes = node.inodes.borrow();
                let Some(inode) = inodes.get(&(page.origin, page.file)) else {
                    continue;
                };
                let may_read = {
                    let state = inode.state.borrow();
                    state.file != 0
                        && self.life_of(state.session.1) == life
                        && state.copy(page.index).may_read()
                };
                if !may_read || !inode.peer.leased() {
                    continue;
                }
                inode.mapping.find(page.index)
            };
            let folio = folio.filter(|folio| folio.uptodate());
            if let Some(stamp) = folio.and_then(|folio| folio.stamp()) {
                if stamp != last {
                    wrong = Some((node.number, stamp));
                }
            }
        }
        if let Some((node, stamp)) = wrong {
            self.fail(format!(
                "n{node} may show {page} in version {stamp}, and {last} is the last one"
            ));
        }
    }

    // ---- calls -------------------------------------------------------------------------------------------------

    /// Notes a system call that begins; gives its number.
    pub fn begin_call(&self, call: Call) -> u64 {
        let number = self.last_call.get() + 1;
        self.last_call.set(number);
        self.calls.borrow_mut().insert(number, call);
        number
    }

    /// It returned.
    pub fn end_call(&self, number: u64) -> Option<Call> {
        self.calls.borrow_mut().remove(&number)
    }

    /// A program has ended because the run does.
    pub fn client_ended(&self) {
        self.clients.set(self.clients.get() - 1);
    }

    /// Whether programs are to end.
    pub fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// Whether a call that began then may have failed because of something else than disks.
    pub fn was_disturbed(&self, called: Time) -> bool {
        self.disturbed.get().is_some_and(|until| called <= until)
    }

    /// Whether anything happened that ends sessions.
    pub fn was_ever_disturbed(&self) -> bool {
        self.disturbed.get().is_some()
    }

    /// Looks at the calls that are under way.
    fn look_after_calls(&self) {
        let now = self.sim.now();
        let mut late = None;
        for call in self.calls.borrow_mut().values_mut() {
            let paused = self.places.borrow()[call.node].paused;
            if now < paused + SECOND {
                // Its clock goes on, and it does not.
                call.limit = call.limit.max(paused + 2 * SECOND);
            } else if now > call.limit {
                late = Some(format!(
                    "n{}: {:?} of n{}/{}, called at {}, does not return",
                    call.node, call.what, call.file.origin, call.file.file, call.called
                ));
            }
        }
        if let Some(text) = late {
            self.fail(text);
        }
    }

    /// Kills somebody who waits.
    fn kill(&self) {
        let mut calls = self.calls.borrow_mut();
        if calls.is_empty() {
            return;
        }
        let at = self.sim.below(calls.len() as u64) as usize;
        if let Some(call) = calls.values_mut().nth(at) {
            if call.file.origin != call.node {
                // At the origin it may wait for the disk.
                call.limit = call.limit.min(self.sim.now() + 2 * SECOND);
            }
            self.sim.note(Some(call.node), &[12], || {
                format!("{:?} gets SIGKILL", call.what)
            });
            self.sim.kill(call.task);
        }
    }

    // ---- faults ------------------------------------------------------------------------------------------------

    fn ways(&self, fault: &Fault) -> Vec<(usize, usize)> {
        match *fault {
            Fault::Cut { from, to, both, .. } => {
                let mut ways = vec![(from, to)];
                if both {
                    ways.push((to, from));
                }
                ways
            }
            Fault::Isolate { node, .. } => (0..self.shape.nodes)
                .filter(|other| *other != node)
                .flat_map(|other| [(node, other), (other, node)])
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A fault begins.
    fn begin_fault(&self, fault: &Fault) {
        self.sim.note(None, &[13], || format!("{fault:?}"));
        let now = self.sim.now();
        if fault.disturbs() {
            let after = 3 * self.shape.timeout + 2 * self.shape.lease + 2 * SECOND;
            let until = now + fault.time() + after;
            self.disturbed.set(self.disturbed.get().max(Some(until)));
        }
        for (from, to) in self.ways(fault) {
            self.network.borrow_mut().cut(from, to);
        }
        match *fault {
            Fault::Pause { node, time } => {
                let place = &mut self.places.borrow_mut()[node];
                place.paused = place.paused.max(now + time);
            }
            Fault::Crash { node, .. } => self.crash(node),
            Fault::Disk { node, trouble, .. } => self.set_disk(node, trouble, true),
            Fault::Storm { loss, .. } => self.network.borrow_mut().set_storm(loss),
            Fault::Kill => self.kill(),
            Fault::Cut { .. } | Fault::Isolate { .. } => {}
        }
    }

    /// It ends.
    fn end_fault(self: &Rc<World>, fault: &Fault) {
        self.sim.note(None, &[14], || format!("end of {fault:?}"));
        for (from, to) in self.ways(fault) {
            self.network.borrow_mut().heal(from, to);
        }
        match *fault {
            Fault::Crash { node, .. } if self.node(node).is_none() => self.start(node),
            Fault::Disk { node, trouble, .. } => self.set_disk(node, trouble, false),
            Fault::Storm { .. } => self.network.borrow_mut().set_storm(0),
            _ => {}
        }
    }

    fn set_disk(&self, node: usize, trouble: Trouble, on: bool) {
        let health = &self.disks[node].health;
        match trouble {
            Trouble::Slow(times) => health.slowness.set(if on { times } else { 0 }),
            Trouble::Full => health.full.set(on),
            Trouble::Unreadable => health.unreadable.set(on),
            Trouble::Unwritable => health.unwritable.set(on),
        }
    }

    // ---- the end -----------------------------------------------------------------------------------------------

    /// Whether every node has a session with each other.
    fn all_agree(&self) -> bool {
        let places = self.places.borrow();
        let nodes = || places.iter().filter_map(|place| place.node.as_ref());
        nodes().all(|node| {
            node.peers.iter().flatten().all(|peer| {
                let other = places[peer.number()].node.as_ref();
                other.is_some_and(|other| {
                    let (own, epoch) = other.peer(node.number).session();
                    peer.session() == (epoch, own)
                })
            })
        })
    }

    /// What is left although nothing is under way any more.
    fn leftover(&self) -> Option<String> {
        for place in self.places.borrow().iter() {
            let Some(node) = &place.node else { continue };
            let n = node.number;
            if node.exchanges.count() != 0 {
                return Some(format!("n{n} still has requests in flight"));
            }
            for share in node.shares.borrow().values() {
                let state = share.state.borrow();
                let file = share.file.number;
                let opens = state.opens.iter().any(|o| o.readers + o.writers != 0);
                let orphan = state.stash.keys().any(|page| state.is_orphan(*page));
                let left = [
                    (!state.active.is_empty(), "a transaction"),
                    (!state.tickets.is_empty(), "a local task that waits"),
                    (!state.frozen.is_empty(), "a range that is frozen"),
                    (opens, "an open of a remote that has closed"),
                    (orphan, "a stash of nobody"),
                ];
                if let Some((_, what)) = left.into_iter().find(|(left, _)| *left) {
                    return Some(format!("n{n}/{file} still has {what}"));
                }
            }
            for ((origin, file), inode) in node.inodes.borrow().iter() {
                let state = inode.state.borrow();
                let busy =
                    !(state.gets.is_empty() && state.puts.is_empty() && state.jobs.is_empty());
                if busy {
                    return Some(format!("n{n} is still busy with n{origin}/{file}"));
                }
                if state.file == 0 {
                    continue;
                }
                for (index, copy) in state.copies() {
                    let record = self.node(*origin).and_then(|origin| {
                        let share = origin.files[*file].share()?;
                        let state = share.state.borrow();
                        Some(state.pages.get(&index).copied().unwrap_or_default())
                    });
                    let record = record.unwrap_or_default();
                    let owns = record.owner.map(usize::from) == Some(n);
                    let good = match copy.state {
                        CopyState::Invalid => true,
                        CopyState::Shared => owns || record.sharers.contains(n as u8),
                        CopyState::Modified => owns && record.seq == copy.seq,
                        CopyState::WritingBack { .. } => false,
                    };
                    if !good {
                        return Some(format!(
                            "n{n} holds page {index} of n{origin}/{file} as {copy:?}, on record is {record:?}"
                        ));
                    }
                }
            }
        }
        None
    }
}

/// What the kernel of a node does besides: writes dirty pages out, drops clean ones.
async fn housekeeping(node: Rc<Node>) {
    let world = node.world.clone();
    let sim = world.sim.clone();
    loop {
        sleep(&sim, 20_000 + sim.below(1_500_000)).await;
        let page = sim.below(world.shape.pages + 2);
        let inodes: Vec<_> = node.inodes.borrow().values().cloned().collect();
        for inode in inodes {
            match sim.below(3) {
                0 => inode.reclaim(page),
                1 => {
                    for folio in inode.mapping.all() {
                        if folio.dirty() {
                            let _ = inode.write_out(&folio, false).await;
                        }
                    }
                }
                _ => {}
            }
        }
        for file in &node.files {
            match sim.below(3) {
                0 => file.reclaim(page),
                1 => file.background_writeback().await,
                _ => {}
            }
        }
    }
}

/// Lets things go wrong, then heals everything, and sees to it that all is as it should be.
async fn direct(world: Rc<World>) {
    let sim = world.sim.clone();
    let mut steps: Vec<(Time, bool, Fault)> = Vec::new();
    for (time, fault) in &world.shape.faults {
        steps.push((*time, true, *fault));
        steps.push((time + fault.time(), false, *fault));
    }
    steps.sort_by_key(|(time, begins, _)| (*time, *begins));
    for (time, begins, fault) in steps {
        if time >= world.shape.end {
            break;
        }
        wait_until(&world, time).await;
        if begins {
            world.begin_fault(&fault);
        } else {
            world.end_fault(&fault);
        }
    }
    wait_until(&world, world.shape.end).await;

    sim.note(None, &[15], || "all faults end".into());
    world.network.borrow_mut().calm();
    for number in 0..world.shape.nodes {
        let health = &world.disks[number].health;
        health.slowness.set(0);
        health.full.set(false);
        health.unreadable.set(false);
        health.unwritable.set(false);
    }
    for number in 0..world.shape.nodes {
        if world.node(number).is_none() {
            world.start(number);
        }
    }
    world.ending.set(true);
    // What was put off until the end of a pause comes no earlier.
    let paused = world.places.borrow().iter().map(|place| place.paused).max();
    wait_until(&world, paused.unwrap_or(0)).await;
    settle(&world).await;
    verify(&world).await;
    if world.failure.borrow().is_none() {
        world.done.set(true);
    }
}

/// Sleeps until then, and looks after calls every now and then.
async fn wait_until(world: &Rc<World>, time: Time) {
    while world.sim.now() < time {
        let rest = time - world.sim.now();
        sleep(&world.sim, rest.min(SECOND)).await;
        world.look_after_calls();
    }
}

/// After the last fault: every call returns, all sessions are there again.
async fn settle(world: &Rc<World>) {
    let shape = &world.shape;
    let round = 2 * shape.timeout + shape.lease + shape.lease / 8;
    let end = world.sim.now() + 3 * round + 10 * SECOND;
    loop {
        let rest = world.clients.get();
        if rest == 0 && world.calls.borrow().is_empty() && world.all_agree() {
            return;
        }
        if world.sim.now() > end {
            let call = world.calls.borrow().values().next().map(|call| {
                format!(
                    "n{}: {:?} of n{}/{}, called at {}",
                    call.node, call.what, call.file.origin, call.file.file, call.called
                )
            });
            let what = call.unwrap_or_else(|| "some nodes have no session".into());
            return world.fail(format!("long after the last fault: {what}"));
        }
        wait_until(world, world.sim.now() + SECOND / 20).await;
    }
}

/// All nodes show the same, everything can be synced, and nothing is left over.
async fn verify(world: &Rc<World>) {
    // What is old dies out: a suspicion, a lease, a mark that the origin is silent.
    wait_until(world, world.sim.now() + 5 * SECOND).await;
    for number in 0..world.shape.nodes {
        let Some(node) = world.node(number) else {
            return world.fail(format!("n{number} does not run"));
        };
        for &name in &world.shape.hot {
            let client = Client::new(&node);
            if let Err(error) = look_at(&client, name).await {
                let (origin, file) = name;
                return world.fail(format!(
                    "after everything n{number} cannot use n{origin}/{file}: {error:?}"
                ));
            }
        }
    }
    wait_until(world, world.sim.now() + 5 * SECOND).await;
    world.ghost(Ghost::all_is_reported);
    if let Some(text) = world.leftover() {
        world.fail(format!("after everything {text}"));
    }
}

async fn look_at(client: &Client, name: (usize, usize)) -> crate::wait::Result {
    let mut descriptor = client.open(name).await?;
    let mut first = 0;
    while !client.read(&descriptor, first, 1).await?.is_empty() {
        first += 1;
    }
    if client.sync(&mut descriptor).await.is_err() {
        // It may tell of something that is over, and that nobody has been told before.
        client.sync(&mut descriptor).await?;
    }
    descriptor.close();
    Ok(())
}
