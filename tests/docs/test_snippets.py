"""Every Python snippet of README and docs runs, one after another on its page, with what a reader has at hand."""

from __future__ import annotations

import re
import textwrap
import warnings
from pathlib import Path
from types import CodeType

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import pan_callbacks
from pan_callbacks import PANMonitor, scan

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Snippets that are compiled and not run, by a line of theirs, and why.
NOT_RUN = {
    "from torch.distributed.checkpoint.state_dict import": "needs a model that several processes share",
    'Trainer(accelerator="gpu"': "needs GPUs",
    "WandbLogger(project": "needs packages of other people's services",
}
#: Pages that train several times, which are left to make test-slow.
TRAIN = {"docs/guides/checkpoints.md", "docs/guides/loggers.md"}
#: What a Trainer is told that is not told otherwise; Lightning reads it from the environment.
QUIET = {
    "ACCELERATOR": "cpu",
    "MAX_EPOCHS": "1",
    "LOGGER": "False",
    "LIMIT_TRAIN_BATCHES": "1",
    "LIMIT_VAL_BATCHES": "1",
}
QUIET |= dict.fromkeys(("ENABLE_PROGRESS_BAR", "ENABLE_MODEL_SUMMARY"), "False")
_FENCE = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def snippets(page: str) -> list[str]:
    """The Python snippets of a page, with as many empty lines before them as there are lines on the page."""
    found = _FENCE.finditer(page)
    return ["\n" * (page[: fence.start(2)].count("\n")) + textwrap.dedent(fence[2]) for fence in found]


def name(page: Path) -> str:
    """A page from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


#: Pages that have snippets to run.
RUN = [
    page
    for page in PAGES
    if any(not any(line in text for line in NOT_RUN) for text in snippets(page.read_text(encoding="utf-8")))
]


class Module(pl.LightningModule):
    """The smallest network that has a PAN: its first neuron adds up its window, in which a border has zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16 * 16, 2))
        nn.init.ones_(self.net[0].weight[0])

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def at_hand() -> dict[str, object]:
    """What a reader of any page has: a module, loaders, a Trainer, and what the package has."""
    torch.manual_seed(0)
    module = Module()
    images, labels = (1 + torch.rand(16, 1, 16, 16)) / 2, torch.arange(16) % 2
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    monitor = PANMonitor()
    pl.Trainer(callbacks=[monitor], enable_checkpointing=False).fit(module, loader, loader)
    report = scan(module.net, loader, progress=False)
    assert monitor.report.pans and report.pans
    public = {name: getattr(pan_callbacks, name) for name in pan_callbacks.__all__}
    loaders = dict.fromkeys(("loader", "train_loader", "val_loader"), loader)
    return public | loaders | {
        "Trainer": pl.Trainer, "module": module, "model": module.net, "images": images, "labels": labels,
        "criterion": cross_entropy, "monitor": monitor, "report": report,
    }  # fmt: skip


def code_of(page: Path) -> dict[str, CodeType]:
    """The snippets of a page, compiled, by their text."""
    return {text: compile(text, str(page), "exec") for text in snippets(page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_snippets_are_python(page):
    assert all(isinstance(code, CodeType) for code in code_of(page).values())


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=name(p), marks=[pytest.mark.slow] * (name(p) in TRAIN)) for p in RUN]
)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option, value in QUIET.items():
        monkeypatch.setenv(f"PL_TRAINER_{option}", value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = at_hand()
        for code in (code for text, code in code_of(page).items() if not any(line in text for line in NOT_RUN)):
            exec(code, names)
    assert set(pan_callbacks.__all__) <= names.keys()


def test_a_snippet_that_is_not_run_is_still_there():
    everything = "\n".join(text for page in PAGES for text in snippets(page.read_text(encoding="utf-8")))
    assert [line for line in NOT_RUN if line not in everything] == []


def test_snippets_are_found_where_they_stand():
    page = "a\n```python\nx = 1\n```\n* b\n\n  ```python\n  y = 2\n  ```\n```bash\nls\n```\n"
    assert snippets(page) == ["\n\nx = 1\n", "\n" * 7 + "y = 2\n"]
