// SPDX-License-Identifier: GPL-2.0

//! Before a move: looks at the tree, at both nodes and at each file, and says what is in the way. Nothing is frozen.

use std::{path::Path, time::Instant};

use vremote_channel::{Channel, Node};

use super::{connect, Failure, Mode, Move, Order};
use crate::{
    cgroup::Cgroup,
    control::{Command, Departure, Line, Reply},
    criu,
    files::{self, Else, Ends, Known, Step},
    images::Place,
    node,
    problem::Problem,
    protocol::{Answer, Facts, Look, Name, Opening, Request, VERSION},
    target::out_of_order,
    tree::{Seen, Tree},
};

/// Trees with less memory than this, in bytes, are not worth a round of pre-copy.
const SMALL: u64 = 32 << 20;

/// What a preflight has found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the target.
    pub node: String,
    /// The tree's command line.
    pub title: String,
    /// Processes in it.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// How memory would move.
    pub mode: Mode,
    /// What is in the way.
    pub blockers: Vec<Problem>,
    /// What may be.
    pub warnings: Vec<String>,
    /// Files and their places there, by path.
    pub files: Vec<(Vec<u8>, Place)>,
}

/// What can be found out about the tree without another node.
fn look(order: &Order) -> Result<Tree, Problem> {
    if !rustix::process::geteuid().is_root() {
        return Err(Problem::new(
            "only root can move processes",
            "run it as root",
        ));
    }
    let mut tree = Tree::look(order.root.pid)?;
    // From the commit on the daemon freezes the tree in one.
    tree.blockers.extend(Cgroup::check().err());
    if !order.tcp_established {
        for connection in tree.connections()? {
            tree.blockers.push(Problem::new(
                connection,
                "let the program close it; --tcp-established moves it, if the node's address moves, too",
            ));
        }
    }
    tree.find_locks();
    Ok(tree)
}

impl Move {
    /// Looks at the tree and at the target. Errors: what keeps from even looking, and what was found until then. What is in the way of the
    /// move is in the report.
    pub fn prepare(order: &Order) -> Result<Move, Failure> {
        let begun = Instant::now();
        let tree = look(order)?;
        let found = tree.blockers.clone();
        Move::prepare_with(order, tree, begun).map_err(|problem| Failure {
            also: found,
            ..problem.into()
        })
    }

    fn prepare_with(order: &Order, tree: Tree, begun: Instant) -> Result<Move, Problem> {
        let node = Node::this();
        let peer = node.peer_at(order.address)?;
        // A tree that has come here keeps its name, unless only a part of it moves on.
        let is_whole = |name: &Name| {
            let all = Cgroup::of(name).processes();
            all.iter().all(|pid| tree.processes.contains(pid))
        };
        let name = match Cgroup::tree_of(order.root.pid).filter(is_whole) {
            Some(name) => name,
            None => Name::new()?,
        };
        let mut daemon = Line::connect()?;
        daemon.ask(&Command::Leave(Departure {
            name: name.clone(),
            root: order.root,
            child: order.child,
            title: tree.title.clone(),
            to: peer.name.clone(),
        }))?;
        let Channel {
            mut reader,
            mut writer,
            ..
        } = connect(&node, &peer)?;
        writer.send(&Opening::Job {
            version: VERSION,
            name: name.clone(),
            title: tree.title.clone(),
            boot: node::boot_id()?,
        })?;
        let (id, boot) = match reader.receive()? {
            Some(Answer::Job { id, boot, version }) if version == VERSION => (id, boot),
            Some(Answer::Failed(problem)) => return Err(problem),
            _ => return Err(out_of_order()),
        };
        let mut it = Move {
            order: order.clone(),
            asleep: None,
            mode: order.mode.unwrap_or(Mode::Stop),
            node,
            peer,
            boot,
            name,
            id,
            processes: Vec::new(),
            reader,
            writer,
            daemon,
            blockers: Vec::new(),
            warnings: Vec::new(),
            tree,
            known: Known::new(),
            peers: Vec::new(),
            exports: files::exports(),
            mounts: files::mounts(),
            undecided: false,
            copied: Vec::new(),
            early: 0,
            sent_images: 0,
            begun,
        };
        it.preflight()?;
        Ok(it)
    }

