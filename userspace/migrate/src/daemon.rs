// SPDX-License-Identifier: GPL-2.0

//! The daemon `vremoted`: receives trees, and looks after those that are here and those that have left.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        Arc,
    },
    thread,
    time::Duration,
};

use vremote_channel::{Channel, Listener, Node, Reader};

use crate::{
    children,
    claims::Claims,
    commit::Part,
    control::{Command, HeldFile, Line, Reply, SOCKET},
    flags::{O_ORIGIN, O_REMOTE},
    fork,
    leaving::{self, Leaving},
    node,
    problem::Problem,
    protocol::{Answer, End, Heard, Name, Opening},
    target::{self, Place, IMAGES},
    tree::path_of,
};

/// Jobs that arrive at once, and other connections of peers but those that wait for the end of a child.
const MAX_CONNECTIONS: usize = 256;

/// Connections that wait for the end of a child. Who comes then is answered at once, and asks again.
const MAX_WAITING: usize = 1024;

/// Where it is kept that trees are this node's, whatever other nodes think.
const CLAIMS: &str = "/var/lib/vremote/claims";

/// A peer's first message comes within this, and all of what it has to say about the end of a child.
const OPENING_LIMIT: Duration = Duration::from_secs(10);

/// How often trees that are here are looked after.
const HERE_PAUSE: Duration = Duration::from_secs(1);

/// How often other nodes are asked about trees that have left.
const AWAY_PAUSE: Duration = Duration::from_secs(5);

/// Runs until it is killed.
pub fn run(port: u16) -> Result<(), Problem> {
    if !rustix::process::geteuid().is_root() {
        return Err(Problem::new("it has to run as root", "run it as root"));
    }
    let node = Node::this();
    fs::create_dir_all(IMAGES).map_err(|error| Problem::plain(format!("{IMAGES}: {error}")))?;
    fs::set_permissions(IMAGES, Permissions::from_mode(0o700))?;
    let control = control_socket()?;
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let listener = Listener::bind(node.clone(), address)?;
    let place = Arc::new(Place {
        node,
        registry: Arc::default(),
        images: IMAGES.into(),
        children: Arc::default(),
        charges: Arc::default(),
        claims: Claims::load(CLAIMS.into()),
        unread: false.into(),
    });
    leaving::tidy();
    let loaded = place.registry.load(hold_one)?;
    target::recover(&place, loaded.unread)?;
    for name in loaded.leaving {
        let place = place.clone();
        let charge = Leaving::charge(&place, &name);
        // It is settled when it is dropped.
        let settle = move || drop(Leaving::again(&place, name, charge));
        thread::Builder::new().name("settle".into()).spawn(settle)?;
    }
    fork::serve(place.node.clone())?;
    let served = place.clone();
    thread::Builder::new()
        .name("control".into())
        .spawn(move || serve_control(&control, &served))?;
    for (name, watch) in [("here", watch_here as fn(&Place)), ("away", watch_away)] {
        let watched = place.clone();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || watch(&watched))?;
    }
    eprintln!(
        "vremoted: {} listens at TCP {}",
        place.node.name(),
        listener.address()
    );
    let (connections, waiting) = (Seats::default(), Seats::default());
    while let Some(accepted) = listener.accept() {
        let channel = match accepted {
            Ok(channel) => channel,
            Err(error) => {
                eprintln!("vremoted: {error}");
                continue;
            }
        };
        let Some(seat) = connections.take(MAX_CONNECTIONS) else {
            continue;
        };
        let (place, waiting) = (place.clone(), waiting.clone());
        let serve = move || {
            let peer = channel.peer.name.clone();
            if let Err(problem) = serve_peer(&place, channel, seat, &waiting) {
                eprintln!("vremoted: {peer}: {problem}");
            }
        };
        if let Err(error) = thread::Builder::new().name("peer".into()).spawn(serve) {
            eprintln!("vremoted: a peer is not served: {error}");
        }
    }
    Ok(())
}

/// How many are served at once.
#[derive(Clone, Default)]
struct Seats(Arc<AtomicUsize>);

/// One of them; given back when it is dropped.
struct Seat(Seats);

impl Seats {
    /// `None`: there are `most` already.
    fn take(&self, most: usize) -> Option<Seat> {
        let seat = Seat(self.clone());
        (self.0.fetch_add(1, Relaxed) < most).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0 .0.fetch_sub(1, Relaxed);
    }
}

