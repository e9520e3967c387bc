//! The same 13 bytes as `guests/hello`, on `wasi:http` 0.3: its handler is async, and the body is written after it has
//! returned.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Hello;
wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::from_list(&[
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("content-length".to_owned(), b"13".to_vec()),
        ])
        .expect("well formed");
        let (mut writer, reader) = wit_stream::new();
        let (trailers, trailers_later) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(reader), trailers_later);
        wit_bindgen::spawn_local(async move {
            // What is left over was not wanted any more: the visitor has gone.
            drop(writer.write_all(b"Hello, world!".to_vec()).await);
            // Without trailers, the value above stands: none.
            drop(trailers);
        });
        Ok(response)
    }
}
