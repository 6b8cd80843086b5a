/** From a raw scan to grid cells (spec.md section 7, steps 1 to 3). */
#include <math.h>
#include <stdlib.h>

#include "mr3d/ops.h"

typedef struct cell {
  int64_t index[3], row;
} cell;

static int by_cell_then_row(const void *left, const void *right) {
  const cell *a = left, *b = right;
  for (int axis = 0; axis < 3; axis++)
    if (a->index[axis] != b->index[axis])
      return a->index[axis] < b->index[axis] ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

static bool same_cell(const cell *a, const cell *b) {
  return a->index[0] == b->index[0] && a->index[1] == b->index[1] && a->index[2] == b->index[2];
}

static bool all_finite(const double *values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(values[i]))
      return false;
  return true;
}

/** index = floor((x - min) / cell_size), a division and no product with 1/cell_size: at exact multiples the two differ. */
static mr3d_status grid_index(const mr3d_config *config, double shifted, int64_t row, int axis, int64_t *index, mr3d_error *error) {
  const double place = floor(shifted / config->cell_size), last = (double)(config->num_bins - 1);
  if (!isfinite(shifted))
    return mr3d_fail(error, MR3D_INVALID, "points[%lld] lies %g m beyond the smallest %c: that far apart no grid holds both; crop the scan", (long long)row, shifted, "xyz"[axis]);
  if (!(place <= last) && (config->grid_overflow == MR3D_OVERFLOW_ERROR))
    return mr3d_fail(error, MR3D_INVALID,
                     "points[%lld] lies %g m beyond the smallest %c: grid index %.0f, but num_bins is %lld and the last index %.0f (%g m at cell_size %g); "
                     "crop the scan, enlarge num_bins, or set grid_overflow \"clip\"",
                     (long long)row, shifted, "xyz"[axis], place, (long long)config->num_bins, last, (double)config->num_bins * config->cell_size, config->cell_size);
  *index = (int64_t)fmin(place, last);
  return MR3D_OK;
}

/**
 * grid [M,3], features [M,columns], row [M]: one point per occupied cell, the one with the lowest row number, cells sorted by (x,y,z).
 *
 *     rows with a non-finite value in any column are dropped
 *     min = smallest coordinate of each axis;  shifted = x - min;  index = floor(shifted / cell_size)     metres, all in binary64
 *     features = shifted, and colour / 127.5 - 1 where columns is 6
 *
 * An index beyond num_bins - 1 is an error, or becomes num_bins - 1 under grid_overflow `clip` (features are never clipped).
 * Errors: columns other than 3 and 6; no finite row; a colour outside 0 .. 255; an index out of range, with row, axis and numbers.
 */
mr3d_status mr3d_voxelize(const mr3d_context *context, const mr3d_config *config, int64_t N_raw, int64_t columns, const double *points,
                          mr3d_voxelize_out *out, mr3d_error *error) {
  (void)context;
  if (columns != 3 && columns != 6)
    return mr3d_fail(error, MR3D_INVALID, "points has %lld columns: expected 3 (x, y, z) or 6 (then red, green, blue)", (long long)columns);
  double min[3] = {INFINITY, INFINITY, INFINITY};
  int64_t finite = 0;
  for (int64_t n = 0; n < N_raw; n++)
    if (all_finite(points + n * columns, columns)) {
      finite++;
      for (int axis = 0; axis < 3; axis++)
        min[axis] = fmin(min[axis], points[n * columns + axis]);
      for (int64_t c = 3; c < columns; c++)
        if (!(points[n * columns + c] >= 0 && points[n * columns + c] <= 255))
          return mr3d_fail(error, MR3D_INVALID, "points[%lld] has %s %g: colours are 0 .. 255", (long long)n, (const char *[]){"red", "green", "blue"}[c - 3],
                           points[n * columns + c]);
    }
  if (finite == 0)
    return mr3d_fail(error, MR3D_INVALID, "points has %lld rows, of which 0 are finite: an empty cloud has no grid", (long long)N_raw);

  cell *cells = mr3d_allocate(finite, sizeof *cells);
  int64_t count = 0;
  for (int64_t n = 0; n < N_raw; n++) {
    if (!all_finite(points + n * columns, columns))
      continue;
    cells[count].row = n;
    for (int axis = 0; axis < 3; axis++) {
      const mr3d_status status = grid_index(config, points[n * columns + axis] - min[axis], n, axis, &cells[count].index[axis], error);
      if (status != MR3D_OK) {
        free(cells);
        return status;
      }
    }
    count++;
  }
  qsort(cells, (size_t)count, sizeof *cells, by_cell_then_row);
  int64_t M = 0;
  for (int64_t n = 0; n < count; n++)
    if (n == 0 || !same_cell(&cells[n], &cells[M - 1]))
      cells[M++] = cells[n];

  *out = (mr3d_voxelize_out){.M = M, .columns = columns, .dropped = N_raw - finite, .grid = mr3d_allocate(M * 3, sizeof(int64_t)),
                             .features = mr3d_allocate(M * columns, sizeof(double)), .row = mr3d_allocate(M, sizeof(int64_t))};
  for (int64_t m = 0; m < M; m++) {
    out->row[m] = cells[m].row;
    const double *point = points + cells[m].row * columns;
    for (int64_t c = 0; c < columns; c++)
      out->features[m * columns + c] = c < 3 ? point[c] - min[c] : point[c] / 127.5 - 1;
    for (int axis = 0; axis < 3; axis++)
      out->grid[m * 3 + axis] = cells[m].index[axis];
  }
  free(cells);
  return MR3D_OK;
}

void mr3d_voxelize_free(mr3d_voxelize_out *out) {
  free(out->grid);
  free(out->features);
  free(out->row);
  *out = (mr3d_voxelize_out){0};
}

/**
 * scale = u |y| + ua |y| for coordinates (one difference of exact numbers), u |y| + ua (2 |y + 1| + |y|) for colours (the quotient, or a product with
 * a rounded 1/127.5, and the difference), plus eta where |y| > 0. The point of the smallest coordinate must be exactly 0.
 * shared (may be NULL): of colours all of it, for a colour is one of 256 values and each rounds in one way, however many points have it.
 */
void mr3d_voxelize_scale(const mr3d_units *units, const mr3d_voxelize_out *out, double *scale, double *shared) {
  for (int64_t i = 0; i < out->M * out->columns; i++) {
    const double y = fabs(out->features[i]), quotient = i % out->columns < 3 ? 0 : fabs(out->features[i] + 1);
    scale[i] = (units->narrow ? units->u * y : 0) + units->ua * (2 * quotient + y) + (y > 0 ? units->eta : 0);
    if (shared != NULL)
      shared[i] = i % out->columns < 3 ? 0 : scale[i];
  }
}
