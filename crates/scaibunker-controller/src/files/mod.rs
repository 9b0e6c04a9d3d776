//! Files in bunkers. A path is resolved by the guest alone; what is here asks and passes on.

mod put_body;
mod transfer;
mod watch;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, Method, StatusCode};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    file::{FileEntry, MkdirRequest, MoveRequest, Unpacked},
    ids::BunkerId,
};
use scaibunker_guest_protocol::files::{
    self, DeleteCall, Entry, FileCall, FilePath, ListCall, Listing, MoveCall, WatchCall, WriteCall,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use self::put_body::PutBody;
pub use self::{transfer::Transfers, watch::Watch};
use crate::{
    bunkers::Bunkers,
    domain::{
        actor::Actor,
        file::{cursor_of, mode_of, path_of_text, rights_of, shown},
        file_answer::{ASKED, checked},
    },
    failure::{Failure, chain},
    fleet::{AnswerBody, FileRequest, LinkError, RequestBody},
};

/// The service; one for the process.
pub struct Files {
    bunkers: Arc<Bunkers>,
    /// Cancelled when the process is asked to end: what never ends by itself ends then.
    draining: CancellationToken,
}

/// A file, or part of it, on its way to a client.
#[derive(Debug)]
pub struct FileAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: AnswerBody,
}

/// Where a file goes, and what it is to be like.
#[derive(Debug)]
pub struct Place {
    pub path: FilePath,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Which part of a directory's entries is asked for.
#[derive(Debug)]
pub struct ListPage {
    pub path: FilePath,
    pub depth: u32,
    pub after: Option<FilePath>,
    pub limit: u32,
}

impl Files {
    /// A service on `bunkers`.
    #[must_use]
    pub fn new(bunkers: Arc<Bunkers>, draining: CancellationToken) -> Self {
        Self { bunkers, draining }
    }

    /// A file's bytes as far as `asked` wants them; the body is read as fast as the client reads.
    pub async fn read(
        &self,
        actor: &Actor,
        id: BunkerId,
        path: FilePath,
        method: Method,
        asked: &HeaderMap,
    ) -> Result<FileAnswer, Failure> {
        let answer = match self.ask_file(actor, id, &path, method.clone(), asked).await {
            // The answer to a HEAD has no body that could say what is wrong.
            Err(Failure::Refused(_)) if method == Method::HEAD => {
                self.ask_file(actor, id, &path, Method::GET, asked).await?
            }
            answer => answer?,
        };
        let status = answer.status();
        let headers = checked(status, answer.headers()).map_err(|error| {
            tracing::warn!(error = chain(&error), "a bunker's answer about a file is unusable");
            ErrorBody::new(ErrorCode::FileFailed, error.to_string())
        })?;
        Ok(FileAnswer { status, headers, body: answer.into_body() })
    }

    async fn ask_file(
        &self,
        actor: &Actor,
        id: BunkerId,
        path: &FilePath,
        method: Method,
        asked: &HeaderMap,
    ) -> Result<http::Response<AnswerBody>, Failure> {
        let call = FileCall { path: path.clone(), rights: rights_of(actor) };
        let mut request = FileRequest::new(method, "/files", call);
        for name in ASKED {
            if let Some(value) = asked.get(&name) {
                request.headers.insert(name, value.clone());
            }
        }
        self.stream(actor, id, request).await.map_err(|failure| match failure {
            Failure::Refused(error) if error.code == ErrorCode::IsADirectory => {
                let message = "the path is a directory: `?list=true` gives its entries, \
                               `?archive=tar` all that is in it";
                Failure::new(ErrorCode::IsADirectory, message)
            }
            failure => failure,
        })
    }

    /// A directory as tar.
    pub async fn archive(
        &self,
        actor: &Actor,
        id: BunkerId,
        path: FilePath,
    ) -> Result<AnswerBody, Failure> {
        let call = FileCall { path, rights: rights_of(actor) };
        let request = FileRequest::new(Method::GET, "/files/archive", call);
        Ok(self.stream(actor, id, request).await?.into_body())
    }

    /// One entry; a link is not followed.
    pub async fn stat(
        &self,
        actor: &Actor,
        id: BunkerId,
        path: FilePath,
    ) -> Result<FileEntry, Failure> {
        let call = FileCall { path, rights: rights_of(actor) };
        let request = FileRequest::new(Method::GET, "/files/stat", call);
        Ok(shown(self.call(actor, id, request).await?))
    }

    /// A directory's entries, and the cursor with which they go on.
    pub async fn list(
        &self,
        actor: &Actor,
        id: BunkerId,
        page: ListPage,
    ) -> Result<(Vec<FileEntry>, Option<String>), Failure> {
        let ListPage { path, depth, after, limit } = page;
        let call = ListCall { path, depth, after, limit, rights: rights_of(actor) };
        let request = FileRequest::new(Method::GET, "/files/list", call);
        let listing: Listing = self.call(actor, id, request).await?;
        let last = listing.entries.last().filter(|_| listing.has_more);
        let next_cursor = last.map(|last| cursor_of(&last.path));
        Ok((listing.entries.into_iter().map(shown).collect(), next_cursor))
    }

