"""Cityscapes and Pascal Context as data sets: exact values, unchanged photos, nothing half-written, publishing."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from local_hub import TOKEN, Repository, running_hub
from paths import ROOT

from setr_hf.cli import run_job
from setr_hf.data.label_sets import LabelSet, write_names_file
from setr_hf.data.loading import load_segmentation_data
from setr_hf.data.public_datasets import CLASS_NAMES, PALETTES
from setr_hf.prepare import parquet
from setr_hf.prepare.pascal_context import ContextImage, decode_run_lengths, paint_masks, read_context_images
from setr_hf_cli import load_script


# Ids and names of the categories in the published trainval_merged.json.
CATEGORIES = """
2 aeroplane, 9 bag, 18 bed, 19 bedclothes, 22 bench, 23 bicycle, 25 bird, 31 boat, 33 book, 34 bottle, 44 building,
45 bus, 46 cabinet, 59 car, 65 cat, 68 ceiling, 72 chair, 80 cloth, 85 computer, 98 cow, 104 cup, 105 curtain, 113 dog,
115 door, 144 fence, 158 floor, 159 flower, 162 food, 187 grass, 189 ground, 207 horse, 220 keyboard, 232 light,
258 motorbike, 259 mountain, 260 mouse, 284 person, 295 plate, 296 platform, 308 pottedplant, 324 road, 326 rock,
347 sheep, 349 shelves, 354 sidewalk, 355 sign, 360 sky, 366 snow, 368 sofa, 397 diningtable, 415 track, 416 train,
420 tree, 424 truck, 427 tvmonitor, 440 wall, 445 water, 454 window, 458 wood
"""
IDS = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", CATEGORIES)}
# The full annotations have categories besides the 59 of the benchmark.
IDS_WITH_ANOTHER = {**IDS, "accordion": 1}


def run(*command, **environment):
    """Runs a command as a user does, in the root of the checkout; returns what it prints."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def prepare(capsys):
    """Runs the job in this process; returns what it prints, to stderr if it fails."""
    job = load_script(ROOT / "scripts/prepare.py")

    def call(*arguments, status=0):
        capsys.readouterr()
        found = run_job(lambda: job.main([str(argument) for argument in arguments]))
        printed = capsys.readouterr()
        assert found == status, printed.out + printed.err
        return printed.err if status else printed.out

    return call


