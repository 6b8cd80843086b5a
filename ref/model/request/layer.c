/** Requests `attention_block` and `decoder_layer`: the same tensors but for what is not attention's. */
#include "../request.h"

/* The judge's skip tensors: query rows whose own key is hidden, and hidden keys (seen by the last query, or padding). */
static mr3d_status add_skips(mr3d_request *r, const mr3d_block_in *in) {
  const int64_t K = in->L + in->q;
  if (!r->with_scale) return MR3D_OK;
  bool *visible = mr3d_request_memory(r, in->B * in->q * K, sizeof *visible);
  bool *rows = mr3d_request_memory(r, in->B * in->q, sizeof *rows), *keys = mr3d_request_memory(r, in->B * K, sizeof *keys);
  MR3D_TRY(r->context.op->mask(&r->context, &in->mask, visible, r->error));
  for (int64_t b = 0; b < in->B; b++) {
    const bool *seen = visible + b * in->q * K;
    for (int64_t i = 0; i < in->q; i++) rows[b * in->q + i] = !seen[i * K + in->L + i];
    for (int64_t j = 0; j < K; j++) keys[b * K + j] = !seen[(in->q - 1) * K + j];
  }
  MR3D_TRY(mr3d_request_skip(r, "hidden", 2, (int64_t[]){in->B, in->q}, rows));
  MR3D_TRY(mr3d_request_skip(r, "key", 3, (int64_t[]){in->B, 1, K}, keys));
  return mr3d_request_skip(r, "value", 3, (int64_t[]){in->B, 1, K}, keys);
}

static mr3d_status take_layer(mr3d_request *r, bool whole_layer, mr3d_block_in *in, mr3d_layer *layer) {
  static const mr3d_slot hidden_slot[] = {{"hidden", MR3D_KIND_FLOAT, "B,q,hidden", MR3D_ALWAYS, offsetof(mr3d_block_in, hidden)}};
  static const mr3d_slot past_slots[] = {
      {"past_key", MR3D_KIND_FLOAT, "B,G,L,D", MR3D_WITH_PAST_VALUE, offsetof(mr3d_block_in, past_key)},
      {"past_value", MR3D_KIND_FLOAT, "B,G,L,D", MR3D_WITH_PAST_KEY, offsetof(mr3d_block_in, past_value)},
  };
  static const mr3d_slot other_slots[] = {
      {"key_mask", MR3D_KIND_MASK, "B,M", MR3D_OPTIONAL, offsetof(mr3d_block_in, mask.key_mask)},
      {"prefill_mask", MR3D_KIND_MASK, "B,L0", MR3D_IF_SPLICED, offsetof(mr3d_block_in, mask.prefill_mask)},
      {"position_ids", MR3D_KIND_POSITION, "B,q|1,q", MR3D_OPTIONAL, offsetof(mr3d_block_in, position_ids)},
  };
  mr3d_slot rest[MR3D_N_LAYER_SLOTS - MR3D_N_BLOCK_SLOTS];
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(hidden_slot), in));
  if (!mr3d_bundle_find(r->bundle, "past_key")) mr3d_sizes_bind(&r->sizes, "L", 0, "no past_key");
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(past_slots), in));
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(other_slots), in));
  MR3D_TRY(mr3d_request_take_points(r, &in->points));
  MR3D_TRY(mr3d_sizes_bind_split(&r->sizes, &r->config, r->error));
  MR3D_TRY(mr3d_request_take(r, mr3d_layer_slots, MR3D_N_BLOCK_SLOTS, layer));
  for (int i = 0; i < MR3D_N_LAYER_SLOTS - MR3D_N_BLOCK_SLOTS; i++) { /* the block allows the rest of the layer and does not use it */
    rest[i] = mr3d_layer_slots[MR3D_N_BLOCK_SLOTS + i];
    if (!whole_layer) rest[i].when = MR3D_OPTIONAL;
  }
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(rest), layer));
  MR3D_TRY(mr3d_request_done(r));
  return mr3d_request_need_tokens(r);
}

static mr3d_status answer_layer(mr3d_request *r, bool whole_layer) {
  static const char *const needed[] = {"num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", NULL};
  static const char *const needed_by_layer[] = {"rms_norm_eps", NULL};
  MR3D_TRY(mr3d_request_need(r, needed));
  if (whole_layer) MR3D_TRY(mr3d_request_need(r, needed_by_layer));
  mr3d_sizes_bind_config(&r->sizes, &r->config);
  mr3d_block_in in = {0};
  mr3d_layer layer = {0};
  MR3D_TRY(take_layer(r, whole_layer, &in, &layer));
  in.B = mr3d_request_size(r, "B");
  in.q = mr3d_request_size(r, "q");
  in.L = mr3d_request_size(r, "L");
  in.position_rows = mr3d_request_position_rows(r);
  in.mask.B = in.B;
  in.mask.q = in.q;
  in.mask.L = in.L;
  in.mask.rule = r->config.decode_mask;
  if (in.mask.key_mask) in.mask.M = mr3d_request_size(r, "M");
  if (in.mask.prefill_mask) in.mask.L0 = mr3d_request_size(r, "L0");
  r->config.hidden_size = mr3d_request_size(r, "hidden"); /* where only the tensors know it */
  if (whole_layer) r->config.intermediate_size = mr3d_request_size(r, "I");

  const int64_t cache_shape[] = {in.B, r->config.num_key_value_heads, in.L + in.q, r->config.head_dim};
  mr3d_block_out out;
  MR3D_TRY(mr3d_request_output(r, "hidden", MR3D_F64, 3, (int64_t[]){in.B, in.q, r->config.hidden_size}, &out.hidden));
  MR3D_TRY(mr3d_request_output(r, "key", MR3D_F64, 4, cache_shape, &out.key));
  MR3D_TRY(mr3d_request_output(r, "value", MR3D_F64, 4, cache_shape, &out.value));
  const mr3d_operators *op = r->context.op;
  MR3D_TRY((whole_layer ? op->decoder_layer : op->attention_block)(&r->context, &r->config, &layer, &in, &out, r->error));
  return add_skips(r, &in);
}

mr3d_status mr3d_answer_attention_block(mr3d_request *r) { return answer_layer(r, false); }
mr3d_status mr3d_answer_decoder_layer(mr3d_request *r) { return answer_layer(r, true); }
