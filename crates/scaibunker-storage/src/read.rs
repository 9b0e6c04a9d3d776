//! Objects on their way to a reader: whole, in part, or only if they have changed.

use std::{fmt, io::SeekFrom, ops::Range, sync::Arc};

use axum::{
    BoxError,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, future::Either, stream};
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, path::Path,
};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::{
    key,
    range::Wanted,
    segments::{Listed, Segments},
};

/// How much of a file is read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// How often an object is looked at again because it was replaced just before it was opened.
const ATTEMPTS: usize = 3;

/// An answer to a read: 200, 206, 304, or 416 without a body.
#[derive(Debug)]
pub struct ObjectBody {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Reads from the store as it is read itself; breaks off when the store does.
    pub body: Body,
}

/// The headers of a request that decide what it gets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conditions<'a> {
    pub(crate) range: Option<&'a str>,
    pub(crate) if_range: Option<&'a str>,
    pub(crate) if_none_match: Option<&'a str>,
}

/// An object that is there.
pub(crate) enum Found {
    Whole(ObjectMeta),
    InSegments(Segments),
}

#[derive(Debug, thiserror::Error)]
#[error("the object is not {} bytes long any more", expected.end)]
struct Shrunk {
    expected: Range<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("the object store ended {missing} bytes too early")]
struct Short {
    missing: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the object store sent more than the object has")]
struct Overlong;

/// Looks an object up: its segments, which is what outputs usually have, or itself. A key with
/// others below it is no object itself, as in a directory.
pub(crate) async fn find(
    store: &dyn ObjectStore,
    key: &str,
    place: &Path,
) -> object_store::Result<Option<Found>> {
    if key::may_have_segments(key) {
        match Segments::list(store, place.clone()).await? {
            Listed::Segments(segments) => return Ok(Some(Found::InSegments(segments))),
            Listed::WithoutBeginning => return Ok(None),
            Listed::Nothing => {}
        }
    }
    match store.head(place).await {
        Ok(meta) => Ok(Some(Found::Whole(meta))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Answers a read; `None` if there is no such object.
pub(crate) async fn read(
    store: &Arc<dyn ObjectStore>,
    key: &str,
    place: &Path,
    conditions: Conditions<'_>,
) -> object_store::Result<Option<ObjectBody>> {
    let mut attempt = 1;
    loop {
        let Some(found) = find(store.as_ref(), key, place).await? else { return Ok(None) };
        match found.answer(store, key, conditions).await {
            Err(
                object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. },
            ) if attempt < ATTEMPTS => attempt += 1,
            answer => return answer.map(Some),
        }
    }
}

impl Found {
    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Whole(meta) => meta.size,
            Self::InSegments(segments) => segments.size(),
        }
    }

    fn e_tag(&self) -> Option<&str> {
        match self {
            Self::Whole(meta) => meta.e_tag.as_deref(),
            Self::InSegments(segments) => Some(segments.e_tag()),
        }
    }

    /// The headers of an answer with the whole object.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, self.size().into());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(tag) = self.e_tag().and_then(|tag| HeaderValue::from_str(tag).ok()) {
            headers.insert(header::ETAG, tag);
        }
        headers
    }

    async fn answer(
        self,
        store: &Arc<dyn ObjectStore>,
        key: &str,
        conditions: Conditions<'_>,
    ) -> object_store::Result<ObjectBody> {
        let size = self.size();
        let mut headers = self.headers();
        if self.e_tag().is_some_and(|tag| names(conditions.if_none_match, tag)) {
            headers.remove(header::CONTENT_LENGTH);
            let status = StatusCode::NOT_MODIFIED;
            return Ok(ObjectBody { status, headers, body: Body::empty() });
        }
        let is_current = conditions.if_range.is_none_or(|tag| self.e_tag() == Some(tag));
        let (status, part) = match Wanted::of(conditions.range.filter(|_| is_current), size) {
            Wanted::Whole => (StatusCode::OK, 0..size),
            Wanted::Part(part) => {
                let range = format_args!("{}-{}/{size}", part.start, part.end - 1);
                headers.insert(header::CONTENT_RANGE, content_range(range));
                headers.insert(header::CONTENT_LENGTH, (part.end - part.start).into());
                (StatusCode::PARTIAL_CONTENT, part)
            }
            Wanted::Nothing => {
                headers.insert(header::CONTENT_RANGE, content_range(format_args!("*/{size}")));
                headers.remove(header::CONTENT_LENGTH);
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                return Ok(ObjectBody { status, headers, body: Body::empty() });
            }
        };
        let body = self.body(store, key, part).await?;
        Ok(ObjectBody { status, headers, body })
    }

    async fn body(
        self,
        store: &Arc<dyn ObjectStore>,
        key: &str,
        part: Range<u64>,
    ) -> object_store::Result<Body> {
        let length = part.end - part.start;
        let pieces = match self {
            _ if part.is_empty() => return Ok(Body::empty()),
            Self::Whole(meta) => {
                let tag = meta.e_tag.as_deref();
                Either::Left(pieces(open(store.as_ref(), &meta.location, part, tag).await?))
            }
            Self::InSegments(segments) => Either::Right(segments.read(Arc::clone(store), part)),
        };
        let key = key.to_owned();
        Ok(Body::from_stream(exactly(length, pieces).inspect_err(move |error| {
            tracing::warn!(key, error, "a download broke off");
        })))
    }
}

/// Opens exactly the bytes `part` of an object, which is not empty, if the object is still the one
/// with this tag.
pub(crate) async fn open(
    store: &dyn ObjectStore,
    place: &Path,
    part: Range<u64>,
    e_tag: Option<&str>,
) -> object_store::Result<GetResult> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(part.clone())),
        if_match: e_tag.map(str::to_owned),
        ..GetOptions::default()
    };
    let found = store.get_opts(place, options).await?;
    if found.range != part {
        let source = Box::new(Shrunk { expected: part });
        return Err(object_store::Error::Precondition { path: place.to_string(), source });
    }
    Ok(found)
}

/// The bytes of an opened object.
pub(crate) fn pieces(
    found: GetResult,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    match found.payload {
        GetResultPayload::Stream(pieces) => Either::Left(pieces.map_err(BoxError::from)),
        GetResultPayload::File(file, _) => {
            let part = found.range;
            let opened = async move {
                let mut file = tokio::fs::File::from_std(file);
                file.seek(SeekFrom::Start(part.start)).await?;
                let file = file.take(part.end - part.start);
                let pieces = ReaderStream::with_capacity(file, PIECE_BYTES);
                Ok::<_, BoxError>(pieces.map_err(BoxError::from))
            };
            Either::Right(stream::once(opened).try_flatten())
        }
    }
}

/// Fails where a store ends before, or goes on after, the length that was promised to the reader.
fn exactly(
    length: u64,
    pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    stream::try_unfold((Box::pin(pieces), length), |(mut pieces, missing)| async move {
        let Some(piece) = pieces.try_next().await? else {
            return if missing == 0 { Ok(None) } else { Err(BoxError::from(Short { missing })) };
        };
        let missing = missing.checked_sub(piece.len() as u64).ok_or(Overlong)?;
        Ok(Some((piece, (pieces, missing))))
    })
}

/// Whether an `If-None-Match` header names the tag. Weakness does not matter here.
fn names(if_none_match: Option<&str>, e_tag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.is_some_and(|tags| {
        tags.trim() == "*" || tags.split(',').any(|tag| strong(tag) == strong(e_tag))
    })
}

fn content_range(range: fmt::Arguments<'_>) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes {range}"))
        .unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}
