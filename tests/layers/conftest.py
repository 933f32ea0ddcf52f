"""How these tests run on every backend that Keras has: see tests/test_backends.py."""

import os
import tempfile

import pytest

if os.environ.get("KERAS_BACKEND") == "jax":
    # JAX compiles every function for every shape: three minutes. With neither optimisation nor the emitter
    # of fused kernels it is half of that, and a quarter when nothing has changed since the last time.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    cache = os.path.join(tempfile.gettempdir(), f"keras_vit_jax_{os.getuid()}")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_gradients: not collected on NumPy, which has no gradients")


def pytest_collection_modifyitems(config, items):
    import keras

    if keras.backend.backend() == "numpy":
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("needs_gradients")])
        items[:] = [i for i in items if not i.get_closest_marker("needs_gradients")]


@pytest.fixture(autouse=True)
def _settings_stay():
    """No test leaves a global setting behind."""
    import keras

    def settings():
        return keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format()

    before = settings()
    yield
    assert settings() == before
