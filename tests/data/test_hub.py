"""Data sets on a Hub on localhost: columns, classes, splits, streaming, what is refused, and life without the Hub."""

import io
import json

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from huggingface_hub import ModelCard
from local_hub import hub_process, local_hub
from paths import SCRIPTS
from PIL import Image as PILImage

from setr_hf import SetrImageProcessor
from setr_hf.data.loading import load_segmentation_data
from setr_hf.data.public_datasets import CLASS_NAMES
from setr_hf.errors import SetrError
from setr_hf_cli import load_script


PARQUET = "refs/convert/parquet"
SCENES = "zhoubolei/scene_parse_150"


def encoded(array, path, kind):
    file = io.BytesIO()
    PILImage.fromarray(array).save(file, format=kind)
    return {"bytes": file.getvalue(), "path": path}


def make_pairs(count, prefix=None, num_values=151, columns=("image", "annotation"), **more):
    """Photos of several sizes and random annotations in columns of these names; with file names if given a prefix."""
    rng = np.random.default_rng(count)
    rows = []
    for index in range(count):
        size, name = (12 + index, 20), prefix and f"{prefix}_{index:08}"
        photo, ids = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, num_values, size, np.uint8)
        pair = encoded(photo, name and f"{name}.jpg", "JPEG"), encoded(ids, name and f"{name}.png", "PNG")
        rows.append({**dict(zip(columns, pair)), **{key: f"{value}{index}" for key, value in more.items()}})
    return rows


def write(path, rows, **features):
    """Writes rows as a parquet file; columns are images unless given another feature."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {key: features.get(key, Image()) for key in rows[0]}
    Dataset.from_list(rows, features=Features(features)).to_parquet(path)


def write_scene_parse_150(root):
    """
    As on the Hub: a loading script on the main branch and a folder for each config and split on the converted one,
    and a copy with parquet on the main branch. The test split lacks annotations.
    """
    (root / SCENES).mkdir(parents=True)
    (root / SCENES / "scene_parse_150.py").write_text("raise AssertionError('not to be run')\n")
    (root / "me/old_script").mkdir(parents=True)
    (root / "me/old_script/old_script.py").touch()
    for split, count in (("train", 5), ("validation", 3), ("test", 2)):
        rows = make_pairs(count, f"ADE_{split}", scene_category="")
        if split == "test":
            rows = [{**row, "annotation": None} for row in rows]
        parts = [rows[:2], rows[2:]] if split == "train" else [rows]
        for part, content in enumerate(parts):
            category = {"scene_category": Value("string")}
            write(root / f"{SCENES}@refs_convert_parquet/scene_parsing/{split}/{part:04}.parquet", content, **category)
            name = f"{split}-{part:05}-of-{len(parts):05}.parquet"
            write(root / "merve/scene_parse_150/data" / name, content, **category)
    instances = root / f"{SCENES}@refs_convert_parquet/instance_segmentation/train/0000.parquet"
    write(instances, make_pairs(1, "instances"))


def write_full_ade20k(root):
    """Images, masks in colours for segmentation and instances, and lists of objects; once with a card that says so."""
    masks = {"segmentations": List(Image()), "instances": List(Image())}
    others = {"filename": Value("string"), "objects": List({"id": Value("int64"), "name": Value("string")})}
    row = make_pairs(1, "ADE_train")[0]
    mask = row.pop("annotation")
    row |= {
        "segmentations": [mask, mask],
        "instances": [mask],
        "filename": "1.jpg",
        "objects": [{"id": 0, "name": "door"}],
    }
    for name in ("1aurent/ADE20K", "me/full_without_card"):
        write(root / name / "data/train-00000-of-00001.parquet", [row], **masks, **others)
    columns = [{"name": "image", "dtype": "image"}, {"name": "segmentations", "list": "image"}]
    card = {"dataset_info": {"features": columns, "splits": [{"name": "train", "num_bytes": 9, "num_examples": 1}]}}
    (root / "1aurent/ADE20K/README.md").write_text(f"---\n{json.dumps(card)}\n---\n")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A process that talks to the local Hub, its requests, and its cache."""
    root, cache = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("cache")
    write_scene_parse_150(root)
    write_full_ade20k(root)
    names = {"id2label": {"0": "road", "1": "car", "2": "sky"}, "ignore_index": 7, "palette": [[9, 8, 7]] * 3}
    for split in ("train", "validation"):
        rows = make_pairs(4, num_values=3, name=f"{split}_")
        write(root / f"me/prepared/data/{split}-00000-of-00001.parquet", rows, name=Value("string"))
        masks = make_pairs(2, num_values=2, columns=("pixel_values", "mask"))
        write(root / f"me/masks/data/{split.replace('validation', 'dev')}-00000-of-00001.parquet", masks)
    (root / "me/prepared/labels.json").write_text(json.dumps(names))
    (root / "me/masks/id2label.json").write_text(json.dumps({"0": "background", "1": "tumor"}))
    write(root / "me/odd/data/train-00000-of-00001.parquet", make_pairs(1, "a", columns=("left", "right")))
    with local_hub(root, cache) as (process, requests):
        yield process, requests, cache


