/* Rotary embeddings: one-dimensional, three-dimensional, mixed; coordinates (spec.md 3). */
#include <math.h>
#include <string.h>

#include "f32.h"

static int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

split split_head(call *c, int64_t D) {
  double part = c->o.strategy == FULL_SPATIAL ? (double)D : c->o.strategy == FULL_TEMPORAL ? 0 : (double)D / 2;
  if (c->o.strategy == CUSTOM_RATIO) part = (double)D * c->o.ratio;
  const int64_t Ds = llround(part), Dt = D - Ds;
  if (fabs(part - (double)Ds) > 1e-9 || Ds % 2 != 0 || Dt % 2 != 0)
    refuse(c, "head_dim %lld splits into %g spatial and %g temporal dimensions; both must be even", (long long)D, part, (double)D - part);
  if (c->o.kind == AXIAL && Ds < 6) refuse(c, "rope_3d_kind axial needs at least 6 spatial dimensions, here are %lld", (long long)Ds);
  split s = {D, Ds, Dt, scratch(c, Ds, sizeof(int64_t)), scratch(c, Dt, sizeof(int64_t))};
  const bool interleaved = c->o.layout == INTERLEAVED && Ds > 0 && Dt > 0;
  const int64_t units = interleaved ? gcd(Ds, Dt) : 1, of_time = interleaved ? Dt / units : 0;
  if (interleaved && D / units > 8)
    refuse(c, "an interleaved unit of %lld + %lld dimensions is longer than 8 (%lld spatial, %lld temporal)", (long long)(Ds / units),
           (long long)of_time, (long long)Ds, (long long)Dt);
  for (int64_t d = 0, is = 0, it = 0; d < D; d++) {
    const bool temporal = interleaved ? d % (D / units) < of_time : d >= Ds;
    if (temporal) s.temporal[it++] = d;
    else s.spatial[is++] = d;
  }
  return s;
}

/* ---- tables ---- */

typedef struct table {
  const float *cos, *sin;
} table;

/* [rows][n]: cos and sin of position * theta^(-2 (j mod n/2) / n) (spec.md 3.1). Angles reach thousands of turns: double. */
static table turn_table(call *c, int64_t rows, const int64_t *at, int64_t n, double theta) {
  float *cosines = scratch(c, rows * n, sizeof(float)), *sines = scratch(c, rows * n, sizeof(float));
  for (int64_t j = 0; j < n / 2; j++) {
    const double inv_freq = pow(theta, -2.0 * (double)j / (double)n);
    for (int64_t r = 0; r < rows; r++) {
      const double angle = (double)at[r] * inv_freq;
      cosines[r * n + j] = cosines[r * n + j + n / 2] = (float)cos(angle);
      sines[r * n + j] = sines[r * n + j + n / 2] = (float)sin(angle);
    }
  }
  return (table){cosines, sines};
}

/* Half-split rotation of x[n]: j with j + n/2; `at` names the table's columns, NULL: j itself. */
static void half_split(int64_t n, float *x, const float *cosines, const float *sines, const int64_t *at) {
  for (int64_t j = 0; j < n / 2; j++) {
    const int64_t a = at ? at[j] : j, b = at ? at[j + n / 2] : j + n / 2;
    const float low = x[j], high = x[j + n / 2];
    x[j] = low * cosines[a] - high * sines[a];
    x[j + n / 2] = high * cosines[b] + low * sines[b];
  }
}

/* Adjacent pairs of x[2 n] times cos + i sin. */
static void adjacent(int64_t n, float *x, const float *cosines, const float *sines) {
  for (int64_t f = 0; f < n; f++) {
    const float re = x[2 * f], im = x[2 * f + 1];
    x[2 * f] = re * cosines[f] - im * sines[f];
    x[2 * f + 1] = re * sines[f] + im * cosines[f];
  }
}

/* Frequency of axis a in bin f where nothing is learned (spec.md 3.2, "axial" in section 8). */
static double base_frequency(call *c, int a, int64_t f, int64_t F) {
  if (c->o.kind == MIXED) return pow(c->o.theta_3d, -2.0 * (double)f / (2.0 * (double)F));
  const int64_t n = 2 * F / 3 / 2;
  const int axis = f < n ? 0 : f < 2 * n ? 1 : 2;
  return a == axis ? pow(c->o.theta_3d, -(double)(f - axis * n) / (double)n) : 0;
}

