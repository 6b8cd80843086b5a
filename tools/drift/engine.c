/**
 * Takes a subject's trace call by call. Up to three kinds of run walk the layers side by side, so that nothing larger than a layer's points is held: the reference
 * from the embeddings, emulated runs from them (total errors), and the chain of the subject's own values (local errors).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "mr3d/trace.h"

#define HEAD_ROWS 2048           /* of the head at a time */
#define MOST_LOGITS ((int64_t)1 << 22) /* elements of logits judged: of more rows, some */
#define LOGITS_ROWS 8
#define COMPOSITE_LOGITS_ROWS 2
#define MOST_ROUNDINGS 64.0      /* of a point's size, root mean square, that its inputs' roundings can make */

const char *mr3d_token_class_name(mr3d_token_class class) {
  static const char *const names[] = {"text before", "points", "text after", "generated"};
  return names[class];
}

/* ---- life ---- */

static void free_caches(mr3d_drift_cache **caches, int64_t layers) {
  for (int64_t n = 0; *caches && n < layers; n++) {
    free((*caches)[n].key);
    free((*caches)[n].value);
  }
  free(*caches);
  *caches = NULL;
}

static void open_lane(mr3d_drift_run *d, mr3d_drift_lane *lane, int run) {
  lane->context = (mr3d_context){.op = &mr3d_reference_operators, .threads = d->options.threads, .layer = 0};
  if (run < 0) return;
  lane->arithmetic = mr3d_arithmetic_of(d->options.tier, MR3D_STOCHASTIC, run % 2 == 1, (uint64_t)run + 1);
  if (lane->arithmetic.units.narrow) lane->arithmetic.points &= ~d->options.kept;
  lane->context.arithmetic = &lane->arithmetic;
  lane->context.calls = &lane->calls;
}

mr3d_status mr3d_drift_new(const mr3d_drift_options *options, mr3d_drift_run **out, mr3d_error *error) {
  mr3d_drift_run *d = mr3d_allocate(1, sizeof *d);
  static const char *const needed[] = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps", NULL};
  d->options = *options;
  if (d->options.runs > MR3D_DRIFT_MOST_RUNS) d->options.runs = MR3D_DRIFT_MOST_RUNS;
  d->units = mr3d_tier_units(options->tier);
  d->units.kept = options->kept;
  if (options->only_layers) d->options.runs = 0;
  mr3d_status status = mr3d_config_parse(options->config, &d->config, error);
  if (status) mr3d_fail_in(error, "configuration");
  if (!options->weights) {
    if (status) mr3d_drift_free(&d);
    else *out = d;
    return status;
  }
  for (const char *const *key = needed; *key && !status; key++) status = mr3d_config_need(&d->config, *key, error);
  if (!status) {
    if (!options->open) d->cache = mr3d_weights_cache_new();
    status = mr3d_weights_open(options->open ? options->open : d->cache, &(mr3d_weights_source){.path = options->weights, .config = &d->config, .tier = options->tier, .init_missing = options->init_missing}, &d->weights, error);
  }
  if (!status) {
    mr3d_sizes_bind_config(&d->sizes, &d->config);
    status = mr3d_sizes_bind_split(&d->sizes, &d->config, error);
  }
  if (!status) status = mr3d_weights_ends(d->weights, &d->config, &d->sizes, &d->ends, error);
  if (!status) status = mr3d_weights_check(d->weights, &d->config, &d->sizes, false, error);
  if (status) {
    mr3d_drift_free(&d);
    return status;
  }
  d->config.hidden_size = mr3d_sizes_get(&d->sizes, "hidden");
  d->config.vocab_size = mr3d_sizes_get(&d->sizes, "V");
  d->config.intermediate_size = mr3d_sizes_get(&d->sizes, "I");
  open_lane(d, &d->truth, -1);
  open_lane(d, &d->chain, -1);
  for (int r = 0; r < d->options.runs; r++) open_lane(d, &d->runs[r], r);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) open_lane(d, &d->chains[r], r);
  *out = d;
  return MR3D_OK;
}

static void close_lane(mr3d_drift_lane *lane, int64_t layers) {
  free(lane->hidden);
  free_caches(&lane->caches, layers);
}

static void free_errors(mr3d_drift_errors *e) {
  free(e->token);
  free(e->token_worst);
  free(e->head_dim);
}

void mr3d_drift_free(mr3d_drift_run **pointer) {
  mr3d_drift_run *d = *pointer;
  if (!d) return;
  const int64_t layers = d->config.num_hidden_layers;
  close_lane(&d->truth, layers);
  close_lane(&d->chain, layers);
  for (int r = 0; r < MR3D_DRIFT_MOST_RUNS; r++) close_lane(&d->runs[r], layers);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) close_lane(&d->chains[r], layers);
  for (int i = 0; i < d->n_records; i++) {
    free_errors(&d->records[i].local);
    free_errors(&d->records[i].total);
  }
  for (int i = 0; i < d->n_steps; i++) {
    free(d->steps[i].token_class);
    free(d->steps[i].ids);
    free(d->steps[i].coords);
    free(d->calls[i].key_mask);
    free(d->calls[i].prefill_mask);
    free(d->calls[i].position_ids);
    free(d->calls[i].counts);
    free(d->calls[i].point_mask);
    free(d->calls[i].coords);
  }
  free(d->calls);
  free(d->prefill_mask);
  free(d->records);
  free(d->steps);
  mr3d_drift_free(&d->other);
  mr3d_weights_release(&d->weights);
  mr3d_weights_cache_free(&d->cache);
  free(d);
  *pointer = NULL;
}

mr3d_weights *mr3d_drift_weights(const mr3d_drift_run *d) { return d->weights; }
bool mr3d_drift_is_comparison(const mr3d_drift_run *d) { return !d->weights; }
const mr3d_config *mr3d_drift_config(const mr3d_drift_run *d) { return &d->config; }
mr3d_tier mr3d_drift_tier(const mr3d_drift_run *d) { return d->options.tier; }
int64_t mr3d_drift_cached(const mr3d_drift_run *d) { return d->L; }
int mr3d_drift_records(const mr3d_drift_run *d) { return d->n_records; }
const mr3d_drift_record *mr3d_drift_record_at(const mr3d_drift_run *d, int index) { return &d->records[index]; }
int mr3d_drift_steps(const mr3d_drift_run *d) { return d->n_steps; }
const mr3d_drift_step *mr3d_drift_step_at(const mr3d_drift_run *d, int index) { return &d->steps[index]; }

const mr3d_drift_record *mr3d_drift_find(const mr3d_drift_run *d, int64_t step, int64_t layer, int point) {
  for (int i = 0; i < d->n_records; i++)
    if (d->records[i].step == step && d->records[i].layer == layer && d->records[i].point == point) return &d->records[i];
  return NULL;
}

mr3d_drift_record *mr3d_drift_add(mr3d_drift_run *d, int64_t layer, int point) {
  if (d->n_records == d->room) {
    const int room = d->room ? 2 * d->room : 64;
    mr3d_drift_record *grown = mr3d_allocate(room, sizeof *grown);
    if (d->n_records) memcpy(grown, d->records, (size_t)d->n_records * sizeof *grown);
    free(d->records);
    d->records = grown;
    d->room = room;
  }
  mr3d_drift_record *record = &d->records[d->n_records++];
  *record = (mr3d_drift_record){.step = d->n_steps - 1, .layer = layer, .point = point, .from = point, .first_token = -1, .verdict = {.passed = true}, .emulated = NAN};
  snprintf(record->verdict.name, sizeof record->verdict.name, "%s", mr3d_points_about[point].name);
  return record;
}

mr3d_status mr3d_drift_embed(mr3d_drift_run *d, int64_t count, const int64_t *ids, double *embeds, mr3d_error *error) {
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= d->config.vocab_size)
      return mr3d_fail(error, MR3D_INVALID, "token id %lld is outside the vocabulary of %lld rows", (long long)ids[i], (long long)d->config.vocab_size);
  const mr3d_decoder decoder = {.config = &d->config, .weights = d->weights, .ends = d->ends, .sizes = &d->sizes};
  return mr3d_decoder_embed(&decoder, count, ids, embeds, error);
}

