#include "splice.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../ref/model/weights.h"
#include "mr3d/trace.h"
#include "mutants.h"

/** What the subject made of the prompt; NULL: the trace does not have it. */
typedef struct spliced {
  int64_t S;
  int64_t *source;
  const int64_t *attention_mask;
  const bool *point_token_mask;
} spliced;

static const mr3d_tensor *of_model(const mr3d_aligned *trace, const char *point) { return mr3d_aligned_find((void *)(uintptr_t)trace, 0, MR3D_TRACE_MODEL, point); }

static bool is_row(const double *row, const double *of, int64_t n, double unit) {
  for (int64_t i = 0; i < n; i++)
    if (!(fabs(row[i] - of[i]) <= unit * fabs(of[i]) + 0x1p-24)) return false;
  return true;
}

/** [T,hidden]: rows of the embedding of the prompt's ids, or NULL. */
static double *embed(mr3d_weights *weights, int64_t T, const int64_t *ids, int64_t hidden) {
  const mr3d_tensor *table = mr3d_bundle_find(mr3d_weights_tensors(weights), "model.embed_tokens.weight");
  if (!table || table->rank != 2 || table->shape[1] != hidden) return NULL;
  double *rows = mr3d_allocate(T * hidden, sizeof *rows), *buffer = mr3d_allocate(hidden, sizeof *buffer);
  bool good = true;
  for (int64_t i = 0; i < T && good; i++) {
    const double *row = NULL;
    mr3d_error error = {0};
    good = ids[i] >= 0 && ids[i] < table->shape[0] && mr3d_weights_rows(weights, table, ids[i], 1, buffer, &row, &error) == MR3D_OK;
    if (good) memcpy(rows + i * hidden, row, (size_t)hidden * sizeof *row);
  }
  free(buffer);
  if (!good) free(rows);
  return good ? rows : NULL;
}

/**
 * source [S] from the rows: the text token that a row is, of several alike the expected one or else the next, or point k, counted on. False: more rows are no text than there are points.
 */
static bool rebuild(const mr3d_tensor *embeds, int64_t T, const double *text, int64_t N, const mr3d_splice_out *expected, int64_t *source) {
  const int64_t S = embeds->shape[1], hidden = embeds->shape[2];
  const double unit = embeds->dtype == MR3D_BF16 ? 0x1p-8 : embeds->dtype == MR3D_F16 ? 0x1p-10 : 0x1p-22;
  double *row = mr3d_allocate(hidden, sizeof *row);
  int64_t next = 0, points = 0;
  for (int64_t s = 0; s < S; s++) {
    const mr3d_tensor part = {.name = "row", .dtype = embeds->dtype, .rank = 1, .shape = {hidden}, .data = (char *)embeds->data + (size_t)(s * hidden) * mr3d_dtype_size(embeds->dtype)};
    mr3d_tensor_to_double(&part, row);
    int64_t found = -1;
    if (s < expected->S && expected->source[s] >= 0 && is_row(row, text + expected->source[s] * hidden, hidden, unit)) found = expected->source[s];
    for (int64_t k = 0; k < T && found < 0; k++) /* from the next on, and around */
      if (is_row(row, text + (next + k) % T * hidden, hidden, unit)) found = (next + k) % T;
    source[s] = found >= 0 ? found : -1 - points++;
    if (found >= 0) next = (found + 1) % T;
  }
  free(row);
  return points <= N; /* none where the points were left out */
}

static bool same(const spliced *mine, const mr3d_splice_out *other) {
  if (mine->S != other->S || memcmp(mine->source, other->source, (size_t)mine->S * sizeof *mine->source) != 0) return false;
  if (mine->attention_mask && memcmp(mine->attention_mask, other->attention_mask, (size_t)mine->S * sizeof *mine->attention_mask) != 0) return false;
  return memcmp(mine->point_token_mask, other->point_token_mask, (size_t)mine->S) == 0;
}

/** What is certain: the length, or the first row that is another. */
static void describe(const spliced *mine, const mr3d_splice_out *truth, char text[300]) {
  int64_t s = 0;
  while (s < mine->S && s < truth->S && mine->source[s] == truth->source[s]) s++;
  if (mine->S != truth->S) snprintf(text, 300, "it has %" PRId64 " tokens, the reference's %" PRId64, mine->S, truth->S);
  else if (s < mine->S)
    snprintf(text, 300, "token %" PRId64 " is %s%" PRId64 ", the reference's %s%" PRId64, s, mine->source[s] < 0 ? "point " : "text token ", mine->source[s] < 0 ? -1 - mine->source[s] : mine->source[s],
             truth->source[s] < 0 ? "point " : "text token ", truth->source[s] < 0 ? -1 - truth->source[s] : truth->source[s]);
  else {
    for (s = 0; s < mine->S && mine->point_token_mask[s] == truth->point_token_mask[s];) s++;
    const bool marks = s < mine->S;
    for (s = marks ? s : 0; !marks && s < mine->S && mine->attention_mask[s] == truth->attention_mask[s];) s++;
    snprintf(text, 300, "%s is %d at token %" PRId64 ", the reference's %d", marks ? "point_token_mask" : "attention_mask", marks ? mine->point_token_mask[s] : (int)mine->attention_mask[s], s,
             marks ? truth->point_token_mask[s] : (int)truth->attention_mask[s]);
  }
}

