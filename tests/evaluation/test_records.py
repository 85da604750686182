"""A record for each image: sparse confusion matrices that survive being killed."""

import json

import numpy as np
import pytest
from model_folders import NAMES, save_model
from PIL import Image

from setr_hf.data.rows import Sample
from setr_hf.errors import SetrError
from setr_hf.evaluation.comparison import check_comparison_record
from setr_hf.evaluation.records import (
    MOST_PIXELS,
    Records,
    check_sample_record,
    check_settings,
    counts_of,
    find_records,
    segment_samples,
    sum_records,
)
from setr_hf.files import append_lines
from setr_hf.inference.loading import load_model
from setr_hf.inference.segmenter import Segmenter


RECORD = {"index": 0, "name": "a", **counts_of(np.array([[2, 0], [1, 3]]))}
SECOND = {"second": counts_of(np.array([[0, 2], [0, 4]])), "agreeing_pixels": 4, "all_pixels": 6}


def find(folder, check=check_sample_record, has_annotations=True):
    return find_records(folder, ["a", "b"], lambda record: check(record, 2, has_annotations))


def test_records_sum_to_the_confusion_matrix_of_all_images_that_have_an_annotation():
    matrices = np.random.default_rng(0).integers(0, 3, (5, 4, 4))
    bare = {"cells": None, "counts": None}
    total = sum_records([bare, *map(counts_of, matrices)], 4)
    assert total.dtype == np.int64 and np.array_equal(total, matrices.sum(axis=0))
    assert len(counts_of(np.diag([1, 0, 2, 0]))["cells"]) == 2, "zeros are not stored"


def test_records_are_read_from_their_files_in_the_order_of_the_data_set(tmp_path):
    other = {**RECORD, "index": 1, "name": "b"}
    append_lines(tmp_path / "process-0.jsonl", [json.dumps(other)])
    append_lines(tmp_path / "process-1.jsonl", [json.dumps(RECORD)])
    records = Records(find(tmp_path), [])
    assert len(records) == 2 and list(records) == [RECORD, other] == list(records)


def test_two_records_of_an_image_are_an_error(tmp_path):
    append_lines(tmp_path / "process-0.jsonl", [json.dumps(RECORD)])
    append_lines(tmp_path / "process-1.jsonl", [json.dumps(RECORD)])
    with pytest.raises(SetrError, match=r"line 1 of .*process-1.jsonl: 'a' has another record"):
        find(tmp_path)


def changed(**fields):
    return json.dumps({**RECORD, **fields})


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "null",
        "[0]",
        "7",
        '{"index": 0',
        "[" * 100_000,
        "\udcff",
        json.dumps({name: RECORD[name] for name in ("index", "name", "cells")}),
        changed(index=2),
        changed(index=-1),
        changed(index=False),
        changed(index=0.0),
        changed(name="b"),
        changed(cells=None, counts=None),
        changed(cells=None),
        changed(cells=[0, 2], counts=[2, 1, 3]),
        changed(cells=[-1, 2, 3]),
        changed(cells=[0, 2, 4]),
        changed(cells=[0, 2, 2]),
        changed(cells=[0, 2, 3.0]),
        changed(cells="023"),
        changed(cells={"0": 2}),
        changed(counts=[2, 1, -3]),
        changed(counts=[2, 1, 0]),
        changed(counts=[2, 1, 3.0]),
        changed(counts=[2, 1, True]),
        changed(counts=[2, 1, "3"]),
        changed(counts=[2, 1, float("nan")]),
        changed(counts=[2, 1, MOST_PIXELS]),
        changed(counts=[2, 1, 10**30]),
        changed().replace("3]}", "1" * 5000 + "]}"),
        changed().replace("{", '{"index": 1, ', 1),
    ],
)
def test_a_record_of_another_shape_names_file_and_line(line, tmp_path):
    append_lines(tmp_path / "process-0.jsonl", [json.dumps({**RECORD, "index": 1, "name": "b"})])
    with open(tmp_path / "process-0.jsonl", "ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(SetrError, match=r"line 2 of .*process-0.jsonl is damaged: delete the file to compute"):
        find(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"second": None},
        {"second": {}},
        {"second": {"cells": [4], "counts": [1]}},
        {"agreeing_pixels": -1},
        {"agreeing_pixels": 7},
        {"agreeing_pixels": 1.5},
        {"all_pixels": 0},
        {"all_pixels": 10**30},
        {"all_pixels": None},
    ],
)
def test_records_of_a_comparison_hold_both_models(fields, tmp_path):
    good, bad = ({**RECORD, **SECOND, **more} for more in ({}, fields))
    append_lines(tmp_path / "process-0.jsonl", [json.dumps(good)])
    assert list(find(tmp_path, check_comparison_record)) == [0]
    append_lines(tmp_path / "process-1.jsonl", [json.dumps({**bad, "index": 1, "name": "b"})])
    with pytest.raises(SetrError, match=r"line 1 of .*process-1.jsonl is damaged"):
        find(tmp_path, check_comparison_record)


def test_an_image_without_annotation_has_a_record_without_counts(tmp_path):
    append_lines(tmp_path / "process-0.jsonl", [changed(cells=None, counts=None)])
    assert list(find(tmp_path, has_annotations=False)) == [0]
    append_lines(tmp_path / "process-0.jsonl", [changed(index=1, name="b")])
    with pytest.raises(SetrError, match=r"line 2 of .* counts pixels of an image that has no annotation"):
        find(tmp_path, has_annotations=False)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '"model"', '{"a": NaN}', '{"a": 1, "a": 1}', "\udcff"])
def test_damaged_settings_are_named(content, tmp_path):
    (tmp_path / "settings.json").write_text(content, errors="surrogateescape")
    message = r"settings.json (is not valid JSON|must hold a JSON object|is not text in UTF-8).*\. Delete"
    with pytest.raises(SetrError, match=message):
        check_settings(tmp_path / "settings.json", {"a": 1}, has_results=True)


def test_a_photo_that_cannot_be_segmented_is_the_only_bad_one_of_its_group(tmp_path):
    save_model(tmp_path, NAMES)
    segmenter = Segmenter(*load_model(str(tmp_path)), scales=(1.0,))
    # Its short side would become 32 pixels.
    sizes = {"a": (40, 50), "wide": (70_000, 1), "b": (50, 40)}
    samples = [Sample(name, Image.new("RGB", size), None) for name, size in sizes.items()]
    (first,), error, (third,) = segment_samples([segmenter], samples)
    assert first.shape == (50, 40) and third.shape == (40, 50)
    assert str(error).startswith("wide cannot be segmented: ")
