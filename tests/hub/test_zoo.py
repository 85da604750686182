"""The public checkpoints: their cards, the table of them in the docs, and which of them a converted file is."""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id
from paths import ROOT, SCRIPTS
from PIL import Image

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor
from setr_hf.cards.architecture import architecture_figure, architecture_text
from setr_hf.cards.model_card import model_card
from setr_hf.cards.pictures import save_figure
from setr_hf.checkpoints.convert import build_image_processor
from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.hub.zoo import REVISION, public_facts, published_stem, recipe_config, zoo_recipes, zoo_table
from setr_hf_cli import load_script


CARDS = ROOT / "model_cards"
# Mean IoU on the validation split, single scale and, where it was published, several scales with mirror images.
PUBLISHED = {
    "setr-naive-large-ade20k-b16": [48.06, 48.80],
    "setr-pup-large-ade20k-b16": [48.62, 50.09],
    "setr-pup-deit-ade20k-b16": [46.34, 47.30],
    "setr-mla-large-ade20k-b8": [47.79, 50.03],
    "setr-mla-large-ade20k-b16": [48.64, 50.28],
    "setr-mla-deit-ade20k-b16": [46.15, 47.71],
    "setr-naive-large-pascal-context-b16": [52.89, 53.61],
    "setr-pup-large-pascal-context-b16": [54.37, 55.27],
    "setr-pup-deit-pascal-context-b16": [52.00, 52.50],
    "setr-mla-large-pascal-context-b8": [54.39, 55.39],
    "setr-mla-large-pascal-context-b16": [55.01, 55.83],
    "setr-mla-deit-pascal-context-b16": [52.91, 53.74],
    "setr-naive-large-cityscapes-40k": [77.37],
    "setr-naive-large-cityscapes-80k": [77.90],
    "setr-naive-base-cityscapes-40k": [75.54],
    "setr-naive-base-cityscapes-80k": [76.25],
    "setr-naive-deit-cityscapes-40k": [77.85],
    "setr-naive-deit-cityscapes-80k": [78.66],
    "setr-pup-large-cityscapes-40k": [78.39],
    "setr-pup-large-cityscapes-80k": [79.34],
    "setr-pup-deit-cityscapes-40k": [78.79],
    "setr-pup-deit-cityscapes-80k": [79.45],
    "setr-mla-large-cityscapes-40k": [76.65],
    "setr-mla-large-cityscapes-80k": [77.24],
    "setr-mla-deit-cityscapes-40k": [78.04],
    "setr-mla-deit-cityscapes-80k": [78.98],
    "mmseg-setr-naive-large-ade20k-b16": [48.28, 49.56],
    "mmseg-setr-pup-large-ade20k-b16": [48.24, 49.99],
    "mmseg-setr-mla-large-ade20k-b8": [47.34, 49.05],
    "mmseg-setr-mla-large-ade20k-b16": [47.39, 49.37],
    "mmseg-setr-naive-large-cityscapes-80k": [78.10, 80.22],
    "mmseg-setr-pup-large-cityscapes-80k": [79.21, 81.02],
    "mmseg-setr-mla-large-cityscapes-80k": [77.00, 79.59],
}
THREE, SIX = "scales 0.5, 0.75, 1", "scales 0.5, 0.75, 1, 1.25, 1.5, 1.75"
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def read_card(name):
    return ModelCard.load(CARDS / name / "README.md")


def test_there_is_a_card_for_each_public_checkpoint_and_no_other():
    assert sorted(zoo_recipes()) == sorted(PUBLISHED)
    assert sorted(path.name for path in CARDS.iterdir() if path.is_dir()) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_card_is_the_generated_one_and_holds_the_published_figures(name):
    recipe, card = zoo_recipes()[name], read_card(name)
    config = recipe_config(recipe)
    expected = model_card(public_facts(recipe), config, build_image_processor(config))
    assert (CARDS / name / "README.md").read_text(encoding="utf-8") == str(expected), "`make cards` writes it anew"
    publisher = "mmsegmentation" if name.startswith("mmseg") else "the authors"
    several = THREE if "ade20k" in name and publisher == "the authors" and "pup" not in name else SIX
    protocols = ["single scale", f"{several} with mirror images"]
    results = card.data.eval_results
    assert [(result.metric_name, result.metric_value) for result in results] == [
        (f"mean IoU (%), {protocol}, published by {publisher}", value)
        for protocol, value in zip(protocols, PUBLISHED[name])
    ]
    assert {(result.task_type, result.metric_type, result.dataset_split) for result in results} == {
        ("image-segmentation", "mean_iou", "validation")
    }
    for value in PUBLISHED[name]:
        assert f"| {value:.2f} | [published by {publisher}](https://github.com/" in card.text


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_metadata_of_each_card_is_what_the_hub_takes(name):
    data = read_card(name).data
    validate_repo_id(name)
    validate_repo_id(data.base_model)
    # As the Hub's model-index is read and written.
    index = eval_results_to_model_index(data.model_name, data.eval_results)
    assert model_index_to_eval_results(index) == (name, data.eval_results)
    assert data.to_dict() == ModelCard(f"---\n{data.to_yaml()}\n---\n").data.to_dict()
    assert data.library_name == "transformers" and data.pipeline_tag == "image-segmentation"
    assert data.license == ("apache-2.0" if name.startswith("mmseg") else "mit")
    assert data.base_model_relation == "finetune" and data.metrics == ["mean_iou"]
    assert data.datasets == (["zhoubolei/scene_parse_150"] if "ade20k" in name else None)
    assert {"setr", "semantic-segmentation", "vision", "custom_code"} < set(data.tags)
    assert all(set(example) == {"src", "example_title"} for example in data.widget)


