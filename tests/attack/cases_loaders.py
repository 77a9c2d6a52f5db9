"""Wherever batches come from: samplers, streams, generators, workers, loaders of several kinds, transfer hooks."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from tests.attack.case import BATCHES, Case, add, case
from tests.attack.pieces import CLASSES, Module, data, loader, pictures, setup
from tests.attack.promises import Promise

DATA = Promise.DATA
BY_BATCHES = (BATCHES,)


class Changing(Dataset):
    """Images that change with every reading, as a function says."""

    def __init__(self, count: int, change: Any, seed: int = 0, **state: Any) -> None:
        self.images, self.change = pictures(count, seed=seed), change
        vars(self).update(state)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.change(self, self.images[index]), torch.tensor(index % CLASSES)


def _count(self, x):
    self.read += 1
    return x * (1 + 0.01 * self.read)


def _noise(self, x):
    return x + 0.1 * torch.randn(x.shape, generator=self.generator)


READING = {
    "a dataset that counts its readings": lambda n, s: Changing(n, _count, s, read=0),
    "a dataset with a generator of its own": lambda n, s: Changing(
        n, _noise, s, generator=torch.Generator().manual_seed(s)
    ),
    "a dataset with a numpy generator": lambda n, s: Changing(
        n, lambda d, x: x + d.generator.normal(), s, generator=np.random.default_rng(s)
    ),
    "a dataset with a RandomState": lambda n, s: Changing(
        n, lambda d, x: x + d.generator.randn(), s, generator=np.random.RandomState(s)
    ),
    "a dataset with a Random": lambda n, s: Changing(
        n, lambda d, x: x * d.generator.random(), s, generator=random.Random(s)
    ),
    "a dataset that draws from torch": lambda n, s: Changing(n, lambda d, x: x + torch.randn(()), s),
    "a dataset that draws from numpy": lambda n, s: Changing(n, lambda d, x: x + np.random.rand(), s),
    "a dataset that draws from python": lambda n, s: Changing(n, lambda d, x: x * random.random(), s),
    "a dataset that sets the seed": lambda n, s: Changing(
        n, lambda d, x: (torch.manual_seed(3), x + torch.randn(()))[1], s
    ),
    "a dataset that caches by first use": lambda n, s: Changing(
        n, lambda d, x: x * d.cache.setdefault(float(x.sum()), 1 + 0.1 * len(d.cache)), s, cache={}
    ),
    "a dataset that alternates": lambda n, s: Changing(
        n, lambda d, x: x.flip(-1) if next(d.turns) else x, s, turns=itertools.cycle([0, 1])
    ),
    "a dataset that hands out each item once": lambda n, s: Changing(
        n, lambda d, x: x + next(d.numbers), s, numbers=iter(range(10_000))
    ),
}
for _name, _make in READING.items():

    def _build(folder, make=_make):
        sets = make(12, 1), make(8, 0)
        return setup(
            train=loader(sets[0], shuffle=True),
            val=loader(sets[1]),
            watched={"training": sets[0], "validation": sets[1]},
        )

    def _split(folder, make=_make):
        whole = make(20, 0)
        train, val = random_split(whole, [12, 8], torch.Generator().manual_seed(2))
        return setup(train=loader(train, shuffle=True), val=loader(val), watched={"dataset": whole})

    add(Case(_name, DATA, _build))
    add(Case(f"{_name}, split in two", DATA, _split))


@case(DATA)
def train_and_validation_from_one_loader(folder):
    source = Changing(8, _count, read=0)
    both = loader(source, shuffle=True, generator=torch.Generator().manual_seed(1))
    return setup(train=both, val=both, watched={"dataset": source, "generator": both.generator})


# --- samplers --------------------------------------------------------------------------------------------------------


class Stateful(Sampler):
    """Turns by one with each pass."""

    def __init__(self, length: int) -> None:
        self.length, self.passes = length, 0

    def __len__(self):
        return self.length

    def __iter__(self):
        self.passes += 1
        return iter([(index + self.passes) % self.length for index in range(self.length)])


class Batching(Sampler):
    """Yields batches whose composition changes."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self):
        return 2

    def __iter__(self):
        self.passes += 1
        yield [self.passes % 8, 1, 2]
        yield [3, 4, 5, 6, 7]


