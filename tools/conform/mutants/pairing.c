/** P7: adjacent pairs (3D) and half-split pairs (1D) confused, or turned the other way. */
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

static const mr3d_mutant entries[] = {
    {"pairing", "half-split-in-3d", "the spatial part pairs dimension f with f + F instead of 2f with 2f + 1", "rope3d " MR3D_ROTATIONS, {.rope3d = half_split_3d}},
    {"pairing", "adjacent-in-1d", "text pairs dimension 2j with 2j + 1 instead of j with j + D/2", "rope1d " MR3D_ROTATIONS, {.rope1d = adjacent_1d}},
    {"pairing", "sine-flipped", "the 1D rotation turns the other way: the sign of sin is flipped", "rope1d " MR3D_ROTATIONS, {.rotary_table = sine_flipped}},
    {"pairing", "conjugate", "the 3D rotation turns the other way: exp(-i angle) instead of exp(i angle)", "cis3d " MR3D_ROTATIONS, {.cis3d = conjugate}},
};
const mr3d_mutant_set mr3d_mutants_pairing = MR3D_MUTANT_SET(entries);
