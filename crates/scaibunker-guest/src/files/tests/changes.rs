//! Watching.

use std::{collections::VecDeque, fs, time::Duration};

use bytes::Bytes;
use hyper::body::Body as _;
use scaibunker_guest_protocol::files::{Change, ChangeKind, WatchCall};

use super::*;
use crate::{body::Body, files::watch};

const LIMIT: Duration = Duration::from_secs(20);

struct Changes {
    body: Body,
    read: VecDeque<Change>,
}

impl Changes {
    async fn of(lab: &Lab, at: &str, recursive: bool) -> Result<Self, AgentError> {
        let call = WatchCall { path: path(at), recursive, rights: rights() };
        let answer = watch::watch(&lab.threads, Arc::clone(&lab.root), call).await?;
        let mut changes = Self { body: answer.into_body(), read: VecDeque::new() };
        assert_eq!(changes.next().await.unwrap().kind, ChangeKind::Watching);
        Ok(changes)
    }

    async fn next(&mut self) -> Option<Change> {
        if let Some(change) = self.read.pop_front() {
            return Some(change);
        }
        let poll =
            |cx: &mut std::task::Context<'_>| std::pin::Pin::new(&mut self.body).poll_frame(cx);
        let frame = tokio::time::timeout(LIMIT, std::future::poll_fn(poll)).await.unwrap()?;
        let bytes: Bytes = frame.unwrap().into_data().unwrap();
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        self.read.extend(lines.map(|line| serde_json::from_slice::<Change>(line).unwrap()));
        self.read.pop_front()
    }

    /// Reads until a change like this.
    async fn expect(&mut self, kind: ChangeKind, at: &str) {
        while let Some(change) = self.next().await {
            if change.kind == kind && change.path == path(at) {
                return;
            }
        }
        panic!("no {kind:?} of {at}");
    }
}

#[tokio::test]
async fn a_directory_tells_of_its_entries() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("w/inner")).unwrap();
    let mut changes = Changes::of(&lab, "/w", false).await.unwrap();
    fs::write(lab.path("w/file"), "x").unwrap();
    changes.expect(ChangeKind::Created, "/w/file").await;
    changes.expect(ChangeKind::Modified, "/w/file").await;
    fs::write(lab.path("w/inner/unseen"), "x").unwrap();
    fs::rename(lab.path("w/file"), lab.path("w/other")).unwrap();
    changes.expect(ChangeKind::MovedFrom, "/w/file").await;
    assert_eq!(changes.next().await.unwrap().path, path("/w/other"));
    fs::remove_dir_all(lab.path("w")).unwrap();
    changes.expect(ChangeKind::Deleted, "/w/other").await;
    changes.expect(ChangeKind::Deleted, "/w").await;
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn directories_made_later_are_watched_as_well() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("w/old")).unwrap();
    let mut changes = Changes::of(&lab, "/w", true).await.unwrap();
    fs::write(lab.path("w/old/file"), "x").unwrap();
    changes.expect(ChangeKind::Created, "/w/old/file").await;
    fs::create_dir_all(lab.path("w/new/deep")).unwrap();
    changes.expect(ChangeKind::Created, "/w/new/deep").await;
    fs::write(lab.path("w/new/deep/file"), "x").unwrap();
    changes.expect(ChangeKind::Created, "/w/new/deep/file").await;
    fs::rename(lab.path("w/new"), lab.path("w/renamed")).unwrap();
    changes.expect(ChangeKind::MovedTo, "/w/renamed").await;
    changes.expect(ChangeKind::Created, "/w/renamed/deep/file").await;
    fs::remove_file(lab.path("w/renamed/deep/file")).unwrap();
    changes.expect(ChangeKind::Deleted, "/w/renamed/deep/file").await;
}

#[tokio::test]
async fn a_file_is_followed_when_it_is_replaced() {
    let lab = Lab::new();
    let mut changes = Changes::of(&lab, "/etc/passwd", false).await.unwrap();
    fs::write(lab.path("new"), "x").unwrap();
    fs::rename(lab.path("new"), lab.path("etc/passwd")).unwrap();
    changes.expect(ChangeKind::Modified, "/etc/passwd").await;
    fs::write(lab.path("etc/passwd"), "again").unwrap();
    changes.expect(ChangeKind::Modified, "/etc/passwd").await;
    fs::remove_file(lab.path("etc/passwd")).unwrap();
    changes.expect(ChangeKind::Deleted, "/etc/passwd").await;
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn watches_are_bounded_and_end_with_their_reader() {
    let lab = Lab::new();
    assert_eq!(kind(Changes::of(&lab, "/none", false).await.map(drop)), GuestErrorKind::NotFound);
    let mut open = Vec::new();
    let refused = loop {
        match Changes::of(&lab, "/etc", true).await {
            Ok(changes) => open.push(changes),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), GuestErrorKind::Conflict);
    drop(open);
    let again = async {
        while Changes::of(&lab, "/etc", false).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, again).await.unwrap();
}
