/**
 * Which known mistake explains a fault behind the last layer: in the final norm or the head alone, or in what a request says of them (which rows are kept, which head is used).
 * And what embeddings look like that are not the rows of their ids.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

#define NORM_ELEMENTS ((int64_t)1 << 20) /* of final_norm on which mistakes are compared; of more, some rows */
#define COLUMNS 512                      /* of logits: where there are more, as many spread evenly */
#define EXPLAINED_UNITS 4.0              /* as for layers (suspects.c): root mean square distance, in units of noise */
#define EXPLAINED_PART 0.05              /* of the squared distance from the reference's that may remain */

/** Rows of x [rows,n] that are compared: all, or some spread evenly. */
static int64_t *choose(int64_t of, int64_t most, int64_t *n) {
  *n = of < most ? of : most;
  int64_t *chosen = mr3d_allocate(*n, sizeof *chosen);
  for (int64_t i = 0; i < *n; i++) chosen[i] = *n == of ? i : *n == 1 ? of - 1 : i * (of - 1) / (*n - 1);
  return chosen;
}

static double *rows_of(int64_t n, const int64_t *chosen, int64_t cols, const double *x) {
  double *some = mr3d_allocate(n * cols, sizeof *some);
  for (int64_t i = 0; i < n; i++) memcpy(some + i * cols, x + chosen[i] * cols, (size_t)cols * sizeof *some);
  return some;
}

/** Rows of the head [columns,hidden] in binary64. */
static double *columns_of(const mr3d_drift_end *e, const mr3d_tensor *head, int64_t n, const int64_t *chosen, mr3d_error *error) {
  const int64_t hidden = e->drift->config.hidden_size;
  double *weight = mr3d_allocate(n * hidden, sizeof *weight), *buffer = mr3d_allocate(hidden, sizeof *buffer);
  for (int64_t i = 0; i < n; i++) {
    const double *row;
    if (mr3d_weights_rows(e->drift->weights, head, chosen[i], 1, buffer, &row, error)) break;
    memcpy(weight + i * hidden, row, (size_t)hidden * sizeof *weight);
  }
  free(buffer);
  return weight;
}

static mr3d_bundle *new_request(const mr3d_drift_end *e, const char *op) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", mr3d_tier_name(e->drift->options.tier));
  mr3d_bundle_set(request, "config", e->drift->options.config);
  return request;
}

static void add(mr3d_bundle *to, const char *name, mr3d_dtype dtype, int rank, const int64_t *shape, const double *values) {
  mr3d_tensor_from_double(mr3d_bundle_add(to, name, dtype, rank, shape), values);
}

/* ---- the operator alone ---- */

static bool try_norm(const mr3d_drift_end *e, mr3d_drift_record *record) {
  const int64_t hidden = e->drift->config.hidden_size;
  const mr3d_dtype type = mr3d_tier_storage(e->drift->options.tier);
  int64_t n, *chosen = choose(e->rows, NORM_ELEMENTS / hidden + 1, &n);
  mr3d_bundle *request = new_request(e, "rmsnorm"), *answer = mr3d_bundle_new();
  double *x = rows_of(n, chosen, hidden, e->output), *y = rows_of(n, chosen, hidden, e->normed);
  add(request, "x", type, 2, (int64_t[]){n, hidden}, x);
  add(request, "weight", type, 1, &hidden, e->norm_weight);
  add(answer, "y", MR3D_F64, 2, (int64_t[]){n, hidden}, y);
  free(x), free(y), free(chosen);
  return mr3d_drift_try_operator(e->drift, request, answer, record);
}

static bool try_head(const mr3d_drift_end *e, mr3d_drift_record *record) {
  const int64_t hidden = e->drift->config.hidden_size, V = e->drift->config.vocab_size;
  const mr3d_dtype type = mr3d_tier_storage(e->drift->options.tier);
  mr3d_error error = {0};
  int64_t n, *chosen = choose(V, COLUMNS, &n);
  mr3d_bundle *request = new_request(e, "linear"), *answer = mr3d_bundle_new();
  double *x = rows_of(e->n_kept, e->kept, hidden, e->normed), *weight = columns_of(e, e->drift->ends.head, n, chosen, &error), *y = mr3d_allocate(e->n_kept * n, sizeof *y);
  for (int64_t r = 0; r < e->n_kept; r++)
    for (int64_t i = 0; i < n; i++) y[r * n + i] = e->logits[r * V + chosen[i]];
  add(request, "x", type, 2, (int64_t[]){e->n_kept, hidden}, x);
  add(request, "weight", type, 2, (int64_t[]){n, hidden}, weight);
  add(answer, "y", MR3D_F64, 2, (int64_t[]){e->n_kept, n}, y);
  free(x), free(y), free(weight), free(chosen);
  return mr3d_drift_try_operator(e->drift, request, answer, record);
}