/* [heads][N][F]: angle = sum over the axes of weight * frequency * coordinate (spec.md 3.2). */
static table point_table(call *c, int64_t heads, int64_t F, int64_t axes, const learned *p, int64_t N, const double *coords) {
  float *cosines = scratch(c, heads * N * F, sizeof(float)), *sines = scratch(c, heads * N * F, sizeof(float));
  double *factor = scratch(c, 3 * heads * F, sizeof(double)); /* [heads][F][3] */
  for (int64_t h = 0; h < heads; h++)
    for (int64_t f = 0; f < F; f++)
      for (int a = 0; a < 3; a++) {
        const double frequency = p->freqs ? p->freqs[((axes == 3 ? a : 0) * heads + h) * F + f] : base_frequency(c, a, f, F);
        factor[(h * F + f) * 3 + a] = frequency * (p->weights ? p->weights[(h * F + f) * 3 + a] : 1);
      }
#pragma omp parallel for if (heads * N * F > 4096)
  for (int64_t h = 0; h < heads; h++)
    for (int64_t n = 0; n < N; n++)
      for (int64_t f = 0; f < F; f++) {
        const double *w = factor + (h * F + f) * 3, *x = coords + 3 * n;
        const double angle = w[0] * x[0] + w[1] * x[1] + w[2] * x[2];
        cosines[(h * N + n) * F + f] = (float)cos(angle);
        sines[(h * N + n) * F + f] = (float)sin(angle);
      }
  return (table){cosines, sines};
}

/* ---- operators of the tables alone ---- */

void op_rope1d(call *c) {
  const array *x = need(c, "x", FLOAT, "BhqD");
  const int64_t B = c->size['B'], heads = c->size['h'], q = c->size['q'], D = c->size['D'];
  const positions p = take_positions(c, B, q, -1);
  only_these(c);
  need_option(c, "rope_theta", c->o.rope_theta);
  if (D % 2 != 0 || (c->o.D && c->o.D != D))
    refuse(c, "x has %lld dimensions a head; an even number is needed, and head_dim where the configuration gives it", (long long)D);
  const table t = turn_table(c, p.rows * q, p.at, D, c->o.rope_theta);
  float *y = out_floats(c, "y", x->rank, x->shape);
  if (B * heads * q * D > 0) memcpy(y, x->f, (size_t)(B * heads * q * D) * sizeof *y);
  for (int64_t b = 0; b < B; b++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t i = 0; i < q; i++) {
        const int64_t row = (p.rows == 1 ? 0 : b * q) + i;
        half_split(D, y + ((b * heads + h) * q + i) * D, t.cos + row * D, t.sin + row * D, NULL);
      }
}

void op_cis3d(call *c) {
  const int rank = rank_of(c, "freqs");
  const DLTensor *stored = rank == 3 ? c->request->tensor(c->request, "freqs") : NULL;
  const array *freqs = may(c, "freqs", FLOAT, stored && stored->shape[0] == 1 ? "1hF" : "3hF");
  const array *weights = may(c, "axial_weights", FLOAT, "hF3"), *coords = need(c, "coords", COORDS, "N3");
  only_these(c);
  const int64_t N = c->size['N'];
  if ((freqs || weights) && (!c->o.learned || c->o.kind == AXIAL))
    refuse(c, "%s has no meaning where rope_mixed_3d is false or rope_3d_kind is axial", freqs ? "freqs" : "axial_weights");
  if (!freqs) {
    need_option(c, "head_dim", (double)c->o.D);
    const int64_t F = split_head(c, c->o.D).Ds / 2;
    if (weights && c->size['F'] != F)
      refuse(c, "axial_weights has %lld bins, the configuration %lld", (long long)c->size['F'], (long long)F);
    if (c->o.learned && c->o.kind == MIXED && N > 0 && F > 0) refuse(c, "cis3d needs the tensor freqs where frequencies are learned");
    c->size['F'] = F;
  }
  /* The metadata tells the heads where no tensor does; where both do they agree. */
  const int64_t told = whole(c, "heads", 0, freqs ? c->size['h'] : -1);
  if (c->size['h'] >= 0 && c->size['h'] != told)
    refuse(c, "%s has %lld heads, the metadata %lld", freqs ? "freqs" : "axial_weights", (long long)c->size['h'], (long long)told);
  c->size['h'] = told;
  const int64_t heads = c->size['h'], F = c->size['F'];
  for (int64_t i = 0; i < 3 * N; i++)
    if (!isfinite(coords->d[i])) refuse(c, "coords holds %g at flat index %lld", coords->d[i], (long long)i);
  const learned p = {freqs ? freqs->f : NULL, weights ? weights->f : NULL};
  const table t = point_table(c, heads, F, freqs ? freqs->shape[0] : 3, &p, N, coords->d);
  memcpy(out_floats(c, "cos", SHAPE(heads, N, F)), t.cos, (size_t)(heads * N * F) * sizeof(float));
  memcpy(out_floats(c, "sin", SHAPE(heads, N, F)), t.sin, (size_t)(heads * N * F) * sizeof(float));
}

