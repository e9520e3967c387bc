//! What a request costs more when it uses the key-value store.
//!
//! | path | does |
//! | --- | --- |
//! | `/hello` | answers 100 bytes, without a look at the store |
//! | `/get` | opens the bucket, reads the 100 bytes of one key, answers them |
//! | `/put?KEY` | opens the bucket, stores the request's body under the key, answers once that is durable |
//! | `/puts?N-SEED` | stores 100 bytes `N` times, each under a random key of 100,000 and once the one before is durable |

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

mod granted {
    wit_bindgen::generate!({ path: "wit", world: "kv", generate_all });
    pub use wasi::keyvalue::store;
}
use granted::store;

/// What `/hello` answers, and what `/put?hello` is to store so that `/get` answers the same.
const HELLO: [u8; 100] = [b'x'; 100];

struct Kv;
wasip2::http::proxy::export!(Kv);

impl wasip2::exports::http::incoming_handler::Guest for Kv {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, key) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/hello" => answer(out, 200, &HELLO),
            "/get" => match bucket().get("hello").expect("the bench has room") {
                Some(value) => answer(out, 200, &value),
                None => answer(out, 404, b"PUT /put?hello first"),
            },
            "/put" => {
                bucket().set(key, &body(&request)).expect("the bench has room");
                answer(out, 200, b"stored");
            }
            "/puts" => {
                let (count, seed) = key.split_once('-').unwrap_or((key, "1"));
                puts(count.parse().unwrap_or(1), seed.parse().unwrap_or(1));
                answer(out, 200, b"stored");
            }
            _ => answer(out, 404, b"there is nothing here"),
        }
    }
}

/// One put after the other, under the keys that a linear congruential generator gives (Knuth's MMIX). Each value is another:
/// SQLite writes nothing where a row would stay as it is.
fn puts(count: u32, seed: u64) {
    let (bucket, mut state) = (bucket(), seed);
    for _ in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = format!("{state:0>100}");
        bucket.set(&format!("key:{:012}", (state >> 33) % 100_000), value.as_bytes()).expect("the bench has room");
    }
}

fn bucket() -> store::Bucket {
    store::open("bench").expect("the manifest binds it")
}

fn body(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("taken once");
    let stream = body.stream().expect("taken once");
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(4096) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => return bytes,
            Err(StreamError::LastOperationFailed(failure)) => panic!("{}", failure.to_debug_string()),
        }
    }
}

fn answer(out: ResponseOutparam, status: u16, bytes: &[u8]) {
    let headers = Fields::from_list(&[
        ("content-type".to_owned(), b"text/plain".to_vec()),
        ("content-length".to_owned(), bytes.len().to_string().into_bytes()),
    ])
    .expect("well formed");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("well formed");
    let body = response.body().expect("taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("taken once");
    stream.blocking_write_and_flush(bytes).expect("a hundred bytes may be written at once");
    drop(stream);
    OutgoingBody::finish(body, None).expect("as long as promised");
}