def read(source, split, **options):
    """What is loaded, in a form that can be sent to other processes: rows, columns, class names, lookup."""
    data = load_segmentation_data(source, split, **options)
    rows = [
        (
            row["name"],
            np.asarray(row["image"]).tolist(),
            row.get("annotation") and np.asarray(row["annotation"]).tolist(),
        )
        for row in data.rows
    ]
    return rows, sorted(data.rows.column_names), data.label_set.names, data.label_set.lookup.tolist()


def read_in(hub, *args, **options):
    return hub[0].submit(read, *args, **options).result()


@pytest.mark.parametrize("source", [SCENES, "merve/scene_parse_150"])
def test_the_benchmark_is_found_by_its_id_and_reduced_once(hub, source):
    rows, columns, names, lookup = read_in(hub, source, "train")
    assert [name for name, *_ in rows] == [f"ADE_train_{i:08}" for i in range(5)]
    assert columns == ["annotation", "image", "name"]
    assert names == CLASS_NAMES["ade20k"]
    assert (lookup[0], lookup[1], lookup[150], lookup[151], lookup[255]) == (255, 0, 149, -1, 255)
    expected = make_pairs(5, "ADE_train")[3]["annotation"]["bytes"]
    assert rows[3][2] == np.asarray(PILImage.open(io.BytesIO(expected))).tolist()


@pytest.mark.parametrize(
    "source, split",
    [
        (SCENES, "train"),
        (SCENES, "test"),
        ("merve/scene_parse_150", "val"),
        ("me/prepared", "train"),
        ("me/masks", "dev"),
    ],
)
def test_streaming_gives_the_same_rows_in_the_same_order(hub, source, split):
    assert read_in(hub, source, split, streaming=True) == read_in(hub, source, split)


def test_a_test_split_without_annotations_has_no_such_column(hub):
    rows, columns, *_ = read_in(hub, SCENES, "test")
    assert columns == ["image", "name"] and len(rows) == 2


def test_a_names_file_in_the_repository_names_the_classes(hub):
    rows, _, names, lookup = read_in(hub, "me/prepared", "validation")
    assert names == ["road", "car", "sky"] and lookup[:8] == [0, 1, 2, -1, -1, -1, -1, 255]
    assert [name for name, *_ in rows] == [f"validation_{i}" for i in range(4)]


def test_usual_columns_splits_and_an_older_names_file_are_found(hub):
    rows, _, names, lookup = read_in(hub, "me/masks", "validation")
    assert names == ["background", "tumor"] and lookup[:3] == [0, 1, -1]
    assert [name for name, *_ in rows] == ["0", "1"], "rows without a name are numbered"


def test_columns_and_labels_can_be_passed(hub):
    options = {"image_column": "left", "annotation_column": "right", "labels": "ade20k"}
    rows, _, names, _ = read_in(hub, "me/odd", "train", **options)
    assert rows[0][0] == "a_00000000" and len(names) == 150


