//! A server's process and directory that end with whoever started it.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;

/// Ends when this is dropped, and by the kernel's hand when the test process dies first.
pub struct ServerProcess {
    child: Child,
    end: Signal,
}

impl ServerProcess {
    /// `end` is the signal upon which the server stops at once and leaves nothing behind.
    pub fn spawn(mut command: Command, end: Signal) -> Self {
        let parent = std::process::id();
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(end))?;
                let lives = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
                if lives == Some(parent) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::NotFound.into())
                }
            });
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // To the kernel the parent is the thread: it must outlive the test that wants the server.
        let (started, is_started) = mpsc::channel();
        thread::spawn(move || {
            let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let _ = started.send(child);
            loop {
                thread::park();
            }
        });
        Self { child: is_started.recv().unwrap(), end }
    }

    /// Waits until the server is there.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !ready() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{what} ended while it started: {status}");
            }
            assert!(Instant::now() < deadline, "{what} did not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = rustix::process::kill_process(self.pid(), self.end);
        let _ = self.child.wait();
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory that is removed when this is dropped, or when the test process is gone, however it
/// ended: servers that a whole test program shares are never dropped.
pub struct ServerDir {
    path: tempfile::TempDir,
    /// Sees the end of this process as the end of its input. Servers may write still when it does.
    _undertaker: Undertaker,
}

struct Undertaker(Child);

const REMOVE_AT_END: &str = r#"read -r _
for _ in $(seq 100); do rm -rf -- "$0" 2>/dev/null && exit; sleep 0.1; done"#;

impl ServerDir {
    pub fn new() -> Self {
        let path = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(REMOVE_AT_END).arg(path.path()).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // What a terminal sends to end the tests is not meant for it.
        command.process_group(0);
        Self { path, _undertaker: Undertaker(command.spawn().unwrap()) }
    }

    pub fn path(&self) -> &Path {
        self.path.path()
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
