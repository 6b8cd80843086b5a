#include "repeat.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "judge_internal.h"
#include "mr3d/random.h"
#include "report.h"

struct kept_step {
  mr3d_reply_kind kind;
  mr3d_bundle *answer; /* NULL: none, or no room */
  unsigned char digest[32];
};

struct kept_result {
  const mr3d_case *after;
  int n_steps;
  struct kept_step *steps;
};

struct mr3d_memory {
  uint64_t room;
  int n;
  struct kept_result *results;
};

mr3d_memory *mr3d_memory_new(int n_results, uint64_t room) {
  mr3d_memory *memory = mr3d_allocate(1, sizeof *memory);
  *memory = (mr3d_memory){.room = room, .n = n_results, .results = mr3d_allocate(n_results, sizeof *memory->results)};
  return memory;
}

void mr3d_memory_free(mr3d_memory **pointer) {
  mr3d_memory *memory = *pointer;
  if (!memory) return;
  for (int i = 0; i < memory->n; i++) {
    for (int s = 0; s < memory->results[i].n_steps; s++) mr3d_bundle_free(&memory->results[i].steps[s].answer);
    free(memory->results[i].steps);
  }
  free(memory->results);
  free(memory);
  *pointer = NULL;
}

static uint64_t bytes_of(const mr3d_tensor *tensor) { return (uint64_t)mr3d_tensor_count(tensor) * mr3d_dtype_size(tensor->dtype); }

static void digest(const mr3d_bundle *answer, unsigned char digest[32]) {
  crypto_generichash_state state;
  crypto_generichash_init(&state, NULL, 0, 32);
  for (int i = 0; i < mr3d_bundle_count(answer); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(answer, i);
    crypto_generichash_update(&state, (const unsigned char *)t->name, strlen(t->name) + 1);
    crypto_generichash_update(&state, (const unsigned char *)&t->dtype, sizeof t->dtype);
    crypto_generichash_update(&state, (const unsigned char *)t->shape, (size_t)t->rank * sizeof *t->shape);
    crypto_generichash_update(&state, t->data, bytes_of(t));
  }
  crypto_generichash_final(&state, digest, 32);
}

void mr3d_memory_keep(mr3d_memory *memory, int result, int step, const mr3d_case *after, mr3d_reply *reply) {
  struct kept_result *r = &memory->results[result];
  struct kept_step *more = mr3d_allocate(step + 1, sizeof *more);
  if (r->n_steps > 0) memcpy(more, r->steps, (size_t)r->n_steps * sizeof *more);
  free(r->steps);
  r->steps = more;
  r->n_steps = step + 1;
  r->after = after;
  more[step].kind = reply->kind;
  if (!reply->answer) return;
  uint64_t size = 0;
  for (int i = 0; i < mr3d_bundle_count(reply->answer); i++) size += bytes_of(mr3d_bundle_at(reply->answer, i));
  if (size > memory->room) {
    digest(reply->answer, more[step].digest);
    return;
  }
  memory->room -= size;
  more[step].answer = reply->answer;
  reply->answer = NULL;
}

static bool same_form(const mr3d_tensor *a, const mr3d_tensor *b) {
  return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

static double value_at(const mr3d_tensor *tensor, int64_t i) {
  const mr3d_tensor one = {.dtype = tensor->dtype, .rank = 0, .data = (char *)tensor->data + (size_t)i * mr3d_dtype_size(tensor->dtype)};
  double value = 0;
  mr3d_tensor_to_double(&one, &value);
  return value;
}

static bool tensor_differs(const mr3d_tensor *first, const mr3d_tensor *again, mr3d_difference *d) {
  if (again && same_form(first, again)) {
    const size_t size = mr3d_dtype_size(first->dtype);
    int64_t i = 0, count = mr3d_tensor_count(first);
    if (memcmp(first->data, again->data, bytes_of(first)) == 0) return false;
    while (i < count && memcmp((char *)first->data + (size_t)i * size, (char *)again->data + (size_t)i * size, size) == 0) i++;
    mr3d_index_text(first, i, false, d->index);
    d->first = value_at(first, i), d->again = value_at(again, i);
  }
  snprintf(d->tensor, sizeof d->tensor, "%s", first->name);
  return true;
}

bool mr3d_memory_differs(const mr3d_memory *memory, int result, int step, const mr3d_reply *reply, mr3d_difference *d) {
  const struct kept_step *kept = &memory->results[result].steps[step];
  *d = (mr3d_difference){.step = step, .first_kind = kept->kind, .kind = reply->kind, .first_after = memory->results[result].after};
  if (kept->kind != reply->kind) return true;
  if (reply->kind != MR3D_REPLY_ANSWER) return false;
  if (!kept->answer) {
    unsigned char now[32];
    digest(reply->answer, now);
    return memcmp(now, kept->digest, sizeof now) != 0;
  }
  for (int i = 0; i < mr3d_bundle_count(kept->answer); i++) {
    const mr3d_tensor *first = mr3d_bundle_at(kept->answer, i);
    if (tensor_differs(first, mr3d_bundle_find(reply->answer, first->name), d)) return true;
  }
  return mr3d_bundle_count(reply->answer) != mr3d_bundle_count(kept->answer);
}

struct card {
  uint64_t word;
  int index;
};

static int by_word(const void *a, const void *b) {
  const uint64_t x = ((const struct card *)a)->word, y = ((const struct card *)b)->word;
  return (x > y) - (x < y);
}

void mr3d_shuffle(uint64_t seed, int repetition, int n, int order[]) {
  char name[32];
  struct card *cards = mr3d_allocate(n, sizeof *cards);
  snprintf(name, sizeof name, "order/%d", repetition);
  for (int i = 0; i < n; i++) cards[i] = (struct card){mr3d_random_raw(mr3d_stream_named(seed, name), (uint64_t)i), i};
  qsort(cards, (size_t)n, sizeof *cards, by_word);
  for (int i = 0; i < n; i++) order[i] = cards[i].index;
  free(cards);
}

void mr3d_difference_say(const mr3d_difference *d, const mr3d_result *result, char *to, size_t size) {
  int n = snprintf(to, size, "step %d (%s), asked again (time %d): ", d->step, result->test->steps[d->step].op, d->repetition);
  if (d->kind != d->first_kind) n += snprintf(to + n, size - (size_t)n, "the reply is %s, the first was %s", mr3d_reply_name(d->kind), mr3d_reply_name(d->first_kind));
  else if (d->index[0]) n += snprintf(to + n, size - (size_t)n, "\"%s\" at %s is %.17g, the first time it was %.17g", d->tensor, d->index, d->again, d->first);
  else if (d->tensor[0]) n += snprintf(to + n, size - (size_t)n, "\"%s\" has another type or shape than the first time, or is missing", d->tensor);
  else n += snprintf(to + n, size - (size_t)n, "the answer is another than the first, which was too large to be kept whole");
  n += snprintf(to + n, size - (size_t)n, " (asked after %.100s, the first time after %.100s", d->after ? d->after->id : "nothing", d->first_after ? d->first_after->id : "nothing");
  if (d->threads) n += snprintf(to + n, size - (size_t)n, "; it was given %d thread%s this time", d->threads, d->threads == 1 ? "" : "s");
  snprintf(to + n, size - (size_t)n, ")");
}
