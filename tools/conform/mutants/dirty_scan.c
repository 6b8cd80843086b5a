/** P24: which rows of a scan count, where cells begin and end, which point stands for a cell, and in which order cells and tokens come. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

/* ---- scans with another rule ---- */

static bool all_finite(int64_t columns, const double *row) {
  for (int64_t c = 0; c < columns; c++)
    if (!isfinite(row[c])) return false;
  return true;
}

static double floored(const mr3d_config *config, double x, double min) { return floor((x - min) / config->cell_size); }

/** The index of a place that may be no number, or below the grid; false: beyond it, which must be refused. */
static bool index_of(const mr3d_config *config, double place, double *index) {
  const double last = (double)(config->num_bins - 1);
  if (isfinite(place) && place > last && config->grid_overflow == MR3D_OVERFLOW_ERROR) return false;
  *index = isnan(place) ? 0 : fmax(fmin(place, last), -0x1p40);
  return true;
}

/**
 * The reference cuts the indices, as points in cells of 1, into the same cells: rows, order and winners are its own. Features are
 * the difference to the rule's minimum, and the colour.
 */
mr3d_status mr3d_voxelize_by(const mr3d_scan_rule *rule, const mr3d_context *context, const mr3d_config *config, int64_t N_raw, int64_t columns,
                             const double *points, mr3d_voxelize_out *out, mr3d_error *error) {
  bool (*keeps)(int64_t, const double *) = rule->keeps ? rule->keeps : all_finite;
  double (*place)(const mr3d_config *, double, double) = rule->place ? rule->place : floored;
  mr3d_config boundless = *config, whole = *config;
  boundless.num_bins = whole.num_bins = (int64_t)1 << 62;
  boundless.grid_overflow = MR3D_OVERFLOW_CLIP;
  whole.cell_size = 1;
  mr3d_status status = mr3d_voxelize(context, &boundless, N_raw, columns, points, out, error); /* its other refusals stay */
  if (status != MR3D_OK) return status;
  mr3d_voxelize_free(out);

  double min[3] = {INFINITY, INFINITY, INFINITY}, least[3] = {INFINITY, INFINITY, INFINITY};
  for (int64_t n = 0; n < N_raw; n++)
    for (int axis = 0; axis < 3 && keeps(columns, points + n * columns); axis++) min[axis] = fmin(min[axis], points[n * columns + axis]);
  if (rule->minimum) rule->minimum(N_raw, columns, points, min);
  double *indices = mr3d_allocate(N_raw * 3, sizeof *indices);
  for (int64_t i = 0; i < N_raw * 3 && status == MR3D_OK; i++) {
    const int axis = (int)(i % 3);
    const double *row = points + i / 3 * columns;
    indices[i] = NAN;
    if (!keeps(columns, row)) continue;
    if (!index_of(config, place(config, row[axis], min[axis]), &indices[i]))
      status = mr3d_fail(error, MR3D_INVALID, "points[%lld] lies beyond the grid's last index %lld", (long long)(i / 3), (long long)config->num_bins - 1);
    least[axis] = fmin(least[axis], indices[i]);
  }
  if (status == MR3D_OK) status = mr3d_voxelize(context, &whole, N_raw, 3, indices, out, error);
  free(indices);
  if (status != MR3D_OK) return status;

  free(out->features);
  out->columns = columns;
  out->features = mr3d_allocate(out->M * columns, sizeof *out->features);
  for (int64_t m = 0; m < out->M; m++) {
    const double *row = points + out->row[m] * columns;
    for (int axis = 0; axis < 3; axis++) out->grid[m * 3 + axis] += (int64_t)least[axis];
    for (int64_t c = 0; c < columns; c++) out->features[m * columns + c] = c < 3 ? row[c] - min[c] : row[c] / 127.5 - 1;
  }
  return MR3D_OK;
}

#define VOXELIZE(name)                                                                                                                               \
  static mr3d_status name(const mr3d_context *context, const mr3d_config *config, int64_t N_raw, int64_t columns, const double *points,              \
                          mr3d_voxelize_out *out, mr3d_error *error)
