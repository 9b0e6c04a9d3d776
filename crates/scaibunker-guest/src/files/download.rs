//! Reading a file.

use std::{fs::File, io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, response::Builder};
use rustix::{
    fs::{SeekFrom, fstat, seek},
    io::Errno,
};
use scaibunker_guest_protocol::{
    GuestErrorKind,
    files::{FileCall, etag},
};
use tokio::sync::oneshot;

use super::{
    entry::printable,
    http_date::http_date,
    range::{Wanted, wanted},
    threads::{self, FileThreads},
    transfer::{BodyWriter, PIECE_BYTES, outgoing},
    tree::{Tree, is_pseudo},
};
use crate::{body::Body, error::AgentError, root::BunkerRoot};

/// Answers `GET` and `HEAD`.
pub async fn download(
    threads: &FileThreads,
    root: Arc<BunkerRoot>,
    method: Method,
    headers: HeaderMap,
    call: FileCall,
) -> Result<Response<Body>, AgentError> {
    let (sender, opened) = oneshot::channel();
    let (writer, pieces) = outgoing();
    let permit = threads.permit_for_call().await?;
    let wants_body = method == Method::GET;
    threads::start(permit, move || {
        let source = threads::enter(root, &call.rights, Arc::default())
            .and_then(|tree| Source::open(&tree, &call, &headers));
        match source {
            Ok(source) => {
                let head = source.head.clone();
                // Nobody reads when the host has given the call up, or wants the head alone.
                if sender.send(Ok(head)).is_ok() && wants_body {
                    source.send_all(writer);
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    let head =
        opened.await.map_err(|_| AgentError::Conflict("the call was cut short".into()))??;
    let body = if wants_body && head.has_body() {
        Body::Transfer { first: None, rest: pieces }
    } else {
        Body::whole(Bytes::new())
    };
    head.response().body(body).map_err(|e| AgentError::io("answer")(io::Error::other(e)))
}

/// A file that is open, and the part of it that is wanted.
struct Source {
    file: File,
    /// Read already.
    first: Bytes,
    /// Of the bytes to send, `first` not counted; `None`: until the end, wherever that is.
    left: Option<u64>,
    head: Head,
}

/// The answer without its body.
#[derive(Debug, Clone)]
struct Head {
    status: StatusCode,
    length: Option<u64>,
    range: Option<String>,
    etag: Option<String>,
    modified: String,
}

impl Head {
    fn has_body(&self) -> bool {
        self.status != StatusCode::NOT_MODIFIED && self.length != Some(0)
    }

    fn response(self) -> Builder {
        let mut response = Response::builder().status(self.status);
        let headers = [
            (header::CONTENT_LENGTH, self.length.map(|length| length.to_string())),
            (header::CONTENT_RANGE, self.range),
            (header::ACCEPT_RANGES, self.etag.as_ref().map(|_| "bytes".to_owned())),
            (header::ETAG, self.etag),
            (header::LAST_MODIFIED, Some(self.modified)),
        ];
        for (name, value) in headers {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                response = response.header(name, value);
            }
        }
        response
    }
}

impl Source {
    fn open(tree: &Tree, call: &FileCall, headers: &HeaderMap) -> Result<Self, AgentError> {
        let failed = || AgentError::file(format!("read {}", printable(&call.path)));
        let file = tree.open_file(&call.path)?;
        let stat = fstat(&file).map_err(failed())?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let modified = http_date(stat.st_mtime);
        if size == 0 || is_pseudo(&file) {
            return Self::without_size(file, modified).map_err(failed());
        }
        let etag =
            etag(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0), size, stat.st_ino);
        let (status, start, length) = match wanted(headers, size, &etag, &modified) {
            Wanted::Whole => (StatusCode::OK, 0, size),
            Wanted::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
            Wanted::Nothing => (StatusCode::NOT_MODIFIED, 0, 0),
            Wanted::Unsatisfiable => {
                let message = format!("{} has {size} bytes", printable(&call.path));
                return Err(AgentError::refused(GuestErrorKind::RangeNotSatisfiable, message));
            }
        };
        if start > 0 {
            seek(&file, SeekFrom::Start(start)).map_err(failed())?;
        }
        let range = (status == StatusCode::PARTIAL_CONTENT)
            .then(|| format!("bytes {start}-{}/{size}", start + length - 1));
        let sent = (status != StatusCode::NOT_MODIFIED).then_some(length);
        let head = Head { status, length: sent, range, etag: Some(etag), modified };
        Ok(Self { file, first: Bytes::new(), left: Some(length), head })
    }

    /// A file whose size says nothing: its first bytes tell whether it has any.
    fn without_size(file: File, modified: String) -> Result<Self, Errno> {
        let first = read_piece(&file, PIECE_BYTES)?;
        let length = first.is_empty().then_some(0);
        let left = first.is_empty().then_some(0);
        let head = Head { status: StatusCode::OK, length, range: None, etag: None, modified };
        Ok(Self { file, first, left, head })
    }

    /// Sends the wanted bytes. When there are fewer than the head said, the body is cut off.
    fn send_all(mut self, writer: BodyWriter) {
        if !self.first.is_empty() && writer.send(std::mem::take(&mut self.first)).is_err() {
            return;
        }
        while self.left != Some(0) {
            let most = self.left.map_or(PIECE_BYTES as u64, |left| left.min(PIECE_BYTES as u64));
            let piece = match read_piece(&self.file, most as usize) {
                Ok(piece) if piece.is_empty() && self.left.is_none() => return,
                Ok(piece) if !piece.is_empty() => piece,
                _ => return writer.cut_off(),
            };
            self.left = self.left.map(|left| left - piece.len() as u64);
            if writer.send(piece).is_err() {
                return;
            }
        }
    }
}

/// Up to `most` bytes; none at the end of the file, or where more would have to be waited for.
fn read_piece(file: &File, most: usize) -> Result<Bytes, Errno> {
    let mut piece = Vec::with_capacity(most);
    loop {
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut piece)) {
            Ok(_) => return Ok(piece.into()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Bytes::new()),
            Err(error) => return Err(error),
        }
    }
}
