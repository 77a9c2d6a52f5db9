"""Models that a function of the user's makes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.sources.checkpoints import in_one_line
from pan_callbacks.sources.libraries import unknown
from pan_callbacks.sources.preprocessing import Preprocessing
from pan_callbacks.sources.timm_models import of_timm


class FactoryModel:
    """A model that a function of the user's makes.

    Args:
        module: Module of the function, or its file.
        name: Name of the function.
        num_classes: Has to be None: the function is called without arguments.

    Raises:
        UsageError: If there is no such function.
        PANError: If importing it fails.
    """

    default_weights = random_weights = "as the factory made them"

    def __init__(self, module: str, name: str, num_classes: int | None) -> None:
        if num_classes is not None:
            raise UsageError(f"num_classes={num_classes}: {module}:{name} is called without arguments; change it there")
        self.module, self.name = module, f"{module}:{name}"
        with _importable(Path(module).parent if module.endswith(".py") else Path.cwd()), self._running():
            found = self._import()
            factory = getattr(found, name, None)
        if not callable(factory):
            raise unknown(f"{module} has no function {name!r}", name, [key for key in vars(found) if key[0] != "_"])

        self.factory: Callable[[], Any] = factory

    def _import(self) -> ModuleType:
        if not self.module.endswith(".py"):
            try:
                return importlib.import_module(self.module)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                    raise
                raise UsageError(
                    f"{self.name}: there is no module {error.name!r}; timm:NAME, torchvision:NAME, "
                    "package.module:factory or path/to/file.py:factory is needed"
                ) from None
        path = Path(self.module)
        if not path.is_file():
            raise UsageError(f"{self.name}: there is no file {path}")
        spec = importlib.util.spec_from_file_location(f"pan_callbacks_factory_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{self.name}: {path} is no Python file")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            yield
        except PANError:
            raise
        except (Exception, SystemExit) as error:
            raise PANError(f"{self.name} raised {in_one_line(error)}") from error

    def make(self, pretrained: bool = False, progress: bool = False, **changed: Any) -> nn.Module:
        """Call the function, which has one way to make its model."""
        folder = Path(self.module).parent if self.module.endswith(".py") else Path.cwd()
        with _importable(folder), self._running():
            model = self.factory()
        if not isinstance(model, nn.Module):
            raise UsageError(f"{self.name} returned a {type(model).__name__}; a torch.nn.Module is needed")
        return model

    def check_pretrained(self) -> bool:
        """Ask nobody: the function does as it likes."""
        return False

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterable[dict[str, Any]]:
        """Offer nothing."""
        return ()

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what timm's configuration says, if the model has one; else a guess."""
        return of_timm(model) if getattr(model, "pretrained_cfg", None) else Preprocessing()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Have the folder imported from, as a script that lies in it can."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):  # what was imported may have removed it
            sys.path.remove(entry)
