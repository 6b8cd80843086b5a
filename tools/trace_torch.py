"""Writes a trace of a Hugging Face model of Qwen2's kind: what passes between its operators, in every call (docs/protocol.md, "Traces").

    from trace_torch import Trace

    with Trace(model, "mine.safetensors"):
        model.generate(**inputs, max_new_tokens=8)

Each call of the decoder is a step: the prefill, then every decode step. Needs torch and numpy, copies nothing of this project, and works
for any causal LM whose decoder has `layers` with `self_attn` and `mlp` as Qwen2 and Llama have them, the model of golden/mixedrope3d included.
Tensors go to disk as they come. Where modules have other names, say which: `Trace(model, path, modules={"input_norm": "ln_1"})`.

    points     globs of STEP.LAYER.POINT, joined by commas: "0.*.query*,*.model.logits" (default: everything)
    weights    "digest": SHA-256 of each tensor, and small tensors whole (default); "all": every tensor whole; "none"
    metadata   further strings, such as {"tier": "bf16"} where the model's type does not say it
"""

import fnmatch
import hashlib
import json
import os
import struct
import sys
from functools import partial

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

FORMAT = "1"
NAMES = {torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
         torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
TIERS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
SMALL = 16384  # elements: norms, biases and rotary parameters, which are kept whole

# Where a point is found: a module below the layer, and whether it is what goes in or comes out.
MODULES = {
    "input_norm": "input_layernorm", "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj", "post_attention_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj", "attention": "self_attn",
}
BEFORE = {"o_proj": "context", "post_attention_norm": "attention_residual", "down": "gated"}  # what goes into those
HEADS = {"query", "key", "value", "context"}  # of the projections' points: written with heads apart


# ---------------------------------------------------------------------------------------------------------------------
# The file

class Writer:
    """A safetensors file written tensor by tensor; the header goes into the room left for it, or data is moved at the end."""

    def __init__(self, path):
        self.path, self.temporary, self.room = os.fspath(path), f"{os.fspath(path)}.tmp.{os.getpid()}", 1 << 20
        self.file, self.rest = open(self.temporary, "w+b"), open(self.temporary + ".rest", "w+b")
        os.unlink(self.temporary + ".rest")
        self.file.seek(8 + self.room)
        self.entries, self.sizes, self.metadata = {}, [0, 0], {}

    def add(self, name: str, tensor: torch.Tensor):
        """A tensor of an odd number of bytes waits for the end, so that the others stay aligned."""
        if name in self.entries:
            return
        tensor = tensor.detach().to("cpu").contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
        waits = int(len(data) % 8 != 0)
        (self.rest if waits else self.file).write(data.data)
        self.entries[name] = (NAMES[tensor.dtype], list(tensor.shape), waits, self.sizes[waits], len(data), tensor.element_size())
        self.sizes[waits] += len(data)

    def close(self, keep: bool = True):
        if not keep:
            self.file.close(), self.rest.close(), os.unlink(self.temporary)
            return
        waiting = sorted((e for e in self.entries.items() if e[1][2]), key=lambda e: -e[1][5])
        at, begin = self.sizes[0], {}
        for name, entry in waiting:
            begin[name], at = at, at + entry[4]
        header = {"__metadata__": self.metadata}
        for name, (dtype, shape, waits, offset, size, _) in self.entries.items():
            start = begin[name] if waits else offset
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        text = json.dumps(header).encode()
        room = max(self.room, (len(text) + 7) // 8 * 8)
        move(self.file, 8 + self.room, 8 + room, self.sizes[0])
        self.file.seek(0)
        self.file.write(struct.pack("<Q", room) + text.ljust(room))
        self.file.seek(8 + room + self.sizes[0])
        for name, entry in waiting:
            self.rest.seek(entry[3])
            self.file.write(self.rest.read(entry[4]))
        self.file.close(), self.rest.close()
        os.replace(self.temporary, self.path)


def move(file, source: int, target: int, size: int, block: int = 1 << 24):
    """Moves data to a later place of its file, from the end."""
    while size > 0 and source != target:
        n = min(size, block)
        size -= n
        file.seek(source + size)
        data = file.read(n)
        file.seek(target + size)
        file.write(data)


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the values as little-endian F32 where each is one exactly, else as F64."""
    wide = tensor.detach().to("cpu")
    single = wide.to(torch.float32)
    if wide.dtype == torch.float64 and not torch.equal(single.double(), wide):
        single = wide
    return hashlib.sha256(single.contiguous().reshape(-1).numpy().data).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# The hooks. A compiled model breaks its graph at each of them, so that what lies between two points is compiled as one.

unseen = torch._dynamo.disable  # by the compiler

class Tracer:
    """Calls take(step, layer, point, tensor) for each point while it is entered; layer is a number or "model".

    `wants(step, layer, point)` says beforehand which are worth it.
    """

    def __init__(self, model, take, wants=None, modules: dict | None = None):
        self.model = getattr(model, "_orig_mod", model)
        self.take, self.wants = take, wants or (lambda step, layer, point: True)
        self.modules = {**MODULES, **(modules or {})}
        self.decoder = find_decoder(self.model)
        self.config = self.model.config
        heads = self.config.num_attention_heads
        self.head_dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        self.step, self.undo, self.seen = -1, [], set()

    def __enter__(self):
        hook = self.model.register_forward_pre_hook
        if self.model is not self.decoder:
            self.undo.append(hook(self._outer_call, with_kwargs=True).remove)
        self.undo.append(self.decoder.register_forward_pre_hook(self._call, with_kwargs=True).remove)
        rotary = getattr(self.decoder, "rotary_emb", None)
        if rotary is not None:
            self.undo.append(rotary.register_forward_pre_hook(self._rotary, with_kwargs=True).remove)
        for n, layer in enumerate(self.decoder.layers):
            self._hook_layer(n, layer)
        for name, module in (("final_norm", self.decoder.norm), ("logits", getattr(self.model, "lm_head", None))):
            if module is not None:
                self.undo.append(module.register_forward_hook(unseen(partial(self._end_done, name))).remove)
        return self

    def __exit__(self, *exception):
        while self.undo:
            self.undo.pop()()

    # -- points -------------------------------------------------------------------------------------------------------

    @unseen
    def point(self, layer, name: str, tensor):
        """Hands a point on; of several values within a step the first counts."""
        if not isinstance(tensor, torch.Tensor) or (self.step, layer, name) in self.seen or not self.wants(self.step, layer, name):
            return
        self.seen.add((self.step, layer, name))
        self.take(self.step, layer, name, tensor.detach())

    def _model_point(self, name, tensor):
        self.point("model", name, tensor)

    def _end_done(self, name, module, args, out):
        self._model_point(name, out)

    def heads_apart(self, x):
        """[B,q,heads·D] -> [B,heads,q,D]."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2) if x.dim() == 3 else x

    # -- calls --------------------------------------------------------------------------------------------------------

    @unseen
    def _outer_call(self, module, args, kwargs):
        """What only the outermost call is given: points."""
        self.points = {name: kwargs.get(name) for name in ("point_token_mask", "point_coords", "point_counts")}

    @unseen
    def _call(self, module, args, kwargs):
        self.step += 1
        self.seen.clear()
        names = ("input_ids", "attention_mask", "position_ids")
        given = {**dict(zip(names, args)), **kwargs}
        for name in ("input_ids", "attention_mask"):
            if getattr(given.get(name), "dim", lambda: 0)() == 2:
                self._model_point(name, given[name])
        cache = next((given[k] for k in ("past_key_values", "past_key_value") if given.get(k) is not None), None)
        self.past = cached_length(cache)
        self._model_point("cache_length", torch.tensor([self.past]))
        self.given_points = getattr(self, "points", {})
        self.points = {}

    @unseen
    def _rotary(self, module, args, kwargs):
        positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if isinstance(positions, torch.Tensor) and positions.dim() == 2:
            self._model_point("position_ids", positions)
        points = dict(self.given_points)
        inner = getattr(module, "points", None)  # golden/mixedrope3d: the splice happened within the call
        if inner is not None:
            points["point_token_mask"] = inner.mask
        if points.get("point_token_mask") is None:
            return
        for name, tensor in points.items():
            if tensor is not None:
                self._model_point(name, tensor[None] if name == "point_coords" and tensor.dim() == 2 else tensor)

    # -- layers -------------------------------------------------------------------------------------------------------

    def _hook_layer(self, n: int, layer):
        @unseen
        def before(module, args, kwargs):
            hidden = args[0] if args else kwargs.get("hidden_states")
            if n == 0:
                self._model_point("inputs_embeds", hidden)
            self.point(n, "input", hidden)

        @unseen
        def after(module, args, out):
            self.point(n, "output", out[0] if isinstance(out, tuple) else out)

        self.undo.append(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        self.undo.append(layer.register_forward_hook(after).remove)
        for point, path in self.modules.items():
            module = submodule(layer, path)
            if point == "attention":
                if module is not None:
                    self._wrap_attention(n, module)
                continue
            if module is None:
                continue
            self.undo.append(module.register_forward_hook(unseen(partial(self._module_done, n, point))).remove)

    def _module_done(self, n, point, module, args, out):
        shaped = lambda name, x: self.heads_apart(x) if name in HEADS and isinstance(x, torch.Tensor) else x
        if point in BEFORE and args:
            self.point(n, BEFORE[point], shaped(BEFORE[point], args[0]))
        self.point(n, point, shaped(point, out))

    def _wrap_attention(self, n: int, attention):
        """Within attention's forward, the rotation, the cache and the softmax are listened to."""
        forward = attention.forward

        @partial(unseen, recursive=False)
        def traced(*args, **kwargs):
            listener = Attention(self, n, attention, args, kwargs)
            with listener:
                return forward(*args, **kwargs)

        own = "forward" in vars(attention)  # others wrap modules too
        attention.forward = traced
        self.undo.append(lambda: setattr(attention, "forward", forward) if own else delattr(attention, "forward"))


class Attention(TorchFunctionMode):
    """Listens to one attention's forward: the rotation, the cache's update, and the functions by which scores become weights."""

    def __init__(self, tracer: Tracer, n: int, module, args, kwargs):
        super().__init__()
        self.tracer, self.n, self.module = tracer, n, module
        self.undo, self.operands = [], None
        self.cache = next((v for k, v in kwargs.items() if k.startswith("past_key_value") and v is not None), None)
        if self.cache is None:
            self.cache = next((a for a in args if hasattr(a, "update") and hasattr(a, "get_seq_length")), None)
        self.hidden = args[0] if args else kwargs.get("hidden_states")
        self.positions = kwargs.get("position_ids")

    @unseen
    def point(self, name, tensor):
        self.tracer.point(self.n, name, tensor)

    def __enter__(self):
        self._hook_rotation()
        self._hook_cache()
        if isinstance(self.positions, torch.Tensor) and self.positions.dim() == 2:
            self.point("position_ids", self.positions)
        return super().__enter__()

    def __exit__(self, *exception):
        result = super().__exit__(*exception)
        while self.undo:
            self.undo.pop()()
        return result

    def _replace(self, owner, name, value):
        had, old = name in vars(owner), getattr(owner, name)
        setattr(owner, name, value)
        self.undo.append(lambda: setattr(owner, name, old) if had else delattr(owner, name))

    def _hook_rotation(self):
        if callable(getattr(self.module, "rotate", None)):  # golden/mixedrope3d
            rotate = self.module.rotate

            def rotated(x, side, *rest):
                y = rotate(x, side, *rest)
                self.point("query" if side == "q" else "key", x)
                self.point("query_rotated" if side == "q" else "key_rotated", y)
                return y

            self._replace(self.module, "rotate", rotated)
            return
        for owner in {sys.modules[c.__module__] for c in type(self.module).__mro__ if c.__module__ in sys.modules}:
            turn = getattr(owner, "apply_rotary_pos_emb", None)
            if callable(turn):
                self._replace(owner, "apply_rotary_pos_emb", partial(self._turned, turn))

    def _turned(self, turn, query, key, *args, **kwargs):
        outputs = turn(query, key, *args, **kwargs)
        for name, x, y in (("query", query, outputs[0]), ("key", key, outputs[1])):
            self.point(name, x)
            self.point(name + "_rotated", y)
        return outputs

    def _hook_cache(self):
        before = cached_length(self.cache, getattr(self.module, "layer_idx", None))
        if not hasattr(self.cache, "update"):
            self.before = 0
            return
        self.before = before
        update = self.cache.update

        def updated(key, value, *args, **kwargs):
            keys, values = update(key, value, *args, **kwargs)
            self.point("key_rotated", key)
            self.point("value", value)
            self._cached(keys, values)
            return keys, values

        self._replace(self.cache, "update", updated)

    def _cached(self, keys, values):
        self.point("cache_length", torch.tensor([self.before, keys.shape[2]]))
        self.point("key_cache", keys)
        self.point("value_cache", values)

    # -- functions ----------------------------------------------------------------------------------------------------

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            self._fused(*args, **kwargs)
        elif name in ("matmul", "__matmul__") and len(args) == 2 and args[0].dim() == args[1].dim() == 4:
            self.operands = args[0], args[1].transpose(-1, -2)
        elif name == "softmax":
            scores = args[0] if args else kwargs["input"]
            if scores.dim() == 4:
                self._scores(scores)
        return out

    def _fused(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        key, value = self._unrepeated(key), self._unrepeated(value)
        self.point("query_rotated", query)
        self.point("key_rotated", key[:, :, -query.shape[2]:])
        self._cached(key, value)
        q, k = query.shape[2], key.shape[2]
        shape = (len(query), q, k)
        if attn_mask is None:
            visible = torch.ones(shape, dtype=torch.bool, device=query.device)
            if is_causal:
                visible = visible.tril()
        else:
            shown = attn_mask if attn_mask.dtype == torch.bool else attn_mask > lowest(attn_mask)
            visible = shown[..., :k].expand(len(query), -1, q, k).any(1)
        self.point("visible", visible)
        names = ("scores_max", "scores_mean", "scores_lse")
        if any(self.tracer.wants(self.tracer.step, self.n, name) for name in names):
            wide = torch.promote_types(query.dtype, torch.float32)
            keys = key.to(wide).repeat_interleave(query.shape[1] // key.shape[1], 1)
            scores = query.to(wide) @ keys.mT * (scale or query.shape[-1] ** -0.5)
            if attn_mask is not None and attn_mask.dtype != torch.bool:
                scores = scores + attn_mask[..., :k].to(wide)
            self._statistics(scores, visible[:, None])

    def _scores(self, scores):
        """Masked scores on their way into the softmax."""
        shown = scores > lowest(scores)
        self.point("visible", shown.any(1))
        self._statistics(scores.to(torch.promote_types(scores.dtype, torch.float32)), shown)
        if self.operands is not None:
            query, key = self.operands
            key = self._unrepeated(key)
            if query.shape[:2] == scores.shape[:2] and query.shape[2] == scores.shape[2]:
                self.point("query_rotated", query)
                self.point("key_rotated", key[:, :, -query.shape[2]:])

    def _statistics(self, scores, shown):
        count = shown.sum(-1)
        zero = torch.zeros((), dtype=scores.dtype, device=scores.device)
        hidden = scores.masked_fill(~shown, -torch.inf)
        some = count > 0
        self.point("scores_max", torch.where(some, hidden.amax(-1), zero).expand(scores.shape[:3]))
        self.point("scores_mean", torch.where(some, scores.masked_fill(~shown, 0).sum(-1) / count.clamp(min=1), zero).expand(scores.shape[:3]))
        self.point("scores_lse", torch.where(some, hidden.logsumexp(-1), zero).expand(scores.shape[:3]))

    def _unrepeated(self, x):
        """Keys and values of G heads, also where they were repeated for the query heads."""
        config = self.tracer.config
        kv = getattr(config, "num_key_value_heads", None) or x.shape[1]
        return x[:, ::x.shape[1] // kv] if x.shape[1] > kv and x.shape[1] % kv == 0 else x


def lowest(x) -> float:
    """Below this a score is hidden: masks hold the smallest finite number or minus infinity."""
    return torch.finfo(x.dtype).min / 2


def submodule(owner, path: str):
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def cached_length(cache, layer=None) -> int:
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length(layer or 0))
    return int(cache[0][0].shape[-2]) if len(cache) else 0  # tuples of old


def find_decoder(model):
    """The module that has `layers`: the model itself, or what stands below it under the usual names."""
    for path in ("", "model", "model.model", "model.language_model", "language_model.model", "base_model.model.model", "transformer"):
        module = submodule(model, path) if path else model
        if getattr(module, "layers", None) is not None and getattr(module, "norm", None) is not None:
            return module
    raise TypeError(f"{type(model).__name__} has no decoder with `layers` and `norm` below model: hand Trace the module that has them")


# ---------------------------------------------------------------------------------------------------------------------
# Both together

class Trace:
    """Writes a trace file while it is entered. After an exception nothing is written."""

    def __init__(self, model, path, points: str = "*.*.*", modules: dict | None = None, weights: str = "digest", metadata: dict | None = None):
        if weights not in ("digest", "all", "none"):
            raise ValueError(f'weights is "{weights}", expected digest, all or none')
        self.globs = [tuple(glob.partition(".")[::2]) for glob in points.split(",")]
        self.path, self.weights, self.extra, self.wanted = path, weights, metadata or {}, {}
        self.tracer = Tracer(model, self._take, self._wants, modules)

    def _wants(self, step, layer, point) -> bool:
        key = step, layer, point
        if key not in self.wanted:
            self.wanted[key] = any(fnmatch.fnmatchcase(str(step), first) and fnmatch.fnmatchcase(f"{layer}.{point}", rest)
                                   for first, rest in self.globs)
        return self.wanted[key]

    def _take(self, step, layer, point, tensor):
        self.writer.add(f"{step}.{layer}.{point}", tensor)

    def __enter__(self):
        self.writer = Writer(self.path)
        self.tracer.__enter__()
        return self

    def __exit__(self, kind, *rest):
        self.tracer.__exit__()
        try:
            if kind is None:
                self._describe()
        except BaseException:
            self.writer.close(keep=False)
            raise
        self.writer.close(keep=kind is None)

    def _describe(self):
        model, config = self.tracer.model, self.tracer.config
        dtype = next((p.dtype for p in model.parameters()), torch.float32)
        values = config.to_dict() if hasattr(config, "to_dict") else vars(config)
        meta = {"trace": FORMAT, "producer": f"trace_torch, torch {torch.__version__}", "tier": TIERS.get(dtype, "fp32"),
                "config": json.dumps(values, default=str)}
        source = getattr(config, "_name_or_path", "")
        if source and os.path.exists(source):
            meta["weights"] = os.path.abspath(source)
        if self.weights != "none":
            digests = {}
            for name, tensor in named_weights(model):
                digests[name] = digest(tensor)
                if self.weights == "all" or tensor.numel() <= SMALL:
                    self.writer.add(f"weights.{name}", tensor)
            meta["weights_sha256"] = json.dumps(digests)
        self.writer.metadata = {**meta, **{key: str(value) for key, value in self.extra.items()}}


def named_weights(model):
    """The model's tensors under their Hugging Face names; a tied head is the embedding."""
    prefix = "" if hasattr(model, "lm_head") or hasattr(model, "model") else "model."
    for name, tensor in model.named_parameters():
        yield prefix + name.replace("_orig_mod.", ""), tensor
