"""What a mask does to the answers of a model; the predictions of a classifier are counted in whole numbers."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pan_callbacks.errors import PANError
from pan_callbacks.measurement.answers import are_probabilities, probabilities
from pan_callbacks.reports.estimate import NORMAL_QUANTILE
from pan_callbacks.reports.impact_report import ClassChanges

#: Probabilities and divergences are added up as multiples of this: whole numbers have the same sum in any order, so
#: that any number of processes gets the same report.
_UNIT = 2.0**-30
_SQUARE = 2.0**-40  # of squares, which are smaller; enough for eight million images
_MOST = 2.0**10  # a divergence beyond this has no use, and eight million of them still have a sum


class Comparison(Metric):
    """Compares a classifier's predictions with those of the same classifier as it is.

    Args:
        classes: Number of classes.
        kwargs: For :class:`torchmetrics.Metric`.

    As input to ``update``: probabilities (images, classes) of the baseline and of the changed model, the labels
    (images,) or None, and to which half each image belongs (images,), 0 or 1. As output of ``compute``: a dict of
    ``images``, ``accuracy`` and the ends ``low`` and ``high`` of its change (NaN without labels), ``kl``, ``flips``,
    and under ``classes`` the fields of :class:`~pan_callbacks.reports.impact_report.ClassChanges`.

    Example:
        >>> found = Comparison(classes=2)
        >>> base = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> found.update(base, base.flip(1), torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> outcome = found.compute()
        >>> outcome["accuracy"], outcome["flips"], outcome["classes"]["change"].tolist()
        (0.0, 1.0, [-1.0, -1.0])
    """

    full_state_update = False
    counts: Tensor
    moved: Tensor
    squares: Tensor
    totals: Tensor

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(2, 4, classes, dtype=torch.long)
        self.add_state("counts", zeros, dist_reduce_fx="sum")  # halves × (images, right, gained, lost) × true class
        self.add_state("moved", zeros[:, 0].clone(), dist_reduce_fx="sum")  # halves × class: change of probability
        self.add_state("squares", zeros[0, 0].clone(), dist_reduce_fx="sum")
        self.add_state(
            "totals", torch.zeros(2, 3, dtype=torch.long), dist_reduce_fx="sum"
        )  # halves × (images, flips, divergence)

    def update(self, before: Tensor, after: Tensor, labels: Tensor | None, halves: Tensor) -> None:
        """Add some images."""
        before, after = before.double(), after.double()
        first, second = before.argmax(1), after.argmax(1)
        change = after - before
        for half in (0, 1):
            own = halves == half
            self.moved[half] += _whole(change[own]).sum(0)
            divergence = _whole(_kl(before[own], after[own]).clamp(max=_MOST)).sum()
            flips = (first[own] != second[own]).sum()
            self.totals[half] += torch.stack([own.sum(), flips, divergence])
            if labels is not None:
                truth = labels[own]
                was, now = first[own] == truth, second[own] == truth
                for row, hit in enumerate((torch.ones_like(was), now, now & ~was, was & ~now)):
                    self.counts[half, row] += torch.bincount(truth[hit], minlength=self.counts.shape[-1])
        self.squares += _whole(change.square(), _SQUARE).sum(0)

    def compute(self) -> dict[str, Any]:
        """Return what was found; see the class."""
        (images, flips, divergence), counts = self.totals.sum(0).tolist(), self.counts.sum(0)
        labelled, right, gained, lost = counts
        known = int(labelled.sum()) > 0
        low, high = paired_interval(labelled.sum(), lost.sum(), gained.sum())
        class_low, class_high = paired_interval(labelled, lost, gained)
        moved, squares = self.moved.sum(0) * _UNIT, self.squares * _SQUARE
        shift_low, shift_high = shift_interval(images, moved, squares)
        in_both = (self.counts[:, 0] > 0).all(0)
        change_by_half = (self.counts[:, 2] - self.counts[:, 3]) / self.counts[:, 0]
        return {
            "images": images,
            "accuracy": int(right.sum()) / int(labelled.sum()) if known else math.nan,
            "low": float(low),
            "high": float(high),
            "kl": divergence * _UNIT / images if images else math.nan,
            "flips": flips / images if images else math.nan,
            "classes": {
                "images": labelled,
                "change": (gained - lost) / labelled,
                "low": class_low,
                "high": class_high,
                "shift": (moved / max(1, images)).float(),
                "shift_low": shift_low.float(),
                "shift_high": shift_high.float(),
                "split_half": correlation(*(self.moved / self.totals[:, :1].clamp(min=1))),
                "split_half_accuracy": correlation(*change_by_half[:, in_both]),
            },
        }


def paired_interval(images: Tensor, lost: Tensor, gained: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 95 % interval of a change of accuracy, from how many predictions became wrong and how many right.

    Bonett and Price's adjusted Wald interval for paired proportions (2012): one image is added to each of the two
    counts, so that it keeps its coverage on few images, and is wide on one.

    Args:
        images: Number of images.
        lost: Right before, wrong after.
        gained: Wrong before, right after.

    Returns:
        Lower and upper end, in [-1, 1]; NaN without images.

    Example:
        >>> low, high = paired_interval(torch.tensor(100), torch.tensor(20), torch.tensor(5))
        >>> round(float(low), 3), round(float(high), 3)
        (-0.243, -0.051)
    """
    total = images.double() + 2
    worse, better = (lost + 1) / total, (gained + 1) / total
    change = better - worse
    error = NORMAL_QUANTILE * ((better + worse - change.square()) / total).sqrt()
    nothing = images == 0
    ends = (change - error).clamp(min=-1), (change + error).clamp(max=1)
    low, high = (torch.where(nothing, math.nan, end).float() for end in ends)
    return low, high


def shift_interval(images: int, moved: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 95 % normal interval of a mean change of probability.

    Args:
        images: Number of images.
        moved: Sum of the changes (classes,).
        squares: Sum of their squares.

    Returns:
        Lower and upper end; NaN for fewer than two images.
    """
    if images < 2:
        return torch.full_like(moved, math.nan), torch.full_like(moved, math.nan)
    mean = moved / images
    variance = ((squares - images * mean.square()) / (images - 1)).clamp(min=0)
    error = NORMAL_QUANTILE * (variance / images).sqrt()
    return mean - error, mean + error


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the Pearson correlation of two vectors; NaN if one of them is constant or shorter than three.

    Example:
        >>> round(correlation(torch.tensor([1.0, 2, 3]), torch.tensor([6.0, 4, 2])), 6)
        -1.0
    """
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if len(a) > 2 and scale > 0 else math.nan


def _whole(values: Tensor, unit: float = _UNIT) -> Tensor:
    return (values / unit).round().long()


def _kl(before: Tensor, after: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``sum before * log(before / after)`` of each row, in nats."""
    tiny = torch.finfo(torch.float32).tiny
    return (before * (before.clamp(min=tiny).log() - after.clamp(min=tiny).log())).sum(1).clamp(min=0)


class Outcome:
    """What accumulates for every arm: a comparison of predictions, and a metric if there is one.

    Args:
        arms: Number of arms, the first the model as it is.
        metric: Metric of (answer, labels); it is copied for each arm.
    """

    def __init__(self, arms: int, metric: Metric | None) -> None:
        self.arms, self.metric = arms, metric
        self.name = "accuracy" if metric is None else type(metric).__name__
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.images = 0
        self._comparisons: list[Comparison] = []
        self._metrics: list[Metric] = []

    def add(self, answers: list[Tensor], labels: Tensor | None, halves: Tensor) -> None:
        """Add the answers of all arms to the same images.

        Args:
            answers: One of each arm.
            labels: (images,), None if there are none.
            halves: To which half each image belongs (images,), 0 or 1.

        Raises:
            PANError: If an answer cannot be judged.
        """
        first = answers[0]
        classifier = first.ndim == 2 and first.shape[1] > 1 and first.is_floating_point()
        classifier = classifier and (labels is None or labels.ndim == 1 and not labels.is_floating_point())
        if not classifier and self.metric is None:
            about = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)} and {labels.dtype}"
            raise PANError(
                f"an answer of shape {tuple(first.shape)} with {about} is no classification: give a metric=, "
                "any torchmetrics metric of (answer, labels)"
            )
        if self.metric is not None and labels is None:
            raise PANError(
                f"batches hold no labels, which {self.name} needs: yield (images, labels), or leave out metric="
            )
        if self.metric is not None and not self._metrics:
            self._metrics = [copy.deepcopy(self.metric).to(first.device) for _ in answers]
            for metric in self._metrics:
                metric.reset()
        for metric, answer in zip(self._metrics, answers, strict=False):
            try:
                metric.update(answer, labels)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                about = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
                shapes = f"an answer of shape {tuple(answer.shape)} and {about}"
                raise PANError(f"{self.name} does not take {shapes}: {error}") from error
        if classifier:
            self._compare(answers, labels, halves)
        self.images += len(first)

    def _compare(self, answers: list[Tensor], labels: Tensor | None, halves: Tensor) -> None:
        classes = answers[0].shape[1]
        if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise PANError(f"labels from {int(labels.min())} to {int(labels.max())} for a model of {classes} classes")
        if not self._comparisons:
            self._comparisons = [Comparison(classes).to(answers[0].device) for _ in answers]
        ready = are_probabilities(answers[0])
        before, *afters = (probabilities(answer, ready) for answer in answers)
        for comparison, answer, after in zip(self._comparisons, answers, (before, *afters), strict=True):
            if bool(after.isnan().any()):
                whose = "the model" if answer is answers[0] else "the masked model"
                raise PANError(f"{whose} answers with NaN, of which there is no prediction: run it in float32")
            comparison.update(before, after, None if labels is None else labels.long(), halves)

    def compute(self) -> list[dict[str, Any]]:
        """Return the values of every arm, the fields of an :class:`~pan_callbacks.reports.impact_report.Arm`.

        If several processes share the work, all of them call it.
        """
        found: list[dict[str, Any]] = [{} for _ in range(self.arms)]
        for values, comparison in zip(found, self._comparisons, strict=False):
            counted = comparison.compute()
            interval = None if math.isnan(counted["low"]) else (counted["low"], counted["high"])
            values.update(value=counted["accuracy"], interval=interval, kl=counted["kl"], flips=counted["flips"])
            values.update(classes=ClassChanges(**counted["classes"]))
        for values, metric in zip(found, self._metrics, strict=False):
            value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise PANError(f"{self.name} does not give one number, which a table of changes needs")
            values.update(value=float(value), interval=None)
        return found
