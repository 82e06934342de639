"""What does a mask cost under each preset, and is the cheaper one as good?

    python benchmarks/bench_presets.py --models small --clips authors:200 default:200 exhaustive:200 paper:20
    python benchmarks/bench_presets.py --models i3d-synthetic clstm-synthetic --clips authors:12 default:12 exhaustive:12 paper:2

``small`` is a network that this script trains itself at 64 x 64. Every mask of every preset is judged alike: its objective with the pair
rule ``mean`` by the float32 network, and what is left of the score when it is thresholded. ``--rows`` keeps finished masks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import write
from preset_table import markdown, summary
from small_network import FRAMES, SIZE, accuracy, pool, prepared, train
from torch import Tensor

from chronolens.engine import Engine
from chronolens.explain.mask_state import penalties
from chronolens.explain.objective import operator_matrix, perturbed_scores
from chronolens.explain.presets import settings
from chronolens.explain.protocol import VideoModel
from chronolens.explain.temporal_mask import advance, begin, finished
from chronolens.explain.words import OPERATORS, Operator
from chronolens.models.precision import InBfloat16, chosen_precision
from chronolens.options import MaskOptions
from chronolens.studies.truth import UNCUT, scenes
from chronolens.video.prepare import prepare

Row = dict[str, Any]
SEED = 1
"""Of the test clips of the shipped models: the search and the trust region were tuned with these models on clips of seed 0."""


@dataclass(frozen=True)
class Case:
    """One clip to explain: uint8 frames (T, H, W, 3), the prepared clip, its class, which frames move."""

    index: int
    frames: np.ndarray[Any, Any]
    clip: Tensor
    target: int
    moving: list[int]


class Served:
    """A shipped model, its masks learned as the engine learns them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._engine = Engine()
        self._record = self._engine.load(name).record
        self.network: VideoModel = self._engine.load(name).network
        self.note = f"masks learned in {self._engine.precision}"
        self.identity = f"{self._record.sha256} {self._engine.precision} seed {SEED}"

    def cases(self) -> Iterator[Case]:
        """Yield synthetic test clips in which something moves, to be explained for their true class."""
        spec = self._record.clip
        for clip, truth in scenes(10_000, SEED, spec.frames):
            frames = clip.render(spec.height, spec.width, spec.frames)
            target = self._record.classes.index(clip.label)
            yield Case(clip.index, frames, torch.from_numpy(prepare(frames, spec)), target, truth.moving.astype(int).tolist())

    def learn(self, case: Case, operator: Operator, preset: str) -> Row:
        """Return the mask of one case."""
        options = MaskOptions(preset=preset)  # type: ignore[arg-type]
        learned = self._engine.learn(self.name, case.frames, case.target, operator, options, None, **UNCUT)["learned"]  # type: ignore[arg-type]
        return {key: learned[key] for key in ("values", "passes", "steps", "converged", "seconds")}


class Small:
    """The small network, trained here, its masks learned in the precision that an engine would choose."""

    def __init__(self, clips: int, epochs: int) -> None:
        self.name, self.identity = "small", f"{clips} clips, {epochs} epochs"
        frames, classes = pool("train", clips, 0)
        self.network = train(frames, classes, epochs=epochs)
        precision = chosen_precision(torch.device("cpu"))
        self._learner: VideoModel = InBfloat16(self.network) if precision == "bfloat16" else self.network
        found = accuracy(self.network, *pool("test", 256, 1))
        self.note = f"trained on {clips} clips for {epochs} epochs, recognises {found:.2f} of 256 test clips; masks learned in {precision}"

    def cases(self) -> Iterator[Case]:
        """Yield synthetic test clips in which something moves and that the network recognises."""
        for clip, truth in scenes(10_000, 0, FRAMES):
            frames = clip.render(SIZE, SIZE, FRAMES)
            ready = prepared(torch.from_numpy(frames)[None])
            with torch.no_grad():
                right = int(self.network(ready).argmax()) == clip.target
            if right:
                yield Case(clip.index, frames, ready, clip.target, truth.moving.astype(int).tolist())

    def learn(self, case: Case, operator: Operator, preset: str) -> Row:
        """Return the mask of one case."""
        options = settings(preset, operator)
        state = begin(options, FRAMES)
        while not state.done:
            state = advance(self._learner, case.clip, case.target, options, state)
        mask = finished(state, options)
        return {"values": list(mask.values), "passes": mask.passes.total, "steps": mask.steps, "converged": mask.converged}


def judged(network: VideoModel, case: Case, operator: Operator, values: list[float]) -> Row:
    """Return the objective of a mask with the pair rule ``mean`` and the scores under it, soft and thresholded, in float32."""
    rule = settings("default", operator)
    soft = torch.tensor([values], dtype=torch.float64)
    masks = torch.cat([soft, (soft > 0.5).double()])
    scores = perturbed_scores(network, case.clip, operator_matrix(operator, masks, rule.pair, rule.threshold), case.target)
    l1, tv = penalties(soft, rule)
    return {"objective": float((l1 + tv)[0]) + scores[0], "score": scores[0], "thresholded": scores[1]}


def collect(model: Served | Small, clips: dict[str, int], rows: dict[str, Row], keep: Path | None) -> Iterator[Row]:
    """Yield a row for each clip, operator and preset; those that are there already are not computed again."""
    for position, case in enumerate(islice(model.cases(), max(clips.values()))):
        for operator in OPERATORS:
            for preset in (name for name, count in clips.items() if position < count):
                key = f"{model.name} {model.identity} {case.index} {operator} {json.dumps(settings(preset, operator).to_json())}"
                if key not in rows:
                    learned = model.learn(case, operator, preset)
                    facts = {"index": case.index, "operator": operator, "preset": preset, "moving": case.moving}
                    rows[key] = facts | learned | judged(model.network, case, operator, learned["values"])
                    if keep is not None:
                        with keep.open("a", encoding="utf-8") as file:
                            file.write(json.dumps([key, rows[key]]) + "\n")
                yield rows[key]


def main() -> None:
    """Print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small", "i3d-synthetic", "clstm-synthetic"])
    parser.add_argument("--clips", nargs="+", default=["authors:12", "default:12", "exhaustive:12", "paper:2"], metavar="PRESET:CLIPS")
    parser.add_argument("--train-clips", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=None, help="file of finished masks; the same code goes on with it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/presets.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clips = {name: int(count) for name, _, count in (entry.partition(":") for entry in options.clips)}
    there = options.rows is not None and options.rows.is_file()
    rows: dict[str, Row] = dict(json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()) if there else {}
    figures = []
    for name in options.models:
        model = Small(options.train_clips, options.epochs) if name == "small" else Served(name)
        found = list(collect(model, clips, rows, options.rows))
        figures.append({"model": name, "note": model.note, "operators": summary(found)})
        print(f"\n{name}: {model.note}\n\n{markdown(figures[-1]['operators'])}", flush=True)
    write(options.out, "What does a mask cost under each preset, and is the cheaper one as good?", figures)


if __name__ == "__main__":
    main()
