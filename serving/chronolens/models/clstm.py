"""C-LSTM: the convolutional LSTM of Mänttäri et al. 2020, correct for any batch size.

Key names follow the authors' checkpoints (``clstm.cell0.Wxi.weight``, ``clstm.bn.*``, ``endFC.*``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronolens.clips import CellGrid
from chronolens.errors import OptionsError
from chronolens.models.base import VideoNetwork
from chronolens.models.blocks import GridWalk

State = tuple[Tensor, Tensor]
"""Hidden and memory of a cell."""


@dataclass(frozen=True)
class CLSTMConfig:
    """Shape of a C-LSTM network.

    Args:
        num_classes: width of the classifier.
        frames, height, width: of the clip; all steps are flattened into the classifier, so its weights depend on them.
        hidden: channels of each cell.
        strides: spatial stride of the input convolution of each cell; its length is the number of cells. (2, 2, 2) is the paper's;
            (2, 2, 1) lets a 112-pixel clip keep the 7 x 7 map of a 224-pixel one.
        dropout: probability after each cell, in training only.
    """

    num_classes: int = 174
    frames: int = 16
    height: int = 224
    width: int = 224
    hidden: int = 32
    strides: tuple[int, ...] = (2, 2, 2)
    dropout: float = 0.0


class ConvLSTMCell(nn.Module):
    """One convolutional LSTM without peepholes: 5x5 kernels, bias on the input convolutions only.

    Input (N, T, C, H, W), output (N, T, hidden, H', W'). The four gates of a kind are stored apart, as in the authors' checkpoints,
    and run as one convolution.
    """

    def __init__(self, inputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.hidden = hidden
        for gate in "ifco":
            setattr(self, f"Wx{gate}", nn.Conv2d(inputs, hidden, 5, stride, 2, bias=True))
            setattr(self, f"Wh{gate}", nn.Conv2d(hidden, hidden, 5, 1, 2, bias=False))
        self.stride = stride

    def _joined(self, kind: str, part: str) -> Tensor:
        return torch.cat([getattr(getattr(self, f"W{kind}{gate}"), part) for gate in "ifco"])

    def forward(self, x: Tensor) -> Tensor:
        clips, steps = x.shape[:2]
        drive = self.drive(x.flatten(0, 1))
        driven = drive.view(clips, steps, *drive.shape[1:]).unbind(1)  # indexing a tensor would cost the backward pass a sum for each step
        recurrent = self._joined("h", "weight")
        hidden = drive.new_zeros(clips, self.hidden, *drive.shape[-2:])
        memory = torch.zeros_like(hidden)
        outputs = []
        for step in range(steps):
            gates = driven[step]
            if step:  # the state before the first frame is zero, so its convolution adds nothing
                gates = gates + F.conv2d(hidden, recurrent, None, 1, 2)
            hidden, memory = _next_state(gates, memory)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)

    def drive(self, x: Tensor) -> Tensor:
        """Return what inputs (N, C, H, W) of one step contribute to the gates, (N, 4 hidden, H', W')."""
        return F.conv2d(x, self._joined("x", "weight"), self._joined("x", "bias"), self.stride, 2)

    def after(self, driven: Tensor, state: State | None) -> State:
        """Return hidden and memory (N, hidden, H', W') after one step, given :meth:`drive` of it; None is the state before the first."""
        if state is None:
            return _next_state(driven, driven.new_zeros(len(driven), self.hidden, *driven.shape[2:]))
        return _next_state(driven + F.conv2d(state[0], self._joined("h", "weight"), None, 1, 2), state[1])


def _next_state(gates: Tensor, memory: Tensor) -> State:
    enter, forget, candidate, leave = gates.chunk(4, dim=1)
    memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(candidate)
    return torch.sigmoid(leave) * torch.tanh(memory), memory


class CellStack(nn.Module):
    """The cells with their one shared BatchNorm.

    After each cell: dropout, BatchNorm2d shared by all cells, max-pool 2. The recurrent state stays as it was before dropout and BatchNorm.
    """

    def __init__(self, config: CLSTMConfig) -> None:
        super().__init__()
        self.depth = len(config.strides)
        inputs = 3
        for level, stride in enumerate(config.strides):
            self.add_module(f"cell{level}", ConvLSTMCell(inputs, config.hidden, stride))
            inputs = config.hidden
        self.bn = nn.BatchNorm2d(config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        for level in range(self.depth):
            states = getattr(self, f"cell{level}")(x)
            clips, steps = states.shape[:2]
            pooled = self.pooled(states.flatten(0, 1))
            x = pooled.view(clips, steps, *pooled.shape[1:])
        return x

    def pooled(self, hidden: Tensor) -> Tensor:
        """Return what the next cell sees of a cell's output (N, hidden, H, W)."""
        pooled: Tensor = F.max_pool2d(self.bn(self.dropout(hidden)), 2)
        return pooled

    def step(self, driven: Tensor, states: list[State | None]) -> tuple[Tensor, list[State | None]]:
        """Run one time step through all cells, given what the first is driven by; return the last pooled output and the new states."""
        seen = driven
        following: list[State | None] = []
        for level, state in enumerate(states):
            cell: ConvLSTMCell = getattr(self, f"cell{level}")
            hidden, memory = cell.after(cell.drive(seen) if level else driven, state)
            seen = self.pooled(hidden)
            following.append((hidden, memory))
        return seen, following


