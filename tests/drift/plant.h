/** What the tests of drift share: generations of a small (or large) generated model, traced by the reference, by emulated arithmetic, or with a mistake in one layer. */
#ifndef MR3D_TEST_DRIFT_PLANT_H
#define MR3D_TEST_DRIFT_PLANT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "calls.h"
#include "drift.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "mutants.h"

/** Sizes of the model. */
typedef struct model_sizes {
  int layers, hidden, intermediate, heads, kv_heads, head_dim, vocab;
} model_sizes;

#define SMALL_MODEL {4, 56, 72, 14, 2, 16, 61} /* 14 query heads against 2, as at full width; no two sizes alike */

static inline void config_text(char *text, size_t size, const model_sizes *m, const char *options) {
  snprintf(text, size,
           "{\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,"
           "\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-6%s%s%s}",
           m->hidden, m->intermediate, m->layers, m->heads, m->kv_heads, m->head_dim, m->vocab, strstr(options, "tie_word_embeddings") ? "" : ",\"tie_word_embeddings\":true", *options ? "," : "", options);
}

/** How the model is called. */
typedef enum calls_kind { ONE_SAMPLE, TWO_SAMPLES, IN_CHUNKS, N_CALLS_KINDS } calls_kind;

/** Requests of a generation: prefill of `text` + `points` + 3 tokens, then decode steps with the caller's mask. */
typedef struct generation {
  mr3d_bundle *requests[8];
  int n;
} generation;

static inline void add_drawn(mr3d_bundle *r, const char *name, mr3d_tier tier, uint64_t seed, double scale, int rank, const int64_t *shape) {
  char stream[96];
  snprintf(stream, sizeof stream, "drift/%s", name);
  mr3d_tensor *t = mr3d_bundle_add(r, name, mr3d_tier_storage(tier), rank, shape);
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = scale}, mr3d_stream_named(seed, stream), t);
}

static inline mr3d_bundle *ask_for(const char *op, mr3d_tier tier, const char *config) {
  mr3d_bundle *r = mr3d_bundle_new();
  mr3d_bundle_set(r, "op", op);
  mr3d_bundle_set(r, "tier", mr3d_tier_name(tier));
  mr3d_bundle_set(r, "config", config);
  mr3d_bundle_set(r, "session", "s");
  mr3d_bundle_set(r, "trace", "*");
  return r;
}

/** B samples of q tokens from the `first`, points at `at` .. of the sequence: `points` of sample 0, two fewer of the others. */
static inline mr3d_bundle *prefill_request(mr3d_tier tier, const char *config, const model_sizes *m, int64_t B, int64_t L, int64_t q, int64_t at, int64_t points, uint64_t seed, bool positions,
                                           const char *weights) {
  mr3d_bundle *r = ask_for("prefill", tier, config);
  mr3d_bundle_set(r, "weights", weights);
  add_drawn(r, "inputs_embeds", tier, seed, 1, 3, (int64_t[]){B, q, m->hidden});
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, 2, (int64_t[]){B, L + q})->data;
  for (int64_t i = 0; i < B * (L + q); i++) mask[i] = i % (L + q) != 2; /* a key that nobody sees, before the points */
  for (int64_t b = 1; b < B; b++) mask[b * (L + q) + L + q - 1] = 0;    /* padding */
  bool *marks = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){B, q})->data;
  double *coords = mr3d_bundle_add(r, "point_coords", MR3D_F64, 3, (int64_t[]){B, points, 3})->data;
  int64_t *counts = mr3d_bundle_add(r, "point_counts", MR3D_I64, 1, (int64_t[]){B})->data;
  const mr3d_stream stream = mr3d_stream_named(seed, "drift/coords");
  for (int64_t b = 0; b < B; b++) {
    counts[b] = points - (b ? 2 : 0);
    for (int64_t k = 0; k < counts[b]; k++) marks[b * q + at + k] = true;
    for (int64_t k = 0; k < counts[b] * 3; k++) coords[b * points * 3 + k] = (double)(mr3d_random_raw(stream, (uint64_t)(b * points * 3 + k)) % 80);
  }
  if (positions) {
    int64_t *ids = mr3d_bundle_add(r, "position_ids", MR3D_I64, 2, (int64_t[]){B, q})->data;
    for (int64_t i = 0; i < B * q; i++) ids[i] = 5 + 3 * (L + i % q) + i / q;
  }
  return r;
}

