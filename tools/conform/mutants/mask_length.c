/** P1: the decode mask counts text tokens only, 232 where 787 keys stand. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static bool is_short(const mr3d_mask_in *in) { return in->L > 0 && in->key_mask && in->M < in->L + in->q; }

/** The rule with a mask of L+q columns: the caller's at column `at`, `fill` elsewhere. */
static mr3d_status with_caller_at(const mr3d_context *context, const mr3d_mask_in *in, int64_t at, int64_t fill, bool *visible, mr3d_error *error) {
  int64_t K = in->L + in->q, *mask = mr3d_allocate(in->B * K, sizeof *mask);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t j = 0; j < K; j++) mask[b * K + j] = j >= at && j < at + in->M ? in->key_mask[b * in->M + j - at] : fill;
  mr3d_mask_in changed = *in;
  changed.rule = MR3D_PAD_END;
  changed.prefill_mask = NULL; /* has no meaning under pad_end */
  changed.key_mask = mask;
  changed.M = K;
  mr3d_status status = mr3d_mask(context, &changed, visible, error);
  free(mask);
  return status;
}

static mr3d_status unrepaired(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return is_short(in) ? with_caller_at(context, in, 0, 0, visible, error) : mr3d_mask(context, in, visible, error);
}

static mr3d_status ones_in_front(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  return is_short(in) ? with_caller_at(context, in, in->L + in->q - in->M, 1, visible, error) : mr3d_mask(context, in, visible, error);
}

static mr3d_status one_short(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  int64_t K = in->L + in->q;
  for (int64_t row = 0; status == MR3D_OK && is_short(in) && row < in->B * in->q; row++) visible[row * K + K - 1] = false;
  return status;
}

static mr3d_status new_keys_hidden(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_status status = mr3d_mask(context, in, visible, error);
  for (int64_t row = 0; status == MR3D_OK && is_short(in) && row < in->B * in->q; row++)
    memset(visible + row * (in->L + in->q) + in->L, 0, (size_t)in->q * sizeof *visible);
  return status;
}

static const mr3d_mutant entries[] = {
    {"mask-length", "unrepaired", "the caller's text-only mask is used as it is: with 232 columns for 787 keys, the first 232 keys are seen and the other 555 hidden",
     "mask " MR3D_LAYERS, {.mask = unrepaired}},
    {"mask-length", "ones-in-front", "the missing 555 columns are put in front of the caller's mask instead of behind it", "mask " MR3D_LAYERS,
     {.mask = ones_in_front}},
    {"mask-length", "new-keys-hidden", "the mask is extended for the cached keys only: new tokens do not see the keys they bring", "mask " MR3D_LAYERS,
     {.mask = new_keys_hidden}},
    {"mask-length", "one-short", "the mask is extended to 786 columns instead of 787: the last key is hidden", "mask " MR3D_LAYERS, {.mask = one_short}},
};
const mr3d_mutant_set mr3d_mutants_mask_length = MR3D_MUTANT_SET(entries);
