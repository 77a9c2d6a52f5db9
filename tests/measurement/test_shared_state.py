"""State of a forward that no copy of a model holds: on classes, in closures, in variables, in what cannot be copied."""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import random
import sys
import tempfile
import weakref
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from pan_callbacks import PANError
from pan_callbacks.layers import convolutions
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.shadow import InPlace, Shadow
from pan_callbacks.measurement.standins import stand_in
from pan_callbacks.measurement.undisturbed import undisturbed

IMAGES = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
CALLS, KEPT, SIZES = 0, {"shapes": []}, itertools.count()


class Base(nn.Module):
    """Scales what it gives by a number that changes with each call, in a way that a subclass says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.place: Any = None

    def number(self) -> float:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * (1 + float(self.number()))


CASES: dict[str, Callable[[Path], nn.Module]] = {}


def case(build: Callable[[Path], nn.Module]) -> Callable[[Path], nn.Module]:
    CASES[build.__name__] = build
    return build


def held(name: str, make: Callable[[Path], Any], use: Callable[[Any], float]) -> None:
    """A case of an object that the model holds, and one of the same object in a closure, a class and a global."""

    def attribute(folder: Path) -> nn.Module:
        class Holds(Base):
            def number(self):
                return use(self.place)

        model = Holds()
        model.place = make(folder)
        return model

    def closure(folder: Path) -> nn.Module:
        thing = make(folder)

        class Closed(Base):
            def number(self):
                return use(thing)

        return Closed()

    def on_the_class(folder: Path) -> nn.Module:
        class Has(Base):
            thing = [make(folder)]

            def number(self):
                return use(self.thing[0])

        return Has()

    for place in (attribute, closure, on_the_class):
        CASES[f"{name}, {place.__name__}"] = place


class OwnCopy:
    """Says that it is its own copy."""

    copies = 0

    def __init__(self) -> None:
        self.uses = 0

    def __deepcopy__(self, memo):
        OwnCopy.copies += 1
        return self


class NoCopy(OwnCopy):
    """Refuses to be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("there is one of me")


class Slotted:
    """Has no dict."""

    __slots__ = ("__weakref__", "uses")

    def __init__(self) -> None:
        self.uses = 0

    def __deepcopy__(self, memo):
        return self


def counted(thing: Any) -> int:
    thing.uses += 1
    return thing.uses


def written(file: Any) -> int:
    file.write("called\n")
    return 0


held("own copy", lambda folder: OwnCopy(), counted)
held("no copy", lambda folder: NoCopy(), counted)
held("slots", lambda folder: Slotted(), counted)
held("list", lambda folder: [], lambda thing: thing.append(1) or len(thing))
held("iterator of itertools", lambda folder: itertools.count(), next)
held("iterator of a list", lambda folder: iter([3, 1, 2, 5, 7, 7]), next)
held("zip", lambda folder: zip(range(9), range(9), strict=True), lambda thing: sum(next(thing)))
held("cache", lambda folder: functools.lru_cache(lambda size: float(torch.rand(()))), lambda thing: thing(3))
held("random draws", lambda folder: torch.Generator().manual_seed(3), lambda thing: torch.rand((), generator=thing))


@case
def class_attribute(folder: Path) -> nn.Module:
    class Counts(Base):
        calls = 0

        def number(self):
            type(self).calls += 1
            return type(self).calls

    return Counts()


@case
def class_attribute_that_comes_with_the_first_call(folder: Path) -> nn.Module:
    class Counts(Base):
        def number(self):
            type(self).seen = getattr(type(self), "seen", 0) + 1
            return type(self).seen

    return Counts()


@case
def attribute_of_a_class_behind(folder: Path) -> nn.Module:
    class Behind(Base):
        calls = 0

    class Front(Behind):
        def number(self):
            Behind.calls += 1
            return Behind.calls

    return Front()


@case
def attribute_of_another_class_that_the_code_names(folder: Path) -> nn.Module:
    class Registry:
        calls = 0

    class Counts(Base):
        def number(self):
            Registry.calls += 1
            return Registry.calls

    return Counts()


@case
def number_in_a_closure(folder: Path) -> nn.Module:
    calls = 0

    class Counts(Base):
        def number(self):
            nonlocal calls
            calls += 1
            return calls

    return Counts()


