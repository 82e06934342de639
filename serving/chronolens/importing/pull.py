"""Brings a public checkpoint: downloaded, resumed where it stopped, its digest checked before it gets its name.

What has come lies in ``FILE.part``, beside it ``FILE.part.json`` with the validator that the server gave, so that a file that changed in
between is never glued together from two.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from chronolens.errors import WeightsError
from chronolens.importing.importer import ImportOptions, TriedNetwork, keep_network, try_checkpoint
from chronolens.importing.public import PublicFile, record_digest
from chronolens.importing.reading import LARGEST
from chronolens.importing.wording import plain
from chronolens.models.weights import WeightsRecord
from chronolens.store import file_digest

Report = Callable[[int, int | None], None]
"""Called with bytes there and bytes expected, None when the server does not say."""

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<total>\d+|\*)")


def download(url: str, target: Path, *, sha256: str = "", report: Report | None = None, limit: int = LARGEST) -> str:
    """Bring a file to ``target``; return its SHA-256.

    Args:
        url: https, or http on this machine.
        target: file to write; its folder is made. A file that is there is checked and not fetched again.
        sha256: of the file, in full or its beginning; not checked when empty.
        report: told how far it is.
        limit: bytes above which nothing is taken.

    Raises:
        WeightsError: not reachable, refused by the server, interrupted (the same call goes on where it stopped), too large, no room on the
            disk, empty, packed, no address, or another digest (the file is kept aside as ``FILE.wrong``).
    """
    sha256 = sha256.lower()
    try:
        _check_address(httpx.URL(url))
    except httpx.InvalidURL as error:
        raise WeightsError(f"the address of the file is none: {plain(str(error))}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        found = file_digest(target)
        if found.startswith(sha256):
            return found
        raise WeightsError(f"{target.name} is there already with another digest; remove it or give --downloads")
    part = Part(target)
    try:
        with httpx.Client(timeout=TIMEOUT, follow_redirects=True, event_hooks={"request": [_check_request]}) as client:
            _fetch(client, url, part, report, limit)
    except httpx.RequestError as error:
        raise WeightsError(_unreachable(part, error)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WeightsError(f"the disk is full; {part.size} bytes are kept and the same command goes on with them") from error
    return _accept(part, target, sha256)


def pull(
    public: PublicFile, store: Path, downloads: Path, options: ImportOptions, *, copy: Path | None = None, report: Report | None = None
) -> WeightsRecord:
    """Make a served model of a public checkpoint, downloaded or brought by hand; return its record.

    Where the publisher names no digest, the first file that is whole is believed: its digest is kept in the list of ``store``, and every
    later one must be the same.

    Args:
        public: the entry of the list.
        store: folder to write.
        downloads: folder for what is fetched.
        options: see :func:`import_checkpoint`.
        copy: a file that was brought by hand, used where it lies.
        report: see :func:`download`.

    Raises:
        WeightsError, OptionsError: as :func:`download` and :func:`import_checkpoint`; or the copy is missing or another file. A fetched
            file without a published digest that is no such checkpoint is kept aside as ``FILE.wrong``.
    """
    path = copy or downloads / public.name / public.file
    if copy is None:
        found = download(public.url, path, sha256=public.sha256, report=report)
    elif not copy.is_file():
        raise WeightsError("there is no such file")
    else:
        found = file_digest(copy)
    if not found.startswith(public.sha256.lower()):
        raise WeightsError(f"the file has the digest {found}, {public.name} has {public.sha256}; it was not used")
    record = keep_network(_try(public, path, options, fetched=copy is None), path, store, options, public)
    if found != public.sha256.lower():
        record_digest(store, public, found)
    return record


def _try(public: PublicFile, path: Path, options: ImportOptions, *, fetched: bool) -> TriedNetwork:
    """Read and try a file; without a digest nothing else tells whether what came is the file at all."""
    try:
        return try_checkpoint(path, options, public)
    except WeightsError as error:
        if not fetched or public.sha256:
            raise
        aside = path.with_name(f"{path.name}.wrong")
        path.replace(aside)
        detail = f"{error.detail}; the file lies aside as {plain(aside.name)}, and the next pull fetches it anew"
        raise WeightsError(detail, limit=error.limit, observed=error.observed, allowed=error.allowed) from error


class Part:
    """What has come of a file, and which version of it that is."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self, url: str) -> str | None:
        """Return what the server called the version that the part belongs to; None when that is not known."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, url: str, headers: httpx.Headers) -> None:
        """Start anew, noting the version: its strong ETag, else its date; a weak ETag does not promise the same bytes."""
        tag = headers.get("etag", "")
        validator = tag if tag and not tag.startswith("W/") else headers.get("last-modified")
        self.path.write_bytes(b"")
        if validator:
            self.note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")
        else:
            self.note.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _fetch(client: httpx.Client, url: str, part: Part, report: Report | None, limit: int) -> None:
    validator = part.validator(url)
    headers = {"Accept-Encoding": "identity"}
    if part.size and validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": validator}
    with client.stream("GET", url, headers=headers) as answer:
        span = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            if span is not None and span["total"] == str(part.size):
                return  # all of it had come
            part.remove()
        elif answer.status_code == httpx.codes.PARTIAL_CONTENT and "Range" in headers:
            if span is not None and _fits(span, part.size):
                _take(answer, part, report, limit, total=_number(span["total"]), end=int(span["last"]) + 1)
                return
            part.remove()  # not the bytes that were asked for
        elif answer.status_code == httpx.codes.OK and answer.headers.get("content-type", "").startswith("text/html"):
            raise WeightsError("the server sent a page instead of the file; bring the file by hand and give it with --file")
        elif answer.status_code == httpx.codes.OK:
            part.begin(url, answer.headers)
            _take(answer, part, report, limit, total=_number(answer.headers.get("content-length")))
            return
        else:
            raise WeightsError(f"the server answered {answer.status_code} {plain(answer.reason_phrase)}".rstrip())
    _fetch(client, url, part, report, limit)  # the part is gone, so this asks for all of it, once


def _fits(span: re.Match[str], size: int) -> bool:
    """Return whether a range goes on after ``size`` bytes and ends within the file."""
    if span["first"] is None or int(span["first"]) != size:
        return False
    return size <= int(span["last"]) and (span["total"] == "*" or int(span["last"]) < int(span["total"]))


def _take(answer: httpx.Response, part: Part, report: Report | None, limit: int, total: int | None, end: int | None = None) -> None:
    """Append what comes: up to ``end`` of a range, and all of it must have come when the file has ``total`` bytes."""
    if (packed := answer.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise WeightsError(f"the server sends the file packed ({plain(packed)}), which was not asked for; bring it by hand with --file")
    end = total if end is None else end
    _check_room(part, total, limit)
    with part.path.open("ab") as stream:
        for block in answer.iter_raw():  # as it comes: blocks of a given size would lose the last one when the network stops
            stream.write(block)
            if end is not None and stream.tell() > end:
                part.remove()  # what is beyond the end belongs nowhere
                raise WeightsError("the server sends more than it said", limit=end, observed=stream.tell())
            _tell(stream, report, total, limit)
    for expected in (end, total):
        if expected is not None and part.size != expected:
            raise httpx.RemoteProtocolError(f"{part.size} of {expected} bytes came")
    if not part.size:
        part.remove()
        raise WeightsError("the server sent an empty file; bring the file by hand and give it with --file")


def _tell(stream: BinaryIO, report: Report | None, total: int | None, limit: int) -> None:
    there = stream.tell()
    if there > limit:
        raise WeightsError("the server sends more than it said, or than is taken", limit=limit, observed=there)
    if report is not None:
        report(there, total)


def _check_room(part: Part, total: int | None, limit: int) -> None:
    if total is None:
        return
    if total > limit:
        raise WeightsError("the file is larger than any known checkpoint", limit=limit, observed=total)
    free = shutil.disk_usage(part.path.parent).free
    if total - part.size > free:
        raise WeightsError("there is too little room on the disk for the file", limit=free, observed=total - part.size)


def _accept(part: Part, target: Path, sha256: str) -> str:
    found = file_digest(part.path)
    part.note.unlink(missing_ok=True)
    if not found.startswith(sha256):
        part.path.replace(target.with_name(f"{target.name}.wrong"))
        raise WeightsError(f"the file has the digest {found}, not {sha256}; it was not used and lies aside as {target.name}.wrong")
    part.path.replace(target)
    return found


def _unreachable(part: Part, error: httpx.RequestError) -> str:
    if part.size:
        again = "goes on" if part.note.is_file() else "starts anew, since the server does not name versions"
        return f"the download stopped after {part.size} bytes ({type(error).__name__}); the same command {again}"
    return f"the publisher cannot be reached ({type(error).__name__}); without a network, bring the file by hand and give it with --file"


def _check_request(request: httpx.Request) -> None:
    _check_address(request.url)


def _check_address(url: httpx.URL) -> None:
    if url.scheme == "https" or (url.scheme == "http" and _loopback(url.host)):
        return
    raise WeightsError("checkpoints are fetched by https only")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
