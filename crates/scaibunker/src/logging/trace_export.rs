//! Spans for an OpenTelemetry collector: OTLP over HTTP, as protobuf.
//!
//! Spans wait in a bounded queue for a thread of their own that sends them in batches. When the
//! collector is slow or gone, spans are dropped; nothing that makes them ever waits.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::{runtime::Handle, time::timeout};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::client::PlainHttp;

/// The collector for everything, `/v1/traces` being added, and the one for spans, as it is.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

const SERVICE_NAME_VARIABLE: &str = "OTEL_SERVICE_NAME";
const SERVICE_NAME: &str = "scaibunker";

/// How long one batch may take.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// How long the end of the program may be held up by what was not sent yet.
const END_LIMIT: Duration = Duration::from_secs(3);

/// Spans on their way to a collector.
#[derive(Debug)]
pub(super) struct TraceExport {
    provider: SdkTracerProvider,
}

impl TraceExport {
    /// The export that the environment asks for; `None` if it asks for none. `runtime` does the
    /// sending.
    pub(super) fn of_environment(runtime: &Handle) -> anyhow::Result<Option<Self>> {
        let given = |name| env::var(name).ok();
        match endpoint(given(TRACES_ENDPOINT_VARIABLE), given(ENDPOINT_VARIABLE)) {
            Some(endpoint) => Self::to(&endpoint, runtime).map(Some),
            None => Ok(None),
        }
    }

    /// An export to the URL of a collector.
    fn to(endpoint: &str, runtime: &Handle) -> anyhow::Result<Self> {
        let client = Collector {
            http: PlainHttp::new(endpoint.starts_with("https:"))?,
            runtime: runtime.clone(),
            is_failing: AtomicBool::new(false),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(client)
            .with_endpoint(endpoint)
            .build()
            .with_context(|| format!("cannot export to {endpoint}; correct {ENDPOINT_VARIABLE}"))?;
        let resource = Resource::builder();
        let resource = match env::var_os(SERVICE_NAME_VARIABLE) {
            Some(_) => resource,
            None => resource.with_service_name(SERVICE_NAME),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self { provider })
    }

    /// What collects the spans: those of this program's crates, from `info` on, whatever is logged.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let ours = Targets::new().with_target(SERVICE_NAME, LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_filter(ours)
    }

    /// Sends what is in the queue, as long as that takes no more than [`END_LIMIT`]. Not for
    /// threads of the runtime, which does the sending.
    pub(super) fn end(self) {
        // A failure has been told where it happened.
        let _ = self.provider.shutdown_with_timeout(END_LIMIT);
    }
}

/// Where spans go; empty variables count as unset.
fn endpoint(for_traces: Option<String>, for_all: Option<String>) -> Option<String> {
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    given(for_traces)
        .or_else(|| Some(format!("{}/v1/traces", given(for_all)?.trim_end_matches('/'))))
}

/// The collector, which may be gone: that is told when it begins, and not again until it is over.
#[derive(Debug)]
struct Collector {
    http: PlainHttp,
    runtime: Handle,
    is_failing: AtomicBool,
}

