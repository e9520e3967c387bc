//! What an app's access lines keep of a request: `access_log = true`, or a table that asks for more.
//!
//! Off unless asked for, and then without the query and with half an address. Lines about visitors are data about
//! people, which need a reason to be kept; and a query is where links carry tokens.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whether requests leave a line in the app's log, and what it says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    On {
        /// The query too, not the path alone.
        query: bool,
        client: AccessLogClient,
    },
}

/// How much of a visitor's address a line keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogClient {
    /// Its network: the /24 of an IPv4 address, the /48 of an IPv6 address.
    #[default]
    Network,
    /// All of it.
    Whole,
    /// Nothing.
    None,
}

/// What an access line keeps.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AccessLogKept")]
struct Kept {
    /// Keep the query too. It may carry what nobody should read later.
    #[serde(default)]
    query: bool,
    /// How much of the visitor's address to keep.
    #[serde(default)]
    client: AccessLogClient,
}

impl From<Kept> for AccessLog {
    fn from(Kept { query, client }: Kept) -> Self {
        Self::On { query, client }
    }
}

impl Serialize for AccessLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Off => serializer.serialize_bool(false),
            Self::On { query: false, client: AccessLogClient::Network } => serializer.serialize_bool(true),
            Self::On { query, client } => Kept { query, client }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

/// Not serde's untagged enum, whose errors don't say what is wrong.
struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = AccessLog;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, or a table such as { query = true, client = \"whole\" }")
    }

    fn visit_bool<E>(self, on: bool) -> Result<AccessLog, E> {
        Ok(if on { Kept::default().into() } else { AccessLog::Off })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AccessLog, A::Error> {
        Kept::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }
}

impl JsonSchema for AccessLog {
    fn schema_name() -> Cow<'static, str> {
        "AccessLog".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kept = generator.subschema_for::<Kept>();
        json_schema!({
            "description": "Whether requests leave a line in the app's log, and what it says of them.",
            "anyOf": [{ "type": "boolean" }, kept],
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::manifest::parse;

    fn read(line: &str) -> Result<Option<AccessLog>, String> {
        let manifest = format!("{line}\n[components.app]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n");
        parse(&manifest, "firm.toml").map(|manifest| manifest.access_log).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_a_switch_or_a_table() {
        let on = |query, client| Ok(Some(AccessLog::On { query, client }));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("access_log = false"), Ok(Some(AccessLog::Off)));
        assert_eq!(read("access_log = true"), on(false, AccessLogClient::Network));
        assert_eq!(read("access_log = {}"), on(false, AccessLogClient::Network));
        assert_eq!(read("access_log = { query = true }"), on(true, AccessLogClient::Network));
        assert_eq!(read("access_log = { client = \"none\" }"), on(false, AccessLogClient::None));
        for (line, written) in [
            ("access_log = false", "false"),
            ("access_log = {}", "true"),
            ("access_log = { client = \"whole\" }", r#"{"query":false,"client":"whole"}"#),
        ] {
            let kept = read(line).expect("it is right").expect("it is there");
            let text = serde_json::to_string(&kept).expect("plain data");
            assert_eq!(text, written);
            assert_eq!(serde_json::from_str::<AccessLog>(&text).ok(), Some(kept));
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        expect![[r#"
            access_log: text stands where true, false, or a table such as { query = true, client = "whole" } belongs
             --> firm.toml:1:14
            1 | access_log = "query"
              |              ^^^^^^^"#]]
        .assert_eq(&read("access_log = \"query\"").expect_err("it is no switch"));
        expect![[r"
            unknown key `quer`
             --> firm.toml:1:16
            1 | access_log = { quer = true }
              |                ^^^^
              help: did you mean `query`?"]]
        .assert_eq(&read("access_log = { quer = true }").expect_err("there is no such key"));
    }

    #[test]
    fn a_stage_has_the_last_word() {
        let text = "access_log = true\n[components.app]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n[stages.quiet]\naccess_log = false\n";
        let manifest = parse(text, "firm.toml").expect("it is right");
        let of = |stage: &str| manifest.for_stage(&stage.parse().expect("a name")).access_log;
        assert_eq!(of("quiet"), Some(AccessLog::Off));
        assert!(matches!(of("live"), Some(AccessLog::On { .. })));
    }
}