#define BY(...) mr3d_voxelize_by(&(mr3d_scan_rule){__VA_ARGS__}, context, config, N_raw, columns, points, out, error)

/* ---- which rows count ---- */

static bool every_row(int64_t columns, const double *row) { return (void)columns, (void)row, true; }
static bool no_nan(int64_t columns, const double *row) {
  for (int64_t c = 0; c < columns; c++)
    if (isnan(row[c])) return false;
  return true;
}
static bool finite_place(int64_t columns, const double *row) { return (void)columns, all_finite(3, row); }

VOXELIZE(nothing_dropped) { return BY(.keeps = every_row); }
VOXELIZE(infinity_kept) { return BY(.keeps = no_nan); }
VOXELIZE(colour_unchecked) { return BY(.keeps = finite_place); }

/* ---- from where indices count ---- */

static void none(int64_t N, int64_t columns, const double *points, double min[3]) {
  (void)N, (void)columns, (void)points;
  min[0] = min[1] = min[2] = 0;
}
static void of_all_axes(int64_t N, int64_t columns, const double *points, double min[3]) {
  (void)N, (void)columns, (void)points;
  min[0] = min[1] = min[2] = fmin(fmin(min[0], min[1]), min[2]);
}
static void with_dropped(int64_t N, int64_t columns, const double *points, double min[3]) {
  for (int64_t n = 0; n < N; n++)
    for (int axis = 0; axis < 3; axis++)
      if (isfinite(points[n * columns + axis])) min[axis] = fmin(min[axis], points[n * columns + axis]);
}

VOXELIZE(minimum_missing) { return BY(.minimum = none); }
VOXELIZE(minimum_of_all_axes) { return BY(.minimum = of_all_axes); }
VOXELIZE(minimum_of_dropped) { return BY(.minimum = with_dropped); }

/* ---- which cell ---- */

static double in_binary32(const mr3d_config *config, double x, double min) {
  return (double)floorf(((float)x - (float)min) / (float)config->cell_size);
}
static double multiplied(const mr3d_config *config, double x, double min) { return floor((x - min) * (1 / config->cell_size)); }
static double divided_first(const mr3d_config *config, double x, double min) { return floor(x / config->cell_size) - floor(min / config->cell_size); }
static double rounded(const mr3d_config *config, double x, double min) { return round((x - min) / config->cell_size); }

VOXELIZE(floor_in_binary32) { return BY(.place = in_binary32); }
VOXELIZE(multiplied_by_40) { return BY(.place = multiplied); }
VOXELIZE(divided_before_subtracting) { return BY(.place = divided_first); }
VOXELIZE(rounded_to_nearest) { return BY(.place = rounded); }

/* ---- the grid's end ---- */

VOXELIZE(clipped_under_error) {
  mr3d_config changed = *config;
  changed.grid_overflow = MR3D_OVERFLOW_CLIP;
  return mr3d_voxelize(context, &changed, N_raw, columns, points, out, error);
}

VOXELIZE(not_clipped) {
  mr3d_config changed = *config;
  if (config->grid_overflow == MR3D_OVERFLOW_CLIP) changed.num_bins = (int64_t)1 << 62;
  return mr3d_voxelize(context, &changed, N_raw, columns, points, out, error);
}

/** Without the cells for which `lost` holds. */
static void lose(const mr3d_config *config, bool (*lost)(const mr3d_config *, const int64_t *cell), mr3d_voxelize_out *out) {
  int64_t M = 0;
  for (int64_t m = 0; m < out->M; m++) {
    if (lost(config, out->grid + 3 * m)) continue;
    memmove(out->grid + 3 * M, out->grid + 3 * m, 3 * sizeof *out->grid);
    memmove(out->features + out->columns * M, out->features + out->columns * m, (size_t)out->columns * sizeof *out->features);
    out->row[M++] = out->row[m];
  }
  out->M = M;
}

static bool at_last(const mr3d_config *config, const int64_t *cell) {
  const int64_t last = config->num_bins - 1;
  return cell[0] == last || cell[1] == last || cell[2] == last;
}
static bool beyond(const mr3d_config *config, const int64_t *cell) {
  const int64_t last = config->num_bins - 1;
  return cell[0] > last || cell[1] > last || cell[2] > last;
}

