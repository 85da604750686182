"""`setr_hf.metrics`: exact counts, absent classes, ignored pixels, and several processes."""

import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import setr_hf.metrics
from setr_hf.metrics import MeanIou, confusion_matrix, segmentation_scores


METRIC_FOLDER = Path(setr_hf.metrics.__file__).parent


def brute_force_scores(predictions, references, num_labels, ignore_index):
    """IoU, accuracy and Dice of each class from sets of pixels, one class at a time."""
    predicted = [set() for _ in range(num_labels)]
    labelled = [set() for _ in range(num_labels)]
    for number, (prediction, reference) in enumerate(zip(predictions, references)):
        for position, label in np.ndenumerate(reference):
            if label != ignore_index:
                labelled[label].add((number, *position))
                predicted[prediction[position]].add((number, *position))
    nan = float("nan")
    iou = [len(p & t) / len(p | t) if p | t else nan for p, t in zip(predicted, labelled)]
    accuracy = [len(p & t) / len(t) if t else nan for p, t in zip(predicted, labelled)]
    dice = [2 * len(p & t) / (len(p) + len(t)) if p | t else nan for p, t in zip(predicted, labelled)]
    return iou, accuracy, dice


@st.composite
def label_maps(draw):
    """A few images of differing sizes; few classes, so that some are absent, and many ignored pixels."""
    num_labels = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4))
    present = draw(st.lists(st.integers(0, num_labels - 1), min_size=1, max_size=num_labels, unique=True))
    predictions = [rng.integers(0, num_labels, size) for size in sizes]
    references = [rng.choice([*present, 255], size) for size in sizes]
    return num_labels, predictions, references


@settings(max_examples=200, deadline=None)
@given(label_maps())
def test_scores_equal_those_from_sets_of_pixels(case):
    num_labels, predictions, references = case
    metric = MeanIou(num_labels=num_labels)
    metric.add_batch(predictions=predictions, references=references)
    scores = metric.compute()
    iou, accuracy, dice = brute_force_scores(predictions, references, num_labels, 255)
    np.testing.assert_allclose(scores["per_category_iou"], iou, rtol=1e-15)
    np.testing.assert_allclose(scores["per_category_accuracy"], accuracy, rtol=1e-15)
    np.testing.assert_allclose(scores["per_category_dice"], dice, rtol=1e-15)
    assert scores["absent_classes"] == [i for i in range(num_labels) if np.isnan(iou[i])]
    present = [value for value in iou if not np.isnan(value)]
    np.testing.assert_allclose(scores["mean_iou"], np.mean(present) if present else np.nan, rtol=1e-12)


def test_known_scores_of_a_small_image():
    prediction = [[0, 0, 1, 1], [0, 2, 2, 1]]
    reference = [[0, 1, 1, 1], [0, 0, 2, 255]]
    scores = segmentation_scores(confusion_matrix(prediction, reference, num_labels=3))
    assert scores["per_category_iou"].tolist() == [2 / 4, 2 / 3, 1 / 2]
    assert scores["per_category_accuracy"].tolist() == [2 / 3, 2 / 3, 1.0]
    assert scores["per_category_dice"].tolist() == [4 / 6, 4 / 5, 2 / 3]
    assert scores["overall_accuracy"] == 5 / 7
    assert scores["frequency_weighted_iou"] == pytest.approx((3 * 2 / 4 + 3 * 2 / 3 + 1 * 1 / 2) / 7)
    assert scores["num_pixels"] == 7


def test_an_absent_class_is_nan_left_out_of_the_mean_and_listed():
    scores = segmentation_scores(confusion_matrix([[0, 1]], [[0, 0]], num_labels=3))
    assert np.isnan(scores["per_category_iou"][2])
    assert scores["absent_classes"] == [2] and scores["num_absent_classes"] == 1
    # Class 1 is predicted and nowhere labelled: that is an IoU of 0, and no accuracy.
    assert scores["per_category_iou"][:2].tolist() == [0.5, 0.0]
    assert scores["unlabelled_classes"] == [1, 2]
    assert scores["mean_iou"] == 0.25
    assert scores["mean_accuracy"] == 0.5


@pytest.mark.filterwarnings("error")
def test_if_all_pixels_are_ignored_scores_are_nan():
    scores = segmentation_scores(confusion_matrix([[0, 1]], [[255, 255]], num_labels=2))
    assert np.isnan([scores["mean_iou"], scores["overall_accuracy"], scores["frequency_weighted_iou"]]).all()
    assert scores["absent_classes"] == [0, 1] and scores["num_pixels"] == 0


def test_references_are_reduced_once_and_the_result_says_so():
    metric = MeanIou(num_labels=150, reduce_labels=True)
    metric.add(prediction=[[0, 149, 3, 3]], reference=[[1, 150, 0, 255]])
    scores = metric.compute()
    assert scores["num_pixels"] == 2 and scores["overall_accuracy"] == 1.0
    assert scores["reduce_labels"] is True and scores["ignore_index"] == 255


