/** P4: raw scan coordinates where token coordinates belong, 106,328 against 556; rows, columns or range mixed up. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static int64_t marked_in(const bool *mask, int64_t count) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++) n += mask[i];
  return n;
}

/**
 * A request with more coordinate rows than marked tokens, which must be refused, made answerable: of every sample's rows,
 * every k-th is kept (k = 1: the first ones).
 */
static mr3d_bundle *keep_rows(const mr3d_bundle *request, bool spread) {
  const mr3d_tensor *mask = mr3d_bundle_find(request, "point_token_mask"), *coords = mr3d_bundle_find(request, "point_coords");
  if (!mask || !coords || mask->dtype != MR3D_BOOL || mask->rank != 2 || coords->rank < 2 || mr3d_bundle_find(request, "point_counts")) return NULL;
  int64_t B = coords->rank == 3 ? coords->shape[0] : 1, rows = coords->shape[coords->rank - 2], most = 0;
  if (mask->shape[0] != B || coords->shape[coords->rank - 1] != 3) return NULL;
  for (int64_t b = 0; b < B; b++) {
    int64_t marked = marked_in((const bool *)mask->data + b * mask->shape[1], mask->shape[1]);
    if (marked > most) most = marked;
  }
  if (most == 0 || most >= rows) return NULL;

  mr3d_bundle *changed = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    mr3d_bundle_set(changed, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(request, i);
    if (tensor != coords) mr3d_bundle_borrow(changed, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  int64_t shape[3] = {B, most, 3}, step = spread ? rows / most : 1;
  mr3d_tensor *kept = mr3d_bundle_add(changed, "point_coords", coords->dtype, coords->rank, shape + 3 - coords->rank);
  size_t row_size = 3 * mr3d_dtype_size(coords->dtype);
  for (int64_t b = 0; b < B; b++)
    for (int64_t n = 0; n < most; n++)
      memcpy((char *)kept->data + (size_t)(b * most + n) * row_size, (const char *)coords->data + (size_t)(b * rows + n * step) * row_size, row_size);
  return changed;
}

static mr3d_bundle *first_rows(const mr3d_bundle *request) { return keep_rows(request, false); }
static mr3d_bundle *every_kth_row(const mr3d_bundle *request) { return keep_rows(request, true); }

/** A request with fewer coordinate rows than marked tokens made answerable: the missing rows are zeros, or repeat the last one. */
static mr3d_bundle *fill_rows(const mr3d_bundle *request, bool repeat) {
  const mr3d_tensor *mask = mr3d_bundle_find(request, "point_token_mask"), *coords = mr3d_bundle_find(request, "point_coords");
  if (!mask || !coords || mask->dtype != MR3D_BOOL || mask->rank != 2 || coords->rank < 2 || mr3d_bundle_find(request, "point_counts")) return NULL;
  int64_t rows = coords->shape[coords->rank - 2], marked = marked_in(mask->data, mask->shape[1]);
  if (mask->shape[0] != 1 || (coords->rank == 3 && coords->shape[0] != 1) || coords->shape[coords->rank - 1] != 3 || rows == 0 || rows >= marked) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, "point_coords");
  int64_t shape[3] = {1, marked, 3};
  mr3d_tensor *filled = mr3d_bundle_add(changed, "point_coords", coords->dtype, coords->rank, shape + 3 - coords->rank);
  size_t row_size = 3 * mr3d_dtype_size(coords->dtype);
  memcpy(filled->data, coords->data, (size_t)rows * row_size);
  for (int64_t n = rows; repeat && n < marked; n++) memcpy((char *)filled->data + (size_t)n * row_size, (const char *)coords->data + (size_t)(rows - 1) * row_size, row_size);
  return changed;
}

static mr3d_bundle *missing_rows_zero(const mr3d_bundle *request) { return fill_rows(request, false); }
static mr3d_bundle *missing_rows_repeated(const mr3d_bundle *request) { return fill_rows(request, true); }

/** Marked tokens without coordinates: zeros stand for them. */
static mr3d_bundle *at_origin(const mr3d_bundle *request) {
  const mr3d_tensor *mask = mr3d_bundle_find(request, "point_token_mask");
  if (!mask || mask->dtype != MR3D_BOOL || mask->rank != 2 || mr3d_bundle_find(request, "point_coords") || mr3d_bundle_find(request, "point_counts")) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, NULL);
  int64_t shape[3] = {mask->shape[0], mask->shape[1], 3};
  mr3d_bundle_add(changed, "point_coords", MR3D_F64, 3, shape);
  int64_t *counts = mr3d_bundle_add(changed, "point_counts", MR3D_I64, 1, shape)->data;
  for (int64_t b = 0; b < shape[0]; b++) counts[b] = marked_in((const bool *)mask->data + b * shape[1], shape[1]);
  return changed;
}

