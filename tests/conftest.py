"""Which tests run, and in what order.

Those marked `slow`, which take minutes together, run with --slow only (`make test-all`): each shows once
more, in another way, what quicker tests show. Files that take long come first, or one of two processes would
end alone. Every file starts with the same seed: initial weights that no test chose are the same each time.
"""

import pytest

SLOWEST = (
    "test_backends.py",
    "test_cli.py",
    "test_replicas.py",
    "test_multimodal.py",
    "test_convert.py",
    "test_web.py",
    "test_trainer.py",
    "test_sharding.py",
)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--no-skips", action="store_true", help="a test that would be skipped fails")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: runs with --slow only")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome, report.longrepr = "failed", f"skipped, and --no-skips was given: {report.longrepr[2]}"
    return report


@pytest.fixture(autouse=True, scope="module")
def seed():
    import keras  # not above: conftest.py of the layers sets what JAX reads when it is imported

    keras.utils.set_random_seed(0)