class NoLength(Sampler):
    def __iter__(self):
        return iter([3, 1, 2, 0])


def sampled(name: str, make: Any) -> None:
    def build(folder):
        options, watched = make()
        return setup(val=DataLoader(data(), **options), watched=watched)

    add(Case(name, DATA, build))


def _generator(**kwargs: Any) -> Any:
    generator = torch.Generator().manual_seed(4)
    return {"batch_size": 4, "generator": generator, **kwargs}, {"generator": generator}


def _stateful() -> Any:
    sampler = Stateful(8)
    return {"batch_size": 4, "sampler": sampler}, {"sampler": sampler}


def _batching() -> Any:
    sampler = Batching()
    return {"batch_sampler": sampler}, {"sampler": sampler}


def _drawing() -> Any:
    generator = torch.Generator().manual_seed(4)
    return {"batch_size": 4, "sampler": RandomSampler(range(8), generator=generator)}, {"generator": generator}


sampled("validation shuffled", lambda: ({"batch_size": 4, "shuffle": True}, {}))
sampled("validation shuffled by a generator", lambda: _generator(shuffle=True))
sampled("a generator that no shuffling uses", lambda: _generator())
sampled("a sampler with a state", _stateful)
sampled("a batch sampler with a state", _batching)
sampled("a random sampler with a generator", _drawing)
sampled("a weighted sampler", lambda: ({"batch_size": 4, "sampler": WeightedRandomSampler(torch.ones(8), 8)}, {}))
sampled("a sampler without a length", lambda: ({"batch_size": 2, "sampler": NoLength()}, {}))
sampled("a batch sampler of torch", lambda: ({"batch_sampler": BatchSampler(range(8), 3, False)}, {}))
sampled("a list as sampler", lambda: ({"batch_size": 3, "sampler": [5, 2, 7, 1]}, {}))
sampled("last batch dropped", lambda: ({"batch_size": 5, "drop_last": True}, {}))


# --- streams and iterables -------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __init__(self, count: int = 8) -> None:
        self.count, self.passes = count, 0

    def __iter__(self):
        self.passes += 1
        yield from zip(pictures(self.count, seed=self.passes), torch.arange(self.count) % CLASSES, strict=True)


class SizedStream(Stream):
    def __len__(self):
        return self.count


class OneShot(IterableDataset):
    """Goes on where it stopped."""

    def __init__(self) -> None:
        self.source = ((pictures(1, seed=seed)[0], torch.tensor(seed % CLASSES)) for seed in range(10_000))

    def __iter__(self):
        return itertools.islice(self.source, 8)


class Pipeline:
    """As DALI's: an iterable with a place, that is reset at the end of a pass."""

    def __init__(self) -> None:
        self.place, self.passes = 0, 0

    def __iter__(self):
        return self

    def __len__(self):
        return 2

    def __next__(self):
        if self.place == 2:
            self.place = 0
            self.passes += 1
            raise StopIteration
        self.place += 1
        seed = 10 * self.passes + self.place
        return pictures(4, seed=seed), torch.arange(4) % CLASSES


class OfDicts(Pipeline):
    """As DALI's for PyTorch: each batch is a list of dicts, one for each pipeline."""

    def __next__(self):
        images, labels = super().__next__()
        return [{"data": images, "label": labels}]


class ReadingDicts(Module):
    def logits(self, batch):
        return self.net(batch[0]["data"])

    def labels(self, batch):
        return batch[0]["label"]


class OwnIteration(DataLoader):
    """Changes the batches in an ``__iter__`` of its own."""

    def __iter__(self):
        for images, labels in super().__iter__():
            yield images * 2 - 1, labels


