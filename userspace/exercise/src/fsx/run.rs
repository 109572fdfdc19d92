// SPDX-License-Identifier: GPL-2.0

//! A run: every party goes through the whole sequence with its model, and makes its own operations when it has the turn.

use std::{collections::VecDeque, time::Duration};

use super::{
    hands::{Failure, Hands},
    history::History,
    model::Model,
    operation::{Operation, KINDS},
    report,
    sequence::{Sequence, Settings},
    Options,
};
use crate::{
    baton::Baton, ending::Ending, figures::Figures, file, meeting::Meeting, parties::Parties,
    watch::Watch,
};

/// How many operations lie between two states that can be gone back to.
const STEP: u64 = 1024;
/// How many such states are kept: nobody is further ahead of the others than that.
const KEPT: usize = 4;

struct Run<'a> {
    options: &'a Options,
    parties: &'a Parties,
    watch: &'a Watch,
    meeting: &'a Meeting,
    baton: Baton,
    hands: Hands,
    now: State,
    earlier: VecDeque<State>,
    history: History,
    performed: u64,
}

/// Where this party is in the sequence.
#[derive(Clone)]
struct State {
    sequence: Sequence,
    model: Model,
    counts: [u64; KINDS.len()],
}

impl State {
    fn number(&self) -> u64 {
        self.sequence.number()
    }

    /// The next operation, which is not applied yet.
    fn next_operation(&mut self) -> Operation {
        self.sequence.next_operation(self.model.size())
    }

    fn apply(&mut self, operation: &Operation) {
        self.model.apply(operation);
        self.counts[operation.kind as usize] += 1;
    }
}

/// Makes a run; what it did is left in `figures` also if it ends early.
pub fn run(options: &Options, watch: &Watch, figures: &mut Figures) -> Result<(), Ending> {
    let parties = &options.parties;
    parties.check()?;
    options.check()?;
    if parties.is_first() {
        file::create(&parties.path)
            .map_err(Ending::call(format!("making {}", parties.path.display())))?;
        // Shared before the others come; they open it after that.
    }
    let first = match parties.is_first() {
        true => Some(Hands::new(parties, options.largest)?),
        false => None,
    };
    let meeting = Meeting::begin(parties, watch, &options.common())?;
    let result = take_part(options, watch, &meeting, first, figures);
    match &result {
        Ok(()) => meeting.leave(),
        // Where something is wrong has been told together with the difference itself.
        Err(why) => meeting.stop(why, None),
    }
    result
}

fn take_part(
    options: &Options,
    watch: &Watch,
    meeting: &Meeting,
    first: Option<Hands>,
    figures: &mut Figures,
) -> Result<(), Ending> {
    let parties = &options.parties;
    let hands = match first {
        Some(hands) => hands,
        None => Hands::new(parties, options.largest)?,
    };
    let refused = meeting.share(hands.refused()?.to_le_bytes().to_vec())?;
    let available: Vec<u16> = refused
        .iter()
        .map(|bytes| !bytes.as_slice().try_into().map_or(0, u16::from_le_bytes))
        .collect();
    let lacking = lacking(options, &available);
    if !lacking.is_empty() {
        println!("fsx: not available: {}", lacking.join(", "));
    }
    let sequence = Sequence::new(Settings {
        seed: parties.seed,
        largest: options.largest,
        longest: options.longest.min(options.largest),
        longest_mapped: options.longest_mapped.min(options.largest),
        turn: options.turn,
        weights: options.ops,
        available,
    });
    let mut run = Run {
        options,
        parties,
        watch,
        meeting,
        baton: Baton::new(parties, watch, meeting.session())?,
        hands,
        now: State {
            sequence,
            model: Model::new(parties.seed, options.largest),
            counts: [0; KINDS.len()],
        },
        earlier: VecDeque::new(),
        history: History::default(),
        performed: 0,
    };
    // Nobody passes a baton to a party that has no ear yet.
    meeting.together()?;
    let start = watch.elapsed();
    let result = run.go(start).and_then(|()| run.finish());
    watch.clear_progress();
    if let (Err(Ending::Elsewhere(_)), Some(place)) = (&result, meeting.place()) {
        report::print_view(parties, &mut run.hands, place);
    }
    let mismatches = u64::from(matches!(
        result,
        Err(Ending::Violation(_) | Ending::Elsewhere(_))
    ));
    figures
        .add("ops", run.now.number())
        .add("mismatches", mismatches)
        .add_seconds((watch.elapsed() - start).as_secs_f64())
        .add("seed", parties.seed)
        .add("parties", parties.count() as u64)
        .add("own", run.performed)
        .add("repeats", run.baton.repeats());
    for (kind, name, _) in KINDS {
        figures.add(name, run.now.counts[kind as usize]);
    }
    if !lacking.is_empty() {
        figures.add("lacking", lacking.join(","));
    }
    result
}

/// What was asked for and is refused, with the parties where it is.
fn lacking(options: &Options, available: &[u16]) -> Vec<String> {
    let mut lacking = Vec::new();
    for (kind, name, _) in KINDS {
        let parties: Vec<String> = available
            .iter()
            .enumerate()
            .filter(|(_, set)| options.ops.of(kind) != 0 && *set & kind.bit() == 0)
            .map(|(party, _)| party.to_string())
            .collect();
        if !parties.is_empty() {
            lacking.push(format!("{name} at party {}", parties.join("+")));
        }
    }
    lacking
}

