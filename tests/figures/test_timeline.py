"""The timeline: the right values in the right cells, named, and drawable whatever the data."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest

from pan_callbacks.figures.timeline import timeline
from tests.support.drawn import draws_without_warning, texts


def probe(epoch: int, pans: dict[str, dict[int, float]]) -> dict:
    count = sum(len(channels) for channels in pans.values())
    return {"epoch": epoch, "step": 10 * (epoch + 1), "count": count, "born": 0, "gone": 0, "pans": pans}


pytestmark = pytest.mark.filterwarnings("error")


class TestTimeline:
    history = [
        probe(-1, {"stem": {}, "conv2": {5: -0.85}}),
        probe(0, {"stem": {9: 0.9}, "conv2": {5: -0.95}}),
        probe(1, {"stem": {9: 0.8, 2: -1.0}, "conv2": {}}),
    ]

    def test_cells_hold_the_signed_contrast_and_are_blank_where_the_neuron_is_no_pan(self):
        (image,) = timeline(self.history).axes[1].images
        expected = [[np.nan, 0.9, 0.8], [np.nan, np.nan, -1.0], [-0.85, -0.95, np.nan]]
        np.testing.assert_array_equal(image.get_array().filled(np.nan), expected)
        assert (image.norm.vmin, image.norm.vmax) == (-1, 1)

    def test_rows_follow_layers_in_order_then_birth(self):
        axes = timeline(self.history).axes[1]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["stem", "conv2"]
        assert [label.get_text() for label in axes.get_yticklabels(minor=True)] == ["9", "2", "5"]

    def test_the_network_before_training_is_labelled_start(self):
        labels = timeline(self.history).axes[1].get_xticklabels()
        assert [label.get_text() for label in labels] == ["start", "0", "1"]

    def test_the_curve_above_is_the_count(self):
        (line,) = timeline(self.history).axes[0].lines
        assert line.get_ydata().tolist() == [1, 2, 2]

    @pytest.mark.parametrize("missing", [[0], [1], [0, 1, 2]])
    def test_a_count_that_is_not_complete_is_a_gap_in_the_curve(self, missing):
        history = [{**one, "count": np.nan} if at in missing else one for at, one in enumerate(self.history)]
        figure = timeline(history)
        figure.canvas.draw()
        (line,) = figure.axes[0].lines
        assert [at for at, count in enumerate(line.get_ydata()) if np.isnan(count)] == missing

    def test_beyond_the_limit_it_keeps_what_lasted_longest_and_was_strongest_and_says_so(self):
        history = [probe(0, {"a": {0: 0.8, 1: 0.9, 2: 0.85}}), probe(1, {"a": {0: 0.8}})]
        figure = timeline(history, limit=2)
        (image,) = figure.axes[1].images
        np.testing.assert_array_equal(image.get_array().filled(np.nan), [[0.8, 0.8], [0.9, np.nan]])
        assert "2 of 3" in figure.get_suptitle()

    def test_up_to_the_limit_the_title_speaks_of_none_left_out(self):
        assert " of " not in timeline(self.history, limit=3).get_suptitle()

    def test_limit_below_one_is_refused(self):
        with pytest.raises(ValueError, match="limit=0"):
            timeline(self.history, limit=0)

    @pytest.mark.parametrize(
        ("history", "sentence"),
        [([], "no probe yet"), ([probe(e, {"a": {}}) for e in range(3)], "no padding aware neuron in 3 probes")],
    )
    def test_nothing_to_draw_is_said_in_words(self, history, sentence):
        figure = timeline(history)
        assert sentence in texts(figure)
        assert draws_without_warning(figure)

    def test_a_single_probe_is_one_column(self):
        figure = timeline(self.history[:1])
        assert figure.axes[1].images[0].get_array().shape == (1, 1)
        assert draws_without_warning(figure)

    def test_labels_of_thin_layers_do_not_overlap(self):
        thin = {f"layer{i}": {0: 0.9} for i in range(40)}
        figure = timeline([probe(0, {"first": {c: 0.9 for c in range(60)}, **thin})])
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
        assert len(boxes) == 41
        assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))

    def test_epoch_labels_of_a_long_training_do_not_overlap(self):
        figure = timeline([probe(epoch, {"a": {0: 0.9}}) for epoch in range(-1, 300)])
        figure.canvas.draw()
        labels = figure.axes[1].get_xticklabels()
        boxes = [label.get_window_extent() for label in labels]
        assert labels[0].get_text() == "start"
        assert all(int(label.get_text()) % 5 == 0 for label in labels[1:])
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))

    def test_probes_need_not_come_every_epoch(self):
        figure = timeline([probe(epoch, {"a": {0: 0.9}}) for epoch in (-1, 4, 9, 14)])
        assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["start", "4", "9", "14"]


def test_figures_leave_rc_params_as_they_were():
    before = dict(matplotlib.rcParams)
    assert draws_without_warning(timeline(TestTimeline.history))
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_imported_with_the_first_figure_and_pyplot_never():
    code = (
        "import sys; import pan_callbacks.figures.timeline as f; assert 'matplotlib' not in sys.modules; "
        "f.timeline([]).canvas.draw(); assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
