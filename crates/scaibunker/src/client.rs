//! Typed calls to a controller over HTTP.
//!
//! One [`Client`] holds one pool of kept-alive connections; clones share it. Every failure is a
//! [`ClientError`] that keeps the server's code, message and request id apart, because callers
//! branch on the code and operators look for the request id in the logs.

mod audit;
mod content;
mod endpoint;
mod error;
mod event_stream;
mod exec_stream;
mod execs;
mod files;
mod identity;
mod images;
mod lifecycle;
mod objects;
#[cfg(feature = "otlp")]
mod plain_http;
mod quotas;
mod shell;
mod sse;
mod transport;

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use scaibunker_api::{
    bunker::{Bunker, BunkerStatus, CreateBunker},
    envelope::{Envelope, ListEnvelope},
    ids::{BunkerId, WorkerId},
    worker::Worker,
};
use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "otlp")]
pub use self::plain_http::PlainHttp;
use self::transport::{Answer, Transport};
pub use self::{
    audit::AuditQuery,
    content::Content,
    endpoint::{API_KEY_VARIABLE, Credential, DEFAULT_URL, DataDir, Endpoint},
    error::ClientError,
    exec_stream::{ExecEvent, ExecStream},
    files::Download,
    objects::Object,
    shell::{ShellEvent, ShellReceiver, ShellSender, ShellTarget},
};

/// Records asked for with one list call; the server's own ceiling.
const PAGE_LIMIT: usize = 200;

/// Pages of one listing that are followed at most, so that a server that always says "more"
/// cannot keep a client for ever.
const MAX_PAGES: usize = 10_000;

/// First pause between two looks at a bunker on its way to its end; it doubles up to the longest.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(20);
const LONGEST_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a bunker may take to end once that was accepted.
const END_LIMIT: Duration = Duration::from_secs(60);

/// How long an answer may take. The longest are creates, which the server ends after 60 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// A call that waits for a snapshot, or reads one whole.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(660);

