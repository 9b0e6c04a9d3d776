//! Commands as reports show them.

use scaibunker_api::exec::Command;

/// Of a command's text.
const MAX_COMMAND_BYTES: usize = 16 * 1024;

/// The command as reports show it: a long one is cut, so that a bunker's reports stay small.
pub(super) fn shortened(command: &Command) -> Command {
    let cut = |text: &str, most: usize| {
        if text.len() <= most {
            return text.to_owned();
        }
        format!("{}…", &text[..text.floor_char_boundary(most)])
    };
    match command {
        Command::Shell(line) => Command::Shell(cut(line, MAX_COMMAND_BYTES)),
        Command::Argv(argv) => {
            let (mut shown, mut left) = (Vec::new(), MAX_COMMAND_BYTES);
            for arg in argv {
                if left == 0 {
                    shown.push("…".to_owned());
                    break;
                }
                shown.push(cut(arg, left));
                // An empty argument costs as well.
                left = left.saturating_sub(arg.len() + 1);
            }
            Command::Argv(shown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_long_commands_are_short() {
        let long = "ä".repeat(MAX_COMMAND_BYTES);
        let Command::Shell(line) = shortened(&Command::Shell(long.clone())) else { panic!() };
        assert!(line.len() <= MAX_COMMAND_BYTES + 3 && line.ends_with('…'));
        let argv = vec![String::new(); MAX_COMMAND_BYTES * 2];
        let Command::Argv(shown) = shortened(&Command::Argv(argv)) else { panic!() };
        assert_eq!(shown.len(), MAX_COMMAND_BYTES + 1);
        let short = Command::Argv(vec!["echo".into(), "hi".into()]);
        assert_eq!(shortened(&short), short);
    }
}
