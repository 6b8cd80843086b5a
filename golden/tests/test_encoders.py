"""Point encoders: each operator and both networks against slow formulas and dense layers; laws; refusals."""

import itertools
import math
import unittest

import torch
import torch.nn.functional as F
from support import SCENESCRIPT, SONATA, Folder, Random, assert_close, cells, encoder_tensors, truth
from mixedrope3d import encoders, operators, sparse
from mixedrope3d.answer import Server
from mixedrope3d.errors import Refused

F64 = torch.float64


def dense(grid: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """Channels first on a full grid, [1,C,size,size,size], zero where no cell is occupied."""
    full = torch.zeros(x.shape[1], size, size, size, dtype=x.dtype)
    full[:, grid[:, 0], grid[:, 1], grid[:, 2]] = x.T
    return full[None]


def at(full: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return full[0, :, grid[:, 0], grid[:, 1], grid[:, 2]].T


def conv_weight(kernel: torch.Tensor, k: int) -> torch.Tensor:
    """A library's [C_out,C_in,k,k,k], axes x, y, z, of a kernel [k³,C_in,C_out], by the document's row index."""
    weight = torch.zeros(kernel.shape[2], kernel.shape[1], k, k, k, dtype=kernel.dtype)
    for dx, dy, dz in itertools.product(range(k), repeat=3):
        row = dx + k * (dy + k * dz) if k % 2 else dz + k * (dy + k * dx)
        weight[:, :, dx, dy, dz] = kernel[row].T
    return weight


def by_definition(x: list[list[float]], groups: int, weight, bias, per_row: bool) -> list[list[float]]:
    channels, size = len(x[0]), len(x[0]) // groups
    out = [[0.0] * channels for _ in x]
    for rows in ([[r] for r in range(len(x))] if per_row else [list(range(len(x)))]):
        for g in range(groups):
            part = [x[r][c] for r in rows for c in range(g * size, (g + 1) * size)]
            mean = math.fsum(part) / len(part)
            deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in part) / len(part) + 1e-5)
            for r in rows:
                for c in range(g * size, (g + 1) * size):
                    out[r][c] = (x[r][c] - mean) / deviation * weight[c] + bias[c]
    return out


