"""The management API for what the command line would be too slow for: many pushes at once on connections that stay."""

import http.client
import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

from servers import Unavailable


class Api:
    """Loopback alone: it trusts whatever certificate is there."""

    def __init__(self, firm):
        self.port, self.token = firm.tls, firm.token()
        self.local = threading.local()

    def connection(self):
        if not hasattr(self.local, "connection"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.local.connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        return self.local.connection

    def call(self, method, path, body=None):
        headers = {"Host": "api.localhost", "Authorization": f"Bearer {self.token}"}
        if body is not None:
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        connection = self.connection()
        try:
            connection.request(method, f"/v1{path}", body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            # The next call opens a new one.
            connection.close()
            raise
        if answer.status not in (200, 201):
            raise Unavailable(f"{method} {path} is answered with {answer.status}: {said[:300].decode(errors='replace')}")
        return json.loads(said)

    def each(self, calls, at_once=16):
        """Runs the calls, so many at once."""
        with ThreadPoolExecutor(at_once) as pool:
            for _ in pool.map(lambda call: self.call(*call), calls):
                pass
