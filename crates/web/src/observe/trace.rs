//! W3C Trace Context (Recommendation, 23 November 2021): read from the visitor, handed on to the app.
//!
//! A visitor's trace goes on with our own span in between, whose id is the request's: so a trace leads to log lines. What is
//! malformed is treated as absent, as the specification has it. `sampled` is a wish of the visitor's that the app is
//! told; whether *we* keep a span is for the operator's rate alone, else any visitor could fill the collector.

use base::limits::{TRACE_STATE_BYTES_MAX, TRACE_STATE_MEMBERS_MAX};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::ids::{Ids, hex};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const SAMPLED: u8 = 1;

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub id: u128,
    /// The visitor's span, if it told one.
    pub parent: Option<u64>,
    /// The visitor says that it keeps its part.
    pub wished: bool,
}

impl Trace {
    /// The visitor's, or a new one.
    pub(crate) fn of(headers: &HeaderMap, ids: &Ids) -> Self {
        told(headers).unwrap_or_else(|| Self { id: ids.trace(), parent: None, wished: false })
    }

    /// Tells the app: we are the parent, by the request's id.
    pub(crate) fn hand_on(self, headers: &mut HeaderMap, span: u64, kept: bool) {
        let state = self.parent.and_then(|_| state(headers));
        let flags = u8::from(self.wished || kept) * SAMPLED;
        let [high, low] =
            [self.id >> 64, self.id & u128::from(u64::MAX)].map(|half| hex(u64::try_from(half).expect("64 bits")));
        let (span, flags) = (hex(span), hex(u64::from(flags)));
        let text = [b"00-", &high[..], &low, b"-", &span, b"-", &flags[flags.len() - 2..]].concat();
        headers.insert(TRACEPARENT, HeaderValue::from_maybe_shared(Bytes::from(text)).expect("digits and hyphens"));
        match state {
            Some(state) => drop(headers.insert(TRACESTATE, state)),
            None if headers.contains_key(TRACESTATE) => drop(headers.remove(TRACESTATE)),
            None => {}
        }
    }
}

/// What the visitor's `traceparent` tells. Two of them, or one that is malformed, tell nothing.
fn told(headers: &HeaderMap) -> Option<Trace> {
    let mut fields = headers.get_all(TRACEPARENT).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    parent(field.as_bytes())
}

/// `00-` 32 digits `-` 16 digits `-` 2 digits. A later version may have more behind another hyphen, and is read as 00.
fn parent(field: &[u8]) -> Option<Trace> {
    let (field, rest) = field.split_at_checked(55)?;
    let hyphens = [2, 35, 52].iter().all(|at| field[*at] == b'-');
    let version = digits(&field[..2])?;
    let ends = rest.is_empty() || (version != 0 && rest[0] == b'-');
    if !hyphens || !ends || version == 0xff {
        return None;
    }
    let (id, span) = (digits(&field[3..35])?, u64::try_from(digits(&field[36..52])?).ok()?);
    let flags = digits(&field[53..])?;
    (id != 0 && span != 0).then_some(Trace { id, parent: Some(span), wished: flags & u128::from(SAMPLED) != 0 })
}

/// Lower-case hexadecimal digits, 32 at the most.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The visitor's `tracestate`, put together and cut to what an app gets. One that is malformed isn't handed on.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut kept = String::new();
    let mut keys: Vec<&str> = Vec::new();
    let mut full = false;
    for field in headers.get_all(TRACESTATE) {
        for member in field.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            if keys.len() == TRACE_STATE_MEMBERS_MAX || keys.contains(&key) || !is_key(key) || !is_value(value) {
                return None;
            }
            keys.push(key);
            // The newest members stand first, so those at the end go.
            full |= kept.len() + 1 + member.len() > TRACE_STATE_BYTES_MAX;
            if !full {
                if !kept.is_empty() {
                    kept.push(',');
                }
                kept.push_str(member);
            }
        }
    }
    if kept.is_empty() { None } else { HeaderValue::try_from(kept).ok() }
}

fn is_key(key: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte);
    let is = |part: &str, max: usize, first: fn(u8) -> bool| {
        part.len() <= max && part.bytes().next().is_some_and(first) && part.bytes().all(inner)
    };
    let letter = |byte: u8| byte.is_ascii_lowercase();
    match key.split_once('@') {
        None => is(key, 256, letter),
        Some((tenant, system)) => {
            is(tenant, 241, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) && is(system, 14, letter)
        }
    }
}

