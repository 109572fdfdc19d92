// SPDX-License-Identifier: GPL-2.0

//! A run: all parties read and write a few words at once, then party 0 checks what they noted.

use std::{
    fs::File,
    sync::atomic::{fence, Ordering},
    thread,
    time::Duration,
};

use super::{
    check::{check, Fault, Operation},
    clock::Alignment,
    event::Event,
    exchange::{Clock, Exchange},
    Options,
};
use crate::{
    ending::Ending,
    figures::Figures,
    file,
    mapping::{Mapping, PAGE},
    meeting::Meeting,
    parties::Parties,
    random::Random,
    watch::Watch,
};

/// How many words of a page are used, and the bytes between them.
const WORDS: u64 = 4;
const DISTANCE: u64 = 1024;
/// Once in how many operations a party rests, and how many microseconds at most: who has a page should not always keep it.
const REST: u64 = 8;
const REST_LONGEST: u64 = 400;

/// Where a word is.
fn place(word: u16) -> u64 {
    u64::from(word) / WORDS * PAGE + u64::from(word) % WORDS * DISTANCE
}

struct Run<'a> {
    options: &'a Options,
    parties: &'a Parties,
    watch: &'a Watch,
    meeting: &'a Meeting,
    file: File,
    map: Mapping,
    clock: Clock,
}

/// Makes a run.
pub fn run(options: &Options, watch: &Watch, figures: &mut Figures) -> Result<(), Ending> {
    let parties = &options.parties;
    parties.check()?;
    options.check()?;
    let path = parties.path.display().to_string();
    let length = options.pages * PAGE;
    let open = || {
        file::open(&parties.path, parties.access(), false)
            .map_err(Ending::call(format!("opening {path}")))
    };
    // Shared before the others come, who open it after that.
    let mut first = None;
    if parties.is_first() {
        file::create(&parties.path).map_err(Ending::call(format!("making {path}")))?;
        let file = open()?;
        file.set_len(length)
            .map_err(Ending::call(format!("lengthening {path}")))?;
        first = Some(file);
    }
    let meeting = Meeting::begin(parties, watch, &options.common())?;
    let take_part = || {
        let file = match first {
            Some(file) => file,
            None => open()?,
        };
        let map = Mapping::new(&file, length).map_err(Ending::call(format!("mapping {path}")))?;
        let run = Run {
            options,
            parties,
            watch,
            meeting: &meeting,
            file,
            map,
            clock: Clock::start(),
        };
        run.whole(figures)
    };
    let result = take_part();
    watch.clear_progress();
    match &result {
        Ok(()) => meeting.leave(),
        Err(why) => meeting.stop(why, None),
    }
    result
}