VOXELIZE(last_cell_lost) {
  mr3d_status status = mr3d_voxelize(context, config, N_raw, columns, points, out, error);
  if (status == MR3D_OK) lose(config, at_last, out);
  return status;
}

VOXELIZE(dropped_for_clipped) {
  mr3d_status status = not_clipped(context, config, N_raw, columns, points, out, error);
  if (status == MR3D_OK) lose(config, beyond, out);
  return status;
}

/* ---- what stands for a cell ---- */

VOXELIZE(last_row_wins) {
  double *reversed = mr3d_allocate(N_raw * columns, sizeof *reversed);
  for (int64_t n = 0; n < N_raw; n++) memcpy(reversed + n * columns, points + (N_raw - 1 - n) * columns, (size_t)columns * sizeof *reversed);
  mr3d_status status = mr3d_voxelize(context, config, N_raw, columns, reversed, out, error);
  for (int64_t m = 0; status == MR3D_OK && m < out->M; m++) out->row[m] = N_raw - 1 - out->row[m];
  free(reversed);
  return status;
}

static int64_t cell_of(const mr3d_voxelize_out *out, const int64_t index[3]) {
  int64_t low = 0, high = out->M;
  while (low < high) {
    const int64_t middle = (low + high) / 2, *cell = out->grid + 3 * middle;
    const bool before = cell[0] != index[0] ? cell[0] < index[0] : cell[1] != index[1] ? cell[1] < index[1] : cell[2] < index[2];
    *(before ? &low : &high) = before ? middle + 1 : middle;
  }
  return low;
}

VOXELIZE(mean_of_cell) {
  mr3d_status status = mr3d_voxelize(context, config, N_raw, columns, points, out, error);
  if (status != MR3D_OK) return status;
  double min[3] = {INFINITY, INFINITY, INFINITY};
  int64_t *members = mr3d_allocate(out->M, sizeof *members);
  memset(out->features, 0, (size_t)(out->M * columns) * sizeof *out->features);
  for (int64_t n = 0; n < N_raw; n++)
    for (int axis = 0; axis < 3 && all_finite(columns, points + n * columns); axis++) min[axis] = fmin(min[axis], points[n * columns + axis]);
  for (int64_t n = 0; n < N_raw; n++) {
    const double *row = points + n * columns;
    int64_t index[3];
    if (!all_finite(columns, row)) continue;
    for (int axis = 0; axis < 3; axis++) index[axis] = (int64_t)fmin(floored(config, row[axis], min[axis]), (double)(config->num_bins - 1));
    const int64_t m = cell_of(out, index);
    members[m]++;
    for (int64_t c = 0; c < columns; c++) out->features[m * columns + c] += c < 3 ? row[c] - min[c] : row[c] / 127.5 - 1;
  }
  for (int64_t i = 0; i < out->M * columns; i++) out->features[i] /= (double)members[i / columns];
  free(members);
  return MR3D_OK;
}

/** Features made anew: coordinates by `place` from the shifted and the raw one and the index, colours by `colour`. */
static mr3d_status remade(double (*place)(const mr3d_config *, double shifted, double raw, int64_t index), double (*colour)(double), const mr3d_context *context,
                          const mr3d_config *config, int64_t N_raw, int64_t columns, const double *points, mr3d_voxelize_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_voxelize(context, config, N_raw, columns, points, out, error);
  if (status != MR3D_OK) return status;
  for (int64_t i = 0; i < out->M * columns; i++) {
    const int64_t m = i / columns, c = i % columns;
    const double raw = points[out->row[m] * columns + c];
    if (c < 3 && place) out->features[i] = place(config, out->features[i], raw, out->grid[m * 3 + c]);
    if (c >= 3 && colour) out->features[i] = colour(raw);
  }
  return MR3D_OK;
}

