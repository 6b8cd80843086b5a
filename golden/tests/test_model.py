"""The decoder on the library's classes: consistency, batches, generation."""

import unittest

import torch
from support import END, PAD, START, Folder, Random, assert_close, config, model_tensors, truth
from mixedrope3d import unrepaired
from mixedrope3d.modeling import MixedRope3DForCausalLM

TEXT, POINTS = 11, 6
START_AT = 3


def prompt(random: Random, batch: int = 1, start_at: int = START_AT) -> torch.Tensor:
    ids = random.integers(START, batch, TEXT)
    ids[:, start_at:start_at + 3] = torch.tensor([START, PAD, END])
    return ids


class Decoder(unittest.TestCase):
    def setUp(self):
        self.folder = Folder()
        self.addCleanup(self.folder.cleanup)
        self.random = Random(21)
        self.use(config())

    def use(self, given: dict, tied: bool = True):
        self.config = given
        self.weights = model_tensors(Random(22), given, tied)
        self.path = self.folder.save(self.weights)
        self.server = truth()

    def embeds(self, ids: torch.Tensor, features: list[torch.Tensor], text_mask: torch.Tensor | None = None):
        """(spliced embeddings, mask, point mask) by the protocol's operator and plain indexing."""
        counts = torch.tensor([len(f) for f in features])
        s = self.server.answer("splice", self.config, {}, {"input_ids": ids, "point_counts": counts,
                                                          "attention_mask": torch.ones_like(ids) if text_mask is None else text_mask})
        table = self.weights["model.embed_tokens.weight"]
        rows = [torch.stack([table[ids[b, i]] if i >= 0 else features[b][-1 - i] for i in s["source"][b].tolist()])
                for b in range(len(ids))]
        return torch.stack(rows), s["attention_mask"], s["point_token_mask"]

    def prefill(self, session: str, embeds, mask, server=None, **tensors):
        meta = {"session": session, "weights": self.path}
        tensors = {name: t for name, t in tensors.items() if t is not None}
        return (server or self.server).answer("prefill", self.config, meta,
                                              {"inputs_embeds": embeds, "attention_mask": mask, **tensors})

    def decode(self, session: str, ids, mask=None):
        tensors = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
        return self.server.answer("decode", {}, {"session": session}, tensors)["logits"]


