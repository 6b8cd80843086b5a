/** P28: features and coordinates of the point tokens that are not the same rows. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

#define ENCODE(name)                                                                                                                       \
  static mr3d_status name(const mr3d_context *context, const mr3d_config *config, const mr3d_encode_points_in *in, mr3d_encode_points_out *out, \
                          mr3d_error *error)

/** By how much the encoder floor-divides the grid in all, the last `left_out` stages apart. */
static int64_t division(const mr3d_config *config, int64_t left_out) {
  const mr3d_point_config *c = &config->point_config;
  const bool scenescript = config->point_backbone == MR3D_SCENESCRIPT;
  const int64_t halvings = scenescript ? c->conv_layers.count - 1 : c->stride.count;
  int64_t by = 1;
  for (int64_t s = 0; s < halvings - left_out; s++) by *= scenescript ? 2 : c->stride.at[s];
  return by;
}

/** Each token's coordinates are those that its first cell has when the last `left_out` stages have not pooled yet. */
static mr3d_status unpooled(int64_t left_out, const mr3d_context *context, const mr3d_config *config, const mr3d_encode_points_in *in, mr3d_encode_points_out *out,
                            mr3d_error *error) {
  const mr3d_status status = mr3d_encode_points(context, config, in, out, error);
  const int64_t whole = division(config, 0), part = division(config, left_out);
  for (int64_t t = 0; status == MR3D_OK && t < out->N; t++) {
    int64_t m = 0, *coords = out->coords + 3 * t;
    while (in->grid[3 * m] / whole != coords[0] || in->grid[3 * m + 1] / whole != coords[1] || in->grid[3 * m + 2] / whole != coords[2]) m++;
    for (int axis = 0; axis < 3; axis++) coords[axis] = in->grid[3 * m + axis] / part;
  }
  return status;
}

ENCODE(coords_of_grid) { return unpooled(MR3D_MAX_STAGES, context, config, in, out, error); }
ENCODE(coords_of_stage_before) { return unpooled(1, context, config, in, out, error); }

/* ---- rows in another order ---- */

typedef struct token {
  uint64_t code;
  int64_t row;
} token;

static int by_code(const void *left, const void *right) {
  const token *a = left, *b = right;
  return a->code < b->code ? -1 : a->code > b->code;
}

/** The tokens in the order of their z-order codes, or of codes in which z counts most. */
static token *resorted(const mr3d_encode_points_out *out, bool z_order) {
  token *tokens = mr3d_allocate(out->N, sizeof *tokens);
  for (int64_t t = 0; t < out->N; t++) {
    const uint64_t x = (uint64_t)out->coords[3 * t], y = (uint64_t)out->coords[3 * t + 1], z = (uint64_t)out->coords[3 * t + 2];
    tokens[t] = (token){.code = z << 42 | y << 21 | x, .row = t};
    if (z_order) mr3d_z_order(NULL, MR3D_Z, 1, out->coords + 3 * t, &tokens[t].code);
  }
  qsort(tokens, (size_t)out->N, sizeof *tokens, by_code);
  return tokens;
}

ENCODE(coords_resorted) {
  const mr3d_status status = mr3d_encode_points(context, config, in, out, error);
  if (status != MR3D_OK) return status;
  token *tokens = resorted(out, false);
  int64_t *coords = mr3d_allocate(3 * out->N, sizeof *coords);
  for (int64_t t = 0; t < out->N; t++) memcpy(coords + 3 * t, out->coords + 3 * tokens[t].row, 3 * sizeof *coords);
  free(out->coords);
  out->coords = coords;
  free(tokens);
  return status;
}

ENCODE(features_in_code_order) {
  const mr3d_status status = mr3d_encode_points(context, config, in, out, error);
  if (status != MR3D_OK) return status;
  token *tokens = resorted(out, true);
  double *features = mr3d_allocate(out->N * in->hidden, sizeof *features);
  for (int64_t t = 0; t < out->N; t++) memcpy(features + t * in->hidden, out->features + tokens[t].row * in->hidden, (size_t)in->hidden * sizeof *features);
  free(out->features);
  out->features = features;
  free(tokens);
  return status;
}

static const mr3d_mutant entries[] = {
    {"token-rows", "coords-before-pooling", "each token's coordinates are its first cell's, taken before any pooling", "encode_points", {.encode_points = coords_of_grid}},
    {"token-rows", "coords-of-stage-before", "each token's coordinates are its first cell's of the stage before, taken ahead of the last pooling", "encode_points",
     {.encode_points = coords_of_stage_before}},
    {"token-rows", "coords-resorted", "coordinates are sorted again, z counting most, and features stay where they were", "encode_points", {.encode_points = coords_resorted}},
    {"token-rows", "features-in-code-order", "features leave in the order of their z-order codes, coordinates in lexicographic order", "encode_points",
     {.encode_points = features_in_code_order}},
};
const mr3d_mutant_set mr3d_mutants_token_rows = MR3D_MUTANT_SET(entries);