mr3d_status mr3d_drift_write_weights(mr3d_drift_run *d, const char *path, mr3d_error *error) {
  const mr3d_bundle *tensors = mr3d_weights_tensors(d->weights);
  mr3d_safetensors_writer *writer = NULL;
  mr3d_status status = mr3d_safetensors_writer_open(path, &writer, error);
  for (int i = 0; i < mr3d_bundle_count(tensors) && !status; i++) {
    mr3d_tensor tensor = *mr3d_bundle_at(tensors, i), flat = tensor;
    const int64_t count = mr3d_tensor_count(&tensor), rows = tensor.rank > 1 ? tensor.shape[0] : 1, cols = rows ? count / rows : 0;
    const size_t size = mr3d_dtype_size(tensor.dtype);
    double *buffer = mr3d_allocate(HEAD_ROWS * cols, sizeof *buffer);
    tensor.data = mr3d_allocate(count, size);
    flat.rank = 2;
    flat.shape[0] = rows;
    flat.shape[1] = cols;
    for (int64_t first = 0; first < rows && !status; first += HEAD_ROWS) {
      const double *values;
      mr3d_tensor part = {.name = tensor.name, .dtype = tensor.dtype, .rank = 2, .shape = {rows - first < HEAD_ROWS ? rows - first : HEAD_ROWS, cols}, .data = (char *)tensor.data + (size_t)(first * cols) * size};
      status = mr3d_weights_rows(d->weights, &flat, first, part.shape[0], buffer, &values, error);
      if (!status) mr3d_tensor_from_double(&part, values);
    }
    if (!status) mr3d_safetensors_writer_add(writer, NULL, &tensor);
    free(buffer);
    free(tensor.data);
  }
  const mr3d_status written = mr3d_safetensors_writer_close(&writer, !status, error);
  return status ? status : written;
}

/* ---- one call under way ---- */

typedef struct taking {
  mr3d_drift_run *d;
  const mr3d_drift_call *call;
  const mr3d_drift_source *source;
  mr3d_drift_step *step;
  int64_t n_step, layer;
  mr3d_block_in in;               /* of the current layer */
  bool *skip, *visible;
  double *truth[MR3D_N_LAYER_POINTS];     /* of the current layer */
  float *row_noise[MR3D_N_LAYER_POINTS];
  mr3d_drift_lane *listening;             /* whose layer is being run; the truth's points are kept, of others the rows' squared errors */
  double *given[MR3D_N_LAYER_POINTS];     /* the subject's, in binary64 */
  bool composite_before;                  /* what the layer before gave is not the subject's own */
  float *row_scale[MR3D_N_LAYER_POINTS];  /* root mean square of each row's error scale, where it was judged by one */
  bool fault;
} taking;

static int64_t elements(const taking *t, int point) {
  int64_t shape[4], count = 1;
  const int rank = mr3d_replay_shape(&t->d->config, &t->in, point, shape);
  for (int i = 0; i < rank; i++) count *= shape[i];
  return count;
}

static int64_t columns(const taking *t, int point) {
  int64_t shape[4];
  const int rank = mr3d_replay_shape(&t->d->config, &t->in, point, shape);
  return shape[rank - 1];
}

/* ---- the reference and the emulated runs ---- */

static int point_of(const char *name) {
  const char *dot = strchr(name, '.');
  return dot ? mr3d_point_named(dot + 1) : -1;
}

static bool wants(void *user, const char *name) {
  const taking *t = user;
  const int p = point_of(name);
  return p >= 0 && p < MR3D_N_LAYER_POINTS && p != MR3D_P_VISIBLE && (t->listening == &t->d->truth || t->row_noise[p]);
}

static void take_point(void *user, const mr3d_tensor *point) {
  taking *t = user;
  const int p = point_of(point->name);
  const int64_t count = mr3d_tensor_count(point), cols = point->shape[point->rank - 1];
  const double *values = point->data;
  if (t->listening == &t->d->truth) {
    t->truth[p] = mr3d_allocate(count, sizeof(double));
    t->row_noise[p] = mr3d_allocate(count / cols, sizeof(float));
    memcpy(t->truth[p], values, (size_t)count * sizeof *values);
    return;
  }
  for (int64_t r = 0; r < count / cols; r++) {
    double squares = 0;
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) squares += (values[i] - t->truth[p][i]) * (values[i] - t->truth[p][i]);
    t->row_noise[p][r] += (float)(squares / (double)cols / t->d->options.runs);
  }
}

static double *copy_of(int64_t count, const double *values) {
  double *copy = mr3d_allocate(count, sizeof *copy);
  memcpy(copy, values, (size_t)count * sizeof *copy);
  return copy;
}

static mr3d_drift_cache *cache_of(const taking *t, mr3d_drift_lane *lane) {
  if (!lane->caches) lane->caches = mr3d_allocate(t->d->config.num_hidden_layers, sizeof *lane->caches);
  return &lane->caches[t->layer];
}

static mr3d_status run_lane_layer(taking *t, mr3d_drift_lane *lane, const mr3d_layer *weights, mr3d_error *error) {
  const mr3d_config *config = &t->d->config;
  mr3d_drift_cache *past = cache_of(t, lane), grown = {.L = t->d->L + t->call->q};
  const int64_t size = t->call->B * config->num_key_value_heads * grown.L * config->head_dim;
  const mr3d_tracer tracer = {t, wants, take_point};
  grown.key = mr3d_allocate(size, sizeof(double));
  grown.value = mr3d_allocate(size, sizeof(double));
  double *y = mr3d_allocate(t->call->B * t->call->q * config->hidden_size, sizeof *y);
  mr3d_block_in in = t->in;
  in.hidden = lane->hidden;
  in.past_key = past->key;
  in.past_value = past->value;
  mr3d_block_out layer_out = {.hidden = y, .key = grown.key, .value = grown.value};
  lane->context.tracer = &tracer;
  lane->context.layer = t->layer;
  t->listening = lane;
  const mr3d_status status = mr3d_decoder_layer(&lane->context, config, weights, &in, &layer_out, error);
  free(past->key);
  free(past->value);
  *past = grown;
  free(lane->hidden);
  lane->hidden = y;
  return status;
}

static mr3d_status run_lanes(taking *t, const mr3d_layer *weights, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  if (!d->options.runs) return MR3D_OK;
  mr3d_status status = run_lane_layer(t, &d->truth, weights, error);
  for (int r = 0; r < d->options.runs && !status; r++) status = run_lane_layer(t, &d->runs[r], weights, error);
  const double coarser = d->options.tier == MR3D_FP64 ? ldexp(1, -2 * MR3D_FP64_COARSER) : 1;
  for (int p = 0; p < MR3D_N_LAYER_POINTS && coarser != 1; p++)
    for (int64_t r = 0; t->row_noise[p] && r < elements(t, p) / columns(t, p); r++) t->row_noise[p][r] *= (float)coarser;
  return status;
}

/* ---- the subject ---- */

static const mr3d_tensor *find(const taking *t, int64_t layer, int point) {
  return t->source->find(t->source->user, t->n_step, layer, mr3d_points_about[point].name);
}

static mr3d_status misfit(const taking *t, int64_t layer, int point, const mr3d_tensor *found, int rank, const int64_t *shape, mr3d_error *error) {
  char is[96], must[96], where[24];
  snprintf(where, sizeof where, layer < 0 ? "model" : "%lld", (long long)layer);
  return mr3d_fail(error, MR3D_INVALID, "%lld.%s.%s is %s %s, but the call and the configuration make it %s", (long long)t->n_step, where, mr3d_points_about[point].name,
                   mr3d_dtype_name(found->dtype), mr3d_shape_text(found->rank, found->shape, is), mr3d_shape_text(rank, shape, must));
}

