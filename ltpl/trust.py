"""Which classes a config may name that lies in a folder, and that nobody named on the command line.

Whoever names a class in a config has it imported and called. A run or a checkpoint from a stranger
brings its own config along, so that is looked through before anything in it is built.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml

from ltpl.compaction.store import NETWORKS

_BOTH = [("pytorch_lightning", "lightning_fabric"), ("lightning.pytorch", "lightning.fabric")]
_OF_LIGHTNING = ("callbacks", "profilers", "strategies", "accelerators", "plugins")
LIBRARIES = (  # they build networks, data and training, and call nothing that is given by its name
    *NETWORKS,
    *(f"ltpl.{room}" for room in ("callbacks", "data", "masks", "modules")),
    "ltpl.compaction.store.load",
    "torch.optim",
    "torchvision.transforms",
    "torch_geometric.transforms",
    *(f"torchmetrics.{kind}" for kind in ("aggregation", "classification", "regression")),
    *(f"{fabric}.plugins" for _, fabric in _BOTH),
    *(f"{fabric}.loggers" for _, fabric in _BOTH),
    *(f"{package}.{part}" for package, _ in _BOTH for part in _OF_LIGHTNING),
    *(f"{package}.loggers.{kind}" for package, _ in _BOTH for kind in ("csv_logs", "tensorboard")),
    *(f"{package}.cli.ReduceLROnPlateau" for package, _ in _BOTH),
)
REFUSED = tuple(
    f"{package}.{part}"
    for package, _ in _BOTH
    for part in ("callbacks.lambda_function", "strategies.launchers")
)
KINDS = {  # bases of what may be given by its bare name
    *("Callback", "Logger", "Profiler", "Strategy", "CheckpointIO", "Accelerator"),
    *("LightningDataModule", "Module", "Optimizer", "Dataset"),
}
MOST = 100_000  # values in a config
LONGEST = 1_000_000  # bytes of a config inside a config


@dataclass(frozen=True)
class Trust:
    """Whose classes may be used without asking.

    Args:
        own: Top-level modules of the program that reads the config.
        named: Dotted names that the user gave on the command line.
    """

    own: Collection[str] = ()
    named: Collection[str] = ()

    @classmethod
    def of(cls, program: Collection[Any], given: Collection[Any]) -> Trust:
        """Return the trust in a program, and in what its user names.

        Args:
            program: Classes that the program is made of.
            given: The arguments of the command, and the contents of the configs they name.
        """
        libraries = {name.partition(".")[0] for name in LIBRARIES}
        own = {kind.__module__.partition(".")[0] for kind in program} - libraries
        names = {text for text in _texts(given, None) if "." in text and not _is_there(text)}
        return cls({*own, "__main__"}, names)

    def must_allow(self, config: Any, source: str | Path) -> None:
        """Refuse a config that names what may run code.

        Args:
            config: Dictionaries, lists and values.
            source: The file it comes from.

        Raises:
            ValueError: If a name in it is neither the program's, nor the user's, nor of a library
                that only builds.
        """
        try:
            for text in _texts(config, Path()):
                if not self._allows(text):
                    shown = re.sub(r"[^\w.${}|\[\]]+", " ", text)[:100]
                    raise ValueError(
                        f"{source} names {shown}, which is not of ltpl or the libraries it "
                        "trusts: name it yourself on the command line, or add --trust if you know "
                        "where the file comes from."
                    )
        except RecursionError:
            raise ValueError(f"{source} is nested too deep to be a config.") from None

    def _allows(self, text: str) -> bool:
        if "${" in text:  # some parsers fill it in
            return False
        if text in self.named:
            return True
        parts = text.split(".")
        if set("[|") & set(text) and not all(map(self._allows, _words(text))):
            return False
        if len(parts) == 1:
            return all(self._is_known(kind) for kind in self._loaded.get(text, ()))
        if not parts[0] or not _can_be_imported(parts[0]):
            return True
        found = self._found(parts)
        if found is None and parts[0] in self.own:  # nothing is there to be called
            return True
        return self._is_known(found)

    def _is_known(self, found: Any) -> bool:
        if not isinstance(found, (type, FunctionType)):
            return False
        place = f"{found.__module__}.{found.__qualname__}"
        known = place.partition(".")[0] in self.own or _within(place, LIBRARIES)
        return (known and not _within(place, REFUSED)) or place in self._places

    @functools.cached_property
    def _places(self) -> set[str]:
        """Where the classes lie that the user named, which may be elsewhere than the name says."""
        found = [self._found(name.split(".")) for name in self.named]
        return {f"{k.__module__}.{k.__qualname__}" for k in found if isinstance(k, type)}

    @functools.cached_property
    def _loaded(self) -> dict[str, list[type]]:
        """The classes that may be given by their bare names."""
        found: dict[str, list[type]] = {}
        waiting, seen = [object], {object}
        while waiting:
            below = set(type.__subclasses__(waiting.pop())) - seen
            seen |= below
            waiting += below
        for kind in seen:
            if any(base.__name__ in KINDS for base in kind.__mro__):
                found.setdefault(kind.__name__, []).append(kind)
        return found

    def _found(self, parts: list[str]) -> Any:
        """Return what a name stands for; only what is trusted is imported for that."""
        for cut in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:cut])
            libraries = any(_within(module, [k]) or _within(k, [module]) for k in LIBRARIES)
            if module not in sys.modules and (libraries or parts[0] in self.own):
                with contextlib.suppress(Exception), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # they are not about anything that is asked
                    importlib.import_module(module)
            if module in sys.modules:
                found: Any = sys.modules[module]
                for part in parts[cut:]:
                    found = getattr(found, part, None)
                return found
        return None


def _within(place: str, names: Collection[str]) -> bool:
    return any(f"{place}.".startswith(f"{name}.") for name in names)


def _words(text: str) -> list[str]:
    """Return the names in a type such as `list[my.Class] | None`."""
    return "".join(c if c.isidentifier() or c.isdigit() or c == "." else " " for c in text).split()


def _is_there(path: str) -> bool:
    """Whether a text names a file, as that of a stranger, whose name is not the user's choice."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _can_be_imported(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return True


def _texts(config: Any, folder: Path | None) -> Iterator[str]:
    """Return every string in a config, in strings that are YAML, and in files that it names.

    Args:
        config: The config.
        folder: Where the files that it names are looked for; None: they are not.
    """
    waiting, seen = [(config, folder)], 0
    files: set[Path] = set()
    while waiting:
        value, folder = waiting.pop()
        seen += 1
        if seen > MOST:
            raise ValueError(f"A config holds more than {MOST:,} values.")
        if isinstance(value, Mapping):
            waiting += [(v, folder) for v in value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += [(v, folder) for v in value]
        elif isinstance(value, str):
            yield value
            if (inside := _read(value)) != value:
                waiting.append((inside, folder))
            for file in {Path(value), folder / value} - files if folder is not None else ():
                files.add(file)
                waiting.append((_config_at(file), file.parent))


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _config_at(file: Path) -> Any:
    """Return what a file says if it may be a config, which the parser would read."""
    try:
        file = file.expanduser()
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            content = opened.read(LONGEST + 1)
    except (OSError, ValueError, RuntimeError):
        return None
    if b"\0" in content:  # of a checkpoint, say; no parser takes it
        return None
    if len(content) > LONGEST:
        raise ValueError(f"{file} is too long for a config that is named in another.")
    return _read(content.decode(errors="replace"))
