// SPDX-License-Identifier: GPL-2.0

//! Turns: who has the baton works, all others wait. It travels in small UDP datagrams, sent again after a few milliseconds.
//!
//! A baton has a number, which rises; the one with a number can be followed only by those with higher ones. Whoever gets one confirms
//! it; a lost confirmation costs nothing but another datagram.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{ending::Ending, parties::Parties, watch::Watch};

const MAGIC: u32 = 0x5652_4254;
const LENGTH: usize = 24;
const PASS: u32 = 1;
const CONFIRM: u32 = 2;

/// When a baton is sent again; then after twice the time, up to the longest. Far above the round trip, which is 1 ms between emulated
/// machines, and far below what TCP would take.
const AGAIN: Duration = Duration::from_millis(4);
const AGAIN_LONGEST: Duration = Duration::from_millis(64);
/// How often a waiting party looks at what else there is.
const LOOK: Duration = Duration::from_millis(20);

/// A baton that has not been confirmed yet.
struct Passed {
    to: SocketAddrV4,
    number: u64,
    again: Instant,
    interval: Duration,
}

/// This party's hand.
pub struct Baton {
    socket: UdpSocket,
    addresses: Vec<SocketAddrV4>,
    session: u64,
    passed: Option<Passed>,
    received: Option<u64>,
    timeout: Duration,
    repeats: u64,
}

/// Binds a party's UDP port, waiting for an earlier run to free it.
pub fn bind(address: SocketAddrV4, watch: &Watch) -> Result<UdpSocket, Ending> {
    loop {
        match UdpSocket::bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                watch.check(|| format!("the UDP port {address}, which another program has"))?;
                thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(Ending::call(format!("the UDP port {address}"))(error)),
        }
    }
}

fn encode(session: u64, what: u32, number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&what.to_le_bytes());
    bytes[8..16].copy_from_slice(&session.to_le_bytes());
    bytes[16..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// What it is, and the number; nothing, if it is not of this session.
fn decode(bytes: &[u8], session: u64) -> Option<(u32, u64)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let ours = bytes.len() == LENGTH && word(0)? == MAGIC && long(8)? == session;
    Some((word(4)?, long(16)?)).filter(|_| ours)
}

impl Baton {
    /// Ready to pass and to wait; nobody has it yet.
    pub fn new(parties: &Parties, watch: &Watch, session: u64) -> Result<Self, Ending> {
        let socket = bind(parties.address(parties.party), watch)?;
        socket
            .set_read_timeout(Some(LOOK))
            .map_err(Ending::call("the UDP port"))?;
        Ok(Baton {
            socket,
            addresses: (0..parties.count()).map(|k| parties.address(k)).collect(),
            session,
            passed: None,
            received: None,
            timeout: LOOK,
            repeats: 0,
        })
    }

    /// How often a baton was sent again.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Gives the turn with this number to another party. An earlier one that was not confirmed has arrived: this one could not be
    /// otherwise.
    pub fn pass(&mut self, to: usize, number: u64) {
        let to = self.addresses[to];
        self.send(to, PASS, number);
        self.passed = Some(Passed {
            to,
            number,
            again: Instant::now() + AGAIN,
            interval: AGAIN,
        });
    }

    // Whatever goes wrong with a datagram is a lost one.
    fn send(&self, to: SocketAddrV4, what: u32, number: u64) {
        let _ = self.socket.send_to(&encode(self.session, what, number), to);
    }

