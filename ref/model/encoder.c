#include "encoder.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/trace.h"
#include "request.h"

void mr3d_tokens_free(mr3d_tokens *tokens) {
  free(tokens->x);
  free(tokens->cells);
  *tokens = (mr3d_tokens){0};
}

/* ---- parameters ---- */

#define NAME_SIZE 128

/* Declares a name: MR3D_ENCODER_PREFIX and what format and the function's further arguments say. */
#define FULL_NAME(name, format) \
  char name[NAME_SIZE] = MR3D_ENCODER_PREFIX; \
  va_list arguments; \
  va_start(arguments, format); \
  vsnprintf(name + strlen(name), sizeof name - strlen(name), format, arguments); \
  va_end(arguments)

static mr3d_status values_of(const mr3d_encoder *e, const char *name, const double **values) {
  return e->in->parameters->values(e->in->parameters->user, name, values, e->error);
}

mr3d_status mr3d_encoder_values(const mr3d_encoder *e, const double **values, const char *format, ...) {
  FULL_NAME(name, format);
  return values_of(e, name, values);
}

/* PREFIX.weight and PREFIX.bias. */
static mr3d_status affine_of(const mr3d_encoder *e, const char *prefix, mr3d_affine *affine) {
  char name[NAME_SIZE + 8];
  snprintf(name, sizeof name, "%s.weight", prefix);
  MR3D_TRY(values_of(e, name, &affine->weight));
  snprintf(name, sizeof name, "%s.bias", prefix);
  return values_of(e, name, &affine->bias);
}

mr3d_status mr3d_encoder_affine(const mr3d_encoder *e, mr3d_affine *affine, const char *format, ...) {
  FULL_NAME(prefix, format);
  return affine_of(e, prefix, affine);
}

static void declare(mr3d_bundle *list, const int64_t shape[MR3D_MAX_RANK], const char *name) {
  int rank = 0;
  while (rank < MR3D_MAX_RANK && shape[rank] > 0) rank++;
  mr3d_bundle_borrow(list, name, MR3D_F64, rank, shape, NULL);
}

void mr3d_encoder_declare(mr3d_bundle *list, const int64_t shape[MR3D_MAX_RANK], const char *format, ...) {
  FULL_NAME(name, format);
  declare(list, shape, name);
}

static void declare_affine(mr3d_bundle *list, int64_t out, int64_t in, const char *prefix) {
  char name[NAME_SIZE + 8];
  snprintf(name, sizeof name, "%s.weight", prefix);
  declare(list, (int64_t[MR3D_MAX_RANK]){out, in}, name);
  snprintf(name, sizeof name, "%s.bias", prefix);
  declare(list, (int64_t[MR3D_MAX_RANK]){out}, name);
}

void mr3d_encoder_declare_affine(mr3d_bundle *list, int64_t out, int64_t in, const char *format, ...) {
  FULL_NAME(prefix, format);
  declare_affine(list, out, in, prefix);
}

/* Width of the tokens that leave the encoder. */
static int64_t width_of(const mr3d_config *config) {
  const mr3d_point_config *c = &config->point_config;
  return config->point_backbone == MR3D_SCENESCRIPT ? c->embed_channels : c->enc_channels.at[c->enc_channels.count - 1];
}

mr3d_bundle *mr3d_encoder_tensors(const mr3d_config *config, int64_t inner, int64_t hidden) {
  mr3d_bundle *list = mr3d_bundle_new();
  const int64_t width = width_of(config);
  if (config->point_backbone == MR3D_SCENESCRIPT) mr3d_scenescript_tensors(&config->point_config, list);
  else mr3d_sonata_tensors(&config->point_config, list);
  if (config->projector == MR3D_PROJECTOR_LINEAR) declare_affine(list, hidden, width, "point_proj");
  else {
    declare_affine(list, inner, width, MR3D_PROJECTOR_PREFIX "0");
    declare_affine(list, hidden, inner, MR3D_PROJECTOR_PREFIX "2");
  }
  return list;
}

/* ---- on the way ---- */

