#include "symptoms.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/format.h"

/* The search: where it is, and what it has. */
typedef struct search {
  mr3d_aligned *trace;
  int64_t step, layer;
  mr3d_trace_sizes sizes;
  int most, count;
  mr3d_symptom *found;
} search;

static void report(search *s, const char *slug, const char *format, ...) MR3D_PRINTF(3, 4);
static void report(search *s, const char *slug, const char *format, ...) {
  const mr3d_signal *signal = mr3d_signal_named(slug);
  for (int i = 0; i < s->count; i++)
    if (s->found[i].signal == signal) return;
  if (!signal || s->count == s->most) return;
  mr3d_symptom *one = &s->found[s->count++];
  *one = (mr3d_symptom){.signal = signal, .step = s->step, .layer = s->layer};
  int n = snprintf(one->found, sizeof one->found, s->layer >= 0 ? "step %" PRId64 ", layer %" PRId64 ": " : "step %" PRId64 ": ", s->step, s->layer);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(one->found + n, sizeof one->found - (size_t)n, format, arguments);
  va_end(arguments);
}

static const mr3d_tensor *stored(const search *s, const char *point) { return mr3d_aligned_stored(s->trace, s->step, s->layer, point); }
static const mr3d_tensor *point_at(const search *s, const char *point) { return mr3d_aligned_find(s->trace, s->step, s->layer, point); }
static const mr3d_tensor *model_point(const search *s, const char *point) { return mr3d_aligned_find(s->trace, s->step, MR3D_TRACE_MODEL, point); }

/* ---- lengths ---- */

static bool all_ones(const mr3d_tensor *mask) {
  bool ones = mask->dtype == MR3D_I64;
  for (int64_t i = 0; ones && i < mr3d_tensor_count(mask); i++) ones = ((const int64_t *)mask->data)[i] == 1;
  return ones;
}

/* A decode step's mask: as many columns as keys, and no key hidden that the caller did not hide. */
static void check_visible(search *s) {
  const int64_t K = s->sizes.L + s->sizes.q;
  if (s->sizes.L <= 0 || s->sizes.q <= 0) return;
  const mr3d_tensor *mask = model_point(s, "attention_mask"), *lies = stored(s, "visible"), *visible = point_at(s, "visible");
  const int64_t columns = mask && mask->rank == 2 ? mask->shape[1] : -1;
  char caller[80] = "";
  if (columns >= 0 && columns != K) snprintf(caller, sizeof caller, " (the caller's mask has %" PRId64 ")", columns);
  if (lies && lies->rank >= 2 && lies->shape[lies->rank - 1] != K) {
    report(s, "mask-columns", "visible has %" PRId64 " columns%s, the cache holds %" PRId64 " keys and %" PRId64 " more come%s: %" PRId64, lies->shape[lies->rank - 1], caller, s->sizes.L, s->sizes.q,
           s->sizes.q == 1 ? "s" : "", K);
    return;
  }
  if (!visible || mr3d_tensor_count(visible) < s->sizes.q * K || (mask && !all_ones(mask))) return;
  for (int64_t i = 0; i < s->sizes.q; i++) {
    int64_t hidden = 0;
    for (int64_t j = 0; j <= s->sizes.L + i; j++) hidden += !((const bool *)visible->data)[i * K + j];
    if (hidden) {
      report(s, "mask-columns", "new token %" PRId64 " does not see %" PRId64 " of %" PRId64 " keys, although the caller hides none%s", i, hidden, s->sizes.L + i + 1, caller);
      return;
    }
  }
}

static void check_cache_length(search *s) {
  const mr3d_tensor *length = point_at(s, "cache_length");
  if (!length || mr3d_tensor_count(length) != 2 || s->sizes.L < 0) return;
  const int64_t before = ((const int64_t *)length->data)[0], behind = ((const int64_t *)length->data)[1];
  if (before != s->sizes.L || behind != s->sizes.L + s->sizes.q)
    report(s, "cache", "the cache holds %" PRId64 " keys before and %" PRId64 " behind the call, expected %" PRId64 " and %" PRId64, before, behind, s->sizes.L, s->sizes.L + s->sizes.q);
}

/* ---- heads, head_dim ---- */

