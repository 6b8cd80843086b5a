/** P30: norms whose mean and variance are of the wrong values. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

#define NORM(name) static void name(const mr3d_context *context, const mr3d_norm_in *in, double *y)

NORM(per_row) { mr3d_group_norm_rows(context, in, y); }
NORM(per_sample) { mr3d_group_norm_sparse(context, in, y); }

static mr3d_norm_in grouped(const mr3d_norm_in *in, int64_t groups) {
  mr3d_norm_in changed = *in;
  changed.groups = groups;
  return changed;
}
NORM(one_group) { mr3d_group_norm_sparse(context, &(mr3d_norm_in[]){grouped(in, 1)}[0], y); }
NORM(a_channel_a_group) { mr3d_group_norm_sparse(context, &(mr3d_norm_in[]){grouped(in, in->C)}[0], y); }
NORM(rows_one_group) { mr3d_group_norm_rows(context, &(mr3d_norm_in[]){grouped(in, 1)}[0], y); }

/** variance * count / (count - 1): every deviation that much smaller, eps apart. Done by way of a larger eps-free spread: weight times sqrt((count - 1) / count). */
static void unbiased(void (*norm)(const mr3d_context *, const mr3d_norm_in *, double *), double count, const mr3d_context *context, const mr3d_norm_in *in, double *y) {
  const double factor = count > 1 ? sqrt((count - 1) / count) : 1;
  mr3d_norm_in changed = *in;
  changed.eps = in->eps * factor * factor; /* (v c/(c-1) + e) = c/(c-1) (v + e (c-1)/c) */
  double *weight = mr3d_allocate(in->C, sizeof *weight);
  for (int64_t c = 0; c < in->C; c++) weight[c] = in->norm.weight[c] * factor;
  changed.norm.weight = weight;
  norm(context, &changed, y);
  free(weight);
}
NORM(unbiased_sparse) { unbiased(mr3d_group_norm_sparse, (double)(in->n * in->C / in->groups), context, in, y); }
NORM(unbiased_layer) { unbiased(mr3d_layernorm, (double)in->C, context, in, y); }

NORM(eps_1e_6) {
  mr3d_norm_in changed = *in;
  changed.eps = 1e-6;
  mr3d_layernorm(context, &changed, y);
}

static const mr3d_mutant entries[] = {
    {"group-norm", "per-row", "GroupNorm of a sparse tensor takes each row's own mean and variance instead of the sample's", "encode_points", {.group_norm_sparse = per_row}},
    {"group-norm", "bottleneck-per-sample", "the bottleneck's GroupNorm takes the sample's mean and variance instead of each row's", "encode_points", {.group_norm_rows = per_sample}},
    {"group-norm", "one-group", "GroupNorm of a sparse tensor has one group of all channels", "encode_points", {.group_norm_sparse = one_group}},
    {"group-norm", "batch-norm", "GroupNorm of a sparse tensor normalises each channel by itself, as a batch norm", "encode_points", {.group_norm_sparse = a_channel_a_group}},
    {"group-norm", "bottleneck-layer-norm", "the bottleneck's GroupNorm has one group of all channels", "encode_points", {.group_norm_rows = rows_one_group}},
    {"group-norm", "unbiased", "GroupNorm of a sparse tensor divides the sum of squares by count - 1", "encode_points", {.group_norm_sparse = unbiased_sparse}},
    {"group-norm", "layer-unbiased", "LayerNorm divides the sum of squares by C - 1", "encode_points", {.layernorm = unbiased_layer}},
    {"group-norm", "layer-eps-1e-6", "LayerNorm has eps 1e-6, the decoder's", "encode_points", {.layernorm = eps_1e_6}},
};
const mr3d_mutant_set mr3d_mutants_group_norm = MR3D_MUTANT_SET(entries);
