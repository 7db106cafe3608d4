"""Every fault of a store, at every request: the right class, and in time."""

import hashlib
import os
import re
import signal
import threading
import time
import traceback
from dataclasses import replace

import pytest

from jobs import s3_client, s3_write
from jobs.errors import InputError, ItemError, RunError, StoreError
from jobs.patience import Patience
from jobs.storage import Access, Store, open_store

pytestmark = pytest.mark.s3

# Short pauses, and patience for a machine that is busy with something else.
CALM = Patience(
    budget_s=50, connect_s=20, silence_s=20, first_pause_s=0.02, longest_pause_s=0.3
)
# A small budget, so that "for ever" takes seconds; the real one is in test_patience.
BRIEF = replace(CALM, budget_s=6.0, longest_pause_s=0.6)
# Little patience with silence, of which two spells are within the budget.
HASTE = replace(CALM, budget_s=3.5, connect_s=0.7, silence_s=1.0)
BOUND_S = 60
DATA = bytes(range(256)) * 400
MIB = 2**20


@pytest.fixture
def faulty(fault_proxy, bucket):
    """A store behind the proxy, and a bucket of it."""
    return Faulty(fault_proxy, f"s3://{bucket}")


class Faulty:
    def __init__(self, proxy, root):
        self.proxy, self.root = proxy, root
        self.store = self.open(CALM)

    def open(self, patience, **access):
        """A store of another patience."""
        return Store(Access(endpoint_url=self.proxy.url, **access), patience)

    def at(self, name="object"):
        return f"{self.root}/{name}"

    def set(self, fault, **rule):
        self.proxy.set({"fault": fault, **rule})

    def count(self, method=".*", path=""):
        """How many such requests came since the faults were set."""
        return sum(
            bool(re.fullmatch(method, one["method"]) and re.search(path, one["path"]))
            for one in self.proxy.log()
        )


def outcome_of(call):
    """What a call came to: its value, or the name of its error; and the seconds."""
    begin = time.monotonic()
    try:
        value = call()
    except ItemError as error:
        value = error.code
    except (StoreError, RunError, InputError) as error:
        value = type(error).__name__
    return value, time.monotonic() - begin


def slow(status=503, code="SlowDown", **rule):
    return {"fault": "status", "status": status, "code": code, **rule}


# Reading: each fault, what it comes to, and the least and most requests it takes.