/// A controller and the credential to call it with.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// A client of `endpoint`. Nothing is dialled yet.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        Ok(Self { transport: Transport::new(endpoint)? })
    }

    /// Creates a bunker. With `wait` the answer comes once it is running or failed, else at once.
    pub async fn create_bunker(
        &self,
        bunker: &CreateBunker,
        wait: bool,
    ) -> Result<Envelope<Bunker>, ClientError> {
        let path = if wait { "/bunkers?wait=true" } else { "/bunkers" };
        self.transport.json(Method::POST, path, Some(bunker), ANSWER_LIMIT).await?.decode()
    }

    /// One bunker's record.
    pub async fn bunker(&self, id: BunkerId) -> Result<Bunker, ClientError> {
        let answer = self.get(&format!("/bunkers/{id}")).await?;
        Ok(answer.decode::<Envelope<Bunker>>()?.data)
    }

    /// Asks for a bunker's end. Asking again is no error.
    pub async fn delete_bunker(&self, id: BunkerId) -> Result<(), ClientError> {
        let path = format!("/bunkers/{id}");
        self.transport.json(Method::DELETE, &path, None::<&()>, ANSWER_LIMIT).await?;
        Ok(())
    }

    /// Deletes a bunker and returns its last record once the server reports that nothing of it is
    /// left.
    pub async fn delete_bunker_and_wait(
        &self,
        id: BunkerId,
        keep_snapshot: bool,
    ) -> Result<Bunker, ClientError> {
        if keep_snapshot {
            let path = format!("/bunkers/{id}?snapshot=true");
            self.transport.json(Method::DELETE, &path, None::<&()>, SNAPSHOT_LIMIT).await?;
        } else {
            self.delete_bunker(id).await?;
        }
        let ended = async {
            let mut pause = FIRST_POLL_INTERVAL;
            loop {
                let bunker = self.bunker(id).await?;
                if bunker.status.is_terminal() {
                    return Ok(bunker);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_POLL_INTERVAL);
            }
        };
        tokio::time::timeout(END_LIMIT, ended)
            .await
            .unwrap_or(Err(ClientError::TooSlow { limit_s: END_LIMIT.as_secs() }))
    }

    /// Every bunker the caller sees, newest first, all pages.
    pub async fn all_bunkers(&self) -> Result<Vec<Bunker>, ClientError> {
        self.every_page("/bunkers?").await
    }

    /// The bunkers that are not in a terminal state, newest first.
    ///
    /// One listing a status: the history of ended bunkers grows without end, what lives does not.
    pub async fn live_bunkers(&self) -> Result<Vec<Bunker>, ClientError> {
        let live = BunkerStatus::ALL.into_iter().filter(|status| !status.is_terminal());
        let mut found = BTreeMap::new();
        for status in live {
            let path = format!("/bunkers?status={}&", status.as_str());
            // A bunker that changes its state meanwhile shows up twice; the later look is right.
            for bunker in self.every_page::<Bunker>(&path).await? {
                found.insert(bunker.id, bunker);
            }
        }
        Ok(found.into_values().rev().collect())
    }

    /// Has a worker take no new bunkers, or take them again.
    pub async fn set_drained(&self, id: WorkerId, drained: bool) -> Result<Worker, ClientError> {
        let action = if drained { "drain" } else { "resume" };
        self.change(Method::POST, &format!("/workers/{id}/{action}"), None::<&()>).await
    }

    /// The workers of the installation.
    pub async fn workers(&self) -> Result<Vec<Worker>, ClientError> {
        self.every_page("/workers?").await
    }

    async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.transport.json(Method::GET, path, None::<&()>, ANSWER_LIMIT).await
    }

    /// Makes a change and reads the object that it left.
    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let answer = self.transport.json(method, path, body, ANSWER_LIMIT).await?;
        Ok(answer.decode::<Envelope<T>>()?.data)
    }

    /// A call whose answer says nothing but that it is done.
    async fn order(&self, method: Method, path: &str) -> Result<(), ClientError> {
        self.transport.json(method, path, None::<&()>, ANSWER_LIMIT).await?;
        Ok(())
    }

    /// Follows the cursors of a list route; `path` ends where a query parameter may be added.
    async fn every_page<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ClientError> {
        self.first_of_pages(path, usize::MAX).await
    }

    /// The same up to a number of records.
    async fn first_of_pages<T: DeserializeOwned>(
        &self,
        path: &str,
        at_most: usize,
    ) -> Result<Vec<T>, ClientError> {
        let mut records = Vec::new();
        let mut cursor = String::new();
        for _ in 0..MAX_PAGES {
            let limit = PAGE_LIMIT.min(at_most - records.len());
            let answer = self.get(&format!("{path}limit={limit}{cursor}")).await?;
            let page = answer.decode::<ListEnvelope<T>>()?;
            records.extend(page.data);
            match page.next_cursor {
                Some(next) if page.has_more && records.len() < at_most => {
                    cursor = format!("&cursor={}", query_value(&next));
                }
                _ => break,
            }
        }
        records.truncate(at_most);
        Ok(records)
    }
}

/// `text` as the value of a query parameter.
fn query_value(text: &str) -> String {
    escaped(text.as_bytes(), b"")
}

/// Everything but RFC 3986's unreserved characters and those of `plain` is percent-encoded.
fn escaped(bytes: &[u8], plain: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut escaped = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || plain.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #[test]
    fn query_values_are_escaped() {
        assert_eq!(super::query_value("aZ0-._~"), "aZ0-._~");
        assert_eq!(super::query_value("a+b/c=&ü"), "a%2Bb%2Fc%3D%26%C3%BC");
        assert_eq!(super::escaped(b"/a b/\xff\n", b"/"), "/a%20b/%FF%0A");
    }
}
