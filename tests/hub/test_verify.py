"""`setr-hf verify`: any change to a published folder is found, and measured figures are computed again."""

import json
import random
import shutil
import subprocess

import pytest
from local_hub import Repository, hub_process, running_hub
from model_folders import save_model
from paths import ROOT

from setr_hf.data.scenes import CLASSES
from setr_hf.errors import SetrError
from setr_hf.hub.manifest import MANIFEST, check_manifest, write_manifest
from setr_hf.hub.publish import staged
from setr_hf.hub.signing import sign
from setr_hf.hub.verify import check_code, verify
from setr_hf_cli import load_script


def call(script, *arguments):
    return load_script(ROOT / f"scripts/{script}.py").main([str(part) for part in arguments])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as it is published."""
    root = tmp_path_factory.mktemp("published")
    save_model(root / "model", list(CLASSES))
    with staged(root / "model", "me/scenes", "v1.0") as folder:
        shutil.copytree(folder, root / "published")
    return root / "published"


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "copy")


def test_a_published_folder_is_as_it_should_be(published, capsys):
    assert call("verify", published) == 0
    out = capsys.readouterr().out
    assert out.count("as it should be") == 4 and "differs" not in out


def mutate(folder, chance):
    """Changes one thing in a published folder, and says what."""
    kind = chance.choice(["bit", "figure", "class", "code", "missing", "extra", "config", "manifest"])
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    if kind == "bit":
        path = chance.choice(files)
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif kind == "missing":
        chance.choice(files).unlink()
    elif kind == "extra":
        (folder / f"extra{chance.randrange(99)}.{chance.choice(['py', 'json', 'md'])}").write_text("{}")
    elif kind == "manifest":
        content = json.loads((folder / MANIFEST).read_text())
        name = chance.choice(sorted(content["files"]))
        chance.choice([lambda: content["files"].pop(name), lambda: content["files"].update({name: "0" * 64})])()
        (folder / MANIFEST).write_text(json.dumps(content))
    else:
        name = {"figure": "README.md", "class": "config.json", "config": "config.json", "code": "modeling_setr.py"}[
            kind
        ]
        lines = (folder / name).read_text().splitlines(keepends=True)
        index = chance.randrange(len(lines))
        lines[index] = chance.choice(["", lines[index].replace("e", "f") + "\n", lines[index] * 2 + "\n"])
        (folder / name).write_text("".join(lines) + "\n")
    return kind


def test_each_of_200_changes_is_found(published, tmp_path):
    for seed in range(200):
        chance, folder = random.Random(seed), shutil.copytree(published, tmp_path / str(seed))
        kind = mutate(folder, chance)
        assert check_manifest(folder), (seed, kind)
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(12))
def test_a_change_that_hides_behind_a_new_manifest_is_found_by_what_it_breaks_or_by_the_signature(seed, copy, keys):
    sign(copy, keys[0])
    kind = mutate(copy, random.Random(1000 + seed))
    write_manifest(copy)
    assert bool(verify(copy, keys[1])["signature"]) == (kind != "manifest")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A private key and its public one."""
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "private.pem", folder / "public.pem"
    command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(command, check=True, capture_output=True)
    command = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(command, check=True, capture_output=True)
    return private, public


def test_a_signature_is_checked_with_the_public_key(copy, keys, capsys):
    assert verify(copy, keys[1])["signature"] == ["there is no signature: model.sig is missing"]
    sign(copy, keys[0])
    assert call("verify", copy, "--public-key", keys[1]) == 0
    (copy / "model.sig").write_text("{}")
    assert call("verify", copy, "--public-key", keys[1]) == 1
    assert "the signature is not that of public.pem" in capsys.readouterr().out


def test_other_code_is_shown_line_by_line(copy):
    path = copy / "modeling_setr.py"
    path.write_text(path.read_text().replace("return aggregated\n", "return 2 * aggregated\n", 1))
    (copy / "helper.py").write_text("import os\n")
    helper, changed = check_code(copy)
    assert helper == "helper.py is not a part of setr-hf: read it before you trust it"
    assert "-        return aggregated" in changed and "+        return 2 * aggregated" in changed


def test_weights_that_are_not_those_of_the_configuration_are_found_under_a_new_manifest(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    write_manifest(copy)
    findings = verify(copy)
    assert not findings["manifest"] and "mlp.fc1" in findings["weights"][0]


def test_measured_figures_are_computed_again_to_the_printed_digit(copy, scene_folder, tmp_path, capsys):
    data = ["--dataset", scene_folder, "--split", "val"]
    output = ["--output", tmp_path / "results", "--update-card"]
    assert call("evaluate", "--model", copy, *data, *output) == 0
    write_manifest(copy)
    assert call("verify", copy, *data) == 0
    assert "figures    as it should be" in capsys.readouterr().out
    with staged(copy, "you/yours", "v1.0") as folder:
        assert "setr-hf evaluate --model you/yours" in (folder / "README.md").read_text()
    photo = next((scene_folder / "images/val").iterdir())
    content = photo.read_bytes()
    photo.write_bytes(content[:-100])
    with pytest.raises(SetrError, match=rf"1 of 4 samples cannot be used: the image of {photo.stem} .* truncated"):
        call("verify", copy, *data)
    photo.write_bytes(content)
    card = (copy / "README.md").read_text()
    value = next(line for line in card.splitlines() if line.strip().startswith("value: "))
    figure = float(value.partition("value: ")[2])
    (copy / "README.md").write_text(card.replace(value, value.replace(str(figure), f"{figure + 0.01:.2f}"), 1))
    write_manifest(copy)
    assert call("verify", copy, *data) == 1
    assert f"{figure + 0.01:.2f} on the card, computed {figure}" in capsys.readouterr().out


def test_figures_of_held_out_samples_are_computed_again_by_the_command_on_the_card(
    copy, scene_folder, tmp_path, capsys
):
    for kind in ("images", "annotations"):
        shutil.rmtree(scene_folder / kind / "val")
    data = ["--dataset", scene_folder, "--validation-fraction", 0.5]
    assert call("evaluate", "--model", copy, *data, "--output", tmp_path / "results", "--update-card") == 0
    assert "--dataset path/to/data --validation-fraction 0.5\n" in (copy / "README.md").read_text()
    write_manifest(copy)
    assert call("verify", copy, *data) == 0
    assert "figures    as it should be" in capsys.readouterr().out


def test_a_repository_is_verified_at_a_revision(copy, tmp_path):
    with running_hub() as hub, hub_process(tmp_path / "cache", HF_ENDPOINT=hub.address) as process:
        repository = hub.repositories["model", "me/scenes"] = Repository()
        oid = repository.commit({path.name: path.read_bytes() for path in copy.iterdir()})
        repository.refs["refs/tags/v1.0"] = oid
        repository.commit({**repository.files(), "config.json": b"{}"})
        assert process.submit(call, "verify", "me/scenes", "--revision", "v1.0").result() == 0
        assert process.submit(call, "verify", "me/scenes").result() == 1
