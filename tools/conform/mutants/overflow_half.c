/** P27: scores and exponentials beyond the range of the type that holds them. */
#include <math.h>

#include "mutants_internal.h"

static const double largest = 0x1.fffffep127, smallest = 0x1p-149; /* binary32 */

static void product_fp16_rows(const mr3d_scores *scores) {
  for (int64_t i = 0; i < scores->queries * scores->keys; i++) scores->s[i] = mr3d_in_f16(scores->s[i]);
  mr3d_scores_by_row(scores, mr3d_softmax_row);
}

/** exp(score) overflows above 88 and is 0 below -103; only the range is binary32's. */
static void no_maximum_row(int64_t keys, const bool *visible, double *s) {
  double sum = 0;
  bool any = false;
  for (int64_t j = 0; j < keys; j++) {
    const double e = visible[j] ? exp(s[j]) : 0;
    sum += s[j] = e > largest ? INFINITY : e < smallest ? 0 : e;
    any = any || visible[j];
  }
  for (int64_t j = 0; j < keys && any; j++) s[j] /= sum;
}

/** Softmax with the exponentials, and the running sum of them, held by functions. */
static void held_row(double (*exponential)(double), double (*sum_so_far)(double), int64_t keys, const bool *visible, double *s) {
  double max = -INFINITY, sum = 0;
  for (int64_t j = 0; j < keys; j++)
    if (visible[j]) max = fmax(max, s[j]);
  for (int64_t j = 0; j < keys; j++) sum = sum_so_far(sum + (s[j] = visible[j] ? exponential(exp(s[j] - max)) : 0));
  for (int64_t j = 0; j < keys; j++) s[j] = visible[j] ? s[j] / sum : 0;
}

static double as_it_is(double x) { return x; }

static void exp_fp16_row(int64_t keys, const bool *visible, double *s) { held_row(mr3d_in_f16, as_it_is, keys, visible, s); }
static void sum_fp16_row(int64_t keys, const bool *visible, double *s) { held_row(as_it_is, mr3d_in_f16, keys, visible, s); }

static void no_maximum_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, no_maximum_row); }
static void exp_fp16_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, exp_fp16_row); }
static void sum_fp16_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, sum_fp16_row); }

static void product_fp16(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(product_fp16_rows, false, context, in, y); }
static void no_maximum(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(no_maximum_rows, false, context, in, y); }
static void exp_fp16(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(exp_fp16_rows, false, context, in, y); }
static void sum_fp16(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(sum_fp16_rows, false, context, in, y); }

/** A sum of squares in float16: infinite beyond 65504, so that the row becomes 0. */
static void squares_fp16(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  (void)context;
  for (int64_t r = 0; r < in->rows; r++) {
    const double *x = in->x + r * in->n;
    double sum = 0;
    for (int64_t i = 0; i < in->n; i++) sum += mr3d_in_f16(x[i] * x[i]);
    const double rms = sqrt(sum / (double)in->n + in->eps);
    for (int64_t i = 0; i < in->n; i++) y[r * in->n + i] = x[i] / rms * in->weight[i];
  }
}

/** x e^x / (1 + e^x) as it stands: infinity over infinity above 88 in binary32. */
static void silu_of_growing_exp(const mr3d_context *context, const mr3d_swiglu_in *in, double *y) {
  (void)context;
  for (int64_t i = 0; i < in->rows * in->n; i++) {
    const double e = exp(in->gate[i]), held = e > largest ? INFINITY : e;
    y[i] = in->gate[i] * held / (1 + held) * in->up[i];
  }
}

#define ATTENTION MR3D_ATTENDING

static const mr3d_mutant entries[] = {
    {"overflow-half", "product-fp16", "query times key is held in float16 before it is divided by sqrt(head_dim): it overflows beyond 65504", ATTENTION,
     {.attention = product_fp16}},
    {"overflow-half", "no-maximum", "softmax does not subtract the row's maximum: in binary32 the exponential overflows above 88", ATTENTION,
     {.attention = no_maximum}},
    {"overflow-half", "exp-fp16", "the exponentials of softmax are held in float16 before they are summed", ATTENTION, {.attention = exp_fp16},
     .tiers = 1u << MR3D_FP64 | 1u << MR3D_FP32, .harmless = "a probability that enters a product at tf32 or a narrow tier has no more than float16's 11 digits"},
    {"overflow-half", "sum-fp16", "the exponentials of softmax are summed in float16 instead of binary32", ATTENTION, {.attention = sum_fp16}},
    {"overflow-half", "squares-fp16", "the squares of RMSNorm are held in float16: they overflow where a value exceeds 256", MR3D_NORMS, {.rmsnorm = squares_fp16}},
    {"overflow-half", "silu-of-growing-exp", "SiLU is x e^x / (1 + e^x) for positive x too: in binary32 infinity over infinity above 88",
     "swiglu decoder_layer prefill decode", {.swiglu = silu_of_growing_exp}},
};
const mr3d_mutant_set mr3d_mutants_overflow_half = MR3D_MUTANT_SET(entries);
