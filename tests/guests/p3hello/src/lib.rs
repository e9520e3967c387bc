//! A guest of WASI 0.3: its handler is async and answers while its body is still being made.
//!
//! `/` says hello with the address it was asked at; `/slow` sends three lines with 100 ms between them; `/echo` sends
//! the request's body back as it comes in. `/loop`, `/recurse`, `/bomb`, `/trap`, `/tables` and `/hang` misbehave before they
//! answer, `/trap-mid-stream`, `/hang-mid-stream` and `/endless` while they do, `/after` when they have. Everything else is 404.

use wasip3::clocks::monotonic_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_bindgen, wit_future, wit_stream};

/// What one read of a body may bring.
const READ_BYTES: usize = 64 * 1024;

struct Hello;
wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let authority = request.get_authority().unwrap_or_default();
        match request.get_path_with_query().as_deref() {
            Some("/") => respond(200, async move |say| say.text(format!("hello from WASI 0.3 at {authority}\n")).await),
            Some("/slow") => respond(200, async |say| {
                for line in 1..=3 {
                    say.text(format!("line {line}\n")).await;
                    monotonic_clock::wait_for(100_000_000).await;
                }
            }),
            Some("/loop") => loop {
                core::hint::black_box(());
            },
            Some("/recurse") => respond(200, async |say| say.text(deeper(1).to_string()).await),
            Some("/bomb") => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1_u8; 1 << 20]);
                    core::hint::black_box(&held);
                }
            }
            Some("/trap") => core::arch::wasm32::unreachable(),
            Some("/tables") => hoard(),
            Some("/hang") => {
                monotonic_clock::wait_for(3_600_000_000_000).await;
                respond(200, async |_| ())
            }
            Some("/trap-mid-stream") => respond(200, async |say| {
                say.text("0123456789".to_owned()).await;
                monotonic_clock::wait_for(50_000_000).await;
                core::arch::wasm32::unreachable()
            }),
            Some("/hang-mid-stream") => respond(200, async |say| {
                say.text("0123456789".to_owned()).await;
                monotonic_clock::wait_for(3_600_000_000_000).await;
            }),
            Some("/endless") => respond(200, async |say| {
                loop {
                    say.bytes(vec![b'x'; READ_BYTES]).await;
                }
            }),
            Some("/after") => {
                wit_bindgen::spawn_local(monotonic_clock::wait_for(3_600_000_000_000));
                respond(200, async |say| say.text("answered\n".to_owned()).await)
            }
            Some("/echo") => {
                // Told when reading is done; nobody here wants to know.
                let (_, done) = wit_future::new(|| Ok(()));
                let (mut body, _trailers) = Request::consume_body(request, done);
                respond(200, async move |say| {
                    loop {
                        let (status, bytes) = body.read(Vec::with_capacity(READ_BYTES)).await;
                        say.bytes(bytes).await;
                        if !matches!(status, StreamResult::Complete(_)) {
                            break;
                        }
                    }
                })
            }
            _ => respond(404, async |say| say.text("there is nothing here\n".to_owned()).await),
        }
    }
}

/// Until the stack is full.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn deeper(depth: u64) -> u64 {
    core::hint::black_box(depth) + deeper(depth + 1)
}

/// Takes handles of the host's until it gives no more.
fn hoard() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(Fields::new());
    }
}

/// The writing end of a response's body.
struct Say(wit_bindgen::StreamWriter<u8>);

impl Say {
    async fn text(&mut self, text: String) {
        self.bytes(text.into_bytes()).await;
    }

    async fn bytes(&mut self, bytes: Vec<u8>) {
        // What is left over was not wanted any more: the visitor has gone.
        drop(self.0.write_all(bytes).await);
    }
}

/// Answers at once; `body` is written after that, in a task of its own.
fn respond(status: u16, body: impl AsyncFnOnce(&mut Say) + 'static) -> Result<Response, ErrorCode> {
    let (writer, reader) = wit_stream::new();
    let (trailers, trailers_later) = wit_future::new(|| Ok(None));
    let headers = Fields::from_list(&[("content-type".to_owned(), b"text/plain".to_vec())]).expect("well formed");
    let (response, _sent) = Response::new(headers, Some(reader), trailers_later);
    response.set_status_code(status).expect("well formed");
    wit_bindgen::spawn_local(async move {
        body(&mut Say(writer)).await;
        // Without trailers, the value above stands: none.
        drop(trailers);
    });
    Ok(response)
}
