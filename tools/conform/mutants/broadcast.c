/** P9: [N,heads,F] against [heads,1,F], which goes unnoticed where N equals the number of heads. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

static void transposed(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  mr3d_cis3d(context, in, cos_table, sin_table);
  if (in->N != in->heads) return; /* elsewhere the shapes do not broadcast, and the mistake is an error that everybody sees */
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t n = 0; n < in->N; n++)
      for (int64_t f = 0; f < in->F; f++) {
        double angle = 0; /* row h is token h, column n is head n in freqs, while the weights still go by row */
        for (int64_t a = 0; a < 3; a++) {
          double weight = in->axial_weights ? in->axial_weights[(h * in->F + f) * 3 + a] : 1;
          angle += weight * in->freqs[((in->freq_axes == 3 ? a : 0) * in->heads + n) * in->F + f] * in->coords[h * 3 + a];
        }
        cos_table[(h * in->N + n) * in->F + f] = cos(angle);
        sin_table[(h * in->N + n) * in->F + f] = sin(angle);
      }
}

/** The first token's row for all: [1,3] broadcasts over [N,3]. */
MR3D_CIS3D(one_row) {
  double *coords = mr3d_allocate(in->N * 3, sizeof *coords);
  for (int64_t i = 0; i < in->N * 3; i++) coords[i] = in->coords[i % 3];
  mr3d_cis3d_in changed = *in;
  changed.coords = coords;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(coords);
}

/** The frequencies [3,heads,F] from where `from` says, as an index, or 0 for a negative one. */
static void with_frequencies(int64_t (*from)(const mr3d_cis3d_in *, int64_t a, int64_t h, int64_t f), const mr3d_context *context, const mr3d_cis3d_in *in,
                             double *cos_table, double *sin_table) {
  int64_t set = in->heads * in->F;
  double *freqs = mr3d_allocate(3 * set, sizeof *freqs);
  for (int64_t i = 0; i < 3 * set; i++) {
    int64_t index = from(in, i / set, i / in->F % in->heads, i % in->F);
    freqs[i] = index < 0 ? 0 : in->freqs[index];
  }
  mr3d_cis3d_in changed = *in;
  changed.freqs = freqs;
  changed.freq_axes = 3;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(freqs);
}

static int64_t set_of(const mr3d_cis3d_in *in, int64_t a) { return (in->freq_axes == 3 ? a : 0) * in->heads * in->F; }
static int64_t shared_by_none(const mr3d_cis3d_in *in, int64_t a, int64_t h, int64_t f) {
  return in->freq_axes == 1 && a > 0 ? -1 : set_of(in, a) + h * in->F + f;
}
static int64_t first_head(const mr3d_cis3d_in *in, int64_t a, int64_t h, int64_t f) { return (void)h, set_of(in, a) + f; }
static int64_t bins_first(const mr3d_cis3d_in *in, int64_t a, int64_t h, int64_t f) {
  return set_of(in, a) + (in->heads == in->F ? f * in->heads + h : h * in->F + f); /* elsewhere the shapes do not fit */
}

MR3D_CIS3D(shared_set_for_x) { with_frequencies(shared_by_none, context, in, cos_table, sin_table); }
MR3D_CIS3D(frequencies_of_head_0) { with_frequencies(first_head, context, in, cos_table, sin_table); }
MR3D_CIS3D(heads_and_bins_exchanged) { with_frequencies(bins_first, context, in, cos_table, sin_table); }

MR3D_CIS3D(weights_bins_first) {
  double *weights = mr3d_allocate(in->heads * in->F * 3, sizeof *weights);
  for (int64_t h = 0; in->axial_weights && h < in->heads; h++)
    for (int64_t f = 0; f < in->F; f++)
      for (int64_t a = 0; a < 3; a++) weights[(h * in->F + f) * 3 + a] = in->axial_weights[(f * in->heads + h) * 3 + a];
  mr3d_cis3d_in changed = *in;
  if (in->axial_weights) changed.axial_weights = weights;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(weights);
}

MR3D_CIS3D(mean_of_axes) {
  double *coords = mr3d_allocate(in->N * 3, sizeof *coords);
  for (int64_t i = 0; i < in->N * 3; i++) coords[i] = in->coords[i] / 3;
  mr3d_cis3d_in changed = *in;
  changed.coords = coords;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(coords);
}

static const mr3d_mutant entries[] = {
    {"broadcast", "transposed", "frequencies [heads,F] times coordinates [N,1,1] give [N,heads,F], read as [heads,N,F]: tokens and heads are exchanged where N equals the number of heads",
     "cis3d " MR3D_ROTATIONS, {.cis3d = transposed}},
    {"broadcast", "one-row", "the first coordinate row is broadcast over all tokens", "cis3d " MR3D_ROTATIONS, {.cis3d = one_row}},
    {"broadcast", "shared-set-for-x", "one frequency set [1,heads,F] for all axes is used for x only: y and z do not count", "cis3d " MR3D_ROTATIONS,
     {.cis3d = shared_set_for_x}},
    {"broadcast", "frequencies-of-head-0", "the frequencies of head 0 are broadcast over all heads", "cis3d " MR3D_ROTATIONS, {.cis3d = frequencies_of_head_0}},
    {"broadcast", "heads-and-bins-exchanged", "frequencies [axes,heads,F] are read as [axes,F,heads] where there are as many heads as bins", "cis3d " MR3D_ROTATIONS,
     {.cis3d = heads_and_bins_exchanged}},
    {"broadcast", "weights-bins-first", "axial weights [heads,F,3] are read as [F,heads,3]", "cis3d " MR3D_ROTATIONS, {.cis3d = weights_bins_first}},
    {"broadcast", "mean-of-axes", "the angle is the mean over the three axes instead of their sum", "cis3d " MR3D_ROTATIONS, {.cis3d = mean_of_axes}},
};
const mr3d_mutant_set mr3d_mutants_broadcast = MR3D_MUTANT_SET(entries);