class Prefetching(DataLoader):
    """Keeps an iterator, and is one batch ahead of itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fetched = 0

    def __iter__(self):
        waiting = None
        for batch in super().__iter__():
            self.fetched += 1
            if waiting is not None:
                yield waiting
            waiting = batch
        yield waiting


def fed(name: str, make: Any, module: Any = Module, **options: Any) -> None:
    """A case whose validation loader is ``make()``, and whose training loader another of it."""

    def both(folder):
        train, val = make(), make()
        return setup(
            module=module(),
            train=train,
            val=val,
            watched={"training": _inner(train), "validation": _inner(val)},
            **options,
        )

    add(Case(name, DATA, both))


def _inner(thing: Any) -> Any:
    return thing.dataset if isinstance(thing, DataLoader) else thing


fed("a stream", lambda: DataLoader(Stream(), 4))
fed("a stream with a length", lambda: DataLoader(SizedStream(), 4))
fed("a stream that goes on where it stopped", lambda: DataLoader(OneShot(), 4))
fed("a stream that yields batches itself", lambda: DataLoader(Stream(), None), module=lambda: _OfSingles())
fed("a pipeline that is its own iterator", Pipeline)
fed("a pipeline of dicts", OfDicts, module=ReadingDicts)
fed(
    "batches made beforehand",
    lambda: DataLoader([(pictures(4, seed=s), torch.arange(4) % CLASSES) for s in range(3)], batch_size=None),
)
fed("a loader with an iteration of its own", lambda: OwnIteration(data(), 4))
fed("a loader that fetches ahead", lambda: Prefetching(data(), 4))
fed("a concatenation of datasets", lambda: DataLoader(ConcatDataset([data(4), data(4, seed=3)]), 4))
fed("a subset", lambda: DataLoader(Subset(data(12), [7, 3, 1, 0, 2]), 2))


class _OfSingles(Module):
    def logits(self, batch):
        return self.net(torch.cat([batch[0][None], batch[0][None].flip(-1)]))

    def labels(self, batch):
        return batch[1].repeat(2)


@case(DATA)
def an_endless_stream_with_limits(folder):
    class Endless:
        def __init__(self):
            self.given = 0

        def __iter__(self):
            while True:
                self.given += 1
                yield pictures(4, seed=self.given), torch.arange(4) % CLASSES

    train, val = Endless(), Endless()
    return setup(
        train=train, val=val, options={"limit_train_batches": 3, "limit_val_batches": 2}, watched={"t": train, "v": val}
    )


@case(DATA)
def a_generator_in_the_place_of_a_validation_loader(folder):
    def batches():
        for seed in itertools.count():
            yield pictures(4, seed=seed), torch.arange(4) % CLASSES

    class Once:
        def __init__(self):
            self.source = batches()

        def __iter__(self):
            return self.source

    return setup(val=Once(), options={"limit_val_batches": 2})


@case(DATA)
def an_empty_validation_loader(folder):
    return setup(val=loader(data(1), batch=4, drop_last=True))


@case(DATA)
def a_loader_that_raises_in_the_middle(folder):
    def spoiled(dataset, x):
        dataset.read += 1
        if dataset.read > 10:
            raise OSError("the disk went away")
        return x

    return setup(val=loader(Changing(8, spoiled, read=0)))


@case(DATA)
def a_dataset_that_may_be_read_once_at_a_time(folder):
    class Busy:
        """Two iterators at a time are an error, as with a pipe."""

        open_ = 0

        def __iter__(self):
            if self.open_:
                raise RuntimeError("somebody else is reading")
            self.open_ += 1
            try:
                yield from [(pictures(4, seed=s), torch.arange(4) % CLASSES) for s in range(2)]
            finally:
                self.open_ -= 1

    return setup(val=Busy())


@case(DATA)
def a_loader_that_counts_its_iterators(folder):
    class Counting(DataLoader):
        def __iter__(self):
            self.dataset.iterators = getattr(self.dataset, "iterators", 0) + 1
            return super().__iter__()

    dataset = data()
    return setup(val=Counting(dataset, 4), watched={"dataset": dataset})


@case(DATA)
def a_dataset_whose_length_is_asked(folder):
    class Asked(TensorDataset):
        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return super().__getitem__(index)

    dataset = Asked(*data().tensors)
    return setup(val=loader(dataset), watched={"dataset": dataset})


# --- workers ---------------------------------------------------------------------------------------------------------


class NeedsWorkers(Dataset):
    """Works only where ``worker_init_fn`` opened it."""

    handle = None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.handle is None:
            raise RuntimeError("no worker opened this dataset")
        return self.handle[index], torch.tensor(index % CLASSES)


def _open(worker: int) -> None:
    torch.utils.data.get_worker_info().dataset.handle = pictures(8)


@case(DATA, name="a dataset that needs worker_init_fn")
def needs_workers(folder):
    val = DataLoader(NeedsWorkers(), 4, num_workers=1, worker_init_fn=_open, multiprocessing_context="fork")
    return setup(val=val, options={"max_epochs": 1})


def _noisy(dataset, x):
    return x + torch.randn(()) + np.random.rand() + random.random()


@case(DATA)
def two_workers_that_draw_random_numbers(folder):
    val = DataLoader(Changing(8, _noisy), 4, num_workers=2, multiprocessing_context="fork")
    return setup(val=val, options={"max_epochs": 1})


@case(DATA)
def persistent_workers(folder):
    val = DataLoader(Changing(8, _noisy), 4, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    return setup(val=val, options={"max_epochs": 2})


# --- several loaders -------------------------------------------------------------------------------------------------


def combined(mode: str) -> None:
    def build(folder):
        class Reading(Module):
            def loss(self, batch):
                parts = [part for part in batch.values() if part is not None]
                return sum(super(Reading, self).loss(part) for part in parts)

            def labels(self, batch):
                return (
                    batch["a"][1]
                    if "a" in batch and batch["a"] is not None
                    else torch.zeros(1)
                    if "a" in batch
                    else batch[1]
                )

        def loaders():
            return CombinedLoader({"a": loader(), "b": loader(data(4, seed=5))}, mode)

        return setup(module=Reading(), train=loaders(), val=loaders())

    add(Case(f"a combined loader, {mode}", DATA, build))


for _mode in ("max_size_cycle", "min_size", "max_size"):
    combined(_mode)


@case(DATA)
def two_validation_loaders(folder):
    return setup(val=[loader(), loader(data(4, seed=4))])


@case(DATA)
def two_validation_loaders_of_different_images(folder):
    return setup(val=[loader(data(8, 12)), loader(data(4, 20, seed=4))])


@case(DATA)
def a_dict_of_validation_loaders(folder):
    return setup(val={"near": loader(), "far": loader(data(4, seed=4))})


@case(DATA)
def first_of_two_validation_loaders_empty(folder):
    return setup(val=[loader(data(1), batch=4, drop_last=True), loader()])


@case(DATA)
def two_training_loaders(folder):
    class Both(Module):
        def training_step(self, batch, batch_idx):
            return sum(self.loss(part) for part in batch)

    return setup(module=Both(), train=[loader(data(12, seed=1)), loader(data(8, seed=2))])


# --- DataModules and transfer hooks ----------------------------------------------------------------------------------


class Datamodule(pl.LightningDataModule):
    def __init__(self, change: Any = None) -> None:
        super().__init__()
        self.change, self.generator, self.transfers = change, torch.Generator().manual_seed(9), 0

    def train_dataloader(self):
        return loader(data(12, seed=1), shuffle=True)

    def val_dataloader(self):
        return loader()


class Augmenting(Datamodule):
    """Augments on the device with a generator of its own, in validation as well."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.transfers += 1
        noise = torch.randn(batch[0].shape, generator=self.generator)
        return batch[0] + 0.1 * noise, batch[1]