/* ---- mistakes of a whole call ---- */

/** Root mean square distance in units of noise, over rows that differ from the reference's; infinity where the mistake does not explain the subject. */
static double apart(const mr3d_units *units, int64_t rows, int64_t cols, const double *got, const double *mistake, const double *reference) {
  double off = 0, own = 0;
  int64_t n = 0;
  for (int64_t r = 0; r < rows; r++) {
    double size = 0;
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) size += reference[i] * reference[i];
    const double noise = 16 * units->u * sqrt(size / (double)cols) + units->eta;
    bool touched = false;
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) touched = touched || fabs(got[i] - reference[i]) > noise || fabs(mistake[i] - reference[i]) > noise;
    for (int64_t i = r * cols; i < (r + 1) * cols && touched; i++, n++) {
      off += pow(fmin(fabs(got[i] - mistake[i]) / noise, 1000), 2);
      own += pow(fmin(fabs(got[i] - reference[i]) / noise, 1000), 2);
    }
  }
  const double distance = n ? sqrt(off / (double)n) : INFINITY;
  return distance <= EXPLAINED_UNITS && off <= EXPLAINED_PART * own ? distance : INFINITY;
}

/** Mistakes that remember: what they do depends on the calls before. */
static bool remembers(const mr3d_mutant *m) { return strcmp(m->slug, "order-sensitivity") == 0; }

static bool is_of_the_call(const mr3d_mutant *m) { return mr3d_mutant_touches(m, "prefill") && !mr3d_mutant_touches(m, "decoder_layer") && !m->hangs; }

static void norm(const mr3d_drift_end *e, const mr3d_mutant *mutant, int64_t rows, int64_t n, const double *weight, const double *x, double *y) {
  const mr3d_context context = {.op = &mutant->operators, .threads = 1, .layer = MR3D_DRIFT_MODEL};
  mutant->operators.rmsnorm(&context, &(mr3d_rmsnorm_in){.rows = rows, .n = n, .eps = e->drift->config.rms_norm_eps, .x = x, .weight = weight}, y);
}

/** The final norms of the calls before, as far as the trace has what they are given. */
static void norm_earlier(const mr3d_drift_end *e, const mr3d_mutant *mutant) {
  const int64_t hidden = e->drift->config.hidden_size;
  for (int64_t step = 0; step < e->step; step++) {
    const mr3d_tensor *x = e->source->find(e->source->user, step, e->drift->config.num_hidden_layers - 1, "output");
    if (!x || !mr3d_dtype_is_float(x->dtype) || mr3d_tensor_count(x) % hidden) continue;
    double *wide = mr3d_allocate(2 * mr3d_tensor_count(x), sizeof *wide);
    mr3d_tensor_to_double(x, wide);
    norm(e, mutant, mr3d_tensor_count(x) / hidden, hidden, e->norm_weight, wide, wide + mr3d_tensor_count(x));
    free(wide);
  }
}

/** The norm of all rows with a mistake that remembers, or that knows it is the last of the call's: those of the layers are counted first. */
static double *norm_with(const mr3d_drift_end *e, const mr3d_mutant *mutant) {
  const mr3d_config *c = &e->drift->config;
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant, NULL, &(mr3d_server_options){.threads = 1});
  double *y = mr3d_allocate(e->rows * c->hidden_size, sizeof *y), one = 1, nowhere;
  mr3d_mutant_server_lend_memory(server, e->decode ? "decode" : "prefill", e->drift->options.config);
  if (remembers(mutant)) norm_earlier(e, mutant);
  else
    for (int64_t n = 0; n < 2 * c->num_hidden_layers; n++) norm(e, mutant, 1, 1, &one, &one, &nowhere);
  norm(e, mutant, e->rows, c->hidden_size, e->norm_weight, e->output, y);
  mr3d_mutant_server_lend_memory(NULL, NULL, NULL);
  mr3d_mutant_server_free(&server);
  return y;
}

