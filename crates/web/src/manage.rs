//! The management API's server: finds the endpoint, asks who calls and whether they may, and hands on.
//!
//! A handler is called only after its endpoint's needs are met, and gets the tenant from here, never from a body.
//! A change runs detached from the connection that asked for it: a client that goes away half-way leaves it done,
//! not half done.

#![expect(clippy::result_large_err, reason = "a refusal is made once a request, and moved a few times")]

mod apps;
mod boxes;
mod config;
mod logs;
mod places;
mod push;
mod refusal;
mod tenants;

use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use api::{Endpoint, Found, Needs, Operation};
use auth::{Caller, Denied, Wants, may};
use base::limits::{API_BODY_BYTES_MAX, API_BODY_TIME_MAX, API_SMALL_BODY_BYTES_MAX, CHUNK_BYTES_MAX};
use base::{Name, TenantId, Timestamp};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use state::{App, Applied, Command, Stage, Tenant};

use crate::answer::Body;
use crate::cloud::Cloud;
use crate::front::Core;
use crate::gate;
use crate::observe::IdText;

pub(crate) use places::Places;
use refusal::Refusal;

/// One call, authorised.
pub(crate) struct Call {
    cloud: Arc<Cloud>,
    caller: Option<Caller>,
    /// What they sent to be known.
    bearer: Option<String>,
    /// The tenant in the path, where there is one.
    tenant: Option<TenantId>,
    path: Vec<(&'static str, String)>,
    query: Vec<(String, String)>,
    body: Bytes,
}

type Answer = Result<Response<Body>, Refusal>;

/// Answers a request to the API.
pub(crate) async fn serve(core: &Rc<Core>, request: &mut Request<Option<Incoming>>, id: &IdText) -> Response<Body> {
    match called(core, request).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(id),
    }
}

async fn called(core: &Rc<Core>, request: &mut Request<Option<Incoming>>) -> Answer {
    let (endpoint, mut call) = admitted(core, request)?;
    let tenant = call.caller.as_ref().and_then(|caller| caller.token().tenant);
    let _place = call.cloud.api_places.take(tenant).ok_or_else(Refusal::busy)?;
    // Only who may call gets their body kept.
    let max = match endpoint.request {
        api::Body::None => None,
        api::Body::Bytes => Some(CHUNK_BYTES_MAX),
        _ if matches!(endpoint.operation, Operation::ReleaseCreate | Operation::ChunksMissing) => {
            Some(API_BODY_BYTES_MAX)
        }
        _ => Some(API_SMALL_BODY_BYTES_MAX),
    };
    if let Some(max) = max
        && let Some(body) = request.body_mut().take()
    {
        call.body = collect(body, max).await?;
    }
    let mut answer = dispatch(endpoint.operation, call).await?;
    if endpoint.creates {
        *answer.status_mut() = StatusCode::CREATED;
    }
    Ok(answer)
}

/// What is called, by whom, if they may: all that is known before the body.
fn admitted<B>(core: &Rc<Core>, request: &Request<B>) -> Result<(&'static Endpoint, Call), Refusal> {
    let (endpoint, values) = match api::find(request.method().as_str(), request.uri().path()) {
        Found::Endpoint(endpoint, values) => (endpoint, values),
        Found::Methods(methods) => return Err(Refusal::method(&methods)),
        Found::Nothing => return Err(Refusal::no_endpoint(request.uri().path())),
    };
    let mut path = Vec::with_capacity(values.len());
    for (name, value) in values {
        let value = percent_decode_str(value).decode_utf8().map_err(|_| Refusal::parameter(name, "it is not UTF-8"))?;
        path.push((name, value.into_owned()));
    }
    let mut call = Call {
        cloud: Arc::clone(&core.cloud),
        caller: None,
        bearer: None,
        tenant: None,
        path,
        query: request.uri().query().map(query).unwrap_or_default(),
        body: Bytes::new(),
    };
    call.authorise(endpoint.needs, gate::bearer(request.headers()))?;
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::encoded());
    }
    Ok((endpoint, call))
}

