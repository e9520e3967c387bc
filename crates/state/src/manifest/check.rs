//! What a manifest that parses may still have wrong. Both sides of a push run this.

use std::collections::BTreeSet;
use std::fmt;

use base::limits::{
    APP_CONCURRENCY_MAX, BINDINGS_MAX, COMPONENTS_MAX, DOMAIN_BYTES_MAX, ENV_VALUE_BYTES_MAX, ENV_VARS_MAX,
    INSTANCE_MEMORY_MAX, OUTBOUND_HOSTS_MAX, REQUEST_CPU_MAX, REQUEST_TIME_MAX, ROUTES_MAX, STATICS_MAX,
};
use base::{Bytes, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Component, Manifest, Outbound, StageOverride, StaticFolder, Target, Throttle};

/// One thing that is wrong, where it lies, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// Where in the manifest, as in `route[1].path`.
    pub at: String,
    /// What is wrong with it.
    pub said: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.at, self.said, self.help)
    }
}

impl Manifest {
    /// Everything that is wrong with it; empty when it may be deployed.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        faults.count("components", self.components.len(), COMPONENTS_MAX);
        faults.count("static", self.statics.len(), STATICS_MAX);
        faults.count("route", self.routes.len(), ROUTES_MAX);
        faults.count("bindings.kv", self.bindings.kv.len(), BINDINGS_MAX);
        faults.count("bindings.secrets", self.bindings.secrets.len(), BINDINGS_MAX);
        for (name, component) in &self.components {
            faults.component(&format!("components.{name}"), component);
        }
        for (name, folder) in &self.statics {
            faults.static_folder(&format!("static.{name}"), folder);
        }
        faults.routes(self);
        faults.redirects(&self.redirects);
        faults.headers(&self.headers);
        // The order of a set isn't that of the text: a number would lead to another of its entries.
        for secret in &self.bindings.secrets {
            faults.variable("bindings.secrets", secret, "");
        }
        faults.outbound("outbound", &self.outbound);
        faults.throttle("limit", self.limit.as_ref());
        faults.env("env", &self.env);
        for (name, StageOverride { env, outbound, limit, access_log: _ }) in &self.stages {
            faults.env(&format!("stages.{name}.env"), env);
            if let Some(outbound) = outbound {
                faults.outbound(&format!("stages.{name}.outbound"), outbound);
            }
            faults.throttle(&format!("stages.{name}.limit"), limit.as_ref());
        }
        faults.0
    }
}