class Operators(unittest.TestCase):
    def setUp(self):
        self.r = Random(1)

    def test_find_gives_each_cell_its_row_and_others_none(self):
        grid = cells(self.r, 200, 8)
        rows = {tuple(cell): row for row, cell in enumerate(grid.tolist())}
        wanted = torch.cartesian_prod(*[torch.arange(-2, 10)] * 3)
        expected = [rows.get(tuple(cell), -1) for cell in wanted.tolist()]
        self.assertEqual(sparse.find(grid, wanted).tolist(), expected)

    def test_find_at_the_ends_of_the_largest_grid(self):
        last = (1 << sparse.AXIS_BITS) - 1
        grid = torch.tensor([[0, 0, 0], [0, 0, last], [0, 1, 0], [1, 0, 0], [last, last, last]])
        self.assertEqual(sparse.find(grid, grid).tolist(), [0, 1, 2, 3, 4])
        self.assertEqual(sparse.find(grid, grid + torch.tensor([0, 0, 1])).tolist(), [-1] * 5)
        self.assertEqual(sparse.find(grid, grid - torch.tensor([0, 0, 1])).tolist(), [-1] * 5)

    def test_submanifold_convolution_is_a_dense_one_read_at_the_occupied_cells(self):
        for k, size in ((3, 7), (7, 9)):
            grid = cells(self.r, 120, size)
            x, kernel = self.r(len(grid), 5), self.r(k**3, 5, 4)
            got = sparse.convolve(x, sparse.neighbours(grid, k, "x"), kernel)
            expected = at(F.conv3d(dense(grid, x, size), conv_weight(kernel, k), padding=k // 2), grid)
            assert_close(self, got, expected, note=f"k = {k}")

    def test_convolution_in_one_part_or_several(self):
        grid = cells(self.r, 60000, 40)
        self.assertGreater(len(grid), 2 * sparse.ROWS_AT_A_TIME)
        x, kernel = self.r(len(grid), 2), self.r(27, 2, 3)
        got = sparse.convolve(x, sparse.neighbours(grid, 3, "x"), kernel)
        expected = at(F.conv3d(dense(grid, x, 40), conv_weight(kernel, 3), padding=1), grid)
        assert_close(self, got, expected)

    def test_strided_convolution_is_a_dense_one_and_keeps_the_last_slab(self):
        for largest in (9, 8):  # odd and even
            grid = cells(self.r, 100, largest + 1)
            grid = torch.unique(torch.cat([grid, torch.full((1, 3), largest)]), dim=0)
            x, kernel = self.r(len(grid), 5), self.r(8, 5, 4)
            parents, row = sparse.coarsen(grid, 2)
            distinct = {tuple(c // 2 for c in cell) for cell in grid.tolist()}
            self.assertEqual(parents.tolist(), [list(cell) for cell in sorted(distinct)])
            self.assertEqual(parents[row].tolist(), (grid // 2).tolist())
            self.assertEqual(parents[-1].tolist(), [largest // 2] * 3)
            got = sparse.convolve(x, sparse.children(grid, parents), kernel)
            expected = at(F.conv3d(dense(grid, x, 10), conv_weight(kernel, 2), stride=2), parents)
            assert_close(self, got, expected, note=f"largest index {largest}")

    def test_exchanging_axes_of_cells_and_kernel_exchanges_nothing_else(self):
        grid = cells(self.r, 100, 6)
        x, kernel = self.r(len(grid), 3), self.r(3, 3, 3, 3, 2)  # z, y, x: x fastest
        expected = sparse.convolve(x, sparse.neighbours(grid, 3, "x"), kernel.flatten(0, 2))
        for axes in itertools.permutations(range(3)):
            turned, row = torch.unique(grid[:, list(axes)], dim=0, return_inverse=True)
            of_axis = kernel.permute(2, 1, 0, 3, 4).permute(*axes, 3, 4).permute(2, 1, 0, 3, 4)
            moved = torch.empty_like(x).index_copy(0, row, x)
            got = sparse.convolve(moved, sparse.neighbours(turned, 3, "x"), of_axis.flatten(0, 2))
            assert_close(self, got[row], expected, note=f"axes {axes}")

    def test_group_norm_over_the_sample_and_per_row(self):
        for channels, groups in ((4, 4), (8, 8), (24, 8)):
            x, weight, bias = self.r(13, channels, shift=3), self.r(channels), self.r(channels)
            for per_row in (False, True):
                got = sparse.group_norm(x, groups, weight, bias, F64, per_row)
                expected = torch.tensor(by_definition(x.tolist(), groups, weight.tolist(), bias.tolist(), per_row), dtype=F64)
                assert_close(self, got, expected, note=f"{channels} channels, per_row {per_row}")
            assert_close(self, sparse.group_norm(x, groups, weight, bias, F64),
                         F.group_norm(x.T[None], groups, weight, bias)[0].T)
            assert_close(self, sparse.group_norm(x, groups, weight, bias, F64, True), F.group_norm(x, groups, weight, bias),
                         1e-12)  # groups of one channel cancel there

    def test_layer_norm(self):
        x, weight, bias = self.r(13, 24, shift=3), self.r(24), self.r(24)
        got = sparse.layer_norm(x, weight, bias, F64)
        assert_close(self, got, F.layer_norm(x, (24,), weight, bias))
        assert_close(self, got, torch.tensor(by_definition(x.tolist(), 1, weight.tolist(), bias.tolist(), True), dtype=F64))

    def test_eps_is_1e_5(self):
        x, one, none = self.r(5, 8, scale=1e-3), torch.ones(8, dtype=F64), torch.zeros(8, dtype=F64)
        assert_close(self, sparse.layer_norm(x, one, none, F64), F.layer_norm(x, (8,), eps=1e-5))
        apart = sparse.layer_norm(x, one, none, F64) - F.layer_norm(x, (8,), eps=1e-6)
        self.assertGreater(apart.abs().max().item(), 0.1)

    def test_gelu_is_the_one_with_erf(self):
        x = torch.linspace(-6, 6, 101, dtype=F64)
        expected = torch.tensor([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()], dtype=F64)
        assert_close(self, sparse.gelu(x), expected)
        self.assertGreater((F.gelu(x, approximate="tanh") - expected).abs().max().item(), 1e-4)

    def test_codes_interleave_the_bits(self):
        grid = torch.cat([cells(self.r, 50, 1280), torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [(1 << 21) - 1] * 3])])
        for order, axes in (("z", (0, 1, 2)), ("z-trans", (1, 0, 2))):
            expected = []
            for cell in grid.tolist():
                bits = [format(cell[axis], "021b") for axis in axes]
                expected.append(int("".join(a + b + c for a, b, c in zip(*bits)), 2))
            self.assertEqual(sparse.z_order_codes(grid, order).tolist(), expected)
        self.assertEqual(sparse.z_order_codes(grid[-4:-1], "z").tolist(), [4, 2, 1])
        self.assertEqual(sparse.z_order_codes(grid[-4:-1], "z-trans").tolist(), [2, 4, 1])

    def test_patches_and_their_fillers(self):
        for n, size in ((1, 1), (1, 8), (5, 8), (8, 8), (9, 8), (15, 8), (16, 8), (19, 8), (24, 8), (7, 1), (9, 5)):
            sequence = torch.randperm(n, generator=self.r.generator)
            runs = sparse.patches(sequence, size).tolist()
            k = min(n, size)
            expected = []
            for start in range(0, n, k):
                run = sequence[start:start + k].tolist()
                for place in range(len(run), k):
                    run.append(expected[-1][place])
                expected.append(run)
            self.assertEqual(runs, expected, f"n = {n}, patch size {size}")

    def test_patch_attention_token_by_token(self):
        heads, channels = 3, 12
        for n, size in ((1, 8), (5, 8), (8, 8), (16, 8), (19, 8)):
            qkv = self.r(n, 3 * channels)
            sequence = torch.randperm(n, generator=self.r.generator)
            expected, seen = torch.zeros(n, channels, dtype=F64), set()
            for number, run in enumerate(sparse.patches(sequence, size).tolist()):
                for place, token in enumerate(run):
                    if number * len(run) + place >= n:
                        continue  # a filler
                    seen.add(token)
                    for h in range(heads):
                        dims = slice(h * 4, h * 4 + 4)
                        q, k, v = (qkv[:, i * channels:(i + 1) * channels][:, dims] for i in range(3))
                        scores = [math.exp(float(q[token] @ k[other]) / 2) for other in run]  # sqrt(12 / 3) = 2
                        mixed = sum(s * v[other] for s, other in zip(scores, run)) / math.fsum(scores)
                        expected[token, dims] = mixed
            self.assertEqual(len(seen), n)
            for kind in ("eager", "eager_prescaled"):
                got = sparse.patch_attention(qkv, sequence, size, heads, F64, kind)
                assert_close(self, got, expected, note=f"n = {n}, {kind}")

    def test_maximum_over_tokens_that_meet(self):
        grid = cells(self.r, 100, 6)
        x = self.r(len(grid), 3, shift=-5)  # all negative: a maximum that starts from 0 shows
        parents, row = sparse.coarsen(grid, 2)
        meeting: dict[tuple, list] = {}
        for cell, values in zip(grid.tolist(), x.tolist()):
            meeting.setdefault(tuple(c // 2 for c in cell), []).append(values)
        expected = [[max(column) for column in zip(*meeting[cell])] for cell in sorted(meeting)]
        self.assertEqual(parents.tolist(), [list(cell) for cell in sorted(meeting)])
        self.assertEqual(sparse.pool_max(x, row, len(parents)).tolist(), expected)

    def test_fourier_features(self):
        v = self.r(4, 3)
        rows = []
        for x, y, z in v.tolist():
            row = [x, y, z]
            for b in range(10):
                s = 1 + b * 29 / 9
                row += [math.sin(math.pi * s * c) for c in (x, y, z)] + [math.cos(math.pi * s * c) for c in (x, y, z)]
            rows.append(row)
        got = encoders.fourier_features(v)
        self.assertEqual(got.shape, (4, 63))
        assert_close(self, got, torch.tensor(rows, dtype=F64))
        frequencies = torch.linspace(1, 30, 10, dtype=F64)
        assert_close(self, got[:, 3::6], torch.sin(math.pi * v[:, :1] * frequencies))

    def test_positions_by_grid_and_by_scene(self):
        grid = torch.tensor([[0, 3, 5], [4, 3, 5], [8, 3, 6]])  # extents 8, 0 and 1
        by_grid = encoders.encoder_config({**SONATA, "num_bins": 80}, None)
        self.assertEqual(by_grid.reduced_grid_size, 20)
        assert_close(self, encoders.positions(grid, by_grid, F64), grid.double() / 19)
        by_scene = encoders.encoder_config({**SONATA, "sonata_coord_norm": "scene"}, None)
        expected = [[0, 0, 0], [0.5, 0, 0], [1, 0, 1]]
        assert_close(self, encoders.positions(grid, by_scene, F64), torch.tensor(expected, dtype=F64))


# ---------------------------------------------------------------------------------------------------------------------
# Whole networks, written once more

def dense_scenescript(grid, x, t, size):
    """SceneScript on full grids: dense convolutions and masks."""
    def norm(full, occupied, name):
        weight, bias = t[name + ".weight"], t[name + ".bias"]
        groups = min(8, len(weight))
        parts = full[0][:, occupied].unflatten(0, (groups, -1))  # [g, C/g, cells]
        mean = parts.mean((1, 2), keepdim=True)
        var = parts.var((1, 2), keepdim=True, correction=0)
        values = ((parts - mean) / (var + 1e-5).sqrt()).flatten(0, 1) * weight[:, None] + bias[:, None]
        out = torch.zeros_like(full)
        out[0][:, occupied] = values.relu()
        return out

    def conv(full, occupied, name, k):
        y = F.conv3d(full, conv_weight(t[name + ".0.kernel"], k), padding=k // 2)
        return norm(y, occupied, name + ".1")

    def res(full, occupied, name):
        return full + conv(conv(full, occupied, name + ".block0", 3), occupied, name + ".block1", 3)

    net = "point_backbone.sparse_resnet."
    occupied = dense(grid, torch.ones(len(grid), 1, dtype=F64), size)[0, 0] > 0
    full = res(conv(dense(grid, x, size), occupied, net + "stem.0", 7), occupied, net + "stem.1")
    i = 0
    while f"{net}blocks.{i}.0.0.kernel" in t:
        occupied = F.max_pool3d(occupied[None].double(), 2)[0] > 0
        y = F.conv3d(full, conv_weight(t[f"{net}blocks.{i}.0.0.kernel"], 2), stride=2)
        full = norm(y, occupied, f"{net}blocks.{i}.0.1")
        full = res(res(full, occupied, f"{net}blocks.{i}.1"), occupied, f"{net}blocks.{i}.2")
        i += 1
    coords = occupied.nonzero()
    tokens = at(full, coords)
    tokens = F.linear(tokens, t[net + "bottleneck.0.weight"], t[net + "bottleneck.0.bias"])
    tokens = F.group_norm(tokens, 8, t[net + "bottleneck.1.weight"], t[net + "bottleneck.1.bias"]).relu()
    return F.linear(tokens, t[net + "bottleneck.3.weight"], t[net + "bottleneck.3.bias"]), coords


def slow_sonata(grid, x, t, point):
    """Sonata cell by cell, with dictionaries for neighbours and lists for runs."""
    def linear(name, v):
        return v @ t[name + ".weight"].T + t[name + ".bias"]

    def norm(name, v):
        return F.layer_norm(v, v.shape[-1:], t[name + ".weight"], t[name + ".bias"])

    def erf_gelu(v):
        return v * (1 + torch.erf(v / 2**0.5)) / 2

    def code(cell, order):
        x, y, z = (cell[1], cell[0], cell[2]) if order == "z-trans" else cell
        return sum((x >> i & 1) << 3 * i + 2 | (y >> i & 1) << 3 * i + 1 | (z >> i & 1) << 3 * i for i in range(12))

    net = "point_backbone."
    places = [tuple(cell) for cell in grid.tolist()]
    x = erf_gelu(norm(net + "embedding.stem.norm", linear(net + "embedding.stem.linear", x)))
    for stage, depth in enumerate(point["enc_depths"]):
        if stage:
            name = f"{net}enc.enc{stage}.down."
            x, meeting = linear(name + "proj", x), {}
            for place, row in zip(places, x):
                meeting.setdefault(tuple(c // point["stride"][stage - 1] for c in place), []).append(row)
            places = sorted(meeting)
            x = erf_gelu(norm(name + "norm.0", torch.stack([torch.stack(meeting[p]).amax(0) for p in places])))
        channels, heads = x.shape[1], point["enc_num_head"][stage]
        for i in range(depth):
            name, of = f"{net}enc.enc{stage}.block{i}.", {place: row for place, row in zip(places, x)}
            weight, rows = t[name + "cpe.0.weight"], []
            for px, py, pz in places:
                y = t[name + "cpe.0.bias"].clone()
                for a, b, c in itertools.product(range(3), repeat=3):
                    if (near := (px + a - 1, py + b - 1, pz + c - 1)) in of:
                        y += weight[:, a, b, c, :] @ of[near]
                rows.append(y)
            x = x + norm(name + "cpe.2", linear(name + "cpe.1", torch.stack(rows)))
            qkv = linear(name + "attn.qkv", norm(name + "norm1.0", x))
            order = point["order"][i % 2]
            tokens = sorted(range(len(places)), key=lambda row: code(places[row], order))
            k, out = min(len(tokens), point["enc_patch_size"][stage]), torch.zeros_like(x)
            for start in range(0, len(tokens), k):
                run = tokens[start:start + k]
                run += tokens[start - k + len(run):start] if len(run) < k else []
                q, key, v = qkv[run].chunk(3, dim=1)
                size = channels // heads
                mixed = torch.cat([(q[:, h:h + size] @ key[:, h:h + size].T / size**0.5).softmax(1) @ v[:, h:h + size]
                                   for h in range(0, channels, size)], dim=1)
                for place, token in enumerate(tokens[start:start + k]):
                    out[token] = mixed[place]
            x = x + linear(name + "attn.proj", out)
            x = x + linear(name + "mlp.0.fc2", erf_gelu(linear(name + "mlp.0.fc1", norm(name + "norm2.0", x))))
    return x, torch.tensor(places)


class Networks(unittest.TestCase):
    def setUp(self):
        self.r, self.folder = Random(2), Folder()
        self.addCleanup(self.folder.cleanup)

    def run_whole(self, given, grid, x, tensors, server=None):
        meta = {"weights": self.folder.save(tensors)}
        answer = (server or truth()).answer("encode_points", given, meta, {"grid": grid, "features": x})
        return answer["features"], answer["coords"]

    def end(self, given, x, coords, t):
        """Fourier features, input_proj and projector, from the document."""
        v = coords.double() / (given["num_bins"] / 2 ** given["downsamplings"] - 1)
        if given.get("sonata_coord_norm") == "scene":
            low, high = coords.min(0).values, coords.max(0).values
            v = (coords - low).double() / (high - low).clamp(min=1)
        parts = [v]
        for s in torch.linspace(1, 30, 10, dtype=F64):
            parts += [torch.sin(math.pi * s * v), torch.cos(math.pi * s * v)]
        x = torch.cat([x, *parts], 1) @ t["point_backbone.input_proj.weight"].T + t["point_backbone.input_proj.bias"]
        x = x + t.get("point_backbone.extra_embedding", 0)
        if given["projector"] == "linear":
            return x @ t["point_proj.weight"].T + t["point_proj.bias"]
        x = F.gelu(x @ t["point_proj.0.weight"].T + t["point_proj.0.bias"])
        return x @ t["point_proj.2.weight"].T + t["point_proj.2.bias"]

    def test_scenescript_is_a_dense_network_with_masks(self):
        for projector, size in (("linear", 16), ("mlp", 15), ("linear", 1)):
            given = {**SCENESCRIPT, "projector": projector}
            grid = cells(self.r, 150, size)
            x, t = self.r(len(grid), 6), encoder_tensors(self.r, given)
            got, coords = self.run_whole(given, grid, x, t)
            tokens, expected_coords = dense_scenescript(grid, x, t, 16)
            self.assertTrue(torch.equal(coords, expected_coords))
            assert_close(self, got, self.end(given, tokens, coords, t), 1e-12, f"{projector}, size {size}")

    def test_sonata_cell_by_cell(self):
        for count, size, changes in ((150, 16, {}), (100, 15, {"sonata_coord_norm": "scene", "projector": "linear"}),
                                     (10, 20, {}), (1, 20, {}), (90, 16, {"downsamplings": 3, "stride": [1, 8]}), (1, 20, {"sonata_coord_norm": "scene"})):
            point = {**SONATA["point_config"], "stride": changes.pop("stride", [2, 2])}
            given = {**SONATA, **changes, "point_config": point}
            grid = cells(self.r, count, size)
            x, t = self.r(len(grid), 6), encoder_tensors(self.r, given)
            got, coords = self.run_whole(given, grid, x, t)
            tokens, expected_coords = slow_sonata(grid, x, t, given["point_config"])
            self.assertTrue(torch.equal(coords, expected_coords))
            assert_close(self, got, self.end(given, tokens, coords, t), 1e-12, f"{count} cells of {size}, {changes}")

    def test_coordinates_are_those_of_token_coords(self):
        for given in (SCENESCRIPT, SONATA):
            for largest in (38, 39):
                grid = torch.unique(torch.cat([cells(self.r, 50, 39), torch.full((1, 3), largest)]), dim=0)
                _, coords = self.run_whole(given, grid, self.r(len(grid), 6), encoder_tensors(self.r, given))
                self.assertTrue(torch.equal(coords, operators.token_coords(grid, 2)[0]))

    def test_other_sizes(self):
        for given in ({**SCENESCRIPT, "point_config": {"input_channels": 3, "embed_channels": 5, "conv_layers": [24]},
                       "downsamplings": 0},
                      {**SONATA, "downsamplings": 1, "point_config": {
                          "in_channels": 1, "order": ["z-trans"], "stride": [2], "enc_depths": [0, 1], "enc_channels": [6, 4],
                          "enc_num_head": [1, 4], "enc_patch_size": [3, 1], "mlp_ratio": 1.5}}):
            grid, channels = cells(self.r, 30), 3 if "embed_channels" in given["point_config"] else 1
            t = encoder_tensors(self.r, given)
            got, coords = self.run_whole(given, grid, self.r(len(grid), channels), t)
            self.assertEqual(got.shape, (len(coords), 20))
            self.assertTrue(bool(got.isfinite().all()))

    def test_absent_keys_have_the_public_values(self):
        for backbone, channels in (("scenescript", 512), ("sonata", 512)):
            config = encoders.encoder_config({"hidden_size": 896, "projector": "linear", "point_config": {}}, backbone)
            self.assertEqual((config.channels, config.in_channels, config.num_bins, config.reduced_grid_size), (channels, 6, 1280, 80))
        shapes = encoders.tensor_shapes(config)
        self.assertEqual(shapes["point_backbone.enc.enc3.block11.mlp.0.fc1.weight"], [1536, 384])
        self.assertEqual(shapes["point_backbone.input_proj.weight"], [512, 575])
        self.assertNotIn("point_backbone.enc.enc0.down.proj.weight", shapes)
        self.assertEqual((config.point["stride"], config.point["enc_patch_size"]), ([2] * 4, [1024] * 5))
        two = {"enc_depths": [1, 1], "enc_channels": [4, 4], "enc_num_head": [1, 1]}
        point = encoders.encoder_config({"hidden_size": 8, "projector": "linear", "point_config": two}, "sonata").point
        self.assertEqual((point["stride"], point["enc_patch_size"]), ([2], [1024, 1024]))

    def test_every_tensor_and_input_matters(self):
        for given in (SCENESCRIPT, SONATA):
            grid, config = cells(self.r, 60, 12), encoders.encoder_config(given, None)
            x, t = self.r(len(grid), 6), encoder_tensors(self.r, given)
            before, _ = encoders.encode_points(grid, x, t, config, F64)
            for name in t:
                after, _ = encoders.encode_points(grid, x, {**t, name: t[name].flip(0)}, config, F64)
                self.assertGreater((after - before).abs().max().item(), 1e-6, name)
            after, _ = encoders.encode_points(grid, x.flip(0), t, config, F64)
            self.assertGreater((after - before).abs().max().item(), 1e-3)

    def test_the_order_matters_exactly_where_there_are_several_patches(self):
        point = SONATA["point_config"]
        grid = cells(self.r, 60, 12)
        x, t = self.r(len(grid), 6), encoder_tensors(self.r, SONATA)
        for sizes, equal in (([1000] * 3, True), (point["enc_patch_size"], False)):
            answers = [self.run_whole({**SONATA, "point_config": {**point, "enc_patch_size": sizes, "order": order}}, grid, x, t)[0]
                       for order in (["z", "z-trans"], ["z-trans", "z"], ["z"])]
            for other in answers[1:]:
                apart = (other - answers[0]).abs().max().item()
                (self.assertLess if equal else self.assertGreater)(apart, 1e-12 if equal else 1e-3)

    def test_narrow_tiers_are_near_the_truth(self):
        for given in (SCENESCRIPT, SONATA):
            grid = cells(self.r, 150)
            x, t = self.r(len(grid), 6), encoder_tensors(self.r, given)
            for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.2), (torch.float16, 0.02)):
                narrow, stored = x.to(dtype), {name: value.to(dtype) for name, value in t.items()}
                expected, coords = self.run_whole(given, grid, narrow.double(), stored)
                for kind in ("eager", "sdpa", "eager_prescaled"):
                    got, same = self.run_whole(given, grid, narrow, stored, Server(dtype, False, kind))
                    self.assertEqual(got.dtype, dtype)
                    self.assertTrue(torch.equal(same, coords))
                    error = (got.double() - expected).abs().max().item() / expected.abs().max().item()
                    self.assertLess(error, limit, f"{dtype} {kind}")
                    self.assertGreater(error, limit / 1e4)

    def test_weights_of_any_type_are_used_exactly(self):
        grid = cells(self.r, 50)
        x, t = self.r(len(grid), 6), encoder_tensors(self.r, SONATA)
        narrow = {name: tensor.bfloat16() for name, tensor in t.items()}
        wide = {name: tensor.double() for name, tensor in narrow.items()}
        self.assertTrue(torch.equal(self.run_whole(SONATA, grid, x, narrow)[0], self.run_whole(SONATA, grid, x, wide)[0]))

    def test_a_file_that_is_replaced_is_read_anew(self):
        grid, server = cells(self.r, 50), truth()
        x, t = self.r(len(grid), 6), encoder_tensors(self.r, SONATA)
        ask = lambda: server.answer("encode_points", SONATA, {"weights": path}, {"grid": grid, "features": x})["features"]
        path = self.folder.save(t)
        first = ask()
        self.folder.save({**t, "more": torch.zeros(3), "point_proj.2.bias": t["point_proj.2.bias"] + 1})
        assert_close(self, ask(), first + 1)


class Refusals(unittest.TestCase):
    def setUp(self):
        self.r, self.folder, self.server = Random(3), Folder(), truth()
        self.addCleanup(self.folder.cleanup)
        self.grid = cells(self.r, 30)
        self.x = self.r(len(self.grid), 6)
        self.tensors = {name: encoder_tensors(self.r, given) for name, given in (("scenescript", SCENESCRIPT), ("sonata", SONATA))}
        self.paths = {name: self.folder.save(t, name) for name, t in self.tensors.items()}

    def ask(self, given=SONATA, grid=None, x=None, **meta):
        meta = {"weights": self.paths.get(given.get("point_backbone", "sonata")), **meta}
        return self.server.answer("encode_points", given, {k: v for k, v in meta.items() if v is not None},
                                  {"grid": self.grid if grid is None else grid, "features": self.x if x is None else x})

    def refuse(self, words, *arguments, **named):
        with self.assertRaisesRegex(Refused, words):
            self.ask(*arguments, **named)

    def test_good_requests_are_answered(self):
        for given in (SCENESCRIPT, SONATA):
            self.ask(given)
            self.ask({k: v for k, v in given.items() if k != "point_backbone"}, encoder=given["point_backbone"],
                     weights=self.paths[given["point_backbone"]])
            self.ask({k: v for k, v in given.items() if k != "downsamplings"})
        self.ask({k: v for k, v in SCENESCRIPT.items() if k != "projector"})
        self.ask({**SONATA, "num_bins": 40.0, "downsamplings": 2.0, "point_config": {**SONATA["point_config"], "mlp_ratio": 2.0,
                  "stride": [2.0, 2], "dec_depths": [1], "drop_path": 0.3}})

    def test_cells(self):
        def changed(row, cell):
            grid = self.grid.clone()
            grid[row] = torch.tensor(cell)
            return grid
        empty = self.grid[:0], self.x[:0]
        for given in (SCENESCRIPT, SONATA):
            self.refuse(r"grid\[0, 1\] is -1, expected 0 to 39", given, changed(0, [0, -1, 0]))
            self.refuse(r"grid\[29, 2\] is 40, expected 0 to 39", given, changed(29, [39, 39, 40]))
            self.refuse(r"grid row 5 .*repeats row 4", given, changed(5, self.grid[4].tolist()))
            self.refuse(r"grid row 4 .*comes after .*row 3.*order", given, changed(3, [39, 39, 39]))
            self.refuse("no rows", given, *empty)
            self.refuse("grid row 1 .*order", given, self.grid.flip(0))
            self.refuse("grid row 1 .*order", given, torch.tensor([[0, 0, 1], [0, 0, 0]]), self.x[:2])
            self.refuse("grid row 1 .*order", given, torch.tensor([[0, 1, 0], [0, 0, 9]]), self.x[:2])
        self.refuse("grid has type I32", grid=self.grid.int())
        self.refuse(r"grid has shape \[30, 2\]", grid=self.grid[:, :2])
        self.refuse(r"features has shape \[29, 6\], expected \[M,C_in\] = \[30,6\]", x=self.x[:29])
        self.refuse(r"features has shape \[30, 5\].*\[30,6\], .*point_config", x=self.x[:, :5])
        self.refuse("features has type F32", x=self.x.float())
        for bad in ("nan", "inf"):
            x = self.x.clone()
            x[3, 4] = float(bad)
            self.refuse(rf"features\[3, 4\] is {bad}", x=x)

    def test_weights(self):
        self.refuse('"weights" is missing', weights=None)
        self.refuse("no/such cannot be read", weights="no/such")
        self.refuse("point_backbone.sparse_resnet.stem.0.0.kernel .*and .* more are missing", SCENESCRIPT, weights=self.paths["sonata"])
        for name, given in (("scenescript", SCENESCRIPT), ("sonata", SONATA)):
            for gone, tensor in list(self.tensors[name].items())[::6]:
                rest = {k: v for k, v in self.tensors[name].items() if k != gone}
                shape = ", ".join(map(str, tensor.shape))
                self.refuse(rf"{gone.replace('.', '[.]')} \[{shape}\] is missing", given, weights=self.folder.save(rest, "bad"))
                bad = self.folder.save({**rest, gone: torch.cat([tensor, tensor[:1]])}, "bad")
                shown, found = ",".join(map(str, tensor.shape)), ", ".join(map(str, [len(tensor) + 1, *tensor.shape[1:]]))
                self.refuse(rf"{gone.replace('.', '[.]')} has shape \[{found}\], expected \[{shown}\]", given, weights=bad)
        t = self.tensors["sonata"]
        two = {k: v for k, v in t.items() if k not in ("point_proj.0.bias", "point_proj.2.weight")}
        self.refuse(r"point_proj.0.bias \[20\], point_proj.2.weight \[20, 20\] are missing", weights=self.folder.save(two, "bad"))
        self.refuse("input_proj.bias in .* has type I64", weights=self.folder.save(
            {**t, "point_backbone.input_proj.bias": torch.zeros(16, dtype=torch.int64)}, "bad"))
        self.refuse(r"fc1.bias\[0\] is nan", weights=self.folder.save(
            {**t, "point_backbone.enc.enc0.block1.mlp.0.fc1.bias": torch.full((16,), math.nan, dtype=F64)}, "bad"))

    def test_configuration(self):
        def with_point(given, **changes):
            return {**given, "point_config": {**given["point_config"], **changes}}
        for words, given in (
            ("shuffle_orders is true.*random", with_point(SONATA, shuffle_orders=True)),
            ("enable_rpe is true, expected false", with_point(SONATA, enable_rpe=True)),
            ("order is .*hilbert.*z-trans", with_point(SONATA, order=["z", "hilbert"])),
            ("order is .*expected a list", with_point(SONATA, order="z")),
            ("order is", with_point(SONATA, order=[])),
            ("stride is .*3.*expected", with_point(SONATA, stride=[2, 3])),
            ("stride has 1 entries, expected 2.*3 stages", with_point(SONATA, stride=[2])),
            ("enc_channels has 2 entries, expected 3", with_point(SONATA, enc_channels=[8, 12])),
            ("enc_num_head has 4 entries, expected 3", with_point(SONATA, enc_num_head=[2, 3, 4, 4])),
            ("enc_patch_size has 1 entries, expected 3", with_point(SONATA, enc_patch_size=[16])),
            ("enc_patch_size is", with_point(SONATA, enc_patch_size=[16, 0, 8])),
            ("enc_depths is", with_point(SONATA, enc_depths=[2, -1, 1])),
            ("enc_channels is 12, which does not divide into 5", with_point(SONATA, enc_num_head=[2, 5, 4])),
            ("mlp_ratio is 1.1; it makes 8.8 of 8", with_point(SONATA, mlp_ratio=1.1)),
            ("mlp_ratio is 0", with_point(SONATA, mlp_ratio=0)),
            ('"point_config.enc_depth" is unknown.*"point_config.enc_depths"', with_point(SONATA, enc_depth=[2, 3, 1])),
            ("conv_layers is .*expected a list", with_point(SCENESCRIPT, conv_layers=16)),
            ("conv_layers is 12, which does not divide into 8", with_point(SCENESCRIPT, conv_layers=[12, 8])),
            ("twice the last .* is 4, which does not divide into 8", with_point(SCENESCRIPT, conv_layers=[4, 8, 2])),
            ("input_channels is true", with_point(SCENESCRIPT, input_channels=True)),
            ("lacks point_backbone", {**SONATA, "point_backbone": ...}),
            ("projector is null, expected one of", {**SONATA, "projector": None}),
            ("lacks hidden_size", {**SONATA, "hidden_size": ...}),
            ('point_backbone is "ptv3", expected one of "scenescript", "sonata"', {**SONATA, "point_backbone": "ptv3"}),
            ('projector is "Linear", expected', {**SONATA, "projector": "Linear"}),
            ("point_config is", {**SONATA, "point_config": 3}),
            ('"point_backbon" is unknown.*"point_backbone"', {**SONATA, "point_backbon": "sonata"}),
            ('"hiden_size" is unknown.*"hidden_size"', {**SONATA, "hiden_size": 20}),
            ('sonata_coord_norm is "none"', {**SONATA, "sonata_coord_norm": "none"}),
            ("sonata_coord_norm .*no meaning", {**SCENESCRIPT, "sonata_coord_norm": "scene"}),
            ("downsamplings is 4.*2 times", {**SONATA, "num_bins": 80, "downsamplings": 4}),
            ("num_bins 42 does not divide", {**SONATA, "num_bins": 42}),
            ("pre_norm is false, expected true", with_point(SONATA, pre_norm=False)),
            ("qk_scale is 0.5, expected null", with_point(SONATA, qk_scale=0.5)),
            ("reduced_grid_size is 1", {**SONATA, "reduced_grid_size": 1}),
        ):
            given = {k: v for k, v in given.items() if v is not ...}
            with self.subTest(words):
                self.refuse(words, given, weights=self.paths["sonata"])
        self.refuse('"encoder" is "scenescript", but .*"sonata"', encoder="scenescript")
        self.refuse('"encoder" is "ptv3", expected', encoder="ptv3")
        self.ask({**SONATA, "sonata_coord_norm": "scene", "reduced_grid_size": 1})
        self.ask(with_point(SONATA, pre_norm=True, qk_scale=None, qkv_bias=True))

    def test_cells_whose_codes_would_not_fit(self):
        large = {**SONATA, "num_bins": 1 << 22}
        for index, words in (((1 << 21) - 1, None), (1 << 21, r"grid\[0, 2\] is 2097152, expected 0 to 2097151 .*63 bits")):
            cell = torch.tensor([[0, 0, index]])
            if words:
                self.refuse(words, large, cell, self.x[:1])
            else:
                self.ask(large, cell, self.x[:1])


if __name__ == "__main__":
    unittest.main()
