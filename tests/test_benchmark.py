"""The benchmark job: each case runs at a small size, without being timed; with MMSEG_PYTHON beside mmsegmentation."""

import json
import os
import re
import sys

import pytest
import torch
from paths import SCRIPTS
from transformers.utils import is_torchao_available

from setr_hf.benchmarks import loss, networks
from setr_hf.benchmarks.cases import CASES
from setr_hf.benchmarks.measuring import MMSEG, OURS
from setr_hf.cli import run_job
from setr_hf_cli import load_script


SIZES = ["--size", "64", "--num-labels", "5", "--logits", "8", "--photo-sizes", "70x100", "--model-size", "tiny"]
SIZES += ["--num-images", "2", "--scales", "0.5", "1.5", "--photo-sides", "64", "256"]
# Its encoder is that of any other, and its decoder the slowest.
SMALL = [*SIZES, "--decoders", "naive", "mla", "--quantizations", "int8-dynamic"]


@pytest.fixture(scope="module")
def job():
    return load_script(SCRIPTS / "benchmark.py")


def run(job, *arguments):
    return run_job(lambda: job.main([*map(str, arguments)]))


@pytest.mark.parametrize("case", CASES)
def test_the_codes_of_a_case_run_and_agree(job, case):
    if case == "quantization" and not is_torchao_available():
        pytest.skip("needs torchao")
    comparisons = 0
    for comparison in CASES[case].comparisons(job.parse_arguments(["all", *SMALL])):
        setting = json.loads(json.dumps(comparison.setting))
        if "matmul_side" in setting:
            setting["matmul_side"] = 16
        codes = sys.modules[comparison.module].CODES
        for name in {OURS, *comparison.references} - {MMSEG}:
            codes[name](setting)()
        codes[OURS]({**setting, **comparison.warm_up})()
        facts = comparison.facts()
        assert facts.get("gradient difference", 0) < 1e-5
        assert facts.get("equal bits run to run", True)
        assert facts.get("difference", 0) < 1e-5
        assert facts.get("equal labels", 1) > 0.999
        assert facts.get("label agreement", 1) > 0.9
        assert facts.get("share of those without", 0) < 1
        assert all(amount > 0 for amount in comparison.work.values())
        comparisons += 1
    assert comparisons


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_the_plain_network_computes_what_ours_does(decoder):
    setting = {"model_size": "tiny", "decoder": decoder, "is_mmseg_network": True, "num_labels": 5, "size": 64}
    ours, plain = networks.our_model(setting).train(), networks.plain_model(setting).train()
    names = {"setr": "encoder", "patch_embeddings": "patch_embeddings.projection", "decode_head": "decoder"}
    names["auxiliary_heads.heads"] = "auxiliary_heads"
    pattern = re.compile(r"\b" + "|".join(map(re.escape, names)))
    weights = {pattern.sub(lambda part: names[part[0]], name): value for name, value in ours.state_dict().items()}
    if decoder == "mla":  # It has no class token.
        positions = weights["encoder.embeddings.position_embeddings"]
        weights["encoder.embeddings.cls_token"] = positions[:, :1]
        weights["encoder.embeddings.position_embeddings"] = torch.cat([positions[:, :1], positions], dim=1)
    plain.load_state_dict(weights)
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(5, (2, 64, 64))
    torch.testing.assert_close(ours(images, labels=labels).loss, plain.loss(images, labels))


def test_a_table_and_all_figures_as_json(job, tmp_path, capsys):
    path = tmp_path / "new/figures.json"
    options = ("--size", 32, "--num-labels", 3, "--logits", 8, "--rounds", 2, "--turn", 0.001, "--json", path)
    assert run(job, "loss", *options, "--markdown") == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| case | beside | times as fast |")
    assert [row.split("|")[1:3] for row in rows] == [
        [" loss: logits 8² to 32², 3 classes, batch of 2 ", f" {loss.PLAIN} "]
    ]
    figures = json.loads(path.read_text())
    assert (figures["machine"]["device"], figures["machine"]["threads"], figures["rounds"]) == ("cpu", 1, 2)
    for result in figures["results"]:
        assert result["case"] == "loss"
        for code in (OURS, loss.PLAIN):
            seconds = result["codes"][code]["seconds"]
            assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
            assert sys.platform != "linux" or result["codes"][code]["memory"] >= 0
        assert result["references"][loss.PLAIN]["speed"]["median"] > 0
        assert result["facts"]["equal bits run to run"] is True


