/** P26: results that depend on the batch, or on what ran before. Races and threads are left out: a mutant answers alike every time. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mutants_internal.h"

enum { WORKSPACE = 1 << 16 };

/** Sums of squares go on from what the call before left in the workspace. */
static void workspace_not_cleared(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  (void)context;
  mr3d_bundle *memory = mr3d_mutant_memory();
  mr3d_tensor *workspace = memory ? mr3d_bundle_find(memory, "sums") : NULL;
  if (memory && !workspace) workspace = mr3d_bundle_add(memory, "sums", MR3D_F64, 1, (int64_t[]){WORKSPACE});
  for (int64_t r = 0; r < in->rows; r++) {
    const double *x = in->x + r * in->n;
    double *left = workspace && r < WORKSPACE ? (double *)workspace->data + r : NULL, sum = left ? *left : 0;
    for (int64_t i = 0; i < in->n; i++) sum += x[i] * x[i];
    if (left) *left = sum;
    const double rms = sqrt(sum / (double)in->n + in->eps);
    for (int64_t i = 0; i < in->n; i++) y[r * in->n + i] = x[i] / rms * in->weight[i];
  }
}

static void rms_of_all_rows(const mr3d_context *context, const mr3d_rmsnorm_in *in, double *y) {
  (void)context;
  const int64_t count = in->rows * in->n;
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += in->x[i] * in->x[i];
  const double rms = sqrt(sum / (double)count + in->eps);
  for (int64_t i = 0; i < count; i++) y[i] = in->x[i] / rms * in->weight[i % in->n];
}

static mr3d_status mask_by_shape(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  mr3d_status status = mr3d_mask(context, in, visible, error);
  const int64_t count = in->B * in->q * (in->L + in->q);
  char name[128];
  if (status != MR3D_OK || !memory || count == 0) return status;
  snprintf(name, sizeof name, "visible %" PRId64 " %" PRId64 " %" PRId64, in->B, in->q, in->L);
  const mr3d_tensor *kept = mr3d_bundle_find(memory, name);
  if (kept) memcpy(visible, kept->data, (size_t)count * sizeof *visible);
  else memcpy(mr3d_bundle_add(memory, name, MR3D_BOOL, 1, &count)->data, visible, (size_t)count * sizeof *visible);
  return status;
}

/** Which keys are present is kept for the longest call so far; one that is no longer takes the first columns of it. */
static mr3d_status mask_of_longest_call(const mr3d_context *context, const mr3d_mask_in *in, bool *visible, mr3d_error *error) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  mr3d_status status = mr3d_mask(context, in, visible, error);
  const int64_t K = in->L + in->q;
  char longest[64], name[64];
  if (status != MR3D_OK || !memory || in->B * in->q == 0) return status;
  snprintf(longest, sizeof longest, "longest %" PRId64, in->B);
  const char *length = mr3d_bundle_get(memory, longest);
  const int64_t columns = length ? strtoll(length, NULL, 10) : 0;
  snprintf(name, sizeof name, "present %" PRId64 " %" PRId64, in->B, K > columns ? K : columns);
  bool *present = K > columns ? mr3d_bundle_add(memory, name, MR3D_BOOL, 2, (int64_t[]){in->B, K})->data : mr3d_bundle_find(memory, name)->data;
  if (K > columns) mr3d_bundle_setf(memory, longest, "%" PRId64, K);
  for (int64_t b = 0; b < in->B; b++) {
    bool *rows = visible + b * in->q * K;
    if (K > columns) memcpy(present + b * K, rows + (in->q - 1) * K, (size_t)K * sizeof *present);
    for (int64_t i = 0; i < in->q && K <= columns; i++)
      for (int64_t j = 0; j < K; j++) rows[i * K + j] = j <= in->L + i && present[b * columns + j];
  }
  return status;
}

