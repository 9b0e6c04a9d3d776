//! Paths, modes and entries: between what clients write and what guests read.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    file::{FileChange, FileEntry, FileType},
};
use scaibunker_guest_protocol::files::{
    Change, ChangeKind, Entry, EntryType, FilePath, MAX_PATH_BYTES, PathError, Rights,
};

use super::actor::Actor;
use scaibunker_api::permission::Permission;

/// Read, write, execute for all, and the setuid, setgid and sticky bits.
const ALL_MODE_BITS: u32 = 0o7777;

/// The path that the rest of a URL's path names: percent-encoded bytes, absolute in the bunker.
pub fn path_of_url(rest: &str) -> Result<FilePath, ErrorBody> {
    let decoded = FilePath::decode(rest).map_err(|error| refused("path", error))?;
    absolute("path", decoded.as_bytes())
}

/// The path in a JSON body.
pub fn path_of_text(field: &str, text: &str) -> Result<FilePath, ErrorBody> {
    if text.is_empty() {
        return Err(ErrorBody::invalid(field, "must not be empty"));
    }
    absolute(field, text.as_bytes())
}

/// The path in a query's value, where `+` is a space.
pub fn path_of_query(field: &str, value: &str) -> Result<FilePath, ErrorBody> {
    let decoded = FilePath::decode(&value.replace('+', "%20"));
    absolute(field, decoded.map_err(|error| refused(field, error))?.as_bytes())
}

fn absolute(field: &str, path: &[u8]) -> Result<FilePath, ErrorBody> {
    let start = path.iter().take_while(|byte| **byte == b'/').count();
    let path = [b"/", &path[start..]].concat();
    FilePath::new(path).map_err(|error| refused(field, error))
}

fn refused(field: &str, error: PathError) -> ErrorBody {
    match error {
        PathError::TooLong => {
            let message = format!("`{field}` is longer than the {MAX_PATH_BYTES} bytes of a path");
            ErrorBody::new(ErrorCode::NameTooLong, message)
        }
        PathError::Nul | PathError::Encoding => ErrorBody::invalid(field, error.to_string()),
    }
}

/// Permission bits written in octal, such as `0644` or `644`.
pub fn mode_of(text: &str) -> Result<u32, ErrorBody> {
    let is_octal = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let bits = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    bits.filter(|bits| *bits <= ALL_MODE_BITS)
        .ok_or_else(|| ErrorBody::invalid("mode", "must be octal permission bits, such as `0644`"))
}

/// A caller who may not be root in a bunker is the image's user there, for files as well.
#[must_use]
pub fn rights_of(actor: &Actor) -> Rights {
    Rights { as_root: actor.may(Permission::Root), user: None }
}

/// An entry as clients see it.
#[must_use]
pub fn shown(entry: Entry) -> FileEntry {
    let (path, path_encoded) = text_of(&entry.path);
    FileEntry {
        path,
        path_encoded,
        kind: match entry.kind {
            EntryType::File => FileType::File,
            EntryType::Directory => FileType::Directory,
            EntryType::Symlink => FileType::Symlink,
            EntryType::BlockDevice => FileType::BlockDevice,
            EntryType::CharDevice => FileType::CharDevice,
            EntryType::Fifo => FileType::Fifo,
            EntryType::Socket => FileType::Socket,
        },
        size_bytes: entry.size_bytes,
        mode: format!("{:04o}", entry.mode & ALL_MODE_BITS),
        uid: entry.uid,
        gid: entry.gid,
        modified_at: time_of(entry.modified_s, entry.modified_ns),
        symlink_target: entry.symlink_target.map(|target| text_of(&target).0),
    }
}

/// A file system can hold times that no calendar has.
fn time_of(seconds: i64, nanoseconds: u32) -> Timestamp {
    let milliseconds = i128::from(seconds) * 1000 + i128::from(nanoseconds / 1_000_000);
    let milliseconds = i64::try_from(milliseconds).ok();
    milliseconds.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

fn text_of(path: &FilePath) -> (String, Option<String>) {
    match std::str::from_utf8(path.as_bytes()) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(path.as_bytes()).into_owned(), Some(path.encode())),
    }
}

/// A change as clients see it: the event's name and its data.
#[must_use]
pub fn shown_change(change: Change) -> (&'static str, FileChange) {
    let name = match change.kind {
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Attributes => "attributes",
        ChangeKind::Deleted => "deleted",
        ChangeKind::MovedFrom => "moved_from",
        ChangeKind::MovedTo => "moved_to",
        ChangeKind::Overflow => "overflow",
        ChangeKind::Watching => "watching",
    };
    let (path, path_encoded) = text_of(&change.path);
    (name, FileChange { path, path_encoded, is_directory: change.is_directory })
}

