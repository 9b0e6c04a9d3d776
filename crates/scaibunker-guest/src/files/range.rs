//! Which part of a file a request wants (RFC 9110, sections 13 and 14).

use http::{HeaderMap, header};

/// What to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// `length` bytes from `start` on; `length` is not 0.
    Part {
        start: u64,
        length: u64,
    },
    /// The caller has it already.
    Nothing,
    Unsatisfiable,
}

/// Decides by the request's headers; `etag` and `modified` are the file's.
pub fn wanted(headers: &HeaderMap, size: u64, etag: &str, modified: &str) -> Wanted {
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| matches(tags.as_bytes(), etag)) {
        return Wanted::Nothing;
    }
    let is_same = match headers.get(header::IF_RANGE) {
        None => true,
        // Both are compared as a whole: a date that is not ours is another file's.
        Some(known) => [etag.as_bytes(), modified.as_bytes()].contains(&known.as_bytes()),
    };
    match headers.get(header::RANGE).and_then(|range| range.to_str().ok()) {
        Some(range) if is_same => part(range, size),
        _ => Wanted::Whole,
    }
}

/// Whether a list of entity tags names `etag`. Weak ones do as well: the file's bytes are the same.
fn matches(tags: &[u8], etag: &str) -> bool {
    tags.split(|&byte| byte == b',').any(|tag| {
        let tag = tag.trim_ascii();
        tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes()
    })
}

/// Reads a `Range` header. What is not one plain range of bytes is ignored, as the standard
/// allows.
fn part(range: &str, size: u64) -> Wanted {
    let Some((unit, range)) = range.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::Whole };
    let (start, end) = match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if last < first => return Wanted::Whole,
        (Some(Some(first)), Some(last)) => {
            (first, last.map_or(size, |last| last.saturating_add(1).min(size)))
        }
        (Some(None), Some(Some(count))) => (size - count.min(size), size),
        _ => return Wanted::Whole,
    };
    if start >= end {
        return Wanted::Unsatisfiable;
    }
    Wanted::Part { start, length: end - start }
}

/// A number, or nothing where there is no text; `None` for other text.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than any file's size is as good as the largest number.
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    const ETAG: &str = "\"1-2\"";
    const DATE: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn one_range_of_bytes_is_honoured() {
        let of_100 = |range| part(range, 100);
        assert_eq!(of_100("bytes=0-9"), Wanted::Part { start: 0, length: 10 });
        assert_eq!(of_100("bytes=90-"), Wanted::Part { start: 90, length: 10 });
        assert_eq!(of_100("Bytes = 90-999 "), Wanted::Part { start: 90, length: 10 });
        assert_eq!(of_100("bytes=-5"), Wanted::Part { start: 95, length: 5 });
        assert_eq!(of_100("bytes=-500"), Wanted::Part { start: 0, length: 100 });
        assert_eq!(
            of_100("bytes=99-99999999999999999999999"),
            Wanted::Part { start: 99, length: 1 }
        );
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(of_100(range), Wanted::Unsatisfiable, "{range}");
        }
        for range in ["bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes", "bytes=a-b"] {
            assert_eq!(of_100(range), Wanted::Whole, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn tags_and_dates_decide_what_is_sent() {
        let decide = |pairs: &[_]| wanted(&headers(pairs), 10, ETAG, DATE);
        assert_eq!(decide(&[]), Wanted::Whole);
        for tags in ["*", "\"1-2\"", "W/\"1-2\"", "\"0\", \"1-2\""] {
            assert_eq!(decide(&[(header::IF_NONE_MATCH, tags)]), Wanted::Nothing, "{tags}");
        }
        assert_eq!(decide(&[(header::IF_NONE_MATCH, "\"0\"")]), Wanted::Whole);
        let part = Wanted::Part { start: 1, length: 9 };
        for (known, expected) in [(ETAG, part), (DATE, part), ("\"0\"", Wanted::Whole)] {
            let pairs = [(header::RANGE, "bytes=1-"), (header::IF_RANGE, known)];
            assert_eq!(decide(&pairs), expected, "{known}");
        }
    }

    #[test]
    fn any_range_lies_inside_the_file() {
        bolero::check!()
            .with_type::<(String, u64)>()
            .with_test_time(Duration::from_secs(1))
            .for_each(|(text, size)| {
                for range in [text.clone(), format!("bytes={text}")] {
                    if let Wanted::Part { start, length } = part(&range, *size) {
                        assert!(length > 0 && start.checked_add(length).unwrap() <= *size);
                    }
                }
            });
    }
}