/// What was found so far.
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn say(&mut self, at: &str, said: impl Into<String>, help: impl Into<String>) {
        self.0.push(Fault { at: at.to_owned(), said: said.into(), help: help.into() });
    }

    pub(super) fn count(&mut self, at: &str, count: usize, max: usize) {
        if count > max {
            self.say(
                at,
                format!("{count} entries are more than the {max} an app may have"),
                "split it into several apps",
            );
        }
    }

    fn component(&mut self, at: &str, component: &Component) {
        self.path(&format!("{at}.source"), &component.source);
        if let Some(memory) = component.memory
            && !(1 << 20..=INSTANCE_MEMORY_MAX).contains(&memory.0)
        {
            let max = Bytes(INSTANCE_MEMORY_MAX);
            self.say(&format!("{at}.memory"), format!("`{memory}` is out of range"), format!("write 1MiB to {max}"));
        }
        self.span(&format!("{at}.cpu"), component.cpu, Span(REQUEST_CPU_MAX));
        self.span(&format!("{at}.timeout"), component.timeout, Span(REQUEST_TIME_MAX));
        if let Some(concurrency) = component.concurrency
            && !(1..=APP_CONCURRENCY_MAX).contains(&concurrency)
        {
            self.say(
                &format!("{at}.concurrency"),
                format!("`{concurrency}` is out of range"),
                format!("write 1 to {APP_CONCURRENCY_MAX}"),
            );
        }
    }

    fn span(&mut self, at: &str, span: Option<Span>, max: Span) {
        if let Some(span) = span
            && (span.0.is_zero() || span > max)
        {
            self.say(at, format!("`{span}` is out of range"), format!("write 1ms to {max}"));
        }
    }

    fn static_folder(&mut self, at: &str, folder: &StaticFolder) {
        self.path(&format!("{at}.dir"), &folder.dir);
        if let Some(file) = &folder.not_found {
            self.path(&format!("{at}.not_found"), file);
        }
        self.immutable(&format!("{at}.immutable"), &folder.immutable);
        if let Some(cache) = &folder.cache
            && !cache.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        {
            self.say(
                &format!("{at}.cache"),
                "it has characters that no header may carry",
                "write it as in `public, max-age=3600`",
            );
        }
    }

    /// A path of the project: relative, and never out of it.
    fn path(&mut self, at: &str, path: &str) {
        let outside = path.is_empty()
            || path.starts_with('/')
            || path.contains(['\\', '\0'])
            || path.split('/').any(|part| part == "..");
        if outside {
            self.say(
                at,
                format!("`{path}` lies outside the project"),
                "write a path relative to firm.toml, without `..`",
            );
        }
    }

    fn routes(&mut self, manifest: &Manifest) {
        let mut taken = BTreeSet::new();
        for (index, route) in manifest.routes.iter().enumerate() {
            let at = format!("route[{index}]");
            let path_at = format!("{at}.path");
            let path = &route.path;
            let odd = path.bytes().any(|byte| !(0x21..0x7f).contains(&byte) || b"?#%\\*".contains(&byte));
            let dotted = path.split('/').any(|part| part == "." || part == "..");
            if !path.starts_with('/') || odd || dotted || path.contains("//") {
                self.say(&path_at, format!("`{path}` is not a path prefix"), "write it as in `/` or `/api`");
            }
            if path.starts_with("/.firm") {
                self.say(
                    &path_at,
                    format!("`{path}` is kept for the cloud"),
                    "choose a prefix that doesn't start with `/.firm`",
                );
            }
            if !taken.insert(path.trim_end_matches('/')) {
                self.say(&path_at, format!("`{path}` has a route already"), "keep one of the two");
            }
            match route.target() {
                Some(Target::Component(name)) if !manifest.components.contains_key(name) => {
                    let known = known(manifest.components.keys());
                    self.say(
                        &format!("{at}.component"),
                        format!("there is no component `{name}`"),
                        format!("add [components.{name}]{known}"),
                    );
                }
                Some(Target::Static(name)) if !manifest.statics.contains_key(name) => {
                    let known = known(manifest.statics.keys());
                    self.say(
                        &format!("{at}.static"),
                        format!("there is no static folder `{name}`"),
                        format!("add [static.{name}]{known}"),
                    );
                }
                Some(_) => {}
                None => self.say(
                    &at,
                    "a route goes to exactly one place",
                    "write either `component = \"…\"` or `static = \"…\"`",
                ),
            }
            self.throttle(&format!("{at}.limit"), route.limit.as_ref());
        }
    }

    fn outbound(&mut self, at: &str, outbound: &Outbound) {
        let at = format!("{at}.hosts");
        self.count(&at, outbound.hosts.len(), OUTBOUND_HOSTS_MAX);
        for host in &outbound.hosts {
            if !is_host_pattern(host) {
                self.say(
                    &at,
                    format!("`{host}` is not a host"),
                    "write a host name, `*.name`, or host:port; no scheme and no path",
                );
            }
        }
    }

    fn throttle(&mut self, at: &str, throttle: Option<&Throttle>) {
        if throttle.is_some_and(|throttle| throttle.burst == Some(0)) {
            self.say(&format!("{at}.burst"), "a burst of 0 lets nothing through", "write 1 or more, or leave it out");
        }
    }

    fn env(&mut self, at: &str, env: &std::collections::BTreeMap<String, String>) {
        self.count(at, env.len(), ENV_VARS_MAX);
        for (name, value) in env {
            self.variable(&format!("{at}.{name}"), name, value);
        }
    }

    fn variable(&mut self, at: &str, name: &str, value: &str) {
        if let Err(said) = variable_name(name) {
            self.say(at, said, "use letters, digits and `_`, with no digit in front");
        }
        if value.len() > ENV_VALUE_BYTES_MAX || value.contains('\0') {
            let max = Bytes(ENV_VALUE_BYTES_MAX as u64);
            self.say(at, format!("its value is longer than {max}, or has a NUL"), "keep data in a KV bucket");
        }
    }
}

/// May this be the name of an environment variable or a secret?
///
/// # Errors
/// What is wrong with it.
pub(crate) fn variable_name(name: &str) -> Result<(), String> {
    let right = !name.is_empty()
        && name.len() <= 128
        && !name.starts_with(|ch: char| ch.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if right { Ok(()) } else { Err(format!("`{}` can't name a variable", name.chars().take(80).collect::<String>())) }
}

fn is_host_pattern(text: &str) -> bool {
    is_host(text.strip_prefix("*.").unwrap_or(text))
}

/// A host name, with a port or without.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
    };
    host.len() <= DOMAIN_BYTES_MAX
        && host.split('.').all(label)
        && port.is_none_or(|port| !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port != 0))
}

fn known<'a>(names: impl Iterator<Item = &'a base::Name>) -> String {
    let names: Vec<_> = names.map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!(", or name one of: {}", names.join(", ")) }
}
