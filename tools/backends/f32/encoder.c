/* Point encoders (docs/encoders.md): grid cells to point tokens. Section names are that page's. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights.h"

enum { BANDS = 10, FOURIER = 3 + 6 * BANDS, GROUPS = 8 };
static const float EPS = 1e-5F;

/* Tokens on the way: n rows of C channels and their cells, sorted by x, y, z. */
typedef struct tokens {
  int64_t n, C;
  float *x;
  int64_t *at; /* [n,3] */
} tokens;

/* ---- weights ---- */

/* The tensor below point_backbone. (or as it is, where the name begins with a dot), whose shape's letters are set. */
static const float *tensor(call *c, const char *shape, const char *format, va_list arguments) {
  char rest[140], name[160];
  vsnprintf(rest, sizeof rest, format, arguments);
  snprintf(name, sizeof name, "%s%s", rest[0] == '.' ? "" : "point_backbone.", rest + (rest[0] == '.'));
  const float *values = weight(c, c->opened, name, shape);
  int64_t count = 1;
  for (const char *letter = shape; *letter; letter++) count *= *letter == '3' ? 3 : c->size[(unsigned char)*letter];
  all_finite(c, name, values, count);
  return values;
}
static const float *get(call *c, const char *shape, const char *format, ...) __attribute__((format(printf, 3, 4)));
static const float *get(call *c, const char *shape, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const float *values = tensor(c, shape, format, arguments);
  va_end(arguments);
  return values;
}

typedef struct affine {
  const float *weight, *bias;
} affine;

/* NAME.weight of that shape and NAME.bias [O]. */
static affine take_affine(call *c, const char *shape, int64_t out, int64_t in, const char *name) {
  c->size['O'] = out, c->size['I'] = in;
  return (affine){get(c, shape, "%s.weight", name), get(c, "O", "%s.bias", name)};
}
static affine take_linear(call *c, int64_t out, int64_t in, const char *name) { return take_affine(c, "OI", out, in, name); }
static affine take_norm(call *c, int64_t C, const char *name) { return take_affine(c, "O", C, 0, name); }

static const char *join(char text[128], const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *join(char text[128], const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, 128, format, arguments);
  va_end(arguments);
  return text;
}

/* ---- cells ---- */

static int by_place(const void *left, const void *right) {
  const int64_t *a = left, *b = right;
  for (int k = 0; k < 3; k++)
    if (a[k] != b[k]) return a[k] < b[k] ? -1 : 1;
  return 0;
}

/* The row of a cell among sorted ones, or -1. */
static int64_t find(int64_t n, const int64_t *at, const int64_t cell[3]) {
  const int64_t *found = bsearch(cell, at, (size_t)n, 3 * sizeof *at, by_place);
  return found ? (found - at) / 3 : -1;
}

/* Every cell divided by `by`, each once; parent[i] is the row of cell i's. */
static tokens divide_cells(call *c, const tokens *t, int64_t by, int64_t *parent) {
  tokens down = {.at = scratch(c, 3 * t->n, sizeof *down.at)};
  for (int64_t i = 0; i < 3 * t->n; i++) down.at[i] = t->at[i] / by;
  qsort(down.at, (size_t)t->n, 3 * sizeof *down.at, by_place);
  for (int64_t i = 0; i < t->n; i++)
    if (i == 0 || by_place(down.at + 3 * i, down.at + 3 * (down.n - 1)) != 0) memmove(down.at + 3 * down.n++, down.at + 3 * i, 3 * sizeof *down.at);
  for (int64_t i = 0; i < t->n; i++) parent[i] = find(down.n, down.at, (int64_t[]){t->at[3 * i] / by, t->at[3 * i + 1] / by, t->at[3 * i + 2] / by});
  return down;
}

/* ---- convolution: rows of neighbours side by side, then one product ---- */

/*
 * y [out->n,out->C] from x at stride * cell + tap + first, tap number t of `w` [out->C][taps][in->C] counting x fastest or z fastest.
 */
