// SPDX-License-Identifier: GPL-2.0

//! Virtual time, what is going to happen in it, and the tasks that live in it.
//!
//! Everything happens on one thread, in the order of virtual time; what the kernel would leave to chance (which task runs first, how
//! long it takes to be woken) is drawn from the one generator of random numbers. So the seed of that is the whole of a run.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::BinaryHeap,
    future::Future,
    pin::{pin, Pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use vremote_exercise::random::{mix, Random};

/// Microseconds of virtual time since the run began.
pub type Time = u64;

/// A node from when it is started to when it crashes: whom a task or an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Number of the node.
    pub node: usize,
    /// How often it has been started.
    pub life: u64,
}

/// Names a task; never two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId {
    place: u32,
    generation: u32,
}

impl TaskId {
    /// A number that tells it from all others; never 0.
    pub fn number(self) -> u64 {
        (u64::from(self.generation) << 32) | (u64::from(self.place) + 1)
    }
}

/// Something that is going to happen.
#[derive(Debug)]
pub enum Event {
    /// A task was woken. `alarm`: because the time that it waits for is there, and not by [`Sim::wake`].
    Task {
        /// Which one.
        id: TaskId,
        /// See above.
        alarm: bool,
    },
    /// A datagram comes out of the network.
    Arrival {
        /// Node that sent it.
        from: usize,
        /// Node that it is for.
        to: usize,
        /// Its bytes.
        datagram: Rc<[u8]>,
    },
    /// The receive thread of a node takes the next datagram.
    Receive(Home),
    /// The timer of a node is due.
    Timer(Home),
}

struct Entry {
    time: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.time, self.order).cmp(&(other.time, other.order))
    }
}

type Body = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    generation: u32,
    home: Home,
    /// `None` while it runs, and when it has ended.
    body: Option<Body>,
    alive: bool,
    queued: bool,
    killed: bool,
}

/// Time from when a task is woken to when it runs, and the like, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Jitter {
    /// Longest in most cases.
    pub usual: u64,
    /// Longest in rare ones.
    pub rare: u64,
    /// How rare: once in so many times.
    pub once_in: u64,
}

/// Where the lines of a trace go.
pub type Sink = Box<dyn FnMut(&str)>;

/// The clock, the queue of events, the tasks, the generator, the trace.
pub struct Sim {
    now: Cell<Time>,
    queue: RefCell<BinaryHeap<Reverse<Entry>>>,
    order: Cell<u64>,
    random: RefCell<Random>,
    jitter: Jitter,
    tasks: RefCell<Vec<Task>>,
    free: RefCell<Vec<u32>>,
    current: Cell<Option<TaskId>>,
    events: Cell<u64>,
    hash: Cell<u64>,
    sink: RefCell<Option<Sink>>,
}

impl Sim {
    /// Nothing is going to happen yet.
    pub fn new(random: Random, jitter: Jitter, sink: Option<Sink>) -> Rc<Sim> {
        Rc::new(Sim {
            now: Cell::new(0),
            queue: RefCell::default(),
            order: Cell::new(0),
            random: RefCell::new(random),
            jitter,
            tasks: RefCell::default(),
            free: RefCell::default(),
            current: Cell::new(None),
            events: Cell::new(0),
            hash: Cell::new(0),
            sink: RefCell::new(sink),
        })
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        self.now.get()
    }

    /// Draws from the generator.
    pub fn draw<T>(&self, with: impl FnOnce(&mut Random) -> T) -> T {
        with(&mut self.random.borrow_mut())
    }

    /// A number below the limit, which is not 0.
    pub fn below(&self, limit: u64) -> u64 {
        self.draw(|random| random.below(limit))
    }

    /// True `parts` times in a million.
    pub fn chance(&self, parts: u64) -> bool {
        parts != 0 && self.below(1_000_000) < parts
    }

    /// How long the processor takes to get to something.
    pub fn delay(&self) -> u64 {
        let Jitter {
            usual,
            rare,
            once_in,
        } = self.jitter;
        self.draw(|random| {
            let longest = if random.once_in(once_in) { rare } else { usual };
            random.below(longest + 1)
        })
    }

    // ---- events ------------------------------------------------------------------------------------------------

    /// Has something happen at this time, or now if that is over.
    pub fn at(&self, time: Time, event: Event) {
        let order = self.order.get();
        self.order.set(order + 1);
        self.queue.borrow_mut().push(Reverse(Entry {
            time: time.max(self.now.get()),
            order,
            event,
        }));
    }

    /// Lets time go on to the next event.
    pub fn next_event(&self) -> Option<Event> {
        let Reverse(entry) = self.queue.borrow_mut().pop()?;
        self.now.set(entry.time);
        self.events.set(self.events.get() + 1);
        Some(entry.event)
    }

