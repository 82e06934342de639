"""Strict options: what is refused, and what depends on the model."""

import json

import pytest
from pydantic import ValidationError

from chronolens.engine import Engine
from chronolens.errors import OptionsError, UnknownClassError, UnknownLayerError
from chronolens.options import ARTEFACTS, ExplanationOptions, MaskOptions, PredictionOptions, check_against, class_index

CONTRACT = {
    "model": "i3d-synthetic", "target": None, "true_class": None, "top_k": 5, "start_s": 0.0, "end_s": None,
    "methods": ["gradcam", "freeze", "reverse"],
    "gradcam": {"layers": ["default"], "weights": "per_frame", "of": "logit"},
    "mask": {"preset": "default", "l1": 0.01, "tv": 0.02, "beta": 3, "seed": 0},
    "artefacts": ["panel.mp4", "gradcam.mp4", "freeze.mp4", "reverse.mp4", "arrays.npz", "strip.png"],
}  # fmt: skip


def test_the_example_of_the_contract_is_accepted():
    options = ExplanationOptions.model_validate_json(json.dumps(CONTRACT))
    assert options.mask.beta == 3.0
    assert options.wanted_artefacts(2) == CONTRACT["artefacts"]


def test_the_smallest_request_asks_for_everything():
    options = ExplanationOptions(model="m")
    assert options.methods == ["gradcam", "freeze", "reverse"]
    assert options.wanted_artefacts(2) == list(ARTEFACTS)
    assert options.wanted_artefacts(1) == [name for name in ARTEFACTS if not name.startswith("layers.")]


def test_artefacts_follow_the_methods():
    assert ExplanationOptions(model="m", methods=["freeze"]).wanted_artefacts(0) == ["panel.mp4", "freeze.mp4", "arrays.npz", "strip.png"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": ""},
        {"model": 3},
        {"model": "a\x00b"},
        {"top_k": "5"},
        {"top_k": True},
        {"top_k": 5.5},
        {"top_k": 0},
        {"target": True},
        {"target": -1},
        {"target": 1.5},
        {"methods": []},
        {"methods": ["gradcam", "gradcam"]},
        {"methods": ["shap"]},
        {"methods": ["freeze"], "artefacts": ["gradcam.mp4"]},
        {"artefacts": ["other.mp4"]},
        {"gradcam": {"layers": []}},
        {"gradcam": {"weights": "both"}},
        {"start_s": -1.0},
        {"start_s": 2.0, "end_s": 2.0},
        {"mask": {"preset": "fast"}},
        {"mask": {"steps": 0}},
        {"mask": {"steps": 1001}},
        {"mask": {"steps": 300.5}},
        {"mask": {"steps": "300"}},
        {"mask": {"l1": -0.1}},
        {"mask": {"learning_rate": 0}},
        {"mask": {"threshold": 1.1}},
        {"mask": {"unknown": 1}},
        {"unknown": 1},
    ],
)
def test_bad_options_are_refused(change):
    with pytest.raises(ValidationError):
        ExplanationOptions.model_validate_json(json.dumps({**CONTRACT, "artefacts": None, **change}))


@pytest.mark.parametrize(
    "text", ['{"model": "m", "start_s": NaN}', '{"model": "m", "start_s": Infinity}', '{"model": "m", "start_s": 1e999}']
)
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(ValidationError):
        PredictionOptions.model_validate_json(text)


def test_class_by_index_and_label():
    classes = ["up", "down"]
    assert class_index(classes, 1, "/target") == 1
    assert class_index(classes, "down", "/target") == 1
    assert class_index(classes, None, "/target") is None
    with pytest.raises(UnknownClassError) as caught:
        class_index(classes, 2, "/target")
    assert (caught.value.limit, caught.value.observed, caught.value.pointer) == (1, 2, "/target")
    with pytest.raises(UnknownClassError) as caught:
        class_index(classes, "donw", "/true_class")
    assert caught.value.allowed == ["down"]


def test_what_depends_on_the_model(tiny_store):
    info = Engine(tiny_store, device="cpu").describe("tiny-clstm")
    check_against(ExplanationOptions(model="tiny-clstm", target="closing", gradcam={"layers": ["clstm.cell0", "default"]}), info)
    with pytest.raises(UnknownLayerError) as caught:
        check_against(ExplanationOptions(model="tiny-clstm", gradcam={"layers": ["default", "clstm.cel0"]}), info)
    assert caught.value.pointer == "/gradcam/layers/1"
    assert caught.value.allowed[0] == "clstm.cell0"
    with pytest.raises(UnknownClassError):
        check_against(ExplanationOptions(model="tiny-clstm", target=4), info)
    with pytest.raises(OptionsError) as caught:
        check_against(ExplanationOptions(model="tiny-clstm"), info.model_copy(update={"methods": ["gradcam"]}))
    assert (caught.value.code, caught.value.pointer) == ("method-unavailable", "/methods/1")


def test_mask_options_leave_the_preset_alone():
    assert MaskOptions().model_dump(exclude_none=True) == {"preset": "default", "dataset": "ssv2", "seed": 0}
