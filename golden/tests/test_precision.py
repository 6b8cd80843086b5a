"""float64 means float64: values that the library's casts to float32 would round, one for each cast, then all together."""

import math
import unittest
from decimal import Decimal, getcontext

import numpy as np
import torch
from support import Random, assert_close, config, layer_tensors
from test_operators import rotated_point, rotated_text
from mixedrope3d import operators
from mixedrope3d.answer import Server
from mixedrope3d.configuration import MixedRope3DConfig, Options
from mixedrope3d.modeling import MixedRope3DAttention, MixedRope3DRMSNorm, MixedRope3DRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding

getcontext().prec = 60


def model_config(true_precision: bool) -> MixedRope3DConfig:
    return MixedRope3DConfig(true_precision=true_precision, **config(attn_implementation="eager"))


class EachCast(unittest.TestCase):
    """`.double()` models: the library's own module rounds, ours with `true_precision` does not, without it does as well."""

    def modules(self, module_class, *arguments):
        return [module_class(model_config(flag), *arguments).double() for flag in (True, False)]

    def test_norm(self):
        x = torch.tensor([1 + k * 2.0**-40 for k in range(48)], dtype=torch.float64)
        mean = sum(Decimal(v) ** 2 for v in x.tolist()) / 48
        exact = [Decimal(v) / (mean + Decimal(1e-6)).sqrt() for v in x.tolist()]
        errors = []
        for norm in (*self.modules(MixedRope3DRMSNorm), Qwen2RMSNorm(48, eps=1e-6).double()):
            errors.append(max(abs(Decimal(y) - e) for y, e in zip(norm(x).tolist(), exact)))
        self.assertLess(errors[0], Decimal("4e-16"))
        self.assertGreater(errors[1], Decimal("1e-8"))
        self.assertEqual(errors[1], errors[2])

    def test_tables(self):
        positions = torch.tensor([[1, 786, 4095, 32767]])
        x = torch.zeros(1, dtype=torch.float64)
        exact = [[math.cos(p * 1e6 ** (-2 * (j % 8) / 16)) for j in range(16)] for p in positions[0].tolist()]
        exact = torch.tensor([exact], dtype=torch.float64)
        errors = []
        for embedding in self.modules(MixedRope3DRotaryEmbedding):
            errors.append((embedding(x, positions).cos - exact).abs().max().item())
        library = Qwen2RotaryEmbedding(config=model_config(False)).double()(x, positions)[0]
        self.assertLess(errors[0], 1e-15)
        self.assertGreater(errors[1], 1e-5)
        self.assertEqual(errors[1], (library - exact).abs().max().item())

    def test_3d_tables(self):
        exact = torch.tensor([[[math.cos(0.1 * 79 + 0.3 * 78 + 0.7 * 77)]]], dtype=torch.float64)
        freqs = torch.tensor([0.1, 0.3, 0.7], dtype=torch.float64).view(3, 1, 1)
        coords = torch.tensor([[79, 78, 77]])
        cos = {wide: operators.cis3d(freqs, None, coords, wide)[0] for wide in (torch.float64, torch.float32)}
        self.assertLess((cos[torch.float64] - exact).abs().item(), 1e-14)
        self.assertGreater((cos[torch.float32] - exact).abs().item(), 1e-8)

    def test_softmax(self):
        """Scores 0 and 2^-30 apart: float32 makes both weights 1/2, so values 1 and -1 cancel to nothing."""
        results = []
        for attention in self.modules(MixedRope3DAttention, 0):
            query, key = torch.zeros(1, 1, 1, 16).double(), torch.zeros(1, 1, 2, 16).double()
            query[..., 0], key[0, 0, 1, 0] = 4, 2.0**-30
            value = torch.tensor([1.0, -1.0]).double().view(1, 1, 2, 1).expand(1, 1, 2, 16)
            wide = torch.float64 if attention.config.true_precision else torch.float32
            visible = torch.ones(1, 1, 2, dtype=torch.bool)
            results.append(operators.attention(query, key, value, visible, wide)[0, 0, 0, 0].item())
        self.assertAlmostEqual(results[0], -math.tanh(2.0**-31), delta=1e-16)
        self.assertEqual(results[1], 0)


