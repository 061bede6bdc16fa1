from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ltpl
from ltpl.cli import main

pytestmark = [
    pytest.mark.usefixtures("no_arguments"),
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ltpl"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(config: Path, tmp_path: Path) -> None:
    options = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    main(["fit", "--config", str(config), "--trainer.fast_dev_run=1", *options])
    assert not list(tmp_path.rglob("*"))


def test_the_printed_config_feeds_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--config", str(CONFIGS[0]), "--trainer.fast_dev_run=1"]
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    printed = capsys.readouterr().out
    names = [c["class_path"] for c in yaml.safe_load(printed)["trainer"]["callbacks"]]
    assert "ltpl.callbacks.PruneAtEpoch" in names
    path = tmp_path / "again.yaml"
    path.write_text(printed)
    main(["fit", "--config", str(path), "--trainer.enable_progress_bar=false"])


@pytest.mark.parametrize("command", [["ltpl"], [sys.executable, "-m", "ltpl"]])
def test_the_command_tells_its_version(command: list[str]) -> None:
    if command == ["ltpl"]:
        command = [str(Path(sys.executable).with_name("ltpl"))]
        if not Path(command[0]).exists():
            pytest.skip("the package is not installed in this environment")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"ltpl {ltpl.__version__}"


def test_a_wrong_option_ends_with_exit_code_two_and_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIGS[0]), "--trainer.max_epoks=1"])
    assert stopped.value.code == 2
    assert "max_epoks" in capsys.readouterr().err
