"""The public data sets that SETR was published on: class names and colours by class id, and test protocols."""

# The first name of each class in ADEChallengeData2016/objectInfo150.txt.
ADE20K_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen
door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, escalator,
ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave,
pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan,
fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
ADE20K_COLOURS = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c
ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47
ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00
1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300
ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8
001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff
a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00
ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc
2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
# The 19 training classes.
CITYSCAPES_NAMES = """
road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car,
truck, bus, train, motorcycle, bicycle
"""
CITYSCAPES_COLOURS = """
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 003c64 005064
0000e6 770b20
"""
# The raw label ids of the 19 training classes. Annotations hold 0 to 33; the evaluation server takes these ids.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_NUM_LABEL_IDS = 34
# Alphabetical, as the values in the annotations made from trainval_merged.json; other public lists are not. Value 0 is
# the background.
PASCAL_CONTEXT_59_NAMES = """
aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat, ceiling,
chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse, keyboard,
light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves, sidewalk, sign,
sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood
"""


def read_names(text: str) -> list[str]:
    return [" ".join(name.split()) for name in text.split(",")]


def read_colours(text: str) -> list[list[int]]:
    return [list(bytes.fromhex(colour)) for colour in text.split()]


CLASS_NAMES: dict[str, list[str]] = {
    "ade20k": read_names(ADE20K_NAMES),
    "cityscapes": read_names(CITYSCAPES_NAMES),
    "pascal_context": ["background", *read_names(PASCAL_CONTEXT_59_NAMES)],
    "pascal_context_59": read_names(PASCAL_CONTEXT_59_NAMES),
}

# RGB, 0 to 255, as in mmsegmentation, where Pascal Context borrows from ADE20K.
PALETTES: dict[str, list[list[int]]] = {
    "ade20k": read_colours(ADE20K_COLOURS),
    "cityscapes": read_colours(CITYSCAPES_COLOURS),
    "pascal_context": read_colours(ADE20K_COLOURS)[:60],
    "pascal_context_59": read_colours(ADE20K_COLOURS)[1:60],
}

# The test protocol of each data set in the original configurations, in pixels.
ADE20K_SIZE, CONTEXT_SIZE = {"shortest_edge": 512, "longest_edge": 2048}, {"shortest_edge": 520}
CITYSCAPES_SIZE = {"shortest_edge": 1025, "longest_edge": 2049}
PROCESSOR_SETTINGS: dict[str, dict] = {
    "ade20k": {"size": ADE20K_SIZE, "crop_size": 512, "stride": 341, "do_reduce_labels": True},
    "pascal_context": {"size": CONTEXT_SIZE, "crop_size": 480, "stride": 320, "do_reduce_labels": False},
    "pascal_context_59": {"size": CONTEXT_SIZE, "crop_size": 480, "stride": 320, "do_reduce_labels": True},
    "cityscapes": {"size": CITYSCAPES_SIZE, "crop_size": 768, "stride": 512, "do_reduce_labels": False},
}

# Ratios of the published multi-scale results, each with its mirror image.
PUBLISHED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
ADE20K_NAIVE_AND_MLA_SCALES = (0.5, 0.75, 1.0)


def protocol_scales(
    protocol: str, scales: list[float] | None, dataset: str | None, decoder_type: str
) -> tuple[float, ...] | None:
    """The ratios of the test protocol "multi", `scales` or the [`published_scales`]; `None` for "single"."""
    return None if protocol == "single" else tuple(scales or published_scales(dataset, decoder_type))


def published_scales(dataset: str | None, decoder_type: str) -> tuple[float, ...]:
    """The published multi-scale ratios for a data set as in `SetrConfig.dataset`; ADE20K's depend on the decoder."""
    if dataset == "ade20k" and decoder_type != "pup":
        return ADE20K_NAIVE_AND_MLA_SCALES
    return PUBLISHED_SCALES