READS = {
    "none": ([], DATA, 1, 1),
    "404": ([slow(404, "NoSuchKey")], "not_found", 1, 1),
    "404 without a word": ([slow(404, "")], "not_found", 1, 1),
    "403": ([slow(403, "AccessDenied")], "forbidden", 1, 1),
    "archived": ([slow(403, "InvalidObjectState")], "forbidden", 1, 1),
    "400": ([slow(400, "InvalidRequest")], "StoreError", 1, 1),
    "501": ([slow(501, "NotImplemented")], "StoreError", 1, 1),
    "expired": ([slow(400, "ExpiredToken")], "StoreError", 1, 1),
    "skewed": ([slow(403, "RequestTimeTooSkewed")], "StoreError", 1, 1),
    "unknown key": ([slow(403, "InvalidAccessKeyId")], "StoreError", 1, 1),
    "wrong secret": ([slow(403, "SignatureDoesNotMatch")], "StoreError", 1, 1),
    "503 for ever": ([slow()], "StoreError", 3, 60),
    "500 for ever": ([slow(500, "InternalError")], "StoreError", 3, 60),
    "502 without a word": ([slow(502, "")], "StoreError", 3, 60),
    "429 for ever": ([slow(429, "TooManyRequests")], "StoreError", 3, 60),
    "503 x3": ([slow(times=3)], DATA, 4, 4),
    "500 x3": ([slow(500, "InternalError", times=3)], DATA, 4, 4),
    "timeout x2": ([slow(400, "RequestTimeout", times=2)], DATA, 3, 3),
    "reset for ever": ([{"fault": "reset"}], "StoreError", 3, 60),
    "reset x2": ([{"fault": "reset", "times": 2}], DATA, 3, 3),
    "half for ever": ([{"fault": "half"}], "truncated", 6, 6),
    "half x1": ([{"fault": "half", "times": 1}], DATA, 2, 2),
    "half and 503 for ever": (
        [slow(times=4), {"fault": "half", "times": 4}, {"fault": "half"}],
        "truncated",
        10,
        10,
    ),
    "flipped for ever": ([{"fault": "flip"}], "corrupted", 6, 6),
    "flipped x1": ([{"fault": "flip", "times": 1}], DATA, 2, 2),
    "silent for ever": ([{"fault": "hang"}], "StoreError", 2, 4),
    "silent x1": ([{"fault": "hang", "times": 1}], DATA, 2, 2),
    "silent half way for ever": ([{"fault": "stall"}], "StoreError", 2, 4),
    "silent half way x1": ([{"fault": "stall", "times": 1}], DATA, 2, 2),
    "slow": ([{"fault": "drip", "pieces": 8, "seconds": 0.4}], DATA, 1, 1),
    "too slow": ([{"fault": "drip", "pieces": 200, "seconds": 0.4}], "StoreError", 1, 2),
    "replaced": ([{"fault": "replace", "body": "other"}], "input_changed", 1, 1),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_meets_every_fault(faulty, s3_client, name):
    faults, expected, least, most = READS[name]
    s3_client.put_object(
        Bucket=faulty.root[5:], Key="object", Body=DATA, ChecksumAlgorithm="CRC32"
    )
    etag = faulty.store.stat(faulty.at()).etag
    faulty.proxy.set(*(fault | {"method": "GET"} for fault in faults))
    patience = BRIEF if expected == "StoreError" else CALM
    store = faulty.open(HASTE if {"silent", "too"} & {*name.split()} else patience)
    value, seconds = outcome_of(lambda: store.read(faulty.at(), etag=etag))
    requests = faulty.count()
    assert value == expected
    assert least <= requests <= most
    assert seconds < BOUND_S


def test_a_flipped_bit_without_a_checksum_cannot_be_seen(faulty):
    """Other servers than Amazon's are given none that they would keep."""
    faulty.store.create(faulty.at(), DATA)
    faulty.set("flip", method="GET")
    assert faulty.store.read(faulty.at()) != DATA


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("ExpiredToken", "renew the credentials"),
        ("SignatureDoesNotMatch", "check the access key and its secret"),
        ("RequestTimeTooSkewed", "set the clock of this machine"),
        ("AuthorizationHeaderMalformed", "set AWS_DEFAULT_REGION"),
    ],
)
@pytest.mark.parametrize("call", ["read", "stat", "find", "create"])
def test_refused_credentials_say_what_helps(faulty, call, code, advice):
    """Also for a HEAD, whose answer has no room for the code."""
    faulty.proxy.set(slow(403, code))
    arguments = [faulty.at()] + [b""] * (call == "create")
    with pytest.raises(StoreError, match=f"refuses the credentials .*{code}.*; {advice}"):
        getattr(faulty.store, call)(*arguments)


def test_renewed_credentials_are_taken_up(faulty, monkeypatch):
    monkeypatch.setattr(s3_client, "_RENEW_S", 0.5)
    faulty.store.create(faulty.at(), DATA)
    faulty.proxy.set(slow(400, "ExpiredToken", times=1))
    with pytest.raises(StoreError, match="renew the credentials"):
        faulty.store.read(faulty.at())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    time.sleep(0.6)
    assert [faulty.store.read(faulty.at()) for _ in range(3)] == [DATA] * 3
    users = [one["headers"]["authorization"] for one in faulty.proxy.log()]
    assert ["renewed" in user for user in users] == [False, True, True, True]