class AugmentingGlobally(Datamodule):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.transfers += 1
        return batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]


class Transferring(Datamodule):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.transfers += 1
        return batch[0] * (1 + 0.01 * self.transfers), batch[1]


class Fresh(Datamodule):
    """Makes another dataset for every loader that it is asked for."""

    def val_dataloader(self):
        self.transfers += 1
        return loader(data(8, seed=self.transfers))


def moduled(name: str, make: Any, **options: Any) -> None:
    def build(folder):
        module = make()
        return setup(datamodule=module, options=options, watched={"data": module})

    add(Case(name, DATA, build))


moduled("a DataModule", Datamodule)
moduled("a DataModule that augments after the transfer", Augmenting)
moduled("a DataModule that augments before the transfer", AugmentingGlobally)
moduled("a DataModule with a transfer of its own", Transferring)
moduled("a DataModule with new data for every loader", Fresh, reload_dataloaders_every_n_epochs=1)
moduled("loaders made anew every epoch", Datamodule, reload_dataloaders_every_n_epochs=1)


@case(DATA)
def loaders_and_transfer_hooks_of_the_module(folder):
    class Own(Module):
        def __init__(self):
            super().__init__()
            self.generator, self.asked = torch.Generator().manual_seed(5), 0

        def train_dataloader(self):
            self.asked += 1
            return loader(data(12, seed=1))

        def val_dataloader(self):
            self.asked += 1
            return loader(data(8, seed=self.asked))

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=self.generator), batch[1]

    module = Own()
    return setup(module=module, train=None, val=None, watched={"generator": module.generator})


