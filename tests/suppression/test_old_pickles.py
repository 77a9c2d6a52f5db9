"""A permanently masked model that was saved before its classes moved is loaded, and its mask is at work."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch

from pan_callbacks import BorderBias, PaddingAwareness
from pan_callbacks.suppression.masks import ChannelMask, MaskHook

SAVED = Path(__file__).parents[1] / "support" / "data" / "masked_before_rooms.pt.bin"


@pytest.fixture
def saved() -> dict:
    return torch.load(SAVED, weights_only=False)


def again(model: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [lambda model: model, copy.deepcopy, again], ids=["loaded", "copied", "saved again"])
def test_it_answers_as_it_did(saved, how):
    assert torch.equal(how(saved["model"])(saved["images"]), saved["answer"])


def test_the_file_names_the_classes_where_they_were():
    assert b"pan_callbacks.masking" in SAVED.read_bytes() and b"pan_callbacks.suppression" not in SAVED.read_bytes()


def test_its_mask_is_at_work(saved):
    model = saved["model"]
    masks = [module for module in model.modules() if isinstance(module, ChannelMask)]
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert masks and all(isinstance(hook, MaskHook) for hook in hooks)
    for hook in hooks:
        hook.mask = None
    assert not torch.equal(model(saved["images"]), saved["answer"])


@pytest.mark.parametrize("kind", [PaddingAwareness, BorderBias])
def test_metrics_are_found_where_they_were(kind):
    old = pickle.dumps(kind, protocol=0).replace(b"pan_callbacks.measurement.metrics", b"pan_callbacks.awareness")
    assert b"pan_callbacks.awareness" in old and pickle.loads(old) is kind
