//! The endpoint table.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use state::Grant;

use crate::types::{
    AppView, BoxAdmit, BoxView, ChunksAsked, ChunksMissing, CloudView, Deployed, DomainAdd, DomainView, Done, Env,
    EnvChange, EnvChanged, Health, LogLine, Promote, Push, ReleaseView, Rollback, SecretSet, Secrets, Share, Shared,
    StageView, Status, TenantChange, TenantCreate, TenantView, TokenCreate, TokenCreated, TokenView, Whoami,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Anybody: it tells nothing.
    Nothing,
    /// The holder of any valid token.
    Token,
    /// A member of the tenant in the path with this grant at least, or an operator.
    Member(Grant),
    /// An operator.
    Operator,
}

/// One thing that the API does. The server's dispatch matches over these, so none can lack a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    HealthRead,
    OpenapiRead,
    StatusRead,
    MetricsRead,
    WhoamiRead,
    BoxList,
    BoxAdmit,
    BoxRemove,
    TenantList,
    TenantCreate,
    TenantChange,
    TenantDelete,
    OperatorTokenList,
    OperatorTokenCreate,
    OperatorTokenRevoke,
    TokenList,
    TokenCreate,
    TokenRevoke,
    ChunksMissing,
    ChunkPut,
    AppList,
    AppRead,
    AppDelete,
    ReleaseList,
    ReleaseCreate,
    StageList,
    StageDelete,
    StagePromote,
    StageRollback,
    StageShare,
    EnvRead,
    EnvChange,
    SecretList,
    SecretSet,
    SecretDelete,
    DomainList,
    DomainAdd,
    DomainRemove,
    LogRead,
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a body is.
#[derive(Clone, Copy)]
pub enum Body {
    None,
    Json(SchemaOf),
    /// Raw bytes: a chunk.
    Bytes,
    /// One JSON object a line, for as long as there are any.
    Lines(SchemaOf),
    /// JSON of no fixed schema: the OpenAPI text itself.
    Text,
    /// Figures as Prometheus reads them.
    Metrics,
}

/// A query parameter.
#[derive(Clone, Copy)]
pub struct Parameter {
    pub name: &'static str,
    pub summary: &'static str,
    pub kind: &'static str,
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Endpoint {
    pub operation: Operation,
    pub method: Method,
    /// With its parameters in braces: `/v1/tenants/{tenant}`.
    pub path: &'static str,
    pub needs: Needs,
    pub summary: &'static str,
    pub query: &'static [Parameter],
    pub request: Body,
    pub answer: Body,
    /// Does it make something new? Then the answer's status is 201, and 200 otherwise.
    pub creates: bool,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn row(
    operation: Operation,
    method: Method,
    path: &'static str,
    needs: Needs,
    summary: &'static str,
) -> Endpoint {
    let answer = Body::Json(of::<Done>);
    Endpoint { operation, method, path, needs, summary, query: &[], request: Body::None, answer, creates: false }
}

impl Endpoint {
    const fn takes(mut self, body: Body) -> Self {
        self.request = body;
        self
    }

    const fn gives(mut self, body: Body) -> Self {
        self.answer = body;
        self
    }

    const fn creates(mut self, body: Body) -> Self {
        self.creates = true;
        self.gives(body)
    }

    const fn asks(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    /// The names in braces: those of the path's parameters.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// The values of the path's parameters, when `path` is one of this endpoint's.
    fn matches<'p>(&self, path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
        let mut values = Vec::new();
        let mut given = path.split('/');
        for wanted in self.path.split('/') {
            let part = given.next()?;
            match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) if !part.is_empty() => values.push((name, part)),
                None if wanted == part => {}
                Some(_) | None => return None,
            }
        }
        given.next().is_none().then_some(values)
    }
}

/// What a path and method lead to.
pub enum Found<'p> {
    Endpoint(&'static Endpoint, Vec<(&'static str, &'p str)>),
    /// The path is there, for these methods.
    Methods(Vec<Method>),
    Nothing,
}

