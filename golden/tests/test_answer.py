"""What must be refused is refused, by name and number, and changes nothing; sessions; weights files."""

import unittest

import torch
from support import END, PAD, START, Folder, Random, assert_close, config, layer_tensors, model_tensors, rotary, truth
from mixedrope3d.answer import OPS, Server
from mixedrope3d.configuration import Options
from mixedrope3d.errors import Refused, Unsupported

F64 = torch.float64


def ints(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def valid_requests() -> dict[str, tuple[dict, dict, dict]]:
    """One good request for each stateless operator: config, metadata, tensors."""
    r = Random(31)
    given = config()
    ids = torch.tensor([[5, START, PAD, END, 6], [7, 8, START, END, 9]])
    point_mask = torch.zeros(2, 5, dtype=torch.bool)
    point_mask[0, 1:4] = point_mask[1, 2] = True
    points = {"point_token_mask": point_mask, "point_coords": r.integers(80, 2, 3, 3), "point_counts": ints(3, 1)}
    layer = layer_tensors(r, given) | points | {"hidden": r(2, 5, 48)}
    attention = {"query": r(2, 6, 3, 16), "key": r(2, 2, 5, 16), "value": r(2, 2, 5, 16),
                 "visible": torch.ones(2, 3, 5, dtype=torch.bool)}
    return {
        "splice": (given, {}, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "point_counts": ints(3, 0)}),
        "mask": (given, {"past_len": "4", "q_len": "2"}, {"key_mask": ints([1, 0, 1])}),
        "rope1d": (given, {}, {"x": r(2, 6, 5, 16), "position_ids": ints([0, 1, 2, 3, 9])}),
        "cis3d": (given, {}, {"freqs": r(3, 6, 4), "axial_weights": r(6, 4, 3), "coords": r(7, 3)}),
        "rope3d": (given, {}, {"x": r(2, 6, 7, 8), "cos": r(6, 7, 4), "sin": r(6, 7, 4)}),
        "normalize_coords": (given, {}, {"coords": r.integers(80, 2, 4, 3), "point_counts": ints(4, 1)}),
        "mixed_rope": (given, {}, {"query": r(2, 6, 5, 16), "key": r(2, 2, 5, 16), **points,
                                   **rotary(r, Options(given), "{}_q", "{}_kv")}),
        "rmsnorm": (given, {}, {"x": r(2, 3, 48), "weight": r(48)}),
        "linear": (given, {}, {"x": r(2, 3, 48), "weight": r(7, 48), "bias": r(7)}),
        "swiglu": (given, {}, {"gate": r(3, 4), "up": r(3, 4)}),
        "attention": (given, {}, attention),
        "attention_block": (given, {}, layer),
        "decoder_layer": (given, {}, layer | {"past_key": r(2, 2, 3, 16), "past_value": r(2, 2, 3, 16)}),
        "voxelize": (given, {}, {"points": r(9, 6).abs()}),
        "token_coords": (given, {"stages": "2"}, {"grid": r.integers(80, 9, 3)}),
    }


