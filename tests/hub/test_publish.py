"""`setr-hf publish` against a Hub on localhost: one commit, a tag, the same label maps, whatever goes wrong."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard
from local_hub import FAULTS, TOKEN, Repository, running_hub
from model_folders import NAMES, save_model
from paths import ROOT
from PIL import Image

from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.errors import SetrError
from setr_hf.hub import publish as publishing
from setr_hf.hub.manifest import check_manifest
from setr_hf.hub.publish import publish
from setr_hf.inference.loading import load_model
from setr_hf.inference.sliding_windows import segment
from setr_hf_cli import load_script


REPO = "me/tiny"


def call(*arguments):
    return load_script(ROOT / "scripts/publish.py").main([str(part) for part in arguments])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub to which this process and those that it starts are logged in."""
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield hub


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", NAMES)
    return tmp_path / "model"


def our_commits(hub, kind="model", repo=REPO):
    repository = hub.find(kind, repo)
    return [] if repository is None else [c for _, c in repository.history() if c.title != "initial commit"]


def test_a_model_is_published_in_one_commit_tagged_and_read_back(hub, model, capsys):
    assert call(model, REPO, "--private") == 0
    out = capsys.readouterr().out
    repository = hub.find("model", REPO)
    assert repository.private and len(our_commits(hub)) == 1
    assert repository.refs["refs/tags/v1.0"] == repository.refs["refs/heads/main"]
    files = set(repository.files("v1.0"))
    assert {"model.safetensors", "config.json", "modeling_setr.py", "README.md", "MANIFEST.json"} <= files
    assert "the same label map, through the stock pipeline" in out and TOKEN not in out
    card = repository.files()["README.md"].decode()
    assert f'"{REPO}"' in card and 'revision="v1.0"' in card
    # Once more: nothing is sent.
    hub.clear_requests()
    assert call(model, REPO, "--private") == 0
    assert "was there already" in capsys.readouterr().out
    assert len(our_commits(hub)) == 1
    assert not [request for request in hub.requests if "commit/" in request or "lfs" in request.partition("?")[0]]


@pytest.fixture(scope="module")
def staged_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, NAMES)
    with publishing.staged(folder, REPO, "v1.0") as staged:
        yield staged


def upload(folder):
    return publishing.publish_folder(HfApi(), folder, REPO, "model", False, "v1.0")


def contents(hub):
    """What is published: nothing, or files without the Hub's own; and the files that the tag stands for."""
    repository = hub.find("model", REPO)
    if repository is None:
        return {}, None
    files = {path: content for path, content in repository.files().items() if path != ".gitattributes"}
    tag = repository.refs.get("refs/tags/v1.0")
    return files, tag and repository.commits[tag].files.keys() - {".gitattributes"}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_at_a_request_all_or_nothing_is_there_and_the_same_command_completes_it(
    fault, hub, staged_model, monkeypatch
):
    # Requests that are tried again wait for a second before.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    expected = {path.name: path.read_bytes() for path in staged_model.iterdir()}
    hub.clear_requests()
    upload(staged_model)
    num_requests = len(hub.requests)
    assert num_requests > 10
    # Each fault at a third of the requests, at another third than the faults beside it in the list.
    for number in range(FAULTS.index(fault) % 3, num_requests, 3):
        hub.repositories.clear()
        hub.lfs.clear()
        hub.clear_requests((number, fault))
        with suppress(SetrError):
            upload(staged_model)
        files, tagged = contents(hub)
        assert files in ({}, expected), hub.requests[number]
        assert tagged in (None, expected.keys())
        hub.clear_requests()
        assert upload(staged_model).revision == "v1.0"
        assert contents(hub) == (expected, expected.keys())
        assert len(our_commits(hub)) == 1


