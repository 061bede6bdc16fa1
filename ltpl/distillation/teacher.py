"""`Teacher`: the network that gives soft labels, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.distillation.capture import Call, Capture, versions
from ltpl.masks.errors import told_by_torch
from ltpl.tickets.files import stored_format
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.result import FILE, round_folder, seeds_and_rounds
from ltpl.tickets.weights import load_weights_

IN_ROUNDS = ("dense", "previous")


@dataclass(frozen=True)
class Heard:
    """What a teacher says to the inputs of a call.

    Args:
        output: What it returned.
        hidden: What its layers that are listened to returned.
    """

    output: Any
    hidden: dict[str, list[Any]]


class Teacher:
    """A network in evaluation mode that follows no gradient; nobody's submodule.

    Args:
        network: The network.
        layers: Names of layers inside whose outputs are wanted too.
    """

    def __init__(self, network: nn.Module, layers: list[str]):
        self.network = network
        self._capture = Capture(network, layers)

    def __call__(self, call: Call) -> Heard:
        """Return what the teacher says to what the student was called with.

        Raises:
            ValueError: If the teacher changes its input in place.
        """
        if self.network.training:  # whoever holds it may call train()
            self.network.eval()
        before = versions(call.args, call.kwargs)
        with torch.no_grad(), self._capture.listening() as calls:
            try:
                self.network(*call.args, **call.kwargs)
            except RuntimeError as error:
                if "shape" not in str(error) and "size" not in str(error):
                    raise
                raise ValueError(
                    f"teacher: {type(self.network).__name__} does not take what the student is "
                    f"given: {told_by_torch(error)}"
                ) from error
        if versions(call.args, call.kwargs) != before:
            raise ValueError(
                "teacher: it changes its input in place, which the student needs; build it with "
                "inplace=False at its beginning."
            )
        return Heard(calls[-1].output, calls[-1].hidden)

    def remove(self) -> None:
        """Leave the network as it was."""
        self._capture.remove()


def frozen(network: nn.Module) -> nn.Module:
    """Return a network that nothing trains."""
    return network.requires_grad_(False).eval()


def weights_of(teacher: str | Path, lineage: Lineage | None) -> Path:
    """Return where the weights of a teacher are.

    Args:
        teacher: `dense` or `previous` round, `run:DIR`, or a path.
        lineage: The round that trains; None if no round does.

    Raises:
        ValueError: If there is no such round, or it is not finished.
    """
    name = str(teacher)
    if name in IN_ROUNDS:
        if lineage is None:
            raise ValueError(
                f"teacher={name!r} is a round of `ltpl rounds` or `ltpl branch`; here give a "
                "checkpoint, a network, run:DIR or ema."
            )
        folder = lineage.dense if name == "dense" else lineage.previous
        if folder is None:
            raise ValueError(
                f"teacher={name!r}: the dense round has none. Distil from a later round on, "
                "from_round=1."
            )
        return folder
    if name.startswith("run:"):
        return _dense_round(Path(name.removeprefix("run:")).expanduser(), lineage)
    return Path(name).expanduser()


def _dense_round(run: Path, lineage: Lineage | None) -> Path:
    """Return the dense round of a run: of the same replicate if there is one, or the first."""
    there = [
        seed for seed, level, path in seeds_and_rounds(run) if not level and (path / FILE).is_file()
    ]
    if not there:
        raise ValueError(f"teacher='run:{run}': no dense round is finished there.")
    seed = lineage.seed if lineage is not None and lineage.seed in there else min(there)
    return round_folder(run, seed, 0)


def taught(network: nn.Module | None, alike: nn.Module, weights: Path, path: str) -> nn.Module:
    """Return a network with the weights of a teacher.

    Args:
        network: A network of its architecture that was given; it gets the weights.
        alike: One like the student, which is taken otherwise.
        weights: The file or folder they are in; what `ltpl.save` wrote brings its own architecture.
        path: What the student is called in the LightningModule.
    """
    compacted = weights / "compact.safetensors" if weights.is_dir() else weights
    if (stored_format(compacted) or "").startswith("ltpl.compact/"):
        from ltpl.compaction.store import load  # it loads torch.export, which takes its time

        return frozen(load(compacted, model=network))
    network = alike if network is None else network
    try:
        load_weights_(network, weights, f"{path}." if path else "")
    except ValueError as error:
        raise ValueError(f"teacher: {error}") from None
    return frozen(network)


def output_of(output: Any, which: str | int | None) -> Tensor:
    """Return the logits among what a network returns.

    Args:
        output: A tensor, or several: a tuple, a dictionary, an object.
        which: The place, key or attribute of the logits; `logits` or the first if not given.

    Raises:
        ValueError: If there is no tensor.
    """
    found = output
    if not isinstance(output, Tensor):
        named = isinstance(output, dict) or hasattr(output, "logits") or isinstance(which, str)
        key: Any = which if which is not None else "logits" if named else 0
        try:
            found = getattr(output, key) if hasattr(output, str(key)) else output[key]
        except (KeyError, IndexError, TypeError):
            found = None
    if not isinstance(found, Tensor):
        raise ValueError(
            f"output={which!r}: the network returns a {type(output).__name__}, and there are no "
            "logits so; name their place, key or attribute."
        )
    return found
