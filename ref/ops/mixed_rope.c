/** Mixed rotation of queries and keys: text by position, points by position and place (spec.md section 3.3). */
#include <math.h>
#include <stdlib.h>

#include "mr3d/model.h"
#include "rotation.h"

/** Query or key side of one call. */
typedef struct side {
  const char *name;
  int64_t heads;
  const double *x; /* [B,heads,S,D] */
  mr3d_rotary_parameters learned;
} side;

/** One sample's points: where they stand, and their rotary inputs. */
typedef struct sample {
  int64_t b, N;
  int64_t *token;    /* [N] sequence index of each point */
  int64_t *position; /* [N] its position */
  const double *coords; /* [N,3] normalised and drifted */
} sample;

/** part [heads,N,n] = the dimensions dims[0..n-1] of the sample's points. */
static void gather(const mr3d_mixed_rope_in *in, const sample *points, int64_t heads, int64_t n, const int64_t *dims, const double *x, double *part) {
  for (int64_t h = 0; h < heads; h++)
    for (int64_t k = 0; k < points->N; k++)
      for (int64_t j = 0; j < n; j++)
        part[(h * points->N + k) * n + j] = x[((points->b * heads + h) * in->S + points->token[k]) * in->D + dims[j]];
}

/** The way back. */
static void scatter(const mr3d_mixed_rope_in *in, const sample *points, int64_t heads, int64_t n, const int64_t *dims, const double *part, double *y) {
  for (int64_t h = 0; h < heads; h++)
    for (int64_t k = 0; k < points->N; k++)
      for (int64_t j = 0; j < n; j++)
        y[((points->b * heads + h) * in->S + points->token[k]) * in->D + dims[j]] = part[(h * points->N + k) * n + j];
}

/** The frequencies and weights of one side: the learned ones, or the fixed base (then owned by `base`, which the caller frees). */
static mr3d_status frequencies(const mr3d_config *config, const side *s, int64_t F, mr3d_cis3d_in *cis, double **base, mr3d_error *error) {
  *base = NULL;
  cis->heads = s->heads;
  cis->F = F;
  if (!config->rope_mixed_3d || config->rope_3d_kind == MR3D_AXIAL) {
    double *freqs = mr3d_allocate(3 * s->heads * F, sizeof *freqs);
    const mr3d_status status = mr3d_base_frequencies(config, s->heads, F, freqs, error);
    if (status != MR3D_OK) {
      free(freqs);
      return status;
    }
    cis->freq_axes = 3;
    cis->freqs = *base = freqs;
    cis->axial_weights = NULL;
    return MR3D_OK;
  }
  if (s->learned.freqs == NULL)
    return mr3d_fail(error, MR3D_INVALID, "the 3D frequencies of the %s are missing: rope_mixed_3d true means learned ones; give them, or set rope_mixed_3d false",
                     s->name);
  if (config->learned_axial_weights && s->learned.axial_weights == NULL)
    return mr3d_fail(error, MR3D_INVALID,
                     "the axial weights of the %s are missing: give them, or set mixedRoPE_3d_learned_axial_mixing_weight false for 1:1:1", s->name);
  cis->freq_axes = config->learned_per_axis ? 3 : 1;
  cis->freqs = s->learned.freqs;
  cis->axial_weights = config->learned_axial_weights ? s->learned.axial_weights : NULL;
  return MR3D_OK;
}

/**
 * The temporal table [N,Dt]. gathered: columns idx[j] of the full head's table, idx the temporal dimensions ascending; native: a table of its
 * own over Dt dimensions, theta_t[p,j] = p rope_theta^(-2 (j mod Dt/2) / Dt).
 */
