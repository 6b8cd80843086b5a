/* Splice (spec.md 2) and mask (spec.md 4). */
#include <string.h>

#include "f32.h"

/* ---- splice ---- */

typedef struct cut {
  int64_t before, after, points; /* tokens kept before and after the points, markers included */
} cut;

static cut find_markers(call *c, int64_t sample, int64_t T, const int64_t *ids, int64_t n_points) {
  int64_t start = -1, end = -1, starts = 0, ends = 0;
  for (int64_t t = 0; t < T; t++) {
    if (ids[t] < 0 || (c->o.vocab && ids[t] >= c->o.vocab))
      refuse(c, "input_ids of sample %lld holds %lld at %lld, outside the vocabulary", (long long)sample, (long long)ids[t], (long long)t);
    if (ids[t] == c->o.start_id) start = t, starts++;
    if (ids[t] == c->o.end_id) end = t, ends++;
  }
  if (n_points < 0) refuse(c, "point_counts of sample %lld is %lld", (long long)sample, (long long)n_points);
  if (starts == 0 && ends == 0 && n_points == 0) return (cut){T, 0, 0};
  if (starts != 1 || ends != 1 || start >= end)
    refuse(
        c,
        "sample %lld with %lld points has %lld start markers (%lld) and %lld end markers (%lld)%s; expected one of each, start before end",
        (long long)sample, (long long)n_points, (long long)starts, (long long)c->o.start_id, (long long)ends, (long long)c->o.end_id,
        starts == 1 && ends == 1 ? ", the end first" : "");
  return (cut){start + 1, T - end, n_points};
}

void op_splice(call *c) {
  const array *ids = need(c, "input_ids", WHOLE, "BT"), *mask = need(c, "attention_mask", ZERO_ONE, "BT"),
              *counts = need(c, "point_counts", WHOLE, "B");
  const array *labels = may(c, "labels", WHOLE, "BT");
  only_these(c);
  const int64_t B = c->size['B'], T = c->size['T'];
  cut *cuts = scratch(c, B, sizeof *cuts);
  int64_t S = 0;
  for (int64_t b = 0; b < B; b++) {
    cuts[b] = find_markers(c, b, T, ids->i + b * T, counts->i[b]);
    const int64_t length = cuts[b].before + cuts[b].points + cuts[b].after;
    if (length > S) S = length;
  }
  int64_t *source = out_wholes(c, "source", SHAPE(B, S)), *out_mask = out_wholes(c, "attention_mask", SHAPE(B, S));
  uint8_t *point = out_truths(c, "point_token_mask", SHAPE(B, S));
  int64_t *out_labels = labels ? out_wholes(c, "labels", SHAPE(B, S)) : NULL;
  for (int64_t b = 0; b < B; b++) {
    const cut k = cuts[b];
    for (int64_t s = 0; s < S; s++) {
      const int64_t at = b * S + s, length = k.before + k.points + k.after;
      const bool padding = s >= length, is_point = s >= k.before && s < k.before + k.points;
      /* Text behind the points counts from the end; padding repeats the sample's last row. */
      source[at] = padding ? source[at - 1] : is_point ? -1 - (s - k.before) : s < k.before ? s : T - (length - s);
      point[at] = is_point;
      out_mask[at] = padding ? 0 : is_point ? 1 : mask->i[b * T + source[at]];
      if (labels) out_labels[at] = padding || is_point ? -100 : labels->i[b * T + source[at]];
    }
  }
}

/* ---- mask ---- */

visibility visible_keys(call *c, const masks *m, int64_t L, int64_t q) {
  const int64_t K = L + q, B = m->key || m->prefill ? m->B : 1;
  if (m->key && m->M > K)
    refuse(c, "the key mask has %lld columns, at most %lld = past %lld + new %lld are possible", (long long)m->M, (long long)K,
           (long long)L, (long long)q);
  if (m->key && L == 0 && m->M < q) refuse(c, "the key mask has %lld columns at prefill, expected %lld", (long long)m->M, (long long)q);
  if (m->prefill && c->o.decode_mask != SPLICED)
    refuse(c, "prefill_mask belongs to decode_mask \"spliced\", the configuration says \"pad_end\"");
  if (m->prefill && (m->L0 > K || (L == 0 && m->L0 < q)))
    refuse(c, "prefill_mask has %lld columns, past %lld + new %lld keys stand", (long long)m->L0, (long long)L, (long long)q);
  const int64_t *mask = m->prefill ? m->prefill : m->key, length = m->prefill ? m->L0 : m->M;
  uint8_t *at = scratch(c, B * q * K, 1);
  for (int64_t b = 0; b < B; b++)
    for (int64_t i = 0; i < q; i++)
      for (int64_t j = 0; j <= L + i; j++) at[(b * q + i) * K + j] = !mask || j >= length || mask[b * length + j];
  return (visibility){B, at};
}

void op_mask(call *c) {
  const array *key = may(c, "key_mask", ZERO_ONE, "BM"), *prefill = may(c, "prefill_mask", ZERO_ONE, "BP");
  only_these(c);
  const int64_t L = whole(c, "past_len", 0, -1), q = whole(c, "q_len", 0, -1);
  if (L > 1 << 30 || q > 1 << 30) refuse(c, "past_len %lld and q_len %lld are beyond any sequence", (long long)L, (long long)q);
  const int64_t K = L + q;
  const masks m = {c->size['B'], c->size['M'], c->size['P'], key ? key->i : NULL, prefill ? prefill->i : NULL};
  const visibility v = visible_keys(c, &m, L, q);
  memcpy(out_truths(c, "visible", SHAPE(v.batch, q, K)), v.at, (size_t)(v.batch * q * K));
}