void op_rope3d(call *c) {
  const array *x = need(c, "x", FLOAT, "BhNd"), *cosines = need(c, "cos", TABLE, "hNF"), *sines = need(c, "sin", TABLE, "hNF");
  only_these(c);
  const int64_t B = c->size['B'], rows = c->size['h'] * c->size['N'], F = c->size['F'];
  if (c->size['d'] != 2 * F) refuse(c, "x has %lld dimensions a head, cos and sin have %lld pairs", (long long)c->size['d'], (long long)F);
  float *y = out_floats(c, "y", x->rank, x->shape);
  if (B * rows * F > 0) memcpy(y, x->f, (size_t)(B * rows * 2 * F) * sizeof *y);
  for (int64_t b = 0; b < B; b++)
    for (int64_t r = 0; r < rows; r++) adjacent(F, y + (b * rows + r) * 2 * F, cosines->f + r * F, sines->f + r * F);
}

/* ---- coordinates (spec.md 3.4) ---- */

/* One sample's rows, in double: grid indices may be large, differences small. */
static void normalize(call *c, int64_t N, const double *coords, double *out) {
  const options *o = &c->o;
  for (int a = 0; a < 3; a++) {
    double low = N > 0 ? coords[a] : 0, high = low;
    for (int64_t n = 1; n < N; n++) low = fmin(low, coords[3 * n + a]), high = fmax(high, coords[3 * n + a]);
    for (int64_t n = 0; n < N; n++) {
      double x = coords[3 * n + a];
      if (o->norm == GRID) x /= (double)(o->reduced_grid - 1);
      if (o->norm == UNIT_RANGE || o->norm == VIRTUAL_RESOLUTION) x = (x - low) / (high - low + 1e-8);
      if (o->norm == VIRTUAL_RESOLUTION) x *= o->virtual_resolution;
      if (o->drift == AVERAGE) x += (double)N / 2;
      if (o->drift == POINTWISE) x += (double)n;
      out[3 * n + a] = x;
    }
  }
}

static void check_normalization(call *c) {
  if (c->o.norm == GRID && c->o.reduced_grid == 1)
    refuse(c, "coord_norm grid divides by reduced_grid_size - 1, and reduced_grid_size is 1");
}

/* Coordinates of each sample, [N,3] or [B,N,3], normalised; rows beyond a sample's count stay 0. */
static double *normalized(call *c, const char *name, const array *coords, int64_t B, const array *counts) {
  const int64_t N = coords->shape[coords->rank - 2];
  for (int64_t i = 0; i < B * N * 3; i++)
    if (!isfinite(coords->d[i])) refuse(c, "%s holds %g at flat index %lld", name, coords->d[i], (long long)i);
  check_normalization(c);
  double *out = scratch(c, B * N * 3, sizeof *out);
  for (int64_t b = 0; b < B; b++) {
    const int64_t n = counts ? counts->i[b] : N;
    if (n < 0 || n > N) refuse(c, "point_counts of sample %lld is %lld, %s has %lld rows", (long long)b, (long long)n, name, (long long)N);
    normalize(c, n, coords->d + b * N * 3, out + b * N * 3);
  }
  return out;
}

void op_normalize_coords(call *c) {
  const bool batch = rank_of(c, "coords") == 3;
  const array *coords = need(c, "coords", COORDS, batch ? "BN3" : "N3");
  const int64_t B = batch ? c->size['B'] : (c->size['B'] = 1);
  c->said_by['B'] = "coords";
  const array *counts = may(c, "point_counts", WHOLE, "B");
  only_these(c);
  const double *values = normalized(c, "coords", coords, B, counts);
  float *y = out_floats(c, "coords", coords->rank, coords->shape);
  for (int64_t i = 0; i < B * c->size['N'] * 3; i++) y[i] = (float)values[i];
}

/* ---- what goes with a call: positions, points, parameters ---- */

