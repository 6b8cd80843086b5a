"""Random data, recipes, the case list and the form of a golden (docs/generator.md, docs/cases.md)."""

import copy
import hashlib
import json
import pathlib
import struct
import sys
import tempfile
import unittest

import numpy as np
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

import cases
import encode_scans
import generate
import mr3d_random
import recipes
from mixedrope3d import encoders, operators
from recipes import Maker, RecipeError, Suite

MASK64 = (1 << 64) - 1


def philox(seed, stream, index):
    """Philox4x64-10 from the paper, in Python's integers: word `index` of a stream."""
    key = [seed, mr3d_random.fnv1a64(stream)]
    x = [1 + index // 4, 0, 0, 0]
    for _ in range(10):
        first, second = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [second >> 64 ^ x[1] ^ key[0], second & MASK64, first >> 64 ^ x[3] ^ key[1], first & MASK64]
        key = [key[0] + 0x9E3779B97F4A7C15 & MASK64, key[1] + 0xBB67AE8584CAA73B & MASK64]
    return x[index % 4]


def maker(tier="fp64", config=None, **keys):
    case = {"id": "a/b", "config": config or {}, "steps": [{"op": "x", "inputs": {}}], **keys}
    return Maker(Suite({"format": 1, "weights": keys.get("sets", {}), "cases": []}), case, tier)


def make(recipe, stream="a/b/0/x", **keys):
    return maker(**keys).make(recipe, stream)


class RandomTest(unittest.TestCase):
    def test_words_are_the_papers(self):
        for seed, stream in ((0, "raw"), (7, "splice/canonical/0/input_ids"), (MASK64, "ü")):
            words = mr3d_random.raw(seed, stream, 0, 23)
            self.assertEqual([int(w) for w in words], [philox(seed, stream, i) for i in range(23)])

    def test_a_stream_can_be_entered_anywhere(self):
        whole = mr3d_random.raw(3, "s", 0, 64)
        for start in range(9):
            np.testing.assert_array_equal(mr3d_random.raw(3, "s", start, 20), whole[start:start + 20])

    def test_committed_digests(self):
        committed = json.loads((HERE / "random_digests.json").read_text())
        self.assertEqual(committed, mr3d_random.digests())
        dists = {entry["recipe"]["dist"] for entry in committed["tensors"]}
        self.assertEqual(dists, {"uniform", "normal", "heavy", "int", "const", "onehot"})

    def test_distributions_one_element_at_a_time(self):
        recipe = {"shape": [3, 5], "dtype": "F64", "scale": 0.3, "shift": -1.5, "outliers": {"every": 2, "by": 7}}
        for dist in ("uniform", "normal", "heavy", "int", "const"):
            full = {**recipe, "dist": dist, "lo": -2, "hi": 9}
            drawn = mr3d_random.draw(full, 5, "t")
            for index in range(15):
                word = philox(5, "t", index)
                w0, w1, w2, w3 = (word >> 16 * k & 0xFFFF for k in range(4))
                value = {
                    "uniform": -2 + 11 * ((word >> 11) * 2.0 ** -53),
                    "normal": (w0 + w1 + w2 + w3 - 131070) * float.fromhex("0x1.bb67ae86627e8p-16"),
                    "heavy": (w0 + w1 + w2 - 98302.5) * float.fromhex("0x1.0000000080000p-15")
                             * min(1 / ((w3 + 0.5) / 65536) ** 0.5, 8),
                    "int": -2 + (word >> 11) % 12, "const": 1}[dist]
                value = value * 0.3 + -1.5
                value = value * 7 if index % 5 % 2 == 1 else value
                self.assertEqual(drawn[index // 5, index % 5], value, (dist, index))

    def test_spread(self):
        shape = {"shape": [200000], "dtype": "F64"}
        bell = mr3d_random.draw({**shape, "dist": "normal"}, 0, "n")
        self.assertAlmostEqual(bell.std(), 1, delta=0.01)
        self.assertLess(abs(bell).max(), 3.47)
        tails = mr3d_random.draw({**shape, "dist": "heavy"}, 0, "h")
        self.assertAlmostEqual(tails.std(), 2.27, delta=0.05)
        self.assertLess(20, abs(tails).max())
        self.assertLessEqual(abs(tails).max(), 24)

    def test_chunks_join(self):
        size = mr3d_random.CHUNK + 7
        long = mr3d_random.draw({"shape": [size], "dtype": "F32", "dist": "heavy"}, 1, "c")
        tail = mr3d_random.elements({"shape": [size], "dist": "heavy"}, 1, "c", size - 20, 20)
        np.testing.assert_array_equal(long[-20:], tail.astype(np.float32))

    def test_repeat_and_onehot(self):
        plain = {"shape": [2, 3, 4], "dtype": "F64", "dist": "normal"}
        rows = mr3d_random.draw({**plain, "repeat": True}, 0, "r")
        once = mr3d_random.draw(plain, 0, "r")
        np.testing.assert_array_equal(rows, np.repeat(once[:, :1], 3, axis=1))
        onehot = mr3d_random.draw({**plain, "dist": "onehot", "shape": [1, 5, 3]}, 0, "o")
        np.testing.assert_array_equal(onehot[0], np.eye(3)[[0, 1, 2, 0, 1]])
        with self.assertRaisesRegex(ValueError, "two axes"):
            mr3d_random.draw({**plain, "shape": [4], "repeat": True}, 0, "r")

    def test_bf16_is_one_rounding(self):
        codes = np.arange(65536, dtype=np.uint32).astype(np.uint16)
        exact = mr3d_random.widen(codes, "BF16")
        number = ~np.isnan(exact)
        np.testing.assert_array_equal(mr3d_random.bf16_codes(exact)[number], codes[number])
        self.assertTrue((mr3d_random.bf16_codes(exact[~number]) == 0x7FC0).all())
        # Between neighbours: the middle goes to the even code, the least bit more goes up.
        low = codes[(codes < 0x7F7F)]
        middle = (exact[low] + exact[low + 1]) / 2
        np.testing.assert_array_equal(mr3d_random.bf16_codes(middle), low + (low & 1))
        np.testing.assert_array_equal(mr3d_random.bf16_codes(np.nextafter(middle, np.inf)), low + 1)
        np.testing.assert_array_equal(mr3d_random.bf16_codes(np.nextafter(middle, 0)), low)
        self.assertEqual(mr3d_random.bf16_codes(np.array([1e39]))[0], 0x7F80)

    def test_f16_is_one_rounding(self):
        middle = 1 + 2.0 ** -11  # between 1 and its neighbour; 2^-40 more is lost on the way through binary32
        self.assertEqual(mr3d_random.convert([middle, middle + 2.0 ** -40], "F16").tolist(), [1, 1 + 2.0 ** -10])
        self.assertEqual(mr3d_random.convert([65520], "F16")[0], np.inf)

    def test_whole_numbers_only(self):
        for dtype, value in (("I64", 0.5), ("U8", 256), ("U8", -1), ("I32", 2.0 ** 31), ("BOOL", 2)):
            with self.assertRaisesRegex(ValueError, dtype):
                mr3d_random.convert([value], dtype)


class RecipeTest(unittest.TestCase):
    def test_sources(self):
        self.assertEqual(make({"shape": [2, 2], "dtype": "I64", "values": [1, 2, 3, 4]}).array.tolist(), [[1, 2], [3, 4]])
        self.assertEqual(make({"shape": [3], "dtype": "F32", "arange": [1, 0.5]}).array.tolist(), [1, 1.5, 2])
        mask = make({"shape": [2, 3], "dtype": "BOOL", "runs": [[[1, 2], [0, 1]], [[0, 3]]]})
        self.assertEqual((mask.dtype, mask.array.tolist()), ("BOOL", [[True, True, False], [False] * 3]))

    def test_tier_is_the_storage_type(self):
        recipe = {"shape": [4], "dtype": "tier", "dist": "normal"}
        exact = make(recipe).array
        for tier, dtype in recipes.TIERS.items():
            drawn = make(recipe, tier=tier)
            self.assertEqual(drawn.dtype, dtype)
            np.testing.assert_array_equal(drawn.array, mr3d_random.convert(exact, dtype))

    def test_poke(self):
        poke = {"0": "nan", "1": "inf", "2": "-inf", "3": "-0", "5": 1.5}
        for dtype in ("F64", "F32", "F16", "BF16"):
            poked = make({"shape": [2, 3], "dtype": dtype, "dist": "const", "poke": poke})
            values = mr3d_random.widen(poked.array, dtype).reshape(-1)
            self.assertTrue(np.isnan(values[0]))
            self.assertEqual(values[1:].tolist(), [np.inf, -np.inf, 0, 1, 1.5])
            self.assertTrue(np.signbit(values[3]))

    def test_malformed_recipes(self):
        good = {"shape": [2], "dtype": "F64", "values": [1, 2]}
        for recipe, message in (
                ({**good, "dist": "const"}, "exactly one"), ({"shape": [2], "dtype": "F64"}, "exactly one"),
                ({**good, "scale": 2}, "scale"), ({"dtype": "F64", "values": [1, 2]}, "shape"),
                ({**good, "shape": [3]}, "2 values"), ({**good, "runs": [[[1, 2]]]}, "exactly one")):
            with self.assertRaisesRegex(RecipeError, message):
                make(recipe)

    def test_prompt(self):
        recipe = {"shape": [1, 3], "dtype": "I64", "prompt": "some/name"}
        case = maker()
        case.data = None
        with self.assertRaisesRegex(RecipeError, "MR3D_DATA"):
            case.make(recipe, "s")
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "prompt_ids.json").write_text('{"some/name": [5, 6, 7], "other": [1]}')
            case.data = folder
            self.assertEqual(case.make(recipe, "s").array.tolist(), [[5, 6, 7]])
            with self.assertRaisesRegex(RecipeError, r"\[1, 1\]"):
                case.make({**recipe, "prompt": "other"}, "s")

    def test_argmax(self):
        case = maker()
        case.logits[2] = np.array([[[9.0, 0, 0], [0, 1, 3]], [[0, 0, 9], [5, 5, 1]]])
        self.assertEqual(case.make({"shape": [2, 1], "dtype": "I64", "argmax": [2]}, "s").array.tolist(), [[2], [0]])

    def test_embeds_agree_with_the_models_splice(self):
        config = {"point_start_token_id": 20, "point_end_token_id": 21}
        ids = {"shape": [3, 8], "dtype": "I64", "dist": "int", "lo": 0, "hi": 19,
               "poke": {"2": 20, "4": 21, "8": 20, "15": 21}}  # markers at 2 and 4, at 0 and 7, none
        counts = [5, 1, 0]
        features = {"shape": [3, 5, 6], "dtype": "tier", "dist": "normal"}
        table = {"shape": [22, 6], "dtype": "tier", "dist": "heavy"}
        recipe = {"shape": [3, 12, 6], "dtype": "tier",
                  "embeds": {"ids": ids, "features": features, "point_counts": counts}}
        for tier in ("fp64", "bf16"):
            case = maker(tier, config, weights="w", sets={"w": {"model.embed_tokens.weight": table}})
            embeds = recipes.to_torch(case.make(recipe, "a/b/0/e"))
            token_ids = recipes.to_torch(case.make(ids, "a/b/0/e.ids"))
            points = recipes.to_torch(case.make(features, "a/b/0/e.features"))
            rows = recipes.to_torch(case.make(table, "w/model.embed_tokens.weight"))
            spliced = operators.splice(token_ids, torch.ones_like(token_ids), counts, 20, 21)
            expected = operators.splice_rows(spliced, rows[token_ids], [p[:n] for p, n in zip(points, counts)])
            self.assertTrue(torch.equal(embeds, expected))

    def test_scene(self):
        scene = recipes.scene()
        self.assertEqual(scene["points"].shape, (106328, 6))
        self.assertEqual(scene["coords"].shape, (556, 3))
        self.assertEqual(scene["grid"].shape, cases.SCENE_GRID)
        self.assertEqual(scene["features"].shape, (cases.SCENE_GRID[0], 6))
        self.assertTrue((~np.isfinite(scene["points"])).any(), "the canonical scan has rows to drop")
        made = maker("bf16").make(cases.scene("features", cases.SCENE_GRID[0], 6), "a/b/0/x")
        np.testing.assert_array_equal(made.array, mr3d_random.bf16_codes(scene["features"]))

    def test_ply_of_another_form_is_refused(self):
        blob = (HERE / "scene" / "canonical.ply").read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.ply"
            for broken in (blob[:-1], blob + b"x", blob.replace(b"uchar red", b"uchar rot", 1),
                           blob.replace(b"little", b"big", 1), b"", b"ply\n"):
                path.write_bytes(broken)
                with self.assertRaises(RecipeError):
                    recipes.read_ply(path)

    def test_safetensors_are_the_librarys_and_equal_bytes(self):
        case = maker("bf16")
        made = {"b": case.make({"shape": [3], "dtype": "BOOL", "values": [1, 0, 1]}, "b"),
                "x": case.make({"shape": [2, 5], "dtype": "tier", "dist": "heavy"}, "x"),
                "y": case.make({"shape": [7], "dtype": "F64", "dist": "normal"}, "y"),
                "z": case.make({"shape": [0, 3], "dtype": "I64", "values": []}, "z")}
        blob = b"".join(recipes.safetensors(made, {"b": "ü", "a": "1"}))
        self.assertEqual(blob, b"".join(recipes.safetensors(dict(reversed(made.items())), {"a": "1", "b": "ü"})))
        header = json.loads(blob[8:8 + struct.unpack("<Q", blob[:8])[0]])
        self.assertEqual(header["__metadata__"], {"a": "1", "b": "ü"})
        for name, value in safetensors.torch.load(blob).items():
            again = recipes.from_torch(value)
            self.assertEqual((again.dtype, again.array.tobytes()), (made[name].dtype, made[name].array.tobytes()))


class CaseListTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.suite = Suite.load()

    def test_committed_file_is_what_the_program_writes(self):
        cases.all_cases()
        self.assertEqual((HERE / "cases.json").read_text(), cases.text())

    def test_every_recipe_is_well_formed(self):
        def visit(recipe, where):
            self.assertIn(recipe["dtype"], {"tier", *mr3d_random.STORAGE}, where)
            source = recipes.source_of(recipe, where)
            for nested in ("ids", "features") if source == "embeds" else ():
                visit(recipe["embeds"][nested], where)

        for case in self.suite.cases.values():
            for number, step in enumerate(case["steps"]):
                for name, recipe in step["inputs"].items():
                    visit(recipe, f"{case['id']}/{number}/{name}")
                if step["op"] in ("prefill", "encode_points") and "weights" not in step.get("message", ()):
                    self.assertIn(step.get("weights", case.get("weights")), self.suite.weights, case["id"])
        for name, tensors in self.suite.weights.items():
            for tensor, recipe in tensors.items():
                visit(recipe, f"{name}/{tensor}")

    def test_keys_levels_and_errors(self):
        for case in self.suite.cases.values():
            self.assertLessEqual(set(case), {"id", "title", "why", "level", "pitfalls", "tags", "config", "weights",
                                             "tiers", "needs", "steps"})
            refused = [step for step in case["steps"] if step.get("expect") == "error"]
            self.assertEqual("error" in case["tags"], bool(refused), case["id"])
            for step in refused:
                self.assertTrue(step["message"] and all(isinstance(part, str) and part for part in step["message"]), case["id"])

    def test_every_pitfall_has_cases(self):
        covered = {slug for case in self.suite.cases.values() for slug in case["pitfalls"]}
        self.assertEqual(covered, set(cases.PITFALLS))

    def test_sets_of_encoders_hold_what_the_model_reads(self):
        for case in self.suite.cases.values():
            if case["id"].startswith("encode-points/") and "error" not in case["tags"]:
                drawn = {name: recipe["shape"] for name, recipe in self.suite.weights[case["weights"]].items()}
                for name, shape in encoders.tensor_shapes(encoders.encoder_config(case["config"], None)).items():
                    self.assertEqual(drawn[name], shape, (case["id"], name))
        for given in encode_scans.ENCODERS.values():
            drawn = {name: recipe["shape"] for name, recipe in cases.encoder_weights(given).items()}
            self.assertEqual(drawn, encoders.tensor_shapes(encoders.encoder_config(given, None)))

    def test_cells_of_cases_are_sorted_unless_they_must_be_refused(self):
        for case in self.suite.cases.values():
            for number, step in enumerate(case["steps"]):
                if step["op"] == "encode_points" and "error" not in case["tags"]:
                    grid = Maker(self.suite, case).make(step["inputs"]["grid"], f"{case['id']}/{number}/grid").array.tolist()
                    self.assertEqual(grid, [list(cell) for cell in sorted(set(map(tuple, grid)))], case["id"])

    def test_floating_coordinates_are_exact_in_f32(self):
        for case in self.suite.cases.values():
            for number, step in enumerate(case["steps"]):
                for name, recipe in step["inputs"].items():
                    if name in ("coords", "point_coords") and recipe["dtype"] == "F64":
                        made = Maker(self.suite, case).make(recipe, f"{case['id']}/{number}/{name}").array
                        np.testing.assert_array_equal(made[np.isfinite(made)], made[np.isfinite(made)].astype(np.float32))

    def test_numbers_of_the_design_document(self):
        def shape(case, step, name):
            return self.suite.cases[case]["steps"][step]["inputs"][name]["shape"]

        self.assertEqual(shape("mask/decode-232-of-787", 0, "key_mask"), [1, 232])
        self.assertEqual(self.suite.cases["mask/decode-232-of-787"]["steps"][0]["meta"], {"past_len": "786", "q_len": "1"})
        self.assertEqual(shape("mixed-rope/refuse-106328-for-556", 0, "point_coords"), [106328, 3])
        self.assertEqual(shape("decode/canonical-231", 0, "inputs_embeds"), [1, 786, 896])
        self.assertEqual([shape("decode/canonical-231", t, "attention_mask") for t in (1, 8)], [[1, 232], [1, 239]])
        self.assertEqual(shape("mixed-rope/refuse-14-for-2", 0, "freqs_kv"), [3, 14, 16])


class GoldenTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.suite = Suite.load()
        torch.set_num_threads(1)

    def made(self, *ids):
        with tempfile.TemporaryDirectory() as folder:
            runner = generate.Runner(self.suite, folder, None, 0)
            return [runner.golden(self.suite.cases[name]) for name in ids]

    def test_rows(self):
        for shape, points in (((1, 786, 896), (25, 580)), ((1, 2, 786, 64), (25, 580)), ((1, 1, 151936), None), ((3, 9000), None)):
            rows = generate.chosen_rows(shape, points)
            width = generate.columns(shape)
            total = int(np.prod(shape)) // width
            self.assertTrue((np.diff(rows) > 0).all() and rows[0] == 0 and rows[-1] == total - 1)
            self.assertLessEqual(len(rows), 16)
            if points:
                self.assertLessEqual({24, 25, 580, 581}, set(rows.tolist()))
        self.assertEqual(generate.columns((1, 1, 151936)), 2374)

    def test_digest_is_of_all_rows(self):
        rows = np.random.default_rng(0).standard_normal((50, 7))
        signs = [[-1 if philox(0, f"digest/{k}", r) & 1 else 1 for r in range(50)] for k in range(4)]
        np.testing.assert_allclose(generate.digest(rows, 4), np.array(signs) @ rows, rtol=0, atol=1e-12)
        changed = rows.copy()
        changed[31, 3] += 1e-3
        self.assertEqual((generate.digest(changed, 4) != generate.digest(rows, 4)).any(axis=0).tolist(), [c == 3 for c in range(7)])

    def test_digests_sum_no_padding(self):
        """Rows of padding are not compared, so a case with padding keeps its outputs whole."""
        for path in (HERE / "set").glob("*.gz"):
            tensors, metadata = generate.load(path)
            if any(name.endswith(".digest") for name in tensors):
                for step in self.suite.cases[metadata["case"]]["steps"]:
                    for name in ("attention_mask", "key_mask"):
                        recipe = step["inputs"].get(name, {})
                        if recipe.get("runs") and step["op"] not in ("splice", "decode"):
                            self.assertTrue(all(row[-1][0] == 1 for row in recipe["runs"]), metadata["case"])

    def test_the_whole_model_keeps_less_and_its_layers(self):
        case = self.suite.cases["decode/greedy"]
        case = {**case, "tags": [*case["tags"], "whole"]}
        rows = generate.chosen_rows((1, 786, 896), (25, 580), generate.keeping_of(case))
        self.assertEqual(rows.tolist(), [0, 24, 25, 785])
        self.assertEqual(generate.keeping_of(self.suite.cases["decode/greedy"]), generate.Keeping())
        with tempfile.TemporaryDirectory() as folder:
            runner = generate.Runner(self.suite, folder, None, 0)
            tensors, _ = runner.golden(case)
            weights = safetensors.torch.load_file(runner.weights("small-probe", "fp64"))
        layers = [tensors[f"0.trace.{n}.output"].array for n in (0, 1)]
        self.assertNotIn("0.trace.2.output", tensors)
        self.assertIn("0.trace.1.output.stock.bf16", tensors)
        self.assertNotIn("1.logits.stock.bf16", tensors)
        normed = [x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weights["model.norm.weight"].numpy() for x in layers]
        np.testing.assert_allclose(normed[1], tensors["0.hidden"].array, rtol=1e-12)
        self.assertGreater(np.abs(normed[0] - normed[1]).max(), 0.01)

    def test_committed_goldens_are_made_again(self):
        names = ["mask/decode-232-zeros-before", "mixed-rope/option-interleaved", "swiglu/canonical", "decode/greedy",
                 "decode/refused-changes-nothing"]
        for name, (tensors, metadata) in zip(names, self.made(*names)):
            committed = generate.load(HERE / "set" / generate.file_name({"id": name}))
            apart = generate.difference(committed, (tensors, metadata))
            self.assertTrue(not isinstance(apart, str) and apart <= 1, f"{name}: {apart}")

    def test_a_difference_is_seen(self):
        (golden,) = self.made("rmsnorm/odd")
        self.assertEqual(generate.difference(golden, copy.deepcopy(golden)), 0)
        for change in (lambda t: t["0.y"].array.__setitem__((0, 0), np.nan),
                       lambda t: t["0.y"].array.__setitem__((2, 3), t["0.y"].array[2, 3] + 1e-9),
                       lambda t: t.pop("0.y"), lambda t: t.update(extra=t["0.y"])):
            other = copy.deepcopy(golden)
            change(other[0])
            apart = generate.difference(golden, other)
            self.assertTrue(isinstance(apart, str) or apart > 1)
        self.assertIsInstance(generate.difference(golden, (golden[0], {**golden[1], "0.error": "1"})), str)

    def test_a_case_and_the_model_that_disagree_fail(self):
        answered = copy.deepcopy(self.suite.cases["rmsnorm/refuse-nan"])
        del answered["steps"][0]["inputs"]["x"]["poke"]
        refused = copy.deepcopy(self.suite.cases["rmsnorm/odd"])
        refused["steps"][0]["inputs"]["weight"]["shape"] = [12]
        with tempfile.TemporaryDirectory() as folder:
            runner = generate.Runner(self.suite, folder, None, 0)
            for case, message in ((answered, "must be refused"), (refused, "refused: weight")):
                with self.assertRaisesRegex(generate.Failure, message):
                    runner.golden(case)

    def test_manifest_lists_the_set(self):
        manifest = json.loads((HERE / "manifest.json").read_text())
        self.assertEqual(manifest["cases_sha256"], hashlib.sha256((HERE / "cases.json").read_bytes()).hexdigest())
        self.assertEqual({entry["path"] for entry in manifest["files"]}, {f"set/{p.name}" for p in (HERE / "set").iterdir()})
        self.assertEqual([entry["case"] for entry in manifest["files"]], list(self.suite.cases))
        for entry in manifest["files"]:
            blob = (HERE / entry["path"]).read_bytes()
            self.assertEqual((entry["sha256"], entry["bytes"]), (hashlib.sha256(blob).hexdigest(), len(blob)))
            self.assertEqual(blob[4:8], bytes(4), "a gzip time stamp")
        self.assertLess(sum(entry["bytes"] for entry in manifest["files"]), 40_000_000)

    def test_library_errors_hold_the_numbers(self):
        found = json.loads((HERE / "library_errors.json").read_text())
        for experiment in found["experiments"]:
            if experiment["message"]:
                for number in experiment["numbers"]:
                    self.assertIn(str(number), experiment["message"])
        self.assertTrue(any(e["pitfall"] == "mask-length" and e["message"] for e in found["experiments"]))
        self.assertTrue(any(e["pitfall"] == "gqa-heads" and e["message"] for e in found["experiments"]))


if __name__ == "__main__":
    unittest.main()
