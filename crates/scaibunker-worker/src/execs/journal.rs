//! The last output of one command, and how far each reader has come.
//!
//! Pure: the caller passes the time in, and waits where it is told to. A frame that finds no room
//! pushes the oldest ones out, unless a reader that must be waited for has not seen them.

use std::collections::VecDeque;

use scaibunker_guest_protocol::frame::Frame;
use tokio::time::{Duration, Instant};

/// How long a reader may stand still before output goes on without it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Bounds what many tiny frames cost beside their bytes.
const MAX_FRAMES: usize = 16 * 1024;

/// Names one reader of a journal.
pub type ReaderId = u64;

/// How long a reader is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Endless,
    /// [`PATIENCE`] without progress.
    Limited,
}

/// What a reader gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Frame(Frame),
    /// Output is missing here; the next frame has this number.
    Gap {
        next_seq: u64,
    },
}

/// There is no room for a frame until a reader goes on, or until this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    pub until: Option<Instant>,
}

#[derive(Debug)]
struct Position {
    id: ReaderId,
    next_seq: u64,
    patience: Patience,
    /// Since when it has something to read and has not read it.
    still_since: Instant,
}

/// Numbered output frames within a bound, and their readers.
#[derive(Debug)]
pub struct Journal {
    capacity: usize,
    frames: VecDeque<Frame>,
    bytes: usize,
    next_seq: u64,
    readers: Vec<Position>,
}

impl Journal {
    /// An empty journal of at most `capacity` bytes, or one frame that is longer. Its first frame
    /// gets the number `next_seq`.
    #[must_use]
    pub fn new(capacity: usize, next_seq: u64) -> Self {
        Self { capacity, frames: VecDeque::new(), bytes: 0, next_seq, readers: Vec::new() }
    }

