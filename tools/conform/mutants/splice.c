/** P15: what is kept around the points. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

static mr3d_status mask_shifted(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++) {
    bool *mask = out->point_token_mask + b * out->S;
    for (int64_t s = out->S - 1; s > 0; s--) mask[s] = mask[s - 1];
    if (out->S > 0) mask[0] = false;
  }
  return status;
}

static mr3d_status mask_one_early(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++) {
    bool *mask = out->point_token_mask + b * out->S;
    for (int64_t s = 0; s < out->S; s++) mask[s] = s + 1 < out->S && mask[s + 1];
  }
  return status;
}

static mr3d_status points_masked_out(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t i = 0; status == MR3D_OK && i < in->B * out->S; i++)
    if (out->point_token_mask[i]) out->attention_mask[i] = 0;
  return status;
}

static mr3d_status points_before_start(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  for (int64_t b = 0; status == MR3D_OK && b < in->B; b++) {
    int64_t *source = out->source + b * out->S;
    bool *mask = out->point_token_mask + b * out->S;
    for (int64_t s = 1; s < out->S; s++) { /* the start marker wanders behind the points */
      if (!mask[s] || mask[s - 1]) continue;
      int64_t marker = source[s - 1];
      for (; s < out->S && mask[s]; s++) {
        source[s - 1] = source[s];
        mask[s - 1] = true;
      }
      source[s - 1] = marker;
      mask[s - 1] = false;
    }
  }
  return status;
}

/* ---- samples taken apart and packed again ---- */

typedef struct token {
  int64_t source, mask, label;
  bool point;
} token;

/** One sample's tokens without padding, with room for its text and points twice; start and end index its text, -1: it has no markers. */
typedef struct sample {
  const mr3d_splice_in *in;
  int64_t b, n, N, start, end;
  token *tokens;
} sample;

static token of_text(const sample *s, int64_t t) {
  int64_t at = s->b * s->in->T + t;
  return (token){t, s->in->attention_mask[at], s->in->labels ? s->in->labels[at] : 0, false};
}

static void insert(sample *s, int64_t at, token one) {
  memmove(s->tokens + at + 1, s->tokens + at, (size_t)(s->n++ - at) * sizeof one);
  s->tokens[at] = one;
}

static void remove_at(sample *s, int64_t at) {
  s->n--;
  memmove(s->tokens + at, s->tokens + at + 1, (size_t)(s->n - at) * sizeof *s->tokens);
}

static sample *taken_apart(const mr3d_splice_in *in, const mr3d_splice_out *out) {
  sample *samples = mr3d_allocate(in->B, sizeof *samples);
  for (int64_t b = 0; b < in->B; b++) {
    sample *s = &samples[b];
    *s = (sample){.in = in, .b = b, .n = in->T, .N = in->point_counts[b], .start = -1, .end = -1, .tokens = mr3d_allocate(2 * (in->T + in->point_counts[b]) + 1, sizeof(token))};
    for (int64_t t = 0; t < in->T; t++) {
      if (in->input_ids[b * in->T + t] == in->point_start_token_id) s->start = t;
      if (in->input_ids[b * in->T + t] == in->point_end_token_id) s->end = t;
    }
    if (s->start >= 0) s->n = in->T - (s->end - s->start - 1) + s->N;
    for (int64_t i = 0; i < s->n; i++) {
      int64_t at = b * out->S + i;
      s->tokens[i] = (token){out->source[at], out->attention_mask[at], out->labels ? out->labels[at] : 0, out->point_token_mask[at]};
    }
  }
  return samples;
}

/** How a batch is packed; all zero: as it should be. */
typedef struct packing {
  bool as_long_as_sample_0, left, padding_seen, first_token, label_kept;
} packing;

static void packed(const packing *how, sample *samples, const mr3d_splice_in *in, mr3d_splice_out *out) {
  int64_t S = in->B > 0 ? samples[0].n : 0;
  for (int64_t b = 0; b < in->B && !how->as_long_as_sample_0; b++) S = samples[b].n > S ? samples[b].n : S;
  mr3d_splice_free(out);
  *out = (mr3d_splice_out){S, mr3d_allocate(in->B * S, sizeof(int64_t)), mr3d_allocate(in->B * S, sizeof(int64_t)), mr3d_allocate(in->B * S, sizeof(bool)),
                           in->labels ? mr3d_allocate(in->B * S, sizeof(int64_t)) : NULL};
  for (int64_t at = 0; at < in->B * S; at++) {
    const sample *s = &samples[at / S];
    int64_t i = at % S - (how->left && s->n < S ? S - s->n : 0);
    bool padding = i < 0 || i >= s->n;
    token one = {0};
    if (s->n > 0) one = s->tokens[!padding ? i : how->first_token ? 0 : s->n - 1];
    out->source[at] = one.source;
    out->attention_mask[at] = padding ? how->padding_seen : one.mask;
    out->point_token_mask[at] = !padding && one.point;
    if (out->labels) out->labels[at] = padding && !how->label_kept ? -100 : one.label;
  }
}

