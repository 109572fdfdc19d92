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

use vremote_channel::{Channel, Listener, Node};

use crate::{
    cgroup::Cgroup,
    children,
    control::{Command, HeldFile, Line, Reply, SOCKET},
    flags::{O_ORIGIN, O_REMOTE},
    fork,
    leaving::{Charges, Leaving},
    node,
    problem::Problem,
    protocol::{Answer, End, Name, Opening, Whereabouts},
    target::{self, Place, IMAGES},
    tree::path_of,
};

/// Jobs that arrive at once, and other connections of peers.
const MAX_CONNECTIONS: usize = 256;

/// A peer's first message comes within this.
const OPENING_LIMIT: Duration = Duration::from_secs(10);

/// How often trees that are here are looked after.
const HERE_PAUSE: Duration = Duration::from_secs(1);

/// How often other nodes are asked about trees that have left, in units of [`HERE_PAUSE`].
const AWAY_EVERY: u32 = 5;

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
        charges: Charges::default(),
    });
    place.registry.load(hold_one);
    target::recover(&place);
    fork::serve(place.node.clone())?;
    let served = place.clone();
    thread::Builder::new()
        .name("control".into())
        .spawn(move || serve_control(&control, &served))?;
    let watched = place.clone();
    thread::Builder::new()
        .name("watch".into())
        .spawn(move || watch(&watched))?;
    eprintln!(
        "vremoted: {} listens at TCP {}",
        place.node.name(),
        listener.address()
    );
    let connections = Arc::new(AtomicUsize::new(0));
    while let Some(accepted) = listener.accept() {
        let channel = match accepted {
            Ok(channel) => channel,
            Err(error) => {
                eprintln!("vremoted: {error}");
                continue;
            }
        };
        if connections.fetch_add(1, Relaxed) >= MAX_CONNECTIONS {
            connections.fetch_sub(1, Relaxed);
            continue;
        }
        let (place, served) = (place.clone(), connections.clone());
        let serve = move || {
            let peer = channel.peer.name.clone();
            if let Err(problem) = serve_peer(&place, channel) {
                eprintln!("vremoted: {peer}: {problem}");
            }
            served.fetch_sub(1, Relaxed);
        };
        if let Err(error) = thread::Builder::new().name("peer".into()).spawn(serve) {
            connections.fetch_sub(1, Relaxed);
            eprintln!("vremoted: a peer is not served: {error}");
        }
    }
    Ok(())
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

fn serve_peer(place: &Place, mut channel: Channel) -> Result<(), Problem> {
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
            let end = place.children.ended(&name);
            channel.writer.send(&Answer::Ended(end))?;
            if end != End::Runs {
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
            let answer = Answer::Where {
                at: place.registry.whereabouts(&name),
                boot: node::boot_id()?,
            };
            channel.writer.send(&answer)?;
            Ok(())
        }
        None => Ok(()),
    }
}

/// Notices trees that have ended, here and elsewhere.
fn watch(place: &Place) {
    let registry = &place.registry;
    for round in 0_u32.. {
        for name in registry.here() {
            let group = Cgroup::of(&name);
            // It may be on its way by now.
            if !group.is_populated() && registry.whereabouts(&name) == Whereabouts::Here {
                registry.forget(&name);
                group.remove();
            }
        }
        if round % AWAY_EVERY == 0 {
            for (name, at) in registry.away() {
                follow(place, &name, &at);
            }
        }
        thread::sleep(HERE_PAUSE);
    }
}

/// Asks the node that a tree has moved to. If it does not answer, nothing is let go.
fn follow(place: &Place, name: &Name, at: &str) {
    let registry = &place.registry;
    let group = Cgroup::of(name);
    if !group.is_populated() {
        group.remove();
    }
    match target::ask(&place.node, at, name) {
        Ok((Whereabouts::Gone, _)) => {
            // It may have come back in the meantime.
            if registry.whereabouts(name) == Whereabouts::Moved(at.into()) {
                registry.forget(name);
            }
        }
        Ok((Whereabouts::Moved(to), _)) if to != place.node.name() => registry.moved(name, &to),
        _ => {}
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
            (Command::Stop(name), _) => registry.stop(&name).map(|()| Reply::Done),
            (Command::Leave(order), None) => Leaving::begin(place, order).map(|job| {
                leaving = Some(job);
                Reply::Done
            }),
            (Command::Hold(files), Some(job)) => {
                let (held, replies) = hold(&files);
                registry.hold(job.name(), held);
                Ok(Reply::Held(replies))
            }
            (Command::Freezing(asleep), Some(job)) => {
                job.freezing(asleep);
                Ok(Reply::Done)
            }
            (Command::Committing(processes), Some(job)) => {
                job.committing(processes);
                Ok(Reply::Done)
            }
            (Command::Stayed, Some(job)) => {
                job.stayed();
                Ok(Reply::Done)
            }
            (Command::Moved(to), Some(job)) => {
                job.moved(&to);
                Ok(Reply::Done)
            }
            (
                Command::Leave(_)
                | Command::Hold(_)
                | Command::Freezing(_)
                | Command::Committing(_)
                | Command::Stayed
                | Command::Moved(_),
                _,
            ) => Err(Problem::plain("the command is out of order")),
        };
        line.send(&reply.unwrap_or_else(Reply::Failed))?;
    }
    Ok(())
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
