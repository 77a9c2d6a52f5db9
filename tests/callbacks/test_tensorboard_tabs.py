"""Every tab of TensorBoard as a person sees it: driven in a headless Chromium, where there is one."""

from __future__ import annotations

import contextlib
import shutil
import time

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from pan_callbacks import PANMonitor
from tests.support.lightning_models import SmallModule, dataset, trainer
from tools import screenshot_tensorboard as shots

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not (shutil.which("chromedriver") and shutil.which("chromium")), reason="needs chromium and chromium-driver"
    ),
]
#: Words that the page shows, from top to bottom; and pictures with their sizes.
WORDS = (
    shots._ELEMENTS
    + """
return all.filter((e) => shown(e) && !e.matches('style, script, title'))
  .map((e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join(' ').trim())
  .filter((words) => words);
"""
)
PICTURES = (
    shots._ELEMENTS
    + "return all.filter((e) => e.matches('img') && shown(e)).map((e) => [e.naturalWidth, e.naturalHeight]);"
)
SLIDERS = shots._ELEMENTS + "return all.filter((e) => e.matches('paper-slider') && shown(e)).map((e) => e.max);"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Opens a tab of the run of a small training, and returns what a script finds there."""
    runs = tmp_path_factory.mktemp("runs")
    loaders = DataLoader(dataset(16), batch_size=8), DataLoader(dataset(8), batch_size=8)
    logger = TensorBoardLogger(runs, name="small")
    trainer(runs, [PANMonitor(max_images=8, threshold=0.2)], 2, logger=logger).fit(SmallModule(), *loaders)
    deadline = time.monotonic() + 180
    with contextlib.ExitStack() as stack:
        scratch = tmp_path_factory.mktemp("scratch")
        board = stack.enter_context(shots._tensorboard(runs, scratch, deadline))
        shots._load(board, "timeseries", deadline, still=1.0)
        programs = shutil.which("chromedriver"), shutil.which("chromium")
        browser = stack.enter_context(shots._browser(*programs, (1480, 1400), scratch, deadline))

        where = []

        def opened(tab: str, script: str = WORDS):
            if where != [tab]:
                browser.go("about:blank")
                browser.go(f"{board}/?smoothing=0#{tab}")
                shots._settle(browser, deadline, still=0.8)
                where[:] = [tab]
            return browser.run(script)

        yield opened


def test_the_first_screen_is_the_count_with_its_band_and_the_strongest_neurons(page):
    words = page("timeseries")
    assert "small/version_0" in words  # and no run is called "."
    groups = {name: words.index(name) for name in ("PANs", "border_bias", "border_bias_layer", "epoch", "pan_layer")}
    assert min(groups, key=groups.get) == "PANs"
    # a title is the group, cut where there is no room, and the name
    cards = [word.removeprefix("/") for word in words]
    assert cards.index("count") < cards.index("strongest_1") < groups["border_bias"]
    assert not {"net.0", "net.3", "net.6"} & set(cards)  # groups with a chart a layer are closed


def test_pictures_stand_first_under_images_and_have_a_slider(page):
    words, seen = page("images"), []
    for word in words:
        if word.startswith(("PANs/", "pan/")) and word not in seen:
            seen.append(word)
    assert seen[:2] == ["PANs/count", "PANs/strongest_1"]
    assert all(width > 400 and height > 200 for width, height in page("images", PICTURES))
    assert len(page("images", SLIDERS)) >= 4  # the count, and three neurons, over the epochs


def test_the_charts_of_custom_scalars_are_drawn(page):
    words = page("custom_scalars")
    titles = {
        "count",
        "reliance on padding",
        "of these",
        "reads the padding",
        "born and gone",
        "at edges",
        "at corners",
    }
    assert titles <= set(words)
    curves = [int(word.removeprefix("Matches (").removesuffix(")")) for word in words if word.startswith("Matches (")]
    assert curves and max(curves) <= 6 and min(curves) >= 1


@pytest.mark.parametrize("tab", ["histograms", "distributions"])
def test_the_histogram_has_its_threshold_in_its_title(page, tab):
    assert "pan/contrast (PANs: beyond ±0.2)" in page(tab)


def test_the_text_is_the_table_of_the_strongest(page):
    words = page("text")
    assert "pan/table" in " ".join(words)
    assert {"layer", "channel", "contrast"} <= set(words)


def test_hparams_has_our_settings_and_the_count_to_compare_by(page):
    words = " ".join(page("hparams"))
    for word in ("pan_monitor.threshold", "pan_monitor.reference", "pan/count", "padding/reliance"):
        assert word in words


def test_scalars_are_there_under_their_public_names(page):
    assert {"pan", "pan_layer", "pan_side", "border_bias", "padding"} <= set(page("scalars"))
