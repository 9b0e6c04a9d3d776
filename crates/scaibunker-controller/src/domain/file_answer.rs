//! The head of a file's answer. A guest makes it up, so nothing of it goes on unchecked.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use scaibunker_guest_protocol::files::FilePath;

/// What a client may say about the bytes it wants; passed on to the guest.
pub const ASKED: [HeaderName; 3] = [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH];

const MAX_TAG_BYTES: usize = 256;

/// An answer that HTTP does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer about the file has an unusable {0}")]
pub struct UnusableAnswer(&'static str);

/// The headers of an answer with (part of) a file that may go to a client.
pub fn checked(status: StatusCode, guest: &HeaderMap) -> Result<HeaderMap, UnusableAnswer> {
    let mut headers = HeaderMap::new();
    let length = match guest.get(header::CONTENT_LENGTH) {
        Some(value) => Some(number(value).ok_or(UnusableAnswer("Content-Length"))?),
        None => None,
    };
    match status {
        StatusCode::OK | StatusCode::NOT_MODIFIED => {}
        StatusCode::PARTIAL_CONTENT => {
            let range = guest.get(header::CONTENT_RANGE).and_then(range);
            let (range, bytes) = range.ok_or(UnusableAnswer("Content-Range"))?;
            if length.is_some_and(|length| length != bytes) {
                return Err(UnusableAnswer("Content-Length"));
            }
            headers.insert(header::CONTENT_RANGE, range);
        }
        _ => return Err(UnusableAnswer("status")),
    }
    if let Some(length) = length
        && status != StatusCode::NOT_MODIFIED
    {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if let Some(tag) = guest.get(header::ETAG) {
        headers.insert(header::ETAG, tag_of(tag).ok_or(UnusableAnswer("ETag"))?);
    }
    if let Some(time) = guest.get(header::LAST_MODIFIED) {
        let time = date_of(time).ok_or(UnusableAnswer("Last-Modified"))?;
        headers.insert(header::LAST_MODIFIED, time);
    }
    if guest.get(header::ACCEPT_RANGES).is_some_and(|units| units == "bytes") {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    Ok(headers)
}

/// `str::parse` would take a sign.
fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `bytes FIRST-LAST/SIZE`, and how many bytes those are.
fn range(value: &HeaderValue) -> Option<(HeaderValue, u64)> {
    let (range, size) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let digits = |text: &str| number(&HeaderValue::from_str(text).ok()?);
    let (first, last, size) = (digits(first)?, digits(last)?, digits(size)?);
    let is_inside = first <= last && last < size;
    let written = HeaderValue::from_str(&format!("bytes {first}-{last}/{size}")).ok()?;
    is_inside.then(|| (written, last - first + 1))
}

fn tag_of(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_TAG_BYTES)?;
    let inner = text.strip_prefix("W/").unwrap_or(text).strip_prefix('"')?.strip_suffix('"')?;
    inner.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"').then(|| value.clone())
}

/// RFC 9110: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date_of(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let is_shaped = text.len() == 29
        && text.ends_with(" GMT")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" ,:".contains(&byte));
    is_shaped.then(|| value.clone())
}

