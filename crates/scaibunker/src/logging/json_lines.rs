//! Log lines as JSON objects with everything at the top level.
//!
//! The fields of the spans around an event stand beside its own, so that a line can be found by
//! `"request_id":"req_…"` whatever wrote it. Of two fields with one name the innermost is shown.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// What every line begins with; fields of these names are not shown.
const OWN_NAMES: [&str; 4] = ["timestamp", "level", "target", "message"];

/// The format. Spans have to keep their fields as [`JsonFields`].
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(of_span) = serde_json::from_str::<Map<String, Value>>(of_span)
            {
                fields.extend(of_span);
            }
        }
        event.record(&mut Fields(&mut fields));
        let message = fields.remove("message").unwrap_or_else(|| "".into());
        fields.retain(|name, _| !OWN_NAMES.contains(&name.as_str()));

        let metadata = event.metadata();
        write!(
            writer,
            r#"{{"timestamp":"{:.6}","level":"{}","target":{},"message":{message}"#,
            Timestamp::now(),
            metadata.level(),
            Value::from(metadata.target()),
        )?;
        for (name, value) in fields {
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

/// Collects an event's fields; numbers and truth values stay what they are.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use tracing::field::Empty;

    use super::{super::captured::Lines, *};

    fn logged(log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        lines.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_fields_of_spans_are_at_the_top_level() {
        let lines = logged(|| {
            let request = tracing::info_span!(
                "request", request_id = %"req_1", tenant_id = Empty, status = 1, level = "x"
            );
            request.record("tenant_id", "ten_1");
            let _request = request.enter();
            let _bunker = tracing::info_span!("bunker", bunker_id = "bnk_1").entered();
            tracing::info!(status = 200, slow = true, error = ?"a\"b", "said \"so\"\nand on");
        });
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.starts_with(r#"{"timestamp":""#), "{line}");
        assert!(line.contains(r#""request_id":"req_1""#), "{line}");
        let value: Value = serde_json::from_str(line).unwrap();
        for (name, expected) in [
            ("tenant_id", Value::from("ten_1")),
            ("bunker_id", "bnk_1".into()),
            ("status", 200.into()),
            ("slow", true.into()),
            ("error", r#""a\"b""#.into()),
            ("message", "said \"so\"\nand on".into()),
            ("level", "INFO".into()),
            ("target", module_path!().into()),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        assert!(value["timestamp"].as_str().unwrap().parse::<Timestamp>().is_ok());
    }

    #[test]
    fn a_line_needs_neither_spans_nor_a_message() {
        let lines = logged(|| tracing::info!(target: "t", count = 3u64));
        assert!(lines[0].ends_with(r#""target":"t","message":"","count":3}"#), "{lines:?}");
    }
}
