/** P8: which part of the cos/sin table turns the temporal dimensions. */
#include <math.h>

#include "mutants_internal.h"

static mr3d_status with_temporal(mr3d_temporal rule, const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in,
                                 double *query, double *key, mr3d_error *error) {
  mr3d_config changed = *config;
  changed.temporal_rope = rule;
  return mr3d_mixed_rope(context, &changed, in, query, key, error);
}

static mr3d_status native(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                          mr3d_error *error) {
  return with_temporal(MR3D_NATIVE, context, config, in, query, key, error);
}

static mr3d_status gathered(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                            mr3d_error *error) {
  return with_temporal(MR3D_GATHERED, context, config, in, query, key, error);
}

/** The full table's entry at a dimension of the head. */
static double entry(const mr3d_point *point, int64_t at) {
  int64_t D = point->split->D;
  return (double)point->position * pow(point->config->rope_theta, -2.0 * (double)(at % (D / 2)) / (double)D);
}

static bool is_native(const mr3d_point *point) { return point->config->temporal_rope == MR3D_NATIVE; }
static double usual(const mr3d_point *point, int64_t j) { return mr3d_point_angle(point, point->position, j); }
static double head(const mr3d_point *point, int64_t j) { return is_native(point) ? usual(point, j) : entry(point, j); }
static double tail(const mr3d_point *point, int64_t j) { return is_native(point) ? usual(point, j) : entry(point, point->split->Ds + j); }
static double first_half_twice(const mr3d_point *point, int64_t j) { return usual(point, j % (point->split->Dt / 2)); }
static double native_over_D(const mr3d_point *point, int64_t j) { return is_native(point) ? entry(point, j % (point->split->Dt / 2)) : usual(point, j); }
static double at_index(const mr3d_point *point, int64_t j) { return mr3d_point_angle(point, point->index, j); }
static double from_first(const mr3d_point *point, int64_t j) { return mr3d_point_angle(point, point->position - point->first, j); }
static double at_first(const mr3d_point *point, int64_t j) { return mr3d_point_angle(point, point->first, j); }
static double nowhere(const mr3d_point *point, int64_t j) { return (void)point, (void)j, 0; }

/** The whole head half-split over D, of which the temporal dimensions are kept. */
static void whole_head(const mr3d_point *point, const double *x, double *y) {
  int64_t half = point->split->D / 2;
  (void)x;
  for (int64_t j = 0; j < point->split->Dt; j++) {
    int64_t at = point->split->temporal[j];
    double other = at < half ? -point->head[at + half] : point->head[at - half], theta = entry(point, at);
    y[j] = point->head[at] * cos(theta) + other * sin(theta);
  }
}

#define TURN(name) static void turn_##name(const mr3d_point *point, const double *x, double *y) { mr3d_turn_halves(point, name, x, y); }
TURN(head)
TURN(tail)
TURN(first_half_twice)
TURN(native_over_D)
TURN(at_index)
TURN(from_first)
TURN(at_first)
TURN(nowhere)

MR3D_MIXED_ROPE(table_head) { return mr3d_mixed_rope_turned(turn_head, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(table_tail) { return mr3d_mixed_rope_turned(turn_tail, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(half_repeated) { return mr3d_mixed_rope_turned(turn_first_half_twice, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(native_over_head_dim) { return mr3d_mixed_rope_turned(turn_native_over_D, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(position_among_points) { return mr3d_mixed_rope_turned(turn_at_index, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(position_from_first_point) { return mr3d_mixed_rope_turned(turn_from_first, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(position_of_first_point) { return mr3d_mixed_rope_turned(turn_at_first, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(not_rotated) { return mr3d_mixed_rope_turned(turn_nowhere, context, config, in, query, key, error); }
MR3D_MIXED_ROPE(whole_head_cut) { return mr3d_mixed_rope_turned(whole_head, context, config, in, query, key, error); }

static const mr3d_mutant entries[] = {
    {"temporal-table", "native-for-gathered", "the temporal dimensions of points turn by frequencies of their own (`native`) instead of those gathered from the full table",
     MR3D_ROTATIONS, {.mixed_rope = native}},
    {"temporal-table", "gathered-for-native", "the temporal dimensions of points turn by frequencies gathered from the full table instead of their own (`native`)",
     MR3D_ROTATIONS, {.mixed_rope = gathered}},
    {"temporal-table", "table-head", "the temporal dimensions of points take the first Dt entries of the table instead of those at their places in the head",
     MR3D_ROTATIONS, {.mixed_rope = table_head}},
    {"temporal-table", "table-tail", "the temporal dimensions of points take the last Dt entries of the table instead of those at their places in the head",
     MR3D_ROTATIONS, {.mixed_rope = table_tail}},
    {"temporal-table", "half-repeated", "both halves of the temporal part take the entries of the first half: a true rotation, which `gathered` is not in the contiguous layout",
     MR3D_ROTATIONS, {.mixed_rope = half_repeated}},
    {"temporal-table", "whole-head-cut", "the whole head is rotated half-split over D and the temporal dimensions cut out of it: their partners are spatial ones",
     MR3D_ROTATIONS, {.mixed_rope = whole_head_cut}},
    {"temporal-table", "native-over-head-dim", "the frequencies of `native` have the exponent -2j/D instead of -2j/Dt", MR3D_ROTATIONS,
     {.mixed_rope = native_over_head_dim}},
    {"temporal-table", "position-among-points", "points are rotated in time at their number among the points (0 .. 555) instead of their position (25 .. 580)",
     MR3D_ROTATIONS, {.mixed_rope = position_among_points}},
    {"temporal-table", "position-from-first-point", "points are rotated in time at their distance from the first point instead of their position", MR3D_ROTATIONS,
     {.mixed_rope = position_from_first_point}},
    {"temporal-table", "position-of-first-point", "all points are rotated in time at the position of the first one", MR3D_ROTATIONS,
     {.mixed_rope = position_of_first_point}},
    {"temporal-table", "not-rotated", "the temporal part of points is not rotated at all", MR3D_ROTATIONS, {.mixed_rope = not_rotated}},
};
const mr3d_mutant_set mr3d_mutants_temporal_table = MR3D_MUTANT_SET(entries);