def test_no_credentials_at_all_are_named(fault_proxy, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    store = Store(Access(endpoint_url=fault_proxy.url), BRIEF)
    with pytest.raises(StoreError, match=r"; set credentials in .*or give --anon, then"):
        store.read("s3://bucket/object")
    assert fault_proxy.log() == []


def test_the_head_of_an_object_is_read_alone(faulty):
    faulty.store.create(faulty.at(), DATA)
    faulty.proxy.set(slow(times=2, method="GET"))
    assert faulty.store.read_head(faulty.at(), 100) == DATA[:100]
    assert faulty.store.read_head(faulty.at(), 10**6) == DATA
    assert faulty.store.read_head(faulty.at(), 0) == b""
    assert [one["headers"]["range"] for one in faulty.proxy.log()] == [
        *["bytes=0-99"] * 3,
        "bytes=0-999999",
    ]
    faulty.store.create(faulty.at("empty"), b"")
    assert faulty.store.read_head(faulty.at("empty"), 9) == b""
    faulty.set("unconditional")
    assert faulty.store.read_head(faulty.at(), 100) == DATA[:100]


def test_a_listing_survives_and_is_whole(faulty):
    for i in range(12):
        faulty.store.create(faulty.at(f"a/{i:02d}"), b"")
    faulty.proxy.set(
        slow(times=2, skip=1),
        {"fault": "half", "skip": 3, "times": 1},
        {"fault": "reset", "skip": 4, "times": 1},
    )
    assert [one.uri[-2:] for one in faulty.store.iterate(faulty.at("a"))] == [
        f"{i:02d}" for i in range(12)
    ]


@pytest.mark.parametrize("call", ["find", "folders", "uploads", "create", "delete"])
def test_every_other_call_is_patient_and_then_honest(faulty, call):
    arguments = [faulty.at()] + [b""] * (call == "create")
    faulty.proxy.set(slow(times=2))
    getattr(faulty.store, call)(*arguments)
    assert faulty.count() > 2
    faulty.proxy.set(slow())
    with pytest.raises(
        StoreError, match=r"503 SlowDown, as told; \d+ tries in \d s\); check"
    ):
        getattr(faulty.open(BRIEF), call)(*arguments)
    faulty.proxy.set(slow(403, "AccessDenied"))
    with pytest.raises((RunError, InputError), match="AccessDenied"):
        getattr(faulty.store, call)(*arguments)


# Writing: the answer to any request may be lost.


@pytest.fixture
def small_parts(monkeypatch):
    """Upload in parts of 5 MiB, the least that S3 takes, what has more than that."""
    monkeypatch.setattr(s3_write, "WHOLE", 5 * MIB)
    monkeypatch.setattr(s3_write, "PART", 5 * MIB)
    monkeypatch.setattr(s3_write, "_AT_ONCE", 2)


@pytest.fixture
def give(tmp_path):
    def make(data):
        path = tmp_path / os.urandom(8).hex()
        path.write_bytes(data)
        return path

    return make


BIG = os.urandom(MIB) * 11
WRITES = {"create": DATA, "create_from": DATA, "upload": BIG, "replace": DATA}
MUTATING = "PUT|POST|DELETE"


def write(faulty, give, kind, data):
    """Write; whether it says that it did."""
    if kind == "create":
        return faulty.store.create(faulty.at(), data)
    if kind == "replace":
        faulty.store.replace(faulty.at(), data)
        return True
    made = faulty.store.create_from(faulty.at(), give(data))
    if made is not None:
        assert made == faulty.store.stat(faulty.at())
        assert made.sha256 == hashlib.sha256(data).hexdigest()
    return made is not None


@pytest.mark.parametrize("fault", ["lose", "reset", "status", "conflict"])
@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.usefixtures("small_parts")
def test_whatever_request_fails_the_object_is_written_once(faulty, give, kind, fault):
    """With the k-th request lost, for every k: one object, whole, and ours."""
    data = WRITES[kind]
    rule = {
        "status": slow(times=1),
        "conflict": slow(409, "ConditionalRequestConflict", times=2),
    }.get(fault, {"fault": fault, "times": 1})
    faulty.proxy.set()
    write(faulty, give, kind, data)
    requests = faulty.count(MUTATING)
    assert requests == {"upload": 5}.get(kind, 1)
    for k in range(requests):
        faulty.store.delete(faulty.at())
        faulty.proxy.set(rule | {"method": MUTATING, "skip": k})
        assert write(faulty, give, kind, data) is True
        assert faulty.count(MUTATING) > requests
        assert faulty.store.read(faulty.at()) == data
        assert len(faulty.store.find(faulty.root)) == 1
    others = 1 if (kind, fault) == ("upload", "lose") else 0
    # An upload that began without our knowing its name is left for ``clean``.
    assert len(faulty.store.uploads(faulty.root)) == others


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.usefixtures("small_parts")
def test_a_store_that_goes_on_losing_answers_spoils_nothing(faulty, give, kind):
    faulty.set("lose", method="PUT|POST")
    calm, faulty.store = faulty.store, faulty.open(BRIEF)
    with pytest.raises(StoreError):
        write(faulty, give, kind, WRITES[kind])
    faulty.store = calm
    faulty.proxy.set()
    assert all(faulty.store.read(one.uri) == WRITES[kind] for one in found(faulty))
    # Whoever comes next finds it done, or does it.
    write(faulty, give, kind, WRITES[kind])
    assert faulty.store.read(faulty.at()) == WRITES[kind]


def found(faulty):
    return faulty.store.find(faulty.root)


@pytest.mark.usefixtures("small_parts")
def test_another_object_is_never_adopted_nor_changed(faulty, give):
    faulty.store.create(faulty.at(), b"first")
    for kind in ("create", "create_from", "upload"):
        for k in range(5):
            faulty.set("lose", method=MUTATING, skip=k, times=1)
            assert write(faulty, give, kind, WRITES[kind]) is False
            assert faulty.store.read(faulty.at()) == b"first"


@pytest.mark.parametrize("data", [DATA, BIG], ids=["whole", "parts"])
@pytest.mark.usefixtures("small_parts")
def test_the_same_bytes_are_adopted_but_not_claimed(faulty, give, data):
    first = faulty.store.create_from(faulty.at(), give(data))
    assert first is not None
    assert faulty.store.create(faulty.at(), data) is False
    again = faulty.store.create_from(faulty.at(), give(data))
    assert (again, again.sha256) == (first, hashlib.sha256(data).hexdigest())
    assert faulty.store.create_from(faulty.at(), give(data[:-1] + b"!")) is None


def test_a_known_digest_is_taken_as_it_is(faulty, give):
    made = faulty.store.create_from(faulty.at(), give(DATA), sha256="d" * 64)
    assert made.sha256 == "d" * 64
    assert faulty.store.stat(faulty.at()).sha256 == "d" * 64


def test_foreign_objects_have_no_digest(faulty, s3_client):
    s3_client.put_object(Bucket=faulty.root[5:], Key="object", Body=b"theirs")
    stat = faulty.store.stat(faulty.at())
    assert stat.sha256 is None
    assert abs(stat.modified.timestamp() - time.time()) < 100
    assert faulty.store.create(faulty.at(), b"theirs") is False


@pytest.mark.parametrize("data", [DATA, BIG], ids=["whole", "parts"])
@pytest.mark.usefixtures("small_parts")
def test_only_the_known_object_is_replaced(faulty, give, data):
    faulty.store.create(faulty.at(), b"first")
    known = faulty.store.stat(faulty.at())
    for k in range(5):
        faulty.set("lose", method="PUT|POST", skip=k, times=1)
        made = faulty.store.replace_from(faulty.at(), give(data), match=known.etag)
        assert made == faulty.store.stat(faulty.at())
        assert made.sha256 == hashlib.sha256(data).hexdigest()
        late = faulty.store.replace_from(faulty.at(), give(b"late"), match=known.etag)
        if made.etag != known.etag:
            assert late is None
            assert faulty.store.read(faulty.at()) == data
        faulty.store.replace(faulty.at(), b"first")
    assert faulty.store.replace_from(faulty.at(), give(b"any"), match=None) is not None
    faulty.store.delete(faulty.at())
    gone = faulty.store.replace_from(faulty.at(), give(DATA), match=known.etag)
    assert gone is None
    assert not faulty.store.exists(faulty.at())


@pytest.mark.parametrize("path", ["uploads$|uploads&|uploads=", "partNumber", "uploadId="])
@pytest.mark.usefixtures("small_parts")
def test_a_failed_upload_is_given_up(faulty, give, path):
    faulty.proxy.set(slow(400, "InvalidRequest", method="PUT|POST", path=path))
    with pytest.raises(StoreError, match="400 InvalidRequest"):
        faulty.store.create_from(faulty.at(), give(BIG))
    assert faulty.store.uploads(faulty.root) == []
    assert not faulty.store.exists(faulty.at())


@pytest.fixture
def interruptible():
    """Heed SIGINT, which whoever is started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("small_parts", "interruptible")
def test_an_interrupted_upload_is_given_up(faulty, give):
    """The interrupt comes while a part is under way, as Ctrl-C does."""
    faulty.set("hang", method="PUT", path="partNumber=2")

    def interrupt():
        while not faulty.count("PUT", "partNumber=2"):
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        faulty.store.create_from(faulty.at(), give(BIG))
    thread.join()
    assert faulty.count("DELETE", "uploadId=") == 1
    assert faulty.store.uploads(faulty.root) == []


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_somebody_aborts_starts_again(faulty, give):
    faulty.proxy.set(
        slow(404, "NoSuchUpload", method="POST", path="uploadId=", times=1),
    )
    assert faulty.store.create_from(faulty.at(), give(BIG)) is not None
    assert faulty.count("POST", r"\?uploads") == 2
    assert faulty.store.read(faulty.at()) == BIG


def test_unfinished_uploads_are_listed_and_aborted(faulty, s3_client):
    bucket = faulty.root[5:]
    for key in ("run/a", "run/b", "run", "runner/c"):
        begun = s3_client.create_multipart_upload(Bucket=bucket, Key=key)
        s3_client.upload_part(
            Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"1"
        )
    uploads = faulty.store.uploads(faulty.at("run"))
    assert [one.uri for one in uploads] == [faulty.at("run/a"), faulty.at("run/b")]
    assert all(one.started.tzinfo is not None for one in uploads)
    for upload in [*uploads, uploads[0]]:
        faulty.store.abort(upload)
    assert faulty.store.uploads(faulty.at("run")) == []
    assert len(faulty.store.uploads(faulty.root)) == 2


def test_a_server_that_stops_taking_bytes_holds_nobody(faulty):
    """A body larger than all buffers on the way, of which nothing is read."""
    faulty.set("deaf", method="PUT")
    store = faulty.open(HASTE)
    value, seconds = outcome_of(lambda: store.create(faulty.at(), bytes(30 * MIB)))
    assert value == "StoreError"
    assert seconds < BOUND_S
    assert all("expect" not in one["headers"] for one in faulty.proxy.log())


def test_what_is_damaged_on_the_way_up_is_sent_again(faulty):
    faulty.proxy.set(slow(400, "BadDigest", method="PUT", times=1))
    assert faulty.store.create(faulty.at(), DATA)
    sent = [one["headers"] for one in faulty.proxy.log() if one["method"] == "PUT"]
    assert len(sent) == 2
    assert all(one["content-md5"] for one in sent)
    assert all("aws-chunked" not in str(one) for one in sent)


@pytest.mark.parametrize("size", [0, 1000, 11 * MIB])
@pytest.mark.usefixtures("small_parts")
def test_amazon_is_given_the_newer_checksum(
    fault_proxy, bucket, give, monkeypatch, s3_client, size
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.url)
    store = Store(Access(), CALM)
    assert store.create_from(f"s3://{bucket}/object", give(BIG[:size])) is not None
    assert store.read(f"s3://{bucket}/object") == BIG[:size]
    bodies = [one for one in fault_proxy.log() if one["method"] == "PUT"]
    assert all(one["headers"]["x-amz-checksum-crc32"] for one in bodies)
    kept = s3_client.head_object(Bucket=bucket, Key="object", ChecksumMode="ENABLED")
    assert kept["ChecksumCRC32"]
    if 0 < size < MIB:
        fault_proxy.set({"fault": "flip", "method": "GET"})
        with pytest.raises(ItemError, match="corrupted"):
            store.read(f"s3://{bucket}/object")


@pytest.mark.parametrize("call", ["create", "create_from"])
def test_a_bucket_that_is_not_there_is_named(faulty, give, call):
    data = b"data" if call == "create" else give(b"data")
    with pytest.raises(RunError, match=r"^there is no bucket no-such-bucket for s3://no-"):
        getattr(faulty.store, call)("s3://no-such-bucket/run/a", data)


# Load: slow down together, and come back one by one.


def test_a_store_that_is_overloaded_is_asked_less(faulty):
    from jobs.patience import MOST_REQUESTS

    pace = faulty.store._buckets._client.pace
    faulty.store.create(faulty.at(), DATA)
    faulty.proxy.set(slow(method="GET", times=1))
    faulty.store.read(faulty.at())
    assert MOST_REQUESTS // 2 <= pace.limit < MOST_REQUESTS
    faulty.proxy.set()
    for _ in range(MOST_REQUESTS):
        faulty.store.stat(faulty.at())
    assert pace.limit > MOST_REQUESTS // 2


def test_many_readers_get_through_a_storm(faulty):
    faulty.store.create(faulty.at(), DATA)
    faulty.proxy.set(slow(method="GET", times=40))
    got = []
    readers = [
        threading.Thread(target=lambda: got.append(faulty.store.read(faulty.at())))
        for _ in range(16)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert got == [DATA] * 16


# Nothing secret is told


def test_no_error_tells_a_secret(faulty, monkeypatch):
    canary = os.urandom(8).hex()  # which is not in the lines that tracebacks show
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("AWS_SESSION_TOKEN", canary)
    faulty.store.create(faulty.at(), DATA)
    store = faulty.open(replace(HASTE, budget_s=0.2))
    for fault in ({"fault": "reset"}, {"fault": "hang"}, slow()):
        faulty.proxy.set(fault)
        for call in (store.stat, store.read, store.find):
            with pytest.raises(StoreError) as caught:
                call(faulty.at())
            assert canary not in "".join(traceback.format_exception(caught.value))


# Before a run


def test_a_sound_store_is_accepted_and_left_as_it_was(faulty):
    faulty.store.probe(faulty.at("run"))
    assert found(faulty) == []
    assert faulty.count("PUT") == 2


def test_a_probe_survives_lost_answers(faulty):
    for k in range(6):
        faulty.set("lose", skip=k, times=1)
        faulty.store.probe(faulty.at("run"))
        assert found(faulty) == []


def test_a_store_that_heeds_no_condition_is_refused(faulty):
    """Like a file server that speaks a little S3."""
    faulty.set("unconditional")
    with pytest.raises(RunError) as caught:
        faulty.store.probe(faulty.at("run"))
    told = str(caught.value)
    assert told.startswith(f"{faulty.proxy.url} overwrote s3://")
    assert "--config commit=single-driver" in told
    assert found(faulty) == []


def single(faulty):
    return faulty.open(CALM, commit="single-driver")


def test_a_single_driver_does_without_conditions(faulty, give):
    faulty.set("unconditional", method="PUT|POST")
    store = single(faulty)
    store.probe(faulty.at("run"))
    assert store.create(faulty.at(), b"first")
    assert not store.create(faulty.at(), b"second")
    assert store.create_from(faulty.at(), give(b"third")) is None
    assert store.create_from(faulty.at(), give(b"first")) is not None
    known = store.stat(faulty.at()).etag
    assert store.replace_from(faulty.at(), give(b"no"), match="0" * 32) is None
    assert store.read(faulty.at()) == b"first"
    assert store.replace_from(faulty.at(), give(b"yes"), match=known) is not None
    assert store.read(faulty.at()) == b"yes"
    sent = [one["headers"] for one in faulty.proxy.log()]
    assert not any("if-none-match" in one or "if-match" in one for one in sent)


def test_a_store_without_ranges_is_refused_even_so(faulty):
    faulty.set("unconditional")
    with pytest.raises(RunError, match=r"answers 200 with \d+ bytes .* and 206 with"):
        single(faulty).probe(faulty.at("run"))


@pytest.mark.parametrize(
    ("rule", "error", "told"),
    [
        (slow(403, "AccessDenied", method="PUT"), RunError, "may not be written"),
        (slow(501, "NotImplemented", method="PUT"), RunError, "commit=single-driver"),
        (slow(400, "InvalidRequest", method="PUT"), StoreError, "400 InvalidRequest"),
        (slow(404, "NoSuchBucket", method="PUT"), RunError, "there is no bucket b-"),
        (slow(), StoreError, "check the network"),
    ],
)
def test_a_store_that_cannot_be_used_is_named(faulty, rule, error, told):
    faulty.proxy.set(rule)
    store = faulty.open(BRIEF) if told == "check the network" else faulty.store
    with pytest.raises(error, match=told):
        store.probe(faulty.at("run"))


def test_rights_that_a_run_does_not_need_are_not_asked_for(faulty):
    """To delete, and to list: without the latter, what is missing is forbidden."""
    faulty.proxy.set(
        slow(403, "AccessDenied", method="DELETE"),
        slow(403, "AccessDenied", method="GET|HEAD", path="-missing"),
    )
    faulty.store.probe(faulty.at("run"))
    assert faulty.count("PUT") == 2
    assert len(found(faulty)) == 1  # its probe, which it may not delete


def test_the_usual_store_has_the_usual_patience():
    assert open_store(Access())._buckets._client.patience == Patience()
