"""A model with one logit from training to the pipeline, and as a second reading of its logits says."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSemanticSegmentation, pipeline

from setr_hf import SetrForSemanticSegmentation, SetrImageProcessor, segment
from setr_hf.model.modeling_setr import SetrSemanticSegmenterOutput


@pytest.fixture
def processor():
    return SetrImageProcessor(do_split_image=True, size={"shortest_edge": 64}, crop_size=64, stride=43)


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8))


@pytest.mark.parametrize("decoder_type", ["naive", "pup", "mla"])
def test_it_learns_by_the_binary_cross_entropy_of_each_head(tiny_model, decoder_type):
    model = tiny_model(decoder_type=decoder_type, num_labels=1)
    labels = torch.randint(0, 2, (2, 64, 64)).masked_fill(torch.rand(2, 64, 64) < 0.2, 255)
    outputs = model(torch.randn(2, 3, 64, 64), labels=labels)
    assert outputs.logits.shape[1] == 1

    def expected(logits):
        resized = F.interpolate(logits, size=(64, 64), mode="bilinear")[:, 0]
        return F.binary_cross_entropy_with_logits(resized[labels != 255], labels[labels != 255].float())

    auxiliary = sum(expected(logits) for logits in outputs.auxiliary_logits)
    torch.testing.assert_close(outputs.loss, expected(outputs.logits) + 0.4 * auxiliary, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"the ids \[2\], but the model has the classes 0 to 1"):
        model(torch.randn(2, 3, 64, 64), labels=labels.masked_fill(labels == 1, 2))


@pytest.mark.parametrize(("threshold", "level"), [(0.5, 0.0), (0.9, np.log(9)), (0, -np.inf), (1, np.inf)])
def test_pixels_above_the_threshold_are_foreground(threshold, level):
    logits = torch.randn(2, 1, 8, 9) * 3
    processor = SetrImageProcessor(threshold=threshold)
    resized = F.interpolate(logits, size=(40, 30), mode="bilinear")[:, 0]
    outputs = SetrSemanticSegmenterOutput(logits=logits)
    label_maps = processor.post_process_semantic_segmentation(outputs, [(40, 30)] * 2)
    assert torch.equal(torch.stack(label_maps), (resized > level).long())
    with_scores = processor.post_process_semantic_segmentation(outputs, [(40, 30)] * 2, True)[0]
    torch.testing.assert_close(with_scores["segmentation_scores"], resized[:1])


def test_several_scales_average_the_probability_of_the_foreground(tiny_model, processor, photo):
    """That of two classes, background with the logit 0: the second reading is a model of two classes."""
    binary = tiny_model(num_labels=1, auxiliary_out_indices=[])
    double = tiny_model(num_labels=2, auxiliary_out_indices=[])
    classifier = binary.decode_head.classifier
    double.load_state_dict({name: w for name, w in binary.state_dict().items() if "classifier" not in name}, False)
    double.decode_head.classifier.weight.data = torch.cat([torch.zeros_like(classifier.weight), classifier.weight])
    double.decode_head.classifier.bias.data = torch.cat([torch.zeros_like(classifier.bias), classifier.bias])
    for scales in (None, (0.5, 1.0, 1.5)):
        label_map = segment(binary.eval(), processor, [photo], scales)[0]
        assert label_map.unique().tolist() == [0, 1]
        assert torch.equal(label_map, segment(double.eval(), processor, [photo], scales)[0])
    processor.threshold = 1
    assert not segment(binary, processor, [photo], (0.5, 1.0))[0].any()


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "half", None, True])
def test_a_threshold_that_is_not_a_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be a probability from 0 to 1"):
        SetrImageProcessor(threshold=threshold)


def test_the_pipeline_gives_the_mask_of_the_foreground_under_its_name(tiny_model, processor, photo, tmp_path):
    model = tiny_model(num_labels=1, id2label={0: "crack"})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert (loaded.config.num_labels, loaded.config.id2label) == (1, {0: "background", 1: "crack"})
    assert AutoConfig.from_pretrained(tmp_path).num_labels == 1
    masks = {mask["label"]: np.array(mask["mask"]) for mask in pipeline("image-segmentation", str(tmp_path))(photo)}
    label_map = segment(model, processor, [photo])[0].numpy()
    assert set(masks) == {"background", "crack"}
    assert np.array_equal(masks["crack"], label_map.astype(np.uint8) * 255)


def test_classifiers_become_binary_and_back(tiny_model):
    model = tiny_model(semantic_loss={"cross_entropy": 1.0}, semantic_loss_class_weights=[1.0] * 5)
    model.reset_classifiers(id2label={0: "crack"})
    assert (model.num_labels, model.config.id2label) == (1, {0: "background", 1: "crack"})
    assert model.config.semantic_loss == {"binary_cross_entropy": 1.0}
    assert model.config.semantic_loss_class_weights is None
    model.reset_classifiers(id2label={0: "no", 1: "yes"})
    assert (model.num_labels, model.config.id2label) == (1, {0: "no", 1: "yes"})
    model.reset_classifiers(id2label={0: "no", 1: "yes"}, is_binary=False)
    assert model.num_labels == model.decode_head.classifier.out_channels == 2
    model.reset_classifiers(id2label={0: "a", 1: "b"}, is_binary=True)
    model.reset_classifiers(id2label={0: "a", 1: "b", 2: "c"})
    assert (model.num_labels, model.config.semantic_loss) == (3, {"cross_entropy": 1.0})
    model(torch.randn(1, 3, 32, 32), labels=torch.zeros(1, 32, 32, dtype=torch.long)).loss.backward()


def test_several_classes_become_binary_on_loading(tiny_model, tmp_path):
    tiny_model(num_labels=5, palette=[[0, 0, 0]] * 5).save_pretrained(tmp_path)
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path, num_labels=1, ignore_mismatched_sizes=True)
    assert (model.config.num_labels, model.config.palette) == (1, None)
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape[1] == 1
    options = {"id2label": {0: "crack"}, "ignore_mismatched_sizes": True}
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path, **options)
    assert (model.config.num_labels, model.config.id2label) == (1, {0: "background", 1: "crack"})
    outputs = model(torch.zeros(1, 3, 32, 32), labels=torch.ones(1, 32, 32, dtype=torch.long))
    assert outputs.logits.shape[1] == 1 and outputs.loss.isfinite()