async fn collect(body: Incoming, max: usize) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(API_BODY_TIME_MAX, Limited::new(body, max).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal::too_large(max)),
        Ok(Err(_)) => Err(Refusal::broken_off()),
        Err(_) => Err(Refusal::too_slow()),
    }
}

/// Every operation has its handler; the compiler sees to it.
async fn dispatch(operation: Operation, call: Call) -> Answer {
    match operation {
        Operation::HealthRead => tenants::health_read(&call),
        Operation::OpenapiRead => Ok(openapi()),
        Operation::StatusRead => tenants::status_read(&call),
        Operation::MetricsRead => metrics(call).await,
        Operation::WhoamiRead => tenants::whoami_read(&call),
        Operation::BoxList => boxes::box_list(call).await,
        Operation::BoxAdmit => boxes::box_admit(call).await,
        Operation::BoxRemove => boxes::box_remove(call).await,
        Operation::TenantList => tenants::tenant_list(&call),
        Operation::TenantCreate => tenants::tenant_create(call).await,
        Operation::TenantChange => tenants::tenant_change(call).await,
        Operation::TenantDelete => tenants::tenant_delete(call).await,
        Operation::OperatorTokenList | Operation::TokenList => tenants::token_list(&call),
        Operation::OperatorTokenCreate | Operation::TokenCreate => tenants::token_create(call).await,
        Operation::OperatorTokenRevoke | Operation::TokenRevoke => tenants::token_revoke(call).await,
        Operation::ChunksMissing => push::chunks_missing(call).await,
        Operation::ChunkPut => push::chunk_put(call).await,
        Operation::AppList => apps::app_list(&call),
        Operation::AppRead => apps::app_read(&call),
        Operation::AppDelete => apps::app_delete(call).await,
        Operation::ReleaseList => apps::release_list(&call),
        Operation::ReleaseCreate => push::release_create(call).await,
        Operation::StageList => apps::stage_list(&call),
        Operation::StageDelete => apps::stage_delete(call).await,
        Operation::StagePromote => apps::stage_promote(call).await,
        Operation::StageRollback => apps::stage_rollback(call).await,
        Operation::StageShare => apps::stage_share(&call),
        Operation::EnvRead => config::env_read(&call),
        Operation::EnvChange => config::env_change(call).await,
        Operation::SecretList => config::secret_list(&call),
        Operation::SecretSet => config::secret_set(call).await,
        Operation::SecretDelete => config::secret_delete(call).await,
        Operation::DomainList => config::domain_list(&call),
        Operation::DomainAdd => config::domain_add(call).await,
        Operation::DomainRemove => config::domain_remove(call).await,
        Operation::LogRead => logs::log_read(call).await,
    }
}

impl Call {
    fn authorise(&mut self, needs: Needs, bearer: Option<&str>) -> Result<(), Refusal> {
        if needs == Needs::Nothing {
            return Ok(());
        }
        let record = self.cloud.record();
        let caller = self.cloud.identify(&record, SystemTime::now().into(), bearer).map_err(Refusal::denied)?;
        let own = caller.token().tenant.and_then(|tenant| record.tenant(tenant)).map(|tenant| &tenant.name);
        let named = self.path.iter().find(|(name, _)| *name == "tenant").map(|(_, value)| value.as_str());
        let refused = |denied| match (denied, own, named) {
            (Denied::OtherTenant, Some(own), Some(named)) => Refusal::other_tenant(own, named),
            (denied, ..) => Refusal::denied(denied),
        };
        let tenant = named.map(|named| record.tenant_named(named).map(|tenant| tenant.id).ok_or(named));
        let wants = match (needs, tenant) {
            (Needs::Nothing | Needs::Token, _) => Wants::Known,
            (Needs::Operator, _) => Wants::Operator,
            (Needs::Member(grant), Some(Ok(tenant))) => Wants::Member(tenant, grant),
            // Only an operator may learn that a tenant isn't there.
            (Needs::Member(_), Some(Err(named))) => {
                may(&caller, Wants::Operator).map_err(|_| refused(Denied::OtherTenant))?;
                return Err(Refusal::no_such("tenant", named));
            }
            (Needs::Member(_), None) => unreachable!("a test holds that such a path names its tenant"),
        };
        may(&caller, wants).map_err(refused)?;
        self.tenant = match tenant {
            Some(Ok(tenant)) => Some(tenant),
            Some(Err(named)) => return Err(Refusal::no_such("tenant", named)),
            None => None,
        };
        self.caller = Some(caller);
        self.bearer = bearer.map(str::to_owned);
        Ok(())
    }

