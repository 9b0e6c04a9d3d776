//! An answer that is a stream of events.

use std::{collections::VecDeque, time::Duration};

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{
    error::{ClientError, WireError, root_cause},
    sse::{Event, Parser},
    transport::request_id,
};

/// Silence after which the connection counts as broken; the server speaks every 15 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// What ends every stream, good or bad.
const DONE: &str = "[DONE]";

/// Events in the order in which the server sent them.
#[derive(Debug)]
pub(super) struct EventStream {
    body: Incoming,
    parser: Parser,
    ready: VecDeque<Event>,
    request_id: Option<String>,
}

impl EventStream {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        Self {
            request_id: request_id(response.headers()),
            body: response.into_body(),
            parser: Parser::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next event; `None` after the server has ended the stream as it should. An `error` event
    /// is the error it tells. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            match self.ready.pop_front() {
                Some(event) if event.data == DONE => return Ok(None),
                Some(event) if event.name == "error" => {
                    let error: WireError = self.json(&event)?;
                    return Err(error.into_error(None, self.request_id.clone()));
                }
                Some(event) => return Ok(Some(event)),
                None => self.receive().await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<(), ClientError> {
        let interrupted = |reason: String| ClientError::Interrupted {
            reason,
            request_id: self.request_id.clone(),
        };
        match tokio::time::timeout(SILENCE_LIMIT, self.body.frame()).await {
            Err(_) => Err(interrupted(format!("nothing came for {} s", SILENCE_LIMIT.as_secs()))),
            Ok(None) => Err(interrupted("the stream broke off before its end".to_owned())),
            Ok(Some(Err(error))) => Err(interrupted(root_cause(&error))),
            Ok(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    let events = self.parser.push(piece);
                    self.ready.extend(events.map_err(|error| self.unexpected(error))?);
                }
                Ok(())
            }
        }
    }

    /// An event's data as the contract describes it.
    pub(super) fn json<T: DeserializeOwned>(&self, event: &Event) -> Result<T, ClientError> {
        serde_json::from_str(&event.data)
            .map_err(|error| self.unexpected(format!("`{}` event: {error}", event.name)))
    }

    /// An event that is not what the contract says.
    pub(super) fn unexpected(&self, reason: impl ToString) -> ClientError {
        ClientError::Unexpected { reason: reason.to_string(), request_id: self.request_id.clone() }
    }
}
