//! Amounts as people type them: `0.5` cores, `2g`, `10m`.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;

/// CPU cores in thousandths: `2`, `0.5` or `500m`.
pub fn cpu_millicores(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no number of cores such as 2, 0.5 or 500m");
    if let Some(millicores) = text.strip_suffix('m') {
        return positive(millicores).ok_or_else(wrong);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 3 {
        return Err(wrong());
    }
    let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    whole
        .parse::<u32>()
        .ok()
        .and_then(|whole| whole.checked_mul(1000)?.checked_add(thousandths))
        .filter(|&millicores| millicores > 0)
        .ok_or_else(wrong)
}

/// A size in MiB: `512`, `512m` or `2g`.
pub fn size_mb(text: &str) -> Result<u32, String> {
    scaled(text, &[("m", 1), ("g", 1024)])
        .ok_or_else(|| format!("`{text}` is no size such as 512 (MiB), 512m or 2g"))
}

/// A duration in seconds: `90`, `90s`, `10m`, `2h` or `30d`.
pub fn duration_s(text: &str) -> Result<u64, String> {
    scaled(text, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)])
        .map(u64::from)
        .ok_or_else(|| format!("`{text}` is no duration such as 90 (seconds), 90s, 10m, 2h or 30d"))
}

/// A value, or the word `none` for going without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// Reads `none`, else what `value` reads.
pub fn or_none<T>(
    value: impl Fn(&str) -> Result<T, String> + Clone,
) -> impl Fn(&str) -> Result<OrNone<T>, String> + Clone {
    move |text| match text {
        "none" => Ok(OrNone(None)),
        text => {
            let value = value(text).map_err(|error| format!("{error}, nor `none`"))?;
            Ok(OrNone(Some(value)))
        }
    }
}

/// A time as a duration from now, or in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Seconds from now, ahead or back.
    Away(u64),
    At(Timestamp),
}

impl Moment {
    /// The time, as far ahead of `now`.
    pub fn after(self, now: Timestamp) -> anyhow::Result<Timestamp> {
        self.moved(now, |now, away| now.checked_add(away))
    }

    /// The time, as far back from `now`.
    pub fn before(self, now: Timestamp) -> anyhow::Result<Timestamp> {
        self.moved(now, |now, away| now.checked_sub(away))
    }

    fn moved(
        self,
        now: Timestamp,
        step: impl Fn(Timestamp, Duration) -> Result<Timestamp, jiff::Error>,
    ) -> anyhow::Result<Timestamp> {
        match self {
            Self::At(time) => Ok(time),
            Self::Away(seconds) => {
                step(now, Duration::from_secs(seconds)).context("the time is out of range")
            }
        }
    }
}

/// A time: `12h`, `30d`, or such as `2026-01-31T12:00:00Z`.
pub fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(seconds) = duration_s(text) {
        return Ok(Moment::Away(seconds));
    }
    text.parse().map(Moment::At).map_err(|_| {
        format!(
            "`{text}` is no duration such as 12h or 30d and no time such as 2026-01-31T12:00:00Z"
        )
    })
}

/// `name=value`, as variables and labels are given. The value may be empty, the name not.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no NAME=VALUE")),
    }
}

fn scaled(text: &str, units: &[(&str, u32)]) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = units
        .iter()
        .find_map(|(suffix, factor)| Some((lower.strip_suffix(suffix)?, *factor)))
        .unwrap_or((lower.as_str(), 1));
    positive(digits)?.checked_mul(factor)
}

fn positive(digits: &str) -> Option<u32> {
    digits.parse().ok().filter(|&number| number > 0 && !digits.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cores_in_each_notation() {
        for (text, millicores) in
            [("2", 2000), ("0.5", 500), ("1.25", 1250), ("0.001", 1), ("500m", 500)]
        {
            assert_eq!(cpu_millicores(text), Ok(millicores), "{text}");
        }
        for text in ["", "0", "0.0", "-1", "+1", ".5", "1.", "1.0005", "1e3", "m", "5000000", "x"] {
            assert!(cpu_millicores(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_in_each_notation() {
        for (text, mb) in [("512", 512), ("512m", 512), ("2g", 2048), ("2G", 2048)] {
            assert_eq!(size_mb(text), Ok(mb), "{text}");
        }
        for (text, s) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("30d", 2_592_000)] {
            assert_eq!(duration_s(text), Ok(s), "{text}");
        }
        for text in ["", "0", "-1", "+1", "m", "1.5", "4194304g", "ü"] {
            assert!(size_mb(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_ahead_back_or_fixed() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let hour = moment("1h").unwrap();
        assert_eq!(hour.after(now).unwrap().as_second(), 1_003_600);
        assert_eq!(hour.before(now).unwrap().as_second(), 996_400);
        let fixed = moment("2026-01-02T03:04:05+01:00").unwrap();
        assert_eq!(fixed.after(now).unwrap().to_string(), "2026-01-02T02:04:05Z");
        assert_eq!(fixed.before(now).unwrap(), fixed.after(now).unwrap());
        assert!(Moment::Away(u64::from(u32::MAX)).after(Timestamp::MAX).is_err());
        assert!(moment("yesterday").is_err() && moment("2026-01-02").is_err());
    }

    #[test]
    fn none_is_told_from_a_value() {
        let limit = or_none(duration_s);
        assert_eq!((limit("none"), limit("2h")), (Ok(OrNone(None)), Ok(OrNone(Some(7200)))));
        assert!(limit("never").unwrap_err().ends_with("nor `none`"));
    }

    #[test]
    fn a_pair_needs_a_name_and_splits_at_the_first_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err());
    }

    proptest! {
        #[test]
        fn written_cores_are_read_back(millicores in 1u32..4_000_000) {
            let text = format!("{}.{:03}", millicores / 1000, millicores % 1000);
            prop_assert_eq!(cpu_millicores(&text), Ok(millicores));
        }

        #[test]
        fn no_text_makes_them_panic(text in ".*") {
            let _ = (cpu_millicores(&text), size_mb(&text), duration_s(&text), pair(&text), moment(&text));
        }
    }
}
