//! What an exec request must look like, and what it becomes on the link.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use scaibunker_api::{
    error::ErrorBody,
    exec::{Command, ExecInput, ExecMode, ExecRequest},
    ids::ExecId,
    permission::Permission,
    worker::{ResizeTerminal, StartExec},
};

use super::{actor::Actor, violations::Violations};

const MAX_ARGUMENTS: usize = 4_096;
/// What the kernel takes for one argument, terminator included.
const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
const MAX_PATH_BYTES: usize = 4_096;
/// Ten years stand for "no limit": the sum of any clock and this is still a time.
const LONGEST_TIMEOUT_S: u64 = 315_360_000;
/// What one call writes to a running command, decoded.
const MAX_INPUT_BYTES: usize = 1024 * 1024;
const MAX_TERMINAL_SIDE: u16 = 1_000;

/// A command that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedExec {
    pub start: StartExec,
    pub stdin: Vec<u8>,
    /// Whether more input may follow `stdin`.
    pub is_input_open: bool,
}

/// What a client wants of a new shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellRequest {
    pub size: ResizeTerminal,
    pub command: Option<String>,
    pub user: Option<String>,
}

/// Checks the request, then whether the caller may be who it wants to be in the bunker.
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
    let stdin = input_bytes(&mut faults, "stdin", request.stdin, request.stdin_base64);
    faults.into_result()?;
    require_user(actor, request.user.as_deref())?;
    let mode = if request.detach { ExecMode::Detached } else { ExecMode::Attached };
    let is_input_open = request.stdin_open.unwrap_or(request.detach && stdin.is_none());
    let start = StartExec {
        exec_id,
        mode,
        command: Some(request.command),
        cwd: request.cwd,
        env: request.env,
        user: request.user,
        timeout_s: Some(request.timeout_s.min(LONGEST_TIMEOUT_S)),
        terminal: None,
        // Who follows a stream has all of it already.
        keep_output: request.detach || !request.stream,
    };
    Ok(PreparedExec { start, stdin: stdin.unwrap_or_default(), is_input_open })
}

/// A shell: the user's login shell, or `command` in a terminal.
pub fn prepare_shell(
    actor: &Actor,
    request: ShellRequest,
    exec_id: ExecId,
) -> Result<StartExec, ErrorBody> {
    let mut faults = Violations::default();
    let command = request.command.map(Command::Shell);
    if let Some(command) = &command {
        check_command(&mut faults, command);
    }
    faults.text("user", request.user.as_deref(), 1..=255);
    faults.into_result()?;
    check_size(request.size)?;
    require_user(actor, request.user.as_deref())?;
    Ok(StartExec {
        exec_id,
        mode: ExecMode::Shell,
        command,
        cwd: None,
        env: BTreeMap::new(),
        user: request.user,
        timeout_s: None,
        terminal: Some(request.size),
        keep_output: false,
    })
}

/// A terminal's size must be one that programs can draw on.
pub fn check_size(size: ResizeTerminal) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    let sides = 1..=u64::from(MAX_TERMINAL_SIDE);
    faults.number("cols", Some(size.cols.into()), sides.clone());
    faults.number("rows", Some(size.rows.into()), sides);
    faults.into_result()
}

/// The bytes for a running command's standard input.
pub fn prepare_input(input: ExecInput) -> Result<(Vec<u8>, bool), ErrorBody> {
    let mut faults = Violations::default();
    let is_given = input.data.is_some() || input.data_base64.is_some();
    let bytes = input_bytes(&mut faults, "data", input.data, input.data_base64);
    if !is_given && !input.eof {
        faults.add("data", "must be given, unless `eof` is true");
    }
    if bytes.as_ref().is_some_and(|bytes| bytes.len() > MAX_INPUT_BYTES) {
        faults.add("data", format!("at most {MAX_INPUT_BYTES} bytes are taken at once"));
    }
    faults.into_result()?;
    Ok((bytes.unwrap_or_default(), input.eof))
}

fn input_bytes(
    faults: &mut Violations,
    field: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Option<Vec<u8>> {
    let coded = format!("{field}_base64");
    match (text, base64) {
        (Some(_), Some(_)) => {
            faults.add(coded, format!("must not be given together with `{field}`"));
            None
        }
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64).ok();
            if decoded.is_none() {
                faults.add(coded, "is not base64 (RFC 4648, with padding)");
            }
            decoded
        }
        (None, None) => None,
    }
}

fn require_user(actor: &Actor, user: Option<&str>) -> Result<(), ErrorBody> {
    if user.is_some_and(names_root) { actor.require(Permission::Root) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use scaibunker_api::error::ErrorCode;

    use super::*;
    use crate::domain::actor::tests::actor;

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
        let others = ExecRequest { user: None, ..shell() };
        assert!(prepare(&plain, others, ExecId::generate()).is_ok());
    }

    #[test]
    fn input_stays_open_for_a_detached_command_that_was_given_none() {
        let stdin = Some("x".to_owned());
        for (detach, stdin, stdin_open, is_open) in [
            (false, None, None, false),
            (false, None, Some(true), true),
            (true, None, None, true),
            (true, None, Some(false), false),
            (true, stdin.clone(), None, false),
            (true, stdin, Some(true), true),
        ] {
            let request = ExecRequest { detach, stdin, stdin_open, ..shell() };
            let prepared = prepare(&actor(Permission::ALL), request, ExecId::generate()).unwrap();
            assert_eq!(prepared.is_input_open, is_open);
        }
    }

    #[test]
    fn what_only_its_stream_carries_is_not_kept() {
        for (stream, detach, is_kept) in
            [(false, false, true), (true, false, false), (true, true, true), (false, true, true)]
        {
            let request = ExecRequest { stream, detach, ..shell() };
            let prepared = prepare(&actor(Permission::ALL), request, ExecId::generate()).unwrap();
            assert_eq!(prepared.start.keep_output, is_kept);
        }
    }

    #[test]
    fn input_has_bytes_or_an_end() {
        let data = |data: &str| ExecInput { data: Some(data.to_owned()), ..ExecInput::default() };
        assert_eq!(prepare_input(data("a")).unwrap(), (b"a".to_vec(), false));
        let end = ExecInput { eof: true, ..ExecInput::default() };
        assert_eq!(prepare_input(end).unwrap(), (Vec::new(), true));
        let both = ExecInput { data_base64: Some("/w==".to_owned()), ..data("") };
        for wrong in [ExecInput::default(), both, data(&"x".repeat(MAX_INPUT_BYTES + 1))] {
            assert!(prepare_input(wrong).is_err());
        }
        assert!(prepare_input(data(&"x".repeat(MAX_INPUT_BYTES))).is_ok());
    }

    #[test]
    fn a_shell_as_root_needs_the_permission_for_it() {
        let request = |user: Option<&str>, cols| ShellRequest {
            size: ResizeTerminal { cols, rows: 24 },
            command: None,
            user: user.map(str::to_owned),
        };
        let open = |permissions: &[Permission], request| {
            prepare_shell(&actor(permissions), request, ExecId::generate())
        };
        assert!(open(&[Permission::Shell], request(None, 80)).is_ok());
        assert!(open(&[Permission::Shell], request(Some("0"), 80)).is_err());
        assert!(open(&[Permission::Shell, Permission::Root], request(Some("0"), 80)).is_ok());
        for cols in [0, MAX_TERMINAL_SIDE + 1] {
            let error = open(&[Permission::Shell], request(None, cols)).unwrap_err();
            assert_eq!(error.details[0].field, "cols");
        }
    }
}