def test_a_dry_run_lists_files_and_prints_the_card_and_asks_the_hub_for_nothing(hub, model, capsys):
    assert call(model, REPO, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "pipeline_tag: image-segmentation" in out and "nothing was sent" in out
    assert not hub.requests and not hub.repositories


def test_of_a_training_run_only_the_model_is_published(hub, model):
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "events.out", "_running.lock"):
        (model / name).write_text("mine")
    (model / "checkpoint-7").mkdir()
    (model / "checkpoint-7/model.safetensors").write_text("mine")
    with publishing.staged(model, REPO, "v1.0") as folder:
        names = sorted(path.name for path in folder.rglob("*"))
    assert names == [
        "MANIFEST.json", "README.md", "architecture.png", "bands_setr.py", "combined_losses_setr.py",
        "confidence_setr.py", "config.json", "configuration_setr.py", "image_processing_setr.py",
        "interpolation_setr.py", "label_maps_setr.py", "loss_settings_setr.py", "losses_setr.py", "model.safetensors",
        "modeling_setr.py", "photos_setr.py", "plain_backbone_setr.py", "preprocessor_config.json", "presets_setr.py",
        "recomputation_setr.py", "upsampled_convolution_setr.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my token is hf_abcdefghijklmnopqrstuvwxyz0123", "README.md holds a token of the Hub: remove it, and revoke"),
        ("see /home/anna/runs/best", "README.md holds the path /home/anna/runs/best of this computer"),
        ("---\npipeline_tag: text-generation\n---\n", "the card says pipeline_tag: text-generation"),
        ("---\nmodel-index: 7\n---\n", "README.md"),
    ],
)
def test_what_does_not_belong_on_a_page_is_refused_before_anything_is_sent(text, message, hub, model):
    front = (
        "" if text.startswith("---") else "---\npipeline_tag: image-segmentation\nlibrary_name: transformers\n---\n"
    )
    (model / "README.md").write_text(front + text)
    with pytest.raises(SetrError, match=message):
        publish(model, REPO)
    assert not hub.repositories


def test_a_damaged_model_is_not_published(hub, model):
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(SetrError, match="NaN or infinite"):
        publish(model, REPO)
    assert not hub.repositories


def test_a_tag_never_moves_to_other_files(hub, model, staged_model):
    upload(staged_model)
    save_model(model, NAMES, seed=1)
    with pytest.raises(SetrError, match=r"the tag v1.0 of me/tiny stands for other files: pass another --revision"):
        publish(model, REPO)
    with publishing.staged(model, REPO, "v2.0") as folder:
        publishing.publish_folder(HfApi(), folder, REPO, "model", False, "v2.0")
    repository = hub.find("model", REPO)
    assert len(our_commits(hub)) == 2 and {"refs/tags/v1.0", "refs/tags/v2.0"} <= set(repository.refs)


def test_who_is_not_logged_in_or_wants_to_hide_a_public_model_is_told_so(hub, model, staged_model, monkeypatch):
    upload(staged_model)
    with pytest.raises(SetrError, match="me/tiny is on the Hub already and public"):
        publish(model, REPO, private=True)
    with pytest.raises(SetrError, match="cannot be the name of a repository"):
        publish(model, "a b")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SetrError, match=r"Invalid user token|InvalidToken") as refusal:
        publish(model, REPO)
    assert "hf_wrong" not in str(refusal.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SetrError, match=r"nobody is logged in. `hf auth login` stores a token"):
        publish(model, REPO)


def test_a_public_checkpoint_is_converted_and_published_with_its_card(hub, model, tmp_path):
    write_public_checkpoint(model, tmp_path / "theirs.pth", "mmseg")
    with publishing.staged(tmp_path / "theirs.pth", REPO, "v1.0") as folder:
        card = (folder / "README.md").read_text()
        assert "theirs.pth" in card.replace("\\", "") and f'"{REPO}"' in card
        assert not check_manifest(folder)


def test_the_metric_is_published_as_a_space_that_evaluate_loads(hub, capsys):
    assert call("metric", "me/streaming_iou") == 0
    assert "was there already" not in capsys.readouterr().out
    code = "import evaluate; m = evaluate.load('me/streaming_iou', num_labels=2); "
    code += "m.add(prediction=[[0, 1]], reference=[[0, 0]]); print(m.compute()['mean_iou'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "0.25\n", result.stderr
    assert call("metric", "me/streaming_iou") == 0
    assert len(our_commits(hub, "space", "me/streaming_iou")) == 1
    with pytest.raises(SetrError, match="must be one of Python's"):
        call("metric", "me/streaming-iou")


