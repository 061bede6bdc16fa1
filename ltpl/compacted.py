"""`ltpl compact`: a trained checkpoint becomes a small network in a folder of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.callbacks.network import Network, detached, smallest
from ltpl.callbacks.slimming import NetworkSlimming
from ltpl.checkpoint import restore, zeros
from ltpl.compaction.compact import planned
from ltpl.compaction.latency import latency
from ltpl.compaction.left import LayerLeft, left, written
from ltpl.compaction.live import narrowed_snapshot
from ltpl.compaction.plan import Compaction
from ltpl.compaction.redraw import redraw
from ltpl.compaction.spec import spec_of
from ltpl.compaction.store import FILE, save
from ltpl.masks.errors import unknown
from ltpl.masks.files import whole_file
from ltpl.masks.mask import Mask
from ltpl.retraining import arguments_of, write_config
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import MASK

STARTS = ("inherit", "rewind", "reinit", "scratch_b")
BARE = {  # Trainer options of `ltpl compact`: it validates, and leaves nothing behind
    "logger": False,
    "callbacks": [],
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "devices": 1,
    "strategy": "auto",
    "inference_mode": False,  # its batches are followed and exported afterwards
}


@dataclass(frozen=True)
class Compact:
    """Options of `ltpl compact`.

    Args:
        checkpoint: A Lightning checkpoint, or the folder of a finished round.
        out: Folder of the small network; it must not hold another one.
        amount: Share of channels to prune first, as the `NetworkSlimming` of the config says how
            (in `slim` or `prune`; a plain one if there is none). If not given, the checkpoint's
            own mask counts; where it has none, the callback's own amount.
        start: Weights of the small network: `inherit` the trained ones, `rewind` to a snapshot,
            `reinit` (new ones, trained as long as the dense network: Scratch-E), or `scratch_b`
            (new ones, trained for as much computation).
        snapshot: The snapshot to rewind to; the round's own if not given.
        l1: Whether the penalty of the `slim` slot goes on in retraining.
        round_to: Numbers of channels are raised to multiples of this, with dead ones.
        selection: Whether a BatchNorm may select channels of its input.
        batches: On how many validation batches both networks are compared.
        onnx: Whether to write `model.onnx` too; needs the package onnx.
        export: Whether to write `model.pt2` too, for `torch.export.load`.
        latency: Whether to time both networks too, side by side, on a validation batch.
        seed: Seed of new weights.
    """

    checkpoint: str
    out: str
    amount: float | None = None
    start: str = "inherit"
    snapshot: str | None = None
    l1: bool = False
    round_to: int = 1
    selection: bool = True
    batches: int = 2
    onnx: bool = False
    export: bool = False
    latency: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise unknown("start", self.start, STARTS)
        if self.batches < 1:
            raise ValueError(f"batches={self.batches}: at least 1.")
        if self.onnx and find_spec("onnx") is None:
            raise ValueError("onnx: `pip install onnx onnxscript` first.")
        if self.snapshot is not None and self.start != "rewind":
            raise ValueError(
                f"snapshot={self.snapshot!r} with start={self.start!r}: only `rewind`."
            )


@dataclass(frozen=True)
class Built:
    """What a config describes, ready to run.

    Args:
        module: The LightningModule.
        data: The LightningDataModule, if there is one.
        trainer: A Trainer without loggers and callbacks.
        slim: The callback in the `slim` slot.
        config: Every option, resolved.
    """

    module: Any
    data: Any
    trainer: Any
    slim: Any
    config: dict[str, Any]


def compact_checkpoint(built: Built, options: Compact) -> str:
    """Write the small network and all that belongs to it; return what to print.

    Raises:
        ValueError: If the checkpoint does not fit, says nothing of pruning, or cannot be compacted.
    """
    out = Path(options.out)
    if (out / FILE).exists():
        raise ValueError(f"out={options.out}: there is a compacted network already.")
    module = built.module
    known, snapshots = restore(module, Path(options.checkpoint))
    snapshot = _snapshot(options, snapshots)
    amount = options.amount
    if amount is None and known is None and getattr(built.slim, "prunes", False):
        amount = built.slim.amounts[0]  # of a checkpoint from before it pruned
    if amount is not None:
        known = Mask({**(known or {}), **_drawn(built, amount, options.seed)})
    mask = known or zeros(module, options.checkpoint)
    mask.apply_(module)
    place, calls, before = _validated(built, options.batches)
    inside = place.inside(mask)
    found = planned(
        place.module,
        inside,
        calls[0],
        calls,
        options.round_to,
        options.selection,
        keep_root=not place.path,
    )
    assert found.proof is not None
    dense = copy.deepcopy(place.module)
    small = found.apply(place.module)
    place.put(module, small)
    rows = left(dense, inside, calls[0], small)
    _, _, after = _validated(built, 1)
    _start(built, options, small, found, place, snapshot)
    rest = found.remaining(inside) if options.start in ("inherit", "rewind") else Mask({})
    about: dict[str, Any] = {
        "checkpoint": str(options.checkpoint),
        "start": options.start,
        "error": [found.proof.error, found.proof.error64],
        "masked": before,
        "compacted": after,
        "parameters": [rows[-1].parameters, rows[-1].parameters_left],
        "macs": [rows[-1].macs, rows[-1].macs_left],
        "bytes": [_bytes(dense), _bytes(small)],
    }
    if options.latency:
        times = latency({"dense": dense, "small": small}, calls[0])
        about["latency"] = [times["dense"].median, times["small"].median]
    out.mkdir(parents=True, exist_ok=True)
    _write_layers(out / "layers.csv", rows)
    Mask({place.prefix + n: keep for n, keep in rest.items()}).save(out / MASK)
    pruned = [place.prefix + row.name for row in rest.table() if row.kept < row.total]
    longer = rows[-1].macs / rows[-1].macs_left if options.start == "scratch_b" else 1.0
    config = {k: v for k, v in built.config.items() if k not in vars(options)}
    write_config(config, out, place.path, pruned, options.l1, longer)
    _write_formats(small, calls[0], options, out)
    with whole_file(out / "report.json") as beside:
        beside.write_text(json.dumps(about, indent=1))
    known_arguments = spec_of(small).arguments or arguments_of(built.config, place.path)
    save(small, out / FILE, arguments=known_arguments, about=about)
    if known_arguments is None:
        read = f"ltpl.load({str(out)!r}, model=...), with a new {type(small).__name__}"
    else:
        read = f"ltpl.load({str(out)!r})"
    return _said(out, rows, str(found.proof), about, read)


def _snapshot(options: Compact, known: Sequence[str]) -> Path | None:
    """Return what to rewind to: the snapshot that is named, or the one that training made."""
    if options.start != "rewind":
        return None
    for path in map(Path, [options.snapshot] if options.snapshot else known):
        if path.is_file():
            return path
    where = options.snapshot or (known[0] if known else options.checkpoint)
    raise ValueError(f"start='rewind': no snapshot at {where}; name one with --snapshot.")


def _drawn(built: Built, amount: float, seed: int) -> Mask:
    """Prune channels as the `slim` slot says."""
    slim = built.slim if built.slim is not None else NetworkSlimming()
    if not isinstance(slim, NetworkSlimming):
        raise ValueError(
            f"slim={type(slim).__name__} with --amount: a NetworkSlimming says how to prune."
        )
    batches = _training_batches(built, slim.batches)
    evidence = {"batches": batches} if "batches" in slim.criterion.needs else {}
    return slim.draw(built.module, amount, "all", None, seed, **evidence)


def _training_batches(built: Built, count: int) -> list[Any]:
    source = built.module if built.data is None else built.data
    if built.data is not None:
        built.data.prepare_data()
        built.data.setup("fit")
    loader = source.train_dataloader()
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def _validated(
    built: Built, batches: int
) -> tuple[Network, list[tuple[Any, ...]], dict[str, float]]:
    """Validate; return the network, what it was called with, and the metrics."""
    path, network = smallest(built.module)
    calls: list[tuple[Any, ...]] = []

    def called(_: nn.Module, args: tuple[Any, ...]) -> None:
        if len(calls) < batches:
            calls.append(detached(args))

    handle = network.register_forward_pre_hook(called)
    try:
        (metrics,) = built.trainer.validate(built.module, built.data, verbose=False) or [{}]
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            f"validation_step of {type(built.module).__name__} does not call "
            f"{path or 'its forward'}, so it is not known what the network computes."
        )
    return Network(path, network, calls[0]), calls, {k: float(v) for k, v in metrics.items()}


def _start(
    built: Built,
    options: Compact,
    small: nn.Module,
    found: Compaction,
    place: Network,
    snapshot: Path | None,
) -> None:
    """Give the small network the weights that retraining starts from."""
    if snapshot is not None:
        before = replace(Snapshot.load(snapshot), optimizers=[])
        narrowed_snapshot(before, found, place.prefix, []).restore_weights_(built.module)
    elif options.start != "inherit":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            redraw(small)


def _bytes(network: nn.Module) -> int:
    """Return the size of all weights and buffers."""
    tensors = (t for t in network.state_dict().values() if isinstance(t, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _write_formats(small: nn.Module, example: tuple[Any, ...], options: Compact, out: Path) -> None:
    if not (options.export or options.onnx):
        return
    small.eval()
    sizes = [{0: torch.export.Dim.AUTO} if isinstance(x, Tensor) else None for x in example]
    program = torch.export.export(small, example, dynamic_shapes=tuple(sizes))  # for any batch
    if options.export:
        with whole_file(out / "model.pt2") as beside, beside.open("wb") as file:
            torch.export.save(program, file)
    if options.onnx:
        with whole_file(out / "model.onnx") as beside:
            torch.onnx.export(program, f=beside, dynamo=True, external_data=False, verbose=False)


def _write_layers(path: Path, rows: Sequence[LayerLeft]) -> None:
    lines = [",".join(asdict(rows[0]))]
    lines += [",".join(map(str, asdict(row).values())) for row in rows]
    with whole_file(path) as beside:
        beside.write_text("\n".join(lines) + "\n")


def _said(
    out: Path,
    rows: Sequence[LayerLeft],
    proof: str,
    about: dict[str, Any],
    read: str,
) -> str:
    lines = [written(rows), f"masked and compacted network are {proof}"]
    lines += [
        f"{name}: {value:.4f} masked, {about['compacted'][name]:.4f} compacted"
        for name, value in about["masked"].items()
    ]
    if times := about.get("latency"):
        dense, small = (f"{1000 * seconds:.3g} ms" for seconds in times)
        lines.append(f"latency of a batch: {dense} masked, {small} compacted")
    lines.append(f"{out / FILE}: read it with {read}")
    if (out / "config.yaml").is_file():
        lines.append(f"train it further: ltpl fit --config {out / 'config.yaml'}")
    return "\n".join(lines)
