/** P3: 14 query heads against 2 key/value heads. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

/** How many axes and bins the learned frequencies have. */
static mr3d_status bins_of(const mr3d_config *config, int64_t D, int64_t *axes, int64_t *F, mr3d_error *error) {
  mr3d_split split;
  mr3d_status status = mr3d_split_head(config, D, &split, error);
  if (status != MR3D_OK) return status;
  *axes = config->learned_per_axis ? 3 : 1;
  *F = split.Ds / 2;
  mr3d_split_free(&split);
  return MR3D_OK;
}

/** to [axes,n_to,F]: head h is the mean of heads first(h) .. first(h) + width - 1 of from [axes,n_from,F]; step and width by the mistake. */
static double *mixed_sets(const double *from, int64_t axes, int64_t n_from, int64_t n_to, int64_t F, int64_t step_num, int64_t step_den, int64_t width) {
  double *to = mr3d_allocate(axes * n_to * F, sizeof *to);
  for (int64_t a = 0; a < axes; a++)
    for (int64_t h = 0; h < n_to; h++)
      for (int64_t f = 0; f < F; f++) {
        double sum = 0;
        for (int64_t k = 0; k < width; k++) sum += from[(a * n_from + h * step_num / step_den + k) * F + f];
        to[(a * n_to + h) * F + f] = sum / (double)width;
      }
  return to;
}

static mr3d_status with_frequencies(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, bool for_query,
                                    int64_t step_num, int64_t step_den, int64_t width, double *query, double *key, mr3d_error *error) {
  int64_t axes, F;
  if (!in->q.freqs || !in->kv.freqs) return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_status status = bins_of(config, in->D, &axes, &F, error);
  if (status != MR3D_OK) return status;
  double *freqs = for_query ? mixed_sets(in->kv.freqs, axes, in->G, in->H, F, step_num, step_den, width)
                            : mixed_sets(in->q.freqs, axes, in->H, in->G, F, step_num, step_den, width);
  mr3d_mixed_rope_in changed = *in;
  *(for_query ? &changed.q.freqs : &changed.kv.freqs) = freqs;
  status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(freqs);
  return status;
}

static mr3d_status query_frequencies_for_keys(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                              double *key, mr3d_error *error) {
  return with_frequencies(context, config, in, false, 1, 1, 1, query, key, error);
}

static mr3d_status query_frequencies_averaged(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                              double *key, mr3d_error *error) {
  return with_frequencies(context, config, in, false, in->H / in->G, 1, in->H / in->G, query, key, error);
}

static mr3d_status key_frequencies_for_queries(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                               double *key, mr3d_error *error) {
  return with_frequencies(context, config, in, true, in->G, in->H, 1, query, key, error);
}

/** to [outer,n_to,size]: head h is head from_head(h) of from [outer,n_from,size]. */
static double *heads_by(int64_t (*from_head)(int64_t h, int64_t H, int64_t G), int64_t H, int64_t G, const double *from, int64_t outer, int64_t n_from,
                        int64_t n_to, int64_t size) {
  double *to = mr3d_allocate(outer * n_to * size, sizeof *to);
  for (int64_t i = 0; i < outer * n_to; i++)
    memcpy(to + i * size, from + (i / n_to * n_from + from_head(i % n_to, H, G)) * size, (size_t)size * sizeof *to);
  return to;
}

static int64_t modulo(int64_t h, int64_t H, int64_t G) { return (void)H, h % G; }
static int64_t divided(int64_t h, int64_t H, int64_t G) { return h / (H / G); }

MR3D_MIXED_ROPE(key_frequencies_tiled) {
  int64_t axes, F;
  if (!in->q.freqs || !in->kv.freqs) return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_status status = bins_of(config, in->D, &axes, &F, error);
  if (status != MR3D_OK) return status;
  double *freqs = heads_by(modulo, in->H, in->G, in->kv.freqs, axes, in->G, in->H, F);
  mr3d_mixed_rope_in changed = *in;
  changed.q.freqs = freqs;
  status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(freqs);
  return status;
}

