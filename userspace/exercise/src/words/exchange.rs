// SPDX-License-Identifier: GPL-2.0

//! The question what time it is at party 0, asked again and again while a run lasts.

use std::{
    io::ErrorKind,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::clock::{Alignment, Bound, Sample, Time};
use crate::{baton::bind, ending::Ending, parties::Parties, watch::Watch};

const LENGTH: usize = 24;
/// Answers that make a bound, and the questions that may be needed for them.
const SAMPLES: usize = 8;
const QUESTIONS: usize = 40;
/// How long to wait for an answer: longer than the delays that tests set, shorter than their limits by far.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two bounds.
const INTERVAL: Duration = Duration::from_millis(200);

/// This program's clock.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins at 0.
    pub fn start() -> Self {
        Clock(Instant::now())
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.0.elapsed().as_nanos() as Time
    }
}

/// The thread that answers, at party 0, or asks, elsewhere.
pub struct Exchange {
    thread: JoinHandle<Alignment>,
    over: Arc<AtomicBool>,
}

fn message(session: u64, sent: Time, there: Time) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&session.to_le_bytes());
    bytes[8..16].copy_from_slice(&sent.to_le_bytes());
    bytes[16..].copy_from_slice(&there.to_le_bytes());
    bytes
}

/// The two times; nothing, if it is not of this session.
fn times(bytes: &[u8], session: u64) -> Option<(Time, Time)> {
    let long = |at: usize| <[u8; 8]>::try_from(bytes.get(at..at + 8)?).ok();
    let ours = bytes.len() == LENGTH && u64::from_le_bytes(long(0)?) == session;
    let pair = (
        Time::from_le_bytes(long(8)?),
        Time::from_le_bytes(long(16)?),
    );
    Some(pair).filter(|_| ours)
}

impl Exchange {
    /// Begins. `clock` is what all times of this party are taken from.
    pub fn start(
        parties: &Parties,
        watch: &Watch,
        session: u64,
        clock: Clock,
    ) -> Result<Self, Ending> {
        let socket = bind(parties.address(parties.party), watch)?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .map_err(Ending::call("the UDP port"))?;
        let over = Arc::new(AtomicBool::new(false));
        let (stop, first) = (Arc::clone(&over), parties.address(0));
        let thread = match parties.is_first() {
            true => thread::spawn(move || answer(&socket, session, clock, &stop)),
            false => thread::spawn(move || ask(&socket, first, session, clock, &stop)),
        };
        Ok(Exchange { thread, over })
    }

    /// Ends it with a last bound, and tells what is known.
    pub fn finish(self) -> Result<Alignment, Ending> {
        self.over.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| Ending::Trouble("the thread that asks for the time has failed".to_owned()))
    }
}

fn answer(socket: &UdpSocket, session: u64, clock: Clock, over: &AtomicBool) -> Alignment {
    let mut bytes = [0; LENGTH + 1];
    while !over.load(Ordering::Acquire) {
        if let Ok((count, from)) = socket.recv_from(&mut bytes) {
            if let Some((sent, _)) = times(&bytes[..count], session) {
                // A lost answer is the same as a lost question.
                let _ = socket.send_to(&message(session, sent, clock.now()), from);
            }
        }
    }
    Alignment::same()
}

fn ask(
    socket: &UdpSocket,
    first: SocketAddrV4,
    session: u64,
    clock: Clock,
    over: &AtomicBool,
) -> Alignment {
    let mut alignment = Alignment::default();
    loop {
        let last = over.load(Ordering::Acquire);
        let mut samples = Vec::new();
        for _ in 0..QUESTIONS {
            samples.extend(sample(socket, first, session, clock));
            if samples.len() == SAMPLES {
                break;
            }
        }
        if let Some(bound) = Bound::of(&samples) {
            alignment.push(bound);
        }
        if last {
            return alignment;
        }
        thread::park_timeout(INTERVAL);
    }
}

fn sample(socket: &UdpSocket, first: SocketAddrV4, session: u64, clock: Clock) -> Option<Sample> {
    let sent = clock.now();
    socket.send_to(&message(session, sent, 0), first).ok()?;
    let mut bytes = [0; LENGTH + 1];
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((count, from)) if from == SocketAddr::V4(first) => {
                let received = clock.now();
                match times(&bytes[..count], session) {
                    Some((echo, there)) if echo == sent => {
                        return Some(Sample {
                            sent,
                            there,
                            received,
                        })
                    }
                    // A late answer to an earlier question.
                    _ => continue,
                }
            }
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn only_this_sessions_times_count() {
        let bytes = message(7, -1, 5);
        assert_eq!(times(&bytes, 7), Some((-1, 5)));
        assert_eq!(times(&bytes, 8), None);
        assert_eq!(times(&bytes[1..], 7), None);
    }

    #[test]
    fn two_clocks_are_aligned() {
        let (theirs, ours) = (Clock::start(), {
            thread::sleep(Duration::from_millis(30));
            Clock::start()
        });
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (there, here) = (socket(), socket());
        let SocketAddr::V4(first) = there.local_addr().unwrap() else {
            unreachable!()
        };
        for one in [&there, &here] {
            one.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let answering = thread::spawn(move || answer(&there, 1, theirs, &stop));
        let asked = AtomicBool::new(true);
        let alignment = ask(&here, first, 1, ours, &asked);
        over.store(true, Ordering::Release);
        answering.join().unwrap();
        let (low, high) = alignment.convert(ours.now());
        let now = theirs.now();
        assert!(low <= now && now - high < 20_000_000, "{low} {now} {high}");
        assert!(alignment.error() < 20_000_000);
    }
}
