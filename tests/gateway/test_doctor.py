"""``chronolens doctor``: what works here is told, what does not is told with its repair, and nothing makes it crash."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.conftest import EXAMPLES

from chronolens.export import manifest as manifests
from chronolens.export.run import export
from chronolens_gateway.doctor import __main__ as command
from chronolens_gateway.doctor import ask as asking
from chronolens_gateway.doctor import engines, java, machine, triton
from chronolens_gateway.doctor.ask import NoAnswerError, ask, probe
from chronolens_gateway.doctor.engines import Probed, diagnose
from chronolens_gateway.doctor.findings import Diagnosis, Findings, lacking
from chronolens_gateway.doctor.machine import Store, artefact_state, data_folder, read_settings, read_store
from chronolens_gateway.doctor.table import show
from chronolens_gateway.doctor.triton import Server
from chronolens_gateway.settings import Settings

ENGINES = ["local", "onnx", "torchserve", "triton-http", "triton-grpc"]
JAVA_17 = "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def script(path: Path, text: str) -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def doctor(store: Path, data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from chronolens.cli import main; main()", "doctor", *arguments]
    variables = {"CHRONOLENS_MODEL_STORE": str(store), "CHRONOLENS_DATA_DIR": str(data), "COLUMNS": "200", **environment}
    return subprocess.run(line, env={**os.environ, **variables}, capture_output=True, text=True, timeout=150, check=False)


def repairs(report: dict[str, Any]) -> dict[str, list[str]]:
    return {one["engine"]: [entry["repair"] for entry in one["missing"]] for one in report["engines"]}


# --- the command ----------------------------------------------------------------------------------------------------------


def test_what_works_here_is_usable(store: Path, tmp_path: Path) -> None:
    home = script(tmp_path / "jdk" / "bin" / "java", JAVA_17).parents[1]
    done = doctor(store, tmp_path / "data", "--json", JAVA_HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report) == {"configured", "usable", "found", "missing", "machine", "engines"}
    assert (report["configured"], report["usable"], report["missing"]) == ("local", True, [])
    assert report["machine"]["models"] == ["clstm-tiny"]
    assert [one["engine"] for one in report["engines"]] == ENGINES
    found = {one["engine"]: one for one in report["engines"]}
    for one in report["engines"]:
        assert set(one) == {"engine", "usable", "found", "missing", "artefacts"}
        assert one["usable"] is (one["missing"] == [])
        assert one["artefacts"] == ({} if one["engine"] == "local" else {"clstm-tiny": "missing"})
    assert [name for name in ENGINES[:3] if not found[name]["usable"]] == []
    assert any("ExecutionProvider" in line for line in found["onnx"]["found"])
    assert f"Java 17.0.15, {home}/bin/java" in found["torchserve"]["found"]
    assert not (tmp_path / "data").exists()


def test_what_is_missing_comes_with_its_repair(store: Path, tmp_path: Path) -> None:
    blocked = {"onnxruntime", "ts", "tritonclient"}
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked=blocked), encoding="utf-8")
    environment = {
        "CHRONOLENS_ENGINE": "onnx",
        "CHRONOLENS_TRITONSERVER": str(tmp_path / "none"),
        "PYTHONPATH": str(tmp_path),
        "JAVA_HOME": "",
        "PATH": str(tmp_path),
    }
    done = doctor(store, tmp_path / "data", "--json", **environment)
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert (report["configured"], report["usable"]) == ("onnx", False)
    found = repairs(report)
    assert found["local"] == []
    assert found["onnx"] == ['pip install "chronolens[onnx]"']
    assert found["torchserve"] == ["apt-get install openjdk-17-jre-headless", 'pip install "chronolens[torchserve]"']
    for name in ENGINES[3:]:
        server, *packages = found[name]
        assert server.startswith("make triton-server")
        assert set(packages) == {'pip install "chronolens[triton]"', 'pip install "chronolens[onnx]"'}


def test_without_pytorch_and_models_nothing_is_usable(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked={"torch", "av"}), encoding="utf-8")
    done = doctor(tmp_path, Path("/proc/none"), CHRONOLENS_DECODE_SLOTS="many", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    for words in (
        "clips cannot be decoded: ModuleNotFoundError",
        "the data folder /proc/none cannot be written",
        "correct CHRONOLENS_DECODE_SLOTS, or unset it",
        "has no models",
        'pip install "torch==',
    ):
        assert words in done.stdout
    assert done.stdout.count(" no ") >= len(ENGINES)


def test_the_gateway_side_imports_no_torch() -> None:
    code = "import sys, chronolens_gateway.doctor.__main__; sys.exit(bool({'torch', 'onnxruntime', 'tritonclient'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("configured", "broken", "status"), [("local", "onnx", 0), ("onnx", "onnx", 1), ("local", "machine", 1)])
def test_the_exit_status_is_that_of_the_configured_engine(
    configured: str, broken: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = lacking("x", "y")
    found = [Diagnosis(name, bad if name == broken else Findings()) for name in ("local", "onnx")]  # type: ignore[arg-type]
    monkeypatch.setenv("CHRONOLENS_ENGINE", configured)
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["doctor", "--json"])
    monkeypatch.setattr(command, "probe_all", lambda _store: None)
    monkeypatch.setattr(command, "diagnose", lambda *_: found)
    monkeypatch.setattr(command, "machine_findings", lambda *_: bad if broken == "machine" else Findings())
    assert command.main() == status
    assert json.loads(capsys.readouterr().out)["usable"] is (status == 0)


def test_words_of_others_are_no_markup() -> None:
    console = Console(width=80, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    show(console, "onnx", Findings(("[red]x[/blue]",)), [Diagnosis("onnx", lacking("[/]", "[bold]y"), {"m": "stale"})])
    console.file.close()
    shown = console.export_text()
    for words in ("[red]x[/blue]", "missing: [/]", "repair: [bold]y", "onnx *", "artefacts: m stale (what"):
        assert words in shown


# --- asking other programs ------------------------------------------------------------------------------------------------


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = script(tmp_path / "slow", f"sleep 60 &\necho $! > {shlex.quote(str(pid))}\nwait")
    started = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"within 0\.5 s"):
        ask([str(program)], 0.5)
    assert time.monotonic() - started < 10
    child = Path("/proc", pid.read_text().strip(), "stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_program_that_talks_without_end_is_ended(tmp_path: Path) -> None:
    answer = ask([str(script(tmp_path / "loud", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"))], 60)
    assert len(answer.text) == 1 << 20
    assert answer.code != 0


def test_a_program_that_cannot_be_started_has_no_answer(tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match="cannot be started: No such file"):
        ask([str(tmp_path / "none")], 1)


@pytest.mark.parametrize(("text", "said"), [("exit 3", "status 3"), ("echo '{'; kill -11 $$", "status -11")])
def test_a_probe_that_dies_has_no_answer(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.sys, "executable", str(script(tmp_path / "python", text)))
    with pytest.raises(NoAnswerError, match=said):
        probe("torch")


def test_what_a_probe_meets_is_one_harmless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shlex.quote(json.dumps({"error": "ImportError: \x1b[2J" + "x" * 1000}))
    monkeypatch.setattr(asking.sys, "executable", str(script(tmp_path / "python", f"printf '%s\\n' {found}")))
    with pytest.raises(NoAnswerError) as caught:
        probe("torch")
    assert str(caught.value).startswith("ImportError:  [2Jxxx")
    assert len(str(caught.value)) <= 300


# --- Java -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime', (17, "17.0.15")),
        ('Picked up _JAVA_OPTIONS: -Dkey=secret\njava version "1.8.0_292"', (8, "1.8.0_292")),
        ('openjdk version "25" 2025-09-16', (25, "25")),
        ('openjdk version "18-ea" 2022', (18, "18-ea")),
        ("", None),
        ('version "seventeen"', None),
    ],
)
def test_java_versions_are_read(text: str, version: tuple[int, str] | None) -> None:
    assert java.java_version(text) == version


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("echo 'openjdk version \"11.0.2\" 2019' >&2", "is Java 11.0.2"),
        ("head -c 5000 /dev/urandom", "does not tell its version"),
        (f"{JAVA_17}; exit 1", "does not tell its version"),
        ("sleep 60", "does not answer within 0.3 s"),
    ],
)
def test_a_java_that_will_not_do(text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path / "bin" / "java", text)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(java, "ANSWER_S", 0.3 if "sleep" in text else 20.0)
    (missing,) = java.java_findings().missing
    assert missing.what == f"Java 17: {program} {what}"
    assert missing.repair == "apt-get install openjdk-17-jre-headless, and point JAVA_HOME at it or unset it"


def test_java_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    program = script(tmp_path / "java", JAVA_17)
    assert java.java_findings() == Findings((f"Java 17.0.15, {program}",))


# --- Triton ---------------------------------------------------------------------------------------------------------------


def tritonserver(folder: Path, *backends: str, says: str = "echo --model-repository; exit 1", stubs: str = "") -> Path:
    for name in backends:
        (folder / "backends" / name).mkdir(parents=True)
    if stubs:
        script(folder / "python_backend_stubs" / stubs / "triton_python_backend_stub", "")
    return script(folder / "bin" / "tritonserver", says)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_whole_tritonserver(graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = ("python", "onnxruntime") if graphs else ("python",)
    program = tritonserver(tmp_path, *backends)
    monkeypatch.setenv("CHRONOLENS_TRITONSERVER", str(program))
    by = "its own backend" if graphs else "ONNX Runtime in Python"
    found = (f"tritonserver, {program}", f"Python backend for Python {HERE}; graphs run by {by}")
    assert triton.find_server() == Server(Findings(found), graphs)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "has no Python backend"),
        ({"backends": ("python",), "stubs": "2.7"}, "runs Python 2.7, not"),
        (
            {"backends": ("python",), "says": "echo error while loading shared libraries: libb64.so; exit 127"},
            "does not start: error while",
        ),
    ],
)
def test_a_tritonserver_that_will_not_do(given: dict[str, Any], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tritonserver(tmp_path, *given.pop("backends", ()), **given)
    monkeypatch.setenv("CHRONOLENS_TRITONSERVER", str(program))
    (missing,) = triton.find_server().findings.missing
    assert what in missing.what
    assert "CHRONOLENS_TRITONSERVER" in missing.repair


def test_a_tritonserver_with_the_stub_of_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tritonserver(tmp_path, "python")
    (tmp_path / "backends" / "python" / "triton_python_backend_stub").write_bytes(b"\x7fELF\0libpython3.7m.so.1.0\0")
    monkeypatch.setenv("CHRONOLENS_TRITONSERVER", str(program))
    (missing,) = triton.find_server().findings.missing
    assert missing.what == f"{program} runs Python 3.7, not {HERE}"


# --- models and settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[a", b"x = 1979-05-27"])
def test_unreadable_records_are_told(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.toml").write_bytes(body)
    store = read_store(tmp_path)
    assert store.digests == {}
    (missing,) = store.findings.missing
    assert f"{tmp_path / 'weights.toml'} cannot be read" in missing.what
    assert "CHRONOLENS_MODEL_STORE" in missing.repair


def test_own_models_stand_beside_those_of_the_store(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "own_model:build")
    store = read_store(tiny_store)
    assert list(store.digests) == ["tiny-clstm", "tiny-i3d", "tiny-own"]
    assert (store.own, store.findings) == ({"tiny-own"}, Findings())
    assert probe("torch", "--store", str(tiny_store))["models"] == dict.fromkeys(store.digests)


def test_what_is_wrong_with_a_plugin_is_told_and_the_store_stands(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "nowhere:build")
    store = read_store(tiny_store)
    assert list(store.digests) == ["tiny-clstm", "tiny-i3d"]
    (missing,) = store.findings.missing
    assert "the plugin nowhere:build cannot be imported: ModuleNotFoundError" in missing.what
    assert missing.repair.startswith("correct the plugin, or leave it out of CHRONOLENS_PLUGINS")
    facts = probe("torch", "--store", str(tiny_store))
    assert (facts["records"], facts["models"]) == (None, {"tiny-clstm": None, "tiny-i3d": None})


def test_an_own_model_that_cannot_be_served_has_a_repair_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path, {"theirs": "00", "ours": "01"}, Findings(), frozenset({"theirs"}))
    facts = {"records": None, "models": {"theirs": "its forward fails", "ours": "wrong digest"}}
    first, second = engines._weights(facts, ["theirs", "ours"], store).missing
    assert (first.what, first.repair) == ("its forward fails", machine.CORRECT_PLUGIN)
    assert "CHRONOLENS_MODEL_STORE" in second.repair


def test_wrong_settings_are_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOLENS_ENGINE", "steam")
    monkeypatch.setenv("CHRONOLENS_DATABASE_URL", "postgresql://user:secret@host/jobs")
    settings, findings = read_settings()
    assert settings.engine == "local"
    (missing,) = findings.missing
    assert missing.what.startswith("CHRONOLENS_ENGINE: Input should be 'local'")
    assert "secret" not in str(findings)


def test_a_data_folder_is_tried_by_writing(tmp_path: Path) -> None:
    assert data_folder(tmp_path).found == (f"data folder {tmp_path}, writable",)
    assert data_folder(tmp_path / "a" / "b").found == (f"data folder {tmp_path / 'a' / 'b'}, writable, made at the first start",)
    assert list(tmp_path.iterdir()) == []
    assert data_folder(Path("/proc/none")).missing


def test_free_memory_is_told() -> None:
    free = machine.free_memory()
    assert free is not None
    assert free > 1 << 20


@pytest.fixture(scope="module")
def exports(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a fresh archive of one model of the store, a stale one of the other."""
    folder = tmp_path_factory.mktemp("exports")
    for name in ("tiny-clstm", "tiny-i3d"):
        export("mar", name, tiny_store, folder / name / "mar")
    stale = folder / "tiny-i3d" / "mar"
    manifests.write_manifest(manifests.read_manifest(stale).model_copy(update={"packages": {"chronolens": "0.0.1"}}), stale)
    return folder


