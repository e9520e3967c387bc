//! What the fields of a request ask of a file: an encoding (RFC 9110, 12.5.3), a condition (13.1) and a range (14).

use std::ops::Range;

use api::Encoding;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::assets::{Prepared, Representation};

/// What the visitor takes.
pub(super) enum Chosen<'f> {
    Plain(&'f Representation),
    Encoded(Encoding, &'f Representation),
    /// It refuses the file as it is, and there is no encoding that it takes.
    Nothing,
}

/// Of what the visitor likes best the smallest; the file as it is where nothing is asked.
pub(super) fn choose<'f>(file: &'f Prepared, headers: &HeaderMap) -> Chosen<'f> {
    // Without a weight nobody refuses the file as it is, and most files have no encodings.
    let weighs = |field: &HeaderValue| field.as_bytes().contains(&b';');
    if file.encoded.is_empty() && !headers.get_all(header::ACCEPT_ENCODING).iter().any(weighs) {
        return Chosen::Plain(&file.plain);
    }
    let Some(wishes) = Wishes::of(headers) else { return Chosen::Plain(&file.plain) };
    let mut best: Option<(u16, Encoding, &Representation)> = None;
    // Smallest first, so that of those liked alike the first stays.
    for (encoding, encoded) in &file.encoded {
        let weight = wishes.named(*encoding).or(wishes.any).unwrap_or(0);
        if weight > best.map_or(0, |(weight, ..)| weight) {
            best = Some((weight, *encoding, encoded));
        }
    }
    match best {
        Some((weight, encoding, encoded)) if wishes.identity.is_none_or(|identity| identity <= weight) => {
            Chosen::Encoded(encoding, encoded)
        }
        None if wishes.identity.or(wishes.any) == Some(0) => Chosen::Nothing,
        _ => Chosen::Plain(&file.plain),
    }
}

/// Weights of `Accept-Encoding`, in thousandths. None for what isn't named.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    br: Option<u16>,
    zstd: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    /// `*`: of all that isn't named.
    any: Option<u16>,
}

impl Wishes {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(header::ACCEPT_ENCODING).iter().peekable();
        fields.peek()?;
        let mut wishes = Self::default();
        for wish in fields.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(',')) {
            let (coding, weight) = match wish.split_once(';') {
                Some((coding, weight)) => (coding, parse_weight(weight)),
                None => (wish, Some(1_000)),
            };
            // What can't be read is as if it weren't there.
            let Some(weight) = weight else { continue };
            let coding = coding.trim();
            let place = match coding {
                "*" => &mut wishes.any,
                _ if coding.eq_ignore_ascii_case("br") => &mut wishes.br,
                _ if coding.eq_ignore_ascii_case("zstd") => &mut wishes.zstd,
                _ if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => &mut wishes.gzip,
                _ if coding.eq_ignore_ascii_case("identity") => &mut wishes.identity,
                _ => continue,
            };
            *place = Some(weight);
        }
        Some(wishes)
    }

    fn named(&self, encoding: Encoding) -> Option<u16> {
        match encoding {
            Encoding::Br => self.br,
            Encoding::Zstd => self.zstd,
            Encoding::Gzip => self.gzip,
        }
    }
}

/// RFC 9110, 12.4.2: `q=`, 0 or 1, and up to three digits.
fn parse_weight(text: &str) -> Option<u16> {
    let text = text.trim();
    let number = text.strip_prefix("q=").or_else(|| text.strip_prefix("Q="))?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = part.bytes().zip([100, 10, 1]).map(|(digit, worth)| u16::from(digit - b'0') * worth).sum();
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1_000),
        _ => None,
    }
}

/// What a condition comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Send,
    NotModified,
    Failed,
}

/// RFC 9110, 13.2.2: `If-Match`, then `If-None-Match`.
pub(super) fn condition(headers: &HeaderMap, etag: &HeaderValue) -> Condition {
    if any_names(headers, &header::IF_MATCH, etag, false) == Some(false) {
        Condition::Failed
    } else if any_names(headers, &header::IF_NONE_MATCH, etag, true) == Some(true) {
        Condition::NotModified
    } else {
        Condition::Send
    }
}

/// Does one of the fields of that name list the tag? None when there is none.
fn any_names(headers: &HeaderMap, name: &HeaderName, etag: &HeaderValue, weakly: bool) -> Option<bool> {
    let mut fields = headers.get_all(name).iter().peekable();
    fields.peek()?;
    Some(fields.any(|wanted| names(wanted, etag, weakly)))
}

/// RFC 9110, 13.1: a list of tags or `*`. Weak ones count as the strong ones where they may.
pub(super) fn names(wanted: &HeaderValue, etag: &HeaderValue, weakly: bool) -> bool {
    let (Ok(wanted), Ok(etag)) = (wanted.to_str(), etag.to_str()) else { return false };
    let bare = |tag: &str| tag.strip_prefix("W/").filter(|_| weakly).unwrap_or(tag) == etag;
    wanted.split(',').map(str::trim).any(|tag| tag == "*" || bare(tag))
}