@pytest.mark.parametrize(
    "source, split, options, message",
    [
        ("me/masks", "train", {"revision": "v9"}, "me/masks .*[Rr]evision 'v9'"),
        ("me/masks", "train", {"config": "large"}, "large"),
        ("me/old_script", "train", {"labels": "ade20k"}, f"loading script.*pass revision='{PARQUET}'"),
        (SCENES, "train", {"revision": "main"}, f"loading script.*pass revision='{PARQUET}'"),
        (SCENES, "train", {"config": "parsing", "labels": "ade20k"}, "no config 'parsing'.*scene_parsing: pass"),
        ("me/masks", "test", {}, "has no split 'test', only dev, train"),
        ("me/odd", "train", {"labels": "ade20k"}, r"pass image_column.*left \(Image\), right \(Image\)"),
        ("me/odd", "train", {"labels": "ade20k", "image_column": "middle"}, r"no column 'middle'.*left \(Image\)"),
        ("me/odd", "train", {}, "class names of me/odd are not known.*Pass labels"),
        ("me/prepared", "train", {"labels": "ade20k"}, "has classes of its own, road, car, sky"),
        ("1aurent/ADE20K", "train", {"labels": "ade20k"}, "full ADE20K.*merve/scene_parse_150"),
        ("me/full_without_card", "train", {"labels": "ade20k"}, "full ADE20K.*merve/scene_parse_150"),
    ],
)  # fmt: skip
def test_a_data_set_that_cannot_be_used_is_refused_with_the_reason(hub, source, split, options, message):
    with pytest.raises(ValueError, match=message):
        read_in(hub, source, split, **options)


def test_the_full_ade20k_is_refused_before_its_files_are_requested(hub):
    process, requests, _ = hub
    requests.clear()
    with pytest.raises(ValueError, match="full ADE20K"):
        process.submit(read, "1aurent/ADE20K", "train", labels="ade20k").result()
    assert requests and not [request for request in requests if "resolve" in request and ".parquet" in request]


@pytest.mark.parametrize("variable", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_the_hub_what_is_cached_is_read_and_the_rest_refused_at_once(hub, variable, capfd):
    sources = (SCENES, "merve/scene_parse_150", "me/prepared", "me/masks")
    expected = [read_in(hub, source, "train") for source in sources]
    with hub_process(hub[2], **variable) as process:
        assert [process.submit(read, source, "train").result() for source in sources] == expected
        for source, options in (("me/nothing", {}), (SCENES, {"config": "instance_segmentation"})):
            with pytest.raises(SetrError, match="the Hub cannot be reached"):
                process.submit(read, source, "train", **options).result()
    assert "Retry" not in capfd.readouterr().err


def test_an_unknown_data_set_is_refused_after_one_request(hub):
    process, requests, _ = hub
    requests.clear()
    with pytest.raises(SetrError, match="me/nothing is neither a folder here nor a data set"):
        process.submit(read, "me/nothing", "train").result()
    assert requests == ["GET /api/datasets/me/nothing"]


def evaluate(*arguments):
    return load_script(SCRIPTS / "evaluate.py").main(arguments)


def test_a_model_is_evaluated_on_a_data_set_of_the_hub_and_its_card_names_it(hub, tiny_model, tmp_path):
    names = ["road", "car", "sky"]
    model = tiny_model(num_labels=3, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    model.save_pretrained(tmp_path / "model")
    SetrImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--dataset", "me/prepared", "--output", str(tmp_path / "results")]
    assert hub[0].submit(evaluate, *options, "--threads", "1", "--update-card").result() == 0
    results = json.loads((tmp_path / "results/results.json").read_text())
    assert [image["name"] for image in results["images"]] == [f"validation_{i}" for i in range(4)]
    card = ModelCard.load(tmp_path / "model/README.md")
    assert {(result.dataset_type, result.dataset_split) for result in card.data.eval_results} == {
        ("me/prepared", "validation")
    }
