#include "generation.h"

#include <stdio.h>
#include <string.h>

#include "case_internal.h"

bool mr3d_case_generates(const mr3d_case *test) {
  bool generates = false;
  for (int t = 0; t < test->n_tags; t++) generates = generates || strcmp(test->tags[t], "greedy") == 0;
  return generates && test->n_steps <= MR3D_MOST_TOKENS;
}

static int64_t chosen(const mr3d_bundle *answer) {
  const mr3d_tensor *logits = mr3d_bundle_find(answer, "logits");
  if (!logits || logits->rank != 3 || logits->shape[0] != 1 || logits->shape[1] < 1 || logits->shape[2] < 1) return -1;
  double token;
  mr3d_greedy_tokens(logits, &token);
  return (int64_t)token;
}

void mr3d_generation_note(mr3d_generation *g, int step, const mr3d_bundle *truth, const mr3d_bundle *answer) {
  if (truth) g->truth[step] = chosen(truth);
  g->own[step] = chosen(answer);
  g->n = step + 1;
}

int mr3d_generation_parts_at(const mr3d_generation *g) {
  int at = 0;
  while (at < g->n && g->own[at] == g->truth[at]) at++;
  return at;
}

static size_t say_tokens(const int64_t tokens[], int n, char *to, size_t size, size_t used) {
  for (int i = 0; i < n && used < size; i++) used += (size_t)snprintf(to + used, size - used, "%s%lld", i ? " " : "", (long long)tokens[i]);
  return used;
}

void mr3d_generation_say(const mr3d_generation *g, char *to, size_t size) {
  const int at = mr3d_generation_parts_at(g);
  size_t used = say_tokens(g->own, g->n, to, size, 0);
  if (at == g->n || used >= size) return;
  used += (size_t)snprintf(to + used, size - used, " (the truth's are ");
  used = used < size ? say_tokens(g->truth, g->n, to, size, used) : used;
  if (used < size) snprintf(to + used, size - used, ": they part at token %d of %d)", at + 1, g->n);
}
