"""A network that reads frames in order scores many orders of one clip at once, and gets what it would get one by one."""

import pytest
import torch

from chronolens.explain.objective import class_scores, operator_matrix, reordered_scores, window_masks
from chronolens.explain.perturbation import apply
from chronolens.models.clstm import CLSTM, CLSTMConfig, ConvLSTMCell, _tree
from chronolens.models.i3d import I3D, I3DConfig
from chronolens.models.precision import InBfloat16

FRAMES = 6


@pytest.fixture
def network():
    torch.manual_seed(3)
    made = CLSTM(CLSTMConfig(num_classes=4, frames=FRAMES, height=16, width=16, hidden=5, strides=(1, 1))).eval()
    made.clstm.bn.running_mean.normal_()
    made.clstm.bn.running_var.uniform_(0.5, 2.0)
    return made.requires_grad_(False)


@pytest.fixture
def clip():
    return 3 * torch.randn(1, 3, FRAMES, 16, 16, generator=torch.Generator().manual_seed(4))


def windows(operator):
    shortest = 1 if operator == "freeze" else 2
    first = 1 if operator == "freeze" else 0
    return [(0, 0), *((a, b) for a in range(first, FRAMES) for b in range(a + shortest, FRAMES + 1))]


@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_all_windows_at_once_score_as_one_by_one(network, clip, operator):
    matrices = operator_matrix(operator, window_masks(windows(operator), FRAMES), "mean")
    quick = reordered_scores(network, clip, matrices, 1)
    single = torch.cat([class_scores(network, apply(matrix[None], clip), 1) for matrix in matrices])
    torch.testing.assert_close(quick, single, atol=1e-7, rtol=0)
    assert len(quick.unique()) > 10  # the orders do differ


def test_any_order_and_every_network(network, clip):
    orders = torch.tensor([[5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0], [5, 4, 0, 0, 2, 2]])
    shown = clip[0].transpose(0, 1)[orders].transpose(1, 2)
    torch.testing.assert_close(network.logits_of_orders(clip, orders), network(shown), atol=1e-6, rtol=0)
    low = InBfloat16(network)
    assert low.reads_in_order
    torch.testing.assert_close(low.logits_of_orders(clip, orders), low(shown), atol=0.02, rtol=0.02)
    torch.manual_seed(0)
    other = I3D(I3DConfig(3)).eval()
    assert not other.reads_in_order
    wide = torch.randn(1, 3, FRAMES, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            other.logits_of_orders(wide, orders), other(wide[0].transpose(0, 1)[orders].transpose(1, 2)), atol=1e-5, rtol=0
        )


def test_soft_masks_and_other_networks_have_no_quick_way(network, clip):
    soft = operator_matrix("freeze", torch.full((1, FRAMES), 0.5, dtype=torch.float64))
    assert reordered_scores(network, clip, soft, 0) is None
    assert reordered_scores(I3D(I3DConfig(2)).eval(), clip, torch.eye(FRAMES)[None], 0) is None


def test_the_tree_by_hand():
    # 0 1 1 and 0 1 2 share two steps, 0 2 2 shares one: 1 + 2 + 3 nodes instead of 9
    steps = list(_tree([[0, 1, 1], [0, 1, 2], [0, 2, 2]]))
    assert steps == [([0], [0], [0, 0, 0]), ([0, 0], [1, 2], [0, 0, 1]), ([0, 0, 1], [1, 2, 2], [0, 1, 2])]


def test_all_freezes_of_a_clip_take_a_third_of_the_steps(network, clip, monkeypatch):
    counted = []
    original = ConvLSTMCell.after
    monkeypatch.setattr(ConvLSTMCell, "after", lambda self, driven, state: (counted.append(len(driven)), original(self, driven, state))[1])
    matrices = operator_matrix("freeze", window_masks(windows("freeze"), FRAMES))
    reordered_scores(network, clip, matrices, 0)
    # the clip itself has 6 nodes. Frozen from a on there is one chain of T - a steps, and the window that ends at b leaves it there for
    # T - b steps of its own: n + (n - 1) n / 2 with n = T - a, in both cells
    expected = FRAMES + sum(n + n * (n - 1) // 2 for n in range(1, FRAMES))
    assert sum(counted) == 2 * expected
    assert expected < len(matrices) * FRAMES / 2
