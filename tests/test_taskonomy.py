"""The Taskonomy encoder against an independent implementation, its checkpoints, and layers of other networks."""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models import taskonomy
from models.networks import LayerOutputs, describe_layers, load_network
from models.taskonomy import TaskonomyEncoder, load_encoder, optimise, random_encoder
from models.tasks import TASKS
from utils import InputError

RGB, GREY = "edge2d", "colorization"
N_PARAMETERS = {3: 23_655_504, 1: 23_649_232}


def trained_like(in_channels: int = 3, seed: int = 0) -> TaskonomyEncoder:
    """Random weights, and batch norms that are not identities."""
    encoder = random_encoder(in_channels, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return encoder


def write_synthetic_checkpoint(task: str, folder: Path, seed: int = 0, **extra: object) -> Path:
    """A file in the published format with random weights; its name ends in its own digest."""
    chosen = taskonomy._task(task)
    path = folder / "unnamed.pth"
    torch.save({"state_dict": trained_like(chosen.input_channels, seed).state_dict(), **extra}, path)
    return rename(path, task)


def rename(path: Path, task: str) -> Path:
    prefix = taskonomy._task(task).checkpoint.partition("-")[0]
    return path.rename(path.with_name(f"{prefix}-{digest(path)}.pth"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, *files: tuple[str, Path]) -> None:
    """Pretend that these files are the published checkpoints of their tasks."""
    table = {task: {"sha256": digest(path), "checkpoint": path.name} for task, path in files}
    tasks = tuple(dataclasses.replace(task, **table.get(task.key, {})) for task in TASKS)
    monkeypatch.setattr(taskonomy, "TASKS", tasks)


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Torch hub's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Synthetic checkpoints of two tasks; to be read only."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, task in enumerate((RGB, GREY)):
        write_synthetic_checkpoint(task, folder, seed)
    return folder


def file_of(task: str, folder: Path) -> Path:
    return next(folder.glob(f"{taskonomy._task(task).checkpoint.partition('-')[0]}-*.pth"))


@pytest.fixture(scope="module")
def encoder() -> TaskonomyEncoder:
    return trained_like()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ------------------------------------------------------------------------------------------------------ architecture


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.slow
def test_equals_the_independent_implementation(encoder, images):
    visualpriors = pytest.importorskip("visualpriors.taskonomy_network")
    other = visualpriors.TaskonomyEncoder(normalize_outputs=False)
    other.load_state_dict(encoder.state_dict())
    block4 = []
    other.layer4.register_forward_hook(lambda module, inputs, output: block4.append(output.clone()))
    expected = other(images)
    found = LayerOutputs(encoder, ["block4", "encoder_output"])(images)
    assert relative_difference(found["block4"], block4[0]) < 1e-5
    assert relative_difference(found["encoder_output"], expected) < 1e-5
    assert relative_difference(encoder(images), expected) < 1e-5
    assert 0.2 < (expected == 0).float().mean() < 0.8  # the comparison is not one of zeros


@pytest.mark.parametrize("in_channels", [3, 1])
def test_number_of_parameters_and_keys(in_channels):
    encoder = TaskonomyEncoder(in_channels)
    assert sum(p.numel() for p in encoder.parameters()) == N_PARAMETERS[in_channels]
    assert sum(b.numel() for b in encoder.buffers()) == 53_190
    state = encoder.state_dict()
    assert len(state) == 324
    assert state["conv1.weight"].shape == (64, in_channels, 7, 7)
    assert state["layer3.0.downsample.0.weight"].shape == (1024, 512, 1, 1)
    assert not any(key.startswith(("layer1.2.downsample", "layer2.3.downsample")) for key in state)
    assert state["compress1.weight"].shape == (8, 2048, 3, 3)


@pytest.mark.slow
def test_shapes_of_layers(encoder, images):
    shapes = {
        "conv1": (64, 128, 128), "maxpool": (64, 64, 64), "layer1.1": (256, 64, 64), "layer1": (256, 32, 32),
        "layer2": (512, 16, 16), "layer3": (1024, 16, 16), "layer4": (2048, 16, 16), "block4": (2048, 16, 16),
        "compress1": (8, 16, 16), "encoder_output": (8, 16, 16),
    }  # fmt: skip
    found = LayerOutputs(encoder, list(shapes))(images)
    assert {layer: tuple(values.shape[1:]) for layer, values in found.items()} == shapes
    assert list(found) == list(shapes)
    assert torch.equal(found["layer4"], found["block4"])


@pytest.mark.slow
def test_optimised_encoder_has_the_same_features(encoder, images):
    layers = ["layer2", "block4", "encoder_output"]
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    expected = LayerOutputs(encoder, layers)(images)
    fast = optimise(encoder)
    found = LayerOutputs(fast, layers)(images.to(memory_format=torch.channels_last))
    for layer in layers:
        assert relative_difference(found[layer], expected[layer]) < 1e-4
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert fast.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert len(optimise(fast).state_dict()) == len(fast.state_dict())


@pytest.mark.slow
def test_optimise_keeps_convolutions_that_are_asked_for(encoder, images):
    layers = ["conv1", "layer3.0.downsample.0", "layer4.1.conv2", "layer4.1.bn2", "compress1"]
    expected = LayerOutputs(encoder, layers)(images)
    found = LayerOutputs(optimise(encoder, layers), layers)(images)
    for layer in layers:
        assert relative_difference(found[layer], expected[layer]) < 1e-4


# ----------------------------------------------------------------------------------------------------------- untrained


def test_random_depends_on_its_seed_only():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = load_encoder("random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = load_encoder("random", seed=3), load_encoder("random", seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert not first.training and not any(p.requires_grad for p in first.parameters())


def test_random_has_the_variance_that_is_stated(images):
    encoder = random_encoder()
    assert float(encoder.layer4[0].conv2.weight.var()) == pytest.approx(2 / (9 * 512), rel=0.01)
    assert float(encoder.compress1.weight.var()) == pytest.approx(2 / (9 * 2048), rel=0.02)
    found = encoder(images)
    assert torch.isfinite(found).all() and found.std() > 0


# ------------------------------------------------------------------------------------------------------------ loading


@pytest.mark.slow
@pytest.mark.parametrize(("task", "seed", "in_channels"), [(RGB, 0, 3), (GREY, 1, 1)])
def test_synthetic_checkpoint_loads(checkpoints, monkeypatch, task, seed, in_channels):
    publish(monkeypatch, (task, file_of(task, checkpoints)))
    loaded = load_encoder(task, checkpoints)
    expected = trained_like(in_channels, seed).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.conv1.in_channels == in_channels


def test_folder_goes_before_the_cache(checkpoints, monkeypatch, hub, tmp_path):
    path = file_of(RGB, checkpoints)
    publish(monkeypatch, (RGB, path))
    monkeypatch.setattr("models.checkpoints.checkpoint_address", lambda *_: f"nowhere/{path.name}")
    with pytest.raises(InputError, match=rf"download nowhere/{path.name} by hand, save it as {hub / path.name}"):
        load_encoder(RGB)
    (hub / path.name).symlink_to(path)
    task = taskonomy._task(RGB)
    assert taskonomy.find_checkpoint(task) == hub / path.name
    assert taskonomy.find_checkpoint(task, tmp_path) == hub / path.name
    assert taskonomy.find_checkpoint(task, checkpoints) == path


def test_unverified_weights_stand_in(checkpoints):
    with pytest.raises(InputError, match=r"is not the published checkpoint of task 'edge2d'"):
        load_encoder(RGB, checkpoints)
    loaded = load_encoder(RGB, checkpoints, verify=False)
    assert torch.equal(loaded.conv1.weight, trained_like(3, 0).conv1.weight)


def test_unknown_task_and_folder():
    with pytest.raises(InputError, match=r"unknown task 'edges'; there are autoencoder, .*random"):
        load_encoder("edges")
    with pytest.raises(
        InputError, match=r"no-such-folder: is not a folder; give the one that contains edge_texture_encoder"
    ):
        load_encoder(RGB, Path("no-such-folder"))
    with pytest.raises(InputError, match="untrained network"):
        taskonomy.find_checkpoint(taskonomy._task("random"))


# --------------------------------------------------------------------------------------------- checkpoints refused


def test_flipped_byte_is_refused_before_anything_is_read(checkpoints, monkeypatch, tmp_path):
    path = file_of(RGB, checkpoints)
    publish(monkeypatch, (RGB, path))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / path.name).write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("was read"))
    with pytest.raises(InputError, match=rf"has SHA-256 [0-9a-f]{{64}}, so it is damaged.*expected {digest(path)}"):
        load_encoder(RGB, tmp_path)


def test_checkpoint_of_another_task_is_refused(checkpoints, monkeypatch, tmp_path):
    rgb, grey = file_of(RGB, checkpoints), file_of(GREY, checkpoints)
    publish(monkeypatch, (RGB, rgb), (GREY, grey))
    (tmp_path / rgb.name).symlink_to(grey)
    with pytest.raises(InputError, match=f"has SHA-256 {digest(grey)}, .*; expected {digest(rgb)};"):
        load_encoder(RGB, tmp_path)
    with pytest.raises(
        InputError,
        match=r"3 input channel.*conv1.weight: .*\(\[64, 1, 7, 7\]\) from checkpoint, .*\(\[64, 3, 7, 7\]\)",
    ):
        load_encoder(RGB, tmp_path, verify=False)


def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, match: str) -> None:
    """A file with this content, verified, is refused."""
    path = tmp_path / "unnamed.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    path = rename(path, RGB)
    publish(monkeypatch, (RGB, path))
    with pytest.raises(InputError, match=match) as caught:
        load_encoder(RGB, tmp_path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_keys_and_shapes_are_those_of_the_encoder(tmp_path, monkeypatch, encoder):
    state = encoder.state_dict()
    del state["layer2.1.conv3.weight"]
    state["fc.weight"] = torch.zeros(3)
    state["compress_bn.bias"] = torch.zeros(9)
    refuse(
        tmp_path,
        monkeypatch,
        {"state_dict": state},
        r"'edge2d', .*Missing.*layer2.1.conv3.weight.*Unexpected.*fc.weight.*mismatch for compress_bn.bias: .*\[9\]",
    )


def test_many_wrong_keys_are_shortened(tmp_path, monkeypatch):
    refuse(tmp_path, monkeypatch, {"state_dict": {"a": torch.zeros(1)}}, r'Missing.*"conv1.weight", .{100,350} \.\.\.$')


def test_weights_are_finite(tmp_path, monkeypatch, encoder):
    state = dict(encoder.state_dict())
    state["conv1.weight"] = torch.full_like(state["conv1.weight"], float("nan"))
    refuse(tmp_path, monkeypatch, {"state_dict": state}, "contains NaN or inf in conv1.weight")


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_objects_are_never_run(tmp_path, monkeypatch, legacy):
    path = tmp_path / "unnamed.pth"
    content = {"state_dict": {}, "x": Harmful(tmp_path / "harm")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refuse(tmp_path, monkeypatch, path.read_bytes(), r"refused, since it asks for '(posix|nt)\.mkdir'")
    assert not (tmp_path / "harm").exists()
    with pytest.raises(InputError, match="refused"):
        load_encoder(RGB, tmp_path, verify=False)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not a readable checkpoint"),
        (b"<html>not found</html>", "is not a readable checkpoint"),
        ([1, 2], "found list, expected a dictionary with tensors under 'state_dict'"),
        ({"model": {}, "epoch": 3}, "found keys model, epoch, expected"),
        ({"state_dict": {"conv1.weight": [1.0]}}, "expected a dictionary with tensors"),
    ],
)
def test_other_files_are_refused(tmp_path, monkeypatch, content, match):
    refuse(tmp_path, monkeypatch, content, match)


