//! How large a push's manifest is, before anything of it is kept: read, it takes up to twenty times the room that it has in
//! the body.

use std::fmt;

use base::limits::MANIFEST_BYTES_MAX;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::manage::Refusal;

/// Refuses a manifest that is larger than one may be. Whatever else is wrong with the body is found when it is read.
pub(super) fn manifest(body: &[u8]) -> Result<(), Refusal> {
    let mut left = Some(MANIFEST_BYTES_MAX);
    let _ = Push(&mut left).deserialize(&mut serde_json::Deserializer::from_slice(body));
    if left.is_some() {
        return Ok(());
    }
    Err(too_heavy(format!("the manifest has more than {MANIFEST_BYTES_MAX} bytes as JSON")))
}

pub(super) fn too_heavy(said: String) -> Refusal {
    Refusal::bad("too_large", said).help("keep data in a KV bucket or a file, not in [env]")
}

/// The body, of which the manifest alone is weighed.
struct Push<'a>(&'a mut Option<usize>);

impl<'de> DeserializeSeed<'de> for Push<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Push<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a push")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "manifest" {
                map.next_value_seed(Weight(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Any value. What it weighs is taken off; none is left where that was too much.
struct Weight<'a>(&'a mut Option<usize>);

impl Weight<'_> {
    /// With a comma or what else stands around it.
    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        *self.0 = self.0.and_then(|left| left.checked_sub(bytes + 1));
        self.0.map(drop).ok_or_else(|| E::custom("it is too heavy"))
    }
}

impl<'de> DeserializeSeed<'de> for Weight<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Weight<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.take(4)
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.take(4)
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.take(1)
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.take(1)
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.take(1)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.take(text.len() + 2)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.take(1)?;
        while list.next_element_seed(Weight(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.take(1)?;
        while map.next_key_seed(Weight(self.0))?.is_some() {
            map.next_value_seed(Weight(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heavy_manifest_is_refused_before_it_is_read() {
        let push = |manifest: &str| format!(r#"{{"index":{{"x":[1,2]}},"manifest":{manifest},"stage":null}}"#);
        let routes = |count: usize| format!(r#"{{"route":[{}]}}"#, vec![r#"{"path":"/"}"#; count].join(","));
        let env = |bytes: usize| format!(r#"{{"env":{{"A":"{}"}}}}"#, "x".repeat(bytes));
        for (manifest_text, fits) in [
            ("{}".to_owned(), true),
            (r#"{"a":[null,true,-1,1,1.5,"x",{}]}"#.to_owned(), true),
            (routes(1_000), true),
            (routes(MANIFEST_BYTES_MAX / 10), false),
            (env(MANIFEST_BYTES_MAX - 100), true),
            (env(MANIFEST_BYTES_MAX), false),
        ] {
            assert_eq!(manifest(push(&manifest_text).as_bytes()).is_ok(), fits, "{} bytes", manifest_text.len());
        }
        // What is no push at all is told by whoever reads it.
        assert!(manifest(b"[").is_ok());
        assert!(manifest(br#"{"manifest":"#).is_ok());
    }
}