    /// Takes one datagram, waiting for it so long at most, and sends again what is due.
    fn serve(&mut self, wait: Duration) -> io::Result<()> {
        let now = Instant::now();
        let due = self.passed.as_ref().map(|passed| passed.again);
        let wait = due.map_or(wait, |due| wait.min(due.saturating_duration_since(now)));
        // The kernel's timers for this tick in milliseconds; none at all would mean for ever.
        let wait = Duration::from_millis((wait.as_micros() as u64).div_ceil(1000).max(1));
        if wait != self.timeout {
            self.socket.set_read_timeout(Some(wait))?;
            self.timeout = wait;
        }
        let mut bytes = [0; LENGTH + 1];
        match self.socket.recv_from(&mut bytes) {
            Ok((count, SocketAddr::V4(from))) => {
                if let Some((what, number)) = decode(&bytes[..count], self.session) {
                    self.take(from, what, number);
                }
            }
            Ok(_) => (),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        let mut again = None;
        if let Some(passed) = self.passed.as_mut().filter(|passed| passed.again <= now) {
            passed.interval = (passed.interval * 2).min(AGAIN_LONGEST);
            passed.again = now + passed.interval;
            again = Some((passed.to, passed.number));
        }
        if let Some((to, number)) = again {
            self.send(to, PASS, number);
            self.repeats += 1;
        }
        Ok(())
    }

    fn take(&mut self, from: SocketAddrV4, what: u32, number: u64) {
        if what == PASS {
            self.send(from, CONFIRM, number);
            self.received = self.received.max(Some(number));
        }
        if self
            .passed
            .as_ref()
            .is_some_and(|passed| passed.number <= number)
        {
            self.passed = None;
        }
    }

    /// Waits for the turn with this number. False, if `interrupted` says that it will not come.
    pub fn wait(
        &mut self,
        number: u64,
        mut interrupted: impl FnMut() -> Result<bool, Ending>,
    ) -> Result<bool, Ending> {
        let mut look = Instant::now() + LOOK;
        while self.received < Some(number) {
            self.serve(LOOK).map_err(Ending::call("the UDP port"))?;
            let now = Instant::now();
            if now >= look {
                look = now + LOOK;
                if interrupted()? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Sends again and confirms what has come, while this party waits for something else.
    pub fn idle(&mut self) {
        // What is wrong with the socket is said when it is next needed.
        let _ = self.serve(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn only_this_sessions_datagrams_count() {
        let bytes = encode(7, PASS, 42);
        assert_eq!(decode(&bytes, 7), Some((PASS, 42)));
        assert_eq!(decode(&bytes, 8), None);
        assert_eq!(decode(&bytes[..23], 7), None);
        assert_eq!(decode(&[], 7), None);
        assert_eq!(decode(&[0; LENGTH], 0), None);
    }

    fn pair() -> (Baton, Baton) {
        let sockets = [0, 1].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let addresses: Vec<SocketAddrV4> = sockets
            .iter()
            .map(|socket| match socket.local_addr().unwrap() {
                SocketAddr::V4(address) => address,
                SocketAddr::V6(_) => unreachable!(),
            })
            .collect();
        let [one, two] = sockets.map(|socket| {
            socket.set_read_timeout(Some(LOOK)).unwrap();
            Baton {
                socket,
                addresses: addresses.clone(),
                session: 1,
                passed: None,
                received: None,
                timeout: LOOK,
                repeats: 0,
            }
        });
        (one, two)
    }

    #[test]
    fn a_baton_arrives_and_is_confirmed() {
        let (mut one, mut two) = pair();
        one.pass(1, 5);
        assert!(two.wait(5, || Ok(false)).unwrap());
        while one.passed.is_some() {
            one.idle();
        }
    }

    #[test]
    fn a_lost_baton_is_sent_again() {
        let (mut one, mut two) = pair();
        one.pass(1, 5);
        let mut bytes = [0; LENGTH];
        two.socket.recv_from(&mut bytes).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                while one.passed.is_some() {
                    one.idle();
                }
            });
            assert!(two.wait(5, || Ok(false)).unwrap());
            two.idle();
        });
        assert!(one.repeats > 0);
    }

    #[test]
    fn a_later_baton_confirms_an_earlier_one() {
        let (mut one, mut two) = pair();
        one.pass(1, 5);
        assert!(two.wait(5, || Ok(false)).unwrap());
        // The confirmation is lost.
        let mut bytes = [0; LENGTH];
        one.socket.recv_from(&mut bytes).unwrap();
        two.pass(0, 6);
        assert!(one.wait(6, || Ok(false)).unwrap());
        assert!(one.passed.is_none());
    }

    #[test]
    fn whoever_waits_can_be_interrupted() {
        let (mut one, _two) = pair();
        assert!(!one.wait(1, || Ok(true)).unwrap());
    }
}
