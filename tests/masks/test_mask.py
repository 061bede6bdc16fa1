import json
import os
import random
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ltpl.masks import LayerDensity, Mask

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def random_mask(**shapes):
    shapes = shapes or {"conv.weight": (5, 3, 3, 3), "fc.weight": (7, 13)}
    return Mask({name: torch.rand(shape) < 0.4 for name, shape in shapes.items()})


def test_counts_agree_with_the_booleans():
    mask = random_mask()
    kept = {name: sum(keep.flatten().tolist()) for name, keep in mask.items()}
    assert mask.kept == sum(kept.values())
    assert mask.total == 5 * 27 + 7 * 13
    assert mask.density == mask.kept / mask.total
    assert mask.table() == [
        LayerDensity("conv.weight", kept["conv.weight"], 135),
        LayerDensity("fc.weight", kept["fc.weight"], 91),
    ]
    assert [row.density for row in mask.table()] == [
        kept["conv.weight"] / 135,
        kept["fc.weight"] / 91,
    ]


def test_density_over_all_parameters_counts_biases_as_kept():
    """Pitfall: densities over prunable and over all parameters get mixed up; both are given."""
    model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.Linear(20, 3))
    mask = Mask({"0.weight": torch.rand(20, 10) < 0.3, "2.weight": torch.rand(3, 20) < 0.3})
    everything = 200 + 20 + 20 + 20 + 60 + 3
    assert mask.density_of(model) == (everything - 260 + mask.kept) / everything
    assert mask.density_of(model) > mask.density


def test_a_mask_of_nothing_is_dense():
    assert Mask({}).density == 1.0
    assert Mask({}).distance(Mask({})) == 0.0
    assert Mask({}).overlap(Mask({})) == 1.0
    assert Mask({}).density_of(nn.Identity()) == 1.0


def test_intersection_union_distance_and_overlap_agree_with_brute_force():
    one, other = random_mask(), random_mask()
    a = torch.cat([keep.flatten() for keep in one.values()]).tolist()
    b = torch.cat([keep.flatten() for keep in other.values()]).tolist()
    both = [x and y for x, y in zip(a, b, strict=True)]
    either = [x or y for x, y in zip(a, b, strict=True)]
    assert torch.cat([k.flatten() for k in (one & other).values()]).tolist() == both
    assert torch.cat([k.flatten() for k in (one | other).values()]).tolist() == either
    differ = sum(x != y for x, y in zip(a, b, strict=True))
    assert one.distance(other) == differ / len(a)
    assert one.overlap(other) == sum(both) / sum(either)
    assert one.distance(one) == 0
    assert one.overlap(one) == 1


def test_operators_leave_their_operands_alone():
    one, other = random_mask(), random_mask()
    before = one.digest, other.digest
    _ = one & other, one | other, one.distance(other), one.overlap(other)
    assert (one.digest, other.digest) == before


def test_masks_are_equal_by_content_in_any_order():
    mask = random_mask()
    turned = Mask({name: mask[name].clone() for name in reversed(list(mask))})
    assert mask == turned
    changed = {name: keep.clone() for name, keep in mask.items()}
    changed["fc.weight"][3, 4] ^= True
    assert mask != Mask(changed)
    assert mask != Mask({"fc.weight": mask["fc.weight"]})
    assert mask != Mask({**mask, "fc.weight": mask["fc.weight"].T})
    assert mask != dict(mask)


