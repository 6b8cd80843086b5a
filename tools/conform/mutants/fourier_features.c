/** P33: Fourier features in another order, of other frequencies, of other coordinates. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

#define FOURIER(name) static void name(const mr3d_context *context, const mr3d_fourier_in *in, double *y)
enum { BANDS = MR3D_FOURIER_BANDS, WIDTH = MR3D_FOURIER_FEATURES };

/** Features of v and angles factor(b) v; value number 3 + place(b, axis, is a cosine). */
static void features_by(const mr3d_fourier_in *in, double (*factor)(int b), int (*place)(int b, int axis, int cosine), double *y) {
  double *v = mr3d_allocate(in->n * WIDTH, sizeof *v);
  mr3d_fourier_features(&(mr3d_context){.op = &mr3d_reference_operators}, in, v);
  for (int64_t t = 0; t < in->n; t++)
    for (int axis = 0; axis < 3; axis++) {
      y[t * WIDTH + axis] = v[t * WIDTH + axis];
      for (int b = 0; b < BANDS; b++)
        for (int cosine = 0; cosine < 2; cosine++) {
          const double angle = factor(b) * v[t * WIDTH + axis];
          y[t * WIDTH + 3 + place(b, axis, cosine)] = cosine ? cos(angle) : sin(angle);
        }
    }
  free(v);
}

static double scale_of(int b) { return 1 + b * (29.0 / 9); }
static double with_pi(int b) { return acos(-1) * scale_of(b); }
static double doubled(int b) { return acos(-1) * ldexp(1, b); }
static double two_pi(int b) { return 2 * with_pi(b); }
static int band_by_band(int b, int axis, int cosine) { return 6 * b + 3 * cosine + axis; }
static int pair_by_pair(int b, int axis, int cosine) { return 6 * b + 2 * axis + cosine; }
static int sines_first(int b, int axis, int cosine) { return 30 * cosine + 3 * b + axis; }
static int cosine_first(int b, int axis, int cosine) { return 6 * b + 3 * (1 - cosine) + axis; }
static int axis_by_axis(int b, int axis, int cosine) { return 20 * axis + 10 * cosine + b; }

#define BY(name, factor, place) \
  FOURIER(name) { \
    (void)context; \
    features_by(in, factor, place, y); \
  }
BY(interleaved, with_pi, pair_by_pair)
BY(all_sines_first, with_pi, sines_first)
BY(cosines_first, with_pi, cosine_first)
BY(by_axis, with_pi, axis_by_axis)
BY(without_pi, scale_of, band_by_band)
BY(powers_of_two, doubled, band_by_band)
BY(twice_pi, two_pi, band_by_band)

static void of_size(int64_t size, const mr3d_context *context, const mr3d_fourier_in *in, double *y) {
  mr3d_fourier_in changed = *in;
  changed.reduced_grid_size = size;
  mr3d_fourier_features(context, &changed, y);
}
FOURIER(not_minus_one) { of_size(in->reduced_grid_size + 1, context, in, y); }
FOURIER(of_all_bins) {
  mr3d_config config;
  const mr3d_bundle *memory = mr3d_mutant_memory();
  of_size(memory && mr3d_request_config(memory, &config) ? config.num_bins : 16 * in->reduced_grid_size, context, in, y);
}

FOURIER(always_grid) {
  mr3d_fourier_in changed = *in;
  changed.norm = MR3D_SONATA_NORM_GRID;
  mr3d_fourier_features(context, &changed, y);
}

FOURIER(coordinates_last) {
  mr3d_fourier_features(context, in, y);
  for (int64_t t = 0; t < in->n; t++) {
    double *row = y + t * WIDTH, v[3];
    memcpy(v, row, sizeof v);
    memmove(row, row + 3, (WIDTH - 3) * sizeof *row);
    memcpy(row + WIDTH - 3, v, sizeof v);
  }
}

static const mr3d_mutant entries[] = {
    {"fourier-features", "interleaved", "sine and cosine of each axis stand side by side instead of three sines, then three cosines of a band", "encode_points",
     {.fourier_features = interleaved}},
    {"fourier-features", "all-sines-first", "the sines of all bands stand before the cosines of all bands", "encode_points", {.fourier_features = all_sines_first}},
    {"fourier-features", "cosines-first", "each band's cosines stand before its sines", "encode_points", {.fourier_features = cosines_first}},
    {"fourier-features", "axis-by-axis", "the bands of x stand before those of y and of z", "encode_points", {.fourier_features = by_axis}},
    {"fourier-features", "coordinates-last", "the coordinates themselves stand behind their sines and cosines", "encode_points", {.fourier_features = coordinates_last}},
    {"fourier-features", "without-pi", "angles are s v instead of pi s v", "encode_points", {.fourier_features = without_pi}},
    {"fourier-features", "two-pi", "angles are 2 pi s v instead of pi s v", "encode_points", {.fourier_features = twice_pi}},
    {"fourier-features", "powers-of-two", "scales are 1, 2, 4 .. 512 instead of evenly spaced from 1 to 30", "encode_points", {.fourier_features = powers_of_two}},
    {"fourier-features", "size-not-minus-one", "coordinates are divided by reduced_grid_size instead of reduced_grid_size - 1", "encode_points", {.fourier_features = not_minus_one}},
    {"fourier-features", "of-all-bins", "coordinates of tokens are divided by num_bins - 1, which counts cells", "encode_points", {.fourier_features = of_all_bins}},
    {"fourier-features", "always-grid", "sonata_coord_norm scene is not looked at", "encode_points", {.fourier_features = always_grid}},
};
const mr3d_mutant_set mr3d_mutants_fourier_features = MR3D_MUTANT_SET(entries);
