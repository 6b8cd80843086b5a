"""The Python backends as processes: frames, hello and bye, refusals, what counts as malformed."""

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load, save, save_file
from support import (
    ROOT,
    SCENESCRIPT,
    SONATA,
    Folder,
    Random,
    cells,
    config,
    encoder_tensors,
    model_tensors,
    truth,
)
from mixedrope3d.answer import OPS

BACKENDS = ROOT / "tools" / "backends"
TIERS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MINE = """
import sys
sys.path.insert(0, {path!r})
import numpy as np
from mr3d_backend import Backend, Refused, Unsupported, serve

class Mine(Backend):
    name, version, tiers = "mine", "1.0", ("fp64", "bf16")

    def swiglu(self, request):
        print("this goes to the log")
        gate, up = request.tensors["gate"], request.tensors["up"]
        if gate.shape != up.shape:
            raise Refused(f"gate has shape {{gate.shape}}, up {{up.shape}}")
        return {{"y": gate / (1 + np.exp(-gate)) * up}}

    def splice(self, request):
        return {{"types": np.array([str(t.dtype) == request.config[n] for n, t in request.tensors.items()])}}

    def mask(self, request):
        raise Unsupported("not this one")

    def rmsnorm(self, request):
        return 1 / 0

serve(Mine(), max_frame=1 << 20)
"""


def frame(meta: dict[str, str], tensors: dict[str, torch.Tensor] | None = None, protocol: str = "1") -> bytes:
    data = save(tensors or {}, {"protocol": protocol, **meta})
    return struct.pack("<Q", len(data)) + data


def request(number: int, op: str, tensors: dict, tier: str = "fp64", given: dict | None = None, **meta: str) -> bytes:
    return frame({"type": "request", "id": str(number), "op": op, "tier": tier, "config": json.dumps(given or {}), **meta},
                 tensors)


HELLO, BYE = frame({"type": "hello"}), frame({"type": "bye"})


def talk(command: list[str], *frames: bytes) -> tuple[int, list[tuple[dict, dict]], str]:
    """(exit status, [(metadata, tensors)], log): all frames are written at once, the answers read to the end."""
    run = subprocess.run(command, input=b"".join(frames), capture_output=True, timeout=120, cwd=tempfile.gettempdir())
    out, answers = run.stdout, []
    while out:
        (size,) = struct.unpack("<Q", out[:8])
        body, out = out[8:8 + size], out[8 + size:]
        (header,) = struct.unpack("<Q", body[:8])
        answers.append((json.loads(body[8:8 + header])["__metadata__"], load(body)))
    return run.returncode, answers, run.stderr.decode()