/** The subject's values of all points of the layer, widened. */
static mr3d_status read_given(taking *t, mr3d_error *error) {
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) {
    const mr3d_tensor *found = find(t, t->layer, p);
    int64_t shape[4];
    const int rank = mr3d_replay_shape(&t->d->config, &t->in, p, shape);
    if (!found) continue;
    const bool type = p == MR3D_P_VISIBLE ? found->dtype == MR3D_BOOL : mr3d_dtype_is_float(found->dtype);
    if (!type || found->rank != rank || memcmp(found->shape, shape, (size_t)rank * sizeof *shape) != 0) return misfit(t, t->layer, p, found, rank, shape, error);
    if (p == MR3D_P_VISIBLE) {
      memcpy(t->visible, found->data, (size_t)elements(t, p));
      t->given[p] = mr3d_allocate(1, sizeof(double)); /* marks it as there */
      continue;
    }
    t->given[p] = mr3d_allocate(elements(t, p), sizeof(double));
    mr3d_tensor_to_double(found, t->given[p]);
  }
  return MR3D_OK;
}

static void append_cache(const taking *t, mr3d_drift_cache *past, const double *key, const double *value) {
  const int64_t D = t->d->config.head_dim, heads = t->call->B * t->d->config.num_key_value_heads, L = past->L, q = t->call->q;
  const double *fresh[2] = {key, value};
  double **kept[2] = {&past->key, &past->value};
  for (int i = 0; i < 2; i++) {
    double *all = mr3d_allocate(heads * (L + q) * D, sizeof *all);
    for (int64_t h = 0; h < heads; h++) {
      if (L) memcpy(all + h * (L + q) * D, *kept[i] + h * L * D, (size_t)(L * D) * sizeof *all);
      memcpy(all + (h * (L + q) + L) * D, fresh[i] + h * q * D, (size_t)(q * D) * sizeof *all);
    }
    free(*kept[i]);
    *kept[i] = all;
  }
  past->L = L + q;
}

/** Whether a point's own inputs are all the subject's. */
static bool is_direct(const taking *t, int point, int *from) {
  *from = point;
  if (point == MR3D_P_INPUT) return !t->composite_before;
  bool direct = true;
  for (const int *in = mr3d_points_about[point].inputs; *in >= 0; in++) {
    int inner = *in;
    if (t->given[*in]) continue;
    direct = false;
    if (is_direct(t, *in, &inner)) inner = *in;
    if (inner < *from) *from = inner;
  }
  return direct;
}

static void note_first_token(mr3d_drift_record *record) {
  if (record->verdict.passed || !record->local.measured) return;
  int64_t worst = 0;
  for (int64_t i = 0; i < record->tokens; i++) {
    if (record->local.token[i] > record->local.token[worst]) worst = i;
    if (record->first_token < 0 && (record->local.token_worst[i] > 4 || record->local.token[i] > 2)) record->first_token = i;
  }
  if (record->first_token < 0) record->first_token = worst; /* a bias below the bounds of every token */
}

static mr3d_drift_sheet sheet_of(const taking *t, int point, const double *got) {
  int64_t shape[4];
  const int rank = mr3d_replay_shape(&t->d->config, &t->in, point, shape);
  return (mr3d_drift_sheet){.B = t->call->B, .q = t->call->q, .heads = rank == 4 ? shape[1] : 1, .cols = shape[rank - 1], .has_heads = rank == 4, .got = got,
                            .truth = t->truth[point], .row_noise = t->row_noise[point], .skip = t->skip, .point = t->call->points.mask, .token_class = t->step->token_class};
}

/** Scale of a composite's elements, for its picture: what the emulated replays of its row stray. */
static void composite_scale(const taking *t, int64_t count, int64_t cols, float *const runs[], const double *expected, double *scale) {
  const double coarser = t->d->options.tier == MR3D_FP64 ? ldexp(1, -MR3D_FP64_COARSER) : 1;
  for (int64_t first = 0; first < count; first += cols) {
    double squares = 0;
    for (int r = 0; r < MR3D_FEW_RUNS; r++)
      for (int64_t i = first; i < first + cols; i++) squares += (double)runs[r][i] * (double)runs[r][i];
    squares *= coarser * coarser / (double)(cols * MR3D_FEW_RUNS);
    for (int64_t i = first; i < first + cols; i++) {
      const double rounding = t->d->units.u * expected[i];
      scale[i] = sqrt(squares + rounding * rounding + t->d->units.eta * t->d->units.eta);
    }
  }
}

/** A chain's replay of one layer: its values by point, NULL where the subject's stand in. */
typedef struct replayed {
  mr3d_replay replay;
  mr3d_block_in in;
  double *own[MR3D_N_LAYER_POINTS];
} replayed;

/** Emulated replays start from what the exact one has, where all of that is the subject's own. */
static void follow_chain(const taking *t, mr3d_drift_lane *lane) {
  mr3d_drift_cache *own = cache_of(t, lane), *chain = cache_of(t, &t->d->chain);
  if (!t->composite_before) {
    free(lane->hidden);
    lane->hidden = copy_of(elements(t, MR3D_P_INPUT), t->d->chain.hidden);
  }
  if (own->L == chain->L) return;
  const int64_t size = t->call->B * t->d->config.num_key_value_heads * chain->L * t->d->config.head_dim;
  free(own->key);
  free(own->value);
  *own = (mr3d_drift_cache){chain->L, copy_of(size, chain->key), copy_of(size, chain->value)};
}

static void open_replay(const taking *t, mr3d_drift_lane *lane, const mr3d_layer *weights, replayed *r) {
  if (lane != &t->d->chain) follow_chain(t, lane);
  const mr3d_drift_cache *past = cache_of(t, lane);
  *r = (replayed){.in = t->in};
  r->in.hidden = lane->hidden;
  r->in.past_key = past->key;
  r->in.past_value = past->value;
  r->replay = (mr3d_replay){.context = &lane->context, .config = &t->d->config, .weights = weights, .call = &r->in, .visible = t->visible};
}

/** After the layer: what the next one is given, and the cache with the new tokens. */
static void close_replay(const taking *t, mr3d_drift_lane *lane, replayed *r) {
  append_cache(t, cache_of(t, lane), r->replay.value[MR3D_P_KEY_ROTATED], r->replay.value[MR3D_P_VALUE]);
  free(lane->hidden);
  lane->hidden = copy_of(elements(t, MR3D_P_OUTPUT), r->replay.value[MR3D_P_OUTPUT]);
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) free(r->own[p]);
}

/** Rows of attention [B,H,q] whose KV head holds a key or value that is not finite: hidden or not, a weight of zero times it is NaN in every stack. */
static bool *rows_beside_nan(const taking *t, const replayed *exact) {
  const int64_t H = t->d->config.num_attention_heads, G = t->d->config.num_key_value_heads, D = t->d->config.head_dim, q = t->call->q, B = t->call->B;
  bool *rows = mr3d_allocate(B * H * q, sizeof *rows);
  for (int64_t b = 0; b < B; b++)
    for (int64_t g = 0; g < G; g++) {
      double sum = 0; /* finite only where all are, of products with 0 */
      for (int which = 0; which < 2; which++) {
        const double *past = which ? exact->in.past_value : exact->in.past_key, *fresh = exact->replay.value[which ? MR3D_P_VALUE : MR3D_P_KEY_ROTATED];
        for (int64_t i = (b * G + g) * t->d->L * D; past && i < (b * G + g + 1) * t->d->L * D; i++) sum += 0 * past[i];
        for (int64_t i = (b * G + g) * q * D; i < (b * G + g + 1) * q * D; i++) sum += 0 * fresh[i];
      }
      for (int64_t r = (b * H + g * (H / G)) * q; r < (b * H + (g + 1) * (H / G)) * q; r++) rows[r] = !isfinite(sum);
    }
  return rows;
}

/* ---- inputs that a trace holds rounded ---- */