static void check_heads(search *s) {
  static const char *const of_keys[] = {"key", "key_rotated", "value", "key_cache", "value_cache"}, *const of_queries[] = {"query", "query_rotated", "context"};
  const mr3d_trace_sizes z = s->sizes;
  if (z.H <= 0 || z.G <= 0 || z.D <= 0 || z.q <= 0) return;
  for (int i = 0; i < 8; i++) {
    const bool keys = i < 5;
    const char *name = keys ? of_keys[i] : of_queries[i - 5];
    const mr3d_tensor *t = stored(s, name);
    if (!t || point_at(s, name)) continue; /* not there, or as it should be */
    const bool cache = strstr(name, "cache") != NULL;
    const int64_t heads = keys ? z.G : z.H, other = keys ? z.H : z.G, elements = mr3d_tensor_count(t);
    int64_t rows = z.B * (cache ? z.L + z.q : z.q), widest;
    if (z.B <= 0 || z.L < 0 || __builtin_mul_overflow(rows, (z.H > z.G ? z.H : z.G) * z.D, &widest)) continue; /* no tensor is that large */
    char shape[96];
    mr3d_shape_text(t->rank, t->shape, shape);
    if (rows > 0 && elements == rows * other * z.D && heads != other)
      report(s, "heads", "%s has %" PRId64 " heads (%s), expected %" PRId64 "; %s", name, other, shape, heads, keys ? "and they are no repetition of those" : "those of keys");
    else if (rows > 0 && heads > 0 && elements % (rows * heads) == 0 && elements / (rows * heads) != z.D && t->rank > 0 && t->shape[t->rank - 1] == elements / (rows * heads))
      report(s, "head-dim", "%s has %" PRId64 " dimensions a head (%s), head_dim is %" PRId64, name, elements / (rows * heads), shape, z.D);
  }
}

/* Frequencies of the keys' side for query heads, and the reverse. */
static void check_parameters(search *s) {
  const mr3d_bundle *file = mr3d_aligned_file(s->trace);
  for (int i = 0; i < mr3d_bundle_count(file); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(file, i);
    const bool q = strstr(t->name, "freqs_3d_q") != NULL, kv = strstr(t->name, "freqs_3d_kv") != NULL;
    if ((!q && !kv) || strncmp(t->name, "weights.", 8) != 0 || t->rank != 3) continue;
    const int64_t heads = q ? s->sizes.H : s->sizes.G, other = q ? s->sizes.G : s->sizes.H;
    if (heads > 0 && other != heads && t->shape[1] == other) report(s, "heads", "%s is for %" PRId64 " heads, expected %" PRId64, t->name, t->shape[1], heads);
  }
}

/* ---- points ---- */

static void check_points(search *s) {
  const mr3d_tensor *marks = model_point(s, "point_token_mask"), *coords = model_point(s, "point_coords"), *lies = stored(s, "point_coords"), *counts = model_point(s, "point_counts");
  int64_t marked = 0;
  if (!marks) return;
  for (int64_t i = 0; i < mr3d_tensor_count(marks); i++) marked += ((const bool *)marks->data)[i];
  const mr3d_tensor *rows_of = coords ? coords : lies;
  const int64_t rows = rows_of && rows_of->rank >= 2 ? rows_of->shape[rows_of->rank - 2] : -1;
  if (rows >= 0 && !counts && (s->sizes.B <= 1 || (rows_of->rank == 3 && rows_of->shape[0] == 1)) && rows != marked)
    report(s, "raw-rows", "point_coords has %" PRId64 " rows, point_token_mask marks %" PRId64 " tokens", rows, marked);
}

/* S = T - (end - start - 1) + N where the prompt's ids, the marks and the embeddings are there. */
static void check_splice(search *s, int64_t start_id, int64_t end_id) {
  const mr3d_tensor *ids = model_point(s, "input_ids"), *marks = model_point(s, "point_token_mask");
  if (!ids || !marks || s->sizes.B != 1 || ids->dtype != MR3D_I64 || mr3d_aligned_is_chunked(s->trace)) return;
  const int64_t T = mr3d_tensor_count(ids), *id = ids->data;
  int64_t start = -1, end = -1, N = 0;
  for (int64_t i = 0; i < T; i++) {
    if (id[i] == start_id) start = i;
    if (id[i] == end_id) end = i;
  }
  for (int64_t i = 0; i < mr3d_tensor_count(marks); i++) N += ((const bool *)marks->data)[i];
  if (start < 0 || end <= start || s->sizes.q < 0) return;
  const int64_t S = T - (end - start - 1) + N;
  if (s->sizes.q != S) report(s, "splice-length", "the spliced prompt has %" PRId64 " tokens, expected %" PRId64 " = %" PRId64 " of text - %" PRId64 " between the markers + %" PRId64 " points", s->sizes.q, S, T, end - start - 1, N);
}