/// Looks `path` up, which has no query. A path with the word itself goes before one with a parameter in its place:
/// `chunks/missing` is never the chunk of digest `missing`.
pub fn find<'p>(method: &str, path: &'p str) -> Found<'p> {
    let matching = || ENDPOINTS.iter().filter_map(|endpoint| Some((endpoint, endpoint.matches(path)?)));
    let Some(fewest) = matching().map(|(_, values)| values.len()).min() else { return Found::Nothing };
    let mut methods = Vec::new();
    for (endpoint, values) in matching().filter(|(_, values)| values.len() == fewest) {
        let is_it = endpoint.method.as_str() == method;
        // RFC 9110, 9.3.2: HEAD is GET without the content.
        if is_it || (method == "HEAD" && endpoint.method == Get) {
            return Found::Endpoint(endpoint, values);
        }
        methods.push(endpoint.method);
    }
    Found::Methods(methods)
}

use Method::{Delete, Get, Patch, Post, Put};
use Needs::{Member, Nothing, Operator, Token};

const LOG_QUERY: &[Parameter] = &[
    Parameter { name: "stage", summary: "Only this stage's lines.", kind: "string" },
    Parameter { name: "request", summary: "Only this request's lines.", kind: "string" },
    Parameter {
        name: "stream",
        summary: "Only lines of this stream: stdout, stderr, fault or access.",
        kind: "string",
    },
    Parameter {
        name: "tail",
        summary: "So many of the newest lines; 100 unless told, 10,000 at the most.",
        kind: "integer",
    },
    Parameter { name: "follow", summary: "Stay and send what comes.", kind: "boolean" },
];

const BOX_REMOVE_QUERY: &[Parameter] = &[
    Parameter {
        name: "evict",
        summary: "For good: its key never comes back. For a box that is lost.",
        kind: "boolean",
    },
    Parameter { name: "lose_data", summary: "Also when it holds databases, which are lost.", kind: "boolean" },
];