def test_a_demonstration_shows_a_published_model_at_its_revision(hub, staged_model, tmp_path):
    with pytest.raises(SetrError, match="me/tiny is not published completely"):
        call("demo", "me/demo", "--model", REPO)
    upload(staged_model)
    assert call("demo", "me/demo", "--model", REPO) == 0
    files = hub.find("space", "me/demo").files()
    assert {"app.py", "model.json", "requirements.txt", "README.md"} <= set(files)
    assert json.loads(files["model.json"]) == {"id": REPO, "revision": "v1.0"}
    assert ModelCard(files["README.md"].decode()).data.sdk == "gradio"
    assert {"setr_hf/app/viewer.js", "setr_hf/model/modeling_setr.py", "setr_hf_ending.py"} <= set(files)
    assert not [name for name in files if "__pycache__" in name]
    required = files["requirements.txt"].decode().splitlines()
    assert "transformers<6,>=5.17" in [line.replace(" ", "") for line in required]
    assert not [line for line in required if "extra" in line or "gradio" in line]

    for name, content in files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    code = "import app, setr_hf; print(app.MODEL['id'], setr_hf.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "space")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "space", env=environment, capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-1:] == [f"{REPO} {tmp_path}/space/setr_hf/__init__.py"], result.stderr


def test_the_zoo_becomes_a_collection_of_what_is_published(hub, staged_model, capsys):
    with pytest.raises(SetrError, match="has published none of the zoo's models"):
        call("zoo", "me")
    hub.repositories["model", "me/setr-mla-large-ade20k-b16"] = Repository()
    hub.repositories["model", "me/setr-mla-large-ade20k-b16"].commit({"README.md": b""})
    for _ in range(2):
        assert call("zoo", "me") == 0
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == ["me/setr-mla-large-ade20k-b16"]
    assert collection["slug"] in capsys.readouterr().out


OUTSIDER = """
import sys

for name in ("setr_hf", "cv2", "datasets", "evaluate", "matplotlib"):
    sys.modules[name] = None  # As if it were not installed.
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

sys.argv = ["read_back", REPO, "v1.0", PHOTO, OUTPUT]
exec(open(READER).read())
options = {"revision": "v1.0", "trust_remote_code": True}
model = AutoModelForSemanticSegmentation.from_pretrained(REPO, **options)
processor = AutoImageProcessor.from_pretrained(REPO, **options)
noise = torch.rand(2, 3, 32, 32)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.train()(pixel_values=noise, labels=torch.zeros(2, 32, 32, dtype=torch.long)).loss.backward()
optimizer.step()
model.save_pretrained(TUNED)
processor.save_pretrained(TUNED)
"""


def test_who_has_transformers_alone_gets_the_same_masks_and_publishes_a_fine_tuned_model_with_its_code(
    hub, staged_model, tmp_path
):
    upload(staged_model)
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    names = {"REPO": REPO, "PHOTO": tmp_path / "photo.png", "OUTPUT": tmp_path / "map.npy"}
    names |= {"READER": publishing.READER, "TUNED": tmp_path / "tuned"}
    code = "".join(f"{name} = {str(value)!r}\n" for name, value in names.items()) + OUTSIDER
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    ours = segment(*load_model(staged_model), [Image.fromarray(noise)])[0].numpy()
    assert np.array_equal(np.load(tmp_path / "map.npy"), ours) and len(np.unique(ours)) > 1
    with publishing.staged(tmp_path / "tuned", "me/tuned", "v1.0") as folder:
        assert publishing.publish_folder(HfApi(), folder, "me/tuned", "model", False, "v1.0").is_new
        weights = (folder / "model.safetensors").read_bytes()
    files = hub.find("model", "me/tuned").files()
    assert {"modeling_setr.py", "photos_setr.py", "README.md"} <= set(files)
    assert weights != (staged_model / "model.safetensors").read_bytes()
