//! Log lines go to standard error: standard output belongs to data. Spans go to an OpenTelemetry
//! collector where the environment names one.

#[cfg(test)]
mod captured;
mod json_lines;
#[cfg(feature = "otlp")]
mod trace_export;

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tokio::runtime::Handle;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, fmt::format::JsonFields, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::json_lines::JsonLines;

/// Environment variable with the filter, such as `info,scaibunker_worker=debug`.
const FILTER_VARIABLE: &str = "SCAIBUNKER_LOG";

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, coloured at a terminal
    #[default]
    Human,
    /// One JSON object a line, for programs
    Json,
}

/// Logging while the program runs.
#[must_use = "spans that were not sent yet get lost"]
#[derive(Debug)]
pub struct Logging {
    #[cfg(feature = "otlp")]
    traces: Option<trace_export::TraceExport>,
}

impl Logging {
    /// Sends what was not sent yet; the runtime still has to run. Bounded in time.
    pub fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            traces.end();
        }
    }
}

/// Starts logging. `default_filter` holds when the environment names none, or a wrong one.
#[cfg(feature = "otlp")]
pub fn init(default_filter: &str, format: LogFormat, runtime: &Handle) -> Logging {
    let (traces, failure) = match trace_export::TraceExport::of_environment(runtime) {
        Ok(traces) => (traces, None),
        Err(error) => (None, Some(error)),
    };
    let subscriber = Registry::default().with(lines(default_filter, format));
    subscriber.with(traces.as_ref().map(trace_export::TraceExport::layer)).init();
    if let Some(error) = failure {
        tracing::warn!("no spans are exported: {error:#}");
    }
    Logging { traces }
}

/// Starts logging. `default_filter` holds when the environment names none, or a wrong one.
#[cfg(not(feature = "otlp"))]
pub fn init(default_filter: &str, format: LogFormat, _: &Handle) -> Logging {
    Registry::default().with(lines(default_filter, format)).init();
    Logging {}
}

fn lines(default_filter: &str, format: LogFormat) -> impl Layer<Registry> {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default_filter));
    let lines = fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(JsonLines).boxed(),
    }
    .with_filter(filter)
}
