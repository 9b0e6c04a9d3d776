//! Calls about files. Paths are absolute inside the bunker, and any bytes.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Method, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use scaibunker_api::{
    envelope::{Envelope, ListEnvelope},
    file::{CommitRequest, FileEntry, MkdirRequest, MoveRequest, Unpacked, Upload, UploadRequest},
    ids::BunkerId,
};

use super::{ANSWER_LIMIT, Client, ClientError, Content, error::root_cause, escaped};

/// The slowest a bunker is expected to take an upload in, in bytes per second.
const SLOWEST_COMMIT: u64 = 1024 * 1024;

/// The bytes of a file, or of something without a known length, on their way.
#[derive(Debug)]
pub struct Download {
    /// Absent of a directory, which comes as tar.
    pub length: Option<u64>,
    body: Incoming,
}

impl Download {
    pub(super) fn of(response: Response<Incoming>) -> Self {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self { length, body: response.into_body() }
    }

    /// The pieces; a connection that breaks off is an error.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        let broken = |error: hyper::Error| {
            let reason = format!("the connection to the server broke: {}", root_cause(&error));
            io::Error::new(io::ErrorKind::UnexpectedEof, reason)
        };
        self.body.into_data_stream().map(move |piece| piece.map_err(broken))
    }
}

impl Client {
    /// One entry; of a link, the link itself.
    pub async fn stat(&self, id: BunkerId, path: &[u8]) -> Result<FileEntry, ClientError> {
        let answer = self.get(&file_path(id, path, "?stat=true")).await?;
        Ok(answer.decode::<Envelope<FileEntry>>()?.data)
    }

    /// A directory's own entries; a link to a directory is followed.
    pub async fn list_directory(
        &self,
        id: BunkerId,
        path: &[u8],
    ) -> Result<Vec<FileEntry>, ClientError> {
        self.every_page(&file_path(id, path, "?list=true&depth=1&")).await
    }

    /// Whether a path is a directory or a link to one.
    pub async fn is_directory(&self, id: BunkerId, path: &[u8]) -> Result<bool, ClientError> {
        let listed = self.get(&file_path(id, path, "?list=true&depth=1&limit=1")).await;
        match listed {
            Ok(answer) => answer.decode::<ListEnvelope<FileEntry>>().map(|_| true),
            Err(ClientError::Refused(refusal)) if refusal.code == "NOT_A_DIRECTORY" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A file's bytes.
    pub async fn read_file(&self, id: BunkerId, path: &[u8]) -> Result<Download, ClientError> {
        self.download(&file_path(id, path, "")).await
    }

    /// A directory as tar.
    pub async fn read_directory(&self, id: BunkerId, path: &[u8]) -> Result<Download, ClientError> {
        self.download(&file_path(id, path, "?archive=tar")).await
    }

    /// Writes a file of at most [`scaibunker_api::file::MAX_PUT_BYTES`].
    pub async fn write_file(
        &self,
        id: BunkerId,
        path: &[u8],
        mode: Option<u32>,
        content: Content,
    ) -> Result<FileEntry, ClientError> {
        let query = mode.map_or_else(String::new, |mode| format!("?mode={mode:04o}"));
        let answer = self.transport.put(&file_path(id, path, &query), content).await?;
        Ok(answer.decode::<Envelope<FileEntry>>()?.data)
    }

    /// Unpacks a tar into a directory, which is made if it is missing.
    pub async fn write_directory(
        &self,
        id: BunkerId,
        path: &[u8],
        tar: Content,
    ) -> Result<Unpacked, ClientError> {
        let answer = self.transport.put(&file_path(id, path, "?archive=tar"), tar).await?;
        Ok(answer.decode::<Envelope<Unpacked>>()?.data)
    }

    /// Makes a directory and those it is in.
    pub async fn make_directory(
        &self,
        id: BunkerId,
        request: &MkdirRequest,
    ) -> Result<FileEntry, ClientError> {
        let path = format!("/bunkers/{id}/files/mkdir");
        let answer = self.transport.json(Method::POST, &path, Some(request), ANSWER_LIMIT).await?;
        Ok(answer.decode::<Envelope<FileEntry>>()?.data)
    }

    /// Renames a file or directory.
    pub async fn move_file(
        &self,
        id: BunkerId,
        request: &MoveRequest,
    ) -> Result<FileEntry, ClientError> {
        let path = format!("/bunkers/{id}/files/move");
        let answer = self.transport.json(Method::POST, &path, Some(request), ANSWER_LIMIT).await?;
        Ok(answer.decode::<Envelope<FileEntry>>()?.data)
    }

    /// Removes a file, an empty directory, or with `recursive` all that is in it.
    pub async fn delete_file(
        &self,
        id: BunkerId,
        path: &[u8],
        recursive: bool,
    ) -> Result<(), ClientError> {
        let path = file_path(id, path, if recursive { "?recursive=true" } else { "" });
        self.transport.json(Method::DELETE, &path, None::<&()>, ANSWER_LIMIT).await?;
        Ok(())
    }

    /// Asks where to send a large file.
    pub async fn begin_upload(&self, id: BunkerId, size_bytes: u64) -> Result<Upload, ClientError> {
        let path = format!("/bunkers/{id}/files/upload");
        let body = UploadRequest { size_bytes: Some(size_bytes) };
        let answer = self.transport.json(Method::POST, &path, Some(&body), ANSWER_LIMIT).await?;
        Ok(answer.decode::<Envelope<Upload>>()?.data)
    }

    /// Sends a large file to where [`Self::begin_upload`] said.
    pub async fn send_upload(&self, to: &Upload, content: Content) -> Result<(), ClientError> {
        self.transport.put_signed(&to.url, &to.headers, content).await
    }

    /// Has an upload of `size_bytes` put into the bunker.
    pub async fn commit_upload(
        &self,
        id: BunkerId,
        commit: &CommitRequest,
        size_bytes: u64,
    ) -> Result<FileEntry, ClientError> {
        let path = format!("/bunkers/{id}/files/commit");
        let limit = ANSWER_LIMIT + Duration::from_secs(size_bytes / SLOWEST_COMMIT);
        let answer = self.transport.json(Method::POST, &path, Some(commit), limit).await?;
        Ok(answer.decode::<Envelope<FileEntry>>()?.data)
    }

    async fn download(&self, path: &str) -> Result<Download, ClientError> {
        Ok(Download::of(self.transport.open(Method::GET, path, None::<&()>).await?))
    }
}

/// The route of a path, which begins with a slash.
fn file_path(id: BunkerId, path: &[u8], query: &str) -> String {
    format!("/bunkers/{id}/files{}{query}", escaped(path, b"/"))
}
