"""A small project and its runs: what the tests of rounds train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ltpl.data.augment import Augmentation
from ltpl.data.resident import BatchLoader, Look, Resident
from ltpl.rounds.find import Run, find_tickets
from ltpl.tickets.files import stored_digest

FEATURES, CLASSES = 6, 3
BATCHES, SIZE = 4, 6  # of training, in an epoch
EPOCHS = 3


class Small(pl.LightningModule):
    """Statistics, dropout, momentum and a schedule: whatever can leak or get lost."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 10),
            nn.BatchNorm1d(10),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(10, CLASSES),
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._judge(batch, "test")

    def _judge(self, batch: Any, stage: str) -> None:
        logits = self.net(batch[0])
        right = (logits.argmax(1) == batch[1]).float().mean()
        self.log_dict({f"{stage}_loss": cross_entropy(logits, batch[1]), f"{stage}_acc": right})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Augmented(Dataset):
    """Noise from the global random state, as augmentations draw it."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, *rest = self.data[index]
        return (x + 0.1 * torch.randn_like(x), *rest)


def part(seed: int, size: int = BATCHES * SIZE) -> TensorDataset:
    """Samples, their classes, and their numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, FEATURES, generator=generator)
    y = (x[:, :CLASSES] + 0.3 * torch.randn(size, CLASSES, generator=generator)).argmax(1)
    return TensorDataset(x, y, torch.arange(size))


class Data(pl.LightningDataModule):
    """Shuffled, with augmentation."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Augmented(part(0)), SIZE, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(part(1), 12)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(part(2), 12)


class InMemory(Data):
    """Batches that know their place in an epoch by themselves, and augment by seed and epoch."""

    workers = 0

    def train_dataloader(self) -> DataLoader:
        x, y, _ = part(0).tensors
        data, look = Resident(x.view(-1, 1, 2, 3), y), Look(augmentation=Augmentation(1, True))
        return BatchLoader(data, SIZE, shuffle=True, look=look, augment=True, workers=self.workers)


class OfImages(Small):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(0, torch.nn.Flatten())


class Interrupted(RuntimeError):
    """As if the process had ended here."""


@dataclass
class Fit:
    """What one call of `fit` did."""

    folder: str
    trainer: Any
    step: int
    weights: dict[str, Tensor]
    slots: list[Tensor]
    lr: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    alive: list[dict[str, Tensor]] = field(default_factory=list)
    momenta: list[list[Tensor]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "/".join(Path(self.folder).parts[-2:])


class Watch(pl.Callback):
    """Note what every fit does; interrupt one of them. It is shared by all rounds."""

    def __init__(self, keep_weights: bool = False) -> None:
        self._fits: list[Fit] = []
        self._interrupts: list[tuple[str, int, int]] = []
        self._keep_weights = keep_weights
        self._tests: list[tuple[str, dict[str, Tensor]]] = []
        self._validations: list[str] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        twin = type(
            self
        )()  # what Lightning attaches to a callback stays off the one that was given
        vars(twin).update(vars(self))
        return twin

    def interrupt(self, folder: str, epoch: int, batch: int) -> None:
        """Raise once, after this batch of this round; -1: as the epoch ends, before a save."""
        self._interrupts.append((folder, epoch, batch))

    def of(self, name: str) -> Fit:
        """The last fit of a round such as `seed_0/round_01`."""
        return [fit for fit in self._fits if fit.name == name][-1]

    @property
    def names(self) -> list[str]:
        return [fit.name for fit in self._fits]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        folder = trainer.default_root_dir
        weights = copied(pl_module)
        self._fits.append(Fit(folder, trainer, trainer.global_step, weights, slots(trainer)))

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        fit = self._fits[-1]
        fit.lr.append(trainer.optimizers[0].param_groups[0]["lr"])
        fit.steps.append(trainer.global_step)
        fit.epochs.append(trainer.current_epoch)
        fit.inputs.append(batch[0].clone())
        if len(batch) > 2:
            fit.numbers.append(batch[2].tolist())

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._keep_weights:
            self._fits[-1].momenta.append(slots(trainer))
            self._fits[-1].alive.append(copied(pl_module))
        self._raise_at(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._raise_at(trainer, -1)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._raise_at(trainer, -2)

    def _raise_at(self, trainer: Any, batch: int) -> None:
        here = "/".join(Path(trainer.default_root_dir).parts[-2:])
        epoch = -1 if batch == -2 else trainer.current_epoch
        if (here, epoch, batch) in self._interrupts:
            self._interrupts.remove((here, epoch, batch))
            raise Interrupted(here)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._validations.append(trainer.state.fn.value)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        name = "/".join(Path(trainer.default_root_dir).parts[-2:])
        self._tests.append((name, copied(pl_module)))


def slots(trainer: Any) -> list[Tensor]:
    """Every tensor that the optimisers remember."""
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    return [v.clone() for state in states for v in state.values() if isinstance(v, Tensor)]


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def find(
    folder: Path,
    watch: Watch | None = None,
    make_model: Callable[[], Any] = Small,
    make_data: Callable[[], Any] | None = Data,
    callbacks: Sequence[Any] = (),
    trainer: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Run rounds quietly: two levels at half the weights each, unless something else is said."""
    options = {"levels": 1, "prune": {"amount": 0.5}, "report": False, "quiet": True} | options
    of_trainer: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "callbacks": [*([watch] if watch is not None else []), *callbacks],
    }
    return find_tickets(
        make_model, make_data, run=folder, trainer=of_trainer | (trainer or {}), **options
    )


def bits(folder: Path) -> dict[str, str | None]:
    """The digest over all bits of every mask, ticket and trained network."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): stored_digest(file) for file in files}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
