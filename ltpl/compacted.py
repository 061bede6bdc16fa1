"""`ltpl compact`: a trained checkpoint becomes a small network in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ltpl.callbacks.network import Network, detached, smallest
from ltpl.compaction.compact import planned
from ltpl.compaction.cost import LayerCost, cost, total
from ltpl.compaction.live import narrowed_snapshot
from ltpl.compaction.plan import Compaction
from ltpl.compaction.store import FILE, save
from ltpl.masks.errors import unknown
from ltpl.masks.files import whole_file
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import MASK, START

STARTS = ("inherit", "rewind", "reinit", "scratch_b")
FINAL = "final.safetensors"


@dataclass(frozen=True)
class Compact:
    """Options of `ltpl compact`.

    Args:
        checkpoint: A Lightning checkpoint, or the folder of a finished round.
        out: Folder of the small network; it must not hold another one.
        amount: Share of channels to prune first, as the callback in the `slim` slot says (or a
            plain `NetworkSlimming`); if not given, the checkpoint's own mask counts.
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


def config_beside(given: Sequence[str]) -> dict[str, Any] | None:
    """Return the options that the training of a checkpoint had, if they are beside it.

    Args:
        given: What follows the command; the checkpoint comes first.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If no config is beside it.
    """
    if not given or given[0].startswith("-"):
        return None
    path = Path(given[0])
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    for folder in [path, *path.absolute().parents[:3]]:
        if (folder / "config.yaml").is_file():
            config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
            return {k: v for k, v in config.items() if k not in ("ckpt_path", "weights_only")}
    raise ValueError(f"No config.yaml beside {path}: name the one it was trained with, --config.")


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
    mask, snapshot = _load(module, options)
    if options.amount is not None:
        mask = _drawn(built, options)
    elif mask is None:
        mask = _zeros(module, options.checkpoint)
    mask.apply_(module)
    place, calls, before = _validated(built, options.batches)
    inside = place.inside(mask)
    found, proof = planned(
        place.module, inside, calls[0], calls, options.round_to, options.selection
    )
    one = _single(calls[0])
    dense = cost(place.module, one)
    small = found.apply(place.module)
    place.put(module, small)
    _, _, after = _validated(built, 1)
    thin = cost(small, one)
    _start(built, options, small, found, place, snapshot)
    left = found.remaining(inside) if options.start in ("inherit", "rewind") else Mask({})
    about = {
        "checkpoint": str(options.checkpoint),
        "start": options.start,
        "proof": asdict(proof),
        "masked": before,
        "compacted": after,
        "parameters": [total(dense).parameters, total(thin).parameters],
        "macs": [total(dense).macs, total(thin).macs],
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_layers(out / "layers.csv", dense, thin)
    Mask({place.prefix + n: keep for n, keep in left.items()}).save(out / MASK)
    _write_config(built, options, out, place, left, about)
    _write_formats(small, calls[0], options, out)
    with whole_file(out / "report.json") as beside:
        beside.write_text(json.dumps(about, indent=1))
    save(small, out / FILE, about=about)
    return _said(out, dense, thin, str(proof), before, after)


def _load(module: nn.Module, options: Compact) -> tuple[Mask | None, Path | None]:
    """Put the weights of a checkpoint into the module; return its mask and its snapshot."""
    path = Path(options.checkpoint)
    if path.is_dir():
        if not (path / FINAL).is_file():
            raise ValueError(f"{path} is no finished round: it has no {FINAL}.")
        Snapshot.load(path / FINAL).restore_weights_(module)
        mask = Mask.load(path / MASK) if (path / MASK).is_file() else None
        return mask, _snapshot(options, [str(path / START)])
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights, states = content["state_dict"], content.get("callbacks", {}).values()
    except Exception as error:
        line = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is no checkpoint that can be read safely: {line}") from None
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        line = " ".join(str(error).split("\n")[:2])
        raise ValueError(f"{path} does not fit the network of the config: {line}") from None
    states = [state for state in states if isinstance(state, dict)]
    keep: dict[str, Any] = {}
    for state in states:
        if "shapes" in state and "mask" in state:
            for name, kept in Mask.unpacked(state["mask"], state["shapes"]).items():
                keep[name] = keep[name] & kept if name in keep else kept
    snapshots = [s["snapshot"] for s in states if isinstance(s.get("snapshot"), str)]
    return Mask(keep) if keep else None, _snapshot(options, snapshots)


def _snapshot(options: Compact, known: Sequence[str]) -> Path | None:
    """Return what to rewind to: the snapshot that is named, or the one that training made."""
    if options.start != "rewind":
        return None
    for path in map(Path, [options.snapshot] if options.snapshot else known):
        if path.is_file():
            return path
    where = options.snapshot or (known[0] if known else options.checkpoint)
    raise ValueError(f"start='rewind': no snapshot at {where}; name one with --snapshot.")


def _zeros(module: nn.Module, checkpoint: str) -> Mask:
    """Return what is not zero, in a network that another tool has pruned."""
    weights = {n: p for n, p in named_parameters(module).items() if p.dim() > 1}
    mask = Mask.nonzero(weights)
    if mask.kept == mask.total:
        raise ValueError(
            f"{checkpoint} holds no mask and no zeros: say how many channels shall go, as "
            "--amount 0.5."
        )
    return mask


def _drawn(built: Built, options: Compact) -> Mask:
    """Prune channels as the `slim` slot says."""
    from ltpl.callbacks.slimming import NetworkSlimming

    slim = built.slim if built.slim is not None else NetworkSlimming()
    if not isinstance(slim, NetworkSlimming):
        raise ValueError(
            f"slim={type(slim).__name__} with --amount: a NetworkSlimming says how to prune."
        )
    assert options.amount is not None
    batches = _training_batches(built, slim.batches)
    evidence = {"batches": batches} if "batches" in slim.criterion.needs else {}
    return slim.draw(built.module, options.amount, "all", None, options.seed, **evidence)


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


def _single(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a call with one example, where a batch is one tensor; a graph stays whole."""
    return (arguments[0][:1],) if len(arguments) == 1 else arguments


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


def redraw(network: nn.Module) -> None:
    """Draw all weights of a network anew, each layer as it does by itself."""
    own = getattr(network, "reset_parameters", None)
    if callable(own):
        own()
        return
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def _write_config(
    built: Built, options: Compact, out: Path, place: Network, left: Mask, about: dict[str, Any]
) -> None:
    """Write the config that retrains the small network with `ltpl fit`."""
    config = json.loads(json.dumps(built.config, default=str))
    dropped = ("prune", "rewind", "early_bird", "ckpt_path", "weights_only", "run")
    config = {k: v for k, v in config.items() if k not in dropped and k not in vars(options)}
    holder = (config.get("model") or {}).get("init_args", config.get("model") or {})
    *parents, name = place.path.split(".")
    for parent in parents:
        holder = holder.get(parent, {}) if isinstance(holder, dict) else {}
    if not (isinstance(holder, dict) and isinstance(holder.get(name), dict)):
        return  # the module builds its network itself: use ltpl.load
    holder[name] = {"class_path": "ltpl.load", "init_args": {"path": str(out / FILE)}}
    slim = config.get("slim")
    if slim is not None and options.l1:
        slim["init_args"]["amount"] = slim["init_args"]["epoch"] = None
    else:
        config["slim"] = None
    trainer = config.setdefault("trainer", {})
    trainer["default_root_dir"] = str(out)
    if options.start == "scratch_b" and trainer.get("max_epochs"):
        many, few = about["macs"]
        trainer["max_epochs"] = round(trainer["max_epochs"] * many / few)
    pruned = [place.prefix + row.name for row in left.table() if row.kept < row.total]
    if pruned:
        frozen = {"class_path": "ltpl.callbacks.FreezeSparsity", "init_args": {"include": pruned}}
        given = trainer.get("callbacks") or []
        trainer["callbacks"] = [*(given if isinstance(given, list) else [given]), frozen]
    with whole_file(out / "config.yaml") as beside:
        beside.write_text(yaml.safe_dump(config, sort_keys=False))


def _write_formats(small: nn.Module, example: tuple[Any, ...], options: Compact, out: Path) -> None:
    small.eval()
    if options.export:
        with whole_file(out / "model.pt2") as beside, torch.no_grad():
            with beside.open("wb") as file:
                torch.export.save(torch.export.export(small, example), file)
    if options.onnx:
        with whole_file(out / "model.onnx") as beside, torch.no_grad():
            torch.onnx.export(small, example, beside, dynamo=True, external_data=False)


def _write_layers(path: Path, dense: Sequence[LayerCost], thin: Sequence[LayerCost]) -> None:
    lines = ["layer,parameters,parameters_left,macs,macs_left"]
    lines += [
        f"{a.layer},{a.parameters},{b.parameters},{a.macs},{b.macs}"
        for a, b in zip(dense, thin, strict=True)
    ]
    with whole_file(path) as beside:
        beside.write_text("\n".join(lines) + "\n")


def _said(
    out: Path,
    dense: list[LayerCost],
    thin: list[LayerCost],
    proof: str,
    before: dict[str, float],
    after: dict[str, float],
) -> str:
    rows = [(a, b) for a, b in zip([*dense, total(dense)], [*thin, total(thin)], strict=True)]
    width = max(len(a.layer) for a, _ in rows)
    lines = [f"{'layer':{width}} {'parameters':>25} {'MACs':>33}"]
    for a, b in rows:
        lines.append(
            f"{a.layer:{width}} {a.parameters:>12,} -> {b.parameters:>10,} "
            f"{a.macs:>16,} -> {b.macs:>14,}  {b.macs / a.macs if a.macs else 1:.0%}"
        )
    lines.append(f"masked and compacted network are {proof}")
    lines += [
        f"{name}: {value:.4f} masked, {after[name]:.4f} compacted" for name, value in before.items()
    ]
    lines.append(f"{out / FILE}: read it with ltpl.load({str(out)!r})")
    if (out / "config.yaml").is_file():
        lines.append(f"train it further: ltpl fit --config {out / 'config.yaml'}")
    return "\n".join(lines)