/// Every endpoint there is.
pub const ENDPOINTS: &[Endpoint] = &[
    row(Operation::HealthRead, Get, "/v1/health", Nothing, "Does the box serve?").gives(Body::Json(of::<Health>)),
    row(Operation::OpenapiRead, Get, "/v1/openapi.json", Nothing, "This description.").gives(Body::Text),
    row(Operation::StatusRead, Get, "/v1/status", Token, "The box and the cloud, as you may see them.")
        .gives(Body::Json(of::<Status>)),
    row(Operation::MetricsRead, Get, "/metrics", Operator, "The box's figures, as Prometheus reads them.")
        .gives(Body::Metrics),
    row(Operation::WhoamiRead, Get, "/v1/whoami", Token, "Whose token this is.").gives(Body::Json(of::<Whoami>)),
    row(Operation::BoxList, Get, "/v1/boxes", Operator, "The boxes that the cloud is made of, and how they are.")
        .gives(Body::Json(of::<CloudView>)),
    row(
        Operation::BoxAdmit,
        Post,
        "/v1/boxes",
        Operator,
        "Let a box in: it comes when it is told to, with the same order.",
    )
    .takes(Body::Json(of::<BoxAdmit>))
    .creates(Body::Json(of::<BoxView>)),
    row(
        Operation::BoxRemove,
        Delete,
        "/v1/boxes/{box}",
        Operator,
        "Let a box go in order, or put it out for good. Answers when the cloud does without it.",
    )
    .asks(BOX_REMOVE_QUERY),
    row(Operation::TenantList, Get, "/v1/tenants", Operator, "All tenants.").gives(Body::Json(of::<Vec<TenantView>>)),
    row(Operation::TenantCreate, Post, "/v1/tenants", Operator, "Add a tenant.")
        .takes(Body::Json(of::<TenantCreate>))
        .creates(Body::Json(of::<TenantView>)),
    row(
        Operation::TenantChange,
        Patch,
        "/v1/tenants/{tenant}",
        Operator,
        "Set the ceiling of a tenant's requests, or take it away.",
    )
    .takes(Body::Json(of::<TenantChange>))
    .gives(Body::Json(of::<TenantView>)),
    row(Operation::TenantDelete, Delete, "/v1/tenants/{tenant}", Operator, "Delete a tenant and everything of it."),
    row(Operation::OperatorTokenList, Get, "/v1/tokens", Operator, "The operators' tokens.")
        .gives(Body::Json(of::<Vec<TokenView>>)),
    row(Operation::OperatorTokenCreate, Post, "/v1/tokens", Operator, "Make an operator's token.")
        .takes(Body::Json(of::<TokenCreate>))
        .creates(Body::Json(of::<TokenCreated>)),
    row(Operation::OperatorTokenRevoke, Delete, "/v1/tokens/{token}", Operator, "Revoke an operator's token, at once."),
    row(Operation::TokenList, Get, "/v1/tenants/{tenant}/tokens", Member(Grant::Own), "The tenant's tokens.")
        .gives(Body::Json(of::<Vec<TokenView>>)),
    row(
        Operation::TokenCreate,
        Post,
        "/v1/tenants/{tenant}/tokens",
        Member(Grant::Own),
        "Make a token of the tenant's.",
    )
    .takes(Body::Json(of::<TokenCreate>))
    .creates(Body::Json(of::<TokenCreated>)),
    row(
        Operation::TokenRevoke,
        Delete,
        "/v1/tenants/{tenant}/tokens/{token}",
        Member(Grant::Own),
        "Revoke a token, at once.",
    ),
    row(
        Operation::ChunksMissing,
        Post,
        "/v1/tenants/{tenant}/chunks/missing",
        Member(Grant::Deploy),
        "Which of these chunks does the tenant's store lack?",
    )
    .takes(Body::Json(of::<ChunksAsked>))
    .gives(Body::Json(of::<ChunksMissing>)),
    row(Operation::ChunkPut, Put, "/v1/tenants/{tenant}/chunks/{digest}", Member(Grant::Deploy), "Upload a chunk.")
        .takes(Body::Bytes),
    row(Operation::AppList, Get, "/v1/tenants/{tenant}/apps", Member(Grant::Read), "The tenant's apps.")
        .gives(Body::Json(of::<Vec<AppView>>)),
    row(Operation::AppRead, Get, "/v1/tenants/{tenant}/apps/{app}", Member(Grant::Read), "One app.")
        .gives(Body::Json(of::<AppView>)),
    row(
        Operation::AppDelete,
        Delete,
        "/v1/tenants/{tenant}/apps/{app}",
        Member(Grant::Own),
        "Delete an app, its releases, stages and data.",
    ),
    row(
        Operation::ReleaseList,
        Get,
        "/v1/tenants/{tenant}/apps/{app}/releases",
        Member(Grant::Read),
        "Its releases, newest first.",
    )
    .gives(Body::Json(of::<Vec<ReleaseView>>)),
    row(
        Operation::ReleaseCreate,
        Post,
        "/v1/tenants/{tenant}/apps/{app}/releases",
        Member(Grant::Deploy),
        "Push: make a release of uploaded chunks and run it on a stage.",
    )
    .takes(Body::Json(of::<Push>))
    .creates(Body::Json(of::<Deployed>)),
    row(Operation::StageList, Get, "/v1/tenants/{tenant}/apps/{app}/stages", Member(Grant::Read), "Its stages.")
        .gives(Body::Json(of::<Vec<StageView>>)),
    row(
        Operation::StageDelete,
        Delete,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}",
        Member(Grant::Deploy),
        "Delete a stage, its releases and its data. Never the live one.",
    ),
    row(
        Operation::StagePromote,
        Post,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/promote",
        Member(Grant::Deploy),
        "Run what this stage runs on another one, `live` unless told.",
    )
    .takes(Body::Json(of::<Promote>))
    .gives(Body::Json(of::<Deployed>)),
    row(
        Operation::StageRollback,
        Post,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/rollback",
        Member(Grant::Deploy),
        "Run an earlier release again, its configuration and variables included.",
    )
    .takes(Body::Json(of::<Rollback>))
    .gives(Body::Json(of::<Deployed>)),
    row(
        Operation::StageShare,
        Post,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/shares",
        Member(Grant::Deploy),
        "Make a link that opens a private stage for a while.",
    )
    .takes(Body::Json(of::<Share>))
    .gives(Body::Json(of::<Shared>)),
    row(
        Operation::EnvRead,
        Get,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/env",
        Member(Grant::Read),
        "A stage's variables.",
    )
    .gives(Body::Json(of::<Env>)),
    row(
        Operation::EnvChange,
        Patch,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/env",
        Member(Grant::Deploy),
        "Change variables: a new release of the same content.",
    )
    .takes(Body::Json(of::<EnvChange>))
    .gives(Body::Json(of::<EnvChanged>)),
    row(
        Operation::SecretList,
        Get,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/secrets",
        Member(Grant::Read),
        "The names of a stage's secrets.",
    )
    .gives(Body::Json(of::<Secrets>)),
    row(
        Operation::SecretSet,
        Put,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/secrets/{secret}",
        Member(Grant::Deploy),
        "Set a secret. It can't be read back.",
    )
    .takes(Body::Json(of::<SecretSet>)),
    row(
        Operation::SecretDelete,
        Delete,
        "/v1/tenants/{tenant}/apps/{app}/stages/{stage}/secrets/{secret}",
        Member(Grant::Deploy),
        "Delete a secret.",
    ),
    row(
        Operation::DomainList,
        Get,
        "/v1/tenants/{tenant}/apps/{app}/domains",
        Member(Grant::Read),
        "An app's own domains.",
    )
    .gives(Body::Json(of::<Vec<DomainView>>)),
    row(
        Operation::DomainAdd,
        Put,
        "/v1/tenants/{tenant}/apps/{app}/domains/{domain}",
        Member(Grant::Own),
        "Answer a domain with the app's live stage.",
    )
    .takes(Body::Json(of::<DomainAdd>)),
    row(
        Operation::DomainRemove,
        Delete,
        "/v1/tenants/{tenant}/apps/{app}/domains/{domain}",
        Member(Grant::Own),
        "Let a domain go.",
    ),
    row(
        Operation::LogRead,
        Get,
        "/v1/tenants/{tenant}/apps/{app}/logs",
        Member(Grant::Read),
        "An app's log, one JSON object a line.",
    )
    .asks(LOG_QUERY)
    .gives(Body::Lines(of::<LogLine>)),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_rows_are_the_same() {
        let places: HashSet<_> = ENDPOINTS.iter().map(|row| (row.method, row.path)).collect();
        let operations: HashSet<_> = ENDPOINTS.iter().map(|row| row.operation).collect();
        assert_eq!((places.len(), operations.len()), (ENDPOINTS.len(), ENDPOINTS.len()));
    }

    #[test]
    fn what_a_member_may_do_names_the_tenant() {
        for row in ENDPOINTS {
            assert_eq!(matches!(row.needs, Member(_)), row.path.starts_with("/v1/tenants/{tenant}/"), "{}", row.path);
        }
    }

    #[test]
    fn paths_are_found_with_their_parameters() {
        let Found::Endpoint(row, values) = find("GET", "/v1/tenants/acme/apps/shop") else {
            panic!("it is in the table")
        };
        assert_eq!(row.operation, Operation::AppRead);
        assert_eq!(values, [("tenant", "acme"), ("app", "shop")]);
        assert!(matches!(find("PUT", "/v1/tenants"), Found::Methods(methods) if methods == [Get, Post]));
        assert!(
            matches!(find("HEAD", "/v1/tenants"), Found::Endpoint(row, _) if row.operation == Operation::TenantList)
        );
        assert!(matches!(find("HEAD", "/v1/tenants/acme"), Found::Methods(methods) if methods == [Patch, Delete]));
        let missing = "/v1/tenants/acme/chunks/missing";
        assert!(matches!(find("PUT", missing), Found::Methods(methods) if methods == [Post]));
        for nothing in ["/", "/v1", "/v1/tenants/", "/v1/tenants//apps", "/v1/tenants/acme/apps/shop/"] {
            assert!(matches!(find("GET", nothing), Found::Nothing), "{nothing}");
        }
    }
}
