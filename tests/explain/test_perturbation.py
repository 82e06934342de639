"""Freeze and reverse as matrices: by hand, against their definitions, identities and gradients."""

import pytest
import torch

from chronolens.errors import OptionsError
from chronolens.explain.perturbation import apply, freeze_matrix, reverse_matrix


def masks_of(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def freeze_by_definition(mask, frames):
    out = [frames[0]]
    for t in range(1, len(frames)):
        out.append((1 - mask[t]) * frames[t] + mask[t] * out[-1])
    return torch.stack(out)


def reverse_by_definition(mask, frames, threshold, pair):
    out, t = frames.clone(), 0
    while t < len(frames):
        stop = t
        while stop < len(frames) and mask[stop] > threshold:
            stop += 1
        for u in range((stop - t) // 2):
            a, b = t + u, stop - 1 - u
            v = mask[a] if pair == "earlier" else (mask[a] + mask[b]) / 2
            out[a], out[b] = (1 - v) * frames[a] + v * frames[b], (1 - v) * frames[b] + v * frames[a]
        t = max(stop, t + 1)
    return out


def test_freeze_of_three_frames_by_hand():
    # p0 = x0; p1 = x0 / 2 + x1 / 2; p2 = 3/4 x2 + 1/4 p1 = 1/8 x0 + 1/8 x1 + 3/4 x2. m_0 = 0.9 has no effect.
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0.125, 0.125, 0.75]]
    assert freeze_matrix(masks_of([0.9, 0.5, 0.25]))[0].tolist() == expected


def test_reverse_of_a_run_by_hand():
    # Run 1..3 (0.05 is not above 0.1): frames 1 and 3 are blended, frame 2 is the middle.
    mask = masks_of([0.05, 0.4, 0.7, 0.8])
    earlier = [[1, 0, 0, 0], [0, 0.6, 0, 0.4], [0, 0, 1, 0], [0, 0.4, 0, 0.6]]
    mean = [[1, 0, 0, 0], [0, 0.4, 0, 0.6], [0, 0, 1, 0], [0, 0.6, 0, 0.4]]
    assert torch.allclose(reverse_matrix(mask)[0], torch.tensor(earlier, dtype=torch.float64), atol=1e-15)
    assert torch.allclose(reverse_matrix(mask, pair="mean")[0], torch.tensor(mean, dtype=torch.float64), atol=1e-15)


def test_binary_example_of_the_paper():
    mask = masks_of([int(bit) for bit in "0001111100000110"])
    frames = torch.arange(1.0, 17.0, dtype=torch.float64).reshape(1, 1, 16, 1, 1)
    expected = [1, 2, 3, 8, 7, 6, 5, 4, 9, 10, 11, 12, 13, 15, 14, 16]
    for pair in ("earlier", "mean"):
        assert apply(reverse_matrix(mask, pair=pair), frames).flatten().tolist() == expected


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_equal_the_definitions(frames, dtype):
    torch.manual_seed(frames)
    masks = torch.rand(6, frames, dtype=dtype)
    masks[0], masks[1] = 1, masks[1].round()
    masks[2] = torch.where(masks[2] < 0.4, 0.05, masks[2])
    clip = torch.randn(1, 2, frames, 3, 2, dtype=dtype)
    pixels = clip[0].transpose(0, 1)
    tolerance = {"atol": 1e-5 if dtype == torch.float32 else 1e-14, "rtol": 0}
    frozen = apply(freeze_matrix(masks), clip)
    for row, mask in enumerate(masks):
        assert torch.allclose(frozen[row].transpose(0, 1), freeze_by_definition(mask, pixels), **tolerance)
        for pair in ("earlier", "mean"):
            reversed_ = apply(reverse_matrix(masks, 0.3, pair), clip)[row].transpose(0, 1)
            assert torch.allclose(reversed_, reverse_by_definition(mask, pixels, 0.3, pair), **tolerance)


