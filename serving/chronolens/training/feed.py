"""Batches for training: a fixed order and fixed random changes for each epoch, whatever the number of loading processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chronolens.clips import ClipSpec
from chronolens.data.source import ClipSource
from chronolens.data.synthetic import single_threaded
from chronolens.training.augment import augment, resize


class ClipDataset(Dataset[tuple[Tensor, int]]):
    """Clips of a source at one size; changed at random when ``seed`` is given.

    Items are (T, H, W, 3) uint8 and the class index.
    """

    def __init__(self, source: ClipSource, numbers: list[int], size: tuple[int, int], seed: tuple[int, ...] | None = None) -> None:
        self.source, self.numbers, self.size, self.seed = source, numbers, size, seed

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        number = self.numbers[position]
        frames, target = self.source.load(number)
        if self.seed is None:
            frames = resize(frames, *self.size)
        else:
            frames = augment(frames, *self.size, np.random.default_rng([*self.seed, number]))
        return torch.from_numpy(np.ascontiguousarray(frames)), target


def epoch_numbers(total: int, clips: int, epoch: int, seed: int) -> list[int]:
    """Return which clips an epoch shows and in what order.

    Consecutive epochs take consecutive windows of ``clips`` numbers out of ``total``, going round, so every clip is seen equally often.
    """
    start = epoch * clips
    window = np.arange(start, start + min(clips, total)) % total
    return [int(number) for number in np.random.default_rng([seed, epoch]).permutation(window)]


def batches(dataset: ClipDataset, batch: int, workers: int, *, drop_last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (B, T, H, W, 3) uint8 and (B,) int64 in the dataset's order."""
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
    """Turn uint8 clips (N, T, H, W, 3) into the network's input (N, 3, T, H, W) float32, ``(value * scale - mean) / std``."""
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1, 1)
    return (clips.permute(0, 4, 1, 2, 3).float() * spec.scale - mean) / std
