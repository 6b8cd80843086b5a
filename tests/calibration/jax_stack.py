"""JAX on the CPU: each request is one jitted function, a whole layer included, so XLA fuses and keeps what it likes.

    mr3d check --backend "exec:python tests/calibration/jax_stack.py"

Products, SiLU and attention are the library's own; rotations multiply in the tier's type with tables rounded to it, as
Flax's models do. Set JAX_COMPILATION_CACHE_DIR to compile each shape only once.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from stack import Stack, serve

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class JaxStack(Stack):
    name, version, tiers = "jax", jax.__version__, ("fp64", "fp32", "bf16", "fp16")
    xp = eager = jnp
    asked = None  # all that a request's function depends on but the shapes of its arguments
    traced = {}  # functions by that and the shapes, of all conversations of a kept process: tracing one takes longer than its run

    def answer(self, request):
        request.tensors = dict(sorted(request.tensors.items()))  # a frame's reader gives them in any order
        self.asked = request.tier, request.op, json.dumps(request.config), tuple(request.tensors)
        with jax.enable_x64(request.tier == "fp64"):
            return {name: np.asarray(tensor) for name, tensor in super().answer(request).items()}

    def run(self, compute, *arguments):
        if self.asked is None:  # a trace's layer, whose points are asked for one by one
            return jax.jit(compute)(*arguments)
        leaves, structure = jax.tree.flatten(arguments)
        key = *self.asked, structure, *((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        return self.traced.setdefault(key, jax.jit(compute))(*arguments)

    def powers(self, theta, exponents):
        return jnp.exp(jnp.asarray(exponents, self.wide) * self.wide.type(math.log(theta)))

    def tables(self, positions, theta, dim):
        return tuple(self.narrow(t) for t in super().tables(positions, theta, dim))

    def turn_halves(self, x, cos, sin):
        first, second = jnp.split(x, 2, axis=-1)
        return x * cos + jnp.concatenate([-second, first], axis=-1) * sin

    def norm(self, x, weight, eps):
        h = self.widen(x)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + eps)
        return self.narrow(h) * weight

    def project(self, x, weight, bias):
        y = jnp.einsum("...i,oi->...o", x, weight)
        return y if bias is None else y + bias

    def gated(self, gate, up):
        return jax.nn.silu(gate) * up

    def attend(self, query, key, value, visible):
        if self.wide == np.float64:
            return super().attend(query, key, value, visible)  # the library's softmax is float32 whatever its inputs
        kind = self.wide if self.store == np.float16 else self.store  # the library's float16 products do not exist on CPUs
        q, k, v = (t.swapaxes(1, 2).astype(kind) for t in (query, key, value))
        y = jax.nn.dot_product_attention(q, k, v, mask=visible[:, None]).swapaxes(1, 2)
        return self.narrow(jnp.where(visible.any(-1)[:, None, :, None], y, 0))  # the library's is a mean where no key is seen


if __name__ == "__main__":
    serve(JaxStack())