@case
def variable_of_the_file(folder: Path) -> nn.Module:
    class Counts(Base):
        def number(self):
            global CALLS
            CALLS += 1
            return CALLS

    globals()["CALLS"] = 0
    return Counts()


def _helper() -> int:
    KEPT["shapes"].append(1)
    return len(KEPT["shapes"]) + next(SIZES)


@case
def variables_that_a_function_of_the_file_changes(folder: Path) -> nn.Module:
    class Counts(Base):
        def number(self):
            return [_helper() for _ in range(2)][0]

    globals()["SIZES"] = itertools.count()
    KEPT["shapes"] = []
    return Counts()


@case
def cached_method(folder: Path) -> nn.Module:
    class Cached(Base):
        @staticmethod
        @functools.lru_cache
        def code(size):
            return float(torch.rand(()))

        def number(self):
            return self.code(3)

    return Cached()


@case
def cached_by_a_static_method_that_runs_for_us_first(folder: Path) -> nn.Module:
    class Cached(Base):
        calls = 0

        @staticmethod
        @functools.lru_cache
        def code(size):
            return float(torch.rand(()))

        def number(self):
            Cached.calls += 1
            return self.code(Cached.calls)

    return Cached()


@case
def object_that_raises_what_it_likes_at_unknown_names(folder: Path) -> nn.Module:
    class Odd:
        __slots__ = ("uses",)

        def __init__(self):
            self.uses = 0

        def __getattr__(self, name):
            raise KeyError(name)

    odd = Odd()

    class Counts(Base):
        def number(self):
            odd.uses += 1
            return odd.uses

    return Counts()


@case
def behind_a_property(folder: Path) -> nn.Module:
    calls = []

    class Counts(Base):
        @property
        def count(self):
            calls.append(1)
            return len(calls)

        def number(self):
            return self.count

    return Counts()


@case
def attribute_of_a_function(folder: Path) -> nn.Module:
    def count():
        count.calls = getattr(count, "calls", 0) + 1
        return count.calls

    class Counts(Base):
        def number(self):
            return count()

    return Counts()


@case
def default_of_an_argument(folder: Path) -> nn.Module:
    class Counts(Base):
        def number(self, calls=[]):  # noqa: B006  # people do
            calls.append(1)
            return len(calls)

    return Counts()


@case
def forward_of_a_layer_that_is_a_closure(folder: Path) -> nn.Module:
    model, calls = Base(), []
    model.number = lambda: calls.append(1) or len(calls)
    return model


class AttrDict(dict):
    """A dict whose items are its attributes."""

    def __init__(self):
        super().__init__()
        self.__dict__ = self


class EasyDict(dict):
    """A dict that keeps its items as attributes, too."""

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        super().__setattr__(name, value)

    __setattr__ = __setitem__


@pytest.fixture(scope="module", autouse=True)
def other_file():
    """A file of somebody's that models keep numbers in."""
    module = ModuleType("somebodys_numbers")
    module.count, module.counts = 0, []
    sys.modules["somebodys_numbers"] = module
    yield
    del sys.modules["somebodys_numbers"]


@case
def variable_of_another_file(folder: Path) -> nn.Module:
    import somebodys_numbers

    somebodys_numbers.count, somebodys_numbers.counts = 0, []

    class Counts(Base):
        def number(self):
            somebodys_numbers.count += 1
            somebodys_numbers.counts.append(1)
            return somebodys_numbers.count + len(somebodys_numbers.counts)

    return Counts()


@case
def variable_of_a_file_imported_in_the_forward(folder: Path) -> nn.Module:
    class Counts(Base):
        def number(self):
            import somebodys_numbers

            somebodys_numbers.count += 1
            return somebodys_numbers.count

    sys.modules["somebodys_numbers"].count = 0
    return Counts()


def _in_a_dict(kind: type) -> Callable[[Path], nn.Module]:
    def build(folder: Path) -> nn.Module:
        class Counts(Base):
            def number(self):
                self.place.seen.append(1)
                return len(self.place.seen)

        model = Counts()
        model.place = kind()
        model.place.seen = []
        return model

    return build


