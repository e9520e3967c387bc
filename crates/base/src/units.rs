//! Sizes, spans and rates, as people write them and as the code counts them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::text::as_text;

/// Text that is not a quantity of the unit wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct UnitError {
    text: String,
    wanted: &'static str,
}

fn refused(text: &str, wanted: &'static str) -> UnitError {
    UnitError { text: text.chars().take(40).collect(), wanted }
}

/// Splits `128MiB` into 128 and `MiB`. The number is whole: fractions invite doubt about rounding.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// A size in bytes, written `128MiB`: B, KiB, MiB, GiB, or a bare number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bytes(pub u64);

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const WANTED: &str = "a size: write a whole number and B, KiB, MiB or GiB, as in 128MiB";
        let (number, unit) = number_and_unit(text).ok_or_else(|| refused(text, WANTED))?;
        let unit = if unit.is_empty() { "B" } else { unit };
        SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, factor)| number.checked_mul(*factor))
            .map(Self)
            .ok_or_else(|| refused(text, WANTED))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZES
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A stretch of time, written `200ms`, `30s`, `5m`, `12h` or `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span(pub Duration);

const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const WANTED: &str = "a span of time: write a whole number and ms, s, m, h or d, as in 30s";
        let (number, unit) = number_and_unit(text).ok_or_else(|| refused(text, WANTED))?;
        SPANS
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, factor)| number.checked_mul(*factor))
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| refused(text, WANTED))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) =
            SPANS.into_iter().find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor)).unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / factor)
    }
}

/// So many in a period, written `100/s`, `5000/d` or `10/5m`. Neither side is ever zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    count: u64,
    period: Duration,
}

impl Rate {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const WANTED: &str = "a rate: write a count, a slash and a period, as in 100/s or 10/5m";
        let (count, period) = text.split_once('/').ok_or_else(|| refused(text, WANTED))?;
        let count: u64 = count.trim().parse().map_err(|_| refused(text, WANTED))?;
        let period = period.trim();
        // `100/s` says one second without saying one.
        let period =
            if period.starts_with(|ch: char| ch.is_ascii_digit()) { period.to_owned() } else { format!("1{period}") };
        let period = period.parse::<Span>().map_err(|_| refused(text, WANTED))?.0;
        if count == 0 || period.is_zero() {
            return Err(refused(text, "a rate: its count and its period begin at 1, as in 1/s or 10/5m"));
        }
        Ok(Self { count, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = Span(self.period).to_string();
        let bare = period.strip_prefix('1').filter(|unit| unit.starts_with(|ch: char| ch.is_ascii_alphabetic()));
        write!(f, "{}/{}", self.count, bare.unwrap_or(&period))
    }
}

as_text! {
    Bytes, "^[0-9]+ *(B|KiB|MiB|GiB)?$", "A size, such as 128MiB";
    Span, "^[0-9]+ *(ms|s|m|h|d)$", "A span of time, such as 200ms, 30s or 7d";
    Rate, "^[0-9]+ */ *([0-9]+ *)?(ms|s|m|h|d)$", "So many in a period, such as 100/s or 10/5m";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes: u64, ms: u32, count in 1..=u64::MAX, period in 1..=u32::MAX) {
            let size = Bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let span = Span(Duration::from_millis(u64::from(ms)));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            let rate = Rate { count, period: Duration::from_millis(u64::from(period)) };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = (text.parse::<Bytes>(), text.parse::<Span>(), text.parse::<Rate>());
        }
    }

    #[test]
    fn people_write_sizes_and_rates() {
        assert_eq!("128MiB".parse(), Ok(Bytes(128 << 20)));
        assert_eq!("128 MiB".parse(), Ok(Bytes(128 << 20)));
        assert_eq!("100/s".parse(), Ok(Rate { count: 100, period: Duration::from_secs(1) }));
        assert_eq!("10/5m".parse(), Ok(Rate { count: 10, period: Duration::from_mins(5) }));
        for wrong in ["", "MiB", "1.5GiB", "1MB", "-1B", "99999999999GiB"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
        for wrong in ["0/s", "1/0s", "1", "/s", "1/"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
