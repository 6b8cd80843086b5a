/** P5: the mask is left to a parent class or a library: the call hangs, or a step of the five is missing. */
#include <stdlib.h>
#include <string.h>

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

static bool one_later(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return last[j] && j <= in->L + i + 1; }
static bool only_new(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return last[j] && j >= in->L && j <= in->L + i; }
static bool with_zeros(const mr3d_mask_in *in, const bool *last, int64_t i, int64_t j) { return !last[j] && j <= in->L + i; }

MR3D_MASK(sees_one_later) { return by_rule(one_later, context, in, visible, error); }
MR3D_MASK(past_hidden) { return by_rule(only_new, context, in, visible, error); }
MR3D_MASK(key_mask_inverted) {
  return in->key_mask || in->prefill_mask ? by_rule(with_zeros, context, in, visible, error) : mr3d_mask(context, in, visible, error);
}
MR3D_MASK(padding_missing_at_prefill) { return in->L > 0 ? mr3d_mask(context, in, visible, error) : by_rule(not_padded, context, in, visible, error); }
MR3D_MASK(causal_missing_at_decode) { return in->L == 0 ? mr3d_mask(context, in, visible, error) : by_rule(not_causal, context, in, visible, error); }

MR3D_MASK(mask_of_sample_0) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  size_t size = (size_t)(in->q * (in->L + in->q)) * sizeof *visible;
  for (int64_t b = 1; status == MR3D_OK && b < in->B; b++) memcpy((char *)visible + (size_t)b * size, visible, size);
  return status;
}

/** Points of one call see each other; the mask is told by what the block remembers. */
MR3D_MASK(points_see_points) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  const double *points = mr3d_mutant_remembered("points of the call", in->B * in->q);
  int64_t K = in->L + in->q;
  for (int64_t row = 0; status == MR3D_OK && points && row < in->B * in->q; row++) {
    int64_t b = row / in->q;
    const bool *last = visible + ((b + 1) * in->q - 1) * K;
    for (int64_t j = 0; j < in->q; j++)
      if (points[row] != 0 && points[b * in->q + j] != 0 && last[in->L + j]) visible[row * K + in->L + j] = true;
  }
  return status;
}

MR3D_LAYER(points_bidirectional) {
  if (!in->points.mask) return mr3d_attention_block(context, config, layer, in, out, error);
  double *points = mr3d_allocate(in->B * in->q, sizeof *points);
  for (int64_t i = 0; i < in->B * in->q; i++) points[i] = in->points.mask[i];
  mr3d_mutant_remember("points of the call", in->B * in->q, points);
  free(points);
  mr3d_operators operators = *context->op;
  operators.mask = points_see_points;
  mr3d_context changed = *context;
  changed.op = &operators;
  return mr3d_attention_block(&changed, config, layer, in, out, error);
}

static const mr3d_mutant entries[] = {
    {"mask-ownership", "never-returns", "the call that builds the attention mask never returns: it waits inside a parent class or library", "mask " MR3D_LAYERS,
     {NULL}, .hangs = true},
    {"mask-ownership", "mask-of-sample-0", "every sample gets the mask of sample 0", "mask " MR3D_LAYERS, {.mask = mask_of_sample_0}},
    {"mask-ownership", "padding-missing-at-prefill", "the padding step is missing at prefill, where a library takes its causal mask alone: keys with mask 0 are seen",
     "mask " MR3D_LAYERS, {.mask = padding_missing_at_prefill}},
    {"mask-ownership", "causal-missing-at-decode", "the causal step is missing when there is a past, as if q were 1: new tokens see later ones", "mask " MR3D_LAYERS,
     {.mask = causal_missing_at_decode}},
    {"mask-ownership", "causal-missing", "the causal step is missing: tokens see later tokens", "mask " MR3D_LAYERS, {.mask = causal_missing}},
    {"mask-ownership", "padding-missing", "the padding step is missing: keys with mask 0 are seen", "mask " MR3D_LAYERS, {.mask = padding_missing}},
    {"mask-ownership", "causal-without-past", "the causal step forgets the past: new token i sees keys 0 .. i instead of 0 .. L+i", "mask " MR3D_LAYERS,
     {.mask = causal_without_past}},
    {"mask-ownership", "strictly-causal", "the causal step is strict: a token does not see itself", "mask " MR3D_LAYERS, {.mask = strictly_causal}},
    {"mask-ownership", "sees-one-later", "the causal step is off by one: a token sees the one behind it", "mask " MR3D_LAYERS, {.mask = sees_one_later}},
    {"mask-ownership", "past-hidden", "the causal step is made for new tokens only: the past is hidden from them", "mask " MR3D_LAYERS, {.mask = past_hidden}},
    {"mask-ownership", "key-mask-inverted", "the key mask is read as its opposite: 1 hides a key and 0 shows it", "mask " MR3D_LAYERS, {.mask = key_mask_inverted}},
    {"mask-ownership", "points-bidirectional", "points see all other points of their call, later ones too: the mask is causal for text only", MR3D_LAYERS,
     {.attention_block = points_bidirectional}},
};
const mr3d_mutant_set mr3d_mutants_mask_ownership = MR3D_MUTANT_SET(entries);
