"""Sweeps and `mho vote` over named inputs, tokens and numbers, with the output where the network has it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lms import LanguageModel, Regression, texts

import mho
from mho.cli import app, run
from mho.inputs import find_inputs, find_output
from mho.mapping.voting.clusters import share

NETWORKS = """
from lms import LanguageModel, Regression

def language():
    return LanguageModel().eval()

def numbers():
    return Regression().eval()

def last(output):
    return output.logits[:, -1]

threshold = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    for name in ("networks_of_forms",):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("networks_of_forms.py").write_text(NETWORKS)
    ids = texts(20).numpy()
    mask = np.ones_like(ids)
    mask[::3, :2] = 0
    np.savez("texts.npz", input_ids=ids, attention_mask=mask, labels=ids)
    np.savez("ends.npz", input_ids=ids, labels=ids[:, -1])
    torch.manual_seed(1)
    a, b = torch.rand(20, 4), torch.rand(20, 3)
    np.savez("numbers.npz", a=a.numpy(), b=b.numpy(), labels=Regression().eval()(a, b)[1].detach().numpy())
    return tmp_path


FIELDS = {
    "model": "networks_of_forms:language",
    "data": "texts.npz",
    "images": 20,
    "calibrate": 10,
    "hardware": "ideal",
    "next_token": True,
    "grid": {"output_noise.sigma_mult": [0.5], "votes": [1, 4]},
}


def test_a_sweep_counts_tokens_over_texts(place):
    table = mho.sweep({**FIELDS, "experiment": "accuracy", "batch_size": 7}, out="run")
    chip = mho.map(LanguageModel().eval(), mho.Hardware.paper(sigma_mult=0.5), check=texts())
    named = {name: torch.from_numpy(x) for name, x in np.load("texts.npz").items() if name != "labels"}
    for row, votes in zip(table.to_dict("records"), (1, 4), strict=True):
        wanted = mho.vote(chip, named, votes).accuracy(texts(20), next_token=True)
        assert (row["accuracy"], row["low"], row["high"]) == (float(wanted), wanted.low, wanted.high)
        assert (row["pictures"], row["next_token"]) == (20, True)
        assert (wanted.n, wanted.answers) == (20, int(named["attention_mask"].sum()) - 20)
    again = mho.sweep({**FIELDS, "experiment": "voting", "vote_error": 0.1}, out="voting")
    assert list(again["single"]) == list(table["accuracy_1"])
    assert list(again["voted"]) == list(table["accuracy"])
    adaptive = mho.sweep({**FIELDS, "experiment": "accuracy", "vote_error": 0.1}, out="adaptive")
    assert list(again["adaptive"]) == list(adaptive["accuracy"])
    assert list(again["mean_reads"]) == list(adaptive["mean_reads"])


def test_the_function_of_an_output_is_part_of_a_task(place):
    fields = {**FIELDS, "data": "ends.npz", "next_token": False, "output": "networks_of_forms:last"}
    table = mho.sweep({**fields, "experiment": "accuracy"}, out="run")
    assert list(table["output"]) == ["networks_of_forms:last"] * 2
    assert "next_token" not in table
    named = mho.sweep({**fields, "experiment": "accuracy", "output": "logits", "data": "texts.npz"}, out="run")
    assert not set(named["task_id"]) & set(table["task_id"])
    with pytest.raises(ValueError, match=r"labels must have shape \(20, 5\), as the network answers, got \(20,\)"):
        mho.sweep({**fields, "experiment": "accuracy", "output": "logits"}, out="never")


def test_reductions_and_regressions_are_swept(place):
    fields = {**FIELDS, "experiment": "reduction", "hardware": "reram", "grid": {"votes": [2]}}
    (row,) = mho.sweep(fields, out="reduction").to_dict("records")
    assert 0 < row["chip_voted"] < 1
    more = {"model": "networks_of_forms:numbers", "data": "numbers.npz", "output": "1", "next_token": False}
    table = mho.sweep({**FIELDS, **more, "experiment": "regression"}, out="regression")
    one, four = table.to_dict("records")
    assert one["rmse"] == one["rmse_1"] == four["rmse_1"] > four["rmse"] > 0
    assert np.isnan(one["spread"])
    assert four["rmse_low"] < four["rmse"] < four["rmse_high"]
    assert four["spread"] == pytest.approx(one["rmse"], rel=0.5)
    for wrong, value in (("vote_error", 0.1), ("next_token", True), ("rule", "soft")):
        with pytest.raises(ValueError, match=f"{wrong}: experiment regression makes no use of it"):
            mho.sweep({**FIELDS, **more, wrong: value, "experiment": "regression"}, out="never")
    with pytest.raises(ValueError, match=r"labels must have shape \(20,\), as the network answers, got"):
        mho.sweep({**FIELDS, **more, "experiment": "accuracy"}, out="never")


