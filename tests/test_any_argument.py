"""Whatever an argument says, the answer is success or one line that names the option."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hypothesis import given
from hypothesis import strategies as st
from odd_values import WORDS, examples

import ltpl.callbacks
import ltpl.commands
import ltpl.rounds.run
from ltpl.arguments import USUAL
from ltpl.cli import main
from ltpl.commands import LotteryCommands
from ltpl.data import Digits
from ltpl.models import MLP
from ltpl.modules import ImageClassifier
from ltpl.vocabulary import OWN

CONFIG = str(Path(__file__).parents[1] / "configs" / "quickstart.yaml")
GIVEN = {
    "rounds": ["--config", CONFIG, "--run", "run", "--levels", "1"],
    "fit": ["--config", CONFIG],
    "branch": ["done", "--name", "reinit"],
    "compact": ["done/seed_0/round_01", "--out", "small"],
    "status": ["done"],
    "report": ["done", "--out", "page"],
    "check": ["done"],
}
FIELDS = {
    **{
        slot: ltpl.callbacks.__dict__[kind["class_path"].split(".")[-1]]
        for slot, kind in USUAL.items()
    },
    "trajectory": ltpl.callbacks.Trajectory,
    "model": ImageClassifier,
    "model.network": MLP,
    "data": Digits,
}
VALUES = st.one_of(
    st.sampled_from([word for word in WORDS if "\0" not in word]),
    st.sampled_from(
        [
            *("[]", "{}", "[[]]", "[0.5, 0.3]", "[1, two]", "{a: ", "{1: 2}", "- a", "a: b", "@x"),
            *(
                "None",
                "True",
                "-1",
                "1e400",
                "-.inf",
                ".nan",
                "0x10",
                "1_000",
                "!!python/object:os.x",
            ),
            *("!!python/object/apply:os.getcwd []", "&a [*a]", "${x}", "%", "'", '"', "--", "-x"),
            *("{class_path: PruneAtEpoch}", "{class_path: 3}", "{init_args: {a: 1}}", "Digits"),
            *("{class_path: Nowhere, init_args: 3}", "PruneAtEpoch", "Trajectory", "1.0", "0.1"),
        ]
    ),
    st.integers(-3, 12).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="/~\0", exclude_categories=["Cs"]), max_size=6),
)

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)


@functools.cache
def options(command: str) -> list[str]:
    """Return every option of a command, and those of what its config puts into the slots."""
    found: list[str] = []

    class Seen(BaseException):
        pass

    def look(self: Any, parser: Any, args: Any) -> None:
        for action in self._subcommand_parsers[command]._actions:
            found.extend(text for text in action.option_strings if text.startswith("--"))
        raise Seen

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Seen):
        patch.setattr(LotteryCommands, "parse_arguments", look)
        main([command])
    if "--model" in found:
        for place, kind in FIELDS.items():
            names = [name for k in kind.__mro__[:2] for name in inspect.signature(k).parameters]
            found += [f"--{place}.{name}" for name in names]
    ended = (".help", "+", "--help", "--version", "--print_config", "--config")
    return sorted({option for option in found if not option.endswith(ended)})


@contextlib.contextmanager
def no_training() -> Iterator[None]:
    """Let commands parse, build and check, and end there."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", ["ltpl"])
        patch.setattr(ltpl.rounds.run.Loop, "run", lambda self, name: None)
        patch.setattr(ltpl.rounds.run, "_controls", lambda parts: [])  # of rounds that did not run
        patch.setattr(pl.Trainer, "_fit_impl", lambda self, *_, **__: None)
        patch.setattr(ltpl.commands, "compact_checkpoint", lambda built, compact: "")
        yield


def attempt(command: str, option: str, arguments: list[str]) -> bool:
    """Say whether a command refuses; then by one line with the option's name, nothing else."""
    before = sorted(Path().rglob("*"))
    errors, out = io.StringIO(), io.StringIO()
    code: Any = 0
    with no_training(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
        try:
            main([command, *GIVEN[command], *arguments])
        except SystemExit as stopped:
            code = stopped.code or 0
    if code == 0:
        return False
    told = errors.getvalue().splitlines()
    assert (code, len(told)) == (2, 1), (code, told)
    assert told[0].startswith(f"ltpl {command}: error: "), told[0]
    assert option.split(".")[-1].lstrip("-") in told[0], told[0]
    assert sorted(Path().rglob("*")) == before, "files were written"
    return True


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run, in which the tests run."""
    folder = tmp_path_factory.mktemp("any_argument")
    here = Path.cwd()
    os.chdir(folder)
    short = ["--trainer.max_epochs=2", "--seeds=0", "--quiet", "--report=false"]
    (folder / "folder").mkdir()
    (folder / "file").write_text("x")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", ["ltpl"])
        main(["rounds", "--config", CONFIG, "--run", "done", "--levels=1", *short])
    yield folder
    os.chdir(here)


ARGUMENTS = st.sampled_from(sorted(GIVEN.keys() - {"status"})).flatmap(
    lambda command: st.tuples(st.just(command), st.sampled_from(options(command)), VALUES)
)


@examples(8)
@given(drawn=ARGUMENTS)
def test_a_wrong_argument_is_refused_in_one_line(
    drawn: tuple[str, str, str], finished: Path
) -> None:
    command, option, value = drawn
    attempt(command, option, [f"{option}={value}"])


@pytest.mark.slow
@examples(1500)
@given(drawn=ARGUMENTS)
def test_any_wrong_argument_is_refused_in_one_line(
    drawn: tuple[str, str, str], finished: Path
) -> None:
    command, option, value = drawn
    attempt(command, option, [f"{option}={value}"])


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("fit", ["--trainer.devices=-3"], "devices"),
        ("fit", ["--trainer.strategy=foo"], "strategy"),
        ("fit", ["--seed_everything=-1"], "seed_everything"),
        ("fit", ["--config={trainer: 3}"], "trainer"),
        ("fit", ["--optimizer={1: 2}"], "optimizer"),
        ("report", ["--out=file"], "out"),
        ("report", ["--out=file/page"], "out"),
        ("check", ["--out=file/page.md"], "out"),
        ("check", ["--out=page"], "out"),
        ("check", ["--config=folder"], "config"),
        ("check", ["--config=file"], "config"),
        ("check", ["--config=nowhere"], "config"),
        ("rounds", ["--expect=[1]"], "expect"),
        ("rounds", ["--seeds=0-999999999999"], "seeds"),
        ("rounds", ["--model.network.hidden=[0]"], "hidden"),
        ("rounds", ["--levels"], "levels"),
        ("status", ["--nonsense=1"], "nonsense"),
        ("rounds", ["--levels=3", "--levels=x"], "levels"),
        ("rounds", ["--config={prune: 3}"], "prune"),
        ("rounds", ["--config={data: {class_path: Digits, init_args: [1]}}"], "data"),
        ("rounds", ["--config={1: 2}"], "config"),
        ("branch", ["--name=" + "long" * 100], "name"),
    ],
    ids=lambda value: value[0][:30] if isinstance(value, list) else "",
)
def test_a_wrong_place_or_structure_is_refused_in_one_line(
    command: str, arguments: list[str], named: str, finished: Path
) -> None:
    assert attempt(command, named, arguments)


def test_every_command_is_tried() -> None:
    assert GIVEN.keys() == OWN.keys() | {"fit"}