@pytest.mark.parametrize("build", [freeze_matrix, reverse_matrix, lambda m: reverse_matrix(m, pair="mean")])
def test_identities(build):
    torch.manual_seed(0)
    masks = torch.rand(5, 16, dtype=torch.float64)
    masks[0] = 0
    matrices = build(masks)
    clip = torch.randn(5, 3, 16, 4, 4)
    assert torch.allclose(matrices.sum(dim=2), torch.ones(5, 16, dtype=torch.float64), atol=1e-14)
    assert torch.equal(matrices[0], torch.eye(16, dtype=torch.float64))
    assert torch.equal(apply(matrices[:1], clip[:1]), clip[:1])  # a mask of zeros changes nothing, to the bit
    assert torch.equal(matrices[:2], build(masks[:2]))  # rows do not see one another
    assert torch.equal(apply(matrices, clip)[2:3], apply(matrices[2:3], clip[2:3]))
    with pytest.raises(ValueError, match="cannot apply"):
        apply(matrices, clip[:2])


def test_full_masks_and_first_value():
    ones = torch.ones(1, 5, dtype=torch.float64)
    assert torch.equal(reverse_matrix(ones)[0], torch.eye(5, dtype=torch.float64).flip(0))
    assert torch.equal(freeze_matrix(ones)[0], torch.eye(5, dtype=torch.float64)[:1].expand(5, 5))
    other = ones.clone()
    other[0, 0] = 0
    assert torch.equal(freeze_matrix(ones), freeze_matrix(other))


def test_freeze_adjoint_against_recursion_and_finite_differences():
    # lam_{T-1} = g_{T-1}; lam_t = g_t + m_{t+1} lam_{t+1}; dL/dm_t = <lam_t, p_{t-1} - x_t>
    torch.manual_seed(1)
    mask = torch.tensor([0.3, 0.0, 0.7, 1.0, 0.2, 0.0, 0.0, 0.9], dtype=torch.float64, requires_grad=True)
    clip, g = torch.randn(1, 1, 8, 2, 1, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    perturbed = apply(freeze_matrix(mask[None]), clip)[0, 0, :, :, 0]
    (slope,) = torch.autograd.grad((perturbed * g).sum(), mask)
    p, x, lam, expected = perturbed.detach(), clip[0, 0, :, :, 0], torch.zeros(2, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for t in range(7, 0, -1):
        lam = g[t] + (mask[t + 1].detach() * lam if t < 7 else 0)
        expected[t] = lam @ (p[t - 1] - x[t])
    assert torch.allclose(slope, expected, atol=1e-14)
    assert torch.autograd.gradcheck(freeze_matrix, (mask[None].detach().requires_grad_(),))


def test_reverse_gradients():
    mask = masks_of([0.2, 0.9, 0.5, 0.02, 0.6, 0.7, 0.3, 0.4]).requires_grad_()
    for pair in ("earlier", "mean"):
        assert torch.autograd.gradcheck(lambda m, pair=pair: reverse_matrix(m, 0.1, pair), (mask,))
    reached = {}
    for pair in ("earlier", "mean"):
        probe = (reverse_matrix(mask, 0.1, pair) * torch.arange(64.0).reshape(8, 8) ** 2).sum()
        reached[pair] = (torch.autograd.grad(probe, mask)[0][0] != 0).tolist()
    # Runs 0..2 and 4..7: the published rule reaches 0, 4, 5 only.
    assert [t for t in range(8) if reached["earlier"][t]] == [0, 4, 5]
    assert [t for t in range(8) if reached["mean"][t]] == [0, 2, 4, 5, 6, 7]


def test_wrong_options():
    with pytest.raises(OptionsError) as caught:
        reverse_matrix(torch.zeros(1, 4), pair="later")
    assert (caught.value.pointer, caught.value.allowed) == ("/mask/pair", ["earlier", "mean"])
    with pytest.raises(OptionsError):
        reverse_matrix(torch.zeros(1, 4), threshold=1.5)
    for wrong in (torch.zeros(4), torch.zeros(1, 0), torch.zeros(1, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match="masks must be"):
            freeze_matrix(wrong)
