//! What the simulated worker's bunkers can run: `echo TEXT…`, `cat`, `bytes N [unkept]` (N bytes
//! of `x`), `forgotten N` (N frames that are forgotten at once, then one), `hex DIGITS…` (a piece
//! each), `yes` (for ever), `exit CODE`, `killed`, `sleep` (until a signal), `die` (the bunker
//! ends), `stop answering` and `hang up` (the stream ends or breaks). It knows
//! nothing else, and no `/bin/sh`. A shell says its size, echoes
//! what it reads, says which signals and sizes it is told, and knows `exit CODE` and `yes`.

use bytes::Bytes;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{Command, ExecMode, MAX_ANSWER_BYTES},
    worker::{ExecEnd, KeptOutput, WorkerBunkerState},
};
use scaibunker_guest_protocol::frame::FrameKind::{Stderr, Stdout};
use tokio::sync::mpsc;

use super::{
    SimWorker,
    execs::{End, SimExec, forever, until},
};

const PIECE_BYTES: usize = 64 * 1024;

fn exited(exit_code: i32) -> ExecEnd {
    ExecEnd {
        exit_code,
        signal: None,
        timed_out: false,
        oom_killed: false,
        duration_ms: 1,
        stdout_bytes: 0,
        stderr_bytes: 0,
        kept: KeptOutput::default(),
    }
}

pub async fn run(worker: &SimWorker, exec: &SimExec, mut input: mpsc::Receiver<Bytes>) -> End {
    if exec.start.mode == ExecMode::Shell {
        return shell(exec, input).await;
    }
    let Some(Command::Argv(argv)) = &exec.start.command else {
        return End::Exited(exited(127));
    };
    let mut end = exited(0);
    match argv[0].as_str() {
        "echo" => {
            exec.print(Stdout, format!("{}\n", argv[1..].join(" "))).await;
            exec.print(Stderr, "said\n").await;
        }
        "cat" => {
            while let Some(bytes) = input.recv().await {
                exec.print(Stdout, bytes).await;
            }
        }
        "bytes" => {
            let count: usize = argv[1].parse().unwrap();
            for at in (0..count).step_by(PIECE_BYTES) {
                exec.print(Stdout, vec![b'x'; PIECE_BYTES.min(count - at)]).await;
            }
            end.stdout_bytes = count as u64;
            if exec.start.keep_output && count > MAX_ANSWER_BYTES {
                match argv.get(2) {
                    None => end.kept.stdout = Some(format!("{}.stdout", exec.id)),
                    Some(_) => end.kept.error = Some("the store is full".to_owned()),
                }
            }
        }
        "forgotten" => {
            for number in 0..argv[1].parse::<usize>().unwrap() {
                exec.print(Stdout, format!("{number}\n")).await;
            }
            exec.forget_output();
            exec.print(Stdout, "last\n").await;
        }
        "hex" => {
            for digits in &argv[1..] {
                let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
                let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
                exec.print(Stdout, bytes).await;
            }
        }
        "yes" => loop {
            exec.print(Stdout, vec![b'y'; PIECE_BYTES]).await;
        },
        "exit" => end.exit_code = argv[1].parse().unwrap(),
        "killed" => {
            end.exit_code = 137;
            end.signal = Some(9);
        }
        "sleep" => {
            until(exec, |exec| !exec.signals().is_empty()).await;
            end.signal = Some(exec.signals()[0]);
            end.exit_code = 128 + exec.signals()[0];
        }
        "die" => {
            let ended = WorkerBunkerState::Ended { reason: "died".to_owned() };
            worker.held().insert(exec.bunker, ended);
            return End::Failed(ErrorBody::new(ErrorCode::BunkerLost, "the microVM died"));
        }
        "stop answering" => return End::Silence,
        "hang up" => return End::Reset,
        "linger" => return forever().await,
        _ => end.exit_code = 127,
    }
    End::Exited(end)
}

async fn shell(exec: &SimExec, mut input: mpsc::Receiver<Bytes>) -> End {
    let size = exec.start.terminal.unwrap();
    exec.print(Stdout, format!("size {}x{}\n", size.cols, size.rows)).await;
    if let Some(Command::Shell(line)) = &exec.start.command {
        exec.print(Stdout, format!("runs {line}\n")).await;
    }
    let (mut signals, mut sizes) = (0, 0);
    loop {
        let told = until(exec, |exec| exec.signals().len() > signals || exec.sizes().len() > sizes);
        let bytes = tokio::select! {
            bytes = input.recv() => bytes,
            () = told => {
                for signal in exec.signals().iter().skip(signals) {
                    exec.print(Stdout, format!("signal {signal}\n")).await;
                }
                for size in exec.sizes().iter().skip(sizes) {
                    exec.print(Stdout, format!("size {}x{}\n", size.cols, size.rows)).await;
                }
                (signals, sizes) = (exec.signals().len(), exec.sizes().len());
                continue;
            }
        };
        let Some(bytes) = bytes else { return forever().await };
        if bytes == "yes\n" {
            loop {
                exec.print(Stdout, vec![b'y'; PIECE_BYTES]).await;
            }
        }
        if bytes == "deaf\n" {
            return forever().await;
        }
        if bytes == "die\n" {
            return End::Failed(ErrorBody::new(ErrorCode::BunkerLost, "the microVM died"));
        }
        if let Some(code) = bytes.strip_prefix(b"exit ") {
            let code = std::str::from_utf8(code).unwrap().trim().parse().unwrap();
            return End::Exited(exited(code));
        }
        exec.print(Stdout, bytes).await;
    }
}
