"""Traces of PyTorch models: every point in its shape and of its value, in prefill and decode; the file; and that nothing is left behind."""

import hashlib
import json
import os
import re
import sys
import unittest

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import END, PAD, ROOT, START, Folder, Random, config, model_tensors, truth
from test_backends import BACKENDS, BYE, HELLO, MINE, request, talk
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(ROOT / "tools"))
from trace_torch import Trace, Tracer, Writer, digest

SIZES = dict(hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, vocab_size=96,
             rms_norm_eps=1e-6, rope_theta=10000.0)
T, NEW = 7, 3
INPUTS = {"input_ids", "attention_mask", "point_token_mask", "point_coords", "point_counts"}


def documented(head: str) -> dict[str, str]:
    """{point: shape} of a table in docs/protocol.md."""
    text = (ROOT / "docs" / "protocol.md").read_text().split("## Traces")[1]
    rows = text.split(f"| `{head}` | shape |")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| \[([^\]]*)\]", rows, re.M))


def stock(model_class, config_class, attention: str, dtype=torch.float32):
    torch.manual_seed(3)
    model = model_class._from_config(config_class(**SIZES), attn_implementation=attention, torch_dtype=dtype)
    return model.eval()


class Stock(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "t.safetensors")

    def trace(self, model, batch: int = 1, mask=None, **options):
        ids = torch.arange(batch * T).reshape(batch, T)
        with torch.no_grad(), Trace(model, self.path, **options):
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask, max_new_tokens=NEW, do_sample=False,
                                 pad_token_id=0)
        return load_file(self.path), out

    def check(self, points: dict, batch: int):
        for step in range(NEW):
            q = 1 if step else T
            length = T + step - 1 if step else 0
            sizes = {"B": batch, "q": q, "K": length + q, "H": 6, "G": 2, "D": 8, "hidden": 48, "I": 40, "V": 96, "k": 1, "2": 2, "1": 1, "B or 1": batch,
                     "M": length + q, "T": q}
            for layer in ("0", "1", "model"):
                for point, shape in documented("model." if layer == "model" else "LAYER.").items():
                    if point in INPUTS - {"input_ids", "attention_mask"}:
                        continue
                    tensor = points[f"{step}.{layer}.{point}"]
                    expected = [sizes[s] for s in shape.split(",")]
                    if point == "position_ids":
                        self.assertIn(list(tensor.shape), [expected, [1, q]])
                    else:
                        self.assertEqual(list(tensor.shape), expected, point)
            self.assertEqual(points[f"{step}.1.cache_length"].tolist(), [length, length + q])
            for layer in ("0", "1"):
                p = {name: points[f"{step}.{layer}.{name}"].double() for name in documented("LAYER.")}
                self.check_layer(p, batch, q)

    def check_layer(self, p, batch, q):
        near = lambda a, b, what: self.assertLess((a - b).abs().max().item(), 2e-6 * b.abs().max().item() + 1e-12, what)
        near(p["attention_residual"], p["input"] + p["o_proj"], "attention_residual")
        near(p["output"], p["attention_residual"] + p["down"], "output")
        near(p["gated"], torch.nn.functional.silu(p["gate"]) * p["up"], "gated")
        near(p["key_cache"][:, :, -q:], p["key_rotated"], "key_cache")
        near(p["value_cache"][:, :, -q:], p["value"], "value_cache")
        scores = p["query_rotated"] @ p["key_cache"].repeat_interleave(3, 1).mT / 8 ** 0.5
        scores = scores.masked_fill(p["visible"][:, None] == 0, -torch.inf)
        near(p["scores_max"], scores.amax(-1), "scores_max")
        near(p["scores_lse"], scores.logsumexp(-1), "scores_lse")
        near(p["context"], scores.softmax(-1) @ p["value_cache"].repeat_interleave(3, 1), "context")
        for side in ("query", "key"):  # a rotation keeps lengths, and at position 0 it is none
            near(p[side + "_rotated"].norm(dim=-1), p[side].norm(dim=-1), side)

    def test_every_point_of_stock_models_is_there_and_right(self):
        for classes in ((Qwen2ForCausalLM, Qwen2Config), (LlamaForCausalLM, LlamaConfig)):
            for attention in ("eager", "sdpa"):
                for batch in (1, 2):
                    with self.subTest(classes[0].__name__, attention=attention, batch=batch):
                        points, _ = self.trace(stock(*classes, attention), batch)
                        self.check(points, batch)

    def test_padding_is_not_visible(self):
        mask = torch.ones(2, T, dtype=torch.int64)
        mask[1, :2] = 0
        for attention in ("eager", "sdpa"):
            points, _ = self.trace(stock(Qwen2ForCausalLM, Qwen2Config, attention), 2, mask)
            visible = points["0.1.visible"]
            self.assertEqual(visible[1, T - 1].tolist(), [False] * 2 + [True] * (T - 2))
            self.assertEqual(visible[0, T - 1].tolist(), [True] * T)
            self.assertEqual(points["1.0.visible"][1, 0].tolist(), [False] * 2 + [True] * (T - 1))

    def test_nothing_is_left_behind_and_the_outcome_is_the_same(self):
        model = stock(Qwen2ForCausalLM, Qwen2Config, "eager")
        import transformers.models.qwen2.modeling_qwen2 as library
        wrapped = model.model.layers[1].self_attn  # as another tool may have done before
        forward = wrapped.forward = lambda *a, **k: type(wrapped).forward(wrapped, *a, **k)
        turn, before = library.apply_rotary_pos_emb, dict(vars(model.model.layers[0].self_attn))
        ids = torch.arange(T)[None]
        with torch.no_grad():
            plain = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        _, traced = self.trace(model)
        self.assertTrue(torch.equal(plain, traced))
        self.assertIs(library.apply_rotary_pos_emb, turn)
        self.assertEqual(set(vars(model.model.layers[0].self_attn)), set(before))
        self.assertIs(wrapped.forward, forward)
        for module in model.modules():
            self.assertFalse(module._forward_hooks or module._forward_pre_hooks)

    def test_after_an_error_no_file_is_written_and_hooks_are_gone(self):
        model = stock(Qwen2ForCausalLM, Qwen2Config, "eager")
        with open(self.path, "w") as file:
            file.write("kept")
        with self.assertRaises(IndexError), torch.no_grad(), Trace(model, self.path):
            model(torch.tensor([[1, 2, 9999]]))
        with open(self.path) as file:
            self.assertEqual(file.read(), "kept")
        self.assertEqual(os.listdir(self.folder.name), ["t.safetensors"])
        self.assertFalse(model.model._forward_pre_hooks)

    def test_metadata_says_what_it_was_computed_from(self):
        model = stock(Qwen2ForCausalLM, Qwen2Config, "eager", torch.bfloat16)
        points, _ = self.trace(model, metadata={"note": "mine"})
        with safe_open(self.path, "pt") as file:
            meta = file.metadata()
        self.assertEqual((meta["trace"], meta["tier"], meta["note"]), ("1", "bf16", "mine"))
        self.assertEqual(json.loads(meta["config"])["hidden_size"], 48)
        digests = json.loads(meta["weights_sha256"])
        name = "model.layers.1.self_attn.k_proj.weight"
        weight = model.state_dict()[name]
        self.assertEqual(digests[name], hashlib.sha256(weight.float().numpy().tobytes()).hexdigest())
        self.assertEqual(points["0.1.query"].dtype, torch.bfloat16)
        self.assertTrue(torch.equal(points["weights.model.norm.weight"], model.state_dict()["model.norm.weight"]))
        points, _ = self.trace(model, weights="none")
        self.assertFalse([name for name in points if name.startswith("weights.")])

    def test_points_are_chosen_by_globs(self):
        points, _ = self.trace(stock(Qwen2ForCausalLM, Qwen2Config, "eager"), points="1.*.q*,*.model.logits", weights="none")
        self.assertEqual(sorted(points), sorted([f"1.{n}.{p}" for n in (0, 1) for p in ("query", "query_rotated")] +
                                                [f"{s}.model.logits" for s in range(NEW)]))

    def test_a_model_of_another_kind_says_what_is_missing(self):
        with self.assertRaisesRegex(TypeError, "has no decoder with `layers` and `norm`"):
            Trace(torch.nn.Linear(2, 2), self.path)

    def test_modules_of_other_names_are_found_by_a_map(self):
        model = stock(Qwen2ForCausalLM, Qwen2Config, "eager")
        for layer in model.model.layers:
            layer.ln_1 = layer.input_layernorm
        points, _ = self.trace(model, modules={"input_norm": "ln_1"}, points="0.0.input_norm,0.0.query")
        self.assertEqual(points["0.0.input_norm"].shape, (1, T, 48))


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)

    def test_what_is_written_piece_by_piece_reads_back(self):
        path, random = os.path.join(self.folder.name, "w"), Random(5)
        for room in (1 << 20, 8):  # with room for the header, and with too little
            writer, tensors = Writer(path), {}
            writer.room = room
            writer.file.seek(8 + room)
            for n, (dtype, size) in enumerate([(torch.float32, 3), (torch.bool, 5), (torch.float64, 2), (torch.bfloat16, 7), (torch.int64, 1), (torch.float32, 0)]):
                tensors[f"0.{n}.x"] = random(1, size).to(dtype)
                writer.add(f"0.{n}.x", tensors[f"0.{n}.x"])
            writer.metadata = {"trace": "1"}
            writer.close()
            read = load_file(path)
            self.assertEqual(set(read), set(tensors))
            for name, tensor in tensors.items():
                self.assertTrue(torch.equal(read[name], tensor), name)
        self.assertEqual(os.listdir(self.folder.name), ["w"])

    def test_a_digest_does_not_depend_on_the_type_that_holds_the_values(self):
        x = Random(6)(3, 5).to(torch.bfloat16)
        self.assertEqual(digest(x), digest(x.float()))
        self.assertEqual(digest(x), digest(x.double()))
        self.assertNotEqual(digest(Random(6)(3, 5)), digest(Random(6)(3, 5).float()))


