//! Which bytes of an object a request wants.

use std::ops::Range;

/// What a `Range` header asks of an object of some size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    Part(Range<u64>),
    /// The range starts behind the end.
    Nothing,
}

impl Wanted {
    /// A header that is not one single range of bytes is ignored, as HTTP has it.
    pub(crate) fn of(header: Option<&str>, size: u64) -> Self {
        let Some((first, last)) = header.and_then(single) else { return Self::Whole };
        match (first, last) {
            (Some(first), _) if first >= size => Self::Nothing,
            (Some(first), None) => Self::Part(first..size),
            (Some(first), Some(last)) => Self::Part(first..last.saturating_add(1).min(size)),
            (None, Some(0)) => Self::Nothing,
            (None, Some(_)) if size == 0 => Self::Nothing,
            (None, Some(length)) => Self::Part(size.saturating_sub(length)..size),
            (None, None) => Self::Whole,
        }
    }
}

/// The two numbers of `bytes=a-b`, `bytes=a-` or `bytes=-b`.
fn single(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = header.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = (number(first)?, number(last)?);
    match (first, last) {
        (None, None) => None,
        (Some(first), Some(last)) if last < first => None,
        range => Some(range),
    }
}

/// A number larger than any object is as good as the largest.
fn number(digits: &str) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Some(digits.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_range_of_bytes_is_honoured_and_anything_else_ignored() {
        let wanted = |header| Wanted::of(Some(header), 10);
        for (header, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-4", 2..5),
            ("bytes=2-", 2..10),
            ("bytes=2-99", 2..10),
            ("bytes=9-18446744073709551615", 9..10),
            ("bytes=9-99999999999999999999999", 9..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("Bytes=2-4", 2..5),
        ] {
            assert_eq!(wanted(header), Wanted::Part(range), "{header}");
        }
        for header in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(wanted(header), Wanted::Nothing, "{header}");
        }
        for header in ["", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "bytes=+1-2"] {
            assert_eq!(wanted(header), Wanted::Whole, "{header}");
        }
        for header in ["bytes=0-1,3-4", "lines=0-1", "bytes=--1", "0-1", "bytes=0-1-2"] {
            assert_eq!(wanted(header), Wanted::Whole, "{header}");
        }
        assert_eq!(Wanted::of(None, 10), Wanted::Whole);
        assert_eq!(Wanted::of(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(Wanted::of(Some("bytes=-1"), 0), Wanted::Nothing);
    }

    #[test]
    fn a_part_is_never_empty_and_never_outside() {
        bolero::check!()
            .with_test_time(Duration::from_secs(2))
            .with_type::<(String, Option<u64>, Option<u64>, u64)>()
            .for_each(|(text, first, last, size)| {
                let number = |n: &Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
                let plain = format!("bytes={}-{}", number(first), number(last));
                for header in [text.clone(), format!("bytes={text}"), plain] {
                    if let Wanted::Part(part) = Wanted::of(Some(&header), *size) {
                        assert!(part.start < part.end && part.end <= *size, "{header} of {size}");
                    }
                }
            });
    }
}
