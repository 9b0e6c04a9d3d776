//! The commands that run now, for requests that name one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;
use scaibunker_guest_protocol::{
    GuestErrorKind,
    exec::{SendSignal, TerminalSize},
};

use super::terminal::Terminal;
use crate::{check, error::AgentError};

/// Numbers of signals, real-time ones included.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// All commands that run, by exec id; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Running {
    commands: Arc<Mutex<HashMap<String, Reachable>>>,
}

#[derive(Debug)]
struct Reachable {
    leader: i32,
    terminal: Option<Arc<Terminal>>,
}

/// Keeps a command reachable.
#[derive(Debug)]
pub struct Listed {
    running: Running,
    exec_id: String,
}

impl Running {
    /// Makes a command that has started reachable, until the answer is dropped.
    pub fn list(&self, exec_id: &str, leader: u32, terminal: Option<Arc<Terminal>>) -> Listed {
        let reachable = Reachable { leader: leader.cast_signed(), terminal };
        self.commands().insert(exec_id.to_owned(), reachable);
        Listed { running: self.clone(), exec_id: exec_id.to_owned() }
    }

    /// Sends a signal to the process group that the command leads, or that its terminal has in
    /// the foreground.
    pub fn signal(
        &self,
        exec_id: &str,
        SendSignal { signal }: SendSignal,
    ) -> Result<(), AgentError> {
        if !SIGNALS.contains(&signal) {
            return Err(AgentError::Invalid(format!("there is no signal {signal}")));
        }
        let commands = self.commands();
        let command = commands.get(exec_id).ok_or_else(|| unknown(exec_id))?;
        let foreground = command.terminal.as_ref().and_then(|terminal| terminal.foreground());
        let group = foreground.map_or(command.leader, |group| group.as_raw_nonzero().get());
        // SAFETY: takes two numbers.
        match check(unsafe { libc::kill(-group, signal) }) {
            // All of it has ended meanwhile.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(()),
            sent => sent.map(|_| ()).map_err(AgentError::io("send the signal")),
        }
    }

    /// Sets the size of the command's terminal.
    pub fn resize(&self, exec_id: &str, size: TerminalSize) -> Result<(), AgentError> {
        let commands = self.commands();
        let command = commands.get(exec_id).ok_or_else(|| unknown(exec_id))?;
        let none = || AgentError::Conflict(format!("`{exec_id}` has no terminal"));
        command.terminal.as_ref().ok_or_else(none)?.resize(size)
    }

    fn commands(&self) -> MutexGuard<'_, HashMap<String, Reachable>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.commands().remove(&self.exec_id);
    }
}

fn unknown(exec_id: &str) -> AgentError {
    AgentError::refused(GuestErrorKind::NotFound, format!("no command `{exec_id}` runs"))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::Command,
    };

    use super::*;

    #[test]
    fn a_signal_reaches_the_whole_group_of_a_listed_command_only() {
        let running = Running::default();
        let mut child =
            Command::new("sh").args(["-c", "sleep 60; true"]).process_group(0).spawn().unwrap();
        let signal = |number| running.signal("exe_1", SendSignal { signal: number });
        assert_eq!(signal(15).unwrap_err().kind(), GuestErrorKind::NotFound);
        let listed = running.list("exe_1", child.id(), None);
        for number in [0, -9, 65] {
            assert_eq!(signal(number).unwrap_err().kind(), GuestErrorKind::Invalid);
        }
        let size = TerminalSize { cols: 80, rows: 24 };
        assert_eq!(running.resize("exe_1", size).unwrap_err().kind(), GuestErrorKind::Conflict);
        signal(34).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(34));
        signal(15).unwrap();
        drop(listed);
        assert_eq!(signal(15).unwrap_err().kind(), GuestErrorKind::NotFound);
    }
}
