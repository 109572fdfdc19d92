// SPDX-License-Identifier: GPL-2.0

//! How the parties of a run begin together, tell each other results, and learn that one of them has stopped.
//!
//! All have a TCP connection to party 0. What is in the way of an operation does not go through here: TCP takes 200 ms to notice a
//! lost packet.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{channel, Receiver, RecvTimeoutError, Sender},
        Arc, Mutex, PoisonError,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{ending::Ending, parties::Parties, random::mix, watch::Watch};

/// What a message is.
mod kind {
    /// Party, options: the first message of all parties but 0.
    pub(super) const HELLO: u8 = 1;
    /// Session: its answer, when all have come.
    pub(super) const WELCOME: u8 = 2;
    /// One party's part of a round.
    pub(super) const PART: u8 = 3;
    /// What party 0 has made of all parts.
    pub(super) const ANSWER: u8 = 4;
    /// The run is over: why.
    pub(super) const STOP: u8 = 5;
    /// The run ends before this operation.
    pub(super) const END: u8 = 6;
    /// Nothing more will come, and that is right.
    pub(super) const BYE: u8 = 7;
}

const MAGIC: &[u8] = b"VREX1 ";
const LONGEST: usize = 256 << 20;
/// No end has been announced.
const NO_END: u64 = u64::MAX;
/// How long party 0 waits for the others to take their leave.
const PARTING: Duration = Duration::from_secs(5);

/// A part of the file that something is wrong with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its first byte
    pub offset: u64,
    /// How many
    pub length: u64,
}

/// Why another party has stopped.
#[derive(Clone)]
struct Stop {
    violation: bool,
    text: String,
    place: Option<Place>,
}

impl Stop {
    fn encode(&self) -> Vec<u8> {
        let place = self.place.unwrap_or(Place {
            offset: 0,
            length: 0,
        });
        let mut bytes = vec![u8::from(self.violation)];
        bytes.extend(place.offset.to_le_bytes());
        bytes.extend(place.length.to_le_bytes());
        bytes.extend(self.text.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (offset, length) = (number(1)?, number(9)?);
        Some(Stop {
            violation: bytes[0] != 0,
            text: String::from_utf8_lossy(&bytes[17..]).into_owned(),
            place: (length != 0).then_some(Place { offset, length }),
        })
    }
}

/// What the threads that read the connections tell the one that works.
struct Signal {
    stopped: AtomicBool,
    stop: Mutex<Option<Stop>>,
    end: AtomicU64,
    gone: AtomicU64,
}

impl Signal {
    fn raise(&self, stop: Stop) {
        let mut first = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(stop);
            self.stopped.store(true, Ordering::Release);
        }
    }
}

/// The connections of this party: to party 0, or to all others.
type Links = Arc<Vec<(usize, Mutex<TcpStream>)>>;

/// This party's seat among all.
pub struct Meeting {
    parties: Parties,
    watch: Watch,
    links: Links,
    inbox: Receiver<(usize, Vec<u8>)>,
    signal: Arc<Signal>,
    session: u64,
}

fn send(stream: &mut TcpStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(payload);
    stream.write_all(&frame)
}

fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > LONGEST {
        return Err(io::Error::other("a message that is no message of ours"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

fn send_to_all(links: &Links, but: usize, kind: u8, payload: &[u8]) {
    for (party, stream) in links.iter() {
        if *party != but {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            // Who does not listen any more has ended, which its own connection says.
            let _ = send(&mut stream, kind, payload);
        }
    }
}

/// Reads one connection until its end. At party 0, what is of interest to the others is passed on to them first.
fn listen(
    mut stream: TcpStream,
    from: usize,
    name: String,
    links: Links,
    signal: Arc<Signal>,
    inbox: Sender<(usize, Vec<u8>)>,
) {
    loop {
        match receive(&mut stream) {
            Ok((kind::PART | kind::ANSWER, payload)) => {
                if inbox.send((from, payload)).is_err() {
                    return;
                }
            }
            Ok((kind::STOP, payload)) => {
                send_to_all(&links, from, kind::STOP, &payload);
                if let Some(stop) = Stop::decode(&payload) {
                    signal.raise(stop);
                }
            }
            Ok((kind::END, payload)) => {
                if let Ok(bytes) = payload.try_into() {
                    signal
                        .end
                        .store(u64::from_le_bytes(bytes), Ordering::Release);
                }
            }
            Ok((kind::BYE, _)) => {
                signal.gone.fetch_add(1, Ordering::Release);
                return;
            }
            Ok(_) | Err(_) => {
                let stop = Stop {
                    violation: false,
                    text: format!("{name} has ended; its own output says why"),
                    place: None,
                };
                send_to_all(&links, from, kind::STOP, &stop.encode());
                signal.raise(stop);
                return;
            }
        }
    }
}

/// Accepts all other parties; their streams in order.
fn gather(
    parties: &Parties,
    watch: &Watch,
    options: &str,
    session: u64,
) -> Result<Vec<(usize, TcpStream)>, Ending> {
    let address = parties.meeting_address();
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                watch.check(|| format!("the TCP port {address}, which another program has"))?;
                thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(Ending::call(format!("listening at {address}"))(error)),
        }
    };
    listener
        .set_nonblocking(true)
        .map_err(Ending::call("listening"))?;
    let mut streams: Vec<Option<TcpStream>> = (0..parties.count()).map(|_| None).collect();
    while streams.iter().skip(1).any(Option::is_none) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                watch.check(|| {
                    let missing: Vec<String> = (1..parties.count())
                        .filter(|&party| streams[party].is_none())
                        .map(|party| parties.name(party))
                        .collect();
                    format!("{} to come", missing.join(", "))
                })?;
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => return Err(Ending::call("accepting a connection")(error)),
        };
        // Whoever else connects is of no interest.
        let Ok((party, theirs)) = hello_of(&mut stream) else {
            continue;
        };
        if theirs != options {
            let text = format!(
                "party {party} was started with other options: {theirs} instead of {options}"
            );
            let stop = Stop {
                violation: false,
                text: text.clone(),
                place: None,
            };
            let _ = send(&mut stream, kind::STOP, &stop.encode());
            return Err(Ending::Usage(text));
        }
        match streams.get_mut(party) {
            Some(seat) if party != 0 && seat.is_none() => *seat = Some(stream),
            _ => return Err(Ending::Usage(format!("a second party {party}"))),
        }
    }
    let mut links = Vec::new();
    for (party, stream) in streams.into_iter().enumerate() {
        if let Some(mut stream) = stream {
            send(&mut stream, kind::WELCOME, &session.to_le_bytes())
                .map_err(Ending::call(parties.name(party)))?;
            links.push((party, stream));
        }
    }
    Ok(links)
}

