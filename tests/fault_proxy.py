"""An S3 server that misbehaves as it is told, in front of one that does not.

A script, run in a process of its own: ``fault_proxy.py UPSTREAM`` prints its port.
``PUT /-/rules`` sets the rules, a JSON list, and empties the log; ``GET /-/log``
gives one entry for each request since. The first rule that fits decides:

    method, path      patterns that must match the whole method, and be found in the
                      path with its query
    skip, times       let so many fitting requests pass first; act on so many (all)
    fault             what to do, one of ``FAULTS``; more fields as it needs them
"""

import http.client
import http.server
import json
import re
import socket
import struct
import sys
import threading
import time
from urllib.parse import urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
LONG_S = 90.0


class State:
    """The rules and the log, shared by all connections."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.lock = threading.Lock()
        self.set([])

    def set(self, rules):
        with self.lock:
            self.rules = [dict(rule, seen=0) for rule in rules]
            self.log = []

    def choose(self, method, path, headers):
        """The rule for a request, and an entry in the log."""
        with self.lock:
            chosen = next((rule for rule in self.rules if fits(rule, method, path)), None)
            fault = chosen["fault"] if chosen else None
            entry = {"method": method, "path": path, "fault": fault, "headers": headers}
            self.log.append(entry)
            return chosen


def fits(rule, method, path):
    if not re.fullmatch(rule.get("method", ".*"), method):
        return False
    if not re.search(rule.get("path", ""), path):
        return False
    rule["seen"] += 1
    place = rule["seen"] - rule.get("skip", 0)
    return 1 <= place <= (rule.get("times") or sys.maxsize)


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None

    def answer(self):
        if self.path.startswith("/-/"):
            self.control()
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        rule = self.state.choose(self.command, self.path, headers) or {}
        if rule.get("fault") == "deaf":
            self.wait(rule)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        FAULTS.get(rule.get("fault"), Proxy.pass_on)(self, body, rule)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - named by http.server

    def control(self):
        if self.command == "PUT":
            self.state.set(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send(200, {}, json.dumps(self.state.log).encode())

    def forward(self, body, headers=None):
        upstream = http.client.HTTPConnection(self.state.upstream, timeout=LONG_S)
        given = dict(self.headers.items()) if headers is None else headers
        upstream.request(self.command, self.path, body or None, given)
        reply = upstream.getresponse()
        data = reply.read()
        upstream.close()
        headers = {k: v for k, v in reply.getheaders() if k.lower() not in HOP}
        about = self.command == "HEAD"
        length = reply.headers.get("Content-Length", "0") if about else str(len(data))
        return reply.status, headers | {"Content-Length": length}, data

    def send(self, status, headers, data):
        self.start(status, {"Content-Length": str(len(data))} | headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def start(self, status, headers):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def hang_up(self, *, reset=True):
        """Close the connection, with a reset or as if all were said."""
        if reset:
            now = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            self.wfile = self.rfile = open("/dev/null", "r+b", 0)  # noqa: PTH123, SIM115
            self.connection.close()
        self.close_connection = True

    def wait(self, rule):
        time.sleep(rule.get("seconds", LONG_S))
        self.hang_up()

    # What may happen to a request

    def pass_on(self, body, rule):  # noqa: ARG002
        self.send(*self.forward(body))

    def status(self, body, rule):  # noqa: ARG002
        """Answer with an error and pass nothing on."""
        code = rule.get("code", "")
        more = rule.get("more", "")
        text = f"<Error><Code>{code}</Code><Message>as told</Message>{more}</Error>"
        headers = {"Content-Type": "application/xml", "x-amz-request-id": "1"}
        self.send(rule["status"], headers, text.encode() if code else b"")

    def reset(self, body, rule):  # noqa: ARG002
        """Pass nothing on and reset the connection."""
        self.hang_up()

    def lose(self, body, rule):  # noqa: ARG002
        """Do what is asked, and reset the connection instead of saying so."""
        self.forward(body)
        self.hang_up()

    def half(self, body, rule):  # noqa: ARG002
        """Announce a body and send half of it."""
        status, headers, data = self.forward(body)
        self.start(status, headers)
        self.wfile.write(data[: len(data) // 2])
        self.hang_up(reset=False)

    def stall(self, body, rule):
        """Announce a body, send half of it and then nothing."""
        status, headers, data = self.forward(body)
        self.start(status, headers)
        self.wfile.write(data[: len(data) // 2])
        self.wait(rule)

    def flip(self, body, rule):  # noqa: ARG002
        """Send a body with one bit changed."""
        status, headers, data = self.forward(body)
        wrong = bytearray(data)
        wrong[len(wrong) // 2] ^= 1
        self.send(status, headers, bytes(wrong))

    def hang(self, body, rule):  # noqa: ARG002
        """Never answer."""
        self.wait(rule)

    def drip(self, body, rule):
        """Send a body in pieces with pauses between them."""
        status, headers, data = self.forward(body)
        self.start(status, headers)
        step = -(-len(data) // rule["pieces"])
        for start in range(0, len(data), step):
            time.sleep(rule["seconds"])
            self.wfile.write(data[start : start + step])

    def replace(self, body, rule):
        """Write another object under the name first."""
        upstream = http.client.HTTPConnection(self.state.upstream, timeout=LONG_S)
        given = {"Authorization": self.headers["Authorization"]}
        upstream.request("PUT", self.path.split("?")[0], rule["body"].encode(), given)
        upstream.getresponse().read()
        upstream.close()
        self.send(*self.forward(body))

    def unconditional(self, body, rule):  # noqa: ARG002
        """Heed no condition and no range, like a simple file server."""
        given = dict(self.headers.items())
        for name in ("If-None-Match", "If-Match", "Range"):
            given.pop(name, None)
        self.send(*self.forward(body, headers=given))

    def log_message(self, *_):
        pass


FAULTS = {
    name: getattr(Proxy, name)
    for name in (
        "status",
        "reset",
        "lose",
        "half",
        "stall",
        "flip",
        "hang",
        "drip",
        "replace",
        "unconditional",
    )
}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that leaves in the middle is what many tests want."""


def main():
    Proxy.state = State(urlsplit(sys.argv[1]).netloc)
    server = Server(("127.0.0.1", 0), Proxy)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
