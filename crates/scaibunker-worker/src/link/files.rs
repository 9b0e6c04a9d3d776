//! Calls on files, passed on to the guest and back as they come.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, header},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
};
use scaibunker_guest_protocol::files::{
    CALL_HEADER, DeleteCall, FileCall, ListCall, MoveCall, Rights, WatchCall, WriteCall,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    file_answer::{checked_headers, is_result},
    guest_call,
    routes::{Failure, request_id},
};
use crate::{
    activity::Working,
    bunker_state::Guest,
    channel::{AnswerBody, GuestBody, refusal},
    execs::limited,
    supervisor::Supervisor,
};

/// A guest that has not answered after this long will not: only a body can take longer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// What the controller may ask of a file's bytes.
const CONDITIONS: [header::HeaderName; 3] =
    [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH];

/// A call on files.
pub(super) trait Call: Serialize + DeserializeOwned {
    fn rights(&mut self) -> &mut Rights;
}

macro_rules! calls {
    ($($call:ty),*) => {$(
        impl Call for $call {
            fn rights(&mut self) -> &mut Rights {
                &mut self.rights
            }
        }
    )*};
}

calls!(FileCall, WriteCall, DeleteCall, ListCall, MoveCall, WatchCall);

/// Serves the guest's route of the same name.
pub(super) async fn pass<C: Call>(
    State(supervisor): State<Arc<Supervisor>>,
    Path(id): Path<BunkerId>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let mut conditions = HeaderMap::new();
    for name in CONDITIONS {
        if let Some(value) = head.headers.get(&name) {
            conditions.insert(name, value.clone());
        }
    }
    let call = FileRequest {
        id,
        request_id: request_id(&head.headers),
        call: read_call::<C>(&head.headers)?,
        path: head.uri.path(),
        conditions,
    };
    Ok(call.send(&supervisor, head.method, body).await?)
}

pub(super) fn read_call<C: Call>(headers: &HeaderMap) -> Result<C, ErrorBody> {
    let invalid = |message: String| ErrorBody::new(ErrorCode::ValidationError, message);
    let call = headers.get(CALL_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
    serde_json::from_slice(call).map_err(|e| invalid(format!("not a call on files: {e}")))
}

/// A call that is to be made.
pub(super) struct FileRequest<'a, C> {
    pub id: BunkerId,
    pub request_id: String,
    pub call: C,
    /// The guest's route.
    pub path: &'a str,
    pub conditions: HeaderMap,
}

impl<C: Call> FileRequest<'_, C> {
    /// Makes the call. Dropping the future or the answer's body gives it up, at the guest as well.
    pub async fn send(
        mut self,
        supervisor: &Supervisor,
        method: Method,
        body: Body,
    ) -> Result<Response, ErrorBody> {
        let id = self.id;
        let Guest { channel, claim, file_calls, activity } = supervisor.guest(id)?;
        let bunker = supervisor.watch(id)?;
        let permit = file_calls
            .try_acquire_owned()
            .map_err(|_| limited(format!("bunker {id} has too many calls on files at once")))?;
        let place = Place { _permit: permit, _working: activity.work() };
        self.call.rights().user.get_or_insert_with(|| claim.image_user.clone());
        let headers = self.headers()?;
        let has_limit = method != Method::PUT;
        let body = if body.is_end_stream() { GuestBody::Empty } else { GuestBody::Stream(body) };
        let sent = channel.send_with(method, self.path, headers, body, &self.request_id);
        let sent =
            async { if has_limit { timeout(HEAD_LIMIT, sent).await } else { Ok(sent.await) } };
        let answered = tokio::select! {
            answered = sent => answered,
            error = guest_call::interrupted(id, bunker) => return Err(error),
        };
        let silent = || {
            let limit_s = HEAD_LIMIT.as_secs();
            let message = format!("bunker {id} did not answer within {limit_s} s");
            ErrorBody::new(ErrorCode::FileFailed, message)
        };
        match answered.map_err(|_| silent())? {
            Ok(answer) => result(answer, place).await,
            Err(error) => {
                Err(guest_call::broken(supervisor, id, &error, ErrorCode::FileFailed).await)
            }
        }
    }

    fn headers(&mut self) -> Result<HeaderMap, ErrorBody> {
        let mut headers = std::mem::take(&mut self.conditions);
        let call = serde_json::to_string(&self.call).unwrap_or_default();
        let call = HeaderValue::try_from(call).map_err(|_| {
            ErrorBody::new(ErrorCode::ValidationError, "a call on files is plain text")
        })?;
        headers.insert(CALL_HEADER, call);
        Ok(headers)
    }
}

async fn result(
    answer: axum::http::Response<AnswerBody>,
    place: Place,
) -> Result<Response, ErrorBody> {
    let (head, body) = answer.into_parts();
    if !is_result(head.status) {
        let reason = timeout(HEAD_LIMIT, refusal(body)).await;
        return Err(reason.map_or_else(
            |_| ErrorBody::new(ErrorCode::FileFailed, "the bunker does not say why it failed"),
            |error| guest_call::refused(&error),
        ));
    }
    let mut response = Response::new(Body::new(Placed { body, _place: place }));
    *response.status_mut() = head.status;
    *response.headers_mut() = checked_headers(&head.headers);
    Ok(response)
}

/// A call's place among those of a bunker.
struct Place {
    _permit: OwnedSemaphorePermit,
    _working: Working,
}

/// A body that keeps its call's place until it ends.
struct Placed {
    body: AnswerBody,
    _place: Place,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
