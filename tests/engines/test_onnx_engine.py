"""The engine without gradients answers as the one with them, and refuses what it cannot do."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chronolens.clips import DecodedClip
from chronolens.engine import Engine
from chronolens.errors import OptionsError, UnknownModelError, WeightsError
from chronolens.export.run import export
from chronolens.onnx_engine import OnnxEngine
from chronolens.options import ExplanationOptions, GradCamOptions, MaskOptions, check_against
from chronolens.pipeline import explain
from chronolens.video.prepare import fit_frames

MODELS = ["tiny-clstm", "tiny-i3d"]


@pytest.fixture(scope="module")
def store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX artefacts, and nothing else."""
    folder = tmp_path_factory.mktemp("onnx-only")
    for model in MODELS:
        export("onnx", model, tiny_store, folder / model / "onnx")
    return folder


@pytest.fixture(scope="module")
def onnx(store: Path) -> OnnxEngine:
    return OnnxEngine(store)


@pytest.fixture(scope="module")
def torch_engine(tiny_store: Path) -> Engine:
    return Engine(tiny_store, "cpu")


def test_it_serves_what_was_exported_with_the_weights_it_was_made_of(onnx: OnnxEngine, torch_engine: Engine) -> None:
    for mine, theirs in zip(onnx.models(), torch_engine.models(), strict=True):
        assert (mine.name, mine.weights, mine.classes, mine.clip) == (theirs.name, theirs.weights, theirs.classes, theirs.clip)
        assert mine.default_layers == theirs.default_layers
        assert (mine.layers, mine.mask_presets) == (theirs.default_layers, ["exhaustive"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("target", [None, 1])
def test_a_whole_explanation_is_the_same(
    onnx: OnnxEngine, torch_engine: Engine, clip: DecodedClip, tmp_path: Path, model: str, target: int | None
) -> None:
    options = ExplanationOptions(model=model, target=target, mask=MaskOptions(preset="exhaustive"), artefacts=["arrays.npz"])
    results, arrays = [], []
    for engine in (onnx, torch_engine):
        folder = tmp_path / type(engine).__name__
        folder.mkdir()
        info = engine.describe(model)
        check_against(options, info)
        results.append(explain(engine, clip, options, info, folder).model_dump())
        with np.load(folder / "arrays.npz") as found:
            arrays.append({name: found[name] for name in found.files})
    mine, theirs = results
    assert mine["target"] == theirs["target"]
    for one, other in zip(mine["predictions"], theirs["predictions"], strict=True):
        assert one["class_index"] == other["class_index"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    for operator in ("freeze", "reverse"):
        assert mine["masks"][operator]["values"] == theirs["masks"][operator]["values"]
        assert mine["masks"][operator]["objective"]["total"] == pytest.approx(theirs["masks"][operator]["objective"]["total"], abs=1e-5)
        assert mine["masks"][operator]["optimum"]["size"] == theirs["masks"][operator]["optimum"]["size"]
    assert mine["scores"]["thresholded"] == pytest.approx(theirs["scores"]["thresholded"], abs=1e-5, nan_ok=True)
    assert mine["passes"]["input_gradient"] == 0
    assert mine["provenance"]["device"] == "onnxruntime:CPUExecutionProvider"
    assert arrays[0].keys() == arrays[1].keys()
    for name in arrays[0]:
        np.testing.assert_allclose(arrays[0][name], arrays[1][name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("changed", "pointer", "allowed"),
    [
        ({"gradcam": GradCamOptions(weights="per_clip")}, "/gradcam/weights", ["per_frame"]),
        ({"gradcam": GradCamOptions(of="probability")}, "/gradcam/of", ["logit"]),
        ({"gradcam": GradCamOptions(layers=["Mixed_4b"])}, "/gradcam/layers", ["default", "Mixed_5c"]),
        ({"mask": MaskOptions()}, "/mask/preset", ["exhaustive"]),
        ({"mask": MaskOptions(preset="paper", steps=5)}, "/mask/preset", ["exhaustive"]),
        ({"mask": MaskOptions(preset="exhaustive", steps=5)}, "/mask/preset", ["exhaustive"]),
    ],
)
def test_what_needs_gradients_is_refused_with_what_does_not(
    onnx: OnnxEngine, clip: DecodedClip, changed: dict[str, Any], pointer: str, allowed: list[str]
) -> None:
    frames = np.ascontiguousarray(clip.frames[:, :32, :32])
    ask: Any = partial(onnx.learn, "tiny-i3d", frames, 0, "freeze", changed.get("mask"), None, max_steps=1, budget_s=1)
    if "gradcam" in changed:
        ask = partial(onnx.look, "tiny-i3d", frames, target=None, gradcam=changed["gradcam"])
    with pytest.raises(OptionsError) as caught:
        ask()
    assert (caught.value.code, caught.value.pointer, caught.value.allowed) == ("method-unavailable", pointer, allowed)
    if "mask" in changed:
        with pytest.raises(OptionsError) as caught:
            check_against(ExplanationOptions(model="tiny-i3d", **changed), onnx.describe("tiny-i3d"))
        assert (caught.value.code, caught.value.pointer) == ("method-unavailable", "/mask/preset")


def test_a_model_that_was_not_exported_is_unknown(onnx: OnnxEngine) -> None:
    with pytest.raises(UnknownModelError) as caught:
        onnx.describe("nobody")
    assert caught.value.allowed == MODELS


@pytest.mark.parametrize("name", ["../tiny-i3d", "tiny-i3d/../tiny-i3d", "/etc"])
def test_a_name_never_leads_elsewhere(onnx: OnnxEngine, name: str) -> None:
    with pytest.raises(UnknownModelError):
        onnx.describe(name)


def test_a_damaged_graph_is_not_served(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "exports")
    graph = tmp_path / "exports" / "tiny-clstm" / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    with pytest.raises(WeightsError):
        OnnxEngine(tmp_path / "exports").models()


@pytest.mark.parametrize("layers", [["default"], ["stage5"], ["Mixed_5c"], ["default", "Mixed_5c"], "all"])
def test_every_name_of_its_map_is_taken(onnx: OnnxEngine, clip: DecodedClip, layers: list[str] | str) -> None:
    options = ExplanationOptions(model="tiny-i3d", gradcam={"layers": layers}, mask=MaskOptions(preset="exhaustive"))  # type: ignore[arg-type]
    info = onnx.describe("tiny-i3d")
    check_against(options, info)
    frames = fit_frames(clip.frames, onnx.load("tiny-i3d").record.clip)
    arrays, _ = onnx.look("tiny-i3d", frames, target=None, gradcam=options.gradcam)
    assert [name for name in arrays if name.startswith("map/")] == ["map/Mixed_5c"]
    assert info.stages == {"stage5": ["Mixed_5c"]}
