//! Words for `sh`.

/// The words as one line that `sh` splits into the same words again.
pub fn line(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// One word. Plain ones stay readable.
pub fn quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:=@%+,".contains(&byte);
    // `a=b` at the beginning of a line would be an assignment.
    if !word.is_empty() && word.bytes().all(is_plain) && !word.contains('=') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_words_stay_as_they_are() {
        assert_eq!(quote("/bin/ls"), "/bin/ls");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a=b"), "'a=b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(
            line(&["sh".into(), "-c".into(), "echo $x; exit 4".into()]),
            "sh -c 'echo $x; exit 4'"
        );
    }

    /// What `sh` makes of a line: its words, each ended by a NUL byte.
    fn words_of(line: &str) -> Vec<String> {
        let script = format!("printf '%s\\0' {line}");
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sh_reads_the_same_words(words in prop::collection::vec("[^\0]{0,12}", 1..5)) {
            prop_assert_eq!(words_of(&line(&words)), words);
        }

        #[test]
        fn special_characters_mean_nothing(words in prop::collection::vec("[-a='\"$`\\\\!*?~ \t\n;&|<>(){}#\\[\\]]{1,10}", 1..5)) {
            prop_assert_eq!(words_of(&line(&words)), words);
        }
    }
}