def encode_run_lengths(mask):
    """COCO's compressed run lengths, as in its specification."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int)])
    lengths = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]]))
    text = ""
    for i, number in enumerate(lengths.tolist()):
        value = number - (int(lengths[i - 2]) if i > 2 else 0)
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text += chr(48 + group + 32 * more)
            if not more:
                break
    return text


def box(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def write_photo(path, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def context_annotation(number, image_id, category, mask, iscrowd=0):
    size, counts = list(mask.shape), encode_run_lengths(mask)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": IDS_WITH_ANOTHER[category],
        "segmentation": {"size": size, "counts": counts},
        "area": int(mask.sum()),
        "bbox": [0, 0, 1, 1],
        "iscrowd": iscrowd,
        "parts": [{"part_id": 7, "segmentation": {"size": size, "counts": counts}}],
    }


def context_image(image_id, phase, height, width):
    name = f"{image_id // 10**6}_{image_id % 10**6:06d}.jpg"
    fields = {"image_id": image_id, "file_name": name, "phase": phase, "height": height, "width": width}
    return {**fields, "date_captured": "31-Oct-2007"}


def context_content():
    """The content of a small trainval_merged.json, and the class values 0…59 of each image by name."""
    images = [
        context_image(2008000005, "val", 9, 6),
        context_image(2008000003, "train", 8, 10),
        context_image(2008000002, "train", 6, 7),
        context_image(2008000004, "train", 5, 5),  # It was never annotated.
        context_image(2008000006, "val", 5, 5),  # Its JPEG file is missing.
        context_image(2008000007, "test", 5, 5),
    ]
    annotations = [
        context_annotation(1, 2008000002, "wood", box(6, 7, 0, 0, 6, 7)),
        context_annotation(2, 2008000003, "sky", box(8, 10, 0, 0, 4, 10)),
        # Later masks cover earlier ones, whatever their ids; a crowd is painted as well.
        context_annotation(9, 2008000002, "aeroplane", box(6, 7, 1, 1, 5, 5)),
        context_annotation(4, 2008000002, "diningtable", box(6, 7, 3, 3, 6, 7), iscrowd=1),
        # Other categories than the 59 classes are background, even over a class.
        context_annotation(5, 2008000003, "accordion", box(8, 10, 2, 2, 6, 4)),
        context_annotation(6, 2008000005, "track", box(9, 6, 4, 0, 9, 6)),
        context_annotation(7, 2008000006, "dog", box(5, 5, 0, 0, 5, 5)),
    ]
    values = {
        "2008_000002": np.full((6, 7), 59),
        "2008_000003": np.zeros((8, 10), dtype=int),
        "2008_000005": np.zeros((9, 6), dtype=int),
    }
    values["2008_000002"][1:5, 1:5] = 1
    values["2008_000002"][3:6, 3:7] = 50
    values["2008_000003"][0:4] = 47
    values["2008_000003"][2:6, 2:4] = 0
    values["2008_000005"][4:] = 51
    categories = [
        {"category_id": number, "name": name, "supercategory": "object", "onlysemantic": 0, "parts": []}
        for name, number in IDS_WITH_ANOTHER.items()
    ]
    content = {
        "info": {"description": "This is the 3.0 version of the CVPR 2017 PASCAL in Detail dataset."},
        "images": images,
        "annos_segmentation": annotations,
        "annos_occlusion": [{"image_id": 2008000002, "ne": 1, "imsize": [6, 7], "edges": {"indices": [[1, 2]]}}],
        "annos_boundary": [{"image_id": 2008000002, "boundary_mask": annotations[0]["segmentation"]}],
        "categories": categories,
        "parts": [{"part_id": 7, "name": "wheel", "superpart": "none"}],
    }
    return content, values


@pytest.fixture
def context(tmp_path):
    """`VOC2010` and `trainval_merged.json` in a folder, with the class values of the usable images."""
    content, values = context_content()
    for image in content["images"]:
        if image["image_id"] != 2008000006:
            path = tmp_path / "VOC2010/JPEGImages" / image["file_name"]
            write_photo(path, image["height"], image["width"], image["image_id"])
    (tmp_path / "trainval_merged.json").write_text(json.dumps(content))
    return tmp_path, values


def context_arguments(folder):
    return "pascal-context", folder / "VOC2010", folder / "trainval_merged.json", folder / "prepared"


@pytest.fixture
def cityscapes(tmp_path):
    """leftImg8bit and gtFine with two images for training and one for validation, which hold every raw id."""
    raw = np.resize(np.array([*range(34), 255], dtype=np.uint8), (10, 14))
    for split, city, frame in (
        ("train", "ulm", 1),
        ("train", "aachen", 0),
        ("val", "munster", 0),
        ("test", "bonn", 0),
    ):
        stem = f"{split}/{city}/{city}_{frame:06d}_000019"
        write_photo(tmp_path / "root/leftImg8bit" / f"{stem}_leftImg8bit.png", 10, 14, frame)
        label_file = tmp_path / "root/gtFine" / f"{stem}_gtFine_labelIds.png"
        label_file.parent.mkdir(parents=True)
        PIL.Image.fromarray(np.roll(raw, frame)).save(label_file)
    return tmp_path


def train_ids(raw):
    classes = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    return np.vectorize(lambda value: classes.index(value) if value in classes else 255)(raw)


@pytest.mark.parametrize(
    ("counts", "shape", "pixels"),
    [
        ("231", (2, 3), [(0, 1), (1, 1), (0, 2)]),
        ("0<", (3, 4), list(np.ndindex(3, 4))),
        ("<", (3, 4), []),
        ("01nYS60", (400, 500), [(0, 0), (399, 499)]),
    ],
)
def test_run_lengths_that_pycocotools_encoded_decode(counts, shape, pixels):
    assert np.argwhere(decode_run_lengths(counts, *shape)).tolist() == sorted(map(list, pixels))


def test_run_lengths_of_random_masks_decode():
    generator = np.random.default_rng(0)
    for density in (0.01, 0.2, 0.5, 0.99):
        mask = generator.random((37, 53)) < density
        assert np.array_equal(decode_run_lengths(encode_run_lengths(mask), 37, 53), mask)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "malformed run lengths"),
        ("2 1", "malformed run lengths"),
        ("23P", "malformed run lengths"),
        ("233", "add up to 8 pixels instead of 2×3"),
        ("2O5", "add up to 6 pixels instead of 2×3"),
    ],
)
def test_a_damaged_mask_is_named(counts, message):
    with pytest.raises(ValueError, match=rf"2008_000002\.jpg has .*{message}"):
        paint_masks(ContextImage("2008_000002.jpg", 2, 3, [(1, counts)]))


def assert_prepared(output, expected, image_files, num_labels):
    """`load_dataset` yields the expected annotations as 8-bit PNG, and the bytes of the photos' files."""
    splits = load_dataset(str(output), cache_dir=str(output.parent / "cache"))
    assert {split: splits[split]["name"][:] for split in splits} == {
        split: list(rows) for split, rows in expected.items()
    }
    for split, rows in expected.items():
        for row, values in zip(splits[split], rows.values()):
            assert row["annotation"].format == "PNG"
            assert row["annotation"].mode == "L"
            assert np.array_equal(np.asarray(row["annotation"]), values)
            assert row["image"].size == row["annotation"].size
        table = splits[split].with_format("arrow")[:]
        stored = {image["path"].as_py(): image["bytes"].as_py() for image in table["image"]}
        assert stored == {image_files[name].name: image_files[name].read_bytes() for name in rows}
        data = load_segmentation_data(output, split)
        assert np.array_equal(data[0].label_map, next(iter(rows.values())))
        assert len(data.label_set.names) == num_labels


