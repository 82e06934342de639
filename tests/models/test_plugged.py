"""Own models: what they get, and that whatever is missing is named."""

import dataclasses
import hashlib
import shutil
import sys
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
import torch
from torch import nn

from chronolens import plugin_names
from chronolens.catalogue import Catalogue, open_model
from chronolens.clips import CellGrid, ClipSpec
from chronolens.engine import Engine
from chronolens.errors import ExportError, OptionsError, PluginError, UnknownLayerError, UnknownModelError, WeightsError
from chronolens.explain import grad_cam
from chronolens.explain.capture import valid_layers
from chronolens.export.run import export
from chronolens.golden import golden_frames
from chronolens.models.plugged import Plugged, code_digest, weights_digest
from chronolens.models.precision import InBfloat16
from chronolens.models.weights import find_record, load_model, write_record
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.plugins import OwnModel, build

SPEC = ClipSpec(4, 8, 12, scale=1 / 255)
CPU = torch.device("cpu")


class Small(nn.Module):
    """A convolution that halves every axis, and a linear layer over the places that it leaves."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 2, stride=2)
        self.body = nn.Sequential(nn.ReLU())
        self.head = nn.Linear(2 * 2 * 4 * 6, 3)

    def forward(self, clip):
        return self.head(self.body(self.conv(clip)).flatten(1))


def small(**changes):
    torch.manual_seed(0)
    fields = {"name": "small", "network": Small(), "clip": SPEC, "classes": ("a", "b", "c"), "layers": ("conv", "body")}
    return OwnModel(**{**fields, **changes})


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a module of somebody else's and return the plugin in it, named for this process."""

    def write(text, name="theirs", function="build"):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setenv("CHRONOLENS_PLUGINS", f"{name}:{function}")
        return f"{name}:{function}"

    return write


OWN = """
import torch
from torch import nn
from chronolens.clips import ClipSpec
from chronolens.plugins import OwnModel

class Net(nn.Sequential):
    pass

def build():
    torch.manual_seed(0)
    network = Net(nn.Conv3d(3, 2, 2, stride=2), nn.Flatten(), nn.Linear(2 * 2 * 4 * 6, 3))
    return OwnModel("theirs", network, ClipSpec(4, 8, 12, scale=1 / 255), ("a", "b", "c"), layers=("0",))
"""


# ---- what an own model gets


def test_everything_of_one_model_with_a_forward_only(tmp_path):
    engine = Engine(tmp_path, "cpu", own=[small()])
    (info,) = engine.models()
    assert (info.methods, info.layers, info.default_layers) == (["gradcam", "freeze", "reverse"], ["conv", "body"], ["body"])
    assert (info.stages, info.architecture) == ({"conv": ["conv"], "body": ["body"]}, "Small")
    frames = golden_frames(SPEC)
    arrays, facts = engine.look("small", frames, target=None, gradcam=GradCamOptions(layers="all"))
    assert set(arrays) == {"scores", "map/conv", "map/body"}
    assert arrays["map/conv"].shape == (2, 4, 6)
    assert arrays["scores"].sum() == pytest.approx(1)
    assert facts["cells"]["conv"] == {"stride": (2.0, 2.0, 2.0), "first": (1.0, 1.0, 1.0), "frames": None}
    for preset in ("default", "exhaustive"):
        learned = {"state": None, "done": False}
        while not learned["done"]:
            learned = engine.learn(
                "small", frames, facts["target"], "freeze", MaskOptions(preset=preset), learned["state"], max_steps=25, budget_s=60
            )
        values = learned["learned"]["values"]
        assert len(values) == 4
        scored = engine.score("small", frames, facts["target"], {"freeze": values}, MaskOptions(preset=preset))
        assert scored["soft"]["original"] == pytest.approx(float(arrays["scores"][facts["target"]]))


