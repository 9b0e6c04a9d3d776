//! The terminal this program is used from.

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use scaibunker_api::worker::ResizeTerminal;

/// What programs take for granted when nobody tells a size.
const USUAL_SIZE: ResizeTerminal = ResizeTerminal { cols: 80, rows: 24 };

/// How the terminal was before it was changed; `None` while it is not.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal of standard input raw: each key is a byte of input, none has a meaning here.
/// Dropping it, also while panicking, restores what was before.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes the terminal raw. The guard does nothing when standard input is none.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let before = tcgetattr(&stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        }
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Keeps the terminal of standard input from showing what is typed, for the entry of a secret.
/// Dropping it restores what was before.
#[derive(Debug)]
pub struct HiddenInput(());

impl HiddenInput {
    /// Hides what is typed from now on.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut hidden = before.clone();
        hidden.local_modes -= LocalModes::ECHO;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
        Ok(Self(()))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        restore();
    }
}

/// Undoes what a [`RawMode`] or a [`HiddenInput`] did, for exits that drop nothing.
pub fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Whether a person sits at both ends.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal that shows the output, else of the one that is typed at.
pub fn size() -> ResizeTerminal {
    [tcgetwinsize(io::stdout()), tcgetwinsize(io::stdin())]
        .into_iter()
        .flatten()
        .find(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(USUAL_SIZE, |size| ResizeTerminal { cols: size.ws_col, rows: size.ws_row })
}
