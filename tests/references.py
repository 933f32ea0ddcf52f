"""The layers again, in NumPy float64, by loops where that is clearer; weights come from a built layer."""

import itertools

import numpy as np
from harness import array
from scipy.special import erf

from keras_vit.layers import SwiGlu


def weights_of(layer):
    """{"query/kernel": float64 array, ...}: names below the layer's own."""
    return {v.path.rsplit(f"{layer.name}/", 1)[1]: array(v).astype("float64") for v in layer.weights}


def norm(layer, x):
    w = weights_of(layer)
    x = x - x.mean(-1, keepdims=True) if layer.centre else x
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + layer.epsilon)
    return x * w.get("scale", 1.0) + w.get("shift", 0.0)


def mlp(layer, x):
    w = weights_of(layer)
    hidden = x @ w["expand/kernel"] + w["expand/bias"]
    if isinstance(layer, SwiGlu):
        gate = x @ w["gate/kernel"] + w["gate/bias"]
        hidden = gate / (1 + np.exp(-gate)) * hidden
    elif layer.approximate:
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    else:
        hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
    return hidden @ w["contract/kernel"] + w["contract/bias"]


def turned(vector, cos, sin):
    """Rotary positions as complex numbers: channel j and j + d / 4 of each half are one of them."""
    pairs, angles = vector.reshape(2, 2, -1), (cos + 1j * sin).reshape(2, 2, -1)[:, 0]
    z = (pairs[:, 0] + 1j * pairs[:, 1]) * angles
    return np.stack([z.real, z.imag], axis=1).reshape(-1)


def attention(layer, queries, tokens, mask=None, bias=None, rotary=None):
    """(output, weights), by the docstring of `Attention` and one query at a time."""
    w = weights_of(layer)
    (b, m, width), n, num_heads = queries.shape, tokens.shape[1], layer.num_heads
    d = width // num_heads

    def project(x, name):
        x = x.astype("float64") @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)
        x = x.reshape(*x.shape[:2], num_heads, d)
        return norm(getattr(layer, f"{name}_norm"), x) if layer.qk_norm and name != "value" else x

    q, k, v = project(queries, "query"), project(tokens, "key"), project(tokens, "value")
    output, weights = np.zeros((b, m, width)), np.zeros((b, num_heads, m, n))
    seen = np.ones((b, m, n), bool)
    if mask is not None:
        seen = seen & (mask[:, None] if mask.ndim == 2 else mask)
    for i, j in itertools.product(range(b), range(m)):
        context, visible = np.zeros((num_heads, d)), np.flatnonzero(seen[i, j])
        if not len(visible):
            continue
        for h in range(num_heads):
            scores = np.zeros(n)
            for key in visible:
                one, two = q[i, j, h], k[i, key, h]
                if rotary is not None:
                    one, two = (
                        turned(x, *(table[at] for table in rotary)) for x, at in ((one, j), (two, key))
                    )
                scores[key] = one @ two / (np.sqrt(d) if layer.fixed_scale is None else 1 / layer.fixed_scale)
                if bias is not None:
                    scores[key] += (bias if bias.ndim == 3 else bias[i])[h, j, key]
            chosen = visible
            if layer.attention_type == "hard":
                chosen = sorted(visible, key=lambda key: -scores[key])[: layer.top_k]
            if layer.attention_type == "relu":
                weights[i, h, j, chosen] = np.maximum(scores[chosen], 0.0) / len(visible)
            else:
                e = np.exp(scores[chosen] - scores[chosen].max())
                weights[i, h, j, chosen] = e / e.sum()
            context[h] = weights[i, h, j] @ v[i, :, h]
        output[i, j] = context.reshape(width) @ w["output/kernel"] + w["output/bias"]
    return output, weights