/** Logits [1,rows,n] of some columns, of the first sample's rows that a request keeps. */
static mr3d_bundle *logits_of(const mr3d_drift_end *e, const mr3d_bundle *request, int64_t n, const int64_t *chosen) {
  const int64_t hidden = e->drift->config.hidden_size;
  const char *kept = mr3d_bundle_get(request, "logits_to_keep");
  int64_t keep = kept ? atoll(kept) : 0;
  mr3d_config config;
  mr3d_decoder_ends ends;
  mr3d_error error = {0};
  if (keep < 0 || mr3d_config_parse(mr3d_bundle_get(request, "config"), &config, &error) || mr3d_weights_ends(e->drift->weights, &config, &e->drift->sizes, &ends, &error)) return NULL;
  if (keep == 0 || keep > e->q) keep = e->q;
  double *weight = columns_of(e, ends.head, n, chosen, &error);
  mr3d_bundle *answer = mr3d_bundle_new();
  const mr3d_linear_in in = {.rows = keep, .in = hidden, .out = n, .x = e->normed + (e->q - keep) * hidden, .weight = weight};
  mr3d_linear(&(mr3d_context){.op = &mr3d_reference_operators, .threads = 1}, &in, mr3d_bundle_add(answer, "logits", MR3D_F64, 3, (int64_t[]){1, keep, n})->data);
  free(weight);
  return answer;
}

/** The head's rows with a mistake in what is asked or in what is answered. NULL: it changes nothing here. */
static mr3d_bundle *logits_with(const mr3d_drift_end *e, const mr3d_mutant *mutant, const mr3d_bundle *request, int64_t n, const int64_t *chosen) {
  mr3d_bundle *changed = mutant->decorate ? mutant->decorate(request) : NULL;
  mr3d_bundle *answer = mutant->distort || changed ? logits_of(e, changed ? changed : request, n, chosen) : NULL;
  mr3d_bundle *distorted = answer && mutant->distort ? mutant->distort(request, answer) : NULL;
  if (distorted) mr3d_bundle_free(&answer);
  if (mutant->distort && !distorted) mr3d_bundle_free(&answer);
  mr3d_bundle_free(&changed);
  return distorted ? distorted : answer;
}

static void try_norms(const mr3d_drift_end *e, mr3d_drift_record *record) {
  const int64_t hidden = e->drift->config.hidden_size;
  mr3d_drift_candidate found[MR3D_MAX_SUSPECTS];
  int n = 0;
  for (int m = 0; m < mr3d_mutant_count() && n < MR3D_MAX_SUSPECTS; m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    if (!(is_of_the_call(mutant) || remembers(mutant)) || mutant->operators.rmsnorm == mr3d_reference_operators.rmsnorm || !mr3d_mutant_is_mistake_at(mutant, e->drift->options.tier)) continue;
    double *y = norm_with(e, mutant);
    found[n] = (mr3d_drift_candidate){.mutant = m, .apart = apart(&e->drift->units, e->rows, hidden, e->normed, y, e->normed_by_reference)};
    n += isfinite(found[n].apart);
    free(y);
  }
  if (n > 0) mr3d_drift_name_nearest(found, n, record);
}

static void try_heads(const mr3d_drift_end *e, mr3d_drift_record *record) {
  const int64_t V = e->drift->config.vocab_size, first = e->q - e->keep;
  int64_t n_columns, *chosen = choose(V, COLUMNS, &n_columns);
  mr3d_drift_candidate found[MR3D_MAX_SUSPECTS];
  int n = 0;
  mr3d_bundle *request = new_request(e, e->decode ? "decode" : "prefill");
  mr3d_bundle_add(request, "inputs_embeds", MR3D_F64, 3, (int64_t[]){1, e->q, 1});
  mr3d_bundle_setf(request, "logits_to_keep", "%lld", (long long)(e->keep == e->q ? 0 : e->keep));
  mr3d_bundle *reference = logits_of(e, request, n_columns, chosen);
  double *got = mr3d_allocate(e->n_kept * n_columns, sizeof *got), *plain = mr3d_allocate(e->n_kept * n_columns, sizeof *plain), *wrong = mr3d_allocate(e->n_kept * n_columns, sizeof *wrong);
  for (int64_t i = 0; i < e->n_kept * n_columns; i++) {
    got[i] = e->logits[i / n_columns * V + chosen[i % n_columns]];
    plain[i] = ((const double *)mr3d_bundle_find(reference, "logits")->data)[(e->kept[i / n_columns] - first) * n_columns + i % n_columns];
  }
  for (int m = 0; m < mr3d_mutant_count() && n < MR3D_MAX_SUSPECTS; m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    if (!is_of_the_call(mutant) || !mr3d_mutant_is_mistake_at(mutant, e->drift->options.tier)) continue;
    mr3d_bundle *answer = logits_with(e, mutant, request, n_columns, chosen);
    const mr3d_tensor *logits = answer ? mr3d_bundle_find(answer, "logits") : NULL;
    if (logits && logits->shape[1] == e->keep) {
      for (int64_t i = 0; i < e->n_kept * n_columns; i++) wrong[i] = ((const double *)logits->data)[(e->kept[i / n_columns] - first) * n_columns + i % n_columns];
      found[n] = (mr3d_drift_candidate){.mutant = m, .apart = apart(&e->drift->units, e->n_kept, n_columns, got, wrong, plain)};
      n += isfinite(found[n].apart);
    }
    mr3d_bundle_free(&answer);
  }
  if (n > 0) mr3d_drift_name_nearest(found, n, record);
  mr3d_bundle_free(&reference);
  mr3d_bundle_free(&request);
  free(got), free(plain), free(wrong), free(chosen);
}

