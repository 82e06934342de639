"""What an import writes: exact weights, the record, the list of public files beside it."""

import dataclasses
import json
import math
import tomllib

import pytest
import torch
from safetensors.torch import load_file
from tests.importing.foreign import ours, theirs

from chronolens.clips import ClipSpec
from chronolens.errors import OptionsError, UnknownModelError, WeightsError
from chronolens.golden import golden_frames
from chronolens.importing.dialects import DIALECTS, convert
from chronolens.importing.importer import ImportOptions, import_checkpoint
from chronolens.importing.labels import read_labels
from chronolens.importing.preparation import clip_spec
from chronolens.importing.public import find_public, public_files, record_digest
from chronolens.models.weights import WeightsRecord, find_record, load_model, read_records, save_weights, write_record
from chronolens.store import RECORDS, digests, file_digest, replace_file, shipped_store
from chronolens.video.prepare import prepare

BYTE = 1 / 255
IMAGENET = {"scale": BYTE, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"scale": BYTE, "mean": (0.45,) * 3, "std": (0.225,) * 3}
CLIPS = {
    "pytorch-i3d": (64, 224, 224, "mmaction2", 1, "crop", 256, "bilinear", {"scale": 2 / 255, "mean": (1.0,) * 3}),
    "pyslowfast": (32, 256, 256, "pyslowfast", 2, "crop-pyslowfast", 256, "bilinear", KINETICS),
    "pyslowfast-caffe2": (32, 256, 256, "pyslowfast", 2, "crop-pyslowfast", 256, "bilinear", KINETICS),
    "pytorchvideo": (32, 256, 256, "pytorchvideo", 2, "crop-pyslowfast", 256, "bilinear", KINETICS),
    "tsm": (8, 224, 224, "centre", 1, "crop", 256, "pil", IMAGENET),
    "mmaction2-tsm": (8, 224, 224, "centre", 1, "crop-mmaction2", 256, "bilinear", IMAGENET),
    "mmaction2-slowfast": (32, 224, 224, "mmaction2", 2, "crop-mmaction2", 256, "bilinear", IMAGENET),
    "authors-i3d": (16, 224, 224, "authors-something", 1, "stretch", 0, "area", {"scale": 1.0}),
    "authors-clstm": (16, 224, 224, "authors-something", 1, "stretch", 0, "area", {"scale": 1.0}),
}


def spec_of(dialect):
    frames, height, width, sampling, interval, resize, short_side, interpolation, values = CLIPS[dialect]
    words = {"interval": interval, "resize": resize, "short_side": short_side, "interpolation": interpolation}
    return ClipSpec(frames, height, width, sampling, **words, **values)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "TSM Kinetics.pth"
    torch.save({"state_dict": theirs("tsm")}, path)
    return path


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_clips_are_prepared_as_the_dialect_says(dialect):
    assert clip_spec(convert(theirs(dialect))) == spec_of(dialect)


def test_something_something_and_kth_have_clips_of_their_own():
    for dialect in ("pyslowfast", "pytorchvideo"):
        expected = dataclasses.replace(spec_of(dialect), sampling="pyslowfast-ssv2", interval=1)
        assert clip_spec(convert(theirs(dialect, 174))) == expected
    assert clip_spec(convert(theirs("mmaction2-slowfast", 174))) == spec_of("mmaction2-slowfast")
    assert clip_spec(convert(theirs("authors-i3d", 6))) == ClipSpec(32, 120, 160, "authors-kth")


def test_the_caller_knows_better():
    imported = convert(theirs("pyslowfast"))
    spec = clip_spec(imported, frames=64, size=224, sampling="centre")
    assert (spec.frames, spec.height, spec.width, spec.sampling, spec.interval, spec.short_side) == (64, 224, 224, "centre", 1, 256)
    assert clip_spec(imported, interval=4).interval == 4
    with pytest.raises(OptionsError, match="unknown sampling rule 'best'"):
        clip_spec(imported, sampling="best")
    with pytest.raises(OptionsError, match="300 x 300 pixels do not go with"):
        clip_spec(imported, size=300)
    with pytest.raises(OptionsError, match="30 frames cannot be divided by alpha 4"):
        clip_spec(imported, frames=30)
    with pytest.raises(OptionsError, match="reads clips of 16 x 224 x 224 only"):
        clip_spec(convert(theirs("authors-clstm")), frames=32)


