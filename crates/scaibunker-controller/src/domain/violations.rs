//! Everything that is wrong with a request, collected, so that a caller can correct it in one go.

use std::{collections::BTreeMap, ops::RangeInclusive};

use scaibunker_api::error::{ErrorBody, ErrorCode, ErrorDetail};

const MAX_VARIABLES: usize = 256;
const MAX_VARIABLE_NAME_BYTES: usize = 256;
/// All names and values together.
const MAX_ENVIRONMENT_BYTES: usize = 64 * 1024;
/// A request of two megabytes could have more faults than anyone reads.
const MAX_DETAILS: usize = 20;

/// The faults found so far.
#[derive(Debug, Default)]
pub struct Violations(Vec<ErrorDetail>);

impl Violations {
    /// Notes a fault.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < MAX_DETAILS {
            self.0.push(ErrorDetail { field: field.into(), message: message.into() });
        }
    }

    /// A number, where one is given, must be in `range`.
    pub fn number(&mut self, field: &str, value: Option<u64>, range: RangeInclusive<u64>) {
        if value.is_some_and(|value| !range.contains(&value)) {
            let (low, high) = range.into_inner();
            self.add(field, format!("must be between {low} and {high}"));
        }
    }

    /// A text, where one is given, must have a length in `bytes` and no control characters.
    pub fn text(&mut self, field: &str, text: Option<&str>, bytes: RangeInclusive<usize>) {
        let Some(text) = text else { return };
        if !bytes.contains(&text.len()) {
            let (low, high) = bytes.into_inner();
            self.add(field, format!("must be {low} to {high} bytes long"));
        } else if text.chars().any(char::is_control) {
            self.add(field, "must not contain control characters");
        }
    }

    /// Environment variables must be ones that `execve` takes.
    pub fn environment(&mut self, field: &str, variables: &BTreeMap<String, String>) {
        if variables.len() > MAX_VARIABLES {
            self.add(field, format!("at most {MAX_VARIABLES} variables are taken"));
        }
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_ENVIRONMENT_BYTES {
            self.add(field, format!("names and values exceed {MAX_ENVIRONMENT_BYTES} bytes"));
        }
        for (name, value) in variables {
            if name.is_empty() || name.len() > MAX_VARIABLE_NAME_BYTES {
                let message = format!("a name must be 1 to {MAX_VARIABLE_NAME_BYTES} bytes long");
                self.add(field, message);
            } else if name.contains(['=', '\0']) {
                self.add(field, format!("the name {name:?} must not contain `=` or NUL"));
            } else if value.contains('\0') {
                self.add(format!("{field}.{name}"), "must not contain NUL");
            }
        }
    }

    /// The refusal, if there is anything to refuse.
    pub fn into_result(self) -> Result<(), ErrorBody> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let more = match self.0.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more, see `details`)"),
        };
        Err(ErrorBody {
            code: ErrorCode::ValidationError,
            message: format!("`{}`: {}{more}", first.field, first.message),
            retry_after: None,
            details: self.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_at_once() {
        let mut faults = Violations::default();
        faults.number("memory_mb", Some(0), 128..=1024);
        faults.number("disk_mb", None, 16..=32);
        faults.text("name", Some(""), 1..=8);
        let error = faults.into_result().unwrap_err();
        let fields: Vec<_> = error.details.iter().map(|detail| detail.field.as_str()).collect();
        assert_eq!(fields, ["memory_mb", "name"]);
        assert!(error.message.contains("memory_mb") && error.message.contains("1 more"));
    }

    #[test]
    fn variables_that_execve_would_misread_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
            let mut faults = Violations::default();
            faults.environment("env", &BTreeMap::from([(name.to_owned(), value.to_owned())]));
            assert!(faults.into_result().is_err(), "{name:?}={value:?}");
        }
        let mut faults = Violations::default();
        faults.environment("env", &BTreeMap::from([("PATH".to_owned(), "/bin=\n".to_owned())]));
        assert!(faults.into_result().is_ok());
    }
}