/** Coordinates without a mask: left out. */
static mr3d_bundle *ignored_alone(const mr3d_bundle *request) {
  bool alone = mr3d_bundle_find(request, "point_coords") && !mr3d_bundle_find(request, "point_token_mask") && !mr3d_bundle_find(request, "point_counts");
  return alone ? mr3d_request_without(request, "point_coords") : NULL;
}

/** Rows of `columns` numbers made rows of three: cut, or filled up with 0. */
static mr3d_bundle *three_columns(const mr3d_bundle *request, int64_t columns) {
  const mr3d_tensor *coords = mr3d_bundle_find(request, "coords");
  if (!coords) coords = mr3d_bundle_find(request, "point_coords");
  if (!coords || coords->rank < 2 || coords->shape[coords->rank - 1] != columns) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, coords->name);
  int64_t shape[MR3D_MAX_RANK];
  memcpy(shape, coords->shape, sizeof shape);
  shape[coords->rank - 1] = 3;
  mr3d_tensor *three = mr3d_bundle_add(changed, coords->name, coords->dtype, coords->rank, shape);
  size_t size = mr3d_dtype_size(coords->dtype), kept = size * (size_t)(columns < 3 ? columns : 3);
  for (int64_t row = 0; row < mr3d_tensor_count(three) / 3; row++)
    memcpy((char *)three->data + (size_t)row * 3 * size, (const char *)coords->data + (size_t)(row * columns) * size, kept);
  return changed;
}

static mr3d_bundle *fourth_column_cut(const mr3d_bundle *request) { return three_columns(request, 4); }
static mr3d_bundle *z_made_up(const mr3d_bundle *request) { return three_columns(request, 2); }

/** rope3d's tables of one row, repeated for every token. */
static mr3d_bundle *row_for_all(const mr3d_bundle *request) {
  const mr3d_tensor *x = mr3d_bundle_find(request, "x"), *tables[2] = {mr3d_bundle_find(request, "cos"), mr3d_bundle_find(request, "sin")};
  mr3d_bundle *one = mr3d_request_without(request, "cos"), *changed = mr3d_request_without(one, "sin");
  bool fits = x && x->rank == 4;
  for (int t = 0; t < 2; t++) fits = fits && tables[t] && tables[t]->rank == 3 && tables[t]->shape[1] == 1;
  for (int t = 0; t < 2 && fits; t++) {
    int64_t N = x->shape[2], shape[3] = {tables[t]->shape[0], N, tables[t]->shape[2]};
    mr3d_tensor *table = mr3d_bundle_add(changed, tables[t]->name, tables[t]->dtype, 3, shape);
    size_t size = (size_t)shape[2] * mr3d_dtype_size(table->dtype);
    for (int64_t r = 0; r < shape[0] * N; r++) memcpy((char *)table->data + (size_t)r * size, (const char *)tables[t]->data + (size_t)(r / N) * size, size);
  }
  mr3d_bundle_free(&one);
  if (!fits) mr3d_bundle_free(&changed);
  return changed;
}

/** Tokens in the order in which their first cell stands in the grid. */
static mr3d_status tokens_as_they_come(const mr3d_context *context, int64_t M, const int64_t *grid, int64_t stages, mr3d_token_coords_out *out,
                                       mr3d_error *error) {
  mr3d_status status = mr3d_token_coords(context, M, grid, stages, out, error);
  if (status != MR3D_OK) return status;
  int64_t next = 0;
  for (int64_t m = 0; m < M && next < out->N; m++)
    for (int64_t n = next; n < out->N; n++) {
      int64_t *to = out->coords + 3 * next, *from = out->coords + 3 * n;
      bool same = true;
      for (int a = 0; a < 3; a++) same = same && (stages < 63 ? grid[3 * m + a] >> stages : 0) == from[a];
      if (!same) continue;
      for (int a = 0; a < 3; a++) {
        int64_t c = to[a];
        to[a] = from[a];
        from[a] = c;
      }
      int64_t count = out->count[next];
      out->count[next++] = out->count[n];
      out->count[n] = count;
      break;
    }
  return MR3D_OK;
}

