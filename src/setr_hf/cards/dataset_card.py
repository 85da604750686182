"""Cards of prepared data sets: the YAML that `load_dataset` and the Hub read, and where the images come from."""

from dataclasses import dataclass, replace

from datasets import DatasetInfo, Features, SplitDict
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.label_sets import LabelSet
from ..text import markdown_text


@dataclass(frozen=True)
class Source:
    """A public data set that `setr-hf prepare` can prepare: its name and number of classes, its owners' page, what the
    Hub calls their terms, where these are and what they say of the images, what class ids were made from, and the
    published number of usable images in each split.
    """

    title: str
    homepage: str
    license_name: str
    license_link: str
    terms: str
    labels: str
    num_images: dict[str, int]


CITYSCAPES = Source(
    title="Cityscapes, 19 training classes",
    homepage="https://www.cityscapes-dataset.com",
    license_name="cityscapes",
    license_link="https://www.cityscapes-dataset.com/license/",
    terms="The terms of Cityscapes allow non-commercial research and do not allow passing the data on: keep the "
    "repository private.",
    labels="The `labelIds` of gtFine became the 19 train ids of the Cityscapes scripts, and every other id 255.",
    num_images={"train": 2975, "validation": 500},
)
PASCAL_CONTEXT_60 = Source(
    title="Pascal Context, 59 classes and the background",
    homepage="https://www.cs.stanford.edu/~roozbeh/pascal-context/",
    license_name="flickr-terms-of-use",
    license_link="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/#rights",
    terms="The photographs of PASCAL VOC 2010 come from Flickr; their use must respect Flickr's terms, and the "
    "rights stay with the photographers.",
    labels="The masks of `trainval_merged.json` (Detail API) were painted over each other in the file's order; the "
    "classes are in alphabetical order, and the background is class 0.",
    num_images={"train": 4996, "validation": 5104},
)
LABELS_59 = PASCAL_CONTEXT_60.labels.replace("class 0", "255")
PASCAL_CONTEXT_59 = replace(PASCAL_CONTEXT_60, title="Pascal Context, 59 classes", labels=LABELS_59)
PASCAL_CONTEXT = {59: PASCAL_CONTEXT_59, 60: PASCAL_CONTEXT_60}
# The Hub's `size_categories`, as far as the data sets above need them.
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}


def card_data(source: Source, splits: SplitDict, features: Features) -> DatasetCardData:
    """The YAML header: the files of each split, columns, numbers of rows, licence."""
    data = DatasetCardData(
        pretty_name=source.title,
        license="other",
        license_name=source.license_name,
        license_link=source.license_link,
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        size_categories=next(name for limit, name in SIZE_CATEGORIES.items() if splits.total_num_examples < limit),
        configs=[
            {"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*"} for split in splits]}
        ],
    )
    DatasetInfosDict({"default": DatasetInfo(features=features, splits=splits)}).to_dataset_card_data(data)
    return data


def dataset_card(
    source: Source, label_set: LabelSet, splits: SplitDict, features: Features, notes: list
) -> DatasetCard:
    """The card of a data set prepared from `source`; `notes` are sentences on this copy, such as what was left out."""
    counts = "\n".join(f"| {info.name} | {info.num_examples:,} |" for info in splits.values())
    remarks = "".join(f"\n- {markdown_text(note)}" for note in notes)
    text = f"""# {source.title}

[{source.title.split(",")[0]}]({source.homepage}) as parquet files that `load_dataset` reads.

| split | images |
| --- | --- |
{counts}

## Columns

- `image`: the image files as their owners publish them, byte for byte.
- `annotation`: 8-bit grayscale PNG of the image's size. Pixel values are class ids from 0 to
  {len(label_set.id2label) - 1}; 255 is ignored.
- `name`: the image's file name without its suffix.

`labels.json` holds the class names, the ignored id and the colours.

## How it was made

By `setr-hf prepare`, which checked every image and annotation. {source.labels}
{remarks}

## Terms

The images and annotations are not ours, and this copy does not change who owns them: see
[the terms]({source.license_link}). {source.terms}
"""
    return DatasetCard(f"---\n{card_data(source, splits, features).to_yaml()}\n---\n\n{text}")