def test_the_record_says_everything(file, store):
    record = import_checkpoint(file, store, ImportOptions(licence="MIT", data_set="five classes", clip={"frames": 16}))
    assert record == find_record(store, "tsm-kinetics")
    assert record.architecture == "tsm"
    assert record.config == {"num_classes": 5, "depth": 18, "width": 16, "shift": 8}
    assert record.clip == dataclasses.replace(spec_of("tsm"), frames=16)
    assert record.classes == tuple(f"class_{index}" for index in range(5))
    assert record.warnings == ("the names of the classes are not known; they are numbered",)
    assert (record.licence, record.data_set) == ("MIT", "five classes")
    assert record.source == f"TSM Kinetics.pth, sha256 {file_digest(file)}, read as tsm"
    assert record.sha256 == file_digest(store / "tsm-kinetics.safetensors")


def test_imported_weights_keep_every_bit(file, store):
    record = import_checkpoint(file, store, ImportOptions())
    written = load_file(store / record.file)
    loaded = load_model(record, store).state_dict()
    for name, tensor in ours("tsm").state_dict().items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor)
        assert torch.equal(loaded[name], tensor)
    trained = save_weights(ours("tsm"), dataclasses.replace(record, name="trained"), store)
    assert load_file(store / trained.file)["s1.conv.weight"].dtype == torch.float16


def test_nothing_is_written_of_a_file_that_does_not_fit(tmp_path, store):
    torch.save({**theirs("tsm"), "stray": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="1 left over: stray"):
        import_checkpoint(tmp_path / "file.pth", store, ImportOptions())
    assert not store.exists()


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        ({"frames": 257}, "frames 257 is no whole number from 1 to 256"),
        ({"frames": 0}, "frames 0 is no whole number"),
        ({"size": 1025}, "size 1025 is no whole number from 32 to 1024"),
        ({"size": 1}, "size 1 is no whole number from 32 to 1024"),
        ({"size": "x"}, "size 'x' is no whole number"),
        ({"interval": 1001}, "interval 1001 is no whole number from 1 to 1000"),
    ],
)
def test_clips_are_bounded(file, store, clip, told):
    with pytest.raises(OptionsError, match=told):
        import_checkpoint(file, store, ImportOptions(clip=clip))
    assert not store.exists()


