/** P1: the decode mask counts text tokens only, 232 where 787 keys stand. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static bool is_short(const mr3d_mask_in *in) { return in->L > 0 && in->key_mask && in->M < in->L + in->q; }
static bool by_prefill(const mr3d_mask_in *in) { return in->prefill_mask && in->rule == MR3D_SPLICED; }

/** The key mask's value for sample b's key j, by some rule. */
typedef int64_t column(const mr3d_mask_in *in, int64_t b, int64_t j);

static mr3d_status with_columns(column *of, const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  int64_t K = in->L + in->q, *mask = mr3d_allocate(in->B * K, sizeof *mask);
  for (int64_t i = 0; i < in->B * K; i++) mask[i] = of(in, i / K, i % K);
  mr3d_mask_in changed = *in;
  changed.rule = MR3D_PAD_END;
  changed.prefill_mask = NULL; /* has no meaning under pad_end */
  changed.key_mask = mask;
  changed.M = K;
  mr3d_status status = mr3d_mask(context, &changed, visible, error);
  free(mask);
  return status;
}

/** The same where it `applies`, to a mask that is not refused. */
static mr3d_status where(bool applies, column *of, const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  return status == MR3D_OK && applies ? with_columns(of, context, in, visible, error) : status;
}

static int64_t caller(const mr3d_mask_in *in, int64_t b, int64_t j) { return in->key_mask[b * in->M + j]; }
static int64_t then_zeros(const mr3d_mask_in *in, int64_t b, int64_t j) { return j < in->M ? caller(in, b, j) : 0; }
static int64_t then_ones(const mr3d_mask_in *in, int64_t b, int64_t j) { return j < in->M ? caller(in, b, j) : 1; }
static int64_t then_zeros_for_cached(const mr3d_mask_in *in, int64_t b, int64_t j) { return j < in->M ? caller(in, b, j) : j >= in->L; }
static int64_t behind_ones(const mr3d_mask_in *in, int64_t b, int64_t j) {
  int64_t missing = in->L + in->q - in->M;
  return j < missing ? 1 : caller(in, b, j - missing);
}
static int64_t one(const mr3d_mask_in *in, int64_t b, int64_t j) { return (void)in, (void)b, (void)j, 1; }
static int64_t prefill_then_zeros(const mr3d_mask_in *in, int64_t b, int64_t j) { return j < in->L0 ? in->prefill_mask[b * in->L0 + j] : 0; }

MR3D_MASK(unrepaired) { return where(is_short(in), then_zeros, context, in, visible, error); }
MR3D_MASK(zeros_for_cached) { return where(is_short(in), then_zeros_for_cached, context, in, visible, error); }
MR3D_MASK(ones_in_front) { return where(is_short(in), behind_ones, context, in, visible, error); }
MR3D_MASK(replaced_by_ones) { return where(is_short(in), one, context, in, visible, error); }
MR3D_MASK(zeros_behind_prefill) { return where(by_prefill(in), prefill_then_zeros, context, in, visible, error); }
MR3D_MASK(caller_when_long) { return where(by_prefill(in) && in->key_mask && in->M == in->L + in->q, caller, context, in, visible, error); }

MR3D_MASK(padded_at_prefill) {
  bool due = in->L == 0 && in->key_mask && in->M < in->q && !in->prefill_mask;
  return due ? with_columns(then_ones, context, in, visible, error) : mr3d_mask(context, in, visible, error);
}

/** Keys from `first` on are hidden when the mask is short. */
static mr3d_status hidden_from(int64_t first, const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  int64_t K = in->L + in->q;
  for (int64_t row = 0; status == MR3D_OK && is_short(in) && row < in->B * in->q; row++)
    for (int64_t j = first; j < K; j++) visible[row * K + j] = false;
  return status;
}

