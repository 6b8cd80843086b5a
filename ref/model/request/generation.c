/** Requests `prefill`, `decode` and `drop_session`. A session changes only after everything that can fail has succeeded. */
#include "../session.h"

#include <stdlib.h>
#include <string.h>

static mr3d_status find_session(mr3d_request *r, bool must_exist) {
  const char *name;
  MR3D_TRY(mr3d_request_text(r, "session", &name));
  r->session = mr3d_session_find(r->server->sessions, name);
  if (r->session || !must_exist) return MR3D_OK;
  char list[400];
  return mr3d_fail(r->error, MR3D_INVALID, "session %s is not open; %s", name, mr3d_session_list(r->server->sessions, list));
}

/* The decoder of the request's weights and configuration; fills in what only the weights know. */
static mr3d_status make_decoder(mr3d_request *r, mr3d_weights *weights, mr3d_decoder *decoder) {
  static const char *const needed[] = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps", NULL};
  MR3D_TRY(mr3d_request_need(r, needed));
  mr3d_sizes_bind_config(&r->sizes, &r->config);
  MR3D_TRY(mr3d_sizes_bind_split(&r->sizes, &r->config, r->error));
  *decoder = (mr3d_decoder){.config = &r->config, .weights = weights, .sizes = &r->sizes, .watch = r->server->watch};
  MR3D_TRY(mr3d_weights_ends(weights, &r->config, &r->sizes, &decoder->ends, r->error));
  r->config.hidden_size = mr3d_request_size(r, "hidden");
  r->config.vocab_size = mr3d_request_size(r, "V");
  r->config.tie_word_embeddings = decoder->ends.head == decoder->ends.embed_tokens;
  return MR3D_OK;
}

static void bind_session(mr3d_request *r) {
  if (r->session) mr3d_sizes_bind(&r->sizes, "B", r->session->B, "session %.40s", r->session->name);
  mr3d_sizes_bind(&r->sizes, "L", r->session ? r->session->cache.L : 0, "%s", r->session ? "the session's past" : "a new session");
}

/* The mask of a call whose attention_mask has that many columns. */
static mr3d_mask_in mask_of(const mr3d_request *r, const mr3d_block_in *in, int64_t columns, const int64_t *attention_mask) {
  return (mr3d_mask_in){.B = in->B, .L = in->L, .q = in->q, .M = columns, .key_mask = attention_mask, .key_mask_name = "attention_mask",
                        .rule = r->config.decode_mask};
}

/* Whether new token i's own key is hidden by the call's mask: the token is padding. */
static bool is_padding(const mr3d_block_in *in, int64_t b, int64_t i) {
  const int64_t key = in->L + i;
  return in->mask.key_mask && key < in->mask.M && !in->mask.key_mask[b * in->mask.M + key];
}

/* The rows of skip [B,q] that logits [B,keep,V] have. */
static mr3d_status skip_logits(mr3d_request *r, int64_t B, int64_t q, int64_t keep, const bool *skip) {
  bool *kept = mr3d_request_memory(r, B * keep, sizeof *kept);
  for (int64_t b = 0; b < B; b++)
    if (keep) memcpy(kept + b * keep, skip + b * q + q - keep, (size_t)keep);
  return mr3d_request_skip(r, "logits", 2, (int64_t[]){B, keep}, kept);
}

static mr3d_status prefill(mr3d_request *r, const char *name, mr3d_weights *weights) {
  static const mr3d_slot slots[] = {
      {"inputs_embeds", MR3D_KIND_FLOAT, "B,q,hidden", MR3D_ALWAYS, offsetof(mr3d_block_in, hidden)},
      {"attention_mask", MR3D_KIND_MASK, "B,L+q", MR3D_ALWAYS, offsetof(mr3d_block_in, mask.key_mask)},
      {"position_ids", MR3D_KIND_POSITION, "B,q|1,q", MR3D_OPTIONAL, offsetof(mr3d_block_in, position_ids)},
  };
  int64_t keep;
  MR3D_TRY(mr3d_request_integer(r, "logits_to_keep", INT64_MAX, 0, &keep));
  mr3d_decoder decoder;
  MR3D_TRY(make_decoder(r, weights, &decoder));
  bind_session(r);
  mr3d_block_in in = {0};
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &in));
  MR3D_TRY(mr3d_request_take_points(r, &in.points));
  MR3D_TRY(mr3d_request_done(r));
  MR3D_TRY(mr3d_request_need_tokens(r));
  in.B = mr3d_request_size(r, "B");
  in.q = mr3d_request_size(r, "q");
  in.L = mr3d_request_size(r, "L");
  in.position_rows = mr3d_request_position_rows(r);
  in.mask = mask_of(r, &in, in.L + in.q, in.mask.key_mask);
  decoder.has_points = r->has_points;
  MR3D_TRY(mr3d_weights_check(weights, &r->config, &r->sizes, r->has_points, r->error));
  if (keep == 0 || keep > in.q) keep = in.q;

  double *logits, *hidden;
  MR3D_TRY(mr3d_request_output(r, "logits", MR3D_F64, 3, (int64_t[]){in.B, keep, r->config.vocab_size}, &logits));
  MR3D_TRY(mr3d_request_output(r, "hidden", MR3D_F64, 3, (int64_t[]){in.B, in.q, r->config.hidden_size}, &hidden));
  bool *skip = mr3d_request_memory(r, in.B * in.q, sizeof *skip);
  for (int64_t b = 0; b < in.B; b++)
    for (int64_t i = 0; i < in.q; i++) skip[b * in.q + i] = is_padding(&in, b, i);
  MR3D_TRY(mr3d_request_skip(r, "hidden", 2, (int64_t[]){in.B, in.q}, skip));
  MR3D_TRY(skip_logits(r, in.B, in.q, keep, skip));

  mr3d_kv_cache none = {0}, grown;
  MR3D_TRY(mr3d_decoder_forward(&r->context, &decoder, r->session ? &r->session->cache : &none, &in, hidden, &grown, r->error));
  mr3d_status status = mr3d_decoder_logits(&r->context, &decoder, in.B, in.q, keep, hidden, logits, r->error);
  if (status != MR3D_OK) {
    mr3d_kv_cache_free(&grown);
    return status;
  }
  if (!r->session) {
    r->session = mr3d_session_open(&r->server->sessions, name);
    r->session->config_json = strdup(r->config_json);
    r->session->config = r->config;
    r->session->tier = r->tier;
    r->session->B = in.B;
    r->session->weights = mr3d_weights_share(weights);
  }
  mr3d_session_grow(r->session, &grown);
  mr3d_session_set_mask(r->session, in.mask.M, in.mask.key_mask);
  return MR3D_OK;
}

