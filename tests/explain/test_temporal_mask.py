"""The objective, the presets, the starts and the optimiser."""

import json
import math

import pytest
import torch

from chronolens.errors import OptionsError, UnknownClassError
from chronolens.explain.adam import Adam
from chronolens.explain.mask_state import penalties, settled, sigmoid
from chronolens.explain.objective import perturbed_scores, total_variation, window_masks
from chronolens.explain.perturbation import freeze_matrix, reverse_matrix
from chronolens.explain.protocol import Passes
from chronolens.explain.temporal_mask import PRESETS, MaskSettings, MaskState, advance, begin, finished, progress, settings


def learn(model, clip, options, target=0, **kwargs):
    state = begin(options, clip.shape[2])
    while not state.done:
        state = advance(model, clip, target, options, state, **kwargs)
    return state


def overlap(values, first, stop):
    on = {t for t, value in enumerate(values) if value > 0.5}
    return len(on & set(range(first, stop))) / len(on | set(range(first, stop)))


def test_total_variation_by_hand():
    # Interior frames of (1, 0, 0.5, 0.5): u=1 gives 1 + 1/8, u=2 gives 1/8 + 0. The first and last difference count once.
    assert total_variation(torch.tensor([1.0, 0.0, 0.5, 0.5])).item() == 1.25
    assert total_variation(torch.tensor([1.0, 0.0, 0.5, 0.5]), beta=1.0).item() == 2.0
    for short in ([0.3], [0.0, 1.0]):
        assert total_variation(torch.tensor(short)).item() == 0
    flat = torch.full((6,), 0.4, requires_grad=True)
    (slope,) = torch.autograd.grad(total_variation(flat), flat)
    assert slope.tolist() == [0.0] * 6


@pytest.mark.parametrize(("off", "l1", "tv"), [(1, 0.1392, 0.0384), (4, 0.0800, 0.0768), (7, 0.0208, 0.0768)])
def test_central_start_values(off, l1, tv):
    logits = 10.0 * window_masks([(off, 16 - off)], 16)[0] - 5.0
    terms = penalties(torch.sigmoid(logits), settings("paper", "freeze"))
    assert [round(float(term), 4) for term in terms] == [l1, tv]


def test_presets_are_the_published_ones():
    paper, authors, own = (settings(name, "freeze") for name in ("paper", "authors", "default"))
    assert (paper.learning_rate, paper.steps, paper.init, paper.pair, paper.keep, paper.optimiser) == (
        (0.001, 300, "central", "earlier", "last", "adam")
    )
    assert (authors.learning_rate, authors.steps, authors.init, authors.pair) == (0.2, 300, "authors-central", "earlier")
    assert own.steps <= 60
    assert (own.pair, own.keep, own.optimiser) == ("mean", "best", "trust-region")
    for preset in PRESETS.values():
        assert (preset.l1, preset.tv, preset.beta, preset.threshold) == (0.01, 0.02, 3.0, 0.1)
    kth = settings("authors", "reverse", dataset="kth", l1=None, tv=0.5)
    assert (kth.l1, kth.tv, kth.operator) == (0.02, 0.5, "reverse")
    assert MaskSettings.from_json(json.loads(json.dumps(kth.to_json()))) == kth


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"steps": 0}, "/mask/steps"),
        ({"steps": 1001}, "/mask/steps"),
        ({"steps": 10**5000}, "/mask/steps"),
        ({"steps": 3.0}, "/mask/steps"),
        ({"steps": True}, "/mask/steps"),
        ({"l1": -0.1}, "/mask/l1"),
        ({"tv": math.nan}, "/mask/tv"),
        ({"tv": 10**5000}, "/mask/tv"),
        ({"beta": 0.5}, "/mask/beta"),
        ({"learning_rate": 0}, "/mask/learning_rate"),
        ({"learning_rate": math.inf}, "/mask/learning_rate"),
        ({"threshold": 1.1}, "/mask/threshold"),
        ({"init": "middle"}, "/mask/init"),
        ({"pair": ["mean"]}, "/mask/pair"),
        ({"seed": -1}, "/mask/seed"),
        ({"rate": 1}, "/mask/rate"),
        ({"preset": "ours"}, "/mask/preset"),
        ({"operator": "shuffle"}, "/methods"),
        ({"dataset": "ucf"}, "/mask/dataset"),
    ],
)
def test_bad_settings(options, pointer):
    with pytest.raises(OptionsError) as caught:
        settings(**{"preset": "default", "operator": "freeze", **options})
    assert caught.value.pointer == pointer
    with pytest.raises(OptionsError):
        MaskSettings.from_json({**settings("default", "freeze").to_json(), **options, "extra": 1})


