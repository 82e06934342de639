"""Which frames each rule takes: stored answers, the upstream formulas as they stand there, and the list that a result shows.

The stored rows were checked by hand where that is short, and all of them against the formulas below.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.video.conftest import Make, numbers

from chronolens.engine import Engine
from chronolens.errors import WeightsError
from chronolens.local import predict
from chronolens.models.weights import find_record, load_model, read_records, save_weights
from chronolens.sampling import DENSE, WHOLE, sample_indices
from chronolens.video.decode import decode_clip

TABLE: list[tuple[str, int, int, list[int]]] = [  # rule, interval, frames of the source, frames taken
    ("centre", 1, 3, [0, 0, 0, 1, 1, 2, 2, 2]),
    ("centre", 1, 10, [0, 1, 3, 4, 5, 6, 8, 9]),
    ("centre", 1, 16, [1, 3, 5, 7, 9, 11, 13, 15]),
    ("centre", 1, 37, [2, 6, 11, 16, 20, 25, 30, 34]),
    ("centre", 1, 64, [4, 12, 20, 28, 36, 44, 52, 60]),
    ("centre", 1, 300, [18, 56, 93, 131, 168, 206, 243, 281]),
    ("centre", 1, 16, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ("centre", 1, 37, [1, 3, 5, 8, 10, 12, 15, 17, 19, 21, 24, 26, 28, 31, 33, 35]),
    ("linspace", 1, 3, [0, 0, 0, 0, 1, 1, 1, 2]),
    ("linspace", 1, 10, [0, 1, 2, 3, 5, 6, 7, 9]),
    ("linspace", 1, 16, [0, 2, 4, 6, 8, 10, 12, 15]),
    ("linspace", 1, 37, [0, 5, 10, 15, 20, 25, 30, 36]),
    ("linspace", 1, 64, [0, 9, 18, 27, 36, 45, 54, 63]),
    ("linspace", 1, 300, [0, 42, 85, 128, 170, 213, 256, 299]),
    ("linspace", 1, 16, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ("linspace", 1, 37, [0, 2, 4, 7, 9, 12, 14, 16, 19, 21, 24, 26, 28, 31, 33, 36]),
    ("pyslowfast-ssv2", 1, 3, [0, 0, 0, 1, 1, 1, 2, 2]),
    ("pyslowfast-ssv2", 1, 10, [0, 1, 2, 3, 5, 6, 7, 8]),
    ("pyslowfast-ssv2", 1, 16, [1, 3, 5, 7, 8, 10, 12, 14]),
    ("pyslowfast-ssv2", 1, 37, [2, 6, 11, 16, 20, 24, 29, 34]),
    ("pyslowfast-ssv2", 1, 64, [4, 12, 20, 28, 35, 43, 51, 59]),
    ("pyslowfast-ssv2", 1, 300, [18, 56, 93, 131, 168, 205, 243, 280]),
    ("pyslowfast-ssv2", 1, 16, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 14]),
    ("pyslowfast-ssv2", 1, 37, [1, 3, 5, 8, 10, 12, 15, 17, 19, 21, 23, 26, 28, 30, 33, 35]),
    ("authors-something", 1, 3, [0, 0, 0, 1, 1, 2, 2, 2]),
    ("authors-something", 1, 10, [0, 1, 3, 4, 5, 6, 8, 9]),
    ("authors-something", 1, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
    ("authors-something", 1, 37, [2, 6, 11, 16, 20, 25, 30, 34]),
    ("authors-something", 1, 64, [3, 11, 19, 27, 35, 43, 51, 59]),
    ("authors-something", 1, 300, [18, 56, 93, 131, 168, 206, 243, 281]),
    ("authors-something", 1, 16, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ("authors-something", 1, 37, [1, 3, 5, 8, 10, 12, 15, 17, 19, 21, 24, 26, 28, 31, 33, 35]),
    ("authors-kth", 1, 3, [0, 2, 2, 2, 2, 2, 2, 2]),
    ("authors-kth", 1, 10, [0, 2, 3, 4, 5, 7, 8, 9]),
    ("authors-kth", 1, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
    ("authors-kth", 1, 37, [0, 5, 10, 14, 19, 24, 28, 33]),
    ("authors-kth", 1, 64, [0, 8, 16, 24, 32, 40, 48, 56]),
    ("authors-kth", 1, 300, [0, 38, 75, 113, 150, 188, 225, 263]),
    ("authors-kth", 1, 16, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15]),
    ("authors-kth", 1, 37, [0, 3, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33, 35]),
    ("pyslowfast", 2, 3, [0, 2, 2, 2, 2, 2, 2, 2]),
    ("pyslowfast", 2, 10, [0, 2, 4, 6, 8, 9, 9, 9]),
    ("pyslowfast", 2, 16, [0, 2, 4, 6, 8, 10, 12, 15]),
    ("pyslowfast", 2, 37, [10, 12, 14, 16, 18, 20, 22, 25]),
    ("pyslowfast", 2, 300, [142, 144, 146, 148, 150, 152, 154, 157]),
    ("pyslowfast", 8, 64, [0, 9, 18, 27, 36, 45, 54, 63]),
    ("pyslowfast", 8, 300, [118, 127, 136, 145, 154, 163, 172, 181]),
    ("pytorchvideo", 2, 3, [0, 0, 0, 0, 1, 1, 1, 2]),
    ("pytorchvideo", 2, 10, [0, 1, 2, 3, 5, 6, 7, 9]),
    ("pytorchvideo", 2, 16, [0, 2, 4, 6, 8, 10, 12, 15]),
    ("pytorchvideo", 2, 37, [10, 12, 14, 16, 18, 20, 22, 25]),
    ("pytorchvideo", 2, 300, [142, 144, 146, 148, 150, 152, 154, 157]),
    ("pytorchvideo", 8, 64, [0, 9, 18, 27, 36, 45, 54, 63]),
    ("pytorchvideo", 8, 300, [118, 127, 136, 145, 154, 163, 172, 181]),
    ("mmaction2", 2, 3, [0, 2, 1, 0, 2, 1, 0, 2]),
    ("mmaction2", 2, 10, [0, 2, 4, 6, 8, 0, 2, 4]),
    ("mmaction2", 2, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
    ("mmaction2", 2, 37, [11, 13, 15, 17, 19, 21, 23, 25]),
    ("mmaction2", 2, 300, [142, 144, 146, 148, 150, 152, 154, 156]),
    ("mmaction2", 8, 64, [3, 11, 19, 27, 35, 43, 51, 59]),
    ("mmaction2", 8, 300, [121, 129, 137, 145, 153, 161, 169, 177]),
    ("mmaction2-repeat-last", 2, 3, [0, 2, 2, 2, 2, 2, 2, 2]),
    ("mmaction2-repeat-last", 2, 10, [0, 2, 4, 6, 8, 8, 8, 8]),
    ("mmaction2-repeat-last", 2, 16, [0, 2, 4, 6, 8, 10, 12, 14]),
    ("mmaction2-repeat-last", 2, 37, [11, 13, 15, 17, 19, 21, 23, 25]),
    ("mmaction2-repeat-last", 2, 300, [142, 144, 146, 148, 150, 152, 154, 156]),
    ("mmaction2-repeat-last", 8, 64, [3, 11, 19, 27, 35, 43, 51, 59]),
    ("mmaction2-repeat-last", 8, 300, [121, 129, 137, 145, 153, 161, 169, 177]),
    (
        "pyslowfast",
        2,
        37,
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36],
    ),
    (
        "pyslowfast",
        2,
        300,
        [
            118,
            120,
            122,
            124,
            126,
            128,
            130,
            132,
            134,
            136,
            138,
            140,
            142,
            144,
            146,
            148,
            150,
            152,
            154,
            156,
            158,
            160,
            162,
            164,
            166,
            168,
            170,
            172,
            174,
            176,
            178,
            181,
        ],
    ),
    (
        "mmaction2",
        2,
        37,
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25],
    ),
    (
        "mmaction2-repeat-last",
        2,
        37,
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36, 36],
    ),
]


@pytest.mark.parametrize(("rule", "interval", "total", "expected"), TABLE)
def test_table(rule: str, interval: int, total: int, expected: list[int]) -> None:
    assert sample_indices(total, len(expected), rule, interval).tolist() == expected


def test_every_rule_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} == {*WHOLE, *DENSE}


@pytest.mark.parametrize(
    ("rule", "fps", "expected"),
    [
        # 8 * 2 / 30 s are 13.33 frames at 25 a second, of which 14 begin in time, and 32 at 60 a second
        ("pyslowfast", 25.0, [43, 44, 46, 48, 50, 51, 53, 55]),  # from floor((100 - 13.33) / 2), points 12.33 / 7 apart
        ("pytorchvideo", 25.0, [43, 44, 46, 48, 50, 52, 54, 56]),  # from (100 - 14) // 2, points 13 / 7 apart
        ("pyslowfast", 60.0, [34, 38, 42, 47, 51, 56, 60, 65]),
        ("pytorchvideo", 60.0, [34, 38, 42, 47, 51, 56, 60, 65]),
        ("mmaction2", 60.0, [42, 44, 46, 48, 50, 52, 54, 56]),  # counts frames, not seconds
    ],
)
def test_rules_that_count_seconds(rule: str, fps: float, expected: list[int]) -> None:
    assert sample_indices(100, 8, rule, 2, fps=fps).tolist() == expected


def upstream(rule: str, total: int, frames: int, interval: int, fps: float) -> list[int]:
    """The formulas of the code bases, with their own roundings."""
    count = range(frames)
    if rule == "centre":
        tick = total / float(frames)
        return [int(tick / 2.0 + tick * i) for i in count]
    if rule == "linspace":
        return torch.linspace(0, total - 1, frames).clamp(0, total - 1).long().tolist()
    if rule == "pyslowfast-ssv2":
        seg = float(total - 1) / frames
        return [(int(np.round(seg * i)) + int(np.round(seg * (i + 1)))) // 2 for i in count]
    if rule == "authors-something":  # output k shows the last frame whose time, in frames of the output and rounded, is not after k
        times = [math.floor(n * frames / total + 0.5) for n in range(total)]
        return [max(n for n in range(total) if times[n] <= k) for k in count]
    if rule == "authors-kth":
        there = min(frames, max(1, total - 1))
        taken = [math.ceil(i * float(total) / there) for i in range(there)]
        return taken + taken[-1:] * (frames - there)
    size = max(1.0, interval * frames / 30 * fps)
    if rule == "pyslowfast":
        start = math.floor(max(total - size, 0) / 2)
        return torch.linspace(start, start + size - 1, frames).clamp(0, total - 1).long().tolist()
    if rule == "pytorchvideo":
        there = min(total, sum(n / fps < frames * interval / 30 - 1e-9 for n in range(total)))
        return [(total - there) // 2 + n for n in torch.linspace(0, there - 1, frames).clamp(0, there - 1).long().tolist()]
    start = max(total - ((frames - 1) * interval + 1), 0) // 2
    taken = [start + i * interval for i in count]
    if rule == "mmaction2":
        return [n % total for n in taken]
    return [n if n < total else max(m for m in taken if m < total) for n in taken]


@pytest.mark.parametrize("rule", [*WHOLE, *DENSE])
@pytest.mark.parametrize("frames", [1, 8, 16, 32])
def test_rules_are_those_of_the_code_bases(rule: str, frames: int) -> None:
    for total in (*range(1, 130), 300, 1001):
        for interval in (1,) if rule in WHOLE else (1, 2, 8):
            for fps in (25.0, 30.0) if rule in DENSE else (30.0,):
                found = sample_indices(total, frames, rule, interval, fps=fps)
                assert found.dtype == np.int64
                assert found.tolist() == upstream(rule, total, frames, interval, fps), (total, interval, fps)


@pytest.mark.parametrize(
    ("arguments", "fps"),
    [
        ((0, 4, "centre", 1), 30.0),
        ((4, 0, "centre", 1), 30.0),
        ((4, 4, "random", 1), 30.0),
        ((4, 4, "centre", 2), 30.0),
        ((4, 4, "mmaction2", 0), 30.0),
        ((4, 4, "pyslowfast", 2), 0.0),
        ((4, 4, "pyslowfast", 2), math.inf),
    ],
)
def test_impossible_sampling_is_refused(arguments: tuple[int, int, str, int], fps: float) -> None:
    with pytest.raises(ValueError):
        sample_indices(*arguments, fps=fps)


@pytest.mark.parametrize("rule", [*WHOLE, *DENSE])
def test_decoded_frames_are_those_of_the_rule(make: Make, rule: str) -> None:
    interval = 2 if rule in DENSE else 1
    clip = decode_clip(make("a.mp4", 30, rate=25), 8, rule=rule, interval=interval)
    wanted = sample_indices(30, 8, rule, interval, fps=25).tolist()
    assert numbers(clip.frames) == clip.indices.tolist() == wanted
    assert clip.warnings == []


def test_the_rate_is_the_one_that_the_container_names(make: Make) -> None:
    """Matroska rounds times to milliseconds, which would make 29.97 frames a second of 30."""
    clip = decode_clip(make("a.mkv", 40, rate=30), 16, rule="pyslowfast", interval=2)
    assert clip.indices.tolist() == sample_indices(40, 16, "pyslowfast", 2, fps=30).tolist()


def test_part_of_a_clip_is_sampled_by_the_rule(make: Make) -> None:
    clip = decode_clip(make("a.mp4", 40), 4, rule="mmaction2", interval=2, start_s=1.0, end_s=2.0)
    assert clip.indices.tolist() == (10 + sample_indices(10, 4, "mmaction2", 2)).tolist()


@pytest.mark.parametrize(("rule", "warned"), [("centre", False), ("mmaction2", True), ("pyslowfast", True), ("pytorchvideo", False)])
def test_short_for_a_dense_clip(make: Make, rule: str, warned: bool) -> None:
    clip = decode_clip(make("a.mp4", 12, rate=30), 8, rule=rule, interval=2 if rule in DENSE else 1)
    sentence = "The clip has 12 frames and the model takes 8 out of 15; frames are repeated."
    assert clip.warnings == ([sentence] if warned else [])


@pytest.mark.parametrize(
    ("rule", "interval", "expected"),
    [
        ("linspace", 1, [0, 5, 11, 16, 22, 27, 33, 39]),
        ("pyslowfast-ssv2", 1, [2, 7, 12, 17, 22, 26, 31, 36]),
        ("mmaction2", 2, [12, 14, 16, 18, 20, 22, 24, 26]),
        ("pyslowfast", 6, [12, 14, 16, 18, 20, 22, 24, 27]),  # 8 * 6 / 30 s are 16 frames at 10 a second
    ],
)
def test_a_result_shows_what_was_sampled(
    make: Make, tiny_store: Path, tmp_path: Path, rule: str, interval: int, expected: list[int]
) -> None:
    record = find_record(tiny_store, "tiny-clstm")
    spec = dataclasses.replace(
        record.clip, sampling=rule, interval=interval, resize="crop", short_side=36, interpolation="pil", channels="bgr"
    )
    save_weights(load_model(record, tiny_store), dataclasses.replace(record, clip=spec), tmp_path / "store")
    assert read_records(tmp_path / "store")["tiny-clstm"].clip == spec
    result = predict(make("a.mp4", 40), engine=Engine(tmp_path / "store", "cpu"), model="tiny-clstm")
    assert [one.frame for one in result.clip.sampled] == expected
    assert [one.timestamp_s for one in result.clip.sampled] == pytest.approx([frame / 10 for frame in expected])


def test_a_record_with_an_unknown_rule_is_refused(tiny_store: Path, tmp_path: Path) -> None:
    text = (tiny_store / "weights.toml").read_text()
    (tmp_path / "weights.toml").write_text(text.replace('sampling = "centre"', 'sampling = "edges"'))
    with pytest.raises(WeightsError, match="unknown sampling rule 'edges'"):
        read_records(tmp_path)
