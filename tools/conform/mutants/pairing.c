/** P7: adjacent pairs (3D) and half-split pairs (1D) confused, or turned the other way. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

/** Reorders rows of n values so that pair (2f, 2f+1) stands where (f, f+n/2) stood, or back. */
static double *repaired(const double *x, int64_t rows, int64_t n, bool to_adjacent) {
  double *y = mr3d_allocate(rows * n, sizeof *y);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t f = 0; f < n / 2; f++)
      for (int64_t k = 0; k < 2; k++) {
        int64_t adjacent = r * n + 2 * f + k, halves = r * n + f + k * (n / 2);
        y[to_adjacent ? adjacent : halves] = x[to_adjacent ? halves : adjacent];
      }
  return y;
}

static void copy_and_free(double *to, double *from, int64_t count) {
  for (int64_t i = 0; i < count; i++) to[i] = from[i];
  free(from);
}

static void half_split_3d(const mr3d_context *context, const mr3d_rope3d_in *in, double *y) {
  int64_t rows = in->B * in->heads * in->N;
  double *x = repaired(in->x, rows, in->Ds, true);
  mr3d_rope3d_in changed = *in;
  changed.x = x;
  mr3d_rope3d(context, &changed, y);
  free(x);
  copy_and_free(y, repaired(y, rows, in->Ds, false), rows * in->Ds);
}

static void adjacent_1d(const mr3d_context *context, const mr3d_rope1d_in *in, double *y) {
  int64_t rows = in->B * in->heads * in->q;
  double *x = repaired(in->x, rows, in->D, false);
  mr3d_rope1d_in changed = *in;
  changed.x = x;
  mr3d_rope1d(context, &changed, y);
  free(x);
  copy_and_free(y, repaired(y, rows, in->D, true), rows * in->D);
}

static void sine_flipped(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                         double *sin_table) {
  mr3d_rotary_table(context, P, D, rope_theta, positions, cos_table, sin_table);
  for (int64_t i = 0; i < P * D; i++) sin_table[i] = -sin_table[i];
}

static void conjugate(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  mr3d_cis3d(context, in, cos_table, sin_table);
  for (int64_t i = 0; i < in->heads * in->N * in->F; i++) sin_table[i] = -sin_table[i];
}

MR3D_MIXED_ROPE(half_split_when_interleaved) {
  mr3d_operators operators = *context->op;
  if (config->layout == MR3D_INTERLEAVED) operators.rope3d = half_split_3d;
  mr3d_context changed = *context;
  changed.op = &operators;
  return mr3d_mixed_rope(&changed, config, in, query, key, error);
}

/** (x[2f+1], x[2f]) as the complex number, its product written where it belongs. */
static void real_for_imaginary(const mr3d_context *context, const mr3d_rope3d_in *in, double *y) {
  int64_t count = in->B * in->heads * in->N * in->Ds;
  double *x = mr3d_allocate(count, sizeof *x);
  for (int64_t i = 0; i < count; i++) x[i] = in->x[i % 2 ? i - 1 : i + 1];
  mr3d_rope3d_in changed = *in;
  changed.x = x;
  mr3d_rope3d(context, &changed, y);
  free(x);
}

static void sine_for_cosine_3d(const mr3d_context *context, const mr3d_rope3d_in *in, double *y) {
  mr3d_rope3d_in changed = *in;
  changed.cos_table = in->sin_table;
  changed.sin_table = in->cos_table;
  mr3d_rope3d(context, &changed, y);
}

static void sine_for_cosine_1d(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,
                               double *sin_table) {
  mr3d_rotary_table(context, P, D, rope_theta, positions, sin_table, cos_table);
}

static void adjacent_turn(const mr3d_point *point, const double *x, double *y) {
  for (int64_t j = 0; j < point->split->Dt / 2; j++) {
    double theta = mr3d_point_angle(point, point->position, j);
    y[2 * j] = x[2 * j] * cos(theta) - x[2 * j + 1] * sin(theta);
    y[2 * j + 1] = x[2 * j + 1] * cos(theta) + x[2 * j] * sin(theta);
  }
}

