/** P11: library code that computes in binary32 "for stability", also where everything else is binary64. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

/** A copy in binary32; NULL stays NULL. */
static double *downcast(int64_t count, const double *x) {
  if (!x) return NULL;
  double *y = mr3d_allocate(count, sizeof *y);
  for (int64_t i = 0; i < count; i++) y[i] = mr3d_in_f32(x[i]);
  return y;
}

static void upcast(int64_t count, double *y) {
  for (int64_t i = 0; i < count; i++) y[i] = mr3d_in_f32(y[i]);
}

static void softmax_row(int64_t keys, const bool *visible, double *s) {
  float max = -INFINITY, sum = 0;
  for (int64_t j = 0; j < keys; j++)
    if (visible[j]) max = fmaxf(max, (float)s[j]);
  for (int64_t j = 0; j < keys; j++) {
    const float e = visible[j] ? expf((float)s[j] - max) : 0;
    sum += e;
    s[j] = (double)e;
  }
  for (int64_t j = 0; j < keys; j++) s[j] = visible[j] ? (double)((float)s[j] / sum) : 0;
}

static void softmax_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, softmax_row); }

static void softmax(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(softmax_rows, false, context, in, y); }

/** 1/sqrt(head_dim) as a float argument; the rows' softmax divides by sqrt(head_dim). */
static void scale_rows(const mr3d_scores *scores) {
  const double factor = (double)(1 / sqrtf((float)scores->D)) * sqrt((double)scores->D);
  for (int64_t i = 0; i < scores->queries * scores->keys; i++) scores->s[i] *= factor;
  mr3d_scores_by_row(scores, mr3d_softmax_row);
}

static void scale(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(scale_rows, false, context, in, y); }

static void epsilon(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  mr3d_rmsnorm_in changed = *in;
  changed.eps = mr3d_in_f32(in->eps);
  mr3d_rmsnorm(context, &changed, y);
}

static void rope_theta(const mr3d_context *context, int64_t P, int64_t D, double theta, const int64_t *positions, double *cos_table, double *sin_table) {
  mr3d_rotary_table(context, P, D, mr3d_in_f32(theta), positions, cos_table, sin_table);
}

/** x is cast down, and cast back before the product with the weight. */
static void rmsnorm(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  (void)context;
  for (int64_t r = 0; r < in->rows; r++) {
    const double *x = in->x + r * in->n;
    float sum = 0;
    for (int64_t i = 0; i < in->n; i++) sum += (float)x[i] * (float)x[i];
    const float rms = sqrtf(sum / (float)in->n + (float)in->eps);
    for (int64_t i = 0; i < in->n; i++) y[r * in->n + i] = (double)((float)x[i] / rms) * in->weight[i];
  }
}

static void linear(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  mr3d_linear_in changed = *in;
  double *x = downcast(in->rows * in->in, in->x), *weight = downcast(in->out * in->in, in->weight), *bias = downcast(in->out, in->bias);
  changed.x = x, changed.weight = weight, changed.bias = bias;
  mr3d_linear(context, &changed, y);
  upcast(in->rows * in->out, y);
  free(x);
  free(weight);
  free(bias);
}

static void swiglu(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  (void)context;
  for (int64_t i = 0; i < in->rows * in->n; i++) {
    const float gate = (float)in->gate[i];
    y[i] = (double)(gate / (1 + expf(-gate))) * in->up[i];
  }
}

/** The table from inverse frequencies in binary32, in binary32 throughout or only up to there. */
static void table_from(bool throughout, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table, double *sin_table) {
  for (int64_t p = 0; p < P; p++)
    for (int64_t j = 0; j < D; j++) {
      const float inv_freq = powf((float)rope_theta, -(float)(2 * (j % (D / 2))) / (float)D), angle = (float)positions[p] * inv_freq;
      cos_table[p * D + j] = throughout ? (double)cosf(angle) : cos((double)positions[p] * (double)inv_freq);
      sin_table[p * D + j] = throughout ? (double)sinf(angle) : sin((double)positions[p] * (double)inv_freq);
    }
}

static void rotary_table(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table, double *sin_table) {
  (void)context;
  table_from(true, P, D, rope_theta, positions, cos_table, sin_table);
}

