"""The public data sets that SETR was published on, as the page of a model speaks of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A public data set: its name, what results on it are filed under (its id on the Hub, if it has one), its owners'
    page and terms, the number of usable images in each split, and what a model that learned from it can be used for.
    """

    title: str
    dataset_type: str
    homepage: str
    terms: str
    num_images: dict[str, int]
    domain: str

    @property
    def hub_id(self) -> str | None:
        return self.dataset_type if "/" in self.dataset_type else None


CONTEXT_TERMS = (
    "The photographs are those of PASCAL VOC 2010 and come from Flickr; their use must respect "
    "[Flickr's terms](http://host.robots.ox.ac.uk/pascal/VOC/voc2010/#rights)."
)
CONTEXT_DOMAIN = (
    "Photographs that people put on Flickr before 2011, chosen because they show one of 20 kinds of objects: "
    "vehicles, animals, furniture and people. Other things in them are labelled, but rare."
)
CONTEXT_HOMEPAGE = "https://www.cs.stanford.edu/~roozbeh/pascal-context/"
CONTEXT_IMAGES = {"train": 4996, "validation": 5104}
# By the name in `SetrConfig.dataset`.
BENCHMARKS = {
    "ade20k": Benchmark(
        title="ADE20K",
        dataset_type="zhoubolei/scene_parse_150",
        homepage="http://sceneparsing.csail.mit.edu/",
        terms="MIT CSAIL publishes the annotations under BSD-3-Clause, does not own the photographs, and gives them "
        "for non-commercial research and education only "
        "([terms](https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/)).",
        num_images={"train": 20210, "validation": 2000},
        domain="Photographs of indoor and outdoor scenes. A few classes, such as wall, building and sky, have most of "
        "the pixels, and the rare ones are recognized far less well than the mean says.",
    ),
    "cityscapes": Benchmark(
        title="Cityscapes",
        dataset_type="cityscapes",
        homepage="https://www.cityscapes-dataset.com",
        terms="Its [terms](https://www.cityscapes-dataset.com/license/) allow non-commercial research and do not "
        "allow passing the data on.",
        num_images={"train": 2975, "validation": 500},
        domain="Streets seen from a car in cities of Germany and its neighbours, by day and in fair weather. Expect "
        "worse results at night, in rain or snow, from other viewpoints and in other parts of the world. A single "
        "figure on it does not make a model safe for driving.",
    ),
    "pascal_context": Benchmark(
        title="Pascal Context, 59 classes and the background",
        dataset_type="pascal_context",
        homepage=CONTEXT_HOMEPAGE,
        terms=CONTEXT_TERMS,
        num_images=CONTEXT_IMAGES,
        domain=CONTEXT_DOMAIN,
    ),
    "pascal_context_59": Benchmark(
        title="Pascal Context, 59 classes",
        dataset_type="pascal_context_59",
        homepage=CONTEXT_HOMEPAGE,
        terms=CONTEXT_TERMS,
        num_images=CONTEXT_IMAGES,
        domain=CONTEXT_DOMAIN,
    ),
}


def find_benchmark(dataset: str | None, split: str, num_images: int) -> Benchmark | None:
    """The public data set that a split is of: its classes are those of `dataset`, a name as in `SetrConfig`, and it
    has as many images as were published. `None` for anybody's own photos with the same classes.
    """
    benchmark = BENCHMARKS.get(dataset or "")
    return benchmark if benchmark and benchmark.num_images.get(split) == num_images else None