static void convolve(const tokens *in, const tokens *out, int64_t k, int64_t stride, int64_t first, bool x_fastest, const float *w, const float *bias, float *y) {
  enum { TILE = 96 };
  const int64_t taps = k * k * k, wide = taps * in->C, tiles = (out->n + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic)
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t begin = tile * TILE, rows = out->n - begin < TILE ? out->n - begin : TILE;
    float *side = calloc((size_t)(rows * wide), sizeof *side);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t t = 0; t < taps; t++) {
        const int64_t low = t % k, middle = t / k % k, high = t / k / k, *cell = out->at + 3 * (begin + r);
        const int64_t from = find(in->n, in->at, (int64_t[]){stride * cell[0] + (x_fastest ? low : high) + first, stride * cell[1] + middle + first,
                                                             stride * cell[2] + (x_fastest ? high : low) + first});
        if (from >= 0) memcpy(side + r * wide + t * in->C, in->x + from * in->C, (size_t)in->C * sizeof *side);
      }
    product(rows, wide, out->C, side, w, bias, y + begin * out->C);
    free(side);
  }
}

/* SceneScript's kernels [taps,in,out] as convolve wants them. */
static float *transposed(call *c, int64_t taps, int64_t in, int64_t out, const float *kernel) {
  float *w = scratch(c, taps * in * out, sizeof *w);
  for (int64_t i = 0; i < taps * in; i++)
    for (int64_t o = 0; o < out; o++) w[o * taps * in + i] = kernel[i * out + o];
  return w;
}

/* ---- norms and activations, in place ---- */

/* Rows first .. first+rows-1, channels from .. from+width-1 share mean and variance; sums of rows in float, of all rows in double. */
static void normalise(int64_t rows, int64_t C, int64_t from, int64_t width, float *x, affine norm) {
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < rows; r++) {
    float row = 0;
    for (int64_t k = from; k < from + width; k++) row += x[r * C + k];
    sum += (double)row;
  }
  const float mean = (float)(sum / ((double)rows * (double)width));
  for (int64_t r = 0; r < rows; r++) {
    float row = 0;
    for (int64_t k = from; k < from + width; k++) row += (x[r * C + k] - mean) * (x[r * C + k] - mean);
    squares += (double)row;
  }
  const float scale = 1 / sqrtf((float)(squares / ((double)rows * (double)width)) + EPS);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = from; k < from + width; k++) x[r * C + k] = (x[r * C + k] - mean) * scale * norm.weight[k] + norm.bias[k];
}

static void group_norm(int64_t rows, int64_t C, int64_t groups, float *x, affine norm) {
  for (int64_t g = 0; g < groups; g++) normalise(rows, C, g * (C / groups), C / groups, x, norm);
}
static void rows_norm(int64_t rows, int64_t C, int64_t groups, float *x, affine norm) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; r++) group_norm(1, C, groups, x + r * C, norm);
}

static void gelu(int64_t count, float *x) {
#pragma omp parallel for
  for (int64_t i = 0; i < count; i++) x[i] = 0.5F * x[i] * erfcf(-x[i] * 0.70710678F);
}
static void relu(int64_t count, float *x) {
  for (int64_t i = 0; i < count; i++) x[i] = x[i] > 0 ? x[i] : 0;
}
static void add(int64_t count, const float *x, float *y) {
  for (int64_t i = 0; i < count; i++) y[i] += x[i];
}

static float *room(call *c, int64_t rows, int64_t columns) { return scratch(c, rows * columns, sizeof(float)); }
/* What room gave is not needed any more: a large scene's layers would not all fit. */
static void drop(call *c, float *values) { release(keep(c, values)); }

static float *linear(call *c, int64_t rows, int64_t in, int64_t out, const float *x, affine w) {
  float *y = room(c, rows, out);
  product(rows, in, out, x, w.weight, w.bias, y);
  return y;
}

