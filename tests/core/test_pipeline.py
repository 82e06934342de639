"""The whole explanation through a tiny engine: bookkeeping by hand, resuming, and what does not change the answer."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from chronolens import pipeline
from chronolens.clips import ClipSpec
from chronolens.engine import Engine, Loaded
from chronolens.errors import ClipError, NonFiniteResultError, UnknownModelError
from chronolens.explain.blobs import blob_statistics
from chronolens.explain.perturbation import apply, freeze_matrix, reverse_matrix
from chronolens.explain.scores import explain_scores
from chronolens.explain.trust import better_than_chance
from chronolens.models.base import VideoNetwork
from chronolens.models.clstm import CLSTM
from chronolens.models.precision import InBfloat16
from chronolens.models.weights import WeightsRecord
from chronolens.options import ExplanationOptions, GradCamOptions, MaskOptions, PredictionOptions, mask_settings
from chronolens.render.overlay import lay_on_clip
from chronolens.report import heat_masses, mask_report
from chronolens.summary import explanation_lines
from chronolens.video.prepare import fit_frames, prepare

MASK = {"preset": "default", "steps": 6}


@pytest.fixture
def engine(tiny_store):
    return Engine(tiny_store, device="cpu")


def explained(engine, clip, folder, step=pipeline.direct, **options):
    folder.mkdir(exist_ok=True)
    wanted = ExplanationOptions(**{"model": "tiny-clstm", "mask": MASK, "artefacts": [], **options})
    return pipeline.explain(engine, clip, wanted, engine.describe(wanted.model), folder, step=step)


def comparable(result):
    """Everything but the times."""
    return {key: value for key, value in result.model_dump().items() if key != "timing_s"}


@pytest.mark.parametrize("model", ["tiny-clstm", "tiny-i3d"])
def test_prediction_is_the_softmax_of_the_network(engine, clip, model):
    info = engine.describe(model)
    result = pipeline.predict(engine, clip, PredictionOptions(model=model, top_k=2), info)
    spec = engine.load(model).record.clip
    with torch.no_grad():
        expected = engine.load(model).network(torch.from_numpy(prepare(fit_frames(clip.frames, spec), spec))).softmax(1)[0]
    best = expected.argsort(descending=True)[:2]
    assert [entry.class_index for entry in result.predictions] == best.tolist()
    assert [entry.score for entry in result.predictions] == pytest.approx(expected[best].tolist(), abs=1e-5)
    assert result.warnings == ["random weights"]


@pytest.mark.parametrize("preset", ["default", "paper", "authors"])
def test_objective_scores_and_matrices_belong_to_the_masks_that_are_returned(engine, clip, tmp_path, preset):
    result = explained(engine, clip, tmp_path, mask={"preset": preset, "steps": 25, "l1": 0.03}, artefacts=["arrays.npz"])
    loaded = engine.load("tiny-clstm")
    prepared = torch.from_numpy(prepare(fit_frames(clip.frames, loaded.record.clip), loaded.record.clip))
    rule = mask_settings(MaskOptions(preset=preset), "reverse")
    target = result.target.class_index

    def score(matrix):
        with torch.no_grad():
            return loaded.network(apply(matrix.float(), prepared)).softmax(1)[0, target].item()

    for operator, name in (("freeze", "freeze"), ("reverse", "reverse_learned")):
        mask = result.masks[operator]
        soft = torch.tensor([mask.values], dtype=torch.float64)
        hard = (soft > 0.5).double()
        assert mask.active == (hard[0] == 1).tolist()
        assert mask.length == int(hard.sum())
        assert mask.objective.l1 == pytest.approx(0.03 * sum(mask.values), abs=1e-9)
        assert mask.objective.total == pytest.approx(mask.objective.l1 + mask.objective.tv + mask.objective.score, abs=1e-9)
        matrix = freeze_matrix(soft) if operator == "freeze" else reverse_matrix(soft, rule.threshold, rule.pair)
        assert mask.objective.score == pytest.approx(score(matrix), abs=1e-5)
        assert getattr(result.scores, name) == pytest.approx(score(matrix), abs=1e-5)
        thresholded = freeze_matrix(hard) if operator == "freeze" else reverse_matrix(hard, rule.threshold, rule.pair)
        assert getattr(result.scores.thresholded, name) == pytest.approx(score(thresholded), abs=1e-5)
        with np.load(tmp_path / "arrays.npz") as arrays:
            np.testing.assert_allclose(arrays[f"perturbation.{operator}"], matrix[0].numpy(), atol=1e-9)
    freeze = torch.tensor([result.masks["freeze"].values], dtype=torch.float64)
    assert result.scores.reverse == pytest.approx(score(reverse_matrix(freeze, rule.threshold, rule.pair)), abs=1e-5)
    assert result.scores.fully_reversed == pytest.approx(score(torch.eye(8).flip(0)[None]), abs=1e-5)
    assert result.drop.freeze == pytest.approx(result.scores.original - result.scores.freeze, abs=1e-9)
    assert result.drop.difference == pytest.approx(result.scores.reverse - result.scores.freeze, abs=1e-9)
    assert result.scores.original == pytest.approx(result.predictions[0].score, abs=1e-5)


def test_pair_rule_and_threshold_of_the_request_reach_scores_and_chance(engine, clip):
    frames = fit_frames(clip.frames, engine.load("tiny-clstm").record.clip)
    mask = [0.0, 0.05, 0.6, 0.95, 0.7, 0.3, 0.0, 0.0]
    loaded = engine.load("tiny-clstm")
    prepared = torch.from_numpy(prepare(fit_frames(clip.frames, loaded.record.clip), loaded.record.clip))
    found = {}
    for pair, threshold in (("earlier", 0.02), ("mean", 0.4)):
        options = MaskOptions(pair=pair, threshold=threshold, init="central")
        facts = engine.score("tiny-clstm", frames, 1, {"freeze": mask, "reverse": mask}, options)
        direct = explain_scores(loaded.network, prepared, 1, mask, mask, pair=pair, threshold=threshold)
        assert facts["soft"] == direct["soft"]
        assert facts["thresholded"] == direct["thresholded"]
        expected, _ = better_than_chance(loaded.network, prepared, 1, mask, "reverse", pair=pair, threshold=threshold)
        assert facts["chance"]["reverse"] == expected
        found[pair] = facts["soft"]["reverse"]
    assert found["earlier"] != found["mean"]


def test_blobs_are_measured_where_the_map_is_drawn(engine, clip, tmp_path):
    result = explained(engine, clip, tmp_path, methods=["gradcam"], model="tiny-i3d", artefacts=["arrays.npz"])
    entry = result.gradcam[0]
    with np.load(tmp_path / "arrays.npz") as arrays:
        maps = arrays["heat_map.Mixed_5c"]
    grid = engine.load("tiny-i3d").network.cell_grid("Mixed_5c", 8, 32, 32)
    assert entry.cells.first == grid.first
    assert entry.blobs.model_dump() == blob_statistics(lay_on_clip(maps, grid, 32, 32), 32, 32)


class Counted:
    """Clips that really went through a network, forward and backward, seen from outside."""

    def __init__(self, network):
        self.forward = self.backward = 0
        network.register_forward_hook(self._seen)

    def _seen(self, _module, inputs, output):
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._back)

    def _back(self, slope):
        self.backward += int((slope != 0).any(dim=1).sum())


@pytest.mark.parametrize("preset", ["default", "paper", "exhaustive"])
@pytest.mark.parametrize("model", ["tiny-clstm", "tiny-i3d"])
def test_every_pass_is_counted_once_and_no_weight_gradient_is_taken(engine, clip, tmp_path, model, preset, monkeypatch):
    monkeypatch.setattr(CLSTM, "reads_in_order", False)  # the quick way does not go through the network's front door
    loaded = engine.load(model)
    spent = sum(entry["passes"] for entry in engine.passes())
    counted = [Counted(network) for network in {id(net): net for net in (loaded.network, loaded.learner)}.values()]
    mask = {"preset": preset, "steps": 6} if preset != "exhaustive" else {"preset": preset}
    passes = explained(engine, clip, tmp_path, model=model, mask=mask).passes
    assert passes.forward == sum(count.forward for count in counted)
    assert passes.input_gradient == sum(count.backward for count in counted)
    assert passes.weight_gradient == 0
    assert passes.total == passes.forward + passes.input_gradient == sum(passes.by_purpose.values())
    assert list(passes.by_purpose) == ["gradcam", "freeze", "reverse", "scores", "chance"]
    assert sum(entry["passes"] for entry in engine.passes()) - spent == passes.total
    assert all(parameter.grad is None for parameter in loaded.network.parameters())
    assert passes.by_purpose["gradcam"] == (1 if model == "tiny-i3d" else 2)  # closed form


class Step(VideoNetwork):
    """Class 1 is a rise of the mean brightness from frame 7 to frame 8."""

    default_layers = ("none",)

    def forward(self, x):
        brightness = x.mean(dim=(1, 3, 4))
        logit = 4 * (brightness[:, 8] - brightness[:, 7])
        return torch.stack([torch.zeros_like(logit), logit], dim=1)

    def cell_grid(self, layer, frames, height, width):
        raise AssertionError("no maps here")


@pytest.fixture
def step_engine(tiny_store):
    """An engine of one more model, ``step``, of 16 frames."""
    made = Engine(tiny_store, device="cpu")
    spec = ClipSpec(16, 8, 8, scale=1 / 255)
    record = WeightsRecord("step", "step", {}, spec, ("calm", "rise"), "none", "Apache-2.0", "a formula")
    network = Step().eval()
    made._loaded["step"] = Loaded(record, network, network, ["none"], "cpu")
    return made


@pytest.fixture
def step_clip(clip):
    frames = np.zeros((16, 8, 8, 3), np.uint8)
    frames[8:] = 255
    return replace(clip, frames=frames, indices=np.arange(16), timestamps_s=np.arange(16) / 10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_the_published_presets_cost_at_most_1221_passes(step_engine, step_clip, preset, precision, tmp_path):
    # the effect of the central masks lasts to the end of their series, so that all of them are asked for: no clip is dearer
    if precision == "bfloat16":
        loaded = step_engine.load("step")
        step_engine.precision = precision
        step_engine._loaded["step"] = replace(loaded, learner=InBfloat16(loaded.network))
    result = explained(step_engine, step_clip, tmp_path, model="step", mask={"preset": preset}, methods=["freeze", "reverse"])
    passes = result.passes
    assert result.masks["freeze"].dtype == precision
    assert result.scores.original > 0.95
    assert passes.input_gradient == 600
    assert passes.total - passes.by_purpose["chance"] <= 1221
    assert passes.by_purpose["freeze"] == 601 + (8 if preset == "paper" else 7)
    for operator, score in (("freeze", result.scores.freeze), ("reverse", result.scores.reverse_learned)):
        assert result.masks[operator].objective.score == score


def test_the_exhaustive_preset_costs_241_passes_and_proves_its_optimum(step_engine, step_clip, tmp_path):
    result = explained(step_engine, step_clip, tmp_path, model="step", mask={"preset": "exhaustive"}, methods=["freeze", "reverse"])
    spent = result.passes.by_purpose
    assert (spent["predict"], spent["freeze"], spent["reverse"]) == (1, 120, 120)  # the clip as it is was scored by the look
    assert spent["scores"] == 0
    assert result.passes.total == 241
    assert spent["chance"] == 0
    for operator in ("freeze", "reverse"):
        optimum = result.masks[operator].optimum
        assert (optimum.size, optimum.scored) == (121, 121)
        assert optimum.best == pytest.approx(result.masks[operator].objective.total, abs=1e-9)
        assert optimum.second >= optimum.best
        assert result.masks[operator].better_than_chance.p_value is not None
        assert result.masks[operator].dtype == "float32"
    assert result.masks["freeze"].segments[0].first_frame == 8


def test_target_by_label_is_explained_and_named(engine, clip, tmp_path):
    result = explained(engine, clip, tmp_path, target="holding", true_class=0)
    assert (result.target.class_index, result.target.label, result.target.why) == (3, "holding", "requested")
    scores = {entry.class_index: entry.score for entry in result.predictions}
    assert result.scores.original == pytest.approx(scores[3], abs=1e-5)
    assert result.scores.true_class == pytest.approx(scores[0], abs=1e-5)


def test_only_what_was_asked_for_is_computed(engine, clip, tmp_path):
    result = explained(engine, clip, tmp_path, methods=["reverse"])
    assert list(result.masks) == ["reverse"]
    assert result.gradcam == []
    assert result.scores.freeze is None
    assert result.drop.ratio is None
    assert "freeze" in (result.drop.reason or "")


def test_checkpoints_survive_json_and_a_kill_changes_nothing(engine, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "SLICE_STEPS", 2)
    whole = explained(engine, clip, tmp_path / "whole")
    kept = {}

    class KilledError(Exception):
        pass

    def record(name, work):
        if name not in kept:
            if len(kept) == 4:
                raise KilledError
            kept[name] = json.dumps(work())
        return json.loads(kept[name])

    with pytest.raises(KilledError):
        explained(engine, clip, tmp_path / "killed", step=record)
    assert len(kept) == 4

    def resume(name, work):
        return json.loads(kept[name]) if name in kept else work()

    assert comparable(explained(engine, clip, tmp_path / "killed", step=resume)) == comparable(whole)


def test_slice_size_does_not_change_the_mask(engine, clip, tmp_path, monkeypatch):
    whole = explained(engine, clip, tmp_path)
    monkeypatch.setattr(pipeline, "SLICE_SECONDS", 0.0)  # every slice does a single step
    assert comparable(explained(engine, clip, tmp_path)) == comparable(whole)


def test_segments_use_source_frames_and_end_with_the_clip(clip):
    learned = {"values": [0.2, 0.9, 0.8, 0.1, 0.0, 0.0, 0.7, 0.51], "objective": dict.fromkeys(["total", "l1", "tv", "score"], 0.0)}
    learned |= {"steps": 1, "converged": False, "passes": 2, "dtype": "float32"}
    chance = {"p_value": None, "windows": 0}
    # frames 1, 3 ... 15 at 0.1, 0.3 ... 1.5 s: a masked stretch ends when the next sampled frame appears, the last one with the clip
    assert [span.model_dump() for span in mask_report(learned, chance, clip).segments] == [
        {"first_frame": 3, "last_frame": 5, "start_s": 0.3, "end_s": 0.7},
        {"first_frame": 13, "last_frame": 15, "start_s": 1.3, "end_s": 1.6},
    ]
    assert mask_report(learned, chance, clip, end_s=1.55).segments[-1].end_s == 1.55
    late = replace(clip, timestamps_s=clip.timestamps_s + 5, info=replace(clip.info, start_s=5.0))
    assert mask_report(learned, chance, late).segments[-1].end_s == pytest.approx(6.6)


def test_masses_use_source_frames(clip):
    maps = np.array([[[1.0]], [[0.0]], [[2.0]], [[1.0]]])  # 4 steps for 8 frames: each stands for two
    masses = heat_masses(maps, None, clip)
    assert [entry.frame for entry in masses] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert [entry.mass for entry in masses] == [0.125, 0.125, 0, 0, 0.25, 0.25, 0.125, 0.125]
    assert all(entry.mass == 0 for entry in heat_masses(np.zeros((4, 2, 2)), None, clip))


def test_artefacts_are_what_was_asked_for_and_reproducible(engine, clip, tmp_path):
    names = ["panel.mp4", "gradcam.mp4", "freeze.mp4", "reverse.mp4", "arrays.npz", "strip.png"]
    first = explained(engine, clip, tmp_path / "a", artefacts=names)
    second = explained(engine, clip, tmp_path / "b", artefacts=names)
    assert [entry.name for entry in first.artefacts] == names
    assert [entry.sha256 for entry in first.artefacts] == [entry.sha256 for entry in second.artefacts]
    for entry in first.artefacts:
        assert (tmp_path / "a" / entry.name).stat().st_size == entry.size_bytes
    with np.load(tmp_path / "a" / "arrays.npz") as arrays:
        assert arrays["mask.freeze"].tolist() == first.masks["freeze"].values
        assert arrays["heat_map.clstm.cell1"].shape == tuple(first.gradcam[0].shape)
        np.testing.assert_allclose(arrays["perturbation.reverse"].sum(axis=1), 1, atol=1e-6)
        assert arrays["frame"].tolist() == [1, 3, 5, 7, 9, 11, 13, 15]


def test_wrong_shapes_names_and_broken_networks_are_clear_errors(engine, clip, tmp_path):
    with pytest.raises(UnknownModelError):
        engine.describe("other")
    with pytest.raises(ClipError) as caught:
        engine.look("tiny-clstm", clip.frames, target=None, gradcam=None)
    assert caught.value.code == "wrong-clip-shape"
    network = engine.load("tiny-clstm").network
    with torch.no_grad():
        network.endFC.bias.fill_(float("nan"))
    frames = fit_frames(clip.frames, engine.load("tiny-clstm").record.clip)
    with pytest.raises(NonFiniteResultError):
        engine.look("tiny-clstm", frames, target=None, gradcam=GradCamOptions())
    with pytest.raises(NonFiniteResultError):
        pipeline.predict(engine, clip, PredictionOptions(model="tiny-clstm"), engine.describe("tiny-clstm"))


def test_mask_options_override_the_preset():
    settings = mask_settings(MaskOptions(preset="authors", dataset="kth", steps=7, pair="mean"), "reverse")
    assert (settings.l1, settings.tv, settings.steps, settings.pair, settings.learning_rate) == (0.02, 0.04, 7, "mean", 0.2)
    assert mask_settings(MaskOptions(l1=0.5), "freeze").l1 == 0.5


def test_the_summary_names_the_figures(engine, clip, tmp_path):
    result = explained(engine, clip, tmp_path)
    text = "\n".join(line for line in explanation_lines(result.model_dump(mode="json")) if isinstance(line, str))
    assert f"OS {result.scores.original:.3f}" in text
    assert f"freeze mask: {result.masks['freeze'].length} of 8 frames" in text


def test_a_result_of_before_masks_named_their_precision_can_still_be_read(engine, clip, tmp_path):
    result = explained(engine, clip, tmp_path, mask=MASK, artefacts=[])
    document = result.model_dump(mode="json")
    for mask in document["masks"].values():
        del mask["dtype"]
    read = type(result).model_validate(document)
    assert {mask.dtype for mask in read.masks.values()} == {"float32"}


@pytest.mark.parametrize("preset", ["default", "exhaustive"])
def test_progress_shows_the_mask_so_far_and_cancelling_ends_within_a_step(step_engine, step_clip, preset, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "SLICE_SECONDS", 0.0)  # every step is a slice, as with a slow network
    seen, questions = [], []
    learn = step_engine.learn

    def counted(*arguments, **more):
        questions.append(arguments[3])
        return learn(*arguments, **more)

    monkeypatch.setattr(step_engine, "learn", counted)
    options = ExplanationOptions(model="step", mask=MaskOptions(preset=preset), methods=["freeze"], artefacts=[])
    info = step_engine.describe("step")
    pipeline.explain(step_engine, step_clip, options, info, tmp_path, report=seen.append)
    masks = [entry for entry in seen if entry.phase == "freeze"]
    assert len(masks) == len(questions) > 5
    assert all(len(entry.partial) == 16 for entry in masks)
    assert sum(max(entry.partial) > 0.5 for entry in masks) > len(masks) / 2  # the best so far, while windows are still searched
    assert [entry.done for entry in masks] == sorted(entry.done for entry in masks)
    assert masks[-1].done == masks[-1].total

    class Cancelled(Exception):  # noqa: N818  # what a removed job raises from its report
        pass

    def cancel(progress):
        if progress.phase == "freeze":
            raise Cancelled

    questions.clear()
    with pytest.raises(Cancelled):
        pipeline.explain(step_engine, step_clip, options, info, tmp_path, report=cancel)
    assert len(questions) == 1
