"""MixedRoPE3D on the Qwen2 classes of `transformers` 4.46.1.

The library's own `forward` of model, layer and MLP runs; replaced are the four places where the model differs: rotary
tables (which also carry the call's points), attention, the mask, and the splice in front of it all. With
`config.true_precision` the library's casts to float32 are replaced too, so float64 means float64.

Phase, positions and masks follow from the cache's *length* alone (section 5), never from its existence or from q = 1.
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2ForCausalLM, Qwen2Model
from transformers.generation import GenerationMixin
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2MLP,
    Qwen2PreTrainedModel,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
)

from . import operators
from .configuration import MixedRope3DConfig, head_split
from .errors import Refused
from .operators import Points, Tables

ROTARY_PARAMETERS = ("freqs_3d_q", "axial_weights_3d_q", "freqs_3d_kv", "axial_weights_3d_kv")
INITIAL_SPREAD = 0.01  # learned parameters start from base + 0.01·N(0,1) and 1 + 0.01·N(0,1), section 3.2


def wide_type(dtype: torch.dtype, true_precision: bool) -> torch.dtype:
    """The type in which norms, rotary tables and softmax are computed; the library always takes float32."""
    return torch.float64 if true_precision and dtype == torch.float64 else torch.float32


class MixedRope3DRMSNorm(Qwen2RMSNorm):
    def __init__(self, config: MixedRope3DConfig):
        super().__init__(config.hidden_size, eps=config.rms_norm_eps)
        self.true_precision = config.true_precision

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = wide_type(hidden_states.dtype, self.true_precision)
        return operators.rmsnorm(hidden_states, self.weight, self.variance_epsilon, wide)


class MixedRope3DRotaryEmbedding(Qwen2RotaryEmbedding):
    """Tables of one call, and the points it rotates: the library hands the result to every layer untouched."""

    def __init__(self, config: MixedRope3DConfig):
        nn.Module.__init__(self)  # no inv_freq buffer: a float32 one would round the truth
        self.config = config
        self.options = config.options()
        self.split = head_split(self.options, config.head_dim)
        self.points: Points | None = None

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> Tables:
        wide = wide_type(x.dtype, self.config.true_precision)
        return operators.mixed_tables(position_ids, self.split, self.options, self.points, x.dtype, wide)


class MixedRope3DAttention(Qwen2Attention):
    def __init__(self, config: MixedRope3DConfig, layer_idx: int):
        # The parent's constructor demands hidden_size = heads · head_dim, which a head_dim given apart need not keep.
        nn.Module.__init__(self)
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        self.num_heads, self.num_key_value_heads = config.num_attention_heads, config.num_key_value_heads
        q_size, kv_size = self.num_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=True)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)
        self.options = config.options()
        self.split = head_split(self.options, self.head_dim)
        for side, heads in (("q", self.num_heads), ("kv", self.num_key_value_heads)):
            self._add_rotary_parameters(side, heads)

    def _add_rotary_parameters(self, side: str, heads: int):
        """freqs_3d_* [3 or 1,heads,F] and axial_weights_3d_* [heads,F,3], None where the options give them no meaning."""
        freqs = weights = None
        if self.options.learned and self.split.bins:
            base = operators.base_frequencies(self.options, len(self.split.spatial), torch.get_default_dtype())
            base = base[:self.options.frequency_axes].expand(-1, heads, -1)
            freqs = nn.Parameter(base + INITIAL_SPREAD * torch.randn(base.shape))
            if self.options.mixedRoPE_3d_learned_axial_mixing_weight:
                weights = nn.Parameter(1 + INITIAL_SPREAD * torch.randn(heads, self.split.bins, 3))
        self.register_parameter(f"freqs_3d_{side}", freqs)
        self.register_parameter(f"axial_weights_3d_{side}", weights)

    def rotate(self, x: Tensor, side: str, tables: Tables, wide: torch.dtype) -> Tensor:
        freqs, weights = getattr(self, f"freqs_3d_{side}"), getattr(self, f"axial_weights_3d_{side}")
        if freqs is None and not self.options.learned:
            freqs = operators.base_frequencies(self.options, len(self.split.spatial), wide)
        return operators.mixed_rope(x, tables, freqs, weights, wide)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, position_embeddings: Tables,
                past_key_value: DynamicCache | None = None, **library_arguments):
        """`attention_mask` is visible [B,q,L+q]; `position_embeddings` what the rotary embedding returned."""
        batch, q_len, _ = hidden_states.shape
        wide = wide_type(hidden_states.dtype, self.config.true_precision)
        query = self.q_proj(hidden_states).view(batch, q_len, -1, self.head_dim).transpose(1, 2)
        key = self.k_proj(hidden_states).view(batch, q_len, -1, self.head_dim).transpose(1, 2)
        value = self.v_proj(hidden_states).view(batch, q_len, -1, self.head_dim).transpose(1, 2)
        query = self.rotate(query, "q", position_embeddings, wide)
        key = self.rotate(key, "kv", position_embeddings, wide)
        if past_key_value is not None:
            key, value = past_key_value.update(key, value, self.layer_idx)
        context = operators.attention(query, key, value, attention_mask, wide, self.config.inner_attention)
        return self.o_proj(context.transpose(1, 2).reshape(batch, q_len, -1)), None, past_key_value


class MixedRope3DDecoderLayer(Qwen2DecoderLayer):
    def __init__(self, config: MixedRope3DConfig, layer_idx: int):
        nn.Module.__init__(self)  # the parent's constructor would build the library's attention first
        self.hidden_size = config.hidden_size
        self.self_attn = MixedRope3DAttention(config, layer_idx)
        self.mlp = Qwen2MLP(config)
        self.input_layernorm = MixedRope3DRMSNorm(config)
        self.post_attention_layernorm = MixedRope3DRMSNorm(config)


class MixedRope3DModel(Qwen2Model):
    config_class = MixedRope3DConfig

    def __init__(self, config: MixedRope3DConfig):
        Qwen2PreTrainedModel.__init__(self, config)  # the parent's constructor would build the library's layers first
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(MixedRope3DDecoderLayer(config, n) for n in range(config.num_hidden_layers))
        self.norm = MixedRope3DRMSNorm(config)
        self.rotary_emb = MixedRope3DRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @contextmanager
    def rotating(self, points: Points | None):
        """Within, a call rotates `points` in 3D; outside, nothing is left that a later call could take for its own."""
        self.rotary_emb.points = points
        try:
            yield
        finally:
            self.rotary_emb.points = None

    def _update_causal_mask(self, attention_mask: Tensor | None, input_tensor: Tensor, cache_position: Tensor,
                            past_key_values: DynamicCache | None, output_attentions: bool) -> Tensor:
        """visible [B,q,L+q] (section 4). The cache keeps the mask of the prefill for `decode_mask` `spliced`."""
        batch, q_len = input_tensor.shape[:2]
        past_len = cached_length(past_key_values)
        visible = operators.mask(attention_mask, getattr(past_key_values, "prefill_mask", None), past_len, q_len,
                                 self.config.decode_mask, batch)
        if past_len == 0 and past_key_values is not None:
            past_key_values.prefill_mask = (
                torch.ones(batch, q_len, dtype=torch.int64) if attention_mask is None else attention_mask)
        return visible


class MixedRope3DForCausalLM(Qwen2ForCausalLM):
    config_class = MixedRope3DConfig

    def __init__(self, config: MixedRope3DConfig):
        Qwen2PreTrainedModel.__init__(self, config)
        self.model = MixedRope3DModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, past_key_values: DynamicCache | None = None,
                inputs_embeds: Tensor | None = None, labels: Tensor | None = None, use_cache: bool | None = None,
                point_features: Tensor | None = None, point_token_mask: Tensor | None = None,
                point_coords: Tensor | None = None, point_counts: Tensor | None = None,
                cache_position: Tensor | None = None, num_logits_to_keep: int = 0, **library_arguments):
        """The library's `forward` with points, given in one of two ways.

        * `point_features` [N,hidden] or [B,N,hidden] with `input_ids`: the splice happens here, at prefill; a caller
          that passes its scan with every call is right too, later calls ignore it.
        * `point_token_mask` [B,q] with `input_ids` or `inputs_embeds`: points among this call's tokens, whatever L is.

        Both need `point_coords` [N,3] or [B,N,3]; `point_counts` [B] where samples differ. `cache_position` is the
        library's count of text tokens and not used: positions are places in the cache.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if point_features is not None and cached_length(past_key_values):
            point_features = point_coords = point_counts = None
        counts = None if point_counts is None else point_counts.tolist()
        if point_features is not None:
            spliced, inputs_embeds = self.splice(input_ids, attention_mask, point_features, counts, labels)
            input_ids, attention_mask, labels = None, spliced.attention_mask, spliced.labels
            point_token_mask = spliced.point_token_mask
        points = None
        if (point_token_mask is None) != (point_coords is None):
            raise Refused("points need both point_coords and either point_features or point_token_mask")
        if point_token_mask is not None:
            dtype = self.model.embed_tokens.weight.dtype
            points = operators.gather_points(point_token_mask, point_coords, counts, self.model.rotary_emb.options,
                                             wide_type(dtype, self.config.true_precision))
            check_rotary_parameters(self.model.layers, points)
        with self.model.rotating(points):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                                   past_key_values=past_key_values, inputs_embeds=inputs_embeds, labels=labels,
                                   use_cache=use_cache, num_logits_to_keep=num_logits_to_keep, **library_arguments)

    def splice(self, input_ids: Tensor, attention_mask: Tensor | None, features: Tensor, counts: list[int] | None,
               labels: Tensor | None) -> tuple[operators.Spliced, Tensor]:
        """Section 2 on embeddings: (what went where, [B,S,hidden])."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if features.dim() == 2:
            features = features[None]
        if len(features) != len(input_ids):
            raise Refused(f"point_features holds {len(features)} samples, input_ids {len(input_ids)}")
        counts = [features.shape[1]] * len(features) if counts is None else counts
        spliced = operators.splice(input_ids, attention_mask, counts, self.config.point_start_token_id,
                                   self.config.point_end_token_id, labels)
        rows = [sample[:count] for sample, count in zip(features, counts)]
        return spliced, operators.splice_rows(spliced, self.get_input_embeddings()(input_ids), rows)

    def prepare_inputs_for_generation(self, input_ids: Tensor, past_key_values: DynamicCache | None = None,
                                      attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                                      **kwargs) -> dict:
        """The caller's text-only mask goes through as it is; no positions are derived from it (section 3.1, 4)."""
        inputs = GenerationMixin.prepare_inputs_for_generation(self, input_ids, past_key_values=past_key_values, **kwargs)
        inputs["attention_mask"] = attention_mask
        if cached_length(past_key_values):
            for name in ("point_features", "point_token_mask", "point_coords", "point_counts"):
                inputs.pop(name, None)
        else:
            inputs["position_ids"] = position_ids
        return inputs