class Consistency(Decoder):
    """Section 5: a prefill of S+k tokens equals a prefill of S and k decode steps, and any chunking of either."""

    def check_option(self, **options):
        self.use(config(**options), tied=False)
        ids, coords = prompt(self.random), self.random.integers(80, POINTS, 3)
        features, new = self.random(POINTS, 48), self.random.integers(START, 1, 4)
        table = self.weights["model.embed_tokens.weight"]
        embeds, mask, point_mask = self.embeds(ids, [features])
        mask[0, [1, 12]] = 0  # before and behind the points, which stand at 4..9
        size = embeds.shape[1]
        whole = torch.cat([embeds, table[new]], 1)
        grown = torch.nn.functional.pad(mask, (0, 4), value=1)
        full = self.prefill("full", whole, grown, point_token_mask=torch.nn.functional.pad(point_mask, (0, 4)),
                            point_coords=coords)

        first = self.prefill("steps", embeds, mask, point_token_mask=point_mask, point_coords=coords)
        steps = [self.decode("steps", new[:, t:t + 1], grown[:, :size + t + 1]) for t in range(4)]
        assert_close(self, torch.cat([first["logits"], *steps], 1), full["logits"], 1e-13, "steps")

        self.prefill("jump", embeds, mask, point_token_mask=point_mask, point_coords=coords)
        assert_close(self, self.decode("jump", new, grown), full["logits"][:, size:], 1e-13, "q = 4")

        hidden, edges, row = [], [0, 1, 6, 8, 15, size + 4], 0
        for a, b in zip(edges, edges[1:]):
            part = torch.nn.functional.pad(point_mask, (0, 4))[:, a:b]
            count = int(part.sum())
            points = {"point_token_mask": part, "point_coords": coords[row:row + count]} if count else {}
            row += count
            hidden.append(self.prefill("chunks", whole[:, a:b], grown[:, :b], **points)["hidden"])
        assert_close(self, torch.cat(hidden, 1), full["hidden"], 1e-13, "chunks")
        self.assertGreater((full["hidden"] - self.prefill("text", whole, grown)["hidden"]).abs().max().item(), 1e-2)

    def test_defaults(self):
        self.check_option()

    def test_options(self):
        self.check_option(mixed_rope_layout="interleaved", coord_norm="none")
        self.check_option(temporal_rope="native", rope_mixed_3d=False)
        self.check_option(spatial_temporal_separate_strategy="custom_ratio", spatial_ratio=0.75, rope_3d_kind="axial")
        self.check_option(decode_mask="spliced", mixedRoPE_3d_learned_per_axis=False)
        self.check_option(head_dim=8, mixedRoPE_3d_learned_axial_mixing_weight=False)  # 6 heads of 8 are hidden_size
        self.check_option(head_dim=24)

    def test_text_only_and_one_token(self):
        table = self.weights["model.embed_tokens.weight"]
        ids = self.random.integers(START, 1, 5)
        full = self.prefill("full", table[ids], torch.ones_like(ids))["logits"]
        steps = [self.prefill("steps", table[ids[:, :1]], torch.ones(1, 1, dtype=torch.int64))["logits"]]
        steps += [self.decode("steps", ids[:, t:t + 1]) for t in range(1, 5)]
        assert_close(self, torch.cat(steps, 1), full)

    def test_a_call_leaves_no_points_behind(self):
        """The decoder without its head, called after a call with points, rotates text."""
        decoder = self.server.model(self.config, self.path).model
        embeds = self.random(1, 9, 48)
        before = decoder(inputs_embeds=embeds).last_hidden_state
        self.prefill("points", embeds, torch.ones(1, 9, dtype=torch.int64), point_coords=self.random.integers(80, 9, 3),
                     point_token_mask=torch.ones(1, 9, dtype=torch.bool))
        self.assertTrue(torch.equal(decoder(inputs_embeds=embeds).last_hidden_state, before))

    def test_layer_with_cache(self):
        """The same law for `attention_block` and `decoder_layer`, with past_key and past_value."""
        layer = {name.removeprefix("model.layers.1."): t for name, t in self.weights.items() if "layers.1." in name}
        hidden, mask = self.random(2, 9, 48), torch.ones(2, 9, dtype=torch.bool)
        mask[0, :3], mask[1, 4:] = False, False
        coords = self.random.integers(80, 2, 6, 3)
        for op in ("attention_block", "decoder_layer"):
            tensors = layer | {"hidden": hidden, "point_token_mask": mask, "point_coords": coords,
                               "point_counts": torch.tensor([6, 4])}
            full = self.server.answer(op, self.config, {}, tensors)
            first = layer | {"hidden": hidden[:, :5], "point_token_mask": mask[:, :5], "point_coords": coords[:, :4],
                             "point_counts": torch.tensor([2, 4])}
            first = self.server.answer(op, self.config, {}, first)
            second = layer | {"hidden": hidden[:, 5:], "point_token_mask": mask[:, 5:], "point_coords": coords[:, 2:],
                              "point_counts": torch.tensor([4, 0]), "past_key": first["key"], "past_value": first["value"]}
            second = self.server.answer(op, self.config, {}, second)
            assert_close(self, torch.cat([first["hidden"], second["hidden"]], 1), full["hidden"])
            assert_close(self, second["key"], full["key"])
            assert_close(self, second["value"], full["value"])


