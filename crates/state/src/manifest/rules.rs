//! What the manifest says by path: redirects, header fields, and the pattern that both are written with.
//!
//! A pattern is text in which `*` stands for any characters, `/` among them, and `**` for the same. There is no more
//! to it, so that matching takes one pass over the path, whatever a tenant writes and a visitor asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base::limits::{
    HEADER_RULE_BYTES_MAX, HEADER_RULES_MAX, PATTERN_BYTES_MAX, PATTERN_STARS_MAX, PATTERNS_MAX, REDIRECT_HOPS_MAX,
    REDIRECTS_MAX,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Faults, is_host};

/// Text in which `*` stands for any characters, `/` among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl Pattern {
    /// Is `text` meant? Each part between two stars is looked for once, from left to right.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once('*').map_or((None, rest), |(middle, last)| (Some(middle), last));
        for part in middle.into_iter().flat_map(|middle| middle.split('*')) {
            let Some(at) = text.find(part) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(last)
    }

    /// What the one star of the pattern stands for in `text`; empty without a star, none where it doesn't match.
    fn splat<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self.0.split_once('*') {
            None => (self.0 == text).then_some(""),
            Some((first, last)) => text.strip_prefix(first)?.strip_suffix(last),
        }
    }

    fn stars(&self) -> usize {
        self.0.replace("**", "*").matches('*').count()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path that is sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The path, as in `/old` or `/old/*`.
    pub from: Pattern,
    /// A path, or a whole address that starts with `https://`. `*` is what it stood for in `from`.
    pub to: String,
    /// 301, 302, 303, 307 or 308; 308 unless told: for good, and with the same method.
    #[serde(default = "permanent", skip_serializing_if = "is_permanent")]
    pub status: u16,
}

const PERMANENT: u16 = 308;

fn permanent() -> u16 {
    PERMANENT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands skip_serializing_if a reference")]
fn is_permanent(status: &u16) -> bool {
    *status == PERMANENT
}

impl Redirect {
    /// Where `path` is sent with `query`; none when this redirect isn't about it. The query goes along, unless the
    /// target has one of its own.
    #[must_use]
    pub fn target(&self, path: &str, query: Option<&str>) -> Option<String> {
        let splat = self.from.splat(path)?;
        let (place, fragment) = self.to.split_once('#').map_or((&*self.to, None), |(to, after)| (to, Some(after)));
        let mut target = match place.split_once('*') {
            // `//host` and `/\host` are another host to a browser, so that what a visitor wrote mustn't make one.
            Some((before @ "/", after)) => format!("{before}{}{after}", splat.trim_start_matches(['/', '\\'])),
            Some((before, after)) => format!("{before}{splat}{after}"),
            None => place.to_owned(),
        };
        if let Some(query) = query
            && !place.contains('?')
        {
            target.push('?');
            target.push_str(query);
        }
        if let Some(fragment) = fragment {
            target.push('#');
            target.push_str(fragment);
        }
        Some(target)
    }
}

/// Header fields of the answers to some paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// The path of the request, as in `/` or `/admin/*`.
    pub path: Pattern,
    /// Fields that the answer gets, in place of what it has under their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Fields that it loses.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
}

/// What isn't a manifest's to say, and why.
const KEPT: [(&str, &[&str]); 4] = [
    (
        "the connection is the cloud's",
        &[
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "host",
            "alt-svc",
        ],
    ),
    (
        "it follows from what is sent",
        &[
            "content-length",
            "content-encoding",
            "content-range",
            "accept-ranges",
            "etag",
            "vary",
            "date",
            "location",
            "retry-after",
        ],
    ),
    ("it finds the request in the log", &["x-request-id"]),
    ("cookies and site data are code's to set", &["set-cookie", "set-cookie2", "clear-site-data"]),
];

