/** P5: the mask is left to a parent class or a library: the call hangs, or a step of the five is missing. */
#include "mutants_internal.h"

/** Whether new token i sees key j when a step is missing; `last` is what the last new token sees: every key that is present. */
typedef bool rule(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j);

static mr3d_status by_rule(rule *sees, const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  int64_t K = in->L + in->q;
  for (int64_t b = 0; status == MR3D_OK && in->q > 0 && b < in->B; b++) {
    bool *rows = visible + b * in->q * K;
    const bool *last = rows + (in->q - 1) * K; /* changed last, one column at a time, after it was read */
    for (int64_t i = 0; i < in->q; i++)
      for (int64_t j = 0; j < K; j++) rows[i * K + j] = sees(in, last, i, j);
  }
  return status;
}

static bool not_causal(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return (void)in, (void)i, last[j]; }
static bool not_padded(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return (void)last, j <= in->L + i; }
static bool without_past(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return (void)in, last[j] && j <= i; }
static bool strictly(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return last[j] && j < in->L + i; }

static mr3d_status causal_missing(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return by_rule(not_causal, context, in, visible, error);
}
static mr3d_status padding_missing(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return by_rule(not_padded, context, in, visible, error);
}
static mr3d_status causal_without_past(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return by_rule(without_past, context, in, visible, error);
}
static mr3d_status strictly_causal(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return by_rule(strictly, context, in, visible, error);
}

static const mr3d_mutant entries[] = {
    {"mask-ownership", "never-returns", "the call that builds the attention mask never returns: it waits inside a parent class or library", "mask " MR3D_LAYERS,
     {NULL}, .hangs = true},
    {"mask-ownership", "causal-missing", "the causal step is missing: tokens see later tokens", "mask " MR3D_LAYERS, {.mask = causal_missing}},
    {"mask-ownership", "padding-missing", "the padding step is missing: keys with mask 0 are seen", "mask " MR3D_LAYERS, {.mask = padding_missing}},
    {"mask-ownership", "causal-without-past", "the causal step forgets the past: new token i sees keys 0 .. i instead of 0 .. L+i", "mask " MR3D_LAYERS,
     {.mask = causal_without_past}},
    {"mask-ownership", "strictly-causal", "the causal step is strict: a token does not see itself", "mask " MR3D_LAYERS, {.mask = strictly_causal}},
};
const mr3d_mutant_set mr3d_mutants_mask_ownership = MR3D_MUTANT_SET(entries);
