"""The answers: each from a run in which it is known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch

from ltpl.masks.mask import Mask
from ltpl.report import read_runs
from ltpl.report.analysis import answers, as_markdown
from ltpl.report.score import Score, choose
from ltpl.tickets.result import Result

SEEDS = range(3)


def line(level: float, *rounds: int, gap: float = 0.0, **given: Any) -> list[Result]:
    """Results that test around `level`, each seed a little apart, the same in every line."""
    rng = random.Random()
    results = []
    for seed in SEEDS:
        for number in rounds:
            score = level + 0.001 * seed + gap * seed + 0.0001 * ((seed * 7 + number * 3) % 5)
            made_by = {"policy": given.get("policy", "rewind") if number else "dense"}
            fields = {"test_acc": score, "val_acc": score, "made_by": made_by}
            own = {k: v for k, v in given.items() if k != "policy"}
            results.append(synthetic.result(seed, number, rng, **{**fields, **own}))
    return results


def run(folder: Path, main: list[Result], **record: Any) -> Path:
    synthetic.save(synthetic.begin(folder, **record), main)
    return folder


def branch(folder: Path, name: str, results: list[Result], kind: str, **options: Any) -> None:
    synthetic.save(folder / "branches" / name, results)
    record = {"kind": kind, "config": {"branch": options}}
    (folder / "branches" / name / "branch.json").write_text(json.dumps(record))


def said(folder: Path) -> dict[str, list[str]]:
    (read,) = read_runs([folder])
    measure: Score = choose(read.main.results)
    return {answer.question: answer.lines for answer in answers(read, measure)}


def test_questions_without_numbers_are_not_asked(tmp_path: Path) -> None:
    assert said(run(tmp_path, line(0.9, 0))) == {}
    nothing = {"start": {}, "start_acc": None}
    found = said(run(tmp_path / "b", line(0.9, 0, 1, **nothing)))
    assert list(found) == ["How much does pruning gain?", "Is there a lottery ticket?"]


def test_retraining_is_judged_against_both_masks(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0, 1, 2, pruned_acc=0.5, start_acc=0.1))
    branch(folder, "early", line(0.9, 1, pruned_acc=0.5), "ladder", one_shot=True, drawn_at="1ep")
    pruned, start = said(folder)["Is retraining needed?"]
    assert pruned.startswith(
        "The ticket, retrained minus the mask on the trained weights: decided above at 80.0 and "
        "64.0 %. +40."
    )
    assert pruned.endswith("at 64.0 % of the weights (95 % intervals, n = 3).")
    assert start.startswith("The ticket, retrained minus before retraining: decided above")
    assert "+80." in start


def test_the_same_mask_is_judged_once_where_training_goes_on(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0, 1, pruned_acc=0.5, start_acc=0.5))
    (pruned,) = said(folder)["Is retraining needed?"]
    assert "the mask on the trained weights" in pruned


def test_a_mask_that_was_not_measured_is_said_so(tmp_path: Path) -> None:
    lines = said(run(tmp_path, line(0.9, 0, 1, start_acc=0.1)))["Is retraining needed?"]
    assert lines[0].endswith("the mask on the trained weights: not measured.")


def test_the_gain_is_that_of_the_best_level_with_a_wider_interval(tmp_path: Path) -> None:
    main = line(0.9, 0, 1) + line(0.935, 2) + line(0.91, 3)
    (found,) = said(run(tmp_path, main))["How much does pruning gain?"]
    assert found.startswith(
        "At the best level, 64.0 % of the weights, the ticket minus dense is +3"
    )
    assert "widened for the choice among 3, n = 3): decided." in found


def test_one_seed_decides_no_gain(tmp_path: Path) -> None:
    main = [r for r in line(0.9, 0) + line(0.93, 1) if r.seed == 0]
    (found,) = said(run(tmp_path, main))["How much does pruning gain?"]
    assert found.endswith("(n = 1): one seed decides nothing.")


def test_a_ticket_is_judged_against_dense_and_against_its_controls(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0) + line(0.92, 1, 2))
    assert said(folder)["Is there a lottery ticket?"][-1].endswith("(reinit): not measured.")
    branch(folder, "again", line(0.85, 1, policy="reinit", gap=0.001), "reinit")
    branch(folder, "random_mask", line(0.5, 2, gap=0.001), "random_mask")
    lines = said(folder)["Is there a lottery ticket?"]
    assert "pp above dense (95 %" in lines[0]
    assert lines[0].endswith(": decided.")
    assert any("pp above again (reinit) (95 %" in text for text in lines)
    assert any("pp above random_mask (95 %" in text for text in lines)
    assert any("early stop: " in text for text in lines)
    assert not any("not measured" in text for text in lines)


def test_controls_are_no_tickets(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0, policy="finetune") + line(0.92, 1, policy="finetune"))
    branch(folder, "reinit", line(0.99, 1, policy="reinit"), "reinit")
    found = said(folder)
    assert "Is there a lottery ticket?" not in found
    assert len(found["How much does pruning gain?"]) == 1


@pytest.mark.parametrize("policy", ["finetune", "lr_rewind"])
def test_the_ticket_is_compared_with_fine_tuning(tmp_path: Path, policy: str) -> None:
    folder = run(tmp_path, line(0.9, 0) + line(0.92, 1))
    branch(folder, "tuned", line(0.95, 1, policy=policy), policy)
    (found,) = said(folder)["Does the ticket differ from fine-tuning?"]
    assert f"the ticket tests 3.00 pp below tuned ({policy})" in found


def test_one_shot_is_compared_with_rounds_of_the_same_policy(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0) + line(0.92, 1))
    branch(folder, "one_shot", line(0.90, 1), "one_shot")
    branch(folder, "tuned", line(0.8, 1, policy="finetune"), "ladder", one_shot=True)
    (found,) = said(folder)["Iterative or one-shot?"]
    assert "the ticket tests 2.00 pp above one_shot" in found


def test_ladders_of_a_run_that_is_only_dense_are_compared_with_each_other(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0))
    branch(folder, "steps", line(0.92, 1), "ladder")
    branch(folder, "at_once", line(0.91, 1), "ladder", one_shot=True)
    found = said(folder)
    assert "steps (ladder) tests 1.00 pp above at_once" in found["Iterative or one-shot?"][0]
    assert len(found["How much does pruning gain?"]) == 2


def test_epochs_of_drawing_are_compared(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0))
    for at, level in (("10ep", 0.80), ("30ep", 0.90), ("100ep", 0.88), ("early_bird", 0.89)):
        results = line(level, 1, gap=0.0001 * level)
        branch(folder, f"at_{at}", results, "ladder", one_shot=True, drawn_at=at)
    for seed, epoch in ((0, 22), (1, 24)):
        made_by = json.dumps({"amount": 0.3, "epoch": epoch})
        mask = Mask({"w": torch.ones(3, dtype=torch.bool)}, {"made_by": made_by})
        mask.save(folder / f"seed_{seed}" / "round_00" / "early_bird_0.3" / "mask.safetensors")
    lines = said(folder)["When to prune?"]
    assert lines[0].startswith("Round 1, 80.0 % of the weights, by when the mask was drawn: 10ep 8")
    order = [lines[0].index(at) for at in ("10ep", "30ep", "100ep", "early_bird")]
    assert order == sorted(order)
    assert lines[0].endswith("in the mean 30ep is best.")
    assert "the mask of 100ep tests 8.0" in lines[1]
    assert "pp above that of 10ep" in lines[1]
    assert "the mask of early_bird tests 1.0" in lines[2]
    assert "pp below that of 30ep" in lines[2]
    assert lines[3] == (
        "For 30 % pruned the early-bird rule found its mask after 22 (seed 0), 24 (seed 1) epochs."
    )


def test_one_epoch_alone_is_no_comparison(tmp_path: Path) -> None:
    folder = run(tmp_path, line(0.9, 0))
    branch(folder, "a", line(0.8, 1), "ladder", one_shot=True, drawn_at="10ep")
    assert "When to prune?" not in said(folder)


def test_a_shipped_branch_is_what_its_name_says(tmp_path: Path) -> None:
    head = "seed,round,density,weights_left,val_acc,test_acc,early_stop_step,seconds\n"
    rows = "".join(f"{s},1,0.5,500,0.9,0.9{s}{s},9,1\n" for s in SEEDS)
    dense = "".join(f"{s},0,1,1000,0.9,0.9{s},9,1\n" for s in SEEDS)
    (tmp_path / "summary.csv").write_text(head + dense + rows)
    for name in ("reinit", "finetune", "one_shot"):
        folder = tmp_path / "branches" / name
        folder.mkdir(parents=True)
        (folder / "summary.csv").write_text(head + rows.replace("0.9,0.9", "0.9,0.8"))
    assert list(said(tmp_path))[1:] == [
        "Is there a lottery ticket?",
        "Does the ticket differ from fine-tuning?",
        "Iterative or one-shot?",
    ]


def test_answers_are_written_as_lists_with_names_escaped(tmp_path: Path) -> None:
    folder = run(tmp_path / "a_b", line(0.9, 0, 1))
    (read,) = read_runs([folder])
    found = answers(read, choose(read.main.results))
    text = as_markdown([(read.name, found), ("c*", found)])
    assert text.startswith("# What the numbers say\n\n## a\\_b\n\n### ")
    assert "\n## c\\*\n" in text
    assert all(f"\n- {part.lines[0][:20]}" in text for part in found)