    /// Forgets everything that was going to happen.
    pub fn clear(&self) {
        self.queue.borrow_mut().clear();
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    // ---- tasks -------------------------------------------------------------------------------------------------

    /// Begins a task, which runs a little later for the first time.
    pub fn spawn(&self, home: Home, body: impl Future<Output = ()> + 'static) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        let body: Option<Body> = Some(Box::pin(body));
        let place = match self.free.borrow_mut().pop() {
            Some(place) => place,
            None => {
                tasks.push(Task {
                    generation: 0,
                    home,
                    body: None,
                    alive: false,
                    queued: false,
                    killed: false,
                });
                tasks.len() as u32 - 1
            }
        };
        let task = &mut tasks[place as usize];
        *task = Task {
            generation: task.generation + 1,
            home,
            body,
            alive: true,
            queued: false,
            killed: false,
        };
        let id = TaskId {
            place,
            generation: task.generation,
        };
        drop(tasks);
        self.wake(id);
        id
    }

    /// Has a task look again at what it waits for, a little later.
    pub fn wake(&self, id: TaskId) {
        let wanted = {
            let mut tasks = self.tasks.borrow_mut();
            find(&mut tasks, id)
                .is_some_and(|task| task.alive && !core::mem::replace(&mut task.queued, true))
        };
        if wanted {
            let time = self.now.get() + self.delay();
            self.at(time, Event::Task { id, alarm: false });
        }
    }

    /// The task that runs.
    ///
    /// # Panics
    ///
    /// None does.
    pub fn current(&self) -> TaskId {
        self.current.get().expect("only tasks wait")
    }

    /// [`TaskId::number`] of the task that runs; 0: none does, but the receive thread or the timer.
    pub fn current_number(&self) -> u64 {
        self.current.get().map_or(0, TaskId::number)
    }

    /// Sends a task a signal that kills: its killable waits end.
    pub fn kill(&self, id: TaskId) {
        if let Some(task) = find(&mut self.tasks.borrow_mut(), id) {
            task.killed = true;
        }
        self.wake(id);
    }

    /// Whether the task that runs was killed.
    pub fn killed(&self) -> bool {
        let current = self.current();
        find(&mut self.tasks.borrow_mut(), current).is_some_and(|task| task.killed)
    }

    /// The task that runs was killed, and ends its process; the next one is another.
    pub fn bury(&self) {
        let current = self.current();
        if let Some(task) = find(&mut self.tasks.borrow_mut(), current) {
            task.killed = false;
        }
    }

    /// Whom a task belongs to; `None`: it has ended.
    pub fn home(&self, id: TaskId) -> Option<Home> {
        find(&mut self.tasks.borrow_mut(), id)
            .filter(|task| task.alive)
            .map(|task| task.home)
    }

    /// Runs a task until it waits.
    pub fn run(&self, id: TaskId, alarm: bool) {
        let body = {
            let mut tasks = self.tasks.borrow_mut();
            find(&mut tasks, id).and_then(|task| {
                task.queued &= alarm;
                task.body.take()
            })
        };
        let Some(mut body) = body else { return };
        self.current.set(Some(id));
        let ended = body
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        self.current.set(None);
        if ended {
            self.free.borrow_mut().push(id.place);
        }
        if let Some(task) = find(&mut self.tasks.borrow_mut(), id) {
            task.alive = !ended;
            if !ended {
                task.body = Some(body);
            }
        }
    }

    /// Ends all tasks of a node, wherever they are.
    pub fn end(&self, node: usize) {
        let mut bodies = Vec::new();
        for (place, task) in self.tasks.borrow_mut().iter_mut().enumerate() {
            if task.alive && task.home.node == node {
                task.alive = false;
                bodies.extend(task.body.take());
                self.free.borrow_mut().push(place as u32);
            }
        }
        // What they hold may wake others.
        drop(bodies);
    }

    // ---- trace -------------------------------------------------------------------------------------------------

    /// Notes something, on a node or on none: the words go into the hash of the run, the text into its trace, if somebody reads that.
    pub fn note(&self, node: Option<usize>, words: &[u64], text: impl FnOnce() -> String) {
        let fold = |hash: u64, word: &u64| mix(hash.rotate_left(7) ^ word);
        let now = self.now.get();
        let who = node.map_or(u64::MAX, |node| node as u64);
        let hash = fold(fold(self.hash.get(), &now), &who);
        self.hash.set(words.iter().fold(hash, fold));
        if let Some(sink) = &mut *self.sink.borrow_mut() {
            let who = node.map_or("--".into(), |node| format!("n{node}"));
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            sink(&format!("{seconds:4}.{micros:06} {who} {}", text()));
        }
    }

    /// Hash of all that was noted.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }
}

fn find(tasks: &mut [Task], id: TaskId) -> Option<&mut Task> {
    tasks
        .get_mut(id.place as usize)
        .filter(|task| task.generation == id.generation)
}

/// The outcome of what does not wait.
///
/// # Panics
///
/// It does.
pub fn at_once<T>(body: impl Future<Output = T>) -> T {
    match pin!(body).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("the receive thread waited"),
    }
}
