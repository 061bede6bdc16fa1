"""`Spec`: how a compacted network differs from a new one of its class, besides its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.fx import GraphModule

_KEY = "ltpl_spec"


@dataclass(frozen=True)
class Literal:
    """Numbers of channels that stand in a module's own code.

    Args:
        path: The module whose `forward` says them.
        operation: The operation that they are arguments of.
        old: What the code says.
        new: What it has to say.
    """

    path: str
    operation: str
    old: list[Any]
    new: list[Any]


@dataclass(frozen=True)
class Spec:
    """What has to be done to a network of the original class before small weights fit it.

    Args:
        selections: Normalisation layers that select channels of their input, with the numbers.
        biases: Layers that have a bias now.
        literals: Numbers of channels in the code of modules; one list for each compaction.
        network: The original class, as `module:name`.
        arguments: What it is called with, where that is known.
    """

    selections: dict[str, list[int]] = field(default_factory=dict)
    biases: list[str] = field(default_factory=list)
    literals: list[list[Literal]] = field(default_factory=list)
    network: str = ""
    arguments: dict[str, Any] | None = None

    def then(self, later: Spec) -> Spec:
        """Return what this and a later compaction do together."""
        return Spec(
            {**self.selections, **later.selections},
            [*self.biases, *later.biases],
            [*self.literals, *later.literals],
            self.network,
            self.arguments,
        )

    def since(self, earlier: Spec) -> Spec:
        """Return what was done after an earlier state of the same network."""
        return Spec(
            {p: chosen for p, chosen in self.selections.items() if p not in earlier.selections},
            self.biases[len(earlier.biases) :],
            self.literals[len(earlier.literals) :],
            self.network,
            self.arguments,
        )

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Spec:
        """Read what `as_json` gave.

        Raises:
            ValueError: If it is something else.
        """
        try:
            literals = [[Literal(**each) for each in stage] for stage in content["literals"]]
            return cls(**{**content, "literals": literals})
        except (TypeError, KeyError) as error:
            raise ValueError(f"This does not say how a network was compacted: {error}.") from None


def spec_of(model: nn.Module) -> Spec:
    """Return what was done to a network, and its class; nothing, if it was never compacted."""
    kept = model.meta if isinstance(model, GraphModule) else vars(model)
    if _KEY in kept:
        return Spec.from_json(kept[_KEY])
    kind = type(model)
    made_with = _plain(getattr(model, "arguments", None))
    return Spec(network=f"{kind.__module__}:{kind.__qualname__}", arguments=made_with)


def _plain(arguments: Any) -> dict[str, Any] | None:
    """Return arguments as JSON has them; None if it cannot say them."""
    try:
        found = json.loads(json.dumps(arguments))
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(model: nn.Module, spec: Spec) -> None:
    """Let a network, and its copies, know what was done to it."""
    kept = model.meta if isinstance(model, GraphModule) else vars(model)
    kept[_KEY] = spec.as_json()