def test_nothing_is_written_of_a_network_that_does_not_run(file, store, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("chronolens.models.tsm.TSM.forward", broken)
    with pytest.raises(WeightsError, match="the network does not run on a clip of 8 x 64 x 64: ZeroDivisionError: by zero"):
        import_checkpoint(file, store, ImportOptions(clip={"size": 64}))
    assert not store.exists()


def test_nothing_is_written_of_a_negative_alpha(tmp_path, store):
    torch.save(theirs("pyslowfast"), tmp_path / "file.pth")
    with pytest.raises(OptionsError, match="alpha"):
        import_checkpoint(tmp_path / "file.pth", store, ImportOptions(config={"alpha": -4}))
    assert not store.exists()


def test_clips_are_bounded_as_a_whole():
    imported = convert(theirs("authors-i3d"))
    assert clip_spec(imported, frames=128, size=512).frames == 128
    with pytest.raises(OptionsError, match="too many pixels") as refused:
        clip_spec(imported, frames=129, size=512)
    assert (refused.value.limit, refused.value.observed) == (2**25, 129 * 512 * 512)


@pytest.mark.parametrize(
    ("answer", "told"), [([[0.0, 1, 2, 3, math.nan]], "logits that are not finite"), ([[0.0] * 4], r"shape \(1, 4\), not")]
)
def test_the_answer_to_the_golden_clip_is_checked(file, store, monkeypatch, answer, told):
    seen = []
    monkeypatch.setattr("chronolens.models.tsm.TSM.forward", lambda _, clip: seen.append(clip) or torch.tensor(answer))
    with pytest.raises(WeightsError, match=told):
        import_checkpoint(file, store, ImportOptions())
    assert not store.exists()
    assert torch.equal(seen[0], torch.from_numpy(prepare(golden_frames(spec_of("tsm")), spec_of("tsm"))))


def test_weights_that_cannot_be_loaded(file, store, monkeypatch):
    def broken(*_):
        raise RuntimeError("cannot copy\nand more")

    monkeypatch.setattr("chronolens.models.tsm.TSM.load_state_dict", broken)
    with pytest.raises(WeightsError, match=r"the weights do not fit the network: cannot copy$"):
        import_checkpoint(file, store, ImportOptions())
    assert not store.exists()


def test_names(file, store):
    import_checkpoint(file, store, ImportOptions(name="mine"))
    with pytest.raises(OptionsError, match="has a model 'mine' already"):
        import_checkpoint(file, store, ImportOptions(name="mine"))
    import_checkpoint(file, store, ImportOptions(name="mine", replace=True, data_set="again"))
    assert find_record(store, "mine").data_set == "again"
    for name in ("public", "../x", "A", "-x"):
        with pytest.raises(OptionsError, match="a model is named by"):
            import_checkpoint(file, store, ImportOptions(name=name))


@pytest.mark.parametrize(
    "text",
    [
        '["b", "a", "c"]',
        '{"b": 0, "a": 1, "c": 2}',
        '{"b": "0", "a": "1", "c": "2"}',
        '{"0": "b", "2": "c", "1": "a"}',
        '{"\\"b\\"": 0, "a": 1, "c": 2}',
        "b\na\r\n\nc\n",
    ],
)
def test_labels(tmp_path, text):
    (tmp_path / "labels").write_text(text)
    assert read_labels(tmp_path / "labels", 3) == ("b", "a", "c")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a\nb\n", "names 2 classes, the network has 3"),
        ('{"a": 0, "b": 2, "c": 3}', "count from 0 without gaps"),
        ('["a", 1, 2]', "not all class names are text"),
        ("[1", "cannot be read"),
        ('["a", "", "c"]', "names 3 classes"),
        ("a\nb\n a\n", "the class name 'a' comes twice"),
        ('{"0": "a", "1": "b", "2": "a"}', "the class name 'a' comes twice"),
        ('{"a": 0, "a": 1, "c": 2}', "a name or an index comes twice"),
        ('{"a": 0, "b": 1.7, "c": 2}', r"the index 1\.7 is no whole number"),
        ('{"a": 0, "b": true, "c": 2}', "the index True is no whole number"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, text, what):
    (tmp_path / "labels").write_text(text)
    with pytest.raises(WeightsError, match=what):
        read_labels(tmp_path / "labels", 3)
    with pytest.raises(WeightsError, match="missing or too large"):
        read_labels(tmp_path / "nothing", 3)


def test_labels_reach_the_record(file, store, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(list("abcde")))
    record = import_checkpoint(file, store, ImportOptions(labels=tmp_path / "labels.json"))
    assert (record.classes, record.warnings) == (tuple("abcde"), ())


@pytest.fixture
def listed(store):
    """A store whose list has one file of its own."""
    store.mkdir()
    lines = [
        "[public.mine]", 'url = "https://example.org/a/mine.pth"', 'what = "w"', 'licence = "MIT"', 'data_set = "five"', 'labels = "five"',
        'dialect = "tsm"', "clip = {frames = 16}",
    ]  # fmt: skip
    (store / RECORDS).write_text("\n".join(lines))
    return store


def test_a_public_file_brings_its_facts(file, listed):
    (listed / "labels").mkdir()
    (listed / "labels" / "five.txt").write_text("v\nw\nx\ny\nz\n")
    public = find_public(listed, "mine")
    assert public.file == "mine.pth"
    record = import_checkpoint(file, listed, ImportOptions(), public)
    assert (record.name, record.licence, record.data_set, record.clip.frames) == ("mine", "MIT", "five", 16)
    assert record.classes == tuple("vwxyz")
    assert record.source.startswith("https://example.org/a/mine.pth, TSM Kinetics.pth, sha256 ")
    other = import_checkpoint(file, listed, ImportOptions("other", clip={"frames": 4}, licence="none"), public)
    assert (other.clip.frames, other.licence, other.data_set) == (4, "none", "five")


def test_the_public_list_is_no_model_and_is_kept(file, listed):
    assert read_records(listed) == {}
    assert digests(listed) == {}
    record_digest(listed, find_public(listed, "mine"), "ab" * 32)
    import_checkpoint(file, listed, ImportOptions(name="tsm"))
    tables = tomllib.loads((listed / RECORDS).read_text())
    assert tables["public"]["mine"]["sha256"] == "ab" * 32
    assert tables["public"]["mine"]["clip"] == {"frames": 16}
    assert list(read_records(listed)) == list(digests(listed)) == ["tsm"]


def test_a_store_adds_to_the_shipped_list(store):
    shipped = public_files(shipped_store())
    assert public_files(store) == shipped
    record_digest(store, shipped["tsm-r50-8f-ssv2"], "cd" * 32)
    known = public_files(store)
    assert known.keys() == shipped.keys()
    assert known["tsm-r50-8f-ssv2"] == dataclasses.replace(shipped["tsm-r50-8f-ssv2"], sha256="cd" * 32)
    with pytest.raises(UnknownModelError) as refused:
        find_public(store, "nothing")
    assert refused.value.allowed == sorted(shipped)[:20]


@pytest.mark.parametrize("text", ["public = 3", "[public]\nmine = 3", "[public.mine]\ncolour = 1", "[public.mine", "[public.x]\nurl = 'u'"])
def test_a_broken_list_is_refused(store, text):
    store.mkdir()
    (store / RECORDS).write_text(text)
    with pytest.raises(WeightsError, match="cannot be read"):
        public_files(store)


FACTS = "what = ''\nlicence = ''\ndata_set = ''\n"


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ('[public."../../../escape"]\nurl = "https://a/b"', "'../../../escape' is no name"),
        ('[public.".."]\nurl = "https://a/b"', "'..' is no name"),
        ('[public.A]\nurl = "https://a/b"', "'A' is no name"),
        ('[public.a]\nurl = "https://a/"', "the address of 'a' names no file"),
        ('[public.a]\nurl = "https://a/.."', "the address of 'a' names no file"),
        ('[public.a]\nurl = "https://a/."', "the address of 'a' names no file"),
        ("[public.a]\nurl = 'https://a/..\\b'", "the address of 'a' names no file"),
        ("[public.a]\nurl = 3", "url of 'a' is of another type"),
        ('[public.a]\nurl = "https://a/b"\nclip = 3', "clip of 'a' is of another type"),
    ],
)
def test_names_in_the_list_stay_in_their_folder(store, head, told):
    store.mkdir()
    (store / RECORDS).write_text(f"{head}\n{FACTS}")
    with pytest.raises(WeightsError, match="cannot be read: ") as refused:
        public_files(store)
    assert told in refused.value.detail