def test_the_pictures_show_the_networks(tmp_path):
    for name, recipe in zoo_recipes().items():
        config, path = recipe_config(recipe), CARDS / name / "architecture.png"
        text = architecture_text(config)
        with Image.open(path) as picture:
            assert picture.text["Description"] == text and path.stat().st_size <= 60_000
            committed = picture.convert("RGB")
        if name.endswith("large-ade20k-b16"):
            save_figure(architecture_figure(config), tmp_path / "drawn.png", text)
            with Image.open(tmp_path / "drawn.png") as picture:
                drawn = picture.convert("RGB")
            assert drawn.size == committed.size
            # Other versions of matplotlib draw letters differently, by parts of a pixel.
            pair = [np.asarray(picture.reduce(8)).astype(int) for picture in (drawn, committed)]
            assert np.abs(pair[0] - pair[1]).mean() < 2


def test_the_page_of_the_zoo_holds_the_table_of_all():
    page = ROOT / "docs/reference/model-zoo.md"
    assert zoo_table() in page.read_text(), "`make cards` writes it anew"
    rows = re.findall(r"^\| \[([a-z0-9-]+)\]\((.*?)\) \| .* \| (.*?) \| (.*?) \|$", zoo_table(), re.MULTILINE)
    assert {row[0]: [float(score) for score in row[2:] if score] for row in rows} == PUBLISHED
    assert all((page.parent / row[1]).is_file() for row in rows)


def shape_of(code, name):
    """A card's code without what differs between cards of one decoder."""
    return re.sub(r'"(height|width)": \d+', r'"\1": 64', code.replace(name, "NAME"))


def test_all_cards_hold_the_same_code():
    codes = {name: CODE.findall(read_card(name).text) for name in PUBLISHED}
    assert len({tuple(shape_of(block, name) for block in blocks) for name, blocks in codes.items()}) == 1
    blocks = codes["setr-mla-large-ade20k-b16"]
    assert len(blocks) == 5
    for block in blocks:
        statements = [node for node in ast.parse(block).body if not isinstance(node, ast.Import | ast.ImportFrom)]
        assert len(statements) <= 9 and f'revision="{REVISION}"' in block


@pytest.fixture
def users_folder(tmp_path):
    """A folder with what the code of the cards reads: `photo.jpg`, and photos and annotations of two classes."""
    for kind, mode, suffix in (("images", "RGB", "jpg"), ("annotations", "L", "png")):
        for split in ("train", "val"):
            (tmp_path / "mine" / kind / split).mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng(index).integers(0, 2, (48, 64), dtype=np.uint8)
                picture = Image.fromarray(pixels if mode == "L" else 255 * pixels).convert(mode)
                picture.save(tmp_path / "mine" / kind / split / f"{index}.{suffix}")
    (tmp_path / "mine/labels.json").write_text('{"id2label": {"0": "background", "1": "object"}}')
    Image.new("RGB", (80, 60), "green").save(tmp_path / "photo.jpg")
    return tmp_path


