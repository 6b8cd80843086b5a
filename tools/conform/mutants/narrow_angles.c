/** P12: positions, frequencies, angles or grid indices held in a narrow type. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

static double as_it_is(double x) { return x; }

/** The 1D table with each step's value held by a function. */
static void held_by(double (*inv_freq)(double), double (*position)(double), double (*angle)(double), int64_t P, int64_t D, double rope_theta,
                    const int64_t *positions, double *cos_table, double *sin_table) {
  const int64_t half = D / 2;
  double *frequency = mr3d_allocate(half, sizeof *frequency);
  for (int64_t j = 0; j < half; j++) frequency[j] = inv_freq(pow(rope_theta, -2.0 * (double)j / (double)D));
  for (int64_t p = 0; p < P; p++)
    for (int64_t j = 0; j < half; j++) {
      const double theta = angle(position((double)positions[p]) * frequency[j]);
      cos_table[p * D + j] = cos_table[p * D + j + half] = cos(theta);
      sin_table[p * D + j] = sin_table[p * D + j + half] = sin(theta);
    }
  free(frequency);
}

/** sin and cos of an angle that was brought into one turn with binary32's 2 pi. */
static double reduced(double theta) { return fmod(theta, mr3d_in_f32(6.283185307179586)); }

#define TABLE(name, inv_freq, position, angle)                                                                                          \
  static void name(const mr3d_context *context, int64_t P, int64_t D, double rope_theta, const int64_t *positions, double *cos_table,   \
                   double *sin_table) {                                                                                                 \
    (void)context;                                                                                                                      \
    held_by(inv_freq, position, angle, P, D, rope_theta, positions, cos_table, sin_table);                                              \
  }
TABLE(inv_freq_bf16, mr3d_in_bf16, as_it_is, as_it_is)
TABLE(inv_freq_fp16, mr3d_in_f16, as_it_is, as_it_is)
TABLE(position_bf16, as_it_is, mr3d_in_bf16, as_it_is)
TABLE(position_fp16, as_it_is, mr3d_in_f16, as_it_is)
TABLE(angle_bf16, as_it_is, as_it_is, mr3d_in_bf16)
TABLE(angle_fp16, as_it_is, as_it_is, mr3d_in_f16)
TABLE(angle_tf32, mr3d_in_tf32, mr3d_in_tf32, as_it_is)
TABLE(reduced_by_binary32, as_it_is, as_it_is, reduced)

/** The 3D table with each step's value held by a function. */
static void held_3d(double (*frequency)(double), double (*coord)(double), double (*angle)(double), const mr3d_cis3d_in *in, double *cos_table,
                    double *sin_table) {
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t n = 0; n < in->N; n++)
      for (int64_t f = 0; f < in->F; f++) {
        double sum = 0;
        for (int64_t a = 0; a < 3; a++) {
          const double weight = in->axial_weights ? in->axial_weights[(h * in->F + f) * 3 + a] : 1;
          sum += frequency(weight * in->freqs[((in->freq_axes == 1 ? 0 : a) * in->heads + h) * in->F + f]) * coord(in->coords[n * 3 + a]);
        }
        cos_table[(h * in->N + n) * in->F + f] = cos(angle(sum));
        sin_table[(h * in->N + n) * in->F + f] = sin(angle(sum));
      }
}

