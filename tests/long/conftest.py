"""Leaves the long runs to `-m long`."""


def pytest_collection_modifyitems(config, items):
    """`-m "not slow"` must not take them in."""
    if "long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
