"""A collector of spans: reads OTLP's JSON with the messages that OpenTelemetry itself generates.

    otlp_collector.py [REFUSALS]

Prints its port, then each span as a line of JSON. The first REFUSALS messages are answered with 503.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf.json_format import MessageToDict, Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

refusals = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def ids_as_bytes(message):
    """OTLP writes ids in hexadecimal, where protobuf's own JSON has base64 (OTLP specification, JSON encoding)."""
    for resource in message["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name, length in (("traceId", 16), ("spanId", 8), ("parentSpanId", 8)):
                    if name in span:
                        decoded = bytes.fromhex(span[name])
                        assert len(decoded) == length and span[name] == decoded.hex(), span
                        span[name] = base64.b64encode(decoded).decode()
    return message


def value(held):
    return next(iter(MessageToDict(held).values()))


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        global refusals
        body = self.rfile.read(int(self.headers["content-length"]))
        refused = refusals > 0
        refusals -= refused
        answer = b"{}"
        self.send_response(503 if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if refused:
            print(json.dumps({"refused": len(body)}), flush=True)
            return
        assert self.path == "/v1/traces" and self.headers["content-type"] == "application/json", self.headers
        # Unknown fields and wrong types end it.
        message = Parse(json.dumps(ids_as_bytes(json.loads(body))), ExportTraceServiceRequest())
        for resource in message.resource_spans:
            service = {held.key: value(held.value) for held in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    told = {
                        "service": service["service.name"],
                        "scope": scope.scope.name,
                        "name": span.name,
                        "kind": span.kind,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "nanos": span.end_time_unix_nano - span.start_time_unix_nano,
                        "begun": span.start_time_unix_nano,
                        "failed": span.status.code == 2,
                        "attributes": {held.key: value(held.value) for held in span.attributes},
                    }
                    print(json.dumps(told), flush=True)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
