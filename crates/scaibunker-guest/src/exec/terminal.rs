//! A terminal of the bunker for one command.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{FileType, Mode, OFlags, fchmod, fchown, fstat, major, minor},
    io::{Errno, fcntl_dupfd_cloexec},
    process::Pid,
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
    thread::Uid,
};
use scaibunker_guest_protocol::exec::TerminalSize;

use crate::{accounts::Account, error::AgentError, root::BunkerRoot, root_files};

/// Device number of every `ptmx`.
const PTMX: (u32, u32) = (5, 2);

/// Who may write to a terminal: its user, and programs such as `wall` through its group.
const DEVICE_MODE: u32 = 0o620;

/// The agent's end of a terminal.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
}

impl Terminal {
    /// Makes a terminal in the bunker's own `/dev/pts`, so that the bunker's programs find it by
    /// name, and opens its device.
    pub fn open(
        root: &BunkerRoot,
        account: &Account,
        size: TerminalSize,
    ) -> Result<(Self, OwnedFd), AgentError> {
        let failed = || AgentError::io("make a terminal");
        let fd = root_files::open(root.dir(), "dev/pts/ptmx", OFlags::RDWR, Mode::empty())
            .map_err(failed())?;
        let found = fstat(&fd).map_err(failed())?;
        // The bunker's root may have put something else there.
        if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice
            || (major(found.st_rdev), minor(found.st_rdev)) != PTMX
        {
            return Err(AgentError::Conflict("/dev/pts/ptmx of the bunker is no ptmx".to_owned()));
        }
        let terminal = Self { fd };
        terminal.resize(size)?;
        let device = terminal.open_device(account).map_err(failed())?;
        Ok((terminal, device))
    }

    fn open_device(&self, account: &Account) -> Result<OwnedFd, Errno> {
        unlockpt(&self.fd)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let device = ioctl_tiocgptpeer(&self.fd, flags)?;
        fchown(&device, Some(Uid::from_raw(account.uid)), None)?;
        fchmod(&device, Mode::from_raw_mode(DEVICE_MODE))?;
        Ok(device)
    }

    /// Another descriptor of the same end.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(&self.fd, 3)?)
    }

    /// Sets the size, and has the kernel tell the programs in it.
    pub fn resize(&self, size: TerminalSize) -> Result<(), AgentError> {
        if size.cols == 0 || size.rows == 0 {
            return Err(AgentError::Invalid("a terminal has columns and rows".to_owned()));
        }
        let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.fd, size).map_err(AgentError::io("resize the terminal"))
    }

    /// The process group that the terminal's keys would reach.
    pub fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.fd).ok()
    }
}
