//! What an exec request must look like, and what it becomes on the link.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use scaibunker_api::{
    error::ErrorBody,
    exec::{Command, ExecRequest},
    ids::ExecId,
    permission::Permission,
    worker::StartExec,
};

use super::{actor::Actor, violations::Violations};

const MAX_ARGUMENTS: usize = 4_096;
/// What the kernel takes for one argument, terminator included.
const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
const MAX_PATH_BYTES: usize = 4_096;
/// Ten years stand for "no limit": the sum of any clock and this is still a time.
const LONGEST_TIMEOUT_S: u64 = 315_360_000;

/// A command that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedExec {
    pub start: StartExec,
    pub stdin: Vec<u8>,
}

/// Checks the request, then the caller's permissions.
pub fn prepare(
    actor: &Actor,
    request: ExecRequest,
    exec_id: ExecId,
) -> Result<PreparedExec, ErrorBody> {
    let mut faults = Violations::default();
    check_command(&mut faults, &request.command);
    faults.text("cwd", request.cwd.as_deref(), 1..=MAX_PATH_BYTES);
    faults.text("user", request.user.as_deref(), 1..=255);
    faults.environment("env", &request.env);
    if request.timeout_s == 0 {
        faults.add("timeout_s", "must be at least 1");
    }
    if request.detach {
        faults.add("detach", "this server does not offer detached commands; leave it out");
    }
    let stdin = match (request.stdin, request.stdin_base64) {
        (Some(_), Some(_)) => {
            faults.add("stdin_base64", "must not be given together with `stdin`");
            Vec::new()
        }
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => STANDARD.decode(base64).unwrap_or_else(|_| {
            faults.add("stdin_base64", "is not base64 (RFC 4648, with padding)");
            Vec::new()
        }),
        (None, None) => Vec::new(),
    };
    faults.into_result()?;
    actor.require(Permission::Execute)?;
    if request.user.as_deref().is_some_and(names_root) {
        actor.require(Permission::Root)?;
    }
    let start = StartExec {
        exec_id,
        mode: scaibunker_api::exec::ExecMode::Attached,
        command: Some(request.command),
        cwd: request.cwd,
        env: request.env,
        user: request.user,
        timeout_s: Some(request.timeout_s.min(LONGEST_TIMEOUT_S)),
        terminal: None,
        keep_output: false,
    };
    Ok(PreparedExec { start, stdin })
}

fn check_command(faults: &mut Violations, command: &Command) {
    let arguments = match command {
        Command::Shell(script) => std::slice::from_ref(script),
        Command::Argv(arguments) => arguments.as_slice(),
    };
    if arguments.first().is_none_or(String::is_empty) {
        faults.add("command", "must name a program");
    }
    if arguments.len() > MAX_ARGUMENTS {
        faults.add("command", format!("at most {MAX_ARGUMENTS} arguments are taken"));
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        faults.add("command", "must not contain NUL");
    }
    if arguments.iter().any(|argument| argument.len() >= MAX_ARGUMENT_BYTES) {
        let message = format!(
            "an argument must be shorter than {MAX_ARGUMENT_BYTES} bytes; send more as `stdin`"
        );
        faults.add("command", message);
    }
}

/// Whether `user` (a name or `uid`, then perhaps `:gid`) is the superuser.
fn names_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default().trim();
    name == "root" || name.parse::<u64>() == Ok(0)
}

/// The name of a Linux signal on x86-64 and arm64, such as `SIGKILL`.
#[must_use]
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(number).ok().and_then(|number| NAMES.get(number.checked_sub(1)?));
    match name {
        Some(name) => format!("SIG{name}"),
        None => format!("SIG{number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use scaibunker_api::{
        error::ErrorCode,
        ids::{RequestId, TenantId, UserId},
    };

    use super::*;

    fn actor(permissions: &[Permission]) -> Actor {
        Actor {
            tenant_id: TenantId::generate(),
            user_id: UserId::generate(),
            permissions: permissions.to_vec(),
            request_id: RequestId::generate(),
        }
    }

    fn request(command: Command) -> ExecRequest {
        ExecRequest {
            command,
            cwd: None,
            env: BTreeMap::new(),
            user: None,
            stdin: None,
            stdin_base64: None,
            timeout_s: 60,
            stream: false,
            detach: false,
            stdin_open: None,
        }
    }

    fn shell() -> ExecRequest {
        request(Command::Shell("true".to_owned()))
    }

    fn fault(request: ExecRequest) -> String {
        let error = prepare(&actor(Permission::ALL), request, ExecId::generate()).unwrap_err();
        assert_eq!(error.code, ErrorCode::ValidationError);
        error.details[0].field.clone()
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        for command in [
            Command::Shell(String::new()),
            Command::Argv(vec![]),
            Command::Argv(vec![String::new()]),
            Command::Argv(vec!["echo".to_owned(), "a\0b".to_owned()]),
            Command::Shell("x".repeat(MAX_ARGUMENT_BYTES)),
        ] {
            assert_eq!(fault(request(command)), "command");
        }
        assert_eq!(fault(ExecRequest { timeout_s: 0, ..shell() }), "timeout_s");
        assert_eq!(fault(ExecRequest { detach: true, ..shell() }), "detach");
        let stdin_base64 = Some("***".to_owned());
        assert_eq!(fault(ExecRequest { stdin_base64, ..shell() }), "stdin_base64");
        let both = ExecRequest {
            stdin: Some(String::new()),
            stdin_base64: Some(String::new()),
            ..shell()
        };
        assert_eq!(fault(both), "stdin_base64");
    }

    #[test]
    fn a_script_may_have_many_lines_and_a_timeout_no_ceiling() {
        let script = ExecRequest {
            timeout_s: u64::MAX,
            stdin_base64: Some("AP8=".to_owned()),
            ..request(Command::Shell("a\nb\tc".to_owned()))
        };
        let prepared = prepare(&actor(Permission::ALL), script, ExecId::generate()).unwrap();
        assert_eq!(prepared.stdin, [0, 255]);
        assert_eq!(prepared.start.timeout_s, Some(LONGEST_TIMEOUT_S));
    }

    #[test]
    fn root_by_any_name_needs_its_permission() {
        let plain = actor(&[Permission::Execute]);
        for user in ["root", "0", "0:0", "root:users", "00"] {
            let request = ExecRequest { user: Some(user.to_owned()), ..shell() };
            let refusal = prepare(&plain, request, ExecId::generate()).unwrap_err();
            assert!(refusal.message.contains("scaibunker:root"), "{user}");
        }
        let request = ExecRequest { user: Some("1000".to_owned()), ..shell() };
        assert!(prepare(&plain, request, ExecId::generate()).is_ok());
        let refusal = prepare(&actor(&[]), shell(), ExecId::generate()).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Forbidden);
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(31), "SIGSYS");
        for odd in [0, -1, 64, i32::MIN, i32::MAX] {
            assert!(signal_name(odd).starts_with("SIG"));
        }
    }
}
