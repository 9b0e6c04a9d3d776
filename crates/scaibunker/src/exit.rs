//! How the program ends: exit codes, and failures as people read them.

use std::{io::Write as _, process::ExitCode};

use crate::{client::ClientError, output, signals::StopSignal};

/// A failure of this program or of the server.
pub const FAILED: u8 = 1;

/// The command was ended because its time was up, as timeout(1) reports it.
pub const TIMED_OUT: u8 = 124;

/// A failure of everything but the command, where the command's own code is passed on.
pub const FAILED_AROUND_COMMAND: u8 = 125;

/// 128 + SIGPIPE: what a shell shows for a program whose reader has gone.
const OUTPUT_CLOSED: u8 = 141;

/// The table of `--help`.
pub const HELP: &str = "\
Exit codes:
  0    success
  1    failure; the message names the cause and the next step
  2    wrong usage
  130  interrupted with Ctrl-C (143: by SIGTERM, 129: by SIGHUP)
  141  the reader of the output went away

`run`, `exec`, `shell` and `logs -f` end with the command's own code (128 + N when signal N ended
it, 126 when it cannot be executed, 127 when it is not found), except
  124  the command's time was up
  125  failure of anything but the command";

/// Why a command has no result.
#[derive(Debug)]
pub enum Failure {
    /// Something went wrong; shown in one line.
    Error(anyhow::Error),
    /// A signal asked the program to end; what it had made is cleaned up.
    Stopped(StopSignal),
    /// Nobody reads standard output any more. Not worth a word.
    OutputClosed,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Error(error.into())
    }
}

impl Failure {
    /// Tells the person, and gives the code to exit with; `code` is the one for errors.
    pub fn exit(self, code: u8) -> ExitCode {
        match self {
            Self::Error(error) => report(code, &format!("{error:#}")),
            Self::Stopped(signal) => signal.exit_code().into(),
            Self::OutputClosed => OUTPUT_CLOSED.into(),
        }
    }
}

/// Prints one line about what went wrong. The text may come from the server or, through it, from
/// a guest, so nothing in it reaches the terminal as a control sequence.
pub fn report(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {}", output::printable(message));
    code.into()
}
