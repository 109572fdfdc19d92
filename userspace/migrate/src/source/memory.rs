// SPDX-License-Identifier: GPL-2.0

//! The tree is frozen, and its memory moves: before that, then, or after.

use std::{
    fs, io,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{connect, hand_over::Failed, say, Event, Mode, Move, Watch, ANSWER_LIMIT};
use crate::{
    criu::{self, Dump, Dumping},
    huge, images,
    problem::Problem,
    protocol::{Answer, Opening, Request},
    relay::{AtEnd, Count, Relay},
    target::out_of_order,
    tree::descendants,
};

/// How often progress is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Pre-copy ends after so many rounds …
const MAX_ROUNDS: u32 = 8;

/// … or when a round had fewer pages than this …
const FEW_PAGES: u64 = 64;

/// … or when a round had so many percent more than the one before.
const MAX_GROWTH: u64 = 10;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Whether another round is not worth while, after so many, of which the last one took `pages`, and the one before it `before`.
fn is_enough(rounds: u32, pages: u64, before: Option<u64>) -> bool {
    let grows = before.is_some_and(|before| pages * 100 > before * (100 + MAX_GROWTH));
    rounds >= MAX_ROUNDS || pages < FEW_PAGES || grows
}

impl Move {
    /// Copies memory while the tree runs, until it is not worth while any more.
    pub(super) fn copy_rounds(
        &mut self,
        images: &Path,
        count: &Count,
        watch: &mut Watch<'_>,
    ) -> Result<u32, Problem> {
        watch(Event::Phase("copy while it runs"));
        let mut before = None;
        let mut round = 0;
        loop {
            let directory = images.join(round.to_string());
            fs::create_dir(&directory)?;
            let begun = (Instant::now(), count.get());
            let (pages, relay) = self.open_stream(count)?;
            self.split_huge_pages();
            let dump = self.dump(&directory, round, pages, count);
            let dumped = dump.pre_dump(&mut |bytes| watch(Event::Bytes(bytes)));
            self.end_stream(relay, dumped)?;
            self.copied.push(count.get() - begun.1);
            round += 1;
            let rate = (count.get() - begun.1) as f64 / begun.0.elapsed().as_secs_f64();
            let statistics = directory.join("stats-dump");
            let pages = fs::read(&statistics)
                .and_then(|bytes| images::pages_written(&bytes).map_err(io::Error::other))
                .map_err(|error| {
                    Problem::new(
                        format!(
                            "CRIU's statistics of the round, {}: {error}",
                            statistics.display()
                        ),
                        "is there room on that file system?",
                    )
                })?;
            watch(Event::Round {
                number: round,
                pages,
                still: Duration::try_from_secs_f64((pages * PAGE) as f64 / rate)
                    .unwrap_or_default(),
            });
            watch(Event::Bytes(count.get()));
            if is_enough(round, pages, before) {
                // Those that it has got since would be sent as a whole while it stands still.
                self.split_huge_pages();
                return Ok(round);
            }
            before = Some(pages);
        }
    }

    /// Of what has ended since, or cannot be split, nothing is lost but time.
    fn split_huge_pages(&self) {
        for pid in descendants(self.order.root.pid).unwrap_or_default() {
            let _ = huge::split(pid);
        }
    }

    fn dump<'a>(
        &self,
        images: &'a Path,
        round: u32,
        pages: std::os::unix::net::UnixStream,
        moved: &'a Count,
    ) -> Dump<'a> {
        Dump {
            pid: self.order.root.pid,
            images,
            parent: round.checked_sub(1).map(|before| format!("../{before}")),
            pages,
            shell_job: self.tree.shell_job,
            tcp_established: self.order.tcp_established,
            lazy: self.mode == Mode::Lazy,
            moved,
        }
    }

    /// Opens a stream of pages; gives CRIU's end.
    fn open_stream(
        &mut self,
        count: &Count,
    ) -> Result<(std::os::unix::net::UnixStream, Relay), Problem> {
        let lazy = self.mode == Mode::Lazy;
        self.done(&Request::Receive { lazy })?;
        let mut channel = connect(&self.node, &self.peer)?;
        channel.writer.send(&Opening::Pages { job: self.id })?;
        let (ours, theirs) = criu::pages_socket()?;
        // Lazy: what the end means is not for CRIU to decide.
        let at_end = if lazy { AtEnd::Hide } else { AtEnd::Tell };
        Ok((theirs, Relay::start(channel, ours, count, at_end)?))
    }

    /// Waits until all pages are there. A failure of the dump is more telling than that of the stream.
    fn end_stream(&mut self, relay: Relay, dumped: Result<(), Problem>) -> Result<(), Problem> {
        if dumped.is_err() {
            // The target may still be busy with what it has got.
            relay.break_off();
        }
        let relayed = relay.finish();
        dumped.and(relayed)?;
        self.done(&Request::Received)
    }

    pub(super) fn last_round(
        &mut self,
        images: &Path,
        round: u32,
        count: &Count,
        watch: &mut Watch<'_>,
    ) -> Result<(i32, Duration), Problem> {
        let directory = images.join(round.to_string());
        fs::create_dir(&directory)?;
        let (pages, relay) = self.open_stream(count)?;
        self.before_freezing()?;
        let dump = self.dump(&directory, round, pages, count);
        let frozen = Instant::now();
        let mut relay = Some(relay);
        let mut running = None;
        let before = count.get();
        let dumped = dump.dump(&mut |told| {
            if let Dumping::Moved(bytes) = told {
                watch(Event::Bytes(bytes));
                return Ok(());
            }
            if let Some(relay) = relay.take() {
                self.end_stream(relay, Ok(()))?;
            }
            self.copied.push(count.get() - before);
            watch(Event::Bytes(count.get()));
            watch(Event::Phase("restore"));
            let pid = self.hand_over(&directory)?;
            self.early = count.get() + self.sent_images;
            running = Some((pid, frozen.elapsed()));
            Ok(())
        });
        match (running, dumped) {
            (Some(done), dumped) => {
                if dumped.is_err() {
                    // It has been handed over: whatever CRIU did, it must not go on here.
                    say(self.signal(Signal::KILL));
                }
                watch(Event::Phase("finish"));
                // Whether the target hears that does not matter: it can ask the daemon.
                let _ = self.done(&Request::Gone);
                Ok(done)
            }
            (None, Err(problem)) => Err(problem),
            (None, Ok(())) => Err(Problem::plain("CRIU has dumped the process without asking")),
        }
    }

    /// Hands the tree over first and its memory later.
    pub(super) fn leave_memory(
        &mut self,
        images: &Path,
        count: &Count,
        watch: &mut Watch<'_>,
    ) -> Result<(i32, Duration), Problem> {
        let directory = images.join("0");
        fs::create_dir(&directory)?;
        let (pages, relay) = self.open_stream(count)?;
        self.before_freezing()?;
        let dump = self.dump(&directory, 0, pages, count);
        let begun = Instant::now();
        // CRIU serves pages until all are taken, while this thread talks to the target.
        let (written, is_written) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        thread::scope(|scope| {
            let dumping = scope.spawn(move || {
                dump.dump(&mut |told| {
                    if told != Dumping::Written {
                        return Ok(());
                    }
                    let given_up = |_| Problem::plain("the move has been given up");
                    written.send(()).map_err(|_| given_up(()))?;
                    may_go_on.recv().map_err(|_| given_up(()))
                })
            });
            let talked = is_written.recv().map_err(|_| None).and_then(|()| {
                self.send_images(&directory)
                    .map_err(|problem| Some(Failed::Before(problem)))?;
                let _ = go_on.send(());
                watch(Event::Phase("restore"));
                let pid = self.commit().map_err(Some)?;
                let downtime = begun.elapsed();
                self.early = count.get() + self.sent_images;
                watch(Event::Phase("its memory follows"));
                self.wait_for_memory(count, watch)
                    .map_err(|problem| Some(Failed::After(problem)))?;
                Ok((pid, downtime))
            });
            // CRIU keeps the tree frozen until its stream of pages ends: so nothing runs here while this is found out.
            let talked = match talked {
                Err(Some(Failed::After(problem))) => match self.find_out(problem) {
                    Ok(pid) => Ok((pid, begun.elapsed())),
                    Err(problem) if self.undecided => Err(Some(problem)),
                    Err(problem) => Err(Some(problem.within(
                        "it goes on here, from where it was frozen; what it did on the target since then is not undone",
                    ))),
                },
                Err(Some(Failed::Before(problem))) => Err(Some(problem)),
                Err(None) => Err(None),
                Ok(done) => Ok(done),
            };
            drop(go_on);
            if talked.is_ok() {
                self.left();
                say(self.signal(Signal::KILL));
            }
            relay.break_off();
            let dumped = dumping
                .join()
                .unwrap_or_else(|_| Err(Problem::plain("the thread of the dump has failed")));
            let _ = relay.finish();
            match (talked, dumped) {
                (Ok(done), _) => {
                    let _ = self.done(&Request::Gone);
                    Ok(done)
                }
                (Err(said), dumped) => Err(said.or(dumped.err()).unwrap_or_else(out_of_order)),
            }
        })
    }

    /// With lazy memory: until the target has all of it.
    fn wait_for_memory(&mut self, count: &Count, watch: &mut Watch<'_>) -> Result<(), Problem> {
        self.reader.set_limit(Some(LOOK_PAUSE))?;
        loop {
            watch(Event::Bytes(count.get()));
            match self.reader.receive() {
                Ok(Some(Answer::Complete)) => break,
                Ok(Some(Answer::Failed(problem))) => return Err(problem.within(&self.peer.name)),
                Ok(_) => return Err(out_of_order()),
                Err(vremote_channel::Error::Silent(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.reader.set_limit(Some(ANSWER_LIMIT))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rounds there are if they take so many pages, the last number for ever.
    fn rounds(pages: &[u64]) -> u32 {
        let mut before = None;
        for round in 1.. {
            let now = pages[(round - 1).min(pages.len() - 1)];
            if is_enough(round as u32, now, before) {
                return round as u32;
            }
            before = Some(now);
        }
        unreachable!()
    }

    #[test]
    fn rounds_end_when_little_is_left() {
        assert_eq!(rounds(&[63]), 1);
        assert_eq!(rounds(&[0]), 1);
        assert_eq!(rounds(&[100_000, 64, 63]), 3);
    }

    #[test]
    fn rounds_end_when_they_grow() {
        assert_eq!(rounds(&[1000, 1101]), 2);
        // By a tenth is not yet too much.
        assert_eq!(rounds(&[1000, 1100, 1211]), 3);
        assert_eq!(rounds(&[100_000, 2000, 3000]), 3);
    }

    #[test]
    fn rounds_end() {
        assert_eq!(rounds(&[1000]), MAX_ROUNDS);
        assert_eq!(rounds(&[100_000, 90_000, 80_000]), MAX_ROUNDS);
    }
}