fn is_value(value: &str) -> bool {
    let printable = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b',' && byte != b'=';
    !value.is_empty() && value.len() <= 256 && value.bytes().all(printable) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RIGHT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a test's value"));
        }
        headers
    }

    /// What the app is told.
    fn handed_on(fields: &[(&'static str, &str)], kept: bool) -> (String, Option<String>) {
        let ids = Ids::new().expect("the system has random bytes");
        let mut headers = headers(fields);
        Trace::of(&headers, &ids).hand_on(&mut headers, 0xab, kept);
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().expect("ASCII").to_owned());
        assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
        (text(&TRACEPARENT).expect("it is always told"), text(&TRACESTATE))
    }

    #[test]
    fn a_visitor_s_trace_goes_on_with_our_span() {
        let of = |flags: &str| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-{flags}");
        assert_eq!(handed_on(&[("traceparent", RIGHT)], false).0, of("01"));
        let quiet = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(handed_on(&[("traceparent", quiet)], false).0, of("00"));
        assert_eq!(handed_on(&[("traceparent", quiet)], true).0, of("01"));
        // Flags that version 00 doesn't know are not handed on; those of a later version are read likewise.
        assert_eq!(handed_on(&[("traceparent", &RIGHT.replace("-01", "-ff"))], false).0, of("01"));
        for later in ["cc", "cc-01-what-comes", "01-"] {
            let (version, rest) = later.split_once('-').map_or((later, ""), |(version, _)| (version, &later[2..]));
            let told = format!("{version}{}{rest}", &RIGHT[2..]);
            assert_eq!(handed_on(&[("traceparent", &told)], false).0, of("01"), "{told}");
        }
    }

    #[test]
    fn what_is_malformed_begins_anew() {
        for wrong in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-04bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let (parent, state) = handed_on(&[("traceparent", wrong), ("tracestate", "a=1")], false);
            assert!(!parent.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{wrong}");
            assert!(parent.ends_with("-00000000000000ab-00"), "{parent}");
            assert!(super::parent(parent.as_bytes()).is_some(), "{parent}");
            assert_eq!(state, None, "a state without its parent is nobody's: {wrong}");
        }
        let (parent, _) = handed_on(&[("traceparent", RIGHT), ("traceparent", RIGHT)], false);
        assert!(!parent.contains("4bf92f35"), "two parents are none");
    }

    #[test]
    fn a_state_is_handed_on_whole_or_not_at_all() {
        let of = |states: &[&str]| {
            let mut fields = vec![("traceparent", RIGHT)];
            fields.extend(states.iter().map(|state| ("tracestate", *state)));
            handed_on(&fields, false).1
        };
        assert_eq!(
            of(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]).as_deref(),
            Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
        );
        assert_eq!(of(&["a=1 , ,b=2", "3d@x=v w"]).as_deref(), Some("a=1,b=2,3d@x=v w"));
        let many = |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(of(&[&many(32)]), Some(many(32)));
        for wrong in [
            "a",
            "=1",
            "a=",
            "A=1",
            "a=1,a=2",
            "a=b=c",
            "1a=1",
            "a@1=1",
            "a=\u{e9}",
            &many(33),
            &format!("{}=1", "a".repeat(257)),
            &format!("a={}", "v".repeat(257)),
        ] {
            assert_eq!(of(&[wrong]), None, "{wrong}");
        }
        assert_eq!(of(&["a=1,a"]), None);
        let long = format!("a={},b={},c=1", "v".repeat(250), "w".repeat(250));
        assert_eq!(of(&[&long]).map(|state| state.len()), Some(509));
        let longer = format!("a={},b={},c={}", "v".repeat(250), "w".repeat(250), "x".repeat(9));
        assert_eq!(of(&[&longer]).map(|state| state.len()), Some(505), "what fits stays, in order");
    }

    proptest! {
        #[test]
        fn whatever_is_sent_the_app_gets_a_right_one(
            parent in proptest::collection::vec(0x20_u8..0x7f, 0..80),
            state in proptest::collection::vec(proptest::num::u8::ANY, 0..700),
            version in "[0-9a-f]{2}",
        ) {
            let ids = Ids::new().expect("the system has random bytes");
            for told in [parent, [version.as_bytes(), &RIGHT.as_bytes()[2..]].concat()] {
                let mut headers = HeaderMap::new();
                headers.insert(TRACEPARENT, HeaderValue::from_bytes(&told).expect("printable"));
                if let Ok(state) = HeaderValue::from_bytes(&state) {
                    headers.insert(TRACESTATE, state);
                }
                Trace::of(&headers, &ids).hand_on(&mut headers, 7, false);
                prop_assert!(super::parent(headers[TRACEPARENT].as_bytes()).is_some_and(|trace| trace.parent == Some(7)));
                prop_assert!(headers.get(TRACESTATE).is_none_or(|state| state.len() <= TRACE_STATE_BYTES_MAX));
            }
        }
    }
}
