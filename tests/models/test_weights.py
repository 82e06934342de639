"""Weights records: what is written is what is read, and damage is noticed."""

import dataclasses

import pytest
import torch

from chronolens.clips import ClipSpec
from chronolens.errors import UnknownModelError, WeightsError
from chronolens.models import build_model
from chronolens.models.weights import RECORDS, WeightsRecord, find_record, load_model, read_records, save_weights, write_record

CONFIG = {"num_classes": 3, "frames": 4, "height": 16, "width": 16, "hidden": 2, "strides": (2, 2)}
RECORD = WeightsRecord(
    name="tiny",
    architecture="clstm",
    config=CONFIG,
    clip=ClipSpec(4, 16, 16, scale=2 / 255, mean=(1.0, 1.0, 1.0)),
    classes=("a", "b", "c"),
    data_set="none",
    licence="Apache-2.0",
    source="random numbers",
    metrics={"f1": 0.5},
    warnings=("random",),
)


@pytest.fixture
def store(tmp_path):
    torch.manual_seed(0)
    save_weights(build_model("clstm", **CONFIG), RECORD, tmp_path)
    return tmp_path


def test_a_record_survives_the_file(store):
    found = find_record(store, "tiny")
    assert dataclasses.replace(found, file="", sha256="") == RECORD
    assert len(found.sha256) == 64


def test_loaded_weights_are_the_saved_ones_in_half_precision(store):
    torch.manual_seed(0)
    original = build_model("clstm", **CONFIG).eval()
    model = load_model(find_record(store, "tiny"), store)
    for name, tensor in original.state_dict().items():
        expected = tensor.half().float() if tensor.ndim >= 2 else tensor
        torch.testing.assert_close(model.state_dict()[name], expected, atol=0, rtol=0)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_changed_byte_is_noticed(store):
    path = store / "tiny.safetensors"
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    with pytest.raises(WeightsError, match="digest"):
        load_model(find_record(store, "tiny"), store)


def test_weights_that_do_not_fit_are_refused(store):
    write_record(dataclasses.replace(find_record(store, "tiny"), config={**CONFIG, "num_classes": 4}), store)
    with pytest.raises(WeightsError, match="fit"):
        load_model(find_record(store, "tiny"), store)


def test_missing_file_unknown_name_and_broken_records(store):
    (store / "tiny.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_model(find_record(store, "tiny"), store)
    with pytest.raises(UnknownModelError) as caught:
        find_record(store, "other")
    assert caught.value.allowed == ["tiny"]
    (store / RECORDS).write_text("[tiny]\nclip = 3\n")
    with pytest.raises(WeightsError, match="records"):
        read_records(store)
