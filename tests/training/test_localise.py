"""Teaching where to look: how boxes cover cells, the loss by hand, and its way through feed and loop."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chronolens.clips import CellGrid, Frames
from chronolens.data.motion_truth import MotionTruth, inside_boxes
from chronolens.data.source import CachedSource, SyntheticSource
from chronolens.errors import OptionsError
from chronolens.explain.capture import capture
from chronolens.training.feed import ClipDataset, batches
from chronolens.training.localise import LEAST, cover, cropped, localisation_loss
from chronolens.training.loop import Trainer
from chronolens.training.options import Phase, TrainOptions
from chronolens.training.state import start

HALVES = CellGrid((2, 4, 4), (1.0, 2.0, 2.0))  # four cells on 8 x 8 pixels, two frames a step
CELL = [0.0, 0.0, 0.5, 0.5]
NOWHERE = [0.0, 0.0, 0.0, 0.0]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def truth(*frames: list[list[float]], moving: list[bool] | None = None, what: str = "object") -> MotionTruth:
    return MotionTruth(what, np.array([True] * len(frames) if moving is None else moving), np.array(frames))


def covered(known: MotionTruth, shape: tuple[int, int, int] = (1, 2, 2), grid: CellGrid = HALVES, size: int = 8) -> list[object]:
    found = cover(known, grid, shape, size)
    assert (found.shape, found.dtype) == (shape, np.float32)
    return found.tolist()


def test_a_box_on_one_cell_covers_that_cell() -> None:
    assert covered(truth([CELL], [CELL])) == [[[1, 0], [0, 0]]]
    assert covered(truth([[0.5, 0.0, 1.0, 0.5]])) == [[[0, 1], [0, 0]]]  # right, not down
    assert covered(truth([[0.0, 0.0, 1.0, 1.0]])) == [[[1, 1], [1, 1]]]


def test_parts_of_cells_count_in_parts() -> None:
    assert covered(truth([[0.0, 0.0, 0.25, 0.5]])) == [[[0.5, 0], [0, 0]]]
    assert covered(truth([[0.25, 0.25, 0.75, 0.75]])) == [[[0.25, 0.25], [0.25, 0.25]]]
    assert covered(truth([[0.0, 0.0, 0.25, 0.5], [0.0, 0.0, 0.5, 0.25]])) == [[[0.75, 0], [0, 0]]]  # the union of two boxes


def test_a_step_has_the_mean_of_its_frames_in_motion() -> None:
    half = [0.0, 0.0, 0.25, 0.5]
    assert covered(truth([CELL], [half]))[0] == [[0.75, 0], [0, 0]]
    # frame 1 stands still and has no box: it does not dilute the step; a frame in motion whose object is outside does
    assert covered(truth([CELL], [NOWHERE], moving=[True, False]))[0] == [[1, 0], [0, 0]]
    assert covered(truth([CELL], [NOWHERE]))[0] == [[0.5, 0], [0, 0]]


def test_frames_belong_to_the_step_that_shows_them() -> None:
    frames = [[CELL], [CELL], [NOWHERE], [[0.5, 0.5, 1.0, 1.0]]]
    found = covered(truth(*frames, moving=[False, True, False, True]), (2, 2, 2))
    assert found == [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    still = covered(truth(*frames, moving=[False, False, True, True]), (2, 2, 2))
    assert still == [[[0, 0], [0, 0]], [[0, 0], [0, 0.5]]]


@pytest.mark.parametrize("what", ["camera", "none"])
def test_without_moving_objects_nothing_is_covered(what: str) -> None:
    assert covered(truth([CELL], what=what)) == [[[0, 0], [0, 0]]]


def test_tiles_lie_where_the_grid_puts_them() -> None:
    # I3D on 112 pixels: the first cell sees the middle of pixels 8 to 24, not of 0 to 16
    grid = CellGrid((2, 16, 16), (1.5, 15.5, 15.5))
    exact = truth([[8 / 112, 24 / 112, 24 / 112, 40 / 112]])
    found = cover(exact, grid, (1, 7, 7), 112)[0]
    assert found[1, 0] == 1.0
    assert found.sum() == 1.0
    corner = cover(truth([[0.0, 0.0, 16 / 112, 16 / 112]]), grid, (1, 7, 7), 112)[0]
    assert (corner[0, 0], corner.sum()) == (0.25, 0.25)


def test_boxes_become_relative_to_the_window() -> None:
    # a window of 5 rows and 4 columns at row 2, column 4 of a picture of 10 x 20
    known = truth([[0.2, 0.2, 0.4, 0.7], [0.25, 0.4, 0.3, 0.5], [0.0, 0.0, 0.1, 0.1], NOWHERE])
    found = cropped(known, (2, 4, 5, 4), 10, 20)
    # columns 4 to 8 and rows 2 to 7: the window itself; columns 5 to 6, rows 4 to 5; then what lies outside or nowhere
    expected = [[0.0, 0.0, 1.0, 1.0], [0.25, 0.4, 0.5, 0.6], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert found.boxes[0] == pytest.approx(np.array(expected))
    assert (found.what, found.moving.tolist()) == ("object", [True])
    whole = cropped(known, (0, 0, 10, 20), 10, 20)
    assert whole.boxes == pytest.approx(known.boxes)
    beyond = cropped(truth([[0.8, 0.8, 1.0, 1.0]]), (2, 4, 5, 4), 10, 20).boxes
    assert not inside_boxes(beyond[0], 8, 8).any()


class Linear:
    """Two classes and two channels; class 0 reads channel 0, class 1 reads channel 1 twice."""

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        return torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.full((steps, height, width), 1.0 / (steps * height * width))


class Closed:
    def linear_head(self, layer: str, steps: int, height: int, width: int) -> None:
        return None


def loss_of(features: Tensor, targets: list[int], cells: Tensor) -> float:
    return localisation_loss(Linear(), "any", features, torch.tensor(targets), cells).item()  # type: ignore[arg-type]


def test_even_evidence_costs_the_log_of_the_covered_share() -> None:
    cells = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    assert loss_of(torch.full((1, 2, 1, 2, 2), 3.0), [0], cells) == pytest.approx(-math.log(1.5 / 4 + LEAST), abs=1e-5)
    assert LEAST == 1e-4


def test_evidence_in_the_box_costs_nothing_and_beside_it_much() -> None:
    cells = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    features = torch.zeros(1, 2, 1, 2, 2)
    features[0, 0, 0, 0, 0] = 60.0
    assert loss_of(features, [0], cells) == pytest.approx(-math.log(1 + 1e-4), abs=1e-5)
    assert loss_of(features.flip(4), [0], cells) == pytest.approx(-math.log(1e-4), abs=1e-3)


def test_the_evidence_is_that_of_the_true_class() -> None:
    cells = torch.tensor([[[[1.0, 0.0]]]])
    features = torch.zeros(1, 2, 1, 1, 2)
    features[0, 1, 0, 0, 0] = 0.5  # doubled by class 1, unread by class 0
    assert loss_of(features, [0], cells) == pytest.approx(-math.log(0.5 + LEAST), abs=1e-5)
    assert loss_of(features, [1], cells) == pytest.approx(-math.log(math.e / (math.e + 1) + LEAST), abs=1e-5)


def test_the_mean_is_over_steps_with_a_covered_cell() -> None:
    features = torch.zeros(2, 2, 2, 1, 2)
    features[0, 0, 0, 0, 0] = 1.0
    cells = torch.zeros(2, 2, 1, 2)
    cells[0, 0, 0, 0] = 1.0  # inside: e / (e + 1); the other step of the clip is not taught
    cells[1, 1, 0, :] = 1.0  # all of it
    expected = -(math.log(math.e / (math.e + 1) + LEAST) + math.log(1 + LEAST)) / 2
    assert loss_of(features, [0, 0], cells) == pytest.approx(expected, abs=1e-5)


def test_nothing_moving_costs_nothing() -> None:
    features = torch.randn(2, 2, 2, 3, 3, requires_grad=True)
    loss = localisation_loss(Linear(), "any", features, torch.tensor([0, 1]), torch.zeros(2, 2, 3, 3))  # type: ignore[arg-type]
    assert loss.item() == 0.0
    loss.backward()
    assert features.grad is not None
    assert not features.grad.any()


def test_the_gradient_pushes_evidence_into_the_box() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 2, 1, 3, 3, requires_grad=True)
    cells = torch.zeros(1, 1, 3, 3)
    cells[0, 0, 1, 1] = 1.0
    loss = localisation_loss(Linear(), "any", features, torch.tensor([1]), cells)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(loss, features)
    inside = torch.zeros(3, 3, dtype=torch.bool)
    inside[1, 1] = True
    assert (slope[0, 1, 0][inside] < 0).all()  # a step against the gradient raises it there
    assert (slope[0, 1, 0][~inside] > 0).all()
    assert not slope[0, 0].any()  # the true class does not read channel 0


def test_a_network_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ValueError, match="linear head"):
        localisation_loss(Closed(), "any", torch.zeros(1, 2, 1, 2, 2), torch.tensor([0]), torch.ones(1, 1, 2, 2))  # type: ignore[arg-type]


class Framed:
    """Clips of 4 frames in which a white rectangle moves; its box is where it is."""

    classes = ("right", "down")
    name = "framed"

    def __len__(self) -> int:
        return 8

    def rectangle(self, number: int, frame: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels."""
        left, top = (8 + 12 * frame, 20) if number % 2 == 0 else (30, 4 + 10 * frame)
        return left, top, left + 24, top + 26

    def load(self, number: int) -> tuple[Frames, int]:
        clip = np.zeros((4, 64, 80, 3), np.uint8)
        for frame in range(4):
            left, top, right, bottom = self.rectangle(number, frame)
            clip[frame, top:bottom, left:right] = 255
        return clip, number % 2

    def truth(self, number: int) -> MotionTruth:
        size = np.array([80, 64, 80, 64])
        return truth(*([(np.array(self.rectangle(number, frame)) / size).tolist()] for frame in range(4)))