@pytest.mark.slow
def test_counters_of_batches_may_be_missing(tmp_path, monkeypatch, encoder):
    state = {key: value for key, value in encoder.state_dict().items() if "num_batches" not in key}
    torch.save({"state_dict": state}, tmp_path / "unnamed.pth", _use_new_zipfile_serialization=False)
    path = rename(tmp_path / "unnamed.pth", RGB)
    publish(monkeypatch, (RGB, path))
    loaded = load_encoder(RGB, tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert loaded["bn1.num_batches_tracked"] == 0


# ---------------------------------------------------------------------------------------------- layers, other networks


def test_unknown_layer_lists_those_there_are(encoder):
    with pytest.raises(InputError, match=r"no layer 'blok4' \(did you mean block4\?\); there are block4, encoder_outp"):
        LayerOutputs(encoder, ["blok4"])
    network = load_network("resnet18")
    with pytest.raises(
        InputError, match=r"ResNet has no layer 'block4'.*there are conv1, bn1, .* more \(see `list_layers`\)$"
    ):
        LayerOutputs(network, ["layer1", "block4"])


def test_layers_of_torchvision_networks_are_not_overwritten():
    """ResNet adds and rectifies in place: without care, `bn2` would be returned after both."""
    network = load_network("resnet18", seed=1)
    outputs, handles = {}, []
    for name in ("layer1.0.bn1", "layer1.0.bn2", "layer2"):
        hook = lambda module, inputs, output, name=name: outputs.update({name: output.clone()})  # noqa: E731
        handles.append(network.get_submodule(name).register_forward_hook(hook))
    images = torch.rand(2, 3, 64, 64)
    network(images)
    for handle in handles:
        handle.remove()  # tracing would call them too
    layers = ["layer2", "layer1.0.bn2", "layer1.0.bn1", "layer2.1"]
    found = LayerOutputs(network, layers)(images)
    assert list(found) == layers
    for name, values in outputs.items():
        assert torch.equal(found[name], values), name
    assert (found["layer1.0.bn1"] < 0).any() and (found["layer1.0.bn2"] < 0).any()
    assert torch.equal(found["layer2.1"], found["layer2"])


def test_functions_do_not_overwrite_layers():
    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(self.norm(x), inplace=True)

    images = torch.randn(1, 3, 4, 4)
    found = LayerOutputs(Rectified().eval(), ["norm", "output"])(images)
    assert (found["norm"] < 0).any() and torch.equal(found["output"], found["norm"].relu())


class Branching(nn.Module):
    """Runs one layer or the other, twice or once, as the images ask for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.never = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Identity()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) if x.sum() > 0 else self.second(x)
        for _ in range(2 if x.max() > 0.9 else 1):
            y = self.norm(y).relu_()
        return y


def test_networks_whose_forward_branches():
    network = Branching().eval()
    network.norm.running_mean.fill_(0.1)
    layers = LayerOutputs(network, ["first", "norm"])
    for images in (torch.full((1, 3, 5, 5), 0.5), torch.full((1, 3, 5, 5), 0.95), torch.full((2, 3, 5, 5), 0.4)):
        first = network.first(images)
        once = network.norm(first)
        twice = network.norm(once.relu())
        found = layers(images)
        assert torch.equal(found["first"], first)
        assert torch.equal(found["norm"], twice if images.max() > 0.9 else once) or layers._used_once
    with pytest.raises(InputError, match=r"Branching: layer\(s\) first were not used for these images"):
        LayerOutputs(network, ["first"])(-images)
    with pytest.raises(InputError, match=r"layer\(s\) never were not used"):
        LayerOutputs(network, ["never"])(images)


def test_nothing_is_computed_beyond_the_last_layer_and_no_hook_stays():
    calls = []

    class Counted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return x

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), Counted()).eval()
    layers, images = LayerOutputs(network, ["0"]), torch.rand(2, 3, 5, 5)
    for _ in range(3):
        assert torch.equal(layers(images)["0"], network[0](images))
    assert len(calls) == 1
    network(images)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (lambda x: (x, x.sum()), "tensor"), (lambda x: [x], "tensor"), (lambda x: {"out": x, "aux": x + 1}, "tensor"),
        (lambda x: {"last_hidden_state": x, "pooled": x.mean()}, "tensor"), (lambda x: {"only": x}, "tensor"),
        (lambda x: {"a": x, "b": x}, "dict"), (lambda x: [{"boxes": x}], "list"), (lambda x: None, "NoneType"),
    ],
)  # fmt: skip
def test_layers_that_return_more_than_a_tensor(output, kind):
    class Several(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return output(x)

    images = torch.rand(2, 3, 4, 4)
    found = LayerOutputs(nn.Sequential(Several()), ["0"])(images)["0"]
    assert type(found).__name__.lower() == kind.lower()
    if kind == "tensor":
        assert torch.equal(found, images)


def test_layers_are_described_in_order(encoder, images):
    rows = describe_layers(encoder, images[:1])
    names = [name for name, _, _ in rows]
    assert names.index("conv1") < names.index("block4") < names.index("encoder_output") < names.index("output")
    assert ("block4", "Sequential", "2048 x 16 x 16") in rows
    assert ("encoder_output", "ReLU", "8 x 16 x 16") in rows
    assert LayerOutputs(encoder, names[:-1])(images[:1]).keys() == set(names[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_untrained_networks_download_nothing(monkeypatch, name):
    def fail(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    network = load_network(name, seed=2)
    assert not network.training
    layer = "backbone.layer1" if name == "fcn_resnet50" else "backbone"
    found = LayerOutputs(network, [layer])(torch.rand(1, 3, 64, 64))[layer]
    assert name != "fcn_resnet50" or found.shape == (1, 256, 16, 16)


def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    network = load_network("timm:vit_tiny_patch16_224", seed=3)
    assert type(network) is type(timm.create_model("vit_tiny_patch16_224"))
    assert torch.equal(network.head.weight, load_network("timm:vit_tiny_patch16_224", seed=3).head.weight)
    found = LayerOutputs(network, ["blocks.3", "norm"])(torch.rand(1, 3, 224, 224))
    assert found["blocks.3"].shape == (1, 197, 192)
    for spec, message in {
        "timm:vit_tiny_patch16_225": r"timm has no model 'vit_tiny_patch16_225' \(did you mean vit_tiny_patch16_",
        "timm:resnet18.mine": r"timm has no weights 'mine' of resnet18; give one of resnet18\.a1_in1k, ",
        "timm:resnet18:BEST": r"timm has no weights 'BEST' of resnet18",
    }.items():
        with pytest.raises(InputError, match=message):
            load_network(spec)


def test_timm_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match=r"timm is not installed, which networks named timm:… need; run `pip install timm`"
    ):
        load_network("timm:resnet18")


def test_networks_of_torchvision():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = load_network("resnet18", seed=5), load_network("resnet18", seed=5)
    assert torch.equal(first.conv1.weight, again.conv1.weight) and not first.training
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InputError, match=r"resnet18 has no weights 'V9'; there are IMAGENET1K_V1"):
        load_network("resnet18:V9")
    with pytest.raises(InputError, match=r"torchvision has no model 'resnet19' \(did you mean .*resnet18"):
        load_network("resnet19")


def test_weights_of_torchvision_without_a_network(monkeypatch, hub):
    import urllib.error

    def fail(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(InputError, match=r"resnet18-\w+\.pth: cannot be downloaded .*no network.*save it as") as caught:
        load_network("resnet18:DEFAULT")
    assert str(hub) in str(caught.value)


def test_network_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "import torch\n"
        "def small(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True))\n"
        "def wrong(): return 3\n"
        "def fails(): raise RuntimeError('no weights')\n"
        "constant = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    network = load_network("my_networks:small", seed=1)
    assert not network.training
    assert torch.equal(network[0].weight, load_network("my_networks:small", seed=1)[0].weight)
    found = LayerOutputs(network, ["0", "1"])(torch.rand(1, 3, 8, 8))
    assert (found["0"] < 0).any() and torch.equal(found["1"], found["0"].relu())
    assert optimise(network)[0].weight.is_contiguous(memory_format=torch.channels_last)
    for spec, match in {
        "my_networks:wrong": "returned int, expected a torch.nn.Module",
        "my_networks:fails": r"failed with RuntimeError: no weights",
        "my_networks:constant": "has no function 'constant'",
        "my_networks:absent": "has no function 'absent'",
        "no_such_module:f": r"cannot be imported \(ModuleNotFoundError.*PYTHONPATH",
    }.items():
        with pytest.raises(InputError, match=match):
            load_network(spec)
