// SPDX-License-Identifier: GPL-2.0

//! Whether what was done to one word could have been done to a word of one machine: linearizability of a register.
//!
//! Each value is written once, so a read tells which write it saw, and the history falls into clusters: a write and its reads. In a
//! sequential history clusters follow each other whole. Hence there is one exactly if no read came before its write, and the clusters can
//! be put in an order in which none has to be both before and after another (Gibbons and Korach, "Testing shared memories", 1997, for
//! registers with a known mapping of reads to writes). Cluster A has to be before B if some operation of A had returned before some
//! operation of B was invoked, or if one party made the first before the second.
//!
//! The real-time part of that order is two numbers for each cluster: A is before B if A's earliest return lies before B's latest
//! invocation. That makes it possible to take clusters from the front one by one in O(n log n).

use std::collections::{BTreeSet, HashMap};

use super::clock::Time;

/// A read or write of the word. Operations of one party follow each other in the order of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who made it
    pub party: usize,
    /// Whether it is a write
    pub write: bool,
    /// What was read or written
    pub value: u64,
    /// It took effect no earlier
    pub invoked: Time,
    /// It took effect no later
    pub returned: Time,
}

/// Why a history is impossible; operations are places in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Two writes of one value, or one of the first value: this can not be checked
    WrittenTwice(usize),
    /// A read of a value that nobody has written
    NeverWritten(usize),
    /// A read that was over before its write began
    BeforeItsWrite(usize, usize),
    /// Each pair: the first was over before the second began. The second has the same value as the first of the next pair, and the last
    /// one as the first: so each value had to be there before the next, in a circle.
    Circle(Vec<(usize, usize)>),
}

/// A value's operations.
struct Cluster {
    members: Vec<usize>,
    /// Its write; the first value has none.
    write: Option<usize>,
    /// The member that returned first, and when; the first value was there before all.
    first_return: (Time, Option<usize>),
    /// The member that was invoked last, and when.
    last_invocation: (Time, Option<usize>),
    /// Clusters that a party went on to from here, with the two operations.
    next: Vec<(usize, usize, usize)>,
    /// From how many operations of clusters that are still there a party came here.
    waiting: usize,
}

/// Checks a history of a word that held `first` in the beginning.
pub fn check(first: u64, history: &[Operation]) -> Result<(), Fault> {
    let mut clusters = clusters(first, history)?;
    for cluster in &clusters {
        reads_after_write(history, cluster)?;
    }
    program_order(first, history, &mut clusters);
    let mut order = Order::new(&clusters);
    while let Some(cluster) = order.next(&clusters) {
        order.remove(cluster, &mut clusters);
    }
    match order.returns.is_empty() {
        true => Ok(()),
        false => Err(order.circle(&clusters)),
    }
}

/// The clusters; the first value's is number 0.
fn clusters(first: u64, history: &[Operation]) -> Result<Vec<Cluster>, Fault> {
    let cluster = |write: Option<usize>| Cluster {
        members: write.into_iter().collect(),
        write,
        first_return: (Time::MIN, None),
        last_invocation: (Time::MIN, None),
        next: Vec::new(),
        waiting: 0,
    };
    let mut clusters = vec![cluster(None)];
    let mut of_value = HashMap::from([(first, 0)]);
    for (at, operation) in history.iter().enumerate() {
        if operation.write {
            if of_value.insert(operation.value, clusters.len()).is_some() {
                return Err(Fault::WrittenTwice(at));
            }
            clusters.push(cluster(Some(at)));
        }
    }
    for (at, operation) in history.iter().enumerate() {
        if !operation.write {
            let number = of_value
                .get(&operation.value)
                .ok_or(Fault::NeverWritten(at))?;
            clusters[*number].members.push(at);
        }
    }
    for cluster in &mut clusters {
        for &at in &cluster.members {
            let Operation {
                invoked, returned, ..
            } = history[at];
            if cluster.write.is_some()
                && (cluster.first_return.1.is_none() || returned < cluster.first_return.0)
            {
                cluster.first_return = (returned, Some(at));
            }
            if cluster.last_invocation.1.is_none() || invoked > cluster.last_invocation.0 {
                cluster.last_invocation = (invoked, Some(at));
            }
        }
    }
    Ok(clusters)
}

