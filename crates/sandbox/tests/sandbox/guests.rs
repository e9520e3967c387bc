//! Components, written down: the smallest that answer over `wasi:http` 0.2, around a handler of a few lines.

/// A component whose handler is `body`, WebAssembly text with these at hand:
///
/// - `(call $respond)`: answers 200 and opens the body's stream
/// - `(call $write (i32.const LENGTH))`: writes so many bytes `x` to it, waiting for room
/// - `(call $finish)`: ends the body
/// - `(call $print)`: writes `hello\n` to stdout
/// - `$i`: a local of its own; `$table`: an empty table
///
/// Its memory has `pages` pages at the start.
pub(crate) fn component(pages: u32, body: &str) -> Vec<u8> {
    let text = TEMPLATE.replace("PAGES", &pages.to_string()).replace("BODY", body);
    wat::parse_str(&text).expect("the component is well formed")
}

/// Answers with five bytes, after a line on stdout.
pub(crate) fn hello() -> Vec<u8> {
    component(2, "(call $print) (call $respond) (call $write (i32.const 5)) (call $finish)")
}

const TEMPLATE: &str = r#"
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $io-error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $io-error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failed' (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $failed (eq $failed')))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $failed)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $outer-stream))
    (export "output-stream" (type $stream (eq $outer-stream)))
    (export "get-stdout" (func (result (own $stream))))))
  (import "wasi:http/types@0.2.0" (instance $http
    (alias outer 1 $output-stream (type $outer-stream))
    (export "output-stream" (type $stream (eq $outer-stream)))
    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type (sub resource)))
    (export "outgoing-body" (type $body (sub resource)))
    (export "outgoing-response" (type $response (sub resource)))
    (export "response-outparam" (type $outparam (sub resource)))
    (type $dns' (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns')))
    (type $tls' (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls (eq $tls')))
    (type $size' (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $size (eq $size')))
    (type $code' (variant
      (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found") (case "destination-unavailable")
      (case "destination-IP-prohibited") (case "destination-IP-unroutable") (case "connection-refused")
      (case "connection-terminated") (case "connection-timeout") (case "connection-read-timeout")
      (case "connection-write-timeout") (case "connection-limit-reached") (case "TLS-protocol-error")
      (case "TLS-certificate-error") (case "TLS-alert-received" $tls) (case "HTTP-request-denied")
      (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32)) (case "HTTP-request-header-size" (option $size))
      (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $size)
      (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $size) (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $size)
      (case "HTTP-response-transfer-coding" (option string)) (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout") (case "HTTP-upgrade-failed") (case "HTTP-protocol-error")
      (case "loop-detected") (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $code (eq $code')))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-response" (func (param "headers" (own $fields)) (result (own $response))))
    (export "[method]outgoing-response.body"
      (func (param "self" (borrow $response)) (result (result (own $body)))))
    (export "[method]outgoing-body.write" (func (param "self" (borrow $body)) (result (result (own $stream)))))
    (export "[static]outgoing-body.finish"
      (func (param "this" (own $body)) (param "trailers" (option (own $fields))) (result (result (error $code)))))
    (export "[static]response-outparam.set"
      (func (param "param" (own $outparam)) (param "response" (result (own $response) (error $code)))))))
  (alias export $http "incoming-request" (type $request))
  (alias export $http "response-outparam" (type $outparam))

  (core module $libc
    (memory (export "memory") PAGES)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
  (core instance $libc (instantiate $libc))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $libc "memory")))
  (core func $drop-stream (canon resource.drop $output-stream))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $response (canon lower (func $http "[constructor]outgoing-response")))
  (core func $body (canon lower (func $http "[method]outgoing-response.body") (memory $libc "memory")))
  (core func $stream (canon lower (func $http "[method]outgoing-body.write") (memory $libc "memory")))
  (core func $finish
    (canon lower (func $http "[static]outgoing-body.finish") (memory $libc "memory") (realloc (func $libc "realloc"))))
  (core func $set (canon lower (func $http "[static]response-outparam.set") (memory $libc "memory")))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "write" (func $host-write (param i32 i32 i32 i32)))
    (import "host" "drop-stream" (func $drop-stream (param i32)))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "response" (func $response (param i32) (result i32)))
    (import "host" "body" (func $body (param i32 i32)))
    (import "host" "stream" (func $stream (param i32 i32)))
    (import "host" "finish" (func $host-finish (param i32 i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (table $table 0 funcref)
    (global $out (mut i32) (i32.const 0))
    (global $the-body (mut i32) (i32.const 0))
    (global $the-stream (mut i32) (i32.const 0))
    (data (i32.const 1024) "hello\n")
    (func $print
      (call $host-write (call $get-stdout) (i32.const 1024) (i32.const 6) (i32.const 0)))
    (func $respond (local $made i32)
      (local.set $made (call $response (call $fields)))
      (call $body (local.get $made) (i32.const 0))
      (global.set $the-body (i32.load (i32.const 4)))
      (call $stream (global.get $the-body) (i32.const 0))
      (global.set $the-stream (i32.load (i32.const 4)))
      (call $set (global.get $out) (i32.const 0) (local.get $made)
        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
    (func $write (param $length i32)
      (memory.fill (i32.const 2048) (i32.const 120) (local.get $length))
      (call $host-write (global.get $the-stream) (i32.const 2048) (local.get $length) (i32.const 0)))
    (func $finish
      (call $drop-stream (global.get $the-stream))
      (call $host-finish (global.get $the-body) (i32.const 0) (i32.const 0) (i32.const 8192)))
    (func (export "handle") (param $request i32) (param i32) (local $i i32)
      (global.set $out (local.get 1))
      BODY))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "get-stdout" (func $get-stdout)) (export "write" (func $write)) (export "drop-stream" (func $drop-stream))
      (export "fields" (func $fields)) (export "response" (func $response)) (export "body" (func $body))
      (export "stream" (func $stream)) (export "finish" (func $finish)) (export "set" (func $set))))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $main "handle")))
  (component $face
    (import "request" (type $request (sub resource)))
    (import "outparam" (type $outparam (sub resource)))
    (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
    (export "incoming-request" (type $request))
    (export "response-outparam" (type $outparam))
    (export "handle" (func $handle)))
  (instance $handler (instantiate $face
    (with "request" (type $request)) (with "outparam" (type $outparam)) (with "handle" (func $handle))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
"#;
