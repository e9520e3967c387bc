//! tonic, with windows that don't hold it back.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::BULK_BYTES_MIN;

mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.Echo.rs"));
}

use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

const WINDOW: u32 = 16 << 20;
const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
}

struct Echoes;

#[tonic::async_trait]
impl Echo for Echoes {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let body = request.into_inner();
        Ok(Response::new(if body.bytes.len() >= BULK_BYTES_MIN { Body { bytes: Bytes::new() } } else { body }))
    }
}

#[derive(Clone)]
pub struct Caller(EchoClient<Channel>);

impl Caller {
    pub async fn call(&mut self, bytes: Bytes) -> Bytes {
        self.0.call(Body { bytes }).await.expect("answered").into_inner().bytes
    }
}

pub struct Served {
    address: SocketAddr,
    certificate: Option<String>,
}

pub async fn serve(with_tls: bool) -> Served {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let certificate = with_tls.then(|| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    });
    if let Some((certificate, key)) = &certificate {
        let identity = Identity::from_pem(certificate, key);
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate");
    }
    let echo = EchoServer::new(Echoes)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // A listener of our own has no delay setting: its sockets get it here.
    let incoming = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), |socket| {
        socket.inspect(|socket| socket.set_nodelay(true).expect("a TCP socket"))
    });
    tokio::spawn(server.add_service(echo).serve_with_incoming(incoming));
    Served { address, certificate: certificate.map(|(certificate, _)| certificate) }
}

pub async fn call(served: Served) -> Caller {
    let scheme = if served.certificate.is_some() { "https" } else { "http" };
    let mut endpoint = Channel::from_shared(format!("{scheme}://{}", served.address))
        .expect("an address")
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    if let Some(certificate) = served.certificate {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate)).domain_name("localhost");
        endpoint = endpoint.tls_config(tls).expect("a certificate");
    }
    let channel = endpoint.connect().await.expect("connected");
    let client = EchoClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Caller(client)
}