/** Writes the rows [count,3] of sample b in another order or with other columns. */
typedef void rearrange(int64_t b, int64_t count, const double *from, double *to);

static mr3d_status rearranged(rearrange *rows, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query,
                              double *key, mr3d_error *error) {
  if (!in->points.mask) return mr3d_mixed_rope(context, config, in, query, key, error);
  int64_t size = in->points.N * 3;
  double *coords = mr3d_allocate(in->B * size, sizeof *coords);
  for (int64_t b = 0; b < in->B; b++) rows(b, mr3d_rows_of(in->points.counts, b, in->points.N), in->points.coords + b * size, coords + b * size);
  mr3d_mixed_rope_in changed = *in;
  changed.points.coords = coords;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(coords);
  return status;
}

static void copy_row(const double *from, int64_t row, double *to, int64_t n) { memcpy(to + 3 * n, from + 3 * row, 3 * sizeof *to); }

static void reverse(int64_t b, int64_t count, const double *from, double *to) {
  (void)b;
  for (int64_t n = 0; n < count; n++) copy_row(from, count - 1 - n, to, n);
}
static void roll(int64_t b, int64_t count, const double *from, double *to) {
  (void)b;
  for (int64_t n = 0; n < count; n++) copy_row(from, (n + 1) % count, to, n);
}
/** Some fixed order without a pattern, as a hash table's. */
static void shuffle(int64_t b, int64_t count, const double *from, double *to) {
  uint64_t state = 88172645463325252u;
  (void)b;
  for (int64_t n = 0; n < count; n++) { /* row n goes to a random place among the first n + 1 */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    int64_t place = (int64_t)(state % (uint64_t)(n + 1));
    if (place != n) copy_row(to, place, to, n);
    copy_row(from, n, to, place);
  }
}
static int by_z_first(const void *a, const void *b) {
  const double *x = a, *y = b;
  for (int axis = 2; axis >= 0; axis--)
    if (x[axis] != y[axis]) return x[axis] < y[axis] ? -1 : 1;
  return 0;
}
static int by_x_first(const void *a, const void *b) {
  const double *x = a, *y = b;
  for (int axis = 0; axis < 3; axis++)
    if (x[axis] != y[axis]) return x[axis] < y[axis] ? -1 : 1;
  return 0;
}
static void sort(int (*compare)(const void *, const void *), int64_t count, const double *from, double *to) {
  for (int64_t n = 0; n < count; n++) copy_row(from, n, to, n);
  qsort(to, (size_t)count, 3 * sizeof *to, compare);
}
static void sort_by_z(int64_t b, int64_t count, const double *from, double *to) { (void)b, sort(by_z_first, count, from, to); }
static void sort_by_x(int64_t b, int64_t count, const double *from, double *to) { (void)b, sort(by_x_first, count, from, to); }
static void batch_first(int64_t b, int64_t count, const double *from, double *to) {
  for (int64_t n = 0; n < count; n++) {
    to[3 * n] = (double)b;
    to[3 * n + 1] = from[3 * n];
    to[3 * n + 2] = from[3 * n + 1];
  }
}