CASES["dict whose items are attributes"] = _in_a_dict(AttrDict)
CASES["dict that keeps items as attributes"] = _in_a_dict(EasyDict)


@case
def large_tensor_on_the_class(folder: Path) -> nn.Module:
    class Counts(Base):
        queue = torch.zeros(128, 1024)

        def number(self):
            self.queue[0, 0] += 1
            return self.queue[0, 0]

    return Counts()


@case
def class_of_a_file_that_is_called_as_one_of_pythons_own(folder: Path) -> nn.Module:
    class Counts(Base):
        __module__ = "code.nets"
        calls = 0

        def number(self):
            type(self).calls += 1
            return type(self).calls

    return Counts()


class Single:
    """There is one of it."""

    one = None

    def __new__(cls):
        cls.one = cls.one or super().__new__(cls)
        return cls.one

    def __init__(self) -> None:
        self.uses = 0


class Named(NamedTuple):
    items: list


class Counted(list):
    """A list with a number."""

    uses = 0


class Listener:
    uses = 0


LISTENER = Listener()


def shuffled(thing: Any) -> int:
    thing.move_to_end(next(iter(thing)))
    return next(iter(thing))


held("singleton", lambda folder: Single(), counted)
held("named tuple", lambda folder: Named([]), lambda thing: thing.items.append(1) or len(thing.items))
held("list with a number", lambda folder: Counted(), counted)
held("weak reference", lambda folder: weakref.ref(LISTENER), lambda thing: counted(thing()))
held("weak proxy", lambda folder: weakref.proxy(LISTENER), counted)
held("method of a list", lambda folder: [].append, lambda thing: thing(1) or len(thing.__self__))
held("method of a Random", lambda folder: random.Random(0).random, lambda thing: thing())
held("iterator in a tuple", lambda folder: (itertools.count(),), lambda thing: next(thing[0]))
held(
    "part of a function",
    lambda folder: functools.partial(list.append, []),
    lambda thing: thing(1) or len(thing.args[0]),
)
held("bytearray", lambda folder: bytearray(), lambda thing: thing.append(1) or len(thing))
held("array", lambda folder: array("d"), lambda thing: thing.append(1.5) or len(thing))
held("order of a dict", lambda folder: OrderedDict.fromkeys(range(1, 5)), shuffled)
held("deque", lambda folder: deque(range(4)), lambda thing: thing.rotate(1) or thing[0])


def answers(model: nn.Module, between: Callable[[], None]) -> list[torch.Tensor]:
    found = []
    with torch.no_grad():
        for _ in range(3):
            found.append(model(IMAGES))
            between()
    return found


@pytest.mark.parametrize("kind", [Shadow, InPlace])
@pytest.mark.parametrize("name", CASES)
def test_what_a_copy_shares_is_put_back(name, kind, tmp_path):
    def once(measured: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        LISTENER.uses = 0
        model = CASES[name](tmp_path)

        def run() -> None:
            copy = kind(model, convolutions(model))
            for _ in range(2):
                with copy.running():
                    copy.call(EntryCall("", model, (IMAGES[:2],), {})).run()

        return answers(model, run if measured else lambda: None)

    plain, watched = once(False), once(True)
    assert "cache" in name or not torch.equal(plain[0], plain[1])  # the state shows
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [Shadow, InPlace])
def test_a_file_that_is_written_gets_no_line_of_ours(kind, tmp_path):
    class Writes(Base):
        def number(self):
            return written(self.place)

    model = Writes()
    with (tmp_path / "log.txt").open("w") as model.place:
        answers(model, lambda: run_once(model, kind))
    assert (tmp_path / "log.txt").read_text() == "called\n" * 3


@pytest.mark.parametrize("kind", [Shadow, InPlace])
def test_a_file_that_is_read_stays_where_it_is(kind, tmp_path):
    class Reads(Base):
        def number(self):
            return float(self.place.read(1))

    (tmp_path / "numbers.txt").write_text("123456789")
    model = Reads()
    with (tmp_path / "numbers.txt").open() as model.place:
        answers(model, lambda: run_once(model, kind))
        assert model.place.read() == "456789"


def run_once(model: nn.Module, kind: Any) -> None:
    copy = kind(model, convolutions(model))
    with copy.running():
        copy.call(EntryCall("", model, (IMAGES[:2],), {})).run()