static void temporal_table(const mr3d_context *context, const mr3d_config *config, const mr3d_split *split, const sample *points, double *cos_table,
                           double *sin_table) {
  if (config->temporal_rope == MR3D_NATIVE) {
    context->op->rotary_table(context, points->N, split->Dt, config->rope_theta, points->position, cos_table, sin_table);
    return;
  }
  double *full_cos = mr3d_allocate(points->N * split->D, sizeof *full_cos), *full_sin = mr3d_allocate(points->N * split->D, sizeof *full_sin);
  context->op->rotary_table(context, points->N, split->D, config->rope_theta, points->position, full_cos, full_sin);
  for (int64_t k = 0; k < points->N; k++)
    for (int64_t j = 0; j < split->Dt; j++) {
      cos_table[k * split->Dt + j] = full_cos[k * split->D + split->temporal[j]];
      sin_table[k * split->Dt + j] = full_sin[k * split->D + split->temporal[j]];
    }
  free(full_cos);
  free(full_sin);
}

/** inv_freq of temporal dimension j in that table. */
static double temporal_inv_freq(const mr3d_config *config, const mr3d_split *split, int64_t j) {
  const bool native = config->temporal_rope == MR3D_NATIVE;
  const int64_t n = native ? split->Dt : split->D, at = native ? j : split->temporal[j];
  return pow(config->rope_theta, -2.0 * (double)(at % (n / 2)) / (double)n);
}

static void rotate_spatial(const mr3d_context *context, const mr3d_mixed_rope_in *in, const mr3d_split *split, const sample *points, const side *s,
                           const mr3d_cis3d_in *cis, double *y) {
  const int64_t table = s->heads * points->N * cis->F, part = s->heads * points->N * split->Ds;
  double *cos_table = mr3d_allocate_unset(table, sizeof *cos_table), *sin_table = mr3d_allocate_unset(table, sizeof *sin_table);
  double *x_part = mr3d_allocate_unset(part, sizeof *x_part), *y_part = mr3d_allocate_unset(part, sizeof *y_part);
  gather(in, points, s->heads, split->Ds, split->spatial, s->x, x_part);
  context->op->cis3d(context, cis, cos_table, sin_table);
  context->op->rope3d(context, &(mr3d_rope3d_in){1, s->heads, points->N, split->Ds, x_part, cos_table, sin_table}, y_part);
  scatter(in, points, s->heads, split->Ds, split->spatial, y_part, y);
  free(cos_table);
  free(sin_table);
  free(x_part);
  free(y_part);
}

static void rotate_temporal(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, const mr3d_split *split,
                            const sample *points, const side *s, double *y) {
  const int64_t Dt = split->Dt, rows = s->heads * points->N;
  double *cos_table = mr3d_allocate_unset(points->N * Dt, sizeof *cos_table), *sin_table = mr3d_allocate_unset(points->N * Dt, sizeof *sin_table);
  double *part = mr3d_allocate_unset(rows * Dt, sizeof *part);
  double *cos_part = mr3d_allocate_unset(rows * Dt, sizeof *cos_part), *sin_part = mr3d_allocate_unset(rows * Dt, sizeof *sin_part);
  gather(in, points, s->heads, Dt, split->temporal, s->x, part);
  temporal_table(context, config, split, points, cos_table, sin_table);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t k = r % points->N;
    mr3d_half_split(Dt, part + r * Dt, cos_table + k * Dt, sin_table + k * Dt, cos_part + r * Dt, sin_part + r * Dt);
  }
  mr3d_rotation_sum(context, MR3D_AT_TURNED, 1, s->heads, points->N, Dt, cos_part, sin_part, part);
  scatter(in, points, s->heads, Dt, split->temporal, part, y);
  free(cos_table);
  free(sin_table);
  free(part);
  free(cos_part);
  free(sin_part);
}

/** The points of each sample [B]; coords [B,N,3] stay the caller's. */
static sample *samples_of(const mr3d_mixed_rope_in *in, const double *coords) {
  sample *samples = mr3d_allocate(in->B, sizeof *samples);
  for (int64_t b = 0; b < in->B; b++) {
    sample *points = &samples[b];
    *points = (sample){.b = b, .token = mr3d_allocate(in->S, sizeof(int64_t)), .position = mr3d_allocate(in->S, sizeof(int64_t)),
                       .coords = coords + b * in->points.N * 3};
    for (int64_t i = 0; i < in->S && in->points.mask != NULL; i++)
      if (in->points.mask[b * in->S + i]) {
        points->token[points->N] = i;
        points->position[points->N++] = in->position_ids[(in->position_rows == 1 ? 0 : b) * in->S + i];
      }
  }
  return samples;
}