/* A copy of x, normed row by row. */
static float *layer_norm(call *c, const tokens *t, affine norm) {
  float *y = room(c, t->n, t->C);
  memcpy(y, t->x, (size_t)(t->n * t->C) * sizeof *y);
  rows_norm(t->n, t->C, 1, y, norm);
  return y;
}

/* ---- "Fourier features", `input_proj` ---- */

static void fourier(call *c, const tokens *t, bool of_scene, float *y, int64_t step) {
  int64_t low[3], high[3];
  for (int k = 0; k < 3; k++) {
    low[k] = high[k] = t->at[k];
    for (int64_t i = 0; i < t->n; i++) {
      if (t->at[3 * i + k] < low[k]) low[k] = t->at[3 * i + k];
      if (t->at[3 * i + k] > high[k]) high[k] = t->at[3 * i + k];
    }
  }
  for (int64_t i = 0; i < t->n; i++)
    for (int k = 0; k < 3; k++) {
      const double size = of_scene ? fmax((double)(high[k] - low[k]), 1) : (double)(c->o.reduced_grid - 1);
      const double v = (double)(t->at[3 * i + k] - (of_scene ? low[k] : 0)) / size;
      float *row = y + i * step;
      row[k] = (float)v;
      for (int b = 0; b < BANDS; b++) {
        const double angle = 3.14159265358979323846 * (9 + 29 * b) / 9 * v;
        row[3 + 6 * b + k] = (float)sin(angle);
        row[6 + 6 * b + k] = (float)cos(angle);
      }
    }
}

static void input_proj(call *c, tokens *t, int64_t out, bool of_scene) {
  const int64_t wide = t->C + FOURIER;
  float *both = room(c, t->n, wide), *x = t->x;
  for (int64_t i = 0; i < t->n; i++) memcpy(both + i * wide, t->x + i * t->C, (size_t)t->C * sizeof *both);
  fourier(c, t, of_scene, both + t->C, wide);
  t->x = linear(c, t->n, wide, out, both, take_linear(c, out, wide, "input_proj"));
  t->C = out;
  drop(c, both);
  drop(c, x);
}

/* ---- "SceneScript" ---- */

/* GroupNorm and ReLU of a convolution from `in` to the cells and channels of `out`. */
static void conv(call *c, const char *name, int64_t k, const tokens *in, tokens *out) {
  char text[128];
  const int64_t taps = k * k * k;
  c->size['K'] = taps, c->size['I'] = in->C, c->size['O'] = out->C;
  float *w = transposed(c, taps, in->C, out->C, get(c, "KIO", "sparse_resnet.%s.0.kernel", name));
  out->x = room(c, out->n, out->C);
  convolve(in, out, k, k == 2 ? 2 : 1, k == 2 ? 0 : -(k / 2), k != 2, w, NULL, out->x);
  drop(c, w);
  group_norm(out->n, out->C, out->C < GROUPS ? out->C : GROUPS, out->x, take_norm(c, out->C, join(text, "sparse_resnet.%s.1", name)));
  relu(out->n * out->C, out->x);
}

static void res(call *c, const char *name, tokens *t) {
  char text[128];
  tokens first = *t, second = *t;
  conv(c, join(text, "%s.block0", name), 3, t, &first);
  conv(c, join(text, "%s.block1", name), 3, &first, &second);
  add(t->n * t->C, t->x, second.x);
  drop(c, first.x);
  drop(c, t->x);
  t->x = second.x;
}

