"""The public checkpoints of SETR as repositories: a card for each, and the one that fits a converted file."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..cards.architecture import decoder_name
from ..cards.benchmarks import BENCHMARKS
from ..cards.model_card import PAPER, ModelFacts, difference_table, write_model_card
from ..cards.results import published_results
from ..checkpoints.convert import IMPLEMENTATIONS, ConversionReport, build_image_processor, write_converted
from ..data.label_sets import class_fields
from ..data.public_datasets import CLASS_NAMES, PALETTES, PUBLISHED_SCALES, published_scales
from ..files import read_text, whole_file, whole_folder
from ..model.configuration_setr import SetrConfig
from ..model.image_processing_setr import SetrImageProcessor
from ..text import markdown_text
from ..training.options import RunArguments, new_config
from ..training.recipes import Recipe, all_recipes


# What cards recommend to pin: the version that their code is of.
REVISION = f"v{__version__}"
ENCODERS = {"large": "ViT-Large", "base": "ViT-Base", "deit": "DeiT-Base"}
# Fields that keys and shapes of a checkpoint show.
FORM = ["decoder_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_labels", "auxiliary_out_indices"]
FORM += ["decoder_kernel_size", "decoder_num_convs", "auxiliary_num_convs", "mla_classifier_kernel_size"]
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# The folder of the cards, as seen from the page with their table.
CARDS = "../../model_cards"
BEGIN_TABLE, END_TABLE = "<!-- model zoo: `make cards` writes it -->", "<!-- end of model zoo -->"
PATCH_BIAS = """The patch embedding of these weights has a bias, as here. mmsegmentation 1.x drops it, unless its
configuration says `model.backbone.patch_bias=True`, and then computes something else
([its issue 3401](https://github.com/open-mmlab/mmsegmentation/issues/3401) measured 44.28 for the 48.24 of PUP)."""
AUGMENTED = """mmsegmentation measured several scales by its own test-time augmentation (`tools/test.py --aug-test`),
which does not enlarge small views to the size of a window. The command below does, as the original code, so that its
figure may differ."""


@dataclass(frozen=True)
class Origin:
    """Who published a checkpoint: as in "published by …", their page, and the terms."""

    publisher: str
    url: str
    license: str
    license_text: str


ORIGINS = {
    "original": Origin(
        "the authors",
        "https://github.com/fudan-zvg/SETR",
        "mit",
        "[fudan-zvg/SETR](https://github.com/fudan-zvg/SETR), which publishes them, is under the [MIT "
        "license](https://github.com/fudan-zvg/SETR/blob/main/LICENSE) and names no other for the weights.",
    ),
    "mmsegmentation": Origin(
        "mmsegmentation",
        "https://github.com/open-mmlab/mmsegmentation/tree/main/configs/setr",
        "apache-2.0",
        "[mmsegmentation](https://github.com/open-mmlab/mmsegmentation), which publishes them, is under the "
        "[Apache license 2.0](https://github.com/open-mmlab/mmsegmentation/blob/main/LICENSE) and names no other for "
        "the weights.",
    ),
}


def zoo_recipes() -> dict[str, Recipe]:
    """The recipes of the public checkpoints by name, which is also that of their repositories."""
    return {name: recipe for name, recipe in all_recipes().items() if recipe.origin in ORIGINS}


def dataset_of(recipe: Recipe) -> str:
    assert recipe.classes is not None  # Public checkpoints are of public data sets.
    return recipe.classes


def recipe_config(recipe: Recipe) -> SetrConfig:
    """The configuration of the model that a published run trains."""
    dataset = dataset_of(recipe)
    fields = class_fields(CLASS_NAMES[dataset], PALETTES[dataset], dataset)
    return new_config(Namespace(**vars(RunArguments()) | recipe.options), **fields)


def encoder_of(recipe: Recipe) -> str:
    """The encoder in a recipe's name: "large", "base" or "deit"."""
    return recipe.name.removeprefix("mmseg-").split("-")[2]


def training_rows(recipe: Recipe, config: SetrConfig) -> list[tuple[str, object]]:
    options = recipe.options
    rate, schedule, size = options["learning_rate"], options["lr_scheduler_kwargs"], options["size"]
    height, width = options["crop_size"]
    return [
        ("encoder starts from", options["encoder"]),
        ("iterations × batch", f"{options['max_steps']:,} × {options['global_batch_size']}"),
        ("optimizer", f"SGD, {options['optim_args'].replace('=', ' ')}, weight decay {options['weight_decay']:g}"),
        ("learning rate", f"{rate:g}, and {rate * options['head_learning_rate_ratio']:g} for the heads"),
        ("schedule", f"poly, power {schedule['power']:g}, down to {schedule['min_lr']:g}"),
        ("scale", f"{options['min_scale']:g} to {options['max_scale']:g} of {' × '.join(map(str, size))}"),
        ("crop", f"{height} × {width}, no class in more than {options['category_max_ratio']:.0%}"),
        ("augmentation", "mirror images, photometric distortion"),
        ("loss", "cross-entropy, averaged over all pixels, ignored ones too"),
        ("auxiliary heads", f"loss weight {config.auxiliary_loss_weight:g} each"),
    ]


def namesake(recipe: Recipe) -> Recipe:
    """The other implementation's run with the same decoder, if there is one also on the same data, as long."""

    def likeness(other: Recipe) -> tuple[bool, ...]:
        return other.classes == recipe.classes, other.name.split("-")[-1] == recipe.name.split("-")[-1]

    decoder = recipe.options["config"]["decoder_type"]
    others = (other for other in zoo_recipes().values() if other.origin != recipe.origin)
    same = (other for other in others if other.options["config"]["decoder_type"] == decoder)
    return max((other for other in same if encoder_of(other) == "large"), key=likeness)


def differences(recipe: Recipe, config: SetrConfig) -> str:
    """How a public network differs from the other implementation's of the same name."""
    other = namesake(recipe)
    fields = {name: value for name, value in other.options["config"].items() if name not in SIZES}
    if encoder_of(recipe) != "large":
        # The other implementation has no such encoder, and so no layers that its auxiliary heads would read.
        fields.pop("auxiliary_out_indices", None)
    sizes = {name: getattr(config, name) for name in SIZES}
    table = difference_table(config, SetrConfig(**fields, **sizes), ("this network", f"that of `{other.name}`"))
    whose = ORIGINS[str(other.origin)]
    owner = "The authors train" if other.origin == "original" else "mmsegmentation trains"
    text = f"""{owner} another network under the name SETR-{decoder_name(config)} ([code]({whose.url}),
[the authors' list of differences](https://github.com/open-mmlab/mmsegmentation/issues/721)):

{table}

Weights of one do not fit the other, or compute something else there; `setr-hf convert` tells them apart by keys and
shapes."""
    return text if recipe.origin == "original" else f"{text}\n\n{PATCH_BIAS}"


def public_facts(recipe: Recipe) -> ModelFacts:
    """What is known of a public checkpoint, for the card of its repository, which is named as the recipe is."""
    dataset, config, origin = dataset_of(recipe), recipe_config(recipe), ORIGINS[str(recipe.origin)]
    benchmark = BENCHMARKS[dataset]
    is_original = recipe.origin == "original"
    scales = {
        "single_scale": None,
        "multi_scale": published_scales(dataset, config.decoder_type) if is_original else PUBLISHED_SCALES,
    }
    results = [
        result
        for protocol, mean_iou in recipe.published.items()
        for result in published_results(mean_iou, benchmark, scales[protocol], origin.publisher, origin.url)
    ]
    who = "The authors of the paper" if is_original else "The authors of mmsegmentation"
    return ModelFacts(
        repository=recipe.name,
        revision=REVISION,
        introduction=f"SETR-{decoder_name(config)} with a {ENCODERS[encoder_of(recipe)]} encoder, from {PAPER}. "
        f"{who} trained it on [{benchmark.title}]({benchmark.homepage}) and [published the weights]({origin.url}); "
        "`setr-hf convert` made them into a model of 🤗 Transformers with the same logits.",
        license=origin.license,
        license_text=f"{origin.license_text} The encoder started from [{recipe.options['encoder']}]"
        f"(https://huggingface.co/{recipe.options['encoder']}), which is under Apache-2.0.",
        base_model=recipe.options["encoder"],
        benchmark=benchmark,
        tags=[dataset],
        training=training_rows(recipe, config),
        training_text=f"`setr-hf train --recipe {recipe.name} --dataset DATA` trains it again by this recipe.",
        results=results,
        results_text=AUGMENTED if not is_original and "multi_scale" in recipe.published else "",
        differences=differences(recipe, config),
    )


def zoo_table() -> str:
    """The public checkpoints as a table of Markdown, with links to their cards."""
    lines = ["| model | encoder | data set | mIoU | multi-scale |", "| --- | --- | --- | --- | --- |"]
    for name, recipe in zoo_recipes().items():
        scores = [recipe.published.get(protocol) for protocol in ("single_scale", "multi_scale")]
        cells = ["" if score is None else f"{score:.2f}" for score in scores]
        title = BENCHMARKS[dataset_of(recipe)].title.split(",")[0]
        link = f"[{name}]({CARDS}/{name}/README.md)"
        lines.append(f"| {' | '.join([link, ENCODERS[encoder_of(recipe)], title, *cells])} |")
    return "\n".join(lines)


def write_zoo(folder: Path, page: Path) -> None:
    """Writes the card of each public checkpoint into `folder/name`, and their table into its place in a page."""
    for name, recipe in zoo_recipes().items():
        config = recipe_config(recipe)
        write_model_card(folder / name, public_facts(recipe), config, build_image_processor(config))
    before, rest = read_text(page).split(BEGIN_TABLE)
    after = rest.split(END_TABLE)[1]
    with whole_file(page) as unfinished:
        unfinished.write_text(f"{before}{BEGIN_TABLE}\n{zoo_table()}\n{END_TABLE}{after}", encoding="utf-8")


def published_stem(recipe: Recipe) -> str:
    """How the name of a public checkpoint's file begins, but for upper and lower case."""
    options, dataset = recipe.options, dataset_of(recipe)
    decoder, side = options["config"]["decoder_type"], options["crop_size"][0]
    iterations, batch = f"{options['max_steps'] // 1000}k", options["global_batch_size"]
    if recipe.origin == "original":
        encoder = {"large": "", "base": "_Base", "deit": "_DeiT"}[encoder_of(recipe)]
        return f"SETR_{decoder}{encoder}_{side}x{side}_{iterations}_{dataset}_bs_{batch}"
    if dataset == "cityscapes":
        return f"setr_{decoder}_vit-large_8x1_{side}x{side}_{iterations}_{dataset}"
    return f"setr_{decoder}_{side}x{side}_{iterations}_b{batch}_{dataset}"


def recognize(checkpoint: Path, output: Path, report: ConversionReport) -> Recipe | None:
    """The public checkpoint that was converted: it has this form, and the file has its public name or the folder that
    of its repository. Anybody's own checkpoint may have the form.
    """
    form = [getattr(report.config, name) for name in FORM]
    for recipe in zoo_recipes().values():
        implementation = "original" if recipe.origin == "original" else "mmseg"
        stem = published_stem(recipe).lower()
        is_named = output.name == recipe.name or f"{checkpoint.stem.lower()}_".startswith(f"{stem}_")
        if is_named and implementation == report.implementation:
            config = recipe_config(recipe)
            if [getattr(config, name) for name in FORM] == form:
                return recipe
    return None


def converted_facts(checkpoint: Path, output: Path, report: ConversionReport) -> ModelFacts:
    """What is known of a converted checkpoint: all of a public one, or what its file shows."""
    if recipe := recognize(checkpoint, output, report):
        return public_facts(recipe)
    return ModelFacts(
        repository=output.name,
        introduction=f"SETR-{decoder_name(report.config)}, from {PAPER}, converted by `setr-hf convert` from "
        f"{markdown_text(checkpoint.name)}, a checkpoint in the form of {IMPLEMENTATIONS[report.implementation]}. Who "
        "trained it, on what and how, the file does not say.",
        license_text="not known; see where the checkpoint comes from.",
    )


def convert_with_card(
    checkpoint: str | Path, output_dir: str | Path, dataset: str | None = None, overrides: dict | None = None
) -> tuple[ConversionReport, ModelFacts]:
    """As [`convert_checkpoint`], with the card of the public checkpoint that it is, or one of what its file shows.
    Returns the report and what the card says.
    """
    output = Path(output_dir)
    with whole_folder(output) as folder:
        report = write_converted(folder, checkpoint, dataset, overrides)
        facts = converted_facts(Path(checkpoint), output.resolve(), report)
        write_model_card(folder, facts, report.config, SetrImageProcessor.from_pretrained(folder))
    return report, facts