class Batches(Decoder):
    def test_samples_of_different_n_equal_single_ones(self):
        for norm in ("grid", "unit_range"):
            self.use(config(decode_mask="spliced", coord_norm=norm, drift="average"))
            counts = [6, 0, 3]
            ids = torch.cat([prompt(self.random, start_at=a) for a in (3, 0, 7)])
            features = [self.random(n, 48) for n in counts]
            coords = self.random.integers(80, 3, 6, 3)
            new = self.random.integers(START, 3, 3)
            embeds, mask, point_mask = self.embeds(ids, features)
            batch = self.prefill("batch", embeds, mask, point_token_mask=point_mask, point_coords=coords,
                                 point_counts=torch.tensor(counts))
            # A sample's decode positions are the batch's cache slots, so a single sample is padded alike.
            decoded = self.decode("batch", new)
            for b, count in enumerate(counts):
                length = int(mask[b].sum())
                single = {"point_token_mask": point_mask[b:b + 1, :length], "point_coords": coords[b:b + 1, :count]}
                alone = self.prefill(f"alone{b}", embeds[b:b + 1, :length], mask[b:b + 1, :length], **single)
                assert_close(self, batch["hidden"][b:b + 1, :length], alone["hidden"], note=f"sample {b}")
                padded = {"point_token_mask": point_mask[b:b + 1], "point_coords": coords[b:b + 1, :count]}
                self.prefill(f"padded{b}", embeds[b:b + 1], mask[b:b + 1], **padded)
                assert_close(self, decoded[b:b + 1], self.decode(f"padded{b}", new[b:b + 1]), note=f"sample {b}")
            self.assertTrue(bool(batch["logits"].isfinite().all()))

    def test_both_coordinate_shapes_mean_the_same(self):
        ids, coords = prompt(self.random), self.random.integers(80, POINTS, 3)
        embeds, mask, point_mask = self.embeds(ids, [self.random(POINTS, 48)])
        one = self.prefill("one", embeds, mask, point_token_mask=point_mask, point_coords=coords)
        two = self.prefill("two", embeds, mask, point_token_mask=point_mask, point_coords=coords[None].double())
        self.assertTrue(torch.equal(one["logits"], two["logits"]))


