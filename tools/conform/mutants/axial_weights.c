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

static int64_t head_0(const mr3d_cis3d_in *in, int64_t h, int64_t f, int64_t a) { return (void)in, (void)h, f * 3 + a; }
static int64_t rolled(const mr3d_cis3d_in *in, int64_t h, int64_t f, int64_t a) { return (h * in->F + f) * 3 + (a + 1) % 3; }
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

MR3D_CIS3D(same_for_all_heads) { reordered(head_0, context, in, cos_table, sin_table); }
MR3D_CIS3D(axes_rolled) { reordered(rolled, context, in, cos_table, sin_table); }

/** weights [heads,F,3] made from the three of a bin. */
static void remade(double (*of)(const double three[3], int64_t a), const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table,
                   double *sin_table) {
  int64_t count = in->heads * in->F * 3;
  double *weights = mr3d_allocate(count, sizeof *weights);
  for (int64_t i = 0; in->axial_weights && i < count; i++) weights[i] = of(in->axial_weights + i - i % 3, i % 3);
  mr3d_cis3d_in changed = *in;
  if (in->axial_weights) changed.axial_weights = weights;
  mr3d_cis3d(context, &changed, cos_table, sin_table);
  free(weights);
}

static double square(const double w[3], int64_t a) { return w[a] * w[a]; }
static double plus_one(const double w[3], int64_t a) { return 1 + w[a]; }
static double share(const double w[3], int64_t a) { return w[a] / (w[0] + w[1] + w[2]); }
static double average(const double w[3], int64_t a) { return (void)a, (w[0] + w[1] + w[2]) / 3; }

MR3D_CIS3D(squared) { remade(square, context, in, cos_table, sin_table); }
MR3D_CIS3D(one_plus) { remade(plus_one, context, in, cos_table, sin_table); }
MR3D_CIS3D(sum_of_one) { remade(share, context, in, cos_table, sin_table); }
MR3D_CIS3D(after_the_sum) { remade(average, context, in, cos_table, sin_table); }

MR3D_CIS3D(in_sine_only) {
  double *unused = mr3d_allocate(in->heads * in->N * in->F, sizeof *unused);
  mr3d_cis3d(context, in, unused, sin_table);
  taken_as_one(context, in, cos_table, unused);
  free(unused);
}

MR3D_CIS3D(ignored_when_shared) { (in->freq_axes == 1 ? taken_as_one : mr3d_cis3d)(context, in, cos_table, sin_table); }

MR3D_MIXED_ROPE(ignored_for_keys) {
  mr3d_operators operators = *context->op;
  operators.cis3d = taken_as_one;
  return mr3d_mixed_rope_keys_by(&operators, context, config, in, query, key, error);
}

MR3D_MIXED_ROPE(learned_ignored) {
  mr3d_config changed = *config;
  changed.rope_mixed_3d = false;
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static const mr3d_mutant entries[] = {
    {"axial-weights", "ignored-when-shared", "the learned axial weights are ignored where the axes share one frequency set", "cis3d " MR3D_ROTATIONS,
     {.cis3d = ignored_when_shared}},
    {"axial-weights", "taken-as-one", "the learned axial weights are ignored: all axes count 1", "cis3d " MR3D_ROTATIONS, {.cis3d = taken_as_one}},
    {"axial-weights", "read-axis-first", "axial weights [heads,F,3] are read as [3,heads,F]", "cis3d " MR3D_ROTATIONS, {.cis3d = read_axis_first}},
    {"axial-weights", "same-for-all-bins", "axial weights are taken per head but not per bin: bin 0's for all", "cis3d " MR3D_ROTATIONS, {.cis3d = same_for_all_bins}},
    {"axial-weights", "frequencies-zyx", "the frequency sets of the axes stand in the order z, y, x", "cis3d " MR3D_ROTATIONS, {.cis3d = frequencies_zyx}},
    {"axial-weights", "shared-set", "all axes use the x axis's frequencies although each has its own", "cis3d " MR3D_ROTATIONS, {.cis3d = shared_set}},
    {"axial-weights", "same-for-all-heads", "axial weights are taken per bin but not per head: head 0's for all", "cis3d " MR3D_ROTATIONS, {.cis3d = same_for_all_heads}},
    {"axial-weights", "axes-rolled", "axial weights stand in the order y, z, x", "cis3d " MR3D_ROTATIONS, {.cis3d = axes_rolled}},
    {"axial-weights", "squared", "axial weights are applied twice, to frequencies and to coordinates", "cis3d " MR3D_ROTATIONS, {.cis3d = squared}},
    {"axial-weights", "one-plus", "axial weights are taken as what is added to 1: 1 + w instead of w", "cis3d " MR3D_ROTATIONS, {.cis3d = one_plus}},
    {"axial-weights", "sum-of-one", "axial weights of a bin are divided by their sum", "cis3d " MR3D_ROTATIONS, {.cis3d = sum_of_one}},
    {"axial-weights", "after-the-sum", "the mean of a bin's axial weights multiplies the sum over the axes instead of each axis its own", "cis3d " MR3D_ROTATIONS,
     {.cis3d = after_the_sum}},
    {"axial-weights", "in-sine-only", "axial weights are in the angle of sin and not of cos", "cis3d " MR3D_ROTATIONS, {.cis3d = in_sine_only}},
    {"axial-weights", "ignored-for-keys", "the learned axial weights of keys are ignored, those of queries are not", MR3D_ROTATIONS, {.mixed_rope = ignored_for_keys}},
    {"axial-weights", "learned-ignored", "learned frequencies and weights are ignored and the fixed base frequencies used", MR3D_ROTATIONS,
     {.mixed_rope = learned_ignored}},
};
const mr3d_mutant_set mr3d_mutants_axial_weights = MR3D_MUTANT_SET(entries);
