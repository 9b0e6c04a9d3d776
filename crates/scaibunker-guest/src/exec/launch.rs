//! Everything a new process needs, laid out before it is made: between its birth and its program
//! it shares the agent's memory and may not allocate.

use std::{
    collections::BTreeMap,
    ffi::{CString, NulError},
};

use scaibunker_guest_protocol::exec::ExecSpec;

use crate::{accounts::Account, error::AgentError};

/// What a shell's caller most likely has.
const DEFAULT_TERM: &str = "xterm-256color";

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest exec id; a cgroup is named after it.
const MAX_ID_BYTES: usize = 64;

/// A command, ready to be started.
#[derive(Debug, PartialEq, Eq)]
pub struct Launch {
    pub account: Account,
    pub cwd: Cwd,
    /// Files to try in this order.
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
}

/// Where a command starts.
#[derive(Debug, PartialEq, Eq)]
pub enum Cwd {
    /// It must exist.
    Explicit(CString),
    /// The first that is there; the root is the last.
    FirstOf(Vec<CString>),
}

/// Whether `id` can name a cgroup and nothing else.
pub fn is_exec_id(id: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain)
}

impl Launch {
    /// Checks `spec` and lays it out for `account`.
    pub fn new(spec: &ExecSpec, account: Account) -> Result<Self, AgentError> {
        let (program, argv) = match spec.argv.first() {
            Some(program) if program.is_empty() => {
                return Err(AgentError::Invalid("the command's name is empty".to_owned()));
            }
            Some(program) => (program.clone(), spec.argv.clone()),
            None => (account.shell.clone(), vec![login_name(&account.shell)]),
        };
        let env = environment(spec, &account)?;
        let path = env.get("PATH").map_or("", String::as_str);
        let cwd = match &spec.cwd {
            Some(cwd) if cwd.starts_with('/') => Cwd::Explicit(c_string(cwd)?),
            Some(cwd) => {
                return Err(AgentError::Invalid(format!(
                    "the working directory `{cwd}` is not an absolute path"
                )));
            }
            None => Cwd::FirstOf(default_directories(spec, &account)?),
        };
        let env = env.iter().map(|(name, value)| c_string(&format!("{name}={value}")));
        Ok(Self {
            cwd,
            candidates: candidates(&program, path)?,
            argv: argv.iter().map(|arg| c_string(arg)).collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            account,
        })
    }
}

/// The image's directory and the user's home.
fn default_directories(spec: &ExecSpec, account: &Account) -> Result<Vec<CString>, AgentError> {
    let own = Some(&spec.default_cwd).filter(|dir| dir.starts_with('/'));
    own.into_iter().chain([&account.home]).map(|dir| c_string(dir)).collect()
}

fn c_string(text: &str) -> Result<CString, AgentError> {
    let refuse = |_: NulError| AgentError::Invalid("the command holds a zero byte".to_owned());
    CString::new(text).map_err(refuse)
}

/// What a login would set, under what the caller wants.
fn environment(spec: &ExecSpec, account: &Account) -> Result<BTreeMap<String, String>, AgentError> {
    if let Some(name) = spec.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(AgentError::Invalid(format!("`{name}` cannot name a variable")));
    }
    let mut env = spec.env.clone();
    for (name, value) in [
        ("HOME", account.home.as_str()),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
        ("SHELL", &account.shell),
        ("PATH", DEFAULT_PATH),
    ] {
        env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    if spec.terminal.is_some() {
        env.entry("TERM".to_owned()).or_insert_with(|| DEFAULT_TERM.to_owned());
    }
    Ok(env)
}

/// A shell that is called like this reads the user's profile.
fn login_name(shell: &str) -> String {
    format!("-{}", shell.rsplit('/').next().unwrap_or(shell))
}

/// Where `program` may be: itself when it has a slash, else in each directory of `path`, in
/// which an empty entry is the working directory.
fn candidates(program: &str, path: &str) -> Result<Vec<CString>, AgentError> {
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let join = |dir: &str| match dir {
        "" => c_string(program),
        dir => c_string(&format!("{dir}/{program}")),
    };
    path.split(':').map(join).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_guest_protocol::exec::TerminalSize;

    use super::*;

    fn account() -> Account {
        crate::accounts::look_up("1000", "", "").unwrap()
    }

    fn spec(argv: &[&str]) -> ExecSpec {
        ExecSpec {
            exec_id: "exe_1".to_owned(),
            request_id: "req_1".to_owned(),
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            cwd: None,
            default_cwd: String::new(),
            env: BTreeMap::new(),
            user: "1000".to_owned(),
            timeout_ms: None,
            terminal: None,
        }
    }

    fn strings(of: &[CString]) -> Vec<&str> {
        of.iter().map(|s| s.to_str().unwrap()).collect()
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_commands_own_path() {
        let mut spec = spec(&["ls", "-l"]);
        spec.env.insert("PATH".to_owned(), "/a:/b/::/c".to_owned());
        let launch = Launch::new(&spec, account()).unwrap();
        assert_eq!(strings(&launch.candidates), ["/a/ls", "/b//ls", "ls", "/c/ls"]);
        assert_eq!(strings(&launch.argv), ["ls", "-l"]);
        spec.argv[0] = "./ls".to_owned();
        let launch = Launch::new(&spec, account()).unwrap();
        assert_eq!(strings(&launch.candidates), ["./ls"]);
    }

    #[test]
    fn the_callers_environment_wins_over_the_logins() {
        let mut spec = spec(&["env"]);
        spec.env.insert("HOME".to_owned(), "/elsewhere".to_owned());
        let launch = Launch::new(&spec, account()).unwrap();
        let env = strings(&launch.env);
        assert!(env.contains(&"HOME=/elsewhere") && env.contains(&"USER=1000"));
        assert!(env.contains(&format!("PATH={DEFAULT_PATH}").as_str()));
    }

    #[test]
    fn no_command_is_the_login_shell() {
        let account = crate::accounts::look_up("u", "u:x:7:7::/home/u:/usr/bin/fish", "").unwrap();
        let mut spec = spec(&[]);
        spec.terminal = Some(TerminalSize { cols: 80, rows: 24 });
        let launch = Launch::new(&spec, account).unwrap();
        assert_eq!(strings(&launch.candidates), ["/usr/bin/fish"]);
        assert_eq!(strings(&launch.argv), ["-fish"]);
        assert!(strings(&launch.env).contains(&"TERM=xterm-256color"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let refused: [fn(&mut ExecSpec); 6] = [
            |s| s.argv[0].clear(),
            |s| s.argv.push("a\0b".to_owned()),
            |s| s.cwd = Some("relative".to_owned()),
            |s| s.cwd = Some("/a\0".to_owned()),
            |s| drop(s.env.insert("A=B".to_owned(), String::new())),
            |s| drop(s.env.insert(String::new(), "x".to_owned())),
        ];
        for spoil in refused {
            let mut spec = spec(&["true"]);
            spoil(&mut spec);
            assert!(Launch::new(&spec, account()).is_err(), "{spec:?}");
        }
    }

    #[test]
    fn exec_ids_are_plain_file_names() {
        assert!(is_exec_id("exe_01h2x"));
        for id in ["", "..", "a/b", "a-b", "A", "a.b", "ä", &"a".repeat(65)] {
            assert!(!is_exec_id(id), "{id}");
        }
    }

    proptest! {
        #[test]
        fn no_exec_id_leaves_its_directory(id in ".{0,80}") {
            if is_exec_id(&id) {
                prop_assert!(!id.contains(['/', '.', '\0', '-']));
            }
        }
    }
}