class Blind:
    """The clips of ``Framed`` without what is known about them."""

    classes = Framed.classes
    name = "blind"

    def __len__(self) -> int:
        return 8

    def load(self, number: int) -> tuple[Frames, int]:
        return Framed().load(number)


FINE = CellGrid((1, 4, 4), (0.5, 2.0, 2.0))


def brightness(frames: Tensor) -> Tensor:
    """Mean brightness (4, 8, 8) of the tiles of 4 x 4 pixels of a clip of 32 x 32."""
    return F.avg_pool2d(frames.float().mean(dim=3)[:, None], 4)[:, 0]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("epoch", range(8))
def test_the_cover_follows_the_random_window(number: int, epoch: int) -> None:
    dataset = ClipDataset(Framed(), [number], (32, 32), (7, 1, epoch), [(FINE, (4, 8, 8))])
    frames, target, cells = dataset[0]
    assert (target.item(), cells.dtype) == (number, torch.float32)
    light = brightness(frames)
    for step in range(4):
        full, none = cells[step] > 0.99, cells[step] < 0.01
        assert full.sum() >= 2
        assert light[step][full].min() > light[step][none].max()
    assert torch.corrcoef(torch.stack([light.flatten(), cells.flatten()]))[0, 1] > 0.97


def test_every_epoch_covers_other_cells() -> None:
    plain = torch.from_numpy(cover(Framed().truth(0), FINE, (4, 8, 8), 32))
    found = [ClipDataset(Framed(), [0], (32, 32), (7, 1, epoch), [(FINE, (4, 8, 8))])[0][2] for epoch in range(6)]
    assert all((cells - plain).abs().max() > 0.2 for cells in found)
    assert all(not torch.equal(one, two) for one, two in pairwise(found))