MR3D_MIXED_ROPE(reversed_rows) { return rearranged(reverse, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(rows_shifted) { return rearranged(roll, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(hash_order) { return rearranged(shuffle, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(sorted_by_z) { return rearranged(sort_by_z, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(sorted_by_x) { return rearranged(sort_by_x, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(batch_column) { return rearranged(batch_first, context, config, in, query, key, error); }

static mr3d_status by_norm(mr3d_coord_norm norm, const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                           mr3d_error *error) {
  mr3d_config changed = *config;
  changed.coord_norm = norm;
  return mr3d_normalize_coords(context, &changed, in, out, error);
}

MR3D_NORMALIZE_COORDS(not_normalised) { return by_norm(MR3D_NORM_NONE, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(always_grid) { return by_norm(MR3D_NORM_GRID, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(always_unit_range) { return by_norm(MR3D_NORM_UNIT_RANGE, context, config, in, out, error); }

static mr3d_status by_size(int64_t size, const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                           mr3d_error *error) {
  mr3d_config changed = *config;
  changed.reduced_grid_size = size;
  return mr3d_normalize_coords(context, &changed, in, out, error);
}

MR3D_NORMALIZE_COORDS(divided_by_size) { return by_size(config->reduced_grid_size + 1, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(divided_by_bins) { return by_size(config->num_bins, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(size_derived) { return by_size(config->num_bins >> config->downsamplings, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(size_80) { return by_size(80, context, config, in, out, error); }

/** Coordinates changed before they are normalised. */
static mr3d_status from_changed(double factor, double shift, const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in,
                                double *out, mr3d_error *error) {
  double *coords = mr3d_allocate(in->B * in->N * 3, sizeof *coords);
  for (int64_t i = 0; i < in->B * in->N * 3; i++) coords[i] = in->coords[i] * factor + shift;
  mr3d_normalize_coords_in changed = *in;
  changed.coords = coords;
  mr3d_status status = mr3d_normalize_coords(context, config, &changed, out, error);
  free(coords);
  return status;
}

MR3D_NORMALIZE_COORDS(cell_centres) { return from_changed(1, 0.5, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(metres) {
  return from_changed(config->cell_size * (double)((int64_t)1 << config->downsamplings), 0, context, config, in, out, error);
}

MR3D_NORMALIZE_COORDS(counts_clipped) {
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  mr3d_normalize_coords_in changed = *in;
  for (int64_t b = 0; in->point_counts && b < in->B; b++) counts[b] = in->point_counts[b] < in->N ? in->point_counts[b] : in->N;
  if (in->point_counts) changed.point_counts = counts;
  mr3d_status status = mr3d_normalize_coords(context, config, &changed, out, error);
  free(counts);
  return status;
}

MR3D_NORMALIZE_COORDS(integer_division) {
  mr3d_config norm_only = *config, drift_only = *config;
  norm_only.drift = MR3D_DRIFT_NONE;
  drift_only.coord_norm = MR3D_NORM_NONE;
  if (config->coord_norm != MR3D_NORM_GRID) return mr3d_normalize_coords(context, config, in, out, error);
  double *whole = mr3d_allocate(in->B * in->N * 3, sizeof *whole);
  mr3d_status status = mr3d_normalize_coords(context, &norm_only, in, whole, error);
  for (int64_t i = 0; status == MR3D_OK && i < in->B * in->N * 3; i++) whole[i] = floor(whole[i]);
  mr3d_normalize_coords_in changed = *in;
  changed.coords = whole;
  if (status == MR3D_OK) status = mr3d_normalize_coords(context, &drift_only, &changed, out, error);
  free(whole);
  return status;
}

static mr3d_status by_axes(const int axes[3], const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out,
                           mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  for (int64_t n = 0; status == MR3D_OK && n < in->B * in->N; n++) {
    const double row[3] = {out[3 * n], out[3 * n + 1], out[3 * n + 2]};
    for (int a = 0; a < 3; a++) out[3 * n + a] = row[axes[a]];
  }
  return status;
}

MR3D_NORMALIZE_COORDS(axes_swapped) { return by_axes((const int[]){2, 1, 0}, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(axes_yxz) { return by_axes((const int[]){1, 0, 2}, context, config, in, out, error); }
MR3D_NORMALIZE_COORDS(axes_yzx) { return by_axes((const int[]){1, 2, 0}, context, config, in, out, error); }

static const mr3d_mutant entries[] = {
    {"coords-count", "first-rows", "raw scan coordinates are accepted and the first rows used: 556 of 106328 instead of a refusal", "mixed_rope " MR3D_LAYERS,
     {NULL}, first_rows},
    {"coords-count", "every-kth-row", "raw scan coordinates are accepted and every k-th row used: 556 of 106328 instead of a refusal", "mixed_rope " MR3D_LAYERS,
     {NULL}, every_kth_row},
    {"coords-count", "reversed-rows", "coordinates stand in another order than the features: reversed", MR3D_ROTATIONS, {.mixed_rope = reversed_rows}},
    {"coords-count", "batch-column", "the batch index is taken for x: coordinates are (batch, x, y) instead of (x, y, z)", MR3D_ROTATIONS,
     {.mixed_rope = batch_column}},
    {"coords-count", "not-normalised", "coordinates are grid indices 0..79 where 0..1 is expected: not normalised", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = not_normalised}},
    {"coords-count", "divided-by-size", "coordinates are divided by reduced_grid_size (80) instead of reduced_grid_size - 1 (79)",
     "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = divided_by_size}},
    {"coords-count", "axes-swapped", "the axes x and z of the coordinates are exchanged", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = axes_swapped}},
    {"coords-count", "missing-rows-zero", "fewer coordinate rows than points are accepted and filled up with zeros instead of a refusal", "mixed_rope " MR3D_LAYERS,
     {NULL}, missing_rows_zero},
    {"coords-count", "missing-rows-repeated", "fewer coordinate rows than points are accepted and the last row repeated instead of a refusal",
     "mixed_rope " MR3D_LAYERS, {NULL}, missing_rows_repeated},
    {"coords-count", "rows-shifted", "coordinates are shifted by one row: point n takes row n + 1", MR3D_ROTATIONS, {.mixed_rope = rows_shifted}},
    {"coords-count", "hash-order", "coordinates stand in another order than the features: a hash table's", MR3D_ROTATIONS, {.mixed_rope = hash_order}},
    {"coords-count", "sorted-by-z", "coordinates stand in another order than the features: sorted by z, then y, then x", MR3D_ROTATIONS, {.mixed_rope = sorted_by_z}},
    {"coords-count", "sorted-by-x", "coordinates stand in another order than the features: sorted by x, then y, then z", MR3D_ROTATIONS, {.mixed_rope = sorted_by_x}},
    {"coords-count", "always-grid", "coordinates are divided by reduced_grid_size - 1 (79) whatever coord_norm says", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = always_grid}},
    {"coords-count", "always-unit-range", "coordinates are scaled to 0..1 by their own range whatever coord_norm says", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = always_unit_range}},
    {"coords-count", "divided-by-bins", "coordinates are divided by num_bins - 1 (1279) instead of reduced_grid_size - 1 (79)", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = divided_by_bins}},
    {"coords-count", "size-derived", "reduced_grid_size is ignored: it is always num_bins / 2^downsamplings", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = size_derived}},
    {"coords-count", "size-80", "coordinates are divided by 79 whatever num_bins, downsamplings and reduced_grid_size say", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = size_80}},
    {"coords-count", "cell-centres", "coordinates are the centres of cells instead of their indices: half a cell too much", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = cell_centres}},
    {"coords-count", "metres", "coordinates are metres (0.4 a cell) instead of grid indices", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = metres}},
    {"coords-count", "integer-division", "grid indices are divided by reduced_grid_size - 1 as integers: all but the last are 0", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = integer_division}},
    {"coords-count", "axes-yxz", "the axes x and y of the coordinates are exchanged", "normalize_coords " MR3D_ROTATIONS, {.normalize_coords = axes_yxz}},
    {"coords-count", "axes-yzx", "the axes of the coordinates are rotated: (y, z, x) instead of (x, y, z)", "normalize_coords " MR3D_ROTATIONS,
     {.normalize_coords = axes_yzx}},
    {"coords-count", "mask-alone-at-origin", "marked tokens without coordinates are rotated as points at 0 instead of a refusal", MR3D_ROTATIONS, {NULL}, at_origin},
    {"coords-count", "coords-alone-ignored", "coordinates without a point mask are ignored instead of a refusal", MR3D_ROTATIONS, {NULL}, ignored_alone},
    {"coords-count", "fourth-column-cut", "coordinates of four columns, the batch index in front, are accepted and the first three used instead of a refusal",
     "cis3d normalize_coords " MR3D_ROTATIONS, {NULL}, fourth_column_cut},
    {"coords-count", "z-made-up", "coordinates of two columns are accepted with z = 0 instead of a refusal", "cis3d normalize_coords " MR3D_ROTATIONS, {NULL}, z_made_up},
    {"coords-count", "row-for-all", "tables of one row are accepted for all tokens instead of a refusal", "rope3d", {NULL}, row_for_all},
    {"coords-count", "counts-clipped", "a count of more points than there are coordinate rows is cut to their number instead of a refusal", "normalize_coords",
     {.normalize_coords = counts_clipped}},
    {"coords-count", "tokens-as-they-come", "tokens stand in the order in which their cells come instead of sorted by (x, y, z)", "token_coords",
     {.token_coords = tokens_as_they_come}},
};
const mr3d_mutant_set mr3d_mutants_coords_count = MR3D_MUTANT_SET(entries);
