"""What a Python app on Firmament imports: Request, Response, env, kv and fetch, over the standard WASI interfaces.

    from firm import Request, Response

    def handle(request: Request) -> Response:
        return Response.json({"path": request.path})

Everything here is plain and synchronous: every request gets an instance of its own, so waiting holds up nobody.
The interfaces below it (wit_world.imports) are there for whoever needs more, such as trailers or polling.
"""

import json as _json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import parse_qsl, urlsplit

from componentize_py_types import Err, Ok
from wit_world.imports import environment, outgoing_handler, streams, types

# These two exist only if the manifest binds something that they give.
try:
    from wit_world.imports import atomics, keyvalue
except ImportError:
    atomics = keyvalue = None
try:
    from wit_world.imports import config
except ImportError:
    config = None

# One read of a body; what more there is comes with the next one.
_READ_BYTES = 64 * 1024
# wasi:io lets one call write no more than this.
_WRITE_BYTES = 4096


class Headers(dict):
    """Header fields by name, in any case. A field that came twice is joined with a comma, as RFC 9110 allows."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()):
        super().__init__()
        for name, value in fields:
            self[name] = f"{self[name]}, {value}" if name in self else value

    def __setitem__(self, name, value):
        super().__setitem__(name.lower(), value)

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())

    def get(self, name, default=None):
        return super().get(name.lower(), default)


@dataclass
class Request:
    """A request as it came in. Its body is read when it is first asked for."""

    method: str
    path: str
    query: dict[str, str]
    headers: Headers
    _incoming: "types.IncomingRequest" = field(repr=False)

    @cached_property
    def body(self) -> bytes:
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The body piece by piece, for what is too big to be held."""
        return _chunks(self._incoming.consume())

    def text(self) -> str:
        return self.body.decode()

    def json(self):
        return _json.loads(self.body)

    def form(self) -> dict[str, str]:
        """The fields of an HTML form."""
        return dict(parse_qsl(self.text(), keep_blank_values=True))


@dataclass
class Response:
    """An answer. The body may be text, bytes, or an iterable of bytes, which is sent as it is made."""

    body: str | bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value, status: int = 200) -> "Response":
        return cls(_json.dumps(value, ensure_ascii=False), status, {"content-type": "application/json"})

    @classmethod
    def html(cls, text: str, status: int = 200) -> "Response":
        return cls(text, status, {"content-type": "text/html; charset=utf-8"})

    def text(self) -> str:
        return self.body.decode() if isinstance(self.body, bytes) else str(self.body)


class _Env(Mapping):
    """[env] of the manifest, and the secrets that it binds. Read while serving, never while building."""

    @cached_property
    def _values(self) -> dict[str, str]:
        return dict(config.get_all() if config else environment.get_environment())

    def __getitem__(self, name):
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


env = _Env()


class Bucket:
    """A key-value bucket that the manifest binds. Values are bytes."""

    def __init__(self, name: str):
        if keyvalue is None:
            raise RuntimeError(f'firm.toml binds no bucket: add `kv = ["{name}"]` under [bindings]')
        self._bucket = keyvalue.open(name)

    def get(self, key: str) -> bytes | None:
        return self._bucket.get(key)

    def set(self, key: str, value: bytes) -> None:
        self._bucket.set(key, value)

    def delete(self, key: str) -> None:
        self._bucket.delete(key)

    def __contains__(self, key: str) -> bool:
        return self._bucket.exists(key)

    def increment(self, key: str, by: int = 1) -> int:
        """Adds to a counter and returns the sum; nothing is lost when many do it at once. Adding 0 reads it."""
        return atomics.increment(self._bucket, key, by)

    def keys(self) -> Iterator[str]:
        cursor = None
        while True:
            page = self._bucket.list_keys(cursor)
            yield from page.keys
            cursor = page.cursor
            if cursor is None:
                return


def kv(name: str) -> Bucket:
    """Opens a bucket by its name in firm.toml."""
    return Bucket(name)


def fetch(url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b"") -> Response:
    """Asks another server, one that firm.toml names under [outbound]."""
    parts = urlsplit(url)
    fields = [(name.lower(), value.encode()) for name, value in (headers or {}).items()]
    request = types.OutgoingRequest(types.Fields.from_list(fields))
    request.set_method(_METHODS.get(method, types.Method_Other(method)))
    request.set_scheme(types.Scheme_Http() if parts.scheme == "http" else types.Scheme_Https())
    request.set_authority(parts.netloc)
    request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    outgoing = request.body()
    future = outgoing_handler.handle(request, None)
    _send(outgoing, [body] if body else [])
    future.subscribe().block()
    answer = future.get()
    # The outer Err means "asked twice", which cannot be here; the inner one is why the other side did not answer.
    if not isinstance(answer, Ok) or isinstance(answer.value, Err):
        raise ConnectionError(f"{url}: {getattr(answer.value, 'value', answer)}")
    incoming = answer.value.value
    status, fields = incoming.status(), _headers(incoming.headers())
    return Response(b"".join(_chunks(incoming.consume())), status, fields)


_METHODS = {
    "GET": types.Method_Get(),
    "HEAD": types.Method_Head(),
    "POST": types.Method_Post(),
    "PUT": types.Method_Put(),
    "DELETE": types.Method_Delete(),
    "CONNECT": types.Method_Connect(),
    "OPTIONS": types.Method_Options(),
    "TRACE": types.Method_Trace(),
    "PATCH": types.Method_Patch(),
}
_METHOD_NAMES = {type(method): name for name, method in _METHODS.items()}


def _request(incoming: "types.IncomingRequest") -> Request:
    method = incoming.method()
    parts = urlsplit(incoming.path_with_query() or "/")
    return Request(
        _METHOD_NAMES.get(type(method)) or method.value,
        parts.path,
        dict(parse_qsl(parts.query, keep_blank_values=True)),
        _headers(incoming.headers()),
        incoming,
    )


def _respond(response: Response, out: "types.ResponseOutparam") -> None:
    fields = [(name.lower(), value.encode()) for name, value in response.headers.items()]
    outgoing = types.OutgoingResponse(types.Fields.from_list(fields))
    outgoing.set_status_code(response.status)
    body = outgoing.body()
    # Set before the body is written: the head goes out while the body is still being made.
    types.ResponseOutparam.set(out, Ok(outgoing))
    content = response.body.encode() if isinstance(response.body, str) else response.body
    _send(body, [content] if isinstance(content, bytes) else content)


def _headers(fields: "types.Fields") -> Headers:
    return Headers((name, value.decode("latin-1")) for name, value in fields.entries())


def _chunks(body: "types.IncomingBody") -> Iterator[bytes]:
    with body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(_READ_BYTES)
            except Err as error:
                if isinstance(error.value, streams.StreamError_Closed):
                    break
                raise ConnectionError(error.value.value.to_debug_string()) from error
    types.IncomingBody.finish(body)


def _send(body: "types.OutgoingBody", chunks: Iterable[bytes]) -> None:
    with body.write() as stream:
        for chunk in chunks:
            for start in range(0, len(chunk), _WRITE_BYTES):
                stream.blocking_write_and_flush(chunk[start : start + _WRITE_BYTES])
    types.OutgoingBody.finish(body, None)
