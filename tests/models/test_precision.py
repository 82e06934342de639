"""Networks in bfloat16: close to float32, honest about it, and nothing reported is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chronolens.engine import Engine
from chronolens.errors import OptionsError
from chronolens.explain.mask_state import penalties
from chronolens.explain.objective import operator_matrix, perturbed_scores
from chronolens.explain.temporal_mask import advance, begin, finished, rescored
from chronolens.models import precision as precision_module
from chronolens.models.base import VideoNetwork
from chronolens.models.precision import InBfloat16, chosen_precision, convolves_rightly, native_bfloat16
from chronolens.models.weights import find_record, load_model, save_weights
from chronolens.options import MaskOptions, mask_settings
from chronolens.video.prepare import prepare

CPU = torch.device("cpu")
NAMES = ("tiny-clstm", "tiny-i3d")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny networks with classifiers that spread the logits of noise by 1; those of a fresh I3D are all but its bias."""
    folder = tmp_path_factory.mktemp("spread")
    for name in NAMES:
        record = find_record(tiny_store, name)
        network = load_model(record, tiny_store)
        head = network.get_submodule("endFC" if record.architecture == "clstm" else "logits.conv3d")
        with torch.no_grad():
            head.get_parameter("bias").zero_()
            head.get_parameter("weight").div_(network(clips(2)).std())
        save_weights(network, record, folder)
    return folder


def network_of(store: Path, name: str) -> VideoNetwork:
    return load_model(find_record(store, name), store)