/// The socket for programs of this node.
fn control_socket() -> Result<UnixListener, Problem> {
    let path = Path::new(SOCKET);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    if Line::connect().is_ok() {
        return Err(Problem::new(
            "vremoted runs already",
            "systemctl restart vremoted, if it shall start anew",
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let socket =
        UnixListener::bind(path).map_err(|error| Problem::plain(format!("{SOCKET}: {error}")))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

fn serve_peer(
    place: &Arc<Place>,
    mut channel: Channel,
    seat: Seat,
    waiting: &Seats,
) -> Result<(), Problem> {
    channel.reader.set_limit(Some(OPENING_LIMIT))?;
    match channel.reader.receive()? {
        Some(Opening::Job {
            version,
            name,
            title,
            boot,
        }) => target::receive(place, channel, version, name, &title, boot),
        Some(Opening::Pages { job }) => place.registry.pages(&job, channel),
        Some(Opening::End { name }) => {
            // It lasts, and there may be as many as there are children: it keeps out nobody else. Each has one of the seats up to its end.
            let waits = waiting.take(MAX_WAITING);
            let end = if waits.is_some() {
                drop(seat);
                place.children.ended(&name)
            } else {
                place.children.now(&name)
            };
            channel.writer.send(&Answer::Ended(end))?;
            if end != End::Runs && is_heard(&mut channel.reader) {
                place.children.forget(&name);
            }
            Ok(())
        }
        Some(Opening::Signal {
            name,
            child,
            signal,
        }) => {
            let sent = children::signal(&name, child, signal);
            channel.writer.send(&Answer::Signalled(
                sent.map_err(|errno| errno.raw_os_error()),
            ))?;
            Ok(())
        }
        Some(Opening::Where { name }) => {
            let at = place.registry.whereabouts(&name);
            channel.writer.send(&Answer::Where { at })?;
            Ok(())
        }
        Some(Opening::Part { job }) => {
            let answer = Answer::Part {
                part: place.part(&job),
                boot: node::boot_id()?,
            };
            channel.writer.send(&answer)?;
            Ok(())
        }
        None => Ok(()),
    }
}

/// Whether the node of a parent has kept how its child ended. If not, it is told again.
fn is_heard(reader: &mut Reader) -> bool {
    reader.set_time(OPENING_LIMIT);
    matches!(reader.receive(), Ok(Some(Heard)))
}

/// Notices trees that have ended here.
fn watch_here(place: &Place) {
    loop {
        for name in place.registry.here() {
            place.registry.forget_if_ended(&name);
        }
        thread::sleep(HERE_PAUSE);
    }
}

/// Asks other nodes about trees that have left and about those that are claimed. If one does not answer, nothing is let go.
fn watch_away(place: &Place) {
    let registry = &place.registry;
    loop {
        for (name, (at, since)) in registry.away() {
            registry.tidy(&name);
            if let Ok(said) = target::ask_where(&place.node, &at, &name) {
                registry.follow(&name, &at, since, &said, place.node.name());
            }
        }
        for (name, claim) in place.claims.all() {
            let said = target::ask(&place.node, &claim.peer, &claim.job);
            if said.is_ok_and(|(part, boot)| part == Part::Nothing || boot != claim.boot) {
                place.claims.remove(&name);
            }
        }
        thread::sleep(AWAY_PAUSE);
    }
}

fn serve_control(socket: &UnixListener, place: &Arc<Place>) {
    for stream in socket.incoming() {
        let Ok(stream) = stream else {
            thread::sleep(HERE_PAUSE);
            continue;
        };
        let place = place.clone();
        let serve = move || {
            if let Err(problem) = serve_program(&place, Line::new(stream)) {
                eprintln!("vremoted: {problem}");
            }
        };
        if let Err(error) = thread::Builder::new().name("program".into()).spawn(serve) {
            eprintln!("vremoted: {error}");
        }
    }
}

fn serve_program(place: &Place, mut line: Line) -> Result<(), Problem> {
    let registry = &place.registry;
    let mut leaving: Option<Leaving<'_>> = None;
    while let Some(command) = line.receive()? {
        let reply = match (command, &mut leaving) {
            (Command::List, _) => Ok(Reply::Jobs(registry.list())),
            (Command::Stop(name), _) => stop(place, &name).map(|()| Reply::Done),
            (Command::Resume(name), _) => resume(place, &name).map(|()| Reply::Done),
            (Command::Forget(name), _) => target::forget(place, &name).map(|()| Reply::Done),
            (Command::Leave(order), None) => Leaving::begin(place, order).map(|job| {
                leaving = Some(job);
                Reply::Done
            }),
            (Command::Hold(files), Some(job)) => {
                let (held, replies) = hold(&files);
                registry.hold(job.name(), held);
                Ok(Reply::Held(replies))
            }
            (Command::Freezing(asleep), Some(job)) => job.freezing(asleep).map(|()| Reply::Done),
            (Command::Committing(commit), Some(job)) => {
                job.committing(commit).map(|()| Reply::Done)
            }
            (Command::Stayed, Some(job)) => {
                job.stayed();
                Ok(Reply::Done)
            }
            (Command::Moved, Some(job)) => {
                job.moved();
                Ok(Reply::Done)
            }
            (
                Command::Leave(_)
                | Command::Hold(_)
                | Command::Freezing(_)
                | Command::Committing(_)
                | Command::Stayed
                | Command::Moved,
                _,
            ) => Err(Problem::plain("the command is out of order")),
        };
        line.send(&reply.unwrap_or_else(Reply::Failed))?;
    }
    Ok(())
}

/// An operator ends a job.
fn stop(place: &Place, name: &Name) -> Result<(), Problem> {
    if leaving::stop(place, name) {
        Ok(())
    } else {
        place.registry.stop(name)
    }
}

/// An operator lets a tree go on here, as the only one.
fn resume(place: &Place, name: &Name) -> Result<(), Problem> {
    if place.registry.parting(name).is_some() {
        leaving::resume(place, name)
    } else {
        target::resume(place, name)
    }
}

/// Opens files so that they are shared; for those that cannot be, why.
fn hold(files: &[HeldFile]) -> (Vec<(HeldFile, File)>, Vec<Option<String>>) {
    let mut held = Vec::new();
    let replies = files.iter().map(|file| match hold_one(file) {
        Ok(open) => {
            held.push((file.clone(), open));
            None
        }
        Err(error) => Some(error.to_string()),
    });
    let replies = replies.collect();
    (held, replies)
}

fn hold_one(file: &HeldFile) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((O_REMOTE | O_ORIGIN) as i32)
        .open(path_of(&file.path))?;
    let meta = opened.metadata()?;
    if (meta.dev(), meta.ino()) == (file.dev, file.ino) {
        Ok(opened)
    } else {
        Err(io::Error::other("another file has that name now"))
    }
}