/* ---- positions ---- */

static void check_positions(search *s, const char *what, const mr3d_tensor *positions) {
  const mr3d_tensor *mask = model_point(s, "attention_mask");
  if (!positions || positions->dtype != MR3D_I64 || s->sizes.L <= 0 || s->sizes.q <= 0 || (mask && !all_ones(mask))) return; /* with padding they may be the caller's */
  for (int64_t i = 0; i < mr3d_tensor_count(positions); i++) {
    const int64_t expected = s->sizes.L + i % s->sizes.q, position = ((const int64_t *)positions->data)[i];
    if (position == expected) continue;
    report(s, "second-token", "%s is %" PRId64 " where %" PRId64 " tokens came before: expected %" PRId64, what, position, s->sizes.L + i % s->sizes.q, expected);
    return;
  }
}

/* ---- the cache ---- */

/* The past that a step reads is what the step before left: bit for bit. */
static void check_cache(search *s) {
  static const char *const points[] = {"key_cache", "value_cache"}, *const fresh[] = {"key_rotated", "value"};
  const mr3d_trace_sizes now = s->sizes;
  if (s->step == 0 || now.L <= 0 || now.G <= 0 || now.D <= 0) return;
  for (int p = 0; p < 2; p++) {
    const mr3d_tensor *t = mr3d_aligned_find(s->trace, s->step, s->layer, points[p]);
    if (!t || t->rank != 4) continue;
    const int64_t K = t->shape[2], heads = t->shape[0] * t->shape[1];
    const size_t row = (size_t)t->shape[3] * mr3d_dtype_size(t->dtype);
    char *copy = mr3d_allocate((long long)mr3d_tensor_count(t), mr3d_dtype_size(t->dtype)); /* asking for another step frees it */
    const mr3d_dtype dtype = t->dtype;
    memcpy(copy, t->data, (size_t)mr3d_tensor_count(t) * mr3d_dtype_size(dtype));
    const mr3d_tensor *before = mr3d_aligned_find(s->trace, s->step - 1, s->layer, points[p]);
    if (!before && s->step == 1) before = mr3d_aligned_find(s->trace, 0, s->layer, fresh[p]);
    if (before && before->rank == 4 && before->dtype == dtype && before->shape[2] == now.L && K == now.L + now.q && before->shape[0] * before->shape[1] == heads)
      for (int64_t h = 0; h < heads; h++)
        for (int64_t j = 0; j < now.L; j++)
          if (memcmp(copy + (size_t)(h * K + j) * row, (const char *)before->data + (size_t)(h * now.L + j) * row, row) != 0) {
            report(s, "cache", "row %" PRId64 " of %s is not what step %" PRId64 " left there: it was turned, rounded or overwritten in the cache", j, points[p], s->step - 1);
            h = heads - 1;
            break;
          }
    free(copy);
  }
}

/* ---- a call that ends half way ---- */

static bool has_logits(const mr3d_aligned *trace, int64_t step) {
  return mr3d_aligned_stored(trace, step, MR3D_TRACE_MODEL, "logits") || mr3d_aligned_stored(trace, step, MR3D_TRACE_MODEL, "final_norm");
}

/* The last step has the first points that an earlier one has, and lacks all from some point on. */
static void check_end(search *s) {
  const int64_t last = mr3d_aligned_steps(s->trace) - 1, layers = mr3d_aligned_layers(s->trace);
  bool earlier = false;
  for (int64_t step = 0; step < last; step++) earlier |= has_logits(s->trace, step);
  if (!earlier || has_logits(s->trace, last)) return;
  const char *point_seen = NULL, *next = NULL;
  int64_t layer_seen = MR3D_TRACE_MODEL, next_layer = 0;
  for (int64_t layer = 0; layer < layers; layer++)
    for (const mr3d_trace_point *p = mr3d_trace_points(MR3D_TRACE_OF_LAYER); p->name; p++) {
      const bool there = mr3d_aligned_stored(s->trace, last, layer, p->name) != NULL, was = mr3d_aligned_stored(s->trace, last - 1, layer, p->name) != NULL;
      if (there) point_seen = p->name, layer_seen = layer, next = NULL;
      else if (was && !next) next = p->name, next_layer = layer;
    }
  s->step = last;
  s->layer = layer_seen;
  if (point_seen && next)
    report(s, "never-returns", "%s is the last point that came; %" PRId64 ".%s of layer %" PRId64 " should have followed, and no logits are there", point_seen, last, next, next_layer);
  else if (!point_seen) report(s, "never-returns", "no layer's point came");
}

