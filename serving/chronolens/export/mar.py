"""Kind ``mar``: an archive for TorchServe, which is a model store of one model with a handler beside it.

    MODEL.mar: MAR-INF/MANIFEST.json  model-config.yaml  torchserve_handler.py  weights.toml  MODEL.safetensors  golden.json

The same weights give the same bytes. Code is not packed: the server's Python must have this package installed, and for an own model, which
has no file of weights, be able to import its plugin.
"""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
from pathlib import Path

from chronolens.errors import ExportError, OptionsError
from chronolens.export.kind import Ask, Kind, Options, Subject
from chronolens.export.served import asking, golden_text, handler_file, put_model
from chronolens.model_server.server import GOLDEN, ModelServer

HANDLER = "torchserve_handler.py"
CONFIG = "model-config.yaml"
SERVING: dict[str, int] = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 8,
    "maxBatchDelay": 1,
    "responseTimeout": 120,
    "startupTimeout": 120,
    "maxRetryTimeoutInSec": 86_400,
    "jobQueueSize": 64,
}
"""What TorchServe reads from the archive; it wins over anything a caller asks for. Times in seconds, the delay in milliseconds: a lone
request waits all of it, while what queues behind a busy worker is taken at once. A worker that needs longer than ``responseTimeout`` for a
batch is killed."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CREATED = "01/01/1980 00:00:00"


def _write(subject: Subject, folder: Path) -> Options:
    record = subject.record
    with tempfile.TemporaryDirectory(prefix="chronolens-") as work:
        content = Path(work)
        (content / "MAR-INF").mkdir()
        (content / "MAR-INF" / "MANIFEST.json").write_text(_manifest(record.name), encoding="utf-8")
        (content / CONFIG).write_text("".join(f"{name}: {value}\n" for name, value in SERVING.items()), encoding="utf-8")
        (content / HANDLER).write_bytes(handler_file(HANDLER).read_bytes())
        (content / GOLDEN).write_text(golden_text(subject), encoding="utf-8")
        put_model(subject, content)
        _zip(content, folder / f"{record.name}.mar")
    return {"handler": HANDLER, **SERVING}


def _load(subject: Subject, folder: Path) -> Ask:
    with tempfile.TemporaryDirectory(prefix="chronolens-") as work:
        with zipfile.ZipFile(folder / f"{subject.record.name}.mar") as archive:
            archive.extractall(work)
        return asking(ModelServer(Path(work), "cpu", name="torchserve"))


MAR = Kind(_write, _load, ("torchserve", "torch-model-archiver"))


def _manifest(name: str) -> str:
    """Return TorchServe's manifest as its own archiver writes it, but for the date."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves a file of its own open
            from model_archiver.model_archiver_config import ModelArchiverConfig
            from model_archiver.model_archiver_error import ModelArchiverError
            from model_archiver.model_packaging_utils import ModelExportUtils
    except ImportError as error:
        raise OptionsError(
            "what writes TorchServe's archives is not installed: pip install chronolens[torchserve]", pointer="/kind"
        ) from error
    try:
        ModelExportUtils.check_model_name_regex_or_exit(name)
    except ModelArchiverError as error:
        raise ExportError("TorchServe takes no model of that name: letters, digits, dot, dash and underscore only.") from error
    written = json.loads(
        ModelExportUtils.generate_manifest_json(ModelArchiverConfig(model_name=name, handler=HANDLER, version="1.0", config_file=CONFIG))
    )
    return json.dumps({**written, "createdOn": _CREATED}, indent=2) + "\n"


def _zip(content: Path, path: Path) -> None:
    """Write an archive whose bytes depend on the files alone; float16 weights do not get smaller, so nothing is compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(one for one in content.rglob("*") if one.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(content).as_posix(), _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
