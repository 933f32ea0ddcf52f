"""The checks that every layer passes, on every backend.

    CASES = {"mlp": Case(lambda **kw: Mlp(9, **kw), TOKENS), ...}

    @pytest.mark.parametrize(("name", "check"), each_check(CASES))
    def test_a_layer_keeps_its_promises(name, check, tmp_path): check(CASES[name], tmp_path)

Weights are random, zeros and ones included. On JAX a layer runs as one compiled function, which is both
what users do and much faster than operator by operator.
"""

import dataclasses
import inspect
import json
import math
import warnings
import weakref

import keras
import numpy as np
import pytest
from keras import ops
from random_weights import randomize

BACKEND = keras.backend.backend()
TOKENS = (3, 5, 8)  # [B, N, D]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(x):
    """A tensor as NumPy; half precision as float32."""
    x = ops.convert_to_tensor(x)
    name = keras.backend.standardize_dtype(x.dtype)
    return np.asarray(ops.convert_to_numpy(ops.cast(x, "float32") if "float" in name else x))


def built(layer, *inputs, seed=0):
    """`layer` with random weights, built for these inputs; all that it draws follows from `seed`."""
    if not layer.built:
        layer.build(*(x.shape for x in inputs))
    states = [v for v in layer.non_trainable_variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign([seed, i])
    return randomize(layer, seed)


def copied(source, target, *inputs):
    """`target`, built, with the weights of `source`."""
    target.build(*(x.shape for x in inputs))
    assert len(target.weights) == len(source.weights)
    target.set_weights(source.get_weights())
    return target


_programs = weakref.WeakKeyDictionary()


def run(layer, *inputs, **kwargs):
    """`layer(*inputs, **kwargs)`; on JAX compiled."""
    if BACKEND != "jax":
        return layer(*inputs, **kwargs)
    if not layer.built:
        layer.build(*(x.shape for x in inputs))
    arrays, known = _parts(kwargs)
    program = _program(layer, known, lambda state, *given: stateless(layer, state, *given, known))
    outputs, state = program([v.value for v in layer.variables], inputs, arrays)
    for variable, value in zip(layer.variables, state, strict=True):
        if not variable.trainable:
            variable.assign(value)
    return outputs


def _program(layer, key, function):
    """`function` compiled, once for each layer and key."""
    import jax

    return _programs.setdefault(layer, {}).setdefault(str(key), jax.jit(function))


def _parts(kwargs):
    """Arrays, which change from call to call, and what is part of the program: a mode, a grid, a number."""
    arrays = {
        k: v for k, v in kwargs.items() if v is not None and k in ("mask", "memory_mask", "bias", "rotary")
    }
    return arrays, {k: v for k, v in kwargs.items() if k not in arrays}


def stateless(layer, state, inputs, arrays, known):
    """(outputs, new state) as a function of the values of `layer.variables`."""
    with keras.StatelessScope(zip(layer.variables, state, strict=True)) as scope:
        outputs = layer(*inputs, **arrays, **known)
    return outputs, [scope.get_current_value(v) for v in layer.variables]


def values(layer, *inputs, **kwargs):
    """`run`, as NumPy: one array, or a list when the layer gives several."""
    outputs = keras.tree.flatten(run(layer, *inputs, **kwargs))
    return array(outputs[0]) if len(outputs) == 1 else [array(y) for y in outputs]


def gradients(layer, *inputs, where=None, **kwargs):
    """Gradients of a random linear function of the output, by each trainable variable and each float input.

    Args:
        layer: a built layer.
        inputs, kwargs: what it is called with.
        where: boolean, broadcast to the output: the part that counts.
    """
    inputs = [np.asarray(x) for x in inputs]

    def loss(outputs, where):
        total = 0.0
        for i, y in enumerate(keras.tree.flatten(outputs)):
            if keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
                y = ops.cast(y, "float32")
                y = y if where is None else ops.where(where, y, 0.0)
                total = total + ops.sum(y * noise(*y.shape, seed=90 + i))
        return total

    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = loss(layer(*tensors, **kwargs), where)
        found = tape.gradient(total, [*(v.value for v in layer.trainable_variables), *tensors])
    else:
        import jax

        arrays, known = _parts(kwargs)
        order = {id(v): i for i, v in enumerate(layer.variables)}
        which = [order[id(v)] for v in layer.trainable_variables]

        def function(trained, inputs, state, arrays, where):
            state = list(state)
            for i, value in zip(which, trained, strict=True):
                state[i] = value
            return loss(stateless(layer, state, inputs, arrays, known)[0], where)

        state = [v.value for v in layer.variables]
        program = _program(layer, ("gradients", known), jax.grad(function, (0, 1)))
        found = keras.tree.flatten(program([state[i] for i in which], inputs, state, arrays, where))
    assert all(g is not None for g in found), "a variable or an input has no gradient"
    return [array(g) for g in found]


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and how it is called.

    Attributes:
        make: (**kwargs) -> layer; the arguments are for the layer (dtype).
        shapes: of its inputs, float32; one shape or several.
        call: further arguments of the call.
        mask: name of its mask argument, None if it has none.
        masked: which inputs the mask speaks of.
        piece: what one token covers along the axes 1, 2 ... of the input: (1,) for tokens.
        real: (output, mask) -> what must not depend on masked content; the tokens that are real by default.
        tolerance: in bfloat16, relative to the largest value.
        cleans: masked content is replaced before any product: even NaN leaves the gradients as they are.
        same: what all inputs are, one array: self-attention.
        without: names of checks that do not apply.
    """

    make: object
    shapes: tuple
    call: dict = dataclasses.field(default_factory=dict)
    mask: str | None = None
    masked: tuple = (0,)
    piece: tuple = (1,)
    real: object = lambda y, mask: y[mask]
    tolerance: float = 0.04
    cleans: bool = False
    same: bool = False
    without: tuple = ()

    @property
    def inputs(self):
        shapes = (self.shapes,) if isinstance(self.shapes[0], int) else self.shapes
        return [noise(*shape, seed=0 if self.same else i) for i, shape in enumerate(shapes)]

    def layer(self, **kwargs):
        """Built, with random weights, the same each time."""
        return built(_made(self.make, str(kwargs), lambda: self.make(**kwargs)), *self.inputs)

    def grid(self, inputs):
        size = inputs[self.masked[0]].shape[1:]
        return [n // p for n, p in zip(size, self.piece, strict=False)]

    def tokens_mask(self):
        """bool [B, N]: the first example is real, the last is not, the middle has holes."""
        grid, batch = self.grid(self.inputs), self.inputs[0].shape[0]
        mask = np.random.default_rng(2).random((batch, *grid)) < 0.6
        mask[0], mask[-1] = True, False
        mask[1:-1].reshape(batch - 2, -1)[:, :2] = True, False
        return mask.reshape(batch, -1)

    def arguments(self):
        """(inputs, keyword arguments), with a mask where the layer takes one."""
        return self.inputs, {**self.call, **({self.mask: self.tokens_mask()} if self.mask else {})}

    def filled(self, inputs, mask, content):
        """The inputs with `content` where `mask` [B, N] is False."""
        cells = mask.reshape(len(mask), *self.grid(inputs))
        for axis, p in enumerate(self.piece, start=1):
            cells = np.repeat(cells, p, axis)
        changed = list(inputs)
        for i in self.masked:
            hidden = ~cells.reshape(*cells.shape, *(1,) * (inputs[i].ndim - cells.ndim))
            changed[i] = np.where(hidden, np.float32(content), inputs[i])
        return changed

    def appended(self, mask, content):
        """Inputs and mask with two more masked tokens along every axis of the grid."""
        grid, inputs = self.grid(self.inputs), self.inputs
        for i in self.masked:
            more = [(0, 0), *((0, 2 * p) for p in self.piece)]
            more += [(0, 0)] * (inputs[i].ndim - len(more))
            inputs[i] = np.pad(inputs[i], more, constant_values=content)
        cells = np.pad(mask.reshape(len(mask), *grid), [(0, 0), *((0, 2) for _ in grid)])
        return inputs, cells.reshape(len(mask), -1)


_layers = {}


def _made(make, key, new):
    """On JAX one layer for all checks, for it has its compiled programs with it."""
    if BACKEND != "jax":
        return new()
    if (make, key) not in _layers:
        _layers[make, key] = new()
    return _layers[make, key]


CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


MARKS = {"the_gradients_are_finite": pytest.mark.needs_gradients}


def each_check(cases):
    """Parameters (name, check): every check that applies to the case."""
    return [
        pytest.param(name, function, id=f"{name}-{title}", marks=MARKS.get(title, ()))
        for name, case in cases.items()
        for title, function in CHECKS.items()
        if title not in case.without and (case.mask or title != "what_is_masked_changes_nothing")
    ]


def constructor_arguments(kind):
    """Names that the constructor takes, down to the base layer's **kwargs."""
    names = {"name", "dtype", "trainable"}
    for ancestor in kind.__mro__[: kind.__mro__.index(keras.layers.Layer)]:
        if "__init__" in vars(ancestor):
            _, *parameters = inspect.signature(ancestor.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind != p.VAR_KEYWORD}
            assert parameters[-1].kind == parameters[-1].VAR_KEYWORD, (
                "name and dtype must reach the base layer"
            )
    return names


def assert_equal(given, expected, atol=None):
    given, expected = keras.tree.flatten(given), keras.tree.flatten(expected)
    for a, b in zip(given, expected, strict=True):
        if atol is None:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, atol=atol * max(1.0, np.abs(b).max(initial=0)), rtol=0)