def clips(count: int = 1) -> Tensor:
    return torch.rand(count, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_logits_stay_close_and_come_back_in_float32(store: Path, name: str) -> None:
    network = network_of(store, name)
    with torch.no_grad():
        exact, rough = network(clips(2)), InBfloat16(network)(clips(2))
    assert (rough.shape, rough.dtype) == ((2, 4), torch.float32)
    assert torch.equal(rough, rough.bfloat16().float())  # they were bfloat16, so this is not float32 in disguise
    assert not torch.equal(rough, exact)
    assert exact.std() == pytest.approx(1.0, abs=0.05)
    assert (rough - exact).abs().max() < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_original_stays_as_it_was(store: Path, name: str) -> None:
    network = network_of(store, name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        logits = network(clips())
        copy = InBfloat16(network)
        copy(clips())
        for value in copy.parameters():
            value.zero_()
        assert torch.equal(network(clips()), logits)
    after = network.state_dict()
    assert all(after[key].dtype == before[key].dtype and torch.equal(after[key], before[key]) for key in before)
    assert {value.dtype for value in copy.parameters()} == {torch.bfloat16}
    assert not copy.network.training


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_by_the_input_points_the_same_way(store: Path, name: str) -> None:
    network = network_of(store, name)
    slopes = []
    for model in (network, InBfloat16(network)):
        clip = clips().requires_grad_()
        (slope,) = torch.autograd.grad(model(clip)[0, 1], clip)
        assert (slope.shape, slope.dtype) == (clip.shape, torch.float32)
        slopes.append(slope.flatten())
    assert slopes[0].norm() > 0
    assert F.cosine_similarity(slopes[0], slopes[1], dim=0) > 0.9


def test_the_copy_has_no_closed_form_but_the_same_layers(store: Path) -> None:
    for name in NAMES:
        network = network_of(store, name)
        copy = InBfloat16(network)
        assert copy.linear_head(network.default_layers[0], 4, 2, 2) is None
        assert (copy.default_layers, copy.time_first_layers) == (network.default_layers, network.time_first_layers)


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("CHRONOLENS_PRECISION", wanted)
    assert chosen_precision(CPU) == wanted


def test_by_itself_it_is_what_the_processor_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "bfloat16" if native_bfloat16(CPU) else "float32"
    assert chosen_precision(CPU) == expected
    monkeypatch.setenv("CHRONOLENS_PRECISION", "auto")
    assert chosen_precision(CPU) == expected
    assert not native_bfloat16(torch.device("meta"))
    assert chosen_precision(torch.device("meta")) == "float32"  # float32 is always right


def test_a_processor_with_broken_kernels_gets_float32(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert convolves_rightly(CPU)
    monkeypatch.setattr(precision_module, "native_bfloat16", lambda _device: True)
    assert chosen_precision(CPU) == "bfloat16"
    right = F.conv3d

    def broken(pixels: torch.Tensor, kernel: torch.Tensor, padding: int) -> torch.Tensor:
        found = right(pixels, kernel, padding=padding)
        return found * 1.02 if pixels.dtype == torch.bfloat16 else found

    monkeypatch.setattr(F, "conv3d", broken)
    assert not convolves_rightly(CPU)
    assert chosen_precision(CPU) == "float32"
    assert "bfloat16 convolutions on cpu are wrong" in caplog.text
    monkeypatch.setenv("CHRONOLENS_PRECISION", "bfloat16")
    assert chosen_precision(CPU) == "bfloat16"  # who asks for it gets it


def test_both_kinds_of_convolution_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    right = F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda pixels, kernel, padding: right(pixels, kernel, padding=padding) + (pixels.dtype == torch.bfloat16)
    )
    assert not convolves_rightly(CPU)


@pytest.mark.parametrize("wrong", ["float16", "bf16", "Float32", "9" * 100])
def test_other_precisions_are_refused(monkeypatch: pytest.MonkeyPatch, store: Path, wrong: str) -> None:
    monkeypatch.setenv("CHRONOLENS_PRECISION", wrong)
    with pytest.raises(OptionsError, match=wrong[:40]) as caught:
        chosen_precision(CPU)
    assert caught.value.allowed == ["auto", "float32", "bfloat16"]
    assert len(caught.value.detail) < 100
    with pytest.raises(OptionsError):
        Engine(store, device="cpu")


def square() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Eight frames of 32 x 32 with a bright square that jumps to the right between frame 3 and frame 5."""
    frames = np.full((8, 32, 32, 3), 40, np.uint8)
    for number, left in enumerate([2, 2, 2, 10, 18, 24, 24, 24]):
        frames[number, 10:18, left : left + 8] = (250, 200, 60)
    return frames


def learned(store: Path, precision: str, name: str, options: MaskOptions, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("CHRONOLENS_PRECISION", precision)
    engine = Engine(store, device="cpu")
    facts = engine.learn(name, square(), 1, "freeze", options, None, max_steps=1000, budget_s=1e6)
    found: dict[str, Any] = facts["learned"]
    assert found["dtype"] == engine.precision == precision
    assert found["values"] == facts["values"]
    assert (engine.load(name).learner is engine.load(name).network) == (precision == "float32")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_a_mask_says_of_itself_is_computed_in_float32(store: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options = MaskOptions(init="random", seed=4, steps=3)  # a start that costs no pass, so that passes can be compared
    rough, exact = (learned(store, precision, name, options, monkeypatch) for precision in ("bfloat16", "float32"))
    assert exact["steps"] == rough["steps"] == 3
    assert exact["pass_counts"] == {"forward": 4, "input_gradient": 4, "weight_gradient": 0, "total": 8}
    assert rough["pass_counts"] == {"forward": 5, "input_gradient": 4, "weight_gradient": 0, "total": 9}
    assert (rough["passes"], exact["passes"]) == (9, 8)
    network = network_of(store, name)
    clip = torch.from_numpy(prepare(square(), find_record(store, name).clip))
    rule = mask_settings(options, "freeze")
    for found in (rough, exact):
        mask = torch.tensor([found["values"]], dtype=torch.float64)
        (score,) = perturbed_scores(network, clip, operator_matrix("freeze", mask), 1)
        l1, tv = (float(term[0]) for term in penalties(mask, rule))
        assert found["objective"]["score"] == pytest.approx(score, abs=1e-7)
        assert (found["objective"]["l1"], found["objective"]["tv"]) == (pytest.approx(l1), pytest.approx(tv))
        assert found["objective"]["total"] == pytest.approx(l1 + tv + score, abs=1e-7)
    # the same mask's score in bfloat16 is another number
    (rough_score,) = perturbed_scores(InBfloat16(network), clip, operator_matrix("freeze", torch.tensor([rough["values"]])), 1)
    assert abs(rough_score - rough["objective"]["score"]) > 1e-6
    assert np.abs(np.array(rough["values"]) - exact["values"]).max() < 0.15


def test_heat_maps_and_scores_do_not_depend_on_the_precision(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for precision in ("bfloat16", "float32"):
        monkeypatch.setenv("CHRONOLENS_PRECISION", precision)
        engine = Engine(store, device="cpu")
        arrays, facts = engine.look("tiny-clstm", square(), target=None, gradcam=None)
        scores = engine.score("tiny-clstm", square(), 1, {"freeze": [0.0, 0.0, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0]}, MaskOptions())
        assert facts["dtype"] == "float32"
        found.append((arrays["scores"].tolist(), scores["soft"], scores["thresholded"]))
    assert found[0] == found[1]


def test_rescoring_says_so_when_the_score_is_no_number(store: Path) -> None:
    network = network_of(store, "tiny-clstm")
    clip = torch.from_numpy(prepare(square(), find_record(store, "tiny-clstm").clip))
    options = MaskOptions(init="random", seed=4, steps=1)
    rule = mask_settings(options, "freeze")
    state = begin(rule, 8)
    while not state.done:
        state = advance(InBfloat16(network), clip, 1, rule, state)
    mask = finished(state, rule)
    sound = rescored(network, clip, 1, rule, mask)
    assert (sound.values, sound.steps, sound.passes.total) == (mask.values, mask.steps, mask.passes.total + 1)
    with torch.no_grad():
        network.get_parameter("endFC.bias").fill_(float("nan"))
    broken = rescored(network, clip, 1, rule, mask)
    assert (broken.objective.total, broken.objective.score, broken.converged) == (None, None, False)
    assert broken.values == mask.values