/// `Content-Disposition` that makes a browser save the file under its name and `suffix`, and
/// never show it.
#[must_use]
pub fn disposition(path: &FilePath, suffix: &str) -> HeaderValue {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').find(|name| !name.is_empty());
    let name = format!("{}{suffix}", String::from_utf8_lossy(last.unwrap_or(b"files")));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let plain: String = name
        .chars()
        .map(|letter| if letter.is_ascii() && is_plain(letter as u8) { letter } else { '_' })
        .collect();
    let encoded: String = name
        .bytes()
        .map(
            |byte| {
                if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect();
    let text = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_good_answer_goes_on_and_nothing_else_of_it() {
        let good = headers(&[
            (header::CONTENT_LENGTH, "3"),
            (header::CONTENT_RANGE, "bytes 1-3/9"),
            (header::ETAG, "\"a.1-2\""),
            (header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (header::ACCEPT_RANGES, "bytes"),
        ]);
        let mut with_more = good.clone();
        with_more.insert(header::SET_COOKIE, HeaderValue::from_static("a=b"));
        with_more.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert_eq!(checked(StatusCode::PARTIAL_CONTENT, &with_more), Ok(good.clone()));
        let whole = checked(StatusCode::OK, &good).unwrap();
        assert!(!whole.contains_key(header::CONTENT_RANGE));
        let unchanged = checked(StatusCode::NOT_MODIFIED, &good).unwrap();
        assert!(!unchanged.contains_key(header::CONTENT_LENGTH));
    }

    #[test]
    fn what_http_does_not_allow_is_refused() {
        for (status, name, value) in [
            (200, header::CONTENT_LENGTH, "+3"),
            (200, header::CONTENT_LENGTH, "3, 3"),
            (200, header::CONTENT_LENGTH, "99999999999999999999"),
            (200, header::ETAG, "unquoted"),
            (200, header::ETAG, "\"a\"b\""),
            (200, header::LAST_MODIFIED, "yesterday"),
            (206, header::CONTENT_RANGE, "bytes 3-1/9"),
            (206, header::CONTENT_RANGE, "bytes 0-9/9"),
            (206, header::CONTENT_RANGE, "bytes */9"),
            (206, header::CONTENT_RANGE, "lines 0-1/9"),
            (206, header::ETAG, "\"a\""),
            (204, header::ETAG, "\"a\""),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(checked(status, &headers(&[(name, value)])).is_err(), "{status} {value}");
        }
        let mismatch =
            headers(&[(header::CONTENT_LENGTH, "4"), (header::CONTENT_RANGE, "bytes 0-2/9")]);
        assert!(checked(StatusCode::PARTIAL_CONTENT, &mismatch).is_err());
    }

    #[test]
    fn a_name_cannot_leave_its_header() {
        let name = |bytes: &[u8]| {
            let path = FilePath::new(bytes).unwrap();
            disposition(&path, "").to_str().unwrap().to_owned()
        };
        assert_eq!(name(b"/a/b.txt"), "attachment; filename=\"b.txt\"; filename*=UTF-8''b.txt");
        assert_eq!(
            name(b"/a\"; x=\"\r\n"),
            "attachment; filename=\"a___x____\"; filename*=UTF-8''a%22%3B%20x%3D%22%0D%0A"
        );
        assert!(name("/ü".as_bytes()).ends_with("filename=\"_\"; filename*=UTF-8''%C3%BC"));
        assert!(name(b"/").contains("files"));
        assert!(
            disposition(&FilePath::new("/d/").unwrap(), ".tar").to_str().unwrap().contains("d.tar")
        );
    }

    proptest! {
        #[test]
        fn any_name_has_a_disposition(bytes in proptest::collection::vec(1u8.., 0..300)) {
            let path = FilePath::new(bytes).unwrap();
            prop_assert!(disposition(&path, ".tar").as_bytes().starts_with(b"attachment; filename="));
        }
    }

    #[test]
    fn no_answer_makes_the_check_panic() {
        let names = [
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::ETAG,
            header::LAST_MODIFIED,
            header::ACCEPT_RANGES,
        ];
        bolero::check!().with_test_time(Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let Some((&first, rest)) = bytes.split_first() else { return };
            let mut headers = HeaderMap::new();
            for (name, value) in names.iter().zip(rest.split(|byte| *byte == b'\n')) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.insert(name.clone(), value);
                }
            }
            for status in [StatusCode::OK, StatusCode::PARTIAL_CONTENT] {
                if let Ok(headers) = checked(status, &headers) {
                    assert!(headers.values().all(|value| value.to_str().is_ok()), "{first}");
                }
            }
        });
    }
}