impl Run<'_> {
    fn whole(&self, figures: &mut Figures) -> Result<(), Ending> {
        let session = self.meeting.session();
        let exchange = Exchange::start(self.parties, self.watch, session, self.clock)?;
        // Some bounds before the first operation.
        thread::sleep(Duration::from_millis(100));
        self.meeting.together()?;
        let start = self.watch.elapsed();
        let events = self.work(start)?;
        let seconds = (self.watch.elapsed() - start).as_secs_f64();
        let alignment = self.align(exchange)?;
        self.judge(&events, &alignment, seconds, figures)
    }

    /// Party 0 answers until all others have asked for the last time.
    fn align(&self, exchange: Exchange) -> Result<Alignment, Ending> {
        if self.parties.is_first() {
            self.meeting.together()?;
            return exchange.finish();
        }
        let alignment = exchange.finish()?;
        self.meeting.together()?;
        match alignment.len() {
            0 | 1 => Err(Ending::Trouble(
                "party 0 does not answer when asked for the time".to_owned(),
            )),
            _ => Ok(alignment),
        }
    }

    fn work(&self, start: Duration) -> Result<Vec<Event>, Ending> {
        let me = self.parties.party as u64;
        let mut random = Random::new(self.parties.seed, &[0x30, me]);
        let seconds = Duration::from_secs(self.options.seconds);
        let mut events = Vec::with_capacity(self.options.count as usize);
        for number in 0..self.options.count {
            if number % 64 == 0 {
                if self.options.seconds != 0 && self.watch.elapsed() - start >= seconds {
                    break;
                }
                self.watch.progress(|| format!("words: operation {number}"));
                self.meeting
                    .check(|| format!("the end, at operation {number}"))?;
            }
            let word = random.below(self.options.pages * WORDS) as u16;
            let write = random.below(100) < self.options.writes;
            let mapped = random.once_in(2);
            self.watch.enter(number);
            // Nobody else writes this value, and nobody writes 0.
            let event = self.operate(word, write, mapped, ((me + 1) << 40) | (number + 1))?;
            self.watch.leave();
            events.push(event);
            if random.once_in(REST) {
                thread::sleep(Duration::from_micros(random.below(REST_LONGEST)));
            }
        }
        Ok(events)
    }

    fn operate(&self, word: u16, write: bool, mapped: bool, value: u64) -> Result<Event, Ending> {
        let at = place(word);
        let invoked = self.clock.now();
        fence(Ordering::SeqCst);
        let value = match (write, mapped) {
            (true, true) => {
                self.map.store(at, value);
                value
            }
            (true, false) => {
                file::write_word(&self.file, at, value).map_err(Ending::call("pwrite"))?;
                value
            }
            (false, true) => self.map.load(at),
            (false, false) => file::read_word(&self.file, at).map_err(Ending::call("pread"))?,
        };
        // A store has been made when the fence is over.
        fence(Ordering::SeqCst);
        Ok(Event {
            word,
            write,
            mapped,
            value,
            invoked,
            returned: self.clock.now(),
        })
    }

    /// Party 0 gets all events, in its own time, and checks them; all learn what came of it.
    fn judge(
        &self,
        events: &[Event],
        alignment: &Alignment,
        seconds: f64,
        figures: &mut Figures,
    ) -> Result<(), Ending> {
        let mut part = Vec::new();
        part.extend(alignment.error().to_le_bytes());
        part.extend(alignment.drift().to_le_bytes());
        for event in events {
            let aligned = Event {
                invoked: alignment.convert(event.invoked).0,
                returned: alignment.convert(event.returned).1,
                ..*event
            };
            aligned.encode(&mut part);
        }
        let mut verdict = None;
        let judge = |parts: &[Vec<u8>]| {
            let parts: Vec<Part> = parts.iter().map(|bytes| Part::decode(bytes)).collect();
            let found = Verdict::of(self.parties, self.options.pages * WORDS, &parts);
            let count = found.faults.len() as u64;
            verdict = Some(found);
            count.to_le_bytes().to_vec()
        };
        let answer = self.meeting.round(part, judge, || ())?;
        let faults = answer
            .as_slice()
            .try_into()
            .map_or(u64::MAX, u64::from_le_bytes);
        figures
            .add("own", events.len() as u64)
            .add("violations", faults)
            .add_seconds(seconds)
            .add("seed", self.parties.seed)
            .add("parties", self.parties.count() as u64);
        if let Some(verdict) = &verdict {
            for fault in &verdict.faults {
                println!("words: VIOLATION: seed {}, {fault}", self.parties.seed);
            }
            verdict.add_to(figures);
        }
        match faults {
            0 => Ok(()),
            _ if self.parties.is_first() => Err(Ending::Violation(format!(
                "{faults} words were not like words of one machine, seed {}",
                self.parties.seed
            ))),
            _ => Err(Ending::Elsewhere(format!(
                "party 0: {faults} words were not like words of one machine"
            ))),
        }
    }
}

/// What a party sends: how well its clock is known, and its events in party 0's time.
struct Part {
    error: i64,
    drift: i64,
    events: Vec<Event>,
}

impl Part {
    fn decode(bytes: &[u8]) -> Self {
        let (head, rest) = bytes.split_at(bytes.len().min(16));
        let number = |at: usize| {
            let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(i64::MAX, i64::from_le_bytes)
        };
        Part {
            error: number(0),
            drift: number(8),
            events: Event::decode_all(rest),
        }
    }
}

/// What the check found.
struct Verdict {
    faults: Vec<String>,
    operations: u64,
    writes: u64,
    mapped: u64,
    /// Reads of what another party had written.
    foreign: u64,
    /// Nanoseconds.
    error: i64,
    drift: i64,
}