def test_quantization_that_cannot_be_loaded_is_named(job, tmp_path, monkeypatch, capsys):
    for library in ("torchao", "bitsandbytes"):
        monkeypatch.delitem(sys.modules, library, raising=False)
        (tmp_path / f"{library}.py").write_text("raise ImportError('no such\\nlibrary')")
    monkeypatch.syspath_prepend(tmp_path)
    assert run(job, "quantization", "--quantizations", "int8-dynamic", "bnb-nf4") == 0
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("not measured")] == [
        f"not measured: {name} needs {library}, which cannot be loaded (no such library): pip install -U {library}"
        for name, library in (("int8-dynamic", "torchao"), ("bnb-nf4", "bitsandbytes"))
    ]


def test_beside_mmsegmentation(job, tmp_path):
    python = os.environ.get("MMSEG_PYTHON")
    if not python:
        pytest.skip("set MMSEG_PYTHON to a Python that has mmsegmentation 1.2.2 to run this test")
    cases = ("decoder", "inference", "photo", "training-step", "evaluation", "augmentation")
    path = tmp_path / "figures.json"
    options = [*(option for option in SIZES if option not in ("--logits", "8")), "--decoders", "mla"]
    options += ["--dtypes", "float32"]
    assert run(job, *cases, *options, "--rounds", 1, "--turn", 0.001, "--json", path, "--mmseg-python", python) == 0
    measured = {result["case"] for result in json.loads(path.read_text())["results"] if MMSEG in result["references"]}
    assert measured == set(cases)


def test_a_python_without_mmsegmentation_is_named(job, tmp_path, capsys):
    # Isolated from site-packages, it finds no module of any library.
    python = tmp_path / "bare-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    options = ("--size", 32, "--num-images", 1, "--rounds", 1, "--mmseg-python", python)
    assert run(job, "augmentation", *options) == 2
    assert f"error: {python} does not run mmsegmentation 1.2.2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["loss", "--mmseg-python", "/no/python"], "--mmseg-python /no/python is not a program here"),
        (["photo", "--photo", "/no/photo.jpg"], "/no/photo.jpg does not exist"),
        (["photo", "--photo", os.path.dirname(__file__)], f"{os.path.dirname(__file__)} is a folder"),
        (["augmentation", "--dataset", "/no/folder"], "/no/folder"),
        (["quantization", "--model", "/no/model"], "/no/model"),
        (["loss", "--json", os.path.dirname(__file__)], f"--json {os.path.dirname(__file__)} is a folder"),
        (["loss", "--json", f"{__file__}/new/figures.json"], f"{__file__}/new cannot be created"),
    ],
)
def test_what_cannot_be_measured_is_named_in_a_line(job, options, message, capsys):
    assert run(job, *options, "--rounds", 1) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["nothing"],
        ["loss", "--photo-sizes", "0x5"],
        ["label-map", "--photo-sizes", "512"],
        ["label-map", "--photo-sizes", "1e3x5"],
        ["loss", "--logits", "0"],
        ["loss", "--threads", "-1"],
        ["loss", "--rounds", "0"],
        ["loss", "--turn", "nan"],
        ["loss", "--turn", "0"],
        ["evaluation", "--scales", "inf"],
        ["loss", "--decoders", "mla"],
        ["encoder", "--num-labels", "7"],
        ["encoder", "--size", "500"],
        ["loss", "--dataset", "mine"],
        ["evaluation", "--labels", "ade20k"],
        ["loss", "--dtypes", "float16"],
        ["loss", "--model", "folder"],
        ["loss", "--quantizations", "int8-dynamic"],
        ["quantization", "--quantizations", "int4"],
        ["quantization", "--model", "folder", "--num-labels", "7"],
    ],
)
def test_options_out_of_range_are_refused(job, options, capsys):
    with pytest.raises(SystemExit) as exit:
        job.main(options)
    assert exit.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