mr3d_status mr3d_answer_prefill(mr3d_request *r) {
  const char *name, *path;
  MR3D_TRY(find_session(r, false));
  MR3D_TRY(mr3d_request_text(r, "session", &name));
  MR3D_TRY(mr3d_request_text(r, "weights", &path));
  mr3d_weights *weights = NULL;
  if (r->session) {
    MR3D_TRY(mr3d_session_agrees(r->session, r->tier, path, r->config_json, r->error));
    r->config = r->session->config;
    weights = mr3d_weights_share(r->session->weights);
  } else {
    MR3D_TRY(mr3d_config_parse(r->config_json, &r->config, r->error));
    const mr3d_weights_source source = {
        .path = path, .config = &r->config, .tier = r->tier, .init_missing = r->server->init_missing ? &r->server->init_seed : NULL};
    MR3D_TRY(mr3d_weights_open(r->server->weights, &source, &weights, r->error));
  }
  mr3d_status status = prefill(r, name, weights);
  mr3d_weights_release(&weights);
  return status;
}

mr3d_status mr3d_answer_decode(mr3d_request *r) {
  struct {
    const int64_t *input_ids, *attention_mask;
  } tensors;
  const mr3d_slot slots[] = {
      {"input_ids", MR3D_KIND_TOKEN, "B,q", MR3D_ALWAYS, 0},
      {"attention_mask", MR3D_KIND_MASK, "B,M", MR3D_OPTIONAL, sizeof(const int64_t *)},
  };
  MR3D_TRY(find_session(r, true));
  mr3d_session *session = r->session;
  MR3D_TRY(mr3d_session_agrees(session, r->tier, mr3d_bundle_get(r->bundle, "weights"), r->config_json, r->error));
  r->config = session->config;
  mr3d_decoder decoder;
  MR3D_TRY(make_decoder(r, session->weights, &decoder));
  bind_session(r);
  MR3D_TRY(mr3d_request_take(r, MR3D_SLOTS(slots), &tensors));
  MR3D_TRY(mr3d_request_done(r));
  MR3D_TRY(mr3d_request_need_tokens(r));

  mr3d_block_in in = {.B = session->B, .q = mr3d_request_size(r, "q"), .L = session->cache.L};
  in.mask = mask_of(r, &in, tensors.attention_mask ? mr3d_request_size(r, "M") : 0, tensors.attention_mask);
  if (in.mask.rule == MR3D_SPLICED) {
    in.mask.prefill_mask = session->prefill_mask;
    in.mask.L0 = session->prefill_len;
  }
  double *logits;
  MR3D_TRY(mr3d_request_output(r, "logits", MR3D_F64, 3, (int64_t[]){in.B, in.q, r->config.vocab_size}, &logits));
  bool *skip = mr3d_request_memory(r, in.B * in.q, sizeof *skip);
  for (int64_t b = 0; b < in.B && in.mask.rule == MR3D_PAD_END; b++)
    for (int64_t i = 0; i < in.q; i++) skip[b * in.q + i] = mr3d_session_padded(session, b) || is_padding(&in, b, i);
  MR3D_TRY(skip_logits(r, in.B, in.q, in.q, skip));

  double *embeds = mr3d_request_memory(r, in.B * in.q * r->config.hidden_size, sizeof *embeds);
  double *hidden = mr3d_request_memory(r, in.B * in.q * r->config.hidden_size, sizeof *hidden);
  MR3D_TRY(mr3d_decoder_embed(&decoder, in.B * in.q, tensors.input_ids, embeds, r->error));
  mr3d_context of_model = r->context;
  of_model.layer = MR3D_TRACE_MODEL;
  mr3d_trace(&of_model, "input_ids", MR3D_I64, 2, (int64_t[]){in.B, in.q}, tensors.input_ids);
  in.hidden = embeds;
  mr3d_kv_cache grown;
  MR3D_TRY(mr3d_decoder_forward(&r->context, &decoder, &session->cache, &in, hidden, &grown, r->error));
  mr3d_status status = mr3d_decoder_logits(&r->context, &decoder, in.B, in.q, in.q, hidden, logits, r->error);
  if (status == MR3D_OK)
    mr3d_session_grow(session, &grown);
  else
    mr3d_kv_cache_free(&grown);
  return status;
}

mr3d_status mr3d_answer_drop_session(mr3d_request *r) {
  MR3D_TRY(find_session(r, true));
  if (r->tier != r->session->tier)
    return mr3d_fail(r->error, MR3D_INVALID, "session %s has tier %s, the request says %s", r->session->name, mr3d_tier_name(r->session->tier),
                     mr3d_tier_name(r->tier));
  MR3D_TRY(mr3d_request_done(r));
  mr3d_session_drop(&r->server->sessions, r->session);
  r->session = NULL;
  return MR3D_OK;
}