static double unshifted(const mr3d_config *config, double shifted, double raw, int64_t index) { return (void)config, (void)shifted, (void)index, raw; }
static double corner(const mr3d_config *config, double shifted, double raw, int64_t index) {
  return (void)shifted, (void)raw, (double)index * config->cell_size;
}
static double centre(const mr3d_config *config, double shifted, double raw, int64_t index) {
  return (void)shifted, (void)raw, ((double)index + 0.5) * config->cell_size;
}
static double over_255(double raw) { return raw / 255; }
static double over_127(double raw) { return raw / 127.5; }
static double as_given(double raw) { return raw; }

VOXELIZE(features_unshifted) { return remade(unshifted, NULL, context, config, N_raw, columns, points, out, error); }
VOXELIZE(features_of_corner) { return remade(corner, NULL, context, config, N_raw, columns, points, out, error); }
VOXELIZE(features_of_centre) { return remade(centre, NULL, context, config, N_raw, columns, points, out, error); }
VOXELIZE(colour_over_255) { return remade(NULL, over_255, context, config, N_raw, columns, points, out, error); }
VOXELIZE(colour_unshifted) { return remade(NULL, over_127, context, config, N_raw, columns, points, out, error); }
VOXELIZE(colour_as_given) { return remade(NULL, as_given, context, config, N_raw, columns, points, out, error); }

/* ---- order ---- */

typedef struct place {
  int64_t index[3], first, from; /* first: the row that came first */
} place;

static int by_appearance(const void *left, const void *right) {
  const place *a = left, *b = right;
  return (a->first > b->first) - (a->first < b->first);
}
static int by_zyx(const void *left, const void *right) {
  const place *a = left, *b = right;
  for (int axis = 2; axis >= 0; axis--)
    if (a->index[axis] != b->index[axis]) return a->index[axis] < b->index[axis] ? -1 : 1;
  return 0;
}

/** places [n] of `index` [n,3], in another order. */
static place *ordered(int (*order)(const void *, const void *), int64_t n, const int64_t *index, const int64_t *first) {
  place *places = mr3d_allocate(n, sizeof *places);
  for (int64_t i = 0; i < n; i++) {
    memcpy(places[i].index, index + 3 * i, sizeof places[i].index);
    places[i].first = first[i];
    places[i].from = i;
  }
  qsort(places, (size_t)n, sizeof *places, order);
  return places;
}

static mr3d_status cells_by(int (*order)(const void *, const void *), const mr3d_context *context, const mr3d_config *config, int64_t N_raw, int64_t columns,
                            const double *points, mr3d_voxelize_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_voxelize(context, config, N_raw, columns, points, out, error);
  if (status != MR3D_OK) return status;
  place *places = ordered(order, out->M, out->grid, out->row);
  double *features = mr3d_allocate(out->M * columns, sizeof *features);
  for (int64_t m = 0; m < out->M; m++) {
    memcpy(out->grid + 3 * m, places[m].index, sizeof places[m].index);
    memcpy(features + columns * m, out->features + columns * places[m].from, (size_t)columns * sizeof *features);
    out->row[m] = places[m].first;
  }
  free(out->features);
  out->features = features;
  free(places);
  return MR3D_OK;
}

VOXELIZE(cells_by_appearance) { return cells_by(by_appearance, context, config, N_raw, columns, points, out, error); }
VOXELIZE(cells_by_zyx) { return cells_by(by_zyx, context, config, N_raw, columns, points, out, error); }

/* ---- tokens ---- */

#define TOKEN_COORDS(name)                                                                                                                            \
  static mr3d_status name(const mr3d_context *context, int64_t M, const int64_t *grid, int64_t stages, mr3d_token_coords_out *out, mr3d_error *error)

static int64_t halved(int64_t index, int64_t stages) { return stages < 63 ? index >> stages : 0; }

/** The first cell of each token. */
static int64_t *first_cells(int64_t M, const int64_t *grid, int64_t stages, const mr3d_token_coords_out *out) {
  const mr3d_voxelize_out sorted = {.M = out->N, .grid = out->coords};
  int64_t *first = mr3d_allocate(out->N, sizeof *first);
  for (int64_t m = M - 1; m >= 0; m--)
    first[cell_of(&sorted, (int64_t[]){halved(grid[3 * m], stages), halved(grid[3 * m + 1], stages), halved(grid[3 * m + 2], stages)})] = m;
  return first;
}