class WholeLayer(unittest.TestCase):
    """One decoder layer against its formula in 80-bit arithmetic."""

    def setUp(self):
        random = Random(11)
        self.config = config(coord_norm="none")
        self.tensors = layer_tensors(random, self.config) | {
            "hidden": random(1, 9, 48, scale=3), "point_coords": random.integers(80, 4, 3),
            "point_token_mask": torch.tensor([[0, 0, 1, 1, 0, 1, 1, 0, 0]]).bool(),
            "key_mask": torch.tensor([[1, 0, 1, 1, 1, 0, 1, 1, 1]]),
        }

    def expected(self) -> np.ndarray:
        t = {name: tensor[0] if name in ("hidden", "point_token_mask", "key_mask") else tensor
             for name, tensor in self.tensors.items()}
        t = {name: tensor.numpy().astype(np.longdouble) for name, tensor in t.items()}
        o = Options(self.config)

        def norm(x, weight):
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.longdouble(1e-6)) * weight

        def project(x, name):
            y = x @ t[f"self_attn.{name}_proj.weight"].T + t[f"self_attn.{name}_proj.bias"]
            return y.reshape(9, -1, 16).swapaxes(0, 1)

        def rotate(x, side):
            freqs, weights = t[f"self_attn.freqs_3d_{side}"], t[f"self_attn.axial_weights_3d_{side}"]
            out = x.copy()
            for h in range(len(x)):
                points = iter(t["point_coords"].tolist())
                for p in range(9):
                    row = x[h, p].astype(float).tolist()
                    out[h, p] = (rotated_point(row, p, next(points), freqs[:, h].astype(float).tolist(),
                                               weights[h].astype(float).tolist(), o)
                                 if t["point_token_mask"][p] else rotated_text(row, p, 1e6))
            return out

        x = t["hidden"]
        h = norm(x, t["input_layernorm.weight"])
        q, k, v = rotate(project(h, "q"), "q"), rotate(project(h, "k"), "kv"), project(h, "v")
        context = np.zeros_like(q)
        for head in range(6):
            for i in range(9):
                keys = [j for j in range(i + 1) if t["key_mask"][j] == 1]
                scores = k[head // 3][keys] @ q[head, i] / np.sqrt(np.longdouble(16))
                weights = np.exp(scores - scores.max())
                context[head, i] = weights / weights.sum() @ v[head // 3][keys]
        x = x + context.swapaxes(0, 1).reshape(9, -1) @ t["self_attn.o_proj.weight"].T
        h = norm(x, t["post_attention_layernorm.weight"])
        gate, up = h @ t["mlp.gate_proj.weight"].T, h @ t["mlp.up_proj.weight"].T
        return x + (gate / (1 + np.exp(-gate)) * up) @ t["mlp.down_proj.weight"].T

    def test_truth_equals_the_formula_and_the_stock_arithmetic_does_not(self):
        expected = torch.from_numpy(self.expected().astype(np.float64))[None]
        errors = {}
        for flag in (True, False):
            y = Server(torch.float64, flag).answer("decoder_layer", self.config, {}, self.tensors)["hidden"]
            errors[flag] = ((y - expected).abs().max() / expected.abs().max()).item()
        self.assertLess(errors[True], 1e-14)
        self.assertGreater(errors[False], 1e-8)

    def test_sdpa_equals_eager(self):
        eager, sdpa = (Server(torch.float64, True, kind).answer("decoder_layer", self.config, {}, self.tensors)
                       for kind in ("eager", "sdpa"))
        for name in eager:
            assert_close(self, sdpa[name], eager[name], 1e-14, name)


if __name__ == "__main__":
    unittest.main()