class Generation(Decoder):
    STEPS = 8

    def use(self, given: dict, tied: bool = False):
        super().use(given, tied)  # a random tied head only repeats the last token

    def manual(self, ids, features, coords, caller_mask=None, text_mask=None) -> list[list[int]]:
        embeds, mask, point_mask = self.embeds(ids, features, text_mask)
        logits = self.prefill("manual", embeds, mask, point_token_mask=point_mask, point_coords=coords,
                              point_counts=torch.tensor([len(f) for f in features]))["logits"]
        tokens = []
        for step in range(self.STEPS):
            tokens.append(logits[:, -1].argmax(-1, keepdim=True))
            if caller_mask is not None:
                caller_mask = torch.nn.functional.pad(caller_mask, (0, 1), value=1)
            if step < self.STEPS - 1:
                logits = self.decode("manual", tokens[-1], caller_mask)
        self.server.answer("drop_session", {}, {"session": "manual"}, {})
        return torch.cat(tokens, 1).tolist()

    def generated(self, ids, features, coords, text_mask=None, **arguments) -> list[list[int]]:
        model = self.server.model(self.config, self.path)
        text_mask = torch.ones_like(ids) if text_mask is None else text_mask
        out = model.generate(ids, attention_mask=text_mask, point_features=features, point_coords=coords,
                             do_sample=False, use_cache=True, max_new_tokens=self.STEPS, **arguments)
        self.assertEqual(out[:, :TEXT].tolist(), ids.tolist())
        return out[:, TEXT:].tolist()

    def test_generate_equals_manual_greedy_decoding(self):
        for decode_mask in ("pad_end", "spliced"):
            self.use(config(decode_mask=decode_mask))
            ids, coords, features = prompt(self.random), self.random.integers(80, POINTS, 3), self.random(POINTS, 48)
            tokens = self.generated(ids, features, coords)
            self.assertGreater(len(set(tokens[0])), 4)
            self.assertEqual(tokens, self.manual(ids, [features], coords, torch.ones_like(ids)))
            self.assertEqual(tokens, self.manual(ids, [features], coords))
            self.generated(ids, features, coords.flip(0))
            self.assertEqual(tokens, self.generated(ids, features, coords))  # another call's points leave nothing behind

    def test_masked_text_stays_masked_under_the_spliced_rule(self):
        """A zero behind the points: the spliced prefill mask keeps it in place, the caller's own would move it."""
        self.use(config(decode_mask="spliced"))
        ids, coords, features = prompt(self.random), self.random.integers(80, POINTS, 3), self.random(POINTS, 48)
        text_mask = torch.ones_like(ids)
        text_mask[0, [1, 6, 7, 8, 9]] = 0
        tokens = self.generated(ids, features, coords, text_mask)
        self.assertEqual(tokens, self.manual(ids, [features], coords, text_mask=text_mask))
        self.use(config())
        self.assertNotEqual(tokens, self.generated(ids, features, coords, text_mask))

    def test_generate_without_a_cache_equals_generate_with_one(self):
        """Without a cache every call is a prefill of all tokens: the scan passed with each call is then used each time."""
        ids, coords, features = prompt(self.random), self.random.integers(80, POINTS, 3), self.random(POINTS, 48)
        model = self.server.model(self.config, self.path)
        arguments = dict(point_features=features, point_coords=coords, do_sample=False, max_new_tokens=4)
        mask = torch.ones_like(ids)
        cached = model.generate(ids, attention_mask=mask, use_cache=True, **arguments)
        uncached = model.generate(ids, attention_mask=mask, use_cache=False, **arguments)
        self.assertEqual(cached.tolist(), uncached.tolist())

    def test_batch_of_different_n(self):
        self.use(config(decode_mask="spliced"))
        ids = torch.cat([prompt(self.random, start_at=a) for a in (3, 6)])
        coords, features = self.random.integers(80, 2, POINTS, 3), self.random(2, POINTS, 48)
        tokens = self.generated(ids, features, coords, point_counts=torch.tensor([6, 2]))
        self.assertEqual(tokens, self.manual(ids, [features[0], features[1, :2]], coords))

    def test_own_loop_that_passes_the_scan_with_every_call(self):
        """`forward` ignores the scan once the cache holds something; an empty cache object means prefill all the same."""
        from transformers import DynamicCache
        ids, coords, features = prompt(self.random), self.random.integers(80, POINTS, 3), self.random(POINTS, 48)
        model = self.server.model(self.config, self.path)
        cache, tokens, mask = DynamicCache(), [], torch.ones_like(ids)
        new = ids
        for _ in range(self.STEPS):
            logits = model(input_ids=new, attention_mask=mask, past_key_values=cache, use_cache=True,
                           point_features=features, point_coords=coords).logits
            new = logits[:, -1:].argmax(-1)
            tokens.append(int(new))
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        self.assertEqual([tokens], self.generated(ids, features, coords))

    def test_fresh_model_trains_its_rotary_parameters(self):
        """A model made without weights has learned parameters near their bases, and gradients reach them."""
        from mixedrope3d.configuration import MixedRope3DConfig
        torch.manual_seed(0)
        model = MixedRope3DForCausalLM(MixedRope3DConfig(**self.config))
        attention = model.model.layers[1].self_attn
        self.assertEqual(attention.freqs_3d_q.shape, (3, 6, 4))
        self.assertEqual(attention.axial_weights_3d_kv.shape, (2, 4, 3))
        base = torch.tensor([100 ** (-f / 4) for f in range(4)])
        self.assertLess((attention.freqs_3d_q - base).abs().max().item(), 0.05)
        ids = prompt(self.random)
        loss = model(input_ids=ids, labels=ids, point_features=torch.randn(POINTS, 48),
                     point_coords=self.random.integers(80, POINTS, 3)).loss
        loss.backward()
        for name in ("freqs_3d_q", "axial_weights_3d_q", "freqs_3d_kv", "axial_weights_3d_kv"):
            self.assertGreater(getattr(attention, name).grad.abs().max().item(), 0, name)


class Unrepaired(unittest.TestCase):
    def test_the_library_s_own_words(self):
        eager, sdpa, silent, heads = unrepaired.collect()["experiments"]
        for found in (eager, sdpa):
            self.assertRegex(found["message"], r"tensor a \(787\).*tensor b \(232\)")
        self.assertIsNone(silent["message"])
        self.assertEqual(silent["positions_of_last_tokens"], [785, 231, 232, 233])
        self.assertRegex(heads["message"], r"tensor a \(2\).*tensor b \(14\)")


if __name__ == "__main__":
    unittest.main()