    /// Makes or replaces a file. If the body breaks off or is too long, nothing has changed.
    pub async fn write(
        &self,
        actor: &Actor,
        id: BunkerId,
        place: Place,
        body: Body,
    ) -> Result<FileEntry, Failure> {
        let entry: Entry = self.put(actor, id, "/files", place, PutBody::of_file(body)?).await?;
        Ok(shown(entry))
    }

    /// Unpacks a tar file into a directory.
    pub async fn unpack(
        &self,
        actor: &Actor,
        id: BunkerId,
        place: Place,
        body: Body,
    ) -> Result<Unpacked, Failure> {
        let body = PutBody::of_archive(body);
        let files::Unpacked { entries, bytes } =
            self.put(actor, id, "/files/archive", place, body).await?;
        Ok(Unpacked { entries, bytes })
    }

    async fn put<T: DeserializeOwned>(
        &self,
        actor: &Actor,
        id: BunkerId,
        route: &'static str,
        place: Place,
        body: PutBody,
    ) -> Result<T, Failure> {
        let fault = body.fault();
        let mut request = FileRequest::new(Method::PUT, route, place.into_call(actor));
        request.body = RequestBody::stream(body);
        let answer = self.call(actor, id, request).await;
        // What was wrong with the body is why the worker did not get it.
        answer.map_err(|failure| fault.get().map_or(failure, Failure::Refused))
    }

    /// Removes a file, an empty directory, or with `recursive` any directory.
    pub async fn remove(
        &self,
        actor: &Actor,
        id: BunkerId,
        path: FilePath,
        recursive: bool,
    ) -> Result<(), Failure> {
        let call = DeleteCall { path, recursive, rights: rights_of(actor) };
        let request = FileRequest::new(Method::DELETE, "/files", call);
        self.stream(actor, id, request).await.map(drop)
    }

    /// Makes a directory and its parents.
    pub async fn make_directory(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: MkdirRequest,
    ) -> Result<FileEntry, Failure> {
        let place = Place {
            path: path_of_text("path", &request.path)?,
            mode: request.mode.as_deref().map(mode_of).transpose()?,
            uid: request.uid,
            gid: request.gid,
        };
        let request = FileRequest::new(Method::POST, "/files/mkdir", place.into_call(actor));
        Ok(shown(self.call(actor, id, request).await?))
    }

    /// Moves a file or directory.
    pub async fn rename(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: MoveRequest,
    ) -> Result<FileEntry, Failure> {
        let call = MoveCall {
            path: path_of_text("from", &request.from)?,
            to: path_of_text("to", &request.to)?,
            overwrite: request.overwrite,
            rights: rights_of(actor),
        };
        let request = FileRequest::new(Method::POST, "/files/move", call);
        Ok(shown(self.call(actor, id, request).await?))
    }

    /// Tells of changes until the process ends.
    pub async fn watch(
        &self,
        actor: &Actor,
        id: BunkerId,
        path: FilePath,
        recursive: bool,
    ) -> Result<Watch, Failure> {
        let call = WatchCall { path, recursive, rights: rights_of(actor) };
        let request = FileRequest::new(Method::GET, "/files/watch", call);
        let answer = self.stream(actor, id, request).await?;
        Ok(Watch::new(answer.into_body(), self.draining.clone()))
    }

    async fn stream<C: Serialize>(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: FileRequest<C>,
    ) -> Result<http::Response<AnswerBody>, Failure> {
        let link = self.bunkers.enter(actor, id).await?;
        Ok(link.files(id, request, &actor.request_id.to_string()).await.map_err(refused)?)
    }

    async fn call<C: Serialize, T: DeserializeOwned>(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: FileRequest<C>,
    ) -> Result<T, Failure> {
        let link = self.bunkers.enter(actor, id).await?;
        Ok(link.files_json(id, request, &actor.request_id.to_string()).await.map_err(refused)?)
    }
}

/// What a caller is told when a bunker does not do what it was asked with its files.
fn refused(error: LinkError) -> ErrorBody {
    match error {
        LinkError::Unexpected(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
            ErrorBody::new(ErrorCode::NameTooLong, "the paths are too long for one call")
        }
        LinkError::Unexpected(status) if status.is_success() => {
            let message = "the bunker's answer about the file cannot be read";
            ErrorBody::new(ErrorCode::FileFailed, message)
        }
        error => error.into(),
    }
}

impl Place {
    fn into_call(self, actor: &Actor) -> WriteCall {
        let Self { path, mode, uid, gid } = self;
        WriteCall { path, mode, uid, gid, rights: rights_of(actor) }
    }
}
