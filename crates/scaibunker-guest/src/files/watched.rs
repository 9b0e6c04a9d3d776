//! What is watched, and what the kernel says of it.

use std::{
    collections::HashMap,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{
        FileType, Mode, OFlags, RawDir, fstat,
        inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
        openat,
    },
    io::Errno,
};
use scaibunker_guest_protocol::files::{ChangeKind, FilePath, WatchCall};
use tokio::sync::mpsc;

use super::{
    entry::printable,
    tree::{Tree, own_link, trim_end},
    watch::{End, tell},
};
use crate::error::AgentError;

/// Directories of one watch, and bytes of their paths.
const MAX_DIRECTORIES: usize = 8192;
const MAX_PATHS_BYTES: usize = 2 * 1024 * 1024;

/// Deepest directory that is watched; each level on the way down costs a descriptor.
const MAX_DEPTH: usize = 128;

const EVENT_BUFFER_BYTES: usize = 16 * 1024;
const DIRECTORY_BUFFER_BYTES: usize = 4 * 1024;

/// A path that is watched.
pub struct Watched {
    events: OwnedFd,
    path: FilePath,
    /// The kernel's number of the watched path itself.
    top: i32,
    top_is_directory: bool,
    is_recursive: bool,
    /// The path of each directory that is watched, by the kernel's number.
    directories: HashMap<i32, Vec<u8>>,
    paths_bytes: usize,
}