#define CIS(name, frequency, coord, angle)                                                                                       \
  static void name(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {                 \
    (void)context;                                                                                                               \
    held_3d(frequency, coord, angle, in, cos_table, sin_table);                                                                  \
  }
CIS(frequency_3d_bf16, mr3d_in_bf16, as_it_is, as_it_is)
CIS(coords_bf16, as_it_is, mr3d_in_bf16, as_it_is)
CIS(coords_fp16, as_it_is, mr3d_in_f16, as_it_is)
CIS(angle_3d_bf16, as_it_is, as_it_is, mr3d_in_bf16)
CIS(angle_3d_fp16, as_it_is, as_it_is, mr3d_in_f16)
CIS(angle_3d_tf32, mr3d_in_tf32, mr3d_in_tf32, as_it_is)

static mr3d_status normalised_bf16(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out, mr3d_error *error) {
  mr3d_status status = mr3d_normalize_coords(context, config, in, out, error);
  for (int64_t i = 0; status == MR3D_OK && i < in->B * in->N * 3; i++) out[i] = mr3d_in_bf16(out[i]);
  return status;
}

static mr3d_status given_bf16(const mr3d_context *context, const mr3d_config *config, const mr3d_normalize_coords_in *in, double *out, mr3d_error *error) {
  double *coords = mr3d_allocate(in->B * in->N * 3, sizeof *coords);
  for (int64_t i = 0; i < in->B * in->N * 3; i++) coords[i] = mr3d_in_bf16(in->coords[i]);
  mr3d_normalize_coords_in changed = *in;
  changed.coords = coords;
  mr3d_status status = mr3d_normalize_coords(context, config, &changed, out, error);
  free(coords);
  return status;
}

static double index_in_bf16(const mr3d_config *config, double x, double min) { return mr3d_in_bf16(floor((x - min) / config->cell_size)); }

static mr3d_status grid_bf16(const mr3d_context *context, const mr3d_config *config, int64_t N_raw, int64_t columns, const double *points, mr3d_voxelize_out *out,
                             mr3d_error *error) {
  return mr3d_voxelize_by(&(mr3d_scan_rule){.place = index_in_bf16}, context, config, N_raw, columns, points, out, error);
}

static mr3d_status cells_bf16(const mr3d_context *context, int64_t M, const int64_t *grid, int64_t stages, mr3d_token_coords_out *out, mr3d_error *error) {
  int64_t *narrow = mr3d_allocate(3 * M, sizeof *narrow);
  for (int64_t i = 0; i < 3 * M; i++) narrow[i] = grid[i] < (int64_t)1 << 53 ? (int64_t)mr3d_in_bf16((double)grid[i]) : grid[i];
  mr3d_status status = mr3d_token_coords(context, M, narrow, stages, out, error);
  free(narrow);
  return status;
}

#define TABLES "rope1d " MR3D_ROTATIONS
#define ANGLES "cis3d " MR3D_ROTATIONS
#define COORDS "normalize_coords " MR3D_ROTATIONS

static const mr3d_mutant entries[] = {
    {"narrow-angles", "inv-freq-bf16", "the 1D inverse frequencies are held in bfloat16", TABLES, {.rotary_table = inv_freq_bf16}},
    {"narrow-angles", "inv-freq-fp16", "the 1D inverse frequencies are held in float16, the slowest of them as subnormal numbers", TABLES,
     {.rotary_table = inv_freq_fp16}},
    {"narrow-angles", "position-bf16", "positions are held in bfloat16: beyond 256 neighbours fall on one position", TABLES, {.rotary_table = position_bf16}},
    {"narrow-angles", "position-fp16", "positions are held in float16: beyond 2048 neighbours fall on one position", TABLES, {.rotary_table = position_fp16}},
    {"narrow-angles", "angle-bf16", "the 1D angles are held in bfloat16 before cos and sin", TABLES, {.rotary_table = angle_bf16}},
    {"narrow-angles", "angle-fp16", "the 1D angles are held in float16 before cos and sin", TABLES, {.rotary_table = angle_fp16}},
    {"narrow-angles", "angle-tf32", "position times inverse frequency is a TF32 product: both factors keep 11 bits", TABLES, {.rotary_table = angle_tf32}},
    {"narrow-angles", "reduced-by-binary32", "1D angles are brought into one turn with 2 pi in binary32", TABLES, {.rotary_table = reduced_by_binary32},
     .tiers = 1u << MR3D_FP64, .harmless = "binary32's 2 pi is off by less than the rounding of an angle in binary32"},
    {"narrow-angles", "frequency-3d-bf16", "weight times frequency of the 3D angle is held in bfloat16", ANGLES, {.cis3d = frequency_3d_bf16}},
    {"narrow-angles", "coords-bf16", "the coordinates of the 3D angle are held in bfloat16", ANGLES, {.cis3d = coords_bf16}},
    {"narrow-angles", "coords-fp16", "the coordinates of the 3D angle are held in float16", ANGLES, {.cis3d = coords_fp16}},
    {"narrow-angles", "angle-3d-bf16", "the 3D angles are held in bfloat16 before cos and sin", ANGLES, {.cis3d = angle_3d_bf16}},
    {"narrow-angles", "angle-3d-fp16", "the 3D angles are held in float16 before cos and sin", ANGLES, {.cis3d = angle_3d_fp16}},
    {"narrow-angles", "angle-3d-tf32", "the 3D angles are a TF32 product: weighted frequencies and coordinates keep 11 bits", ANGLES, {.cis3d = angle_3d_tf32}},
    {"narrow-angles", "normalised-bf16", "coordinates are held in bfloat16 after normalisation and drift", COORDS, {.normalize_coords = normalised_bf16}},
    {"narrow-angles", "given-coords-bf16", "coordinates are held in bfloat16 before normalisation: beyond 256 neighbours fall together", COORDS,
     {.normalize_coords = given_bf16}},
    {"narrow-angles", "grid-bf16", "grid indices are held in bfloat16: 736 of the 1280 change", "voxelize", {.voxelize = grid_bf16}},
    {"narrow-angles", "cells-bf16", "the cells that are merged into tokens are held in bfloat16: 736 of the 1280 indices change", "token_coords",
     {.token_coords = cells_bf16}},
};
const mr3d_mutant_set mr3d_mutants_narrow_angles = MR3D_MUTANT_SET(entries);