MR3D_MIXED_ROPE(key_weights_for_queries) {
  int64_t axes, F;
  if (!in->q.axial_weights || !in->kv.axial_weights) return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_status status = bins_of(config, in->D, &axes, &F, error);
  if (status != MR3D_OK) return status;
  double *weights = heads_by(divided, in->H, in->G, in->kv.axial_weights, 1, in->G, in->H, F * 3);
  mr3d_mixed_rope_in changed = *in;
  changed.q.axial_weights = weights;
  status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(weights);
  return status;
}

MR3D_MIXED_ROPE(query_weights_averaged) {
  int64_t axes, F, width = in->G > 0 ? in->H / in->G : 0;
  if (!in->q.axial_weights || !in->kv.axial_weights) return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_status status = bins_of(config, in->D, &axes, &F, error);
  if (status != MR3D_OK) return status;
  double *weights = mixed_sets(in->q.axial_weights, 1, in->H, in->G, F * 3, width, 1, width);
  mr3d_mixed_rope_in changed = *in;
  changed.kv.axial_weights = weights;
  status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(weights);
  return status;
}

MR3D_MIXED_ROPE(sides_exchanged) {
  mr3d_mixed_rope_in changed = *in;
  if (in->H == in->G) { /* elsewhere the shapes do not fit, and everybody sees it */
    changed.q = in->kv;
    changed.kv = in->q;
  }
  return mr3d_mixed_rope(context, config, &changed, query, key, error);
}

static mr3d_status query_weights_for_keys(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                          double *key, mr3d_error *error) {
  mr3d_mixed_rope_in changed = *in;
  changed.kv.axial_weights = in->kv.axial_weights ? in->q.axial_weights : NULL; /* [heads,F,3]: the first G heads */
  return mr3d_mixed_rope(context, config, &changed, query, key, error);
}

typedef int64_t kv_head(int64_t h, int64_t H, int64_t G);

/** Attention in which query head h reads the key head and the value head that two rules say. */
static void attend_apart(const mr3d_context *context, const mr3d_attention_in *in, kv_head *of_key, kv_head *of_value, double *y) {
  int64_t size = in->K * in->D;
  double *key = mr3d_allocate(in->B * in->H * size, sizeof *key), *value = mr3d_allocate(in->B * in->H * size, sizeof *value);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t h = 0; h < in->H; h++) {
      int64_t to = (b * in->H + h) * size;
      memcpy(key + to, in->key + (b * in->G + of_key(h, in->H, in->G)) * size, (size_t)size * sizeof *key);
      memcpy(value + to, in->value + (b * in->G + of_value(h, in->H, in->G)) * size, (size_t)size * sizeof *value);
    }
  mr3d_attention_in changed = *in;
  changed.G = in->H;
  changed.key = key;
  changed.value = value;
  mr3d_attention(context, &changed, y);
  free(key);
  free(value);
}

static void attend(const mr3d_context *context, const mr3d_attention_in *in, kv_head *of_both, double *y) { attend_apart(context, in, of_both, of_both, y); }

static int64_t reversed(int64_t h, int64_t H, int64_t G) { return G - 1 - divided(h, H, G); }
static int64_t rounded_up(int64_t h, int64_t H, int64_t G) {
  int64_t g = (h * G + H - 1) / H;
  return g < G ? g : G - 1;
}
static void kv_head_modulo(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend(context, in, modulo, y); }
static void key_head_modulo(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend_apart(context, in, modulo, divided, y); }
static void value_head_modulo(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend_apart(context, in, divided, modulo, y); }
static void kv_head_rounded_up(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend(context, in, rounded_up, y); }
static void kv_head_reversed(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend(context, in, reversed, y); }

/** y [B,H,q,D], whose values stand in the order [B,q,H,D]: what a reshape without transpose makes of it. */
static void not_transposed(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  int64_t count = in->B * in->H * in->q * in->D;
  double *right = mr3d_allocate(count, sizeof *right);
  mr3d_attention(context, in, right);
  for (int64_t r = 0; r < in->B * in->H * in->q; r++) {
    int64_t b = r / (in->H * in->q), h = r / in->q % in->H, i = r % in->q;
    memcpy(y + r * in->D, right + ((b * in->q + i) * in->H + h) * in->D, (size_t)in->D * sizeof *y);
  }
  free(right);
}

