//! Signals by name and number, as Linux numbers them on x86-64 and arm64.

use scaibunker_api::{error::ErrorBody, exec::SignalName};

/// Names of the signals 1 to 31, without their `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const HIGHEST: i32 = 64;

/// A signal's name, such as `SIGKILL`; `SIG34` for one that has none.
#[must_use]
pub fn signal_name(number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|number| NAMES.get(number.checked_sub(1)?));
    match name {
        Some(name) => format!("SIG{name}"),
        None => format!("SIG{number}"),
    }
}

/// The number of a signal that a client names `SIGINT`, `INT`, `"2"` or `2`.
pub fn signal_number(signal: &SignalName) -> Result<i32, ErrorBody> {
    let number = match signal {
        SignalName::Number(number) => Some(*number),
        SignalName::Name(name) => {
            let name = name.strip_prefix("SIG").unwrap_or(name);
            let known = NAMES.iter().position(|known| *known == name);
            known.and_then(|at| i32::try_from(at + 1).ok()).or_else(|| name.parse().ok())
        }
    };
    number.filter(|number| (1..=HIGHEST).contains(number)).ok_or_else(|| {
        let message = format!("must be a signal's name, such as `SIGTERM`, or 1 to {HIGHEST}");
        ErrorBody::invalid("signal", message)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_means_its_number(number in 1..=HIGHEST) {
            let name = signal_name(number);
            for text in [name.clone(), name.trim_start_matches("SIG").to_owned(), number.to_string()] {
                prop_assert_eq!(signal_number(&SignalName::Name(text)).unwrap(), number);
            }
            prop_assert_eq!(signal_number(&SignalName::Number(number)).unwrap(), number);
        }

        #[test]
        fn whatever_is_taken_is_a_signal(name: String, number: i32) {
            for signal in [SignalName::Name(name), SignalName::Number(number)] {
                if let Ok(number) = signal_number(&signal) {
                    prop_assert!((1..=HIGHEST).contains(&number));
                }
            }
            prop_assert!(signal_name(number).starts_with("SIG"));
        }
    }

    #[test]
    fn names_are_those_of_linux() {
        assert_eq!((signal_name(9), signal_name(31)), ("SIGKILL".to_owned(), "SIGSYS".to_owned()));
        for wrong in ["", "SIG", "0", "65", "-1", "SIGSIGINT", "NOTHING", "9 "] {
            let error = signal_number(&SignalName::Name(wrong.to_owned())).unwrap_err();
            assert_eq!(error.details[0].field, "signal", "{wrong}");
        }
    }
}
