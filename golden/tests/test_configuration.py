"""Configuration: names, types, values, and rules that join several keys."""

import unittest

import support  # noqa: F401  (finds the package)
from mixedrope3d.configuration import CHECKERS, OPTIONS, MixedRope3DConfig, Options, head_split
from mixedrope3d.errors import Refused
from transformers import Qwen2Config

QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936, "rope_scaling": None, "use_mrope": False,
}


class Values(unittest.TestCase):
    def refuse(self, words: str, **given):
        with self.assertRaisesRegex(Refused, words):
            Options(given)

    def test_a_checkpoint_s_configuration_loads_as_it_is(self):
        options = Options(QWEN)
        self.assertEqual(options.head_dim, 64)
        self.assertEqual(options.reduced_grid_size, 80)
        self.assertEqual(options.rope_theta_3d, 100)
        Options(Qwen2Config().to_dict())

    def test_misspelt_keys_name_the_key_meant(self):
        for key, known in (("rope_theta3d", "rope_theta_3d"), ("ropeTheta", "rope_theta"), ("Coord-Norm", "coord_norm"),
                           ("coordnorm", "coord_norm"), ("drfit", "drift"), ("mixedrope_layout", "mixed_rope_layout"),
                           ("num_hiden_layers", "num_hidden_layers"), ("vocab_sizes", "vocab_size"),
                           ("mixedRoPE_3d_learned_axial_mixing_weights", "mixedRoPE_3d_learned_axial_mixing_weight"),
                           ("MIXEDROPE3DLEARNEDPERAXIS", "mixedRoPE_3d_learned_per_axis")):
            self.refuse(f'"{key}".*"{known}"', **{key: 1})
        Options({"drift_of_another_kind": 1, "my_key": None})

    def test_every_option_refuses_another_type(self):
        for key in CHECKERS:
            for wrong in ("Flase", [], {}, "", float("nan"), float("inf"), -1):
                self.refuse(f"{key} is", **{key: wrong})
        for key, (default, _) in OPTIONS.items():
            if not isinstance(default, bool):
                self.refuse(f"{key} is true", **{key: True})
            else:
                self.refuse(f"{key} is 1", **{key: 1})

    def test_invalid_values_list_the_valid_ones(self):
        self.refuse('"half_spatial_half_temp", "full_spatial", "full_temporal", "custom_ratio"',
                    spatial_temporal_separate_strategy="half")
        self.refuse('"grid", "none", "unit_range", "virtual_resolution"', coord_norm="GRID")
        self.refuse("true or false", rope_mixed_3d="Flase")
        self.refuse("above 1", rope_theta_3d=1)
        self.refuse("from 0 to 1", spatial_ratio=1.01)
        self.refuse("silu", hidden_act="gelu")
        self.refuse("null", rope_scaling={"type": "linear", "factor": 2.0})
        self.refuse("false", use_sliding_window=True)
        self.refuse("integer", num_bins=1280.5)
        self.refuse("integer", downsamplings=-1)

    def test_null_and_whole_floats(self):
        options = Options({"spatial_ratio": None, "virtual_resolution": None, "head_dim": None, "num_bins": 640.0,
                           "downsamplings": 4.0, "rope_scaling": None})
        self.assertEqual((options.num_bins, options.reduced_grid_size), (640, 40))
        self.refuse("drift is null", drift=None)

    def test_rules_that_join_keys(self):
        self.refuse("14.*4", num_attention_heads=14, num_key_value_heads=4)
        self.refuse("896.*15", hidden_size=896, num_attention_heads=15)
        self.refuse("1280.*2\\^9", downsamplings=9)
        self.refuse("spatial_ratio", spatial_temporal_separate_strategy="custom_ratio")
        self.refuse("virtual_resolution", coord_norm="virtual_resolution")
        self.refuse("19.2 spatial", spatial_temporal_separate_strategy="custom_ratio", spatial_ratio=0.3, head_dim=64)
        self.refuse("3 spatial", head_dim=6)
        self.refuse("head_dim is 5", head_dim=5)
        self.refuse("30 spatial and 34 temporal.*32 dimensions", mixed_rope_layout="interleaved", head_dim=64,
                    spatial_temporal_separate_strategy="custom_ratio", spatial_ratio=30 / 64)
        self.refuse("0 bins", rope_3d_kind="axial", head_dim=8)
        with self.assertRaisesRegex(Refused, "reduced_grid_size is 1"):
            Options({"reduced_grid_size": 1}).check_normalization()

    def test_missing_sizes_are_named(self):
        with self.assertRaisesRegex(Refused, "rope_theta.*rope1d"):
            Options({}).need("rope_theta", "rope1d")
        with self.assertRaisesRegex(Refused, "head_dim.*hidden_size"):
            Options({"hidden_size": 8}).need("head_dim", "prefill")


class Layout(unittest.TestCase):
    def split(self, head_dim, **given):
        s = head_split(Options(given), head_dim)
        return list(s.spatial), list(s.temporal)

    def test_layouts(self):
        self.assertEqual(self.split(8), ([0, 1, 2, 3], [4, 5, 6, 7]))
        self.assertEqual(self.split(8, mixed_rope_layout="interleaved"), ([1, 3, 5, 7], [0, 2, 4, 6]))
        quarter = {"spatial_temporal_separate_strategy": "custom_ratio", "spatial_ratio": 0.25}
        self.assertEqual(self.split(16, mixed_rope_layout="interleaved", **quarter),
                         ([3, 7, 11, 15], [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]))
        for strategy, sizes in (("full_spatial", (8, 0)), ("full_temporal", (0, 8))):
            for layout in ("contiguous", "interleaved"):
                s = self.split(8, mixed_rope_layout=layout, spatial_temporal_separate_strategy=strategy)
                self.assertEqual(tuple(map(len, s)), sizes)


class LibraryClass(unittest.TestCase):
    def test_round_trip(self):
        given = {**QWEN, "drift": "average", "spatial_temporal_separate_strategy": "custom_ratio", "spatial_ratio": 0.25}
        config = MixedRope3DConfig(**given, true_precision=True)
        again = MixedRope3DConfig.from_dict(config.to_dict())
        self.assertEqual(again.to_dict(), config.to_dict())
        self.assertEqual((again.drift, again.head_dim, again.true_precision), ("average", 64, True))
        self.assertIn("average", repr(config))
        with self.assertRaisesRegex(Refused, "drift"):
            MixedRope3DConfig(**QWEN, drift="averge")


if __name__ == "__main__":
    unittest.main()
