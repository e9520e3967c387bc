//! A server on this machine stands for the world outside, by the operator's exception.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::cell::Log;

fn body() -> WasiBody {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn addressed(uri: &str) -> (String, String) {
    let mut request = Request::builder().uri(uri).body(body()).expect("a request");
    let target = Target::of(request.uri()).expect("a target");
    address_to(&mut request, &target).expect("it can be addressed");
    (request.uri().to_string(), request.headers()[HOST].to_str().expect("it is text").to_owned())
}

#[test]
fn a_request_goes_out_in_origin_form() {
    let wanted = |path: &str, host: &str| (path.to_owned(), host.to_owned());
    assert_eq!(addressed("https://a.b/c?d=e"), wanted("/c?d=e", "a.b"));
    assert_eq!(addressed("https://a.b:443"), wanted("/", "a.b"));
    assert_eq!(addressed("http://a.b:81?x"), wanted("/?x", "a.b:81"));
}

#[test]
fn the_operators_exceptions_are_exact() {
    let network = Network::new(vec!["10.0.0.7:9000".parse().expect("an address")]).expect("TLS");
    let allows = |text: &str| network.allows(text.parse().expect("an address"));
    assert!(allows("10.0.0.7:9000"));
    assert!(!allows("10.0.0.7:9001"));
    assert!(!allows("10.0.0.8:9000"));
    assert!(!allows("127.0.0.1:9000"));
    assert!(allows("1.1.1.1:443"));
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn line(&self, _: &str, _: Stream, text: &str) {
        self.0.lock().expect("nothing panics while it logs").push(text.to_owned());
    }
}

/// Answers each connection with `answer`, and gives the requests that it got.
async fn serve(answer: &'static str) -> (SocketAddr, JoinHandle<()>, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    let got = Arc::<Mutex<Vec<String>>>::default();
    let asked = Arc::clone(&got);
    let server = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            asked.lock().expect("nothing panics").push(String::from_utf8_lossy(&head[..length]).into_owned());
            // It may have gone already.
            let _ = stream.write_all(answer.as_bytes()).await;
            open.push(stream);
        }
    });
    (address, server, got)
}

fn sender(private: Vec<SocketAddr>, hosts: &[&str]) -> (Sender, Arc<Lines>) {
    let log = Arc::<Lines>::default();
    let hosts = hosts.iter().map(|host| host.parse().expect("a pattern")).collect();
    let network = Arc::new(Network::new(private).expect("TLS"));
    let outbound = Arc::new(Outbound::new(hosts));
    let voice = Voice::new(Arc::clone(&log) as Arc<dyn Log>, "r".into());
    (Sender::new(network, outbound, voice), log)
}

async fn ask(sender: &Sender, uri: &str, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
    let request = Request::builder().uri(uri).body(body()).expect("a request");
    let (response, io) = sender.clone().send(request, options).await?;
    tokio::spawn(Pin::from(io));
    Ok(response)
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_listed_host_is_asked() {
    let (address, server, got) = serve(HELLO).await;
    let (sender, log) = sender(vec![address], &[&format!("localhost:{}", address.port())]);
    let uri = format!("http://localhost:{}/a?b", address.port());
    let response = ask(&sender, &uri, RequestOptions::default()).await.expect("it answers");
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.expect("it is whole").to_bytes(), "hello");
    let head = got.lock().expect("nothing panics")[0].clone();
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: localhost:{}\r\n", address.port())), "{head}");
    assert!(log.0.lock().expect("nothing panics").is_empty());
    server.abort();
}

#[tokio::test]
async fn an_unlisted_host_is_named_in_the_log() {
    let (sender, log) = sender(vec![], &["*.example.com"]);
    let error = ask(&sender, "https://example.net:8443/", RequestOptions::default()).await.expect_err("it is refused");
    assert!(matches!(error, Error::HttpRequestDenied), "{error}");
    let lines = log.0.lock().expect("nothing panics").clone();
    let wanted =
        "a request to example.net:8443 was refused: add \"example.net:8443\" to `hosts` under [outbound] in firm.toml";
    assert_eq!(lines, [wanted]);
}

#[tokio::test]
async fn a_listed_name_of_a_private_address_is_refused() {
    let (address, server, got) = serve(HELLO).await;
    let port = address.port();
    let (sender, log) = sender(vec![], &[&format!("localhost:{port}"), &format!("127.0.0.1:{port}")]);
    for host in ["localhost", "127.0.0.1"] {
        let error =
            ask(&sender, &format!("http://{host}:{port}/"), RequestOptions::default()).await.expect_err("refused");
        assert!(matches!(error, Error::DestinationIpProhibited), "{error}");
    }
    assert!(got.lock().expect("nothing panics").is_empty(), "nobody has knocked");
    assert_eq!(log.0.lock().expect("nothing panics").len(), 2);
    server.abort();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let (address, server, _) = serve("").await;
    let (sender, _) = sender(vec![address], &[&address.to_string()]);
    let soon = Some(Duration::from_millis(20));
    let options = RequestOptions { first_byte_timeout: soon, ..RequestOptions::default() };
    let error = ask(&sender, &format!("http://{address}/"), options).await.expect_err("it is given up");
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let (address, server, _) = serve("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let (sender, _) = sender(vec![address], &[&address.to_string()]);
    let soon = Some(Duration::from_millis(20));
    let options = RequestOptions { between_bytes_timeout: soon, ..RequestOptions::default() };
    let response = ask(&sender, &format!("http://{address}/"), options).await.expect("it answers");
    let error = response.into_body().collect().await.expect_err("it is given up");
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_server_without_tls_is_no_https_server() {
    let (address, server, _) = serve(HELLO).await;
    let (sender, _) = sender(vec![address], &[&address.to_string()]);
    let error = ask(&sender, &format!("https://{address}/"), RequestOptions::default()).await.expect_err("it fails");
    assert!(matches!(error, Error::TlsProtocolError), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_request_may_have_so_many_open_and_no_more() {
    let (address, server, _) = serve(HELLO).await;
    let (sender, log) = sender(vec![address], &[&address.to_string()]);
    let uri = format!("http://{address}/");
    let mut open = Vec::new();
    for _ in 0..OUTBOUND_AT_ONCE_MAX {
        open.push(ask(&sender, &uri, RequestOptions::default()).await.expect("it answers"));
    }
    let error = ask(&sender, &uri, RequestOptions::default()).await.expect_err("it is one too many");
    assert!(matches!(error, Error::ConnectionLimitReached), "{error}");
    assert_eq!(log.0.lock().expect("nothing panics").len(), 1);
    open.pop();
    ask(&sender, &uri, RequestOptions::default()).await.expect("there is room again");
    server.abort();
}
