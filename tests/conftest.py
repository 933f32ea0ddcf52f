"""The order of the tests: files that take minutes come first, or one of two processes would end alone."""

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


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
