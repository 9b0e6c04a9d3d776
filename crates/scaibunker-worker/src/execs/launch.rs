//! What a guest is asked to run.

use scaibunker_api::{
    error::ErrorBody,
    exec::{Command, ExecMode},
    worker::{ResizeTerminal, StartExec},
};
use scaibunker_guest_protocol::exec::{ExecSpec, TerminalSize};

use crate::vm_home::Claim;

/// The guest's specification of a command. Its own environment wins over the bunker's, and that
/// over the image's.
pub fn guest_spec(
    start: &StartExec,
    claim: &Claim,
    request_id: &str,
) -> Result<ExecSpec, ErrorBody> {
    if start.mode == ExecMode::Shell && start.terminal.is_none() {
        return Err(ErrorBody::invalid("terminal", "a shell needs the size of its terminal"));
    }
    let argv = match &start.command {
        Some(Command::Shell(line)) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        Some(Command::Argv(argv)) => argv.clone(),
        None => Vec::new(),
    };
    let mut env = claim.env.clone();
    env.extend(start.env.clone());
    Ok(ExecSpec {
        exec_id: start.exec_id.to_string(),
        request_id: request_id.to_owned(),
        argv,
        cwd: start.cwd.clone(),
        default_cwd: claim.workdir.clone(),
        env,
        user: start.user.as_ref().unwrap_or(&claim.image_user).clone(),
        timeout_ms: start.timeout_s.map(|seconds| seconds.saturating_mul(1000)),
        terminal: start.terminal.map(terminal_size).transpose()?,
    })
}

/// A terminal's size as the guest takes it.
pub fn terminal_size(size: ResizeTerminal) -> Result<TerminalSize, ErrorBody> {
    let ResizeTerminal { cols, rows } = size;
    if cols == 0 || rows == 0 {
        return Err(ErrorBody::invalid("terminal", "it has at least one column and one row"));
    }
    Ok(TerminalSize { cols, rows })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use scaibunker_api::ids::{BunkerId, ExecId};

    use super::*;

    fn start() -> StartExec {
        StartExec {
            exec_id: ExecId::generate(),
            mode: ExecMode::Attached,
            command: Some(Command::Shell("echo $A".into())),
            cwd: None,
            env: BTreeMap::from([("A".into(), "exec".into())]),
            user: None,
            timeout_s: Some(u64::MAX),
            terminal: None,
            keep_output: false,
        }
    }

    fn claim() -> Claim {
        Claim {
            bunker_id: BunkerId::generate(),
            image: String::new(),
            workdir: String::new(),
            image_user: "bunker".into(),
            env: BTreeMap::from([("A".into(), "bunker".into()), ("B".into(), "bunker".into())]),
            started_at: jiff::Timestamp::UNIX_EPOCH,
            network: scaibunker_api::worker::StartNetwork::default(),
            disk_mb: 64,
        }
    }

    #[test]
    fn a_string_goes_to_the_shell_and_its_environment_wins() {
        let spec = guest_spec(&start(), &claim(), "req_1").unwrap();
        assert_eq!(spec.argv, ["/bin/sh", "-c", "echo $A"]);
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("exec", "bunker"));
        assert_eq!((spec.user.as_str(), spec.timeout_ms), ("bunker", Some(u64::MAX)));
    }

    #[test]
    fn a_shell_has_a_terminal_of_some_size() {
        let shell = StartExec { mode: ExecMode::Shell, command: None, ..start() };
        assert!(guest_spec(&shell, &claim(), "").is_err());
        let sized = |cols, rows| StartExec {
            terminal: Some(ResizeTerminal { cols, rows }),
            ..shell.clone()
        };
        assert!(guest_spec(&sized(0, 24), &claim(), "").is_err());
        let spec = guest_spec(&sized(80, 24), &claim(), "").unwrap();
        assert_eq!(spec.terminal, Some(TerminalSize { cols: 80, rows: 24 }));
        assert!(spec.argv.is_empty());
    }
}