/** Other values that are stored as x, of emulated run r. */
static double *stored_alike(const taking *t, int r, int point, int64_t n, const double *x) {
  char name[64];
  snprintf(name, sizeof name, "drift/stored/%d/%d", r, point);
  const mr3d_stream stream = mr3d_stream_named((uint64_t)t->n_step, name);
  double *other = mr3d_allocate(n, sizeof *other);
  for (int64_t i = 0; i < n; i++) {
    const double part = ldexp((double)(mr3d_random_raw(stream, (uint64_t)(t->layer * n + i)) >> 11), -53); /* 0 .. 1 */
    other[i] = x[i] + (2 * part - 1) * (t->d->units.u * fabs(x[i]) + t->d->units.eta);
  }
  return other;
}

/** Replays a point in emulated run r, from other inputs that are stored alike. */
typedef mr3d_status again(taking *, int r, const void *what, double *y, mr3d_error *);

typedef struct point_replay {
  const replayed *exact;
  int point;
} point_replay;

static mr3d_status point_again(taking *t, int r, const void *what, double *y, mr3d_error *error) {
  const point_replay *w = what;
  mr3d_replay other = w->exact->replay;
  double *inputs[MR3D_N_LAYER_POINTS] = {NULL};
  other.context = &t->d->chains[r].context;
  for (const int *in = mr3d_points_about[w->point].inputs; *in >= 0; in++) other.value[*in] = inputs[*in] = stored_alike(t, r, *in, elements(t, *in), w->exact->replay.value[*in]);
  const mr3d_status status = mr3d_replay_point(&other, w->point, NULL, y, NULL, NULL, error);
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) free(inputs[p]);
  return status;
}

/**
 * Whether a point that is out of bounds passes where its inputs are known to a rounding only. A stack may go on from more digits than it hands out: one that casts between its
 * operators, and whose compiler drops the casts, has its points in a narrow type and its residual stream in a wider one. Emulated replays from other values that are stored alike
 * say what becomes of that, and the point is judged by them.
 */
static mr3d_status judge_widely(taking *t, again *replay, const void *what, const mr3d_drift_sheet *strict, mr3d_drift_record *record, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  const int64_t count = strict->B * strict->q * strict->heads * strict->cols;
  float *errors[MR3D_FEW_RUNS] = {NULL};
  double *y = mr3d_allocate(count, sizeof *y), *scale = mr3d_allocate(count, sizeof *scale);
  mr3d_status status = MR3D_OK;
  for (int r = 0; r < MR3D_FEW_RUNS && !status; r++) {
    status = replay(t, r, what, y, error);
    errors[r] = mr3d_allocate(count, sizeof *errors[r]);
    for (int64_t i = 0; i < count; i++) errors[r][i] = (float)(y[i] - strict->expected[i]);
  }
  if (!status) {
    mr3d_drift_record wide = {.step = record->step, .layer = record->layer, .point = record->point, .first_token = -1};
    mr3d_drift_sheet sheet = *strict;
    composite_scale(t, count, sheet.cols, errors, sheet.expected, scale);
    sheet.scale = scale;
    sheet.turn = NULL;
    mr3d_drift_judge(d, &sheet, mr3d_points_about[record->point].name, MR3D_FEW_RUNS, errors, &wide);
    if (wide.verdict.passed) {
      record->verdict = wide.verdict;
      record->local_ratio = wide.local_ratio;
      record->rounded_inputs = true;
    }
  }
  for (int r = 0; r < MR3D_FEW_RUNS; r++) free(errors[r]);
  free(y), free(scale);
  return status;
}

/** Sums cancel, so an element may be any number of its own roundings off; the point as a whole is some. Roundings turn nothing by an angle of their own. */
static bool may_be_rounded_inputs(const mr3d_drift_run *d, const mr3d_drift_record *record) {
  for (int i = 0; i < record->verdict.n_statistics; i++) {
    const mr3d_statistic *s = &record->verdict.statistics[i];
    if (s->tested && !s->passed && strcmp(s->rule, "angle") == 0) return false;
  }
  const bool replayable = !record->verdict.passed && !record->composite && record->local.measured && mr3d_points_about[record->point].inputs[0] >= 0;
  return d->options.tier != MR3D_FP64 && replayable && record->local.absolute <= MOST_ROUNDINGS * d->units.u * record->size;
}

/** Judges one point that the subject has. `exact` holds the replay; `runs` those in emulated arithmetic where it is a composite. */
static mr3d_status judge_point(taking *t, int point, const replayed *exact, const replayed *runs, const double *expected, const double *scale, const double *turn, bool past_known, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  mr3d_drift_record *record = mr3d_drift_add(d, t->layer, point);
  record->composite = !is_direct(t, point, &record->from);
  mr3d_drift_sheet sheet = sheet_of(t, point, t->given[point]);
  const int64_t count = elements(t, point);
  float *errors[MR3D_FEW_RUNS] = {NULL};
  double *own_scale = NULL;
  sheet.expected = expected;
  sheet.scale = scale;
  sheet.turn = turn;
  if (point == MR3D_P_QUERY_ROTATED || point == MR3D_P_KEY_ROTATED) sheet.input = exact->replay.value[point == MR3D_P_QUERY_ROTATED ? MR3D_P_QUERY : MR3D_P_KEY];
  if (record->composite) {
    own_scale = mr3d_allocate(count, sizeof *own_scale);
    for (int r = 0; r < MR3D_FEW_RUNS; r++) {
      errors[r] = mr3d_allocate(count, sizeof *errors[r]);
      for (int64_t i = 0; i < count; i++) errors[r][i] = (float)(runs[r].own[point][i] - expected[i]);
    }
    composite_scale(t, count, sheet.cols, errors, expected, own_scale);
    sheet.scale = own_scale;
    sheet.turn = NULL;
  }
  if (!past_known && point == MR3D_P_CONTEXT) sheet.expected = sheet.scale = NULL;
  bool *beside_nan = point == MR3D_P_CONTEXT ? rows_beside_nan(t, exact) : NULL;
  const bool all_inherit = mr3d_drift_mark_inherited(&sheet, beside_nan);
  mr3d_drift_measure(d, &sheet, record);
  if (sheet.expected && !all_inherit) mr3d_drift_judge(d, &sheet, mr3d_points_about[point].name, MR3D_FEW_RUNS, record->composite ? errors : NULL, record);
  const point_replay what = {exact, point};
  const mr3d_status status = may_be_rounded_inputs(d, record) ? judge_widely(t, point_again, &what, &sheet, record, error) : MR3D_OK;
  free(beside_nan);
  free(sheet.inherits);
  note_first_token(record);
  t->fault |= !record->verdict.passed;
  for (int r = 0; r < MR3D_FEW_RUNS; r++) free(errors[r]);
  free(own_scale);
  return status;
}

static mr3d_status replay_one(const taking *t, replayed *r, int point, double *y, double *scale, double *turn, mr3d_error *error) {
  (void)t;
  return mr3d_replay_point(&r->replay, point, scale ? &t->d->units : NULL, y, scale, turn, error);
}

/** The mask: what the subject shows is exact. */
static mr3d_status judge_mask(taking *t, mr3d_error *error) {
  bool *expected = mr3d_allocate(elements(t, MR3D_P_VISIBLE), sizeof *expected);
  const mr3d_status status = mr3d_mask(&t->d->chain.context, &t->in.mask, expected, error);
  if (status == MR3D_OK && t->given[MR3D_P_VISIBLE]) {
    mr3d_drift_record *record = mr3d_drift_add(t->d, t->layer, MR3D_P_VISIBLE);
    const int64_t K = t->in.L + t->in.q;
    mr3d_drift_judge_exact(elements(t, MR3D_P_VISIBLE), "visible", (const unsigned char *)t->visible, (const unsigned char *)expected, 1, record);
    record->tokens = t->call->B * t->call->q;
    for (int64_t i = 0; i < record->tokens && !record->verdict.passed && record->first_token < 0; i++)
      if (memcmp(t->visible + i * K, expected + i * K, (size_t)K) != 0) {
        record->first_token = i;
        for (int64_t j = 0; j < K; j++)
          if (t->visible[i * K + j] != expected[i * K + j]) {
            snprintf(record->verdict.index, sizeof record->verdict.index, "[%lld,%lld,%lld]", (long long)(i / t->call->q), (long long)(i % t->call->q), (long long)j);
            record->verdict.got = t->visible[i * K + j], record->verdict.expected = expected[i * K + j];
            break;
          }
      }
    t->fault |= !record->verdict.passed;
  } else if (status == MR3D_OK) memcpy(t->visible, expected, (size_t)elements(t, MR3D_P_VISIBLE));
  free(expected);
  return status;
}