def test_pascal_context_with_59_classes(context, prepare):
    folder, values = context
    output = prepare(*context_arguments(folder))
    assert "trainval_merged.json lists 3 images of train, 2 usable" in output
    assert "train: 1 of 3 images left out, no masks: 2008_000004." in output
    assert "validation: 1 of 2 images left out, no JPEG file: 2008_000006." in output
    assert "train: 2 images, while the published data set has 4,996." in output
    # 80 − 40 + 4 pixels of the 122 in training are background, 6·7 − 16 − 12 + 4 are wood.
    assert re.search(r"\nignored +36\.066 ", output)
    assert re.search(r"\nwood +14\.754 ", output)
    reduced = {name: np.where(value == 0, 255, value - 1) for name, value in values.items()}
    expected = {
        "train": {name: reduced[name] for name in ("2008_000002", "2008_000003")},
        "validation": {"2008_000005": reduced["2008_000005"]},
    }
    files = {name: folder / "VOC2010/JPEGImages" / f"{name}.jpg" for name in values}
    assert_prepared(folder / "prepared", expected, files, 59)
    labels = json.loads((folder / "prepared/labels.json").read_text())
    assert list(labels["id2label"].values()) == CLASS_NAMES["pascal_context_59"]
    assert labels["ignore_index"] == 255
    assert labels["palette"] == PALETTES["pascal_context_59"]


def test_pascal_context_with_60_classes_keeps_the_background(context, prepare):
    folder, values = context
    prepare(*context_arguments(folder), "--num-classes", 60)
    expected = {
        "train": {name: values[name] for name in ("2008_000002", "2008_000003")},
        "validation": {"2008_000005": values["2008_000005"]},
    }
    files = {name: folder / "VOC2010/JPEGImages" / f"{name}.jpg" for name in values}
    assert_prepared(folder / "prepared", expected, files, 60)


def test_cityscapes(cityscapes, prepare):
    output = prepare("cityscapes", cityscapes / "root", cityscapes / "prepared")
    assert "validation: 1 images, while the published data set has 500." in output
    label_files = {path.name.split("_gt")[0]: path for path in (cityscapes / "root/gtFine").rglob("*.png")}
    ids = {stem: train_ids(np.asarray(PIL.Image.open(path))) for stem, path in label_files.items()}
    expected = {
        split: {f"{stem}_leftImg8bit": ids[stem] for stem in stems}
        for split, stems in (
            ("train", ("aachen_000000_000019", "ulm_000001_000019")),
            ("validation", ("munster_000000_000019",)),
        )
    }
    files = {path.stem: path for path in (cityscapes / "root/leftImg8bit").rglob("*.png")}
    assert_prepared(cityscapes / "prepared", expected, files, 19)


def test_the_card_names_the_source_and_what_is_missing(context, prepare):
    folder, _ = context
    prepare(*context_arguments(folder))
    card = DatasetCard.load(folder / "prepared/README.md")
    assert card.data.license == "other"
    assert card.data.dataset_info["splits"][0]["num_examples"] == 2
    assert "not ours" in card.text
    assert "no JPEG file: 2008_000006." in card.text
    assert "0 to 58" in card.text.replace("\n  ", " ")