static mr3d_status tokens_by(int (*order)(const void *, const void *), const mr3d_context *context, int64_t M, const int64_t *grid, int64_t stages,
                             mr3d_token_coords_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_token_coords(context, M, grid, stages, out, error);
  if (status != MR3D_OK) return status;
  int64_t *first = first_cells(M, grid, stages, out), *count = mr3d_allocate(out->N, sizeof *count);
  place *places = ordered(order, out->N, out->coords, first);
  for (int64_t n = 0; n < out->N; n++) {
    memcpy(out->coords + 3 * n, places[n].index, sizeof places[n].index);
    count[n] = out->count[places[n].from];
  }
  memcpy(out->count, count, (size_t)out->N * sizeof *count);
  free(count);
  free(first);
  free(places);
  return MR3D_OK;
}

TOKEN_COORDS(tokens_by_appearance) { return tokens_by(by_appearance, context, M, grid, stages, out, error); }
TOKEN_COORDS(tokens_by_zyx) { return tokens_by(by_zyx, context, M, grid, stages, out, error); }

TOKEN_COORDS(stage_less) { return mr3d_token_coords(context, M, grid, stages > 0 ? stages - 1 : stages, out, error); }
TOKEN_COORDS(stage_more) { return mr3d_token_coords(context, M, grid, stages >= 0 && stages < 63 ? stages + 1 : stages, out, error); }
TOKEN_COORDS(four_stages) { return mr3d_token_coords(context, M, grid, stages >= 0 ? 4 : stages, out, error); }

TOKEN_COORDS(counts_of_one) {
  mr3d_status status = mr3d_token_coords(context, M, grid, stages, out, error);
  for (int64_t n = 0; status == MR3D_OK && n < out->N; n++) out->count[n] = 1;
  return status;
}

TOKEN_COORDS(counts_of_rows) {
  mr3d_status status = mr3d_token_coords(context, M, grid, stages, out, error);
  if (status != MR3D_OK) return status;
  const mr3d_voxelize_out sorted = {.M = out->N, .grid = out->coords};
  memset(out->count, 0, (size_t)out->N * sizeof *out->count);
  for (int64_t m = 0; m < M; m++)
    out->count[cell_of(&sorted, (int64_t[]){halved(grid[3 * m], stages), halved(grid[3 * m + 1], stages), halved(grid[3 * m + 2], stages)})]++;
  return MR3D_OK;
}

/** Tokens of other cells: `moved` says which cell stands for one. Each counts the distinct cells that went into it, as it should. */
static mr3d_status with_cells(int64_t (*moved)(int64_t index, int64_t stages), const mr3d_context *context, int64_t M, const int64_t *grid, int64_t stages,
                              mr3d_token_coords_out *out, mr3d_error *error) {
  int64_t *cells = mr3d_allocate(3 * M, sizeof *cells);
  for (int64_t i = 0; i < 3 * M; i++) cells[i] = stages >= 0 ? moved(grid[i], stages) : grid[i];
  mr3d_status status = mr3d_token_coords(context, M, cells, stages, out, error);
  free(cells);
  mr3d_token_coords_out distinct = {0};
  mr3d_error unused = {0};
  if (status != MR3D_OK || mr3d_token_coords(context, M, grid, 0, &distinct, &unused) != MR3D_OK) return status; /* negative ones: refused there */
  const mr3d_voxelize_out sorted = {.M = out->N, .grid = out->coords};
  memset(out->count, 0, (size_t)out->N * sizeof *out->count);
  for (int64_t n = 0; n < distinct.N; n++) {
    int64_t token[3];
    for (int axis = 0; axis < 3; axis++) token[axis] = halved(moved(distinct.coords[3 * n + axis], stages), stages);
    out->count[cell_of(&sorted, token)]++;
  }
  mr3d_token_coords_free(&distinct);
  return MR3D_OK;
}

