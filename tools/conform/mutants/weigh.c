/** Attention with another softmax: for mistakes between the scores and the weights. */
#include <omp.h>
#include <stdlib.h>

#include "mutants_internal.h"

enum { TILE = 64 }; /* queries worked on together */

void mr3d_scores_scale(const mr3d_scores *scores) {
  for (int64_t i = 0; i < scores->queries * scores->keys; i++) scores->s[i] /= sqrt((double)scores->D);
}

void mr3d_scores_by_row(const mr3d_scores *scores, void (*row)(int64_t keys, const bool *visible, double *s)) {
  mr3d_scores_scale(scores);
  for (int64_t i = 0; i < scores->queries; i++) row(scores->keys, scores->visible + i * scores->K, scores->s + i * scores->keys);
}

void mr3d_softmax_row(int64_t keys, const bool *visible, double *s) {
  double max = -INFINITY, sum = 0;
  for (int64_t j = 0; j < keys; j++)
    if (visible[j] && s[j] > max) max = s[j];
  for (int64_t j = 0; j < keys; j++) sum += s[j] = visible[j] ? exp(s[j] - max) : 0;
  for (int64_t j = 0; j < keys; j++) s[j] = visible[j] ? s[j] / sum : 0;
}

/** As many keys as the tile's queries can see; all of them where a query sees none. */
static int64_t keys_seen(const bool *visible, int64_t queries, int64_t K) {
  int64_t end = 0;
  for (int64_t i = 0; i < queries; i++) {
    int64_t last = K;
    while (last > 0 && !visible[i * K + last - 1]) last--;
    if (last == 0) return K;
    if (last > end) end = last;
  }
  return end;
}

static void attend(mr3d_softmax *softmax, bool hidden_too, const mr3d_context *context, const mr3d_attention_in *in, int64_t head, int64_t first, double *y) {
  const int64_t D = in->D, K = in->K, queries = in->q - first < TILE ? in->q - first : TILE;
  const int64_t b = head / in->H, kv = (b * in->G + head % in->H / (in->H / in->G)) * K * D, at = (head * in->q + first) * D;
  const bool *visible = in->visible + (b * in->q + first) * K;
  const int64_t keys = hidden_too ? K : keys_seen(visible, queries, K);
  double *s = mr3d_allocate(queries * keys, sizeof *s), *value = mr3d_allocate(D * keys, sizeof *value); /* [D,keys] */
  mr3d_linear(context, &(mr3d_linear_in){.rows = queries, .in = D, .out = keys, .x = in->query + at, .weight = in->key + kv}, s);
  softmax(&(mr3d_scores){.queries = queries, .keys = keys, .first = first, .q = in->q, .K = K, .D = D, .visible = visible, .s = s});
  for (int64_t j = 0; j < keys; j++)
    for (int64_t d = 0; d < D; d++) value[d * keys + j] = in->value[kv + j * D + d];
  mr3d_linear(context, &(mr3d_linear_in){.rows = queries, .in = keys, .out = D, .x = s, .weight = value}, y + at);
  free(s);
  free(value);
}

void mr3d_attend_with(mr3d_softmax *softmax, bool hidden_too, const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  const mr3d_context exact = {.op = context->op, .threads = 1};
  const int64_t tiles = (in->q + TILE - 1) / TILE;
#pragma omp parallel for num_threads(context->threads > 0 ? context->threads : omp_get_num_procs()) schedule(dynamic)
  for (int64_t task = 0; task < in->B * in->H * tiles; task++) attend(softmax, hidden_too, &exact, in, task / tiles, task % tiles * TILE, y);
}