class MixedRope(unittest.TestCase):
    """The model of golden/mixedrope3d, points and all."""

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)

    def test_points_of_a_scan_and_both_rotations_are_traced(self):
        given, random = config(), Random(31)
        weights = self.folder.save(model_tensors(Random(32), given))
        model = truth().model(given, weights)
        ids = torch.tensor([[1, 2, START, PAD, END, 3]])
        features, coords = random(5, 48), random.integers(80, 5, 3)
        path = os.path.join(self.folder.name, "t.safetensors")
        with torch.no_grad(), Trace(model, path):
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), point_features=features, point_coords=coords, max_new_tokens=2, do_sample=False, pad_token_id=0)
        points = load_file(path)
        S = 6 - 1 + 5
        for layer in ("0", "1", "model"):
            for point in documented("model." if layer == "model" else "LAYER."):
                if point in ("input_ids", "point_counts"):
                    continue
                self.assertIn(f"0.{layer}.{point}", points)
        self.assertEqual(points["0.model.point_token_mask"][0].nonzero().flatten().tolist(), [3, 4, 5, 6, 7])
        self.assertTrue(torch.equal(points["0.model.point_coords"], coords[None]))
        self.assertEqual(points["0.model.attention_mask"].shape, (1, S))
        self.assertEqual(points["1.model.position_ids"].tolist(), [[S]])
        self.assertEqual(points["1.1.key_cache"].shape, (1, 2, S + 1, 16))
        self.assertNotIn("1.model.point_token_mask", points)  # a decode step has no points
        self.assertFalse(torch.equal(points["0.0.query"], points["0.0.query_rotated"]))