def test_the_heat_map_is_the_gradient_that_autograd_gives(tmp_path):
    own = small()
    engine = Engine(tmp_path, "cpu", own=[own])
    frames = golden_frames(SPEC)
    arrays, _ = engine.look("small", frames, target=1, gradcam=GradCamOptions(layers=["conv"]))
    clip = torch.from_numpy(frames.astype(np.float32) / 255).permute(3, 0, 1, 2)[None]
    maps = own.network.conv(clip).detach().requires_grad_()
    (slope,) = torch.autograd.grad(own.network.head(torch.relu(maps).flatten(1))[0, 1], maps)
    expected = torch.relu((slope.mean(dim=(3, 4), keepdim=True) * maps).sum(1))[0]
    np.testing.assert_allclose(arrays["map/conv"], expected.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_names_are_those_of_the_module_and_survive_the_adapter():
    network = Plugged(Small(), {"conv": (2, 4, 6)}, "conv")
    names = dict(network.named_modules())
    assert list(names) == ["", "conv", "body", "body.0", "head"]
    assert names["conv"] is network.network.conv
    assert [name for name, _ in network.named_parameters()][:2] == ["conv.weight", "conv.bias"]
    assert valid_layers(network, (3, 4, 8, 12)) == ["conv", "body.0", "body"]
    assert InBfloat16(network)(torch.rand(2, 3, 4, 8, 12)).dtype == torch.float32


def test_cells_divide_the_clip_evenly():
    network = Plugged(Small(), {"conv": (2, 4, 3)})
    assert network.cell_grid("conv", 4, 8, 12) == CellGrid((2, 2, 4), (1, 1, 2))


def test_layers_with_time_first_are_read_so(tmp_path):
    class TimeFirst(Small):
        def __init__(self):
            super().__init__()
            self.swap = nn.Identity()

        def forward(self, clip):
            return self.head(self.swap(self.conv(clip).transpose(1, 2)).transpose(1, 2).flatten(1))

    own = small(network=TimeFirst(), layers=("swap", "conv"), time_first_layers=("swap",), default_layer="swap")
    engine = Engine(tmp_path, "cpu", own=[own])
    arrays, _ = engine.look("small", golden_frames(SPEC), target=0, gradcam=GradCamOptions(layers=["swap", "conv"]))
    assert engine.describe("small").default_layers == ["swap"]
    np.testing.assert_allclose(arrays["map/swap"], arrays["map/conv"], rtol=1e-6)


def test_a_network_that_wants_to_view_gets_a_clip_that_allows_it():
    class Viewing(Small):
        def forward(self, clip):
            return super().forward(clip.view(len(clip), 3, 4, 96).view(clip.shape))

    network = Plugged(Viewing(), {})
    orders = torch.tensor([[3, 2, 1, 0], [0, 1, 2, 3]])
    assert network.logits_of_orders(torch.rand(1, 3, 4, 8, 12), orders).shape == (2, 3)


def test_a_video_network_is_used_as_it_is(tiny_store, tmp_path):
    record = find_record(tiny_store, "tiny-i3d")
    network = load_model(record, tiny_store)
    own = OwnModel("same", network, record.clip, record.classes)
    found, opened = Catalogue(tmp_path, [own]).open("same")
    assert opened is network
    assert found.config == {"layers": (), "default_layer": "", "time_first_layers": ()}
    ours, theirs = Engine(tiny_store, "cpu").describe("tiny-i3d"), Engine(tmp_path, "cpu", own=[own]).describe("same")
    assert (theirs.layers, theirs.default_layers, theirs.stages) == (ours.layers, ours.default_layers, ours.stages)


def test_without_layers_there_is_no_grad_cam_and_all_the_rest(tmp_path):
    engine = Engine(tmp_path, "cpu", own=[small(layers=())])
    assert engine.describe("small").methods == ["freeze", "reverse"]
    assert engine.look("small", golden_frames(SPEC), target=None, gradcam=None)[0]["scores"].shape == (3,)
    with pytest.raises(OptionsError) as caught:
        engine.look("small", golden_frames(SPEC), target=None, gradcam=GradCamOptions())
    assert (caught.value.code, caught.value.allowed) == ("method-unavailable", ["freeze", "reverse"])


def test_layers_that_were_not_named_are_refused(tmp_path):
    engine = Engine(tmp_path, "cpu", own=[small(layers=("conv",))])
    with pytest.raises(UnknownLayerError) as caught:
        engine.look("small", golden_frames(SPEC), target=None, gradcam=GradCamOptions(layers=["body"]))
    assert caught.value.allowed == ["conv"]


def test_what_fails_in_bfloat16_is_learned_in_float32(tmp_path, monkeypatch, caplog):
    class Float32Only(Small):
        def forward(self, clip):
            return super().forward(clip + torch.zeros(1)) if clip.dtype == torch.float32 else nn.functional.linear(clip, torch.eye(12))

    monkeypatch.setenv("CHRONOLENS_PRECISION", "bfloat16")
    engine = Engine(tmp_path, "cpu", own=[small(), small(name="rough", network=Float32Only())])
    assert isinstance(engine.load("small").learner, InBfloat16)
    loaded = engine.load("rough")
    assert loaded.learner is loaded.network
    assert "learned in float32" in caplog.text
    learned = engine.learn("rough", golden_frames(SPEC), 0, "freeze", MaskOptions(steps=1), None, max_steps=25, budget_s=60)
    assert learned["state"]["dtype"] == "float32"


# ---- what makes it another model


def test_the_digest_is_that_of_the_tensors():
    one, other = small().network, small().network
    assert weights_digest(one) == weights_digest(other)
    with torch.no_grad():
        other.head.bias[1] += 1e-6
    assert weights_digest(one) != weights_digest(other)
    assert weights_digest(one) != weights_digest(small().network.double())
    layer = nn.Linear(2, 3)
    assert weights_digest(nn.Sequential(layer)) != weights_digest(nn.Sequential(nn.Identity(), layer))  # another name


@pytest.mark.parametrize(
    "change",
    [{"classes": ("a", "b", "d")}, {"clip": dataclasses.replace(SPEC, scale=1.0)}, {"layers": ("conv",)}, {"warnings": ("careful",)}],
)
def test_the_record_is_that_of_weights_labels_preparation_and_layers(tmp_path, change):
    same, before, after = (Catalogue(tmp_path, [one]).digests()["small"] for one in (small(), small(), small(**change)))
    assert same == before != after


def test_other_code_with_the_same_weights_is_another_record(tmp_path, plugin, monkeypatch):
    plugin(OWN)
    before = Catalogue(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs")
    plugin(OWN.replace("    pass", "    def forward(self, clip):\n        return 2 * super().forward(clip)"))
    after = Catalogue(tmp_path)
    assert before.open("theirs")[0].sha256 == after.open("theirs")[0].sha256
    assert before.digests() != after.digests()


def test_code_that_cannot_be_read_is_known_by_its_name(tmp_path, plugin, monkeypatch):
    plugin(OWN)
    Catalogue(tmp_path)
    monkeypatch.setattr(sys.modules["theirs"], "__file__", str(tmp_path / "packed.zip" / "theirs.py"))
    network = sys.modules["theirs"].build().network
    assert code_digest(network) == hashlib.sha256(b"theirs\0\0").hexdigest()


# ---- what is wrong with one that cannot be served


class Broken(Small):
    """Small, but for what is done to its logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, clip):
        return self.change(super().forward(clip))


def takes_frames(clip):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (takes_frames, r"its forward does not take clips \(N, 3, T, H, W\) of shape \(2, 3, 4, 8, 12\): RuntimeError: mat1 and mat2"),
        (lambda logits: {"logits": logits}, r"its forward returns a dict, not a tensor of logits \(2, 3\)"),
        (lambda logits: logits[:, :2], r"its forward returns \(2, 2\) for 2 clips, not \(2, 3\), one logit for each of its classes"),
        (lambda logits: logits.mean(0), r"its forward returns \(3,\) for 2 clips"),
        (lambda logits: logits / 0, "its logits of the golden clip are not all finite float32 numbers"),
        (lambda logits: logits.double(), "not all finite float32 numbers but torch.float64"),
        (lambda logits: nn.functional.dropout(logits, training=True), "answers the same clip differently each time; is there dropout"),
        (lambda logits: logits - logits.mean(0), "its logits for a clip depend on the other clips of the batch"),
        (lambda logits: logits.softmax(1), "its forward returns probabilities, not logits"),
        (lambda logits: sys.exit("bye"), "its forward does not take clips .*: SystemExit: bye; it ends the program"),
        (lambda logits: logits.detach(), "its logits have no finite gradient by the clip; is there a detach"),
    ],
)
def test_what_a_forward_lacks_is_named(tmp_path, change, words):
    with pytest.raises(PluginError, match=words) as caught:
        Catalogue(tmp_path, [small(network=Broken(change))]).open("small")
    assert caught.value.code == "plugin-invalid"
    assert caught.value.detail.startswith("the model small: ")


@pytest.mark.parametrize("change", [lambda clip: clip.sub_(0.5), lambda clip: clip.mul_(2), lambda clip: clip.squeeze_().unsqueeze_(-1)])
def test_a_network_that_changes_its_clip_is_told_so(tmp_path, change):
    class InPlace(Small):
        def forward(self, clip):
            logits = super().forward(clip)
            change(clip)
            return logits

    with pytest.raises(PluginError, match="its forward changes the clip that it is given in place; let it work on a copy"):
        Catalogue(tmp_path, [small(network=InPlace())]).open("small")


def test_a_network_that_works_in_place_and_changes_nothing_has_no_gradient(tmp_path):
    class Clamping(Small):
        def forward(self, clip):
            return super().forward(clip.clamp_(-9, 9))

    with pytest.raises(PluginError, match="its logits have no gradient by the clip: RuntimeError: a leaf Variable"):
        Catalogue(tmp_path, [small(network=Clamping())]).open("small")


def test_nobody_else_than_the_user_interrupts(tmp_path, plugin):
    plugin("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Catalogue(tmp_path)


def test_a_parameter_without_a_shape_is_named(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(PluginError, match=r"the model small: its parameter '1.bias' is not initialised"):
        Catalogue(tmp_path, [small(network=network, layers=())])
    network(torch.rand(1, 3, 4, 8, 12))
    assert Catalogue(tmp_path, [small(network=network, layers=())]).open("small")[0].sha256


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiler", [lambda network: torch.jit.trace(network, torch.rand(2, 3, 4, 8, 12)), torch.jit.script])
def test_what_was_traced_or_scripted_predicts_and_cannot_be_mapped(tmp_path, compiler):
    traced = compiler(Small().eval())
    assert [name for name, _ in Plugged(traced, {}).named_parameters()] == [name for name, _ in Small().named_parameters()]
    with pytest.raises(PluginError, match=r"its layer 'conv' is a torch.jit.ScriptModule, which supports no hooks"):
        Catalogue(tmp_path, [small(network=traced)]).open("small")
    engine = Engine(tmp_path, "cpu", own=[small(network=traced, layers=())])
    assert engine.describe("small").methods == ["freeze", "reverse"]
    assert engine.look("small", golden_frames(SPEC), target=None, gradcam=None)[0]["scores"].shape == (3,)


def test_a_compiled_network_has_other_names(tmp_path):
    compiled = torch.compile(Small(), backend="eager")
    with pytest.raises(PluginError, match=r"it has no layer 'conv': torch.compile has put '_orig_mod.' before .* before compiling"):
        Catalogue(tmp_path, [small(network=compiled)]).open("small")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (("konv",), "The model has no layer 'konv'. Nearest: conv"),
        (("conv", "head"), r"its layer 'head' returns \(2, 3\); a heat map needs \(N, C, T', H', W'\) for 2 clips"),
        (("unused",), "Layer 'unused' has no single output tensor to explain: it ran 0 times"),
        (("aside",), "The scores do not depend on layer 'aside'"),
    ],
)
def test_what_a_layer_lacks_is_named(tmp_path, layers, words):
    class Odd(Small):
        def __init__(self):
            super().__init__()
            self.unused, self.aside = nn.Identity(), nn.Identity()

        def forward(self, clip):
            self.aside(clip)
            return super().forward(clip)

    with pytest.raises(PluginError, match=words):
        Catalogue(tmp_path, [small(network=Odd(), layers=layers)]).open("small")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a/b"}, "letters, digits, dot, dash and underscore"),
        ({"network": lambda clip: clip}, "its network is a function, not a torch.nn.Module"),
        ({"clip": (4, 8, 12)}, "its clip is a tuple, not a chronolens.clips.ClipSpec"),
        ({"layers": ("conv", "all")}, "its layer 'all' has a name that has a meaning of its own"),
        ({"layers": ("default",)}, "its layer 'default' has a name"),
        ({"classes": "abc"}, "its classes are not a sequence of words"),
        ({"classes": ("a", 1, 2)}, "its classes are not a sequence of words"),
        ({"classes": ("a", "b", "a")}, "one of its classes comes twice"),
        ({"classes": ("a",)}, "fewer than two classes"),
        ({"layers": "conv"}, "its layers are not a sequence of words"),
        ({"default_layer": "head"}, "'head' is not among its layers conv, body"),
        ({"layers": (), "time_first_layers": ("conv",)}, r"'conv' is not among its layers \(it names none\)"),
        ({"metrics": {"f1": "high"}}, "its metrics are not all numbers"),
    ],
)
def test_what_is_said_of_a_model_is_checked(change, words):
    with pytest.raises(PluginError, match=words):
        small(**change)


def test_a_video_network_names_its_layers_itself(tiny_store, tmp_path):
    network = load_model(find_record(tiny_store, "tiny-i3d"), tiny_store)
    own = small(network=network, layers=("Mixed_5c",), clip=find_record(tiny_store, "tiny-i3d").clip)
    with pytest.raises(PluginError, match="names its layers itself; leave layers out"):
        Catalogue(tmp_path, [own]).open("small")


# ---- where they come from


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nowhere:build", "", "the plugin nowhere:build cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("theirs:build", "1 / 0", "the plugin theirs:build cannot be imported: ZeroDivisionError: division by zero"),
        ("theirs:build", "model = 1", "the plugin theirs:build: the module theirs has no function build"),
        ("theirs:build", "build = 1", "the module theirs has no function build"),
        ("theirs:build", "def build(): raise ValueError('no weights')", "the plugin theirs:build failed: ValueError: no weights"),
        ("theirs:build", "import sys; sys.exit(3)", "the plugin theirs:build cannot be imported: SystemExit: 3; it ends the program"),
        (
            "theirs:build",
            "import argparse\ndef build(): argparse.ArgumentParser().parse_args(['--port'])",
            "the plugin theirs:build failed: SystemExit: 2; .* argparse.parse_args",
        ),
        ("theirs:build", "def build(size): return size", "the plugin theirs:build failed: TypeError"),
        ("theirs:build", "def build(): return 3", "returned a int, not a chronolens.plugins.OwnModel or a list of them"),
        ("theirs:build", OWN.replace('"theirs"', '"their model"'), "the plugin theirs:build: a model's name has letters"),
    ],
)
def test_what_a_plugin_lacks_is_named(plugin, name, text, words):
    plugin(text)
    with pytest.raises(PluginError, match=words):
        build(name)


def test_a_name_that_is_taken_is_an_error_that_names_both(tiny_store, tmp_path, plugin):
    plugin(OWN.replace('"theirs"', '"tiny-i3d"'))
    with pytest.raises(PluginError, match=r"tiny-i3d of the plugin theirs:build has the name of one of the model store .*; rename it"):
        Catalogue(tiny_store)
    plugin(OWN.replace("return OwnModel", "return 2 * [OwnModel").replace('layers=("0",))', 'layers=("0",))]'))
    with pytest.raises(PluginError, match="theirs of the plugin theirs:build has the name of one of theirs:build"):
        Catalogue(tmp_path)


def test_several_models_of_one_plugin_beside_the_store(tiny_store, plugin):
    second = 'OwnModel("second", network, ClipSpec(4, 8, 12), ("x", "y", "z"))'
    plugin(OWN.replace("return OwnModel", f"return {second}, OwnModel"))
    catalogue = Catalogue(tiny_store)
    assert catalogue.names() == ["tiny-clstm", "tiny-i3d", "second", "theirs"]
    assert catalogue.open("second")[0].classes == ("x", "y", "z")
    assert catalogue.open("tiny-i3d")[0].plugin == ""
    with pytest.raises(UnknownModelError) as caught:
        catalogue.open("third")
    assert "theirs" in caught.value.allowed


def test_installed_plugins_are_found_unless_told_otherwise(monkeypatch):
    installed = EntryPoints([EntryPoint("b", "pack.b:make", "chronolens.models"), EntryPoint("a", "pack.a:make", "chronolens.models")])
    monkeypatch.setattr(plugin_names, "entry_points", lambda group: installed.select(group=group))
    assert plugin_names.named() == ["pack.a:make", "pack.b:make"]
    monkeypatch.setenv("CHRONOLENS_PLUGINS", " mine:build, pack.b:make")
    assert plugin_names.named() == ["mine:build", "pack.b:make", "pack.a:make"]
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "none,mine:build")
    assert plugin_names.named() == ["mine:build"]
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "none")
    assert plugin_names.named() == []


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(1)",
        "1 / 0",
        OWN.replace('"theirs"', '"tiny-i3d"'),
        OWN.replace("nn.Linear(2 * 2 * 4 * 6, 3)", "nn.LazyLinear(3)"),
        OWN.replace("return OwnModel", "return 2 * [OwnModel").replace('layers=("0",))', 'layers=("0",))]'),
    ],
)
def test_an_installed_plugin_that_fails_is_left_out_and_a_named_one_is_an_error(tiny_store, plugin, monkeypatch, caplog, text):
    plugin(text)
    installed = EntryPoints([EntryPoint("x", "theirs:build", "chronolens.models"), EntryPoint("y", "no_function", "chronolens.models")])
    monkeypatch.setattr(plugin_names, "entry_points", lambda group: installed.select(group=group))
    with pytest.raises(PluginError):
        Catalogue(tiny_store)
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "")
    caplog.clear()
    assert Catalogue(tiny_store).names() == ["tiny-clstm", "tiny-i3d"]
    wrong, failed = (record.getMessage() for record in caplog.records)
    assert wrong.startswith("the installed plugin no_function is left out, it is not written module:function")
    assert failed.startswith("the installed plugin theirs:build is left out: ")
    assert "CHRONOLENS_PLUGINS=none" in wrong
    assert "CHRONOLENS_PLUGINS=none" in failed
    monkeypatch.setenv("CHRONOLENS_PLUGINS", "none")
    caplog.clear()
    assert Catalogue(tiny_store).names() == ["tiny-clstm", "tiny-i3d"]
    assert not caplog.records


@pytest.mark.parametrize("wrong", ["mine", "mine:", ":build", "mine.py:build()", "../mine:build", "a:b:c"])
def test_what_is_no_name_of_a_plugin_is_refused(monkeypatch, wrong):
    monkeypatch.setenv("CHRONOLENS_PLUGINS", wrong)
    with pytest.raises(PluginError, match="a plugin is written module:function"):
        plugin_names.named()


# ---- artefacts


@pytest.fixture
def archive(tmp_path, plugin):
    """A store that only names a plugin, as archives for model servers do."""
    name = plugin(OWN)
    record, _ = open_model("theirs", tmp_path)
    assert record.plugin == name
    store = tmp_path / "archive"
    store.mkdir()
    write_record(record, store)
    return store


def test_a_record_that_names_a_plugin_is_opened_by_it(archive, tmp_path):
    record, network = Catalogue(archive, own=()).open("theirs")
    assert record == open_model("theirs", tmp_path)[0]
    assert isinstance(network, Plugged)
    assert Catalogue(archive).names() == ["theirs"]


def test_a_store_alone_runs_nobodys_code(archive, monkeypatch):
    monkeypatch.delenv("CHRONOLENS_PLUGINS")
    monkeypatch.delitem(sys.modules, "theirs")
    with pytest.raises(PluginError, match="the plugin theirs:build, which is neither installed nor named in CHRONOLENS_PLUGINS"):
        Catalogue(archive).open("theirs")
    assert "theirs" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("manual_seed(0)", "manual_seed(1)", "weights"),
        ('("a", "b", "c")', '("a", "b", "d")', "classes"),
        ("scale=1 / 255", "scale=2 / 255", "clip"),
        ('layers=("0",)', 'layers=("1",)', "layers"),
    ],
)
def test_a_plugin_that_has_changed_since_is_refused(archive, plugin, monkeypatch, old, new, what):
    monkeypatch.delitem(sys.modules, "theirs")
    plugin(OWN.replace(old, new))
    with pytest.raises(WeightsError, match=f"now brings other {what} for theirs") as caught:
        Catalogue(archive).open("theirs")
    assert caught.value.code == "weights-changed"


def test_a_plugin_that_lost_the_model_is_refused(archive, plugin, monkeypatch):
    monkeypatch.delitem(sys.modules, "theirs")
    plugin(OWN.replace('"theirs"', '"others"'))
    with pytest.raises(PluginError, match="the plugin theirs:build brings no model theirs, only others"):
        Catalogue(archive, own=()).open("theirs")


@pytest.mark.parametrize("kind", ["onnx", "mar", "triton"])
def test_every_kind_of_artefact_is_made_of_an_own_model(kind, tmp_path, plugin):
    plugin(OWN)
    folder, manifest = export(kind, "theirs", tmp_path)
    assert (manifest.kind, manifest.classes) == (kind, ["a", "b", "c"])
    assert manifest.record == Catalogue(tmp_path).digests()["theirs"]
    assert not list(folder.rglob("*.safetensors"))
    assert manifest.parity.max_logit_difference < 1e-5


def test_an_artefact_needs_a_layer(tmp_path, plugin):
    plugin(OWN.replace(', layers=("0",)', ""))
    with pytest.raises(ExportError, match="theirs names no layers"):
        export("onnx", "theirs", tmp_path)


def test_the_store_keeps_its_models_without_plugins(tiny_store, tmp_path):
    store = shutil.copytree(tiny_store, tmp_path / "store", ignore=shutil.ignore_patterns("exports"))
    record, network = open_model("tiny-i3d", store)
    clip = torch.rand(1, 3, 8, 32, 32)
    torch.testing.assert_close(network(clip), load_model(record, store)(clip))
    assert grad_cam.heat_maps(network, clip, None).maps.keys() == {"Mixed_5c"}
