//! Which keys an object may have.

use object_store::path::Path;

/// The first segment of a key: what kind of object it is.
const KINDS: [&str; 5] = ["images", "snapshots", "output", "files", "audit"];

/// Where all objects of the product are.
const ROOT: &str = "scaibunker";

const MAX_KEY_BYTES: usize = 1024;
const MAX_SEGMENT_BYTES: usize = 255;

/// Digits of a segment's number in its name.
const SEGMENT_DIGITS: usize = 6;

/// The place of the object that a request names; `None` for a key that is not acceptable.
///
/// Keys are refused rather than cleaned up: two spellings of one object, or a spelling that leaves
/// its kind's prefix, would undo whatever a caller's right is bound to.
pub(crate) fn parse(key: &str) -> Option<Path> {
    let (kind, rest) = key.split_once('/')?;
    let is_plain = key.len() <= MAX_KEY_BYTES && rest.split('/').all(is_segment);
    if !KINDS.contains(&kind) || !is_plain {
        return None;
    }
    Some(Path::from_iter([ROOT].into_iter().chain(key.split('/'))))
}

/// The segments that a prefix of keys names, without a `/` at the end; `None` for one below which
/// there can be no key.
pub(crate) fn prefix(prefix: &str) -> Option<&str> {
    let segments = prefix.strip_suffix('/').unwrap_or(prefix);
    (KINDS.contains(&segments) || parse(segments).is_some()).then_some(segments)
}

/// The place below which all objects are.
pub(crate) fn root() -> Path {
    Path::from(ROOT)
}

/// The place below which all uploaded files are.
pub(crate) fn files() -> Path {
    Path::from_iter([ROOT, "files"])
}

/// Whether the object may be stored in segments: `output/{bunker}/{name}`.
pub(crate) fn may_have_segments(key: &str) -> bool {
    key.starts_with("output/") && key.matches('/').count() == 2
}

/// The number of the segment whose name this is.
pub(crate) fn segment_number(name: &str) -> Option<usize> {
    let is_number = name.len() == SEGMENT_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}

/// The name of the segment with this number.
pub(crate) fn segment_name(number: usize) -> String {
    format!("{number:0SEGMENT_DIGITS$}")
}

/// `#` begins the suffix of uploads that are under way in a directory.
fn is_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+=".contains(&byte);
    (1..=MAX_SEGMENT_BYTES).contains(&segment.len())
        && segment.bytes().all(is_plain)
        && !segment.starts_with('.')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keys_have_a_known_kind_and_plain_segments() {
        let place = parse("images/sha256:ab/root.ext4").unwrap();
        assert_eq!(place.as_ref(), "scaibunker/images/sha256:ab/root.ext4");
        assert!(parse("output/bnk_1/exe_1.stdout/000000").is_some());
        for key in [
            "",
            "images",
            "images/",
            "other/x",
            "/images/x",
            "images//x",
            "images/../x",
            "images/x/..",
            "images/./x",
            "images/.hidden",
            "images/a\\b",
            "images/a\0b",
            "images/%2e%2e/x",
            "images/x#1",
            "IMAGES/x",
            "images/ä",
        ] {
            assert!(parse(key).is_none(), "{key:?}");
        }
        assert!(parse(&format!("files/{}", "x".repeat(256))).is_none());
    }

    #[test]
    fn only_whole_outputs_have_segments() {
        assert!(may_have_segments("output/bnk_1/exe_1.stdout"));
        for key in ["output/bnk_1", "output/bnk_1/exe_1.stdout/000000", "files/bnk_1/x"] {
            assert!(!may_have_segments(key), "{key}");
        }
        assert_eq!(segment_number("000017"), Some(17));
        assert_eq!(segment_name(17), "000017");
        for name in ["17", "+00017", "0000017", "00001x", "０00017"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    #[test]
    fn an_accepted_key_is_one_place_below_its_kind() {
        bolero::check!().with_test_time(Duration::from_secs(2)).with_type::<String>().for_each(
            |text: &String| {
                for key in [text.clone(), format!("files/{text}"), format!("output/b/{text}")] {
                    let Some(place) = parse(&key) else { continue };
                    assert_eq!(place.as_ref(), format!("{ROOT}/{key}"));
                    assert!(!key.contains("..") || !key.split('/').any(|part| part == ".."));
                }
            },
        );
    }
}
