"""The progress bar says what goes on after the last batch, and has its own words again after that."""

from __future__ import annotations

import pytest
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from pan_callbacks import PANMonitor
from pan_callbacks.callbacks._saying import saying
from tests.callbacks.test_monitor import loaders
from tests.support.lightning_models import SmallModule, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def description(bar: ProgressBar) -> str:
    if isinstance(bar, TQDMProgressBar):
        return bar.val_progress_bar.desc
    return next(task.description for task in bar.progress.tasks if task.id == bar.val_progress_bar_id)


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar])
def test_a_word_stands_in_the_bar_while_we_measure_and_goes(tmp_path, kind, monkeypatch):
    bar, seen = kind(), []
    take = PANMonitor._take_point

    def watched(self, run, module):
        seen.append(description(bar))
        take(self, run, module)

    class After(PANMonitor):
        def on_validation_epoch_end(self, run, module):
            super().on_validation_epoch_end(run, module)
            if not run.sanity_checking:
                seen.append(description(bar))

    monkeypatch.setattr(PANMonitor, "_take_point", watched)
    run = trainer(tmp_path, [bar, After(figures=False)], 1, enable_progress_bar=True)
    run.fit(SmallModule(), *loaders())
    during, after = seen
    assert "Validation" in after and "measuring padding" not in after
    assert during.startswith(after.removesuffix(": ")) and "measuring padding" in during


@pytest.mark.parametrize("bar", [None, object(), ProgressBar(), TQDMProgressBar(), RichProgressBar()])
def test_a_bar_that_is_of_another_kind_or_not_there_yet_is_left_alone(bar):
    class Run:
        progress_bar_callback = bar

    done = []
    with saying(Run, "measuring padding"):
        done.append(True)
    assert done


def test_an_error_of_what_is_done_meanwhile_is_not_swallowed():
    class Run:
        progress_bar_callback = None

    with pytest.raises(ZeroDivisionError), saying(Run, "measuring padding"):
        1 / 0  # noqa: B018