fn hello_of(stream: &mut TcpStream) -> io::Result<(usize, String)> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (kind, payload) = receive(stream)?;
    let rest = payload
        .strip_prefix(MAGIC)
        .filter(|rest| kind == kind::HELLO && !rest.is_empty())
        .ok_or_else(|| io::Error::other("no party of ours"))?;
    Ok((
        usize::from(rest[0]),
        String::from_utf8_lossy(&rest[1..]).into_owned(),
    ))
}

/// Goes to party 0; the stream and the session.
fn join(parties: &Parties, watch: &Watch, options: &str) -> Result<(TcpStream, u64), Ending> {
    let address = parties.meeting_address();
    let mut stream = loop {
        match TcpStream::connect_timeout(&address.into(), Duration::from_secs(4).min(watch.left()))
        {
            Ok(stream) => break stream,
            // It may not have been started yet.
            Err(_) => watch.check(|| format!("party 0 at {address}"))?,
        }
        thread::sleep(Duration::from_millis(50));
    };
    let mut hello = MAGIC.to_vec();
    hello.push(parties.party as u8);
    hello.extend(options.as_bytes());
    let failed = || Ending::call(format!("meeting at {address}"));
    stream
        .set_read_timeout(Some(watch.left()))
        .map_err(failed())?;
    send(&mut stream, kind::HELLO, &hello).map_err(failed())?;
    match receive(&mut stream).map_err(failed())? {
        (kind::WELCOME, payload) if payload.len() == 8 => {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&payload);
            Ok((stream, u64::from_le_bytes(bytes)))
        }
        (kind::STOP, payload) => Err(Ending::Trouble(
            Stop::decode(&payload).map_or_else(String::new, |stop| stop.text),
        )),
        (kind, _) => Err(Ending::Trouble(format!(
            "message {kind} instead of a welcome"
        ))),
    }
}