static void samples_free(int64_t B, sample *samples) {
  for (int64_t b = 0; b < B; b++) {
    free(samples[b].token);
    free(samples[b].position);
  }
  free(samples);
}

static bool any_points(const mr3d_mixed_rope_in *in) {
  for (int64_t i = 0; in->points.mask != NULL && i < in->B * in->S; i++)
    if (in->points.mask[i])
      return true;
  return false;
}

static mr3d_rope1d_in all_as_text(const mr3d_config *config, const mr3d_mixed_rope_in *in, const side *s) {
  return (mr3d_rope1d_in){.B = in->B, .heads = s->heads, .q = in->S, .D = in->D, .rope_theta = config->rope_theta, .x = s->x,
                          .position_rows = in->position_rows, .position_ids = in->position_ids};
}

/**
 * query [B,H,S,D] and key [B,G,S,D], rotated in place and order-preserving:
 *
 *     text tokens    all D dimensions by mr3d_rope1d at their position in the sequence
 *     point tokens   spatial dimensions, gathered ascending: mr3d_rope3d with the side's own frequencies and weights, at the token's
 *                    coordinates after coord_norm and drift; temporal dimensions, gathered ascending: half-split over Dt with the table of
 *                    3.1 gathered at the places these dimensions occupy (or `native`)
 *
 * The k-th marked token of a sample takes coordinate row k. Ds = 0: every token is text. Dt = 0: points get only the spatial part.
 * `gathered` is a true rotation in the interleaved layout; in the contiguous one the two halves of a pair turn by different angles, so the
 * norm changes and scores do not depend on relative position alone. That is what the model does (spec.md 3.3).
 *
 * Errors: of points_check, normalize_coords and split_head; frequencies or weights missing where the options ask for learned ones.
 * Error of the values: mr3d_mixed_rope_scale with u = ua = 2^-53.
 */
mr3d_status mr3d_mixed_rope(const mr3d_context *context, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query, double *key,
                            mr3d_error *error) {
  const side sides[2] = {{"query", in->H, in->query, in->q}, {"key", in->G, in->key, in->kv}};
  double *const out[2] = {query, key};
  mr3d_split split = {0};
  double *coords = NULL, *base[2] = {NULL, NULL};
  mr3d_cis3d_in cis[2] = {{0}, {0}};

  mr3d_status status = context->op->points_check(&in->points, in->B, in->S, error);
  if (status == MR3D_OK)
    status = mr3d_split_head(config, in->D, &split, error);
  const bool points = status == MR3D_OK && split.Ds > 0 && any_points(in);
  if (points) {
    coords = mr3d_allocate(in->B * in->points.N * 3, sizeof *coords);
    status = context->op->normalize_coords(context, config, &(mr3d_normalize_coords_in){in->B, in->points.N, in->points.coords, in->points.counts}, coords, error);
    for (int s = 0; s < 2 && status == MR3D_OK; s++)
      status = frequencies(config, &sides[s], split.Ds / 2, &cis[s], &base[s], error);
  }

  if (status == MR3D_OK)
    for (int s = 0; s < 2; s++) {
      const mr3d_rope1d_in text = all_as_text(config, in, &sides[s]);
      context->op->rope1d(context, &text, out[s]);
    }
  if (status == MR3D_OK && points) {
    sample *samples = samples_of(in, coords);
    for (int64_t b = 0; b < in->B; b++)
      for (int s = 0; s < 2 && samples[b].N > 0; s++) {
        cis[s].N = samples[b].N;
        cis[s].coords = samples[b].coords;
        rotate_spatial(context, in, &split, &samples[b], &sides[s], &cis[s], out[s]);
        if (split.Dt > 0)
          rotate_temporal(context, config, in, &split, &samples[b], &sides[s], out[s]);
      }
    samples_free(in->B, samples);
  }
  free(coords);
  free(base[0]);
  free(base[1]);
  mr3d_split_free(&split);
  return status;
}