MR3D_MASK(one_short) { return hidden_from(in->L + in->q - 1, context, in, visible, error); }
MR3D_MASK(new_keys_hidden) { return hidden_from(in->L, context, in, visible, error); }
MR3D_MASK(one_new_key) { return hidden_from(in->L + 1, context, in, visible, error); }

/** mask [B,K] = columns `at` .. `at`+K-1 of a longer one; as it is when it is none. */
static int64_t *cut(int64_t B, const int64_t *mask, int64_t *columns, int64_t K, bool last) {
  int64_t n = *columns < K ? *columns : K, at = last ? *columns - n : 0, *kept = mr3d_allocate(B * n, sizeof *kept);
  for (int64_t b = 0; mask && n > 0 && b < B; b++) memcpy(kept + b * n, mask + b * *columns + at, (size_t)n * sizeof *kept);
  *columns = n;
  return kept;
}

static mr3d_status shortened(bool last, const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  int64_t K = in->L + in->q;
  if (in->L < 0 || in->q < 0) return mr3d_mask(context, in, visible, error);
  mr3d_mask_in changed = *in;
  int64_t *mask = cut(in->B, in->key_mask, &changed.M, K, last), *prefill_mask = cut(in->B, in->prefill_mask, &changed.L0, K, last);
  if (in->key_mask) changed.key_mask = mask;
  if (in->prefill_mask) changed.prefill_mask = prefill_mask;
  mr3d_status status = mr3d_mask(context, &changed, visible, error);
  free(mask);
  free(prefill_mask);
  return status;
}

MR3D_MASK(first_columns) { return shortened(false, context, in, visible, error); }
MR3D_MASK(last_columns) { return shortened(true, context, in, visible, error); }

MR3D_MASK(prefill_mask_ignored) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  mr3d_mask_in changed = *in;
  changed.rule = MR3D_PAD_END;
  changed.prefill_mask = NULL;
  return status == MR3D_OK ? mr3d_mask(context, &changed, visible, error) : status;
}

static mr3d_bundle *spliced_for_pad_end(const mr3d_bundle *request) {
  mr3d_config config;
  const char *op = mr3d_bundle_get(request, "op");
  bool session = op && (strcmp(op, "prefill") == 0 || strcmp(op, "decode") == 0) && mr3d_request_config(request, &config);
  return session && config.decode_mask == MR3D_PAD_END ? mr3d_request_configured(request, "decode_mask", "\"spliced\"") : NULL;
}

static mr3d_bundle *prefill_mask_used(const mr3d_bundle *request) {
  mr3d_config config;
  bool unfit = mr3d_bundle_find(request, "prefill_mask") && mr3d_request_config(request, &config) && config.decode_mask == MR3D_PAD_END;
  return unfit ? mr3d_request_configured(request, "decode_mask", "\"spliced\"") : NULL;
}

/** Ones go where the points are: the mask is spliced anew at every step, at the place that was kept from the call with the points. */
MR3D_LAYER(ones_at_splice) {
  int64_t K = in->L + in->q, missing = K - in->mask.M;
  double *first = mr3d_allocate(in->B, sizeof *first);
  for (int64_t b = 0; in->points.mask && b < in->B; b++) {
    int64_t s = 0;
    while (s < in->q && !in->points.mask[b * in->q + s]) s++;
    first[b] = (double)(in->L + s);
  }
  if (in->points.mask) mr3d_mutant_remember("first point", in->B, first);
  free(first);
  const double *at = mr3d_mutant_remembered("first point", in->B);
  if (!is_short(&in->mask) || in->mask.prefill_mask || !at) return mr3d_attention_block(context, config, layer, in, out, error);
  int64_t *mask = mr3d_allocate(in->B * K, sizeof *mask);
  for (int64_t i = 0; i < in->B * K; i++) {
    int64_t b = i / K, j = i % K, from = j < (int64_t)at[b] ? j : j - missing; /* one pad token gave way to missing + 1 points */
    bool of_text = from < in->mask.M && (j < (int64_t)at[b] || j > (int64_t)at[b] + missing);
    mask[i] = of_text ? in->mask.key_mask[b * in->mask.M + from] : 1;
  }
  mr3d_block_in changed = *in;
  changed.mask.key_mask = mask;
  changed.mask.M = K;
  mr3d_status status = mr3d_attention_block(context, config, layer, &changed, out, error);
  free(mask);
  return status;
}

