//! The two ends of a copy, as people write them.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `-`: standard input or output.
    Stdio,
    Local(PathBuf),
    /// `BUNKER:/path`; any bytes, beginning with a slash.
    Bunker {
        bunker: String,
        path: Vec<u8>,
    },
}

/// Why a text names no place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("it is empty")]
    Empty,
    #[error(
        "the path in a bunker has to be absolute, as in `{bunker}:/tmp/file`; a local file with a \
         colon in its name is written `./{text}`"
    )]
    NotAbsolute { bunker: String, text: String },
    #[error("the bunker's name is not UTF-8")]
    BunkerName,
}

impl Place {
    /// A colon before the first slash tells a bunker from a local path, as with scp.
    pub fn parse(text: OsString) -> Result<Self, PlaceError> {
        let bytes = text.as_bytes();
        match bytes {
            b"" => return Err(PlaceError::Empty),
            b"-" => return Ok(Self::Stdio),
            _ => {}
        }
        let colon = bytes.iter().position(|&byte| byte == b':' || byte == b'/');
        let Some(colon) = colon.filter(|&at| at > 0 && bytes[at] == b':') else {
            return Ok(Self::Local(text.into()));
        };
        let bunker =
            String::from_utf8(bytes[..colon].to_vec()).map_err(|_| PlaceError::BunkerName)?;
        let path = bytes[colon + 1..].to_vec();
        if !path.starts_with(b"/") {
            let text = text.to_string_lossy().into_owned();
            return Err(PlaceError::NotAbsolute { bunker, text });
        }
        Ok(Self::Bunker { bunker, path })
    }
}

/// The last name of a path; `None` where there is none to make a copy's name of, as in `/` or `..`.
pub fn name_of(path: &[u8]) -> Option<&[u8]> {
    let name = without_slashes(path).rsplit(|&byte| byte == b'/').next()?;
    (!name.is_empty() && name != b"." && name != b"..").then_some(name)
}

/// The path of an entry of a directory.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    [without_slashes(directory), b"/", name].concat()
}

/// A path without slashes at its end; empty for the root.
pub fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    &path[..end]
}

/// What a path in a bunker stands for: slashes and dots at its end only say that it is a directory.
pub fn target(path: &[u8]) -> &[u8] {
    let mut target = without_slashes(path);
    while let Some(shorter) = target.strip_suffix(b"/.") {
        target = without_slashes(shorter);
    }
    if target.is_empty() { b"/" } else { target }
}

/// A local path of these bytes.
pub fn local(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Place, PlaceError> {
        Place::parse(text.into())
    }

    fn bunker(name: &str, path: &str) -> Place {
        Place::Bunker { bunker: name.to_owned(), path: path.into() }
    }

    #[test]
    fn a_colon_before_the_first_slash_makes_it_a_bunkers() {
        assert_eq!(parse("web:/etc/hosts"), Ok(bunker("web", "/etc/hosts")));
        assert_eq!(parse("C:/x"), Ok(bunker("C", "/x")), "there are no drives");
        assert_eq!(parse("b:/a:b"), Ok(bunker("b", "/a:b")));
        assert_eq!(parse("b:/"), Ok(bunker("b", "/")));
        for local in ["./a:b", "/a:b", "a", "a/b:c", ":/x", "..", "./-", "C"] {
            assert_eq!(parse(local), Ok(Place::Local(local.into())), "{local}");
        }
        assert_eq!(parse("-"), Ok(Place::Stdio));
    }

    #[test]
    fn what_could_mean_either_is_refused_with_both_ways_out() {
        for text in ["b:x", "C:", "C:x", "a:b/c"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains(":/tmp/file") && error.contains(&format!("./{text}")),
                "{error}"
            );
        }
        assert_eq!(parse(""), Err(PlaceError::Empty));
        let odd = OsString::from_vec(b"\xff:/x".to_vec());
        assert_eq!(Place::parse(odd), Err(PlaceError::BunkerName));
    }

    #[test]
    fn names_come_from_the_last_part() {
        for (path, name) in [("/a/b", "b"), ("a/", "a"), ("a//", "a"), ("/a/..b", "..b")] {
            assert_eq!(name_of(path.as_bytes()), Some(name.as_bytes()), "{path}");
        }
        for path in ["/", "//", ".", "a/.", "a/..", "..", ""] {
            assert_eq!(name_of(path.as_bytes()), None, "{path}");
        }
        for (path, of) in [("/", "/"), ("/.", "/"), ("/a/./", "/a"), ("/a.", "/a."), ("/a//", "/a")]
        {
            assert_eq!(target(path.as_bytes()), of.as_bytes(), "{path}");
        }
        assert_eq!(join(b"/", b"x"), b"/x");
        assert_eq!(join(b"/a/", b"x"), b"/a/x");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = (Place::parse(OsString::from_vec(bytes.clone())), name_of(&bytes));
        }

        #[test]
        fn any_path_in_a_bunker_is_kept(name in "[^:/\0-]{1,8}", path: Vec<u8>) {
            let path = [b"/", path.as_slice()].concat();
            let text = [name.as_bytes(), b":", &path].concat();
            let place = Place::parse(OsString::from_vec(text));
            prop_assert_eq!(place, Ok(Place::Bunker { bunker: name, path }));
        }
    }
}
