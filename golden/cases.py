"""The case list. This file is where cases are written; golden/cases.json, which C and Python read, is its output.

    python golden/cases.py            write golden/cases.json
    python golden/cases.py --check    fail if the committed file differs

Formats: docs/cases.md. Numbers of the canonical model and scene: 231 text tokens with the start marker at index 24,
556 points, so 786 tokens after the splice; hidden 896, 14 query heads on 2 KV heads of 64.
"""

import argparse
import json
import math
import pathlib
import re
import sys

OUTPUT = pathlib.Path(__file__).resolve().with_name("cases.json")
CASES, WEIGHTS = [], {}

LEVELS = {"attention_block": "L1", "decoder_layer": "L2", "prefill": "L3", "decode": "L4", "drop_session": "L4",
          "encode_points": "L5"}
PITFALLS = """mask-length decode-rope gqa-heads coords-count mask-ownership batch pairing temporal-table broadcast
mask-overflow silent-downcast narrow-angles theta-mixup cache-rotation splice keep-all-logits empty-cache qwen2-details
head-dim axial-weights layout stale-cis degenerate dirty-scan drift-norm order-sensitivity overflow-half token-rows
sparse-conv group-norm patches grid-pooling fourier-features encoder-gelu
narrow-products truncated-stores""".split()

START, END, PAD = 151652, 151653, 151654  # the default marker ids
T, N, S, MARK = 231, 556, 786, 24         # canonical sizes; MARK is the index of the start marker
N_RAW = 106328


# Recipes.

def dist(shape, name, dtype="tier", **keys):
    return {"shape": list(shape), "dtype": dtype, "dist": name, **keys}


def normal(*shape, **keys):
    return dist(shape, "normal", **keys)


def heavy(*shape, scale=1, **keys):
    return dist(shape, "heavy", scale=scale, **keys)


def uniform(lo, hi, *shape, **keys):
    return dist(shape, "uniform", lo=lo, hi=hi, **keys)


def const(value, *shape, **keys):
    return dist(shape, "const", scale=value, **keys)


def ints(lo, hi, *shape, **keys):
    return dist(shape, "int", **{"dtype": "I64", "lo": lo, "hi": hi, **keys})


def values(shape, *flat, dtype="I64", **keys):
    return {"shape": list(shape), "dtype": dtype, "values": list(flat), **keys}


def arange(start, step, *shape, dtype="I64"):
    return {"shape": list(shape), "dtype": dtype, "arange": [start, step]}


def ones(*shape):
    return {"shape": list(shape), "dtype": "I64", "runs": [[[1, shape[-1]]]] * math.prod(shape[:-1])}


def runs(*rows, dtype="I64", shape=None):
    """Rows of (value, count); counts of 0 are dropped."""
    rows = [[[value, count] for value, count in row if count] for row in rows]
    return {"shape": shape or [len(rows), sum(count for _, count in rows[0])], "dtype": dtype, "runs": rows}


def scene(what, *shape):
    dtype = {"points": "F32", "features": "tier"}.get(what, "I64")
    return {"shape": list(shape), "dtype": dtype, "scene": what}


def grid_coords(*shape):
    return ints(0, 79, *shape)


def poked(recipe, **by_index):
    """A copy of a recipe with elements replaced: poked(r, _3=1.5)."""
    return {**recipe, "poke": {**recipe.get("poke", {}), **{index[1:]: value for index, value in by_index.items()}}}


NAN = {"1": "nan"}
OUTLIERS = {"every": 97, "by": 40}  # the massive activations of trained models


def text_ids(length, *marks, start=START, end=END, pad=PAD, lo=100, hi=999):
    """Token ids [B, length]; a mark is (index of the start marker, index of the end marker) or None."""
    poke = {}
    for row, mark in enumerate(marks):
        if mark:
            poke[str(row * length + mark[0])] = start
            poke.update({str(row * length + i): pad for i in range(mark[0] + 1, mark[1])})
            poke[str(row * length + mark[1])] = end
    recipe = ints(lo, hi, len(marks), length)
    return {**recipe, "poke": poke} if poke else recipe


def point_mask(length, *spans):
    """point_token_mask [B, length]; a span is (first point, number of points)."""
    return runs(*[[(0, first), (1, count), (0, length - first - count)] for first, count in spans], dtype="BOOL")


def causal(q, past=0, batch=1):
    """`visible` [batch, q, past+q], every key present."""
    rows = [[(1, past + i + 1), (0, q - 1 - i)] for i in range(q)]
    return runs(*rows * batch, dtype="BOOL", shape=[batch, q, past + q])


# Configurations.

def config(heads=4, kv=2, head_dim=32, **options):
    return {"num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim, "rope_theta": 1000000,
            "hidden_size": heads * head_dim, "rms_norm_eps": 1e-6, **options}


FULL = config(14, 2, 64, intermediate_size=4864)
SMALL = config(4, 2, 32, intermediate_size=200)
CHECKPOINT = {  # the config.json of Qwen2.5-0.5B-Instruct as it is
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936}


def ratio(value):
    return {"spatial_temporal_separate_strategy": "custom_ratio", "spatial_ratio": value}


def spatial_dims(cfg):
    share = {"half_spatial_half_temp": 0.5, "full_spatial": 1, "full_temporal": 0,
            "custom_ratio": cfg.get("spatial_ratio")}
    return int(cfg["head_dim"] * share[cfg.get("spatial_temporal_separate_strategy", "half_spatial_half_temp")])


def rotary(cfg, prefix="", flat=False):
    """Recipes of the rotary parameters that a configuration wants, named freqs_q .. or, with a prefix, as in layers."""
    bins = spatial_dims(cfg) // 2
    if not cfg.get("rope_mixed_3d", True) or cfg.get("rope_3d_kind") == "axial" or not bins:
        return {}
    axes = 3 if cfg.get("mixedRoPE_3d_learned_per_axis", True) else 1
    out = {}
    for side, heads in (("q", cfg["num_attention_heads"]), ("kv", cfg["num_key_value_heads"])):
        middle = "3d_" if prefix else ""
        shape = (axes, heads * bins) if flat else (axes, heads, bins)
        out[f"{prefix}freqs_{middle}{side}"] = uniform(0.02, 1, *shape)
        if cfg.get("mixedRoPE_3d_learned_axial_mixing_weight", True):
            out[f"{prefix}axial_weights_{middle}{side}"] = uniform(0.5, 1.5, heads, bins, 3)
    return out


def rounded(value):
    return float(f"{value:.3g}")


def attention_weights(cfg, probe, input_rms, flat=False):
    """Recipes of the self_attn tensors. Trained-like: keys are huge (bias of rms 68, up to the hundreds) and queries
    small, so scores have a deviation near 3.5. Probe: no query and key bias and flat attention: every key matters."""
    hidden = cfg["hidden_size"]
    q_dim, kv_dim = cfg["num_attention_heads"] * cfg["head_dim"], cfg["num_key_value_heads"] * cfg["head_dim"]

    def weight(rows, columns, rms, input_rms):
        return heavy(rows, columns, scale=rounded(rms / (2.27 * math.sqrt(columns) * input_rms)))

    q_rms, k_rms = (0.3, 1) if probe else (0.05, 10)
    return {
        "self_attn.q_proj.weight": weight(q_dim, hidden, q_rms, input_rms),
        "self_attn.q_proj.bias": const(0, q_dim) if probe else heavy(q_dim, scale=0.01),
        "self_attn.k_proj.weight": weight(kv_dim, hidden, k_rms, input_rms),
        "self_attn.k_proj.bias": const(0, kv_dim) if probe else heavy(kv_dim, scale=30),
        "self_attn.v_proj.weight": weight(kv_dim, hidden, 1, input_rms),
        "self_attn.v_proj.bias": heavy(kv_dim, scale=0.2),
        "self_attn.o_proj.weight": weight(hidden, q_dim, 0.5, 0.5),
        **rotary(cfg, "self_attn.", flat)}


def layer_weights(cfg, probe=False, flat=False):
    """Recipes of all tensors of a decoder layer."""
    hidden, wide = cfg["hidden_size"], cfg["intermediate_size"]
    up = rounded(1 / (2.27 * math.sqrt(hidden) * 2.4))
    return {
        "input_layernorm.weight": uniform(0.2, 4, hidden),
        **attention_weights(cfg, probe, 2.4, flat),
        "post_attention_layernorm.weight": uniform(0.2, 4, hidden),
        "mlp.gate_proj.weight": heavy(wide, hidden, scale=rounded(1.5 * up)),
        "mlp.up_proj.weight": heavy(wide, hidden, scale=up),
        "mlp.down_proj.weight": heavy(hidden, wide, scale=rounded(1 / (2.27 * math.sqrt(wide))))}


def weight_set(name, cfg, probe=False, flat=False, head=False):
    """A whole model. The final norm has weights of both signs: with a tied head and positive ones, a model of random
    weights only repeats its last token."""
    tensors = {"model.embed_tokens.weight": heavy(cfg["vocab_size"], cfg["hidden_size"], scale=0.1)}
    for layer in range(cfg["num_hidden_layers"]):
        tensors.update({f"model.layers.{layer}.{key}": recipe for key,
                recipe in layer_weights(cfg, probe, flat).items()})
    tensors["model.norm.weight"] = uniform(-3, 3, cfg["hidden_size"])
    if head:
        tensors["lm_head.weight"] = heavy(cfg["vocab_size"], cfg["hidden_size"], scale=0.1)
    WEIGHTS[name] = tensors


# Point encoders.

SCENESCRIPT = {"point_backbone": "scenescript", "point_config": {
    "input_channels": 6, "embed_channels": 512, "conv_layers": [16, 32, 64, 128, 256]}}
SONATA = {"point_backbone": "sonata", "point_config": {
    "in_channels": 6, "order": ["z", "z-trans"], "stride": [2, 2, 2, 2], "enc_depths": [3, 3, 3, 12, 3],
    "enc_channels": [48, 96, 192, 384, 512], "enc_num_head": [3, 6, 12, 24, 32], "enc_patch_size": [1024] * 5, "mlp_ratio": 4,
    "enable_rpe": False, "shuffle_orders": False}}
FOURIER = 63  # positional features of a token


def encoder_weights(cfg):
    """Recipes of all tensors of a point encoder and its projector (docs/generator.md). Activations stay near 1, attention is
    neither flat nor one-hot, no bias is 0 and no norm's weight 1, so that each of them shows."""
    point, tensors = cfg["point_config"], {}

    def vector(name, size):
        tensors[name] = heavy(size, scale=0.1)

    def linear(name, c_in, c_out, rms=1):
        tensors[name + ".weight"] = heavy(c_out, c_in, scale=rounded(rms / (2.27 * math.sqrt(c_in))))
        vector(name + ".bias", c_out)

    def norm(name, channels):
        tensors[name + ".weight"] = uniform(0.2, 2, channels)
        vector(name + ".bias", channels)

    def kernel_scale(k, c_in):
        """Of the k³ cells around a cell of a surface about k² are occupied."""
        return rounded(1 / (2.27 * math.sqrt(k * k * c_in)))

    def conv(name, k, c_in, c_out):
        tensors[name + ".0.kernel"] = heavy(k**3, c_in, c_out, scale=kernel_scale(k, c_in))
        norm(name + ".1", c_out)

    def res(name, channels):
        conv(name + ".block0", 3, channels, channels)
        conv(name + ".block1", 3, channels, channels)

    net = "point_backbone."
    if cfg["point_backbone"] == "scenescript":
        widths, embed = point["conv_layers"], point["embed_channels"]
        conv(net + "sparse_resnet.stem.0", 7, point["input_channels"], widths[0])
        res(net + "sparse_resnet.stem.1", widths[0])
        for i, (c_in, c_out) in enumerate(zip(widths, widths[1:])):
            block = f"{net}sparse_resnet.blocks.{i}."
            conv(block + "0", 2, c_in, c_out)
            res(block + "1", c_out)
            res(block + "2", c_out)
        linear(net + "sparse_resnet.bottleneck.0", widths[-1], 2 * widths[-1])
        norm(net + "sparse_resnet.bottleneck.1", 2 * widths[-1])
        linear(net + "sparse_resnet.bottleneck.3", 2 * widths[-1], embed)
        vector(net + "extra_embedding", embed)
    else:
        widths, embed = point["enc_channels"], point["enc_channels"][-1]
        linear(net + "embedding.stem.linear", point["in_channels"], widths[0])
        norm(net + "embedding.stem.norm", widths[0])
        for stage, c in enumerate(widths):
            if stage:
                linear(f"{net}enc.enc{stage}.down.proj", widths[stage - 1], c)
                norm(f"{net}enc.enc{stage}.down.norm.0", c)
            for i in range(point["enc_depths"][stage]):
                block, wide = f"{net}enc.enc{stage}.block{i}.", int(point["mlp_ratio"] * c)
                tensors[block + "cpe.0.weight"] = heavy(c, 3, 3, 3, c, scale=kernel_scale(3, c))
                vector(block + "cpe.0.bias", c)
                linear(block + "cpe.1", c, c)
                norm(block + "cpe.2", c)
                norm(block + "norm1.0", c)
                linear(block + "attn.qkv", c, 3 * c, rms=1.5)
                linear(block + "attn.proj", c, c)
                norm(block + "norm2.0", c)
                linear(block + "mlp.0.fc1", c, wide)
                linear(block + "mlp.0.fc2", wide, c)
    linear(net + "input_proj", embed + FOURIER, embed)
    hidden = cfg["hidden_size"]
    if cfg["projector"] == "linear":
        linear("point_proj", embed, hidden, rms=0.1)
    else:
        linear("point_proj.0", embed, hidden)
        linear("point_proj.2", hidden, hidden, rms=0.1)
    return tensors


# Cases.

def step(op, inputs, meta=None, **keys):
    out = {"op": op}
    if meta:
        out["meta"] = {key: str(value) for key, value in meta.items()}
    return {**out, "inputs": inputs, **keys}


def session(name, title, why, steps, cfg, pitfalls="", tags="", weights=None, tiers=None):
    """A case of several requests; `name` starts with the operator it is about, in the form of an id."""
    case = {"id": name, "title": title, "why": why, "level": LEVELS.get(name.split("/")[0].replace("-", "_"), "L0"),
            "pitfalls": pitfalls.split(), "tags": tags.split(), "config": cfg}
    if weights:
        case["weights"] = weights
    if tiers:
        case["tiers"] = tiers
    if '"prompt":' in json.dumps(steps):
        case["needs"] = "data"
    case["steps"] = steps
    CASES.append(case)


def case(name, title, why, inputs, cfg=None, meta=None, pitfalls="", tags="", tiers=None):
    op = name.split("/")[0].replace("-", "_")
    session(name, title, why, [step(op, inputs, meta)], cfg or {}, pitfalls, tags, tiers=tiers)


def refuse(name, title, why, inputs, cfg=None, meta=None, message=(), pitfalls="", tags="", weights=None):
    op = name.split("/")[0].replace("-", "_")
    steps = [step(op, inputs, meta, expect="error", message=[str(part) for part in message])]
    session(name, title, why, steps, cfg or {}, pitfalls, f"error {tags}", weights=weights)


def without(inputs, *names):
    return {key: value for key, value in inputs.items() if key not in names}


# L0: splice.

def splice(ids, counts, mask=None, **more):
    batch, length = ids["shape"]
    return {"input_ids": ids, "attention_mask": mask or ones(batch, length), "point_counts": values([batch], *counts),
            **more}


def splice_cases():
    labels = ints(0, 999, 1, T)
    case("splice/canonical", "231 text tokens with the start marker at 24 and 556 points: 786 tokens",
        "an end marker that is dropped, or a pad token that is kept, moves every token behind the points by one",
        splice(text_ids(T, (24, 26)), [N], labels=labels), pitfalls="splice", tags="canonical")
    case("splice/canonical-221", "221 text tokens with the start marker at 14: 776 tokens",
        "a start index learned from one prompt is wrong for the next",
        splice(text_ids(221, (14, 16)), [N]), pitfalls="splice", tags="canonical")
    for length, prompt in ((231, "qwen25/all"), (221, "helpful/all")):
        ids = {"shape": [1, length], "dtype": "I64", "prompt": prompt}
        case(f"splice/prompt-{length}", f"the real prompt {prompt}", "generated ids hold no ordinary special tokens",
            splice(ids, [N]), pitfalls="splice", tags="canonical data")
    case("splice/no-pad", "the end marker follows the start marker at once",
        "one pad token taken for granted drops a marker",
        splice(text_ids(12, (4, 5)), [5]), pitfalls="splice", tags="awkward")
    case("splice/seven-pads", "seven tokens between the markers", "exactly one pad removed leaves six behind",
        splice(text_ids(20, (6, 14)), [5]), pitfalls="splice", tags="awkward")
    case("splice/only-markers", "T = 3: start, pad, end and nothing else", "no text before or behind the points",
        splice(text_ids(3, (0, 2)), [14]), pitfalls="splice degenerate", tags="awkward")
    case("splice/two-tokens", "T = 2: start and end, one point", "the smallest spliced sequence",
        splice(text_ids(2, (0, 1)), [1]), pitfalls="splice degenerate", tags="awkward")
    case("splice/markers-without-points", "N = 0 between markers: the text between them is dropped",
        "with N = 0 the splice is skipped and a pad token stays",
        splice(text_ids(12, (4, 6)), [0]), pitfalls="splice degenerate", tags="awkward")
    case("splice/text-only", "no markers and N = 0", "text without a scan is refused, or gets a point",
        splice(text_ids(12, None), [0]), tags="awkward")
    case("splice/one-point", "N = 1", "one point is taken for none", splice(text_ids(9, (3, 5)), [1]),
        tags="awkward")
    case("splice/markers-at-the-ends", "start is the first token, end the last, N = 13",
        "an index -1 or one past the end", splice(text_ids(11, (0, 10)), [13]), pitfalls="splice degenerate",
        tags="awkward")
    case("splice/mask-zeros", "zeros in the text mask before and behind the points",
        "the mask is replaced by ones, or zeros are put over the points",
        splice(text_ids(14, (5, 7)), [6], mask=runs([(0, 2), (1, 8), (0, 1), (1, 3)])),
        pitfalls="splice")
    case("splice/labels", "labels get -100 on the points and keep their place elsewhere",
        "the loss is taken on point tokens, or labels shift by one",
        splice(text_ids(14, (5, 7)), [6], labels=ints(0, 999, 1, 14)), pitfalls="splice")
    case("splice/batch-of-three", "B = 3 with N = 14, 13, 2 and markers at different places, labels",
        "sample 0's start or count is used for all; padding is not masked",
        splice(text_ids(16, (3, 5), (9, 11), (0, 15)), [14, 13, 2], labels=ints(0, 999, 3, 16)),
        pitfalls="splice batch degenerate")
    case("splice/batch-short-first", "B = 2 with N = 2 and 5: the first sample is the shorter one, labels",
        "all samples are cut to the length of the first", splice(text_ids(9, (3, 5), (1, 3)), [2, 5],
            labels=ints(0, 999, 2, 9)), pitfalls="splice batch")
    case("splice/batch-with-text-only", "B = 3: 5 points, no markers, markers with N = 0",
        "a sample without points breaks the batch",
        splice(text_ids(10, (3, 5), None, (2, 6)), [5, 0, 0]), pitfalls="splice batch degenerate", tags="awkward")
    case("splice/batch-left-padded", "B = 2, the text mask has leading zeros in one sample",
        "text padding is taken for absent tokens",
        splice(text_ids(10, (3, 5), (5, 7)), [4, 4], mask=runs([(1, 10)], [(0, 3), (1, 7)])), pitfalls="splice")
    case("splice/own-markers", "marker ids from the configuration", "the ids of one tokenizer are compiled in",
        splice(text_ids(12, (4, 6), start=7, end=8, pad=9), [5]),
        {"point_start_token_id": 7, "point_end_token_id": 8, "point_token_id": 9}, pitfalls="splice", tags="options")
    case("splice/pad-outside-markers", "a pad token in the text, outside the markers, is text like any other",
        "every pad token is dropped or replaced by points",
        splice({**text_ids(12, (4, 6)), "poke": {"1": PAD, "4": START, "5": PAD, "6": END, "9": PAD}}, [5]),
        pitfalls="splice", tags="awkward")

    good = splice(text_ids(12, (4, 6)), [5])
    bad_ids = [("two-starts", {"2": START, "4": START, "6": END}, "two start markers", ["2"]),
               ("two-ends", {"4": START, "6": END, "9": END}, "two end markers", ["2"]),
               ("no-end", {"4": START}, "a start marker without an end marker", ["0"]),
               ("no-start", {"6": END}, "an end marker without a start marker", ["0"]),
               ("end-before-start", {"6": START, "4": END}, "the end marker stands before the start marker",
                   ["4", "6"])]
    for slug, poke, title, message in bad_ids:
        refuse(f"splice/refuse-{slug}", title, "points go to some place that nobody chose",
            {**good, "input_ids": {**ints(100, 999, 1, 12), "poke": poke}}, message=message)
    refuse("splice/refuse-points-without-markers", "sample 1 of 2 has 5 points and no markers",
        "points vanish in silence",
        splice(text_ids(12, (4, 6), None), [5, 5]), message=["sample 1", "5"], pitfalls="batch")
    refuse("splice/refuse-equal-markers", "one token id for both markers", "the marker is repeated around the points",
        splice(values([1, 5], 5, 3, 3, 3, 2), [2]),
        {"point_start_token_id": 5, "point_end_token_id": 5}, message=["both 5"])
    refuse("splice/refuse-negative-count", "a point count of -1", "a negative size reaches an allocation",
        splice(text_ids(12, (4, 6)), [-1]), message=["point_counts", "-1"])
    refuse("splice/refuse-count-shape", "three point counts for two samples", "a count is read from another sample",
        {**splice(text_ids(12, (4, 6), (4, 6)), [5, 5]), "point_counts": values([3], 5, 5, 5)},
        message=["point_counts"],
        pitfalls="batch")
    refuse("splice/refuse-mask-value", "a mask value of 2", "anything but 0 counts as 1",
        {**good, "attention_mask": poked(ones(1, 12), _3=2)}, message=["attention_mask", "2"])
    refuse("splice/refuse-mask-shape", "a mask of 11 for 12 tokens", "a mask is stretched or cut in silence",
        {**good, "attention_mask": ones(1, 11)}, message=["attention_mask", "11", "12"], pitfalls="mask-length")
    refuse("splice/refuse-ids-type", "token ids as I32", "integers of another width are read as I64",
        {**good, "input_ids": {**text_ids(12, (4, 6)), "dtype": "I32"}}, message=["input_ids", "I32", "I64"])
    refuse("splice/refuse-missing-counts", "point_counts is missing", "a missing count is taken as 0",
        without(good, "point_counts"), message=["point_counts"])
    refuse("splice/refuse-unexpected-tensor", "a tensor that the operator does not have",
        "a misspelt optional tensor is ignored",
        {**good, "label": ints(0, 9, 1, 12)}, message=["label"])
    refuse("splice/refuse-labels-shape", "labels of another length", "labels are stretched in silence",
        {**good, "labels": ints(0, 9, 1, 13)}, message=["labels", "13", "12"])


