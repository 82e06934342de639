"""Downloads, against a real server on this machine that counts what it serves."""

import errno
import hashlib
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import torch
from tests.importing.foreign import theirs

from chronolens.errors import WeightsError
from chronolens.importing import pull as pulling
from chronolens.importing.importer import ImportOptions
from chronolens.importing.public import PublicFile, find_public
from chronolens.importing.pull import download, pull

BODY = bytes(index * 7 % 251 for index in range(300_000))
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``body`` under any path; how it behaves is set from the test."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.ranges, self.stop_after, self.length = BODY, '"one"', True, None, True
        self.status, self.location, self.wrong_range, self.kind = None, None, False, "application/octet-stream"
        self.last, self.total, self.packed = None, None, None
        self.served = 0
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pth"

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        first = self.first()
        if server.status or server.location:
            self.send_response(server.status or 302)
            if server.location:
                self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if first >= len(server.body) and first:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            shown = first + 1 if server.wrong_range else first
            self.send_header("Content-Range", f"bytes {shown}-{server.last or len(server.body) - 1}/{server.total or len(server.body)}")
        self.send_header("Content-Type", server.kind)
        if server.packed:
            self.send_header("Content-Encoding", server.packed)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(server.body) - first))
        self.end_headers()
        part = server.body[first:]
        part = part[: server.stop_after] if server.stop_after is not None else part
        self.wfile.write(part)
        server.served += len(part)
        self.close_connection = True

    def first(self):
        wanted = self.headers.get("Range")
        current = self.headers.get("If-Range") in (None, self.server.etag)
        return int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges and current else 0

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "in" / "weights.pth"


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_comes_whole_with_its_digest(server, target):
    seen = []
    assert download(server.url, target, report=lambda there, total: seen.append((there, total))) == DIGEST
    assert target.read_bytes() == BODY
    assert left(target) == ["weights.pth"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert [there for there, _ in seen] == sorted(there for there, _ in seen)


def test_a_file_that_is_there_is_not_fetched_again(server, target):
    download(server.url, target)
    assert download(server.url, target, sha256=DIGEST[:8]) == DIGEST
    assert len(server.asked) == 1
    with pytest.raises(WeightsError, match="there already with another digest"):
        download(server.url, target, sha256="00")


def interrupt(server, target, after=100_000):
    server.stop_after = after
    with pytest.raises(WeightsError, match=rf"the download stopped after {after} bytes \(RemoteProtocolError\); the same command goes on"):
        download(server.url, target)
    server.stop_after = None


def test_a_stopped_download_goes_on(server, target):
    interrupt(server, target)
    assert left(target) == ["weights.pth.part", "weights.pth.part.json"]
    assert download(server.url, target, sha256=DIGEST) == DIGEST
    assert target.read_bytes() == BODY
    assert server.served == len(BODY)  # every byte crossed the wire once
    assert server.asked == [(None, None), ("bytes=100000-", '"one"')]
    assert left(target) == ["weights.pth"]


def test_a_download_stopped_twice(server, target):
    interrupt(server, target)
    server.stop_after = 50_000
    with pytest.raises(WeightsError, match="stopped after 150000 bytes"):
        download(server.url, target)
    server.stop_after = None
    assert download(server.url, target) == DIGEST
    assert server.served == len(BODY)


def test_a_file_that_changed_meanwhile_starts_anew(server, target):
    interrupt(server, target)
    server.body, server.etag = BODY[::-1], '"two"'
    assert download(server.url, target) == hashlib.sha256(BODY[::-1]).hexdigest()
    assert server.served == 100_000 + len(BODY)


def test_a_server_without_ranges_starts_anew(server, target):
    interrupt(server, target)
    server.ranges = False
    assert download(server.url, target) == DIGEST
    assert server.served == 100_000 + len(BODY)


def test_bytes_from_another_place_are_not_glued_on(server, target):
    interrupt(server, target)
    server.wrong_range = True
    assert download(server.url, target) == DIGEST
    assert server.asked[1:] == [("bytes=100000-", '"one"'), (None, None)]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_name_for_the_version_nothing_is_resumed(server, target, etag):
    server.etag, server.stop_after = etag, 1000
    with pytest.raises(WeightsError, match=r"stopped after 1000 bytes .* starts anew, since the server does not name versions"):
        download(server.url, target)
    server.stop_after = None
    assert download(server.url, target) == DIGEST
    assert server.asked == [(None, None), (None, None)]


def test_a_part_of_another_address_is_not_used(server, target):
    interrupt(server, target)
    assert download(server.url.replace("weights", "others"), target) == DIGEST
    assert server.asked[1] == (None, None)


def test_a_part_that_is_whole_is_taken(server, target):
    interrupt(server, target)
    target.with_name("weights.pth.part").write_bytes(BODY)
    assert download(server.url, target) == DIGEST
    assert server.served == 100_000


def test_a_part_that_is_too_long_is_thrown_away(server, target):
    interrupt(server, target)
    target.with_name("weights.pth.part").write_bytes(BODY + b"more")
    assert download(server.url, target) == DIGEST


def test_another_digest_is_refused_and_the_file_kept_aside(server, target):
    with pytest.raises(WeightsError, match=rf"has the digest {DIGEST}, not 1234; it was not used and lies aside as weights.pth.wrong"):
        download(server.url, target, sha256="1234")
    assert left(target) == ["weights.pth.wrong"]


def test_a_server_that_does_not_say_how_much(server, target):
    server.length = False
    seen = []
    assert download(server.url, target, report=lambda there, total: seen.append(total)) == DIGEST
    assert set(seen) == {None}


@pytest.mark.parametrize("length", [True, False])
def test_too_large_a_file_is_not_taken(server, target, length):
    server.length = length
    with pytest.raises(WeightsError, match=r"larger than any known checkpoint|more than it said, or than is taken"):
        download(server.url, target, limit=200_000)
    assert not target.exists()


@pytest.mark.parametrize(("status", "what"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503 Service Unavailable")])
def test_what_the_server_refuses_is_told(server, target, status, what):
    server.status = status
    with pytest.raises(WeightsError, match=f"the server answered {what}"):
        download(server.url, target)


def test_a_page_is_not_taken_for_the_file(server, target):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="sent a page instead of the file"):
        download(server.url, target)
    assert left(target) == []


def test_no_network_is_told_with_the_way_out(target):
    with pytest.raises(
        WeightsError, match=r"cannot be reached \(ConnectError\); without a network, bring the file by hand and give it with --file"
    ):
        download("http://127.0.0.1:9/weights.pth", target)


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://127.0.0.1/x", "http://127.0.0.1.example.org/x", "file:///etc/hostname"])
def test_only_https_leaves_this_machine(target, url):
    with pytest.raises(WeightsError, match="by https only"):
        download(url, target)


def test_a_redirect_cannot_leave_https_either(server, target):
    server.location = "http://example.org/weights.pth"
    with pytest.raises(WeightsError, match="by https only"):
        download(server.url, target)


def test_redirects_without_end(server, target):
    server.location = "/again"
    with pytest.raises(WeightsError, match=r"cannot be reached \(TooManyRedirects\)"):
        download(server.url, target)


def test_too_little_room_is_told_before(server, target, monkeypatch):
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(WeightsError, match="too little room on the disk") as refused:
        download(server.url, target)
    assert (refused.value.limit, refused.value.observed) == (1000, len(BODY))
    assert server.served == 0 or not target.exists()


def test_a_disk_that_fills_up_keeps_what_came(server, target, monkeypatch):
    def full(stream, *_):
        stream.flush()
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(pulling, "_tell", full)
    with pytest.raises(WeightsError, match=r"the disk is full; \d+ bytes are kept"):
        download(server.url, target)
    monkeypatch.undo()
    assert download(server.url, target) == DIGEST
    assert server.asked[1][0].startswith("bytes=")


def test_other_errors_of_the_disk_are_not_hidden(server, target, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(pulling, "_tell", broken)
    with pytest.raises(OSError, match="broken disk"):
        download(server.url, target)


def test_a_slow_server_does_not_hang_the_command():
    assert httpx.Timeout(30.0, connect=10.0) == pulling.TIMEOUT


@pytest.fixture
def weights(server, tmp_path):
    """What the server publishes is a checkpoint; return its bytes and digest."""
    torch.save({"state_dict": theirs("tsm")}, tmp_path / "made.pth")
    server.body = (tmp_path / "made.pth").read_bytes()
    return server.body, hashlib.sha256(server.body).hexdigest()


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def entry(server, sha256=""):
    return PublicFile("mine", server.url, "w", "MIT", "five", sha256=sha256)


def test_a_range_that_ends_early_is_kept_and_goes_on(server, target):
    interrupt(server, target)
    server.stop_after, server.length, server.last = 50_000, False, 149_999
    with pytest.raises(WeightsError, match="stopped after 150000 bytes"):
        download(server.url, target)
    server.stop_after, server.last = None, None
    assert download(server.url, target) == DIGEST
    assert server.served == len(BODY)


def test_a_range_shorter_than_it_says_is_kept(server, target):
    interrupt(server, target)
    server.stop_after, server.length, server.total = 50_000, False, "*"
    with pytest.raises(WeightsError, match="stopped after 150000 bytes"):
        download(server.url, target)
    assert left(target) == ["weights.pth.part", "weights.pth.part.json"]


def test_more_than_a_range_says_is_not_kept(server, target):
    interrupt(server, target)
    server.last, server.length = 149_999, False
    with pytest.raises(WeightsError, match="sends more than it said") as refused:
        download(server.url, target)
    assert refused.value.limit == 150_000
    assert left(target) == []


def test_a_range_beyond_the_file_is_not_taken(server, target):
    interrupt(server, target)
    server.last = len(BODY)
    assert download(server.url, target) == DIGEST
    assert server.asked[1:] == [("bytes=100000-", '"one"'), (None, None)]


@pytest.mark.parametrize("length", [True, False])
def test_an_empty_file_is_refused(server, target, length):
    server.body, server.length = b"", length
    with pytest.raises(WeightsError, match="sent an empty file"):
        download(server.url, target)
    assert left(target) == []


def test_a_packed_file_is_refused(server, target):
    server.packed = "gzip"
    with pytest.raises(WeightsError, match=r"sends the file packed \(gzip\)"):
        download(server.url, target)
    assert not target.exists()
    server.packed = "identity"
    assert download(server.url, target) == DIGEST


@pytest.mark.parametrize("url", ["https://exa\x1bmple.org/x", "https://example.org:port/x"])
def test_an_address_that_is_none(target, url):
    with pytest.raises(WeightsError, match="the address of the file is none") as refused:
        download(url, target)
    assert "\x1b" not in refused.value.detail


def test_a_digest_in_capital_letters(server, weights, store, tmp_path):
    assert download(server.url, tmp_path / "x" / "f", sha256=weights[1].upper()) == weights[1]
    pull(entry(server, weights[1].upper()), store, tmp_path / "in", ImportOptions())
    assert "public" not in tomllib.loads((store / "weights.toml").read_text())
    pull(entry(server, weights[1].upper()), store, tmp_path / "in", ImportOptions("other"), copy=tmp_path / "made.pth")


def test_a_fetched_file_that_is_no_checkpoint_is_fetched_anew(server, weights, store, tmp_path):
    server.body = b"hello"
    with pytest.raises(WeightsError, match=r"of an unknown kind; the file lies aside as weights.pth.wrong, and the next pull fetches it"):
        pull(entry(server), store, tmp_path / "in", ImportOptions())
    assert left(tmp_path / "in" / "mine" / "x") == ["weights.pth.wrong"]
    server.body = weights[0]
    assert pull(entry(server), store, tmp_path / "in", ImportOptions()).name == "mine"


def test_a_file_stays_when_it_is_not_at_fault(server, weights, store, tmp_path):
    (tmp_path / "labels").write_text("a\n")
    with pytest.raises(WeightsError, match="names 1 classes"):
        pull(entry(server), store, tmp_path / "in", ImportOptions(labels=tmp_path / "labels"))
    assert left(tmp_path / "in" / "mine" / "x") == ["weights.pth"]
    (tmp_path / "copy").write_bytes(b"hello")
    with pytest.raises(WeightsError, match=r"of an unknown kind$"):
        pull(entry(server), store, tmp_path / "in", ImportOptions(), copy=tmp_path / "copy")
    assert (tmp_path / "copy").exists()


def test_a_digest_that_is_not_published_is_kept_at_the_first_download(server, weights, store, tmp_path):
    store.mkdir()
    (store / "weights.toml").write_text(f'[public.mine]\nurl = "{server.url}"\nwhat = ""\nlicence = ""\ndata_set = ""\n')
    record = pull(find_public(store, "mine"), store, tmp_path / "in", ImportOptions())
    assert (record.name, record.architecture) == ("mine", "tsm")
    assert find_public(store, "mine").sha256 == weights[1]
    (tmp_path / "in" / "mine" / "weights.pth").unlink()
    server.body = weights[0] + b"changed"
    with pytest.raises(WeightsError, match=f"not {weights[1]}; it was not used"):
        pull(find_public(store, "mine"), store, tmp_path / "in", ImportOptions(replace=True))


def test_the_digest_of_a_file_that_is_no_checkpoint_is_not_believed(server, store, tmp_path):
    with pytest.raises(WeightsError, match="of an unknown kind"):
        pull(entry(server), store, tmp_path / "in", ImportOptions())
    assert not store.exists()


def test_a_published_beginning_is_checked_and_completed(server, weights, store, tmp_path):
    pull(entry(server, weights[1][:8]), store, tmp_path / "in", ImportOptions())
    assert tomllib.loads((store / "weights.toml").read_text())["public"] == {"mine": {"sha256": weights[1]}}
    with pytest.raises(WeightsError, match="not 00000000"):
        pull(entry(server, "00000000"), store, tmp_path / "other", ImportOptions("other"))


def test_a_copy_brought_by_hand(server, weights, store, tmp_path):
    copy = tmp_path / "made.pth"
    assert pull(entry(server), store, tmp_path / "in", ImportOptions(), copy=copy).data_set == "five"
    assert server.asked == []
    assert tomllib.loads((store / "weights.toml").read_text())["public"]["mine"]["sha256"] == weights[1]
    with pytest.raises(WeightsError, match=f"the file has the digest {weights[1]}, mine has 0000; it was not used"):
        pull(entry(server, "0000"), store, tmp_path / "in", ImportOptions("other"), copy=copy)
    with pytest.raises(WeightsError, match="no such file"):
        pull(entry(server), store, tmp_path / "in", ImportOptions("other"), copy=tmp_path / "nothing")