def test_masks_of_different_parameters_do_not_mix():
    one = random_mask()
    with pytest.raises(ValueError, match=r"only one of the two.*extra\.weight"):
        _ = one & Mask({**one, "extra.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"'fc\.weight' has shape \(7, 13\).*\(13, 7\)"):
        one.distance(Mask({**one, "fc.weight": one["fc.weight"].T}))


def test_only_booleans_are_masks():
    with pytest.raises(ValueError, match=r"'w' is torch\.float32"):
        Mask({"w": torch.ones(2, 2)})


def test_an_unknown_parameter_is_named_with_what_was_probably_meant():
    with pytest.raises(KeyError, match=r"did you mean 'fc\.weight'"):
        random_mask()["fc.wieght"]
    assert "fc.wieght" not in random_mask()
    assert random_mask().get("fc.wieght") is None


@pytest.mark.parametrize("device", DEVICES)
def test_the_digest_is_the_same_on_every_device_in_any_order_and_layout(device):
    mask = random_mask()
    turned = Mask({name: mask[name] for name in reversed(list(mask))})
    strided = Mask({**mask, "fc.weight": mask["fc.weight"].T.contiguous().T})
    assert not strided["fc.weight"].is_contiguous()
    assert mask.to(device).digest == mask.digest == turned.digest == strided.digest
    assert mask.to(device) == mask


def test_the_digest_changes_with_one_bit_a_name_or_a_shape():
    mask = random_mask()
    name = random.choice(list(mask))
    position = random.randrange(mask[name].numel())
    keep = mask[name].clone()
    keep.view(-1)[position] ^= True
    renamed = {f"x{n}": k for n, k in mask.items()}
    reshaped = {**mask, "fc.weight": mask["fc.weight"].reshape(13, 7)}
    others = [Mask({**mask, name: keep}), Mask(renamed), Mask(reshaped)]
    assert len({mask.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize("as_mapping", [False, True])
def test_applying_zeroes_what_is_pruned_and_nothing_else(as_mapping):
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 5, 3), fc=nn.Linear(13, 7)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mask = random_mask()
    mask.apply_(dict(model.named_parameters()) if as_mapping else model)
    for name, parameter in model.named_parameters():
        expected = torch.where(mask.get(name, torch.tensor(True)), before[name], 0.0)
        assert torch.equal(parameter, expected)


def test_pruned_weights_that_diverged_become_zero():
    """Pitfall: NaN times zero is NaN; a mask must not multiply."""
    mask = random_mask(w=(50, 50))
    weight = torch.full((50, 50), float("nan"))
    mask.apply_({"w": weight})
    assert (weight[~mask["w"]] == 0).all()
    assert weight[mask["w"]].isnan().all()


def test_what_does_not_fit_is_refused_by_name_before_anything_changes():
    mask = random_mask()
    weights = {"conv.weight": torch.ones(5, 3, 3, 3), "fc.weight": torch.ones(13, 7)}
    with pytest.raises(ValueError, match=r"'fc\.weight' has shape \(7, 13\).*\(13, 7\)"):
        mask.apply_(weights)
    assert weights["conv.weight"].all()
    with pytest.raises(ValueError, match=r"'fc\.weight' is not known; did you mean 'fc\.weights'"):
        mask.apply_({"conv.weight": torch.ones(5, 3, 3, 3), "fc.weights": torch.ones(7, 13)})


def test_kept_weights_that_are_exactly_zero_survive(tmp_path):
    """Pitfall: a mask inferred from `w != 0` loses kept zeros. It is stored instead."""
    weight = torch.randn(40, 40)
    weight[::2] = 0
    mask = random_mask(w=(40, 40))
    mask.apply_({"w": weight})
    mask.save(tmp_path / "mask.safetensors")
    assert Mask.load(tmp_path / "mask.safetensors") == mask
    inferred = Mask.nonzero({"w": weight})
    assert inferred.kept < mask.kept
    assert inferred == Mask({"w": weight != 0})


def test_a_dense_mask_keeps_everything():
    parameters = dict(nn.Linear(3, 4).named_parameters())
    mask = Mask.dense(parameters)
    assert (mask.kept, mask.total) == (16, 16)
    assert mask.shapes == {"weight": [4, 3], "bias": [4]}


def test_a_file_holds_one_bit_a_weight_and_comes_back_the_same(tmp_path):
    path = tmp_path / "masks" / "round_03.safetensors"
    mask = random_mask(a=(1000, 999), b=(3,), c=(), d=(0, 4))
    mask.metadata = {"criterion": "magnitude", "note": 'é "quoted"'}
    mask.save(path)
    assert path.stat().st_size < mask.total / 8 + 2000
    loaded = Mask.load(path)
    assert loaded == mask
    assert loaded.digest == mask.digest
    assert loaded.metadata == mask.metadata
    assert list(loaded) == list(mask)


def test_metadata_is_copied_in():
    metadata = {"amount": "0.2"}
    mask = Mask({}, metadata)
    metadata["amount"] = "0.3"
    assert mask.metadata == {"amount": "0.2"}
    assert mask.to("cpu").metadata == {"amount": "0.2"}


def test_a_file_cut_short_is_refused(tmp_path):
    """Pitfall: a killed run leaves a truncated file that counts as complete."""
    path = tmp_path / "mask.safetensors"
    random_mask().save(path)
    whole = path.read_bytes()
    for length in {0, 1, 8, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"mask\.safetensors is not a whole safetensors file"):
            Mask.load(path)


def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "mask.safetensors"
    mask = Mask({"w": torch.rand(9, 5) < 0.5}, {"amount": "0.2"})
    mask.save(path)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] = random.choice([b for b in range(256) if b != whole[position]])
        path.write_bytes(changed)
        try:
            loaded = Mask.load(path)
        except ValueError as error:
            refused += "mask.safetensors" in str(error)
        else:
            assert loaded == mask
            assert loaded.metadata == mask.metadata
    assert refused > 0.9 * len(whole)


def test_every_changed_bit_of_the_weights_is_refused(tmp_path):
    path = tmp_path / "mask.safetensors"
    mask = random_mask(w=(9, 5))
    mask.save(path)
    whole = path.read_bytes()
    for bit in range(8 * 6):  # 45 weights and the three bits that fill the last byte
        changed = bytearray(whole)
        changed[-1 - bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="was changed after it was written"):
            Mask.load(path)


def test_other_files_are_not_masks(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a mask: format None"):
        Mask.load(path)
    save_file({"w": torch.ones(3)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="format 'pt'"):
        Mask.load(path)
    path.write_text(json.dumps({"w": [1, 2]}))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Mask.load(path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        Mask.load(tmp_path / "none.safetensors")


def test_a_failing_write_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "mask.safetensors"
    path.mkdir()
    with pytest.raises(OSError, match=r"mask\.safetensors"):
        random_mask().save(path)
    assert os.listdir(tmp_path) == ["mask.safetensors"]


def test_saving_again_replaces_the_file(tmp_path):
    path = tmp_path / "mask.safetensors"
    first, second = random_mask(), random_mask()
    first.save(path)
    second.save(path)
    assert Mask.load(path) == second
    assert os.listdir(tmp_path) == ["mask.safetensors"]


def test_packing_comes_back():
    mask = random_mask(a=(3, 3), b=(8,), c=(17, 2, 1))
    bits = mask.packed()
    assert {name: tensor.numel() for name, tensor in bits.items()} == {"a": 2, "b": 1, "c": 5}
    assert Mask.unpacked(bits, mask.shapes) == mask


def test_the_representation_says_how_much_is_kept():
    mask = Mask({"w": torch.arange(2000).view(40, 50) < 500})
    assert repr(mask) == "Mask(1 parameter, 500 of 2,000 weights kept, density 0.25)"


def test_masks_are_no_keys():
    with pytest.raises(TypeError, match="unhashable"):
        hash(random_mask())
