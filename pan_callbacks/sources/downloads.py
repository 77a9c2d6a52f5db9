"""Pretrained weights from the network: whether they can be had, and what to say if not."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from pan_callbacks.errors import PANError
from pan_callbacks.sources.checkpoints import LITE0_PACKAGE, in_one_line


def reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether anybody answers, whatever the answer.

    Args:
        url: Where to ask.
        timeout: Seconds to wait; the libraries' own downloads wait for minutes if a firewall is silent.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout).close()
    except (urllib.error.HTTPError, http.client.BadStatusLine):
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # somebody is there; the library may trust other certificates
    except OSError:
        return False
    return True


@contextmanager
def pretrained_of(name: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into :func:`no_weights` of the model of that name."""
    try:
        yield
    except Exception as error:  # huggingface_hub, httpx, urllib and torch.hub each have errors of their own
        raise no_weights(name, in_one_line(error)) from error


@contextmanager
def bars_of_the_hub(show: bool) -> Iterator[None]:
    """Let huggingface_hub show its bars of downloads inside, or not; afterwards it is as it was."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if show or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def no_weights(name: str, why: str) -> PANError:
    """Return the error that says so, with the ways out: a file, random weights, and for Lite0 a package."""
    package = f", --weights {LITE0_PACKAGE}" if name.split(".")[0] == "tf_efficientnet_lite0" else ""
    return PANError(f"the pretrained weights of {name} cannot be had ({why}): --weights FILE, --weights none{package}")
