//! Being asked to end: the first signal is a request, the second one is obeyed at once.

use std::{io, process};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{output::Output, terminal};

/// A signal that asks the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl StopSignal {
    /// 128 + the signal's number, as a shell shows it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Tells when the program is asked to end. Clones see the same request.
#[derive(Debug, Clone)]
pub struct Stop {
    requested: watch::Receiver<Option<StopSignal>>,
}

impl Stop {
    /// Takes over SIGHUP, SIGINT and SIGTERM for the rest of the program's life.
    pub fn listen() -> io::Result<Self> {
        let mut signals = Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        let (sender, requested) = watch::channel(None);
        tokio::spawn(async move {
            sender.send_replace(Some(signals.next().await));
            let signal = signals.next().await;
            terminal::restore();
            process::exit(signal.exit_code().into());
        });
        Ok(Self { requested })
    }

    /// Tells the person who asks that the program is about to end, and how to end it at once.
    pub fn announced(self, output: Output) -> Self {
        let stop = self.clone();
        tokio::spawn(async move {
            stop.requested().await;
            output.note("stopping; Ctrl-C again quits at once and leaves what was made");
        });
        self
    }

    /// Waits for the request; returns at once when it was made already. Cancel-safe.
    pub async fn requested(&self) -> StopSignal {
        let mut requested = self.requested.clone();
        let seen = requested.wait_for(Option::is_some).await.map(|signal| *signal);
        match seen {
            Ok(Some(signal)) => signal,
            // The task that sends lives as long as the runtime.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The request, if there was one.
    pub fn signal(&self) -> Option<StopSignal> {
        *self.requested.borrow()
    }
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.hangup.recv() => StopSignal::Hangup,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}
