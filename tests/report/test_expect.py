from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ltpl.report.expect import Place, expectations, expected_in

SAID = {"claim": "It learns.", "of": "ticket@3", "value": 1, "tolerance": 0.5}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("dense", Place(None, "ticket", 0)),
        ("dense@0", Place(None, "ticket", 0)),
        ("ticket@7", Place(None, "ticket", 7)),
        ("my-branch.2@12", Place(None, "my-branch.2", 12)),
        ("other:dense", Place("other", "ticket", 0)),
        ("lenet_mnist:reinit@7", Place("lenet_mnist", "reinit", 7)),
    ],
)
def test_a_place_is_a_round_of_a_line(text: str, place: Place) -> None:
    assert Place.parse(text) == place
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", "ticket", "ticket@", "@7", "ticket@-1", "ticket@x", "ticket@1.5", "dense@3"),
        *("ticket@7@", "../other:ticket@7", ":ticket@7", "a/b@7", ".hidden:dense", "ticket@99999"),
        "ticket@\u0667",
    ],
)
def test_anything_else_is_no_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"minus="):
        Place.parse(text, "minus")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tolerence": 1}, "option='tolerence' is not known; did you mean 'tolerance'?"),
        ({"measure": "tst_acc"}, "measure='tst_acc' is not known; did you mean 'test_acc'?"),
        ({"claim": None}, "claim=None: str is wanted."),
        ({"claim": " "}, "claim=' ': one sentence is wanted."),
        ({"of": "reinit"}, "of='reinit': write LINE@ROUND"),
        ({"minus": 3}, "minus=3"),
        ({"minus": "dense", "over": "dense"}, "minus and over: a difference or a ratio, not both."),
        ({"over": "dense@1"}, "over='dense@1'"),
        ({"value": "0.2"}, "value='0.2': float | None is wanted."),
        ({"value": True}, "value=True"),
        ({"value": float("nan")}, "value=nan: a finite number is wanted."),
        ({"value": None}, "give value with tolerance"),
        ({"tolerance": None}, "give value with tolerance"),
        ({"tolerance": -1}, "tolerance=-1: 0 or more."),
        ({"at_least": 3}, "give value with tolerance, or at_least"),
        ({"value": None, "tolerance": None}, "give value with tolerance"),
        (
            {"value": None, "tolerance": None, "at_least": 2, "at_most": 1},
            "at_least=2 is more than at_most=1.",
        ),
        ({"seeds": 0}, "seeds=0: at least 1."),
        ({"seeds": "5"}, "seeds='5': int is wanted."),
        ({"number": 0}, "number=0: at least 1."),
        ({"source": 3}, "source=3"),
        ({1: 2}, "option=1 is not known"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused_in_one_line_that_says_which(
    change: dict[Any, Any], told: str
) -> None:
    with pytest.raises(ValueError, match="entry 2") as refused:
        expectations([SAID, SAID | change])
    assert str(refused.value).startswith("expect, entry 2: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["claim", "of"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(ValueError, match=f"entry 1: {missing} is missing"):
        expectations([{name: value for name, value in SAID.items() if name != missing}])


@pytest.mark.parametrize("block", ["text", 3, {"claim": "c"}, b"x"])
def test_a_block_is_a_list(block: Any) -> None:
    with pytest.raises(ValueError, match=r"expect=.*: a list of expectations is wanted"):
        expectations(block)
    with pytest.raises(ValueError, match="entry 1: 3: options such as claim and of are wanted"):
        expectations([3])


def test_a_config_tells_its_expectations_and_nothing_else_in_it_is_looked_at(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": {"class_path": "os.system"}, "expect": [SAID]}))
    assert expected_in(config) == expectations([SAID])


@pytest.mark.parametrize(
    "text",
    ["", "3", "[1]", "run: x", "expect: null", "expect: []", "a: [", "!!python/object:os.x {}"],
)
def test_a_config_without_expectations_is_named(text: str, tmp_path: Path) -> None:
    (config := tmp_path / "config.yaml").write_text(text)
    for wrong in (config, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="config=") as refused:
            expected_in(wrong)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "config", sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml")), ids=lambda p: p.stem
)
def test_the_expectations_of_every_config_can_be_read(config: Path) -> None:
    said = "\nexpect:" in config.read_text()
    assert said or config.stem != "quickstart"
    if said:
        assert expected_in(config)
