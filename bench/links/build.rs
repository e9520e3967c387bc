//! The service that tonic serves: one unary method, as its own code generator writes it.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = Method::builder()
        .name("call")
        .route_name("Call")
        .input_type("crate::theirs::Body")
        .output_type("crate::theirs::Body")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service = Service::builder().name("Echo").package("bench").method(method).build();
    Builder::new().compile(&[service]);
}