/** Rounded up at every stage, and then brought back to where the reference will find it. */
static int64_t rounded_up(int64_t index, int64_t stages) {
  if (index <= 0 || stages > 40 || index > (int64_t)1 << 20) return index;
  for (int64_t s = 0; s < stages; s++) index = (index + 1) / 2;
  return index << stages;
}
/** -15 .. -1 become 0 by a division that cuts towards 0; what lies below keeps its sign and is refused. */
static int64_t cut(int64_t index, int64_t stages) { return index < 0 && (stages >= 63 || index > -((int64_t)1 << stages)) ? 0 : index; }

static int64_t to_nearest(int64_t index, int64_t stages) { return stages > 0 && stages < 62 && index >= 0 && index < INT64_MAX / 2 ? (index + ((int64_t)1 << (stages - 1))) >> stages << stages : index; }

TOKEN_COORDS(halved_upwards) { return with_cells(rounded_up, context, M, grid, stages, out, error); }
TOKEN_COORDS(halved_to_nearest) { return with_cells(to_nearest, context, M, grid, stages, out, error); }
TOKEN_COORDS(negative_cut) { return with_cells(cut, context, M, grid, stages, out, error); }

/** The grid of tokens is as large as the largest index over 16, rounded up: enough unless 16 divides it. */
TOKEN_COORDS(last_slab_lost) {
  mr3d_status status = mr3d_token_coords(context, M, grid, stages, out, error);
  if (status != MR3D_OK || stages > 40) return status;
  int64_t size[3] = {1, 1, 1}, N = 0;
  for (int64_t i = 0; i < 3 * M; i++) {
    const int64_t needed = halved(grid[i], stages) + (grid[i] % ((int64_t)1 << stages) > 0);
    if (size[i % 3] < needed) size[i % 3] = needed;
  }
  for (int64_t n = 0; n < out->N; n++) {
    const int64_t *token = out->coords + 3 * n;
    if (token[0] >= size[0] || token[1] >= size[1] || token[2] >= size[2]) continue;
    memmove(out->coords + 3 * N, token, 3 * sizeof *token);
    out->count[N++] = out->count[n];
  }
  out->N = N;
  return MR3D_OK;
}