/// RFC 9110, 14.2: one range of bytes, or none to speak of. Several at once are answered with the whole, as is
/// a range that `If-Range` has overtaken. `Err` when it lies outside.
pub(super) fn range(headers: &HeaderMap, size: u64, etag: &HeaderValue) -> Option<Result<Range<u64>, ()>> {
    let wanted = headers.get(header::RANGE)?.to_str().ok()?;
    if headers.get(header::IF_RANGE).is_some_and(|held| held != etag) {
        return None;
    }
    parse_range(wanted, size)
}

pub(super) fn parse_range(wanted: &str, size: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = wanted.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.is_empty() || range.start >= size { Err(()) } else { Ok(range) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn representation(size: u64) -> Representation {
        Representation { etag: HeaderValue::from_static("\"x\""), size, chunks: Box::default() }
    }

    fn headers(name: &HeaderName, fields: &[&str]) -> HeaderMap {
        fields.iter().map(|field| (name.clone(), HeaderValue::from_str(field).expect("a value"))).collect()
    }

    /// What is sent of a file that zstd makes smallest, then br, then gzip.
    fn sent(fields: &[&str]) -> &'static str {
        let encoded = [(Encoding::Zstd, 10), (Encoding::Br, 20), (Encoding::Gzip, 30)];
        let file = Prepared {
            content_type: HeaderValue::from_static("text/plain"),
            plain: representation(100),
            encoded: encoded.map(|(encoding, size)| (encoding, representation(size))).into(),
        };
        match choose(&file, &headers(&header::ACCEPT_ENCODING, fields)) {
            Chosen::Plain(_) => "plain",
            Chosen::Encoded(encoding, _) => encoding.as_str(),
            Chosen::Nothing => "nothing",
        }
    }

    #[test]
    fn encodings_are_sent_to_whom_takes_them() {
        for (fields, wanted) in [
            (&[][..], "plain"),
            (&[""], "plain"),
            (&["gzip, deflate, br, zstd"], "zstd"),
            (&["gzip, deflate, br"], "br"),
            (&["gzip", "br"], "br"),
            (&["GZIP"], "gzip"),
            (&["x-gzip"], "gzip"),
            (&["deflate"], "plain"),
            (&["*"], "zstd"),
            (&["*;q=0.5, gzip"], "gzip"),
            (&["*, zstd;q=0, br;q=0.0"], "gzip"),
            (&["br;q=0.5, gzip;q=0.9, zstd;q=0.899"], "gzip"),
            (&["br; q=1.0 , zstd ;q=0.999"], "br"),
            (&["identity;q=1, br;q=0.5"], "plain"),
            (&["identity, br"], "br"),
            (&["identity;q=0.5, *;q=0"], "plain"),
            (&["br;q=0, gzip;q=0, zstd;q=0"], "plain"),
            (&["identity;q=0, gzip"], "gzip"),
            (&["identity;q=0"], "nothing"),
            (&["*;q=0"], "nothing"),
            (&["deflate, *;q=0"], "nothing"),
            (&["br;q=2, gzip"], "gzip"),
            (&["br;q=x, zstd;q=0.1234, gzip;q=-1"], "plain"),
            (&["brotli, gz"], "plain"),
        ] {
            assert_eq!(sent(fields), wanted, "{fields:?}");
        }
    }

    #[test]
    fn a_tag_that_is_held_isn_t_sent_again() {
        let etag = HeaderValue::from_static("\"a\"");
        let none = |field: &str| condition(&headers(&header::IF_NONE_MATCH, &[field]), &etag);
        for held in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert_eq!(none(held), Condition::NotModified, "{held}");
        }
        for other in ["\"b\"", "a", "", "\"A\""] {
            assert_eq!(none(other), Condition::Send, "{other}");
        }
        assert_eq!(condition(&headers(&header::IF_NONE_MATCH, &["\"b\"", "\"a\""]), &etag), Condition::NotModified);
        let only = |field: &str| condition(&headers(&header::IF_MATCH, &[field]), &etag);
        assert_eq!(
            (only("\"a\""), only("*"), only("\"b\", \"a\"")),
            (Condition::Send, Condition::Send, Condition::Send)
        );
        assert_eq!((only("\"b\""), only("W/\"a\"")), (Condition::Failed, Condition::Failed));
        assert_eq!(condition(&HeaderMap::new(), &etag), Condition::Send);
    }

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        assert_eq!(parse_range("bytes=0-4", 10), Some(Ok(0..5)));
        assert_eq!(parse_range("bytes=5-", 10), Some(Ok(5..10)));
        assert_eq!(parse_range("bytes=-3", 10), Some(Ok(7..10)));
        assert_eq!(parse_range("bytes=-30", 10), Some(Ok(0..10)));
        assert_eq!(parse_range("bytes=0-99", 10), Some(Ok(0..10)));
        assert_eq!(parse_range("bytes=10-", 10), Some(Err(())));
        assert_eq!(parse_range("bytes=-0", 10), Some(Err(())));
        for ignored in ["bytes=4-2", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2"] {
            assert_eq!(parse_range(ignored, 10), None, "{ignored}");
        }
    }

    proptest! {
        #[test]
        fn a_range_lies_within_the_file(text in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Some(Ok(range)) = parse_range(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn no_wish_panics(text in "[ -~]{0,60}") {
            sent(&[&text]);
        }
    }
}
