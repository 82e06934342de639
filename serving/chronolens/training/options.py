"""The options of one training run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from chronolens.errors import OptionsError, UnknownModelError


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one frame size: ``epochs`` passes of ``TrainOptions.clips`` clips at ``size`` x ``size`` pixels.

    A phase with ``running_norm`` normalises with the running statistics instead of those of the batch. The C-LSTM needs it: its one
    BatchNorm serves every cell, so the running statistics mix cells that have different ones, and the network must get used to the mix.
    The residual networks gain from it too, see ``RESIDUAL``.

    ``localise`` weighs the loss that teaches the network to find its evidence on moving objects, see :mod:`chronolens.training.localise`;
    it needs a data set that knows where they are.

    Raises:
        OptionsError: fewer than 16 pixels or less than one epoch.
    """

    size: int
    epochs: int
    running_norm: bool = False
    localise: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 16 or self.epochs < 1:
            raise OptionsError("a phase has frames of at least 16 pixels and at least one epoch", pointer="/phases")


@dataclass(frozen=True)
class Recipe:
    """What suits an architecture."""

    phases: tuple[Phase, ...]
    rate: float
    dropout: float


LOCALISE = 0.3
RESIDUAL = (Phase(64, 14), Phase(112, 4), Phase(112, 4, localise=LOCALISE), Phase(112, 3, running_norm=True, localise=LOCALISE))
"""Between the statistics of a batch and the running ones the residual networks lose a tenth of their accuracy, until they are trained
with the latter."""
RECIPES = {
    "i3d": Recipe((Phase(64, 11), Phase(112, 2), Phase(112, 3, localise=LOCALISE)), rate=1e-3, dropout=0.2),
    "tsm": Recipe(RESIDUAL, rate=2e-3, dropout=0.2),
    "slowfast": Recipe(RESIDUAL, rate=2e-3, dropout=0.2),
    "clstm": Recipe((Phase(64, 5), Phase(64, 8, running_norm=True)), rate=1.5e-3, dropout=0.0),
}


@dataclass(frozen=True)
class TrainOptions:
    """What ``train`` does.

    Args:
        architecture: ``i3d``, ``clstm``, ``tsm`` or ``slowfast``.
        name: of the weights in the record, such as ``i3d-synthetic``.
        data: ``synthetic``, a folder of class folders, or a CSV file; ``arrow-of-time:`` before it asks which way a clip is played.
        start_from: name of shipped weights to start from, of the same architecture and shape; the
            classifier is taken along when classes and frame size are the same. Random when None.
        store: folder of ``weights.toml``; nothing is written there when None.
        work: folder for checkpoints, cache and log.
        phases: sizes and epochs in order; the size of the last one is the model's. The recipe's when empty, without those that localise
            when the data set does not know where its objects are.
        frames: frames of a clip; ``drawn``: size at which clips are drawn or decoded into the cache.
        clips: training clips in an epoch (the next ones each epoch, up to ``pool``).
        pool: number of different training clips.
        validate: clips of the validation split after each epoch.
        test: clips of the test split at the end.
        batch, rate, decay, smoothing, dropout, ema: batch size, peak learning rate, weight decay, label smoothing, dropout, averaging.
            A rate of 0 or a dropout below 0 takes the recipe's.
        clip_norm: longest gradient.
        precision: ``bf16`` or ``float32``.
        workers: processes that load clips; 0 loads in this process.
        threads: of PyTorch; its own choice when None.
        resume: go on from the last checkpoint in ``work`` when there is one.
        stop_after: end after this many epochs of the whole schedule, as if killed (for tests and short sessions).

    Raises:
        UnknownModelError: there is no recipe for the architecture.
        OptionsError: a phase localises, but the data set knows no boxes or the architecture has no linear head.
    """

    architecture: str
    name: str
    data: str = "synthetic"
    start_from: str | None = None
    store: Path | None = None
    work: Path = Path("runs")
    phases: tuple[Phase, ...] = ()
    frames: int = 16
    drawn: int = 112
    clips: int = 1024
    pool: int = 20480
    validate: int = 160
    test: int = 480
    batch: int = 16
    rate: float = 0.0
    decay: float = 0.02
    smoothing: float = 0.05
    dropout: float = -1.0
    ema: float = 0.995
    clip_norm: float = 5.0
    seed: int = 0
    workers: int = 1
    threads: int | None = None
    precision: str = "bf16"
    resume: bool = True
    stop_after: int | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        recipe = RECIPES.get(self.architecture)
        if recipe is None:
            raise UnknownModelError(f"no architecture {self.architecture!r} to train", allowed=sorted(RECIPES))
        phases = tuple(phase for phase in recipe.phases if self.knows_boxes or not phase.localise)
        recipe = replace(recipe, phases=phases)
        for name, missing in (("phases", not self.phases), ("rate", self.rate == 0), ("dropout", self.dropout < 0)):
            if missing:
                object.__setattr__(self, name, getattr(recipe, name))  # the dataclass is frozen for everybody else
        if any(phase.localise for phase in self.phases) and not (self.knows_boxes and self.architecture != "clstm"):
            raise OptionsError("only a network with a linear head, on synthetic clips, can be taught where things move", pointer="/phases")

    @property
    def knows_boxes(self) -> bool:
        """Whether the data set knows where its objects are."""
        return self.data == "synthetic"

    @property
    def size(self) -> int:
        """Height and width of the finished model's input."""
        return self.phases[-1].size

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase_of(self, epoch: int) -> Phase:
        """Return the phase of an epoch counted from 0.

        Raises:
            ValueError: no such epoch.
        """
        left = epoch
        for phase in self.phases:
            if left < phase.epochs:
                return phase
            left -= phase.epochs
        raise ValueError(f"epoch {epoch} is outside the schedule of {self.epochs}")