/** Whether some point that is there has an input that is not. */
static bool has_composites(const taking *t) {
  int from;
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++)
    if (t->given[p] && p != MR3D_P_VISIBLE && !is_direct(t, p, &from)) return true;
  return false;
}

static float *rows_of_scale(int64_t count, int64_t cols, const double *scale) {
  float *rows = mr3d_allocate(count / cols, sizeof *rows);
  for (int64_t r = 0; r < count / cols; r++) {
    double squares = 0;
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) squares += scale[i] * scale[i];
    rows[r] = (float)sqrt(squares / (double)cols);
  }
  return rows;
}

static void diagnose_layer(taking *t, const mr3d_replay *replay, int first) {
  bool any = false;
  for (int i = first; i < t->d->n_records; i++) any |= !t->d->records[i].verdict.passed;
  if (!any || t->d->options.no_diagnosis) return;
  const mr3d_drift_evidence evidence = {.drift = t->d, .source = t->source, .step = t->n_step, .layer = t->layer, .replay = replay, .given = (const double *const *)t->given,
                                        .row_scale = t->row_scale, .visible_given = t->given[MR3D_P_VISIBLE] ? t->visible : NULL};
  mr3d_drift_diagnose(&evidence, first);
}

/** Replays the layer on the subject's own values, and judges what it has. */
static mr3d_status replay_layer(taking *t, const mr3d_layer *weights, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  const bool past_known = cache_of(t, &d->chain)->L == d->L;
  /* emulated replays go on once they are needed: what they had before is what the chain has */
  const bool composites = has_composites(t) || !t->given[MR3D_P_OUTPUT] || !t->given[MR3D_P_KEY_ROTATED] || !t->given[MR3D_P_VALUE];
  replayed exact, *runs = mr3d_allocate(MR3D_FEW_RUNS, sizeof *runs);
  const int first_record = d->n_records;
  mr3d_status status = judge_mask(t, error);
  open_replay(t, &d->chain, weights, &exact);
  for (int r = 0; r < MR3D_FEW_RUNS && composites; r++) open_replay(t, &d->chains[r], weights, &runs[r]);
  for (int p = 0; p < MR3D_N_LAYER_POINTS && !status; p++) {
    if (p == MR3D_P_VISIBLE) continue;
    const int64_t count = elements(t, p);
    int from;
    const bool direct = is_direct(t, p, &from), turns = p == MR3D_P_QUERY_ROTATED || p == MR3D_P_KEY_ROTATED;
    double *y = mr3d_allocate(count, sizeof *y), *scale = direct && t->given[p] ? mr3d_allocate(count, sizeof *scale) : NULL,
           *turn = scale && turns ? mr3d_allocate(count, sizeof *turn) : NULL;
    status = replay_one(t, &exact, p, y, scale, turn, error);
    exact.own[p] = y;
    for (int r = 0; r < MR3D_FEW_RUNS && composites && !status; r++) {
      if (direct && t->given[p]) continue; /* nobody reads it */
      runs[r].own[p] = mr3d_allocate(count, sizeof(double));
      status = replay_one(t, &runs[r], p, runs[r].own[p], NULL, NULL, error);
    }
    if (!status && t->given[p]) status = judge_point(t, p, &exact, runs, y, scale, turn, past_known, error);
    if (scale) t->row_scale[p] = rows_of_scale(count, columns(t, p), scale);
    exact.replay.value[p] = t->given[p] ? t->given[p] : y;
    for (int r = 0; r < MR3D_FEW_RUNS && composites; r++) runs[r].replay.value[p] = t->given[p] ? t->given[p] : runs[r].own[p];
    if (t->given[p]) {
      free(y);
      exact.own[p] = NULL;
    }
    free(scale);
    free(turn);
  }
  if (!status) {
    diagnose_layer(t, &exact.replay, first_record);
    close_replay(t, &d->chain, &exact);
    for (int r = 0; r < MR3D_FEW_RUNS && composites; r++) close_replay(t, &d->chains[r], &runs[r]);
    t->composite_before = !t->given[MR3D_P_OUTPUT];
  }
  free(runs);
  return status;
}

static void forget_layer(taking *t) {
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) {
    free(t->truth[p]);
    free(t->row_noise[p]);
    free(t->given[p]);
    free(t->row_scale[p]);
    t->truth[p] = t->given[p] = NULL;
    t->row_noise[p] = t->row_scale[p] = NULL;
  }
}

/* ---- the model's ends ---- */

static const double *final_weight(mr3d_drift_run *d, double *buffer, mr3d_error *error) {
  const double *weight = NULL;
  mr3d_tensor norm = *d->ends.norm;
  norm.rank = 2; /* [1,hidden] */
  norm.shape[1] = norm.shape[0];
  norm.shape[0] = 1;
  return mr3d_weights_rows(d->weights, &norm, 0, 1, buffer, &weight, error) == MR3D_OK ? weight : NULL;
}

/** logits [rows,V] of normed rows by the head, and their scale (NULL: not wanted). */
static mr3d_status head(mr3d_drift_run *d, const mr3d_context *context, int64_t rows, const double *x, double *y, double *scale, mr3d_error *error) {
  const int64_t V = d->config.vocab_size, n = d->config.hidden_size;
  double *buffer = mr3d_allocate(HEAD_ROWS * n, sizeof *buffer), *block = mr3d_allocate(2 * rows * HEAD_ROWS, sizeof *block), *block_scale = block + rows * HEAD_ROWS;
  mr3d_status status = MR3D_OK;
  for (int64_t first = 0; first < V && !status; first += HEAD_ROWS) {
    const int64_t count = V - first < HEAD_ROWS ? V - first : HEAD_ROWS;
    const double *weight;
    status = mr3d_weights_rows(d->weights, d->ends.head, first, count, buffer, &weight, error);
    if (status) break;
    const mr3d_linear_in in = {.rows = rows, .in = n, .out = count, .x = x, .weight = weight};
    mr3d_linear(context, &in, block);
    if (scale) mr3d_linear_scale(&d->units, &in, block_scale);
    for (int64_t r = 0; r < rows; r++) {
      memcpy(y + r * V + first, block + r * count, (size_t)count * sizeof *y);
      if (scale) memcpy(scale + r * V + first, block_scale + r * count, (size_t)count * sizeof *y);
    }
  }
  free(buffer);
  free(block);
  return status;
}

static int64_t largest(const double *row, int64_t n) {
  int64_t at = 0;
  for (int64_t i = 1; i < n; i++)
    if (row[i] > row[at]) at = i;
  return at;
}

/** Rows of logits that are judged, by their place among the kept ones: all, or some spread evenly, the last one with them. */
static int64_t rows_judged(int64_t keep, int64_t V, int64_t *rows) {
  const int64_t n = keep * V <= MOST_LOGITS || keep <= LOGITS_ROWS ? keep : LOGITS_ROWS;
  for (int64_t i = 0; i < n; i++) rows[i] = n == keep ? i : n == 1 ? keep - 1 : i * (keep - 1) / (n - 1);
  return n;
}

/** What the final norm and the head of a call are judged on. */
typedef struct ends {
  const mr3d_tensor *norm, *logits;  /* the subject's; NULL: not there */
  int64_t rows, q, n, V, keep;       /* rows: B*q; keep: of logits */
  bool direct;                       /* the last layer's output is the subject's own */
  double *buffer;
  const double *weight;              /* of the norm */
  double *given, *expected, *scale;  /* [rows,n]: of final_norm; `given` is `expected` where the subject's is not there */
  double *normed[1 + MR3D_DRIFT_MOST_RUNS]; /* the truth's and the emulated runs', for total errors */
  float *noise;                      /* [rows] */
  float *strays[MR3D_FEW_RUNS];      /* [rows,n]: of the emulated replays, where the last layer's output was replayed */
} ends;

