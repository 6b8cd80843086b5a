/** Attention mask: which keys a query sees (spec.md section 4). */
#include <stdlib.h>

#include "mr3d/ops.h"

static mr3d_status check_mask(const char *name, const int64_t *mask, int64_t columns, const mr3d_mask_in *in, mr3d_error *error) {
  const int64_t B = in->B, keys = in->L + in->q;
  if (columns > keys)
    return mr3d_fail(error, MR3D_INVALID, "%s has %lld columns, at most %lld = past %lld + new %lld keys can be masked", name, (long long)columns,
                     (long long)keys, (long long)in->L, (long long)in->q);
  if (columns < keys && in->L == 0)
    return mr3d_fail(error, MR3D_INVALID,
                     "%s has %lld columns for %lld tokens at prefill: expected one per token (only a decode step's mask may be shorter)", name,
                     (long long)columns, (long long)keys);
  for (int64_t i = 0; i < B * columns; i++)
    if (mask[i] != 0 && mask[i] != 1)
      return mr3d_fail(error, MR3D_INVALID, "%s[%lld][%lld] is %lld: a mask holds 0 or 1", name, (long long)(i / columns), (long long)(i % columns),
                       (long long)mask[i]);
  return MR3D_OK;
}

/**
 * visible [B,q,L+q]: key j is visible to new query i exactly when
 *
 *     j <= L + i   and   keymask[b][j] = 1
 *
 * keymask is the caller's mask with ones put at its end up to L + q keys (during generation it counts text tokens only: 232 columns where
 * 787 keys stand gain 555 ones). Under `spliced` a given prefill mask [B,L0] stands in its place, extended alike, and the caller's mask is
 * only checked. Without any mask all keys are present.
 *
 * Errors: a mask longer than L + q; a short one at prefill (L = 0); values other than 0 and 1; a prefill mask without `spliced`.
 */
mr3d_status mr3d_mask(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  (void)context;
  const int64_t keys = in->L + in->q;
  if (in->L < 0 || in->q < 0)
    return mr3d_fail(error, MR3D_INVALID, "past_len is %lld and q_len is %lld: lengths are 0 or more", (long long)in->L, (long long)in->q);
  if (in->prefill_mask != NULL && in->rule != MR3D_SPLICED)
    return mr3d_fail(error, MR3D_INVALID, "prefill_mask is given, but decode_mask is \"pad_end\": it has a meaning only with decode_mask \"spliced\"");
  mr3d_status status = MR3D_OK;
  if (in->key_mask != NULL)
    status = check_mask(in->key_mask_name != NULL ? in->key_mask_name : "key_mask", in->key_mask, in->M, in, error);
  if (status == MR3D_OK && in->prefill_mask != NULL)
    status = check_mask("prefill_mask", in->prefill_mask, in->L0, in, error);
  if (status != MR3D_OK)
    return status;

  const int64_t *mask = in->prefill_mask != NULL ? in->prefill_mask : in->key_mask;
  const int64_t columns = in->prefill_mask != NULL ? in->L0 : in->key_mask != NULL ? in->M : 0;
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0; i < in->q; i++)
      for (int64_t j = 0; j < keys; j++) {
        const bool present = j >= columns || mask[b * columns + j] == 1;
        visible[(b * in->q + i) * keys + j] = j <= in->L + i && present;
      }
  return MR3D_OK;
}
