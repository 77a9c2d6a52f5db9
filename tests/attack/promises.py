"""What the package promises to a run that it watches; the headings of docs/reliability.md."""

from __future__ import annotations

from enum import Enum


class Promise(Enum):
    """A promise; its name stands before the names of its cases, its value is the sentence that a user reads."""

    MODEL = "A run is bit for bit what it is without the callback, whatever the model keeps, counts, draws or returns."
    DATA = (
        "A run is bit for bit what it is without the callback, whatever batches look like and wherever they come from."
    )
    TRAINER = (
        "A run is bit for bit what it is without the callback, whatever the Trainer is told and whoever is beside it."
    )
    FAULT = "A fault stays what it is without the callback, and one of disks, loggers or pictures ends no training."
    FAMILY = "Every family of models can be scanned and watched, and is left as it was."
    TRUTH = "What is planted is found, with its sides and origins, however the network is called."
    MEASURED = "A number is a measurement: where nothing was measured there is no number, and a word why."
    REFUSED = "What cannot be done is refused with an error that names the thing and the way out."