static inline mr3d_bundle *decode_request(mr3d_tier tier, const char *config, const model_sizes *m, int64_t B, int64_t q, int64_t columns, uint64_t seed) {
  mr3d_bundle *r = ask_for("decode", tier, config);
  int64_t *ids = mr3d_bundle_add(r, "input_ids", MR3D_I64, 2, (int64_t[]){B, q})->data;
  for (int64_t i = 0; i < B * q; i++) ids[i] = (int64_t)(mr3d_random_raw(mr3d_stream_named(seed, "drift/ids"), (uint64_t)i) % (uint64_t)m->vocab);
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, 2, (int64_t[]){B, columns})->data;
  for (int64_t i = 0; i < B * columns; i++) mask[i] = i % columns != 2;
  return r;
}

static inline generation generate(calls_kind kind, mr3d_tier tier, const char *config, const model_sizes *m, int64_t text, int64_t points, uint64_t seed, const char *weights) {
  generation g = {{NULL}, 0};
  const int64_t q = text + points + 3, B = kind == TWO_SAMPLES ? 2 : 1;
  if (kind != IN_CHUNKS) g.requests[g.n++] = prefill_request(tier, config, m, B, 0, q, text, points, seed, false, weights);
  else {
    g.requests[g.n++] = prefill_request(tier, config, m, B, 0, q, text, points, seed, true, weights);
    g.requests[g.n++] = prefill_request(tier, config, m, B, q, 9, 2, 5, seed + 1, true, weights);
  }
  const int64_t columns = text + 3 + (kind == IN_CHUNKS ? 9 : 0); /* text tokens so far, as a caller counts them */
  g.requests[g.n++] = decode_request(tier, config, m, B, 1, columns + 1, seed + 2);
  g.requests[g.n++] = decode_request(tier, config, m, B, kind == IN_CHUNKS ? 3 : 1, columns + (kind == IN_CHUNKS ? 4 : 2), seed + 3);
  return g;
}

static inline void generation_free(generation *g) {
  for (int i = 0; i < g->n; i++) mr3d_bundle_free(&g->requests[i]);
}

/** Appends what a request was, as a trace has it. */
static inline void add_call_to_trace(mr3d_bundle *trace, int step, const mr3d_bundle *request) {
  static const char *const of_call[] = {"input_ids", "attention_mask", "point_token_mask", "point_coords", "point_counts", "position_ids"};
  char name[160];
  for (size_t i = 0; i < sizeof of_call / sizeof *of_call; i++) {
    const mr3d_tensor *t = mr3d_bundle_find(request, of_call[i]);
    snprintf(name, sizeof name, "%d.model.%s", step, of_call[i]);
    if (t) mr3d_bundle_copy(trace, name, t);
  }
}

/** And what an answer traced. */
static inline void add_to_trace(mr3d_bundle *trace, int step, const mr3d_bundle *request, const mr3d_bundle *answer) {
  char name[160];
  add_call_to_trace(trace, step, request);
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(answer, i);
    if (strncmp(t->name, "trace.", 6) != 0) continue;
    snprintf(name, sizeof name, "%d.%s", step, t->name + 6);
    if (!mr3d_bundle_find(trace, name)) mr3d_bundle_copy(trace, name, t);
  }
}

/**
 * The trace of a generation: of the reference, of arithmetic emulated to the nearest (`emulate`), with mistakes in `n` places, or with one everywhere
 * (MR3D_EVERY_LAYER). NULL where one is none of its place, or where a call is refused.
 */
static inline mr3d_bundle *traced(const generation *g, mr3d_tier tier, bool emulate, int n, const mr3d_mutant_place *places, mr3d_weights_cache *weights) {
  const mr3d_server_options options = {.emulate = emulate, .arithmetic = mr3d_arithmetic_of(tier, MR3D_NEAREST, false, 1), .weights = weights};
  const bool somewhere = n && places[0].layer != MR3D_EVERY_LAYER;
  mr3d_mutant_server *server = somewhere ? mr3d_mutant_server_new_at(n, places, &options) : mr3d_mutant_server_new(n ? places[0].mutant : NULL, NULL, &options);
  if (!server) return NULL;
  mr3d_bundle *trace = mr3d_bundle_new();
  for (int i = 0; i < g->n && trace; i++) {
    mr3d_bundle *answer = NULL;
    mr3d_error error = {0};
    if (mr3d_mutant_server_answer(server, g->requests[i], &answer, &error) != MR3D_OK) {
      if (!n) fail_msg("the reference refuses: %s", error.message);
      mr3d_bundle_free(&trace);
      break;
    }
    add_to_trace(trace, i, g->requests[i], answer);
    mr3d_bundle_free(&answer);
  }
  mr3d_mutant_server_free(&server);
  return trace;
}