static int64_t shared_out(int64_t h, int64_t H, int64_t G) { return h * G / H; }

/** Query heads that are no multiple of the key/value heads, shared out among them as evenly as it goes. */
static mr3d_bundle *uneven_groups(const mr3d_bundle *request) {
  const mr3d_tensor *query = mr3d_bundle_find(request, "query"), *key = mr3d_bundle_find(request, "key"), *value = mr3d_bundle_find(request, "value");
  if (!query || !key || !value || query->rank != 4 || key->rank != 4 || value->rank != 4 || !mr3d_dtype_is_float(key->dtype) || !mr3d_dtype_is_float(value->dtype)) return NULL;
  int64_t H = query->shape[1], G = key->shape[1];
  if (G < 1 || H % G == 0 || value->shape[1] != G) return NULL;
  mr3d_bundle *one = mr3d_request_without(request, "key"), *changed = mr3d_request_without(one, "value");
  for (int t = 0; t < 2; t++) {
    const mr3d_tensor *from = t ? value : key;
    double *values = mr3d_allocate(mr3d_tensor_count(from), sizeof *values);
    mr3d_tensor_to_double(from, values);
    double *repeated = heads_by(shared_out, H, G, values, from->shape[0], G, H, from->shape[2] * from->shape[3]);
    int64_t shape[4] = {from->shape[0], H, from->shape[2], from->shape[3]};
    mr3d_tensor_from_double(mr3d_bundle_add(changed, from->name, from->dtype, 4, shape), repeated);
    free(values);
    free(repeated);
  }
  mr3d_bundle_free(&one);
  return changed;
}

static int64_t cut_or_repeated(int64_t h, int64_t H, int64_t G) { return G < H && H % G == 0 ? divided(h, H, G) : h < G ? h : G - 1; }

/** 3D frequencies with another head count than their side's: the first ones are used, or each is repeated for its group. */
static mr3d_bundle *frequencies_fitted(const mr3d_bundle *request) {
  static const char *const names[2][2] = {{"query", "freqs_q"}, {"key", "freqs_kv"}};
  for (int side = 0; side < 2; side++) {
    const mr3d_tensor *x = mr3d_bundle_find(request, names[side][0]), *freqs = mr3d_bundle_find(request, names[side][1]);
    if (!x || !freqs || x->rank != 4 || freqs->rank != 3 || !mr3d_dtype_is_float(freqs->dtype) || freqs->shape[1] < 1 || freqs->shape[1] == x->shape[1]) continue;
    int64_t shape[3] = {freqs->shape[0], x->shape[1], freqs->shape[2]};
    double *values = mr3d_allocate(mr3d_tensor_count(freqs), sizeof *values);
    mr3d_tensor_to_double(freqs, values);
    double *fitted = heads_by(cut_or_repeated, shape[1], freqs->shape[1], values, shape[0], freqs->shape[1], shape[1], shape[2]);
    mr3d_bundle *changed = mr3d_request_without(request, names[side][1]);
    mr3d_tensor_from_double(mr3d_bundle_add(changed, names[side][1], freqs->dtype, 3, shape), fitted);
    free(values);
    free(fitted);
    return changed;
  }
  return NULL;
}

static int64_t first_last(int64_t h, int64_t H, int64_t G) { return (void)H, G - 1 - h; }

MR3D_LAYER(cached_heads_exchanged) {
  int64_t G = config->num_key_value_heads, size = in->L * config->head_dim;
  if (in->L == 0) return mr3d_attention_block(context, config, layer, in, out, error);
  double *key = heads_by(first_last, G, G, in->past_key, in->B, G, G, size), *value = heads_by(first_last, G, G, in->past_value, in->B, G, G, size);
  mr3d_block_in changed = *in;
  changed.past_key = key;
  changed.past_value = value;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(key);
  free(value);
  return status;
}