fn reads_after_write(history: &[Operation], cluster: &Cluster) -> Result<(), Fault> {
    let Some(write) = cluster.write else {
        return Ok(());
    };
    let wrong = cluster.members.iter().find(|&&read| {
        history[read].returned < history[write].invoked
            || history[read].party == history[write].party && read < write
    });
    match wrong {
        Some(&read) => Err(Fault::BeforeItsWrite(read, write)),
        None => Ok(()),
    }
}

/// Notes where a party went from one cluster to another.
fn program_order(first: u64, history: &[Operation], clusters: &mut [Cluster]) {
    let mut of_value = HashMap::from([(first, 0)]);
    for (number, cluster) in clusters.iter().enumerate() {
        if let Some(write) = cluster.write {
            of_value.insert(history[write].value, number);
        }
    }
    let mut last: HashMap<usize, (usize, usize)> = HashMap::new();
    for (at, operation) in history.iter().enumerate() {
        let here = of_value[&operation.value];
        if let Some((before, from)) = last.insert(operation.party, (here, at)) {
            if before != here {
                clusters[before].next.push((here, from, at));
                clusters[here].waiting += 1;
            }
        }
    }
}

/// The clusters that have no place in the order yet.
struct Order {
    /// By their first returns.
    returns: BTreeSet<(Time, usize)>,
    /// Those that no party comes to from another one, by their last invocations.
    free: BTreeSet<(Time, usize)>,
}

impl Order {
    fn new(clusters: &[Cluster]) -> Self {
        let numbers = || clusters.iter().enumerate();
        Order {
            returns: numbers()
                .map(|(number, cluster)| (cluster.first_return.0, number))
                .collect(),
            free: numbers()
                .filter(|(_, cluster)| cluster.waiting == 0)
                .map(|(number, cluster)| (cluster.last_invocation.0, number))
                .collect(),
        }
    }

    /// The cluster with the earliest return of all but this one.
    fn earliest_but(&self, number: usize) -> Option<(Time, usize)> {
        let mut others = self.returns.iter().filter(|&&(_, other)| other != number);
        others.next().copied()
    }

    /// Whether this cluster can be the next.
    fn is_first(&self, number: usize, clusters: &[Cluster]) -> bool {
        let cluster = &clusters[number];
        cluster.waiting == 0
            && self
                .earliest_but(number)
                .is_none_or(|(returned, _)| cluster.last_invocation.0 <= returned)
    }

    /// A cluster that can be the next.
    fn next(&self, clusters: &[Cluster]) -> Option<usize> {
        let &(_, candidate) = self.free.first()?;
        if self.is_first(candidate, clusters) {
            return Some(candidate);
        }
        // What the free cluster with the earliest last invocation has to wait for, all others have to wait for as well; only that
        // itself has not.
        let (_, other) = self.earliest_but(candidate)?;
        Some(other).filter(|&other| self.is_first(other, clusters))
    }

    fn remove(&mut self, number: usize, clusters: &mut [Cluster]) {
        self.returns
            .remove(&(clusters[number].first_return.0, number));
        self.free
            .remove(&(clusters[number].last_invocation.0, number));
        for (next, ..) in std::mem::take(&mut clusters[number].next) {
            clusters[next].waiting -= 1;
            if clusters[next].waiting == 0 {
                self.free.insert((clusters[next].last_invocation.0, next));
            }
        }
    }