def test_without_a_seed_the_cover_is_that_of_the_whole_picture() -> None:
    dataset = ClipDataset(Framed(), [3, 2], (32, 32), None, [(FINE, (4, 8, 8))])
    frames, _, cells = dataset[1]
    assert torch.equal(cells, torch.from_numpy(cover(Framed().truth(2), FINE, (4, 8, 8), 32)))
    assert torch.corrcoef(torch.stack([brightness(frames).flatten(), cells.flatten()]))[0, 1] > 0.99
    (_, targets, stacked), *rest = batches(dataset, 2, 0)
    assert (targets.tolist(), stacked.shape, rest) == ([1, 0], (2, 4, 8, 8), [])
    assert len(ClipDataset(Framed(), [3], (32, 32))[0]) == 2


def test_a_cached_source_knows_what_its_source_knows(tmp_path: Path) -> None:
    known = CachedSource(Framed(), tmp_path, (4, 64, 80))
    assert np.array_equal(known.truth(1).boxes, Framed().truth(1).boxes)
    with pytest.raises(OptionsError) as caught:
        CachedSource(Blind(), tmp_path, (4, 64, 80)).truth(1)
    assert caught.value.pointer == "/phases"


def options(work: Path, architecture: str, localise: float = 0.5) -> TrainOptions:
    return TrainOptions(
        architecture, "taught", work=work, phases=(Phase(32, 1, localise=localise),), frames=4, clips=4, pool=8, validate=4, batch=4,
        dropout=0.0, workers=0, precision="float32", show_progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("cached", [False, True])
def test_a_source_that_does_not_know_its_boxes_cannot_teach(tmp_path: Path, cached: bool) -> None:
    source = CachedSource(Blind(), tmp_path, (4, 64, 80)) if cached else Blind()
    with pytest.raises(OptionsError, match="does not know where its objects are") as caught:
        Trainer(options(tmp_path, "i3d"), source, source).run()
    assert caught.value.pointer == "/phases"


def test_what_cannot_be_taught_is_refused_before_training(tmp_path: Path) -> None:
    for architecture, data in (("clstm", "synthetic"), ("i3d", "some/folder"), ("i3d", "arrow-of-time:synthetic")):
        with pytest.raises(OptionsError, match="taught where things move") as caught:
            TrainOptions(architecture, "x", data=data, work=tmp_path, phases=(Phase(32, 1, localise=0.3),))
        assert caught.value.pointer == "/phases"


def test_the_recipe_teaches_only_where_boxes_are_known() -> None:
    assert any(phase.localise for phase in TrainOptions("i3d", "x").phases)
    assert TrainOptions("i3d", "x", data="some/folder").phases == (Phase(64, 11), Phase(112, 2))


def test_a_step_of_training_adds_the_loss_and_lowers_it(tmp_path: Path) -> None:
    source = SyntheticSource("train", 0, 4, 4, 32, 32)
    trainer = Trainer(options(tmp_path, "i3d"), source, source)
    state = start(trainer.options, source.classes)
    ((grid, shape),) = trainer._cells(state)
    assert (grid, shape) == (CellGrid((2, 16, 16), (1.5, 15.5, 15.5)), (2, 2, 2))
    dataset = ClipDataset(source, list(range(4)), (32, 32), (0, 1, 0), [(grid, shape)])
    ((clips, targets, cells),) = batches(dataset, 4, 0)
    assert 0 < cells.mean() < 1
    state.model.train()

    def losses() -> tuple[float, float]:
        with torch.no_grad(), capture(state.model, ["Mixed_5c"]) as taps:
            logits = state.model(trainer._prepare(clips, 32))
            local = localisation_loss(state.model, "Mixed_5c", taps["Mixed_5c"], targets, cells)
        return float(F.cross_entropy(logits, targets, label_smoothing=trainer.options.smoothing)), float(local)

    entropy, local = losses()
    assert local > 0.1
    total, _ = trainer._step(state, clips, targets, [cells], 0.5)
    assert total == pytest.approx(entropy + 0.5 * local, rel=1e-3)
    for _ in range(3):
        trainer._step(state, clips, targets, [cells], 5.0)
    assert losses()[1] < local