/// A list's cursor is the path of a page's last entry.
#[must_use]
pub fn cursor_of(path: &FilePath) -> String {
    URL_SAFE_NO_PAD.encode(path.as_bytes())
}

/// Reads what [`cursor_of`] wrote.
pub fn path_of_cursor(cursor: &str) -> Result<FilePath, ErrorBody> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let path = bytes.and_then(|bytes| FilePath::new(bytes).ok());
    path.filter(|path| path.as_bytes().starts_with(b"/"))
        .ok_or_else(|| ErrorBody::invalid("cursor", "is not a `next_cursor` of this list"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_url_names_any_absolute_path(
            bytes in proptest::collection::vec(1u8.., 0..200),
            slashes in 0usize..3,
        ) {
            let path = FilePath::new(bytes).unwrap();
            let named = path_of_url(&format!("{}{}", "/".repeat(slashes), path.encode())).unwrap();
            let bytes = path.as_bytes();
            let start = bytes.iter().take_while(|byte| **byte == b'/').count();
            prop_assert_eq!(named.as_bytes(), [b"/", &bytes[start..]].concat());
            prop_assert_eq!(path_of_url(&named.encode()).unwrap(), named.clone());
            prop_assert_eq!(path_of_cursor(&cursor_of(&named)).unwrap(), named);
        }

        #[test]
        fn what_is_no_path_is_refused_with_its_field(text: String) {
            for path in [path_of_url(&text), path_of_text("path", &text), path_of_query("path", &text)] {
                match path {
                    Ok(path) => prop_assert!(path.as_bytes().starts_with(b"/")),
                    Err(error) => prop_assert!(error.message.contains("`path`")),
                }
            }
            let _ = path_of_cursor(&text);
        }

        #[test]
        fn a_mode_is_shown_as_it_is_written(bits in 0..=ALL_MODE_BITS) {
            prop_assert_eq!(mode_of(&format!("{bits:04o}")).unwrap(), bits);
            prop_assert_eq!(mode_of(&format!("{bits:o}")).unwrap(), bits);
        }

        #[test]
        fn any_entry_can_be_shown(
            path in proptest::collection::vec(1u8.., 1..50), seconds: i64, nanoseconds: u32, mode: u32,
        ) {
            let path = FilePath::new(path).unwrap();
            let entry = shown(Entry {
                path: path.clone(),
                kind: EntryType::Symlink,
                size_bytes: u64::MAX,
                mode,
                uid: 0,
                gid: 0,
                modified_s: seconds,
                modified_ns: nanoseconds,
                symlink_target: Some(path.clone()),
            });
            let json = serde_json::to_value(&entry).unwrap();
            prop_assert!(json["modified_at"].is_string());
            match &entry.path_encoded {
                Some(encoded) => prop_assert_eq!(FilePath::decode(encoded).unwrap(), path),
                None => prop_assert_eq!(entry.path.as_bytes(), path.as_bytes()),
            }
        }
    }

    #[test]
    fn urls_are_taken_literally() {
        for (rest, path) in [
            ("", &b"/"[..]),
            ("/", b"/"),
            ("etc/passwd", b"/etc/passwd"),
            ("/etc/passwd", b"/etc/passwd"),
            ("%2Fetc/passwd", b"/etc/passwd"),
            ("a+b%2Bc%20d", b"/a+b+c d"),
            ("%FF%fe", b"/\xff\xfe"),
            ("../../etc/./x", b"/../../etc/./x"),
            ("a%2F..%2Fb", b"/a/../b"),
            ("dir/", b"/dir/"),
        ] {
            assert_eq!(path_of_url(rest).unwrap().as_bytes(), path, "{rest}");
        }
        assert_eq!(path_of_url("a%00b").unwrap_err().code, ErrorCode::ValidationError);
        assert_eq!(path_of_url("a%zz").unwrap_err().code, ErrorCode::ValidationError);
        assert_eq!(path_of_url(&"n".repeat(4095)).unwrap_err().code, ErrorCode::NameTooLong);
        assert_eq!(path_of_query("path", "/a+b%2Bc").unwrap().as_bytes(), b"/a b+c");
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "8", "0o644", "-1", "+7", " 644", "10000", "777777", "rw-r--r--"] {
            assert_eq!(mode_of(text).unwrap_err().details[0].field, "mode", "{text:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic() {
        bolero::check!().with_test_time(Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let _ = (path_of_url(&text), path_of_query("path", &text), path_of_cursor(&text));
            let _ = (mode_of(&text), path_of_text("path", &text));
        });
    }
}
