//! The agent's own log: the newest lines, kept for whoever asks.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use scaibunker_guest_protocol::log::LogLine;
use tokio::sync::{mpsc, watch};

/// Lines kept; older ones are forgotten, and a reader that falls behind is told how many.
const MAX_LINES: usize = 256;

/// Bytes of one message kept.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Handle to the log; clones share it.
#[derive(Debug, Clone)]
pub struct Log {
    lines: Arc<Mutex<Lines>>,
    written: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Lines {
    /// Number of the first line in `ring`, counted from the boot.
    first: u64,
    ring: VecDeque<LogLine>,
}

impl Lines {
    fn push(&mut self, line: LogLine) {
        if self.ring.len() == MAX_LINES {
            self.ring.pop_front();
            self.first += 1;
        }
        self.ring.push_back(line);
    }

    /// The lines from number `next` on, and the number to go on with.
    fn since(&self, next: u64) -> (Vec<LogLine>, u64) {
        let mut lines = Vec::new();
        if next < self.first {
            let lost = self.first - next;
            lines.push(LogLine { message: format!("{lost} lines lost"), ..LogLine::default() });
        }
        let skip = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        lines.extend(self.ring.iter().skip(skip).cloned());
        (lines, self.first + self.ring.len() as u64)
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { lines: Arc::default(), written: watch::Sender::new(()) }
    }
}

impl Log {
    /// Writes a line about the agent as a whole.
    pub fn line(&self, message: impl Into<String>) {
        self.write(LogLine { message: message.into(), ..LogLine::default() });
    }

    /// Writes a line.
    pub fn write(&self, mut line: LogLine) {
        let end = line.message.floor_char_boundary(MAX_MESSAGE_BYTES);
        line.message.truncate(end);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.written.send_replace(());
    }

    /// Sends every kept line and every new one as JSON lines, until the receiver goes.
    pub async fn follow(self, to: mpsc::Sender<Bytes>) {
        let mut written = self.written.subscribe();
        let mut next = 0;
        loop {
            let lines;
            (lines, next) = self.lines.lock().unwrap_or_else(PoisonError::into_inner).since(next);
            for line in lines {
                let Ok(mut text) = serde_json::to_vec(&line) else { continue };
                text.push(b'\n');
                if to.send(text.into()).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = written.changed() => if changed.is_err() { return },
                () = to.closed() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_each_line_once_and_hears_of_lost_ones() {
        let mut lines = Lines::default();
        let line = |n: usize| LogLine { message: n.to_string(), ..LogLine::default() };
        lines.push(line(0));
        let (seen, next) = lines.since(0);
        assert_eq!((seen, next), (vec![line(0)], 1));
        for n in 1..=MAX_LINES + 2 {
            lines.push(line(n));
        }
        let (seen, next) = lines.since(next);
        assert_eq!(seen[0].message, "2 lines lost");
        assert_eq!(seen[1], line(3));
        assert_eq!(seen.len(), MAX_LINES + 1);
        assert_eq!(lines.since(next), (Vec::new(), next));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let log = Log::default();
        log.line("ä".repeat(MAX_MESSAGE_BYTES));
        let (lines, _) = log.lines.lock().unwrap().since(0);
        assert_eq!(lines[0].message.len(), MAX_MESSAGE_BYTES);
    }
}