def test_artefacts_are_fresh_stale_missing_or_unreadable(tiny_store: Path, exports: Path, tmp_path: Path) -> None:
    known = read_store(tiny_store).digests
    assert {name: artefact_state(exports / name / "mar", record) for name, record in known.items()} == {
        "tiny-clstm": "fresh",
        "tiny-i3d": "stale",
    }
    assert artefact_state(exports / "tiny-i3d" / "onnx", "") == "missing"
    (tmp_path / "manifest.json").mkdir()
    assert artefact_state(tmp_path, "") == "unreadable"


# --- engines from what was found ------------------------------------------------------------------------------------------

TORCH: dict[str, Any] = {
    "version": "2.13.0",
    "devices": [{"device": "cuda:0", "name": "Some Card", "memory_bytes": 80 << 30}],
    "cards": 1,
    "threads": 4,
    "precision": "bfloat16",
    "records": None,
    "models": {"tiny-clstm": None, "tiny-i3d": None},
}
ONNX = {"version": "1.31.1", "lists": ["CPUExecutionProvider"], "gets": "CPUExecutionProvider"}


def probed(**changed: Any) -> Probed:
    packages = {extra: {one.split("=")[0]: {"version": "1.0"} for one in modules} for extra, modules in engines._PACKAGES.items()}
    return Probed(**{"torch": TORCH, "onnx": ONNX, "packages": packages, "java": Findings(), "triton": Server(Findings()), **changed})


