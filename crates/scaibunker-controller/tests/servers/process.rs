//! A server's process that ends with whoever started it.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

/// Ends when this is dropped, and by the kernel's hand when the test process dies first.
pub struct ServerProcess(Child);

impl ServerProcess {
    pub fn spawn(mut command: Command) -> Self {
        let parent = std::process::id();
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(move || {
                let signal = rustix::process::Signal::KILL;
                rustix::process::set_parent_process_death_signal(Some(signal))?;
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
        Self(is_started.recv().unwrap())
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
