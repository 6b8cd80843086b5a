"""Answers the protocol's requests with the PyTorch model, and refuses what the protocol says must be refused.

Layers and the decoder run through the modules of `modeling.py`, that is through the library's classes; single operators
through `operators.py`, which those modules call too; point encoders through `encoders.py`.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import DynamicCache

from . import encoders, operators
from .configuration import CHECKERS, MixedRope3DConfig, Options, check, head_split, shown
from .errors import Refused, Unsupported
from .modeling import (
    MixedRope3DAttention,
    MixedRope3DDecoderLayer,
    MixedRope3DForCausalLM,
    MixedRope3DRotaryEmbedding,
    build,
    check_rotary_parameters,
    rotary_names,
    wide_type,
)
from .operators import Points, gather_points
from .request import Request, type_name

__all__ = ["OPS", "Refused", "Server", "Unsupported"]

OPS = ("splice", "mask", "rope1d", "cis3d", "rope3d", "normalize_coords", "mixed_rope", "rmsnorm", "linear", "swiglu",
       "attention", "attention_block", "decoder_layer", "prefill", "decode", "drop_session", "voxelize", "token_coords",
       "encode_points")

# Shapes below `model.layers.N.`; C hidden, I intermediate, HD and GD all heads' dimensions together.
ATTENTION_TENSORS = {
    "self_attn.q_proj.weight": "HD C", "self_attn.q_proj.bias": "HD",
    "self_attn.k_proj.weight": "GD C", "self_attn.k_proj.bias": "GD",
    "self_attn.v_proj.weight": "GD C", "self_attn.v_proj.bias": "GD",
    "self_attn.o_proj.weight": "C HD",
}
OTHER_LAYER_TENSORS = {
    "input_layernorm.weight": "C", "post_attention_layernorm.weight": "C",
    "mlp.gate_proj.weight": "I C", "mlp.up_proj.weight": "I C", "mlp.down_proj.weight": "C I",
}
# Whole, and as layer and checkpoint tensors may also come: flattened, head-major.
ROTARY_TENSORS = {
    "freqs_3d_q": ("axes H F", "axes HF"), "axial_weights_3d_q": ("H F 3", "HF 3"),
    "freqs_3d_kv": ("axes G F", "axes GF"), "axial_weights_3d_kv": ("G F 3", "GF 3"),
}
ATTENTION_SIZES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta")
LAYER_SIZES = (*ATTENTION_SIZES, "intermediate_size", "rms_norm_eps")
MODEL_SIZES = (*LAYER_SIZES, "num_hidden_layers", "vocab_size")

MODELS_KEPT = 2
MISSING_NAMED = 6
LARGEST_ANSWER = 4 << 30  # bytes; a frame holds no more


@dataclass
class Session:
    dtype: torch.dtype  # the tier's storage type
    weights: str
    options: Options
    model: MixedRope3DForCausalLM
    cache: DynamicCache
    batch: int

    @property
    def length(self) -> int:
        return self.cache.get_seq_length()


class Server:
    """One arithmetic and its sessions.

    `dtype` is the tier's storage type, which floating inputs must have, and the type computed in. `attention` is
    `eager`, `sdpa` or `eager_prescaled`. Servers that share `sessions` share one table of names, as a backend with
    several tiers must: a name belongs to the tier that opened it.
    """

    def __init__(self, dtype: torch.dtype, true_precision: bool, attention: str = "eager",
                 sessions: dict[str, Session] | None = None):
        self.dtype, self.true_precision, self.attention_kind = dtype, true_precision, attention
        self.wide = wide_type(dtype, true_precision)
        self.sessions = {} if sessions is None else sessions
        self.models: dict[tuple, MixedRope3DForCausalLM | dict[str, Tensor]] = {}

    @torch.no_grad()
    def answer(self, op: str, config: dict, meta: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of one request. Raises Refused, in which case nothing changed, or Unsupported."""
        if op not in OPS:
            raise Unsupported(f'op "{op}" is not implemented here; implemented are {", ".join(OPS)}')
        given = check(config)
        request = Request(op, meta, tensors, self.dtype)
        if op in ("prefill", "decode", "drop_session"):
            return getattr(self, op)(request, given)
        outputs = self.encode_points(request, config) if op == "encode_points" else getattr(self, op)(request, Options(given))
        return {name: tensor.contiguous() for name, tensor in outputs.items()}

    # -- L0 -----------------------------------------------------------------------------------------------------------

    def splice(self, request: Request, options: Options):
        ids = read_ids(request, options, "B T")
        attention_mask = request.mask("attention_mask", "B T")
        counts = request.integers("point_counts", "B", at_least=0)
        labels = request.integers("labels", "B T", optional=True)
        request.finish()
        need_one(request, "B")
        start, end = options.point_start_token_id, options.point_end_token_id
        if start == end:
            raise Refused(f"point_start_token_id and point_end_token_id are both {start}; markers must differ")
        check_answer_size(ids.numel() + int(counts.clamp(max=LARGEST_ANSWER).max()) * len(ids), 8)
        spliced = operators.splice(ids, attention_mask, counts.tolist(), start, end, labels)
        outputs = {"source": spliced.source, "attention_mask": spliced.attention_mask,
                   "point_token_mask": spliced.point_token_mask}
        return outputs if labels is None else {**outputs, "labels": spliced.labels}

    def mask(self, request: Request, options: Options):
        past_len, q_len = request.number("past_len", 0), request.number("q_len", 1)
        masks = read_masks(request, options)
        request.finish()
        batch = request.sizes.get("B", 1)
        check_answer_size(batch * q_len * (past_len + q_len), 1)
        return {"visible": operators.mask(*masks, past_len, q_len, options.decode_mask, batch)}

    def rope1d(self, request: Request, options: Options):
        theta = options.need("rope_theta", request.op)
        request.bind("config", D=options.head_dim)
        x = request.floats("x", "B heads q D")
        position_ids = request.integers("position_ids", "B q", "1 q", at_least=0)
        request.finish()
        if x.shape[-1] % 2:
            raise Refused(f"x has head_dim {x.shape[-1]}; rotations need an even one")
        return {"y": operators.rope1d(x, position_ids, theta, self.wide)}

    def cis3d(self, request: Request, options: Options):
        split = None if options.head_dim is None else head_split(options, options.head_dim)
        request.bind("config", F=split and split.bins)
        coords = request.coordinates("coords", "N 3")
        freqs, weights = "freqs" in request.tensors, "axial_weights" in request.tensors
        unused = reason_without_rotary(options, split)
        if unused and (freqs or weights):
            raise Refused(f"{'freqs' if freqs else 'axial_weights'} is given but has no meaning: {unused}; remove it")
        if not freqs:
            if not unused and len(coords):
                raise Refused("freqs is missing and rope_mixed_3d is true: give the learned frequencies, or set "
                              "rope_mixed_3d to false for the base ones")
            options.need("head_dim", "cis3d without freqs")
            request.bind('metadata "heads"', heads=request.number("heads", 1))
        elif "heads" in request.meta:
            request.bind('metadata "heads"', heads=request.number("heads", 1))
        freqs = request.floats("freqs", "3 heads F", "1 heads F", optional=True)
        weights = request.floats("axial_weights", "heads F 3", optional=True)
        request.finish()
        if freqs is None:
            heads = request.sizes["heads"]
            check_answer_size(heads * len(coords) * split.bins, 8)
            freqs = operators.base_frequencies(options, len(split.spatial), self.wide).expand(-1, heads, -1)
        cos, sin = operators.cis3d(freqs, weights, coords, self.wide)
        return {"cos": cos, "sin": sin}

    def rope3d(self, request: Request, options: Options):
        if options.head_dim is not None:
            request.bind("config", F=head_split(options, options.head_dim).bins)
        cos = request.angles("cos", "heads N F")
        sin = request.angles("sin", "heads N F")
        request.bind("2 F", Ds=2 * cos.shape[-1])
        x = request.floats("x", "B heads N Ds")
        request.finish()
        return {"y": operators.rope3d(x, cos, sin)}

    def normalize_coords(self, request: Request, options: Options):
        coords = request.coordinates("coords", "N 3", "B N 3")
        request.bind("coords", B=1 if coords.dim() == 2 else len(coords))
        counts = request.integers("point_counts", "B", optional=True, at_least=0, below=coords.shape[-2] + 1,
                                  what=f" (coords has {coords.shape[-2]} rows for each sample)")
        request.finish()
        options.check_normalization()
        samples = coords[None] if coords.dim() == 2 else coords
        normalized = torch.zeros(samples.shape, dtype=self.wide)
        for b, sample in enumerate(samples):
            count = len(sample) if counts is None else int(counts[b])
            normalized[b, :count] = operators.normalize_coords(sample[:count], options, self.wide)
        return {"coords": normalized.view(coords.shape)}

    def mixed_rope(self, request: Request, options: Options):
        options.need("rope_theta", request.op)
        options.check_normalization()
        request.bind("config", H=options.num_attention_heads, G=options.num_key_value_heads, D=options.head_dim)
        query = request.floats("query", "B H q D")
        key = request.floats("key", "B G q D")
        check_groups(query, key)
        split = head_split(options, query.shape[-1])
        position_ids = read_positions(request, 0)
        points = read_points(request, options, self.wide)
        rotary = read_rotary(request, options, split, points, lambda name: name.replace("_3d", ""), False)
        request.finish()
        tables = operators.mixed_tables(position_ids, split, options, points, self.dtype, self.wide)
        outputs = {}
        for name, x, side in (("query", query, "q"), ("key", key, "kv")):
            freqs = rotary.get(f"freqs_3d_{side}")
            if not options.learned:
                freqs = operators.base_frequencies(options, len(split.spatial), self.wide)
            outputs[name] = operators.mixed_rope(x, tables, freqs, rotary.get(f"axial_weights_3d_{side}"),
                                                 self.wide)
        return outputs

    def rmsnorm(self, request: Request, options: Options):
        eps = options.need("rms_norm_eps", request.op)
        x, weight = request.floats("x", "... n"), request.floats("weight", "n")
        request.finish()
        return {"y": operators.rmsnorm(x, weight, eps, self.wide)}

    def linear(self, request: Request, options: Options):
        x, weight = request.floats("x", "... in"), request.floats("weight", "out in")
        bias = request.floats("bias", "out", optional=True)
        request.finish()
        return {"y": operators.linear(x, weight, bias)}

    def swiglu(self, request: Request, options: Options):
        gate, up = request.floats("gate", "..."), request.floats("up", "...")
        request.finish()
        return {"y": operators.swiglu(gate, up)}

    def attention(self, request: Request, options: Options):
        request.bind("config", H=options.num_attention_heads, G=options.num_key_value_heads, D=options.head_dim)
        query = request.floats("query", "B H q D")
        key = request.floats("key", "B G K D")
        value = request.floats("value", "B G K D")
        visible = request.booleans("visible", "B q K")
        request.finish()
        check_groups(query, key)
        if key.shape[2] < query.shape[2]:
            raise Refused(f"key has {key.shape[2]} rows and query {query.shape[2]}; there is a key for each new token")
        return {"y": operators.attention(query, key, value, visible, self.wide, self.attention_kind)}

    def voxelize(self, request: Request, options: Options):
        points = request.coordinates("points", "N_raw 3", "N_raw 6")
        request.finish()
        grid, features = operators.voxelize(points, options)
        return {"grid": grid, "features": features.to(self.wide)}

    def token_coords(self, request: Request, options: Options):
        stages = request.number("stages", 0)
        grid = request.integers("grid", "M 3")
        request.finish()
        coords, count = operators.token_coords(grid, stages)
        return {"coords": coords, "count": count}

    # -- L1, L2 -------------------------------------------------------------------------------------------------------

    def attention_block(self, request: Request, options: Options):
        return self._layer(request, options, MixedRope3DAttention, ATTENTION_SIZES, "self_attn.")

    def decoder_layer(self, request: Request, options: Options):
        return self._layer(request, options, MixedRope3DDecoderLayer, LAYER_SIZES, "")

    def _layer(self, request: Request, options: Options, module_class, sizes: tuple[str, ...], prefix: str):
        """One module of the library's classes around the request's layer tensors, `prefix` cut from their names."""
        bind_sizes(request, options, sizes)
        options.check_normalization()
        split = head_split(options, options.head_dim)
        hidden = request.floats("hidden", "B q C")
        need_one(request, "B", "q")
        past_key = request.floats("past_key", "B G L D", optional=True)
        past_value = request.floats("past_value", "B G L D", optional=True)
        if (past_key is None) != (past_value is None):
            raise Refused("past_key and past_value belong together; the request holds one of them")
        past_len = 0 if past_key is None else past_key.shape[2]
        masks = read_masks(request, options)
        position_ids = read_positions(request, past_len)
        points = read_points(request, options, self.wide)
        shapes = ATTENTION_TENSORS if prefix else {**ATTENTION_TENSORS, **OTHER_LAYER_TENSORS}
        tensors = {name: request.floats(name, shape) for name, shape in shapes.items()}
        rotary = read_rotary(request, options, split, points, lambda name: "self_attn." + name, True)
        tensors |= {"self_attn." + name: tensor for name, tensor in rotary.items()}
        request.accept_unused(*OTHER_LAYER_TENSORS)
        request.finish()
        visible = operators.mask(*masks, past_len, hidden.shape[1], options.decode_mask, len(hidden))

        config = self._config(options)
        module = build(module_class, config, {name.removeprefix(prefix): t for name, t in tensors.items()}, 0)
        rotary_emb = MixedRope3DRotaryEmbedding(config)
        rotary_emb.points = points
        cache = DynamicCache()
        if past_key is not None:
            cache.update(past_key, past_value, 0)
        output = module(hidden, attention_mask=visible, past_key_value=cache, use_cache=True,
                        position_embeddings=rotary_emb(hidden, position_ids))
        return {"hidden": output[0], "key": cache.key_cache[0], "value": cache.value_cache[0]}

    def _config(self, options: Options, **resolved) -> MixedRope3DConfig:
        values = {key: getattr(options, key, None) for key in CHECKERS}
        values = {key: value for key, value in (values | resolved).items() if value is not None}
        return MixedRope3DConfig(true_precision=self.true_precision, inner_attention=self.attention_kind,
                                 attn_implementation="eager", **values)

    # -- L3, L4 -------------------------------------------------------------------------------------------------------

    def prefill(self, request: Request, given: dict):
        name, weights = request.text("session"), request.text("weights")
        session = self.sessions.get(name)
        if session:
            self._check_session(name, session, given, weights)
        options = session.options if session else Options(given)
        bind_sizes(request, options, MODEL_SIZES)
        options.check_normalization()
        if session:
            request.bind(f'session "{name}"', B=session.batch)
        keep = request.number("logits_to_keep", 0, default=0)
        embeds = request.floats("inputs_embeds", "B q C")
        need_one(request, "B", "q")
        past_len, q_len = session.length if session else 0, embeds.shape[1]
        attention_mask = request.mask("attention_mask", "B M")
        if attention_mask.shape[1] != past_len + q_len:
            raise Refused(f"attention_mask has {attention_mask.shape[1]} entries for {past_len} cached + {q_len} new = "
                          f"{past_len + q_len} keys; a prefill's mask covers all of them")
        position_ids = read_positions(request, past_len)
        points = read_points(request, options, self.wide)
        request.finish()

        opened = session or Session(self.dtype, os.path.realpath(weights), options,
                                    self._load_model(options, weights), DynamicCache(), len(embeds))
        check_rotary_parameters(opened.model.model.layers, points)
        outputs = self._run(opened, prefill_mask=attention_mask, attention_mask=attention_mask,
                            inputs_embeds=embeds.to(opened.model.dtype), position_ids=position_ids,
                            num_logits_to_keep=keep, point_token_mask=points and points.mask,
                            point_coords=request.tensors.get("point_coords"),
                            point_counts=request.tensors.get("point_counts"))
        self.sessions[name] = opened
        return outputs

    def decode(self, request: Request, given: dict):
        name = request.text("session")
        session = self._session(name)
        self._check_session(name, session, given, request.meta.get("weights"))
        request.bind(f'session "{name}"', B=session.batch)
        ids = read_ids(request, session.options, "B q")
        need_one(request, "q")
        attention_mask = request.mask("attention_mask", "B M", optional=True)
        request.finish()
        if attention_mask is not None:
            operators.check_mask_length("attention_mask", attention_mask.shape[1], session.length, ids.shape[1])
        return {"logits": self._run(session, input_ids=ids, attention_mask=attention_mask)["logits"]}

    def drop_session(self, request: Request, given: dict):
        name = request.text("session")
        self._check_tier(name, self._session(name))
        request.finish()
        del self.sessions[name]
        return {}

    def _run(self, session: Session, prefill_mask: Tensor | None = None, **arguments) -> dict[str, Tensor]:
        """One call of the causal LM. Where it fails, the session's cache is as it was before."""
        cache = session.cache
        before = list(cache.key_cache), list(cache.value_cache), cache._seen_tokens, getattr(cache, "prefill_mask", None)
        try:
            if prefill_mask is not None:
                cache.prefill_mask = prefill_mask
            output = session.model(past_key_values=cache, use_cache=True, output_hidden_states=True, **arguments)
        except BaseException:
            cache.key_cache, cache.value_cache, cache._seen_tokens, cache.prefill_mask = before
            raise
        return {"logits": output.logits.contiguous(), "hidden": output.hidden_states[-1].contiguous()}

    def _session(self, name: str) -> Session:
        if name not in self.sessions:
            known = ", ".join(f'"{n}"' for n in self.sessions) or "none"
            raise Refused(f'session "{name}" is not open (open: {known}); a prefill opens one')
        return self.sessions[name]

    def _check_tier(self, name: str, session: Session):
        if session.dtype != self.dtype:
            raise Refused(f'session "{name}" was opened at another tier, with {type_name(session.dtype)} tensors')

    def _check_session(self, name: str, session: Session, given: dict, weights: str | None):
        """A session keeps its tier, weights and configuration; whatever a later request repeats must agree."""
        self._check_tier(name, session)
        if weights is not None and os.path.realpath(weights) != session.weights:
            raise Refused(f'session "{name}" uses weights {session.weights}, the request {weights}')
        for key, value in given.items():
            expected = session.options.given.get(key) if value is None else getattr(session.options, key, value)
            if value != expected:
                raise Refused(f'config key {key} is {shown(value)}, but session "{name}" was opened with {shown(expected)}')

    # -- L5 -----------------------------------------------------------------------------------------------------------

    def encode_points(self, request: Request, config: dict):
        path = request.text("weights")
        encoder = encoders.encoder_config(config, request.meta.get("encoder"))
        request.bind("point_config", C_in=encoder.in_channels)
        grid = request.integers("grid", "M 3")
        features = request.floats("features", "M C_in")
        request.finish()
        encoders.check_cells(grid, encoder.num_bins)
        tensors = self._load(path, repr(encoder), lambda file: self._read_encoder(file, path, encoder))
        features = features.to(tensors["point_backbone.input_proj.weight"].dtype)
        tokens, coords = encoders.encode_points(grid, features, tensors, encoder, self.wide, self.attention_kind)
        return {"features": tokens, "coords": coords}

    # -- weights ------------------------------------------------------------------------------------------------------

    def model(self, config: dict, weights: str) -> MixedRope3DForCausalLM:
        """The causal LM itself, for `generate()`."""
        return self._load_model(Options(config), weights)

    def _load_model(self, options: Options, path: str) -> MixedRope3DForCausalLM:
        """The model of a configuration and a weights file. Settles options.tie_word_embeddings."""
        if options.tie_word_embeddings is None:
            options.tie_word_embeddings = self._open(path, lambda file: "lm_head.weight" not in file.keys())
        identity = json.dumps([getattr(options, key, None) for key in CHECKERS])
        return self._load(path, identity, lambda file: build(MixedRope3DForCausalLM, self._config(options),
                                                             self._read_weights(file, path, options)))

    @staticmethod
    def _open(path: str, use: Callable):
        """What `use` makes of a weights file that is open."""
        try:
            with safe_open(path, framework="pt") as file:
                return use(file)
        except (OSError, SafetensorError) as error:
            raise Refused(f"weights {path} cannot be read as a safetensors file: {error}") from error

    def _load(self, path: str, identity: str, read: Callable):
        """What `read` makes of a weights file and the configuration named by `identity`; the last few are kept."""
        try:
            stat = os.stat(path)
        except OSError as error:
            raise Refused(f"weights {path} cannot be read as a safetensors file: {error}") from error
        key = (os.path.realpath(path), stat.st_mtime_ns, stat.st_size, identity)
        model = self.models.pop(key, None)
        if model is None:
            while len(self.models) >= MODELS_KEPT:  # before loading: two large models may not fit in memory
                del self.models[next(iter(self.models))]
            model = self._open(path, read)
        self.models[key] = model
        return model

    def _read_weights(self, file, path: str, options: Options) -> dict[str, Tensor]:
        names = set(file.keys())
        request = Request("the model", {}, {}, self.dtype)
        bind_sizes(request, options, MODEL_SIZES)
        split = head_split(options, options.head_dim)
        bind_rotary_sizes(request, options, split)
        shapes = {"model.embed_tokens.weight": ("V C",), "model.norm.weight": ("C",)}
        if not options.tie_word_embeddings:
            shapes["lm_head.weight"] = ("V C",)
        for n in range(options.num_hidden_layers):
            layer = f"model.layers.{n}."
            shapes |= {layer + name: (shape,) for name, shape in {**ATTENTION_TENSORS, **OTHER_LAYER_TENSORS}.items()}
            rotary = {layer + "self_attn." + name: ROTARY_TENSORS[name] for name in rotary_names(options, split)}
            # A checkpoint without them serves text; a call with points is refused.
            shapes |= {name: shape for name, shape in rotary.items() if name in names}
        tensors = self._read_tensors(request, file, path, shapes)
        if options.tie_word_embeddings:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        return tensors

    def _read_encoder(self, file, path: str, encoder: encoders.EncoderConfig) -> dict[str, Tensor]:
        shapes, names = encoders.tensor_shapes(encoder), set(file.keys())
        missing = [f"{name} {shape}" for name, shape in shapes.items() if name not in names]
        if missing:
            more = f" and {len(missing) - MISSING_NAMED} more" if len(missing) > MISSING_NAMED else ""
            raise Refused(f"weights {path}: {', '.join(missing[:MISSING_NAMED])}{more} {'are' if missing[1:] else 'is'} missing; "
                          f"this {encoder.backbone} has {len(shapes)} tensors")
        symbols = {name: (" ".join(map(str, shape)),) for name, shape in shapes.items()}
        return self._read_tensors(Request("the encoder", {}, {}, self.dtype), file, path, symbols)

    def _read_tensors(self, request: Request, file, path: str, shapes: dict[str, tuple[str, ...]]) -> dict[str, Tensor]:
        """The tensors of `shapes`, each in the narrowest type that holds all of them and the tier's exactly, and in the
        first of its shapes."""
        names = set(file.keys())
        tensors, compute = {}, self.dtype
        for name, alternatives in shapes.items():
            tensor = file.get_tensor(name) if name in names else None
            if tensor is not None:
                if not tensor.is_floating_point():
                    raise Refused(f"{name} in {path} has type {type_name(tensor.dtype)}, expected a floating type")
                if tensor.dtype.itemsize == 1:
                    tensor = tensor.to(self.dtype)  # every 8-bit number is also one of each tier's
                compute = torch.promote_types(compute, tensor.dtype)
                request.tensors, request.dtype = {name: tensor}, tensor.dtype
            try:
                tensors[name] = request.floats(name, *alternatives).reshape(request.shape(alternatives[0]))
            except Refused as reason:
                raise Refused(f"weights {path}: {reason}") from None
        # Copied, so that a file that is replaced later changes nothing.
        return {name: tensor.to(compute, copy=True) for name, tensor in tensors.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Parts that several operators read

def bind_sizes(request: Request, options: Options, needed: tuple[str, ...]):
    for key in needed:
        options.need(key, request.op)
    heads, kv_heads, head_dim = options.num_attention_heads, options.num_key_value_heads, options.head_dim
    request.bind("config", C=options.hidden_size, I=options.intermediate_size, H=heads, G=kv_heads, D=head_dim,
                 HD=heads * head_dim, GD=kv_heads * head_dim, V=options.vocab_size)


def need_one(request: Request, *symbols: str):
    for symbol in symbols:
        if request.sizes[symbol] == 0:
            raise Refused(f"{request.origins[symbol]} has {symbol} = 0; {request.op} needs at least 1")


def check_answer_size(elements: int, itemsize: int):
    if elements * itemsize > LARGEST_ANSWER:
        raise Refused(f"the answer would hold {elements} elements, more than fit in a frame of {LARGEST_ANSWER} bytes")


def check_groups(query: Tensor, key: Tensor):
    heads, kv_heads = query.shape[1], key.shape[1]
    if kv_heads == 0 or heads == 0 or heads % kv_heads:
        raise Refused(f"query has {heads} heads, no multiple of key's {kv_heads}: each key/value head serves as many")


def read_ids(request: Request, options: Options, shape: str) -> Tensor:
    what = "" if options.vocab_size is None else f" (vocab_size is {options.vocab_size})"
    return request.integers("input_ids", shape, at_least=0, below=options.vocab_size, what=what)


def read_masks(request: Request, options: Options) -> tuple[Tensor | None, Tensor | None]:
    if "prefill_mask" in request.tensors and options.decode_mask != "spliced":
        raise Refused(f'prefill_mask is for decode_mask "spliced" only; here it is "{options.decode_mask}"')
    return request.mask("key_mask", "B M", optional=True), request.mask("prefill_mask", "B L0", optional=True)


def read_positions(request: Request, past_len: int) -> Tensor:
    """position_ids as given, else the places L .. L+q-1 in the cache."""
    given = request.integers("position_ids", "B q", "1 q", optional=True, at_least=0)
    return torch.arange(past_len, past_len + request.sizes["q"])[None] if given is None else given


def read_points(request: Request, options: Options, wide: torch.dtype) -> Points | None:
    mask = request.booleans("point_token_mask", "B q", optional=True)
    coords = request.coordinates("point_coords", "N 3", "B N 3", optional=True)
    counts = request.integers("point_counts", "B", optional=True, at_least=0)
    if mask is None and coords is None and counts is None:
        return None
    for name, tensor in (("point_token_mask", mask), ("point_coords", coords)):
        if tensor is None:
            raise Refused(f"{name} is missing; point_token_mask and point_coords belong together")
    return gather_points(mask, coords, None if counts is None else counts.tolist(), options, wide)


def bind_rotary_sizes(request: Request, options: Options, split):
    request.bind("config", F=split.bins, axes=options.frequency_axes, HF=request.sizes["H"] * split.bins,
                 GF=request.sizes["G"] * split.bins)


def reason_without_rotary(options: Options, split) -> str | None:
    """Why the options give learned rotary parameters no meaning, None where they give them one."""
    if not options.rope_mixed_3d:
        return "rope_mixed_3d is false (fixed base frequencies)"
    if options.rope_3d_kind == "axial":
        return 'rope_3d_kind is "axial" (no parameters)'
    if split is not None and not split.bins:
        return "no dimension of the head is spatial"
    return None


def read_rotary(request: Request, options: Options, split, points: Points | None, spelled: Callable[[str], str],
                may_be_flat: bool) -> dict[str, Tensor]:
    """The learned rotary parameters of a request, by their names in a layer. What points need must be there."""
    bind_rotary_sizes(request, options, split)
    found, wanted = {}, rotary_names(options, split)
    for name, shapes in ROTARY_TENSORS.items():
        given = spelled(name)
        if name in wanted:
            tensor = request.floats(given, *shapes[:1 + may_be_flat], optional=points is None or not points.any())
            if tensor is not None:
                found[name] = tensor.reshape(request.shape(shapes[0]))
        elif given in request.tensors:
            reason = reason_without_rotary(options, split) or "mixedRoPE_3d_learned_axial_mixing_weight is false"
            raise Refused(f"{given} is given but has no meaning: {reason}; remove it")
    return found