# L0: mask.

def mask_cases():
    def lengths(past, q):
        return {"past_len": past, "q_len": q}

    case("mask/canonical-prefill", "prefill of 786: causal, all keys present",
        "the causal step is left to a library that skips it",
        {"key_mask": ones(1, S)}, meta=lengths(0, S), pitfalls="mask-ownership", tags="canonical")
    case("mask/prefill-with-zeros", "prefill of 20 with zeros in the mask",
        "the padding step is left out, or zeros hide queries",
        {"key_mask": runs([(0, 2), (1, 9), (0, 3), (1, 6)])}, meta=lengths(0, 20), pitfalls="mask-ownership")
    case("mask/decode-232-of-787",
        "first decode step: the caller's mask counts 232, 787 keys stand; 555 ones are appended",
        "the mask is used as it is and hides every point behind 232 keys",
        {"key_mask": ones(1, 232)}, meta=lengths(S, 1), pitfalls="mask-length", tags="canonical")
    case("mask/decode-232-zeros-before", "232 entries with zeros before the splice point",
        "the 555 ones go in front, which moves the zeros", {"key_mask": runs([(0, 3), (1, 20), (0, 1), (1, 208)])},
        meta=lengths(S, 1), pitfalls="mask-length mask-ownership", tags="canonical")
    case("mask/decode-232-zeros-behind", "232 entries with zeros behind the splice point, decode_mask pad_end",
        "the extension is put at the splice point, which pad_end does not do",
        {"key_mask": runs([(1, 100), (0, 7), (1, 120), (0, 5)])}, meta=lengths(S, 1), pitfalls="mask-length",
        tags="canonical")
    case("mask/decode-eighth-step", "eighth decode step: 239 of 794", "the repair works for the first step only",
        {"key_mask": runs([(1, 5), (0, 2), (1, 232)])}, meta=lengths(S + 7, 1), pitfalls="mask-length",
        tags="canonical")
    case("mask/decode-three-tokens", "q = 3 at L = 786: 234 of 789, causal among the new tokens",
        "the causal offset forgets L, or a q above 1 is taken for prefill",
        {"key_mask": runs([(0, 1), (1, 233)])}, meta=lengths(S, 3), pitfalls="mask-length mask-ownership empty-cache",
        tags="canonical")
    case("mask/decode-full-length", "a mask that already has L + q = 787 entries", "a full mask is extended again",
        {"key_mask": runs([(1, 30), (0, 10), (1, 747)])}, meta=lengths(S, 1), pitfalls="mask-ownership",
        tags="canonical")
    case("mask/decode-one-entry", "a mask of one entry, L = 4", "the shortest mask that can be repaired",
        {"key_mask": values([1, 1], 0)}, meta=lengths(4, 1), pitfalls="mask-length", tags="awkward")
    case("mask/none-prefill", "no mask at all, prefill of 13", "no mask is taken for no causality", {},
        meta=lengths(0, 13),
        pitfalls="mask-ownership")
    case("mask/none-decode", "no mask at all, L = 786", "no mask is taken for no past", {}, meta=lengths(S, 1),
        pitfalls="mask-ownership")
    case("mask/none-chunk", "no mask at all, L = 5, q = 3", "a chunk with a past is taken for prefill", {},
        meta=lengths(5, 3),
        pitfalls="mask-ownership empty-cache")
    case("mask/one-token", "prefill of one token", "q = 1 is taken for decode", {"key_mask": ones(1, 1)},
        meta=lengths(0, 1),
        tags="awkward")
    case("mask/batch-of-three", "B = 3 with different masks, L = 9, q = 2", "sample 0's mask is used for all",
        {"key_mask": runs([(1, 11)], [(0, 4), (1, 7)], [(1, 6), (0, 3), (1, 2)])}, meta=lengths(9, 2),
        pitfalls="mask-ownership")
    case("mask/batch-short", "B = 2, short masks with zeros at different places", "one sample's repair is used for all",
        {"key_mask": runs([(0, 2), (1, 4)], [(1, 5), (0, 1)])}, meta=lengths(14, 1), pitfalls="mask-length")
    case("mask/hidden-rows", "left padding: the first two queries see no key",
        "a row without keys turns to NaN or sees all",
        {"key_mask": runs([(0, 2), (1, 5)])}, meta=lengths(0, 7), pitfalls="mask-ownership")
    case("mask/all-hidden", "a mask of zeros only", "hidden is hidden, once or twice", {"key_mask": runs([(0, 5)])},
        meta=lengths(0, 5),
        pitfalls="mask-ownership", tags="awkward")
    session("mask/two-requests", "two requests of the same shape with other masks",
        "the mask of the previous request is used again",
        [step("mask", {"key_mask": runs([(0, ones_from), (1, 7 - ones_from)])}, lengths(0, 7)) for ones_from in (2, 3)],
        {}, "order-sensitivity", "awkward")
    session("mask/shorter-request", "a request that is shorter than the one before, with another mask",
        "the mask of the longest request so far is used again",
        [step("mask", {"key_mask": runs([(0, 2), (1, 5)])}, lengths(0, 7)),
            step("mask", {"key_mask": runs([(0, 1), (1, 4)])}, lengths(0, 5))], {}, "order-sensitivity", "awkward")
    spliced = {"decode_mask": "spliced"}
    case("mask/spliced-decode", "spliced: the prefill mask, then ones; the caller's mask is only checked for length",
        "padding behind the shorter sample becomes visible at decode",
        {"key_mask": runs([(1, 9)], [(0, 1), (1, 8)]), "prefill_mask": runs([(1, 20)], [(1, 15), (0, 5)])}, spliced,
        lengths(22, 1),
        pitfalls="mask-length", tags="options")
    case("mask/spliced-three-tokens", "spliced, q = 3", "ones are counted for one new key only",
        {"key_mask": ones(1, 10), "prefill_mask": runs([(0, 2), (1, 10), (0, 2)])}, spliced, lengths(14, 3),
        pitfalls="mask-length", tags="options")
    case("mask/spliced-one-mask", "spliced without a prefill mask: the key mask counts as it",
        "a missing prefill mask becomes ones",
        {"key_mask": runs([(1, 5), (0, 3)])}, spliced, lengths(8, 1), pitfalls="mask-length", tags="options")
    case("mask/spliced-zeros-behind", "spliced, the caller's mask has zeros behind the splice point",
        "the caller's zeros land on points", {"key_mask": runs([(1, 8), (0, 2), (1, 2)]),
            "prefill_mask": runs([(1, 16), (0, 2), (1, 2)])},
        spliced, lengths(20, 1), pitfalls="mask-length", tags="options")
    case("mask/spliced-full-caller", "spliced, the caller's mask has as many columns as there are keys",
        "a mask of full length is used although the prefill mask counts",
        {"key_mask": runs([(0, 1), (1, 8)]), "prefill_mask": runs([(1, 5), (0, 3)])}, spliced, lengths(8, 1),
        pitfalls="mask-length", tags="options")
    case("mask/spliced-prefill", "spliced changes nothing at prefill", "the option is applied in the wrong phase",
        {"key_mask": runs([(1, 5), (0, 3)])}, spliced, lengths(0, 8), tags="options")

    refuse("mask/refuse-788-of-787", "a mask of 788 where 787 keys stand", "an over-long mask is cut in silence",
        {"key_mask": ones(1, 788)}, meta=lengths(S, 1), message=["788", "787"], pitfalls="mask-length",
        tags="canonical")
    refuse("mask/refuse-too-long-with-zero", "a mask of 10 where 9 keys stand, with a zero in front",
        "an over-long mask is cut in front, or behind", {"key_mask": runs([(0, 1), (1, 9)])}, meta=lengths(8, 1),
        message=["10", "9"], pitfalls="mask-length")
    refuse("mask/refuse-231-at-prefill", "a mask of 231 at a prefill of 786",
        "the text mask is repaired although nothing is cached",
        {"key_mask": ones(1, T)}, meta=lengths(0, S), message=["231", "786"], pitfalls="mask-length",
        tags="canonical")
    refuse("mask/refuse-spliced-too-long", "spliced: the caller's mask is still checked for length",
        "an unused mask goes unchecked",
        {"key_mask": ones(1, 22), "prefill_mask": ones(1, 18)}, spliced, lengths(20, 1), message=["22", "21"],
        pitfalls="mask-length")
    refuse("mask/refuse-prefill-mask-with-pad-end", "a prefill mask although decode_mask is pad_end",
        "an input without meaning is ignored",
        {"key_mask": ones(1, 6), "prefill_mask": ones(1, 8)}, meta=lengths(8, 1), message=["prefill_mask"],
        pitfalls="mask-length")
    refuse("mask/refuse-value", "a mask value of -1", "any non-zero counts as visible",
        {"key_mask": poked(ones(1, 6), _2=-1)},
        meta=lengths(0, 6), message=["key_mask", "-1"])
    refuse("mask/refuse-bool", "a mask of type BOOL", "another type is read as if it were I64",
        {"key_mask": {**ones(1, 6), "dtype": "BOOL"}},
        meta=lengths(0, 6), message=["key_mask", "BOOL", "I64"])
    refuse("mask/refuse-negative-past", "past_len -1", "a negative length wraps", {}, meta=lengths(-1, 3),
        message=["past_len", "-1"])
    refuse("mask/refuse-missing-length", "q_len is missing", "a missing length is taken as 1", {}, meta={"past_len": 3},
        message=["q_len"])
    refuse("mask/refuse-not-a-number", "past_len that is no number", "text is read as 0", {},
        meta={"past_len": "three", "q_len": 1},
        message=["past_len", "three"])
    refuse("mask/refuse-option", "decode_mask with a value outside its list", "a misspelt value means the default",
        {"key_mask": ones(1, 6)}, {"decode_mask": "padend"}, lengths(8, 1),
        message=["decode_mask", "padend", "pad_end", "spliced"])


# L0: rope1d.

def rope1d_cases():
    def rope(name, title, why, shape, positions, cfg=None, x=None, **keys):
        cfg = cfg or config(shape[1], shape[1], shape[3])
        case(f"rope1d/{name}", title, why, {"x": x or heavy(*shape), "position_ids": positions}, cfg, **keys)

    rope("canonical", "queries of 786 tokens, 14 heads of 64",
        "adjacent dimensions are paired instead of j with j + 32",
        (1, 14, S, 64), arange(0, 1, 1, S), FULL, pitfalls="pairing", tags="canonical")
    rope("canonical-kv", "keys of 786 tokens, 2 heads of 64", "a table built for 14 heads is broadcast",
        (1, 2, S, 64), arange(0, 1, 1, S), FULL, pitfalls="pairing", tags="canonical")
    rope("decode-786", "one token at position 786, the first decode step",
        "the position counts text only (231) or restarts at 0",
        (1, 14, 1, 64), values([1, 1], S), FULL, tags="canonical")
    rope("checkpoint-config", "the config.json of Qwen2.5-0.5B as it is, no head_dim in it",
        "head_dim 32 is assumed where 896/14 = 64 stands",
        (1, 14, 3, 64), values([1, 3], 5, 200, 785), CHECKPOINT, pitfalls="head-dim", tags="options")
    for head_dim in (32, 64, 80, 96, 128):
        rope(f"head-dim-{head_dim}", f"head_dim {head_dim}",
            "inverse frequencies built for another head_dim, or D halved",
            (1, 2, 13, head_dim), arange(0, 17, 1, 13), pitfalls="head-dim", tags="options awkward")
    rope("head-dim-2", "head_dim 2: one pair, one frequency", "an exponent 2j/D with j counted from 1", (1, 1, 5, 2),
        values([1, 5], 0, 1, 2, 3, 100), config(1, 1, 2, spatial_temporal_separate_strategy="full_temporal"),
        pitfalls="pairing", tags="awkward")
    rope("theta-10000", "rope_theta 10000", "1e6 compiled in, or 100 of the 3D part used", (1, 2, 13, 64),
        arange(0, 41, 1, 13),
        config(2, 2, 64, rope_theta=10000), pitfalls="theta-mixup", tags="options")
    rope("theta-100", "rope_theta 100 beside rope_theta_3d 10000", "the two bases are exchanged", (1, 2, 13, 64),
        arange(0, 3, 1, 13),
        config(2, 2, 64, rope_theta=100, rope_theta_3d=10000), pitfalls="theta-mixup", tags="options")
    rope("theta-not-whole", "rope_theta 12345.678", "the base is read as an integer", (1, 2, 13, 64),
        arange(0, 5, 1, 13),
        config(2, 2, 64, rope_theta=12345.678), pitfalls="theta-mixup", tags="options awkward")
    rope("large-positions", "positions to a million", "angles in fp16 or bf16, sine after a binary32 range reduction",
        (1, 2, 13, 64), values([1, 13], 255, 256, 257, 4095, 4096, 4097, 32767, 32768, 65535, 65536, 131071, 999999,
            1000000),
        pitfalls="narrow-angles", tags="awkward")
    rope("position-zero", "all tokens at position 0: nothing turns", "sin and cos exchanged", (1, 2, 3, 32),
        const(0, 1, 3, dtype="I64"),
        tags="awkward")
    rope("any-order", "explicit positions, repeated and falling", "positions are taken for the index", (1, 2, 7, 32),
        values([1, 7], 9, 9, 3, 0, 700, 2, 1), tags="options")
    rope("batch-own-positions", "B = 3, each sample with its own positions", "sample 0's positions are used for all",
        (3, 2, 5, 32),
        values([3, 5], 0, 1, 2, 3, 4, 0, 0, 0, 1, 2, 100, 101, 102, 103, 104),
        tags="options")
    rope("batch-shared-positions", "B = 3, one row of positions for all", "only sample 0 is turned", (3, 2, 5, 32),
        arange(40, 1, 1, 5), tags="options")
    rope("probe", "positions 41 i, plain inputs", "a bf16 inverse frequency or position", (1, 4, 64, 64),
        arange(0, 41, 1, 64),
        x=normal(1, 4, 64, 64), pitfalls="narrow-angles silent-downcast", tags="probe")
    rope("onehot", "one-hot inputs: the table itself", "one entry of the table is wrong", (1, 1, 64, 64),
        arange(0, 13, 1, 64),
        x=dist((1, 1, 64, 64), "onehot"), pitfalls="pairing", tags="onehot")
    rope("repeat", "the same vector at every position", "an error that depends on the position alone", (1, 2, 64, 32),
        arange(0, 1, 1, 64),
        x=heavy(1, 2, 64, 32, repeat=True), pitfalls="pairing", tags="probe")
    rope("large-keys", "keys with entries to the hundreds", "the product is rounded before the sum", (1, 2, 13, 64),
        arange(700, 1, 1, 13),
        x=heavy(1, 2, 13, 64, scale=30), tags="awkward")

    session("rope1d/two-requests", "two requests of the same shape at other positions",
        "the table of the previous request is used again",
        [step("rope1d", {"x": heavy(1, 2, 5, 32), "position_ids": arange(first, 1, 1, 5)}) for first in (3, 40)],
        config(2, 2, 32), "stale-cis", "awkward")

    good, cfg = {"x": heavy(1, 2, 6, 32), "position_ids": arange(0, 1, 1, 6)}, config(2, 2, 32)
    refuse("rope1d/refuse-negative-position", "a position of -1", "a negative position indexes a table from its end",
        {**good, "position_ids": arange(-1, 1, 1, 6)}, cfg, message=["position_ids", "-1"])
    refuse("rope1d/refuse-position-count", "5 positions for 6 tokens", "positions are cut or broadcast in silence",
        {**good, "position_ids": arange(0, 1, 1, 5)}, cfg, message=["position_ids", "5", "6"])
    refuse("rope1d/refuse-position-type", "positions in F32", "positions beyond 2^24 lose their last bits",
        {**good, "position_ids": dist((1, 6), "const", "F32")}, cfg, message=["position_ids", "F32", "I64"])
    refuse("rope1d/refuse-odd-head-dim", "head_dim 33", "the last dimension is left unturned",
        {**good, "x": heavy(1, 2, 6, 33)}, config(2, 2, 33), message=["33"])
    refuse("rope1d/refuse-missing-theta", "rope_theta is missing", "a default base is taken in silence", good,
        {key: value for key, value in cfg.items() if key != "rope_theta"}, message=["rope_theta"])
    refuse("rope1d/refuse-nan", "a NaN in x", "NaN goes in and NaN comes out",
        {**good, "x": {**heavy(1, 2, 6, 32), "poke": NAN}}, cfg,
        message=["x"])
    refuse("rope1d/refuse-x-type", "x in I64", "integers are read as floating bits",
        {**good, "x": ints(0, 9, 1, 2, 6, 32)}, cfg,
        message=["x", "I64"])
    refuse("rope1d/refuse-misspelt-key", "rope_thetta instead of rope_theta",
        "a misspelt key is ignored and a default taken", good,
        {**cfg, "rope_thetta": 10000}, message=["rope_thetta", "rope_theta"])
    refuse("rope1d/refuse-rope-scaling", "a rope_scaling other than null",
        "scaling that the reference lacks is ignored", good,
        {**cfg, "rope_scaling": {"type": "linear", "factor": 2.0}}, message=["rope_scaling"])
    refuse("rope1d/refuse-sliding-window", "use_sliding_window true", "a window that the reference lacks is ignored",
        good,
        {**cfg, "use_sliding_window": True}, message=["use_sliding_window"])


# L0: cis3d.