static void inverse_frequencies(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                                double *sin_table) {
  (void)context;
  table_from(false, P, D, rope_theta, positions, cos_table, sin_table);
}

static void cis3d(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  (void)context;
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t n = 0; n < in->N; n++)
      for (int64_t f = 0; f < in->F; f++) {
        float angle = 0;
        for (int64_t a = 0; a < 3; a++) {
          const float weight = in->axial_weights ? (float)in->axial_weights[(h * in->F + f) * 3 + a] : 1;
          angle += weight * (float)in->freqs[((in->freq_axes == 1 ? 0 : a) * in->heads + h) * in->F + f] * (float)in->coords[n * 3 + a];
        }
        cos_table[(h * in->N + n) * in->F + f] = (double)cosf(angle);
        sin_table[(h * in->N + n) * in->F + f] = (double)sinf(angle);
      }
}

static mr3d_status normalize_coords(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out, mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  if (status == MR3D_OK) upcast(in->B * in->N * 3, out);
  return status;
}

static void rope3d(const mr3d_context *context, const mr3d_rope3d_in *in, double *y) {
  const int64_t count = in->heads * in->N * (in->Ds / 2);
  mr3d_rope3d_in changed = *in;
  double *cos_table = downcast(count, in->cos_table), *sin_table = downcast(count, in->sin_table);
  changed.cos_table = cos_table, changed.sin_table = sin_table;
  mr3d_rope3d(context, &changed, y);
  free(cos_table);
  free(sin_table);
}

#define ONLY_FP64 .tiers = 1u << MR3D_FP64, .harmless = "binary32 is what every other tier computes in"

static const mr3d_mutant entries[] = {
    {"silent-downcast", "softmax", "softmax is computed in binary32 inside a binary64 run", MR3D_ATTENDING, {.attention = softmax}, ONLY_FP64},
    {"silent-downcast", "rmsnorm", "RMSNorm casts its input to binary32 inside a binary64 run", MR3D_NORMS, {.rmsnorm = rmsnorm}, ONLY_FP64},
    {"silent-downcast", "scale", "1/sqrt(head_dim) is held in binary32 inside a binary64 run", MR3D_ATTENDING, {.attention = scale}, ONLY_FP64},
    {"silent-downcast", "epsilon", "rms_norm_eps is held in binary32 inside a binary64 run", MR3D_NORMS, {.rmsnorm = epsilon}, ONLY_FP64},
    {"silent-downcast", "rope-theta", "rope_theta is held in binary32 inside a binary64 run", "rope1d " MR3D_ROTATIONS, {.rotary_table = rope_theta}, ONLY_FP64},
    {"silent-downcast", "rotary-table", "the 1D cos and sin are computed in binary32 inside a binary64 run", "rope1d " MR3D_ROTATIONS,
     {.rotary_table = rotary_table}, ONLY_FP64},
    {"silent-downcast", "inverse-frequencies", "the 1D inverse frequencies are stored in binary32 inside a binary64 run, angles are not", "rope1d " MR3D_ROTATIONS,
     {.rotary_table = inverse_frequencies}, ONLY_FP64},
    {"silent-downcast", "angles-3d", "the 3D angles, cos and sin are computed in binary32 inside a binary64 run", "cis3d " MR3D_ROTATIONS, {.cis3d = cis3d}, ONLY_FP64},
    {"silent-downcast", "tables-3d", "the 3D cos and sin are cast to binary32 (complex64) where they are used, inside a binary64 run", "rope3d " MR3D_ROTATIONS,
     {.rope3d = rope3d}, ONLY_FP64},
    {"silent-downcast", "coords", "normalised coordinates are stored in binary32 inside a binary64 run", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = normalize_coords}, ONLY_FP64},
    {"silent-downcast", "linear", "matrix products are computed in binary32 inside a binary64 run", MR3D_PRODUCTS, {.linear = linear}, ONLY_FP64},
    {"silent-downcast", "silu", "SiLU is computed in binary32 inside a binary64 run", "swiglu decoder_layer prefill decode", {.swiglu = swiglu}, ONLY_FP64},
};
const mr3d_mutant_set mr3d_mutants_silent_downcast = MR3D_MUTANT_SET(entries);
