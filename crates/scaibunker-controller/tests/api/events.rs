//! Server-sent events, as a browser reads them.

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

/// All events of a stream that ends as every stream does.
pub async fn parsed(response: Response<Incoming>) -> Vec<Event> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let (text, rest) = text.split_once("data: [DONE]\n\n").expect("every stream ends with it");
    assert_eq!(rest, "");
    text.split_terminator("\n\n").filter_map(event).collect()
}

/// One event; `None` for a comment.
pub fn event(text: &str) -> Option<Event> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    Some(Event {
        name: field("event: ")?.to_owned(),
        id: field("id: ").map(str::to_owned),
        data: serde_json::from_str(field("data: ").unwrap()).unwrap(),
    })
}

/// Events as they come.
pub struct Stream {
    response: Response<Incoming>,
    text: String,
}

impl Stream {
    pub fn new(response: Response<Incoming>) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event; `None` at the `[DONE]`.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((piece, rest)) = self.text.split_once("\n\n") {
                let (piece, rest) = (piece.to_owned(), rest.to_owned());
                self.text = rest;
                if piece == "data: [DONE]" {
                    return None;
                }
                if let Some(event) = event(&piece) {
                    return Some(event);
                }
            }
            let piece = self.response.body_mut().frame().await.expect("it ends with [DONE]");
            let bytes = piece.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}
