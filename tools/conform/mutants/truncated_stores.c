/** P36: results of a narrow tier that are cut to its type, as a shift of the bits does, instead of rounded to it. */
#include <string.h>

#include "mutants_internal.h"

/** The nearest value of a 16-bit type that is no larger in size: bits of such types count up with the size, below the sign. */
static double cut(uint16_t to_bits(double), double from_bits(uint16_t), double x) {
  const uint16_t bits = to_bits(x);
  const double rounded = from_bits(bits);
  return fabs(rounded) > fabs(x) ? from_bits((uint16_t)(bits - 1)) : rounded;
}

static double cut_to_bf16(double x) { return cut(mr3d_bf16_from_double, mr3d_bf16_to_double, x); }
static double cut_to_f16(double x) { return cut(mr3d_f16_from_double, mr3d_f16_to_double, x); }

/** What a narrow tier answers in binary32 (protocol.md, "Types"), and so nobody cuts. */
static bool is_wide(const char *name) { return strcmp(name, "cos") == 0 || strcmp(name, "sin") == 0 || strcmp(name, "coords") == 0; }

static mr3d_bundle *cut_answer(double store(double), const mr3d_bundle *answer) {
  mr3d_bundle *changed = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(answer, i);
    if (tensor->dtype != MR3D_F64 || is_wide(tensor->name)) {
      mr3d_bundle_copy(changed, NULL, tensor);
      continue;
    }
    const double *values = tensor->data;
    double *kept = mr3d_bundle_add(changed, tensor->name, MR3D_F64, tensor->rank, tensor->shape)->data;
    for (int64_t k = 0; k < mr3d_tensor_count(tensor); k++) kept[k] = store(values[k]);
  }
  return changed;
}

static mr3d_bundle *outputs_bf16(const mr3d_bundle *request, const mr3d_bundle *answer) { return (void)request, cut_answer(cut_to_bf16, answer); }
static mr3d_bundle *outputs_fp16(const mr3d_bundle *request, const mr3d_bundle *answer) { return (void)request, cut_answer(cut_to_f16, answer); }

/** Without the arithmetic that a run may emulate, which rounds before there is anything to cut. */
static mr3d_context unrounded(const mr3d_context *context) {
  mr3d_context exact = *context;
  exact.arithmetic = NULL;
  return exact;
}

/** Only a library's products cut; what else is stored is rounded, as it should be. */
static void products_bf16(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  mr3d_linear_in without_bias = *in;
  without_bias.bias = NULL;
  const mr3d_context exact = unrounded(context);
  mr3d_linear(&exact, &without_bias, y);
  for (int64_t i = 0; i < in->rows * in->out; i++) {
    y[i] = cut_to_bf16(y[i]);
    if (in->bias) y[i] = mr3d_in_bf16(y[i] + in->bias[i % in->out]);
  }
}

static void softmax_row(int64_t keys, const bool *visible, double *s) {
  for (int64_t j = 0; j < keys; j++) s[j] = mr3d_in_bf16(s[j]);
  mr3d_softmax_row(keys, visible, s);
  for (int64_t j = 0; j < keys; j++) s[j] = mr3d_in_bf16(s[j]);
}

static void softmax_rows(const mr3d_scores *scores) {
  for (int64_t i = 0; i < scores->queries * scores->keys; i++) scores->s[i] = cut_to_bf16(scores->s[i]);
  mr3d_scores_by_row(scores, softmax_row);
}

static void attention_bf16(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  const mr3d_context exact = unrounded(context);
  mr3d_attend_with(softmax_rows, false, &exact, in, y);
  for (int64_t i = 0; i < in->B * in->H * in->q * in->D; i++) y[i] = cut_to_bf16(y[i]);
}

#define ONLY_BF16 .tiers = 1u << MR3D_BF16_TIER, .harmless = "no other tier stores bfloat16"
#define STORING "rope1d rope3d rmsnorm linear swiglu attention voxelize encode_points " MR3D_ROTATIONS

static const mr3d_mutant entries[] = {
    {"truncated-stores", "outputs-bf16", "results are cut off after bfloat16's 8 digits, not rounded", STORING, {NULL}, .distort = outputs_bf16, ONLY_BF16},
    {"truncated-stores", "outputs-fp16", "results are cut off after float16's 11 digits, not rounded", STORING, {NULL}, .distort = outputs_fp16, .tiers = 1u << MR3D_FP16,
     .harmless = "no other tier stores float16"},
    {"truncated-stores", "products-bf16", "what projections sum up is cut off after bfloat16's 8 digits, not rounded, before a bias is added", MR3D_PRODUCTS, {.linear = products_bf16},
     ONLY_BF16},
    {"truncated-stores", "attention-bf16", "attention's scores and sums are cut off after bfloat16's 8 digits, not rounded", MR3D_ATTENDING, {.attention = attention_bf16}, ONLY_BF16},
};
const mr3d_mutant_set mr3d_mutants_truncated_stores = MR3D_MUTANT_SET(entries);
