"""`setr-hf doctor MODEL` and bare `setr-hf doctor`: what a bug report holds, and folders that are not whole."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch
from model_folders import NAMES, save_model
from paths import SCRIPTS
from safetensors.torch import load_file, save_file

from setr_hf.cli import run_job
from setr_hf_cli import load_script


@pytest.fixture
def main():
    return load_script(SCRIPTS / "doctor.py").main


@pytest.fixture(scope="session")
def whole_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    save_model(folder, NAMES)
    return folder


@pytest.fixture
def model(whole_model, tmp_path):
    return shutil.copytree(whole_model, tmp_path / "model")


def test_the_installation(main, doctor, capsys):
    status, report = doctor()
    assert (status, report["kind"], report["source"], report["findings"]) == (0, "installation", None, [])
    here = report["installation"]
    assert set(here) == {"versions", "platform", "executable", "cuda", "devices", "attention"}
    for name in ("setr-hf", "torch", "transformers", "accelerate", "torchvision", "datasets", "safetensors"):
        assert here["versions"][name] == version(name)
    assert here["attention"]["sdpa"] == here["attention"]["eager"] == "runs"
    assert set(here["attention"]) > {"flash_attention_2", "flex_attention"}
    assert here["attention"]["flash_attention_2"].startswith(("can be chosen", "no: "))
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert version("torch") in printed and "attention eager" in printed and "nothing is wrong" in printed


def test_a_whole_model(main, doctor, whole_model, tmp_path, capsys):
    status, report = doctor(whole_model, "--output", tmp_path / "out")
    assert (status, report["kind"], report["findings"]) == (0, "model", [])
    assert report["model"]["decoder"] == "naive" and report["model"]["classes"] == len(NAMES)
    assert report["model"]["crop_size"] == [32, 32] and report["model"]["stride"] == 21
    stored = load_file(whole_model / "model.safetensors")
    counted = [tensor.numel() for name, tensor in stored.items() if tensor.ndim and "running" not in name]
    assert report["model"]["parameters"] == sum(counted)
    assert report["model"]["seconds_per_window"]["cpu"] > 0
    assert report["installation"]["versions"]["torch"] == version("torch")
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    assert main([str(whole_model)]) == 0
    printed = capsys.readouterr().out
    assert "one window on cpu" in printed and "32 × 32" in printed and printed.endswith("nothing is wrong\n")


def without(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def only_a_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def a_pickle_beside(folder):
    torch.save({}, folder / "pytorch_model.bin")


def a_missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_weights(change):
    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors, next(name for name in sorted(tensors) if tensors[name].ndim == 2))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


def change_config(**fields):
    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (without("config.json"), {"config"}),
        (write("config.json", b"{"), {"config"}),
        (change_config(model_type="vit"), {"not_a_setr"}),
        (change_config(hidden_size=33), {"network"}),
        (without("model.safetensors"), {"weights"}),
        (truncate, {"weights"}),
        (write("model.safetensors", b""), {"weights"}),
        (only_a_pickle, {"weights", "pickle"}),
        (a_pickle_beside, {"pickle"}),
        (a_missing_shard, {"weights"}),
        (change_weights(lambda tensors, name: tensors[name].fill_(float("nan"))), {"network"}),
        (change_weights(lambda tensors, name: tensors.pop(name)), {"network"}),
        (change_weights(lambda tensors, name: tensors.update({name: tensors[name].to(torch.int32)})), {"weights"}),
        (without("preprocessor_config.json"), {"image_processor"}),
        (write("preprocessor_config.json", b"[]"), {"image_processor"}),
        (change_config(id2label={str(i): f"LABEL_{i}" for i in range(len(NAMES))}), {"class_names"}),
    ],
)
def test_what_a_folder_lacks_is_named(doctor, model, spoil, expected):
    spoil(model)
    status, report = doctor(model)
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert set(found) == expected, report["findings"]
    assert status == int(any(finding["severity"] != "note" for finding in found.values()))
    assert all(finding["advice"] for finding in found.values())


def test_all_that_a_folder_lacks_is_named_at_once(doctor, model):
    for name in ("config.json", "preprocessor_config.json"):
        (model / name).unlink()
    truncate(model)
    status, report = doctor(model)
    assert (status, [finding["kind"] for finding in report["findings"]]) == (
        1,
        ["config", "weights", "image_processor"],
    )


@pytest.mark.parametrize("option", ["--labels", "--image-column", "--dataset-config"])
def test_options_of_data_belong_to_data(main, whole_model, capsys, option):
    assert run_job(lambda: main([str(whole_model), option, "x"])) == 2
    assert f"is a model, which has no {option}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([option, "x"])
    assert end.value.code == 2
    assert f"{option} belongs to a data set" in capsys.readouterr().err


def test_an_output_folder_that_is_not_empty_is_refused_first(main, model, capsys):
    (model / "model.safetensors").unlink()
    assert run_job(lambda: main([str(model), "--output", str(model)])) == 2
    assert capsys.readouterr() == ("", f"error: {model} exists already: name another folder, or remove it first\n")