impl Faults {
    pub(super) fn immutable(&mut self, at: &str, patterns: &[Pattern]) {
        self.count(at, patterns.len(), PATTERNS_MAX);
        for (index, pattern) in patterns.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if pattern.0.is_empty() || pattern.0.starts_with('/') {
                self.say(&at, format!("`{pattern}` is no path below the folder"), "write it as in `assets/**`");
            }
            self.pattern(&at, pattern, PATTERN_STARS_MAX);
        }
    }

    fn pattern(&mut self, at: &str, pattern: &Pattern, stars_max: usize) {
        if pattern.0.len() > PATTERN_BYTES_MAX {
            let bytes = pattern.0.len();
            self.say(at, format!("its {bytes} bytes are more than {PATTERN_BYTES_MAX}"), "shorten it");
        }
        if pattern.0.chars().any(char::is_control) {
            self.say(at, "it has a control character", "write a path");
        }
        if pattern.stars() > stars_max {
            let shown = if stars_max == 1 { "one `*`".to_owned() } else { format!("{stars_max} `*`") };
            self.say(at, format!("`{pattern}` has more than {shown}"), "write it as in `/old/*`");
        }
    }

    pub(super) fn redirects(&mut self, redirects: &[Redirect]) {
        self.count("redirect", redirects.len(), REDIRECTS_MAX);
        let before = self.len();
        for (index, redirect) in redirects.iter().enumerate() {
            let (from_at, to_at) = (format!("redirect[{index}].from"), format!("redirect[{index}].to"));
            let from = &redirect.from;
            self.pattern(&from_at, from, 1);
            let odd = from.0.bytes().any(|byte| !(0x21..0x7f).contains(&byte) || b"?#\\".contains(&byte));
            if !from.0.starts_with('/') || from.0.starts_with("//") || odd || from.0.contains("**") {
                self.say(&from_at, format!("`{from}` is not a path"), "write it as in `/old` or `/old/*`");
            }
            if from.0.starts_with("/.firm") {
                self.say(&from_at, format!("`{from}` is kept for the cloud"), "choose another path");
            }
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                self.say(
                    &format!("redirect[{index}].status"),
                    format!("{} redirects nobody", redirect.status),
                    "write 301, 302, 303, 307 or 308; leave it out for 308",
                );
            }
            self.target(&to_at, redirect);
        }
        // Whether they go in circles can be said of whole ones alone.
        if self.len() == before {
            self.circles(redirects);
        }
    }

    fn target(&mut self, at: &str, redirect: &Redirect) {
        let to = &redirect.to;
        let local = to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/\\");
        let away = to.strip_prefix("https://").is_some_and(|rest| {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            is_host(&rest[..end])
        });
        let odd = to.len() > PATTERN_BYTES_MAX || to.bytes().any(|byte| !(0x21..0x7f).contains(&byte));
        if odd || !(local || away) {
            let shown: String = to.escape_debug().take(200).collect();
            self.say(
                at,
                format!("`{shown}` is nowhere to send people"),
                "write a path, as in `/new/*`, or an address, as in `https://example.com/*`, percent-encoded",
            );
        }
        let in_fragment = to.split_once('#').is_some_and(|(_, fragment)| fragment.contains('*'));
        if to.contains("**") || to.matches('*').count() > redirect.from.stars() || in_fragment {
            self.say(
                at,
                format!("`{to}` has a `*` that stands for nothing"),
                "write one `*` before any `#`, and only where `from` has one",
            );
        }
    }

    /// Follows each redirect to where it ends. What stands for `*` makes a difference only to rules that name it, so
    /// one word is tried for all.
    fn circles(&mut self, redirects: &[Redirect]) {
        for (index, redirect) in redirects.iter().enumerate() {
            let mut at = redirect.from.0.replace('*', "x");
            for hop in 0.. {
                let path = at.split(['?', '#']).next().unwrap_or_default();
                let next = if hop == 0 {
                    redirect.target(path, None)
                } else {
                    redirects.iter().find_map(|redirect| redirect.target(path, None))
                };
                match next {
                    Some(next) if hop < REDIRECT_HOPS_MAX => at = next,
                    Some(_) => {
                        self.say(
                            &format!("redirect[{index}].to"),
                            format!("`{}` leads on to a redirect, again and again", redirect.to),
                            format!("name the last place at once; {REDIRECT_HOPS_MAX} one after another are the most"),
                        );
                        break;
                    }
                    None => break,
                }
            }
        }
    }

    pub(super) fn headers(&mut self, rules: &[HeaderRule]) {
        self.count("header", rules.len(), HEADER_RULES_MAX);
        let mut bytes = 0;
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("header[{index}]");
            let path = &rule.path;
            self.pattern(&format!("{at}.path"), path, PATTERN_STARS_MAX);
            if !path.0.starts_with('/') || path.0.contains(['?', '#', '\\']) {
                self.say(&format!("{at}.path"), format!("`{path}` is not a path"), "write it as in `/` or `/admin/*`");
            }
            if rule.set.is_empty() && rule.remove.is_empty() {
                self.say(&at, "it changes nothing", "write `set = { … }`, `remove = [ … ]`, or leave it out");
            }
            for (name, value) in &rule.set {
                bytes += name.len() + value.len();
                let at = format!("{at}.set.{name}");
                self.field(&at, name);
                // RFC 9110, 5.5: visible characters and spaces between them. More would be read in more than one way.
                if value.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) || value.trim() != value {
                    self.say(
                        &at,
                        "its value has characters that no header may carry",
                        "write visible ASCII in one line",
                    );
                }
            }
            for (index, name) in rule.remove.iter().enumerate() {
                bytes += name.len();
                self.field(&format!("{at}.remove[{index}]"), name);
            }
        }
        if bytes > HEADER_RULE_BYTES_MAX {
            self.say(
                "header",
                format!("the fields have {bytes} bytes together, more than {HEADER_RULE_BYTES_MAX}"),
                "say less: browsers refuse long heads",
            );
        }
    }

    fn field(&mut self, at: &str, name: &str) {
        // RFC 9110, 5.6.2.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            let shown: String = name.escape_debug().take(80).collect();
            self.say(at, format!("`{shown}` can't name a header field"), "write it as in `x-frame-options`");
        }
        let lower = name.to_ascii_lowercase();
        if let Some((why, _)) = KEPT.iter().find(|(_, names)| names.contains(&lower.as_str())) {
            self.say(at, format!("`{name}` isn't the manifest's to change: {why}"), "leave it out");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Manifest;

    fn redirect(from: &str, to: &str) -> Redirect {
        Redirect { from: Pattern(from.to_owned()), to: to.to_owned(), status: PERMANENT }
    }

    #[test]
    fn a_star_stands_for_anything() {
        let matches = |pattern: &str, text: &str| Pattern(pattern.to_owned()).matches(text);
        for (pattern, text) in [
            ("/", "/"),
            ("/*", "/"),
            ("/*", "/a/b"),
            ("assets/**", "assets/a/b.js"),
            ("**/*.js", "a/b/c.js"),
            ("*.js", "a/b.js"),
            ("/a*b*c", "/abc"),
            ("/a*b*c", "/a--b--b--c"),
            ("*", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("/", "/a"),
            ("/a/*", "/a"),
            ("*.js", "a.jsx"),
            ("/a*b*c", "/acb"),
            ("/a*a", "/a"),
            ("a*b*b", "ab"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn targets_stay_where_they_were_written_to() {
        for (from, to, path, wanted) in [
            ("/old/*", "/new/*", "/old/a/b", Some("/new/a/b?q")),
            ("/*", "https://example.com/*", "//evil.example", Some("https://example.com//evil.example?q")),
            ("/r/*", "/*", "/r///evil.example", Some("/evil.example?q")),
            ("/r/*", "/*", "/r/\\evil.example", Some("/evil.example?q")),
            ("/r*", "/*", "/r//evil.example", Some("/evil.example?q")),
            ("/a", "/b?c#d", "/a", Some("/b?c#d")),
            ("/a", "/b#d", "/a", Some("/b?q#d")),
            ("/a", "/b", "/a/", None),
            ("/a*a", "/b", "/a", None),
        ] {
            assert_eq!(redirect(from, to).target(path, Some("q")).as_deref(), wanted, "{from} {to} {path}");
        }
    }

    #[test]
    fn circles_are_found_and_chains_are_not() {
        let circles = |redirects: &[(&str, &str)]| {
            let redirects = redirects.iter().map(|(from, to)| redirect(from, to)).collect();
            !Manifest { redirects, ..Manifest::default() }.faults().is_empty()
        };
        assert!(circles(&[("/a", "/a")]));
        assert!(circles(&[("/a", "/b"), ("/b", "/c"), ("/c", "/a")]));
        assert!(circles(&[("/a/*", "/b/*"), ("/b/*", "/a/*")]));
        assert!(circles(&[("/a/*", "/a/a/*")]));
        assert!(circles(&[("/*", "/closed.html")]));
        assert!(circles(&[("/a", "/b?x"), ("/b", "/a#y")]));
        assert!(!circles(&[("/a", "/b"), ("/b", "/c"), ("/c", "/d")]));
        assert!(!circles(&[("/a/a/*", "/a/*"), ("/b/*", "/")]));
        assert!(!circles(&[("/*", "https://example.com/*")]));
    }

    /// As slow as it can be told to be, which must be fast: every box looks for circles when it applies a push.
    #[test]
    fn the_worst_rules_are_bounded() {
        let long = "a".repeat(900);
        let redirects = (0..REDIRECTS_MAX).map(|n| redirect(&format!("/{long}{n}*"), &format!("/{long}{}", n + 1)));
        let faults = Manifest { redirects: redirects.collect(), ..Manifest::default() }.faults();
        assert!(faults.iter().all(|fault| fault.said.contains("again and again")), "{faults:?}");
    }

    proptest! {
        #[test]
        fn what_a_visitor_writes_makes_no_other_host(path in "/r[/\\\\.@:a-z%]{0,20}", star in "/[a-z/]{0,3}") {
            let rule = redirect("/r*", &format!("{star}*"));
            let faults = Manifest { redirects: vec![rule.clone()], ..Manifest::default() }.faults();
            if faults.is_empty() && let Some(target) = rule.target(&path, None) {
                prop_assert!(!target.starts_with("//") && !target.starts_with("/\\"), "{}", target);
            }
        }

        #[test]
        fn no_pattern_panics(pattern in "[*/a\u{e9}]{0,12}", text in "[/a\u{e9}]{0,12}") {
            let pattern = Pattern(pattern);
            let (matches, splat) = (pattern.matches(&text), pattern.splat(&text));
            prop_assert!(splat.is_none() || matches || pattern.0.matches('*').count() > 1);
        }
    }
}
