/** P23: no points, one point, nothing but points, nothing around them, no spatial or no temporal dimensions. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static int64_t marked(const mr3d_mixed_rope_in *in, int64_t b) {
  int64_t n = 0;
  for (int64_t i = 0; in->points.mask && i < in->S; i++) n += in->points.mask[b * in->S + i];
  return n;
}

/** The rotation with those points taken as text for which `stays` does not hold. */
static mr3d_status only(bool (*stays)(int64_t S, int64_t i, int64_t count), const mr3d_context *context, const mr3d_config *config,
                        const mr3d_mixed_rope_in *in, double *query, double *key, mr3d_error *error) {
  mr3d_status status = mr3d_points_check(&in->points, in->B, in->S, error);
  if (status != MR3D_OK || !in->points.mask) return status != MR3D_OK ? status : mr3d_mixed_rope(context, config, in, query, key, error);
  const int64_t N = in->points.N;
  bool *mask = mr3d_allocate(in->B * in->S, sizeof *mask);
  double *coords = mr3d_allocate(in->B * N * 3, sizeof *coords);
  int64_t *counts = mr3d_allocate(in->B, sizeof *counts);
  for (int64_t b = 0; b < in->B; b++)
    for (int64_t i = 0, row = 0; i < in->S; i++) {
      if (!in->points.mask[b * in->S + i]) continue;
      if (stays(in->S, i, marked(in, b))) {
        mask[b * in->S + i] = true;
        memcpy(coords + (b * N + counts[b]++) * 3, in->points.coords + (b * N + row) * 3, 3 * sizeof *coords);
      }
      row++;
    }
  mr3d_mixed_rope_in changed = *in;
  changed.points = (mr3d_points){.mask = mask, .N = N, .coords = coords, .counts = counts};
  status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(mask);
  free(coords);
  free(counts);
  return status;
}

static bool not_all(int64_t S, int64_t i, int64_t count) { return (void)i, count < S; }
static bool not_one(int64_t S, int64_t i, int64_t count) { return (void)S, (void)i, count != 1; }
static bool not_first(int64_t S, int64_t i, int64_t count) { return (void)S, (void)count, i > 0; }
static bool not_last(int64_t S, int64_t i, int64_t count) { return (void)count, i < S - 1; }

#define MIXED_ROPE(name)                                                                                                                        \
  static mr3d_status name(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,     \
                          mr3d_error *error)

MIXED_ROPE(all_as_text) { return only(not_all, context, config, in, query, key, error); }
MIXED_ROPE(one_as_text) { return only(not_one, context, config, in, query, key, error); }
MIXED_ROPE(first_as_text) { return only(not_first, context, config, in, query, key, error); }
MIXED_ROPE(last_as_text) { return only(not_last, context, config, in, query, key, error); }

/** Points are taken in one piece from the first marked token on. */
MIXED_ROPE(one_piece) {
  if (!in->points.mask) return mr3d_mixed_rope(context, config, in, query, key, error);
  bool *mask = mr3d_allocate(in->B * in->S, sizeof *mask);
  for (int64_t b = 0; b < in->B; b++) {
    int64_t first = 0;
    while (first < in->S && !in->points.mask[b * in->S + first]) first++;
    for (int64_t k = 0; k < marked(in, b); k++) mask[b * in->S + first + k] = true;
  }
  mr3d_mixed_rope_in changed = *in;
  changed.points.mask = mask;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(mask);
  return status;
}

static bool has_parameters(const mr3d_config *config, mr3d_rotary_parameters p) {
  return !config->rope_mixed_3d || config->rope_3d_kind == MR3D_AXIAL || (p.freqs && (!config->learned_axial_weights || p.axial_weights));
}

MIXED_ROPE(none_as_all) {
  bool any = false;
  for (int64_t b = 0; b < in->B; b++) any = any || marked(in, b) > 0;
  if (any || !has_parameters(config, in->q) || !has_parameters(config, in->kv)) return mr3d_mixed_rope(context, config, in, query, key, error);
  bool *mask = mr3d_allocate(in->B * in->S, sizeof *mask);
  double *coords = mr3d_allocate(in->B * in->S * 3, sizeof *coords);
  for (int64_t i = 0; i < in->B * in->S; i++) mask[i] = true;
  mr3d_mixed_rope_in changed = *in;
  changed.points = (mr3d_points){.mask = mask, .N = in->S, .coords = coords};
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(mask);
  free(coords);
  return status;
}

static int64_t spatial(const mr3d_config *config, int64_t D) {
  mr3d_split split;
  if (mr3d_split_head(config, D, &split, NULL) != MR3D_OK) return -1;
  mr3d_split_free(&split);
  return split.Ds;
}

/** to [B,heads,S,D] = from at the points, or at the text. */
static void copy_tokens(const mr3d_mixed_rope_in *in, bool points, int64_t heads, const double *from, double *to) {
  for (int64_t row = 0; row < in->B * heads * in->S; row++) {
    const int64_t b = row / (heads * in->S), i = row % in->S;
    if (in->points.mask[b * in->S + i] == points) memcpy(to + row * in->D, from + row * in->D, (size_t)in->D * sizeof *to);
  }
}

MIXED_ROPE(full_temporal_unturned) {
  mr3d_status status = mr3d_mixed_rope(context, config, in, query, key, error);
  if (status != MR3D_OK || !in->points.mask || spatial(config, in->D) != 0) return status;
  copy_tokens(in, true, in->H, in->query, query);
  copy_tokens(in, true, in->G, in->key, key);
  return status;
}

