//! Times as HTTP headers have them.

const DAY_S: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Years that have four digits, in seconds since 1970.
const EXPRESSIBLE: std::ops::Range<i64> = 0..253_402_300_800;

/// A time in seconds since 1970, moved to the nearest one that can be written.
pub fn http_date(unix_s: i64) -> String {
    let unix_s = unix_s.clamp(EXPRESSIBLE.start, EXPRESSIBLE.end - 1);
    let (days, second) = (unix_s / DAY_S, unix_s % DAY_S);
    let (year, month, day) = date(days);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        WEEKDAYS[(days % 7) as usize],
        MONTHS[month],
        second / 3600,
        second / 60 % 60,
        second % 60,
    )
}

/// Year, month from 0 and day of a day since 1970, which is not before it.
fn date(days: i64) -> (i64, usize, i64) {
    let (mut year, mut day) = (1970, days);
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let year_days = |year| if is_leap(year) { 366 } else { 365 };
    while day >= year_days(year) {
        day -= year_days(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 0;
    for month_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < month_days {
            break;
        }
        day -= month_days;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (-5, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(unix_s), text);
        }
    }
}