def test_labels_that_are_no_classes_stop_a_sweep(place):
    np.savez("beyond.npz", input_ids=texts(20).numpy(), labels=np.full((20, 5), 11))
    for experiment in ("accuracy", "voting"):
        with pytest.raises(ValueError, match="labels must be classes 0 to 10, got 11"):
            mho.sweep({**FIELDS, "data": "beyond.npz", "experiment": experiment}, out=experiment)


def test_the_command_votes_over_them(place, capsys):
    net = LanguageModel().eval()
    mho.map(net, mho.Hardware.paper(sigma_mult=0.5), check=texts()).save("chip")
    ids, mask = (torch.from_numpy(np.load("texts.npz")[name]) for name in ("input_ids", "attention_mask"))
    voted = mho.vote(mho.map(net, mho.Hardware.paper(sigma_mult=0.5), check=texts()), {"input_ids": ids}, 3)

    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert run(app, ["vote", "chip", "--model", "networks_of_forms:language", "--votes", "3", *arguments]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    last = share(voted.classes[:, -1] == ids[:, -1], torch.ones(20, dtype=torch.bool))
    assert said("--data", "ends.npz", "--output", "networks_of_forms:last").endswith(str(last))
    tokens = said("--data", "texts.npz", "--next-token", "--output", "logits")
    assert tokens.startswith("   3 votes")
    np.savez("unlabelled.npz", input_ids=ids.numpy(), attention_mask=mask.numpy())
    assert said("--data", "unlabelled.npz", "--next-token", "--output", "logits") == tokens
    assert run(app, ["vote", "chip", "--data", "unlabelled.npz"]) == 2
    assert "data unlabelled.npz: has no labels to compare with" in capsys.readouterr().err
    few = said("--data", "texts.npz", "--next-token", "--error", "0.1")
    assert few.split()[2] == str(int(mask.sum()))
    mho.map(Regression().eval(), mho.Hardware.paper(sigma_mult=0.5)).save("numbers")
    capsys.readouterr()
    asked = ["vote", "numbers", "--data", "numbers.npz", "--rule", "mean", "--output", "1", "--votes", "2"]
    assert run(app, asked) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("   2 votes  RMSE 0.")
    assert run(app, [*asked, "--next-token"]) == 2
    assert run(app, [*asked[:-4], "--votes", "2"]) == 2
    assert "this one returns a tuple of 2; say with output=" in capsys.readouterr().err


def test_outputs_and_files_that_are_none(place):
    assert find_output(None) is None
    assert find_output("-1") == -1
    assert find_output("logits") == "logits"
    for wrong in ("networks_of_forms:first", "no_such_module:last", "networks_of_forms:threshold"):
        with pytest.raises(ValueError, match=f"output '{wrong}'"):
            find_output(wrong)
    inputs, labels = find_inputs("texts.npz")
    assert {name: x.dtype for name, x in inputs.kwargs.items()} == dict.fromkeys(
        ("input_ids", "attention_mask"), torch.int64
    )
    assert labels.shape == (20, 5)
    np.savez("bad.npz", labels=np.zeros(4))
    with pytest.raises(ValueError, match="expected an array 'images', or the inputs of a model by name, got none"):
        find_inputs("bad.npz")
    np.savez("bad.npz", x=np.zeros((4, 2)), labels=np.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\), got \(3,\)"):
        find_inputs("bad.npz")
    np.savez("bad.npz", x=np.zeros((0, 2)))
    with pytest.raises(ValueError, match="holds no samples"):
        find_inputs("bad.npz")
