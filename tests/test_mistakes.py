"""A mistake on the command line gets one line: what was given, and what would be right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ltpl.arguments import with_values
from ltpl.cli import main
from ltpl.mistakes import is_input

CONFIG = str(Path(__file__).parents[1] / "configs" / "quickstart.yaml")
ROUNDS = ["rounds", "--config", CONFIG]

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["roundz"], "did you mean 'rounds'"),
        ([*ROUNDS, "--trainer.max_epoks=1"], "did you mean '--trainer.max_epochs'"),
        (
            [*ROUNDS, "--trainer.max_epochs=some"],
            "max_epochs: Expected a int; given 'some'",
        ),
        ([*ROUNDS, "--prune=PruneAtEpok"], "no class 'PruneAtEpok'"),
        ([*ROUNDS, "--prune=PruneAtEpok"], "did you mean 'PruneAtEpoch'"),
        ([*ROUNDS, "--prune.amont=0.3"], "did you mean 'amount'"),
        ([*ROUNDS, "--prune.amount=1.3"], "amount=1.3"),
        ([*ROUNDS, "--rewind.policy=rewnd"], "did you mean 'rewind'"),
        ([*ROUNDS, "--prune.epochs=[3]"], "rounds prune when a round has ended"),
        ([*ROUNDS, "--prune=Trajectory"], "prune=Trajectory: rounds need a PruneAtEpoch"),
        ([*ROUNDS, "--rewind.epoch=30"], "training ends after 10 epochs"),
        ([*ROUNDS, "--seeds=3-1"], "seeds='3-1'"),
        ([*ROUNDS, "--test_at=best"], "test_at='best'"),
        (["rounds", "--config", CONFIG.replace("quick", "quik")], "did you mean"),
        ([*ROUNDS, "--expect=[{claim: c, seed: 3}]"], "entry 1: option='seed' is not known"),
        ([*ROUNDS, "--expect=[{claim: c, seed: 3}]"], "did you mean 'seeds'"),
        ([*ROUNDS, "--expect=[{claim: c, of: ticket, at_least: 1}]"], "of='ticket': write LINE@"),
        ([*ROUNDS, "--expect=3"], "expect"),
        (["check", "nowhere"], "nowhere is no folder"),
        (["check", "nowhere", "--confg=x.yaml"], "did you mean '--config'"),
        (
            ["check", "nowhere", "--config=x.yaml"],
            "which holds a run.json.",
        ),
        (["check"], "error: the following arguments are required: runs"),
        (["branch", "--name=reinit"], "arguments are required: run"),
        (["status", "nowhere"], "nowhere is not a run"),
        (["report", "nowhere"], "nowhere"),
        (["branch", "nowhere", "--name", "reinit"], "nowhere is not a run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_gets_one_line_and_exit_code_two(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert told in lines[0]
    assert not list(tmp_path.rglob("result.json"))


def test_switches_may_stand_alone() -> None:
    given = ["rounds", "--quiet", "--one_shot", "false", "--levels", "3", "--one_shot"]
    expected = ["rounds", "--quiet=true", "--one_shot", "false", "--levels", "3", "--one_shot=true"]
    assert with_values(given) == expected


def test_an_error_in_a_program_is_not_called_a_mistake() -> None:
    def theirs() -> None:
        raise ValueError("their own")

    with pytest.raises(ValueError, match="their own") as caught:
        theirs()
    assert not is_input(caught.value)