def raw_label_file(folder):
    return folder / "root/gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"


def set_value(path, value):
    labels = np.array(PIL.Image.open(path))
    labels[3, 4] = value
    PIL.Image.fromarray(labels).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: raw_label_file(folder).unlink(), r"no annotation, the first is .*ulm_000001_000019_left"),
        (lambda folder: set_value(raw_label_file(folder), 34), r"ulm_000001_000019_gtFine_labelIds\.png .*\[34\]"),
        (
            lambda folder: PIL.Image.new("L", (14, 9)).save(raw_label_file(folder)),
            r"ulm_000001_000019_gtFine_labelIds\.png is 10×14 pixels high and wide, its annotation 9×14",
        ),
        (
            lambda folder: raw_label_file(folder).write_bytes(b"\x89PNG\r\n"),
            r"ulm_000001_000019_gtFine_labelIds\.png\) cannot be read",
        ),
        (
            lambda folder: next((folder / "root/leftImg8bit/val").rglob("*.png")).write_bytes(b"?"),
            r"munster_000000_000019_leftImg8bit\.png cannot be read",
        ),
        (lambda folder: (folder / "root/gtFine").rename(folder / "gtFine"), r"gtFine is missing"),
        (lambda folder: (folder / "root/leftImg8bit").rename(folder / "left"), r"leftImg8bit is missing"),
    ],
)
def test_an_error_names_the_file_and_leaves_nothing(cityscapes, prepare, damage, message):
    damage(cityscapes)
    before = sorted(cityscapes.rglob("*"))
    error = prepare("cityscapes", cityscapes / "root", cityscapes / "prepared", status=2)
    assert re.search(message, error)
    assert sorted(cityscapes.rglob("*")) == before


def test_what_exists_is_not_overwritten(cityscapes, prepare):
    (cityscapes / "prepared").mkdir()
    (cityscapes / "prepared/mine").touch()
    assert "exists already" in prepare("cityscapes", cityscapes / "root", cityscapes / "prepared", status=2)
    assert [path.name for path in (cityscapes / "prepared").iterdir()] == ["mine"]


def change_category(content):
    next(category for category in content["categories"] if category["name"] == "dog")["category_id"] = 114


def halve_mask(content):
    content["annos_segmentation"][0]["segmentation"]["size"] = [3, 14]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("annos_segmentation"), "it has no annos_segmentation"),
        (lambda content: content["images"][0].pop("phase"), "an entry lacks or refers to 'phase'"),
        (lambda content: content["annos_segmentation"][0].update(image_id=5), "an entry lacks or refers to 5"),
        (change_category, "an entry lacks or refers to 113"),
        (lambda content: content["categories"].pop(3), "it has no category bedclothes"),
        (halve_mask, r"a mask of 2008_000002\.jpg is not in compressed run lengths of 6×7 pixels"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, change, message):
    content, _ = context_content()
    change(content)
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"other\.json is not the trainval_merged\.json.*{message}"):
        read_context_images(path)


def test_an_incomplete_download_is_named(tmp_path):
    content, _ = context_content()
    path = tmp_path / "trainval_merged.json"
    path.write_text(json.dumps(content)[:-100])
    with pytest.raises(ValueError, match=r"trainval_merged\.json is not JSON, or its download is incomplete"):
        read_context_images(path)
    with pytest.raises(ValueError, match=r"absent\.json is not a file"):
        read_context_images(tmp_path / "absent.json")


def test_a_photo_of_another_size_than_its_masks_is_named(context, prepare):
    folder, _ = context
    write_photo(folder / "VOC2010/JPEGImages/2008_000005.jpg", 6, 9, 0)
    error = prepare(*context_arguments(folder), status=2)
    assert "2008_000005.jpg in the annotation file is 6×9 pixels high and wide, its annotation 9×6" in error
    assert sorted(path.name for path in folder.iterdir()) == ["VOC2010", "trainval_merged.json"]