    fn caller(&self) -> &Caller {
        self.caller.as_ref().expect("called only behind an endpoint that needs a token")
    }

    fn tenant(&self) -> TenantId {
        self.tenant.expect("called only behind a path that names a tenant")
    }

    /// A parameter of the path, read as what it must be.
    fn param<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> Result<T, Refusal> {
        let value = self.path.iter().find(|(held, _)| *held == name).map_or("", |(_, value)| value.as_str());
        value.parse().map_err(|error: T::Err| Refusal::parameter(name, &error.to_string()))
    }

    fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// The body, which is an object for every endpoint. serde would read a struct from an array as well, where
    /// `[null, null]` is a promotion.
    fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        read_json(&self.body)
    }

    /// The tenant, as the record has it now.
    fn tenant_held(&self) -> Result<Arc<Tenant>, Refusal> {
        self.cloud
            .record()
            .tenant(self.tenant())
            .cloned()
            .ok_or_else(|| Refusal::no_such("tenant", "it was just deleted"))
    }

    fn app(&self) -> Result<Arc<App>, Refusal> {
        let name: Name = self.param("app")?;
        self.cloud
            .record()
            .app(self.tenant(), name.as_str())
            .cloned()
            .ok_or_else(|| Refusal::no_such("app", name.as_str()))
    }

    /// The stage of the path, of an app that is there.
    fn stage<'a>(&self, app: &'a App) -> Result<&'a Stage, Refusal> {
        let name: Name = self.param("stage")?;
        app.stage(name.as_str()).ok_or_else(|| Refusal::no_such("stage", name.as_str()))
    }

    /// Proposes for the caller.
    async fn propose(&self, command: Command) -> Result<Applied, Refusal> {
        self.cloud.propose(self.caller().actor(), command).await.map_err(Refusal::proposed)
    }
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(
            Refusal::bad("wrong_body", "the body is not a JSON object").help("GET /v1/openapi.json describes it")
        );
    }
    serde_json::from_slice(body).map_err(|error| Refusal::body(&error))
}

/// Runs a change to its end, even if the client doesn't stay for it. A draining node waits for it.
async fn detached<T: 'static>(
    call: Call,
    change: impl AsyncFnOnce(&Call) -> Result<T, Refusal> + 'static,
) -> Result<T, Refusal> {
    let under_way = call.cloud.count();
    let task = tokio::task::spawn_local(async move {
        let _under_way = under_way;
        change(&call).await
    });
    task.await.map_err(|_| Refusal::failed("the change's task ended without an answer".into()))?
}

/// Does it on a thread that may wait, or that may take longer than the core's others should.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::failed(error.into()))
}

fn json(value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(|error| Refusal::failed(error.into()))?;
    let mut answer = Response::new(Body::from(Bytes::from(bytes)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// The description, which anybody may ask for, and which takes milliseconds to make: made once.
fn openapi() -> Response<Body> {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
        let text = api::openapi(env!("CARGO_PKG_VERSION"));
        serde_json::to_vec(&text).expect("a description is plain data").into()
    });
    let mut answer = Response::new(Body::from(TEXT.clone()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Made on a thread that may wait: it reads `/proc`, and has a line for each stage that has traffic.
async fn metrics(call: Call) -> Answer {
    let text = blocking(move || crate::observe::render(&call.cloud)).await?;
    let mut answer = Response::new(Body::from(Bytes::from(text)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn done() -> Answer {
    json(&api::Done { done: true })
}

fn query(text: &str) -> Vec<(String, String)> {
    let decoded = |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

fn now() -> Timestamp {
    SystemTime::now().into()
}