static mr3d_status edited(void (*edit)(sample *, const sample *first), packing how, const mr3d_context *context, const mr3d_splice_in *in,
                          mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  if (status != MR3D_OK) return status;
  sample *samples = taken_apart(in, out);
  for (int64_t b = 0; b < in->B && edit; b++)
    if (samples[b].start >= 0) edit(&samples[b], &samples[0]);
  packed(&how, samples, in, out);
  for (int64_t b = 0; b < in->B; b++) free(samples[b].tokens);
  free(samples);
  return MR3D_OK;
}

static void drop_end(sample *s, const sample *first) { (void)first, remove_at(s, s->start + s->N + 1); }
static void drop_start(sample *s, const sample *first) { (void)first, remove_at(s, s->start); }
static void keep_pads(sample *s, const sample *first) {
  (void)first;
  for (int64_t t = s->end - 1; t > s->start; t--) insert(s, s->start + 1, of_text(s, t));
}
static void drop_one_pad(sample *s, const sample *first) {
  (void)first;
  for (int64_t t = s->end - 1; t > s->start + 1; t--) insert(s, s->start + 1, of_text(s, t));
  if (s->end == s->start + 1) remove_at(s, s->start + s->N + 1);
}
static void end_first(sample *s, const sample *first) {
  (void)first;
  remove_at(s, s->start + s->N + 1);
  insert(s, s->start + 1, of_text(s, s->end));
}
static void reverse_points(sample *s, const sample *first) {
  (void)first;
  for (int64_t k = 0; k < s->N; k++) s->tokens[s->start + 1 + k].source = -s->N + k;
}
static void mask_of_first_column(sample *s, const sample *first) {
  (void)first;
  for (int64_t k = 0; k < s->N; k++) s->tokens[s->start + 1 + k].mask = s->in->attention_mask[s->b * s->in->T];
}
static void mask_extended(sample *s, const sample *first) {
  (void)first;
  for (int64_t i = 0; i < s->n; i++) s->tokens[i].mask = i < s->in->T ? s->in->attention_mask[s->b * s->in->T + i] : 1;
}
static void label_points(sample *s, const sample *first) {
  (void)first;
  for (int64_t k = 0; k < s->N; k++) s->tokens[s->start + 1 + k].label = of_text(s, s->start + 1).label;
}
static void shift_labels(sample *s, const sample *first) {
  (void)first;
  for (int64_t i = 0; i < s->n; i++) s->tokens[i].label = i + 1 < s->n ? s->tokens[i + 1].label : -100;
}
static void mark_markers(sample *s, const sample *first) { (void)first, s->tokens[s->start].point = s->tokens[s->start + s->N + 1].point = true; }
static void place_of_sample_0(sample *s, const sample *first) {
  if (first->start < 0) return;
  s->n = 0;
  for (int64_t t = 0; t <= first->start; t++) s->tokens[s->n++] = of_text(s, t);
  for (int64_t k = 0; k < s->N; k++) s->tokens[s->n++] = (token){-1 - k, 1, -100, true};
  for (int64_t t = first->end; t < s->in->T; t++) s->tokens[s->n++] = of_text(s, t);
}

#define SPLICE(name, edit, ...)                                                                                                              \
  static mr3d_status name(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) { \
    return edited(edit, (packing){__VA_ARGS__}, context, in, out, error);                                                                   \
  }
SPLICE(end_dropped, drop_end, 0)
SPLICE(start_dropped, drop_start, 0)
SPLICE(pad_kept, keep_pads, 0)
SPLICE(one_pad_dropped, drop_one_pad, 0)
SPLICE(points_behind_end, end_first, 0)
SPLICE(points_reversed, reverse_points, 0)
SPLICE(first_column_over_points, mask_of_first_column, 0)
SPLICE(mask_extended_at_end, mask_extended, 0)
SPLICE(labels_on_points, label_points, 0)
SPLICE(labels_shifted, shift_labels, 0)
SPLICE(markers_marked, mark_markers, 0)
SPLICE(markers_of_sample_0, place_of_sample_0, 0)
SPLICE(length_of_sample_0, NULL, .as_long_as_sample_0 = true)
SPLICE(padded_left, NULL, .left = true)
SPLICE(padding_seen, NULL, .padding_seen = true)
SPLICE(padded_with_first, NULL, .first_token = true)
SPLICE(labels_in_padding, NULL, .label_kept = true)