void mr3d_encoder_part_done(mr3d_encoder *e) {
  e->in->parameters->release(e->in->parameters->user);
  e->done++;
  if (e->in->watch && e->in->watch->part_done) e->in->watch->part_done(e->in->watch->user, e->done, e->parts);
}

void mr3d_encoder_residual(const mr3d_encoder *e, int64_t rows, int64_t columns, const double *x, double *y) {
  for (int64_t i = 0; i < rows * columns; i++) y[i] = x[i] + y[i];
  mr3d_round(&e->context, MR3D_AT_RESIDUAL, 1, 1, rows, columns, y);
}

void mr3d_encoder_trace_stage(const mr3d_encoder *e, int64_t stage, const mr3d_tokens *tokens) {
  char point[40];
  snprintf(point, sizeof point, "stage%lld", (long long)stage);
  mr3d_trace(&e->context, point, MR3D_F64, 2, (int64_t[]){tokens->n, tokens->C}, tokens->x);
  strcat(point, "_coords");
  mr3d_trace(&e->context, point, MR3D_I64, 2, (int64_t[]){tokens->n, 3}, tokens->cells);
}

mr3d_status mr3d_encoder_input_proj(const mr3d_encoder *e, mr3d_sonata_coord_norm norm, int64_t out, mr3d_tokens *tokens) {
  const mr3d_operators *op = e->context.op;
  const int64_t n = tokens->n, C = tokens->C, wide = C + MR3D_FOURIER_FEATURES;
  mr3d_affine proj;
  MR3D_TRY(mr3d_encoder_affine(e, &proj, "input_proj"));
  double *fourier = mr3d_allocate(n * MR3D_FOURIER_FEATURES, sizeof *fourier), *both = mr3d_allocate(n * wide, sizeof *both), *y = mr3d_allocate(n * out, sizeof *y);
  op->fourier_features(&e->context, &(mr3d_fourier_in){n, tokens->cells, norm, e->config->reduced_grid_size}, fourier);
  mr3d_trace(&e->context, "fourier", MR3D_F64, 2, (int64_t[]){n, MR3D_FOURIER_FEATURES}, fourier);
  for (int64_t t = 0; t < n; t++) {
    memcpy(both + t * wide, tokens->x + t * C, (size_t)C * sizeof *both);
    memcpy(both + t * wide + C, fourier + t * MR3D_FOURIER_FEATURES, MR3D_FOURIER_FEATURES * sizeof *both);
  }
  op->linear(&e->context, &(mr3d_linear_in){n, wide, out, both, proj.weight, proj.bias}, y);
  free(fourier);
  free(both);
  free(tokens->x);
  tokens->x = y;
  tokens->C = out;
  return MR3D_OK;
}

/* ---- whole ---- */

static mr3d_status check_grid(const mr3d_config *config, int64_t M, const int64_t *grid, mr3d_error *error) {
  const int64_t bins = config->num_bins, z_bins = (int64_t)1 << MR3D_Z_ORDER_BITS;
  const int64_t last = (config->point_backbone == MR3D_SONATA && bins > z_bins ? z_bins : bins) - 1;
  if (M == 0) return mr3d_fail(error, MR3D_INVALID, "grid has 0 rows: an encoder needs at least one occupied cell");
  for (int64_t m = 0; m < M; m++) {
    const int64_t *cell = grid + 3 * m, *before = cell - 3;
    const long long x = cell[0], y = cell[1], z = cell[2];
    for (int a = 0; a < 3; a++) {
      if (cell[a] < 0) return mr3d_fail(error, MR3D_INVALID, "grid[%lld] is (%lld, %lld, %lld): grid indices are 0 or more", (long long)m, x, y, z);
      if (cell[a] > last && last < bins - 1)
        return mr3d_fail(error, MR3D_INVALID, "grid[%lld] is (%lld, %lld, %lld): codes of Sonata's orders have %d bits an axis, so the last index is %lld", (long long)m, x, y, z,
                         MR3D_Z_ORDER_BITS, (long long)last);
      if (cell[a] > last)
        return mr3d_fail(error, MR3D_INVALID, "grid[%lld] is (%lld, %lld, %lld): num_bins is %lld, so the last index is %lld", (long long)m, x, y, z, (long long)bins, (long long)last);
    }
    if (m == 0) continue;
    int a = 0;
    while (a < 2 && cell[a] == before[a]) a++;
    if (cell[a] == before[a])
      return mr3d_fail(error, MR3D_INVALID, "grid[%lld] and grid[%lld] are both (%lld, %lld, %lld): cells are distinct, one row each", (long long)m - 1, (long long)m, x, y, z);
    if (cell[a] < before[a])
      return mr3d_fail(error, MR3D_INVALID, "grid[%lld] is (%lld, %lld, %lld), after (%lld, %lld, %lld): cells must be sorted by x, then y, then z", (long long)m, x, y, z,
                       (long long)before[0], (long long)before[1], (long long)before[2]);
  }
  return MR3D_OK;
}