positions take_positions(call *c, int64_t B, int64_t q, int64_t L) {
  c->size['B'] = B, c->size['q'] = q;
  const DLTensor *t = c->request->tensor(c->request, "position_ids");
  if (!t && L >= 0) {
    int64_t *at = scratch(c, q, sizeof *at);
    for (int64_t i = 0; i < q; i++) at[i] = L + i;
    return (positions){1, at};
  }
  const bool shared = t && t->ndim == 2 && t->shape[0] == 1;
  const array *ids = need(c, "position_ids", WHOLE, shared ? "1q" : "Bq");
  const positions p = {shared ? 1 : B, ids->i};
  for (int64_t i = 0; i < p.rows * q; i++)
    if (p.at[i] < 0) refuse(c, "position_ids holds %lld at flat index %lld; positions start at 0", (long long)p.at[i], (long long)i);
  return p;
}

point_set take_points(call *c, int64_t B, int64_t q) {
  c->size['B'] = B, c->size['q'] = q;
  const array *mask = may(c, "point_token_mask", TRUTH, "Bq");
  const bool flat = rank_of(c, "point_coords") == 2;
  const array *coords = may(c, "point_coords", COORDS, flat ? "N3" : "BN3"), *counts = may(c, "point_counts", WHOLE, "B");
  if (!mask && !coords && !counts) return (point_set){0};
  if (!mask || !coords)
    refuse(c, "%s is given without %s",
           mask     ? "point_token_mask"
           : coords ? "point_coords"
                    : "point_counts",
           mask ? "point_coords" : "point_token_mask");
  if (flat && B > 1)
    refuse(c, "point_coords has shape [%lld,3] for %lld samples; each sample needs its own rows: [B,N,3]", (long long)c->size['N'],
           (long long)B);
  point_set p = {.mask = mask->b, .N = c->size['N']};
  for (int64_t b = 0; b < B; b++) {
    int64_t marked = 0;
    for (int64_t i = 0; i < q; i++) marked += mask->b[b * q + i];
    const int64_t rows = counts ? counts->i[b] : p.N;
    if (rows != marked)
      refuse(c, "sample %lld: %s has %lld rows, point_token_mask marks %lld", (long long)b,
             counts ? "point_counts says point_coords" : "point_coords", (long long)rows, (long long)marked);
    p.any = p.any || marked > 0;
  }
  p.coords = normalized(c, "point_coords", coords, B, counts);
  return p;
}

bool wants_freqs(const options *o, int64_t Ds) { return o->learned && o->kind == MIXED && Ds > 0; }
bool wants_weights(const options *o, int64_t Ds) { return wants_freqs(o, Ds) && o->axial_weights; }

learned take_learned(call *c, const char *freqs_name, const char *weights_name, int64_t heads, int64_t D, bool any_points) {
  const int64_t Ds = split_head(c, D).Ds, F = Ds / 2, axes = c->o.per_axis ? 3 : 1;
  c->size['h'] = heads, c->size['F'] = F, c->size['l'] = heads * F, c->size['a'] = axes;
  c->said_by['h'] = c->said_by['F'] = c->said_by['l'] = c->said_by['a'] = "the configuration";
  const bool flattened = rank_of(c, freqs_name) == 2 && strncmp(freqs_name, "self_attn.", 10) == 0;
  const array *freqs = may(c, freqs_name, FLOAT, flattened ? "al" : "ahF"), *weights = may(c, weights_name, FLOAT, "hF3");
  if (freqs && !wants_freqs(&c->o, Ds))
    refuse(c, "%s has no meaning in this configuration (rope_mixed_3d false, rope_3d_kind axial, or no spatial dimensions)", freqs_name);
  if (weights && !wants_weights(&c->o, Ds))
    refuse(c, "%s has no meaning in this configuration (mixedRoPE_3d_learned_axial_mixing_weight false, or frequencies not learned)",
           weights_name);
  if (any_points && !freqs && wants_freqs(&c->o, Ds))
    refuse(c, "%s needs the tensor %s where frequencies are learned", c->request->op, freqs_name);
  if (any_points && !weights && wants_weights(&c->o, Ds))
    refuse(c, "%s needs the tensor %s where axial weights are learned", c->request->op, weights_name);
  return (learned){freqs ? freqs->f : NULL, weights ? weights->f : NULL};
}

/* Sizes that the configuration gives too must agree with the tensors'. */
void check_heads(call *c, int64_t H, int64_t G, int64_t D) {
  if ((c->o.H && c->o.H != H) || (c->o.G && c->o.G != G) || (c->o.D && c->o.D != D))
    refuse(c, "query and key have %lld and %lld heads of %lld dimensions, the configuration %lld and %lld of %lld", (long long)H,
           (long long)G, (long long)D, (long long)c->o.H, (long long)c->o.G, (long long)c->o.D);
}