    /// What was found.
    pub fn report(&self) -> Report {
        let mut files: Vec<_> = self.known.clone().into_iter().collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        Report {
            node: self.peer.name.clone(),
            title: self.tree.title.clone(),
            processes: self.tree.processes.len(),
            threads: self.tree.threads.len(),
            resident: self.tree.resident,
            mode: self.mode,
            blockers: self.blockers.clone(),
            warnings: self.warnings.clone(),
            files,
        }
    }

    fn preflight(&mut self) -> Result<(), Problem> {
        let ids = self.tree.threads.clone();
        let there = match self.ask(&Request::Ask { ids })? {
            Answer::Facts(facts) => facts,
            _ => return Err(out_of_order()),
        };
        let here = node::facts(&self.node, Path::new("/run"), &[], &self.peer.name);
        self.blockers.append(&mut self.tree.blockers);
        self.compare(&here, &there);
        self.compare_sessions(&here, &there);
        self.compare_processors(&here, &there);
        self.find_ports()?;
        if self.order.mode.is_none() && self.tree.resident > SMALL {
            let can = |facts: &Facts| facts.criu.as_ref().is_ok_and(|criu| criu.track_memory);
            if can(&here) && can(&there) {
                self.mode = Mode::Precopy;
            }
        }
        self.peers = there.peers;
        let files: Vec<_> = self.tree.named_files().into_iter().collect();
        self.place(&files)
    }

    fn compare(&mut self, here: &Facts, there: &Facts) {
        let name = self.peer.name.clone();
        let mut block = |what: String, fix: &str| self.blockers.push(Problem::new(what, fix));
        if here.machine != there.machine {
            block(
                format!("{name} is {}, this node is {}", there.machine, here.machine),
                "move to a node of the same kind",
            );
        }
        for (node, facts) in [("this node", here), (&name, there)] {
            match &facts.criu {
                Err(problem) => block(format!("{node}: {problem}"), problem.fix.as_deref().unwrap_or("criu check")),
                Ok(criu) if criu.version < criu::MIN_VERSION => {
                    block(format!("{node}: CRIU is older than 4.1"), "install CRIU 4.1 or later");
                }
                Ok(criu) if self.mode == Mode::Lazy && !criu.lazy_pages => block(
                    format!("{node}: the kernel does not let CRIU serve page faults (CONFIG_USERFAULTFD)"),
                    "--mode precopy; sysctl vm.unprivileged_userfaultfd does not matter",
                ),
                Ok(criu) if self.mode == Mode::Precopy && !criu.track_memory => block(
                    format!("{node}: the kernel does not tell which pages were written (CONFIG_MEM_SOFT_DIRTY)"),
                    "--mode stop",
                ),
                Ok(_) => {}
            }
            if !facts.mounted {
                block(
                    format!("{node}: the file system of all nodes is not mounted"),
                    "mount -t vremote vremote /vremote",
                );
            }
        }
        // A child has all numbers for itself.
        for (id, owner) in there.taken.iter().filter(|_| !self.order.child) {
            block(
                format!("{name}: the id {id} is taken, by {owner}"),
                "wait until that has ended, or end it; processes keep their ids",
            );
        }
        // Images and memory at once, for a moment.
        if self.tree.resident > there.room {
            block(
                format!(
                    "{name}: {} MiB are free for images, {} MiB are needed",
                    there.room >> 20,
                    self.tree.resident >> 20
                ),
                "make room in /var/lib/vremote",
            );
        }
        if self.tree.resident > there.memory {
            block(
                format!(
                    "{name}: {} MiB of memory are free, {} MiB are needed",
                    there.memory >> 20,
                    self.tree.resident >> 20
                ),
                "end something there",
            );
        }
        if !there.peers.iter().any(|peer| peer == self.node.name()) {
            block(
                format!("{name} does not know this node as {}", self.node.name()),
                "vremote peer add, there, with the name that uname -n gives here",
            );
        }
    }

    /// The files' way is another one than this program's: the module has to have a session, at both ends.
    fn compare_sessions(&mut self, here: &Facts, there: &Facts) {
        let (own, peer) = (self.node.name().to_owned(), self.peer.name.clone());
        for (at, other, facts) in [(&own, &peer, here), (&peer, &own, there)] {
            if let Some(state) = facts.session.as_deref().filter(|state| *state != "up") {
                self.blockers.push(Problem::new(
                    format!("{at}: the files of {other} cannot be had: it is {state}"),
                    format!("vremote peer show, at {at}; UDP must pass between them in both directions, as vremoted's TCP does"),
                ));
            }
        }
    }

