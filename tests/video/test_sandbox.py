"""The sandbox process: its limits hold, the parent outlives it, and nothing stays behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.video.conftest import Make, numbers

import chronolens
from chronolens.errors import UnusableClipError
from chronolens.video import channel, process
from chronolens.video.decode import DecodeLimits, decode_clip

ROOT = str(Path(chronolens.__file__).resolve().parents[1])


def child(code: str) -> str:
    """Run code in a process like the sandbox's and return what it prints."""
    boot = f"import sys; sys.path.insert(0, {ROOT!r})\n"
    done = subprocess.run([sys.executable, "-I", "-c", boot + code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (DecodeLimits(wall_s=0.01), "decode-timeout"),
        (DecodeLimits(cpu_s=0.01), "decode-timeout"),
        (DecodeLimits(address_space_bytes=48 << 20), "undecodable"),
    ],
)
def test_a_decoder_that_dies_is_an_answer(make: Make, limits: DecodeLimits, code: str) -> None:
    path = make("a.mp4", 20)
    for _ in range(2):
        with pytest.raises(UnusableClipError) as caught:
            decode_clip(path, 8, limits=limits)
        assert caught.value.code == code
    assert numbers(decode_clip(path, 20).frames) == list(range(20))


def test_limits_are_set_before_the_decoder_is_loaded(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    code = """
import json, os, resource
from chronolens.video import sandbox
from chronolens.video.limits import DecodeLimits
early = "av" in sys.modules
sandbox.confine(DecodeLimits())
try:
    written = os.write(os.open(target, os.O_WRONLY), b"x")
except OSError:
    written = 0
names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE")
import chronolens.video.serve
heavy = [name for name in ("numpy", "torch", "cv2") if name in sys.modules]
print(json.dumps([early, written, [resource.getrlimit(getattr(resource, name))[0] for name in names], heavy]))
"""
    early, written, limits, heavy = json.loads(child(f"sys.path += {sys.path!r}\ntarget = {str(target)!r}" + code))
    assert not early
    assert not written
    assert limits == [1 << 30, 20, 0, 0]
    assert heavy == []


def test_environment_and_folder_are_empty(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOLENS_SECRET", "s3cret")
    path = make("a.mp4", 4)
    with open(path, "rb") as file, process.Sandbox(file.fileno(), "mov", DecodeLimits()) as sandbox:
        pid = sandbox._process.pid
        kind, length = sandbox.header()
        assert kind == channel.PLAN
        assert sandbox.message(length) == {"times": [0.0, 0.1, 0.2, 0.3], "rate": 10.0}
        assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
        folder = Path(os.readlink(f"/proc/{pid}/cwd"))
        assert list(folder.iterdir()) == []
        opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert {name for name in opened if name.startswith("/") and name != os.devnull} == {str(path)}
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_nothing_is_left_behind(make: Make) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    path, before, others = make("a.mp4", 4), len(os.listdir("/proc/self/fd")), children.read_text()
    for limits in (DecodeLimits(), DecodeLimits(wall_s=0.01), DecodeLimits(max_frames=3)):
        try:
            decode_clip(path, 4, limits=limits)
        except UnusableClipError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before
    assert children.read_text() == others


def test_threads_may_decode_at_once(make: Make) -> None:
    path, found = make("a.mp4", 20), []
    threads = [threading.Thread(target=lambda: found.append(numbers(decode_clip(path, 20).frames))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(20))] * 3


def test_memory_of_a_bomb_stays_in_the_sandbox(make: Make) -> None:
    """Half a megabyte that unpacks to 320 MB: only the sampled frames come back."""
    path = make("a.mp4", 12, 2160, 4096, options={"preset": "ultrafast"})
    assert path.stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clip = decode_clip(path, 2)
    assert clip.frames.shape == (2, 720, 1365, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize(
    "answer",
    [
        b"X\0\0\0\0",
        b"P\xff\xff\xff\xff",
        b"P\0\0\0\x02[]",
        b"P\0\0\0\x16" + b'{"times":[],"rate":25}',
        b"P\0\0\0\x1b" + b'{"times":[2.0,1],"rate":25}',
        b"P\0\0\0\x19" + b'{"times":[NaN],"rate":25}',
        b"P\0\0\0\x1b" + b'{"times":[0,1],"rate":null}',
        b"P\0\0\0\x18" + b'{"times":[0,1],"rate":0}',
        b"S\0\0\0\x1e" + b'{"width":65535,"height":65535}',
        b"F\0\0\0\x10" + bytes(16),
        b"D\0\0\0\x02{}",
        b"E\0\0\0\x18" + b'{"code":"<script>xx</s>"}',
        b"",
    ],
)
def test_answers_are_not_trusted(make: Make, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(process, "_BOOT", f"import os; os.write(1, {answer!r})")
    with pytest.raises(UnusableClipError) as caught:
        decode_clip(make("a.mp4", 4), 4)
    assert caught.value.code == ("too-short" if answer.startswith(b"D") else "undecodable")
    assert "script" not in str(caught.value)


def test_the_decoder_has_no_files_left(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "secret").write_text("x")
    code = (
        "import os, sys; from chronolens.video.limits import DecodeLimits; from chronolens.video import sandbox;"
        "sandbox.confine(DecodeLimits()); sandbox.leave_file_system();"
        f"sys.exit(3 if os.listdir('/') == [] and not os.path.exists({str(tmp_path / 'secret')!r}) else 4)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "empty", check=False, timeout=60)
    assert done.returncode == 3
