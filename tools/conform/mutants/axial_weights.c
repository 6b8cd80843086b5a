/** P20: learned mixing of the axes ignored or transposed. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static void taken_as_one(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  mr3d_cis3d_in changed = *in;
  changed.axial_weights = NULL;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
}

/** weights [heads,F,3] with element (h, f, a) taken from where `from` says. */
static void reordered(int64_t (*from)(const mr3d_cis3d_in *, int64_t h, int64_t f, int64_t a), const mr3d_context *context, const mr3d_cis3d_in *in,
                      double *cos_table, double *sin_table) {
  double *weights = mr3d_allocate(in->heads * in->F * 3, sizeof *weights);
  mr3d_cis3d_in changed = *in;
  if (in->axial_weights) changed.axial_weights = weights;
  for (int64_t h = 0; in->axial_weights && h < in->heads; h++)
    for (int64_t f = 0; f < in->F; f++)
      for (int64_t a = 0; a < 3; a++) weights[(h * in->F + f) * 3 + a] = in->axial_weights[from(in, h, f, a)];
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(weights);
}

static int64_t axis_first(const mr3d_cis3d_in *in, int64_t h, int64_t f, int64_t a) { return (a * in->heads + h) * in->F + f; }
static int64_t bin_0(const mr3d_cis3d_in *in, int64_t h, int64_t f, int64_t a) { return (void)f, h * in->F * 3 + a; }

static void read_axis_first(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  reordered(axis_first, context, in, cos_table, sin_table);
}

static void same_for_all_bins(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  reordered(bin_0, context, in, cos_table, sin_table);
}

static void frequencies_zyx(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  size_t set = (size_t)(in->heads * in->F);
  double *freqs = mr3d_allocate(in->freq_axes * in->heads * in->F, sizeof *freqs);
  for (int64_t a = 0; a < in->freq_axes; a++) memcpy(freqs + (size_t)a * set, in->freqs + (size_t)(in->freq_axes - 1 - a) * set, set * sizeof *freqs);
  mr3d_cis3d_in changed = *in;
  changed.freqs = freqs;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(freqs);
}

static void shared_set(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  mr3d_cis3d_in changed = *in;
  changed.freq_axes = 1; /* the first of the three sets */
  mr3d_cis3d(context, &changed, cos_table, sin_table);
}

static const mr3d_mutant entries[] = {
    {"axial-weights", "taken-as-one", "the learned axial weights are ignored: all axes count 1", "cis3d " MR3D_ROTATIONS, {.cis3d = taken_as_one}},
    {"axial-weights", "read-axis-first", "axial weights [heads,F,3] are read as [3,heads,F]", "cis3d " MR3D_ROTATIONS, {.cis3d = read_axis_first}},
    {"axial-weights", "same-for-all-bins", "axial weights are taken per head but not per bin: bin 0's for all", "cis3d " MR3D_ROTATIONS, {.cis3d = same_for_all_bins}},
    {"axial-weights", "frequencies-zyx", "the frequency sets of the axes stand in the order z, y, x", "cis3d " MR3D_ROTATIONS, {.cis3d = frequencies_zyx}},
    {"axial-weights", "shared-set", "all axes use the x axis's frequencies although each has its own", "cis3d " MR3D_ROTATIONS, {.cis3d = shared_set}},
};
const mr3d_mutant_set mr3d_mutants_axial_weights = MR3D_MUTANT_SET(entries);