impl Meeting {
    /// Meets all others. `options` must be the same text for all.
    pub fn begin(parties: &Parties, watch: &Watch, options: &str) -> Result<Self, Ending> {
        let (streams, session) = if parties.is_first() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let session =
                mix(now.map_or(0, |t| t.as_nanos() as u64)) ^ u64::from(std::process::id());
            (gather(parties, watch, options, session)?, session)
        } else {
            let (stream, session) = join(parties, watch, options)?;
            (vec![(0, stream)], session)
        };
        let signal = Arc::new(Signal {
            stopped: AtomicBool::new(false),
            stop: Mutex::new(None),
            end: AtomicU64::new(NO_END),
            gone: AtomicU64::new(0),
        });
        let failed = || Ending::call("the connections between the parties");
        let mut readers = Vec::new();
        let mut links = Vec::new();
        for (party, stream) in streams {
            stream.set_nodelay(true).map_err(failed())?;
            stream.set_read_timeout(None).map_err(failed())?;
            stream
                .set_write_timeout(Some(Duration::from_secs(30)))
                .map_err(failed())?;
            readers.push((party, stream.try_clone().map_err(failed())?));
            links.push((party, Mutex::new(stream)));
        }
        let links: Links = Arc::new(links);
        let (sender, inbox) = channel();
        for (party, stream) in readers {
            let (name, links) = (parties.name(party), Arc::clone(&links));
            let (signal, sender) = (Arc::clone(&signal), sender.clone());
            thread::spawn(move || listen(stream, party, name, links, signal, sender));
        }
        Ok(Meeting {
            parties: parties.clone(),
            watch: watch.clone(),
            links,
            inbox,
            signal,
            session,
        })
    }

    /// A number that this run has and no other.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// An error, if another party has stopped or the time is up.
    pub fn check(&self, what: impl FnOnce() -> String) -> Result<(), Ending> {
        if self.signal.stopped.load(Ordering::Acquire) {
            let stop = self.signal.stop.lock();
            if let Some(stop) = stop.unwrap_or_else(PoisonError::into_inner).as_ref() {
                return Err(match stop.violation {
                    true => Ending::Elsewhere(stop.text.clone()),
                    false => Ending::Trouble(stop.text.clone()),
                });
            }
        }
        self.watch.check(what)
    }

    /// Where in the file the party that has stopped found something wrong.
    pub fn place(&self) -> Option<Place> {
        let stop = self.signal.stop.lock();
        stop.unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|stop| stop.place)
    }

    /// Tells all others that the run is over.
    pub fn stop(&self, why: &Ending, place: Option<Place>) {
        if matches!(why, Ending::Elsewhere(_)) || self.signal.stopped.load(Ordering::Acquire) {
            return;
        }
        let name = self.parties.name(self.parties.party);
        let first = why.to_string().lines().next().unwrap_or("").to_owned();
        let stop = Stop {
            violation: matches!(why, Ending::Violation(_)),
            text: format!("{name}: {first}"),
            place,
        };
        send_to_all(&self.links, usize::MAX, kind::STOP, &stop.encode());
    }

    /// Party 0 tells all others that the run ends before an operation.
    pub fn announce_end(&self, operation: u64) {
        self.signal.end.store(operation, Ordering::Release);
        send_to_all(&self.links, usize::MAX, kind::END, &operation.to_le_bytes());
    }

    /// What it has told.
    pub fn end(&self) -> Option<u64> {
        Some(self.signal.end.load(Ordering::Acquire)).filter(|&end| end != NO_END)
    }

    /// A round: each party gives its part, party 0 makes an answer of all parts, each party gets it. When it returns, all have given
    /// their part. What `idle` does is done again and again while waiting.
    pub fn round(
        &self,
        part: Vec<u8>,
        answer: impl FnOnce(&[Vec<u8>]) -> Vec<u8>,
        mut idle: impl FnMut(),
    ) -> Result<Vec<u8>, Ending> {
        if !self.parties.is_first() {
            send_to_all(&self.links, usize::MAX, kind::PART, &part);
            return Ok(self.next(&mut idle, || "party 0's answer".to_owned())?.1);
        }
        let mut parts: Vec<Option<Vec<u8>>> = vec![None; self.parties.count()];
        parts[0] = Some(part);
        while parts.iter().any(Option::is_none) {
            let (party, theirs) = self.next(&mut idle, || {
                let missing: Vec<String> = (1..parts.len())
                    .filter(|&party| parts[party].is_none())
                    .map(|party| self.parties.name(party))
                    .collect();
                missing.join(", ")
            })?;
            parts[party] = Some(theirs);
        }
        let parts: Vec<Vec<u8>> = parts.into_iter().flatten().collect();
        let answer = answer(&parts);
        send_to_all(&self.links, usize::MAX, kind::ANSWER, &answer);
        Ok(answer)
    }

    /// A round in which every party gets every part; all are of the same length.
    pub fn share(&self, part: Vec<u8>) -> Result<Vec<Vec<u8>>, Ending> {
        let length = part.len();
        let all = self.round(part, |parts| parts.concat(), || ())?;
        if length == 0 || all.len() != length * self.parties.count() {
            return Ok(vec![Vec::new(); self.parties.count()]);
        }
        Ok(all.chunks(length).map(<[u8]>::to_vec).collect())
    }

    /// Until all are here.
    pub fn together(&self) -> Result<(), Ending> {
        self.share(Vec::new()).map(drop)
    }

    fn next(
        &self,
        idle: &mut impl FnMut(),
        what: impl Fn() -> String,
    ) -> Result<(usize, Vec<u8>), Ending> {
        loop {
            match self.inbox.recv_timeout(Duration::from_millis(10)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    idle();
                    self.check(&what)?;
                }
            }
        }
    }

    /// The end of a run that went as it should.
    pub fn leave(self) {
        send_to_all(&self.links, usize::MAX, kind::BYE, &[]);
        // Party 0 stays until all have heard it: its end would be news to them.
        let end = Instant::now() + PARTING;
        while self.parties.is_first()
            && self.signal.gone.load(Ordering::Acquire) < self.links.len() as u64
            && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(2));
        }
        for (_, stream) in self.links.iter() {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_survive_the_wire() {
        for place in [
            None,
            Some(Place {
                offset: 5,
                length: 9,
            }),
        ] {
            let stop = Stop {
                violation: place.is_some(),
                text: "why".to_owned(),
                place,
            };
            let again = Stop::decode(&stop.encode()).unwrap();
            assert_eq!(
                (again.violation, again.text, again.place),
                (place.is_some(), "why".to_owned(), place)
            );
        }
        assert!(Stop::decode(&[]).is_none());
        assert!(Stop::decode(&[0; 16]).is_none());
    }
}
