/** P29: cells, taps and neighbours of sparse convolutions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

/* ---- which cells are left ---- */

/** On an axis whose largest index is even the last slab is lost; its cells go to the last one that stays. */
static void last_slab_lost(const mr3d_context *context, int64_t n, const int64_t *cells, int64_t stride, mr3d_coarse_cells_out *out) {
  int64_t largest[3] = {0, 0, 0}, kept = 0;
  mr3d_coarse_cells(context, n, cells, stride, out);
  for (int64_t i = 0; i < 3 * n; i++)
    if (cells[i] > largest[i % 3]) largest[i % 3] = cells[i];
  int64_t *row = mr3d_allocate(out->n, sizeof *row);
  for (int64_t p = 0; p < out->n; p++) {
    bool lost = false;
    for (int axis = 0; axis < 3; axis++) lost = lost || (largest[axis] > 0 && largest[axis] % 2 == 0 && out->cells[3 * p + axis] == largest[axis] / stride);
    if (!lost) memmove(out->cells + 3 * kept++, out->cells + 3 * p, 3 * sizeof *out->cells);
    row[p] = kept > 0 ? kept - 1 : 0;
  }
  if (kept > 0) {
    out->n = kept;
    for (int64_t p = 0; p < n; p++) out->parent[p] = row[out->parent[p]];
  } else {
    mr3d_coarse_cells_free(out);
    mr3d_coarse_cells(context, n, cells, stride, out);
  }
  free(row);
}

/* ---- which cell a tap sees ---- */

static void taps_transposed(const mr3d_context *context, const mr3d_neighbours_in *in, int64_t *rows) {
  mr3d_neighbours_in changed = *in;
  changed.layout = in->layout == MR3D_KERNEL_X_FASTEST ? MR3D_KERNEL_Z_FASTEST : MR3D_KERNEL_X_FASTEST;
  mr3d_neighbours(context, &changed, rows);
}

static void even_taps_like_odd(const mr3d_context *context, const mr3d_neighbours_in *in, int64_t *rows) {
  mr3d_neighbours_in changed = *in;
  if (in->layout == MR3D_KERNEL_Z_FASTEST) changed.layout = MR3D_KERNEL_X_FASTEST;
  mr3d_neighbours(context, &changed, rows);
}

static void taps_mirrored(const mr3d_context *context, const mr3d_neighbours_in *in, int64_t *rows) {
  const int64_t taps = in->k * in->k * in->k;
  mr3d_neighbours(context, in, rows);
  for (int64_t tap = 0; in->stride == 1 && tap < taps / 2; tap++)
    for (int64_t p = 0; p < in->n_out; p++) {
      const int64_t kept = rows[tap * in->n_out + p];
      rows[tap * in->n_out + p] = rows[(taps - 1 - tap) * in->n_out + p];
      rows[(taps - 1 - tap) * in->n_out + p] = kept;
    }
}

/** Missing cells are looked for among those of the same convolution of the request before: a table of cells that was not emptied. */
static void of_another_sample(const mr3d_context *context, const mr3d_neighbours_in *in, int64_t *rows) {
  const int64_t taps = in->k * in->k * in->k, call = mr3d_mutant_nth("neighbours");
  char cells_name[64], count_name[64];
  snprintf(cells_name, sizeof cells_name, "cells of %lld", (long long)call);
  snprintf(count_name, sizeof count_name, "number of cells of %lld", (long long)call);
  mr3d_neighbours(context, in, rows);
  const double *count = mr3d_mutant_remembered(count_name, 1), *kept = count ? mr3d_mutant_remembered(cells_name, (int64_t)*count * 3) : NULL;
  if (kept) {
    const int64_t n = (int64_t)*count;
    int64_t *cells = mr3d_allocate(3 * n, sizeof *cells), *others = mr3d_allocate(taps * in->n_out, sizeof *others);
    for (int64_t i = 0; i < 3 * n; i++) cells[i] = (int64_t)kept[i];
    mr3d_neighbours_in before = *in;
    before.n = n;
    before.cells = cells;
    mr3d_neighbours(context, &before, others);
    for (int64_t i = 0; i < taps * in->n_out; i++)
      if (rows[i] < 0 && others[i] >= 0) rows[i] = others[i] % in->n;
    free(cells);
    free(others);
  }
  double *now = mr3d_allocate(3 * in->n, sizeof *now);
  for (int64_t i = 0; i < 3 * in->n; i++) now[i] = (double)in->cells[i];
  mr3d_mutant_remember(cells_name, 3 * in->n, now);
  mr3d_mutant_remember(count_name, 1, &(double){(double)in->n});
  free(now);
}

/** What a race of two threads leaves: about one row in 600 lacks what its last cell gives. Other rows in each convolution, the same in each run. */
static void one_row_in_600(const mr3d_context *context, const mr3d_neighbours_in *in, int64_t *rows) {
  const int64_t taps = in->k * in->k * in->k, first = 131 * mr3d_mutant_nth("race");
  mr3d_neighbours(context, in, rows);
  for (int64_t p = 0; p < in->n_out; p++) {
    if ((first + p) % 600 != 0) continue;
    int64_t tap = taps - 1;
    while (tap > 0 && rows[tap * in->n_out + p] < 0) tap--;
    rows[tap * in->n_out + p] = -1;
  }
}

static const mr3d_mutant entries[] = {
    {"sparse-conv", "last-slab-lost", "a stride-2 step loses the cells of the last slab on an axis whose largest index is even", "encode_points", {.coarse_cells = last_slab_lost}},
    {"sparse-conv", "taps-transposed", "the taps of every kernel are numbered with x and z exchanged", "encode_points", {.neighbours = taps_transposed}},
    {"sparse-conv", "even-taps-like-odd", "the taps of the stride-2 kernels are numbered x fastest, like those of odd kernels", "encode_points", {.neighbours = even_taps_like_odd}},
    {"sparse-conv", "taps-mirrored", "a stride-1 convolution reads the cell at p - o for the tap at offset o", "encode_points", {.neighbours = taps_mirrored}},
    {"sparse-conv", "neighbours-of-another-sample", "cells that are missing are found among those of the request before", "encode_points", {.neighbours = of_another_sample}},
    {"sparse-conv", "race", "about one row in 600 of a convolution lacks the terms of one tap, as where two threads add to the same row", "encode_points",
     {.neighbours = one_row_in_600}},
};
const mr3d_mutant_set mr3d_mutants_sparse_conv = MR3D_MUTANT_SET(entries);
