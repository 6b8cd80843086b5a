/** Fourier features of token coordinates (encoders.md, "Fourier features"). */
#include <math.h>

#include "mr3d/encoders.h"

#define PI 0x1.921fb54442d18p+1
#define FIRST_SCALE 1.0
#define LAST_SCALE 30.0

/** v: coords / (reduced_grid_size - 1), or under `scene` (coords - min) / max(max - min, 1) of each axis over the sample's tokens. */
static void normalised(const mr3d_fourier_in *in, int axis, double *v) {
  int64_t min = 0, max = 0;
  for (int64_t t = 0; t < in->n; t++) {
    const int64_t c = in->coords[3 * t + axis];
    min = t == 0 || c < min ? c : min;
    max = t == 0 || c > max ? c : max;
  }
  const bool scene = in->norm == MR3D_SONATA_NORM_SCENE;
  const double from = scene ? (double)min : 0, size = scene ? (double)(max - min > 1 ? max - min : 1) : (double)(in->reduced_grid_size - 1);
  for (int64_t t = 0; t < in->n; t++)
    v[t * MR3D_FOURIER_FEATURES + axis] = ((double)in->coords[3 * t + axis] - from) / size;
}

/**
 * y [n,63]: v_x, v_y, v_z, then for each band b = 0 .. 9 sin(pi s_b v) of x, y, z and cos(pi s_b v) of x, y, z, s_b = 1 + b 29/9.
 *
 * The angle is (pi s_b) v, each product rounded once. Error: v 1 ulp; sin and cos 2 ulp of 1 and 3 ulp of the angle.
 *
 * Emulated: v and angles as normalised coordinates and angles are, sin and cos as tables are.
 */
void mr3d_fourier_features(const mr3d_context *context, const mr3d_fourier_in *in, double *y) {
  const mr3d_rounder coordinate = mr3d_rounder_at(context, MR3D_AT_ANGLE), angle = mr3d_rounder_at(context, MR3D_AT_ANGLE),
                     table = mr3d_rounder_at(context, MR3D_AT_TABLE);
  for (int axis = 0; axis < 3; axis++)
    normalised(in, axis, y);
  for (int64_t t = 0; t < in->n; t++) {
    double *row = y + t * MR3D_FOURIER_FEATURES, *v = row, angles[3 * MR3D_FOURIER_BANDS];
    mr3d_round_row(&coordinate, 0, 0, t, 3, v);
    for (int b = 0; b < MR3D_FOURIER_BANDS; b++)
      for (int axis = 0; axis < 3; axis++)
        angles[3 * b + axis] = PI * (FIRST_SCALE + b * ((LAST_SCALE - FIRST_SCALE) / (MR3D_FOURIER_BANDS - 1))) * v[axis];
    mr3d_round_row(&angle, 0, 0, t, 3 * MR3D_FOURIER_BANDS, angles);
    for (int b = 0; b < MR3D_FOURIER_BANDS; b++)
      for (int axis = 0; axis < 3; axis++) {
        row[3 + 6 * b + axis] = sin(angles[3 * b + axis]);
        row[3 + 6 * b + 3 + axis] = cos(angles[3 * b + axis]);
      }
    mr3d_round_row(&table, 0, 0, t, MR3D_FOURIER_FEATURES, row);
  }
}