def cached_length(past_key_values: DynamicCache | None) -> int:
    return 0 if past_key_values is None else past_key_values.get_seq_length()


def check_rotary_parameters(layers, points: Points | None):
    """Raises Refused where points are to be rotated and a layer lacks the learned parameters for it."""
    if points is None or not points.any():
        return
    for number, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", layer)
        for name in rotary_names(attention.options, attention.split):
            if getattr(attention, name) is None:
                raise Refused(f"layer {number} has no self_attn.{name}, and the call rotates points with learned "
                              "frequencies; give the tensor, or set rope_mixed_3d to false")


def rotary_names(options, split) -> list[str]:
    """The learned rotary parameters that the options ask for."""
    if not (options.learned and split.bins):
        return []
    return [name for name in ROTARY_PARAMETERS
            if options.mixedRoPE_3d_learned_axial_mixing_weight or not name.startswith("axial")]


def build(module_class, config: MixedRope3DConfig, tensors: dict[str, Tensor], *arguments) -> nn.Module:
    """A module around the given tensors, which are not copied. Absent rotary parameters become None."""
    with torch.device("meta"):
        module = module_class(config, *arguments)
    for name, _ in list(module.named_parameters()):
        owner, _, last = name.rpartition(".")
        if last in ROTARY_PARAMETERS and name not in tensors:
            setattr(module.get_submodule(owner), last, None)
    module.load_state_dict(tensors, strict=True, assign=True)
    if isinstance(module, Qwen2PreTrainedModel):
        module.tie_weights()
    return module.eval().requires_grad_(False)
