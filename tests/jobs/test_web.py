"""A server on loopback gives what the web may give."""

import contextlib
import http.server
import threading
import time
from types import SimpleNamespace

import pytest

from jobs.access import resolve
from jobs.errors import InputError, ItemError
from jobs.inputs.packed import find_images
from jobs.storage import Access, Store
from jobs.web import Web

PAGES = {
    "/a.jpg": (200, b"an image", {"ETag": '"one"'}),
    "/weak.jpg": (200, b"weak", {"ETag": 'W/"two"'}),
    "/plain.jpg": (200, b"12345", {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}),
    "/gone.jpg": (410, b"", {}),
    "/closed.jpg": (403, b"", {}),
    "/moved.jpg": (302, b"", {"Location": "/a.jpg"}),
    "/round.jpg": (302, b"", {"Location": "/round.jpg"}),
    "/away.jpg": (302, b"", {"Location": "file:///etc/passwd"}),
    "/user.jpg": (302, b"", {"Location": "http://me:secret@127.0.0.1/a.jpg"}),
    "/down.jpg": (503, b"", {}),
    "/large.jpg": (200, b"x" * 3000, {}),
    "/odd.jpg": (206, b"o", {"ETag": "\xff\xe9", "Content-Range": f"bytes 0-0/{10**25}"}),
    "/long.jpg": (206, b"o", {"Content-Range": f"bytes 0-0/{'9' * 5000}"}),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        if self.path == "/slow.jpg":
            time.sleep(1)
        if self.path == "/nohead.jpg" and self.command == "HEAD":
            self.answer(405, b"", {})
        elif self.path == "/nohead.jpg" and "Range" in self.headers:
            self.answer(206, b"n", {"Content-Range": "bytes 0-0/6"})
        else:
            self.answer(*PAGES.get(self.path, (404, b"", {})))

    do_HEAD = do_GET  # noqa: N815 - as the server calls it

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # Whoever asked may have had enough.
        with contextlib.suppress(ConnectionError):
            if self.command == "GET":
                self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web():
    """A server: its URL, and what it was asked."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=server.asked)
    server.shutdown()
    server.server_close()


@pytest.fixture
def store():
    return Store(Access(allow_http=True))


@pytest.mark.parametrize(
    ("name", "size", "etag"),
    [
        ("a.jpg", 8, "one"),
        ("moved.jpg", 8, "one"),
        ("weak.jpg", 4, "two"),
        ("plain.jpg", 5, "Mon, 01 Jan 2024 00:00:00 GMT-5"),
        ("nohead.jpg", 6, "-6"),
        ("odd.jpg", 0, r"\udcff\udce9"),
        ("long.jpg", 0, ""),
    ],
)
def test_objects_are_as_the_server_says(web, store, name, size, etag):
    found = store.stat(f"{web.url}/{name}")
    assert (found.uri, found.size, found.etag) == (f"{web.url}/{name}", size, etag)


def test_an_object_is_read_as_it_was_planned(web, store):
    uri = f"{web.url}/a.jpg"
    assert store.read(uri, etag="one") == store.read(uri) == b"an image"
    assert store.read(uri, etag="") == b"an image"  # it could not be looked at
    assert store.read_head(uri, 2) == b"an"
    assert store.read(f"{web.url}/plain.jpg", etag=store.stat(f"{web.url}/plain.jpg").etag)
    with pytest.raises(ItemError) as caught:
        store.read(uri, etag="two")
    assert caught.value.code == "input_changed"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("none.jpg", "not_found"),
        ("gone.jpg", "not_found"),
        ("closed.jpg", "forbidden"),
        ("round.jpg", "unsupported"),
        ("away.jpg", "unsupported"),
        ("user.jpg", "unsupported"),
    ],
)
def test_what_cannot_be_had_says_why(web, store, name, code):
    for ask in (store.stat, store.read):
        with pytest.raises(ItemError) as caught:
            ask(f"{web.url}/{name}")
        assert caught.value.code == code


def test_a_redirect_is_followed_a_few_times_alone(web, store):
    web.asked.clear()
    with pytest.raises(ItemError, match="more than 5 times"):
        store.read(f"{web.url}/round.jpg")
    assert len(web.asked) == 6


def test_failures_are_tried_again_and_then_told(web, store, monkeypatch):
    monkeypatch.setattr("jobs.web._PAUSE_S", 0.001)
    web.asked.clear()
    with pytest.raises(ItemError, match="the server answers 503") as caught:
        store.read(f"{web.url}/down.jpg")
    assert (caught.value.code, len(web.asked)) == ("unreachable", 3)
    with pytest.raises(ItemError, match="cannot be had") as caught:
        store.read("http://127.0.0.1:1/a.jpg")
    assert caught.value.code == "unreachable"
    with pytest.raises(ItemError):
        store.read("http://[bad/a.jpg")


def test_time_and_size_have_an_end(web, monkeypatch):
    monkeypatch.setattr("jobs.web._PAUSE_S", 0.001)
    short = Web(allowed=True, seconds=0.05, most_bytes=2000)
    with pytest.raises(ItemError, match=r"no answer within 0\.05 s"):
        short.read(f"{web.url}/slow.jpg", None)
    small = Web(allowed=True, most_bytes=2000)
    with pytest.raises(ItemError) as caught:
        small.read(f"{web.url}/large.jpg", None)
    assert caught.value.code == "too_large"


def test_the_web_is_off_unless_it_is_switched_on(web, local):
    with pytest.raises(InputError, match="must be a path or s3://bucket/key"):
        resolve(f"{web.url}/a.jpg")
    assert resolve(f"{web.url}/a.jpg", allow_http=True) == f"{web.url}/a.jpg"
    with pytest.raises(InputError, match="must hold no signature, user or password"):
        resolve("https://me:key@host/a.jpg", allow_http=True)
    web.asked.clear()
    with pytest.raises(ItemError, match="-c allow_http=true") as caught:
        local.store.read(f"{web.url}/a.jpg")
    assert (caught.value.code, web.asked) == ("forbidden", [])
    local.store.create(local.at("x.txt"), f"{web.url}/a.jpg\n".encode())
    with pytest.raises(InputError, match="an index may name s3://bucket/key and paths"):
        list(find_images(local.store, local.at("x.txt"), (".jpg",)))


def test_an_index_may_name_the_web_and_a_disk(web, local, store):
    local.store.create(local.at("b.jpg"), b"1")
    names = [f"{web.url}/a.jpg", "b.jpg", f"{web.url}/none.jpg", f"{web.url}/x.tar"]
    local.store.create(local.at("x.csv"), "\n".join(["url", *names]).encode())
    *items, tar = find_images(store, local.at("x.csv"), (".jpg",))
    assert [(item.uri, item.size, item.etag[:3]) for item in items[1:]] == [
        (f"{web.url}/a.jpg", 8, "one"),
        (f"{web.url}/none.jpg", 0, ""),
    ]
    assert items[0].uri == local.at("b.jpg")
    assert (tar.part.refusal.code, tar.uri) == ("unsupported", f"{web.url}/x.tar")


def test_one_address_is_a_source(web, store):
    (item,) = find_images(store, f"{web.url}/a.jpg", (".png",))
    assert (item.key, item.etag) == ("a.jpg", "one")
    with pytest.raises(InputError, match="does not exist: the server answers 404"):
        list(find_images(store, f"{web.url}/none.jpg", (".jpg",)))