def cis3d_cases():
    def cis(name, title, why, heads, bins, coords, axes=3, weights=True, cfg=None, freqs=None, **keys):
        inputs = {"freqs": freqs or uniform(0.02, 1, axes, heads, bins)}
        if weights:
            inputs["axial_weights"] = uniform(0.5, 1.5, heads, bins, 3)
        case(f"cis3d/{name}", title, why, {**inputs, "coords": coords}, cfg or config(heads, heads, 4 * bins), **keys)

    fractions = ints(0, 1280, N, 3, dtype="F32", scale=0.0009765625)
    cis("canonical-q", "14 query heads, 16 bins, 556 tokens, coordinates in 0..1.25", "axes, bins or heads exchanged",
        14, 16, fractions, cfg=FULL, pitfalls="axial-weights", tags="canonical")
    cis("canonical-kv", "2 key heads, 16 bins, 556 tokens", "query parameters used for keys", 2, 16, fractions,
        cfg=FULL,
        pitfalls="axial-weights", tags="canonical")
    cis("fourteen-tokens-fourteen-heads", "N = 14 equals the number of query heads",
        "[N,heads,F] times [heads,1,F] broadcasts without an error and means nothing", 14, 16, grid_coords(14, 3),
        cfg=FULL,
        pitfalls="broadcast", tags="awkward")
    cis("two-tokens-two-heads", "N = 2 equals the number of key heads", "the same for keys", 2, 16, grid_coords(2, 3),
        cfg=FULL,
        pitfalls="broadcast", tags="awkward")
    cis("one-token", "N = 1", "a single row broadcasts over heads", 14, 16, values([1, 3], 7, 30, 79), cfg=FULL,
        pitfalls="broadcast", tags="awkward")
    cis("thirteen-tokens", "N = 13", "a token count that fits no other axis", 14, 16, grid_coords(13, 3), cfg=FULL,
        pitfalls="axial-weights", tags="awkward")
    cis("no-tokens", "N = 0", "an empty table is an error, or one row of ones", 14, 16, grid_coords(0, 3), cfg=FULL,
        tags="awkward")
    cis("one-head-one-bin", "one head, one bin", "sizes of 1 collapse", 1, 1, grid_coords(5, 3),
        pitfalls="axial-weights", tags="awkward")
    cis("three-heads-three-bins", "3 heads, 3 bins, 3 tokens: every axis is 3 long",
        "any two axes may be exchanged unseen elsewhere",
        3, 3, grid_coords(3, 3), pitfalls="axial-weights broadcast", tags="awkward")
    cis("shared", "one frequency set for the three axes, with axial weights",
        "the first axis' set is used although three are given, or reversed",
        4, 8, grid_coords(13, 3), axes=1, pitfalls="axial-weights broadcast", tags="options")
    cis("no-axial-weights", "three sets, no axial weights", "missing weights count as 0", 4, 8, grid_coords(13, 3),
        weights=False,
        pitfalls="axial-weights", tags="options")
    cis("shared-no-axial-weights", "one set, no axial weights", "x + y + z is formed in a narrow type", 4, 8,
        grid_coords(13, 3), axes=1,
        weights=False, tags="options")
    cis("raw-grid", "raw grid indices 0..79: angles to 300", "angles in bf16 or fp16", 14, 16, grid_coords(64, 3),
        cfg=FULL,
        pitfalls="narrow-angles axial-weights silent-downcast", tags="probe")
    cis("large-coords", "coordinates to 1279 and beyond the grid",
        "sine after a binary32 range reduction of a large angle", 4, 16,
        values([5, 3], 1279, 1279, 1279, 0, 640, 1279, 5000, -5000, 31, -1, -2, -3, 100000, 7, 0),
        pitfalls="narrow-angles", tags="awkward")
    cis("f64-coords", "coordinates in F64", "coordinates are narrowed on the way in", 4, 8,
        ints(-640, 640, 13, 3, dtype="F64", scale=0.0078125),
        pitfalls="narrow-angles", tags="options")
    cis("negative-frequencies", "learned frequencies of both signs",
        "conjugate where the sign is taken of the wrong factor", 4, 8,
        grid_coords(13, 3), freqs=normal(3, 4, 8, scale=0.3), pitfalls="axial-weights", tags="awkward")
    cis("one-axis-at-a-time", "coordinates on one axis only", "axis order zyx", 4, 8,
        values([4, 3], 40, 0, 0, 0, 40, 0, 0, 0, 40, 0, 0, 0), pitfalls="axial-weights", tags="probe")
    cis("equal-coords", "all tokens at one place", "rows mixed up stay unseen elsewhere", 4, 8,
        const(17, 7, 3, dtype="I64"),
        tags="awkward")

    def base(name, title, why, cfg, coords=None, heads=4, **keys):
        case(f"cis3d/{name}", title, why, {"coords": coords or grid_coords(13, 3)}, cfg, {"heads": heads}, **keys)

    fixed = {"rope_mixed_3d": False}
    base("fixed-canonical", "base frequencies 100^(-2f/32), 14 heads, 556 tokens",
        "rope_theta 1e6 in 3D; exponent 2f/D instead of 2f/Ds",
        {**FULL, **fixed}, fractions, 14, pitfalls="theta-mixup", tags="canonical options")
    base("fixed-theta-10000", "rope_theta_3d 10000", "100 compiled in", config(4, 2, 64, rope_theta_3d=10000, **fixed),
        pitfalls="theta-mixup", tags="options")
    base("fixed-quarter", "spatial_ratio 0.25 of 64: Ds = 16", "Ds = D/2 compiled in",
        config(4, 2, 64, **fixed, **ratio(0.25)),
        pitfalls="theta-mixup layout", tags="options")
    base("fixed-three-quarters", "spatial_ratio 0.75 of 64: Ds = 48", "Ds = D/2 compiled in",
        config(4, 2, 64, **fixed, **ratio(0.75)),
        pitfalls="theta-mixup layout", tags="options")
    base("fixed-full-spatial", "full_spatial: Ds = 128", "the whole head turned by half its frequencies",
        config(4, 2, 128, spatial_temporal_separate_strategy="full_spatial", **fixed), pitfalls="theta-mixup layout",
        tags="options")
    axial = {"rope_3d_kind": "axial"}
    base("axial-canonical", "axial, Ds = 32: n = 5 bins for x, 5 for y, 6 for z",
        "bins over all axes counted through; exponent i/F",
        {**FULL, **axial}, fractions, 14, pitfalls="theta-mixup axial-weights", tags="canonical options")
    for head_dim, n in ((12, 1), (32, 2), (96, 8), (128, 10)):
        base(f"axial-ds-{head_dim // 2}", f"axial, Ds = {head_dim // 2}: n = {n}",
            "left-over bins on z are dropped or start again",
            config(4, 2, head_dim, **axial), pitfalls="theta-mixup axial-weights" if n > 1 else "axial-weights",
            tags="options awkward")
    base("axial-theta-10000", "axial with rope_theta_3d 10000", "another base, exponent -2.05/n",
        config(4, 2, 64, rope_theta_3d=10000, **axial),
        pitfalls="theta-mixup", tags="options")

    good = {"freqs": uniform(0.02, 1, 3, 4, 8), "axial_weights": uniform(0.5, 1.5, 4, 8, 3),
            "coords": grid_coords(13, 3)}
    cfg = config(4, 2, 32)
    refuse("cis3d/refuse-two-axes", "frequencies of first size 2", "the third axis is left out",
        {**good, "freqs": uniform(0, 1, 2, 4, 8)}, cfg,
        message=["freqs", "2"])
    refuse("cis3d/refuse-weights-order", "axial weights as [3,heads,F]", "a transposed parameter is read as it lies",
        {**good, "axial_weights": uniform(0, 1, 3, 4, 8)}, cfg, message=["axial_weights"])
    refuse("cis3d/refuse-flat-coords", "coordinates [13,2]", "the z axis is made up",
        {**good, "coords": grid_coords(13, 2)}, cfg,
        message=["coords", "2", "3"], pitfalls="coords-count")
    refuse("cis3d/refuse-batch-index", "coordinates [13,4] with the batch index in front",
        "the batch index is taken for x",
        {**good, "coords": grid_coords(13, 4)}, cfg, message=["coords", "4", "3"], pitfalls="coords-count")
    refuse("cis3d/refuse-nan", "a NaN coordinate", "a token with NaN in every bin",
        {**good, "coords": {**dist((13, 3), "normal", "F32"), "poke": NAN}}, cfg,
        message=["coords"])
    refuse("cis3d/refuse-narrow-coords", "coordinates in BF16", "736 of the 1280 indices change",
        {**good, "coords": ints(0, 79, 13, 3, dtype="BF16")}, cfg,
        message=["coords", "BF16"])
    refuse("cis3d/refuse-no-heads", "no frequencies and no heads", "the head count is guessed",
        {"coords": grid_coords(13, 3)}, {**cfg, **fixed},
        message=["heads"])
    refuse("cis3d/refuse-learned-missing", "no frequencies where the options say that they are learned",
        "base frequencies are made up for a model that has learned its own",
        {"coords": grid_coords(13, 3)}, cfg, {"heads": 4}, message=["freqs", "rope_mixed_3d"])
    refuse("cis3d/refuse-axial-too-small", "axial with Ds = 4: n = (4//3)//2 = 0", "a division by zero",
        {"coords": grid_coords(3, 3)},
        config(4, 2, 8, **axial), {"heads": 4}, message=["4"])
    refuse("cis3d/refuse-ratio", "spatial_ratio 0.3 of 32: Ds = 9.6", "Ds is rounded in silence",
        {"coords": grid_coords(3, 3)},
        config(4, 2, 32, **fixed, **ratio(0.3)), {"heads": 4}, message=["spatial_ratio", "0.3"])
    refuse("cis3d/refuse-theta-3d", "rope_theta_3d 1", "every frequency is 1", {"coords": grid_coords(3, 3)},
        config(4, 2, 32, rope_theta_3d=1, **fixed), {"heads": 4}, message=["rope_theta_3d"])


# L0: rope3d.

