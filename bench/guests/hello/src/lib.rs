//! The smallest honest app: 13 bytes on plain `wasi:http` 0.2, and nothing else. What a request to it costs is what
//! the host costs.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;
wasip2::http::proxy::export!(Hello);

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let headers = Fields::from_list(&[
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("content-length".to_owned(), b"13".to_vec()),
        ])
        .expect("well formed");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("taken once");
        stream.blocking_write_and_flush(b"Hello, world!").expect("13 bytes may be written at once");
        drop(stream);
        OutgoingBody::finish(body, None).expect("as long as promised");
    }
}
