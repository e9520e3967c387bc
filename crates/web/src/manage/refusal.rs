//! Why the API didn't do it: a status, a word for scripts, and sentences for people.

use std::error::Error;

use api::{Method, Problem};
use auth::Denied;
use base::limits::{API_BODY_TIME_MAX, API_REQUESTS_AT_ONCE, API_REQUESTS_PER_TENANT_AT_ONCE, MANIFEST_FAULTS_MAX};
use base::{Name, chain};
use http::{HeaderValue, Response, StatusCode, header};
use persist::ProposeError;
use state::manifest::Fault;

use crate::answer::Body;

/// Not done, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    help: Option<String>,
    faults: Vec<Fault>,
    allow: Option<HeaderValue>,
    /// For the node's own log: it is the box's fault, not the caller's.
    cause: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), help: None, faults: Vec::new(), allow: None, cause: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn no_such(what: &'static str, name: &str) -> Self {
        let code = match what {
            "tenant" => "no_such_tenant",
            "app" => "no_such_app",
            "stage" => "no_such_stage",
            _ => "no_such_thing",
        };
        let name: String = name.chars().take(80).collect();
        Self::new(StatusCode::NOT_FOUND, code, format!("there is no {what} `{name}`")).with_next_step()
    }

    /// Where to look for what isn't there by this name, unless it was said already.
    fn with_next_step(mut self) -> Self {
        let step = match self.code {
            "no_such_tenant" => "an operator sees them all with: firm tenant list",
            "no_such_app" => "see what there is with: firm apps; the first push makes an app: firm push --app NAME",
            "no_such_stage" => {
                "see what there is with: firm stages; the first push makes a stage: firm push --stage NAME"
            }
            "no_such_release" => "see what there is with: firm releases",
            "no_such_token" => "see what there is with: firm token list",
            "no_such_domain" => "see what there is with: firm domain list",
            "no_such_secret" => "see what is set with: firm secret list",
            _ => return self,
        };
        self.help.get_or_insert_with(|| step.to_owned());
        self
    }

    pub(crate) fn no_endpoint(path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, "no_such_endpoint", format!("the API has no `{path}`"))
            .help("GET /v1/openapi.json lists what it has")
    }

    pub(crate) fn method(methods: &[Method]) -> Self {
        let head = methods.contains(&Method::Get).then_some("HEAD");
        let list = methods.iter().map(|method| method.as_str()).chain(head).collect::<Vec<_>>().join(", ");
        let mut refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", format!("this path takes {list}"));
        refusal.allow = HeaderValue::try_from(list).ok();
        refusal
    }

    pub(crate) fn parameter(name: &'static str, said: &str) -> Self {
        Self::bad("wrong_parameter", format!("the parameter {name}: {said}"))
    }

    pub(crate) fn body(error: &serde_json::Error) -> Self {
        Self::bad("wrong_body", format!("the body is not what this endpoint takes: {error}"))
            .help("GET /v1/openapi.json describes it")
    }

    pub(crate) fn encoded() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compressed", "a compressed body is not taken")
            .help("send it as it is, without Content-Encoding")
    }

    pub(crate) fn busy() -> Self {
        let said = format!(
            "the box answers {API_REQUESTS_AT_ONCE} API requests at once, {API_REQUESTS_PER_TENANT_AT_ONCE} of them for one tenant"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", said).help("try again in a second")
    }

    pub(crate) fn too_large(max: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is larger than {max} bytes"))
    }

    pub(crate) fn too_slow() -> Self {
        let most = API_BODY_TIME_MAX.as_secs();
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", format!("the body took longer than {most} s"))
    }

    pub(crate) fn broken_off() -> Self {
        Self::bad("broken_off", "the body broke off")
    }

    pub(crate) fn denied(denied: Denied) -> Self {
        match denied {
            Denied::NoToken | Denied::Invalid | Denied::Expired(_) => {
                Self::new(StatusCode::UNAUTHORIZED, "unauthorised", denied.to_string())
                    .help("send a valid token: a tenant's owner or the box's operator makes one with `firm token create`; the operator's own is in the box's data directory, operator.token")
            }
            Denied::OtherTenant | Denied::TooLittle { .. } => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", denied.to_string())
                    .help("ask who gave you the token for one that may")
            }
        }
    }

    /// Says what the caller knows already: whose its token is, and what it asked for. The same whether there is such a tenant.
    pub(crate) fn other_tenant(own: &Name, asked: &str) -> Self {
        let asked: String = asked.chars().take(80).collect();
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("the token is of tenant `{own}`, and `{asked}` was asked for"),
        )
        .help(format!("ask about `{own}`: --tenant {own}, or FIRM_TENANT; or use a token of the other tenant"))
    }

    pub(crate) fn manifest(mut faults: Vec<Fault>) -> Self {
        let message = match faults.as_slice() {
            [fault] => format!("the manifest has a fault at {}: {}", fault.at, fault.said),
            faults if faults.len() > MANIFEST_FAULTS_MAX => {
                format!("the manifest has {} faults; here are the first {MANIFEST_FAULTS_MAX}", faults.len())
            }
            faults => format!("the manifest has {} faults", faults.len()),
        };
        faults.truncate(MANIFEST_FAULTS_MAX);
        let mut refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong_manifest", message);
        refusal.faults = faults;
        refusal
    }

    pub(crate) fn proposed(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(refusal) => Self::from(refusal),
            ProposeError::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many changes wait for the record")
                    .help("try again in a second")
            }
            ProposeError::Full => Self::disk_full(),
            ProposeError::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the box is going down and changes nothing more")
                    .help("try again when it is back")
            }
            ProposeError::NoQuorum => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_quorum",
                "too few of the cloud's persistence boxes can be reached; nothing was changed",
            )
            .help("try again when they are back: `firm status` shows which are missing"),
            ProposeError::Unknown => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unknown_outcome",
                "the persistence boxes stopped answering meanwhile; whether the change was made is unknown",
            )
            .help("look what is there before you try again"),
            ProposeError::TooLong { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string()),
            ProposeError::Unwritable(_) => Self::failed(error.into()),
            ProposeError::Down { .. } => {
                let cause = chain(&error);
                let mut refusal = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "unknown_outcome",
                    "the record's log failed; whether the change was made is unknown",
                )
                .help("look what is there before you try again; the box's log says why");
                refusal.cause = Some(cause);
                refusal
            }
        }
    }

    pub(crate) fn disk_full() -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "the box's disk is full; nothing was changed")
            .help("an operator must make room in the data directory; then try again")
    }

    /// The box's own failure. Its cause goes to the box's log, not to the caller.
    #[expect(clippy::needless_pass_by_value, reason = "callers make the box from what they have with `into`")]
    pub(crate) fn failed(error: Box<dyn Error + Send + Sync>) -> Self {
        let mut refusal = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the box failed to do it")
            .help("the box's log has the reason under this request's id");
        refusal.cause = Some(chain(&*error));
        refusal
    }

    pub(crate) fn answer(self, id: &str) -> Response<Body> {
        if let Some(cause) = &self.cause {
            tracing::error!(request = id, code = self.code, "{cause}");
        }
        let problem = Problem {
            code: self.code.to_owned(),
            message: self.message,
            help: self.help,
            faults: self.faults,
            request: id.to_owned(),
        };
        let bytes = serde_json::to_vec(&problem).expect("a problem is plain data");
        let mut answer = Response::new(Body::from(bytes::Bytes::from(bytes)));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, allow);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl From<state::Refusal> for Refusal {
    fn from(refusal: state::Refusal) -> Self {
        use state::Refusal as R;
        let (status, code) = match &refusal {
            R::NoTenant(_) => (StatusCode::NOT_FOUND, "no_such_tenant"),
            R::NoApp(_) => (StatusCode::NOT_FOUND, "no_such_app"),
            R::NoStage { .. } => (StatusCode::NOT_FOUND, "no_such_stage"),
            R::NoRelease { .. } => (StatusCode::NOT_FOUND, "no_such_release"),
            R::NoToken(_) => (StatusCode::NOT_FOUND, "no_such_token"),
            R::NoDomain { .. } => (StatusCode::NOT_FOUND, "no_such_domain"),
            R::NoSecret { .. } => (StatusCode::NOT_FOUND, "no_such_secret"),
            R::TenantExists(_) | R::TokenExists(_) => (StatusCode::CONFLICT, "exists"),
            R::DomainTaken(_) => (StatusCode::CONFLICT, "domain_taken"),
            R::NothingRuns { .. } | R::NothingEarlier { .. } | R::RunsAlready { .. } => {
                (StatusCode::CONFLICT, "nothing_to_do")
            }
            R::Overtaken { .. } => (StatusCode::CONFLICT, "overtaken"),
            R::LastOperator(_) => (StatusCode::CONFLICT, "last_operator"),
            R::Full { .. } => (StatusCode::CONFLICT, "full"),
            R::NoBox(_) => (StatusCode::NOT_FOUND, "no_such_box"),
            R::Evicted(_) => (StatusCode::CONFLICT, "evicted"),
            R::FoundedAlready | R::NotFounded | R::NotAdmitted(_) | R::BoxThere { .. } => {
                (StatusCode::CONFLICT, "not_now")
            }
            R::NoMove | R::LastPersistence(_) | R::LastAuth(_) | R::HoldsData { .. } => {
                (StatusCode::CONFLICT, "needed")
            }
            R::LiveStays
            | R::NoBurst
            | R::PromotedToItself
            | R::HostTooLong { .. }
            | R::TokenMisplaced
            | R::NoOperators
            | R::Label(_)
            | R::Signature
            | R::Variable(_) => (StatusCode::BAD_REQUEST, "refused"),
            R::Manifest(_) => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_manifest"),
        };
        Self::new(status, code, refusal.to_string()).with_next_step()
    }
}
