"""Batches for training: a fixed order and fixed random changes for each epoch, whatever the number of loading processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chronolens.clips import CellGrid, ClipSpec
from chronolens.data.source import ClipSource, KnowsMotion
from chronolens.data.synthetic import single_threaded
from chronolens.errors import OptionsError
from chronolens.training.augment import augment, draw_window, resize
from chronolens.training.localise import cover, cropped

Cells = tuple[CellGrid, tuple[int, int, int]]
"""Where the cells of a map lie, and its shape (T', h, w)."""


class ClipDataset(Dataset[tuple[Tensor, ...]]):
    """Clips of a source at one size; changed at random when ``seed`` is given.

    Items are (T, H, W, 3) uint8, the class index and, for each map in ``cells``, how much boxes of moving objects cover each of its cells,
    (T', h, w) float32.
    """

    def __init__(
        self,
        source: ClipSource,
        numbers: list[int],
        size: tuple[int, int],
        seed: tuple[int, ...] | None = None,
        cells: Sequence[Cells] = (),
    ) -> None:
        self.source, self.numbers, self.size, self.seed, self.cells = source, numbers, size, seed, cells

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        number = self.numbers[position]
        drawn, target = self.source.load(number)
        rng = None if self.seed is None else np.random.default_rng([*self.seed, number])
        frames = resize(drawn, *self.size) if rng is None else augment(drawn, *self.size, rng)
        item = torch.from_numpy(np.ascontiguousarray(frames)), torch.tensor(target)
        return (*item, *self._covers(number, drawn.shape[1], drawn.shape[2])) if self.cells else item

    def _covers(self, number: int, height: int, width: int) -> list[Tensor]:
        if not isinstance(self.source, KnowsMotion):
            raise OptionsError("the data set does not know where its objects are", pointer="/phases")
        truth = self.source.truth(number)
        if self.seed is not None:  # the window that augment has drawn first from the same numbers
            window = draw_window(height, width, np.random.default_rng([*self.seed, number]))
            truth = cropped(truth, window, height, width)
        return [torch.from_numpy(cover(truth, *one, self.size[0])) for one in self.cells]


def epoch_numbers(total: int, clips: int, epoch: int, seed: int) -> list[int]:
    """Return which clips an epoch shows and in what order.

    Consecutive epochs take consecutive windows of ``clips`` numbers out of ``total``, going round, so every clip is seen equally often.
    """
    start = epoch * clips
    window = np.arange(start, start + min(clips, total)) % total
    return [int(number) for number in np.random.default_rng([seed, epoch]).permutation(window)]


def batches(dataset: ClipDataset, batch: int, workers: int, *, drop_last: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Yield (B, T, H, W, 3) uint8, (B,) int64 and, for each map of a dataset with cells, (B, T', h, w) float32, in the dataset's order."""
    loader = DataLoader(
        dataset,
        batch_size=batch,
        num_workers=workers,
        drop_last=drop_last,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
    )
    yield from loader


def _start_worker(_: int) -> None:
    single_threaded()
    torch.set_num_threads(1)


def prepare(clips: Tensor, spec: ClipSpec) -> Tensor:
    """Turn uint8 RGB clips (N, T, H, W, 3) into the network's input (N, 3, T, H, W) float32, ``(value * scale - mean) / std``.

    Channels are in the order of ``spec.channels``, and so are ``mean`` and ``std``.
    """
    if spec.channels == "bgr":
        clips = clips.flip(-1)
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1, 1)
    return (clips.permute(0, 4, 1, 2, 3).float() * spec.scale - mean) / std
