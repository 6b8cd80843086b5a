/** P15: what is kept around the points. */
#include "mutants_internal.h"

static mr3d_status mask_shifted(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++) {
    bool *mask = out->point_token_mask + b * out->S;
    for (int64_t s = out->S - 1; s > 0; s--) mask[s] = mask[s - 1];
    if (out->S > 0) mask[0] = false;
  }
  return status;
}

static mr3d_status points_masked_out(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t i = 0; status == MR3D_OK && i < in->B * out->S; i++)
    if (out->point_token_mask[i]) out->attention_mask[i] = 0;
  return status;
}

static mr3d_status points_before_start(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++) {
    int64_t *source = out->source + b * out->S;
    bool *mask = out->point_token_mask + b * out->S;
    for (int64_t s = 1; s < out->S; s++) { /* the start marker wanders behind the points */
      if (!mask[s] || mask[s - 1]) continue;
      int64_t marker = source[s - 1];
      for (; s < out->S && mask[s]; s++) {
        source[s - 1] = source[s];
        mask[s - 1] = true;
      }
      source[s - 1] = marker;
      mask[s - 1] = false;
    }
  }
  return status;
}

static const mr3d_mutant entries[] = {
    {"splice", "mask-shifted", "point_token_mask is shifted by one: true on start+2 .. start+N+1 instead of start+1 .. start+N", "splice", {.splice = mask_shifted}},
    {"splice", "points-masked-out", "attention_mask has zeros instead of ones over the points", "splice", {.splice = points_masked_out}},
    {"splice", "points-before-start", "the points stand before the start marker instead of behind it", "splice", {.splice = points_before_start}},
};
const mr3d_mutant_set mr3d_mutants_splice = MR3D_MUTANT_SET(entries);