class Refusals(unittest.TestCase):
    def setUp(self):
        self.requests, self.server = valid_requests(), truth()

    def refuse(self, op: str, words: str, config=None, meta=None, **changes):
        """The operator's good request with some changes; None takes a tensor, a key or metadata away."""
        def changed(original, edits):
            return {k: v for k, v in {**original, **(edits or {})}.items() if v is not None}
        good = self.requests[op]
        with self.assertRaisesRegex(Refused, words, msg=f"{op} {list(changes)} {config} {meta}"):
            self.server.answer(op, changed(good[0], config), changed(good[1], meta), changed(good[2], changes))

    def test_good_requests_are_answered(self):
        for op, request in self.requests.items():
            for name, tensor in self.server.answer(op, *request).items():
                self.assertTrue(tensor.dtype in (F64, torch.int64, torch.bool), f"{op} {name}")
                self.assertTrue(bool(tensor.isfinite().all()))

    def test_every_tensor_of_every_operator_is_checked(self):
        """Missing, unexpected, of another type, with one size off, NaN, infinite: all named."""
        optional = {"key_mask", "bias", "axial_weights", "freqs"}
        several_types = {"coords", "points", "cos", "sin", "point_coords"}
        for op, (_, _, tensors) in self.requests.items():
            for name, tensor in tensors.items():
                unused = op == "attention_block" and name.startswith(("mlp", "input_layernorm", "post_attention"))
                if not (unused or name in optional or (name == "point_counts" and op != "splice")):
                    self.refuse(op, name.replace(".", r"\."), **{name: None})
                self.refuse(op, f"{name} has type I16", **{name: tensor.to(torch.int16)})
                if name not in several_types:
                    other = torch.float32 if tensor.dtype == F64 else torch.int32
                    self.refuse(op, f"{name} has type", **{name: tensor.to(other)})
                if not unused:
                    # Where leading sizes are free, the next tensor is the one that does not fit.
                    free = (op, name) in (("rmsnorm", "x"), ("linear", "x"), ("swiglu", "gate"))
                    changed = tensor[..., 1:] if free else tensor[None, None, None]
                    self.refuse(op, "has shape" if free else f"{name} has shape", **{name: changed})
                if tensor.is_floating_point() and name != "points":
                    for bad in ("nan", "inf", "-inf"):
                        poked = tensor.clone()
                        poked.view(-1)[-1] = float(bad)
                        self.refuse(op, f"{name}.*{bad}", **{name: poked})
            self.refuse(op, "surprise is unexpected", surprise=torch.zeros(1))

    def test_configuration_is_checked_by_every_operator(self):
        for op in OPS:
            meta, tensors = ({}, {}) if op not in self.requests else self.requests[op][1:]
            for wrong, words in (({"rope_theta_3D": 5}, "rope_theta_3d"), ({"drift": "Average"}, "drift")):
                with self.assertRaisesRegex(Refused, words):
                    self.server.answer(op, wrong, meta, tensors)

    def test_sizes_without_default(self):
        for op, keys in (("rope1d", ["rope_theta"]), ("mixed_rope", ["rope_theta"]), ("rmsnorm", ["rms_norm_eps"]),
                         ("attention_block", ["rope_theta", "hidden_size", "num_attention_heads", "num_key_value_heads"]),
                         ("decoder_layer", ["rope_theta", "hidden_size", "rms_norm_eps", "intermediate_size"])):
            for key in keys:
                self.refuse(op, key, config={key: None})

    def test_splice(self):
        good = self.requests["splice"][2]
        for words, changes in (
            (r"attention_mask\[0, 2\] is 2", {"attention_mask": torch.tensor([[1, 1, 2, 1, 1], [1, 1, 1, 1, 1]])}),
            ("-1", {"point_counts": ints(3, -1)}),
            (r"input_ids\[0, 0\] is 96.*vocab_size is 96", {"input_ids": good["input_ids"].clone().index_fill(1, ints(0), 96)}),
            (r"input_ids\[0, 4\] is -1", {"input_ids": good["input_ids"].clone().index_fill(1, ints(4), -1)}),
            ("sample 0 has 0 start", {"input_ids": good["input_ids"].clone().index_fill(1, ints(1), 3)}),
            ("sample 1 has 0 start markers", {"input_ids": good["input_ids"].clone().index_fill(1, ints(2), 3)}),
            ("point_counts has shape", {"point_counts": ints(3)}),
            ("B = 0", {"input_ids": ints()[None, :].expand(0, 0), "attention_mask": ints()[None].expand(0, 0),
                       "point_counts": ints()}),
            ("frame", {"point_counts": ints(2**40, 0)}),
        ):
            self.refuse("splice", words, **changes)
        self.refuse("splice", "differ", config={"point_end_token_id": START})

    def test_mask(self):
        self.refuse("mask", "7.*4 cached", key_mask=ints([1] * 7))
        self.refuse("mask", r"key_mask\[0, 1\] is -1", key_mask=ints([1, -1]))
        self.refuse("mask", "spliced", prefill_mask=ints([1, 1]))
        self.refuse("mask", "3.*nothing cached", meta={"past_len": "0", "q_len": "4"})
        self.refuse("mask", "past_len", meta={"past_len": "-1"})
        self.refuse("mask", "past_len", meta={"past_len": "4.5"})
        self.refuse("mask", "q_len", meta={"q_len": None})
        self.refuse("mask", "q_len", meta={"q_len": "0"})
        self.refuse("mask", "frame", meta={"past_len": "99999999999"})
        self.refuse("mask", "prefill_mask has 7", config={"decode_mask": "spliced"}, prefill_mask=ints([1] * 7))
        self.refuse("mask", "key_mask has 7", config={"decode_mask": "spliced"}, prefill_mask=ints([1] * 4), key_mask=ints([1] * 7))

    def test_positions_and_heads(self):
        self.refuse("rope1d", r"position_ids\[0, 2\] is -3", position_ids=ints([0, 1, -3, 3, 4]))
        self.refuse("rope1d", r"\[2, 6, 5, 14\].*16", x=torch.zeros(2, 6, 5, 14, dtype=F64))
        self.refuse("rope1d", "even", config={"head_dim": None, "hidden_size": None}, x=torch.zeros(2, 6, 5, 15, dtype=F64))
        nothing_known = {key: None for key in ("num_attention_heads", "num_key_value_heads")}
        self.refuse("attention", "6 heads.*4", config=nothing_known, key=torch.zeros(2, 4, 5, 16, dtype=F64),
                    value=torch.zeros(2, 4, 5, 16, dtype=F64))
        self.refuse("mixed_rope", "6 heads.*4", config=nothing_known, key=torch.zeros(2, 4, 5, 16, dtype=F64))
        self.refuse("attention", "2 rows and query 3", key=torch.zeros(2, 2, 2, 16, dtype=F64),
                    value=torch.zeros(2, 2, 2, 16, dtype=F64), visible=torch.ones(2, 3, 2, dtype=torch.bool))

    def test_points(self):
        for op in ("mixed_rope", "attention_block", "decoder_layer"):
            good = self.requests[op][2]
            raw = torch.zeros(2, 106328, 3, dtype=torch.int64)
            self.refuse(op, "106328 rows.*marks 3", point_coords=raw, point_counts=None)
            self.refuse(op, "sample 1: point_counts says 2.*marks 1", point_counts=ints(3, 2))
            self.refuse(op, "says 4.*3 rows", point_counts=ints(3, 4))
            self.refuse(op, "batch of 2", point_coords=good["point_coords"][0], point_counts=None)
            self.refuse(op, "point_coords is missing", point_coords=None)
            self.refuse(op, "point_token_mask is missing", point_token_mask=None)
            self.refuse(op, "point_token_mask is missing", point_token_mask=None, point_coords=None)
            self.refuse(op, "reduced_grid_size is 1", config={"reduced_grid_size": 1})

    def test_rotary_parameters(self):
        for op, q, w in (("mixed_rope", "freqs_q", "axial_weights_kv"),
                         ("decoder_layer", "self_attn.freqs_3d_q", "self_attn.axial_weights_3d_kv")):
            self.refuse(op, f"{q} is given.*rope_mixed_3d", config={"rope_mixed_3d": False})
            self.refuse(op, f"{q} is given.*axial", config={"rope_3d_kind": "axial",
                                                            "spatial_temporal_separate_strategy": "full_spatial"})
            self.refuse(op, f"{q} is given.*spatial", config={"spatial_temporal_separate_strategy": "full_temporal"})
            self.refuse(op, "axial_weights.*is given.*mixing_weight",
                        config={"mixedRoPE_3d_learned_axial_mixing_weight": False})
            self.refuse(op, f"{q} has shape.*1,6,4", config={"mixedRoPE_3d_learned_per_axis": False})
            self.refuse(op, f"{w} is missing", **{w: None})
        self.refuse("cis3d", "freqs is given", config={"rope_mixed_3d": False})
        self.refuse("cis3d", "freqs is missing", freqs=None, axial_weights=None, meta={"heads": "6"})
        self.refuse("cis3d", "heads", freqs=None, axial_weights=None, config={"rope_mixed_3d": False})
        self.refuse("mixed_rope", r"freqs_q has shape \[3, 24\]", freqs_q=torch.zeros(3, 24, dtype=F64))

    def test_text_needs_no_parameters_and_may_hold_them(self):
        for op in ("mixed_rope", "decoder_layer"):
            given, meta, tensors = self.requests[op]
            text = {k: v for k, v in tensors.items() if not k.startswith("point_")}
            bare = {k: v for k, v in text.items() if "freqs" not in k and "axial" not in k}
            empty = text | {"point_token_mask": torch.zeros(2, 5, dtype=torch.bool),
                            "point_coords": torch.zeros(2, 0, 3, dtype=torch.int64)}
            answers = [self.server.answer(op, given, meta, t) for t in (text, bare, empty)]
            for name in answers[0]:
                self.assertTrue(torch.equal(answers[0][name], answers[1][name]))
                self.assertTrue(torch.equal(answers[0][name], answers[2][name]))

    def test_flattened_parameters(self):
        given, meta, tensors = self.requests["decoder_layer"]
        flat = {k: v.flatten(1) if "freqs" in k else v for k, v in tensors.items()}
        self.assertTrue(torch.equal(self.server.answer("decoder_layer", given, meta, flat)["hidden"],
                                    self.server.answer("decoder_layer", given, meta, tensors)["hidden"]))

    def test_layers(self):
        self.refuse("decoder_layer", "past_key and past_value", past_value=None)
        self.refuse("attention_block", "key_mask has 4", key_mask=torch.ones(2, 4, dtype=torch.int64))
        self.refuse("decoder_layer", "key_mask has 9", key_mask=torch.ones(2, 9, dtype=torch.int64))
        self.refuse("decoder_layer", "prefill_mask", prefill_mask=torch.ones(2, 3, dtype=torch.int64))

    def test_scan(self):
        points = self.requests["voxelize"][2]["points"]
        self.refuse("voxelize", "empty", points=points[:0])
        self.refuse("voxelize", "empty", points=points * float("nan"))
        self.refuse("voxelize", "num_bins - 1 = 1279", points=points * 1000)
        self.refuse("voxelize", "colours", points=points + 255)
        self.refuse("token_coords", "stages", meta={"stages": "-1"})
        self.refuse("token_coords", "row 0", grid=ints([0, -1, 0]))

    def test_unknown_operator(self):
        for op in ("rope4d", "answer", "__init__"):
            with self.assertRaises(Unsupported):
                self.server.answer(op, {}, {}, {})