def test_memory_is_constant_and_batching_does_not_matter():
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 4, size), rng.integers(0, 4, size)) for size in [(7, 5), (1, 9), (4, 4)] * 4]
    by_one, by_five = MeanIou(num_labels=4), MeanIou(num_labels=4)
    for prediction, reference in images:
        by_one.add(prediction=prediction, reference=reference)
    for start in range(0, 12, 5):
        batch = images[start : start + 5]
        by_five.add_batch(predictions=[image[0] for image in batch], references=[image[1] for image in batch])
    assert by_one.matrix.shape == (4, 4) and by_one.matrix.dtype == np.int64
    assert np.array_equal(by_one.matrix, by_five.matrix)
    assert len(by_one) == len(by_five) == 12
    assert by_one.compute()["mean_iou"] == by_five.compute()["mean_iou"]
    assert len(by_one) == 0


def test_counts_stay_exact_at_a_trillion_pixels():
    metric = MeanIou(num_labels=2)
    metric.merge(np.array([[10**12, 1], [0, 3]]))
    metric.add(prediction=[[0]], reference=[[0]])
    assert metric.matrix.tolist() == [[10**12 + 1, 1], [0, 3]]
    scores = metric.compute()
    assert scores["num_pixels"] == 10**12 + 5
    assert scores["per_category_iou"][0] == (10**12 + 1) / (10**12 + 2)


def test_evaluate_loads_the_folder():
    predictions, references = [np.array([[0, 1]]), np.array([[1], [1]])], [np.array([[0, 0]]), np.array([[1], [255]])]
    metric = evaluate.load(str(METRIC_FOLDER), num_labels=2)
    metric.add_batch(predictions=predictions, references=references)
    assert metric.compute()["mean_iou"] == 0.5
    # The settings may also come with the images, as with evaluate's own mean_iou.
    metric = evaluate.load(str(METRIC_FOLDER))
    scores = metric.compute(predictions=predictions, references=references, num_labels=2, ignore_index=255)
    assert scores["mean_iou"] == 0.5


def test_published_files_need_nothing_of_this_package(tmp_path):
    space = tmp_path / "streaming_mean_iou"
    space.mkdir()
    for file, published in (("metrics.py", "streaming_mean_iou.py"), ("confusion.py", "confusion.py")):
        (space / published).write_bytes((METRIC_FOLDER / file).read_bytes())
    code = (
        "import sys, evaluate\n"
        f"metric = evaluate.load({str(space)!r}, num_labels=2)\n"
        "metric.add(prediction=[[0, 1]], reference=[[0, 1]])\n"
        "assert metric.compute()['mean_iou'] == 1.0 and 'setr_hf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list, lambda x: Image.fromarray(np.array(x, np.uint8))])
def test_takes_tensors_arrays_lists_and_images(kind):
    matrix = confusion_matrix(kind([[0, 1], [1, 1]]), kind([[0, 1], [0, 255]]), num_labels=2)
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_wrong_input_is_named():
    metric = MeanIou(num_labels=3)
    metric.add(prediction=[[0]], reference=[[0]])
    with pytest.raises(ValueError, match=r"image 1: the reference holds the ids \[3\].*reduce_labels"):
        metric.add(prediction=[[0]], reference=[[3]])
    with pytest.raises(ValueError, match=r"image 1: the prediction holds the ids \[255\]"):
        metric.add(prediction=[[255]], reference=[[0]])
    with pytest.raises(ValueError, match=r"shape \(1, 2\), its reference \(2, 1\)"):
        metric.add(prediction=[[0, 0]], reference=[[0], [0]])
    with pytest.raises(ValueError, match="take the argmax first"):
        metric.add(prediction=np.zeros((3, 1, 1), np.float32), reference=[[0]])
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        metric.add_batch(predictions=[[[0]], [[0]]], references=[[[0]]])
    with pytest.raises(ValueError, match=r"must be given to evaluate\.load"):
        metric.compute(reduce_labels=True)
    with pytest.raises(ValueError, match=r"unknown settings \['nan_to_num'\]"):
        metric.compute(nan_to_num=0)
    assert metric.compute()["num_pixels"] == 1, "a refused image must not be counted"
    with pytest.raises(ValueError, match="no image was added"):
        metric.compute()
    with pytest.raises(ValueError, match="num_labels is not known"):
        MeanIou().add(prediction=[[0]], reference=[[0]])


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
def test_processes_join_by_summing_their_matrices(tmp_path):
    code = (
        "import numpy as np, torch, torch.distributed as dist\n"
        "from setr_hf.metrics import MeanIou\n"
        "dist.init_process_group('gloo')\n"
        "metric = MeanIou(num_labels=3)\n"
        "rng = np.random.default_rng(0)\n"
        "maps = [rng.integers(0, 3, (5, 4 + i)) for i in range(11)]\n"
        "for image in maps[dist.get_rank()::dist.get_world_size()]:\n"
        "    metric.add(prediction=image, reference=image[::-1])\n"
        "total = torch.from_numpy(metric.matrix)\n"
        "dist.all_reduce(total)\n"
        "joined, alone = MeanIou(num_labels=3), MeanIou(num_labels=3)\n"
        "joined.merge(total)\n"
        "alone.add_batch(predictions=maps, references=[image[::-1] for image in maps])\n"
        "assert (joined.matrix == alone.matrix).all() and joined.matrix.sum() == sum(image.size for image in maps)\n"
        "dist.destroy_process_group()\n"
    )
    script = tmp_path / "count.py"
    script.write_text(code)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3", str(script)]
    subprocess.run([sys.executable, *command], check=True)