impl Verdict {
    fn of(parties: &Parties, words: u64, parts: &[Part]) -> Self {
        let all = || parts.iter().flat_map(|part| &part.events);
        let foreign = |(party, part): (usize, &Part)| {
            let theirs = |event: &&Event| {
                let writer = event.value >> 40;
                !event.write && writer != 0 && writer != party as u64 + 1
            };
            part.events.iter().filter(theirs).count() as u64
        };
        Verdict {
            faults: (0..words as u16)
                .filter_map(|word| fault_of(parties, word, parts))
                .collect(),
            operations: all().count() as u64,
            writes: all().filter(|event| event.write).count() as u64,
            mapped: all().filter(|event| event.mapped).count() as u64,
            foreign: parts.iter().enumerate().map(foreign).sum(),
            error: parts.iter().map(|part| part.error).max().unwrap_or(0),
            drift: parts.iter().map(|part| part.drift.abs()).max().unwrap_or(0),
        }
    }

    fn add_to(&self, figures: &mut Figures) {
        figures
            .add("ops", self.operations)
            .add("reads", self.operations - self.writes)
            .add("writes", self.writes)
            .add("mapped", self.mapped)
            .add("foreign", self.foreign)
            .add("clock_error_us", self.error / 1000)
            .add("clock_drift_us", self.drift / 1000);
    }
}

/// What is wrong with a word, readable.
fn fault_of(parties: &Parties, word: u16, parts: &[Part]) -> Option<String> {
    let events: Vec<(usize, &Event)> = parts
        .iter()
        .enumerate()
        .flat_map(|(party, part)| part.events.iter().map(move |event| (party, event)))
        .filter(|(_, event)| event.word == word)
        .collect();
    let history: Vec<Operation> = events
        .iter()
        .map(|&(party, event)| Operation {
            party,
            write: event.write,
            value: event.value,
            invoked: event.invoked,
            returned: event.returned,
        })
        .collect();
    let fault = check(0, &history).err()?;
    let tell = |at: usize| {
        let (party, event) = events[at];
        format!(
            "{} {} {} value {:#x} between {:.1} and {:.1} us",
            parties.name(party),
            if event.mapped { "map" } else { "call" },
            if event.write { "write" } else { "read" },
            event.value,
            event.invoked as f64 / 1000.0,
            event.returned as f64 / 1000.0
        )
    };
    let text = match fault {
        Fault::WrittenTwice(at) => format!("written twice: {}", tell(at)),
        Fault::NeverWritten(at) => format!("never written: {}", tell(at)),
        Fault::BeforeItsWrite(read, write) => {
            format!("{}, before {}", tell(read), tell(write))
        }
        Fault::Circle(pairs) => {
            let pairs = pairs
                .iter()
                .map(|&(from, to)| format!("\n  {}, before {}", tell(from), tell(to)));
            format!("no order explains{}", pairs.collect::<String>())
        }
    };
    Some(format!("word {word} (at {:#x}): {text}", place(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, path::PathBuf};

    fn parties() -> Parties {
        Parties {
            path: PathBuf::from("/f"),
            at: vec![Ipv4Addr::LOCALHOST; 2],
            party: 0,
            port: 1,
            seed: 1,
            limit: 1,
            json: false,
            local: true,
        }
    }

    fn event(word: u16, write: bool, value: u64, invoked: i64) -> Event {
        Event {
            word,
            write,
            mapped: true,
            value,
            invoked,
            returned: invoked + 5,
        }
    }

    #[test]
    fn words_do_not_share_a_place() {
        let mut places: Vec<u64> = (0..32).map(place).collect();
        assert!(places.iter().all(|place| place % 8 == 0));
        places.dedup();
        assert_eq!(places.len(), 32);
        assert_eq!(place(5), PAGE + DISTANCE);
    }

    #[test]
    fn each_word_is_judged_by_itself() {
        let part = |events| Part {
            error: 3000,
            drift: -7000,
            events,
        };
        let one = (1 << 40) | 1;
        let parts = [
            part(vec![event(0, true, one, 0), event(1, true, one + 1, 10)]),
            part(vec![event(0, false, one, 20), event(1, false, 0, 30)]),
        ];
        let verdict = Verdict::of(&parties(), 2, &parts);
        assert_eq!(verdict.faults.len(), 1);
        assert!(verdict.faults[0].starts_with("word 1 (at 0x400): no order explains"));
        assert_eq!((verdict.operations, verdict.writes), (4, 2));
        assert_eq!(verdict.foreign, 1);
        assert_eq!((verdict.error, verdict.drift), (3000, 7000));
    }
}