def test_rows_keep_their_order_across_row_groups_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 5)
    monkeypatch.setattr(parquet, "ROW_GROUPS_PER_SHARD", 2)
    rows = [
        {"image": {"bytes": b"ab", "path": None}, "annotation": {"bytes": b"c", "path": None}, "name": str(i)}
        for i in range(9)
    ]
    parquet.write_shards(tmp_path, "train", iter(rows))
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [pq.read_table(path)["name"].to_pylist() for path in files] == [list("0123"), list("4567"), ["8"]]
    assert [pq.ParquetFile(path).num_row_groups for path in files] == [2, 2, 1]


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            encoded(PIL.Image.new("L", (4, 3), 7)),
            r"the annotation of a holds the ids \[7\], which are none of the 5 classes",
        ),
        (encoded(PIL.Image.new("L", (3, 4))), "the image of a is 3×4 pixels high and wide, its annotation 4×3"),
        (encoded(PIL.Image.new("RGB", (4, 3))), "the annotation of a is a PNG of mode RGB"),
        (encoded(PIL.Image.new("L", (4, 3)), "JPEG"), "the annotation of a is a JPEG"),
        (encoded(PIL.Image.new("L", (4, 3), 4)), "holds 1 images of train, but 2 were written"),
    ],
)
def test_verification_finds_what_is_wrong_in_the_files(tmp_path, annotation, message):
    row = {"image": encoded(PIL.Image.new("RGB", (4, 3))), "annotation": annotation, "name": "a"}
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist([row], schema=parquet.FEATURES.arrow_schema)
    pq.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    write_names_file(tmp_path / "labels.json", LabelSet.direct([*"abcde"]))
    with pytest.raises(ValueError, match=message):
        parquet.verify_split(tmp_path, "train", 2)


def test_a_prepared_data_set_is_published_and_read_from_the_hub(context, tmp_path):
    folder, values = context
    with running_hub() as hub:
        environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        environment["HF_HOME"] = str(tmp_path / "home")
        job = ("scripts/prepare.py", *context_arguments(folder), "--push-to-hub", "me/context", "--private")
        output = run(*job, **environment)
        assert hub.find("dataset", "me/context").private
        assert "as the private data set me/context" in output
        assert f"published: {hub.address}/datasets/me/context" in output
        for path in (folder / "prepared").rglob("*"):
            name = path.relative_to(folder / "prepared")
            if path.is_file():
                assert name.as_posix() in output
                assert hub.find("dataset", "me/context").files()[name.as_posix()] == path.read_bytes()
        read = "from setr_hf.data.loading import load_segmentation_data as load\n"
        read += "data = load('me/context', 'validation'); "
        read += "print(data[0].label_map.tolist(), data.label_set.id2label[58])"
        reduced = np.where(values["2008_000005"] == 0, 255, values["2008_000005"] - 1)
        assert run("-c", read, **environment) == f"{reduced.tolist()} wood\n"


@pytest.fixture
def local_hub(monkeypatch):
    """A local Hub to which this process is logged in."""
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_publishing_replaces_earlier_parquet_files(cityscapes, prepare, local_hub):
    repository = local_hub.repositories["dataset", "me/city"] = Repository()
    repository.commit({"data/train-00000-of-00002.parquet": b"old"})
    output = prepare("cityscapes", cityscapes / "root", cityscapes / "prepared", "--push-to-hub", "me/city")
    assert "do not allow passing the data on" in output
    files = [name for name in repository.files() if name.startswith("data/")]
    assert sorted(files) == ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]


def test_what_would_prevent_publishing_is_found_before_the_work(cityscapes, prepare, local_hub, monkeypatch):
    local_hub.repositories["dataset", "me/public"] = Repository()
    local_hub.repositories["dataset", "me/public"].commit({})
    arguments = ("cityscapes", cityscapes / "root", cityscapes / "prepared", "--push-to-hub")
    error = prepare(*arguments, "me/public", "--private", status=2)
    assert "me/public is on the Hub already and public" in error
    assert "Repo id" in prepare(*arguments, "a b", status=2)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "me/city cannot be published from here: Invalid user token" in prepare(*arguments, "me/city", status=2)
    assert not (cityscapes / "prepared").exists()


def test_an_upload_that_fails_leaves_the_prepared_folder_and_says_how_to_repeat_it(cityscapes, prepare, local_hub):
    local_hub.fault = (2, 403)  # The request that creates the repository.
    arguments = ("cityscapes", cityscapes / "root", cityscapes / "prepared", "--push-to-hub", "me/city")
    error = prepare(*arguments, status=2)
    assert "POST /api/repos/create" in local_hub.requests
    assert f"repeat it with `hf upload me/city {cityscapes / 'prepared'} --repo-type dataset`" in error
    assert (cityscapes / "prepared/README.md").is_file()
