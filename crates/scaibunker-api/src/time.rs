//! Times on the wire: RFC 3339 in UTC with milliseconds, for `#[serde(with = "…")]`.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer};

/// Writes a time.
pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// Reads a time of any precision.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Timestamp::deserialize(deserializer)
}

/// The same for a time that may be `null`.
pub mod optional {
    use super::*;

    /// Writes a time or `null`.
    pub fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a time or `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Option::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_exactly_three_decimals() {
        for (time, text) in [
            ("2026-01-02T03:04:05Z", "\"2026-01-02T03:04:05.000Z\""),
            ("2026-01-02T03:04:05.123999Z", "\"2026-01-02T03:04:05.123Z\""),
        ] {
            let time: Timestamp = time.parse().unwrap();
            let mut json = Vec::new();
            serialize(&time, &mut serde_json::Serializer::new(&mut json)).unwrap();
            assert_eq!(String::from_utf8(json).unwrap(), text);
        }
    }
}
