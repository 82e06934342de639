"""Files: what is read of each kind, and that nothing in a file is run."""

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chronolens.errors import WeightsError
from chronolens.importing import reading
from chronolens.importing.reading import read_checkpoint

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, -2.0])}
OLD = {"_use_new_zipfile_serialization": False}


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def written(tmp_path, content, **options):
    path = tmp_path / "file.pth"
    torch.save(content, path, **options)
    return path


def same(found):
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state"])
def test_torch_files(tmp_path, key, options):
    content = OrderedDict(WEIGHTS) if key is None else {"epoch": 3, "cfg": "TRAIN:\n", key: OrderedDict(WEIGHTS), "best": torch.tensor(0.5)}
    assert same(read_checkpoint(written(tmp_path, content, **options)))


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_numbers_of_numpy_beside_the_weights_do_no_harm(tmp_path, options):
    extra = {"best": np.float64(71.2), "loss": np.float32(0.5), "epoch": np.int64(9), "curve": np.arange(3.0)}
    assert same(read_checkpoint(written(tmp_path, {"state_dict": WEIGHTS, **extra}, **options)))


def test_a_known_record_of_training_is_passed_over(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    history = module.HistoryBuffer()
    history.log = np.arange(4.0)
    path = written(tmp_path, {"state_dict": WEIGHTS, "message_hub": {"loss": history}})
    monkeypatch.undo()
    assert same(read_checkpoint(path))


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_a_planted_command_in_a_torch_file_does_not_run(tmp_path, options):
    path = written(tmp_path, {"state_dict": WEIGHTS, "extra": Planted(tmp_path / "mark")}, **options)
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system, which no weights need; nothing of it was run"):
        read_checkpoint(path)
    assert not (tmp_path / "mark").exists()


def test_whole_modules_and_other_content_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(written(tmp_path, torch.nn.Linear(2, 2)))
    with pytest.raises(WeightsError, match="holds a Tensor, not tensors by name"):
        read_checkpoint(written(tmp_path, torch.ones(2)))
    with pytest.raises(WeightsError, match="holds more than tensors: epoch"):
        read_checkpoint(written(tmp_path, {**WEIGHTS, "epoch": 3}))
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_checkpoint(written(tmp_path, {"state_dict": {}}))


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "file")
    assert same(read_checkpoint(tmp_path / "file"))
    body = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(body[:-3])
    with pytest.raises(WeightsError, match="safetensors file cannot be read"):
        read_checkpoint(tmp_path / "file")


BLOBS = {"conv1_w": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "pred_b": np.array([1.0, -1.0], dtype=">f4"), "lr": np.float32(0.1)}


def pickled(tmp_path, content, protocol=2):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_caffe2_pickles(tmp_path, protocol):
    found = read_checkpoint(pickled(tmp_path, {"blobs": BLOBS, "cfg": None}, protocol))
    assert found["conv1_w"].tolist() == BLOBS["conv1_w"].tolist()
    assert found["pred_b"].tolist() == [1.0, -1.0]
    assert found.keys() == {"conv1_w", "pred_b"}
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_a_pickle_as_python_2_wrote_it(tmp_path):
    numbers = np.array([0.5, 200.25], "<f4").tobytes()
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    body = b"\x80\x02}U\x05blobs}U\x06pred_b" + made + b"(K\x01K\x02\x85" + kind + b"\x89U\x08" + numbers + b"tbss."
    (tmp_path / "file.pkl").write_bytes(body)
    assert read_checkpoint(tmp_path / "file.pkl")["pred_b"].tolist() == [0.5, 200.25]


def test_a_planted_command_in_a_pickle_does_not_run(tmp_path):
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system, which no weights need; nothing of it was run"):
        read_checkpoint(pickled(tmp_path, {"blobs": {**BLOBS, "x": Planted(tmp_path / "mark")}}))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "asks for builtins.eval"),
        (b"\x80\x02cnumpy\nfromfile\nU\x01x\x85R.", "asks for numpy.fromfile"),
        (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87R.",
            "in a way that numpy does not",
        ),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "asks for the codec hex"),
        (b"\x80\x02U\x01aQ.", "refers to something outside the file"),
        (b"\x80\x02}q\x00", "cannot be read: EOFError"),
        (b"\x80\x02]q\x00.", "holds no blobs"),
        (b"\x80\x02}U\x05blobsK\x01s.", "holds no blobs"),
        (b"\x80\x02}.", "holds no tensors"),
    ],
)
def test_pickles_that_are_not_arrays(tmp_path, body, what):
    (tmp_path / "file.pkl").write_bytes(body)
    with pytest.raises(WeightsError, match=what):
        read_checkpoint(tmp_path / "file.pkl")


def test_arrays_of_objects_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="the blob x is no array of numbers"):
        read_checkpoint(pickled(tmp_path, {"blobs": {"x": np.array([None, "a"], dtype=object)}}))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<!DOCTYPE html><html></html>", "a page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "packed with gzip"),
        (b"hello", "of an unknown kind"),
        (b"", "of an unknown kind"),
    ],
)
def test_other_files_are_told_apart(tmp_path, body, what):
    (tmp_path / "file").write_bytes(body)
    with pytest.raises(WeightsError, match=what):
        read_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old"])
def test_a_torn_torch_file(tmp_path, options):
    path = written(tmp_path, {"state_dict": WEIGHTS}, **options)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(WeightsError, match="the torch file"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.eye(3).to_sparse(), "the tensor a is sparse, quantised or nested"),
        (torch.empty(3, device="meta"), "the tensor a has a shape and no numbers"),
    ],
    ids=["sparse", "meta"],
)
def test_tensors_that_are_not_plain(tmp_path, tensor, told):
    with pytest.raises(WeightsError, match=told):
        read_checkpoint(written(tmp_path, {"a": tensor}))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_tensors_are_refused(tmp_path):
    path = written(tmp_path, {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)})
    with pytest.raises(WeightsError, match=r"the tensor a is sparse, quantised or nested|the torch file"):
        read_checkpoint(path)


def test_long_doubles_are_refused(tmp_path):
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long doubles are doubles here")
    with pytest.raises(WeightsError, match=r"the blob \\x1bx is of float\d+, which no network takes"):
        read_checkpoint(pickled(tmp_path, {"blobs": {"\x1bx": np.ones(2, np.longdouble)}}))


def test_sizes_are_limited(tmp_path, monkeypatch):
    path = written(tmp_path, WEIGHTS)
    monkeypatch.setattr(reading, "LARGEST", path.stat().st_size - 1)
    with pytest.raises(WeightsError, match="larger than any known checkpoint"):
        read_checkpoint(path)
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(50_000))
    monkeypatch.setattr(reading, "LARGEST", 40_000)
    with pytest.raises(WeightsError, match="unpacks to more than any known checkpoint"):
        read_checkpoint(tmp_path / "bomb")
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "nothing")


def test_tensors_that_claim_more_than_is_stored(tmp_path):
    with pytest.raises(WeightsError, match="the tensors are larger than any known checkpoint"):
        read_checkpoint(written(tmp_path, {"a": torch.zeros(1).expand(2**31)}))
    (tmp_path / "file.pkl").write_bytes(b"\x80\x02}U\x01acnumpy\nndarray\nJ\x00\x00\x00\x40\x85\x85Rs.")
    with pytest.raises(WeightsError, match=r"the arrays are larger than any known checkpoint|cannot be read: MemoryError"):
        read_checkpoint(tmp_path / "file.pkl")
