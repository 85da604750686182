"""Cards that are written to a Hub, here one on localhost."""

import json

import pytest
from huggingface_hub import ModelCard
from local_hub import TOKEN, Repository, hub_process, running_hub
from paths import SCRIPTS

from setr_hf.cards.results import BEGIN, END, eval_results, update_card
from setr_hf.errors import SetrError
from setr_hf_cli import load_script


RESULTS = eval_results({"mean_iou": 0.5}, "me/photos", "validation")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with running_hub() as hub, hub_process(cache, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN) as process:
        yield hub, process


def publish(hub, name, files):
    repository = hub.repositories["model", name] = Repository()
    repository.commit({path: text.encode() for path, text in files.items()})
    return repository


def card_of(repository):
    return ModelCard(repository.files()["README.md"].decode())


def test_results_are_added_to_a_card_on_the_hub_by_one_commit_each(hub):
    hub, process = hub
    text = f"---\nlicense: mit\n---\n\nAbove.\n\n{BEGIN}\n{END}\n\nBelow.\n"
    described = publish(hub, "me/described", {"README.md": text, "config.json": "{}"})
    bare = publish(hub, "me/bare", {"config.json": "{}"})
    for repository, name in ((described, "me/described"), (bare, "me/bare")):
        process.submit(update_card, name, RESULTS).result()
        card = card_of(repository)
        assert card.data.eval_results == RESULTS and card.data.model_name == name.removeprefix("me/")
        assert f"setr-hf evaluate --model {name} --dataset me/photos\n" in card.text
        assert name == "me/described" or card.data.pipeline_tag == "image-segmentation"
        assert [commit.title for _, commit in repository.history()] == ["Add evaluation results", "initial commit"]
        assert repository.files()["config.json"] == b"{}"
    assert card_of(described).data.license == "mit"
    assert card_of(described).text.startswith("\nAbove.") and card_of(described).text.endswith("\nBelow.\n")


def test_a_card_that_cannot_be_read_is_left_as_it_is(hub):
    hub, process = hub
    repository = publish(hub, "me/broken", {"README.md": "---\nlicense: [mit\n---\n\nText.\n"})
    with pytest.raises(SetrError, match="cannot be read"):
        process.submit(update_card, "me/broken", RESULTS).result()
    assert len(list(repository.history())) == 1


def train(*arguments):
    return load_script(SCRIPTS / "train.py").main(arguments)


def train_and_push(process, dataset, output, name, *options):
    config = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    arguments = ["--dataset", str(dataset), "--config", json.dumps(config), "--crop-size", "64", "--use-cpu"]
    arguments += ["--report-to", "none", "--output-dir", str(output), "--push-to-hub", "--hub-model-id", name]
    assert process.submit(train, *arguments, *options).result() == 0


def test_a_train_job_pushes_the_card_of_its_run(hub, scene_folder, tmp_path):
    hub, process = hub
    options = ("--max-steps", "1", "--save-strategy", "no", "--encoder", "none")
    train_and_push(process, scene_folder, tmp_path / "out", "me/run", *options)
    files = hub.repositories["model", "me/run"].files()
    card = ModelCard(files["README.md"].decode())
    scores = json.loads((tmp_path / "out/eval_results.json").read_text())
    assert card.data.eval_results[0].metric_value == round(100 * scores["eval_mean_iou"], 2)
    assert 'model="me/run", **pinned' in card.text and card.data.model_name == "run"
    assert {"architecture.png", "curves.png", "predictions.png", "modeling_setr.py"} <= set(files)
    assert str(tmp_path) not in files["README.md"].decode()


def test_a_train_job_pushes_whole_models_with_adapters_beside_them(hub, scene_folder, tmp_path):
    """From the first checkpoint on; an adapter beside the weights would be added to them once more."""
    hub, process = hub
    options = ("--max-steps", "2", "--save-steps", "1", "--lora", "2")
    train_and_push(process, scene_folder, tmp_path / "out", "me/adapted", *options)
    repository = hub.repositories["model", "me/adapted"]
    with_weights = [commit for _, commit in repository.history() if "model.safetensors" in commit.files]
    for commit in with_weights:
        assert "adapter/adapter_config.json" in commit.files and "adapter_config.json" not in commit.files
    final = (tmp_path / "out/model.safetensors").read_bytes()
    assert repository.files()["model.safetensors"] == final