/** Names of all mistakes that splice as the subject did; `says`: what the first of them does. */
static void name_mistakes(const mr3d_splice_in *in, const spliced *mine, char looks[200], const char **says) {
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    if (!mr3d_mutant_touches(mutant, "splice") || mutant->hangs || mutant->operators.splice == mr3d_reference_operators.splice) continue;
    mr3d_splice_out out = {0};
    mr3d_error error = {0};
    if (mutant->operators.splice(&(mr3d_context){.op = &mutant->operators, .threads = 1}, in, &out, &error) == MR3D_OK && same(mine, &out)) {
      const size_t used = strlen(looks);
      snprintf(looks + used, 200 - used, "%s%s/%s", used ? ", " : "", mutant->slug, mutant->name);
      if (!used) *says = mutant->says;
    }
    mr3d_splice_free(&out);
  }
}

static bool splice(const mr3d_aligned *trace, const mr3d_config *config, mr3d_weights *weights, const mr3d_tensor *ids, const mr3d_tensor *marks, const mr3d_tensor *embeds, char looks[200],
                   char text[700]) {
  const mr3d_tensor *attention = of_model(trace, "attention_mask"), *coords = of_model(trace, "point_coords");
  const int64_t T = ids->shape[1], hidden = embeds->shape[2], N = coords && coords->rank >= 2 ? coords->shape[coords->rank - 2] : 0;
  int64_t *ones = mr3d_allocate(T, sizeof *ones);
  for (int64_t i = 0; i < T; i++) ones[i] = 1;
  const mr3d_splice_in in = {.B = 1, .T = T, .input_ids = ids->data, .attention_mask = ones, .point_counts = &N, .point_start_token_id = config->point_start_token_id,
                             .point_end_token_id = config->point_end_token_id};
  const mr3d_context context = {.op = &mr3d_reference_operators, .threads = 1};
  mr3d_splice_out truth = {0};
  mr3d_error error = {0};
  double *rows = embed(weights, T, ids->data, hidden);
  spliced mine = {.S = embeds->shape[1], .source = mr3d_allocate(embeds->shape[1], sizeof *mine.source), .point_token_mask = marks->data};
  bool differs = rows && N > 0 && mr3d_splice(&context, &in, &truth, &error) == MR3D_OK && rebuild(embeds, T, rows, N, &truth, mine.source);
  if (differs) {
    if (attention && attention->dtype == MR3D_I64 && attention->rank == 2 && attention->shape[0] == 1 && attention->shape[1] == mine.S) mine.attention_mask = attention->data;
    for (int64_t s = 0; s < mine.S && mine.attention_mask; s++) /* the prompt's own padding is where its tokens are masked out */
      if (mine.source[s] >= 0) ones[mine.source[s]] = mine.attention_mask[s];
    mr3d_splice_free(&truth);
    differs = mr3d_splice(&context, &in, &truth, &error) == MR3D_OK && !same(&mine, &truth);
  }
  if (differs) {
    char certain[300];
    const char *says = NULL;
    describe(&mine, &truth, certain);
    name_mistakes(&in, &mine, looks, &says);
    snprintf(text, 700, "step 0: the prompt is not spliced as the reference does it: %s%s%s%s%s", certain, *looks ? "; looks " : "; it is no known mistake", looks, says ? ": " : "", says ? says : "");
  }
  mr3d_splice_free(&truth);
  free(mine.source), free(rows), free(ones);
  return differs;
}

bool mr3d_splice_differs(const mr3d_aligned *trace, const mr3d_config *config, mr3d_weights *weights, char looks[200], char text[700]) {
  const mr3d_tensor *ids = of_model(trace, "input_ids"), *marks = of_model(trace, "point_token_mask"), *embeds = of_model(trace, "inputs_embeds");
  *looks = *text = 0;
  if (!weights || mr3d_aligned_is_chunked(trace) || !ids || !marks || !embeds || ids->dtype != MR3D_I64 || ids->rank != 2 || ids->shape[0] != 1 || ids->shape[1] < 2 || embeds->rank != 3 || embeds->shape[0] != 1 ||
      !mr3d_dtype_is_float(embeds->dtype) || marks->dtype != MR3D_BOOL || mr3d_tensor_count(marks) != embeds->shape[1])
    return false;
  int64_t start = -1, end = -1;
  for (int64_t i = 0; i < ids->shape[1]; i++) {
    const int64_t id = ((const int64_t *)ids->data)[i];
    if (id == config->point_start_token_id && start < 0) start = i;
    if (id == config->point_end_token_id && end < 0) end = i;
  }
  if (start < 0 || end <= start) return false;
  return splice(trace, config, weights, ids, marks, embeds, looks, text);
}