def test_unknown_clip_settings_are_refused(listed):
    (listed / RECORDS).write_text((listed / RECORDS).read_text().replace("frames = 16", "colour = 1"))
    with pytest.raises(WeightsError, match="unknown clip setting 'colour'"):
        public_files(listed)


def test_the_shipped_list_is_whole():
    for public in public_files(shipped_store()).values():
        assert public.url.startswith("https://")
        assert public.dialect in (*DIALECTS, "auto")
        assert public.labels in ("kinetics-400", "something-something-v2")
        assert public.sha256 == "" or (len(public.sha256) in (8, 64) and public.file.endswith(f"-{public.sha256}.pth"))
        assert set("0123456789abcdef") >= set(public.sha256)


def test_records_are_written_whole_or_not_at_all(store, monkeypatch):
    store.mkdir()
    record = WeightsRecord("a", "tsm", {}, ClipSpec(8, 8, 8), ("x",), "none", "none", "none")
    write_record(record, store)
    before = (store / RECORDS).read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no room")))
    with pytest.raises(OSError, match="no room"):
        write_record(dataclasses.replace(record, name="b"), store)
    assert (store / RECORDS).read_bytes() == before
    assert [path.name for path in store.iterdir()] == [RECORDS]


def test_others_can_read_a_replaced_file(tmp_path):
    replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


OLD = """
[old]
architecture = "tsm"
classes = ["x"]
data_set = ""
licence = ""
source = ""
config = {}
clip = {frames = 8, height = 8, width = 8}
"""


def test_other_records_stay_as_they_are(store):
    store.mkdir()
    record = WeightsRecord("a", "tsm", {}, ClipSpec(8, 8, 8), ("x",), "none", "none", "none")
    (store / RECORDS).write_text(OLD.replace("clip", "film"))
    with pytest.raises(WeightsError, match="cannot be read"):
        write_record(record, store)
    (store / RECORDS).write_text(OLD)
    before = digests(store)["old"]
    write_record(record, store)
    assert digests(store)["old"] == before
    assert tomllib.loads((store / RECORDS).read_text())["old"]["clip"] == {"frames": 8, "height": 8, "width": 8}
