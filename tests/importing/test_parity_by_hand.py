"""Facts of the original code that a pencil can check: which way channels move, which frames the slow pathway sees, what a head averages."""

import torch
from tests.importing.parity_slowfast import DIALECTS, every, position_logits, spread
from tests.importing.parity_tsm import shifted

from chronolens.models.resnet import shift_in_time

STEPS = torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_first_channels_come_from_the_next_frame_and_second_from_the_one_before():
    x = (STEPS + 10 * torch.arange(4).view(4, 1)).view(1, 4, 4, 1, 1)
    expected = torch.tensor([[2.0, 3, 4, 0], [0, 11, 12, 13], [21, 22, 23, 24], [31, 32, 33, 34]])
    torch.testing.assert_close(shift_in_time(x, 4).view(4, 4), expected, atol=0, rtol=0)
    torch.testing.assert_close(shifted(x.transpose(1, 2), 4)[0, ..., 0, 0].T, expected, atol=0, rtol=0)


def test_a_share_of_channels_is_cut_off_not_rounded():
    x = torch.ones(1, 23, 2, 1, 1)
    moved = shift_in_time(x, 8)
    assert moved[0, :2, 1].sum() == 0
    assert moved[0, 2:4, 0].sum() == 0
    assert moved.sum() == x.sum() - 4


def test_clips_of_a_batch_do_not_flow_into_each_other():
    x = torch.randn(2, 8, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(shift_in_time(x, 8), torch.cat([shift_in_time(clip[None], 8) for clip in x]), atol=0, rtol=0)


def test_slow_frames():
    assert spread(32, 4) == [0, 4, 8, 13, 17, 22, 26, 31]
    assert spread(32, 8) == [0, 10, 20, 31]
    assert spread(64, 4) == [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    assert every(32, 4) == [0, 4, 8, 12, 16, 20, 24, 28]


def test_heads_on_a_map_of_three_columns():
    names = DIALECTS["pyslowfast"]
    state = {"head.projection.weight": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "head.projection.bias": torch.zeros(2)}
    slow, fast = torch.tensor([3.0, 1.0, -5.0]).view(1, 1, 1, 1, 3), torch.zeros(1, 1, 4, 1, 3)
    places = position_logits(state, names, slow, fast, 2)[0, :, 0]
    torch.testing.assert_close(places, torch.tensor([2.0, -2.0]))  # columns of weight 1, 2, 1
    whole = position_logits(state, names, slow, fast, None)[0, :, 0]
    torch.testing.assert_close(whole, torch.tensor([-1 / 3]))  # columns of weight 1, 1, 1
    other_order = position_logits(state, names, fast, slow, None)[0, :, 0]
    torch.testing.assert_close(other_order, torch.zeros(1))