def rope3d_cases():
    def rope(name, title, why, shape, table=None, dtype="F32", x=None, tiers=None, **keys):
        batch, heads, tokens, dims = shape
        table = table or [heads, tokens, dims // 2]
        case(f"rope3d/{name}", title, why, {"x": x or heavy(*shape), "cos": uniform(-0.7, 0.7, *table, dtype=dtype),
                "sin": uniform(-0.7, 0.7, *table, dtype=dtype)},
            config(heads, heads, 2 * dims), tiers=tiers, **keys)

    rope("canonical-q", "556 points, 14 heads, Ds = 32", "half-split pairs in the spatial part; conjugate cis",
        (1, 14, N, 32),
        pitfalls="pairing", tags="canonical")
    rope("canonical-kv", "556 points, 2 heads", "half-split pairs in the spatial part", (1, 2, N, 32),
        pitfalls="pairing", tags="canonical")
    for tokens in (0, 1, 2, 13, 14):
        rope(f"tokens-{tokens}", f"{tokens} points on {2 if tokens == 2 else 14} heads", "tokens and heads exchanged",
            (1, 2 if tokens == 2 else 14, tokens, 32), tags="awkward")
    for dims in (2, 16, 48, 64, 128):
        rope(f"ds-{dims}", f"Ds = {dims}", "pairs across the halves of the spatial part", (1, 3, 7, dims),
            pitfalls="pairing",
            tags="awkward options")
    rope("batch-of-three", "B = 3 on one table", "the table is indexed by the sample", (3, 4, 5, 8), pitfalls="pairing",
        tags="awkward")
    rope("onehot", "one-hot inputs: where each dimension goes", "real and imaginary part exchanged", (1, 1, 32, 32),
        x=dist((1, 1, 32, 32), "onehot"), pitfalls="pairing", tags="onehot")
    rope("f64-tables", "tables in F64", "tables are narrowed to the activations' type", (1, 4, 13, 16), dtype="F64",
        tiers=["fp64"],
        pitfalls="silent-downcast", tags="options")
    rope("tiny", "inputs of 1e-3", "an absolute tolerance hides all errors", (1, 4, 13, 32),
        x=heavy(1, 4, 13, 32, scale=0.001),
        pitfalls="pairing", tags="tiny")

    good, cfg = {"x": heavy(1, 4, 5, 8), "cos": uniform(-0.7, 0.7, 4, 5, 4, dtype="F32"),
            "sin": uniform(-0.7, 0.7, 4, 5, 4, dtype="F32")}, config(4, 4, 16)
    refuse("rope3d/refuse-odd", "an odd number of spatial dimensions", "the last dimension has no partner",
        {**good, "x": heavy(1, 4, 5, 9)}, cfg,
        message=["x", "9"])
    refuse("rope3d/refuse-transposed-table", "tables as [N,heads,F]", "the transposed table broadcasts",
        {**good, "cos": uniform(-0.7, 0.7, 5, 4, 4, dtype="F32"), "sin": uniform(-0.7, 0.7, 5, 4, 4, dtype="F32")},
        cfg,
        message=["cos"])
    refuse("rope3d/refuse-one-row-table", "a table of one row for five tokens", "one row is broadcast over the tokens",
        {**good, "cos": uniform(-0.7, 0.7, 4, 1, 4, dtype="F32"), "sin": uniform(-0.7, 0.7, 4, 1, 4, dtype="F32")},
        cfg,
        message=["cos"], pitfalls="coords-count")
    refuse("rope3d/refuse-missing-sin", "sin is missing", "a missing table counts as zeros", without(good, "sin"), cfg,
        message=["sin"])
    refuse("rope3d/refuse-infinity", "an infinity in x", "infinity times 0 is NaN",
        {**good, "x": {**good["x"], "poke": {"7": "inf"}}}, cfg, message=["x"])
    refuse("rope3d/refuse-narrow-table", "cos in BF16", "angles held in a narrow type",
        {**good, "cos": uniform(-0.7, 0.7, 4, 5, 4, dtype="BF16")}, cfg,
        message=["cos", "BF16"])


# L0: normalize_coords.

NORMS = {"grid": {}, "none": {}, "unit_range": {}, "virtual_resolution": {"virtual_resolution": 100}}
DRIFTS = ("none", "average", "pointwise")


def normalize_coords_cases():
    def norm(name, title, why, coords, cfg=None, counts=None, **keys):
        inputs = {"coords": coords}
        if counts:
            inputs["point_counts"] = values([len(counts)], *counts)
        case(f"normalize-coords/{name}", title, why, inputs, cfg, **keys)

    norm("canonical", "the 556 token coordinates of the canonical scene over 79", "divided by 80, or not at all",
        scene("coords", N, 3), pitfalls="coords-count", tags="canonical")
    for coord_norm, extra in NORMS.items():
        for drift in DRIFTS:
            options = {"coord_norm": coord_norm, "drift": drift, **extra}
            unseen = (coord_norm, drift) in (("none", "none"), ("none", "pointwise"), ("grid", "none"))
            norm(f"{coord_norm.replace('_', '-')}-{drift}", f"{coord_norm}, drift {drift}, N = 13",
                {"none": "divided by the size instead of size - 1; one range for all axes",
                    "average": "N/2 = 6.5 cut to 6; drift before normalisation",
                    "pointwise": "drift counted from 1, or before normalisation"}[drift],
                ints(0, 79, 13, 3), options,
                pitfalls="coords-count" if unseen else "drift-norm coords-count",
                tags="options")
    uneven = values([5, 3], 0, 3, 40, 79, 5, 41, 12, 4, 40, 33, 9, 43, 60, 3, 42)
    norm("ranges-per-axis", "unit_range with ranges of 79, 6 and 3", "minimum and maximum over all axes together",
        uneven,
        {"coord_norm": "unit_range"}, pitfalls="drift-norm", tags="options")
    norm("identical", "unit_range of identical coordinates: 0/1e-8", "0/0, the eps missing",
        const(17, 6, 3, dtype="I64"),
        {"coord_norm": "unit_range"}, pitfalls="drift-norm", tags="awkward")
    norm("flat-floor", "virtual_resolution with one flat axis", "0/0 on one axis only",
        values([4, 3], 1, 5, 0, 2, 9, 0, 70, 7, 0, 33, 5, 0),
        {"coord_norm": "virtual_resolution", "virtual_resolution": 79}, pitfalls="drift-norm",
        tags="awkward")
    norm("thin", "unit_range over a range of 2^-13", "the eps of 1e-8 is missing",
        ints(0, 7, 13, 3, dtype="F64", scale=2.0 ** -16, shift=4),
        {"coord_norm": "unit_range"}, pitfalls="drift-norm", tags="awkward", tiers=["fp64"])
    norm("thin-f32", "unit_range over a range of 2^-10, exact in F32", "the eps of 1e-8 is missing",
        ints(0, 7, 13, 3, dtype="F32", scale=2.0 ** -13, shift=4), {"coord_norm": "unit_range"},
        pitfalls="drift-norm", tags="awkward")
    norm("one-token", "N = 1, unit_range and drift average", "a range of nothing", values([1, 3], 7, 8, 9),
        {"coord_norm": "unit_range", "drift": "average"},
        pitfalls="drift-norm", tags="awkward")
    norm("two-tokens", "N = 2, pointwise", "drift by axis instead of by token", values([2, 3], 7, 8, 9, 1, 2, 3),
        {"drift": "pointwise"},
        pitfalls="drift-norm", tags="awkward")
    norm("no-tokens", "N = 0, unit_range", "the minimum of nothing", grid_coords(0, 3), {"coord_norm": "unit_range"},
        tags="awkward")
    norm("reduced-grid-64", "reduced_grid_size 64 given", "80 compiled in", ints(0, 63, 13, 3),
        {"reduced_grid_size": 64}, pitfalls="coords-count", tags="options")
    norm("bins-and-stages", "num_bins 800, downsamplings 3: divided by 99", "1280 / 16 compiled in", ints(0, 99, 13, 3),
        {"num_bins": 800, "downsamplings": 3}, pitfalls="coords-count", tags="options")
    norm("whole-number-as-float", "num_bins 1280.0, as JSON writers print it", "4.0 refused for 4", ints(0, 79, 5, 3),
        {"num_bins": 1280.0, "downsamplings": 4.0}, tags="options")
    norm("null-option", "virtual_resolution null, where it is not needed",
        "null refused for an option without a default", ints(0, 79, 5, 3),
        {"virtual_resolution": None}, tags="options")
    norm("resolution-half", "virtual_resolution 0.5", "resolution read as an integer", ints(0, 79, 13, 3),
        {"coord_norm": "virtual_resolution", "virtual_resolution": 0.5},
        pitfalls="drift-norm", tags="options")
    norm("batch-of-one", "[1,N,3] means the same as [N,3]", "the batch axis is taken for tokens", grid_coords(1, 13, 3),
        {"coord_norm": "unit_range", "drift": "average"},
        [13], pitfalls="drift-norm", tags="options")
    padded = {**ints(0, 79, 3, 14, 3), "poke": {str(i): 1000 + i for i in [*range(81, 84), *range(90, 126)]}}
    for coord_norm, drift in (("unit_range", "average"), ("grid", "pointwise"), ("virtual_resolution", "none")):
        norm(f"batch-{coord_norm.replace('_', '-')}-{drift}",
            f"B = 3 with 14, 13 and 2 tokens, {coord_norm}, drift {drift}, large values in the padding",
            "range or N taken over the batch or over the padding", padded,
            {"coord_norm": coord_norm, "drift": drift, **NORMS[coord_norm]}, [14, 13, 2],
            pitfalls="batch drift-norm", tags="options")
    norm("batch-with-empty", "B = 3 with 5, 0 and 2 tokens", "an empty sample breaks the batch", grid_coords(3, 5, 3),
        {"coord_norm": "unit_range", "drift": "average"}, [5, 0, 2],
        pitfalls="batch", tags="awkward")
    norm("batch-short-first", "B = 3 with 2, 5 and 3 tokens: the first sample is the shortest",
        "the first sample's count is used for all", grid_coords(3, 5, 3),
        {"coord_norm": "unit_range", "drift": "average"}, [2, 5, 3], pitfalls="batch", tags="awkward")
    norm("batch-no-counts", "B = 2 without counts: all rows count", "missing counts count as 0", grid_coords(2, 6, 3),
        {"coord_norm": "unit_range"}, pitfalls="batch", tags="options")
    norm("f32", "coordinates in F32, quarters, some negative", "floating coordinates are cut to integers",
        ints(-40, 300, 13, 3, dtype="F32", scale=0.25),
        {"coord_norm": "virtual_resolution", "virtual_resolution": 1280, "drift": "pointwise"}, pitfalls="drift-norm",
        tags="options")
    norm("f64", "coordinates in F64, beyond the grid", "the formula does not apply outside the grid",
        ints(-4000, 4000, 13, 3, dtype="F64", scale=0.125),
        pitfalls="coords-count narrow-angles silent-downcast", tags="options")

    good = {"coords": grid_coords(2, 5, 3), "point_counts": values([2], 5, 3)}
    refuse("normalize-coords/refuse-grid-of-one", "reduced_grid_size 1 with grid: c / 0", "a division by zero", good,
        {"reduced_grid_size": 1},
        message=["reduced_grid_size", "1"])
    refuse("normalize-coords/refuse-no-resolution", "virtual_resolution without its number", "a default is made up",
        good, {"coord_norm": "virtual_resolution"},
        message=["virtual_resolution"])
    refuse("normalize-coords/refuse-count-too-large", "a count of 6 for 5 rows", "rows of the next sample are read",
        {**good, "point_counts": values([2], 5, 6)},
        message=["6", "5"], pitfalls="batch coords-count")
    refuse("normalize-coords/refuse-negative-count", "a count of -2", "a negative size",
        {**good, "point_counts": values([2], 5, -2)}, message=["point_counts", "-2"])
    refuse("normalize-coords/refuse-count-shape", "three counts for two samples", "a count of another sample",
        {**good, "point_counts": values([3], 5, 3, 2)},
        message=["point_counts"], pitfalls="batch")
    refuse("normalize-coords/refuse-nan", "a NaN coordinate", "the minimum of NaN is whatever came first",
        {"coords": {**dist((5, 3), "normal", "F32"), "poke": NAN}}, message=["coords"])
    refuse("normalize-coords/refuse-f16", "coordinates in F16", "coordinates narrower than F32",
        {"coords": ints(0, 79, 5, 3, dtype="F16")}, message=["coords", "F16"])
    refuse("normalize-coords/refuse-norm-name", "coord_norm unitrange", "an unknown value means the default", good,
        {"coord_norm": "unitrange"},
        message=["coord_norm", "unitrange", "grid", "none", "unit_range", "virtual_resolution"])
    refuse("normalize-coords/refuse-drift-name", "drift true", "a value of another type means on", good,
        {"drift": True},
        message=["drift", "none", "average", "pointwise"])
    refuse("normalize-coords/refuse-bins", "num_bins 1000 does not divide by 2^4", "the grid size is rounded", good,
        {"num_bins": 1000},
        message=["num_bins", "1000"], pitfalls="coords-count")
    refuse("normalize-coords/refuse-bins-fraction", "num_bins 1280.5", "a fraction is cut off", good,
        {"num_bins": 1280.5}, message=["num_bins", "1280.5"])


# L0: mixed_rope.

def mixed(cfg, length, spans, coords, counts=None, positions=None, rot=True):
    """Inputs of mixed_rope; spans as in point_mask, None for text only."""
    batch, heads, kv, dim = len(spans or [0]), cfg["num_attention_heads"], cfg["num_key_value_heads"], cfg["head_dim"]
    inputs = {"query": heavy(batch, heads, length, dim), "key": heavy(batch, kv, length, dim, scale=10)}
    if positions:
        inputs["position_ids"] = positions
    return {**inputs, **points(length, spans, coords, counts), **(rotary(cfg) if rot else {})}


def points(length, spans, coords, counts=None):
    """The point tensors of a call, none for spans None."""
    if spans is None:
        return {}
    out = {"point_token_mask": point_mask(length, *spans), "point_coords": coords}
    if counts:
        out["point_counts"] = values([len(counts)], *counts)
    return out


# What a layer does with points, option by option: (slug, options, what it is, which mistake shows, pitfalls).
OPTIONS = [
    ("contiguous", {}, "contiguous halves, gathered", "native tables for the gathered ones; layouts exchanged",
     "temporal-table layout"),
    ("contiguous-native", {"temporal_rope": "native"}, "contiguous, native", "gathered tables for the native ones",
     "temporal-table layout"),
    ("interleaved", {"mixed_rope_layout": "interleaved"}, "interleaved",
     "head of the table instead of gathered; units of s..s t..t", "temporal-table layout"),
    ("quarter", ratio(0.25), "spatial_ratio 0.25, contiguous",
     "Ds = D/2 assumed; head of the table instead of gathered", "temporal-table layout head-dim"),
    ("quarter-native", {**ratio(0.25), "temporal_rope": "native"}, "spatial_ratio 0.25, native",
     "native frequencies over D instead of Dt", "temporal-table"),
    ("quarter-interleaved", {**ratio(0.25), "mixed_rope_layout": "interleaved"},
     "spatial_ratio 0.25, interleaved: units of 3 temporal, 1 spatial",
     "unit order exchanged; spatial pairs taken inside a unit", "temporal-table layout pairing"),
    ("quarter-interleaved-native", {**ratio(0.25), "mixed_rope_layout": "interleaved", "temporal_rope": "native"},
     "spatial_ratio 0.25, interleaved, native", "the one interleaved split where native and gathered differ",
     "temporal-table layout"),
    ("three-quarters", ratio(0.75), "spatial_ratio 0.75, contiguous", "head of the table instead of gathered",
     "temporal-table layout"),
    ("three-quarters-interleaved", {**ratio(0.75), "mixed_rope_layout": "interleaved"},
     "spatial_ratio 0.75, interleaved: units of 1 temporal, 3 spatial",
     "unit order exchanged", "temporal-table layout pairing"),
    ("full-spatial", {"spatial_temporal_separate_strategy": "full_spatial"},
     "full_spatial: points get only the 3D rotation",
     "points are turned by their position as well", "pairing degenerate layout"),
    ("full-temporal", {"spatial_temporal_separate_strategy": "full_temporal"},
     "full_temporal: all tokens get the 1D rotation",
     "points are left unturned or get 3D", "pairing degenerate layout"),
    ("fixed", {"rope_mixed_3d": False}, "fixed base frequencies, no parameters", "1e6 in 3D; exponent over D",
     "theta-mixup"),
    ("fixed-theta-10000", {"rope_mixed_3d": False, "rope_theta_3d": 10000}, "fixed, rope_theta_3d 10000",
     "100 compiled in", "theta-mixup"),
    ("shared", {"mixedRoPE_3d_learned_per_axis": False}, "one frequency set for the axes", "three sets assumed",
     "axial-weights"),
    ("no-axial-weights", {"mixedRoPE_3d_learned_axial_mixing_weight": False}, "no axial weights",
     "missing weights count as 0", "axial-weights"),
    ("shared-no-axial-weights", {"mixedRoPE_3d_learned_per_axis": False,
     "mixedRoPE_3d_learned_axial_mixing_weight": False},
     "one set, no axial weights", "the axes are told apart", ""),
    ("axial", {"rope_3d_kind": "axial"}, "axial kind", "bins counted through the axes", "theta-mixup"),
    ("axial-interleaved", {"rope_3d_kind": "axial", "mixed_rope_layout": "interleaved"}, "axial, interleaved",
     "layout ignored by the axial kind", "theta-mixup layout"),
    ("norm-none", {"coord_norm": "none"}, "raw grid indices", "normalised although coord_norm is none", "coords-count"),
    ("norm-unit-range", {"coord_norm": "unit_range"}, "unit_range", "range over all axes together", "drift-norm"),
    ("norm-resolution-average", {"coord_norm": "virtual_resolution", "virtual_resolution": 20, "drift": "average"},
     "virtual_resolution 20, drift average",
     "drift before normalisation", "drift-norm"),
    ("drift-average", {"drift": "average"}, "grid, drift average with N = 13", "N/2 as integer division", "drift-norm"),
    ("drift-pointwise", {"drift": "pointwise"}, "grid, drift pointwise",
     "drift counted in the sequence, not among the points", "drift-norm"),
]


def chosen(slugs):
    """Entries of OPTIONS by slug. All of them are cases of mixed_rope; layers and sessions take a choice."""
    by_slug = {entry[0]: entry for entry in OPTIONS}
    return [by_slug[slug] for slug in slugs.split()]


def mixed_rope_cases():
    def mix(name, title, why, cfg, *args, pitfalls="", tags="", **keys):
        case(f"mixed-rope/{name}", title, why, mixed(cfg, *args, **keys), cfg, pitfalls=pitfalls, tags=tags)

    middle = [(MARK + 1, N)]
    mix("canonical", "786 tokens, 556 points from 25 on, the canonical scene",
        "pairings, heads, tables or coordinates mixed up",
        FULL, S, middle, scene("coords", N, 3), pitfalls="pairing gqa-heads temporal-table coords-count axial-weights",
        tags="canonical")
    mix("canonical-interleaved", "the same, interleaved", "head of the table instead of gathered",
        {**FULL, "mixed_rope_layout": "interleaved"}, S, middle,
        scene("coords", N, 3), pitfalls="temporal-table layout", tags="canonical options")
    mix("canonical-fixed", "the same, fixed base frequencies", "1e6 in 3D, exponent over D, 10000 left in",
        {**FULL, "rope_mixed_3d": False}, S, middle,
        scene("coords", N, 3), pitfalls="theta-mixup", tags="canonical options")
    small = config(4, 2, 32)
    for slug, options, title, why, pitfalls in OPTIONS:
        mix(f"option-{slug}", f"{title}; 13 points of 20 tokens", why, {**small, **options}, 20, [(4, 13)],
            grid_coords(13, 3), pitfalls=pitfalls, tags="options")
    mix("probe", "raw coordinates, axial weights 0.5 to 1.5, positions 41 i",
        "a narrow inverse frequency; axial weights ignored", {**small, "coord_norm": "none"}, 40,
        [(5, 30)], grid_coords(30, 3), positions=arange(0, 41, 1, 40),
        pitfalls="axial-weights narrow-angles coords-count", tags="probe")
    mix("fourteen-points", "N = 14 on 14 query heads", "a transposed product that broadcasts", FULL, 18, [(2, 14)],
        grid_coords(14, 3), pitfalls="broadcast", tags="awkward")
    mix("two-points", "N = 2 on 2 key heads", "a transposed product that broadcasts", FULL, 6, [(2, 2)],
        grid_coords(2, 3), pitfalls="broadcast", tags="awkward")
    mix("one-point", "N = 1", "one row broadcasts", small, 6, [(2, 1)], grid_coords(1, 3),
        pitfalls="broadcast degenerate", tags="awkward")
    mix("no-points", "a mask that marks nothing, N = 0, parameters given", "3D applied to text", small, 6, [(0, 0)],
        grid_coords(0, 3), pitfalls="degenerate", tags="awkward")
    mix("text-only", "no point tensors and no parameters", "text without a scan fails", small, 13, None, None,
        rot=False, tags="awkward")
    mix("all-points", "every token is a point", "the first or last token is taken for text", small, 13, [(0, 13)],
        grid_coords(13, 3), pitfalls="degenerate", tags="awkward")
    mix("decode-token", "one text token at position 786", "the decode step turns it as a point", FULL, 1, None, None,
        positions=values([1, 1], S), rot=False,
        tags="canonical")
    mix("scattered", "marked tokens that are not contiguous", "points are taken from start+1 on", small, 12, [(0, 1)],
        grid_coords(5, 3), pitfalls="pairing degenerate", tags="awkward")
    CASES[-1]["steps"][0]["inputs"]["point_token_mask"] = values([1, 12], 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1,
            dtype="BOOL")
    mix("own-positions", "explicit positions: large, repeated, not from 0",
        "the index is taken for the position; position within the points", small, 9, [(2, 4)], grid_coords(4, 3),
        positions=values([1, 9], 500, 501, 7, 7, 3000, 3, 0, 786, 32767), pitfalls="temporal-table",
        tags="options")
    mix("batch-own-positions", "B = 2, positions [2,S], left padding", "sample 0's positions for all", small, 7,
        [(2, 3), (4, 3)], grid_coords(2, 3, 3),
        positions=values([2, 7], 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 1, 2, 3, 4), pitfalls="batch",
        tags="options")
    mix("n3-of-one", "[1,N,3] with a count: the same as [N,3]", "[B,N,3] read as [N,3]", small, 9, [(2, 5)],
        grid_coords(1, 5, 3), [5], tags="options")
    batch = dict(length=20, spans=[(3, 14), (5, 13), (1, 2)], coords=grid_coords(3, 14, 3), counts=[14, 13, 2])
    mix("batch-of-three", "B = 3 with 14, 13 and 2 points at different places",
        "sample 0's coordinates or mask for all; padded rows counted", small, *batch.values(),
        pitfalls="batch", tags="awkward")
    mix("batch-unit-range", "the same with unit_range and drift average",
        "range or N of the batch, or with the padding", {**small, "coord_norm": "unit_range", "drift": "average"},
        *batch.values(), pitfalls="batch drift-norm", tags="options")
    mix("batch-with-text-only", "B = 3 with 4, 0 and 2 points", "a sample without points takes the first one's", small,
        9, [(3, 4), (0, 0), (1, 2)], grid_coords(3, 4, 3), [4, 0, 2],
        pitfalls="batch", tags="awkward")
    mix("f32-coords", "coordinates in F32 with fractions", "coordinates are cut to integers", small, 9, [(2, 5)],
        ints(0, 640, 5, 3, dtype="F32", scale=0.125), pitfalls="coords-count", tags="options")
    mix("f64-coords", "coordinates in F64", "another type is read as F32", small, 9, [(2, 5)],
        ints(0, 640, 5, 3, dtype="F64", scale=0.125), tags="options")
    for heads, kv, dim in ((6, 2, 32), (4, 4, 32), (6, 1, 16), (2, 1, 128), (6, 3, 64)):
        mix(f"heads-{heads}-{kv}-{dim}", f"{heads} query heads, {kv} KV heads of {dim}",
            "query parameters for keys, 14/2 or 64 compiled in", config(heads, kv, dim), 9,
            [(2, 6)], grid_coords(6, 3), pitfalls="gqa-heads head-dim", tags="awkward options")
    mix("ratio-zero", "spatial_ratio 0: as full_temporal", "division by Ds = 0", {**small, **ratio(0)}, 6, [(2, 3)],
        grid_coords(3, 3), pitfalls="pairing", tags="options awkward")
    mix("ratio-one", "spatial_ratio 1: as full_spatial", "Dt = 0 breaks the table", {**small, **ratio(1)}, 6, [(2, 3)],
        grid_coords(3, 3), pitfalls="pairing", tags="options awkward")
    mix("unit-of-eight", "interleaved at ratio 0.125: units of 7 temporal and 1 spatial, the longest allowed",
        "a unit of 8 refused",
        {**config(4, 2, 64), **ratio(0.125), "mixed_rope_layout": "interleaved"}, 6, [(2, 3)], grid_coords(3, 3),
        pitfalls="layout", tags="options awkward")
    again = mixed(small, 9, [(2, 5)], grid_coords(5, 3))
    session("mixed-rope/two-requests", "two requests of the same shapes with other coordinates and parameters",
        "tables of the previous request are used again",
        [step("mixed_rope", again), step("mixed_rope", again)], small, "stale-cis", "awkward")
    session("mixed-rope/two-places", "two requests of the same shapes, the points at other places and positions",
        "the point mask or the positions of the previous request are used again",
        [step("mixed_rope", again), step("mixed_rope", mixed(small, 9, [(1, 5)], grid_coords(5, 3),
            positions=arange(30, 1, 1, 9)))], small, "stale-cis", "awkward")
    session("mixed-rope/two-batches", "B = 2, then B = 1, then text",
        "tables or masks of the previous batch are used again",
        [step("mixed_rope", mixed(small, 9, [(2, 5), (1, 5)], grid_coords(2, 5, 3))), step("mixed_rope", again),
            step("mixed_rope", mixed(small, 9, None, None, rot=False))], small, "stale-cis batch", "awkward")

    good = mixed(small, 9, [(2, 5)], grid_coords(5, 3))

    def bad(name, title, why, inputs, message, cfg=None, pitfalls="", tags=""):
        refuse(f"mixed-rope/refuse-{name}", title, why, inputs, cfg or small, message=message, pitfalls=pitfalls,
            tags=tags)

    raw = config(2, 1, 32)
    bad("106328-for-556", "106,328 raw coordinates beside 556 point tokens", "the first 556 raw rows are taken",
        mixed(raw, S, middle, grid_coords(N_RAW, 3)),
        ["point_coords", N_RAW, N], raw, "coords-count", "canonical")
    bad("555-for-556", "one coordinate row too few", "a row is used twice",
        mixed(raw, S, middle, grid_coords(N - 1, 3)), ["point_coords", N - 1, N], raw, "coords-count", "canonical")
    bad("one-for-five", "one coordinate row for five points", "one row is broadcast",
        {**good, "point_coords": grid_coords(1, 3)}, ["point_coords", "1", "5"], pitfalls="coords-count")
    bad("count-of-four", "point_counts 4 where the mask marks 5", "the count is ignored",
        {**good, "point_counts": values([1], 4)}, ["4", "5"], pitfalls="coords-count batch")
    bad("n3-for-two", "[N,3] with B = 2", "sample 0's coordinates for all",
        mixed(small, 9, [(2, 5), (2, 5)], grid_coords(5, 3)), ["point_coords", "2"], pitfalls="batch")
    bad("batch-mismatch", "coordinates of three samples for two", "a sample's coordinates are left over",
        mixed(small, 9, [(2, 5), (2, 5)], grid_coords(3, 5, 3)),
        ["point_coords", "3", "2"], pitfalls="batch")
    bad("sample-one", "B = 2, sample 1 marks 4 for a count of 5", "only sample 0 is checked",
        mixed(small, 9, [(2, 5), (2, 4)], grid_coords(2, 5, 3), [5, 5]), ["sample 1", "4", "5"], pitfalls="batch")
    bad("mask-alone", "a point mask without coordinates", "points turn by zeros", without(good, "point_coords"),
        ["point_coords"], pitfalls="coords-count")
    bad("coords-alone", "coordinates without a point mask", "the points are guessed", without(good, "point_token_mask"),
        ["point_token_mask"], pitfalls="coords-count")
    bad("mask-type", "a point mask in I64", "another type is read as bytes",
        {**good, "point_token_mask": {**point_mask(9, (2, 5)), "dtype": "I64"}},
        ["point_token_mask", "I64", "BOOL"])
    bad("mask-shape", "a point mask of 10 for 9 tokens", "a mask is cut in silence",
        {**good, "point_token_mask": point_mask(10, (2, 5))}, ["point_token_mask", "10", "9"])
    bad("kv-for-q", "freqs_q with 2 heads where 4 stand", "key parameters repeated for queries",
        {**good, "freqs_q": uniform(0.02, 1, 3, 2, 8)}, ["freqs_q", "2", "4"], pitfalls="gqa-heads")
    full = mixed(FULL, 4, [(1, 2)], grid_coords(2, 3))
    bad("14-for-2", "freqs_kv with 14 heads where 2 stand", "query parameters for keys: 14 against 2",
        {**full, "freqs_kv": uniform(0.02, 1, 3, 14, 16)}, ["freqs_kv", "14", "2"], FULL, "gqa-heads", "canonical")
    bad("shared-for-per-axis", "one frequency set although per-axis is on", "the shared set is broadcast",
        {**good, "freqs_q": uniform(0.02, 1, 1, 4, 8)}, ["freqs_q", "1", "3"])
    bad("no-freqs", "points and learned frequencies, but freqs_q is missing", "base frequencies stand in",
        without(good, "freqs_q"), ["freqs_q"])
    bad("no-weights", "learned axial weights are missing", "1:1:1 stands in", without(good, "axial_weights_kv"),
        ["axial_weights_kv"])
    only_freqs = without(good, "axial_weights_q", "freqs_kv", "axial_weights_kv")
    bad("weights-without-meaning", "axial weights although mixing is off", "a parameter without meaning is ignored",
        without(good, "axial_weights_kv"), ["axial_weights_q"],
        {**small, "mixedRoPE_3d_learned_axial_mixing_weight": False})
    bad("freqs-when-fixed", "frequencies although rope_mixed_3d is false", "a parameter without meaning is ignored",
        only_freqs, ["freqs_q"], {**small, "rope_mixed_3d": False})
    bad("freqs-when-axial", "frequencies although the kind is axial", "a parameter without meaning is ignored",
        only_freqs, ["freqs_q"], {**small, "rope_3d_kind": "axial"})
    bad("heads-4-3", "4 query heads on 3 KV heads", "the last head reads past the end",
        mixed(config(4, 3, 32), 9, [(2, 5)], grid_coords(5, 3)), ["4", "3"], config(4, 3, 32), "gqa-heads")
    bad("unit-too-long", "interleaved 60/4: units of 16", "a layout that nobody trained",
        mixed({**config(2, 1, 64), **ratio(0.9375)}, 6, [(2, 3)], grid_coords(3, 3)),
        ["16"], {**config(2, 1, 64), **ratio(0.9375), "mixed_rope_layout": "interleaved"})
    bad("ratio-missing", "custom_ratio without a ratio", "a default ratio is made up", good, ["spatial_ratio"],
        {**small, "spatial_temporal_separate_strategy": "custom_ratio"})
    bad("ratio-odd", "spatial_ratio 0.28125 of 32: Ds = 9", "the odd dimension is dropped", good,
        ["spatial_ratio", "9"], {**small, **ratio(0.28125)})
    bad("ratio-range", "spatial_ratio 1.5", "more spatial dimensions than the head has", good, ["spatial_ratio", "1.5"],
        {**small, **ratio(1.5)})
    bad("key-length", "8 keys for 9 queries", "lengths are cut in silence", {**good, "key": heavy(1, 2, 8, 32)},
        ["key", "8", "9"])
    bad("head-dim", "tensors of 32 where head_dim is 64", "the tensor's size is believed", good, ["32", "64"],
        config(4, 2, 64))
    bad("negative-position", "a position of -3", "a negative position", {**good, "position_ids": arange(-3, 1, 1, 9)},
        ["position_ids", "-3"])
    bad("flase", 'the string "Flase" for a switch', "any non-empty string switches the feature on", good,
        ["rope_mixed_3d", "Flase", "true", "false"], {**small, "rope_mixed_3d": "Flase"})
    bad("zero-for-false", "0 for a switch", "a number stands for a switch", good,
        ["mixedRoPE_3d_learned_per_axis", "true", "false"], {**small, "mixedRoPE_3d_learned_per_axis": 0})
    bad("misspelt-case", "mixedrope_3d_learned_per_axis: another case", "a misspelt option is ignored", good,
        ["mixedrope_3d_learned_per_axis", "mixedRoPE_3d_learned_per_axis"],
        {**small, "mixedrope_3d_learned_per_axis": False})
    bad("misspelt-letter", "spatial_temporal_seperate_strategy", "a misspelt option is ignored", good,
        ["spatial_temporal_seperate_strategy", "spatial_temporal_separate_strategy"],
        {**small, "spatial_temporal_seperate_strategy": "full_spatial"})
    bad("strategy-name", "an unknown strategy", "an unknown value means the default", good,
        ["spatial_temporal_separate_strategy", "half", "half_spatial_half_temp", "full_spatial", "full_temporal",
            "custom_ratio"],
        {**small, "spatial_temporal_separate_strategy": "half"})
    bad("layout-name", "an unknown layout", "an unknown value means the default", good,
        ["mixed_rope_layout", "contiguous", "interleaved"], {**small, "mixed_rope_layout": "Interleaved"})
    bad("temporal-name", "an unknown temporal_rope", "an unknown value means the default", good,
        ["temporal_rope", "gathered", "native"], {**small, "temporal_rope": "own"})
    bad("kind-name", "an unknown rope_3d_kind", "an unknown value means the default", good,
        ["rope_3d_kind", "mixed", "axial"], {**small, "rope_3d_kind": ["axial"]})


# L0: rmsnorm, linear, swiglu.

def rmsnorm_cases():
    def norm(name, title, why, x, weight=None, cfg=None, **keys):
        case(f"rmsnorm/{name}", title, why, {"x": x, "weight": weight or uniform(0.2, 4, x["shape"][-1])},
            cfg or {"rms_norm_eps": 1e-6}, **keys)

    norm("canonical", "786 rows of 896 with massive activations, weights 0.2 to 4",
        "norm weight + 1; the mean in a narrow type", normal(1, S, 896, outliers=OUTLIERS),
        pitfalls="qwen2-details silent-downcast", tags="canonical")
    norm("two-axes", "[13,32] without a batch axis", "three axes assumed", normal(13, 32), tags="awkward")
    norm("four-axes", "[2,3,4,32]", "three axes assumed", normal(2, 3, 4, 32), tags="awkward")
    norm("one-axis", "a single row [33]", "two axes assumed", normal(33), tags="awkward")
    norm("one-column", "rows of one value: its sign", "n - 1 instead of n", normal(1, 13, 1), tags="awkward")
    norm("no-rows", "no rows", "an empty tensor fails", normal(0, 32), tags="awkward")
    norm("odd", "rows of 13", "whole vectors of 4 or 8 only", normal(5, 13), tags="awkward")
    norm("zeros", "rows of zeros: 0, not NaN", "0/0", const(0, 3, 32), tags="awkward")
    norm("tiny", "inputs of 1e-3, where eps is as large as the mean square", "eps 1e-5; eps added outside the root",
        normal(1, 13, 128, scale=0.001),
        pitfalls="qwen2-details", tags="tiny")
    norm("eps-1e-5", "rms_norm_eps 1e-5 on tiny inputs", "1e-6 compiled in", normal(1, 13, 128, scale=0.001),
        cfg={"rms_norm_eps": 1e-5}, pitfalls="qwen2-details", tags="tiny options")
    norm("massive-first", "a massive first value: later squares are small against the sum",
        "a narrow sequential sum stands still",
        poked(normal(1, 896), _0=1000), pitfalls="silent-downcast", tags="awkward")
    norm("large", "values to the hundreds: squares beyond fp16", "the square overflows in fp16",
        heavy(5, 128, scale=60), pitfalls="overflow-half", tags="awkward")
    norm("probe", "plain inputs, 64 rows", "weights of another norm", normal(1, 64, 128), pitfalls="qwen2-details",
        tags="probe")
    norm("repeat", "the same row 64 times", "an error that differs by row", normal(1, 64, 128, repeat=True),
        tags="probe")
    norm("weights-of-both-signs", "negative weights", "the weight is squared or its sign lost", normal(5, 64),
        heavy(64), tags="awkward")

    good, cfg = {"x": normal(1, 5, 32), "weight": uniform(0.2, 4, 32)}, {"rms_norm_eps": 1e-6}
    session("rmsnorm/two-requests", "two requests of the same shape", "sums go on from those of the previous request",
        [step("rmsnorm", good), step("rmsnorm", good)], cfg, "order-sensitivity", "awkward")
    refuse("rmsnorm/refuse-weight-size", "31 weights for rows of 32", "the last column is left out",
        {**good, "weight": uniform(0.2, 4, 31)}, cfg, message=["weight", "31", "32"])
    refuse("rmsnorm/refuse-missing-eps", "rms_norm_eps is missing", "a default eps is taken in silence", good, {},
        message=["rms_norm_eps"])
    refuse("rmsnorm/refuse-nan", "a NaN in x", "a row of NaN is passed on", {**good, "x": {**good["x"], "poke": NAN}},
        cfg, message=["x"])
    refuse("rmsnorm/refuse-eps-type", "rms_norm_eps as a string", "text is read as 0", good, {"rms_norm_eps": "1e-6"},
        message=["rms_norm_eps"])


def linear_cases():
    def product(name, title, why, rows, columns, out, bias=True, **keys):
        x = keys.pop("x", normal(*rows, columns))
        weight = keys.pop("weight", None) or heavy(out, columns, scale=rounded(1 / (2.27 * math.sqrt(columns))))
        inputs = {"x": x, "weight": weight}
        if bias:
            inputs["bias"] = heavy(out, scale=0.3) if bias is True else bias
        case(f"linear/{name}", title, why, inputs, **keys)

    product("canonical-q", "q_proj: 786 rows, 896 to 896, massive activations", "the bias is missing", (1, S), 896, 896,
        x=normal(1, S, 896, outliers=OUTLIERS),
        pitfalls="qwen2-details truncated-stores", tags="canonical")
    product("canonical-k", "k_proj: 786 rows, 896 to 128, bias to the hundreds", "the bias is added in a narrow type",
        (1, S), 896, 128, heavy(128, scale=50),
        pitfalls="qwen2-details", tags="canonical")
    product("canonical-gate", "gate_proj: 16 rows, 896 to 4864, no bias", "a bias is made up", (1, 16), 896, 4864,
        False, pitfalls="narrow-products", tags="canonical")
    product("canonical-down", "down_proj: 16 rows, 4864 to 896: a long sum", "a sum in the storage type", (1, 16), 4864,
        896, False, pitfalls="narrow-products", tags="canonical")
    product("head", "one row onto a vocabulary of 2048", "the transposed matrix is used", (1, 1), 896, 2048, False,
        pitfalls="narrow-products", tags="canonical")
    product("odd", "[13,7] to 5", "whole vectors only", (13,), 7, 5, pitfalls="narrow-products",
        tags="awkward")
    product("square", "32 to 32: transposing goes unseen by shape", "the weight is used transposed", (13,), 32, 32,
        tags="awkward")
    product("one-in", "in = 1", "an empty inner loop", (5,), 1, 3, tags="awkward")
    product("one-out", "out = 1", "an output axis is dropped", (5,), 9, 1, tags="awkward")
    product("no-rows", "no rows", "an empty tensor fails", (0,), 9, 4, tags="awkward")
    product("batch", "[3,5,16]", "only sample 0 is multiplied", (3, 5), 16, 12, tags="awkward")
    product("onehot", "one-hot rows: the matrix itself, plus bias", "a row or column left out", (64,), 64, 48,
        x=dist((64, 64), "onehot"), tags="onehot")
    product("tiny", "inputs of 1e-3, no bias", "an absolute tolerance hides all errors", (13,), 64, 32, False,
        x=normal(13, 64, scale=0.001), tags="tiny")
    product("probe", "64 plain rows", "a gain of 1.003", (64,), 128, 64,
        pitfalls="silent-downcast narrow-products truncated-stores", tags="probe")
    product("massive-first", "a massive first term: later terms are small against the sum",
        "a narrow sequential sum stands still", (3,), 896, 16, False,
        x=poked(normal(3, 896), _0=1000, _896=-1000), tags="awkward")

    good = {"x": normal(5, 8), "weight": heavy(6, 8), "bias": heavy(6)}
    refuse("linear/refuse-inner", "9 columns on a weight of 8", "the last column is left out",
        {**good, "x": normal(5, 9)}, message=["9", "8"])
    refuse("linear/refuse-bias-size", "a bias of 1 for 6 outputs", "one bias is broadcast", {**good, "bias": heavy(1)},
        message=["bias", "1", "6"])
    refuse("linear/refuse-nan-weight", "a NaN in the weight", "a bad checkpoint is passed on",
        {**good, "weight": {**good["weight"], "poke": NAN}}, message=["weight"])
    refuse("linear/refuse-no-weight", "the weight is missing", "an identity is made up", without(good, "weight"),
        message=["weight"])
    refuse("linear/refuse-weight-type", "the weight in I64", "quantised weights are read as they lie",
        {**good, "weight": ints(-9, 9, 6, 8)}, message=["weight", "I64"])


def swiglu_cases():
    def glu(name, title, why, shape, scale=3, **keys):
        gate = keys.pop("gate", heavy(*shape, scale=scale))
        case(f"swiglu/{name}", title, why, {"gate": gate, "up": heavy(*shape)}, **keys)

    glu("canonical", "64 rows of 4864", "GELU for SiLU; gate and up exchanged", (1, 64, 4864), pitfalls="qwen2-details",
        tags="canonical")
    glu("extremes", "gates from -120 to 120", "exp overflows; a sigmoid cut off at -18", (13, 32),
        gate=uniform(-120, 120, 13, 32), pitfalls="overflow-half", tags="awkward")
    glu("around-zero", "gates from -1 to 1", "ReLU for SiLU", (13, 32), gate=uniform(-1, 1, 13, 32),
        pitfalls="qwen2-details silent-downcast", tags="probe")
    glu("zeros", "gates of 0: exactly 0", "silu(0) is 0.5", (3, 32), gate=const(0, 3, 32), tags="awkward")
    glu("tiny", "gates of 1e-3", "sigmoid by table", (13, 32), scale=0.001, tags="tiny")
    glu("odd", "a single row of 13", "whole vectors only", (13,), tags="awkward")
    glu("no-rows", "no rows", "an empty tensor fails", (0, 8), tags="awkward")
    good = {"gate": heavy(5, 8), "up": heavy(5, 8)}
    refuse("swiglu/refuse-shapes", "up of 9 for a gate of 8", "the last column is left out",
        {**good, "up": heavy(5, 9)}, message=["up", "9", "8"])
    refuse("swiglu/refuse-infinity", "an infinite gate", "infinity times 0",
        {**good, "gate": {**good["gate"], "poke": {"3": "-inf"}}}, message=["gate"])


# L0: attention.

def attend(heads, kv, q, dim, past=0, batch=1, visible=None, q_scale=1, k_scale=1, **keys):
    inputs = {"query": normal(batch, heads, q, dim, scale=q_scale),
            "key": normal(batch, kv, past + q, dim, scale=k_scale),
              "value": normal(batch, kv, past + q, dim), "visible": visible or causal(q, past, batch)}
    return {**inputs, **keys}


def attention_cases():
    def att(name, title, why, inputs, cfg=None, **keys):
        heads, dim, kv = inputs["query"]["shape"][1], inputs["query"]["shape"][3], inputs["key"]["shape"][1]
        case(f"attention/{name}", title, why, inputs, cfg or config(heads, kv, dim), **keys)

    att("canonical-prefill-end", "the last 8 of 786 queries, 14 heads on 2, trained-like keys",
        "KV head h mod G; scale 1/sqrt(hidden)",
        attend(14, 2, 8, 64, S - 8, query=normal(1, 14, 8, 64, scale=0.05), key=heavy(1, 2, S, 64, scale=30)), FULL,
        pitfalls="gqa-heads qwen2-details silent-downcast", tags="canonical")
    att("canonical-decode", "one query on 787 keys", "the new key is hidden", attend(14, 2, 1, 64, S), FULL,
        pitfalls="gqa-heads", tags="canonical")
    att("canonical-decode-three", "3 queries on 789 keys", "causal offset without L", attend(14, 2, 3, 64, S), FULL,
        pitfalls="gqa-heads", tags="canonical")
    att("prefill", "40 queries, 40 keys", "causality forgotten or strict", attend(4, 2, 40, 32),
        pitfalls="gqa-heads silent-downcast narrow-products truncated-stores")
    for heads, kv, dim in ((4, 4, 32), (6, 2, 32), (4, 1, 64), (2, 1, 128), (6, 3, 16)):
        att(f"heads-{heads}-{kv}-{dim}", f"{heads} query heads, {kv} KV heads of {dim}", "14/2 or 64 compiled in",
            attend(heads, kv, 5, dim, 6), pitfalls="gqa-heads head-dim" if 1 < kv < heads else "head-dim",
            tags="awkward")
    att("batch-of-three", "B = 3, each sample with its own visible keys", "sample 0's mask for all",
        attend(4, 2, 3, 32, 6, 3, visible=runs(*[[(1, 7 + i), (0, 2 - i)] for i in range(3)],
                *[[(0, 4), (1, 3 + i), (0, 2 - i)] for i in range(3)],
                *[[(1, 2), (0, 3), (1, 2 + i), (0, 2 - i)] for i in range(3)],
                dtype="BOOL", shape=[3, 3, 9])), pitfalls="order-sensitivity")
    att("hidden-rows", "rows that see no key give zeros", "NaN, or the mean of all values",
        attend(4, 2, 6, 32, visible=runs(*[[(0, 6)]] * 2, *[[(0, 2), (1, i - 1), (0, 5 - i)] for i in range(2, 6)],
                dtype="BOOL", shape=[1, 6, 6])), pitfalls="mask-overflow")
    att("not-causal", "any pattern of visible keys, also later ones", "causality is applied once more",
        attend(2, 1, 4, 32, visible=values(
                [1, 4, 4], 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, dtype="BOOL")), tags="awkward")
    att("one-key", "one query, one key: the value itself", "softmax of one", attend(4, 2, 1, 32), tags="awkward")
    att("onehot-values", "one-hot values (dimension = key mod D), flat attention: the weights themselves",
        "a hidden key with a small weight",
        attend(4, 2, 48, 32, q_scale=0.3, value=dist((1, 2, 48, 32), "onehot")), pitfalls="gqa-heads", tags="onehot")
    att("probe", "flat attention on 64 keys", "one key left out", attend(4, 2, 16, 64, 48, q_scale=0.3),
        pitfalls="gqa-heads narrow-products", tags="probe")
    att("tiny", "values of 1e-3", "an absolute tolerance hides all errors",
        attend(4, 2, 8, 32, 8, value=normal(1, 2, 16, 32, scale=0.001)), tags="tiny")
    att("many-keys", "2 queries on 4,098 keys of nearly equal weight",
        "a sum of 4,098 exponentials that stops at 2048 in float16", attend(2, 1, 2, 16, 4096, q_scale=0.1),
        pitfalls="overflow-half", tags="probe")
    att("repeat", "all keys equal: the mean of the visible values", "an error that depends on the key's place",
        attend(4, 2, 16, 32, key=normal(1, 2, 16, 32, repeat=True)), tags="probe")
    att("sharp", "scores to the hundreds: one key takes all", "softmax without the maximum subtracted",
        attend(4, 2, 13, 64, q_scale=10, k_scale=10),
        pitfalls="overflow-half mask-overflow order-sensitivity", tags="awkward")
    att("large-scores", "q k of 82,000 before scaling, 10,000 after it",
        "the product is scaled after it overflowed fp16; exp without maximum",
        attend(2, 1, 5, 64, query=normal(1, 2, 5, 64, shift=32), key=normal(1, 1, 5, 64, scale=0.25, shift=40)),
        pitfalls="overflow-half", tags="awkward")
    att("hidden-large-key", "a hidden key whose score is 15,000 above the visible ones", "hidden by adding -10000 only",
        attend(2, 1, 2, 64, 6, query=normal(1, 2, 2, 64, scale=0.25, shift=16),
            key=normal(1, 1, 8, 64, shift=-60, poke={str(i): 60 for i in range(2 * 64, 3 * 64)}),
            visible=runs(*[[(1, 2), (0, 1), (1, 4 + i), (0, 1 - i)] for i in range(2)], dtype="BOOL",
                shape=[1, 2, 8])), pitfalls="mask-overflow", tags="awkward")
    att("far-below", "visible keys with scores near -12,800 and a hidden one at 0", "hidden by a score of -10000",
        attend(2, 1, 2, 64, 6, query=normal(1, 2, 2, 64, scale=0.25, shift=16),
            key=normal(1, 1, 8, 64, scale=0.25, shift=-100, poke={str(i): 0 for i in range(2 * 64, 3 * 64)}),
            visible=runs(*[[(1, 2), (0, 1), (1, 4 + i), (0, 1 - i)] for i in range(2)], dtype="BOOL",
                shape=[1, 2, 8])), pitfalls="mask-overflow overflow-half", tags="awkward")

    good, cfg = attend(4, 2, 3, 32, 4), config(4, 2, 32)
    for name, title, why, change, message, pitfalls in (
            ("heads", "4 query heads on 3 KV heads", "the last head reads past the end",
                {"key": normal(1, 3, 7, 32), "value": normal(1, 3, 7, 32)}, ["4", "3"], "gqa-heads"),
            ("visible-shape", "visible [1,3,6] for 7 keys", "the last key is hidden", {"visible": causal(3, 3)},
                ["visible", "6", "7"], "mask-length"),
            ("visible-type", "visible in I64", "another type is read as bytes",
                {"visible": {**causal(3, 4), "dtype": "I64"}}, ["visible", "I64", "BOOL"], ""),
            ("value-length", "6 values for 7 keys", "values of another request", {"value": normal(1, 2, 6, 32)},
                ["value", "6", "7"], ""),
            ("value-heads", "1 value head for 2 key heads", "one head is broadcast", {"value": normal(1, 1, 7, 32)},
                ["value"], "gqa-heads"),
            ("head-dim", "queries of 16 on keys of 32", "half of the key is left out", {"query": normal(1, 4, 3, 16)},
                ["16", "32"], ""),
            ("nan", "a NaN in a value", "one token spoils all", {"value": {**normal(1, 2, 7, 32), "poke": NAN}},
                ["value"], "")):
        refuse(f"attention/refuse-{name}", title, why, {**good, **change}, {} if name == "heads" else cfg,
            message=message, pitfalls=pitfalls)


# L1 and L2: attention_block and decoder_layer.

def layer(op, cfg, length, spans, coords, counts=None, past=0, probe=False, batch=None, hidden=None, flat=False,
        **more):
    """Inputs of one request. The block's inputs have massive activations (rms 4.2), the probe's have none."""
    batch, kv, dim = batch or len(spans or [0]), cfg["num_key_value_heads"], cfg["head_dim"]
    if not hidden:
        hidden = normal(batch, length, cfg["hidden_size"], **({} if probe else {"outliers": OUTLIERS}))
    rms = 1 if probe else 4.2
    inputs = {"hidden": hidden, **(layer_weights(cfg, probe, flat) if op == "decoder_layer" else attention_weights(cfg,
            probe, rms, flat))}
    if past:
        inputs["past_key"] = normal(batch, kv, past, dim) if probe else heavy(batch, kv, past, dim, scale=30)
        inputs["past_value"] = normal(batch, kv, past, dim)
    return {**inputs, **points(length, spans, coords, counts), **more}


def layer_cases():
    def lay(name, title, why, cfg, *args, pitfalls="", tags="", **keys):
        op = name.split("/")[0].replace("-", "_")
        case(name, title, why, layer(op, cfg, *args, **keys), cfg, pitfalls=pitfalls, tags=tags)

    middle, coords = [(MARK + 1, N)], scene("coords", N, 3)
    flat = {**FULL, "coord_norm": "none"}
    for op, what in (("attention-block", "attention block"), ("decoder-layer", "decoder layer")):
        lay(f"{op}/canonical-prefill", f"{what}, full width, prefill of 786 with 556 points",
            "any mistake in rotation, heads or mask at the real sizes", FULL, S, middle, coords,
            pitfalls="gqa-heads pairing mask-ownership qwen2-details coords-count", tags="canonical yardstick")
        lay(f"{op}/canonical-decode", f"{what}, full width, first decode step: a mask of 232 where 787 keys stand",
            "the mask hides all points behind 232 keys; 3D on the new token",
            FULL, 1, None, None, past=S, key_mask=ones(1, 232), pitfalls="mask-length decode-rope cache-rotation",
            tags="canonical yardstick")
        lay(f"{op}/canonical-decode-probe", f"{what}, full width, decode without key bias: all 787 keys weigh",
            "one key hidden; position 231 for 786",
            FULL, 1, None, None, past=S, probe=True, key_mask=runs([(0, 3), (1, 229)]),
            pitfalls="mask-length decode-rope mask-ownership", tags="canonical probe")
        lay(f"{op}/canonical-decode-three", f"{what}, full width, q = 3 at L = 786", "a chunk is taken for prefill",
            FULL, 3, None, None, past=S, probe=True,
            key_mask=ones(1, 234), pitfalls="empty-cache mask-length decode-rope", tags="canonical probe")
        lay(f"{op}/full-width-probe", f"{what}, full width, 60 points of 90 tokens, raw coordinates, positions 41 i",
            "narrow angles, axial weights ignored, axes exchanged", flat, 90,
            [(14, 60)], grid_coords(60, 3), probe=True, position_ids=arange(0, 41, 1, 90),
            pitfalls="axial-weights narrow-angles coords-count gqa-heads", tags="probe yardstick")
        lay(f"{op}/full-width-tiny", f"{what}, full width, inputs of 1e-3", "eps 1e-5 for 1e-6", FULL, 64, [(14, 30)],
            grid_coords(30, 3), probe=True,
            hidden=normal(1, 64, 896, scale=0.001), pitfalls="qwen2-details", tags="tiny")
    lay("attention-block/full-width-repeat", "attention block, full width, the same hidden state at every token",
        "an error that rounding of equal tokens hides", FULL, 64, [(14, 30)],
        grid_coords(30, 3), hidden=normal(1, 64, 896, repeat=True), pitfalls="pairing", tags="probe")
    lay("attention-block/full-width-chunk", "attention block, full width, 60 more points with 40 tokens in the cache",
        "points of a later chunk are left unturned; restart at position 0", FULL, 70,
        [(2, 60)], grid_coords(60, 3), past=40, pitfalls="empty-cache decode-rope", tags="yardstick")

    # Small width: the options.
    narrow = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    for slug, options, title, why, pitfalls in chosen(
            "contiguous contiguous-native interleaved quarter-interleaved-native three-quarters-interleaved "
            "full-spatial full-temporal fixed shared no-axial-weights axial-interleaved norm-unit-range "
            "norm-resolution-average drift-pointwise"):
        cfg = {**narrow, **options}
        lay(f"attention-block/option-{slug}", f"{title}; 13 points of 20 tokens", why, cfg, 20, [(4, 13)],
            grid_coords(13, 3), probe=True, pitfalls=pitfalls, tags="options probe")
    block = "attention-block/"
    lay(block + "prefill", "prefill, trained-like, 13 points of 20 tokens",
        "keys cached before rotation; values rotated", narrow, 20, [(4, 13)], grid_coords(13, 3),
        pitfalls="cache-rotation pairing")
    lay(block + "decode", "one text token, 20 in the cache",
        "3D on the new token, position 0, old keys rotated again, new key in front", narrow, 1, None, None, past=20,
        probe=True,
        pitfalls="decode-rope cache-rotation gqa-heads", tags="probe")
    lay(block + "decode-short-mask", "one text token, a mask of 9 for 21 keys with zeros at both ends",
        "ones in front of the mask; zeros for ones; one short", narrow, 1, None, None,
        past=20, probe=True, key_mask=runs([(0, 2), (1, 6), (0, 1)]), pitfalls="mask-length mask-ownership",
        tags="probe")
    lay(block + "decode-spliced", "decode_mask spliced: the prefill mask of 20 with padding, then ones",
        "padding keys become visible at decode", {**narrow, "decode_mask": "spliced"}, 1, None, None,
        past=22, probe=True, batch=2, key_mask=ones(2, 10), prefill_mask=runs([(1, 20)], [(1, 13), (0, 7)]),
        pitfalls="mask-length batch", tags="probe options")
    lay(block + "decode-point", "q = 1, the new token is a point", "q = 1 is taken for a text step", narrow, 1,
        [(0, 1)], grid_coords(1, 3), past=7, probe=True,
        pitfalls="empty-cache decode-rope", tags="awkward probe")
    lay(block + "one-token-prompt", "q = 1 at L = 0, a point", "q = 1 is taken for decode", narrow, 1, [(0, 1)],
        grid_coords(1, 3), probe=True, pitfalls="empty-cache degenerate", tags="awkward")
    lay(block + "empty-past", "a past of length 0 is handed over",
        "a cache that exists is taken for decode: no 3D at all", narrow, 9, [(2, 5)], grid_coords(5, 3), probe=True,
        past_key=normal(1, 2, 0, 32), past_value=normal(1, 2, 0, 32), pitfalls="empty-cache", tags="awkward probe")
    lay(block + "chunk", "9 tokens with 5 points, 11 in the cache",
        "positions restart at 0; the chunk's points are left unturned", narrow, 9, [(2, 5)], grid_coords(5, 3),
        past=11, probe=True,
        key_mask=runs([(0, 3), (1, 17)]), pitfalls="empty-cache mask-ownership", tags="probe")
    lay(block + "chunk-own-positions", "5 tokens with 2 points, 6 in the cache, positions given",
        "positions that are given are read at L = 0 only", narrow, 5, [(1, 2)], grid_coords(2, 3), past=6, probe=True,
        position_ids=values([1, 5], 40, 41, 7, 7, 3), pitfalls="decode-rope empty-cache", tags="probe options")
    session(block + "text-after-points", "a call that begins with points, then text with 3 in the cache",
        "the points of the call before are turned again", [
            step("attention_block", layer("attention_block", narrow, 3, [(0, 2)], grid_coords(2, 3), probe=True)),
            step("attention_block", layer("attention_block", narrow, 2, None, None, past=3, probe=True))],
        narrow, "decode-rope stale-cis", "probe")
    lay(block + "hidden-rows", "leading zeros in the mask: rows without keys", "NaN spreads from a hidden row", narrow,
        9, [(4, 3)], grid_coords(3, 3), probe=True,
        key_mask=runs([(0, 2), (1, 7)]), pitfalls="mask-overflow", tags="probe")
    lay(block + "mask-holes", "zeros in the mask on text and on points",
        "the padding step is missing, or points are always visible", narrow, 20, [(4, 9)], grid_coords(9, 3),
        probe=True,
        key_mask=runs([(1, 2), (0, 1), (1, 5), (0, 2), (1, 5), (0, 2), (1, 3)]), pitfalls="mask-ownership",
        tags="probe")
    lay(block + "batch-of-three", "B = 3 with 14, 13 and 2 points, padded",
        "coordinates or point mask of sample 0 for all", narrow, 20, [(3, 14), (3, 13), (3, 2)],
        grid_coords(3, 14, 3), [14, 13, 2],
        probe=True, key_mask=runs([(1, 20)], [(1, 19), (0, 1)], [(1, 8), (0, 12)]), pitfalls="batch mask-ownership",
        tags="probe awkward")
    lay(block + "batch-unit-range", "the same with unit_range and drift average", "range or N over the batch",
        {**narrow, "coord_norm": "unit_range", "drift": "average"}, 20, [(3, 14), (3, 13), (3, 2)],
        grid_coords(3, 14, 3), [14, 13, 2], probe=True, pitfalls="batch drift-norm", tags="probe options")
    lay(block + "left-padded", "B = 2, one sample left-padded, positions given",
        "positions counted over padding although given", narrow, 9, [(3, 3), (5, 3)], grid_coords(2, 3, 3),
        probe=True,
        key_mask=runs([(1, 9)], [(0, 2), (1, 7)]), position_ids=values([2, 9], *range(9), 0, 0, *range(7)),
        pitfalls="batch", tags="probe")
    lay(block + "text-only", "no points, no rotary parameters", "a missing scan fails",
        {**narrow, "rope_mixed_3d": False}, 9, None, None, probe=True, pitfalls="degenerate", tags="awkward")
    lay(block + "all-points", "13 points and nothing else", "a bidirectional mask among points", narrow, 13, [(0, 13)],
        grid_coords(13, 3), probe=True, pitfalls="degenerate mask-ownership", tags="probe awkward")
    lay(block + "flat-parameters", "frequencies flattened to [3,heads·F], as checkpoints hold them",
        "flattened bins-major instead of head-major", narrow, 9, [(2, 5)], grid_coords(5, 3), probe=True, flat=True,
        pitfalls="axial-weights gqa-heads", tags="probe options")
    lay(block + "head-dim-apart", "head_dim 64 beside hidden 128 and 4 heads",
        "hidden/heads = 32 taken although 64 is given", config(4, 2, 64, hidden_size=128), 9, [(2, 5)],
        grid_coords(5, 3), probe=True,
        pitfalls="head-dim", tags="probe options")
    lay(block + "head-dim-below", "head_dim 16 beside hidden 96 and 4 heads",
        "hidden/heads = 24 taken although 16 is given", config(4, 2, 16, hidden_size=96), 9, [(2, 5)],
        grid_coords(5, 3), probe=True, pitfalls="head-dim", tags="probe options")
    lay(block + "head-dim-derived", "head_dim absent: 128/4 = 32", "64 compiled in", narrow, 9, [(2, 5)],
        grid_coords(5, 3), probe=True, pitfalls="head-dim", tags="probe options")
    CASES[-1]["config"] = {key: value for key, value in narrow.items() if key != "head_dim"}
    for heads, kv, dim in ((6, 2, 32), (4, 4, 32), (4, 1, 64), (2, 1, 128)):
        lay(f"{block}heads-{heads}-{kv}-{dim}", f"{heads} query heads, {kv} KV heads of {dim}",
            "14/2 or 64 compiled in", config(heads, kv, dim), 9, [(2, 6)], grid_coords(6, 3), probe=True,
            pitfalls="gqa-heads head-dim", tags="probe awkward")
    lay(block + "unused-tensors", "tensors of the rest of the layer are there and unused",
        "a norm or a residual inside the block", narrow, 6, [(2, 3)], grid_coords(3, 3), probe=True,
        **{"input_layernorm.weight": uniform(0.2, 4, 128), "mlp.gate_proj.weight": heavy(20, 128)},
        pitfalls="qwen2-details", tags="probe")

    whole = "decoder-layer/"
    lay(whole + "prefill", "prefill, trained-like, 13 points of 20 tokens",
        "gate and up exchanged, norms exchanged, residual left out", SMALL, 20, [(4, 13)], grid_coords(13, 3),
        pitfalls="qwen2-details narrow-products")
    lay(whole + "prefill-probe", "the same without key bias", "keys or values of other heads", SMALL, 20, [(4, 13)],
        grid_coords(13, 3), probe=True, pitfalls="gqa-heads qwen2-details", tags="probe")
    lay(whole + "eps-1e-5", "rms_norm_eps 1e-5 on inputs of 1e-3", "1e-6 compiled in", {**SMALL, "rms_norm_eps": 1e-5},
        9, [(2, 5)], grid_coords(5, 3), probe=True,
        hidden=normal(1, 9, 128, scale=0.001), pitfalls="qwen2-details", tags="tiny options")
    lay(whole + "decode", "one text token, 20 in the cache, a mask of 9", "the mask is used unrepaired", SMALL, 1, None,
        None, past=20, probe=True, key_mask=runs([(0, 1), (1, 8)]),
        pitfalls="mask-length decode-rope", tags="probe")
    lay(whole + "decode-three", "three tokens, 20 in the cache", "the causal offset forgets L", SMALL, 3, None, None,
        past=20, probe=True, pitfalls="empty-cache mask-ownership", tags="probe")
    lay(whole + "chunk", "9 tokens with 5 points, 11 in the cache", "positions restart at 0", SMALL, 9, [(2, 5)],
        grid_coords(5, 3), past=11, probe=True, pitfalls="empty-cache", tags="probe")
    lay(whole + "batch-of-three", "B = 3 with 9, 8 and 2 points, padded", "sample 0's points for all", SMALL, 14,
        [(3, 9), (3, 8), (3, 2)], grid_coords(3, 9, 3), [9, 8, 2], probe=True,
        key_mask=runs([(1, 14)], [(1, 13), (0, 1)], [(1, 7), (0, 7)]), pitfalls="batch", tags="probe awkward")
    lay(whole + "text-only", "no point tensors, learned parameters given", "3D on text", SMALL, 9, None, None,
        probe=True, pitfalls="degenerate", tags="awkward probe")
    for slug, options, title, why, pitfalls in chosen(
            "interleaved quarter-interleaved-native fixed axial shared norm-unit-range"):
        lay(f"{whole}option-{slug}", f"{title}; 5 points of 9 tokens", why, {**SMALL, **options}, 9, [(2, 5)],
            grid_coords(5, 3), probe=True, pitfalls=pitfalls, tags="options probe")
    lay(whole + "hidden-act-silu", 'hidden_act "silu" given', "another activation is taken",
        {**SMALL, "hidden_act": "silu"}, 5, [(1, 3)], grid_coords(3, 3), probe=True, pitfalls="qwen2-details",
        tags="options")

    good = layer("attention_block", narrow, 5, [(1, 3)], grid_coords(3, 3))
    later = layer("attention_block", narrow, 1, None, None, past=6)

    def bad(name, title, why, inputs, message, cfg=None, pitfalls="", tags=""):
        refuse(block + "refuse-" + name, title, why, inputs, cfg or narrow, message=message, pitfalls=pitfalls,
            tags=tags)

    bad("788-of-787", "a mask of 788 where 787 keys stand", "an over-long mask is cut",
        layer("attention_block", config(2, 1, 32), 1, None, None, past=S, key_mask=ones(1, 788)), ["788", "787"],
        config(2, 1, 32), "mask-length", "canonical")
    bad("short-at-prefill", "a mask of 4 at a prefill of 5", "the mask is repaired at prefill",
        {**good, "key_mask": ones(1, 4)}, ["key_mask", "4", "5"], pitfalls="mask-length")
    bad("count", "2 coordinate rows for 3 points", "a row is used twice", {**good, "point_coords": grid_coords(2, 3)},
        ["2", "3"], pitfalls="coords-count")
    bad("past-value-alone", "a past value without a past key", "the cache is half there", without(later, "past_key"),
        ["past_key"])
    bad("past-lengths", "6 past keys, 5 past values", "the shorter one is taken",
        {**later, "past_value": normal(1, 2, 5, 32)}, ["past_value", "5", "6"])
    bad("past-heads", "past keys of 4 heads where 2 stand", "query heads in the cache",
        {**later, "past_key": normal(1, 4, 6, 32), "past_value": normal(1, 4, 6, 32)}, ["past_key", "4", "2"],
        pitfalls="gqa-heads")
    bad("no-k-bias", "the key bias is missing", "a Llama without biases", without(good, "self_attn.k_proj.bias"),
        ["self_attn.k_proj.bias"])
    bad("o-bias", "a bias on o_proj", "a bias that Qwen2 does not have is ignored or added",
        {**good, "self_attn.o_proj.bias": heavy(128)}, ["self_attn.o_proj.bias"])
    bad("hidden-size", "hidden states of 96 where hidden_size is 128", "the tensor's size is believed",
        {**good, "hidden": normal(1, 5, 96)}, ["hidden", "96", "128"])
    bad("weight-transposed", "q_proj [hidden,rows] of another shape", "a transposed weight is used",
        {**good, "self_attn.k_proj.weight": heavy(128, 64, scale=0.01)}, ["self_attn.k_proj.weight", "128", "64"])
    bad("misspelt-tensor", "self_attn.freqs_3d_k for self_attn.freqs_3d_kv", "a misspelt parameter is ignored",
        {**without(good, "self_attn.freqs_3d_kv"), "self_attn.freqs_3d_k": uniform(0.02, 1, 3, 2, 8)},
        ["self_attn.freqs_3d_k"], pitfalls="gqa-heads")
    bad("no-heads", "num_attention_heads is missing", "14 is taken", good, ["num_attention_heads"],
        {key: value for key, value in narrow.items() if key != "num_attention_heads"})
    bad("not-derivable", "head_dim absent and 128 does not divide by 3", "head_dim is rounded", good, ["128", "3"],
        {"hidden_size": 128, "num_attention_heads": 3, "num_key_value_heads": 1, "rope_theta": 10000,
            "rms_norm_eps": 1e-6})
    whole_good = layer("decoder_layer", SMALL, 5, [(1, 3)], grid_coords(3, 3))
    for name, title, why, inputs, cfg, message in (
            ("gelu", "hidden_act gelu", "SiLU is taken all the same", whole_good, {**SMALL, "hidden_act": "gelu"},
                ["hidden_act", "gelu", "silu"]),
            ("no-norm", "a norm's weight is missing", "ones are taken",
                without(whole_good, "post_attention_layernorm.weight"), SMALL, ["post_attention_layernorm.weight"]),
            ("intermediate", "intermediate_size 201 beside weights of 200", "the tensor's size is believed", whole_good,
                {**SMALL, "intermediate_size": 201}, ["200", "201"])):
        refuse(f"{whole}refuse-{name}", title, why, inputs, cfg, message=message)


# L0: voxelize, token_coords.

def scan_cases():
    def vox(name, title, why, pts, cfg=None, **keys):
        case(f"voxelize/{name}", title, why, {"points": pts}, cfg, **keys)

    def cloud(dtype, *rows, width=3, **poke):
        recipe = values([len(rows) // width, width], *rows, dtype=dtype)
        return poked(recipe, **poke) if poke else recipe

    vox("canonical", "the canonical scan: 106,328 rows, invalid ones among them",
        "NaN or infinity kept; another point of a cell; cells in scan order", scene("points", N_RAW, 6),
        pitfalls="dirty-scan", tags="canonical")
    vox("random", "400 points in a room of 3 m, with colours", "cells sorted by z first; colours over 255",
        uniform(0, 3, 400, 6, dtype="F32"), pitfalls="dirty-scan")
    vox("no-colour", "points without colours, around the origin",
        "negative positions cut towards 0; minimum not subtracted", uniform(-2, 2, 200, 3, dtype="F64"),
        pitfalls="dirty-scan", tags="options")
    vox("dirty", "NaN and infinities in positions and colours",
        "rows are dropped for NaN only, or for their position only",
        poked(ints(0, 255, 60, 6, dtype="F32", scale=0.0078125), _0="nan", _8="inf", _13="-inf", _21="nan", _29="inf",
            _52="-inf"), pitfalls="dirty-scan")
    vox("dirty-extremes", "the smallest x stands in a dropped row", "the minimum is taken before rows are dropped",
        cloud("F32", -100, 0, 0, 1, 2, 3, 1.5, 2.5, 3.5, _1="nan"), pitfalls="dirty-scan", tags="awkward")
    vox("dirty-minimum", "a dropped row 6 m before the others, within the grid",
        "the minimum is taken before rows are dropped",
        cloud("F32", -5, 0, 0, 1, 2, 3, 1.5, 2.5, 3.5, _1="nan"), pitfalls="dirty-scan", tags="awkward")
    vox("same-cell", "several points in one cell: the lowest row wins",
        "the last row, or the mean of the cell, is taken",
        cloud("F64", 0, 0, 0, 0.51, 0.51, 0.51, 0.505, 0.505, 0.505, 0.52, 0.52, 0.52, 0.001, 0.002, 0.003),
        pitfalls="dirty-scan")
    vox("multiples", "multiples of the cell to 1277, in F64",
        "multiplying by 40 in place of dividing by 0.025 changes 47 of them; binary32 changes more",
        poked(arange(0, 0.025, 426, 3, dtype="F64"), _1=0, _2=0), pitfalls="dirty-scan narrow-angles", tags="probe")
    vox("edges-f32", "points at cell edges in F32", "the floor in binary32",
        ints(0, 400, 100, 3, dtype="F32", scale=0.025), pitfalls="dirty-scan narrow-angles", tags="probe")
    vox("far-from-origin", "a room at 4000 m: the minimum is subtracted first", "dividing before subtracting",
        ints(64000000, 64004000, 60, 3, dtype="F64", scale=0.0000625), pitfalls="dirty-scan", tags="awkward")
    vox("last-cell", "a point in cell 1279, the last one", "the last slab is lost",
        cloud("F64", 0, 0, 0, 31.99, 1, 2, 2, 31.98, 31.999), pitfalls="dirty-scan", tags="awkward")
    vox("clip", "grid_overflow clip: everything beyond 32 m merges into the last cell",
        "refused although clip is set; the row that wins changes",
        cloud("F64", 0, 0, 0, 40, 1, 1, 35, 1, 1, 33, 1, 1, 5, 50, 60),
        {"grid_overflow": "clip"}, pitfalls="dirty-scan", tags="options")
    vox("cell-size", "cells of 0.1 m, 64 bins", "0.025 compiled in", uniform(0, 5, 100, 3, dtype="F32"),
        {"cell_size": 0.1, "num_bins": 64}, pitfalls="dirty-scan", tags="options")
    vox("one-point", "a single point: cell (0,0,0)", "an empty range", cloud("F64", 5, -7, 900),
        pitfalls="dirty-scan", tags="awkward")
    vox("whole-metres", "points in I64", "integers are read as floating bits",
        cloud("I64", 3, 0, 1, 0, 1, 2, 3, 3, 3, 0, 1, 2), tags="awkward")
    vox("identical", "all points at one place", "duplicates kept", const(1.25, 7, 3, dtype="F64"),
        pitfalls="dirty-scan", tags="awkward")
    for name, title, why, pts, cfg, message in (
            ("no-rows", "no points", "an empty cloud gives an empty scene", uniform(0, 1, 0, 3, dtype="F32"), {},
                ["points"]),
            ("all-dirty", "no row is finite", "an empty cloud gives an empty scene",
                cloud("F32", 0, 1, 2, 3, 4, 5, _1="nan", _5="inf"), {}, ["points"]),
            ("columns", "points with 4 columns", "the fourth column is ignored", uniform(0, 1, 5, 4, dtype="F32"), {},
                ["points", "4"]),
            ("overflow", "a point at 40 m: index 1600 of 1279", "everything beyond 32 m merges",
                cloud("F64", 0, 0, 0, 40, 1, 1), {}, ["1600", "1279"]),
            ("cell-size", "cell_size 0", "a division by zero", uniform(0, 1, 5, 3, dtype="F32"), {"cell_size": 0},
                ["cell_size"]),
            ("overflow-name", "grid_overflow wrap", "an unknown value means the default",
                uniform(0, 1, 5, 3, dtype="F32"), {"grid_overflow": "wrap"},
                ["grid_overflow", "wrap", "error", "clip"]),
            ("narrow", "points in F16", "positions narrower than F32", uniform(0, 1, 5, 3, dtype="F16"), {},
                ["points", "F16"])):
        refuse(f"voxelize/refuse-{name}", title, why, {"points": pts}, cfg, message=message,
            pitfalls="dirty-scan")

    def tok(name, title, why, grid, stages=4, **keys):
        case(f"token-coords/{name}", title, why, {"grid": grid}, meta={"stages": stages}, **keys)

    tok("canonical", "the cells of the canonical scene: 556 tokens",
        "tokens in scan or hash order; raw rows for tokens", scene("grid", *SCENE_GRID),
        pitfalls="coords-count dirty-scan", tags="canonical")
    tok("random", "500 cells, four stages", "tokens in another order than (x,y,z)", ints(0, 200, 500, 3),
        pitfalls="coords-count")
    tok("no-stages", "stages 0 merges nothing", "stages 0 refused, or taken as 4", ints(0, 20, 13, 3), 0,
        tags="awkward options")
    tok("one-stage", "one stage", "four stages compiled in", ints(0, 9, 100, 3), 1, pitfalls="dirty-scan",
        tags="options")
    tok("all-into-one", "eleven stages: one token", "a shift that wraps", ints(0, 1279, 50, 3), 11,
        tags="awkward options")
    tok("duplicates", "the same cell given several times counts once", "rows are counted instead of distinct cells",
        values([6, 3], 16, 0, 0, 17, 0, 0, 16, 0, 0, 16, 0, 0, 40, 3, 3, 40, 3, 3), pitfalls="dirty-scan", tags="awkward")
    tok("even-maximum", "the largest index is even (1264 = 79·16)", "the last slab is lost",
        values([5, 3], 1264, 0, 0, 1263, 0, 0, 0, 1264, 5, 0, 1248, 1264, 0, 0, 0), pitfalls="dirty-scan narrow-angles",
        tags="awkward")
    tok("one-cell", "a single cell", "an empty range", values([1, 3], 31, 32, 33),
        tags="awkward")
    grid = ints(0, 99, 9, 3)
    for name, title, why, recipe, meta, message in (
            ("negative", "an index of -1", "floor towards zero merges -1 with 0", poked(grid, _4=-1), {"stages": 4},
                ["grid", "-1"]),
            ("stages", "stages -1", "a negative shift", grid, {"stages": -1}, ["stages", "-1"]),
            ("no-stages", "stages is missing", "four is taken", grid, {}, ["stages"]),
            ("columns", "cells of two coordinates", "z is made up", ints(0, 9, 9, 2), {"stages": 4},
                ["grid", "2", "3"]),
            ("type", "cells in F32", "indices in a type that cannot hold them all", ints(0, 9, 9, 3, dtype="F32"),
                {"stages": 4}, ["grid", "F32", "I64"])):
        refuse(f"token-coords/refuse-{name}", title, why, {"grid": recipe}, {}, meta, message=message,
            pitfalls="dirty-scan")


SCENE_GRID = (68442, 3)  # occupied cells of the canonical scene


# L3 and L4: sessions.

def model(base, vocab, **options):
    """A model of two layers; its last three token ids are the markers."""
    return {**base, "num_hidden_layers": 2, "vocab_size": vocab, "point_start_token_id": vocab - 3,
            "point_end_token_id": vocab - 2,
            "point_token_id": vocab - 1, **options}


def spliced_embeds(cfg, length, mark, n_points, counts=None, prompt=None, batch=1):
    """inputs_embeds from token ids (generated, or a prompt of the data folder) and features with a few outliers."""
    start, end, pad = (cfg.get(key, default) for key, default in
                       (("point_start_token_id", START), ("point_end_token_id", END), ("point_token_id", PAD)))
    if prompt:
        ids = {"shape": [1, length], "dtype": "I64", "prompt": prompt}
    else:
        ids = text_ids(length, *[(mark, mark + 2)] * batch, start=start, end=end, pad=pad, lo=0, hi=start - 1)
    total = length - 1 + max(counts or [n_points])
    parts = {"ids": ids, "features": normal(batch, n_points, cfg["hidden_size"], scale=0.1, outliers=OUTLIERS)}
    if counts:
        parts["point_counts"] = counts
    return {"shape": [batch, total, cfg["hidden_size"]], "dtype": "tier", "embeds": parts}


def prefill(embeds, spans, coords=None, counts=None, past=0, name="a", mask=None, keep=None, positions=None, **keys):
    batch, length = embeds["shape"][:2]
    inputs = {"inputs_embeds": embeds, "attention_mask": mask or ones(batch, past + length)}
    if positions:
        inputs["position_ids"] = positions
    meta = {"session": name, **({} if keep is None else {"logits_to_keep": keep})}
    return step("prefill", {**inputs, **points(length, spans, coords, counts)}, meta, **keys)


def decode(ids, mask=None, name="a", **keys):
    return step("decode", {"input_ids": ids, **({"attention_mask": mask} if mask else {})}, {"session": name}, **keys)


def greedy(steps, text_length=None, batch=1):
    """Greedy decode steps after step 0, with the caller's text-only mask, one longer at every step, or without one."""
    return [decode({"shape": [batch, 1], "dtype": "I64", "argmax": [t - 1]},
            ones(batch, text_length + t) if text_length else None)
            for t in range(1, steps + 1)]


def drop(name="a", **keys):
    return step("drop_session", {}, {"session": name}, **keys)


def states(cfg, length, batch=1):
    """Hidden states that are not spliced from anything."""
    return normal(batch, length, cfg["hidden_size"], scale=0.1,
            **({"outliers": OUTLIERS} if cfg["hidden_size"] > 97 else {}))


FULL2, SMALL2 = model(FULL, 2048), model(SMALL, 131)
QWEN2 = {**FULL, "num_hidden_layers": 2, "vocab_size": 151936}
WHOLE = {**QWEN2, "num_hidden_layers": 24}  # Qwen2-0.5B's own sizes


def weight_sets():
    weight_set("full", FULL2)
    weight_set("full-probe", FULL2, probe=True)
    weight_set("full-untied", FULL2, head=True)
    weight_set("qwen-two-layers", QWEN2)
    weight_set("whole", WHOLE)
    weight_set("small", SMALL2)
    weight_set("small-probe", SMALL2, probe=True)
    weight_set("small-untied", SMALL2, probe=True, head=True)
    weight_set("small-flat", SMALL2, probe=True, flat=True)
    weight_set("small-head-dim", model(config(4, 2, 64, hidden_size=128, intermediate_size=200), 131), probe=True)
    weight_set("small-extra", SMALL2, probe=True)
    WEIGHTS["small-extra"]["model.rotary_emb.inv_freq"] = uniform(0, 1, 16)
    WEIGHTS["small-extra"]["point_backbone.extra_embedding"] = normal(7)


def option_weights(cfg):
    """Name of the small weight set whose rotary parameters fit, made when first asked for."""
    shapes = {recipe["shape"][0] * 1000 + recipe["shape"][-1] if "freqs" in key else 1
              for key, recipe in rotary(cfg, "self_attn.").items()}
    axes = "fixed" if not shapes else "-".join(filter(None, [
        "shared" if not cfg.get("mixedRoPE_3d_learned_per_axis", True) else "", f"bins-{spatial_dims(cfg) // 2}",
        "no-axial" if not cfg.get("mixedRoPE_3d_learned_axial_mixing_weight", True) else ""]))
    name = "small-probe" if axes == "bins-8" else "small-" + axes
    if name not in WEIGHTS:
        weight_set(name, cfg, probe=True)
    return name


def prefill_cases():
    def pre(name, title, why, steps, cfg=None, weights="small-probe", **keys):
        session(f"prefill/{name}", title, why, steps if isinstance(steps, list) else [steps], cfg or SMALL2,
            weights=weights, **keys)

    pre("full-width", "two layers at full width, 31 text tokens and 90 points, all logits",
        "one layer's parameters used for all; the final norm left out",
        prefill(spliced_embeds(FULL2, 31, 14, 90), [(15, 90)], grid_coords(90, 3)), FULL2, "full",
        pitfalls="stale-cis gqa-heads qwen2-details", tags="yardstick wide")
    pre("full-width-probe", "the same without key bias, raw coordinates, positions 41 i",
        "narrow angles, axial weights ignored",
        prefill(spliced_embeds(FULL2, 31, 14, 90), [(15, 90)], grid_coords(90, 3), positions=arange(0, 41, 1, 120),
            keep=40), {**FULL2, "coord_norm": "none"}, "full-probe",
        pitfalls="narrow-angles axial-weights stale-cis", tags="probe yardstick wide")
    pre("whole-chunks", "the whole model of 24 layers: chunks of 30, 50 and 18 tokens, points cut between them",
        "a layer too few, or one that uses another's parameters or cache", [
            prefill(states(WHOLE, 30), [(15, 15)], grid_coords(15, 3), keep=1),
            prefill(states(WHOLE, 50), [(0, 50)], grid_coords(50, 3), past=30, keep=1),
            prefill(states(WHOLE, 18), [(0, 4)], grid_coords(4, 3), past=80, keep=1)], WHOLE, "whole",
        pitfalls="empty-cache stale-cis", tags="whole slow")
    pre("trained-like", "two small layers, trained-like, all logits", "layer 0's rotary parameters for both layers",
        prefill(spliced_embeds(SMALL2, 8, 2, 13), [(3, 13)], grid_coords(13, 3)), weights="small",
        pitfalls="stale-cis", tags="yardstick")
    for slug, options, title, why, pitfalls in chosen(
            "interleaved quarter-native three-quarters full-spatial full-temporal fixed-theta-10000 "
            "shared-no-axial-weights no-axial-weights axial norm-none drift-average"):
        cfg = {**SMALL2, **options}
        pre(f"option-{slug}", f"{title}; 9 points of 14 tokens", why,
            prefill(spliced_embeds(SMALL2, 6, 2, 9), [(3, 9)], grid_coords(9, 3), keep=2), cfg, option_weights(cfg),
            pitfalls=pitfalls, tags="options probe")

    def one(**keys):
        return prefill(spliced_embeds(SMALL2, 6, 2, 9), [(3, 9)], grid_coords(9, 3), **keys)

    pre("keep-absent", "logits_to_keep absent: all rows", "the last row only", one(), pitfalls="keep-all-logits",
        tags="options")
    pre("keep-0", "logits_to_keep 0: all rows", "no row, or the last only", one(keep=0), pitfalls="keep-all-logits",
        tags="options")
    pre("keep-1", "logits_to_keep 1: the last row", "the first row", one(keep=1), pitfalls="keep-all-logits",
        tags="options")
    pre("keep-99", "logits_to_keep above q: all rows", "rows before the first", one(keep=99),
        tags="options awkward")
    pre("keep-15", "logits_to_keep 15 of 14 rows: all rows", "a start at -1, which is the last row",
        one(keep=15), pitfalls="keep-all-logits", tags="options awkward")
    pre("untied", "an lm_head, tie_word_embeddings absent: the head counts", "the embeddings are used as head",
        one(keep=3), weights="small-untied", pitfalls="qwen2-details", tags="options probe")
    pre("untied-by-name", "an lm_head and tie_word_embeddings false", "the embeddings are used as head", one(keep=3),
        {**SMALL2, "tie_word_embeddings": False}, "small-untied", pitfalls="qwen2-details", tags="options probe")
    pre("tied-despite-head", "tie_word_embeddings true: the lm_head in the file is not used",
        "the head is used because it is there", one(keep=3), {**SMALL2, "tie_word_embeddings": True},
        "small-untied",
        pitfalls="qwen2-details", tags="options probe")
    pre("flat-parameters", "frequencies flattened in the checkpoint", "flattened bins-major", one(keep=3),
        weights="small-flat", pitfalls="gqa-heads axial-weights", tags="options probe")
    pre("head-dim-apart", "head_dim 64 beside hidden 128 and 4 heads", "hidden/heads taken", one(keep=3),
        {**SMALL2, "head_dim": 64}, "small-head-dim", pitfalls="head-dim", tags="options probe")
    pre("extra-tensors", "tensors in the weights file that nobody needs",
        "a checkpoint with a point encoder is refused", one(keep=3), weights="small-extra", tags="options")
    pre("fixed-with-parameters",
        "learned frequencies in a file although rope_mixed_3d is false: extra tensors like any other",
        "the file's frequencies are used", one(keep=3), {**SMALL2, "rope_mixed_3d": False},
        pitfalls="theta-mixup", tags="options probe")
    pre("text-only", "no points at all", "a missing scan fails", prefill(states(SMALL2, 7), None),
        tags="awkward probe")
    pre("markers-without-points", "N = 0 between markers", "3D on text",
        prefill(spliced_embeds(SMALL2, 6, 2, 0), [(0, 0)], grid_coords(0, 3)),
        tags="awkward probe")
    pre("one-token-prompt", "q = 1 at L = 0, and it is a point", "q = 1 is taken for decode",
        prefill(states(SMALL2, 1), [(0, 1)], grid_coords(1, 3)),
        tags="awkward probe")
    pre("all-points", "nothing but points", "the first token is taken for text",
        prefill(states(SMALL2, 6), [(0, 6)], grid_coords(6, 3)), pitfalls="degenerate", tags="awkward probe")
    pre("identical-coords", "identical coordinates under unit_range", "0/0 reaches the logits",
        prefill(states(SMALL2, 7), [(2, 4)], const(33, 4, 3, dtype="I64"), keep=1),
        {**SMALL2, "coord_norm": "unit_range"},
        pitfalls="drift-norm", tags="awkward probe")
    pre("mask-zeros", "zeros in the mask on text and points", "the mask is ignored because no padding was expected",
        one(mask=runs([(0, 1), (1, 4), (0, 2), (1, 5), (0, 1), (1, 1)])),
        pitfalls="mask-ownership", tags="probe")
    pre("own-positions", "explicit positions, not from 0", "the index is taken", one(positions=arange(100, 7, 1, 14)),
        pitfalls="pairing", tags="options probe")
    pre("batch-of-three", "B = 3 with 9, 8 and 2 points, padded", "sample 0's points for all; padding seen", prefill(
            spliced_embeds(SMALL2, 6, 2, 9, [9, 8, 2], batch=3), [(3, 9), (3, 8), (3, 2)], grid_coords(3, 9, 3),
            [9, 8, 2],
            mask=runs([(1, 14)], [(1, 13), (0, 1)], [(1, 7), (0, 7)])),
        pitfalls="batch", tags="probe awkward")
    pre("batch-left-padded", "B = 2 texts, one left-padded, with positions", "positions counted over padding", prefill(
            states(SMALL2, 7, 2), None, mask=runs([(1, 7)], [(0, 3), (1, 4)]),
            positions=values([2, 7], *range(7), 0, 0, 0, *range(4))), pitfalls="batch mask-overflow",
        tags="probe awkward")
    pre("two-chunks", "9 tokens, then 6 more: points in both",
        "the second chunk starts at position 0, or its points are left unturned", [
            prefill(states(SMALL2, 9), [(3, 6)], grid_coords(6, 3)),
            prefill(states(SMALL2, 6), [(0, 3)], grid_coords(3, 3), past=9)],
        pitfalls="empty-cache decode-rope stale-cis",
        tags="probe")
    pre("chunks-of-one", "four chunks, two of them one token long, one a point", "q = 1 is taken for decode", [
            prefill(states(SMALL2, 3), None), prefill(states(SMALL2, 1), [(0, 1)], grid_coords(1, 3), past=3),
            prefill(states(SMALL2, 1), None, past=4),
            prefill(states(SMALL2, 4), [(1, 2)], grid_coords(2, 3), past=5)], {**SMALL2, "coord_norm": "none"},
        pitfalls="empty-cache", tags="probe awkward")
    pre("chunk-with-mask-zeros", "zeros in the first chunk's mask stay in the second's",
        "the mask of the chunk alone is used", [
            prefill(states(SMALL2, 6), None, mask=runs([(0, 2), (1, 4)])),
            prefill(states(SMALL2, 4), [(1, 2)], grid_coords(2, 3), past=6, mask=runs([(0, 2), (1, 7), (0, 1)]))],
        pitfalls="mask-ownership empty-cache", tags="probe")
    pre("two-sessions", "two sessions side by side, other points in each",
        "the cache or tables of the other session are used", [
            prefill(states(SMALL2, 7), [(2, 4)], grid_coords(4, 3)),
            prefill(states(SMALL2, 7), [(2, 4)], grid_coords(4, 3), name="b"),
            prefill(states(SMALL2, 3), None, past=7), prefill(states(SMALL2, 3), None, past=7, name="b")],
        pitfalls="stale-cis order-sensitivity cache-rotation", tags="probe")

    good = one()

    def bad(name, title, why, steps, message, cfg=None, weights="small-probe", **keys):
        steps = steps if isinstance(steps, list) else [steps]
        steps = [*steps[:-1], {**steps[-1], "expect": "error", "message": message}]
        session(f"prefill/refuse-{name}", title, why, steps, cfg or SMALL2, weights=weights, tags="error", **keys)

    bad("restart", "a second prefill with a mask of its own length only", "the session starts again in silence",
        [good, good], ["14", "28"], pitfalls="mask-length")
    bad("no-mask", "attention_mask is missing", "ones are taken",
        {**good, "inputs": without(good["inputs"], "attention_mask")}, ["attention_mask"])
    bad("text-mask", "the text-only mask of 6 at a prefill of 14", "the mask is repaired at prefill",
        one(mask=ones(1, 6)), ["6", "14"], pitfalls="mask-length")
    bad("count", "8 coordinate rows for 9 points", "a row is used twice",
        prefill(states(SMALL2, 14), [(3, 9)], grid_coords(8, 3)), ["8", "9"], pitfalls="coords-count")
    bad("n3-for-two", "[N,3] with B = 2", "sample 0's coordinates for all",
        prefill(states(SMALL2, 9, 2), [(3, 4), (3, 4)], grid_coords(4, 3)), ["point_coords", "2"], pitfalls="batch")
    bad("keep-negative", "logits_to_keep -1", "all but the first row", one(keep=-1), ["logits_to_keep", "-1"],
        pitfalls="keep-all-logits")
    bad("no-session", "no session named", "one session for all", step("prefill", good["inputs"]), ["session"])
    bad("batch-changes", "a second chunk with B = 2", "rows of the cache are broadcast",
        [prefill(states(SMALL2, 5), None), prefill(states(SMALL2, 2, 2), None, past=5)], ["1", "2"],
        pitfalls="batch")
    bad("other-weights", "a second chunk with another weights file", "the model changes under the cache",
        [prefill(states(SMALL2, 5), None), prefill(states(SMALL2, 2), None, past=5, weights="small")], ["weights"])
    bad("other-config", "a second chunk with another rope_theta", "positions of one cache by two tables",
        [prefill(states(SMALL2, 5), None), prefill(states(SMALL2, 2), None, past=5,
                config={**SMALL2, "rope_theta": 10000})],
        ["rope_theta"])
    bad("hidden-size", "embeddings of 96 where hidden_size is 128", "the tensor's size is believed",
        prefill(normal(1, 5, 96), None), ["inputs_embeds", "96", "128"])
    bad("three-layers", "num_hidden_layers 3 with two layers in the file", "a layer of zeros", good,
        ["model.layers.2."], {**SMALL2, "num_hidden_layers": 3})
    bad("vocabulary", "vocab_size 132 with 131 rows in the file", "a row is read past the end", good, ["132", "131"],
        {**SMALL2, "vocab_size": 132})
    bad("no-head", "tie_word_embeddings false without lm_head.weight", "the embeddings stand in", good,
        ["lm_head.weight"], {**SMALL2, "tie_word_embeddings": False})
    bad("nan", "a NaN in the embeddings", "a bad encoder is passed on",
        prefill(poked(states(SMALL2, 5), _9="nan"), None), ["inputs_embeds"])


def decode_cases():
    def dec(name, title, why, steps, cfg=None, weights="small-probe", **keys):
        session(f"decode/{name}", title, why, steps, cfg or SMALL2, weights=weights, **keys)

    coords = scene("coords", N, 3)
    dec("canonical-231",
        "231 text tokens, 556 points, then 8 greedy steps with the caller's text-only mask: 232 where 787 stand",
        "the mask unrepaired; 3D or position 231 on the new token",
        [prefill(spliced_embeds(FULL2, T, MARK, N), [(MARK + 1, N)], coords, keep=1), *greedy(8, T)], FULL2, "full",
        pitfalls="mask-length decode-rope coords-count gqa-heads cache-rotation",
        tags="canonical greedy yardstick slow")
    dec("canonical-221", "221 text tokens, 776 after the splice, an untied head, 8 greedy steps without a mask",
        "the new token turned as if the prompt had begun with it; the head taken from the embedding", [
            prefill(spliced_embeds(FULL2, 221, 14, N), [(15, N)], coords, keep=1), *greedy(8)], FULL2, "full-untied",
        pitfalls="decode-rope", tags="canonical greedy yardstick slow")
    for length, mark, prompt in ((231, 24, "qwen25/all"), (221, 14, "helpful/all")):
        dec(f"prompt-{length}",
            f"the real prompt {prompt} on a vocabulary of 151,936, 8 greedy steps with the text-only mask",
            "generated ids reach only a small vocabulary", [
                prefill(spliced_embeds(QWEN2, length, mark, N, prompt=prompt), [(mark + 1, N)], coords, keep=1),
                *greedy(8, length)], QWEN2, "qwen-two-layers",
            pitfalls="mask-length decode-rope", tags="canonical greedy data slow")
    for length, mark, n_points, points_of in (
            (T, MARK, N, coords), (116, 14, 278, grid_coords(278, 3)), (30, 14, 69, grid_coords(69, 3))):
        dec(f"whole-{length}",
            f"the whole model, 24 layers and a vocabulary of 151,936: {length} text tokens and {n_points} points, "
            f"{length - 1 + n_points} after the splice, and 16 greedy tokens",
            "a mistake that two layers hide: a layer too few, a parameter of another layer, errors that grow with depth", [
                prefill(spliced_embeds(WHOLE, length, mark, n_points), [(mark + 1, n_points)], points_of, keep=1),
                *greedy(15, length)], WHOLE, "whole",
            pitfalls="mask-length decode-rope stale-cis", tags="whole greedy yardstick slow")
    dec("full-width-chunks",
        "full width: chunks of 40, 50 and 30 tokens, points cut between them, then q = 3 and q = 1",
        "a chunk is taken for prefill or for decode", [
            prefill(states(FULL2, 40), [(15, 25)], grid_coords(25, 3), keep=1),
            prefill(states(FULL2, 50), [(0, 50)], grid_coords(50, 3), past=40, keep=1),
            prefill(states(FULL2, 30), [(0, 15)], grid_coords(15, 3), past=90, keep=1),
            decode(ints(0, 2039, 1, 3), ones(1, 34)), decode(ints(0, 2039, 1, 1), ones(1, 35))], FULL2, "full-probe",
        pitfalls="empty-cache mask-length decode-rope stale-cis", tags="probe yardstick wide")
    spliced = {"decode_mask": "spliced"}
    padded = dict(spans=[(3, 3), (3, 1)], counts=[3, 1], mask=runs([(1, 9)], [(1, 7), (0, 2)]))
    dec("full-width-batch", "full width, B = 2 with 3 and 1 points, decode_mask spliced, q = 1 and q = 3",
        "padding of the shorter sample becomes visible", [
            prefill(spliced_embeds(FULL2, 7, 2, 3, [3, 1], batch=2), coords=grid_coords(2, 3, 3), keep=2, **padded),
            decode(ints(0, 2039, 2, 1), ones(2, 8)),
            decode(ints(0, 2039, 2, 3), ones(2, 11))], {**FULL2, **spliced}, "full-probe",
        pitfalls="batch mask-length decode-rope", tags="probe yardstick wide")

    def start(**keys):
        return prefill(spliced_embeds(SMALL2, 6, 2, 9), [(3, 9)], grid_coords(9, 3), keep=1, **keys)

    dec("greedy", "four greedy steps with the text-only mask", "mask, position or rotation of a decode step",
        [start(), *greedy(4, 6)], pitfalls="mask-length decode-rope", tags="greedy probe yardstick")
    dec("greedy-trained-like", "the same with huge keys", "rotation of a decode step", [start(), *greedy(4, 6)],
        weights="small", pitfalls="decode-rope", tags="greedy yardstick")
    dec("greedy-untied", "four greedy steps with an untied head, no mask", "the embeddings are used as head",
        [start(), *greedy(4)], weights="small-untied", pitfalls="qwen2-details", tags="greedy probe")
    dec("text-only", "no points: the mask is as long as the keys",
        "3D on text; a mask that needs no repair is repaired", [
            prefill(states(SMALL2, 7), None, keep=1), decode(ints(0, 127, 1, 1), ones(1, 8)),
            decode(ints(0, 127, 1, 1), ones(1, 9))], pitfalls="decode-rope", tags="probe")
    dec("mask-zeros-before", "zeros before the splice point in the caller's mask",
        "ones in front of the mask move its zeros", [
            start(mask=runs([(0, 2), (1, 12)])), decode(ints(0, 127, 1, 1), runs([(0, 2), (1, 5)])),
            decode(ints(0, 127, 1, 1), runs([(0, 2), (1, 6)]))], pitfalls="mask-length mask-ownership", tags="probe")
    dec("mask-zeros-behind", "a zero behind the splice point under pad_end: it hides the key at its own index",
        "the mask is spliced once more", [
            start(), decode(ints(0, 127, 1, 1), runs([(1, 4), (0, 1), (1, 2)]))], pitfalls="mask-length",
        tags="probe options")
    dec("mask-full-length", "a mask of L + q entries with zeros on points",
        "a full mask is extended, or replaced by ones", [
            start(), decode(ints(0, 127, 1, 1), runs([(1, 5), (0, 4), (1, 6)]))], pitfalls="mask-ownership",
        tags="probe")
    dec("three-tokens", "q = 3 with the text-only mask, then q = 2 without one",
        "causality among new tokens; position of a chunk", [
            start(), decode(ints(0, 127, 1, 3), ones(1, 9)), decode(ints(0, 127, 1, 2))],
        pitfalls="empty-cache mask-ownership decode-rope", tags="probe")
    dec("batch", "B = 2 with equal N, pad_end", "sample 0 for all", [
            prefill(spliced_embeds(SMALL2, 6, 2, 5, batch=2), [(3, 5), (3, 5)], grid_coords(2, 5, 3), keep=1),
            decode(ints(0, 127, 2, 1), ones(2, 7)), decode(ints(0, 127, 2, 2), ones(2, 9))],
        pitfalls="batch mask-length", tags="probe")
    dec("batch-spliced", "B = 2 with 3 and 1 points, decode_mask spliced", "padding keys become visible at decode", [
            prefill(spliced_embeds(SMALL2, 7, 2, 3, [3, 1], batch=2), coords=grid_coords(2, 3, 3), **padded),
            decode(ints(0, 127, 2, 1), ones(2, 8)), decode(ints(0, 127, 2, 1), ones(2, 9))],
        {**SMALL2, **spliced}, pitfalls="batch mask-length", tags="probe options")
    dec("spliced-no-mask", "decode_mask spliced, the caller gives no mask: zeros of the prefill mask stay",
        "no mask taken for all keys present", [
            start(mask=runs([(1, 4), (0, 3), (1, 7)])), decode(ints(0, 127, 1, 1)), decode(ints(0, 127, 1, 2))],
        {**SMALL2, **spliced}, pitfalls="mask-length mask-ownership", tags="probe options")
    dec("own-positions", "positions of the prefill from 100 on; decode positions are the cache slots",
        "decode goes on from the last position", [
            start(positions=arange(100, 1, 1, 14)), decode(ints(0, 127, 1, 1)), decode(ints(0, 127, 1, 1))],
        pitfalls="decode-rope", tags="probe options")
    dec("one-token-prompt", "a prompt of one point, then two steps", "q = 1 is taken for decode", [
            prefill(states(SMALL2, 1), [(0, 1)], grid_coords(1, 3)), decode(ints(0, 127, 1, 1), ones(1, 2)),
            decode(ints(0, 127, 1, 1), ones(1, 3))], pitfalls="empty-cache degenerate", tags="probe awkward")
    dec("points-after-decode", "a chunk with points after a decode step, then another step",
        "points are turned at L = 0 only; the old point mask is used again", [
            start(), decode(ints(0, 127, 1, 1), ones(1, 7)), prefill(states(SMALL2, 5), [(1, 3)], grid_coords(3, 3),
                past=15, keep=1), decode(ints(0, 127, 1, 1))],
        pitfalls="decode-rope empty-cache stale-cis", tags="probe awkward")
    dec("two-sessions", "two sessions with other points, steps in turn, one dropped", "caches or tables exchanged", [
            start(), start(name="b"), decode(ints(0, 127, 1, 1), ones(1, 7)),
            decode(ints(0, 127, 1, 1), ones(1, 7), "b"),
            drop(), decode(ints(0, 127, 1, 1), ones(1, 8), "b")],
        pitfalls="stale-cis order-sensitivity", tags="probe")
    dec("position-300", "a prefill of 300 tokens, then one step", "positions in bf16 are equal beyond 256", [
            prefill(states(SMALL2, 300), [(3, 90)], grid_coords(90, 3), keep=1),
            decode(ints(0, 127, 1, 1), ones(1, 211))],
        pitfalls="narrow-angles decode-rope", tags="probe")
    for slug, options, title, why, pitfalls in chosen(
            "interleaved quarter-interleaved-native full-spatial fixed axial norm-resolution-average drift-pointwise"):
        cfg = {**SMALL2, **options}
        dec(f"option-{slug}", f"{title}, then two steps", why,
            [start(), decode(ints(0, 127, 1, 1), ones(1, 7)), decode(ints(0, 127, 1, 1), ones(1, 8))], cfg,
            option_weights(cfg),
            pitfalls=pitfalls + " decode-rope", tags="options probe")

    def bad(slug, title, why, steps, message, cfg=None, **keys):
        steps = [*steps[:-1], {**steps[-1], "expect": "error", "message": message}]
        session(f"decode/refuse-{slug}", title, why, steps, cfg or SMALL2, weights="small-probe", tags="error", **keys)

    text = prefill(states(SMALL2, 5), None)
    token = ints(0, 127, 1, 1)
    bad("16-of-15", "a mask of 16 where 15 keys stand", "an over-long mask is cut",
        [start(), decode(token, ones(1, 16))], ["16", "15"], pitfalls="mask-length")
    bad("mask-value", "a mask value of 7", "any non-zero counts as visible",
        [text, decode(token, poked(ones(1, 6), _2=7))], ["attention_mask", "7"])
    bad("unknown-session", "a session that was never opened", "an empty cache is taken", [decode(token, name="nobody")],
        ["nobody"])
    bad("vocabulary", "token 131 of a vocabulary of 131", "a row behind the table", [text, decode(values([1, 1], 131))],
        ["131"])
    bad("negative-token", "token -1", "the last row of the table", [text, decode(values([1, 1], -1))], ["-1"])
    bad("batch", "two rows of ids for a session of one", "the cache is broadcast", [text, decode(ints(0, 127, 2, 1))],
        ["2", "1"], pitfalls="batch")
    bad("point-tensors", "point tensors at a decode step", "the stale point mask is used again", [
            text, step("decode", {"input_ids": token, **points(1, [(0, 1)], grid_coords(1, 3))}, {"session": "a"})],
        ["point_"])
    bad("other-config", "a configuration with another value than the session's", "the option is ignored",
        [text, decode(token, config={"decode_mask": "spliced"})], ["decode_mask"])
    bad("no-ids", "input_ids is missing", "token 0 is taken", [text, step("decode", {}, {"session": "a"})],
        ["input_ids"])
    bad("dropped-session", "a session that was dropped", "a freed cache is used",
        [text, drop(), decode(token, name="a")], ["a"])
    refused = {"expect": "error"}
    dec("refused-changes-nothing", "refused requests between two steps leave the session as it was",
        "a refused request has already grown the cache", [
            start(), decode(token, ones(1, 16), message=["16", "15"], **refused),
            start(message=["14", "28"], **refused),
            decode(values([1, 1], 131), message=["131"], **refused),
            decode(token, ones(1, 7))], pitfalls="order-sensitivity mask-length", tags="probe error")
    dec("refused-opens-nothing", "a refused prefill opens no session; the next one on its name is the first",
        "a half-open session remains", [
            prefill(states(SMALL2, 14), [(3, 9)], grid_coords(8, 3), message=["8", "9"], **refused),
            decode(token, message=["a"], **refused), start(), decode(token, ones(1, 7))],
        pitfalls="order-sensitivity coords-count", tags="probe error")

    session("drop-session/reopen", "a session is dropped and its name used again with other points",
        "the old cache is still there", [
            start(), drop(), start(), decode(token, ones(1, 7))], SMALL2, "stale-cis order-sensitivity", "probe",
        "small-probe")
    session("drop-session/refuse-unknown", "a session that was never opened is dropped", "a misspelt name goes unseen",
        [drop("nobody", message=["nobody"], **refused)], SMALL2, tags="error")
    session("drop-session/refuse-twice", "a session is dropped twice", "freed twice",
        [text, drop(), drop(message=["a"], **refused)], SMALL2, tags="error", weights="small-probe")


# L5: point encoders.

def encoder(base, hidden=24, num_bins=64, projector="linear", **point):
    """An encoder's configuration: `base` with changes of its point_config."""
    return {**base, "point_config": {**base["point_config"], **point}, "projector": projector, "hidden_size": hidden,
            "num_bins": num_bins}


# Groups of 1, 2 and 3 channels; three channels a head and four; each stage has tokens enough for several patches.
SMALL_SCENESCRIPT = {**encoder(SCENESCRIPT, embed_channels=48, conv_layers=[4, 16, 24]), "downsamplings": 2}
SMALL_SONATA = {**encoder(SONATA, projector="mlp", stride=[2, 2], enc_depths=[2, 3, 2], enc_channels=[8, 12, 16],
                          enc_num_head=[2, 3, 4], enc_patch_size=[32, 16, 16], mlp_ratio=2), "downsamplings": 2}
DEEP_SCENESCRIPT = {**encoder(SCENESCRIPT, num_bins=1280, embed_channels=16, conv_layers=[4, 4, 8, 8, 8]), "downsamplings": 4}
DEEP_SONATA = {**encoder(SONATA, num_bins=1280, enc_depths=[1, 1, 1, 2, 1], enc_channels=[4, 4, 8, 8, 8],
                         enc_num_head=[1, 2, 2, 4, 2], enc_patch_size=[64, 48, 32, 24, 16]), "downsamplings": 4}
ONE_BLOCK_SONATA = {**encoder(SONATA, stride=[], enc_depths=[2], enc_channels=[8], enc_num_head=[2], enc_patch_size=[24]),
                    "downsamplings": 0}


# The public widths, heads and patches; of Sonata one block a stage, whose 18 million parameters are a sixth of the public ones.
PUBLIC_SCENESCRIPT = encoder(SCENESCRIPT, 896, 1280)
PUBLIC_SONATA = encoder(SONATA, 896, 1280, "mlp", enc_depths=[1, 1, 1, 1, 1])


def encoder_set(name, cfg):
    """A weight set that serves both projectors."""
    WEIGHTS[name] = {**encoder_weights({**cfg, "projector": "linear"}), **encoder_weights({**cfg, "projector": "mlp"})}


def occupied(size, count=None, first=0):
    """About a quarter of the cells of a grid of size³, in a pattern without symmetry; at most `count`, indices from `first`."""
    cells = [(x, y, z) for x in range(size) for y in range(size) for z in range(size)
             if (x * 73 + y * 151 + z * 283 + 7 * x * y + 5 * y * z + 3 * x * x * z) % 101 < 25]
    return [(x + first, y + first, z + first) for x, y, z in cells[:count]]


def grid_of(*cells):
    cells = sorted(set(cells))
    return values([len(cells), 3], *[index for cell in cells for index in cell])


def encode_cases():
    encoder_set("scenescript-small", SMALL_SCENESCRIPT)
    encoder_set("scenescript-deep", DEEP_SCENESCRIPT)
    encoder_set("sonata-small", SMALL_SONATA)
    encoder_set("sonata-deep", DEEP_SONATA)
    encoder_set("sonata-one-stage", ONE_BLOCK_SONATA)
    sizes = {"scenescript": ("scenescript-small", SMALL_SCENESCRIPT), "sonata": ("sonata-small", SMALL_SONATA)}
    deep = {"scenescript": ("scenescript-deep", DEEP_SCENESCRIPT), "sonata": ("sonata-deep", DEEP_SONATA)}
    both = ("scenescript", "sonata")

    def cloud(grid, channels=6, **keys):
        return {"grid": grid, "features": uniform(-1, 1, grid["shape"][0], channels, **keys)}

    def enc(name, title, why, inputs, which, pitfalls="", tags="", **options):
        weights, cfg = which
        session(f"encode-points/{name}", title, why, [step("encode_points", inputs)], {**cfg, **options}, pitfalls, tags, weights)

    everything = {"scenescript": "token-rows sparse-conv group-norm fourier-features",
                  "sonata": "token-rows sparse-conv group-norm patches grid-pooling fourier-features encoder-gelu"}
    room = grid_of(*occupied(9))  # 186 cells
    for backbone in both:
        small = sizes[backbone]
        enc(backbone, "everything on: several channels a group, three pools, two orders, many patches",
            "a wrong layer anywhere in the network", cloud(room), small, everything[backbone], "canonical")
        other = "mlp" if backbone == "scenescript" else "linear"
        enc(f"{backbone}-{other}", f"the projector is {other}", "the projector's GELU missing, or one too many", cloud(room), small,
            "encoder-gelu" if other == "mlp" else "patches grid-pooling", "options", projector=other)
        enc(f"{backbone}-even-maximum", "the largest index is even on each axis, at every stage",
            "a library's strided convolution loses the last slab",
            cloud(grid_of(*occupied(6, 40), (8, 1, 2), (3, 8, 4), (2, 5, 8), (8, 8, 8))), small, "sparse-conv dirty-scan", "awkward")
        enc(f"{backbone}-odd-maximum", "the largest index is odd on each axis, at every stage", "an empty slab is added",
            cloud(grid_of(*occupied(6, 40), (7, 1, 2), (3, 7, 4), (2, 5, 7), (7, 7, 7))), small, "sparse-conv dirty-scan", "awkward")
        enc(f"{backbone}-last-cell", "cells in all corners of the grid of 64 bins", "neighbours beyond the grid wrap around",
            cloud(grid_of(*[(x, y, z) for x in (0, 1, 62, 63) for y in (0, 63) for z in (0, 62, 63)])), small,
            "sparse-conv fourier-features dirty-scan", "awkward")
        enc(f"{backbone}-one-cell", "a single cell", "a variance of one value; a patch of one; an empty range",
            cloud(grid_of((5, 6, 7))), small, "degenerate fourier-features", "awkward")
        enc(f"{backbone}-all-into-one", "64 cells that become one token", "a token a stage too early; mean for maximum",
            cloud(grid_of(*[(x + 4, y + 8, z + 12) for x in range(4) for y in range(4) for z in range(4)])), small,
            "degenerate token-rows" + " grid-pooling" * (backbone == "sonata"), "awkward")
        enc(f"{backbone}-isolated", "cells without neighbours that never meet", "neighbours by row instead of by place",
            cloud(grid_of(*[(4 * x, 4 * y, 4 * z) for x, y, z in occupied(4)])), small, "degenerate token-rows", "awkward")
        for axis, letter in enumerate("xyz"):
            enc(f"{backbone}-line-{letter}", f"fifteen cells along {letter}", "axes of a kernel or of the coordinates exchanged",
                cloud(grid_of(*[tuple(n if a == axis else 3 for a in range(3)) for n in range(15)])), small,
                "degenerate sparse-conv token-rows", "awkward")
        enc(f"{backbone}-tiny", "features of 1e-3", "eps of a norm", cloud(room, scale=0.001), small, "group-norm", "tiny")
        enc(f"{backbone}-wide-range", "features from -30 to 60", "a variance by the mean of squares", cloud(room, scale=45, shift=15),
            small, "group-norm", "awkward")
        enc(f"{backbone}-reduced-grid-size", "reduced_grid_size 40", "the grid of the positional features is compiled in", cloud(room),
            small, "fourier-features", "options", reduced_grid_size=40)
        first, second = cloud(room), cloud(grid_of(*[(z, y, x) for x, y, z in occupied(9)]))
        session(f"encode-points/{backbone}-three-scans", "two scans of as many cells in turn, the first once more",
                "tables of the previous scan", [step("encode_points", inputs) for inputs in (first, second, first)], small[1],
                "sparse-conv stale-cis" + " order-sensitivity" * (backbone == "sonata"), "awkward", small[0])
        enc(f"{backbone}-deep", "four halvings, 1280 bins, cells from 1216 on", "narrow indices; codes cut at 16 bits",
            cloud(grid_of(*[(7 * x % 64 + 1216, 9 * y % 64 + 1216, 5 * z % 64 + 1216) for x, y, z in occupied(9)])), deep[backbone],
            "narrow-angles token-rows", "awkward")
        enc(f"{backbone}-scene", "the canonical scene: 68,442 cells become 556 tokens",
            "tokens in another order than their coordinates; raw rows for tokens",
            {"grid": scene("grid", *SCENE_GRID), "features": scene("features", SCENE_GRID[0], 6)}, deep[backbone],
            "coords-count token-rows", "canonical slow")

    wall = grid_of(*[(x, y, (3 * x + 5 * y) % 11) for x in range(52) for y in range(25)])  # 1300 cells, 8 tokens
    for backbone, cfg in (("scenescript", PUBLIC_SCENESCRIPT), ("sonata", PUBLIC_SONATA)):
        WEIGHTS[f"{backbone}-public-widths"] = encoder_weights(cfg)
        enc(f"{backbone}-public-widths", "the public encoder's widths, and more cells than a patch holds" if backbone == "sonata" else "the public encoder's widths",
            "blocks of a kernel that small widths never fill; sums of thousands of terms", cloud(wall), (f"{backbone}-public-widths", cfg),
            "sparse-conv group-norm" if backbone == "scenescript" else "patches grid-pooling", "wide slow")

    sonata = sizes["sonata"]
    enc("sonata-scene-norm", "coordinates scaled by the scene, which is flat in z", "the grid's scale; a division by 0",
        cloud(grid_of(*[(x + 9, y + 20, 7) for x, y, _ in occupied(9)])), sonata, "fourier-features", "options",
        sonata_coord_norm="scene")
    enc("sonata-scene-norm-narrow", "scaled by the scene, two tokens wide in x", "max - min + 1 or an eps for max(max - min, 1)",
        cloud(grid_of(*[(x % 8, y, z) for x, y, z in occupied(9)])), sonata, "fourier-features", "options", sonata_coord_norm="scene")
    for name, order in (("z", ["z"]), ("z-trans", ["z-trans"]), ("trans-first", ["z-trans", "z"])):
        cfg = encoder(sonata[1], 24, 64, "mlp", order=order)
        enc(f"sonata-order-{name}", f"order {order}", "orders are compiled in", cloud(room), (sonata[0], cfg), "patches", "options")
    one = ("sonata-one-stage", ONE_BLOCK_SONATA)
    for count, title in ((23, "one token less than a patch"), (24, "exactly one patch"), (25, "a last run of one token"),
                         (48, "exactly two patches"), (47, "a last run with one filler"), (65, "three runs, the last with fillers")):
        enc(f"sonata-patches-{count}", f"{count} tokens, patches of 24: {title}",
            "fillers from the wrong place, masked, or their outputs kept", cloud(grid_of(*occupied(9, count))), one, "patches",
            "awkward")
    enc("sonata-patch-of-one", "patches of one token", "attention leaves its patch", cloud(room),
        (sonata[0], encoder(sonata[1], 24, 64, "mlp", enc_patch_size=[1, 1, 1])), "patches", "options awkward")

    # Refused.
    inputs, weights = cloud(room), {backbone: sizes[backbone][0] for backbone in both}

    def wrong(name, title, why, message, inputs=inputs, backbone="sonata", cfg=None, weights=None, **keys):
        which, base = sizes[backbone]
        refuse(f"encode-points/refuse-{name}", title, why, inputs, base if cfg is None else cfg, message=message,
               weights=which if weights is None else weights, **keys)

    cells = [(0, 0, 1), (0, 2, 0), (0, 2, 3), (5, 1, 1), (6, 0, 0)]

    def rows(*cells):
        return cloud(values([len(cells), 3], *[index for cell in cells for index in cell]))

    for backbone in both:
        wrong(f"{backbone}-unsorted", "cells that are not in order", "features of one cell meet coordinates of another", ["grid"],
              rows(*cells[:2], cells[3], cells[2], cells[4]), backbone, pitfalls="token-rows")
        wrong(f"{backbone}-z-first", "cells sorted by z first", "another order of the axes is taken for the right one", ["grid"],
              rows(*sorted(cells, key=lambda cell: cell[::-1])), backbone, pitfalls="token-rows")
        wrong(f"{backbone}-duplicate", "a cell given twice", "a cell counts twice in a norm or in attention", ["grid"],
              rows(*cells[:3], *cells[2:]), backbone, pitfalls="dirty-scan")
        wrong(f"{backbone}-negative", "an index of -1", "a neighbour table that wraps", ["grid", "-1"],
              rows((-1, 0, 0), *cells), backbone, pitfalls="dirty-scan")
        wrong(f"{backbone}-too-large", "an index of 64 in a grid of 64 bins", "a coordinate above 1", ["grid", "64", "63"],
              rows(*cells, (64, 0, 0)), backbone, pitfalls="dirty-scan")
        wrong(f"{backbone}-no-cells", "an empty grid", "an empty scene has no tokens", ["grid"], rows(), backbone, pitfalls="dirty-scan")
        wrong(f"{backbone}-rows", "features of one row less than the grid", "the last cell is dropped, or read beyond", ["features"],
              {**inputs, "features": uniform(-1, 1, room["shape"][0] - 1, 6)}, backbone, pitfalls="coords-count")
        wrong(f"{backbone}-channels", "features of three channels for six", "colours are made up", ["features", "3", "6"],
              cloud(room, 3), backbone)
        wrong(f"{backbone}-nan", "NaN among the features", "NaN spreads to every token of the scene", ["features"],
              {**inputs, "features": poked(inputs["features"], _7="nan")}, backbone)
        wrong(f"{backbone}-missing", "the other encoder's weights", "missing tensors are taken as zeros",
              ["point_backbone."], inputs, backbone,
              weights=weights["sonata" if backbone == "scenescript" else "scenescript"])
    wrong("type", "cells in F32", "indices in a type that cannot hold them all", ["grid", "F32", "I64"],
          {**inputs, "grid": uniform(0, 9, *room["shape"], dtype="F32")})
    wrong("no-weights", "no weights", "weights are made up", ["weights"], weights="")
    wrong("hidden-size", "the projector has 24 outputs, the configuration says 32", "a shape is not checked",
          ["point_proj", "24", "32"], cfg={**SMALL_SONATA, "hidden_size": 32})
    wrong("kernel-shape", "conv_layers of 16 channels first, the file has 4", "a shape is not checked",
          ["point_backbone.sparse_resnet.stem.0.0.kernel", "[343,6,4]", "[343,6,16]"], backbone="scenescript",
          cfg=encoder(SMALL_SCENESCRIPT, conv_layers=[16, 16, 24]))
    for name, title, why, message, change in (
            ("shuffle", "shuffle_orders true", "the result is random", ["shuffle_orders"], {"shuffle_orders": True}),
            ("qk-scale", "qk_scale 0.5", "scores are divided by sqrt(C/heads) all the same", ["qk_scale", "0.5"], {"qk_scale": 0.5}),
            ("rpe", "enable_rpe true", "a bias of attention is left out", ["enable_rpe"], {"enable_rpe": True}),
            ("order", "order hilbert", "an unknown order means z", ["order", "hilbert"], {"order": ["z", "hilbert"]}),
            ("heads", "five heads for 12 channels", "channels are dropped", ["12", "5"], {"enc_num_head": [2, 5, 4]}),
            ("stages", "three depths and four widths", "a stage is dropped", ["enc_channels"], {"enc_channels": [8, 12, 16, 16]}),
            ("patch-size", "patches of 0 tokens", "a division by zero", ["enc_patch_size"], {"enc_patch_size": [32, 0, 16]})):
        wrong(name, title, why, message, cfg=encoder(SMALL_SONATA, 24, 64, "mlp", **change))
    for name, title, why, message, change in (
            ("backbone", "point_backbone ptv3", "an unknown encoder means the default", ["point_backbone", "ptv3"],
                {"point_backbone": "ptv3"}),
            ("projector", "projector conv", "an unknown projector means the default", ["projector", "conv"], {"projector": "conv"}),
            ("coord-norm", "sonata_coord_norm none", "an unknown value means the default", ["sonata_coord_norm", "none"],
                {"sonata_coord_norm": "none"}),
            ("grid-of-one", "reduced_grid_size 1", "a division by zero", ["reduced_grid_size"], {"reduced_grid_size": 1})):
        wrong(name, title, why, message, cfg={**SMALL_SONATA, **change})
    wrong("groups", "a norm of 12 channels in 8 groups", "channels are dropped", ["12", "8"], backbone="scenescript",
          cfg=encoder(SMALL_SCENESCRIPT, conv_layers=[12, 16, 24]))


# The file.

def all_cases():
    CASES.clear()
    WEIGHTS.clear()
    weight_sets()
    for write in (splice_cases, mask_cases, rope1d_cases, cis3d_cases, rope3d_cases, normalize_coords_cases,
            mixed_rope_cases, rmsnorm_cases, linear_cases, swiglu_cases,
                  attention_cases, layer_cases, scan_cases, prefill_cases, decode_cases, encode_cases):
        write()
    seen = set()
    for entry in CASES:
        assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)+", entry["id"]), entry["id"]
        assert entry["id"] not in seen, f"{entry['id']} appears twice"
        assert set(entry["pitfalls"]) <= set(PITFALLS), f"{entry['id']}: {entry['pitfalls']}"
        assert entry["title"] and entry["why"], entry["id"]
        seen.add(entry["id"])


def text():
    """cases.json: one line for a case's head, one for each tensor."""
    def line(value):
        return json.dumps(value, ensure_ascii=False)

    def members(mapping, indent, end):
        body = ",\n".join(f"{indent}{line(key)}: {line(value)}" for key, value in mapping.items())
        return "{\n" + body + end if mapping else "{" + end

    sets = ",\n".join(f" {line(name)}: {members(tensors, '  ', '}')}" for name, tensors in WEIGHTS.items())
    cases = []
    for entry in CASES:
        head = ",\n ".join(f"{line(key)}: {line(entry[key])}" for key in entry if key != "steps")
        steps = ",\n".join("  " + line({key: one[key] for key in one if key != "inputs"})[:-1] + ', "inputs": '
                           + members(one["inputs"], "   ", "}}")
                           for one in entry["steps"])
        cases.append("{" + head + ",\n \"steps\": [\n" + steps + "]}")
    return '{"format": 1,\n"weights": {\n' + sets + '},\n"cases": [\n' + ",\n".join(cases) + "]}\n"


def main():
    parser = argparse.ArgumentParser(description="Writes golden/cases.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed file differs")
    check = parser.parse_args().check
    all_cases()
    content = text()
    if not check:
        OUTPUT.write_text(content)
        print(f"{OUTPUT}: {len(CASES)} cases, {len(WEIGHTS)} weight sets, {len(content)} bytes")
    elif not OUTPUT.exists() or OUTPUT.read_text() != content:
        print(f"{OUTPUT} is not what golden/cases.py writes; run python golden/cases.py and commit the result",
            file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