def diagnosed(store: Path, exports: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> dict[str, Diagnosis]:
    monkeypatch.setattr(Settings, "exports", exports)
    settings = Settings(model_store=store)
    return {one.engine: one for one in diagnose(settings, read_store(store), probed(**changed))}


def test_what_only_an_export_needs_is_missed_only_when_something_is_to_be_exported(
    tiny_store: Path, exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {**probed().packages, "torchserve": {**probed().packages["torchserve"], "model_archiver": {"error": "ImportError: x"}}}  # type: ignore[dict-item]
    found = diagnosed(tiny_store, exports, monkeypatch, packages=packages)["torchserve"]
    (missing,) = found.findings.missing
    assert (missing.what, found.artefacts) == ("torch-model-archiver: ImportError: x", {"tiny-clstm": "fresh", "tiny-i3d": "stale"})
    assert missing.repair == "`python -m chronolens.probe packages model_archiver=torch-model-archiver` shows all of it"
    monkeypatch.setattr(engines, "artefact_state", lambda *_: "fresh")
    found = diagnosed(tiny_store, exports, monkeypatch, packages=packages)["torchserve"]
    assert found.usable
    assert "torch-model-archiver does not work, but only an export needs it" in found.findings.found


def test_damaged_weights_block_whatever_has_to_load_them(tiny_store: Path, exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**TORCH, "models": {"tiny-clstm": "the weights file of tiny-clstm is missing", "tiny-i3d": None}}
    found = diagnosed(tiny_store, exports, monkeypatch, torch=broken)
    assert {name: one.usable for name, one in found.items()} == {
        "local": False,
        "onnx": False,
        "torchserve": True,  # its archive of that model is fresh
        "triton-http": False,
        "triton-grpc": False,
    }
    assert [one.what for one in found["local"].findings.missing] == ["the weights file of tiny-clstm is missing"]
    wrong = diagnosed(tiny_store, exports, monkeypatch, torch={**TORCH, "records": "no such field", "models": {}})
    assert [one.what for one in wrong["local"].findings.missing] == ["no such field"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"lists": ["CUDAExecutionProvider"], "gets": "CUDAExecutionProvider"}, "sessions run on CUDAExecutionProvider\n"),
        ({"lists": ["CUDAExecutionProvider"]}, "sessions run on CPUExecutionProvider, although CUDAExecutionProvider is listed"),
        ({}, "sessions run on CPUExecutionProvider; to use the graphics card: pip uninstall onnxruntime"),
    ],
)
def test_the_provider_that_a_session_gets_is_told(
    facts: dict[str, Any], words: str, tiny_store: Path, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = diagnosed(tiny_store, exports, monkeypatch, onnx={**ONNX, **facts})["onnx"]
    assert found.usable
    assert words in "\n".join(found.findings.found)
    assert "PyTorch 2.13.0, CUDA devices: 1, cuda:0 Some Card (80 GiB), threads: 4" in found.findings.found


def test_a_triton_that_runs_graphs_needs_no_onnx_runtime_once_all_is_exported(
    tiny_store: Path, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "artefact_state", lambda *_: "fresh")
    given: dict[str, Any] = {"onnx": NoAnswerError("ModuleNotFoundError: No module named 'onnxruntime'")}
    assert diagnosed(tiny_store, exports, monkeypatch, triton=Server(Findings(), True), **given)["triton-http"].usable
    assert not diagnosed(tiny_store, exports, monkeypatch, **given)["triton-http"].usable


def test_an_unreadable_artefact_is_told(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny-i3d" / "onnx" / "manifest.json").mkdir(parents=True)
    found = diagnosed(tiny_store, tmp_path, monkeypatch)
    assert [one.repair for one in found["onnx"].findings.missing] == [f"rm -r {tmp_path}/tiny-i3d/onnx"]
    assert found["triton-grpc"].usable


# --- the probes themselves ------------------------------------------------------------------------------------------------


def test_a_store_with_damaged_weights_and_records_is_probed(tiny_store: Path, tmp_path: Path) -> None:
    records = (tiny_store / "weights.toml").read_text(encoding="utf-8")
    (tmp_path / "weights.toml").write_text(records, encoding="utf-8")
    (tmp_path / "tiny-i3d.safetensors").write_bytes(b"damaged")
    assert probe("torch", "--store", str(tmp_path))["models"] == {
        "tiny-clstm": "the weights file of tiny-clstm is missing",
        "tiny-i3d": "the weights file of tiny-i3d does not have the recorded digest",
    }
    (tmp_path / "weights.toml").write_text("x = 1", encoding="utf-8")
    found = probe("torch", "--store", str(tmp_path))
    assert found["models"] == {}
    assert "cannot be read" in found["records"]


def test_a_wrong_precision_is_no_crash(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOLENS_PRECISION", "int4")
    with pytest.raises(NoAnswerError, match="CHRONOLENS_PRECISION cannot be 'int4'"):
        probe("torch", "--store", str(tiny_store))