static void scenescript(call *c, tokens *t) {
  const encoder_sizes *s = &c->o.encoder;
  char text[128];
  tokens first = {.n = t->n, .C = s->widths.at[0], .at = t->at};
  conv(c, "stem.0", 7, t, &first);
  *t = first;
  res(c, "stem.1", t);
  for (int64_t level = 1; level < s->widths.n; level++) {
    int64_t *parent = scratch(c, t->n, sizeof *parent);
    tokens down = divide_cells(c, t, 2, parent);
    down.C = s->widths.at[level];
    conv(c, join(text, "blocks.%lld.0", (long long)level - 1), 2, t, &down);
    drop(c, t->x);
    *t = down;
    for (int i = 1; i <= 2; i++) res(c, join(text, "blocks.%lld.%d", (long long)level - 1, i), t);
  }
  const int64_t C = t->C, out = s->embed_channels;
  float *wide = linear(c, t->n, C, 2 * C, t->x, take_linear(c, 2 * C, C, "sparse_resnet.bottleneck.0"));
  rows_norm(t->n, 2 * C, GROUPS, wide, take_norm(c, 2 * C, "sparse_resnet.bottleneck.1"));
  relu(t->n * 2 * C, wide);
  t->x = linear(c, t->n, 2 * C, out, wide, take_linear(c, out, 2 * C, "sparse_resnet.bottleneck.3"));
  t->C = out;
  input_proj(c, t, out, false);
  c->size['O'] = out;
  const float *extra = get(c, "O", "extra_embedding");
  for (int64_t i = 0; i < t->n; i++) add(out, extra, t->x + i * out);
}

/* ---- "Sonata" ---- */

typedef struct place {
  uint64_t code;
  int64_t token;
} place;

static int by_code(const void *left, const void *right) {
  const place *a = left, *b = right;
  return a->code < b->code ? -1 : a->code > b->code;
}

/* Tokens along a z-order curve; z-trans exchanges x and y. */
static place *along(call *c, const tokens *t, bool trans) {
  place *places = scratch(c, t->n, sizeof *places);
  for (int64_t i = 0; i < t->n; i++) {
    const uint64_t x = (uint64_t)t->at[3 * i + trans], y = (uint64_t)t->at[3 * i + !trans], z = (uint64_t)t->at[3 * i + 2];
    places[i].token = i;
    for (int b = 20; b >= 0; b--) places[i].code = places[i].code << 3 | (x >> b & 1) << 2 | (y >> b & 1) << 1 | (z >> b & 1);
  }
  qsort(places, (size_t)t->n, sizeof *places, by_code);
  return places;
}

/* One head of one run: scores, softmax and weighted sum; qkv rows are 3 C long. `member` lists the run's K tokens; outputs of the first `kept` count. */
static void attend_run(int64_t K, int64_t kept, const int64_t *member, int64_t C, int64_t D, int64_t head, const float *qkv, float *y) {
  const float scale = 1 / sqrtf((float)D);
  float *p = malloc((size_t)K * sizeof *p);
  for (int64_t i = 0; i < kept; i++) {
    const float *query = qkv + member[i] * 3 * C + head * D;
    float *out = y + member[i] * C + head * D, most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < K; j++) {
      p[j] = dot(D, query, qkv + member[j] * 3 * C + C + head * D) * scale;
      if (p[j] > most) most = p[j];
    }
    for (int64_t j = 0; j < K; j++) sum += p[j] = expf(p[j] - most);
    for (int64_t d = 0; d < D; d++) out[d] = 0;
    for (int64_t j = 0; j < K; j++) {
      const float *value = qkv + member[j] * 3 * C + 2 * C + head * D;
      for (int64_t d = 0; d < D; d++) out[d] += p[j] * value[d];
    }
    for (int64_t d = 0; d < D; d++) out[d] /= sum;
  }
  free(p);
}

/* "Attention in patches": y [n,C] from qkv [n,3C]. */
static void attend_patches(call *c, const tokens *t, int64_t heads, int64_t size, bool trans, const float *qkv, float *y) {
  const place *order = along(c, t, trans);
  const int64_t K = t->n < size ? t->n : size, runs = (t->n + K - 1) / K, D = t->C / heads;
  int64_t *member = scratch(c, runs * K, sizeof *member);
  for (int64_t i = 0; i < runs * K; i++) member[i] = i < t->n ? order[i].token : member[i - K];
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < runs * heads; task++) {
    const int64_t run = task / heads, left = t->n - run * K;
    attend_run(K, left < K ? left : K, member + run * K, t->C, D, task % heads, qkv, y);
  }
}