class Kit(unittest.TestCase):
    """The kit: a backend says that it gives traces, and gives those that are asked for."""

    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)

    def talk(self, traces: bool, *frames: bytes):
        path = os.path.join(self.folder.name, "mine.py")
        source = MINE.format(path=str(BACKENDS)).replace('("fp64", "bf16")', '("fp64", "bf16")' + ("\n    traces = True" if traces else ""))
        source = source.replace('        print("this goes to the log")', '        request.trace("0.gate", request.tensors["gate"])\n        request.trace("0.up", request.tensors["up"])')
        with open(path, "w") as file:
            file.write(source)
        return talk([sys.executable, path], *frames)

    def test_points_come_beside_the_outputs(self):
        x = {"gate": torch.ones(2, dtype=torch.float64), "up": torch.ones(2, dtype=torch.float64)}
        status, answers, log = self.talk(True, HELLO, request(1, "swiglu", x, trace="0.g*"), request(2, "swiglu", x), BYE)
        self.assertEqual(status, 0, log)
        self.assertEqual(answers[0][0]["traces"], "1")
        self.assertEqual(set(answers[1][1]), {"y", "trace.0.gate"})
        self.assertEqual(set(answers[2][1]), {"y"})

    def test_a_backend_without_them_says_unsupported(self):
        x = {"gate": torch.ones(2, dtype=torch.float64), "up": torch.ones(2, dtype=torch.float64)}
        status, answers, log = self.talk(False, HELLO, request(1, "swiglu", x, trace="*"), request(2, "swiglu", x), BYE)
        self.assertEqual(status, 0, log)
        self.assertNotIn("traces", answers[0][0])
        self.assertEqual(answers[1][0]["type"], "unsupported")
        self.assertIn("gives no traces", answers[1][0]["message"])
        self.assertEqual(set(answers[2][1]), {"y"})


if __name__ == "__main__":
    unittest.main()