    /// Number of the oldest frame that is there, or of the next one.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.next_seq - self.frames.len() as u64
    }

    /// Number that the next frame gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Bytes of output that are there.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn reader_count(&self) -> usize {
        self.readers.len()
    }

    /// Adds a reader at `from_seq`, or at the oldest frame; its position then. One behind the end
    /// gets what comes next.
    pub fn attach(
        &mut self,
        id: ReaderId,
        from_seq: Option<u64>,
        patience: Patience,
        now: Instant,
    ) -> u64 {
        let next_seq = from_seq.unwrap_or_else(|| self.first_seq()).min(self.next_seq);
        self.readers.push(Position { id, next_seq, patience, still_since: now });
        next_seq
    }

    /// Removes a reader, if it is there.
    pub fn detach(&mut self, id: ReaderId) {
        self.readers.retain(|reader| reader.id != id);
    }

    /// Makes room for a frame of `length` bytes.
    pub fn make_room(&mut self, length: usize, now: Instant) -> Result<(), NoRoom> {
        while self.frames.len() >= MAX_FRAMES || self.bytes + length > self.capacity {
            if self.frames.is_empty() {
                return Ok(());
            }
            self.may_drop_oldest(now)?;
            if let Some(oldest) = self.frames.pop_front() {
                self.bytes -= oldest.payload.len();
            }
        }
        Ok(())
    }

    /// Whether nobody waits for the oldest frame any more.
    fn may_drop_oldest(&self, now: Instant) -> Result<(), NoRoom> {
        let first_seq = self.first_seq();
        let mut until = None;
        for reader in self.readers.iter().filter(|reader| reader.next_seq <= first_seq) {
            match reader.patience {
                Patience::Endless => return Err(NoRoom { until: None }),
                Patience::Limited => until = until.max(Some(reader.still_since + PATIENCE)),
            }
        }
        if until.is_some_and(|until| now < until) { Err(NoRoom { until }) } else { Ok(()) }
    }

    /// Adds a frame, for which [`Self::make_room`] has made room.
    pub fn push(&mut self, frame: Frame, now: Instant) {
        for reader in self.readers.iter_mut().filter(|reader| reader.next_seq == self.next_seq) {
            reader.still_since = now;
        }
        self.bytes += frame.payload.len();
        self.frames.push_back(frame);
        self.next_seq += 1;
    }

    /// What the reader gets next; `None` when it has seen all there is.
    pub fn next(&mut self, id: ReaderId, now: Instant) -> Option<Next> {
        let first_seq = self.first_seq();
        let reader = self.readers.iter_mut().find(|reader| reader.id == id)?;
        if reader.next_seq < first_seq {
            reader.next_seq = first_seq;
            reader.still_since = now;
            return Some(Next::Gap { next_seq: first_seq });
        }
        let frame = self.frames.get((reader.next_seq - first_seq) as usize)?.clone();
        reader.next_seq += 1;
        reader.still_since = now;
        Some(Next::Frame(frame))
    }

    /// Drops every frame.
    pub fn clear(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_guest_protocol::frame::FrameKind;

    use super::*;

    const CAPACITY: usize = 100;

    fn frame(length: usize) -> Frame {
        Frame::data(FrameKind::Stdout, vec![b'x'; length].into())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Attach { from_seq: Option<u64>, is_patient: bool },
        Detach(usize),
        Push(usize),
        Read(usize),
        Pass(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (proptest::option::of(0u64..50), any::<bool>())
                .prop_map(|(from_seq, is_patient)| Step::Attach { from_seq, is_patient }),
            1 => (0usize..4).prop_map(Step::Detach),
            8 => (0usize..60).prop_map(Step::Push),
            6 => (0usize..4).prop_map(Step::Read),
            2 => (0u64..7_000).prop_map(Step::Pass),
        ]
    }

    struct Watcher {
        id: ReaderId,
        next_seq: u64,
        is_patient: bool,
        /// It asked for output that was gone already.
        starts_with_gap: bool,
        behind_since: Option<Instant>,
    }

    proptest! {
        #[test]
        fn readers_miss_nothing_unless_told_and_memory_is_bounded(
            steps in proptest::collection::vec(any_step(), 0..200),
        ) {
            let mut now = Instant::now();
            let mut journal = Journal::new(CAPACITY, 0);
            let mut watchers: Vec<Watcher> = Vec::new();
            let mut pushed = 0u64;
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Attach { from_seq, is_patient } => {
                        let patience =
                            if is_patient { Patience::Endless } else { Patience::Limited };
                        let next_seq = journal.attach(id as u64, from_seq, patience, now);
                        prop_assert_eq!(
                            next_seq,
                            from_seq.unwrap_or(journal.first_seq()).min(pushed)
                        );
                        watchers.push(Watcher {
                            id: id as u64,
                            next_seq,
                            is_patient,
                            starts_with_gap: next_seq < journal.first_seq(),
                            behind_since: (next_seq < pushed).then_some(now),
                        });
                    }
                    Step::Detach(at) if at < watchers.len() => {
                        journal.detach(watchers.swap_remove(at).id);
                    }
                    Step::Push(length) => match journal.make_room(length, now) {
                        Ok(()) => {
                            journal.push(frame(length), now);
                            pushed += 1;
                            for watcher in &mut watchers {
                                watcher.behind_since.get_or_insert(now);
                            }
                        }
                        Err(NoRoom { until }) => {
                            let patient = watchers.iter().any(|watcher| watcher.is_patient);
                            let recent = watchers.iter().any(|watcher| {
                                watcher.behind_since.is_some_and(|since| now < since + PATIENCE)
                            });
                            let allowed = if until.is_none() { patient } else { recent };
                            prop_assert!(allowed);
                        }
                    },
                    Step::Read(at) if at < watchers.len() => {
                        let watcher = &mut watchers[at];
                        match journal.next(watcher.id, now) {
                            None => prop_assert_eq!(watcher.next_seq, pushed),
                            Some(Next::Frame(_)) => watcher.next_seq += 1,
                            Some(Next::Gap { next_seq }) => {
                                prop_assert!(!watcher.is_patient || watcher.starts_with_gap);
                                prop_assert!(next_seq > watcher.next_seq);
                                watcher.next_seq = next_seq;
                            }
                        }
                        watcher.starts_with_gap = false;
                        watcher.behind_since = (watcher.next_seq < pushed).then_some(now);
                    }
                    Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                    Step::Detach(_) | Step::Read(_) => {}
                }
                prop_assert!(journal.bytes() <= CAPACITY);
                prop_assert_eq!(journal.next_seq(), pushed);
            }
        }
    }

    #[test]
    fn without_readers_the_oldest_output_goes() {
        let (mut journal, now) = (Journal::new(CAPACITY, 7), Instant::now());
        for _ in 0..10 {
            journal.make_room(40, now).unwrap();
            journal.push(frame(40), now);
        }
        assert_eq!((journal.first_seq(), journal.next_seq(), journal.bytes()), (15, 17, 80));
        journal.make_room(500, now).unwrap();
        journal.push(frame(500), now);
        assert_eq!(journal.first_seq(), 17);
    }

    #[test]
    fn tiny_frames_are_bounded_by_their_number() {
        let (mut journal, now) = (Journal::new(1 << 20, 0), Instant::now());
        for _ in 0..2 * MAX_FRAMES {
            journal.make_room(0, now).unwrap();
            journal.push(frame(0), now);
        }
        assert_eq!(journal.first_seq() as usize, MAX_FRAMES);
    }

    #[test]
    fn an_impatient_reader_loses_output_after_five_seconds_and_is_then_waited_for_again() {
        let (mut journal, begun) = (Journal::new(CAPACITY, 0), Instant::now());
        journal.attach(1, None, Patience::Limited, begun);
        journal.push(frame(100), begun);
        let full = NoRoom { until: Some(begun + PATIENCE) };
        assert_eq!(journal.make_room(100, begun), Err(full));
        let late = begun + PATIENCE;
        assert_eq!(journal.make_room(100, late), Ok(()));
        journal.push(frame(100), late);
        assert_eq!(journal.make_room(100, late), Ok(()), "it was not waited for twice");
        journal.push(frame(100), late);
        assert_eq!(journal.next(1, late), Some(Next::Gap { next_seq: 2 }));
        let full = NoRoom { until: Some(late + PATIENCE) };
        assert_eq!(journal.make_room(100, late), Err(full));
    }
}
