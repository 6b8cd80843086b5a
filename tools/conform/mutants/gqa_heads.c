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

static mr3d_status query_weights_for_keys(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                                          double *key, mr3d_error *error) {
  mr3d_mixed_rope_in changed = *in;
  changed.kv.axial_weights = in->kv.axial_weights ? in->q.axial_weights : NULL; /* [heads,F,3]: the first G heads */
  return mr3d_mixed_rope(context, config, &changed, query, key, error);
}

/** Attention in which query head h reads the key/value head that `kv_head` says. */
static void attend(const mr3d_context *context, const mr3d_attention_in *in, int64_t (*kv_head)(int64_t h, int64_t H, int64_t G), double *y) {
  int64_t size = in->K * in->D;
  double *key = mr3d_allocate(in->B * in->H * size, sizeof *key), *value = mr3d_allocate(in->B * in->H * size, sizeof *value);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t h = 0; h < in->H; h++) {
      int64_t from = (b * in->G + kv_head(h, in->H, in->G)) * size, to = (b * in->H + h) * size;
      memcpy(key + to, in->key + from, (size_t)size * sizeof *key);
      memcpy(value + to, in->value + from, (size_t)size * sizeof *value);
    }
  mr3d_attention_in changed = *in;
  changed.G = in->H;
  changed.key = key;
  changed.value = value;
  mr3d_attention(context, &changed, y);
  free(key);
  free(value);
}

static int64_t modulo(int64_t h, int64_t H, int64_t G) { return (void)H, h % G; }
static int64_t rounded_up(int64_t h, int64_t H, int64_t G) {
  int64_t g = (h * G + H - 1) / H;
  return g < G ? g : G - 1;
}
static void kv_head_modulo(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend(context, in, modulo, y); }
static void kv_head_rounded_up(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attend(context, in, rounded_up, y); }

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
    {"gqa-heads", "kv-head-rounded-up", "query head h reads key/value head h / 7 rounded up instead of down", "attention " MR3D_LAYERS,
     {.attention = kv_head_rounded_up}},
};
const mr3d_mutant_set mr3d_mutants_gqa_heads = MR3D_MUTANT_SET(entries);
