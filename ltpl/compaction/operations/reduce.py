"""Operations over pixels, nodes and edges: pooling, sums, gathering and scattering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import operation
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value


class Pool(Rule):
    """Each channel on its own, over its pixels."""

    def __init__(self, spatial: int):
        self.spatial = spatial

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Keep labels of channels; a constant stays, unless zeros of a border are mixed in."""
        x = a.must(next(iter(args.values())))
        front = range(len(x.sizes) - self.spatial)
        x = a.only(x, front)
        const = x.const
        averaged = operation(node).startswith("avg") and args.get("count_include_pad", True)
        if averaged and (any(args.get("padding") or []) or args.get("divisor_override")):
            const = torch.where(const == 0, const, UNKNOWN)
        first = node.meta["val"]
        if isinstance(first, torch.Tensor):
            return replace(x, sizes=tuple(sizes_of(node)), const=const, zero=const == 0)
        sizes, places = (tuple(v.shape) for v in first)  # with the places of the maxima
        return [Value.known(sizes, x.labels, const), Value.unknown(places, x.labels)]

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the result is read of the operand."""
        if isinstance(a.values[node], list):
            for part in a.needs.get(node, []):
                a.want(next(iter(args.values())), part)
        else:
            a.want(next(iter(args.values())), a.live(node))


class Reduction(Rule):
    """A sum, mean or maximum over dimensions; channels among them are all read."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Drop labels of the dimensions that are gone; means and maxima need all channels."""
        x = a.must(args["self"])
        gone = self.gone(x, args)
        name = operation(node)
        if name not in SUMS:
            a.freeze(x, [d for d in gone if x.sizes[d] != 1])
        const = self._const(x, gone, name in ("mean", "amax", "amin", "max", "min"))
        if name not in ZERO:
            const = torch.full_like(const, UNKNOWN)
        labels: list[Ids | None] = [None if d in gone else ids for d, ids in enumerate(x.labels)]
        if not args.get("keepdim"):
            labels = [ids for d, ids in enumerate(labels) if d not in gone]
            const = const.squeeze(gone) if gone else const
        first = node.meta["val"]
        if isinstance(first, torch.Tensor):
            return Value.known(sizes_of(node), labels, const)
        return [Value.unknown(list(v.shape), labels) for v in first]

    def _const(self, x: Value, gone: Sequence[int], every: bool) -> Tensor:
        """Return what is left of constants: all, for a mean or an extreme; else zeros."""
        const = x.const.to(torch.float64)
        for dim in gone:
            first = const.narrow(dim, 0, 1)
            const = torch.where((const == first).all(dim, keepdim=True), first, UNKNOWN)
        return const if every else torch.where(const == 0, const, UNKNOWN)

    @staticmethod
    def gone(x: Value, args: dict[str, Any]) -> tuple[int, ...]:
        """Return the dimensions that are reduced."""
        given = args.get("dim")
        if given is None or given == []:
            return tuple(range(len(x.sizes)))
        return tuple(d % len(x.sizes) for d in ([given] if isinstance(given, int) else given))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the result is read of all that it sums up."""
        x = a.must(args["self"])
        gone = self.gone(x, args)
        if isinstance(a.values[node], list):
            a.freeze(x)
            a.want(args["self"], torch.ones([1] * len(x.sizes), dtype=torch.bool))
            return
        live = a.live(node)
        if not args.get("keepdim"):
            for dim in sorted(gone):
                live = live.unsqueeze(dim)
        shape = [max(one, two) for one, two in zip(live.shape, x.const.shape, strict=True)]
        need = live.expand(shape)
        a.want(args["self"], need & x.const.isnan())
        for dim in gone:
            read = need.movedim(dim, 0).flatten(1).any(1) if need.dim() > 1 else need
            if x.labels[dim] is not None:
                a.veto(x.labels[dim], read & ~(x.zero_along(dim) | (x.along(dim) == 0)))


SUMS = ("sum", "linalg_vector_norm")
ZERO = (*SUMS, "mean", "amax", "amin", "max", "min", "prod")


class Gather(Rule):
    """Rows of a tensor by number: what neighbours send."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Keep labels of the other dimensions."""
        x = a.must(args["self"])
        sizes = sizes_of(node)
        if operation(node) == "index":
            where = [d for d, i in enumerate(args["indices"]) if i is not None]
            if len(where) != 1 or len(sizes) != len(x.sizes):
                a.freeze(x)
                return Value.unknown(sizes)
            dims = where
        else:
            dims = [args["dim"] % len(x.sizes)]
        if operation(node) == "gather":
            a.freeze(a.value(args["index"]))
            dims = list(range(len(x.sizes)))
        x = a.only(x, [d for d in range(len(x.sizes)) if d not in dims])
        return replace(x, sizes=tuple(sizes), parameter=None)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read what is read of the result."""
        x, value = a.must(args["self"]), a.must(node)
        same = len(x.sizes) == len(value.sizes)
        a.want(args["self"], a.live(node) if same else torch.ones([1] * len(x.sizes)).bool())


class Scatter(Rule):
    """Rows added up, or otherwise reduced, by number: what arrives at a node."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie the labels of the other dimensions; only zeros stay known."""
        names = [n for n in ("self", "index", "src", "source") if a.value(args.get(n)) is not None]
        values = [a.must(args[n]) for n in names]
        x = values[0]
        dim = args["dim"] % len(x.sizes)
        labels: list[Ids | None] = []
        full = [v for v in values if len(v.sizes) == len(x.sizes)]
        for d in range(len(x.sizes)):
            if d == dim:
                a.freeze(x, [d])
                for value in full[1:]:
                    a.freeze(value, [d])
                labels.append(None)
                continue
            own = x.labels[d]
            for value in full[1:]:
                if own is not None or value.labels[d] is not None:
                    own = a.tie(own, value.labels[d])
            labels.append(own)
        for value in values:
            if len(value.sizes) != len(x.sizes):
                a.freeze(value)
        shape = [1 if ids is None else len(ids) for ids in labels]
        zero = torch.ones(shape, dtype=torch.bool)
        for name, value in zip(names, values, strict=True):
            if name != "index":
                both = value.zero | (value.const == 0)
                zero = zero & both.all(dim, keepdim=True).expand(shape)
        plain = args.get("reduce", "sum") in ("sum", "mean", "amax", "amin", "add")
        const = torch.where(zero & torch.tensor(plain), 0.0, UNKNOWN).double()
        return Value.known(sizes_of(node), labels, const)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read what is read of the result."""
        for name in ("self", "src", "source"):
            if a.value(args.get(name)) is not None:
                a.want(args[name], a.live(node))


class Glu(Rule):
    """The first half times a sigmoid of the second: halves go together."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie the halves; where the first is zero, the result is."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        ids = x.labels[dim]
        labels, const = list(x.labels), x.const.double()
        if ids is None:
            known = torch.where(x.const == 0, 0.0, UNKNOWN).double()
        else:
            half = len(ids) // 2
            a.labels.tie(ids[:half], ids[half:])
            labels[dim] = ids[:half]
            first, gate = const.narrow(dim, 0, half), const.narrow(dim, half, half)
            known = torch.where(first == 0, 0.0, first * gate.sigmoid())
        return Value.known(sizes_of(node), labels, known)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Both halves are read where the result is."""
        dim = args["dim"] % len(a.must(args["self"]).sizes)
        live = a.live(node)
        whole = a.must(args["self"]).labels[dim] is None
        a.want(args["self"], live if whole else torch.cat([live, live], dim))


class Shuffle(Rule):
    """Channels of groups take turns, or blocks of channels become pixels."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Channels of equal place in their groups, or of one block, go together."""
        x = a.must(args["self"])
        name = operation(node)
        dim = 1 if name.endswith("channel_shuffle") else len(x.sizes) - 3
        x = a.only(x, [d for d in range(len(x.sizes)) if d == dim or d < len(x.sizes) - 3])
        ids = x.labels[dim]
        labels = list(x.labels)
        if ids is not None:
            if dim == 1 and name.endswith("channel_shuffle"):
                rows = ids.reshape(args["groups"], -1)
                a.labels.tie(rows, rows[:1])
                labels[dim] = np.ascontiguousarray(rows.T).reshape(-1)
            else:
                rows = ids.reshape(-1, args["upscale_factor"] ** 2)
                a.labels.tie(rows, rows[:, :1])
                labels[dim] = rows[:, 0]
        shape = [1 if i is None else len(i) for i in labels]
        const, zero = (self._moved(t, dim, shape, args) for t in (x.const, x.zero))
        same = const.narrow(-1, 0, 1)
        const = torch.where((const == same).all(-1), same.squeeze(-1), UNKNOWN)
        return Value(tuple(sizes_of(node)), tuple(labels), const, zero.all(-1))

    def _moved(self, tensor: Tensor, dim: int, shape: list[int], args: dict[str, Any]) -> Tensor:
        """Return what becomes of each channel, with the members of a block last."""
        if tensor.shape[dim] == 1:
            return tensor.unsqueeze(-1)
        rows = tensor.movedim(dim, -1)
        if "groups" in args:
            turned = rows.reshape(*rows.shape[:-1], args["groups"], -1).transpose(-1, -2)
            return turned.reshape(rows.shape).movedim(-1, dim).unsqueeze(-1)
        blocks = rows.reshape(*rows.shape[:-1], -1, args["upscale_factor"] ** 2)
        return blocks.movedim(-2, dim)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read what is read of the result."""
        x, live = a.must(args["self"]), a.live(node)
        dim = 1 if "groups" in args else len(x.sizes) - 3
        if live.shape[dim] > 1:
            rows = live.movedim(dim, -1)
            if "groups" in args:
                rows = rows.reshape(*rows.shape[:-1], -1, args["groups"]).transpose(-1, -2)
                rows = rows.reshape(*rows.shape[:-2], -1)
            else:
                rows = rows.repeat_interleave(args["upscale_factor"] ** 2, -1)
            live = rows.movedim(-1, dim)
        a.want(args["self"], live)


KINDS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
POOLS = {f"{kind}{n}d": Pool(n) for n in (1, 2, 3) for kind in KINDS}
UPSAMPLING = {
    f"upsample_{kind}{n}d": Pool(n)
    for kind, n in [("nearest", 1), ("nearest", 2), ("nearest", 3), ("linear", 1), ("bilinear", 2),
                    ("bicubic", 2), ("trilinear", 3)]
}  # fmt: skip

RULES: dict[str, Rule] = {
    **POOLS,
    **UPSAMPLING,
    **{f"max_pool{n}d_with_indices": Pool(n) for n in (1, 2, 3)},
    **dict.fromkeys((*ZERO, "argmax", "argmin", "var", "std"), Reduction()),
    **dict.fromkeys(("index_select", "index", "gather"), Gather()),
    **dict.fromkeys(("scatter_add", "scatter_reduce", "index_add", "scatter"), Scatter()),
    **dict.fromkeys(("pixel_shuffle", "channel_shuffle", "native_channel_shuffle"), Shuffle()),
    "glu": Glu(),
}