static float *replaced(call *c, float *old, float *by) {
  drop(c, old);
  return by;
}

/* x = x + y. */
static void add_branch(call *c, tokens *t, float *y) {
  add(t->n * t->C, t->x, y);
  t->x = replaced(c, t->x, y);
}

static void block(call *c, tokens *t, int64_t stage, int64_t number) {
  const encoder_sizes *s = &c->o.encoder;
  const int64_t n = t->n, C = t->C, wide = (int64_t)(s->mlp_ratio * (double)C);
  char name[64], text[128];
  snprintf(name, sizeof name, "enc.enc%lld.block%lld", (long long)stage, (long long)number);

  float *y = room(c, n, C);
  const affine cpe = take_affine(c, "O333I", C, C, join(text, "%s.cpe.0", name));
  tokens same = *t;
  convolve(t, &same, 3, 1, -1, false, cpe.weight, cpe.bias, y);
  y = replaced(c, y, linear(c, n, C, C, y, take_linear(c, C, C, join(text, "%s.cpe.1", name))));
  rows_norm(n, C, 1, y, take_norm(c, C, join(text, "%s.cpe.2", name)));
  add_branch(c, t, y);

  y = layer_norm(c, t, take_norm(c, C, join(text, "%s.norm1.0", name)));
  float *qkv = linear(c, n, C, 3 * C, y, take_linear(c, 3 * C, C, join(text, "%s.attn.qkv", name)));
  attend_patches(c, t, s->heads.at[stage], s->patches.at[stage], s->orders.at[number % s->orders.n] != 0, qkv, y);
  drop(c, qkv);
  y = replaced(c, y, linear(c, n, C, C, y, take_linear(c, C, C, join(text, "%s.attn.proj", name))));
  add_branch(c, t, y);

  y = layer_norm(c, t, take_norm(c, C, join(text, "%s.norm2.0", name)));
  y = replaced(c, y, linear(c, n, C, wide, y, take_linear(c, wide, C, join(text, "%s.mlp.0.fc1", name))));
  gelu(n * wide, y);
  y = replaced(c, y, linear(c, n, wide, C, y, take_linear(c, C, wide, join(text, "%s.mlp.0.fc2", name))));
  add_branch(c, t, y);
}

static void pool(call *c, tokens *t, int64_t stage) {
  const encoder_sizes *s = &c->o.encoder;
  const int64_t C = s->channels.at[stage];
  char text[128];
  int64_t *parent = scratch(c, t->n, sizeof *parent);
  float *x = linear(c, t->n, t->C, C, t->x, take_linear(c, C, t->C, join(text, "enc.enc%lld.down.proj", (long long)stage)));
  tokens down = divide_cells(c, t, s->strides.at[stage - 1], parent);
  down.C = C;
  down.x = room(c, down.n, C);
  for (int64_t i = 0; i < down.n * C; i++) down.x[i] = -INFINITY;
  for (int64_t i = 0; i < t->n; i++)
    for (int64_t k = 0; k < C; k++) down.x[parent[i] * C + k] = fmaxf(down.x[parent[i] * C + k], x[i * C + k]);
  rows_norm(down.n, C, 1, down.x, take_norm(c, C, join(text, "enc.enc%lld.down.norm.0", (long long)stage)));
  gelu(down.n * C, down.x);
  drop(c, x);
  drop(c, t->x);
  *t = down;
}

static void sonata(call *c, tokens *t) {
  const encoder_sizes *s = &c->o.encoder;
  const int64_t C = s->channels.at[0];
  t->x = linear(c, t->n, t->C, C, t->x, take_linear(c, C, t->C, "embedding.stem.linear"));
  t->C = C;
  rows_norm(t->n, C, 1, t->x, take_norm(c, C, "embedding.stem.norm"));
  gelu(t->n * C, t->x);
  for (int64_t stage = 0; stage < s->depths.n; stage++) {
    if (stage > 0) pool(c, t, stage);
    for (int64_t number = 0; number < s->depths.at[stage]; number++) block(c, t, stage, number);
  }
  input_proj(c, t, t->C, c->o.sonata_norm == OF_SCENE);
}