class Numpy(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)
        path = f"{self.folder.name}/mine.py"
        with open(path, "w", encoding="utf-8") as file:
            file.write(MINE.format(path=str(BACKENDS)))
        self.command = [sys.executable, path]

    def test_conversation(self):
        r = Random(1)
        gate, up = r(3, 5), r(3, 5)
        half = {"gate": gate.bfloat16(), "up": up.bfloat16()}
        status, answers, log = talk(
            self.command, HELLO, request(1, "swiglu", {"gate": gate, "up": up}), request(2, "swiglu", half, "bf16"),
            request(3, "swiglu", {"gate": gate, "up": up[1:]}), request(4, "mask", {}), request(5, "linear", {}),
            request(6, "swiglu", half, "fp16"), request(7, "rmsnorm", {}), request(8, "swiglu", {"gate": gate}), BYE)
        self.assertEqual(status, 0, log)
        hello = answers[0][0]
        self.assertEqual((hello["type"], hello["protocol"], hello["name"]), ("hello", "1", "mine"))
        self.assertEqual(json.loads(hello["ops"]), ["splice", "mask", "rmsnorm", "swiglu"])
        self.assertEqual(json.loads(hello["tiers"]), ["fp64", "bf16"])
        kinds = [(meta["id"], meta["type"]) for meta, _ in answers[1:]]
        self.assertEqual(kinds, [("1", "answer"), ("2", "answer"), ("3", "error"), ("4", "unsupported"),
                                 ("5", "unsupported"), ("6", "unsupported"), ("7", "error"), ("8", "error")])
        self.assertTrue(torch.allclose(answers[1][1]["y"], torch.nn.functional.silu(gate) * up, rtol=1e-14))
        self.assertEqual(answers[2][1]["y"].dtype, torch.float32)
        exact = torch.nn.functional.silu(half["gate"].float()) * half["up"].float()
        self.assertTrue(torch.allclose(answers[2][1]["y"], exact, rtol=1e-5))
        self.assertIn("(2, 5)", answers[3][0]["message"])
        self.assertIn("ZeroDivisionError", answers[7][0]["message"])
        for words in ("this goes to the log", "ZeroDivisionError", "Traceback"):
            self.assertIn(words, log)

    def test_infinity_and_nan_are_refused_before_a_method_sees_them(self):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            for bad in (float("inf"), float("-inf"), float("nan")):
                gate = torch.ones(2, 3, dtype=dtype)
                gate[1, 0] = bad
                _, answers, log = talk(self.command, HELLO, request(1, "swiglu", {"gate": gate, "up": torch.ones(2, 3, dtype=dtype)}),
                                       request(2, "splice", {"points": gate}), BYE)
                self.assertEqual(answers[1][0]["type"], "error", log)
                self.assertIn("gate holds NaN or infinity at flat index 3", answers[1][0]["message"])
                self.assertNotIn("NaN or infinity", answers[2][0].get("message", ""))
        largest = torch.full((2,), torch.finfo(torch.float16).max, dtype=torch.float16)
        _, answers, log = talk(self.command, HELLO, request(1, "splice", {"x": largest}, given={"x": "float16"}), BYE)
        self.assertEqual(answers[1][0]["type"], "answer", log)

    def test_the_documented_backend_is_compliant(self):
        """docs/writing-a-backend.md, word for word; judged where the suite is built (MR3D, else build/tools/mr3d)."""
        text = (ROOT / "docs" / "writing-a-backend.md").read_text(encoding="utf-8")
        code = text[text.index("    import numpy as np\n"):]
        code = textwrap.dedent(code[:code.index("\n    serve(Mine())\n")] + "\n    serve(Mine())\n")
        path = Path(self.folder.name) / "documented.py"
        path.write_text(code, encoding="utf-8")
        shutil.copy(BACKENDS / "mr3d_backend.py", self.folder.name)
        command = [sys.executable, str(path)]
        _, answers, log = talk(command, HELLO, BYE)
        self.assertEqual(json.loads(answers[0][0]["ops"]), ["swiglu"], log)
        mr3d = os.environ.get("MR3D", str(ROOT / "build" / "tools" / "mr3d"))
        if not os.access(mr3d, os.X_OK):
            self.skipTest("mr3d is not built")
        run = subprocess.run([mr3d, "check", "--quiet", "--backend", "exec:" + shlex.join(command)], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_types(self):
        types = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "int64": torch.int64,
                 "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool}
        tensors = {name: torch.ones(2, 3).to(dtype) for name, dtype in types.items()} | {"empty": torch.zeros(0, 3)}
        names = {name: name for name in types} | {"empty": "float32"}
        _, answers, log = talk(self.command, HELLO, request(1, "splice", tensors, given=names), BYE)
        self.assertEqual(answers[1][0]["type"], "answer", log)
        self.assertTrue(bool(answers[1][1]["types"].all()) and len(answers[1][1]["types"]) == 8)

    def test_malformed_input_ends_the_process_with_another_status(self):
        def raw(body: bytes) -> bytes:
            return struct.pack("<Q", len(body)) + body

        def header(text: bytes, data: bytes = b"") -> bytes:
            return raw(struct.pack("<Q", len(text)) + text + data)

        hole = b'{"__metadata__":{"protocol":"1","type":"hello"},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
        twice = b'{"__metadata__":{"protocol":"1","type":"bye","type":"hello"}}'
        for words, frames in (
            ("without bye", [HELLO]), ("without bye", []), ("ended after", [HELLO, HELLO[:20]]),
            ("ended after 3", [HELLO, b"abc"]), ("longer than", [HELLO, struct.pack("<Q", 1 << 40)]),
            ("protocol 2", [frame({"type": "hello"}, protocol="2")]), ("protocol None", [raw(save({}, {"type": "hello"}))]),
            ('type "greeting"', [frame({"type": "greeting"})]), ('type "None"', [frame({})]),
            ("no id", [frame({"type": "request", "op": "swiglu"})]), ("not a safetensors", [raw(b"nonsense")]),
            ("not a safetensors", [raw(b"")]), ("not a safetensors", [header(hole, b"xx")]),
            ("twice", [header(twice)]), ('type "answer"', [HELLO, frame({"type": "answer", "id": "1"}), BYE]),
        ):
            status, _, log = talk(self.command, *frames)
            self.assertNotEqual(status, 0, words)
            self.assertIn(words, log)
            self.assertNotIn("Traceback", log)

    def test_bad_requests_are_answered_as_errors(self):
        good = {"type": "request", "id": "9", "op": "swiglu", "tier": "fp64", "config": "{}"}
        for key, value, words in (("config", "{", "not JSON"), ("config", "[]", "object"), ("config", None, "config"),
                                  ("config", '{"a":1,"a":2}', "twice"), ("op", None, "op"), ("tier", None, "tier")):
            meta = {k: v for k, v in {**good, key: value}.items() if v is not None}
            status, answers, _ = talk(self.command, HELLO, frame(meta), BYE)
            self.assertEqual((status, answers[1][0]["type"], answers[1][0]["id"]), (0, "error", "9"))
            self.assertIn(words, answers[1][0]["message"])

    def test_numpy_types_and_bfloat16(self):
        sys.path.insert(0, str(BACKENDS))
        from mr3d_backend import Backend
        backend = Backend()
        codes = np.arange(65536, dtype="<u2")
        widened = backend.read_tensor("BF16", [65536], codes.tobytes())
        expected = torch.from_numpy(codes.astype(np.int32)).to(torch.int16).view(torch.bfloat16).float().numpy()
        self.assertTrue(np.array_equal(widened.view("u4"), expected.view("u4")))
        for array in (np.float64(3), np.arange(6.0).reshape(2, 3).T, np.zeros((0, 2), bool), np.arange(3, dtype=">i8")):
            name, shape, data = backend.write_tensor(array)
            self.assertTrue(np.array_equal(backend.read_tensor(name, shape, data), array))
        with self.assertRaises(TypeError):
            backend.write_tensor(np.zeros(2, complex))


class Torch(unittest.TestCase):
    command = [sys.executable, str(BACKENDS / "torch_backend.py")]

    def test_sessions_and_tiers(self):
        with Folder() as name:
            given = config()
            tensors = model_tensors(Random(2), given)
            path = f"{name}/weights.safetensors"
            save_file(tensors, path)
            embeds = {"inputs_embeds": tensors["model.embed_tokens.weight"][None, :5],
                      "attention_mask": torch.ones(1, 5, dtype=torch.int64)}
            where = {"session": "a", "weights": path}
            half = {k: t.bfloat16() if t.dtype == torch.float64 else t for k, t in embeds.items()}
            empty = {"point_token_mask": torch.zeros(1, 5, dtype=torch.bool), "point_coords": torch.zeros(0, 3)}
            for attention in ("eager", "sdpa"):
                status, answers, log = talk(
                    [*self.command, "--attention", attention, "--threads", "1"], HELLO,
                    request(1, "prefill", embeds | empty, given=given, **where),
                    request(2, "decode", {"input_ids": torch.tensor([[7, 8]])}, session="a"),
                    request(3, "decode", {"input_ids": torch.tensor([[7]])}, "fp32", session="a"),
                    request(4, "prefill", half, "bf16", given=given, **where),
                    request(5, "prefill", half, "bf16", given=given, **where | {"session": "b"}),
                    request(6, "drop_session", {}, session="a"), request(7, "drop_session", {}, session="a"),
                    request(8, "rope4d", {}), request(9, "rmsnorm", {}, "tf32"),
                    request(10, "rmsnorm", {"x": torch.zeros(3), "weight": torch.zeros(3)}, given=given), BYE)
                self.assertEqual(status, 0, log)
                self.assertEqual(json.loads(answers[0][0]["ops"]), list(OPS))
                self.assertEqual(json.loads(answers[0][0]["tiers"]), ["fp64", "fp32", "bf16", "fp16"])
                self.assertEqual(answers[0][0]["name"], f"torch-{attention}")
                self.assertEqual([meta["type"] for meta, _ in answers[1:]],
                                 ["answer", "answer", "error", "error", "answer", "answer", "error", "unsupported",
                                  "unsupported", "error"], [meta.get("message") for meta, _ in answers])
                server = truth()
                expected = server.answer("prefill", given, where, embeds)
                self.assertTrue(torch.allclose(answers[1][1]["logits"], expected["logits"], rtol=1e-12, atol=1e-12))
                expected = server.answer("decode", {}, where, {"input_ids": torch.tensor([[7, 8]])})
                self.assertTrue(torch.allclose(answers[2][1]["logits"], expected["logits"], rtol=1e-12, atol=1e-12))
                self.assertEqual(answers[6][1], {})
                self.assertIn("expected F64", answers[10][0]["message"])

    def test_point_encoders_at_every_tier(self):
        r = Random(4)
        grid = cells(r, 120)
        features = r(len(grid), 6)
        with Folder() as folder:
            for given in (SCENESCRIPT, SONATA):
                frames, expected = [], []
                tensors = encoder_tensors(r, given)
                for tier, dtype in TIERS.items():
                    path = f"{folder}/{given['point_backbone']}-{tier}.safetensors"
                    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
                    asked = {"grid": grid, "features": features.to(dtype)}
                    frames.append(request(len(frames), "encode_points", asked, tier, given, weights=path))
                    asked["features"] = asked["features"].double()
                    expected.append(truth().answer("encode_points", given, {"weights": path}, asked))
                frames.append(request(9, "encode_points", {"grid": grid.flip(0), "features": features}, given=given, weights=path))
                for attention in ("eager", "sdpa"):
                    status, answers, log = talk([*self.command, "--attention", attention, "--threads", "1"], HELLO, *frames, BYE)
                    self.assertEqual(status, 0, log)
                    limits = {"fp64": 1e-12, "fp32": 1e-5, "bf16": 0.2, "fp16": 0.02}
                    for (meta, got), truly, (tier, limit) in zip(answers[1:], expected, limits.items()):
                        self.assertEqual(meta["type"], "answer", meta)
                        self.assertEqual(set(got), {"features", "coords"})
                        self.assertEqual(got["features"].dtype, TIERS[tier])
                        self.assertTrue(torch.equal(got["coords"], truly["coords"]))
                        error = (got["features"].double() - truly["features"]).abs().max() / truly["features"].abs().max()
                        self.assertLess(error.item(), limit, f"{given['point_backbone']} {attention} {tier}")
                    self.assertEqual(answers[-1][0]["type"], "error")
                    self.assertIn("grid row 1", answers[-1][0]["message"])

    def test_the_same_request_twice_is_the_same_answer(self):
        r = Random(3, torch.bfloat16)
        tensors = {"x": r(4, 64), "weight": r(64)}
        frames = [request(n, "rmsnorm", tensors, "bf16", {"rms_norm_eps": 1e-6}) for n in (1, 2)]
        _, answers, _ = talk(self.command, HELLO, *frames, BYE)
        self.assertTrue(torch.equal(answers[1][1]["y"], answers[2][1]["y"]))
        self.assertEqual(answers[1][1]["y"].dtype, torch.bfloat16)


class Frames(unittest.TestCase):
    def test_written_frames_are_strict_safetensors(self):
        sys.path.insert(0, str(BACKENDS))
        import io
        from mr3d_backend import Backend, read_frame, write_frame
        out, backend = io.BytesIO(), Backend()
        arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 4), np.float16), "ü": np.array(True)}
        write_frame(out, {"type": "answer", "message": 'quote " and ü'}, {k: backend.write_tensor(v) for k, v in arrays.items()})
        out.seek(0)
        meta, tensors = read_frame(out, 1 << 20)
        self.assertEqual(meta["message"], 'quote " and ü')
        self.assertEqual({name for name, _ in tensors}, set(arrays))
        self.assertEqual(len(safetensors.deserialize(out.getvalue()[8:])), 3)


if __name__ == "__main__":
    unittest.main()
