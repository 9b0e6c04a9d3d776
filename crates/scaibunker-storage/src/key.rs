//! Which keys an object may have.

use object_store::path::Path;

/// The first segment of a key: what kind of object it is.
const KINDS: [&str; 5] = ["images", "snapshots", "output", "files", "audit"];

/// Where all objects of the product are.
const ROOT: &str = "scaibunker";

const MAX_KEY_BYTES: usize = 1024;
const MAX_SEGMENT_BYTES: usize = 255;

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

/// `#` begins the suffix of uploads that are under way in a directory.
fn is_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+=".contains(&byte);
    (1..=MAX_SEGMENT_BYTES).contains(&segment.len())
        && segment.bytes().all(is_plain)
        && !segment.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_known_kind_and_plain_segments() {
        let place = parse("images/sha256:ab/root.ext4").unwrap();
        assert_eq!(place.as_ref(), "scaibunker/images/sha256:ab/root.ext4");
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
}
