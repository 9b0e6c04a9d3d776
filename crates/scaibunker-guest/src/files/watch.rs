//! Watching a path for changes: the answer, and the thread behind it.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use rustix::pipe::{PipeFlags, pipe_with};
use scaibunker_guest_protocol::files::{Change, ChangeKind, FilePath, WatchCall};
use tokio::sync::{mpsc, oneshot};

use super::{
    threads::{self, FileThreads},
    watched::Watched,
};
use crate::{body::Body, error::AgentError, root::BunkerRoot};

/// Changes on their way to the host. The kernel keeps more, and says when it lost some.
const QUEUED_CHANGES: usize = 64;

/// Answers with the changes from now on.
pub async fn watch(
    threads: &FileThreads,
    root: Arc<BunkerRoot>,
    call: WatchCall,
) -> Result<Response<Body>, AgentError> {
    let permit = threads.permit_for_watch()?;
    let (to_host, changes) = mpsc::channel(QUEUED_CHANGES);
    let (sender, started) = oneshot::channel();
    let (until, stop) = pipe_with(PipeFlags::CLOEXEC).map_err(AgentError::io("make a pipe"))?;
    let (ended, thread_ended) = oneshot::channel::<()>();
    let closed = to_host.clone();
    threads::start(permit, move || {
        let _ended = ended;
        let watch = threads::enter(root, &call.rights, Arc::default())
            .and_then(|tree| Ok((Watched::start(&tree, &call)?, tree)));
        match watch {
            Ok((watch, tree)) => {
                // A host that has gone meanwhile is noticed when it is told.
                let _ = sender.send(Ok(()));
                watch.run(&tree, &to_host, &until);
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    tokio::spawn(async move {
        tokio::select! {
            () = closed.closed() => {}
            _ = thread_ended => {}
        }
        drop(stop);
    });
    started.await.map_err(|_| AgentError::Conflict("the call was cut short".into()))??;
    let response = Response::builder().status(StatusCode::OK);
    response
        .body(Body::stream(Vec::new(), changes))
        .map_err(|e| AgentError::io("answer")(io::Error::other(e)))
}

/// Why a watch ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The host takes no more changes.
    Unwanted,
    /// The watched path is gone.
    Gone,
}

/// Tells the host of a change.
pub fn tell(
    to: &mpsc::Sender<Bytes>,
    kind: ChangeKind,
    path: &FilePath,
    is_directory: bool,
) -> Result<(), End> {
    let change = Change { kind, path: path.clone(), is_directory };
    let Ok(mut line) = serde_json::to_vec(&change) else { return Ok(()) };
    line.push(b'\n');
    to.blocking_send(line.into()).map_err(|_| End::Unwanted)
}
