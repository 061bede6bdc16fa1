from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import Tiny, loader, network, trainer

from ltpl.callbacks import FreezeSparsity, PruneAtEpoch
from ltpl.masks import prune


def sparse_module(**options: Any) -> Tiny:
    module = Tiny(network(), **options)
    prune(module, 0.6).apply_(module)
    return module


def test_whatever_is_zero_stays_zero(tmp_path: Any) -> None:
    module = sparse_module(optimizer=torch.optim.AdamW)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    trainer(tmp_path, [FreezeSparsity()]).fit(module, loader())
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            assert torch.equal(weight != 0, before[name] != 0)
            assert not torch.equal(weight, before[name])


def test_biases_that_start_at_zero_still_train(tmp_path: Any) -> None:
    module = sparse_module()
    with torch.no_grad():
        module.net[0].bias.zero_()
    trainer(tmp_path, [FreezeSparsity()]).fit(module, loader())
    assert module.net[1].bias.count_nonzero() == 16


def test_scaling_factors_are_frozen_when_asked(tmp_path: Any) -> None:
    module = sparse_module()
    with torch.no_grad():
        module.net[1].weight[::2] = 0
    trainer(tmp_path, [FreezeSparsity(include="norm")]).fit(module, loader())
    assert module.net[1].weight.count_nonzero() == 8


def test_a_layer_that_is_all_zero_is_named(tmp_path: Any) -> None:
    module = Tiny(network())
    with torch.no_grad():
        module.net[4].weight.zero_()
    with pytest.warns(UserWarning, match=r"net\.4\.weight is zero everywhere and stays so"):
        trainer(tmp_path, [FreezeSparsity()]).fit(module, loader())
    assert not module.net[4].weight.count_nonzero()


def test_excluded_layers_are_free(tmp_path: Any) -> None:
    module = sparse_module()
    trainer(tmp_path, [FreezeSparsity(exclude="net.4.*")]).fit(module, loader())
    assert module.net[4].weight.count_nonzero() == module.net[4].weight.numel()


def test_it_goes_together_with_further_pruning(tmp_path: Any) -> None:
    module = sparse_module()
    zeros = module.net[0].weight == 0
    pruner = PruneAtEpoch(2, 0.7, of="all", scope="layer")
    trainer(tmp_path, [FreezeSparsity(), pruner]).fit(module, loader())
    assert not module.net[0].weight[zeros].count_nonzero()
    assert module.net[0].weight.count_nonzero() <= round(0.3 * 128)


def test_the_next_fit_looks_again(tmp_path: Any) -> None:
    module, freezer = sparse_module(), FreezeSparsity()
    trainer(tmp_path, [freezer]).fit(module, loader())
    prune(module, 0.9, of="all").apply_(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltpl.callbacks.masking.rank_zero_warn", lambda *_: None)
        trainer(tmp_path, [freezer]).fit(module, loader())
    assert freezer.mask.kept == round(0.1 * freezer.mask.total)
