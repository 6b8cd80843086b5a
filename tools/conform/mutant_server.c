/** A server with mistakes: decorated requests, the mutants' operators, distorted answers, and what is wrongly kept between requests. */
#include <stdlib.h>
#include <string.h>

#include "mutants/mutants_internal.h"

mr3d_bundle *mr3d_request_without(const mr3d_bundle *request, const char *left_out) {
  mr3d_bundle *same = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    mr3d_bundle_set(same, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(request, i);
    if (!left_out || strcmp(tensor->name, left_out) != 0) mr3d_bundle_borrow(same, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  return same;
}

struct mr3d_mutant_server {
  const mr3d_mutant *mistakes[2]; /* NULL: none */
  mr3d_operators operators;
  mr3d_server *server;
  mr3d_bundle *memory;
  long long asked;
};

static mr3d_bundle *memory; /* of the server that answers; operators have no place for it */

mr3d_bundle *mr3d_mutant_memory(void) { return memory; }

mr3d_mutant_server *mr3d_mutant_server_new(const mr3d_mutant *mutant, const mr3d_mutant *also, const mr3d_server_options *options) {
  mr3d_mutant_server *s = mr3d_allocate(1, sizeof *s);
  *s = (mr3d_mutant_server){.mistakes = {mutant, also}, .operators = options->operators ? *options->operators : mr3d_mutant_operators(mutant, also),
                            .memory = mr3d_bundle_new()};
  mr3d_server_options own = *options;
  own.operators = &s->operators;
  s->server = mr3d_server_new(&own);
  return s;
}

void mr3d_mutant_server_free(mr3d_mutant_server **pointer) {
  mr3d_mutant_server *s = *pointer;
  if (!s) return;
  mr3d_server_free(&s->server);
  mr3d_bundle_free(&s->memory);
  free(s);
  *pointer = NULL;
}

mr3d_status mr3d_mutant_server_answer(mr3d_mutant_server *s, const mr3d_bundle *request, mr3d_bundle **answer, mr3d_error *error) {
  mr3d_bundle *decorated[2] = {NULL, NULL}; /* the second may borrow from the first */
  const mr3d_bundle *asked = request;
  memory = s->memory;
  for (int i = 0; i < 2; i++) {
    if (s->mistakes[i] && s->mistakes[i]->decorate) decorated[i] = s->mistakes[i]->decorate(asked);
    if (decorated[i]) asked = decorated[i];
  }
  mr3d_bundle_setf(memory, "request", "%lld", ++s->asked);
  for (int i = 0; i < 2; i++) {
    static const char *const keys[] = {"op", "config"};
    const char *value = mr3d_bundle_get(asked, keys[i]);
    mr3d_bundle_set(memory, keys[i], value ? value : "");
  }
  mr3d_status status = mr3d_server_answer(s->server, asked, answer, error);
  for (int i = 0; i < 2 && status == MR3D_OK; i++) {
    mr3d_bundle *changed = s->mistakes[i] && s->mistakes[i]->distort ? s->mistakes[i]->distort(request, *answer) : NULL;
    if (!changed) continue;
    mr3d_bundle_free(answer);
    *answer = changed;
  }
  mr3d_bundle_free(&decorated[0]);
  mr3d_bundle_free(&decorated[1]);
  memory = NULL;
  return status;
}