/** Scale and turn of the spatial part of one sample's points. */
static void scale_spatial(const mr3d_units *units, const mr3d_mixed_rope_in *in, const mr3d_split *split, const sample *points, const double *coords_scale,
                          const side *s, const mr3d_cis3d_in *cis, double *scale, double *turn) {
  const int64_t table = s->heads * points->N * cis->F, part = s->heads * points->N * split->Ds;
  double *cos_table = mr3d_allocate(table, sizeof *cos_table), *sin_table = mr3d_allocate(table, sizeof *sin_table);
  double *angle_error = mr3d_allocate(table, sizeof *angle_error), *same = mr3d_allocate(table, sizeof *same);
  double *moved = mr3d_allocate(table, sizeof *moved);
  double *x_part = mr3d_allocate(part, sizeof *x_part), *y_part = mr3d_allocate(part, sizeof *y_part), *turn_part = mr3d_allocate(part, sizeof *turn_part);
  const mr3d_context exact = {.op = &mr3d_reference_operators, .threads = 1};
  mr3d_units angles = *units;
  angles.narrow = false; /* the table's own rounding to the tier is u r, which rope3d's scale holds already */
  gather(in, points, s->heads, split->Ds, split->spatial, s->x, x_part);
  mr3d_cis3d(&exact, cis, cos_table, sin_table);
  mr3d_cis3d_scale(&angles, cis, angle_error, same);
  const mr3d_rope3d_in rope = {1, s->heads, points->N, split->Ds, x_part, cos_table, sin_table};
  mr3d_rope3d_scale(units, &rope, y_part, turn_part);

  /* sum over a of |w f| times the coordinate's own error: what the angle may be off because the coordinate is */
  for (int64_t h = 0; h < s->heads; h++)
    for (int64_t k = 0; k < points->N; k++)
      for (int64_t f = 0; f < cis->F; f++)
        for (int64_t a = 0; a < 3; a++) {
          const double w = cis->axial_weights != NULL ? cis->axial_weights[(h * cis->F + f) * 3 + a] : 1;
          moved[(h * points->N + k) * cis->F + f] +=
              fabs(w * cis->freqs[((cis->freq_axes == 1 ? 0 : a) * cis->heads + h) * cis->F + f]) * coords_scale[k * 3 + a];
        }
  for (int64_t i = 0; i < part; i++) {
    const double r = hypot(x_part[i - i % 2], x_part[i - i % 2 + 1]);
    y_part[i] += r * fmin(2, angle_error[i / 2] + moved[i / 2]);
  }
  scatter(in, points, s->heads, split->Ds, split->spatial, y_part, scale);
  if (turn != NULL)
    scatter(in, points, s->heads, split->Ds, split->spatial, turn_part, turn);
  free(cos_table);
  free(sin_table);
  free(angle_error);
  free(same);
  free(moved);
  free(x_part);
  free(y_part);
  free(turn_part);
}