/* tokens->x [n,C] to features [n,hidden]. */
static mr3d_status project(const mr3d_encoder *e, const mr3d_tokens *tokens, double *features) {
  mr3d_projector_in in = {.n = tokens->n, .C = tokens->C, .inner = e->in->inner, .hidden = e->in->hidden, .x = tokens->x, .kind = e->config->projector};
  if (in.kind == MR3D_PROJECTOR_LINEAR) MR3D_TRY(affine_of(e, "point_proj", &in.first));
  else {
    MR3D_TRY(affine_of(e, MR3D_PROJECTOR_PREFIX "0", &in.first));
    MR3D_TRY(affine_of(e, MR3D_PROJECTOR_PREFIX "2", &in.second));
  }
  e->context.op->project(&e->context, &in, features);
  return MR3D_OK;
}

/**
 * Point encoder (encoders.md): features [N,hidden] = projector(encoder(grid, features)), coords [N,3] the tokens' grid indices at the coarsest level, row
 * for row the cells that the features belong to.
 */
mr3d_status mr3d_encode_points(const mr3d_context *context, const mr3d_config *config, const mr3d_encode_points_in *in, mr3d_encode_points_out *out, mr3d_error *error) {
  mr3d_error unread = {0};
  mr3d_encoder e = {.context = *context, .config = config, .in = in, .error = error ? error : &unread};
  e.context.layer = MR3D_TRACE_ENCODER;
  const bool scenescript = config->point_backbone == MR3D_SCENESCRIPT, in_grid = scenescript || config->sonata_coord_norm == MR3D_SONATA_NORM_GRID;
  MR3D_TRY(check_grid(config, in->M, in->grid, e.error));
  if (in_grid && config->reduced_grid_size < 2)
    return mr3d_fail(e.error, MR3D_INVALID, "reduced_grid_size is %lld, and Fourier features divide by reduced_grid_size - 1: it must be at least 2",
                     (long long)config->reduced_grid_size);
  e.parts = scenescript ? mr3d_scenescript_parts(&config->point_config) : mr3d_sonata_parts(&config->point_config);

  mr3d_tokens tokens = {0};
  mr3d_status status = (scenescript ? mr3d_scenescript : mr3d_sonata)(&e, &tokens);
  if (status == MR3D_OK) mr3d_trace(&e.context, "input_proj", MR3D_F64, 2, (int64_t[]){tokens.n, tokens.C}, tokens.x);
  double *features = status == MR3D_OK ? mr3d_allocate(tokens.n * in->hidden, sizeof *features) : NULL;
  if (status == MR3D_OK) status = project(&e, &tokens, features);
  if (status == MR3D_OK) {
    mr3d_trace(&e.context, "projected", MR3D_F64, 2, (int64_t[]){tokens.n, in->hidden}, features);
    mr3d_encoder_part_done(&e);
    *out = (mr3d_encode_points_out){.N = tokens.n, .features = features, .coords = tokens.cells};
    tokens.cells = NULL;
  } else {
    free(features);
    in->parameters->release(in->parameters->user);
  }
  mr3d_tokens_free(&tokens);
  return status;
}

void mr3d_encode_points_free(mr3d_encode_points_out *out) {
  free(out->features);
  free(out->coords);
  *out = (mr3d_encode_points_out){0};
}
