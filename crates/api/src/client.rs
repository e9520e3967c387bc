//! A client of the API: one HTTP/2 connection to one box, whose authority it was told beforehand.

use std::sync::Arc;

use base::limits::{API_BODY_BYTES_MAX, CLIENT_TRY_TIME_MAX};
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::Problem;

/// Which cloud, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `host:port` to connect to.
    pub address: String,
    /// Where else the cloud answers: other boxes of it, tried in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The API's host name, which its certificate must carry.
    pub host: String,
    /// PEM of the authority that signs the cloud's certificates.
    pub authority: String,
    /// The token's secret.
    pub token: String,
    /// The tenant that commands are about unless told otherwise.
    pub tenant: base::Name,
}

/// Why a call didn't come back with an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no cloud answers at {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the cloud at {address} is not the one of this context: its certificate doesn't fit")]
    Tls {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the context's authority can't be read")]
    Authority(#[source] rustls::pki_types::pem::Error),
    #[error("the context's authority is not one")]
    AuthorityRefused(#[source] rustls::Error),
    #[error("`{0}` is not a host name")]
    Host(String),
    #[error("`{0}` is not a path of the API")]
    Path(String),
    #[error("the connection to the cloud broke before it answered; whether it did what was asked is unknown")]
    Broken(#[source] hyper::Error),
    #[error("the cloud's answer broke off")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the cloud's answer is not what this version understands")]
    Json(#[source] serde_json::Error),
    #[error("{}", .0.message)]
    Refused(Box<Problem>, StatusCode),
}

type Sender = SendRequest<Full<Bytes>>;

/// A connection to the API. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Client {
    context: Arc<Context>,
    /// And where it leads.
    sender: Arc<Mutex<(Sender, String)>>,
}

impl Client {
    /// Connects. The connection lives on the current tokio runtime.
    pub async fn connect(context: Context) -> Result<Self, ClientError> {
        let opened = open(&context).await?;
        Ok(Self { context: Arc::new(context), sender: Arc::new(Mutex::new(opened)) })
    }

    /// The connection. A cloud closes one that was idle for long, as while a project is built: then it is opened anew,
    /// once for all who wait for it meanwhile.
    async fn sender(&self) -> Result<Sender, ClientError> {
        let mut opened = self.sender.lock().await;
        if opened.0.is_closed() {
            *opened = open(&self.context).await?;
        }
        Ok(opened.0.clone())
    }

    /// The address of the context at which the cloud answered.
    pub async fn address(&self) -> String {
        self.sender.lock().await.1.clone()
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// `GET`, and the answer as `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(http::Method::GET, path, Bytes::new()).await
    }

    /// `DELETE`, and the answer as `T`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(http::Method::DELETE, path, Bytes::new()).await
    }

    /// `body` as JSON, and the answer as `T`.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Json)?;
        self.call(method, path, body.into()).await
    }

    /// Raw bytes up, and the answer as `T`.
    pub async fn put_bytes<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, ClientError> {
        self.call(http::Method::PUT, path, body).await
    }

    /// `GET` of JSON lines: `each` gets them as they come, until the cloud or the connection ends them.
    pub async fn lines<T: DeserializeOwned>(&self, path: &str, mut each: impl FnMut(T)) -> Result<(), ClientError> {
        let mut body = self.begin(http::Method::GET, path, Bytes::new()).await?;
        let mut held = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Answer(error.into()))?;
            let Ok(bytes) = frame.into_data() else { continue };
            held.extend_from_slice(&bytes);
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line = held.split_to(end + 1);
                each(serde_json::from_slice(&line).map_err(ClientError::Json)?);
            }
            if held.len() > API_BODY_BYTES_MAX {
                return Err(ClientError::Answer("a line of it has no end".into()));
            }
        }
        Ok(())
    }

    async fn call<T: DeserializeOwned>(&self, method: http::Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let answer = self.begin(method, path, body).await?;
        let bytes = Limited::new(answer, API_BODY_BYTES_MAX).collect().await.map_err(ClientError::Answer)?.to_bytes();
        serde_json::from_slice(&bytes).map_err(ClientError::Json)
    }

    /// Sends, and gives the body of an answer that is a success.
    async fn begin(&self, method: http::Method, path: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let uri = Uri::builder()
            .scheme("https")
            .authority(self.context.host.as_str())
            .path_and_query(path)
            .build()
            .map_err(|_| ClientError::Path(path.to_owned()))?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.context.token))
            .body(Full::new(body))
            .map_err(|_| ClientError::Path(path.to_owned()))?;
        let answer = self.sender().await?.send_request(request).await.map_err(ClientError::Broken)?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), API_BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(ClientError::Answer)?
            .to_bytes();
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem {
            code: "unexpected".to_owned(),
            message: format!("the cloud answered {status} and nothing that this version understands"),
            help: Some("is the address of the context a Firmament cloud's?".to_owned()),
            faults: Vec::new(),
            request: String::new(),
        });
        Err(ClientError::Refused(Box::new(problem), status))
    }
}

/// Connects to the first address of the context at which its cloud answers. One among several has only so long.
async fn open(context: &Context) -> Result<(Sender, String), ClientError> {
    let addresses: Vec<&String> = std::iter::once(&context.address).chain(&context.also).collect();
    let mut failed = None;
    for address in &addresses {
        let silent =
            || ClientError::Connect { address: (*address).clone(), source: std::io::ErrorKind::TimedOut.into() };
        let opened = if addresses.len() == 1 {
            open_at(context, address).await
        } else {
            let opened = tokio::time::timeout(CLIENT_TRY_TIME_MAX, open_at(context, address)).await;
            opened.unwrap_or_else(|_| Err(silent()))
        };
        match opened {
            Ok(sender) => return Ok((sender, (*address).clone())),
            // The first is the one that its user knows.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.expect("there is an address"))
}

async fn open_at(context: &Context, address: &str) -> Result<Sender, ClientError> {
    let address = address.to_owned();
    let connect = |source| ClientError::Connect { address: address.clone(), source };
    let tls_failed = |source| ClientError::Tls { address: address.clone(), source };
    let tcp = TcpStream::connect(&address).await.map_err(connect)?;
    tcp.set_nodelay(true).map_err(connect)?;
    let name = ServerName::try_from(context.host.clone()).map_err(|_| ClientError::Host(context.host.clone()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&context.authority)?));
    let stream = connector.connect(name, tcp).await.map_err(tls_failed)?;
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(ClientError::Broken)?;
    // It ends with the last sender; an error reaches the caller through the request it breaks.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// TLS 1.3 or 1.2 to the holder of a certificate of this one authority.
fn tls(authority: &str) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.map_err(ClientError::Authority)?).map_err(ClientError::AuthorityRefused)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ClientError::AuthorityRefused)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
