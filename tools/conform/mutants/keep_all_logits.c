/** P16: which rows `logits_to_keep` keeps. */
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

/** What a prefill keeps by the request's own words (absent: 0), and how many tokens it has; false: no prefill, or no number. */
static bool asked_for(const mr3d_bundle *request, int64_t *keep, int64_t *q) {
  const char *op = mr3d_bundle_get(request, "op"), *text = mr3d_bundle_get(request, "logits_to_keep");
  const mr3d_tensor *embeds = mr3d_bundle_find(request, "inputs_embeds");
  if (!op || strcmp(op, "prefill") != 0 || !embeds || embeds->rank != 3) return false;
  char *end = NULL;
  *q = embeds->shape[1];
  *keep = text ? strtoll(text, &end, 10) : 0;
  return !text || (end != text && !*end);
}

static mr3d_bundle *keeping(const mr3d_bundle *request, int64_t keep) {
  mr3d_bundle *changed = mr3d_request_without(request, NULL);
  mr3d_bundle_setf(changed, "logits_to_keep", "%lld", (long long)keep);
  return changed;
}

static mr3d_bundle *zero_as_last(const mr3d_bundle *request) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep == 0 ? keeping(request, 1) : NULL;
}

static mr3d_bundle *ignored(const mr3d_bundle *request) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep > 0 ? keeping(request, 0) : NULL;
}

/** rows[q - keep:] where q - keep is negative: counted from the end again. */
static mr3d_bundle *start_wraps(const mr3d_bundle *request) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep > q && keep < 2 * q ? keeping(request, keep - q) : NULL;
}

/** rows[-keep:] with a negative keep. */
static mr3d_bundle *negative_drops(const mr3d_bundle *request) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep < 0 && keep > -q ? keeping(request, q + keep) : NULL;
}

/** The answer with rows first .. first+count-1 of a tensor [B,rows,columns] of doubles. */
static mr3d_bundle *sliced(const mr3d_bundle *answer, const char *name, int64_t first, int64_t count) {
  const mr3d_tensor *whole = mr3d_bundle_find(answer, name);
  if (!whole || whole->rank != 3 || whole->dtype != MR3D_F64 || first + count > whole->shape[1]) return NULL;
  const int64_t B = whole->shape[0], rows = whole->shape[1], columns = whole->shape[2];
  mr3d_bundle *changed = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(answer, i);
    if (tensor != whole) mr3d_bundle_copy(changed, NULL, tensor);
  }
  double *kept = mr3d_bundle_add(changed, name, MR3D_F64, 3, (int64_t[]){B, count, columns})->data;
  for (int64_t b = 0; b < B && count > 0; b++)
    memcpy(kept + b * count * columns, (const double *)whole->data + (b * rows + first) * columns, (size_t)(count * columns) * sizeof *kept);
  return changed;
}

static mr3d_bundle *none_kept(const mr3d_bundle *request, const mr3d_bundle *answer) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep == 0 ? sliced(answer, "logits", 0, 0) : NULL;
}

static mr3d_bundle *first_kept(const mr3d_bundle *request, const mr3d_bundle *answer) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep > 0 && keep < q ? sliced(answer, "logits", 0, keep) : NULL;
}

static mr3d_bundle *hidden_cut(const mr3d_bundle *request, const mr3d_bundle *answer) {
  int64_t keep, q;
  return asked_for(request, &keep, &q) && keep > 0 && keep < q ? sliced(answer, "hidden", q - keep, keep) : NULL;
}

static const mr3d_mutant entries[] = {
    {"keep-all-logits", "zero-as-none", "logits_to_keep 0 or absent keeps no row: rows[q:] instead of all rows", "prefill", {NULL}, .distort = none_kept},
    {"keep-all-logits", "zero-as-last", "logits_to_keep 0 or absent keeps the last row only, instead of all rows", "prefill", {NULL}, .decorate = zero_as_last},
    {"keep-all-logits", "from-front", "logits_to_keep keeps the first rows instead of the last", "prefill", {NULL}, .decorate = ignored, .distort = first_kept},
    {"keep-all-logits", "ignored", "logits_to_keep is ignored: logits of all rows are given", "prefill", {NULL}, .decorate = ignored},
    {"keep-all-logits", "start-wraps", "logits_to_keep above the number of new tokens gives a negative start, which counts from the end: too few rows",
     "prefill", {NULL}, .decorate = start_wraps},
    {"keep-all-logits", "negative-accepted", "a negative logits_to_keep is taken: all rows but the first ones, instead of a refusal", "prefill", {NULL},
     .decorate = negative_drops},
    {"keep-all-logits", "hidden-cut", "`hidden` is cut to the rows of the logits, instead of holding every new token", "prefill", {NULL}, .distort = hidden_cut},
};
const mr3d_mutant_set mr3d_mutants_keep_all_logits = MR3D_MUTANT_SET(entries);