void mr3d_drift_diagnose_end(const mr3d_drift_end *e, mr3d_drift_record *record) {
  if (record->composite) return; /* norm and head at once: which of them is not known */
  if (record->point == MR3D_P_FINAL_NORM && !try_norm(e, record)) try_norms(e, record);
  if (record->point == MR3D_P_LOGITS && !try_head(e, record)) try_heads(e, record);
}

/* ---- before the first layer ---- */

#define SAME_ROW 4e-3 /* of a row's size: embeddings of a trained model lie further apart, and roundings of every tier are less */

static bool is_row(int64_t n, const double *row, const double *of, double factor) {
  double off = 0, size = 0;
  for (int64_t i = 0; i < n; i++) off += (row[i] - factor * of[i]) * (row[i] - factor * of[i]), size += row[i] * row[i] + factor * factor * of[i] * of[i];
  return off <= SAME_ROW * SAME_ROW * size;
}

/** The id whose row it is, -1 where it is none's. */
static int64_t id_of(mr3d_drift_run *d, const double *row) {
  const int64_t V = d->config.vocab_size, n = d->config.hidden_size;
  double *buffer = mr3d_allocate(n, sizeof *buffer);
  int64_t found = -1;
  mr3d_error error = {0};
  for (int64_t id = 0; id < V && found < 0; id++) {
    const double *other;
    if (mr3d_weights_rows(d->weights, d->ends.embed_tokens, id, 1, buffer, &other, &error)) break;
    if (is_row(n, row, other, 1)) found = id;
  }
  free(buffer);
  return found;
}

void mr3d_drift_look_at_embeds(mr3d_drift_run *d, int64_t rows, const double *got, const double *expected, const int64_t *ids, mr3d_drift_record *record) {
  const int64_t n = d->config.hidden_size;
  int64_t first = -1, different = 0, scaled = 0;
  double factor = NAN;
  for (int64_t r = 0; r < rows; r++) {
    const double *x = got + r * n, *y = expected + r * n;
    if (is_row(n, x, y, 1)) continue;
    double xy = 0, yy = 0;
    for (int64_t i = 0; i < n; i++) xy += x[i] * y[i], yy += y[i] * y[i];
    if (!different++) first = r, factor = xy / yy;
    scaled += is_row(n, x, y, factor);
  }
  if (!different) return;
  const char *these = different == 1 ? "row is" : "rows are";
  if (scaled == different && factor == 0) snprintf(record->diagnosis, sizeof record->diagnosis, "%lld %s zero", (long long)different, these);
  else if (scaled == different)
    snprintf(record->diagnosis, sizeof record->diagnosis, "%lld %s the embedding's times %.6g%s", (long long)different, these, factor,
             fabs(factor / sqrt((double)n) - 1) < SAME_ROW ? ", the square root of hidden_size: other models scale their embeddings so, Qwen2 does not" : "");
  else {
    const int64_t id = id_of(d, got + first * n);
    if (id >= 0 && ids && ids[first] >= 0) snprintf(record->diagnosis, sizeof record->diagnosis, "token %lld has the row of id %lld instead of its own, %lld", (long long)first, (long long)id, (long long)ids[first]);
    else snprintf(record->diagnosis, sizeof record->diagnosis, "%lld %s not in the embedding, the first that of token %lld", (long long)different, these, (long long)first);
  }
}
