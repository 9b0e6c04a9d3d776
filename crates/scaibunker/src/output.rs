//! Speaking: data goes to standard output, everything else to standard error.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::anyhow;
use comfy_table::Table;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::exit::Failure;

/// How the caller wants to be spoken to.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether data is for programs: one JSON document.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether only data and errors are wanted.
    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Writes bytes to standard output, as they are.
    pub fn data(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(write_failed)
    }

    /// Writes one line to standard output.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        self.data(format!("{text}\n").as_bytes())
    }

    /// Writes ids to standard output, one a line.
    pub fn ids(self, ids: impl IntoIterator<Item = impl Display>) -> Result<(), Failure> {
        let lines: String = ids.into_iter().map(|id| format!("{id}\n")).collect();
        self.data(lines.as_bytes())
    }

    /// Writes a JSON document to standard output.
    pub fn document(self, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value)
            .map_err(|error| anyhow!("cannot write the answer as JSON: {error}"))?;
        self.line(&json)
    }

    /// Writes a table to standard output.
    pub fn table(self, table: &Table) -> Result<(), Failure> {
        self.line(&table.trim_fmt())
    }

    /// Tells a person something, in one line.
    pub fn note(self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{}", printable(text));
        }
    }

    /// A spinner for work that takes a while; gone when dropped. Only people at a terminal see it.
    pub fn progress(self, text: &str) -> Progress {
        self.progress_of(text, None, "{spinner} {msg}")
    }

    /// The same with a count of `steps`.
    pub fn counted_progress(self, text: &str, steps: u64) -> Progress {
        self.progress_of(text, Some(steps), "{spinner} {msg} {pos}/{len}")
    }

    /// The same for bytes on their way, `total` of them where that is known.
    pub fn byte_progress(self, text: &str, total: Option<u64>) -> Progress {
        let template = match total {
            None => "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}",
            Some(_) => {
                "{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} \
                 {binary_bytes_per_sec} {eta}"
            }
        };
        self.progress_of(text, total, template)
    }

    /// Bars for several things at once, each with a percentage.
    pub fn progresses(self) -> Progresses {
        let are_seen = !self.json && !self.quiet && io::stderr().is_terminal();
        let target =
            if are_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        Progresses { all, bars: Mutex::default(), are_seen }
    }

    fn progress_of(self, text: &str, total: Option<u64>, template: &str) -> Progress {
        if self.json || self.quiet || !io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let progress = Progress(bar.clone());
        progress.say(text);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        progress
    }
}

/// Work under way, as a person sees it.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Says what is being done now.
    pub fn say(&self, text: &str) {
        self.0.set_message(printable(text));
    }

    /// One more step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }

    /// Counts bytes from elsewhere.
    pub fn counter(&self) -> impl Fn(u64) + Send + 'static {
        let bar = self.0.clone();
        move |bytes| bar.inc(bytes)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Several things under way; gone when dropped.
#[derive(Debug)]
pub struct Progresses {
    all: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
    are_seen: bool,
}

impl Progresses {
    /// Whether a person sees them.
    pub fn are_seen(&self) -> bool {
        self.are_seen
    }

    /// Sets one of them, which is new if it was not there.
    pub fn set(&self, key: &str, text: &str, percent: u64) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(key.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(100));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}%") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(printable(text));
        bar.set_position(percent);
    }
}

impl Drop for Progresses {
    fn drop(&mut self) {
        // A bar that cannot be cleared is as well left there.
        let _ = self.all.clear();
    }
}

/// A reader that went away is no failure worth a message.
pub fn write_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::OutputClosed;
    }
    Failure::Error(anyhow!("cannot write the output: {error}"))
}

/// `text` in one line and without control characters. Names, labels and reasons come from other
/// people and from guests, and a terminal obeys what it is sent.
pub fn printable(text: &str) -> String {
    let is_harmful =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.trim_end().chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printable_steers_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc\u{202e}d\u{9b}e\n"), "a [31mb c d e");
        assert_eq!(printable("größe ✓"), "größe ✓");
    }
}
