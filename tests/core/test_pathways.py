"""A network with two pathways through the whole pipeline: one map a pathway, every stage by name, masks before the pathways split."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chronolens.clips import ClipSpec, DecodedClip
from chronolens.engine import Engine
from chronolens.errors import OptionsError, UnknownLayerError
from chronolens.explain.capture import capture
from chronolens.models import build_model
from chronolens.models.weights import WeightsRecord, find_record, save_weights, write_record
from chronolens.options import ExplanationOptions, check_against
from chronolens.pipeline import explain
from chronolens.schemas import ExplanationResult, HeatMap, ModelInfo
from chronolens.video.prepare import fit_frames, prepare

CLASSES = ("opening", "closing", "turning", "holding")
NAME = "tiny-slowfast"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    store = tmp_path_factory.mktemp("store")
    torch.manual_seed(4)
    config: dict[str, Any] = {"num_classes": 4, "depth": 18, "width": 16, "beta": 4, "last_stride": 1}
    model = build_model("slowfast", **config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():  # one batch sets the running statistics: activations of size 1
        model.train()(torch.rand(2, 3, 8, 32, 32) * 2 - 1)
    spec = ClipSpec(8, 32, 32, scale=2 / 255, mean=(1.0, 1.0, 1.0))
    save_weights(model, WeightsRecord(NAME, "slowfast", config, spec, CLASSES, "none", "Apache-2.0", "random numbers"), store)
    return Engine(store, device="cpu")


def explained(engine: Engine, clip: DecodedClip, folder: Path, **given: Any) -> ExplanationResult:
    options = ExplanationOptions(model=NAME, **given)
    info = engine.describe(NAME)
    check_against(options, info)
    folder.mkdir(exist_ok=True)
    return explain(engine, clip, options, info, folder)


def test_one_map_a_pathway_on_the_frames_that_it_saw(engine: Engine, clip: DecodedClip, tmp_path: Path) -> None:
    result = explained(engine, clip, tmp_path, methods=["gradcam"])
    slow, fast = result.gradcam
    assert [(entry.stage, entry.pathway) for entry in result.gradcam] == [("stage5", "slow"), ("stage5", "fast")]
    assert (slow.shape[0], fast.shape[0]) == (2, 8)
    assert slow.cells.frames == [0, 7]
    assert [entry.frame for entry in slow.frames] == [1, 15]  # the first and the last of the sampled frames 1, 3, ..., 15
    assert [entry.frame for entry in fast.frames] == list(range(1, 17, 2))
    for entry in result.gradcam:
        assert sum(share.mass for share in entry.frames) == pytest.approx(1.0)
    assert {"layers.png", "layers.mp4"} <= {entry.name for entry in result.artefacts}
    assert (result.passes.forward, result.passes.input_gradient) == (3, 0)  # closed form; the other two are the scores' reference clips


def test_every_stage_in_one_forward_pass(engine: Engine, clip: DecodedClip, tmp_path: Path) -> None:
    names = ["layers.png", "arrays.npz"]
    everything = explained(engine, clip, tmp_path / "all", methods=["gradcam"], gradcam={"layers": "all"}, artefacts=names)
    assert [(entry.stage, entry.pathway) for entry in everything.gradcam] == [
        (f"stage{number}", pathway) for number in range(1, 6) for pathway in ("slow", "fast")
    ]
    assert everything.passes.by_purpose["gradcam"] == 2  # one forward, one backward
    some = explained(
        engine, clip, tmp_path / "some", methods=["gradcam"], gradcam={"layers": ["stage2", "stage3", "default"]}, artefacts=names
    )
    assert [entry.stage for entry in some.gradcam] == ["stage2", "stage2", "stage3", "stage3", "stage5", "stage5"]
    with np.load(tmp_path / "all" / "arrays.npz") as one, np.load(tmp_path / "some" / "arrays.npz") as other:
        for entry in some.gradcam:
            np.testing.assert_allclose(one[f"heat_map.{entry.layer}"], other[f"heat_map.{entry.layer}"], rtol=1e-4, atol=1e-8)


def test_models_list_their_stages_and_a_wrong_name_gets_the_nearest(engine: Engine) -> None:
    info = engine.describe(NAME)
    assert info.pathways == ["slow", "fast"]
    assert info.default_layers == info.stages["stage5"] == ["s5.pathway0_res1", "s5.pathway1_res1"]
    assert {layer for names in info.stages.values() for layer in names} <= set(info.layers)
    with pytest.raises(UnknownLayerError, match="stage5") as caught:
        check_against(ExplanationOptions(model=NAME, gradcam={"layers": ["default", "stage55"]}), info)  # type: ignore[arg-type]
    assert caught.value.pointer == "/gradcam/layers/1"
    assert caught.value.allowed[0] == "stage5"


def test_masks_act_on_the_clip_before_the_pathways_split(engine: Engine, clip: DecodedClip) -> None:
    loaded = engine.load(NAME)
    frames = fit_frames(clip.frames, loaded.record.clip)
    prepared = torch.from_numpy(prepare(frames, loaded.record.clip))
    mask = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0]  # frames 1, 2 show 0; 4 shows 3; 6, 7 show 5
    order = [0, 0, 0, 3, 3, 5, 5, 5]
    facts = engine.score(NAME, frames, 1, {"freeze": mask}, ExplanationOptions(model=NAME).mask)
    with torch.no_grad(), capture(loaded.network, ["s1.pathway0_stem"]) as taps:
        logits = loaded.network(prepared[:, :, order])
        seen = taps["s1.pathway0_stem"]
    assert facts["soft"]["freeze"] == pytest.approx(float(logits.softmax(1)[0, 1]), abs=1e-6)
    with torch.no_grad(), capture(loaded.network, ["s1.pathway0_stem"]) as taps:
        loaded.network(prepared[:, :, [0, 1, 2, 3, 4, 5, 6, 5]])
        assert torch.allclose(taps["s1.pathway0_stem"], seen, atol=1e-6)  # the slow pathway picks frames 0 and 7 of the frozen clip


def test_a_model_that_a_job_of_before_holds_can_be_read(engine: Engine) -> None:
    facts = engine.describe(NAME).model_dump(mode="json")
    for field in ("default_layers", "stages"):
        del facts[field]
    facts["default_layer"] = "Mixed_5c"
    found = ModelInfo.model_validate(facts)
    assert (found.default_layers, found.stages) == (["Mixed_5c"], {})
    assert HeatMap.model_validate(MAP_OF_BEFORE).stage is None


MAP_OF_BEFORE: dict[str, Any] = {
    "layer": "Mixed_5c", "pathway": None, "weights": "per_frame", "of": "logit", "shape": [1, 1, 1],
    "cells": {"stride": [1, 1, 1], "first": [0.5, 0.5, 0.5]},
    "blobs": {"count_per_frame": None, "mean_size_px": None, "mean_center_distance_px": None},
    "frames": [{"frame": 0, "mass": 1.0}],
}  # fmt: skip


def test_a_record_that_no_clip_fits_is_named(engine: Engine, tmp_path: Path) -> None:
    record = find_record(engine.store, NAME)
    for file in engine.store.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_record(dataclasses.replace(record, clip=dataclasses.replace(record.clip, frames=6)), tmp_path)
    with pytest.raises(OptionsError, match="6 frames cannot be divided by alpha 4"):
        Engine(tmp_path, device="cpu").describe(NAME)
    write_record(dataclasses.replace(record, clip=dataclasses.replace(record.clip, height=1, width=1)), tmp_path)
    Engine(tmp_path, device="cpu").describe(NAME)  # one pixel is a picture
