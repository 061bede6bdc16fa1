from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from ltpl.data import Digits

from .numbered import one_line


def split(**options: Any) -> Digits:
    data = Digits(**options)
    data.setup("fit")
    return data


def test_the_parts_make_up_the_digits_and_share_none() -> None:
    data = split(val_size=300, test_size=200)
    parts = [data.train, data.val, data.test]
    assert [len(part) for part in parts] == [1297, 300, 200]
    together = torch.cat([part.images for part in parts]).flatten(1)
    whole = torch.from_numpy(load_digits().images).flatten(1)
    assert sorted(together.tolist()) == sorted(whole.tolist())


def test_images_keep_their_labels() -> None:
    digits = load_digits()
    label_of = {bytes(i.astype("uint8")): t for i, t in zip(digits.images, digits.target, strict=1)}
    for images, labels in split().train_dataloader():
        for image, label in zip(images, labels.tolist(), strict=True):
            assert label_of[bytes((image * 16).to(torch.uint8).numpy())] == label


def test_the_seed_alone_decides_the_split() -> None:
    first, again, other = split(seed=1), split(seed=1), split(seed=2)
    assert torch.equal(first.val.images, again.val.images)
    assert not torch.equal(first.val.images, other.val.images)


def test_training_is_mixed_and_validation_is_not() -> None:
    data = split(batch_size=50, eval_batch_size=100)
    train = torch.cat([labels for _, labels in data.train_dataloader()])
    val = torch.cat([labels for _, labels in data.val_dataloader()])
    assert not torch.equal(train, data.train.labels)
    assert torch.equal(val, data.val.labels)
    assert [len(labels) for _, labels in data.test_dataloader()] == [100, 100, 50]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": 0}, "val_size=0: a whole number is wanted, 1 to 1795."),
        ({"val_size": 1700, "test_size": 97}, "test_size=97: a whole number is wanted, 1 to 96."),
        ({"eval_batch_size": -1}, "eval_batch_size=-1: a whole number is wanted, at least 1."),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    assert one_line(lambda: Digits(**options)) == message


def test_importing_the_data_modules_imports_no_reader() -> None:
    code = (
        "import sys, pytorch_lightning; before = set(sys.modules); import ltpl.data;"
        "print({'sklearn', 'torchvision'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_module_leaves_the_digits_of_another_alone() -> None:
    first = split(seed=1)
    first.train.labels.zero_()
    first.train.images.zero_()
    again = split(seed=1)
    assert again.train.labels.any()
    assert again.train.images.any()
