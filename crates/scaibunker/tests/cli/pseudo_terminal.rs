//! The program in a terminal of its own.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    stdio::stdin,
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// Far more than any test needs; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// A person's terminal, with the program in it.
pub struct PseudoTerminal {
    terminal: File,
    pub child: Child,
    shown: watch::Receiver<Vec<u8>>,
}

impl PseudoTerminal {
    /// Starts `command` in a terminal of this size.
    pub fn start(mut command: Command, cols: u16, rows: u16) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        set_size(&terminal, cols, rows);
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let end = open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let end = end.unwrap();
        let stdio = |end: &OwnedFd| Stdio::from(end.try_clone().unwrap());
        command.stdin(stdio(&end)).stdout(stdio(&end)).stderr(stdio(&end));
        // SAFETY: between fork and exec only two system calls are made.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                Ok(ioctl_tiocsctty(stdin())?)
            });
        }
        let child = command.spawn().unwrap();
        // What the parent holds of the program's end would keep it open.
        drop((command, end));
        let terminal = File::from(terminal);
        let (sender, shown) = watch::channel(Vec::new());
        let mut reader = terminal.try_clone().unwrap();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // The read fails once nobody has the other end any more.
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                sender.send_modify(|shown| shown.extend_from_slice(&piece[..length]));
            }
        });
        Self { terminal, child, shown }
    }

    /// Waits until the terminal shows `text`.
    pub async fn shows(&mut self, text: &str) {
        let has_text = |shown: &Vec<u8>| String::from_utf8_lossy(shown).contains(text);
        let found = matches!(timeout(LIMIT, self.shown.wait_for(has_text)).await, Ok(Ok(_)));
        assert!(found, "{text:?} is not in {:?}", self.text());
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.borrow()).into_owned()
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    pub fn resize(&self, cols: u16, rows: u16) {
        set_size(&self.terminal, cols, rows);
    }

    /// Whether keys are passed on at once and not shown by the terminal itself.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Whether the terminal shows the keys itself.
    pub fn shows_what_is_typed(&self) -> bool {
        tcgetattr(&self.terminal).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the program's end and gives its exit code.
    pub async fn code(&mut self) -> i32 {
        match timeout(LIMIT, self.child.wait()).await {
            Ok(ended) => ended.unwrap().code().unwrap(),
            Err(_) => panic!("it hangs: {:?}", self.text()),
        }
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, ws_col: u16, ws_row: u16) {
    tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}