/** Scale and turn of the temporal part: rope1d's, with the frequencies of this table. */
static void scale_temporal(const mr3d_units *units, const mr3d_config *config, const mr3d_mixed_rope_in *in, const mr3d_split *split, const sample *points,
                           const side *s, double *scale, double *turn) {
  const int64_t Dt = split->Dt, half = Dt / 2, rows = s->heads * points->N;
  double *x_part = mr3d_allocate(rows * Dt, sizeof *x_part), *part = mr3d_allocate(rows * Dt, sizeof *part), *turn_part = mr3d_allocate(rows * Dt, sizeof *turn_part);
  double *cos_row = mr3d_allocate(Dt, sizeof *cos_row), *sin_row = mr3d_allocate(Dt, sizeof *sin_row);
  gather(in, points, s->heads, Dt, split->temporal, s->x, x_part);
  for (int64_t r = 0; r < rows; r++) {
    const double position = (double)points->position[r % points->N];
    const double *x = x_part + r * Dt;
    for (int64_t j = 0; j < Dt; j++) {
      const double inv_freq = temporal_inv_freq(config, split, j);
      cos_row[j] = cos(position * inv_freq);
      sin_row[j] = sin(position * inv_freq);
      part[r * Dt + j] = mr3d_rotation_scale(units, hypot(x[j % half], x[j % half + half]), mr3d_angle_error_1d(units, position, inv_freq));
    }
    mr3d_half_split_turn(Dt, x, cos_row, sin_row, turn_part + r * Dt);
  }
  scatter(in, points, s->heads, Dt, split->temporal, part, scale);
  if (turn != NULL)
    scatter(in, points, s->heads, Dt, split->temporal, turn_part, turn);
  free(x_part);
  free(part);
  free(turn_part);
  free(cos_row);
  free(sin_row);
}

/**
 * Text rows: rope1d's scale. Points, temporal dimensions: rope1d's with the gathered or native frequencies. Points, spatial dimensions: rope3d's,
 * plus r times what the angle may be off: the cis3d scale without its output term, and the normalised coordinate's error times |w f|.
 */
mr3d_status mr3d_mixed_rope_scale(const mr3d_units *units, const mr3d_config *config, const mr3d_mixed_rope_in *in, double *query_scale, double *key_scale,
                                  double *query_turn, double *key_turn, mr3d_error *error) {
  const side sides[2] = {{"query", in->H, in->query, in->q}, {"key", in->G, in->key, in->kv}};
  double *const scale[2] = {query_scale, key_scale}, *const turn[2] = {query_turn, key_turn};
  const mr3d_context exact = {.op = &mr3d_reference_operators, .threads = 1};
  double *base[2] = {NULL, NULL};
  mr3d_cis3d_in cis[2] = {{0}, {0}};
  mr3d_split split = {0};
  const int64_t n_coords = in->B * in->points.N * 3;
  double *coords = mr3d_allocate(n_coords, sizeof *coords), *coords_scale = mr3d_allocate(n_coords, sizeof *coords_scale);

  mr3d_status status = mr3d_split_head(config, in->D, &split, error);
  const bool points = status == MR3D_OK && split.Ds > 0 && any_points(in);
  if (points) {
    const mr3d_normalize_coords_in raw = {in->B, in->points.N, in->points.coords, in->points.counts};
    status = mr3d_normalize_coords(&exact, config, &raw, coords, error);
    if (status == MR3D_OK)
      mr3d_normalize_coords_scale(units, config, &raw, coords_scale, NULL);
    for (int s = 0; s < 2 && status == MR3D_OK; s++)
      status = frequencies(config, &sides[s], split.Ds / 2, &cis[s], &base[s], error);
  }
  if (status == MR3D_OK)
    for (int s = 0; s < 2; s++) {
      const mr3d_rope1d_in text = all_as_text(config, in, &sides[s]);
      mr3d_rope1d_scale(units, &text, scale[s], turn[s]);
    }
  if (status == MR3D_OK && points) {
    sample *samples = samples_of(in, coords);
    for (int64_t b = 0; b < in->B; b++)
      for (int s = 0; s < 2 && samples[b].N > 0; s++) {
        cis[s].N = samples[b].N;
        cis[s].coords = samples[b].coords;
        scale_spatial(units, in, &split, &samples[b], coords_scale + b * in->points.N * 3, &sides[s], &cis[s], scale[s], turn[s]);
        if (split.Dt > 0)
          scale_temporal(units, config, in, &split, &samples[b], &sides[s], scale[s], turn[s]);
      }
    samples_free(in->B, samples);
  }
  free(coords);
  free(coords_scale);
  free(base[0]);
  free(base[1]);
  mr3d_split_free(&split);
  return status;
}