def test_central_starts_differ_by_one(score_model, clip_of):
    # logit = 20 |b_11 - b_4| - 3 on a step between 7 and 8. Freezing i..15-i removes the step while frame 11 is inside (i <= 4); with
    # frame 11 outside (i >= 5) the score is back at once. The paper keeps i = 4 (frames 4 to 11), the authors' code i = 5 (5 to 10).
    model, clip = score_model(lambda b: 20 * (b[:, 11] - b[:, 4]).abs() - 3), clip_of([0.0] * 8 + [1.0] * 8)
    starts = {}
    for preset in ("paper", "authors"):
        options = settings(preset, "freeze", steps=1)
        state = begin(options, 16)
        while state.phase == "start":
            state = advance(model, clip, 0, options, state, max_steps=1)
        starts[preset] = [t for t, logit in enumerate(state.adam.logits) if logit == 5.0]
        assert set(state.adam.logits) == {5.0, -5.0}
        assert state.passes == Passes(forward=7)  # original, full and i = 1 ... 5, none too many
        assert model.calls[-3:] == [1, 1, 1]
    assert starts == {"paper": list(range(4, 12)), "authors": list(range(5, 11))}


def test_central_start_at_the_ends_of_the_series(score_model, clip_of):
    clip = clip_of([float(t) for t in range(8)])
    always = settings("paper", "freeze", steps=1)
    for formula, preset, first in [
        (lambda b: 9 * (b[:, 7] - b[:, 0]), "paper", 0),  # frame 7 is outside at i = 1 already: back to the full mask
        (lambda b: 9 * (b[:, 7] - b[:, 0]), "authors", 1),
        (lambda b: 9 * (b[:, 4] - b[:, 3]), "paper", 3),  # the effect is never lost: the smallest mask
        (lambda b: 0 * b[:, 0], "authors", 3),  # nothing has an effect: 0/0 never stops the series
    ]:
        options = settings(preset, "freeze", steps=1)
        state = begin(options, 8)
        while state.phase == "start":
            state = advance(score_model(formula), clip, 0, options, state, max_steps=1)
        assert [t for t in range(8) if state.adam.logits[t] > 0] == list(range(first, 8 - first))
        assert len(state.scores) <= (4 if preset == "authors" else 5)  # the authors take the last mask, i = 3, whatever its score
    assert begin(always, 3).adam.logits == [5.0] * 3  # no series for fewer than four frames


@pytest.mark.parametrize(("preset", "steps"), [("paper", 300), ("authors", 300)])
def test_published_presets_cost_what_they_say(motion, preset, steps):
    model, clip = motion
    mask = finished(state := learn(model, clip, settings(preset, "freeze")), settings(preset, "freeze"))
    start = len(state.scores)
    # Every step is a forward pass and a gradient by the input; the last mask is evaluated once more. No weight gradient, ever.
    assert mask.passes == Passes(start + steps + 1, steps, 0)
    assert (mask.steps, len(state.history), state.complete) == (steps, steps, True)
    assert sum(model.calls) == mask.passes.forward
    if preset == "paper":  # 300 steps of 0.001 move a logit by about 0.3: the mask stays its start
        assert max(abs(abs(logit) - 5.0) for logit in state.adam.logits) <= 0.35
    else:
        assert mask.objective.score < 0.1