@case(DATA)
def normalised_after_the_transfer(folder):
    class Normalising(Module):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return (batch[0].float() / 255 - 0.5, batch[1])

    def bytes_(count, seed):
        return TensorDataset((pictures(count, seed=seed).clamp(0, 2) * 120).byte(), torch.arange(count) % CLASSES)

    return setup(module=Normalising(), train=loader(bytes_(12, 1)), val=loader(bytes_(8, 0)))


# --- batches of the user's choice ------------------------------------------------------------------------------------


def chosen(name: str, make: Any, **kwargs: Any) -> None:
    """A case of ``PANMonitor(batches=...)`` with something that has a state."""

    def build(folder):
        batches, watched = make()
        return setup(batches=batches, watched=watched, **kwargs)

    add(Case(f"batches={name}", DATA, build, arms=BY_BATCHES))


def _shared(**options: Any) -> Any:
    source = Changing(8, _count, read=0)
    return loader(source, **options), {"dataset": source}


def _shuffling() -> Any:
    generator = torch.Generator().manual_seed(4)
    return loader(data(12), shuffle=True, generator=generator), {"generator": generator}


chosen("images", lambda: ([pictures(8, seed=5)], {}))
chosen("images and labels", lambda: ([(pictures(8, seed=5), torch.arange(8))], {}))
chosen("a loader that shuffles", lambda: (loader(data(12), shuffle=True), {}))
chosen("a loader that shuffles by a generator", _shuffling)
chosen("a loader of a dataset that draws", lambda: (loader(Changing(8, _noisy)), {}))


def chosen_training_loader(name: str, **options: Any) -> None:
    def build(folder):
        generator = torch.Generator().manual_seed(6)
        train = loader(data(12, seed=1), shuffle=True, generator=generator, **options)
        return setup(train=train, batches=train, watched={"generator": generator})

    add(Case(f"batches=the training loader{name}", DATA, build, arms=BY_BATCHES))


chosen_training_loader("")
chosen_training_loader(
    " with persistent workers", num_workers=1, persistent_workers=True, multiprocessing_context="fork"
)


@case(DATA, name="batches=the training loader, whose dataset draws from a generator", arms=BY_BATCHES)
def chosen_drawing(folder):
    source = Changing(12, _noise, 1, generator=torch.Generator().manual_seed(1))
    train = loader(source, shuffle=True)
    return setup(train=train, batches=train, watched={"dataset": source})


@case(DATA, name="batches=the training loader, whose sampler has a state", arms=BY_BATCHES)
def chosen_stateful(folder):
    sampler = Stateful(12)
    train = DataLoader(data(12, seed=1), 4, sampler=sampler)
    return setup(train=train, batches=train, watched={"sampler": sampler})


@case(DATA, name="batches=images without a validation loop", arms=BY_BATCHES)
def chosen_without_validation(folder):
    return setup(val=None, batches=[pictures(8, seed=5)], options={"limit_val_batches": 0})