/** Where no marker is found, the text goes through as it is. */
static mr3d_status ids_compiled_in(const mr3d_context *context, const mr3d_splice_in *in, mr3d_splice_out *out, mr3d_error *error) {
  mr3d_status status = mr3d_splice(context, in, out, error);
  mr3d_splice_in changed = *in;
  changed.point_start_token_id = 151652;
  changed.point_end_token_id = 151653;
  if (status != MR3D_OK || (in->point_start_token_id == 151652 && in->point_end_token_id == 151653)) return status;
  int64_t *none = mr3d_allocate(in->B, sizeof *none);
  mr3d_splice_free(out);
  if (mr3d_splice(context, &changed, out, NULL) != MR3D_OK) {
    changed.point_counts = none;
    status = mr3d_splice(context, &changed, out, error);
  }
  free(none);
  return status;
}

static const mr3d_mutant entries[] = {
    {"splice", "mask-shifted", "point_token_mask is shifted by one: true on start+2 .. start+N+1 instead of start+1 .. start+N", "splice", {.splice = mask_shifted}},
    {"splice", "mask-one-early", "point_token_mask is shifted by one: true on start .. start+N-1 instead of start+1 .. start+N, so the start marker counts as a point", "splice",
     {.splice = mask_one_early}},
    {"splice", "points-masked-out", "attention_mask has zeros instead of ones over the points", "splice", {.splice = points_masked_out}},
    {"splice", "points-before-start", "the points stand before the start marker instead of behind it", "splice", {.splice = points_before_start}},
    {"splice", "end-marker-dropped", "the end marker is dropped with the pad token: S is 785 instead of 786", "splice", {.splice = end_dropped}},
    {"splice", "start-marker-dropped", "the start marker is dropped: S is 785 instead of 786", "splice", {.splice = start_dropped}},
    {"splice", "pad-kept", "the pad token between the markers is kept, in front of the points: S is 787 instead of 786", "splice", {.splice = pad_kept}},
    {"splice", "one-pad-dropped", "exactly one token behind the start marker gives way to the points, whatever stands between the markers", "splice", {.splice = one_pad_dropped}},
    {"splice", "points-behind-end", "the points stand behind the end marker instead of in front of it", "splice", {.splice = points_behind_end}},
    {"splice", "points-reversed", "the points stand in reverse order", "splice", {.splice = points_reversed}},
    {"splice", "first-column-over-points", "attention_mask over the points repeats its first column instead of ones", "splice", {.splice = first_column_over_points}},
    {"splice", "mask-extended-at-end", "attention_mask is extended by ones at its end instead of spliced: its zeros stay at their index in the text", "splice", {.splice = mask_extended_at_end}},
    {"splice", "labels-on-points", "labels over the points repeat that of the pad token instead of -100", "splice", {.splice = labels_on_points}},
    {"splice", "labels-shifted", "labels are shifted by one: each token has that of the next", "splice", {.splice = labels_shifted}},
    {"splice", "markers-marked", "point_token_mask is true on the markers, too", "splice", {.splice = markers_marked}},
    {"splice", "markers-of-sample-0", "every sample is spliced where sample 0 has its markers", "splice", {.splice = markers_of_sample_0}},
    {"splice", "length-of-sample-0", "all samples are cut or padded to the length of sample 0 instead of the longest", "splice", {.splice = length_of_sample_0}},
    {"splice", "padded-left", "shorter samples are padded on the left instead of on the right", "splice", {.splice = padded_left}},
    {"splice", "padding-seen", "attention_mask has ones instead of zeros in padding", "splice", {.splice = padding_seen}},
    {"splice", "padded-with-first", "padding repeats the first token of a sample instead of its last", "splice", {.splice = padded_with_first}},
    {"splice", "labels-in-padding", "labels in padding repeat the last one instead of -100", "splice", {.splice = labels_in_padding}},
    {"splice", "ids-compiled-in", "markers are 151652 and 151653 whatever the configuration says: text with others goes through without points", "splice", {.splice = ids_compiled_in}},
};
const mr3d_mutant_set mr3d_mutants_splice = MR3D_MUTANT_SET(entries);
