//! The head of a guest's answer to a call on files: only what is known and well-formed goes on.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Longest value of a header that goes on.
const MAX_VALUE_BYTES: usize = 256;

/// Whether a header's value is of its form.
type Form = fn(&str) -> bool;

/// Whether an answer with this status is the call's result.
pub(super) fn is_result(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK
            | StatusCode::NO_CONTENT
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
    )
}

/// The headers that go on: each at most once, with a value of its form.
pub(super) fn checked_headers(guest: &HeaderMap) -> HeaderMap {
    let forms: [(HeaderName, Form); 6] = [
        (header::CONTENT_LENGTH, is_number),
        (header::CONTENT_RANGE, is_content_range),
        (header::ETAG, is_etag),
        (header::LAST_MODIFIED, is_date),
        (header::ACCEPT_RANGES, |value| value == "bytes"),
        (header::CONTENT_TYPE, is_media_type),
    ];
    let mut checked = HeaderMap::new();
    for (name, is_well_formed) in forms {
        let Some(value) = guest.get(&name) else { continue };
        if value.len() <= MAX_VALUE_BYTES && value.to_str().is_ok_and(is_well_formed) {
            checked.insert(name, HeaderValue::clone(value));
        }
    }
    checked
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok()
}

/// `bytes 0-9/10` or `bytes */10`.
fn is_content_range(text: &str) -> bool {
    let Some((range, size)) = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let is_range = range.split_once('-').is_some_and(|(from, to)| is_number(from) && is_number(to));
    (range == "*" || is_range) && is_number(size)
}

fn is_etag(text: &str) -> bool {
    let tag = text.strip_prefix("W/").unwrap_or(text);
    let inner = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'))
}

/// `Wed, 25 Nov 2026 00:00:00 GMT`, by its letters.
fn is_date(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b" ,:".contains(&byte);
    text.ends_with(" GMT") && text.bytes().all(is_letter)
}

fn is_media_type(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"/-+.;= ".contains(&byte);
    text.contains('/') && text.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_file_has_goes_on_and_all_else_stays() {
        let told = [
            ("content-length", "12"),
            ("content-range", "bytes 0-11/120"),
            ("etag", "\"6a.0-c-1\""),
            ("last-modified", "Wed, 25 Nov 2026 00:00:00 GMT"),
            ("accept-ranges", "bytes"),
            ("content-type", "application/octet-stream"),
        ];
        let mut guest = HeaderMap::new();
        for (name, value) in told {
            guest.insert(name, HeaderValue::from_static(value));
        }
        guest.insert("set-cookie", HeaderValue::from_static("a=b"));
        guest.insert("location", HeaderValue::from_static("http://elsewhere"));
        let checked = checked_headers(&guest);
        assert_eq!(checked.len(), told.len());
        for (name, value) in told {
            assert_eq!(checked[name], value);
        }
    }

    #[test]
    fn values_of_another_form_stay() {
        for (name, value) in [
            ("content-length", "-1"),
            ("content-length", "99999999999999999999"),
            ("content-length", ""),
            ("content-range", "bytes 0-/12"),
            ("etag", "plain"),
            ("etag", "\"a\"b\""),
            ("last-modified", "<script> GMT"),
            ("accept-ranges", "all"),
            ("content-type", "text/html\"><script>"),
        ] {
            let guest = HeaderMap::from_iter([(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]);
            assert!(checked_headers(&guest).is_empty(), "{name}: {value}");
        }
    }

    #[test]
    fn no_head_panics_and_what_goes_on_is_text() {
        let names = ["content-length", "content-range", "etag", "last-modified", "content-type"];
        bolero::check!()
            .with_test_time(Duration::from_secs(1))
            .with_type::<(u8, Vec<u8>)>()
            .for_each(|(which, value)| {
                let name = HeaderName::from_static(names[usize::from(*which) % names.len()]);
                let Ok(value) = HeaderValue::from_bytes(value) else { return };
                let checked = checked_headers(&HeaderMap::from_iter([(name, value)]));
                assert!(checked.values().all(|value| value.to_str().is_ok()));
            });
    }
}
