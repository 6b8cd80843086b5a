/** P35: products whose inputs are held in a narrower type than the tier's. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

typedef double held(double);

/** What a tensor core takes of a binary32 factor that nobody rounded for it: the low 13 bits are cut off. */
static double cut(double x) {
  const float narrow = (float)x;
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  bits &= 0xFFFFE000u;
  float kept;
  memcpy(&kept, &bits, sizeof kept);
  return (double)kept;
}

static double *copy_held(held *type, int64_t count, const double *x) {
  double *y = mr3d_allocate(count, sizeof *y);
  for (int64_t i = 0; i < count; i++) y[i] = type(x[i]);
  return y;
}

static void linear_of(held *input, held *weight, const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  mr3d_linear_in changed = *in;
  double *x = input ? copy_held(input, in->rows * in->in, in->x) : NULL, *w = weight ? copy_held(weight, in->out * in->in, in->weight) : NULL;
  if (x) changed.x = x;
  if (w) changed.weight = w;
  mr3d_linear(context, &changed, y);
  free(x);
  free(w);
}

static void attention_of(held *type, mr3d_softmax *weights, const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  mr3d_attention_in changed = *in;
  double *query = copy_held(type, in->B * in->H * in->q * in->D, in->query), *key = copy_held(type, in->B * in->G * in->K * in->D, in->key),
         *value = copy_held(type, in->B * in->G * in->K * in->D, in->value);
  changed.query = query, changed.key = key, changed.value = value;
  mr3d_attend_with(weights, false, context, &changed, y);
  free(query);
  free(key);
  free(value);
}

/** For projections and for attention, where the probabilities are inputs, too. */
#define INPUTS(name, type)                                                                                                                              \
  static void name##_row(int64_t keys, const bool *visible, double *s) {                                                                                \
    mr3d_softmax_row(keys, visible, s);                                                                                                                 \
    for (int64_t j = 0; j < keys; j++) s[j] = type(s[j]);                                                                                               \
  }                                                                                                                                                     \
  static void name##_rows(const mr3d_scores *scores) { mr3d_scores_by_row(scores, name##_row); }                                                        \
  static void name##_linear(const mr3d_context *context, const mr3d_linear_in *in, double *y) { linear_of(type, type, context, in, y); }                \
  static void name##_attention(const mr3d_context *context, const mr3d_attention_in *in, double *y) { attention_of(type, name##_rows, context, in, y); }
INPUTS(tf32, mr3d_in_tf32)
INPUTS(tf32_cut, cut)
INPUTS(bf16, mr3d_in_bf16)

static void activations_bf16(const mr3d_context *context, const mr3d_linear_in *in, double *y) { linear_of(mr3d_in_bf16, NULL, context, in, y); }
static void activations_fp16(const mr3d_context *context, const mr3d_linear_in *in, double *y) { linear_of(mr3d_in_f16, NULL, context, in, y); }
static void weights_bf16(const mr3d_context *context, const mr3d_linear_in *in, double *y) { linear_of(NULL, mr3d_in_bf16, context, in, y); }
static void weights_fp16(const mr3d_context *context, const mr3d_linear_in *in, double *y) { linear_of(NULL, mr3d_in_f16, context, in, y); }

#define WIDE (1u << MR3D_FP64 | 1u << MR3D_FP32)

#define TF32_IS_A_TIER .tiers = WIDE, .harmless = "that is tf32, and inputs of the narrow tiers have no more digits"
#define CUT_IS_NO_TIER .tiers = WIDE | 1u << MR3D_TF32, .harmless = "inputs of the narrow tiers have no more digits"
#define BF16_IS_A_TIER .tiers = WIDE | 1u << MR3D_TF32 | 1u << MR3D_FP16, .harmless = "there they are bfloat16"
#define FP16_IS_AS_WIDE .tiers = WIDE, .harmless = "float16 has the digits of tf32's inputs, and more than bfloat16"

static const mr3d_mutant entries[] = {
    {"narrow-products", "inputs-tf32", "the inputs of projections are rounded to TF32's 11 digits", MR3D_PRODUCTS, {.linear = tf32_linear}, TF32_IS_A_TIER},
    {"narrow-products", "inputs-tf32-cut", "the inputs of projections are cut off after TF32's 11 digits, not rounded", MR3D_PRODUCTS, {.linear = tf32_cut_linear}, CUT_IS_NO_TIER},
    {"narrow-products", "inputs-bf16", "the inputs of projections are rounded to bfloat16", MR3D_PRODUCTS, {.linear = bf16_linear}, BF16_IS_A_TIER},
    {"narrow-products", "attention-tf32", "the inputs of attention's two products are rounded to TF32's 11 digits", MR3D_ATTENDING, {.attention = tf32_attention}, TF32_IS_A_TIER},
    {"narrow-products", "attention-tf32-cut", "the inputs of attention's two products are cut off after TF32's 11 digits, not rounded", MR3D_ATTENDING,
     {.attention = tf32_cut_attention}, CUT_IS_NO_TIER},
    {"narrow-products", "attention-bf16", "the inputs of attention's two products are rounded to bfloat16", MR3D_ATTENDING, {.attention = bf16_attention}, BF16_IS_A_TIER},
    {"narrow-products", "activations-bf16", "what projections are given is rounded to bfloat16, their weights are not", MR3D_PRODUCTS, {.linear = activations_bf16}, BF16_IS_A_TIER},
    {"narrow-products", "activations-fp16", "what projections are given is rounded to float16, their weights are not", MR3D_PRODUCTS, {.linear = activations_fp16}, FP16_IS_AS_WIDE},
    {"narrow-products", "weights-bf16", "weights are held in bfloat16", MR3D_PRODUCTS, {.linear = weights_bf16}, BF16_IS_A_TIER},
    {"narrow-products", "weights-fp16", "weights are held in float16", MR3D_PRODUCTS, {.linear = weights_fp16}, FP16_IS_AS_WIDE},
};
const mr3d_mutant_set mr3d_mutants_narrow_products = MR3D_MUTANT_SET(entries);