/** "SLUG/NAME" of a mutant. */
static inline const char *name_of(const mr3d_mutant *mutant, char name[160]) {
  snprintf(name, 160, "%s/%s", mutant->slug, mutant->name);
  return name;
}

/** Reads "SLUG/NAME@3+SLUG/NAME@model"; "none": no place. */
static inline int read_places(const char *text, mr3d_mutant_place *places) {
  int n = 0;
  char all[400], *at;
  snprintf(all, sizeof all, "%s", strcmp(text, "none") == 0 ? "" : text);
  for (char *one = all, *next; one && *one; one = next) {
    next = strchr(one, '+');
    if (next) *next++ = 0;
    assert_non_null(at = strchr(one, '@'));
    *at++ = 0;
    places[n++] = (mr3d_mutant_place){mr3d_mutant_named(one), strcmp(at, "model") == 0 ? MR3D_DRIFT_MODEL : atoi(at)};
    if (!places[n - 1].mutant) fail_msg("there is no mutant %s", one);
  }
  return n;
}

/** A trace in the types of the tier, as a user's would be; the one in binary64 is freed. */
static inline mr3d_bundle *narrowed(mr3d_bundle *trace, mr3d_tier tier) {
  mr3d_bundle *narrow = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(trace); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(trace, i);
    if (t->dtype == MR3D_F64 && !strstr(t->name, "point_coords")) mr3d_tensor_from_double(mr3d_bundle_add(narrow, t->name, mr3d_tier_storage(tier), t->rank, t->shape), t->data);
    else mr3d_bundle_copy(narrow, t->name, t);
  }
  mr3d_bundle_free(&trace);
  return narrow;
}

/** Writes a trace of a small model with mistakes in some places ("none", or as read_places has them), as a user's file. */
static inline void save_trace(mr3d_tier tier, const char *mistakes, const char *path) {
  const model_sizes model = SMALL_MODEL;
  char config[1200];
  mr3d_error error = {0};
  mr3d_mutant_place places[MR3D_MOST_PLACES];
  const int n = read_places(mistakes, places);
  config_text(config, sizeof config, &model, "");
  mr3d_weights_cache *weights = mr3d_weights_cache_new();
  generation g = generate(ONE_SAMPLE, tier, config, &model, 9, 24, 3, "generated:5");
  mr3d_bundle *trace = traced(&g, tier, tier != MR3D_FP64, n, places, weights);
  if (!trace) fail_msg("no decoder has %s", mistakes);
  trace = narrowed(trace, tier);
  mr3d_bundle_set(trace, "trace", "1");
  mr3d_bundle_set(trace, "tier", mr3d_tier_name(tier));
  mr3d_bundle_set(trace, "config", config);
  mr3d_bundle_set(trace, "weights", "generated:5");
  if (mr3d_safetensors_save(path, trace, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_bundle_free(&trace);
  generation_free(&g);
  mr3d_weights_cache_free(&weights);
}

/** The drift of a whole trace. */
static inline mr3d_drift_run *drift_of(mr3d_bundle *trace, const mr3d_drift_options *options) {
  mr3d_drift_run *drift = NULL;
  mr3d_error error = {0};
  const mr3d_drift_source source = mr3d_trace_source(trace);
  if (mr3d_drift_new(options, &drift, &error) != MR3D_OK) fail_msg("%s", error.message);
  bool stopped = false;
  for (int64_t step = 0; step < mr3d_trace_steps(trace) && !stopped; step++) {
    mr3d_traced_call call;
    if (mr3d_traced_call_read(drift, &source, step, &call, &error) != MR3D_OK) fail_msg("%s", error.message);
    if (mr3d_drift_take(drift, &call.call, &source, &stopped, &error) != MR3D_OK) fail_msg("%s", error.message);
    mr3d_traced_call_clear(&call);
  }
  return drift;
}

/** A trace without the points of some names. */
static inline mr3d_bundle *without(const mr3d_bundle *trace, const char *const *names) {
  mr3d_bundle *part = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(trace); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(trace, i);
    bool keep = true;
    for (const char *const *name = names; *name; name++) keep &= strcmp(strrchr(t->name, '.') + 1, *name) != 0;
    if (keep) mr3d_bundle_copy(part, t->name, t);
  }
  return part;
}

/** The first record that is at fault, or NULL. */
static inline const mr3d_drift_record *first_fault(const mr3d_drift_run *drift) {
  for (int i = 0; i < mr3d_drift_records(drift); i++)
    if (!mr3d_drift_record_at(drift, i)->verdict.passed) return mr3d_drift_record_at(drift, i);
  return NULL;
}

#endif