    /// One circle among the clusters that are left, each of which has to be after another one.
    fn circle(&self, clusters: &[Cluster]) -> Fault {
        let mut came_from: HashMap<usize, (usize, usize, usize)> = HashMap::new();
        for &(_, number) in &self.returns {
            for &(next, from, to) in &clusters[number].next {
                came_from.entry(next).or_insert((number, from, to));
            }
        }
        let before = |number: usize| -> Option<(usize, usize, usize)> {
            let (invoked, to) = clusters[number].last_invocation;
            match self.earliest_but(number) {
                Some((returned, other)) if returned < invoked => {
                    Some((other, clusters[other].first_return.1?, to?))
                }
                _ => came_from.get(&number).copied(),
            }
        };
        let mut path: Vec<(usize, (usize, usize))> = Vec::new();
        // The first value's cluster, which comes first here, closes any circle: it is before all others without an operation.
        let mut next = self.returns.first().map(|&(_, number)| number);
        let mut start = 0;
        while let Some(number) = next {
            if let Some(seen) = path.iter().position(|&(seen, _)| seen == number) {
                start = seen;
                break;
            }
            let found = before(number);
            next = found.map(|(previous, from, to)| {
                path.push((number, (from, to)));
                previous
            });
        }
        let circle = path[start..].iter().rev();
        Fault::Circle(circle.map(|&(_, pair)| pair).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(party: usize, value: u64, invoked: Time, returned: Time) -> Operation {
        Operation {
            party,
            write: false,
            value,
            invoked,
            returned,
        }
    }

    fn write(party: usize, value: u64, invoked: Time, returned: Time) -> Operation {
        Operation {
            write: true,
            ..read(party, value, invoked, returned)
        }
    }

    fn circle(history: &[Operation]) -> Vec<(usize, usize)> {
        match check(0, history) {
            Err(Fault::Circle(pairs)) => pairs,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_fine() {
        assert_eq!(check(0, &[]), Ok(()));
        assert_eq!(check(7, &[read(0, 7, 1, 2)]), Ok(()));
    }

    #[test]
    fn what_overlaps_may_be_in_any_order() {
        // The reads are in the order of their returns, the writes in another than that of their invocations.
        let history = [
            write(0, 1, 0, 100),
            write(1, 2, 10, 100),
            read(2, 2, 20, 30),
            read(2, 1, 40, 50),
        ];
        assert_eq!(check(0, &history), Ok(()));
    }

    #[test]
    fn an_old_value_after_a_new_one_was_written() {
        let history = [write(0, 1, 0, 10), write(0, 2, 20, 30), read(1, 1, 40, 50)];
        assert_eq!(circle(&history), [(0, 1), (1, 2)]);
        // … but not if the read began before that.
        let history = [write(0, 1, 0, 10), write(0, 2, 20, 30), read(1, 1, 25, 50)];
        assert_eq!(check(0, &history), Ok(()));
    }

    #[test]
    fn an_old_value_after_a_new_one_was_read() {
        let history = [write(0, 1, 0, 100), read(1, 1, 10, 20), read(2, 0, 30, 40)];
        assert_eq!(circle(&history), [(1, 2)]);
    }

    #[test]
    fn the_first_value_again() {
        let history = [write(0, 1, 0, 10), read(1, 0, 20, 30)];
        assert_eq!(circle(&history), [(0, 1)]);
        assert_eq!(check(0, &[write(0, 1, 0, 10), read(1, 0, 10, 30)]), Ok(()));
    }

    #[test]
    fn a_value_from_the_future_or_from_nowhere() {
        let history = [read(1, 1, 0, 10), write(0, 1, 20, 30)];
        assert_eq!(check(0, &history), Err(Fault::BeforeItsWrite(0, 1)));
        assert_eq!(check(0, &[read(1, 5, 0, 10)]), Err(Fault::NeverWritten(0)));
        let twice = [write(0, 1, 0, 10), write(1, 1, 20, 30)];
        assert_eq!(check(0, &twice), Err(Fault::WrittenTwice(1)));
        assert_eq!(check(0, &[write(0, 0, 0, 1)]), Err(Fault::WrittenTwice(0)));
    }

    #[test]
    fn two_readers_that_disagree() {
        // The writes overlap everything; each reader sees both values, in another order.
        let history = [
            write(0, 1, 0, 1000),
            write(1, 2, 0, 1000),
            read(2, 1, 10, 20),
            read(2, 2, 30, 40),
            read(3, 2, 10, 20),
            read(3, 1, 30, 40),
        ];
        assert_eq!(circle(&history).len(), 2);
    }

    #[test]
    fn the_order_of_a_party_counts_where_times_say_nothing() {
        // All intervals overlap, as those of a party whose clock is not known well do.
        let history = [
            write(0, 1, 0, 100),
            write(1, 2, 0, 100),
            read(2, 1, 0, 100),
            read(2, 2, 0, 100),
            read(2, 1, 0, 100),
        ];
        assert_eq!(circle(&history).len(), 2);
        assert_eq!(check(0, &history[..4]), Ok(()));
        let own = [read(0, 1, 0, 100), write(0, 1, 0, 100)];
        assert_eq!(check(0, &own), Err(Fault::BeforeItsWrite(0, 1)));
    }

    #[test]
    fn a_write_that_was_lost() {
        let history = [
            write(0, 1, 0, 10),
            write(1, 2, 20, 30),
            read(1, 2, 40, 50),
            write(0, 3, 60, 70),
            read(1, 2, 80, 90),
        ];
        assert_eq!(circle(&history), [(1, 3), (3, 4)]);
    }

    /// Whether some order of the operations explains them: all are tried (Wing and Gong).
    fn explained(value: u64, left: &[Operation]) -> bool {
        left.is_empty()
            || (0..left.len()).any(|at| {
                let one = left[at];
                let first = left.iter().enumerate().all(|(other_at, other)| {
                    other.returned >= one.invoked && (other.party != one.party || at <= other_at)
                });
                let fits = one.write || one.value == value;
                let mut rest = left.to_vec();
                rest.remove(at);
                first && fits && explained(one.value, &rest)
            })
    }

    /// Operations of some parties, each party's in order; reads of values that somebody writes, or of the first.
    fn small_history() -> impl Strategy<Value = Vec<Operation>> {
        let operation = (0usize..3, any::<bool>(), 0u64..8, 0i64..8, 0i64..12);
        prop::collection::vec(operation, 1..9).prop_map(|parts| {
            let writes = parts.iter().filter(|part| part.1).count() as u64;
            let mut now = [(0, 0); 3];
            let mut written = 0;
            parts
                .into_iter()
                .map(|(party, write, value, wait, length)| {
                    let (invoked, returned) = &mut now[party];
                    *invoked += wait;
                    *returned = (*returned).max(*invoked + length);
                    written += u64::from(write);
                    Operation {
                        party,
                        write,
                        value: if write { written } else { value % (writes + 1) },
                        invoked: *invoked,
                        returned: *returned,
                    }
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
        #[test]
        fn it_agrees_with_trying_all_orders(history in small_history()) {
            prop_assert_eq!(check(0, &history).is_ok(), explained(0, &history), "{:?}", check(0, &history));
        }

        /// What is told of a circle is true.
        #[test]
        fn circles_are_circles(history in small_history()) {
            if let Err(Fault::Circle(pairs)) = check(0, &history) {
                prop_assert!(!pairs.is_empty());
                for (at, &(from, to)) in pairs.iter().enumerate() {
                    let (one, other) = (history[from], history[to]);
                    prop_assert!(one.returned < other.invoked || one.party == other.party && from < to);
                    prop_assert_ne!(one.value, other.value);
                    // The next pair goes on from the same value; the first value is before all others anyway.
                    let next = history[pairs[(at + 1) % pairs.len()].0];
                    prop_assert!(next.value == other.value || other.value == 0 && at + 1 == pairs.len());
                }
            }
        }
    }

    /// A history of a real register: every operation takes effect at a moment inside its interval.
    fn real_history(parts: &[(usize, bool, i64, i64)]) -> Vec<Operation> {
        let mut value = 0;
        let mut moment = 0;
        let mut last = [Time::MIN; 4];
        let mut history = Vec::new();
        for (number, &(party, write, before, after)) in parts.iter().enumerate() {
            moment += 10;
            if write {
                value = number as u64 + 1;
            }
            // A party makes one at a time.
            let invoked = (moment - before).max(last[party]);
            last[party] = moment;
            history.push(Operation {
                party,
                write,
                value,
                invoked,
                returned: moment + after,
            });
        }
        history
    }

    proptest! {
        #[test]
        fn what_a_real_register_does_is_fine(
            parts in prop::collection::vec((0usize..4, any::<bool>(), 0i64..80, 0i64..80), 1..400),
        ) {
            prop_assert_eq!(check(0, &real_history(&parts)), Ok(()));
        }

        /// One read of it sees what was overwritten long ago.
        #[test]
        fn what_a_real_register_does_not_is_found(
            mut parts in prop::collection::vec((0usize..4, any::<bool>(), 0i64..80, 0i64..80), 60..300),
            late in 0usize..20,
        ) {
            parts[2].1 = true;
            parts[30].1 = true;
            let at = 59 - late;
            parts[at].1 = false;
            let mut history = real_history(&parts);
            history[at].value = 3;
            prop_assert!(check(0, &history).is_err());
        }
    }

    #[test]
    fn many_operations_take_little_time() {
        let parts: Vec<_> = (0..200_000)
            .map(|n| (n % 4, n % 3 == 0, 30, (n % 7) as i64 * 10))
            .collect();
        assert_eq!(check(0, &real_history(&parts)), Ok(()));
    }
}
