"""The component's one export: hands wasi:http requests to the app's `handle`."""

# What is not imported while the app is built cannot be imported later: a component has no files. Codecs are what
# Python itself looks up late, by name, so the usual ones are brought along here.
import encodings.ascii, encodings.cp1252, encodings.idna, encodings.latin_1, encodings.punycode, encodings.utf_16  # noqa: E401
import inspect

import firm
from app import handle

if inspect.iscoroutinefunction(handle):
    raise SystemExit("`handle` must be a plain `def`: every request has an instance of its own, so it may simply wait")


class IncomingHandler:
    def handle(self, request, response_out):
        # What `handle` raises ends this instance: the visitor gets a 500, the traceback is in the app's log.
        firm._respond(handle(firm._request(request)), response_out)