class CLSTM(VideoNetwork):
    """Input (N, 3, T, H, W), output logits (N, num_classes). The default heat map is the last cell's output sequence."""

    reads_in_order = True

    def __init__(self, config: CLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.clstm = CellStack(config)
        height, width = config.height, config.width
        for stride in config.strides:
            height, width = ((size + stride - 1) // stride // 2 for size in (height, width))
        if height < 1 or width < 1:
            raise OptionsError(f"{len(config.strides)} cells leave nothing of a {config.height} x {config.width} clip", pointer="/height")
        self.endFC = nn.Linear(config.frames * config.hidden * height * width, config.num_classes)
        self.time_first_layers = frozenset(["clstm", *(f"clstm.cell{level}" for level in range(len(config.strides)))])
        self.stages = {f"stage{level + 1}": (f"clstm.cell{level}",) for level in range(len(config.strides))}
        self.default_layers = (f"clstm.cell{len(config.strides) - 1}",)

    def forward(self, x: Tensor) -> Tensor:
        sequence: Tensor = self.clstm(x.transpose(1, 2))
        logits: Tensor = self.endFC(sequence.flatten(1))
        return logits

    def logits_of_orders(self, clip: Tensor, orders: Tensor) -> Tensor:
        """See :meth:`VideoNetwork.logits_of_orders`: orders that begin alike share their states, so they form a tree of steps."""
        first: ConvLSTMCell = self.clstm.get_submodule("cell0")  # type: ignore[assignment]
        driven = first.drive(clip[0].transpose(0, 1))
        states: list[State | None] = [None] * self.clstm.depth
        outputs = []
        for parents, frames, rows in _tree(orders.tolist()):
            kept = [None if state is None else (state[0][parents], state[1][parents]) for state in states]
            pooled, states = self.clstm.step(driven[frames], kept)
            outputs.append(pooled[rows])
        logits: Tensor = self.endFC(torch.stack(outputs, dim=1).flatten(1))
        return logits

    def cell_grid(self, layer: str, frames: int, height: int, width: int) -> CellGrid:
        """See :meth:`VideoNetwork.cell_grid`; layers are the outputs of the cells, the stack as a whole ends with a pooling."""
        walk = GridWalk((frames, height, width))
        for level, stride in enumerate(self.config.strides):
            walk.window((1, 5, 5), (1, stride, stride), (0, 2, 2))
            if layer.startswith(f"clstm.cell{level}"):
                break
            walk.window((1, 2, 2), (1, 2, 2), (0, 0, 0))
        return walk.grid()


def _tree(orders: list[list[int]]) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield for each time step the nodes of the tree of common beginnings: each node's parent and frame, and each order's node."""
    rows = [0] * len(orders)
    for step in range(len(orders[0])):
        nodes: dict[tuple[int, int], int] = {}
        rows = [nodes.setdefault((row, order[step]), len(nodes)) for row, order in zip(rows, orders, strict=True)]
        yield [parent for parent, _ in nodes], [frame for _, frame in nodes], rows