    /// A program has found out what its processor can, and goes on to use that. CRIU does not look at it by itself.
    fn compare_processors(&mut self, here: &Facts, there: &Facts) {
        let can = &there.instructions;
        let lacks = here.instructions.iter().filter(|one| !can.contains(one));
        let lacks: Vec<_> = lacks.map(String::as_str).collect();
        if !lacks.is_empty() {
            self.blockers.push(Problem::new(
                format!(
                    "{}: its processor lacks what the program may use here: {}",
                    self.peer.name,
                    lacks.join(", ")
                ),
                "move between processors of the same kind; virtual machines can be given the same one",
            ));
        }
        if here.kernel != there.kernel {
            self.warnings.push(format!(
                "{} runs Linux {}, this node {}: if it cannot restore the process, that goes on here",
                self.peer.name, there.kernel, here.kernel
            ));
        }
    }

    /// Sockets have to be bound there to what they are bound to here.
    fn find_ports(&mut self) -> Result<(), Problem> {
        let bound = self.tree.bound();
        if bound.is_empty() {
            return Ok(());
        }
        let questions = bound.keys().map(|(address, stream)| Look::Bindable {
            address: *address,
            stream: *stream,
        });
        let answers = match self.ask(&Request::Look(questions.collect()))? {
            Answer::Looked(answers) if answers.len() == bound.len() => answers,
            _ => return Err(out_of_order()),
        };
        for (((address, stream), at), can) in bound.iter().zip(answers) {
            if !can {
                let kind = if *stream { "TCP" } else { "UDP" };
                self.blockers.push(Problem::new(
                    format!(
                        "{at}: {} cannot have a socket of {kind} at {address}",
                        self.peer.name
                    ),
                    format!(
                        "ss -lntup, at {}, says who has that port; the address must be there, too",
                        self.peer.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Finds the places of files, and shares those that follow.
    pub(super) fn place(&mut self, seen: &[(Vec<u8>, Seen)]) -> Result<(), Problem> {
        let ends = Ends {
            source: self.node.name(),
            target: &self.peer.name,
            peers: &self.peers,
            exports: &self.exports,
            mounts: &self.mounts,
        };
        let mut questions = Vec::new();
        let mut asked = Vec::new();
        let mut hold = Vec::new();
        for (path, seen) in seen {
            match files::step(path, seen, &ends)? {
                Step::Known(place) => {
                    self.known.insert(path.clone(), place);
                }
                Step::Ask(look, otherwise) => {
                    questions.push(look);
                    asked.push((path, seen, otherwise));
                }
                Step::Hold => hold.push((path, seen)),
                Step::Blocked(problem) => self.blockers.push(problem),
            }
        }
        self.writer.send(&Request::Look(questions))?;
        let answers = match self.reader.receive()? {
            Some(Answer::Looked(answers)) if answers.len() == asked.len() => answers,
            Some(Answer::Failed(problem)) => return Err(problem),
            _ => return Err(out_of_order()),
        };
        for ((path, seen, otherwise), is_so) in asked.into_iter().zip(answers) {
            match otherwise {
                _ if is_so => {
                    self.known
                        .insert(path.clone(), files::found(path, seen, &ends));
                }
                Else::Hold => hold.push((path, seen)),
                Else::Blocked(problem) => self.blockers.push(problem),
            }
        }
        let files = hold
            .iter()
            .map(|(path, seen)| files::to_hold(path, seen))
            .collect();
        let replies = match self.daemon.ask(&Command::Hold(files))? {
            Reply::Held(replies) if replies.len() == hold.len() => replies,
            _ => return Err(out_of_order()),
        };
        for ((path, seen), refused) in hold.into_iter().zip(replies) {
            match refused {
                None => {
                    self.known.insert(path.clone(), files::held(path, &ends));
                }
                // The program has removed it meanwhile. If it has it open all the same, the dump finds it without a name.
                Some(_) if !files::is_there(path, seen) => {}
                Some(why) => self.blockers.push(files::not_shared(path, &why)),
            }
        }
        Ok(())
    }
}
