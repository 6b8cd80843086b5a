#include "compare.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

/**
 * What rounding makes of a value in a decoder, in units of u times its row's size: emulated runs stray by 15 to 30 u at fp32, where sums are rounded, and by 4 to 9 u at bf16 and fp16, where
 * storage is, growing by 2 % a layer (docs/drift.md, "Two traces"). Two honest traces differ by root 2 of one's error.
 */
static double roundings(mr3d_tier tier) { return mr3d_tier_units(tier).narrow ? 9 : 30; }

#define FAR 3.0   /* units of that: more is no rounding */
#define LEAP 20.0 /* times the largest of its inputs, beyond half of FAR */

typedef struct pair {
  const mr3d_tensor *a, *b;
  mr3d_drift_record record;
} pair;

/** Doubles of one row. */
static void row_of(const mr3d_tensor *tensor, int64_t row, int64_t cols, double *values) {
  const size_t size = mr3d_dtype_size(tensor->dtype);
  const mr3d_tensor part = {.name = tensor->name, .dtype = tensor->dtype, .rank = 1, .shape = {cols}, .data = (char *)tensor->data + (size_t)(row * cols) * size};
  mr3d_tensor_to_double(&part, values);
}

static bool same_shape(const mr3d_tensor *a, const mr3d_tensor *b) {
  if (a->rank != b->rank || mr3d_dtype_is_float(a->dtype) != mr3d_dtype_is_float(b->dtype) || (!mr3d_dtype_is_float(a->dtype) && a->dtype != b->dtype)) return false;
  return memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

static void differ_exactly(pair *p) {
  mr3d_tensor_verdict *v = &p->record.verdict;
  const size_t size = mr3d_dtype_size(p->a->dtype);
  v->elements = mr3d_tensor_count(p->a);
  for (int64_t i = 0; i < v->elements; i++) v->wrong += memcmp((const char *)p->a->data + (size_t)i * size, (const char *)p->b->data + (size_t)i * size, size) != 0;
  mr3d_verdict_add(v, "exact", (double)v->wrong, 0, true, "%lld of %lld elements differ", (long long)v->wrong, (long long)v->elements);
  p->record.local_ratio = v->wrong ? 1e6 : 0;
  p->record.judged = v->wrong != 0;
}

static void differ(const mr3d_drift_run *d, const mr3d_drift_step *step, pair *p) {
  const mr3d_tensor *a = p->a;
  mr3d_drift_record *r = &p->record;
  mr3d_drift_errors *e = &r->total;
  const bool has_heads = a->rank == 4;
  const int64_t cols = a->shape[a->rank - 1], heads = has_heads ? a->shape[1] : 1, q = a->shape[a->rank - 2], tokens = a->shape[0] * q;
  const double unit = d->units.u * roundings(d->options.tier);
  double *x = mr3d_allocate(2 * cols, sizeof *x), *y = x + cols, squares = 0, units = 0, size = 0;
  double *token = mr3d_allocate(tokens, sizeof *token), *dims = mr3d_allocate(heads * cols, sizeof *dims), class[MR3D_N_CLASSES] = {0};
  int64_t in_class[MR3D_N_CLASSES] = {0};
  e->measured = true;
  e->token = mr3d_allocate(tokens, sizeof(float));
  e->token_worst = mr3d_allocate(tokens, sizeof(float));
  r->tokens = tokens;
  r->heads = has_heads ? heads : 0;
  r->dims = has_heads ? cols : 0;
  for (int64_t row = 0; row < tokens * heads; row++) {
    const int64_t head = row / q % heads, at = row / (heads * q) * q + row % q;
    row_of(a, row, cols, x);
    row_of(p->b, row, cols, y);
    double row_size = 0, row_squares = 0, worst = 0;
    for (int64_t c = 0; c < cols; c++) row_size += y[c] * y[c];
    const double noise = unit * sqrt(row_size / (double)cols) + d->units.eta;
    for (int64_t c = 0; c < cols; c++) {
      double difference = fabs(x[c] - y[c]);
      if (!(difference <= 1e300)) difference = x[c] == y[c] || (isnan(x[c]) && isnan(y[c])) ? 0 : 1e300;
      const double z = fmin(difference / noise, 1e6);
      row_squares += z * z;
      dims[head * cols + c] += z * z;
      worst = fmax(worst, z);
      squares += fmin(difference, 1e150) * fmin(difference, 1e150);
      const double place = floor((copysign(z, x[c] - y[c]) + 8.125) / 0.25);
      e->histogram[place < 0 ? 0 : place >= MR3D_DRIFT_HISTOGRAM ? MR3D_DRIFT_HISTOGRAM - 1 : (int)place]++;
    }
    token[at] += row_squares;
    units += row_squares;
    size += row_size;
    e->token_worst[at] = fmaxf(e->token_worst[at], (float)worst);
    e->worst = fmax(e->worst, worst);
    if (tokens == step->B * step->q) class[step->token_class[at]] += row_squares, in_class[step->token_class[at]] += cols;
  }
  const double count = (double)(tokens * heads * cols);
  r->size = count > 0 ? sqrt(size / count) : 0;
  e->rms = count > 0 ? sqrt(units / count) : 0;
  e->absolute = count > 0 ? sqrt(squares / count) : 0;
  for (int64_t t = 0; t < tokens; t++) e->token[t] = (float)sqrt(token[t] / (double)(heads * cols));
  for (int k = 0; k < MR3D_N_CLASSES; k++) e->of_class[k] = in_class[k] ? sqrt(class[k] / (double)in_class[k]) : NAN;
  if (has_heads) {
    e->head_dim = mr3d_allocate(heads * cols, sizeof(float));
    for (int64_t i = 0; i < heads * cols; i++) e->head_dim[i] = (float)sqrt(dims[i] / (double)tokens);
  }
  free(x);
  free(token);
  free(dims);
}

static void add_pairs(mr3d_drift_run *d, const mr3d_drift_source *a, const mr3d_drift_source *b, int64_t n_step, int64_t layer, int first, int last) {
  pair *pairs = mr3d_allocate(last - first, sizeof *pairs);
  const mr3d_drift_step *step = &d->steps[d->n_steps - 1];
  int n = 0;
  for (int p = first; p < last; p++) {
    const mr3d_tensor *x = a->find(a->user, n_step, layer, mr3d_points_about[p].name), *y = b->find(b->user, n_step, layer, mr3d_points_about[p].name);
    if (!x || !y) continue;
    pairs[n].a = x, pairs[n].b = y;
    pairs[n].record = *mr3d_drift_add(d, layer, p);
    d->n_records--; /* put back when it is measured */
    n++;
  }
#pragma omp parallel for schedule(dynamic) num_threads(d->options.threads > 0 ? d->options.threads : omp_get_max_threads())
  for (int i = 0; i < n; i++) {
    pair *p = &pairs[i];
    char found[96], wanted[96];
    if (!same_shape(p->a, p->b)) {
      p->record.judged = true;
      mr3d_verdict_add(&p->record.verdict, "shape", 1, 0, true, "%s %s here, %s %s there", mr3d_dtype_name(p->a->dtype), mr3d_shape_text(p->a->rank, p->a->shape, found), mr3d_dtype_name(p->b->dtype),
                       mr3d_shape_text(p->b->rank, p->b->shape, wanted));
      p->record.local_ratio = 1e6;
    } else if (mr3d_dtype_is_float(p->a->dtype) && p->a->rank >= 2) differ(d, step, p);
    else differ_exactly(p);
  }
  for (int i = 0; i < n; i++) *mr3d_drift_add(d, layer, pairs[i].record.point) = pairs[i].record;
  free(pairs);
}

/** B, q, the classes of tokens, ids and coordinates, as far as the subject's trace has them. */
static void add_step(mr3d_drift_run *d, const mr3d_drift_source *source, int64_t n_step) {
  const mr3d_tensor *mask = source->find(source->user, n_step, MR3D_DRIFT_MODEL, "point_token_mask"), *ids = source->find(source->user, n_step, MR3D_DRIFT_MODEL, "input_ids");
  const mr3d_tensor *sized = source->find(source->user, n_step, MR3D_DRIFT_MODEL, "inputs_embeds");
  if (!sized) sized = ids && (!mask || ids->shape[1] == mask->shape[1]) ? ids : mask;
  for (int64_t n = 0; !sized && n < d->config.num_hidden_layers; n++)
    for (int p = 0; p < MR3D_N_LAYER_POINTS && !sized; p++)
      if (mr3d_points_about[p].form == MR3D_FORM_ROWS) sized = source->find(source->user, n_step, n, mr3d_points_about[p].name);
  mr3d_drift_step *grown = mr3d_allocate(d->n_steps + 1, sizeof *grown), *step = &grown[d->n_steps];
  mr3d_drift_kept_call *calls = mr3d_allocate(d->n_steps + 1, sizeof *calls);
  if (d->n_steps) {
    memcpy(grown, d->steps, (size_t)d->n_steps * sizeof *grown);
    memcpy(calls, d->calls, (size_t)d->n_steps * sizeof *calls);
  }
  free(d->steps);
  free(d->calls);
  d->steps = grown;
  d->calls = calls;
  d->n_steps++;
  *step = (mr3d_drift_step){.B = 1, .L = d->L, .greedy = -1, .truth_greedy = -1};
  if (sized && sized->rank >= 2) step->B = sized->shape[0], step->q = sized->shape[1];
  const int64_t tokens = step->B * step->q;
  step->decode = n_step > 0 && !mask && step->q == 1;
  step->token_class = mr3d_allocate(tokens, 1);
  step->ids = mr3d_allocate(tokens, sizeof *step->ids);
  const bool marked = mask && mask->dtype == MR3D_BOOL && mr3d_tensor_count(mask) == tokens, told = ids && ids->dtype == MR3D_I64 && mr3d_tensor_count(ids) == tokens;
  for (int64_t i = 0; i < tokens; i++) {
    const bool point = marked && ((const bool *)mask->data)[i];
    d->points_seen |= point;
    step->token_class[i] = (unsigned char)(step->decode ? MR3D_GENERATED : point ? MR3D_POINT_TOKEN : d->points_seen ? MR3D_TEXT_AFTER : MR3D_TEXT_BEFORE);
    step->ids[i] = told && !point ? ((const int64_t *)ids->data)[i] : -1;
  }
  d->L += step->q;
}

void mr3d_drift_compare(mr3d_drift_run *d, const mr3d_drift_source *a, const mr3d_drift_source *b, int64_t steps) {
  for (int64_t step = 0; step < steps; step++) {
    add_step(d, a, step);
    add_pairs(d, a, b, step, MR3D_DRIFT_MODEL, MR3D_P_EMBEDS, MR3D_P_FINAL_NORM);
    for (int64_t n = 0; n < d->config.num_hidden_layers; n++) add_pairs(d, a, b, step, n, 0, MR3D_N_LAYER_POINTS);
    add_pairs(d, a, b, step, MR3D_DRIFT_MODEL, MR3D_P_FINAL_NORM, MR3D_N_POINTS);
  }
}

/** Difference of a point in units; 1e6 where it is out of bounds exactly, 0 where it was not compared. */
static double units_of(const mr3d_drift_record *r) { return !r ? 0 : !r->verdict.passed ? 1e6 : r->total.measured ? r->total.rms : 0; }

/** Of the same step, among the records before number i: at most two layers' are in between. */
static const mr3d_drift_record *before(const mr3d_drift_run *d, int i, int64_t layer, int point) {
  const int64_t step = d->records[i].step;
  for (int k = i - 1; k >= 0 && k >= i - 2 * MR3D_N_LAYER_POINTS && d->records[k].step == step; k--)
    if (d->records[k].layer == layer && d->records[k].point == point) return &d->records[k];
  return NULL;
}

/** Of the points that it is computed from, the largest. */
static double units_before(const mr3d_drift_run *d, int i) {
  const mr3d_drift_record *r = &d->records[i];
  double most = 0;
  for (const int *in = mr3d_points_about[r->point].inputs; *in >= 0; in++) most = fmax(most, units_of(before(d, i, r->layer, *in)));
  if (r->point == MR3D_P_INPUT && r->layer > 0) most = units_of(before(d, i, r->layer - 1, MR3D_P_OUTPUT));
  if (r->point == MR3D_P_CONTEXT) most = fmax(most, units_of(before(d, i, r->layer, MR3D_P_VISIBLE)));
  if (r->point == MR3D_P_FINAL_NORM) most = units_of(before(d, i, d->config.num_hidden_layers - 1, MR3D_P_OUTPUT));
  return most;
}

int mr3d_drift_suspicious_layers(const mr3d_drift_run *d, int64_t layers[], int most) {
  int n = 0;
  bool far = false;
  for (int i = 0; i < d->n_records; i++) {
    const mr3d_drift_record *r = &d->records[i];
    const double own = units_of(r), inherited = units_before(d, i);
    const bool suspicious = own > FAR / 2 && ((own > FAR && !far) || own > LEAP * inherited);
    far |= own > FAR;
    if (!suspicious) continue;
    bool known = false;
    for (int k = 0; k < n; k++) known |= layers[k] == r->layer;
    if (!known && n < most) layers[n++] = r->layer;
  }
  return n;
}

void mr3d_drift_adopt(mr3d_drift_run *d, mr3d_drift_run *local) {
  for (int i = 0; i < local->n_records; i++) {
    mr3d_drift_record *from = &local->records[i], *to = (mr3d_drift_record *)(uintptr_t)mr3d_drift_find(d, from->step, from->layer, from->point);
    if (!to) {
      to = mr3d_drift_add(d, from->layer, from->point);
      to->step = from->step;
    }
    const mr3d_drift_errors total = to->total;
    const double size = to->size;
    *to = *from;
    to->total = total;
    to->size = total.measured ? size : from->size;
    from->local = (mr3d_drift_errors){0}; /* handed over */
  }
}

void mr3d_drift_keep_other(mr3d_drift_run *d, mr3d_drift_run **replayed) {
  mr3d_drift_free(&d->other);
  d->other = *replayed;
  *replayed = NULL;
}

const mr3d_drift_run *mr3d_drift_other(const mr3d_drift_run *d) { return d->other; }