@pytest.mark.parametrize("is_installed", [False, True], ids=["by remote code", "with the package"])
def test_the_code_of_the_cards_runs(is_installed, tiny_model, users_folder):
    """On a small model of each decoder, in a folder of the repository's name."""
    program = (
        "" if is_installed else "import sys\nfor name in ('setr_hf', 'datasets', 'cv2'): sys.modules[name] = None\n"
    )
    for decoder in ("naive", "pup", "mla"):
        name = f"setr-{decoder}-large-ade20k-b16"
        config = recipe_config(zoo_recipes()[name])
        classes = {"id2label": config.id2label, "label2id": config.label2id, "num_labels": 150}
        tiny_model(decoder_type=decoder, **classes).save_pretrained(users_folder / name)
        SetrImageProcessor(do_split_image=True, size=64, crop_size=64, stride=43).save_pretrained(users_folder / name)
        blocks = [block for block in CODE.findall(read_card(name).text) if ("setr_hf" in block) == is_installed]
        assert len(blocks) == (2 if is_installed else 3)
        # What a block leaves behind is not there for the next one.
        quick = [block.replace("max_steps=2000", "max_steps=1").replace(": 512", ": 64") for block in blocks]
        program += "".join(f"exec({block!r}, {{}})\n" for block in quick)
    result = subprocess.run([sys.executable, "-c", program], cwd=users_folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (users_folder / "outputs/mine/checkpoint-1").exists() != is_installed


def test_the_train_command_of_the_cards_runs(tiny_model, users_folder, monkeypatch):
    name = "setr-mla-large-ade20k-b16"
    config = recipe_config(zoo_recipes()[name])
    model = tiny_model(id2label=config.id2label, label2id=config.label2id, num_labels=150)
    model.save_pretrained(users_folder / name)
    build_image_processor(config).save_pretrained(users_folder / name)
    command = re.search(r"```bash\nsetr-hf train (.*?)```", read_card(name).text, re.DOTALL)[1]
    sizes = ["--crop-size", "64", "--stride", "43", "--size", "64", "--per-device-train-batch-size", "1"]
    monkeypatch.chdir(users_folder)
    words = command.replace("\\\n", "").replace("2000", "1").split()
    assert load_script(SCRIPTS / "train.py").main([*words, *sizes, "--use-cpu", "--report-to", "none"]) == 0
    assert (users_folder / "outputs/mine/model.safetensors").exists()


def test_the_cards_cite_the_paper_as_the_package_does():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    entry = " ".join(read_card("setr-mla-large-ade20k-b16").text.split("```bibtex")[1].split())
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"author = {{{authors}}}" in entry and f"title = {{{paper['title']}}}" in entry
    assert f"pages = {{{paper['start']}--{paper['end']}}}, year = {{{paper['year']}}}" in entry


def test_the_published_names_of_files_tell_all_checkpoints_apart():
    stems = [published_stem(recipe).lower() for recipe in zoo_recipes().values()]
    assert len(set(stems)) == len(stems) == 33
    names = ["SETR_Naive_Base_768x768_40k_cityscapes_bs_8", "SETR_MLA_480x480_80k_pascal_context_bs_16"]
    names += ["setr_mla_512x512_160k_b16_ade20k", "setr_pup_vit-large_8x1_768x768_80k_cityscapes"]
    assert {name.lower() for name in names} <= set(stems)


CONVERTED = [
    ("setr_naive_512x512_160k_b16_ade20k_20210619_191258-061f24f5.pth", "mine", "mmseg-setr-naive-large-ade20k-b16"),
    ("iter_1.pth", "mmseg-setr-naive-large-ade20k-b16", "mmseg-setr-naive-large-ade20k-b16"),
    ("iter_1.pth", "mine|<b>", None),
    # The names of others, whose form is not that of this file.
    ("SETR_Naive_512x512_160k_ade20k_bs_16.pth", "setr-mla-large-ade20k-b16", None),
]


@pytest.mark.parametrize(("file", "folder", "expected"), CONVERTED)
def test_a_converted_checkpoint_has_the_card_that_fits_it(file, folder, expected, tmp_path, monkeypatch):
    recipe = zoo_recipes()["mmseg-setr-naive-large-ade20k-b16"]
    small = {"hidden_size": 64, "num_hidden_layers": 20, "num_attention_heads": 1, "intermediate_size": 64}
    monkeypatch.setitem(recipe.options, "config", recipe.options["config"] | small)
    monkeypatch.chdir(tmp_path)
    model = SetrForSemanticSegmentation(recipe_config(recipe))
    model.save_pretrained("ours")
    write_public_checkpoint("ours", file, "mmseg")
    assert load_script(SCRIPTS / "convert.py").main([file, folder, "--dataset", "ade20k"]) == 0
    card = ModelCard.load(tmp_path / folder / "README.md")
    assert (tmp_path / folder / "architecture.png").exists()
    if expected is None:
        assert card.data.eval_results is None and card.data.license is None and card.data.base_model is None
        assert card.text.startswith(f"\n# {folder.replace('|<b>', chr(92) + '|&lt;b&gt;')}\n")
        assert "Who trained it, on what and how, the file does not say." in card.text
    else:
        assert card.data.model_name == expected and card.data.license == "apache-2.0"
        assert [result.metric_value for result in card.data.eval_results] == PUBLISHED[expected]
    assert CLASS_NAMES["ade20k"][0] in card.text