static const mr3d_mutant entries[] = {
    {"dirty-scan", "nothing-dropped", "rows with NaN or infinity are kept", "voxelize", {.voxelize = nothing_dropped}},
    {"dirty-scan", "infinity-kept", "only rows with NaN are dropped: infinite ones stay, and -inf becomes the minimum", "voxelize", {.voxelize = infinity_kept}},
    {"dirty-scan", "colour-unchecked", "rows are dropped for their position only: a non-finite colour stays", "voxelize", {.voxelize = colour_unchecked}},
    {"dirty-scan", "minimum-missing", "the minimum is not subtracted: indices and features count from the scanner's origin", "voxelize",
     {.voxelize = minimum_missing}},
    {"dirty-scan", "minimum-of-all-axes", "one minimum of all axes together is subtracted instead of each axis' own", "voxelize", {.voxelize = minimum_of_all_axes}},
    {"dirty-scan", "minimum-of-dropped", "the minimum is taken before non-finite rows are dropped: their finite values count", "voxelize",
     {.voxelize = minimum_of_dropped}},
    {"dirty-scan", "floor-in-binary32", "the cell index is computed in binary32 instead of binary64", "voxelize", {.voxelize = floor_in_binary32}},
    {"dirty-scan", "multiplied-by-40", "the index is floor((x - min) * 40) instead of a division by 0.025: 47 of the 1280 exact multiples change", "voxelize",
     {.voxelize = multiplied_by_40}},
    {"dirty-scan", "divided-before-subtracting", "the index is floor(x / cell) - floor(min / cell): the minimum is subtracted after the division", "voxelize",
     {.voxelize = divided_before_subtracting}},
    {"dirty-scan", "rounded-to-nearest", "the index is rounded to the nearest instead of down: points are half a cell off", "voxelize",
     {.voxelize = rounded_to_nearest}},
    {"dirty-scan", "clipped-under-error", "indices beyond 1279 are clipped although grid_overflow says error: everything beyond 32 m merges", "voxelize",
     {.voxelize = clipped_under_error}},
    {"dirty-scan", "not-clipped", "indices beyond 1279 are kept although grid_overflow says clip", "voxelize", {.voxelize = not_clipped}},
    {"dirty-scan", "dropped-for-clipped", "points beyond index 1279 are dropped although grid_overflow says clip", "voxelize", {.voxelize = dropped_for_clipped}},
    {"dirty-scan", "last-cell-lost", "cells with index 1279, the last one, are lost", "voxelize", {.voxelize = last_cell_lost}},
    {"dirty-scan", "last-row-wins", "the last row of a cell is kept instead of the first", "voxelize", {.voxelize = last_row_wins}},
    {"dirty-scan", "mean-of-cell", "features are the mean of a cell's points instead of its first point", "voxelize", {.voxelize = mean_of_cell}},
    {"dirty-scan", "features-unshifted", "features hold the coordinates as scanned, the minimum not subtracted", "voxelize", {.voxelize = features_unshifted}},
    {"dirty-scan", "features-of-corner", "features hold index times cell size instead of the point's own coordinates", "voxelize", {.voxelize = features_of_corner}},
    {"dirty-scan", "features-of-centre", "features hold the middle of the cell instead of the point's own coordinates", "voxelize", {.voxelize = features_of_centre}},
    {"dirty-scan", "colour-over-255", "colours are divided by 255, to 0 .. 1, instead of c/127.5 - 1", "voxelize", {.voxelize = colour_over_255}},
    {"dirty-scan", "colour-unshifted", "colours are c/127.5, the 1 not subtracted", "voxelize", {.voxelize = colour_unshifted}},
    {"dirty-scan", "colour-as-given", "colours are 0 .. 255 as given instead of c/127.5 - 1", "voxelize", {.voxelize = colour_as_given}},
    {"dirty-scan", "cells-by-appearance", "cells stand in the order in which the scan meets them instead of sorted by (x,y,z)", "voxelize",
     {.voxelize = cells_by_appearance}},
    {"dirty-scan", "cells-by-zyx", "cells are sorted by (z,y,x) instead of (x,y,z)", "voxelize", {.voxelize = cells_by_zyx}},
    {"dirty-scan", "tokens-by-appearance", "tokens stand in the order of their first cells instead of sorted by (x,y,z)", "token_coords",
     {.token_coords = tokens_by_appearance}},
    {"dirty-scan", "tokens-by-zyx", "tokens are sorted by (z,y,x) instead of (x,y,z)", "token_coords", {.token_coords = tokens_by_zyx}},
    {"dirty-scan", "stage-less", "indices are halved once less than `stages` says: 3 times instead of 4", "token_coords", {.token_coords = stage_less}},
    {"dirty-scan", "stage-more", "indices are halved once more than `stages` says: 5 times instead of 4", "token_coords", {.token_coords = stage_more}},
    {"dirty-scan", "four-stages", "indices are halved four times whatever `stages` says", "token_coords", {.token_coords = four_stages}},
    {"dirty-scan", "counts-of-one", "every token counts 1 instead of the cells merged into it", "token_coords", {.token_coords = counts_of_one}},
    {"dirty-scan", "counts-of-rows", "counts are of rows given instead of distinct cells", "token_coords", {.token_coords = counts_of_rows}},
    {"dirty-scan", "halved-upwards", "every stage rounds up instead of down", "token_coords", {.token_coords = halved_upwards}},
    {"dirty-scan", "halved-to-nearest", "a token's index is the cell's over 16 rounded to the nearest instead of down", "token_coords", {.token_coords = halved_to_nearest}},
    {"dirty-scan", "negative-cut", "negative indices are accepted and cut towards 0: -1 merges with 0 instead of being refused", "token_coords",
     {.token_coords = negative_cut}},
    {"dirty-scan", "last-slab-lost", "the grid of tokens has ceil(largest index / 16) slabs: where the largest index is a multiple of 16, its slab is lost", "token_coords",
     {.token_coords = last_slab_lost}},
};
const mr3d_mutant_set mr3d_mutants_dirty_scan = MR3D_MUTANT_SET(entries);
