/** P31: runs, orders and fillers of attention in patches. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

/* ---- codes ---- */

/** Codes of cells whose axes are first put elsewhere: axis i of the new cell is axis from[i] of the old. */
static void permuted(const int from[3], int64_t n, const int64_t *cells, uint64_t *codes) {
  int64_t *moved = mr3d_allocate(3 * n, sizeof *moved);
  for (int64_t i = 0; i < 3 * n; i++) moved[i] = cells[i / 3 * 3 + from[i % 3]];
  mr3d_z_order(NULL, MR3D_Z, n, moved, codes);
  free(moved);
}

#define Z_ORDER(name, of_z, of_trans)                                                                                              \
  static void name(const mr3d_context *context, mr3d_point_order order, int64_t n, const int64_t *cells, uint64_t *codes) {        \
    (void)context;                                                                                                                 \
    permuted(order == MR3D_Z ? (const int[3])of_z : (const int[3])of_trans, n, cells, codes);                                      \
  }
#define AXES(a, b, c) {a, b, c}
Z_ORDER(trans_exchanges_x_and_z, AXES(0, 1, 2), AXES(2, 1, 0))
Z_ORDER(trans_exchanges_y_and_z, AXES(0, 1, 2), AXES(0, 2, 1))
Z_ORDER(x_lowest, AXES(2, 1, 0), AXES(2, 0, 1))

/* ---- runs ---- */

#define PATCHES(name) static void name(const mr3d_context *context, const mr3d_patches_in *in, mr3d_patches_out *out)

PATCHES(order_by_stage) {
  mr3d_patches_in changed = *in;
  changed.block = in->stage;
  mr3d_patches(context, &changed, out);
}

PATCHES(first_order_only) {
  mr3d_patches_in changed = *in;
  changed.block = 0;
  mr3d_patches(context, &changed, out);
}

PATCHES(one_run) {
  mr3d_patches_in changed = *in;
  changed.patch_size = in->n;
  mr3d_patches(context, &changed, out);
}

PATCHES(fillers_from_the_start) {
  mr3d_patches(context, in, out);
  for (int64_t i = in->n; i < out->runs * out->K; i++) out->token[i] = out->token[i - in->n];
}

PATCHES(fillers_repeat_the_last) {
  mr3d_patches(context, in, out);
  for (int64_t i = in->n; i < out->runs * out->K; i++) out->token[i] = out->token[in->n - 1];
}

PATCHES(fillers_kept) {
  mr3d_patches(context, in, out);
  for (int64_t i = 0; i < out->runs * out->K; i++) out->keep[i] = true;
}

/** Runs of as equal a length as there can be. */
PATCHES(equal_runs) {
  mr3d_patches_in changed = *in;
  const int64_t runs = (in->n + in->patch_size - 1) / in->patch_size;
  changed.patch_size = (in->n + runs - 1) / runs;
  mr3d_patches(context, &changed, out);
}

/* ---- attention ---- */

/** The reference's attention of a run, in which no query sees a filler: hidden behind a mask, as padding is. */
static void fillers_hidden(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  const mr3d_bundle *memory = mr3d_mutant_memory();
  const double *kept = memory ? mr3d_mutant_remembered("kept", in->K) : NULL;
  bool *visible = mr3d_allocate(in->q * in->K, sizeof *visible);
  for (int64_t i = 0; i < in->q * in->K; i++) visible[i] = in->visible[i] && (!kept || kept[i % in->K] != 0);
  mr3d_attention_in changed = *in;
  changed.visible = visible;
  mr3d_attention(context, &changed, y);
  free(visible);
}

static void without_fillers(const mr3d_context *context, const mr3d_patch_attention_in *in, double *y) {
  mr3d_operators hiding = *context->op;
  mr3d_context inner = *context;
  const int64_t runs = in->patches->runs, K = in->patches->K;
  double *kept = mr3d_allocate(K, sizeof *kept);
  mr3d_patch_attention(context, in, y); /* all runs but the last are right */
  bool any = false;
  for (int64_t r = 0; r < K; r++) any = any || (kept[r] = in->patches->keep[(runs - 1) * K + r]) == 0;
  if (any) {
    double *of_last = mr3d_allocate(in->n * in->C, sizeof *of_last);
    mr3d_mutant_remember("kept", K, kept);
    hiding.attention = fillers_hidden;
    inner.op = &hiding;
    mr3d_patch_attention(&inner, in, of_last); /* and the last one is right here */
    for (int64_t r = 0; r < K; r++)
      if (kept[r] != 0) memcpy(y + in->patches->token[(runs - 1) * K + r] * in->C, of_last + in->patches->token[(runs - 1) * K + r] * in->C, (size_t)in->C * sizeof *y);
    free(of_last);
  }
  free(kept);
}

/** Keys, queries, values where the reference has queries, keys, values. */
static void keys_before_queries(const mr3d_context *context, const mr3d_patch_attention_in *in, double *y) {
  const int64_t C = in->C;
  double *weight = mr3d_allocate(3 * C * C, sizeof *weight), *bias = mr3d_allocate(3 * C, sizeof *bias);
  memcpy(weight, in->qkv.weight + C * C, (size_t)(C * C) * sizeof *weight);
  memcpy(weight + C * C, in->qkv.weight, (size_t)(C * C) * sizeof *weight);
  memcpy(weight + 2 * C * C, in->qkv.weight + 2 * C * C, (size_t)(C * C) * sizeof *weight);
  for (int64_t c = 0; c < 3 * C; c++) bias[c] = in->qkv.bias[c < C ? c + C : c < 2 * C ? c - C : c];
  mr3d_patch_attention_in changed = *in;
  changed.qkv = (mr3d_affine){weight, bias};
  mr3d_patch_attention(context, &changed, y);
  free(weight);
  free(bias);
}

static const mr3d_mutant entries[] = {
    {"patches", "fillers-from-the-start", "the last run is filled with the first tokens of the order", "encode_points", {.patches = fillers_from_the_start}},
    {"patches", "fillers-repeat-the-last", "the last run is filled with copies of the last token", "encode_points", {.patches = fillers_repeat_the_last}},
    {"patches", "fillers-hidden", "the last run's tokens do not see its fillers", "encode_points", {.patch_attention = without_fillers}},
    {"patches", "fillers-kept", "the outputs of fillers are written over those of the tokens that they repeat", "encode_points", {.patches = fillers_kept}},
    {"patches", "equal-runs", "the tokens are cut in runs of equal length, so that there are hardly any fillers", "encode_points", {.patches = equal_runs}},
    {"patches", "one-run", "every token attends to all tokens of the stage", "encode_points", {.patches = one_run}},
    {"patches", "order-by-stage", "all blocks of a stage take the order of the stage's number", "encode_points", {.patches = order_by_stage}},
    {"patches", "first-order-only", "all blocks take the first order", "encode_points", {.patches = first_order_only}},
    {"patches", "z-trans-xz", "z-trans exchanges x and z instead of x and y", "encode_points", {.z_order = trans_exchanges_x_and_z}},
    {"patches", "z-trans-yz", "z-trans exchanges y and z instead of x and y", "encode_points", {.z_order = trans_exchanges_y_and_z}},
    {"patches", "x-lowest", "x takes the lowest bit of each three, z the highest", "encode_points", {.z_order = x_lowest}},
    {"patches", "keys-before-queries", "the first third of qkv is taken for keys, the second for queries", "encode_points", {.patch_attention = keys_before_queries}},
};
const mr3d_mutant_set mr3d_mutants_patches = MR3D_MUTANT_SET(entries);