static mr3d_status open_ends(taking *t, ends *e, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  *e = (ends){.norm = find(t, MR3D_DRIFT_MODEL, MR3D_P_FINAL_NORM), .logits = find(t, MR3D_DRIFT_MODEL, MR3D_P_LOGITS), .rows = t->call->B * t->call->q, .q = t->call->q, .n = d->config.hidden_size,
              .V = d->config.vocab_size, .direct = !t->composite_before};
  int64_t shape[4] = {t->call->B, e->q, e->n};
  if (e->norm && (!mr3d_dtype_is_float(e->norm->dtype) || e->norm->rank != 3 || memcmp(e->norm->shape, shape, 3 * sizeof *shape) != 0)) return misfit(t, MR3D_DRIFT_MODEL, MR3D_P_FINAL_NORM, e->norm, 3, shape, error);
  e->keep = shape[1] = e->logits && e->logits->rank == 3 && e->logits->shape[1] <= e->q ? e->logits->shape[1] : e->q;
  shape[2] = e->V;
  if (e->logits && (!mr3d_dtype_is_float(e->logits->dtype) || e->logits->rank != 3 || memcmp(e->logits->shape, shape, 3 * sizeof *shape) != 0))
    return misfit(t, MR3D_DRIFT_MODEL, MR3D_P_LOGITS, e->logits, 3, shape, error);
  e->buffer = mr3d_allocate(e->n, sizeof *e->buffer);
  e->given = mr3d_allocate(e->rows * e->n, sizeof *e->given);
  e->expected = mr3d_allocate(e->rows * e->n, sizeof *e->expected);
  e->scale = mr3d_allocate(e->rows * e->n, sizeof *e->scale);
  e->noise = mr3d_allocate(e->rows, sizeof *e->noise);
  e->weight = final_weight(d, e->buffer, error);
  return e->weight ? MR3D_OK : MR3D_INVALID;
}

static void close_ends(ends *e) {
  for (int r = 0; r <= MR3D_DRIFT_MOST_RUNS; r++) free(e->normed[r]);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) free(e->strays[r]);
  free(e->buffer), free(e->given), free(e->expected), free(e->scale), free(e->noise);
}

static double coarser_squares(const mr3d_drift_run *d) { return d->options.tier == MR3D_FP64 ? ldexp(1, -2 * MR3D_FP64_COARSER) : 1; }

/** The norm of every lane: of the truth and its emulated runs, of what the subject gave, and of what was replayed. */
static void norm_lanes(taking *t, ends *e) {
  mr3d_drift_run *d = t->d;
  mr3d_rmsnorm_in in = {.rows = e->rows, .n = e->n, .eps = d->config.rms_norm_eps, .weight = e->weight};
  for (int r = 0; r <= d->options.runs && d->options.runs; r++) {
    mr3d_drift_lane *lane = r ? &d->runs[r - 1] : &d->truth;
    e->normed[r] = mr3d_allocate(e->rows * e->n, sizeof(double));
    in.x = lane->hidden;
    mr3d_rmsnorm(&lane->context, &in, e->normed[r]);
    for (int64_t i = 0; r && i < e->rows * e->n; i++)
      e->noise[i / e->n] += (float)(coarser_squares(d) * (e->normed[r][i] - e->normed[0][i]) * (e->normed[r][i] - e->normed[0][i]) / (double)e->n / d->options.runs);
  }
  in.x = d->chain.hidden;
  mr3d_rmsnorm(&d->chain.context, &in, e->expected);
  mr3d_rmsnorm_scale(&d->units, &in, e->scale);
  double *y = mr3d_allocate(e->rows * e->n, sizeof *y);
  for (int r = 0; r < MR3D_FEW_RUNS && !e->direct; r++) {
    in.x = d->chains[r].hidden;
    mr3d_rmsnorm(&d->chains[r].context, &in, y);
    e->strays[r] = mr3d_allocate(e->rows * e->n, sizeof(float));
    for (int64_t i = 0; i < e->rows * e->n; i++) e->strays[r][i] = (float)(y[i] - e->expected[i]);
  }
  free(y);
  if (!e->direct) composite_scale(t, e->rows * e->n, e->n, e->strays, e->expected, e->scale);
  if (e->norm) mr3d_tensor_to_double(e->norm, e->given);
  else memcpy(e->given, e->expected, (size_t)(e->rows * e->n) * sizeof *e->given);
}

/** Measures and judges a point of the model; `runs` not NULL: by the yardstick. */
static mr3d_status judge_end(taking *t, int point, mr3d_drift_sheet *sheet, float *const runs[], again *replay, const void *what, mr3d_drift_record **out, mr3d_error *error) {
  mr3d_drift_record *record = *out = mr3d_drift_add(t->d, MR3D_DRIFT_MODEL, point);
  record->composite = runs != NULL;
  const bool all_inherit = mr3d_drift_mark_inherited(sheet, NULL);
  mr3d_drift_measure(t->d, sheet, record);
  if (!all_inherit) mr3d_drift_judge(t->d, sheet, mr3d_points_about[point].name, runs ? MR3D_FEW_RUNS : 0, runs, record);
  const mr3d_status status = may_be_rounded_inputs(t->d, record) ? judge_widely(t, replay, what, sheet, record, error) : MR3D_OK;
  free(sheet->inherits);
  note_first_token(record);
  t->fault |= !record->verdict.passed;
  return status;
}

static mr3d_status norm_again(taking *t, int r, const void *what, double *y, mr3d_error *error) {
  (void)error;
  const ends *e = what;
  double *x = stored_alike(t, r, MR3D_P_OUTPUT, e->rows * e->n, t->d->chain.hidden);
  mr3d_rmsnorm(&t->d->chains[r].context, &(mr3d_rmsnorm_in){.rows = e->rows, .n = e->n, .eps = t->d->config.rms_norm_eps, .x = x, .weight = e->weight}, y);
  free(x);
  return MR3D_OK;
}

static mr3d_status judge_norm(taking *t, const ends *e, mr3d_error *error) {
  mr3d_drift_sheet sheet = {.B = t->call->B, .q = e->q, .heads = 1, .cols = e->n, .got = e->given, .expected = e->expected, .scale = e->scale, .truth = e->normed[0], .row_noise = e->noise,
                            .skip = t->skip, .token_class = t->step->token_class};
  mr3d_drift_record *record;
  const mr3d_status status = judge_end(t, MR3D_P_FINAL_NORM, &sheet, e->direct ? NULL : e->strays, norm_again, e, &record, error);
  if (!e->direct) record->from = MR3D_P_OUTPUT;
  const mr3d_drift_end evidence = {.drift = t->d, .source = t->source, .step = t->n_step, .decode = t->call->decode, .rows = e->rows, .q = e->q, .output = t->d->chain.hidden, .norm_weight = e->weight,
                                   .normed = e->given, .normed_by_reference = e->expected};
  if (!record->verdict.passed && !t->d->options.no_diagnosis) mr3d_drift_diagnose_end(&evidence, record);
  return status;
}

/** Rows that a head is given. */
typedef struct head_rows {
  int64_t n_rows;
  const double *x;
} head_rows;

static mr3d_status head_again(taking *t, int r, const void *what, double *y, mr3d_error *error) {
  const head_rows *h = what;
  double *x = stored_alike(t, r, MR3D_P_FINAL_NORM, h->n_rows * t->d->config.hidden_size, h->x);
  const mr3d_status status = head(t->d, &t->d->chains[r].context, h->n_rows, x, y, NULL, error);
  free(x);
  return status;
}