static const mr3d_mutant entries[] = {
    {"mask-length", "unrepaired", "the caller's text-only mask is used as it is: with 232 columns for 787 keys, the first 232 keys are seen and the other 555 hidden",
     "mask " MR3D_LAYERS, {.mask = unrepaired}},
    {"mask-length", "ones-at-splice", "at a decode step the missing ones are put where the points stand instead of at the mask's end", "prefill decode",
     {.attention_block = ones_at_splice}},
    {"mask-length", "ones-in-front", "the missing 555 columns are put in front of the caller's mask instead of behind it", "mask " MR3D_LAYERS,
     {.mask = ones_in_front}},
    {"mask-length", "new-keys-hidden", "the mask is extended for the cached keys only: new tokens do not see the keys they bring", "mask " MR3D_LAYERS,
     {.mask = new_keys_hidden}},
    {"mask-length", "one-short", "the mask is extended to 786 columns instead of 787: the last key is hidden", "mask " MR3D_LAYERS, {.mask = one_short}},
    {"mask-length", "one-new-key", "the mask is extended to past + 1 columns instead of past + q: of the new keys only the first is seen", "mask " MR3D_LAYERS,
     {.mask = one_new_key}},
    {"mask-length", "zeros-for-cached", "the missing columns of cached keys are zeros instead of ones: 554 of 786 cached keys are hidden, the new one is seen",
     "mask " MR3D_LAYERS, {.mask = zeros_for_cached}},
    {"mask-length", "spliced-for-pad-end", "decode_mask pad_end is taken for spliced: a decode step's own mask is ignored for the prefill's", "prefill decode", {NULL},
     spliced_for_pad_end},
    {"mask-length", "replaced-by-ones", "a mask shorter than the keys is replaced by ones instead of extended: its zeros are lost", "mask " MR3D_LAYERS,
     {.mask = replaced_by_ones}},
    {"mask-length", "longer-first-columns", "a mask longer than the keys is accepted and its first columns used: 787 of 788 instead of a refusal", "mask " MR3D_LAYERS,
     {.mask = first_columns}},
    {"mask-length", "longer-last-columns", "a mask longer than the keys is accepted and its last columns used: 787 of 788 instead of a refusal", "mask " MR3D_LAYERS,
     {.mask = last_columns}},
    {"mask-length", "padded-at-prefill", "a mask shorter than the prompt is accepted at prefill and extended by ones: 231 columns for 786 tokens instead of a refusal",
     "mask attention_block decoder_layer", {.mask = padded_at_prefill}},
    {"mask-length", "spliced-caller-when-long", "under decode_mask spliced a caller's mask of full length is used instead of the prefill mask", "mask " MR3D_LAYERS,
     {.mask = caller_when_long}},
    {"mask-length", "pad-end-for-spliced", "decode_mask spliced is taken for pad_end: the prefill mask is ignored and its padding seen", "mask " MR3D_LAYERS,
     {.mask = prefill_mask_ignored}},
    {"mask-length", "spliced-zeros", "under decode_mask spliced the prefill mask is followed by zeros instead of ones: keys after the prefill are hidden", "mask " MR3D_LAYERS,
     {.mask = zeros_behind_prefill}},
    {"mask-length", "prefill-mask-used", "a prefill mask is accepted and used although decode_mask is pad_end, instead of a refusal", "mask attention_block decoder_layer",
     {NULL}, prefill_mask_used},
};
const mr3d_mutant_set mr3d_mutants_mask_length = MR3D_MUTANT_SET(entries);
