"""`setr-hf doctor DATASET`: every kind of source, what it prints and writes, real data, and options that are wrong."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image
from paths import SCRIPTS
from PIL import Image as PILImage

from setr_hf.cli import run_job
from setr_hf.data.label_sets import write_names_file
from setr_hf.data.scenes import make_scenes
from setr_hf.doctor.sheet import SIZE
from setr_hf.inference.pictures import LINE_HEIGHT, column_starts
from setr_hf_cli import load_script


@pytest.fixture
def main():
    return load_script(SCRIPTS / "doctor.py").main


def kinds(report):
    return {finding["kind"] for finding in report["findings"]}


def spoil(folder):
    """Five faults at once."""
    photos, masks = (sorted((folder / kind / "train").iterdir()) for kind in ("images", "annotations"))
    photos[0].write_bytes(b"no photo")
    PILImage.open(masks[1]).resize((80, 64), PILImage.NEAREST).save(masks[1])
    PILImage.open(masks[2]).convert("RGB").save(masks[2])
    PILImage.open(masks[3]).convert("F").save(masks[3], format="TIFF")
    masks[4].unlink()
    (folder / "labels.json").unlink()
    return {"corrupt_photo", "size_mismatch", "colour_mask", "mask_values", "missing_mask", "class_names"}


def test_a_photo_without_an_annotation_is_shown_as_it_is_and_may_be_annotated(main, folder, tmp_path):
    next((folder / "annotations/train").iterdir()).unlink()
    assert main([str(folder), "--output", str(tmp_path / "out")]) == 1
    (finding,) = json.loads((tmp_path / "out/report.json").read_text())["findings"]
    assert finding["kind"] == "missing_mask" and finding["advice"].startswith("annotate or remove")
    with PILImage.open(tmp_path / "out/sheet.png") as sheet:
        row = np.asarray(sheet, dtype=int)[2 * LINE_HEIGHT : 2 * LINE_HEIGHT + 288]
    photo, annotation, both = (row[:, left : left + SIZE] for left in column_starts(3, SIZE)[:3])
    assert (annotation == 255).all()
    assert abs(both - photo).mean() < 5 and photo.std() > 30  # enlarged in two ways


def test_all_of_several_faults_are_named_printed_and_shown(main, folder, tmp_path, capsys):
    faults = spoil(folder)
    assert main([str(folder), "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert kinds(report) == faults
    for finding in report["findings"]:
        assert f"{finding['kind']}: " in printed and finding["advice"] in printed
    assert "train/scene_0" in printed
    sheet = PILImage.open(tmp_path / "out/sheet.png")
    assert sheet.width > 3 * 360 and sheet.height > 8 * 200
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "sheet.png"]


def test_the_report_of_a_clean_data_set(main, doctor, clean_folder, capsys):
    assert main([str(clean_folder)]) == 0
    printed = capsys.readouterr().out
    assert "a data set" in printed and "balloon" in printed and printed.endswith("nothing is wrong\n")
    _, report = doctor(clean_folder)
    assert set(report) == {"setr_hf", "source", "kind", "seconds", "splits", "classes", "findings"}
    assert (report["kind"], report["source"]) == ("data set", str(clean_folder))
    assert report["splits"]["validation"] == {
        "samples": 6,
        "width": {"min": 160, "median": 160, "max": 160},
        "height": {"min": 128, "median": 128, "max": 128},
        "photos": {"JPEG RGB": 6},
        "annotations": {"PNG L": 6},
        "ignored": 0.0,
    }
    assert [row["name"] for row in report["classes"]] == make_scenes(1).label_set.names
    for split in ("train", "validation"):
        assert sum(row["shares"][split] for row in report["classes"]) == pytest.approx(1)
    sky = np.mean([(np.asarray(row["annotation"]) == 0).mean() for row in make_scenes(6, 104).rows])
    assert report["classes"][0]["shares"]["validation"] == pytest.approx(sky)


def test_a_finding_in_json_says_how_many_samples_and_names_the_first(doctor, folder):
    for path in (folder / "annotations").rglob("*.png"):
        path.write_bytes(b"nothing")
    status, report = doctor(folder)
    (finding,) = report["findings"]
    assert set(finding) == {"kind", "severity", "meaning", "advice", "samples", "count"}
    assert (status, finding["kind"], finding["severity"], finding["count"]) == (1, "corrupt_mask", "error", 15)
    assert len(finding["samples"]) == 10 and finding["samples"][0] == "train/scene_0"


def test_what_one_cause_explains_hides_nothing_else(doctor, folder):
    masks = sorted((folder / "annotations").rglob("*.png"))
    for path in masks:
        ids = np.asarray(PILImage.open(path)) + np.uint8(1)
        ids[:20] = 77 if path in masks[:2] else ids[:20]
        PILImage.fromarray(ids).save(path)
    _, report = doctor(folder)
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert set(found) == {"counts_from_one", "unknown_ids", "class_never"}
    assert found["unknown_ids"]["count"] == 2 and "[77]" in found["unknown_ids"]["meaning"]


def tables(change=lambda annotation: annotation):
    """The clean splits as tables, their annotations changed."""
    splits = {}
    for split, count, first_seed in (("train", 9, 0), ("validation", 6, 104)):
        rows = [{**row, "annotation": change(row["annotation"])} for row in make_scenes(count, first_seed).rows]
        splits[split] = Dataset.from_list(rows).cast_column("image", Image()).cast_column("annotation", Image())
    return DatasetDict(splits)


def add_one(annotation):
    return PILImage.fromarray(np.asarray(annotation) + 1)


@pytest.fixture
def parquet(tmp_path):
    """A function that writes a folder of parquet files."""

    def write(names=True, **options):
        folder = tmp_path / "parquet"
        for split, rows in tables(**options).items():
            (folder / "data").mkdir(parents=True, exist_ok=True)
            rows.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
        if names:
            write_names_file(folder / "labels.json", make_scenes(1).label_set)
        return folder

    return write


def test_rows_of_parquet_files_are_checked_alike(doctor, parquet, folder):
    source = parquet(change=add_one)
    status, report = doctor(source)
    assert (status, kinds(report)) == (1, {"counts_from_one", "class_never"})
    # A names file that is passed overrides the one in the folder.
    names = {"id2label": dict(enumerate(make_scenes(1).label_set.names)), "reduce_labels": True}
    (folder / "reduced.json").write_text(json.dumps(names))
    (source / "labels.json").write_text("{")
    assert doctor(source, "--labels", folder / "reduced.json")[1]["findings"] == []


def test_parquet_files_without_names_are_read_all_the_same(doctor, parquet):
    status, report = doctor(parquet(names=False))
    assert (status, kinds(report)) == (1, {"class_names"})
    assert [row["name"] for row in report["classes"]][:2] == ["value 0", "value 1"]


def test_a_damaged_parquet_file_is_a_finding(doctor, parquet):
    folder = parquet()
    (folder / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    status, report = doctor(folder)
    assert (status, kinds(report), report["splits"]) == (1, {"unreadable_split"}, {})


@pytest.mark.parametrize("is_one_split", [False, True])
def test_a_folder_of_save_to_disk_is_checked(doctor, tmp_path, is_one_split):
    saved = tables(change=add_one)
    (saved["train"] if is_one_split else saved).save_to_disk(tmp_path / "saved")
    write_names_file(tmp_path / "saved/labels.json", make_scenes(1).label_set)
    status, report = doctor(tmp_path / "saved")
    expected = {"counts_from_one", "class_never"} | ({"missing_split"} if is_one_split else set())
    assert (status, kinds(report)) == (1, expected)


def test_a_damaged_folder_of_save_to_disk_is_a_finding(doctor, tmp_path):
    tables().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/dataset_dict.json").write_text("{")
    status, report = doctor(tmp_path / "saved")
    assert (status, kinds(report), report["splits"]) == (1, {"unreadable_split"}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "nowhere.json"], "nowhere.json does not exist"),
        (["--labels", ""], "labels '' are neither a names file nor one of"),
        (["--labels", "cityscapes"], "has classes of its own"),
        (["--image-column", "photo"], "has no column 'photo'"),
        (["--annotation-column", ""], "has no column ''"),
        (["--dataset-config", "small"], "has no config 'small'"),
        (["--dataset-revision", "main"], "has no revision 'main'"),
        (["--output", "FOLDER"], "exists already"),
        (["--output", "FOLDER/labels.json"], "exists already"),
        (["--output", "x" * 3000], "File name too long"),
    ],
)
def test_options_that_are_wrong_end_in_a_line_and_change_nothing(main, folder, capsys, options, message):
    before = sorted(folder.rglob("*"))
    argv = [str(folder), *(option.replace("FOLDER", str(folder)) for option in options)]
    assert run_job(lambda: main(argv)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err.splitlines()[-1]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("source", ["", "empty", "labels.json", "x" * 3000, "a\x00b"])
def test_a_source_that_is_none_ends_in_a_line(main, folder, monkeypatch, capsys, source):
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty" if source == "" else folder)
    assert run_job(lambda: main([source])) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines()[-1].startswith("error: ")


def test_a_split_without_photos_and_one_without_samples_that_can_be_read(doctor, folder):
    for path in (folder / "images/train").iterdir():
        path.write_bytes(b"")
    for kind in ("images", "annotations"):
        shutil.rmtree(folder / kind / "val")
        (folder / kind / "val").mkdir()
    status, report = doctor(folder)
    assert (status, kinds(report)) == (1, {"corrupt_photo", "unreadable_split"})


def test_a_test_split_without_annotations_is_read_too(doctor, folder):
    shutil.copytree(folder / "images/train", folder / "images/test")
    status, report = doctor(folder)
    assert (status, kinds(report)) == (1, {"same_photo_in_splits"})
    assert report["splits"]["test"]["samples"] == 9


def test_camvid_raises_no_alarm(doctor, data_folder, tmp_path):
    """Every fourth photo; neighbours, of a video, are in both splits."""
    camvid = data_folder / "camvid"
    for kind in ("images", "annotations"):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir(parents=True)
            for path in sorted((camvid / kind / split).iterdir())[::4]:
                (tmp_path / kind / split / path.name).symlink_to(path)
    shutil.copy(camvid / "labels.json", tmp_path)
    status, report = doctor(tmp_path)
    assert (status, report["findings"]) == (0, [])
    assert sum(split["samples"] for split in report["splits"].values()) == 118


def test_the_sample_of_ade20k_raises_no_alarm(doctor, data_folder):
    status, report = doctor(data_folder / "ade20k_sample/ADEChallengeData2016")
    assert status == 0
    assert kinds(report) == {"missing_split", "class_never"}
    assert {finding["severity"] for finding in report["findings"]} == {"note"}