/** One maximum for the queries of a tile: rows that lie below it by more than binary32's exp can show become 0/0. */
static void tile_maximum_rows(const mr3d_scores *scores) {
  double max = -INFINITY;
  mr3d_scores_scale(scores);
  for (int64_t i = 0; i < scores->queries; i++)
    for (int64_t j = 0; j < scores->keys; j++)
      if (scores->visible[i * scores->K + j]) max = fmax(max, scores->s[i * scores->keys + j]);
  for (int64_t i = 0; i < scores->queries; i++) {
    const bool *visible = scores->visible + i * scores->K;
    double *s = scores->s + i * scores->keys, sum = 0;
    bool any = false;
    for (int64_t j = 0; j < scores->keys; j++) {
      const double e = visible[j] ? exp(s[j] - max) : 0;
      sum += s[j] = e < 0x1p-149 ? 0 : e;
      any = any || visible[j];
    }
    for (int64_t j = 0; j < scores->keys && any; j++) s[j] /= sum;
  }
}

static void tile_maximum(const mr3d_context *context, const mr3d_attention_in *in, double *y) { mr3d_attend_with(tile_maximum_rows, false, context, in, y); }

static void sample_1_over_0(const mr3d_context *context, const mr3d_attention_in *in, double *y) {
  const int64_t size = in->H * in->q * in->D;
  mr3d_attention(context, in, y);
  if (in->B > 1) memcpy(y, y + size, (size_t)size * sizeof *y);
}

static void tail_not_written(const mr3d_context *context, const mr3d_linear_in *in, double *y) {
  mr3d_linear(context, in, y);
  for (int64_t r = 0; r < in->rows; r++)
    for (int64_t o = in->out - in->out % 8; o < in->out; o++) y[r * in->out + o] = 0;
}

static mr3d_bundle *on_last_session(const mr3d_bundle *request) {
  mr3d_bundle *memory = mr3d_mutant_memory();
  const char *op = mr3d_bundle_get(request, "op"), *session = mr3d_bundle_get(request, "session");
  if (!memory || !op || !session) return NULL;
  if (strcmp(op, "prefill") == 0) mr3d_bundle_set(memory, "last session", session);
  const char *last = mr3d_bundle_get(memory, "last session");
  if (strcmp(op, "decode") != 0 || !last || strcmp(last, session) == 0) return NULL;
  mr3d_bundle *changed = mr3d_request_without(request, NULL);
  mr3d_bundle_set(changed, "session", last);
  return changed;
}

static const mr3d_mutant entries[] = {
    {"order-sensitivity", "workspace-not-cleared", "RMSNorm adds its sums of squares to what the call before left: the first call is right, later ones shrink", MR3D_NORMS,
     {.rmsnorm = workspace_not_cleared}},
    {"order-sensitivity", "mask-by-shape", "the attention mask of an earlier call of the same shape is used again, whatever the caller's mask says now",
     "mask " MR3D_LAYERS, {.mask = mask_by_shape}},
    {"order-sensitivity", "mask-of-longest-call", "the key mask of the longest call so far is used again for every call that is no longer", "mask " MR3D_LAYERS,
     {.mask = mask_of_longest_call}},
    {"order-sensitivity", "rms-of-all-rows", "RMSNorm takes the mean square of all rows instead of each row's own", MR3D_NORMS, {.rmsnorm = rms_of_all_rows},
     .only_whole = true},
    {"order-sensitivity", "maximum-of-tile", "softmax subtracts one maximum from 64 neighbouring queries: rows far below it become 0/0 in binary32",
     "attention " MR3D_LAYERS, {.attention = tile_maximum}, .only_whole = true},
    {"order-sensitivity", "sample-1-over-0", "the attention of sample 1 is written over that of sample 0", "attention " MR3D_LAYERS, {.attention = sample_1_over_0}},
    {"order-sensitivity", "tail-not-written", "the last columns of a product, beyond a multiple of 8, are never written and hold zeros", MR3D_PRODUCTS,
     {.linear = tail_not_written}},
    {"order-sensitivity", "last-session", "a decode step goes to the session that was prefilled last, not to the one it names", "prefill decode", {NULL},
     .decorate = on_last_session},
};
const mr3d_mutant_set mr3d_mutants_order_sensitivity = MR3D_MUTANT_SET(entries);
