//! Times as people say them.

use std::time::{Duration, SystemTime};

use base::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

#[must_use]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// How long before `now`: `3 min ago`. Older than a month is a date.
#[must_use]
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let past = now.since(at).as_secs();
    match past {
        0..10 => "just now".to_owned(),
        _ if past < 30 * DAY => format!("{} ago", span(Duration::from_secs(past))),
        _ => day(at),
    }
}

/// When a thing ends: `in 3 days`, `expired 2 h ago`, `never`.
#[must_use]
pub fn until(at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        None => "never".to_owned(),
        Some(at) if at <= now => format!("expired {}", ago(at, now)),
        // To the next minute: what ends in a day still does a second after it was made.
        Some(at) => format!("in {}", span(at.since(now) + Duration::from_secs(MINUTE - 1))),
    }
}

/// A span in its largest unit.
#[must_use]
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        _ if seconds < 2 * DAY => "1 day".to_owned(),
        _ => format!("{} days", seconds / DAY),
    }
}

fn day(at: Timestamp) -> String {
    at.to_string().chars().take_while(|ch| *ch != 'T').collect()
}

/// The time of day in UTC, to the millisecond, with the date in front where it isn't today.
#[must_use]
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    let ms = at.0 % (DAY * 1000);
    let time = format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    if at.0 / (DAY * 1000) == now.0 / (DAY * 1000) { time } else { format!("{} {time}", day(at)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_000_000_123);

    fn before(seconds: u64) -> Timestamp {
        Timestamp(NOW.0 - seconds * 1000)
    }

    #[test]
    fn people_count_in_the_largest_unit() {
        for (seconds, said) in [
            (0, "just now"),
            (59, "59 s ago"),
            (200, "3 min ago"),
            (7_300, "2 h ago"),
            (DAY, "1 day ago"),
            (3 * DAY, "3 days ago"),
            (60 * DAY, "2026-09-19"),
        ] {
            assert_eq!(ago(before(seconds), NOW), said);
        }
        assert_eq!(ago(NOW.plus(Duration::from_secs(5)), NOW), "just now");
    }

    #[test]
    fn an_end_is_ahead_past_or_never() {
        assert_eq!(until(None, NOW), "never");
        assert_eq!(until(Some(NOW.plus(Duration::from_secs(3 * DAY))), NOW), "in 3 days");
        assert_eq!(until(Some(NOW.plus(Duration::from_secs(DAY - 2))), NOW), "in 1 day");
        assert_eq!(until(Some(before(120)), NOW), "expired 2 min ago");
    }

    #[test]
    fn the_clock_is_utc() {
        assert_eq!(clock(NOW, NOW), "11:06:40.123");
        assert_eq!(clock(before(DAY), NOW), "2026-11-17 11:06:40.123");
    }
}