@check
def its_config_rebuilds_it(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer = case.layer()
    config = layer.get_config()
    # Keras writes these two for a class without a constructor of its own.
    assert set(config) - {"autocast", "activity_regularizer"} == constructor_arguments(type(layer))
    # A global setting must not reach a layer that has its own.
    keras.config.set_floatx("float16")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        twin = copied(layer, type(layer).from_config(json.loads(json.dumps(config))), *inputs)
        answer = values(twin, *inputs, **kwargs)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert [(w.shape, w.dtype) for w in twin.weights] == [(w.shape, w.dtype) for w in layer.weights]
    assert twin.get_config() == config
    assert_equal(answer, values(layer, *inputs, **kwargs))
    assert any(np.abs(y).max() > 0 for y in keras.tree.flatten(answer)), "zeros show nothing"


@check
def it_can_be_saved_inside_a_model(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer = case.layer()
    symbolic = [keras.Input(x.shape[1:]) for x in inputs]
    given = (
        {**kwargs, case.mask: keras.Input(kwargs[case.mask].shape[1:], dtype="bool")} if case.mask else kwargs
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        outputs = layer(*symbolic, **given)
        model = keras.Model([*symbolic, given[case.mask]] if case.mask else symbolic, outputs)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = values(case.layer(), *inputs, **kwargs)
    assert [y.shape[1:] for y in keras.tree.flatten(outputs)] == [
        y.shape[1:] for y in keras.tree.flatten(expected)
    ]
    feed = [*inputs, kwargs[case.mask]] if case.mask else inputs
    assert_equal(values(loaded, feed), expected, atol=1e-6)


class Around(keras.Model):
    """A model of one layer that it has not called."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer


@check
def keras_can_sum_it_up_and_skips_it_when_it_quantizes(case, tmp_path):
    layer = case.layer()
    assert all(part.built for part in layer._flatten_layers())
    kind = type(layer)
    if kind.compute_output_shape is not keras.layers.Layer.compute_output_shape:
        # `summary` hands the arguments of `build` on by name.
        build, shape = (inspect.signature(f) for f in (kind.build, kind.compute_output_shape))
        assert list(build.parameters) == list(shape.parameters)
    lines, size = [], sum(math.prod(w.shape) for w in layer.weights)
    around = Around(layer)
    around.summary(print_fn=lines.append, expand_nested=True, line_length=79)
    assert f"({kind.__name__}" in "".join(lines) and f"Total params: {size:,} " in "".join(lines)
    assert layer.count_params() == size
    inputs, kwargs = case.arguments()
    before = values(layer, *inputs, **kwargs)
    around.built = True
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        around.quantize("int8")
    built(layer, *inputs)  # the same seeds again
    assert_equal(values(layer, *inputs, **kwargs), before)


@check
def half_precision_stays_close(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer = case.layer()
    exact = values(layer, *inputs, **kwargs)
    for dtype, tolerance in (("bfloat16", case.tolerance), ("float16", case.tolerance / 4)):
        half = type(layer).from_config({**layer.get_config(), "dtype": f"mixed_{dtype}"})
        answer = run(copied(layer, half, *inputs), *inputs, **kwargs)
        for y in keras.tree.flatten(answer):
            assert keras.backend.standardize_dtype(y.dtype) in (dtype, "bool")
            assert np.isfinite(array(y)).all()
        assert_equal([array(y) for y in keras.tree.flatten(answer)], exact, atol=tolerance)


@check
def the_announced_shape_is_the_shape(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer = case.layer()
    given = [tuple(y.shape) for y in keras.tree.flatten(run(layer, *inputs, **kwargs))]
    shapes = layer.compute_output_shape(*(x.shape for x in inputs))
    shapes = list(shapes) if isinstance(shapes[0], tuple) else [shapes]
    assert [tuple(shape) for shape in shapes] == given
    unknown = layer.compute_output_shape(*((None, *x.shape[1:]) for x in inputs))
    unknown = unknown[0] if isinstance(unknown[0], tuple) else unknown
    assert tuple(unknown) == (None, *given[0][1:])


@check
def what_is_masked_changes_nothing(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer, mask = case.layer(), kwargs[case.mask]
    assert 0 < mask.sum() < mask.size and mask[0].all() and not mask[-1].any()
    expected = [case.real(y, mask) for y in keras.tree.flatten(values(layer, *inputs, **kwargs))]
    assert all(y.size and np.isfinite(y).all() for y in expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for content in (7.0, np.nan, np.inf, -np.inf):
            changed = case.filled(inputs, mask, content)
            assert not all(np.array_equal(a, b) for a, b in zip(changed, inputs, strict=True))
            outputs = keras.tree.flatten(run(layer, *changed, **kwargs))
            assert_equal([case.real(array(y), mask) for y in outputs], expected, atol=1e-6)
        numbers = mask.astype("float32")  # as which masks travel through distribution strategies
        outputs = values(layer, *inputs, **{**kwargs, case.mask: numbers})
        assert_equal([case.real(y, mask) for y in keras.tree.flatten(outputs)], expected, atol=1e-6)
        longer, longer_mask = case.appended(mask, np.nan)
        outputs = values(layer, *longer, **{**kwargs, case.mask: longer_mask})
        assert_equal([case.real(y, longer_mask) for y in keras.tree.flatten(outputs)], expected, atol=1e-6)
        symbolic = [keras.Input(x.shape[1:]) for x in inputs]
        symbolic_mask = keras.Input(mask.shape[1:], dtype="bool")
        outputs = keras.tree.flatten(layer(*symbolic, **{**case.call, case.mask: symbolic_mask}))
        assert all(getattr(y, "_keras_mask", None) is None for y in outputs)


@check
def inference_is_deterministic_and_rate_0_is_inference(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer = case.layer()
    answer = values(layer, *inputs, **kwargs)
    assert_equal(values(layer, *inputs, **kwargs), answer)
    config, calm = layer.get_config(), layer
    if (still := without_chance(config)) != config:
        calm = copied(layer, type(layer).from_config(still), *inputs)
        assert_equal(values(calm, *inputs, **kwargs), answer)
    if "training" in inspect.signature(layer.call).parameters:
        assert_equal(values(calm, *inputs, **kwargs, training=True), answer, atol=1e-6)


def without_chance(config):
    """`config` with every rate set to 0."""
    calm = {k: 0.0 if k in ("rate", "ratio", "dropout", "stochastic_depth") else v for k, v in config.items()}
    if isinstance(calm.get("attention"), dict):
        calm["attention"] = without_chance(calm["attention"])
    if "remat" in calm and BACKEND == "numpy":
        calm["remat"] = False  # there is no backward pass to save memory for, says a warning
    return calm


@check
def the_gradients_are_finite(case, tmp_path):
    inputs, kwargs = case.arguments()
    layer = case.layer()
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = True
    where = None
    if case.mask:
        mask = kwargs[case.mask]
        y = values(layer, *inputs, **{k: v for k, v in kwargs.items() if k != "training"})
        chosen = case.real(np.arange(y.size).reshape(y.shape), mask)
        where = np.isin(np.arange(y.size).reshape(y.shape), chosen)
    found = gradients(layer, *inputs, where=where, **kwargs)
    assert len(found) == len(layer.trainable_variables) + len(inputs)
    assert all(np.isfinite(g).all() for g in found)
    assert any(np.abs(g).max() > 1e-3 for g in found)
    if case.cleans:  # with the same random numbers
        zero, nan = (
            gradients(case.layer(), *case.filled(inputs, mask, content), where=where, **kwargs)
            for content in (0.0, math.nan)
        )
        assert_equal(nan, zero, atol=1e-6)
