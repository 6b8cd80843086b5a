"""The operators against the formulas of the specification, written out element by element."""

import cmath
import math
import unittest

import torch
from support import Random, assert_close, config, truth
from mixedrope3d import operators
from mixedrope3d.configuration import Options, head_split
from mixedrope3d.errors import Refused
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding, apply_rotary_pos_emb


def rotated_point(x: list[float], position: int, c: list[float], freqs, weights, o: Options) -> list[float]:
    """Sections 3.1 to 3.3 for one point of one head, `freqs[a][f]`, `weights[f][a]`: scalars and loops only."""
    d = len(x)
    split = head_split(o, d)
    y = [None] * d
    spatial = [x[i] for i in split.spatial]
    for f in range(len(spatial) // 2):
        angle = sum(weights[f][a] * freqs[a][f] * c[a] for a in range(3))
        turned = complex(spatial[2 * f], spatial[2 * f + 1]) * cmath.exp(1j * angle)
        y[split.spatial[2 * f]], y[split.spatial[2 * f + 1]] = turned.real, turned.imag
    idx, dt = split.temporal, len(split.temporal)

    def theta(j: int) -> float:
        if o.temporal_rope == "native":
            return position * o.rope_theta ** (-2 * (j % (dt // 2)) / dt)
        return position * o.rope_theta ** (-2 * (idx[j] % (d // 2)) / d)

    for j in range(dt // 2):
        k = j + dt // 2
        a, b = x[idx[j]], x[idx[k]]
        y[idx[j]] = a * math.cos(theta(j)) - b * math.sin(theta(j))
        y[idx[k]] = b * math.cos(theta(k)) + a * math.sin(theta(k))
    return y


def rotated_text(x: list[float], position: int, theta: float) -> list[float]:
    d = len(x)
    angles = [position * theta ** (-2 * (j % (d // 2)) / d) for j in range(d)]
    first = [x[j] * math.cos(angles[j]) - x[j + d // 2] * math.sin(angles[j]) for j in range(d // 2)]
    second = [x[j] * math.cos(angles[j]) + x[j - d // 2] * math.sin(angles[j]) for j in range(d // 2, d)]
    return first + second


OPTION_SETS = [
    {},
    {"temporal_rope": "native"},
    {"mixed_rope_layout": "interleaved"},
    {"mixed_rope_layout": "interleaved", "spatial_temporal_separate_strategy": "custom_ratio", "spatial_ratio": 0.25},
    {"mixed_rope_layout": "interleaved", "spatial_temporal_separate_strategy": "custom_ratio", "spatial_ratio": 0.25,
     "temporal_rope": "native"},
    {"spatial_temporal_separate_strategy": "custom_ratio", "spatial_ratio": 0.75},
    {"spatial_temporal_separate_strategy": "full_spatial"},
    {"spatial_temporal_separate_strategy": "full_temporal"},
    {"rope_mixed_3d": False},
    {"rope_mixed_3d": False, "rope_theta_3d": 10000},
    {"rope_3d_kind": "axial", "spatial_temporal_separate_strategy": "full_spatial"},
    {"mixedRoPE_3d_learned_per_axis": False},
    {"mixedRoPE_3d_learned_axial_mixing_weight": False},
]


class MixedRope(unittest.TestCase):
    def test_every_option_equals_the_formula(self):
        for options in OPTION_SETS:
            with self.subTest(options):
                self.compare(config(coord_norm="none", **options))

    def compare(self, given: dict):
        random = Random(3)
        o = Options(given)
        bins = head_split(o, 16).bins
        query, key = random(1, 6, 7, 16), random(1, 2, 7, 16)
        mask = torch.tensor([[False, True, True, False, True, False, False]])
        coords = random(3, 3, scale=4)
        positions = torch.tensor([[0, 1, 2, 50, 51, 52, 700]])
        tensors = {"query": query, "key": key, "point_token_mask": mask, "point_coords": coords, "position_ids": positions}
        for side, heads in (("q", 6), ("kv", 2)):
            if o.learned and bins:
                tensors[f"freqs_{side}"] = random(o.frequency_axes, heads, bins)
                if o.mixedRoPE_3d_learned_axial_mixing_weight:
                    tensors[f"axial_weights_{side}"] = random(heads, bins, 3)
        answer = truth().answer("mixed_rope", given, {}, tensors)
        for name, x, side in (("query", query, "q"), ("key", key, "kv")):
            expected = torch.empty_like(x)
            for h in range(x.shape[1]):
                freqs = self.frequencies(tensors.get(f"freqs_{side}"), h, bins, o)
                weights = tensors.get(f"axial_weights_{side}")
                weights = [[1.0] * 3] * bins if weights is None else weights[h].tolist()
                row = 0
                for t in range(7):
                    p = int(positions[0, t])
                    if mask[0, t] and bins:
                        y = rotated_point(x[0, h, t].tolist(), p, coords[row].tolist(), freqs, weights, o)
                        row += 1
                    else:
                        y = rotated_text(x[0, h, t].tolist(), p, o.rope_theta)
                    expected[0, h, t] = torch.tensor(y, dtype=torch.float64)
            assert_close(self, answer[name], expected, 1e-14, name)

    @staticmethod
    def frequencies(freqs, h: int, bins: int, o: Options):
        if freqs is not None:
            return [freqs[a if len(freqs) == 3 else 0, h].tolist() for a in range(3)]
        if o.rope_3d_kind == "mixed":
            return [[o.rope_theta_3d ** (-2 * f / (2 * bins)) for f in range(bins)]] * 3
        n = 2 * bins // 3 // 2
        ranges = [range(n), range(n, 2 * n), range(2 * n, bins)]
        return [[o.rope_theta_3d ** (-(f - r.start) / n) if f in r else 0.0 for f in range(bins)] for r in ranges]

    def test_contiguous_gathered_is_no_rotation_and_interleaved_is(self):
        random = Random(1)
        for layout, is_rotation in (("contiguous", False), ("interleaved", True)):
            given = config(mixed_rope_layout=layout, rope_mixed_3d=False)
            tensors = {"query": random(1, 6, 4, 16), "key": random(1, 2, 4, 16), "point_coords": random.integers(80, 4, 3),
                       "point_token_mask": torch.ones(1, 4, dtype=torch.bool), "position_ids": torch.tensor([[3, 9, 70, 200]])}
            y = truth().answer("mixed_rope", given, {}, tensors)["query"]
            change = (y.norm(dim=-1) / tensors["query"].norm(dim=-1) - 1).abs().max().item()
            self.assertEqual(change < 1e-14, is_rotation, f"{layout}: the norm changes by {change}")

    def test_the_published_formula_mixes_up_shapes(self):
        """[heads,F]·[N,1,1] beside weights [heads,1,F]: an error for most N, silent nonsense for N = heads and N = 1."""
        heads, bins = 14, 16
        random = Random(2)
        freqs, weights = random(3, heads, bins), random(heads, bins, 3)
        for n, raises in ((556, True), (13, True), (14, False), (1, False)):
            coords = random(n, 3)

            def published():
                return sum(weights[:, None, :, a] * (freqs[a] * coords[:, a][:, None, None]) for a in range(3))

            if raises:
                with self.assertRaisesRegex(RuntimeError, f"{heads}.*{n}|{n}.*{heads}"):
                    published()
                continue
            right = torch.einsum("hfa,ahf,na->hnf", weights, freqs, coords)
            cos, sin = operators.cis3d(freqs, weights, coords, torch.float64)
            assert_close(self, cos, right.cos())
            assert_close(self, sin, right.sin())
            if n == heads:
                self.assertEqual(published().shape, right.shape)
                self.assertGreater((published() - right).abs().max().item(), 1)

    def test_samples_of_a_batch_have_their_own_positions_and_points(self):
        random = Random(9)
        given = config(temporal_rope="native", rope_mixed_3d=False)
        x = {"query": random(2, 6, 4, 16), "key": random(2, 2, 4, 16), "point_coords": random.integers(80, 2, 3, 3),
             "point_token_mask": torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0]]).bool(), "point_counts": torch.tensor([3, 1]),
             "position_ids": torch.tensor([[0, 1, 2, 3], [9, 40, 41, 700]])}
        both = truth().answer("mixed_rope", given, {}, x)
        for b, count in enumerate((3, 1)):
            alone = {name: tensor[b:b + 1] for name, tensor in x.items()}
            alone["point_coords"] = alone["point_coords"][:, :count]
            for name, y in truth().answer("mixed_rope", given, {}, alone).items():
                self.assertTrue(torch.equal(both[name][b:b + 1], y), name)

    def test_rotation_is_relative_between_points(self):
        """Shifting all coordinates and positions leaves the scores between points as they are (interleaved layout)."""
        random = Random(5)
        given = config(mixed_rope_layout="interleaved", coord_norm="none", num_key_value_heads=6)
        freqs, weights = random(3, 6, 4), random(6, 4, 3)
        x = {"query": random(1, 6, 5, 16), "key": random(1, 6, 5, 16), "freqs_q": freqs, "freqs_kv": freqs,
             "axial_weights_q": weights, "axial_weights_kv": weights,
             "point_token_mask": torch.ones(1, 5, dtype=torch.bool)}
        coords, scores = random.integers(40, 5, 3), []
        for shift in (0, 17):
            positions = torch.arange(5)[None] + shift
            y = truth().answer("mixed_rope", given, {}, x | {"point_coords": coords + shift, "position_ids": positions})
            scores.append(y["query"] @ y["key"].mT)
        assert_close(self, scores[1], scores[0], 1e-12)


class Coordinates(unittest.TestCase):
    def normalized(self, coords, **options):
        return operators.normalize_coords(torch.tensor(coords), Options(options), torch.float64).tolist()

    def test_norms_and_drift(self):
        rows = [[0, 10, 4], [79, 30, 4], [10, 20, 4]]
        self.assertEqual(self.normalized(rows), [[v / 79 for v in row] for row in rows])
        self.assertEqual(self.normalized(rows, coord_norm="none"), rows)
        unit = [[0, 0, 0], [79 / (79 + 1e-8), 20 / (20 + 1e-8), 0], [10 / (79 + 1e-8), 10 / (20 + 1e-8), 0]]
        self.assertEqual(self.normalized(rows, coord_norm="unit_range"), unit)
        self.assertEqual(self.normalized(rows, coord_norm="virtual_resolution", virtual_resolution=100),
                         [[v * 100 for v in row] for row in unit])
        self.assertEqual(self.normalized(rows, coord_norm="none", drift="average"), [[v + 1.5 for v in row] for row in rows])
        self.assertEqual(self.normalized(rows, coord_norm="none", drift="pointwise"),
                         [[v + k for v in row] for k, row in enumerate(rows)])
        self.assertEqual(self.normalized([[7, 7, 7]], coord_norm="unit_range", drift="average"), [[0.5] * 3])

    def test_samples_keep_to_themselves(self):
        random = Random(4)
        coords = random.integers(80, 3, 5, 3)
        for norm in ("grid", "unit_range"):
            for drift in ("average", "pointwise"):
                given = {"coord_norm": norm, "drift": drift}
                batch = truth().answer("normalize_coords", given, {},
                                       {"coords": coords, "point_counts": torch.tensor([5, 0, 2])})["coords"]
                for b, count in enumerate((5, 0, 2)):
                    single = truth().answer("normalize_coords", given, {}, {"coords": coords[b, :count]})["coords"]
                    self.assertTrue(torch.equal(batch[b, :count], single))
                    self.assertFalse(batch[b, count:].any())


class Splice(unittest.TestCase):
    def test_canonical_lengths(self):
        ids = torch.arange(231)[None] + 1000
        ids[0, 24:27] = torch.tensor([151652, 151654, 151653])
        attention_mask = torch.ones_like(ids)
        attention_mask[0, 3] = 0
        s = operators.splice(ids, attention_mask, [556], 151652, 151653, labels=ids)
        self.assertEqual(s.source.shape, (1, 786))
        self.assertEqual(s.source[0].tolist(), [*range(25), *range(-1, -557, -1), *range(26, 231)])
        self.assertEqual(s.point_token_mask[0].nonzero().flatten().tolist(), list(range(25, 581)))
        self.assertEqual((s.attention_mask == 0).nonzero().tolist(), [[0, 3]])
        self.assertEqual(s.labels[0, 24:27].tolist(), [151652, -100, -100])
        self.assertEqual(int(s.labels[0, 581]), 151653)

    def test_batch_pads_on_the_right_with_the_last_row(self):
        ids = torch.tensor([[5, 90, 92, 91, 6], [90, 7, 8, 91, 9], [1, 2, 3, 4, 5]])
        s = operators.splice(ids, torch.ones_like(ids), [2, 0, 0], 90, 91, labels=ids)
        self.assertEqual(s.source.tolist(), [[0, 1, -1, -2, 3, 4], [0, 3, 4, 4, 4, 4], [0, 1, 2, 3, 4, 4]])
        self.assertEqual(s.attention_mask.tolist(), [[1] * 6, [1, 1, 1, 0, 0, 0], [1] * 5 + [0]])
        self.assertEqual(s.labels.tolist(), [[5, 90, -100, -100, 91, 6], [90, 91, 9] + [-100] * 3, [1, 2, 3, 4, 5, -100]])
        text, points = torch.arange(15.0).view(3, 5, 1), [torch.tensor([[100.0], [101.0]]), torch.empty(0, 1), torch.empty(0, 1)]
        rows = operators.splice_rows(s, text, points)[..., 0].tolist()
        self.assertEqual(rows, [[0, 1, 100, 101, 3, 4], [5, 8, 9, 9, 9, 9], [10, 11, 12, 13, 14, 14]])

    def test_bad_markers(self):
        for ids, count, words in (([1, 2, 3], 1, "0 start"), ([90, 90, 91], 1, "2 start"), ([91, 90, 3], 1, "behind"),
                                  ([90, 1, 2], 0, "0 end"), ([90, 91, 91], 2, "2 end")):
            with self.assertRaisesRegex(Refused, words):
                operators.splice(torch.tensor([ids]), torch.ones(1, 3, dtype=torch.int64), [count], 90, 91)


class Mask(unittest.TestCase):
    def test_decode_repair_adds_555_ones_at_the_end(self):
        caller = torch.ones(1, 232, dtype=torch.int64)
        caller[0, [3, 30]] = 0
        visible = operators.mask(caller, None, 786, 1, "pad_end")
        self.assertEqual(visible.shape, (1, 1, 787))
        self.assertEqual((~visible[0, 0]).nonzero().flatten().tolist(), [3, 30])
        self.assertEqual(int(visible[0, 0, 232:].sum()), 555)

    def test_causal_offset(self):
        visible = operators.mask(None, None, 4, 3, "pad_end")
        self.assertEqual(visible.int().tolist(), [[[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0], [1] * 7]])

    def test_spliced_rule(self):
        prefill, caller = torch.tensor([[1, 0, 1, 1]]), torch.tensor([[0, 0, 1]])
        self.assertEqual(operators.mask(caller, prefill, 4, 1, "spliced").int().tolist(), [[[1, 0, 1, 1, 1]]])
        self.assertEqual(operators.mask(caller, None, 4, 1, "spliced").int().tolist(), [[[0, 0, 1, 1, 1]]])

    def test_lengths(self):
        ones = torch.ones(1, 788, dtype=torch.int64)
        with self.assertRaisesRegex(Refused, "788.*786.*787"):
            operators.mask(ones, None, 786, 1, "pad_end")
        with self.assertRaisesRegex(Refused, "788"):
            operators.mask(ones, ones[:, :700], 786, 1, "spliced")
        with self.assertRaisesRegex(Refused, "231.*786"):
            operators.mask(ones[:, :231], None, 0, 786, "pad_end")


class Decoder(unittest.TestCase):
    def test_query_heads_read_key_heads_by_integer_division(self):
        """Values that name their head: 14 query heads over 2, seven neighbours share one."""
        query, key = torch.zeros(1, 14, 1, 4), torch.zeros(1, 2, 3, 4)
        value = torch.tensor([1.0, 2.0])[None, :, None, None].expand(1, 2, 3, 4)
        y = operators.attention(query, key, value, torch.ones(1, 1, 3, dtype=torch.bool), torch.float32)
        self.assertEqual(y[0, :, 0, 0].tolist(), [1.0] * 7 + [2.0] * 7)

    def test_hidden_keys_weigh_nothing_and_blind_rows_are_zero(self):
        random = Random(6)
        query, key, value = random(1, 4, 3, 8), random(1, 2, 5, 8, scale=9), random(1, 2, 5, 8)
        visible = torch.tensor([[[1, 0, 1, 0, 0], [0] * 5, [1] * 5]]).bool()
        for kind in ("eager", "eager_prescaled", "sdpa"):
            y = operators.attention(query, key, value, visible, torch.float64, kind)
            shown = [0, 2]
            expected = operators.attention(query[:, :, :1], key[:, :, shown], value[:, :, shown],
                                           torch.ones(1, 1, 2, dtype=torch.bool), torch.float64)
            assert_close(self, y[:, :, :1], expected, 1e-14, kind)
            self.assertFalse(y[:, :, 1].any(), kind)
            value[0, :, 1] *= 1e12  # hidden from row 0
            again = operators.attention(query, key, value, visible, torch.float64, kind)
            value[0, :, 1] /= 1e12
            assert_close(self, again[:, :, :1], expected, 1e-14, kind)

    def test_kinds_of_attention_agree(self):
        random = Random(7)
        for q, k in ((1, 9), (7, 7), (33, 700)):
            query, key, value = random(2, 4, q, 16), random(2, 2, k, 16), random(2, 2, k, 16)
            visible = operators.mask(None, None, k - q, q, "pad_end", 2)
            eager = operators.attention(query, key, value, visible, torch.float64)
            for kind in ("eager_prescaled", "sdpa"):
                assert_close(self, operators.attention(query, key, value, visible, torch.float64, kind), eager, 1e-14, kind)

    def test_stock_casts_are_the_library_s_bit_for_bit(self):
        library = Qwen2Config(hidden_size=64, num_attention_heads=4, rope_theta=1e6)
        positions = torch.tensor([[0, 1, 255, 257, 4095, 30001]])
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            random = Random(8, dtype)
            x, weight = random(1, 4, 6, 16, scale=5), random(64)
            cos, sin = Qwen2RotaryEmbedding(config=library)(x, positions)
            expected, _ = apply_rotary_pos_emb(x, x, cos, sin)
            self.assertTrue(torch.equal(operators.rope1d(x, positions, 1e6, torch.float32), expected), dtype)
            norm = Qwen2RMSNorm(64, eps=1e-6)
            norm.weight.data = weight
            hidden = random(1, 6, 64, scale=20)
            self.assertTrue(torch.equal(operators.rmsnorm(hidden, weight, 1e-6, torch.float32), norm(hidden)), dtype)


class Scan(unittest.TestCase):
    def test_voxelize(self):
        inf, nan = math.inf, math.nan
        points = torch.tensor([[nan, 0, 0, 1, 2, 3], [1.0, 2.0, 3.0, 0, 255, 127.5], [1.03, 2.0, 3.0, 9, 9, 9],
                               [1.01, 2.01, 3.01, 7, 7, 7], [5.0, 5.0, inf, 1, 1, 1], [1.0, 2.05, 3.0, 255, 0, 0]],
                              dtype=torch.float64)
        grid, features = operators.voxelize(points, Options({}))
        self.assertEqual(grid.tolist(), [[0, 0, 0], [0, 1, 0], [1, 0, 0]])  # 2.05 - 2 lies below two cells
        self.assertEqual(features[0].tolist(), [0, 0, 0, -1, 1, 0])
        self.assertEqual(features[1, :3].tolist(), [0, 2.05 - 2.0, 0])
        with self.assertRaisesRegex(Refused, "empty"):
            operators.voxelize(points[:1], Options({}))

    def test_overflow(self):
        points = torch.tensor([[0.0, 0, 0], [40.0, 0, 0], [33.0, 0, 0]])
        with self.assertRaisesRegex(Refused, "1600.*axis x.*1279"):
            operators.voxelize(points, Options({}))
        grid, features = operators.voxelize(points, Options({"grid_overflow": "clip"}))
        self.assertEqual(grid.tolist(), [[0, 0, 0], [1279, 0, 0]])
        self.assertEqual(features[1, 0].item(), 40)  # the lowest row of the cell

    def test_division_is_not_multiplication(self):
        """floor(x / 0.025) and floor(x · 40) differ on 47 of the 1280 exact multiples (section 7)."""
        multiples = torch.arange(1280, dtype=torch.float64) * 0.025
        points = torch.stack([multiples, torch.zeros(1280), torch.zeros(1280)], 1)
        ours = torch.floor(points[:, 0] / 0.025)
        self.assertEqual(int((ours != torch.floor(points[:, 0] * 40)).sum()), 47)
        self.assertEqual(operators.voxelize(points, Options({}))[0][:, 0].tolist(), ours.unique().tolist())

    def test_token_coords(self):
        grid = torch.tensor([[16, 0, 0], [0, 0, 15], [0, 0, 0], [31, 15, 15], [0, 0, 0]])
        coords, count = operators.token_coords(grid, 4)
        self.assertEqual((coords.tolist(), count.tolist()), ([[0, 0, 0], [1, 0, 0]], [2, 2]))
        coords, count = operators.token_coords(grid, 0)
        self.assertEqual((coords.tolist(), count.tolist()), ([[0, 0, 0], [0, 0, 15], [16, 0, 0], [31, 15, 15]], [1] * 4))
        self.assertEqual(operators.token_coords(grid, 10**6)[0].tolist(), [[0, 0, 0]])
        self.assertEqual(operators.token_coords(grid[:0], 4)[0].shape, (0, 3))
        with self.assertRaisesRegex(Refused, "row 1"):
            operators.token_coords(torch.tensor([[0, 0, 0], [0, -1, 0]]), 4)


if __name__ == "__main__":
    unittest.main()
