"""How these tests run on every backend that Keras has: see tests/test_backends.py."""

import os
import tempfile

# Phones' files are made by TensorFlow.
collect_ignore = [] if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" else ["test_tflite.py"]

if os.environ.get("KERAS_BACKEND") == "jax":
    # As in tests/layers/conftest.py: JAX spends its time compiling.
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