class Types(unittest.TestCase):
    def test_outputs_have_the_tier_s_type_or_a_wider_one(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            server = Server(dtype, False, "sdpa")
            for op, (given, meta, tensors) in valid_requests().items():
                keep = ("point_coords", "coords", "points", "cos", "sin")
                cast = {k: t.to(dtype) if t.dtype == F64 and k not in keep else t for k, t in tensors.items()}
                for name, tensor in server.answer(op, given, meta, cast).items():
                    allowed = {torch.int64, torch.bool, torch.float32} | ({dtype} - {None})
                    if (op, name) in (("cis3d", "cos"), ("cis3d", "sin"), ("normalize_coords", "coords")):
                        allowed = {torch.float32}
                    self.assertIn(tensor.dtype, allowed, f"{op} {name}")


class Sessions(unittest.TestCase):
    def setUp(self):
        self.folder, self.random, self.server = Folder(), Random(41), truth()
        self.addCleanup(self.folder.cleanup)
        self.config = config()
        self.tensors = model_tensors(Random(42), self.config)
        self.path = self.folder.save(self.tensors)
        self.embeds = self.tensors["model.embed_tokens.weight"][self.random.integers(START, 1, 6)]

    def prefill(self, name="s", server=None, config=None, meta=None, **changes):
        tensors = {"inputs_embeds": self.embeds, "attention_mask": torch.ones(1, 6, dtype=torch.int64), **changes}
        meta = {"session": name, "weights": self.path, **(meta or {})}
        return (server or self.server).answer("prefill", self.config if config is None else config,
                                              {k: v for k, v in meta.items() if v is not None}, tensors)

    def decode(self, name="s", config=None, ids=((5,),), meta=None, **tensors):
        tensors = {"input_ids": ints(*map(list, ids)), **tensors}
        return self.server.answer("decode", config or {}, {"session": name, **(meta or {})}, tensors)["logits"]

    def refuse(self, words, call, *arguments, **named):
        """The call is refused, and the open session neither grows nor changes."""
        session = self.server.sessions.get("s")
        before = session and (session.length, [t.clone() for t in session.cache.key_cache], session.cache.prefill_mask)
        names = set(self.server.sessions)
        with self.assertRaisesRegex(Refused, words):
            call(*arguments, **named)
        self.assertEqual(set(self.server.sessions), names)
        if session:
            self.assertEqual(session.length, before[0])
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(session.cache.key_cache, before[1])))
            self.assertIs(session.cache.prefill_mask, before[2])

    def test_opening(self):
        self.refuse("session", self.prefill, meta={"session": None})
        self.refuse("weights", self.prefill, meta={"weights": None})
        self.refuse("no/such", self.prefill, meta={"weights": "no/such"})
        self.refuse("6.*5|5.*6", self.prefill, attention_mask=torch.ones(1, 5, dtype=torch.int64))
        self.refuse("7 entries", self.prefill, attention_mask=torch.ones(1, 7, dtype=torch.int64))
        self.refuse("logits_to_keep", self.prefill, meta={"logits_to_keep": "-1"})
        self.refuse("logits_to_keep", self.prefill, meta={"logits_to_keep": "all"})
        self.refuse("position_ids", self.prefill, position_ids=ints([0, 1, 2, 3, 4, -5]))
        for key in ("hidden_size", "num_hidden_layers", "vocab_size", "rms_norm_eps", "rope_theta", "intermediate_size"):
            self.refuse(key, self.prefill, config={k: v for k, v in self.config.items() if k != key})
        self.refuse("not open", self.decode)
        self.refuse("not open", self.server.answer, "drop_session", {}, {"session": "s"}, {})

    def test_logits_to_keep(self):
        full = self.prefill("all")
        self.assertEqual(full["logits"].shape, (1, 6, 96))
        for keep, rows in (("0", 6), ("1", 1), ("4", 4), ("6", 6), ("99", 6)):
            kept = self.prefill(f"keep{keep}", meta={"logits_to_keep": keep})
            self.assertEqual(kept["hidden"].shape, (1, 6, 48))
            assert_close(self, kept["logits"], full["logits"][:, 6 - rows:])
        assert_close(self, full["logits"], full["hidden"] @ self.tensors["model.embed_tokens.weight"].T)

    def test_an_open_session(self):
        self.prefill()
        self.decode()
        more = torch.ones(1, 13, dtype=torch.int64)
        self.refuse("7 cached", self.prefill)  # an accidental restart
        self.refuse("13", self.prefill, attention_mask=more[:, :12])
        self.refuse("inputs_embeds has shape", self.prefill, inputs_embeds=self.embeds.expand(2, 6, 48),
                    attention_mask=more.expand(2, 13))
        self.refuse("weights", self.prefill, attention_mask=more, meta={"weights": "other"})
        self.refuse("drift", self.prefill, attention_mask=more, config={"drift": "average"})
        self.refuse("rope_theta", self.decode, config={"rope_theta": 10000})
        self.refuse("num_hidden_layers", self.decode, config={"num_hidden_layers": 1})
        self.refuse("spatial_ratio", self.decode, config={"spatial_ratio": 0.5})
        self.refuse("weights", self.decode, meta={"weights": "other"})
        self.refuse("96", self.decode, ids=((96,),))
        self.refuse("-1", self.decode, ids=((-1,),))
        self.refuse("input_ids has shape", self.decode, ids=((1,), (2,)))
        self.refuse("q = 0", self.decode, ids=((),))
        self.refuse("9 entries", self.decode, attention_mask=torch.ones(1, 9, dtype=torch.int64))
        self.refuse("is 3", self.decode, attention_mask=ints([1, 3]))
        self.refuse("unexpected", self.decode, position_ids=ints([0]))
        self.refuse("unexpected", self.decode, point_token_mask=torch.zeros(1, 1, dtype=torch.bool))
        half = Server(torch.float32, False, sessions=self.server.sessions)
        self.refuse("tier", half.answer, "decode", {}, {"session": "s"}, {"input_ids": ints([1])})
        self.refuse("tier", half.answer, "drop_session", {}, {"session": "s"}, {})
        self.refuse("unexpected", self.server.answer, "drop_session", {}, {"session": "s"}, {"x": torch.zeros(1)})
        self.decode(config={**self.config, "tie_word_embeddings": True, "num_bins": 1280.0, "reduced_grid_size": 80})
        self.prefill(attention_mask=torch.ones(1, 14, dtype=torch.int64), config={"rope_theta": 1000000})
        self.assertEqual(self.server.sessions["s"].length, 14)
        self.assertEqual(self.server.answer("drop_session", {}, {"session": "s"}, {}), {})
        self.refuse("not open", self.decode)

    def test_a_failure_inside_the_model_leaves_the_session_as_it_was(self):
        self.prefill()
        expected = self.decode("s")
        self.server.answer("drop_session", {}, {"session": "s"}, {})
        self.prefill()
        layer = self.server.sessions["s"].model.model.layers[1]

        def fail(*arguments):
            raise MemoryError("no memory")
        hook = layer.register_forward_pre_hook(fail)
        with self.assertRaises(MemoryError):
            self.decode("s")
        hook.remove()
        self.assertTrue(torch.equal(self.decode("s"), expected))

    def test_two_sessions_do_not_touch_each_other(self):
        alone = [self.prefill("a")["logits"], self.decode("a"), self.decode("a", ids=((7,),))]
        first = self.prefill("b")["logits"]
        self.prefill("c", inputs_embeds=self.embeds * 2)
        second = self.decode("b")
        self.decode("c", ids=((9,),))
        self.assertTrue(torch.equal(first, alone[0]) and torch.equal(second, alone[1]))
        self.assertTrue(torch.equal(self.decode("b", ids=((7,),)), alone[2]))

    def test_weights(self):
        for words, name, tensor in (
            ("lacks|missing", "model.norm.weight", None), ("missing", "model.layers.1.mlp.up_proj.weight", None),
            ("has shape", "model.embed_tokens.weight", torch.zeros(95, 48)), ("type I64", "model.norm.weight", ints(*range(48))),
            ("nan", "model.norm.weight", torch.full((48,), float("nan"))),
            ("has shape", "model.layers.0.self_attn.freqs_3d_q", torch.zeros(3, 6, 5)),
        ):
            changed = {k: v for k, v in {**self.tensors, name: tensor}.items() if v is not None}
            path = self.folder.save(changed, "bad")
            self.refuse(f"{name}.*({words})", self.prefill, meta={"weights": path})
        with open(self.path, "rb") as file:
            whole = file.read()
        for content in (b"", whole[:100], whole[:-1], whole + b"x"):
            with open(f"{self.folder.name}/cut.safetensors", "wb") as file:
                file.write(content)
            self.refuse("cannot be read", self.prefill, meta={"weights": f"{self.folder.name}/cut.safetensors"})

    def test_tied_and_untied_heads(self):
        tied = self.prefill("tied")["logits"]
        head = self.random(96, 48)
        path = self.folder.save({**self.tensors, "lm_head.weight": head, "extra": torch.zeros(2)}, "untied")
        untied = self.prefill("untied", meta={"weights": path})
        assert_close(self, untied["logits"], untied["hidden"] @ head.T)
        forced = self.prefill("forced", meta={"weights": path}, config={**self.config, "tie_word_embeddings": True})
        assert_close(self, forced["logits"], tied)
        self.refuse("lm_head", self.prefill, "none", config={**self.config, "tie_word_embeddings": False})

    def test_stored_values_are_used_exactly(self):
        """Weights of a narrower type than the tier are widened, those of a wider type raise the type computed in."""
        narrow = {name: t.bfloat16() for name, t in self.tensors.items()}
        wide = {name: t.double() for name, t in narrow.items()}
        a = self.prefill("a", meta={"weights": self.folder.save(narrow, "narrow")})["logits"]
        b = self.prefill("b", meta={"weights": self.folder.save(wide, "wide")})["logits"]
        self.assertTrue(torch.equal(a, b))
        server = Server(torch.bfloat16, False)
        embeds = self.embeds.bfloat16()
        a = self.prefill("a", server, meta={"weights": self.path}, inputs_embeds=embeds)["logits"]
        self.assertEqual(a.dtype, torch.float64)

    def test_a_checkpoint_without_rotary_parameters_serves_text_only(self):
        bare = {k: v for k, v in self.tensors.items() if "_3d_" not in k}
        meta = {"weights": self.folder.save(bare, "bare")}
        self.prefill(meta=meta)
        points = {"point_token_mask": torch.ones(1, 6, dtype=torch.bool), "point_coords": torch.zeros(6, 3, dtype=torch.int64)}
        self.refuse("freqs_3d_q", self.prefill, "points", meta=meta, **points)
        self.prefill("unlearned", meta=meta, config={**self.config, "rope_mixed_3d": False}, **points)

    def test_decode_masks(self):
        """pad_end follows the caller, spliced the prefill; zeros before and behind the splice point show it."""
        hidden = torch.ones(1, 6, dtype=torch.int64)
        hidden[0, [0, 4]] = 0
        caller = ints([1, 0])
        results = {}
        for rule in ("pad_end", "spliced"):
            given = {**self.config, "decode_mask": rule}
            self.prefill(rule, config=given, attention_mask=hidden)
            results[rule] = self.decode(rule, attention_mask=caller)
            self.prefill(rule + "2", config=given, attention_mask=hidden)
            results[rule + "2"] = self.decode(rule + "2")
        self.assertTrue(torch.equal(results["spliced"], results["spliced2"]))
        self.assertFalse(torch.equal(results["pad_end"], results["pad_end2"]))
        self.assertFalse(torch.equal(results["pad_end"], results["spliced"]))
        self.prefill("full", config={**self.config, "decode_mask": "pad_end"}, attention_mask=hidden)
        repeated = self.decode("full", attention_mask=hidden)
        self.assertTrue(torch.equal(results["spliced"], repeated))


if __name__ == "__main__":
    unittest.main()
