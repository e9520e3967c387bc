//! `firm.toml`: what an app is, in one file.
//!
//! The same structs parse the developer's file, travel in a push, and are validated by the cloud; their JSON
//! Schema is what `firm schema` prints. A fault names the place it lies at as a path (`route[1].path`), so that
//! the side that has the text can point at file, line and column, and the side that hasn't can still say where.

mod access;
mod check;
mod locate;
mod rules;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use base::{Bytes, Name, Rate, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::{AccessLog, AccessLogClient};
pub use check::Fault;
pub(crate) use check::variable_name;
pub use locate::{ManifestError, parse, text};
pub use rules::{HeaderRule, Pattern, Redirect};

/// What an app is: its code, files, routes, and what it may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The app's name. `firm push --app` overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    /// WebAssembly components, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<Name, Component>,
    /// Folders of files, by name. (`static` in the file.)
    #[serde(default, rename = "static", skip_serializing_if = "BTreeMap::is_empty")]
    pub statics: BTreeMap<Name, StaticFolder>,
    /// Which path goes where. The longest matching prefix wins.
    #[serde(default, rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Which paths are sent elsewhere, before any route. The first that matches wins.
    #[serde(default, rename = "redirect", skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// Header fields of the answers to some paths. All that match are applied, in order.
    #[serde(default, rename = "header", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
    /// Capabilities of the cloud that the app may use.
    #[serde(default, skip_serializing_if = "Bindings::is_empty")]
    pub bindings: Bindings,
    /// Where the app may send requests. Nowhere, when absent.
    #[serde(default, skip_serializing_if = "Outbound::is_empty")]
    pub outbound: Outbound,
    /// The throttle of all requests to the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Throttle>,
    /// Keep a line of each request in the app's log. Off, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Environment variables. Not for secrets: use `bindings.secrets`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What differs on a stage, by the stage's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stages: BTreeMap<Name, StageOverride>,
}

/// A WebAssembly component and the bounds of one request to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The folder with its `package.json`, `Cargo.toml` or `pyproject.toml`, or a ready `.wasm` file;
    /// relative to the manifest.
    #[serde(default = "here")]
    pub source: String,
    /// Memory of one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// CPU time of one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Span>,
    /// Wall time of one request, up to its response's last byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Requests that run at once. More wait their turn for as long as `timeout`, then get 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Let an instance answer one request after another, rather than each request have a fresh one. Faster, but what
    /// the code leaves in memory of one visitor is there for the next: for code that keeps nothing, or means to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reuse: bool,
}

fn here() -> String {
    ".".to_owned()
}

impl Default for Component {
    fn default() -> Self {
        Self { source: here(), memory: None, cpu: None, timeout: None, concurrency: None, reuse: false }
    }
}

/// A folder of files and how their paths read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticFolder {
    /// The folder; relative to the manifest.
    #[serde(default = "here")]
    pub dir: String,
    /// Answer `/about` with `about.html` or `about/index.html`, and send `/about.html` there.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub clean_urls: bool,
    /// Answer a path that has no file with `index.html`, as single-page apps want.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spa: bool,
    /// The file that answers with 404. `404.html`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_found: Option<String>,
    /// The `Cache-Control` of these files. `public, max-age=0, must-revalidate` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// Files that never change under their name, such as `assets/**`: browsers keep them for a year without asking.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub immutable: Vec<Pattern>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands skip_serializing_if a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

impl Default for StaticFolder {
    fn default() -> Self {
        Self { dir: here(), clean_urls: true, spa: false, not_found: None, cache: None, immutable: Vec::new() }
    }
}

/// A path prefix and what answers it: exactly one of `component` and `static`. A static folder is asked for what comes behind
/// the prefix, a component for the whole path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Matched by whole segments: `/api` takes `/api` and `/api/x`, not `/apis`.
    pub path: String,
    /// The component that answers. It is given the whole path, the prefix included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Name>,
    /// The static folder that answers. A file's path in it is what comes behind the prefix.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_folder: Option<Name>,
    /// The throttle of this route, besides the app's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Throttle>,
}

/// What answers a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Component(&'a Name),
    Static(&'a Name),
}

impl Route {
    /// What answers; `None` when the route names none or both, which validation refuses.
    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        match (&self.component, &self.static_folder) {
            (Some(component), None) => Some(Target::Component(component)),
            (None, Some(folder)) => Some(Target::Static(folder)),
            _ => None,
        }
    }
}

/// Capabilities of the cloud, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bindings {
    /// KV buckets, opened through `wasi:keyvalue/store`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kv: BTreeSet<Name>,
    /// Secrets, read through `wasi:config/store`. Set them with `firm secret set`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
}

impl Bindings {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kv.is_empty() && self.secrets.is_empty()
    }
}

/// Where the app may send requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Host names, with a port where it isn't the scheme's own; `*.example.com` takes every name below it.
    #[serde(default)]
    pub hosts: BTreeSet<String>,
}

impl Outbound {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// So many requests in a period; more get 429 with `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// The sustained rate.
    pub rate: Rate,
    /// Requests that may come at once after a quiet time. The rate's count, unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Whose requests are counted together.
    #[serde(default)]
    pub per: ThrottleKey,
}

/// Whose requests a throttle counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ThrottleKey {
    /// Everybody's.
    #[default]
    App,
    /// Each client address's own. IPv6 addresses of one /64 are one client.
    Client,
}

/// What differs on a stage. Each part that is present replaces the app's; variables are laid over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageOverride {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Outbound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Throttle>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

impl Manifest {
    /// This manifest as `stage` runs it: its overrides laid over, the others gone.
    #[must_use]
    pub fn for_stage(&self, stage: &Name) -> Self {
        let mut effective = self.clone();
        effective.stages = BTreeMap::new();
        if let Some(over) = self.stages.get(stage) {
            effective.env.extend(over.env.clone());
            if let Some(outbound) = &over.outbound {
                effective.outbound = outbound.clone();
            }
            if over.limit.is_some() {
                effective.limit.clone_from(&over.limit);
            }
            effective.access_log = over.access_log.or(effective.access_log);
        }
        effective
    }

    /// The JSON Schema of `firm.toml`, for editors.
    #[must_use]
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Manifest)
    }
}