/* ---- NaN ---- */

static bool all_finite(const mr3d_tensor *t) {
  const int64_t count = mr3d_tensor_count(t);
  bool finite = true;
  if (t->dtype == MR3D_F32)
    for (int64_t i = 0; i < count; i++) finite &= isfinite(((const float *)t->data)[i]) != 0;
  else if (t->dtype == MR3D_F64)
    for (int64_t i = 0; i < count; i++) finite &= isfinite(((const double *)t->data)[i]) != 0;
  else if (t->dtype == MR3D_BF16 || t->dtype == MR3D_F16)
    for (int64_t i = 0; i < count; i++) {
      const uint16_t code = ((const uint16_t *)t->data)[i], exponent = t->dtype == MR3D_BF16 ? 0x7F80 : 0x7C00;
      finite &= (code & exponent) != exponent;
    }
  return finite;
}

/* The first point that is not finite: by layers first, then within one. */
static void check_finite(search *s) {
  for (int i = 0; i < mr3d_aligned_places(s->trace); i++) {
    s->step = mr3d_aligned_place(s->trace, i).step, s->layer = mr3d_aligned_place(s->trace, i).layer;
    if (s->layer < 0) continue;
    const mr3d_tensor *out = point_at(s, "output");
    if (!out) out = point_at(s, "context");
    if (!out || all_finite(out)) continue;
    for (const mr3d_trace_point *p = mr3d_trace_points(MR3D_TRACE_OF_LAYER); p->name; p++) {
      const mr3d_tensor *t = p->dtype == MR3D_F64 ? point_at(s, p->name) : NULL;
      if (!t || all_finite(t)) continue;
      const mr3d_tensor *mask = model_point(s, "attention_mask");
      const bool padded = mask && !all_ones(mask);
      report(s, padded && t->dtype != MR3D_F16 ? "nan-padding" : "nan-half", "%s is the first point with NaN or infinity%s", p->name, padded ? ", and the mask hides keys" : "");
      return;
    }
  }
}

mr3d_signal_numbers mr3d_symptom_numbers(const mr3d_aligned *trace) {
  mr3d_signal_numbers n = {0};
  const mr3d_trace_sizes first = mr3d_aligned_sizes(trace, 0);
  n.heads = first.H > 0 ? first.H : 0, n.kv_heads = first.G > 0 ? first.G : 0, n.head_dim = first.D > 0 ? first.D : 0, n.tokens = first.q > 0 ? first.q : 0;
  const mr3d_tensor *coords = mr3d_aligned_stored(trace, 0, MR3D_TRACE_MODEL, "point_coords"), *ids = mr3d_aligned_stored(trace, 0, MR3D_TRACE_MODEL, "input_ids");
  if (coords && coords->rank >= 2) n.points = coords->shape[coords->rank - 2];
  if (first.q > 0) n.keys = first.q + 1;
  if (ids && ids->rank == 2) n.mask_columns = ids->shape[1] + 1;
  return n;
}

int mr3d_symptoms_of_trace(mr3d_aligned *trace, int most, mr3d_symptom *found) {
  search s = {.trace = trace, .most = most, .found = found};
  mr3d_config config;
  const char *text = mr3d_bundle_get(mr3d_aligned_file(trace), "config");
  int64_t start_id = 151652, end_id = 151653; /* the options' defaults */
  if (text && mr3d_config_parse(text, &config, NULL) == MR3D_OK) start_id = config.point_start_token_id, end_id = config.point_end_token_id;
  s.layer = MR3D_TRACE_MODEL;
  s.sizes = mr3d_aligned_sizes(trace, 0);
  check_parameters(&s);
  for (int i = 0; i < mr3d_aligned_places(trace); i++) {
    s.step = mr3d_aligned_place(trace, i).step, s.layer = mr3d_aligned_place(trace, i).layer;
    s.sizes = mr3d_aligned_sizes(trace, s.step);
    if (s.layer < 0) {
      check_points(&s);
      if (s.step == 0) check_splice(&s, start_id, end_id);
      check_positions(&s, "position_ids", model_point(&s, "position_ids"));
    } else {
      check_visible(&s);
      check_heads(&s);
      check_cache_length(&s);
      check_positions(&s, "position_ids", point_at(&s, "position_ids"));
      check_cache(&s);
    }
  }
  check_finite(&s);
  check_end(&s);
  return s.count;
}
