"""Checkpoints as transformers' own `save_pretrained` writes them, read by `mr3d eval` and `mr3d run` and held against the model that wrote them."""

import json
import os
import subprocess
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from support import END, PAD, ROOT, START, Folder, Random, assert_close, config
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

import mr3d_random
from mixedrope3d.configuration import MixedRope3DConfig
from mixedrope3d.modeling import MixedRope3DForCausalLM

logging.set_verbosity_error()
logging.disable_progress_bar()

MR3D = Path(os.environ.get("MR3D", ROOT / "build" / "tools" / "mr3d"))
Q, POINTS, FIRST = 14, 6, 4
FAR = 1e-10  # of the largest logit


@unittest.skipUnless(MR3D.exists(), f"{MR3D} is not built; set MR3D to the program")
class Checkpoints(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)
        random = Random(5)
        self.embeds = random(1, Q, 48, scale=0.5)
        self.points = torch.zeros(1, Q, dtype=torch.bool)
        self.points[:, FIRST:FIRST + POINTS] = True
        self.coords = random.integers(80, POINTS, 3)

    def model(self, dtype=torch.float64, tied=True, **options) -> MixedRope3DForCausalLM:
        torch.manual_seed(3)
        made = MixedRope3DForCausalLM(MixedRope3DConfig(true_precision=True, **config(tie_word_embeddings=tied, **options)))
        return self.stirred(made).to(dtype).eval()

    def stirred(self, model):
        """The model with parameters far from their initial values, which hide mistakes: attention is flat, angles are small."""
        random = Random(4)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                tensor.copy_(random(*tensor.shape, scale=0.3, shift=float("norm" in name or "axial" in name or "freqs" in name)))
        return model

    def saved(self, model, name: str, **keys) -> Path:
        path = Path(self.folder.name) / name
        model.save_pretrained(path, **keys)
        return path

    def mr3d(self, *words) -> subprocess.CompletedProcess:
        return subprocess.run([str(MR3D), *map(str, words)], capture_output=True, text=True, timeout=300, check=False)

    def evaluated(self, weights: Path, points: bool = True, **options):
        """(process, logits) of `mr3d eval` on a prefill whose configuration is the checkpoint's own config.json."""
        given = json.loads((weights / "config.json").read_text()) | options
        request, answer = Path(self.folder.name) / "0.req.safetensors", Path(self.folder.name) / "0.ans.safetensors"
        tensors = {"inputs_embeds": self.embeds, "attention_mask": torch.ones(1, Q, dtype=torch.int64)}
        if points:
            tensors |= {"point_token_mask": self.points, "point_coords": self.coords}
        save_file(tensors, request, {"op": "prefill", "tier": "fp64", "session": "s", "weights": str(weights), "config": json.dumps(given)})
        done = self.mr3d("eval", request, "-o", answer)
        return done, load_file(answer).get("logits")

    def expected(self, model) -> torch.Tensor:
        with torch.no_grad():
            return model.double()(inputs_embeds=self.embeds, attention_mask=torch.ones(1, Q, dtype=torch.int64),
                                  point_token_mask=self.points, point_coords=self.coords).logits

    def check_checkpoint(self, model, path: Path, sharded: bool):
        self.assertEqual((path / "model.safetensors.index.json").exists(), sharded)
        done, logits = self.evaluated(path)
        self.assertEqual(done.returncode, 0, done.stderr)
        assert_close(self, logits, self.expected(model), FAR, str(path))

    def test_every_type_tied_or_not_in_one_file_or_shards(self):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            for tied in (True, False):
                for shards in (None, "20KB"):
                    with self.subTest(dtype=dtype, tied=tied, shards=shards):
                        model = self.model(dtype, tied)
                        path = self.saved(model, f"{dtype}-{tied}-{shards}", **({"max_shard_size": shards} if shards else {}))
                        if shards:
                            self.assertGreater(len(list(path.glob("model-*.safetensors"))), 3)
                        self.check_checkpoint(model, path, bool(shards))

    def test_options_go_along_in_config_json(self):
        for options in ({"mixed_rope_layout": "interleaved"}, {"rope_mixed_3d": False}, {"mixedRoPE_3d_learned_per_axis": False},
                        {"rope_theta_3d": 10000, "mixedRoPE_3d_learned_axial_mixing_weight": False}):
            with self.subTest(**options):
                model = self.model(**options)
                self.check_checkpoint(model, self.saved(model, str(sorted(options)), max_shard_size="100KB"), True)

    def stock(self) -> tuple[Qwen2ForCausalLM, Path]:
        """A Qwen2 checkpoint that knows nothing of points."""
        torch.manual_seed(6)
        plain = {key: value for key, value in config().items() if "point" not in key and key != "head_dim"}
        made = self.stirred(Qwen2ForCausalLM(Qwen2Config(**plain | {"hidden_size": 96, "num_attention_heads": 6})).double()).eval()
        self.embeds = Random(5)(1, Q, 96, scale=0.5)
        return made, self.saved(made, "stock", max_shard_size="60KB")

    def completed(self, path: Path, seed: int) -> MixedRope3DForCausalLM:
        """The stock checkpoint with the rotary parameters that `--init-missing` draws, made from docs/generator.md alone."""
        model = MixedRope3DForCausalLM.from_pretrained(path, true_precision=True, torch_dtype=torch.float64).eval()
        bins = 4
        base = torch.tensor([100 ** (-2 * f / (2 * bins)) for f in range(bins)], dtype=torch.float64)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "_3d_" in name:
                    recipe = {"dist": "normal", "scale": 0.01, "shape": list(tensor.shape), "dtype": "F64"}
                    draw = torch.from_numpy(mr3d_random.draw(recipe, seed, name).reshape(tensor.shape))
                    tensor.copy_((base if "freqs" in name else 1) + draw)
        return model

    def test_stock_qwen2_reads_text_and_reports_what_points_need(self):
        model, path = self.stock()
        done, logits = self.evaluated(path, points=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with torch.no_grad():
            # the library casts norms, tables and softmax down to float32 even in float64
            assert_close(self, logits, model(inputs_embeds=self.embeds).logits, 1e-5, "stock")
        done, _ = self.evaluated(path)
        self.assertEqual(done.returncode, 1)
        for words in ("8 tensors are missing", "model.layers.0.self_attn.freqs_3d_q [3,6,4] (in 2 of 2 layers)", "--init-missing SEED"):
            self.assertIn(words, done.stderr)
        done, logits = self.evaluated(path, rope_mixed_3d=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        fixed = MixedRope3DForCausalLM.from_pretrained(path, true_precision=True, rope_mixed_3d=False, torch_dtype=torch.float64).eval()
        assert_close(self, logits, self.expected(fixed), FAR, "fixed")

    def test_run_generates_what_the_model_generates(self):
        model, path = self.stock()
        tokens, trace = self.run_tokens(path, "--init-missing", 9)
        self.assert_generated(self.completed(path, 9), tokens, trace)
        trained = self.model()
        tokens, trace = self.run_tokens(self.saved(trained, "trained", max_shard_size="20KB"))
        self.assert_generated(trained, tokens, trace)

    def run_tokens(self, path: Path, *more):
        """What `mr3d run --weights FOLDER` generates after a small scan, and its trace; the configuration is the folder's."""
        lines = [f"{x} {y} {z}" for x in (0, 11, 30) for y in (0, 17) for z in (0,)]
        scan, prompt, trace = (Path(self.folder.name) / name for name in ("scan.ply", "prompt.json", "trace.safetensors"))
        scan.write_text("\n".join(["ply", "format ascii 1.0", f"element vertex {len(lines)}", *(f"property double {a}" for a in "xyz"), "end_header",
                                   *lines]) + "\n")
        given = json.loads((path / "config.json").read_text())
        ids = [given.get(key, 151652 + n) for n, key in enumerate(("point_start_token_id", "point_end_token_id"))]
        if ids[0] > given["vocab_size"]:
            given |= {"point_start_token_id": START, "point_end_token_id": END, "point_token_id": PAD}
            (path / "config.json").write_text(json.dumps(given))
            ids = [START, END]
        prompt.write_text(json.dumps({"p": [5, 6, 7, ids[0], PAD, ids[1], 8, 9]}))
        done = self.mr3d("run", "--scan", scan, "--prompt", f"{prompt}:p", "--weights", path, "--steps", 3, "--trace", trace, "--json", *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        if more:
            self.assertEqual(len(said["initialised"]), 8)
            self.assertIn("model.layers.1.self_attn.axial_weights_3d_kv", said["initialised"])
        return said["generated"], load_file(trace)

    def assert_generated(self, model, tokens, trace):
        with torch.no_grad():
            out = model(inputs_embeds=trace["0.model.inputs_embeds"], attention_mask=trace["0.model.attention_mask"],
                        point_token_mask=trace["0.model.point_token_mask"], point_coords=trace["0.model.point_coords"], use_cache=True)
            assert_close(self, trace["0.model.logits"][:, -1], out.logits[:, -1], FAR, "prefill")
            for step in range(1, 4):
                ids = torch.tensor([[tokens[step - 1]]])
                out = model(input_ids=ids, attention_mask=torch.ones(1, 8 + step, dtype=torch.int64), past_key_values=out.past_key_values)
                assert_close(self, trace[f"{step}.model.logits"], out.logits, FAR, f"step {step}")
                self.assertEqual(int(out.logits.argmax()), tokens[step])


if __name__ == "__main__":
    unittest.main()