MIXED_ROPE(full_temporal_as_half) {
  mr3d_config changed = *config;
  if (spatial(config, in->D) == 0) changed.strategy = MR3D_HALF_SPATIAL_HALF_TEMP, changed.rope_mixed_3d = false, changed.rope_3d_kind = MR3D_MIXED;
  return mr3d_mixed_rope(context, spatial(&changed, in->D) > 0 ? &changed : config, in, query, key, error);
}

/** Points by position first, as text is, then in 3D. */
MIXED_ROPE(full_spatial_turned_twice) {
  if (!in->points.mask || spatial(config, in->D) != in->D) return mr3d_mixed_rope(context, config, in, query, key, error);
  mr3d_rope1d_in text = {.B = in->B, .heads = in->H, .q = in->S, .D = in->D, .rope_theta = config->rope_theta, .x = in->query,
                         .position_rows = in->position_rows, .position_ids = in->position_ids};
  double *once_query = mr3d_allocate(in->B * in->H * in->S * in->D, sizeof *once_query);
  double *once_key = mr3d_allocate(in->B * in->G * in->S * in->D, sizeof *once_key);
  mr3d_rope1d(context, &text, once_query);
  text.heads = in->G, text.x = in->key;
  mr3d_rope1d(context, &text, once_key);
  copy_tokens(in, false, in->H, in->query, once_query);
  copy_tokens(in, false, in->G, in->key, once_key);
  mr3d_mixed_rope_in changed = *in;
  changed.query = once_query;
  changed.key = once_key;
  mr3d_status status = mr3d_mixed_rope(context, config, &changed, query, key, error);
  free(once_query);
  free(once_key);
  return status;
}

/** Splice in which some samples are left as they are, markers and what stands between them included. */
static mr3d_status left_alone(bool (*alone)(const mr3d_splice_in *, int64_t b), const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out,
                              mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  if (status != MR3D_OK) return status;
  mr3d_splice_free(out);
  int64_t other = 0; /* an id that is no marker */
  while (other == in->point_start_token_id || other == in->point_end_token_id) other++;
  int64_t *ids = mr3d_allocate(in->B * in->T, sizeof *ids), *counts = mr3d_allocate(in->B, sizeof *counts);
  for (int64_t b = 0; b < in->B; b++) {
    counts[b] = alone(in, b) ? 0 : in->point_counts[b];
    for (int64_t t = b * in->T; t < (b + 1) * in->T; t++) ids[t] = alone(in, b) ? other : in->input_ids[t];
  }
  mr3d_splice_in changed = *in;
  changed.input_ids = ids;
  changed.point_counts = counts;
  status = mr3d_splice(context, &changed, out, error);
  free(ids);
  free(counts);
  return status;
}

static bool starts_with_marker(const mr3d_splice_in *in, int64_t b) { return in->T > 0 && in->input_ids[b * in->T] == in->point_start_token_id; }
static bool has_no_points(const mr3d_splice_in *in, int64_t b) { return in->point_counts[b] == 0; }

static mr3d_status marker_at_0(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  return left_alone(starts_with_marker, context, in, out, error);
}
static mr3d_status no_points(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  return left_alone(has_no_points, context, in, out, error);
}

static const mr3d_mutant entries[] = {
    {"degenerate", "no-points-as-all", "a call without points has all its tokens rotated in 3D, at the origin", MR3D_ROTATIONS, {.mixed_rope = none_as_all}},
    {"degenerate", "all-points-as-text", "a call that is nothing but points has them rotated as text", MR3D_ROTATIONS, {.mixed_rope = all_as_text}},
    {"degenerate", "one-point-as-text", "a single point is rotated as text", MR3D_ROTATIONS, {.mixed_rope = one_as_text}},
    {"degenerate", "first-token-as-text", "the call's first token is never taken for a point: a start marker is expected before the points", MR3D_ROTATIONS,
     {.mixed_rope = first_as_text}},
    {"degenerate", "last-token-as-text", "the call's last token is never taken for a point: an end marker is expected behind the points", MR3D_ROTATIONS,
     {.mixed_rope = last_as_text}},
    {"degenerate", "points-in-one-piece", "points are taken in one piece from the first marked token on, wherever the others are marked", MR3D_ROTATIONS,
     {.mixed_rope = one_piece}},
    {"degenerate", "full-temporal-unturned", "without spatial dimensions points are not rotated at all, instead of as text", MR3D_ROTATIONS,
     {.mixed_rope = full_temporal_unturned}},
    {"degenerate", "full-temporal-as-half", "0 spatial dimensions are taken for not given: half of the head is rotated in 3D", MR3D_ROTATIONS,
     {.mixed_rope = full_temporal_as_half}},
    {"degenerate", "full-spatial-turned-twice", "without temporal dimensions points are rotated by their position as well, before 3D", MR3D_ROTATIONS,
     {.mixed_rope = full_spatial_turned_twice}},
    {"degenerate", "marker-at-0-missed", "a start marker that is the first token is not found (index 0 counts as none): the points are left out", "splice",
     {.splice = marker_at_0}},
    {"degenerate", "no-points-no-splice", "a sample with N = 0 is not spliced: what stands between its markers stays", "splice", {.splice = no_points}},
};
const mr3d_mutant_set mr3d_mutants_degenerate = MR3D_MUTANT_SET(entries);