static const mr3d_mutant entries[] = {
    {"gqa-heads", "query-frequencies-for-keys", "keys are rotated with the frequencies of the first query heads (2 of 14) instead of freqs_3d_kv", MR3D_ROTATIONS,
     {.mixed_rope = query_frequencies_for_keys}},
    {"gqa-heads", "query-frequencies-averaged", "keys are rotated with the mean of their 7 query heads' frequencies instead of freqs_3d_kv", MR3D_ROTATIONS,
     {.mixed_rope = query_frequencies_averaged}},
    {"gqa-heads", "key-frequencies-for-queries", "queries are rotated with freqs_3d_kv, repeated for their group, instead of freqs_3d_q", MR3D_ROTATIONS,
     {.mixed_rope = key_frequencies_for_queries}},
    {"gqa-heads", "query-weights-for-keys", "keys are rotated with the axial weights of the first query heads instead of axial_weights_3d_kv", MR3D_ROTATIONS,
     {.mixed_rope = query_weights_for_keys}},
    {"gqa-heads", "kv-head-modulo", "query head h reads key/value head h mod 2 instead of h / 7: heads are tiled, not repeated in groups",
     "attention " MR3D_LAYERS, {.attention = kv_head_modulo}},
    {"gqa-heads", "key-head-modulo", "query head h reads key head h mod 2 instead of h / 7, and the right value head: only keys are tiled", "attention " MR3D_LAYERS,
     {.attention = key_head_modulo}},
    {"gqa-heads", "value-head-modulo", "query head h reads value head h mod 2 instead of h / 7, and the right key head: only values are tiled", "attention " MR3D_LAYERS,
     {.attention = value_head_modulo}},
    {"gqa-heads", "kv-head-rounded-up", "query head h reads key/value head h / 7 rounded up instead of down", "attention " MR3D_LAYERS,
     {.attention = kv_head_rounded_up}},
    {"gqa-heads", "key-frequencies-tiled", "queries are rotated with freqs_3d_kv, tiled (head h takes set h mod 2), instead of freqs_3d_q", MR3D_ROTATIONS,
     {.mixed_rope = key_frequencies_tiled}},
    {"gqa-heads", "key-weights-for-queries", "queries are rotated with axial_weights_3d_kv, repeated for their group, instead of axial_weights_3d_q", MR3D_ROTATIONS,
     {.mixed_rope = key_weights_for_queries}},
    {"gqa-heads", "query-weights-averaged", "keys are rotated with the mean of their 7 query heads' axial weights instead of axial_weights_3d_kv", MR3D_ROTATIONS,
     {.mixed_rope = query_weights_averaged}},
    {"gqa-heads", "sides-exchanged", "queries are rotated with the parameters of keys and keys with those of queries, where there are as many heads", MR3D_ROTATIONS,
     {.mixed_rope = sides_exchanged}},
    {"gqa-heads", "kv-head-reversed", "query head h reads key/value head 1 - h / 7 instead of h / 7: the groups stand in reverse order", MR3D_ATTENDING,
     {.attention = kv_head_reversed}},
    {"gqa-heads", "not-transposed", "the attention's output [H,q,D] is read as [q,H,D] without a transpose: heads and tokens are mixed", MR3D_ATTENDING,
     {.attention = not_transposed}, .only_whole = true},
    {"gqa-heads", "cached-heads-exchanged", "the key/value heads of the cache are read in reverse order: head 1 as head 0", MR3D_LAYERS,
     {.attention_block = cached_heads_exchanged}},
    {"gqa-heads", "uneven-groups", "query heads that are no multiple of the key/value heads are shared out among them (h G / H) instead of a refusal", "attention",
     {NULL}, uneven_groups},
    {"gqa-heads", "frequencies-fitted", "3D frequencies of another head count (14 where 2 stand) are cut or repeated to fit instead of a refusal", "mixed_rope", {NULL},
     frequencies_fitted},
};
const mr3d_mutant_set mr3d_mutants_gqa_heads = MR3D_MUTANT_SET(entries);
