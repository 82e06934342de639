"""The authors' C-LSTM a second time.

Facts: Mänttäri, Broomé et al. 2020, section 4.2; github.com/interpreting-video-features/interpreting-video-features, ``CLSTM_4`` and
``convolution_lstm``: gates without peepholes (their peephole tensors stay zero and are not saved), one normalisation for all cells, and
a classifier of all steps. Their ``torch.stack(...).view(...)`` keeps the clips of a batch apart only for one clip; that is what is meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tests.importing.parity_draws import Draws, State, batch_norm
from torch import Tensor

GATES = "ifco"


def checkpoint(seed: int, classes: int, *, cells: int, features: int, hidden: int = 32, prefix: str = "module.") -> State:
    """Return every tensor of a checkpoint.

    Args:
        seed: of the random numbers.
        classes: width of the classifier.
        cells: how many.
        features: width of what the classifier reads: steps x channels x height x width after the last pooling.
        hidden: channels of a cell.
        prefix: ``module.`` where the network was saved inside DataParallel.
    """
    draws = Draws(seed)
    for cell in range(cells):
        for gate in GATES:
            draws.conv(f"{prefix}clstm.cell{cell}.Wx{gate}", hidden, hidden if cell else 3, 5, 5, bias=True)
            draws.conv(f"{prefix}clstm.cell{cell}.Wh{gate}", hidden, hidden, 5, 5)
    draws.norm(f"{prefix}clstm.bn", hidden)
    draws.linear(f"{prefix}endFC", classes, features, gain=6.0)
    return draws.state


def steps(
    state: State,
    clip: Tensor,
    *,
    cells: int,
    eps: float = 1e-5,
    gates: str = GATES,
    normed_state: bool = False,
    average: bool = False,
    norm_after_pool: bool = False,
) -> Tensor:
    """Return what the classifier reads of each clip and step, (N, T, C, H, W).

    Args:
        state: the checkpoint, without prefix.
        clip: (N, 3, T, H, W).
        cells: how many.
        eps: of the normalisation.
        gates: a mutation: other names than ``ifco`` for input gate, forget gate, candidate and output gate.
        normed_state: a mutation: the cell sees its own output after the normalisation.
        average: a mutation: pools average.
        norm_after_pool: a mutation: the normalisation follows the pool; negative weights there would make it matter.
    """
    outputs: list[list[Tensor]] = []
    sequence = list(clip.unbind(2))
    for cell in range(cells):
        memory = hidden = torch.zeros(())
        outputs.append([])
        for x in sequence:
            parts = []
            for gate in gates:
                name = f"clstm.cell{cell}.W"
                part = F.conv2d(x, state[f"{name}x{gate}.weight"], state[f"{name}x{gate}.bias"], stride=2, padding=2)
                if hidden.dim():
                    part = part + F.conv2d(hidden, state[f"{name}h{gate}.weight"], padding=2)
                parts.append(part)
            let_in, keep, candidate, let_out = parts
            memory = keep.sigmoid() * memory + let_in.sigmoid() * candidate.tanh()
            hidden = let_out.sigmoid() * memory.tanh()
            normed = batch_norm(hidden, state, "clstm.bn", eps)
            pooled = F.avg_pool2d(normed, 2) if average else F.max_pool2d(normed, 2)
            outputs[-1].append(batch_norm(F.max_pool2d(hidden, 2), state, "clstm.bn", eps) if norm_after_pool else pooled)
            hidden = normed if normed_state else hidden
        sequence = outputs[-1]
    return torch.stack(sequence, 1)


def classified(state: State, features: Tensor, order: Sequence[int] = (1, 2, 3, 4)) -> Tensor:
    """Return logits (N, num_classes) of features (N, T, C, H, W) that are read in this order of axes."""
    read = features.permute(0, *order).reshape(len(features), -1)
    return read @ state["endFC.weight"].T + state["endFC.bias"]
