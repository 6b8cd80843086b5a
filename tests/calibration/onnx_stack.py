"""ONNX Runtime on the CPU: each request becomes one graph, a whole layer included, which the runtime optimises and fuses.

    mr3d check --backend "exec:python tests/calibration/onnx_stack.py"

The formulas of stack.py run on `Node`s, which write the graph instead of computing. Coordinates are normalised before, by
numpy. Where the runtime has no float16 kernel it inserts casts to float32 and back by itself.
"""

import itertools
import math
import os
from functools import partial, partialmethod

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from stack import Stack, serve

TYPES = {np.dtype("float16"): TensorProto.FLOAT16, np.dtype("float32"): TensorProto.FLOAT,
         np.dtype("int64"): TensorProto.INT64, np.dtype("bool"): TensorProto.BOOL, np.dtype("float64"): TensorProto.DOUBLE}


class Graph:
    def __init__(self):
        self.nodes, self.constants, self.inputs, self.values = [], [], [], {}
        self.names = (f"t{n}" for n in itertools.count())

    def node(self, op: str, inputs: list, shape, dtype, **attributes) -> "Node":
        name = next(self.names)
        self.nodes.append(helper.make_node(op, [self.use(x, inputs).text for x in inputs], [name], **attributes))
        return Node(self, name, tuple(shape), np.dtype(dtype))

    def use(self, x, others) -> "Node":
        """A number takes the type of the node beside it."""
        if isinstance(x, Node):
            return x
        if np.isscalar(x):
            x = np.array(x, next(o.dtype for o in others if isinstance(o, Node) and o.dtype != bool))
        return self.constant(np.asarray(x))

    def constant(self, array: np.ndarray) -> "Node":
        name = next(self.names)
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return Node(self, name, array.shape, array.dtype)

    def input(self, array: np.ndarray) -> "Node":
        name = next(self.names)
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[array.dtype], array.shape))
        self.values[name] = array
        return Node(self, name, array.shape, array.dtype)

    def run(self, outputs: dict) -> dict:
        described = [helper.make_tensor_value_info(o.text, TYPES[o.dtype], o.shape) for o in outputs.values()]
        graph = helper.make_graph(self.nodes, "request", self.inputs, described, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(outputs, session.run([o.text for o in outputs.values()], self.values)))