def test_default_finds_the_planted_interval(motion):
    model, clip = motion
    options = settings("default", "freeze")
    mask = finished(state := learn(model, clip, options), options)
    assert overlap(mask.values, 6, 10) >= 0.75
    assert mask.objective.score < 0.1  # from 0.95
    assert mask.steps <= 40
    assert mask.passes.weight_gradient == 0
    assert mask.passes.total <= 1 + 28 + 2 * (40 + 2)
    assert sum(model.calls) == mask.passes.forward
    # What is said of the mask is true of the mask.
    again = perturbed_scores(model, clip, freeze_matrix(torch.tensor([mask.values], dtype=torch.float64)), 0)[0]
    assert again == pytest.approx(mask.objective.score, abs=1e-6)
    terms = mask.objective
    assert terms.total == pytest.approx(terms.l1 + terms.tv + terms.score, abs=1e-12)
    assert terms.total == min(iterate for iterate in (state.best.total, *state.history))
    assert mask.converged


@pytest.mark.parametrize("pair", ["mean", "earlier"])
def test_default_learns_a_reverse_mask(order, pair):
    model, clip = order
    options = settings("default", "reverse", pair=pair)
    mask = finished(learn(model, clip, options), options)
    original = perturbed_scores(model, clip, torch.eye(16)[None], 0)[0]
    assert original > 0.9
    assert mask.objective.score < 0.1
    assert overlap(mask.values, 5, 11) == 1.0
    assert min(mask.values[5:11]) > 0.5  # half a blend would destroy the order as well, and leave nothing when thresholded
    hard = torch.tensor([[float(value > 0.5) for value in mask.values]], dtype=torch.float64)
    assert perturbed_scores(model, clip, reverse_matrix(hard, pair=pair), 0)[0] < 0.01


def test_a_score_without_time_gets_an_empty_mask(score_model, clip_of):
    model = score_model(lambda b: b.mean(dim=1))
    for operator in ("freeze", "reverse"):
        options = settings("default", operator)
        mask = finished(learn(model, clip_of([0.5] * 16), options), options)
        assert max(mask.values) < 0.1
        assert all(math.isfinite(value) for value in mask.values)


@pytest.mark.parametrize(("preset", "operator"), [("default", "freeze"), ("default", "reverse"), ("authors", "freeze")])
def test_slices_resume_bit_equal_through_json(motion, preset, operator):
    model, clip = motion
    options = settings(preset, operator, steps=20)
    whole = learn(model, clip, options, max_steps=1000)
    state, seen = begin(options, 16), []
    while not state.done:
        before = json.dumps(state.to_json(), allow_nan=False)
        following = advance(model, clip, 0, options, state, max_steps=3, on_step=lambda s: seen.append(progress(s, options)))
        assert json.dumps(state.to_json()) == before  # the state handed in is left alone
        state = MaskState.from_json(json.loads(json.dumps(following.to_json(), allow_nan=False)))
    assert state == whole
    assert finished(state, options) == finished(whole, options)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert json.loads(json.dumps(finished(state, options).to_json(), allow_nan=False))["operator"] == operator
    with pytest.raises(ValueError, match="not a mask state"):
        MaskState.from_json({"point": []})