impl Collector {
    fn note(&self, failure: Option<String>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(reason) if !was_failing => {
                tracing::warn!(%reason, "spans cannot be exported; they are dropped until they can");
            }
            None if was_failing => tracing::info!("spans are exported again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        // The thread that calls is none of the runtime's, and connections need one that is.
        let sent = self.runtime.spawn(async move { timeout(SEND_LIMIT, http.send(request)).await });
        let answer: Result<_, HttpError> = match sent.await {
            Ok(Ok(answer)) => answer.map_err(Into::into),
            Ok(Err(elapsed)) => Err(elapsed.into()),
            Err(stopped) => Err(stopped.into()),
        };
        self.note(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::State, http::StatusCode, routing::post};
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value,
    };
    use prost::Message as _;
    use tokio::{net::TcpListener, sync::mpsc};
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::{super::captured::Lines, *};

    /// Stands in for a collector: it takes one kind of call, and gives the status it was told to.
    async fn fake_collector(status: StatusCode) -> (String, mpsc::UnboundedReceiver<Bytes>) {
        let (sender, received) = mpsc::unbounded_channel();
        let take = async move |State(sender): State<mpsc::UnboundedSender<Bytes>>, body: Bytes| {
            sender.send(body).unwrap();
            status
        };
        let app = Router::new().route("/v1/traces", post(take)).with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (url, received)
    }

    async fn export(url: &str, make_spans: impl FnOnce()) {
        let traces = TraceExport::to(url, &Handle::current()).unwrap();
        let subscriber = Registry::default().with(traces.layer());
        tracing::subscriber::with_default(subscriber, make_spans);
        tokio::task::spawn_blocking(|| traces.end()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn spans_reach_the_collector_by_the_end() {
        let (url, mut received) = fake_collector(StatusCode::OK).await;
        export(&url, || {
            let request = tracing::info_span!(target: "scaibunker_controller", "request",
                request_id = "req_1");
            let _entered = request.enter();
            tracing::info_span!(target: "scaibunker_worker", "boot").in_scope(|| {});
            tracing::info_span!(target: "hyper", "foreign").in_scope(|| {});
            tracing::debug_span!(target: "scaibunker_worker", "detail").in_scope(|| {});
        })
        .await;
        let body = received.recv().await.unwrap();
        let sent = ExportTraceServiceRequest::decode(body).unwrap();
        let of_service = &sent.resource_spans[0];
        let resource = of_service.resource.as_ref().unwrap();
        let service = resource.attributes.iter().find(|one| one.key == "service.name").unwrap();
        let service = service.value.clone().and_then(|value| value.value);
        assert_eq!(service, Some(Value::StringValue(SERVICE_NAME.to_owned())));

        let spans: Vec<_> = of_service.scope_spans.iter().flat_map(|one| &one.spans).collect();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["boot", "request"]);
        assert_eq!(spans[0].parent_span_id, spans[1].span_id);
        let id = spans[1].attributes.iter().find(|one| one.key == "request_id").unwrap();
        let id = id.value.clone().and_then(|value| value.value);
        assert_eq!(id, Some(Value::StringValue("req_1".to_owned())));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_collector_that_refuses_or_is_gone_holds_nothing_up() {
        let (refusing, _received) = fake_collector(StatusCode::BAD_REQUEST).await;
        // Nobody listens on the discard port of a test machine's loopback.
        for url in [refusing.as_str(), "http://127.0.0.1:9/v1/traces"] {
            let make_spans = || {
                // More than the queue holds.
                for _ in 0..10_000 {
                    tracing::info_span!(target: "scaibunker", "s").in_scope(|| {});
                }
            };
            let ended = timeout(2 * END_LIMIT, export(url, make_spans)).await;
            assert!(ended.is_ok(), "{url}");
        }
    }

    #[test]
    fn failures_are_told_once_until_they_are_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let collector = Collector {
            http: PlainHttp::new(false).unwrap(),
            runtime: runtime.handle().clone(),
            is_failing: AtomicBool::new(false),
        };
        let (told, lines) = (Lines::default(), Lines::default());
        for (failures, lines) in [(&["a", "b", "c"][..], &told), (&["d"], &lines)] {
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_writer(move || writer.clone())
                .with_ansi(false)
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                for failure in failures {
                    collector.note(Some((*failure).to_owned()));
                }
                collector.note(None);
                collector.note(None);
            });
            assert_eq!(lines.text().lines().count(), 2, "{}", lines.text());
        }
        assert!(told.text().contains("reason=a") && lines.text().contains("reason=d"));
    }

    #[test]
    fn the_endpoint_for_spans_is_taken_as_it_is() {
        let given = |text: &str| Some(text.to_owned());
        assert_eq!(endpoint(None, given("http://c:4318/")), given("http://c:4318/v1/traces"));
        assert_eq!(endpoint(given("http://t/x"), given("http://c")), given("http://t/x"));
        assert_eq!((endpoint(None, None), endpoint(given(""), given(""))), (None, None));
    }
}