/** Of several samples those of the first. Without final_norm both operators are judged at once, of the last rows only: that is eight emulated heads. */
static mr3d_status judge_logits(taking *t, const ends *e, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  const int64_t n = e->n, V = e->V, first = e->q - e->keep;
  int64_t *chosen = mr3d_allocate(e->keep, sizeof *chosen), n_rows = rows_judged(e->keep, V, chosen);
  if (!e->norm && n_rows > COMPOSITE_LOGITS_ROWS) {
    memmove(chosen, chosen + n_rows - COMPOSITE_LOGITS_ROWS, COMPOSITE_LOGITS_ROWS * sizeof *chosen);
    n_rows = COMPOSITE_LOGITS_ROWS;
  }
  double *x = mr3d_allocate(n_rows * n, sizeof *x), *got = mr3d_allocate(n_rows * V, sizeof *got), *y = mr3d_allocate(n_rows * V, sizeof *y), *y_scale = mr3d_allocate(n_rows * V, sizeof *y);
  double *truth = d->options.runs ? mr3d_allocate(2 * n_rows * V, sizeof *truth) : NULL, *run = e->norm ? NULL : mr3d_allocate(n_rows * V, sizeof *run);
  float *row_noise = mr3d_allocate(n_rows, sizeof *row_noise), *strays[MR3D_FEW_RUNS] = {NULL};
  unsigned char *class = mr3d_allocate(n_rows, 1);
  const size_t size = mr3d_dtype_size(e->logits->dtype);
  for (int64_t i = 0; i < n_rows; i++) {
    mr3d_tensor row = {.name = "logits", .dtype = e->logits->dtype, .rank = 1, .shape = {V}, .data = (char *)e->logits->data + (size_t)(chosen[i] * V) * size};
    mr3d_tensor_to_double(&row, got + i * V);
    chosen[i] += first; /* from here on, which of the call's rows */
    class[i] = t->step->token_class[chosen[i]];
    memcpy(x + i * n, e->given + chosen[i] * n, (size_t)n * sizeof *x);
  }
  mr3d_status status = head(d, &d->chain.context, n_rows, x, y, y_scale, error);
  for (int r = 0; r <= d->options.runs && truth && !status; r++) {
    for (int64_t i = 0; i < n_rows; i++) memcpy(x + i * n, e->normed[r] + chosen[i] * n, (size_t)n * sizeof *x);
    double *to = truth + (r ? n_rows * V : 0);
    status = head(d, r ? &d->runs[r - 1].context : &d->truth.context, n_rows, x, to, NULL, error);
    for (int64_t i = 0; r && i < n_rows * V; i++) row_noise[i / V] += (float)(coarser_squares(d) * (to[i] - truth[i]) * (to[i] - truth[i]) / (double)V / d->options.runs);
  }
  for (int r = 0; r < MR3D_FEW_RUNS && run && !status; r++) {
    const double *hidden = e->direct ? d->chain.hidden : d->chains[r].hidden;
    double *rows = mr3d_allocate(n_rows * n, sizeof *rows);
    for (int64_t i = 0; i < n_rows; i++) memcpy(rows + i * n, hidden + chosen[i] * n, (size_t)n * sizeof *rows);
    mr3d_rmsnorm(&d->chains[r].context, &(mr3d_rmsnorm_in){.rows = n_rows, .n = n, .eps = d->config.rms_norm_eps, .x = rows, .weight = e->weight}, x);
    status = head(d, &d->chains[r].context, n_rows, x, run, NULL, error);
    strays[r] = mr3d_allocate(n_rows * V, sizeof *strays[r]);
    for (int64_t i = 0; i < n_rows * V; i++) strays[r][i] = (float)(run[i] - y[i]);
    free(rows);
  }
  if (!status) {
    if (run) composite_scale(t, n_rows * V, V, strays, y, y_scale);
    mr3d_drift_sheet sheet = {.B = 1, .q = n_rows, .heads = 1, .cols = V, .got = got, .expected = y, .scale = y_scale, .truth = truth, .row_noise = row_noise, .token_class = class};
    for (int64_t i = 0; i < n_rows; i++) memcpy(x + i * n, e->given + chosen[i] * n, (size_t)n * sizeof *x);
    const head_rows given = {n_rows, x};
    mr3d_drift_record *record;
    status = judge_end(t, MR3D_P_LOGITS, &sheet, run ? strays : NULL, head_again, &given, &record, error);
    record->from = e->norm ? MR3D_P_LOGITS : MR3D_P_FINAL_NORM;
    if (record->first_token >= 0) record->first_token = chosen[record->first_token];
    const mr3d_drift_end evidence = {.drift = d, .source = t->source, .step = t->n_step, .decode = t->call->decode, .rows = e->rows, .q = e->q, .norm_weight = e->weight, .normed = e->given, .keep = e->keep, .n_kept = n_rows, .kept = chosen,
                                     .logits = got};
    if (!record->verdict.passed && !d->options.no_diagnosis) mr3d_drift_diagnose_end(&evidence, record);
    t->step->greedy = largest(got + (n_rows - 1) * V, V);
    if (truth) t->step->truth_greedy = largest(truth + (n_rows - 1) * V, V);
  }
  for (int r = 0; r < MR3D_FEW_RUNS; r++) free(strays[r]);
  free(chosen), free(x), free(got), free(y), free(y_scale), free(truth), free(run), free(row_noise), free(class);
  return status;
}

/** final_norm and logits of every lane, and the subject's. */
static mr3d_status take_ends(taking *t, mr3d_error *error) {
  ends e;
  mr3d_status status = open_ends(t, &e, error);
  if (!status && (e.norm || e.logits)) {
    norm_lanes(t, &e);
    if (e.norm) status = judge_norm(t, &e, error);
    if (e.logits && !status) status = judge_logits(t, &e, error);
  }
  close_ends(&e);
  return status;
}

/** inputs_embeds against the call's, and the length of the cache. */
static mr3d_status take_start(taking *t, mr3d_error *error) {
  mr3d_drift_run *d = t->d;
  const int64_t count = t->call->B * t->call->q * d->config.hidden_size;
  const mr3d_tensor *embeds = find(t, MR3D_DRIFT_MODEL, MR3D_P_EMBEDS), *length = find(t, MR3D_DRIFT_MODEL, MR3D_P_CACHE_LENGTH);
  if (embeds && mr3d_dtype_is_float(embeds->dtype) && mr3d_tensor_count(embeds) == count) {
    double *got = mr3d_allocate(count, sizeof *got), *scale = mr3d_allocate(count, sizeof *scale);
    mr3d_tensor_to_double(embeds, got);
    mr3d_stored_scale(&d->units, count, t->call->embeds, scale);
    mr3d_drift_record *record = mr3d_drift_add(d, MR3D_DRIFT_MODEL, MR3D_P_EMBEDS);
    const mr3d_drift_sheet sheet = {.B = t->call->B, .q = t->call->q, .heads = 1, .cols = d->config.hidden_size, .got = got, .expected = t->call->embeds, .scale = scale, .skip = t->skip,
                                    .token_class = t->step->token_class};
    mr3d_drift_measure(d, &sheet, record);
    mr3d_drift_judge(d, &sheet, "inputs_embeds", 0, NULL, record);
    if (!record->verdict.passed) mr3d_drift_look_at_embeds(d, t->call->B * t->call->q, got, t->call->embeds, t->call->ids, record);
    note_first_token(record);
    t->fault |= !record->verdict.passed;
    free(d->chain.hidden); /* layers are judged on what the subject gave them */
    d->chain.hidden = got;
    free(scale);
  }
  if (length && length->dtype == MR3D_I64 && mr3d_tensor_count(length) == 1) {
    mr3d_drift_record *record = mr3d_drift_add(d, MR3D_DRIFT_MODEL, MR3D_P_CACHE_LENGTH);
    mr3d_drift_judge_exact(1, "cache_length", length->data, (const unsigned char *)&d->L, sizeof(int64_t), record);
    record->verdict.got = (double)*(const int64_t *)length->data, record->verdict.expected = (double)d->L;
    t->fault |= !record->verdict.passed;
  }
  return error->status;
}

/* ---- a call ---- */