/* ---- the mixed rotation (spec.md 3.3) ---- */

typedef struct rotation {
  split s;
  int64_t B, S;
  const positions *positions;
  const point_set *points;
  table text, native; /* native: only where temporal_rope says so */
} rotation;

/* Rotates x [D]; `part` is room for as many. */
static void rotate_point(const rotation *r, int64_t row, float *x, float *part, const float *cosines, const float *sines) {
  const split *s = &r->s;
  for (int64_t d = 0; d < s->Ds; d++) part[d] = x[s->spatial[d]];
  adjacent(s->Ds / 2, part, cosines, sines);
  for (int64_t d = 0; d < s->Ds; d++) x[s->spatial[d]] = part[d];

  for (int64_t d = 0; d < s->Dt; d++) part[d] = x[s->temporal[d]];
  if (r->native.cos) half_split(s->Dt, part, r->native.cos + row * s->Dt, r->native.sin + row * s->Dt, NULL);
  else half_split(s->Dt, part, r->text.cos + row * s->D, r->text.sin + row * s->D, s->temporal);
  for (int64_t d = 0; d < s->Dt; d++) x[s->temporal[d]] = part[d];
}

/* Rotates x [B,heads,S,D] in place. */
static void rotate_side(call *c, const rotation *r, int64_t heads, float *x, const learned *parameters) {
  const int64_t D = r->s.D, S = r->S, F = r->s.Ds / 2, N = r->points->any ? r->points->N : 0;
  float *parts = scratch(c, heads * D, sizeof *parts);
  for (int64_t b = 0; b < r->B; b++) {
    table cis = {0};
    if (N > 0 && F > 0) cis = point_table(c, heads, F, c->o.per_axis ? 3 : 1, parameters, N, r->points->coords + b * N * 3);
#pragma omp parallel for if (heads * S * D > 16384)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t i = 0, n = 0; i < S; i++) {
        float *at = x + ((b * heads + h) * S + i) * D;
        const int64_t row = (r->positions->rows == 1 ? 0 : b * S) + i;
        const bool point = r->points->any && r->points->mask[b * S + i] && F > 0;
        if (point) rotate_point(r, row, at, parts + h * D, cis.cos + (h * N + n) * F, cis.sin + (h * N + n) * F);
        else half_split(D, at, r->text.cos + row * D, r->text.sin + row * D, NULL);
        n += point;
      }
  }
}

void rotate(call *c, int64_t B, int64_t S, int64_t D, int64_t H, float *query, int64_t G, float *key, const positions *p,
            const point_set *points, const learned *for_query, const learned *for_key) {
  rotation r = {.s = split_head(c, D), .B = B, .S = S, .positions = p, .points = points};
  r.text = turn_table(c, p->rows * S, p->at, D, c->o.rope_theta);
  if (c->o.temporal == NATIVE && r.s.Dt > 0) r.native = turn_table(c, p->rows * S, p->at, r.s.Dt, c->o.rope_theta);
  rotate_side(c, &r, H, query, for_query);
  rotate_side(c, &r, G, key, for_key);
}

void op_mixed_rope(call *c) {
  const array *query = need(c, "query", FLOAT, "BHSD"), *key = need(c, "key", FLOAT, "BGSD");
  const int64_t B = c->size['B'], H = c->size['H'], G = c->size['G'], S = c->size['S'], D = c->size['D'];
  check_heads(c, H, G, D);
  if (D % 2 != 0) refuse(c, "query has %lld dimensions a head; an even number is needed", (long long)D);
  const positions p = take_positions(c, B, S, 0);
  const point_set points = take_points(c, B, S);
  const learned for_query = take_learned(c, "freqs_q", "axial_weights_q", H, D, points.any);
  const learned for_key = take_learned(c, "freqs_kv", "axial_weights_kv", G, D, points.any);
  only_these(c);
  need_option(c, "rope_theta", c->o.rope_theta);
  float *rotated_query = out_floats(c, "query", query->rank, query->shape), *rotated_key = out_floats(c, "key", key->rank, key->shape);
  if (B * S * D > 0) {
    memcpy(rotated_query, query->f, (size_t)(B * H * S * D) * sizeof(float));
    memcpy(rotated_key, key->f, (size_t)(B * G * S * D) * sizeof(float));
  }
  rotate(c, B, S, D, H, rotated_query, G, rotated_key, &p, &points, &for_query, &for_key);
}