/* ---- the operator ---- */

static void choose(call *c) {
  const char *encoder = c->request->metadata(c->request, "encoder");
  char message[400];
  if (!encoder && c->o.backbone == NO_BACKBONE) refuse(c, "neither metadata encoder nor point_backbone says which encoder to use");
  if (!encoder) return;
  const int64_t named = strcmp(encoder, "scenescript") == 0 ? SCENESCRIPT : strcmp(encoder, "sonata") == 0 ? SONATA : NO_BACKBONE;
  if (named == NO_BACKBONE || (c->o.backbone != NO_BACKBONE && c->o.backbone != named))
    refuse(c, "metadata encoder is \"%.60s\", which is none, or not the configuration's point_backbone", encoder);
  c->o.backbone = named;
  if (unfit_encoder_sizes(&c->o, message)) refuse(c, "%s", message);
}

static void check_cells(call *c, int64_t n, const int64_t *at) {
  const int64_t last = c->o.backbone == SONATA && c->o.bins > 1 << 21 ? (1 << 21) - 1 : c->o.bins - 1;
  if (n == 0) refuse(c, "grid has no cells");
  for (int64_t i = 0; i < 3 * n; i++)
    if (at[i] < 0 || at[i] > last) refuse(c, "grid holds %lld in row %lld; indices are 0 to %lld", (long long)at[i], (long long)(i / 3), (long long)last);
  for (int64_t i = 1; i < n; i++)
    if (by_place(at + 3 * i - 3, at + 3 * i) >= 0) refuse(c, "rows %lld and %lld of grid are not in ascending order, or the same cell", (long long)i - 1, (long long)i);
}

void op_encode_points(call *c) {
  choose(c);
  const bool scene = c->o.backbone == SONATA && c->o.sonata_norm == OF_SCENE, mlp = c->o.projector == PROJECT_MLP;
  c->size['C'] = c->o.backbone == SCENESCRIPT ? c->o.encoder.input_channels : c->o.encoder.in_channels;
  c->said_by['C'] = "point_config";
  const array *grid = need(c, "grid", WHOLE, "M3"), *features = need(c, "features", FLOAT, "MC");
  only_these(c);
  if (!scene && c->o.reduced_grid < 2) refuse(c, "reduced_grid_size is %lld, and Fourier features divide by one less", (long long)c->o.reduced_grid);
  check_cells(c, c->size['M'], grid->i);
  weights *w = call_weights(c, word(c, "weights"));

  tokens t = {.n = c->size['M'], .C = c->size['C'], .x = (float *)(uintptr_t)features->f, .at = (int64_t *)(uintptr_t)grid->i};
  (c->o.backbone == SCENESCRIPT ? scenescript : sonata)(c, &t);
  const int64_t inner = mlp ? weight_rows(w, "point_proj.0.weight") : 0;
  const int64_t hidden = c->o.hidden ? c->o.hidden : weight_rows(w, mlp ? "point_proj.2.weight" : "point_proj.weight");
  if (mlp) {
    t.x = linear(c, t.n, t.C, inner, t.x, take_linear(c, inner, t.C, ".point_proj.0"));
    gelu(t.n * inner, t.x);
    t.C = inner;
  }
  const affine last = take_linear(c, hidden, t.C, mlp ? ".point_proj.2" : ".point_proj");
  product(t.n, t.C, hidden, t.x, last.weight, last.bias, out_floats(c, "features", SHAPE(t.n, hidden)));
  memcpy(out_wholes(c, "coords", SHAPE(t.n, 3)), t.at, (size_t)(3 * t.n) * sizeof *t.at);
  close_call_weights(c);
}