def _numbers() -> Iterator[int]:
    yield from range(100)


@pytest.mark.parametrize("kind", [Shadow, InPlace])
def test_a_generator_ends_our_forward_and_is_not_advanced(kind):
    class Advances(Base):
        def number(self):
            return next(self.place)

    model = Advances()
    model.place = _numbers()
    with pytest.raises(PANError, match="uses a generator, which cannot be copied"):
        run_once(model, kind)
    assert next(model.place) == 0


def test_no_code_of_the_users_runs_when_a_model_is_copied():
    made = []

    class Registered(Base):
        def __init__(self):
            super().__init__()
            made.append(self)

        def __setstate__(self, state):
            super().__setstate__(state)
            made.append(self)

        def __deepcopy__(self, memo):
            raise AssertionError("it was copied")

        def number(self):
            return 1

    run_once(Registered(), Shadow)
    assert len(made) == 1


def test_what_is_put_back_is_what_the_code_names():
    class Other:
        value = 1

    def code() -> None:
        Other.value += 1

    with undisturbed(code):
        code()
        assert Other.value == 2
    assert Other.value == 1


def test_an_iterator_of_a_class_of_somebodys_is_no_iterator_to_be_replaced():
    class Numbers:
        def __init__(self):
            self.number = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.number += 1
            return self.number

    numbers = Numbers()
    assert stand_in(numbers) is numbers


class Closes:
    """Says so when it ends."""

    ended = 0

    def __init__(self) -> None:
        self.uses = 0

    def __del__(self):
        Closes.ended += 1


def test_no_copy_of_an_object_that_does_something_as_it_ends(tmp_path):
    class Uses(Base):
        def number(self):
            return counted(self.place)

    model = Uses()
    model.place, Closes.ended = Closes(), 0
    run_once(model, Shadow)
    gc.collect()
    assert (Closes.ended, model.place.uses) == (0, 0)


def test_a_temporary_file_is_there_after_our_forwards():
    class Writes(Base):
        def number(self):
            self.place.write(b"called")
            return 1

    model = Writes()
    with tempfile.NamedTemporaryFile() as model.place:
        run_once(model, Shadow)
        gc.collect()
        assert Path(model.place.name).read_bytes() == b""


@pytest.mark.parametrize("kind", [Shadow, InPlace])
def test_a_file_that_is_read_and_written_stays_as_it_is(kind, tmp_path):
    class Changes(Base):
        def number(self):
            found = self.place.read(1)
            self.place.write(b"x")
            return found[0]

    (tmp_path / "bytes").write_bytes(b"123456789")
    model = Changes()
    with (tmp_path / "bytes").open("r+b") as model.place:
        model.place.read(2)
        run_once(model, kind)
        assert model.place.read() == b"3456789"
    assert (tmp_path / "bytes").read_bytes() == b"123456789"


def test_what_is_imported_in_our_forward_stays_imported(tmp_path, monkeypatch):
    (tmp_path / "somebodys").mkdir()
    (tmp_path / "somebodys" / "__init__.py").write_text("")
    (tmp_path / "somebodys" / "ops.py").write_text("def act(x):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    somebodys = importlib.import_module("somebodys")

    class Imports(Base):
        def number(self):
            importlib.import_module("somebodys.ops")
            return somebodys.ops.act(1)

    model = Imports()
    run_once(model, Shadow)
    assert model(IMAGES).shape == (4, 3, 12, 12)


@pytest.mark.parametrize("thing", [random.SystemRandom(), torch.eye(3).to_sparse(), torch.zeros(1).expand(4)])
def test_what_cannot_be_put_back_is_no_hindrance(thing):
    things = [thing]

    class Names(Base):
        def number(self):
            return len(things)

    for kind in (Shadow, InPlace):
        run_once(Names(), kind)
        assert len(things) == 1 and things[0] is thing


def test_an_error_in_putting_back_keeps_nothing_else_from_it():
    values, items = np.zeros(2), [1]
    with pytest.raises(ValueError, match="read-only"), undisturbed(values, items):
        values[0] = 1
        items.append(2)
        values.flags.writeable = False
    assert items == [1]