impl Run<'_> {
    /// All operations, up to the end that was asked for.
    fn go(&mut self, start: Duration) -> Result<(), Ending> {
        let me = self.parties.party;
        let mut mine = false;
        while self.now.number() < self.options.count {
            self.keep();
            let operation = self.now.next_operation();
            let number = operation.number;
            let party = usize::from(operation.party);
            if party == me {
                if !mine && number != 0 && !self.wait(number)? {
                    break;
                }
                if self.is_over(start) {
                    self.meeting.announce_end(number);
                    break;
                }
                mine = true;
                self.now.apply(&operation);
                self.perform(&operation)?;
            } else {
                if mine {
                    self.baton.pass(party, number);
                    mine = false;
                }
                self.now.apply(&operation);
            }
            self.history.push(operation);
        }
        Ok(())
    }

    fn is_over(&self, start: Duration) -> bool {
        let seconds = Duration::from_secs(self.options.seconds);
        self.parties.is_first()
            && self.options.seconds != 0
            && self.watch.elapsed() - start >= seconds
    }

    /// Waits for the turn. False, if the run ends before.
    fn wait(&mut self, number: u64) -> Result<bool, Ending> {
        let (meeting, watch) = (self.meeting, self.watch);
        self.baton.wait(number, || {
            watch.progress(|| format!("fsx: operation {number}"));
            meeting.check(|| format!("the turn of operation {number}"))?;
            Ok(meeting.end().is_some())
        })
    }

    fn perform(&mut self, operation: &Operation) -> Result<(), Ending> {
        self.performed += 1;
        self.watch.enter(operation.number);
        let result = self.hands.perform(operation, &self.now.model);
        self.watch.leave();
        self.watch
            .progress(|| format!("fsx: operation {}", operation.number));
        match result {
            Ok(()) => {
                // Whoever holds the turn for long hears about time and others as well.
                if operation.number % 64 == 0 {
                    self.meeting
                        .check(|| format!("the end, at operation {}", operation.number))?;
                }
                Ok(())
            }
            Err(failure) => Err(self.judge(Some(operation), failure)),
        }
    }

    /// What a failure means; the others are told.
    fn judge(&mut self, operation: Option<&Operation>, failure: Failure) -> Ending {
        match failure {
            Failure::Call(what, error) => Ending::call(match operation {
                Some(operation) => format!("{what} in operation {operation}"),
                None => what.to_owned(),
            })(error),
            Failure::Difference(difference) => {
                let place = difference.place();
                let replay = self.options.replay(self.now.number());
                let (first, rest) = report::difference(
                    self.parties,
                    operation,
                    &difference,
                    &self.history,
                    &replay,
                );
                println!("fsx: {first}\n{rest}");
                let why = Ending::Violation(first);
                self.meeting.stop(&why, Some(place));
                report::print_model(&self.now.model, place);
                report::print_view(self.parties, &mut self.hands, place);
                why
            }
        }
    }

    /// Notes where the sequence is, now and then.
    fn keep(&mut self) {
        if self.options.seconds != 0 && self.now.number() % STEP == 0 {
            if self.earlier.len() == KEPT {
                self.earlier.pop_front();
            }
            self.earlier.push_back(self.now.clone());
        }
    }

    /// Goes back to before an operation that was not made after all.
    fn go_back(&mut self, end: u64) -> Result<(), Ending> {
        if self.now.number() == end {
            return Ok(());
        }
        let reached = self.now.number();
        while self.now.number() > end {
            self.now = self.earlier.pop_back().ok_or_else(|| {
                Ending::Trouble(format!(
                    "operation {reached} was reached, but the run ends before {end}"
                ))
            })?;
        }
        while self.now.number() < end {
            let operation = self.now.next_operation();
            self.now.apply(&operation);
        }
        Ok(())
    }

    /// All parties have made all of their operations: now the file, seen by each, must be the model.
    fn finish(&mut self) -> Result<(), Ending> {
        let (meeting, baton) = (self.meeting, &mut self.baton);
        let end = meeting.end().unwrap_or(self.options.count);
        let answer = meeting.round(Vec::new(), |_| end.to_le_bytes().to_vec(), || baton.idle())?;
        let end = answer.as_slice().try_into().map_or(end, u64::from_le_bytes);
        self.go_back(end)?;
        if let Err(failure) = self.hands.compare_all(&self.now.model) {
            return Err(self.judge(None, failure));
        }
        self.meeting.together()?;
        if self.parties.is_first() {
            self.on_disk()?;
        }
        self.meeting.together()
    }

    /// After an fsync, a program that knows of nothing reads the same from the file.
    fn on_disk(&self) -> Result<(), Ending> {
        let path = &self.parties.path;
        let got = self
            .hands
            .sync_and_forget()
            .and_then(|()| std::fs::read(path))
            .map_err(Ending::call(format!("reading {}", path.display())))?;
        if got == self.now.model.read(0, self.options.largest) {
            return Ok(());
        }
        Err(Ending::Violation(format!(
            "MISMATCH: seed {}: after an fsync at its end the file has other bytes",
            self.parties.seed
        )))
    }
}