class Node:
    """A tensor of the graph, with as much of numpy's manners as the formulas need."""

    __array_ufunc__ = None  # so that an array on the left leaves the operation to the node

    def __init__(self, graph: Graph, text: str, shape: tuple, dtype: np.dtype):
        self.graph, self.text, self.shape, self.dtype, self.ndim = graph, text, shape, dtype, len(shape)

    def unary(self, op: str, **attributes):
        return self.graph.node(op, [self], self.shape, self.dtype, **attributes)

    def binary(self, other, op: str, swapped=False):
        shape = np.broadcast_shapes(self.shape, getattr(other, "shape", ()))
        return self.graph.node(op, [other, self] if swapped else [self, other], shape, self.dtype)

    __add__, __radd__ = partialmethod(binary, op="Add"), partialmethod(binary, op="Add", swapped=True)
    __sub__, __rsub__ = partialmethod(binary, op="Sub"), partialmethod(binary, op="Sub", swapped=True)
    __mul__, __rmul__ = partialmethod(binary, op="Mul"), partialmethod(binary, op="Mul", swapped=True)
    __truediv__, __rtruediv__ = partialmethod(binary, op="Div"), partialmethod(binary, op="Div", swapped=True)
    __neg__ = partialmethod(unary, "Neg")

    def __matmul__(self, other):
        shape = (*np.broadcast_shapes(self.shape[:-2], other.shape[:-2]), self.shape[-2], other.shape[-1])
        return self.graph.node("MatMul", [self, other], shape, self.dtype)

    def __getitem__(self, key):
        x, axis = self, 0
        key = key if isinstance(key, tuple) else (key,)
        if Ellipsis in [k for k in key if k is None or isinstance(k, (int, slice, type(Ellipsis)))]:
            i = [k is Ellipsis for k in key].index(True)
            key = key[:i] + (slice(None),) * (self.ndim - sum(k is not None for k in key) + 1) + key[i + 1:]
        for k in key:
            if k is None:
                x = x.reshape(*x.shape[:axis], 1, *x.shape[axis:])
                axis += 1
            elif isinstance(k, (int, np.integer)):
                x = x.take(np.array([k]), axis)
                x = x.reshape(*x.shape[:axis], *x.shape[axis + 1:])
            else:
                if not (isinstance(k, slice) and k == slice(None)):
                    x = x.take(np.arange(x.shape[axis])[k], axis)
                axis += 1
        return x

    def take(self, index: np.ndarray, axis: int):
        shape = (*self.shape[:axis], len(index), *self.shape[axis + 1:])
        return self.graph.node("Gather", [self, np.asarray(index, np.int64)], shape, self.dtype, axis=axis)

    def reshape(self, *shape):
        size = math.prod(self.shape)
        shape = [size // -math.prod(shape) if n == -1 else n for n in shape]
        return self.graph.node("Reshape", [self, np.array(shape, np.int64)], shape, self.dtype, allowzero=1)

    def swapaxes(self, a: int, b: int):
        order = list(range(self.ndim))
        order[a], order[b] = b, a
        return self.graph.node("Transpose", [self], [self.shape[i] for i in order], self.dtype, perm=order)

    def astype(self, dtype):
        return self if self.dtype == dtype else self.graph.node("Cast", [self], self.shape, dtype, to=TYPES[np.dtype(dtype)])


class Namespace:
    cos, sin, sqrt = (staticmethod(partial(Node.unary, op=op)) for op in ("Cos", "Sin", "Sqrt"))

    @staticmethod
    def concatenate(parts, axis):
        shape = list(parts[0].shape)
        shape[axis] = sum(p.shape[axis] for p in parts)
        return parts[0].graph.node("Concat", parts, shape, parts[0].dtype, axis=axis % len(shape))

    @staticmethod
    def stack(parts, axis):
        return Namespace.concatenate([p[..., None] for p in parts], axis)

    @staticmethod
    def where(condition, a, b):
        shape = np.broadcast_shapes(*(t.shape for t in (condition, a, b) if isinstance(t, Node)))
        return condition.graph.node("Where", [condition, a, b], shape, a.dtype)

    @staticmethod
    def repeat(x, times, axis):
        return x.take(np.repeat(np.arange(x.shape[axis]), times), axis)


class OnnxStack(Stack):
    name, version, tiers = "onnxruntime", onnxruntime.__version__, ("fp64", "fp32", "fp16")
    xp = Namespace

    def ops(self):
        return [op for op in super().ops() if op not in ("normalize_coords", "voxelize")]  # no arithmetic of the runtime's

    def run(self, compute, *arguments):
        graph = Graph()

        def feed(x):
            if isinstance(x, (list, tuple)):
                return [feed(y) for y in x]
            return None if x is None else graph.input(np.ascontiguousarray(x).reshape(x.shape))
        return graph.run(compute(*feed(arguments)))

    def tables(self, positions, theta, dim):
        angles = self.widen(positions)[..., None] * self.powers(theta, [-2 * j / dim for j in range(dim // 2)])
        return self.narrow(self.xp.cos(angles)), self.narrow(self.xp.sin(angles))

    def turn_halves(self, x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + self.xp.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin

    def norm(self, x, weight, eps):
        """The pattern that the runtime fuses to SimplifiedLayerNormalization."""
        h = self.widen(x)
        graph = h.graph
        mean = graph.node("ReduceMean", [graph.node("Pow", [h, 2.0], h.shape, h.dtype), np.array([-1])], (*h.shape[:-1], 1),
                          h.dtype, keepdims=1)
        return weight * self.narrow(h / self.xp.sqrt(mean + eps))

    def project(self, x, weight, bias):
        y = x @ weight.swapaxes(0, 1)
        return y if bias is None else y + bias

    def gated(self, gate, up):
        return gate * gate.unary("Sigmoid") * up

    def attend(self, query, key, value, visible):
        times = query.shape[1] // key.shape[1]
        key, value = (self.xp.repeat(t, times, axis=1) for t in (key, value))
        query = query / math.sqrt(query.shape[-1])  # before the product: float16 scores would overflow
        scores = self.widen(query @ key.swapaxes(2, 3))
        seen = visible[:, None]
        weights = self.xp.where(seen, self.xp.where(seen, scores, np.finfo(self.wide).min).unary("Softmax", axis=-1), 0.0)
        return self.narrow(weights) @ value


if __name__ == "__main__":
    serve(OnnxStack())