static void begin_step(taking *t) {
  mr3d_drift_run *d = t->d;
  const mr3d_drift_call *call = t->call;
  const int64_t tokens = call->B * call->q;
  mr3d_drift_step *grown = mr3d_allocate(d->n_steps + 1, sizeof *grown);
  if (d->n_steps) memcpy(grown, d->steps, (size_t)d->n_steps * sizeof *grown);
  free(d->steps);
  d->steps = grown;
  mr3d_drift_step *step = t->step = &d->steps[d->n_steps++];
  *step = (mr3d_drift_step){.B = call->B, .q = call->q, .L = d->L, .decode = call->decode, .greedy = -1, .truth_greedy = -1};
  step->token_class = mr3d_allocate(tokens, 1);
  step->ids = mr3d_allocate(tokens, sizeof *step->ids);
  if (call->points.mask) step->coords = mr3d_allocate(3 * tokens, sizeof *step->coords);
  bool seen = d->points_seen;
  for (int64_t b = 0; b < call->B; b++) {
    seen = d->points_seen;
    int64_t row = 0;
    for (int64_t i = 0; i < call->q; i++) {
      const int64_t at = b * call->q + i;
      const bool point = call->points.mask && call->points.mask[at];
      seen |= point;
      step->token_class[at] = (unsigned char)(call->decode ? MR3D_GENERATED : point ? MR3D_POINT_TOKEN : seen ? MR3D_TEXT_AFTER : MR3D_TEXT_BEFORE);
      step->ids[at] = call->ids && !point ? call->ids[at] : -1;
      for (int a = 0; step->coords && a < 3; a++) step->coords[3 * at + a] = point && row < call->points.N ? call->points.coords[(b * call->points.N + row) * 3 + a] : NAN;
      row += point;
    }
  }
  d->points_seen = seen;
}

static void *copy_bytes(const void *from, int64_t count, size_t size) {
  void *copy = mr3d_allocate(count, size);
  if (from) memcpy(copy, from, (size_t)count * size);
  return from ? copy : (free(copy), NULL);
}

/** What the call was, for mistakes that are tried over all calls so far. */
static void keep_call(taking *t) {
  mr3d_drift_run *d = t->d;
  const mr3d_drift_call *call = t->call;
  mr3d_drift_kept_call *grown = mr3d_allocate(d->n_steps, sizeof *grown), *kept = &grown[d->n_steps - 1];
  if (d->n_steps > 1) memcpy(grown, d->calls, (size_t)(d->n_steps - 1) * sizeof *grown);
  free(d->calls);
  d->calls = grown;
  *kept = (mr3d_drift_kept_call){.B = call->B, .q = call->q, .L = d->L, .decode = call->decode, .mask = t->in.mask, .position_rows = call->position_rows, .N = call->points.N};
  kept->key_mask = copy_bytes(t->in.mask.key_mask, call->B * call->mask_columns, sizeof(int64_t));
  kept->position_ids = copy_bytes(call->position_ids, call->position_rows * call->q, sizeof(int64_t));
  kept->counts = copy_bytes(call->points.counts, call->B, sizeof(int64_t));
  kept->point_mask = copy_bytes(call->points.mask, call->B * call->q, sizeof(bool));
  kept->coords = copy_bytes(call->points.coords, call->B * call->points.N * 3, sizeof(double));
  kept->mask.key_mask = kept->key_mask;
  kept->prefill_mask = copy_bytes(t->in.mask.prefill_mask, call->B * t->in.mask.L0, sizeof(int64_t));
  kept->mask.prefill_mask = kept->prefill_mask;
}

static void begin_lane(taking *t, mr3d_drift_lane *lane) {
  lane->calls = (uint64_t)t->n_step << 32;
  free(lane->hidden);
  lane->hidden = copy_of(t->call->B * t->call->q * t->d->config.hidden_size, t->call->embeds);
}

/** What the layer before gave, as the subject has it; where it has not, the layer's input is taken as it is. */
static void start_from_output(taking *t) {
  const mr3d_tensor *given = t->source->find(t->source->user, t->n_step, t->layer - 1, "output");
  const int64_t count = t->call->B * t->call->q * t->d->config.hidden_size;
  if (!given || !mr3d_dtype_is_float(given->dtype) || mr3d_tensor_count(given) != count) given = t->source->find(t->source->user, t->n_step, t->layer, "input");
  if (given && mr3d_dtype_is_float(given->dtype) && mr3d_tensor_count(given) == count) mr3d_tensor_to_double(given, t->d->chain.hidden);
}

mr3d_status mr3d_drift_take(mr3d_drift_run *d, const mr3d_drift_call *call, const mr3d_drift_source *source, bool *stopped, mr3d_error *error) {
  taking t = {.d = d, .call = call, .source = source, .n_step = d->n_steps};
  mr3d_error own = {0};
  bool has_points = false;
  if (!error) error = &own;
  *error = (mr3d_error){0};
  begin_step(&t);
  t.in = (mr3d_block_in){.B = call->B, .q = call->q, .L = d->L, .hidden = call->embeds, .position_rows = call->position_rows, .position_ids = call->position_ids, .points = call->points};
  t.in.mask = (mr3d_mask_in){.B = call->B, .L = d->L, .q = call->q, .M = call->mask_columns, .key_mask = call->mask_columns ? call->attention_mask : NULL, .key_mask_name = "attention_mask",
                             .rule = d->config.decode_mask};
  if (call->decode && d->config.decode_mask == MR3D_SPLICED) t.in.mask.prefill_mask = d->prefill_mask, t.in.mask.L0 = d->prefill_columns;
  t.visible = mr3d_allocate(call->B * call->q * (d->L + call->q), sizeof *t.visible);
  t.skip = mr3d_allocate(call->B * call->q, sizeof *t.skip);
  for (int64_t i = 0; i < call->B * call->q; i++) {
    const int64_t key = d->L + i % call->q;
    t.skip[i] = call->mask_columns > key && !call->attention_mask[i / call->q * call->mask_columns + key];
    has_points |= call->points.mask && call->points.mask[i];
  }
  keep_call(&t);
  begin_lane(&t, &d->truth);
  begin_lane(&t, &d->chain);
  for (int r = 0; r < d->options.runs; r++) begin_lane(&t, &d->runs[r]);
  for (int r = 0; r < MR3D_FEW_RUNS; r++) d->chains[r].calls = (uint64_t)t.n_step << 32;
  has_points |= d->points_seen; /* a later call has none, but mistakes may rotate its tokens as points */
  mr3d_status status = mr3d_weights_check(d->weights, &d->config, &d->sizes, has_points, error);
  if (!status) status = take_start(&t, error);
  for (int64_t n = 0; n < d->config.num_hidden_layers && !status && !(d->options.stop_at_fault && t.fault); n++) {
    mr3d_layer_weights layer = {0};
    t.layer = n;
    if (d->options.only_layers && (n < d->options.first_layer || n > d->options.last_layer)) continue;
    if (d->options.only_layers && n > 0 && n == d->options.first_layer) start_from_output(&t);
    status = mr3d_weights_layer(d->weights, &d->config, &d->sizes, n, has_points, false, &layer, error);
    if (status) break;
    status = run_lanes(&t, &layer.layer, error);
    if (!status) status = read_given(&t, error);
    if (!status) status = replay_layer(&t, &layer.layer, error);
    mr3d_layer_weights_free(&layer);
    forget_layer(&t);
  }
  *stopped = t.fault && d->options.stop_at_fault;
  if (d->options.only_layers && d->config.num_hidden_layers > 0 && d->options.last_layer == MR3D_DRIFT_MODEL) {
    t.layer = d->config.num_hidden_layers;
    start_from_output(&t);
  }
  if (!status && !*stopped && (!d->options.only_layers || d->options.last_layer == MR3D_DRIFT_MODEL)) status = take_ends(&t, error);
  d->L += call->q;
  if (!call->decode) {
    free(d->prefill_mask);
    d->prefill_mask = copy_bytes(t.in.mask.key_mask, call->B * call->mask_columns, sizeof(int64_t));
    d->prefill_columns = call->mask_columns;
  }
  free(t.visible);
  free(t.skip);
  return status;
}
