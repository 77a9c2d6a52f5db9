"""Words that arguments and fields take, as types: a type checker finds a typo before anything runs."""

from __future__ import annotations

from typing import Literal, get_args

#: What a border may be compared with.
Reference = Literal["crop", "zoom", "windows", "mirror", "centre"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)
#: Those whose inputs are the images enlarged.
ENLARGED: tuple[Reference, ...] = ("zoom", "windows")

#: What stands in the place of a masked neuron's answer, or of the padding that it reads.
Mode = Literal["zero", "mean", "neutral", "neutral-mean"]
MODES: tuple[Mode, ...] = get_args(Mode)

#: What is masked in an arm of an impact report.
Kind = Literal["baseline", "pans", "control", "padding"]
#: How it is masked; the baseline is not.
ArmMode = Mode | Literal[""]

#: What the contrast of a PAN may be due to.
Origin = Literal["nascent", "inherited", "both", "neither"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)

#: Which neurons a mask is for: those that were found, or all that padding reaches.
Which = Literal["pans", "all"]

#: When a mask takes up what was found.
Refresh = Literal["epoch", "once"]

#: What padding is dropped for: each image of a batch, or each call of a layer.
Per = Literal["image", "call"]
PER: tuple[Per, ...] = get_args(Per)

#: How a weight rises.
Shape = Literal["constant", "linear", "cosine"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
