"""Training that starts from shipped weights: what is taken over, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from chronolens.clips import ClipSpec
from chronolens.errors import OptionsError, UnknownModelError, WeightsError
from chronolens.models.clstm import CLSTM
from chronolens.models.weights import WeightsRecord, find_record, load_model, save_weights, write_record
from chronolens.training.architectures import adopt, build
from chronolens.training.options import Phase, TrainOptions
from chronolens.training.state import load_checkpoint, save_checkpoint, start

LABELS = ("up", "down", "hold")
HEAD = ("endFC.weight", "endFC.bias")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one C-LSTM for 4 frames of 32 x 32 that no seed makes."""
    torch.manual_seed(99)
    model = build("clstm", 3, frames=4, size=32, dropout=0.0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.05)
        model.get_buffer("clstm.bn.running_mean").fill_(0.25)
        model.get_buffer("clstm.bn.running_var").fill_(3.0)
    assert isinstance(model, CLSTM)
    config = dataclasses.asdict(model.config)
    spec = ClipSpec(4, 32, 32, scale=2 / 255, mean=(1.0, 1.0, 1.0))
    save_weights(model, WeightsRecord("donor", "clstm", config, spec, LABELS, "none", "Apache-2.0", "random numbers"), tmp_path)
    monkeypatch.setenv("CHRONOLENS_MODEL_STORE", str(tmp_path))
    return tmp_path


def options(**more: object) -> TrainOptions:
    base = TrainOptions("clstm", "heir", start_from="donor", phases=(Phase(32, 1),), frames=4, workers=0, show_progress=False)
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


def donated(store: Path) -> dict[str, Tensor]:
    return load_model(find_record(store, "donor"), store).state_dict()


def same(one: nn.Module, two: dict[str, Tensor]) -> set[str]:
    """Return the names of equal tensors; both sides must have the same names."""
    mine = one.state_dict()
    assert mine.keys() == two.keys()
    return {name for name in mine if mine[name].shape == two[name].shape and torch.equal(mine[name], two[name])}


def test_the_same_classes_take_the_whole_network_along(store: Path) -> None:
    donor = donated(store)
    state = start(options(), LABELS)
    for model in (state.model, state.average.model):
        assert same(model, donor) == donor.keys()
    assert all(value.requires_grad for value in state.model.parameters())
    assert (state.epoch, state.average.updates, state.history) == (0, 0, [])
    plain = start(options(start_from=None), LABELS)
    # all that a fresh network has in common with the donor are counters
    assert same(plain.model, donor) <= {"clstm.bn.num_batches_tracked"}


@pytest.mark.parametrize("labels", [("up", "down", "still"), ("down", "up", "hold"), ("up", "down")])
def test_other_classes_get_a_fresh_classifier(store: Path, labels: tuple[str, ...]) -> None:
    donor = donated(store)
    state = start(options(seed=3), labels)
    fresh = start(options(seed=3, start_from=None), labels)
    for model in (state.model, state.average.model):
        assert same(model, donor) == donor.keys() - set(HEAD)
        assert same(model, fresh.model.state_dict()) >= set(HEAD)  # as if nothing had been taken over


def test_another_frame_size_keeps_all_but_the_classifier(store: Path) -> None:
    donor = donated(store)
    state = start(options(phases=(Phase(48, 1),)), LABELS)
    assert same(state.model, donor) == donor.keys() - {"endFC.weight", "endFC.bias"}


def test_the_optimiser_moves_what_was_taken_over(store: Path) -> None:
    state = start(options(), LABELS)
    groups = [value for group in state.optimiser.param_groups for value in group["params"]]
    assert {id(value) for value in groups} == {id(value) for value in state.model.parameters()}
    state.model(torch.zeros(1, 3, 4, 32, 32)).sum().backward()
    state.optimiser.step()
    assert not same(state.model, donated(store)) & {"clstm.cell0.Wxi.bias", "endFC.weight"}
    assert same(state.average.model, donated(store)) >= {"clstm.cell0.Wxi.bias", "endFC.weight"}


def test_adopt_copies_statistics_and_leaves_the_donor_alone() -> None:
    torch.manual_seed(0)
    one, two = (build("clstm", 2, frames=2, size=32, dropout=0.0) for _ in range(2))
    one.get_buffer("clstm.bn.running_mean").fill_(7.0)
    adopt(one, two, same_classes=False)
    assert two.get_buffer("clstm.bn.running_mean").unique().tolist() == [7.0]
    assert same(one, two.state_dict()) >= one.state_dict().keys() - set(HEAD)
    assert not torch.equal(one.get_parameter("endFC.weight"), two.get_parameter("endFC.weight"))
    with torch.no_grad():
        two.get_parameter("clstm.cell0.Wxi.weight").zero_()
    assert one.get_parameter("clstm.cell0.Wxi.weight").abs().sum() > 0


def test_another_clip_length_is_refused(store: Path) -> None:
    with pytest.raises(OptionsError, match="another shape") as caught:
        start(options(frames=8), LABELS)
    assert caught.value.pointer == "/start_from"


def test_another_architecture_is_refused(store: Path) -> None:
    write_record(dataclasses.replace(find_record(store, "donor"), architecture="i3d"), store)
    with pytest.raises(OptionsError, match="another shape") as caught:
        start(options(), LABELS)
    assert caught.value.pointer == "/start_from"


def test_unknown_and_missing_weights_are_refused(store: Path) -> None:
    with pytest.raises(UnknownModelError) as caught:
        start(options(start_from="nobody"), LABELS)
    assert caught.value.allowed == ["donor"]
    (store / "donor.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing"):
        start(options(), LABELS)


def test_a_checkpoint_of_a_run_from_other_weights_is_refused(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "heir.checkpoint"
    save_checkpoint(start(options(), LABELS), path, options())
    assert same(load_checkpoint(path, options(), 3).model, donated(store)) == donated(store).keys()
    with pytest.raises(OptionsError, match="another run"):
        load_checkpoint(path, options(start_from=None), 3)