def test_adam_is_adam(motion):
    model, clip = motion
    options = settings("authors", "freeze", steps=5)
    state = begin(options, 16)
    while state.phase == "start":
        state = advance(model, clip, 0, options, state, max_steps=1)
    logits = torch.tensor(state.adam.logits, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(5):
        mask = torch.sigmoid(logits)
        clips = torch.einsum("ts,ncshw->ncthw", freeze_matrix(mask[None])[0].float(), clip)
        loss = sum(penalties(mask, options)) + torch.softmax(model(clips).double(), dim=1)[0, 0]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    state = advance(model, clip, 0, options, state, max_steps=5)
    assert torch.allclose(torch.tensor(state.adam.logits, dtype=torch.float64), logits.detach(), atol=1e-4)


def test_early_stop_keeps_its_word(motion):
    assert not settled([1.0] * 10)
    assert settled([1.0] * 11)
    assert settled([1.0, *[0.99995] * 10])
    assert not settled([1.0, *[0.9998] * 10])
    assert settled([0.5, *[2.0] * 10])  # only the best counts


def test_converged_is_true_and_not_converged_too(motion):
    model, clip = motion
    options = settings("default", "freeze")
    state = learn(model, clip, options)
    assert state.converged
    # Adam, with its own sigmoid and 300 steps more from there, finds no more than the model said there was
    more = MaskState(state.best.values, phase="steps", adam=Adam.at([math.log((v + 1e-3) / (1 - v + 1e-3)) for v in state.best.values]))
    rule = settings("authors", "freeze", pair="mean", learning_rate=0.02)
    more.point = sigmoid(more.adam.logits)
    while not more.done:
        more = advance(model, clip, 0, rule, more)
    assert state.best.total - more.best.total < 0.005
    short = learn(model, clip, settings("default", "freeze", steps=1))
    assert not short.converged
    assert short.best.total > state.best.total + 0.005


def test_small_first_steps_and_high_thresholds_still_move(motion, order):
    model, clip = motion
    slow = finished(learn(model, clip, settings("default", "freeze", learning_rate=0.01)), settings("default", "freeze"))
    assert slow.steps > 2
    model, clip = order
    options = settings("default", "reverse", threshold=0.96)
    high = finished(state := learn(model, clip, options), options)
    assert high.steps > 0
    assert state.history[0] < 0.2  # the window it starts from is above the threshold, or nothing would be reversed
    assert high.objective.score < 0.1


def test_stop_and_cut_short(motion):
    model, clip = motion
    options = settings("default", "freeze")
    state = begin(options, 16)
    assert advance(model, clip, 0, options, state, should_stop=lambda: True) == state
    assert finished(state, options).objective.total is None
    cut = advance(model, clip, 0, options, state, max_steps=8)
    mask = finished(cut, options)
    assert cut.phase == "steps"
    assert not mask.converged
    assert mask.objective.score < 0.5
    assert list(mask.values) == cut.values


@pytest.mark.parametrize("preset", ["paper", "authors", "default"])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("operator", ["freeze", "reverse"])
def test_short_clips_and_random_starts(score_model, clip_of, preset, frames, operator):
    model, clip = score_model(lambda b: b[:, -1] - b[:, 0]), clip_of([float(t) for t in range(frames)])
    for init in (None, "random", "window"):
        options = settings(preset, operator, steps=3, init=init, seed=3)
        mask = finished(learn(model, clip, options), options)
        assert len(mask.values) == frames
        assert math.isfinite(mask.objective.total)
    assert begin(options, 64) == begin(options, 64)
    first, second = (begin(settings(preset, operator, init="random", seed=seed), 64).point for seed in (0, 1))
    assert first != second
    assert {round(value, 4) for value in first} == {0.9241, 0.0759}


@pytest.mark.parametrize("preset", ["paper", "default"])
@pytest.mark.parametrize("broken", [lambda b: b[:, 0] * math.nan, lambda b: torch.where(b[:, 7:8].sum(dim=1) < 1, math.nan, b[:, 0])])
def test_non_finite_networks_end_without_a_crash(score_model, clip_of, preset, broken):
    # the second network is sound on the clip itself and breaks when frame 7 is frozen
    clip = clip_of([float(t % 2) for t in range(16)])
    for operator in ("freeze", "reverse"):
        options = settings(preset, operator, steps=20)
        mask = finished(learn(score_model(broken), clip, options), options)
        if math.isnan(broken(clip.mean(dim=(1, 3, 4)))):
            assert not mask.converged
            assert mask.objective.total is None
        json.dumps(mask.to_json(), allow_nan=False)
    wild = settings(preset, "freeze", learning_rate=1e300, steps=20, l1=1e300)
    state = learn(score_model(lambda b: b[:, 0]), clip, wild)
    json.dumps(state.to_json(), allow_nan=False)


def test_wrong_calls(motion):
    model, clip = motion
    options = settings("default", "freeze")
    with pytest.raises(UnknownClassError):
        advance(model, clip, 2, options, begin(options, 16))
    with pytest.raises(UnknownClassError):
        advance(model, clip, -1, options, begin(options, 16))
    with pytest.raises(ValueError, match="does not fit"):
        advance(model, clip, 0, options, begin(options, 8))
    with pytest.raises(OptionsError):
        begin(options, 0)