impl Watched {
    /// Begins to watch; from its return on, nothing is missed.
    pub fn start(tree: &Tree, call: &WatchCall) -> Result<Self, AgentError> {
        let failed = || AgentError::file(format!("watch {}", printable(&call.path)));
        let events =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed())?;
        let found = tree.open(call.path.as_bytes(), OFlags::PATH).map_err(failed())?;
        let stat = fstat(&found).map_err(failed())?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let top = add(&events, &found).map_err(failed())?;
        let mut watch = Self {
            events,
            path: call.path.clone(),
            top,
            top_is_directory: is_directory,
            is_recursive: call.recursive && is_directory,
            directories: HashMap::from([(top, trim_end(call.path.as_bytes()).to_vec())]),
            paths_bytes: 0,
        };
        if watch.is_recursive {
            let directory = tree.open_directory(&call.path)?;
            let path = trim_end(call.path.as_bytes()).to_vec();
            watch.add_below(&directory, &path, 0, &mut |_, _| Ok(())).map_err(|stop| match stop {
                Stop::Full => AgentError::Invalid(format!(
                    "{} holds more than {MAX_DIRECTORIES} directories, or too deep ones: watch a \
                     part of it",
                    printable(&call.path)
                )),
                Stop::End(_) => AgentError::Conflict("the call was given up".to_owned()),
            })?;
        }
        Ok(watch)
    }

    /// Tells the host of changes until the watch ends.
    pub fn run(mut self, tree: &Tree, to: &mpsc::Sender<Bytes>, until: &OwnedFd) {
        let path = self.path.clone();
        let is_directory = self.top_is_directory;
        if tell(to, ChangeKind::Watching, &path, is_directory).is_err() {
            return;
        }
        loop {
            let mut waits = [
                PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(until.as_fd(), PollFlags::IN),
            ];
            match poll(&mut waits, None) {
                Ok(_) if !waits[1].revents().is_empty() => return,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            match self.pass_on(tree, to) {
                Ok(()) => {}
                Err(End::Unwanted) => return,
                Err(End::Gone) => {
                    // The host may have gone as well.
                    let _ = tell(to, ChangeKind::Deleted, &path, is_directory);
                    return;
                }
            }
        }
    }

    /// Tells the host of what has happened.
    fn pass_on(&mut self, tree: &Tree, to: &mpsc::Sender<Bytes>) -> Result<(), End> {
        let mut last = None;
        for event in self.read_events() {
            if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                tell(to, ChangeKind::Overflow, &self.path, self.top_is_directory)?;
                continue;
            }
            let Some(directory) = self.directories.get(&event.watch).cloned() else { continue };
            if event.flags.contains(ReadFlags::IGNORED) {
                self.forget(event.watch);
                if event.watch == self.top {
                    return Err(End::Gone);
                }
                continue;
            }
            let Some(name) = &event.name else {
                self.top_changed(tree, to, &event)?;
                continue;
            };
            let is_directory = event.flags.contains(ReadFlags::ISDIR);
            let Ok(path) = FilePath::new([&directory[..], b"/", name].concat()) else { continue };
            if let Some(kind) = kind(event.flags) {
                // A file that is written piece by piece is one change for all that were read at
                // once.
                if last.as_ref() != Some(&(kind, path.clone())) {
                    tell(to, kind, &path, is_directory)?;
                }
                last = Some((kind, path.clone()));
            }
            if self.is_recursive && is_directory {
                self.follow(tree, to, event.flags, &path)?;
            }
        }
        Ok(())
    }

    fn read_events(&self) -> Vec<Event> {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut events = Vec::new();
        while let Ok(event) = reader.next() {
            events.push(Event {
                watch: event.wd(),
                flags: event.events(),
                name: event.file_name().map(|name| name.to_bytes().to_vec()),
            });
            if reader.is_buffer_empty() {
                break;
            }
        }
        events
    }

    /// Something happened to the watched path itself, or to a directory inside, of which the one
    /// that holds it tells.
    fn top_changed(
        &mut self,
        tree: &Tree,
        to: &mpsc::Sender<Bytes>,
        event: &Event,
    ) -> Result<(), End> {
        if event.watch != self.top {
            return Ok(());
        }
        if event.flags.intersects(ReadFlags::MODIFY) {
            return tell(to, ChangeKind::Modified, &self.path, self.top_is_directory);
        }
        let found = tree.open(self.path.as_bytes(), OFlags::PATH).ok();
        let again = found.as_ref().and_then(|found| add(&self.events, found).ok());
        match again {
            // Still the same.
            Some(number) if number == self.top && event.flags.intersects(ReadFlags::ATTRIB) => {
                tell(to, ChangeKind::Attributes, &self.path, self.top_is_directory)
            }
            Some(number) if number == self.top => Ok(()),
            // Another file has taken its place, as when an editor saves.
            Some(number) if !self.top_is_directory => {
                let old = std::mem::replace(&mut self.top, number);
                self.forget(old);
                self.directories.insert(number, trim_end(self.path.as_bytes()).to_vec());
                tell(to, ChangeKind::Modified, &self.path, false)
            }
            _ => Err(End::Gone),
        }
    }

    /// Keeps up with directories that come and go.
    fn follow(
        &mut self,
        tree: &Tree,
        to: &mpsc::Sender<Bytes>,
        flags: ReadFlags,
        path: &FilePath,
    ) -> Result<(), End> {
        if flags.intersects(ReadFlags::MOVED_FROM) {
            self.forget_below(path.as_bytes());
            return Ok(());
        }
        if !flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let (path_of_top, top_is_directory) = (self.path.clone(), self.top_is_directory);
        // One that is gone again, or may not be read, has nothing to tell.
        let Ok(directory) = tree.open(path.as_bytes(), flags) else { return Ok(()) };
        let full = |to| tell(to, ChangeKind::Overflow, &path_of_top, top_is_directory);
        let directory = match self.add_directory(directory, path) {
            Ok(Some(directory)) => directory,
            Ok(None) => return full(to),
            Err(_) => return Ok(()),
        };
        let depth = path.as_bytes().iter().filter(|&&byte| byte == b'/').count();
        let base = self.path.as_bytes().iter().filter(|&&byte| byte == b'/').count();
        let mut created =
            |path: &FilePath, is_directory| tell(to, ChangeKind::Created, path, is_directory);
        let level = depth.saturating_sub(base);
        match self.add_below(&directory, path.as_bytes(), level, &mut created) {
            Ok(()) => Ok(()),
            Err(Stop::Full) => full(to),
            Err(Stop::End(end)) => Err(end),
        }
    }

    /// Watches the directories inside `dir`, and says what is there: it may have been made before
    /// the watch was.
    fn add_below(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        level: usize,
        found: &mut dyn FnMut(&FilePath, bool) -> Result<(), End>,
    ) -> Result<(), Stop> {
        if level >= MAX_DEPTH {
            return Err(Stop::Full);
        }
        let mut buffer = Vec::with_capacity(DIRECTORY_BUFFER_BYTES);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Ok(child) = FilePath::new([path, b"/", name].concat()) else { continue };
            if entry.file_type() != FileType::Directory {
                found(&child, false).map_err(Stop::End)?;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(dir, name, flags, Mode::empty());
            let watched = directory.and_then(|directory| self.add_directory(directory, &child));
            // Told once it is watched: who hears of it hears of all that happens in it then.
            found(&child, true).map_err(Stop::End)?;
            match watched {
                Ok(Some(directory)) => {
                    self.add_below(&directory, child.as_bytes(), level + 1, found)?;
                }
                Ok(None) => return Err(Stop::Full),
                // It may not be read, or is gone.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Watches a directory inside, if there is room for another one.
    fn add_directory(
        &mut self,
        directory: OwnedFd,
        path: &FilePath,
    ) -> Result<Option<OwnedFd>, Errno> {
        let length = path.as_bytes().len();
        if self.directories.len() >= MAX_DIRECTORIES || self.paths_bytes + length > MAX_PATHS_BYTES
        {
            return Ok(None);
        }
        let number = add(&self.events, &directory)?;
        self.forget(number);
        self.paths_bytes += length;
        self.directories.insert(number, path.as_bytes().to_vec());
        Ok(Some(directory))
    }

    fn forget(&mut self, number: i32) {
        if let Some(path) = self.directories.remove(&number) {
            self.paths_bytes = self.paths_bytes.saturating_sub(path.len());
        }
    }

    fn forget_below(&mut self, path: &[u8]) {
        let is_below = |other: &[u8]| {
            other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let moved: Vec<i32> = self
            .directories
            .iter()
            .filter(|(_, path)| is_below(path))
            .map(|(&number, _)| number)
            .collect();
        for number in moved {
            // The kernel may have forgotten it already.
            let _ = inotify::remove_watch(&self.events, number);
            self.forget(number);
        }
    }
}

/// Why directories were not all added.
enum Stop {
    /// There is no room for another one.
    Full,
    End(End),
}

/// What the kernel says.
struct Event {
    watch: i32,
    flags: ReadFlags,
    name: Option<Vec<u8>>,
}

/// Has the kernel watch an open file; the same number for the same file.
fn add(events: &OwnedFd, found: &OwnedFd) -> Result<i32, Errno> {
    let kinds = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVE_SELF;
    inotify::add_watch(events, own_link(found), kinds)
}

fn kind(flags: ReadFlags) -> Option<ChangeKind> {
    [
        (ReadFlags::CREATE, ChangeKind::Created),
        (ReadFlags::MODIFY, ChangeKind::Modified),
        (ReadFlags::ATTRIB, ChangeKind::Attributes),
        (ReadFlags::DELETE, ChangeKind::Deleted),
        (ReadFlags::MOVED_FROM, ChangeKind::MovedFrom),
        (ReadFlags::MOVED_TO, ChangeKind::MovedTo),
    ]
    .into_iter()
    .find_map(|(flag, kind)| flags.intersects(flag).then_some(kind))
}
