"""The training loop: it learns, resumes to the last bit, and its parts do what their names say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chronolens.clips import ClipSpec, Frames
from chronolens.errors import OptionsError, UnknownModelError
from chronolens.models.clstm import CLSTM, CLSTMConfig
from chronolens.models.weights import load_model
from chronolens.training.architectures import build, transplant
from chronolens.training.augment import augment, resize
from chronolens.training.averaging import Average
from chronolens.training.feed import ClipDataset, batches, epoch_numbers, prepare
from chronolens.training.loop import Trainer
from chronolens.training.norm import norms, recalibrate, use_running
from chronolens.training.options import RECIPES, Phase, TrainOptions
from chronolens.training.run import train


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Sides:
    """Eight clips: a bright square that jumps to the right (class 0) or to the left (class 1)."""

    classes = ("right", "left")
    name = "sides"

    def __len__(self) -> int:
        return 8

    def load(self, number: int) -> tuple[Frames, int]:
        clip = np.full((4, 16, 16, 3), 20 + number, np.uint8)
        for frame in range(4):
            column = (2, 5, 8, 11)[frame if number % 2 == 0 else 3 - frame]
            clip[frame, 6:10, column : column + 4] = 230
        return clip, number % 2


def tiny(work: Path, **more: object) -> TrainOptions:
    base = TrainOptions(
        "clstm", "tiny", work=work, phases=(Phase(32, 2),), frames=4, clips=8, pool=8, validate=8, batch=4, rate=3e-3, dropout=0.2,
        ema=0.9, workers=0, precision="float32", show_progress=False,
    )  # fmt: skip
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


def test_it_learns_eight_clips_by_heart(tmp_path: Path) -> None:
    options = tiny(tmp_path, phases=(Phase(32, 2), Phase(32, 38, running_norm=True)), dropout=0.0, rate=5e-3)
    state = Trainer(options, Sides(), Sides()).run()
    assert state.history[-1]["val_accuracy"] == 1.0
    assert state.history[-1]["loss"] < state.history[0]["loss"]
    assert state.clips == 320


def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    schedule = (Phase(32, 2), Phase(40, 1), Phase(40, 1, running_norm=True))
    whole = Trainer(tiny(tmp_path / "a", phases=schedule), Sides(), Sides()).run()
    for stop in (1, 3):
        Trainer(tiny(tmp_path / "b", phases=schedule, stop_after=stop), Sides(), Sides()).run()
        torch.rand(7)  # other use of chance in between must not matter
    resumed = Trainer(tiny(tmp_path / "b", phases=schedule), Sides(), Sides()).run()
    assert resumed.epoch == whole.epoch == 4
    for kind in ("model", "average"):
        one = (whole.model if kind == "model" else whole.average.model).state_dict()
        two = (resumed.model if kind == "model" else resumed.average.model).state_dict()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert [line["loss"] for line in resumed.history] == [line["loss"] for line in whole.history]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    Trainer(tiny(tmp_path, stop_after=1), Sides(), Sides()).run()
    with pytest.raises(OptionsError, match="another run"):
        Trainer(tiny(tmp_path, seed=5), Sides(), Sides()).run()


def test_train_writes_weights_that_load_again(tmp_path: Path) -> None:
    options = tiny(tmp_path, name="toy", store=tmp_path / "store", phases=(Phase(32, 1),), validate=2, test=16)
    record = train(options)
    assert record is not None
    assert record.metrics["n"] == 16
    assert 0 <= record.metrics["f1"] <= 1
    assert {"reversed_accuracy", "reversed_opposite", "frozen_f1", "training_clips"} <= record.metrics.keys()
    model = load_model(record, tmp_path / "store")
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 16)
    assert train(dataclasses.replace(options, name="half", phases=(Phase(32, 2),), stop_after=1)) is None


def test_epochs_go_round_the_pool_and_show_each_clip_equally_often() -> None:
    shown = [number for epoch in range(5) for number in epoch_numbers(10, 4, epoch, seed=1)]
    assert np.bincount(shown).tolist() == [2] * 10
    assert epoch_numbers(10, 4, 2, 1) == epoch_numbers(10, 4, 2, 1)
    assert sorted(epoch_numbers(3, 8, 0, 1)) == [0, 1, 2]


def test_batches_do_not_depend_on_the_number_of_workers() -> None:
    dataset = ClipDataset(Sides(), [3, 0, 5, 6], (12, 12), seed=(4, 2))
    alone = torch.cat([clips for clips, _ in batches(dataset, 2, 0)])
    helped = torch.cat([clips for clips, _ in batches(dataset, 2, 1)])
    assert torch.equal(alone, helped)


def test_prepare_scales_and_moves_channels_first() -> None:
    clips = torch.zeros(1, 2, 3, 4, 3, dtype=torch.uint8)
    clips[..., 0] = 255
    ready = prepare(clips, ClipSpec(2, 3, 4, scale=2 / 255, mean=(1.0, 1.0, 1.0)))
    assert ready.shape == (1, 3, 2, 3, 4)
    assert ready[:, 0].unique().tolist() == [1.0]
    assert ready[:, 1:].unique().tolist() == [-1.0]


def test_prepare_puts_channels_in_the_order_of_the_model() -> None:
    clips = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 1, 1, 1, 3)
    ready = prepare(clips, ClipSpec(1, 1, 1, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 1.0), channels="bgr"))
    assert ready.flatten().tolist() == [29.0, 9.0, 7.0]


def test_augmentation_never_flips() -> None:
    clip, _ = Sides().load(0)
    for seed in range(40):
        changed = augment(clip, 16, 16, np.random.default_rng(seed)).astype(float)
        assert changed.shape == clip.shape
        light = changed.sum(axis=(1, 3)) ** 4
        centres = (light * np.arange(16)).sum(axis=1) / light.sum(axis=1)
        assert centres[3] > centres[0]


def test_augmentation_depends_on_the_generator_alone() -> None:
    clip, _ = Sides().load(1)
    one, two = (augment(clip, 12, 14, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.shape == (4, 12, 14, 3)
    assert resize(clip, 16, 16) is clip


def test_average_of_two_steps() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = Average(model, decay=0.5)
    for value, expected in ((2.0, 1 + (1 - 2 / 11)), (0.0, (1 + 9 / 11) * 3 / 12)):
        nn.init.constant_(model.weight, value)
        average.update(model)
        assert average.model.weight.item() == pytest.approx(expected)


def test_recalibrated_statistics_are_the_plain_average() -> None:
    model = nn.Sequential(nn.BatchNorm3d(1)).eval()
    clips = [torch.full((1, 1, 1, 1, 2), value) + torch.tensor([0.0, 2.0]) for value in (0.0, 4.0)]
    recalibrate(model, clips)
    assert model[0].running_mean.item() == pytest.approx(3.0)  # means 1 and 5
    assert model[0].running_var.item() == pytest.approx(2.0)  # both (1 + 1) / (2 - 1)
    assert (model.training, model[0].momentum) == (False, 0.1)


def test_running_norm_keeps_its_statistics() -> None:
    model = CLSTM(CLSTMConfig(2, frames=2, height=32, width=32, strides=(2, 2, 1))).train()
    use_running(model)
    before = norms(model)[0].running_mean.clone()
    model(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    assert torch.equal(norms(model)[0].running_mean, before)


def test_transplant_keeps_the_logits_of_an_even_map() -> None:
    small, large = (build("clstm", 3, frames=2, size=size, dropout=0.0) for size in (64, 112))
    transplant(small, large)
    narrow = small.endFC(torch.ones(1, small.endFC.in_features))
    wide = large.endFC(torch.ones(1, large.endFC.in_features))
    assert torch.allclose(narrow, wide, atol=1e-4)
    assert torch.equal(small.clstm.cell1.Wxi.weight, large.clstm.cell1.Wxi.weight)


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(UnknownModelError):
        build("c3d", 3, frames=2, size=64, dropout=0.0)
    with pytest.raises(ValueError, match="outside the schedule"):
        TrainOptions("i3d", "x", phases=(Phase(64, 2),)).phase_of(2)


def test_options_take_the_recipe_of_the_architecture() -> None:
    plain = TrainOptions("clstm", "x")
    assert (plain.phases, plain.rate, plain.dropout) == (RECIPES["clstm"].phases, RECIPES["clstm"].rate, 0.0)
    own = TrainOptions("i3d", "x", rate=0.5, dropout=0.0, phases=(Phase(32, 1),))
    assert (own.rate, own.dropout, own.size, own.epochs) == (0.5, 0.0, 32, 1)
    with pytest.raises(UnknownModelError):
        TrainOptions("c3d", "x")


class Sorted(Sides):
    """A source as a folder gives it, one class after the other, that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 1000

    def load(self, number: int) -> tuple[Frames, int]:
        self.asked.append(number)
        return super().load(number % 8)[0], int(number >= 500)


def test_statistics_are_measured_on_all_classes_of_a_sorted_source(tmp_path: Path) -> None:
    source = Sorted()
    trainer = Trainer(tiny(tmp_path), source, Sides())
    trainer.recalibrate(build("clstm", 2, frames=4, size=32, dropout=0.0), 32)
    assert len(source.asked) == 256
    assert sum(number >= 500 for number in source.asked) == 128