static double backwards(const mr3d_point *point, int64_t j) { return -mr3d_point_angle(point, point->position, j); }
static void backwards_turn(const mr3d_point *point, const double *x, double *y) { mr3d_turn_halves(point, backwards, x, y); }

MR3D_MIXED_ROPE(adjacent_in_temporal) { return mr3d_mixed_rope_turned(adjacent_turn, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(sine_flipped_in_temporal) { return mr3d_mixed_rope_turned(backwards_turn, context, config, in, query, key, error); }

MR3D_MIXED_ROPE(sine_flipped_for_keys) {
  mr3d_operators operators = *context->op;
  operators.rotary_table = sine_flipped;
  return mr3d_mixed_rope_keys_by(&operators, context, config, in, query, key, error);
}

MR3D_MIXED_ROPE(conjugate_for_keys) {
  mr3d_operators operators = *context->op;
  operators.cis3d = conjugate;
  return mr3d_mixed_rope_keys_by(&operators, context, config, in, query, key, error);
}

static const mr3d_mutant entries[] = {
    {"pairing", "half-split-when-interleaved", "in the interleaved layout the spatial part pairs dimension f with f + F instead of 2f with 2f + 1", MR3D_ROTATIONS,
     {.mixed_rope = half_split_when_interleaved}},
    {"pairing", "half-split-in-3d", "the spatial part pairs dimension f with f + F instead of 2f with 2f + 1", "rope3d " MR3D_ROTATIONS, {.rope3d = half_split_3d}},
    {"pairing", "adjacent-in-1d", "text pairs dimension 2j with 2j + 1 instead of j with j + D/2", "rope1d " MR3D_ROTATIONS, {.rope1d = adjacent_1d}},
    {"pairing", "sine-flipped", "the 1D rotation turns the other way: the sign of sin is flipped", "rope1d " MR3D_ROTATIONS, {.rotary_table = sine_flipped}},
    {"pairing", "conjugate", "the 3D rotation turns the other way: exp(-i angle) instead of exp(i angle)", "cis3d " MR3D_ROTATIONS, {.cis3d = conjugate}},
    {"pairing", "real-for-imaginary", "the members of a 3D pair are exchanged on the way in: x[2f+1] + i x[2f] is turned instead of x[2f] + i x[2f+1]",
     "rope3d " MR3D_ROTATIONS, {.rope3d = real_for_imaginary}},
    {"pairing", "sine-for-cosine-3d", "the tables of cos and sin are exchanged in the 3D rotation", "rope3d " MR3D_ROTATIONS, {.rope3d = sine_for_cosine_3d}},
    {"pairing", "sine-for-cosine-1d", "the tables of cos and sin are exchanged in the 1D rotation", "rope1d " MR3D_ROTATIONS, {.rotary_table = sine_for_cosine_1d}},
    {"pairing", "adjacent-in-temporal", "the temporal part of points pairs dimension 2j with 2j + 1 instead of j with j + Dt/2", MR3D_ROTATIONS,
     {.mixed_rope = adjacent_in_temporal}},
    {"pairing", "sine-flipped-in-temporal", "the temporal part of points turns the other way: the sign of sin is flipped there", MR3D_ROTATIONS,
     {.mixed_rope = sine_flipped_in_temporal}},
    {"pairing", "sine-flipped-for-keys", "keys turn the other way in 1D, queries the right way", MR3D_ROTATIONS, {.mixed_rope = sine_flipped_for_keys}},
    {"pairing", "conjugate-for-keys", "keys turn the other way in 3D, queries the right way", MR3D_ROTATIONS, {.mixed_rope = conjugate_for_keys}},
};
const mr3d_mutant_set mr3d_mutants_pairing = MR3D_MUTANT_SET(entries);
