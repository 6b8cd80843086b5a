/** A server with mistakes: decorated requests, the mutants' operators, distorted answers, and what is wrongly kept between requests. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "mr3d/trace.h"
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
  int n_layers; /* with mistakes of their own, where they are not in all */
  struct {
    int64_t layer;
    mr3d_operators operators;
  } layers[MR3D_MOST_PLACES];
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

/** A layer of a decoder by the operators with its mistakes, or by the reference's. The context's table is that of its server. */
static mr3d_status by_layer(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                                mr3d_error *error) {
  const mr3d_mutant_server *s = (const mr3d_mutant_server *)(const void *)((const char *)context->op - offsetof(mr3d_mutant_server, operators));
  mr3d_context own = *context;
  own.op = &mr3d_reference_operators;
  for (int i = 0; i < s->n_layers; i++)
    if (s->layers[i].layer == context->layer) own.op = &s->layers[i].operators;
  return own.op->decoder_layer(&own, config, layer, in, out, error);
}

static bool replaces_a_part_of_a_layer(const mr3d_operators *o) {
  const mr3d_operators *r = &mr3d_reference_operators;
  return o->mask != r->mask || o->rotary_table != r->rotary_table || o->rope1d != r->rope1d || o->cis3d != r->cis3d || o->rope3d != r->rope3d ||
         o->normalize_coords != r->normalize_coords || o->points_check != r->points_check || o->mixed_rope != r->mixed_rope || o->rmsnorm != r->rmsnorm ||
         o->linear != r->linear || o->swiglu != r->swiglu || o->attention != r->attention || o->attention_block != r->attention_block ||
         o->decoder_layer != r->decoder_layer;
}

/** Mistakes that are none without a second layer, or that are behind the last one. */
static bool spans_layers(const mr3d_mutant *mutant) {
  static const char *const names[] = {"cache-of-layer-0", "layer-0-for-all-layers", "final-norm-missing"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(mutant->name, names[i]) == 0) return true;
  return false;
}

static bool is_of_its_place(const mr3d_mutant_place *place) {
  const mr3d_mutant *m = place->mutant;
  const mr3d_operators *o = &m->operators, *r = &mr3d_reference_operators;
  const bool in_a_layer = mr3d_mutant_touches(m, "decoder_layer") || mr3d_mutant_touches(m, "decode");
  if (m->hangs || m->decorate || m->distort || spans_layers(m) || !in_a_layer) return false;
  return place->layer == MR3D_TRACE_MODEL ? o->rmsnorm != r->rmsnorm || o->linear != r->linear : replaces_a_part_of_a_layer(o);
}

/** Adds what a table differs in from the reference's. False: both have a mistake in one operator. */
static bool add_mistake(mr3d_operators *to, const mr3d_mutant *mutant) {
  const mr3d_mutant before = {.operators = *to};
  if (!mr3d_mutants_combine(&before, mutant)) return false;
  *to = mr3d_mutant_operators(&before, mutant);
  return true;
}

mr3d_mutant_server *mr3d_mutant_server_new_at(int n, const mr3d_mutant_place *places, const mr3d_server_options *options) {
  mr3d_mutant_server *s = mr3d_allocate(1, sizeof *s);
  mr3d_operators ends = mr3d_reference_operators;
  bool fits = n <= MR3D_MOST_PLACES;
  for (int i = 0; i < n && fits; i++) {
    int at = 0;
    while (at < s->n_layers && s->layers[at].layer != places[i].layer) at++;
    if (at == s->n_layers && places[i].layer != MR3D_TRACE_MODEL) s->layers[s->n_layers].layer = places[i].layer, s->layers[s->n_layers++].operators = mr3d_reference_operators;
    fits = is_of_its_place(&places[i]) && add_mistake(places[i].layer == MR3D_TRACE_MODEL ? &ends : &s->layers[at].operators, places[i].mutant);
  }
  if (!fits) {
    free(s);
    return NULL;
  }
  s->operators = ends;
  s->operators.decoder_layer = by_layer;
  s->memory = mr3d_bundle_new();
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

void mr3d_mutant_server_lend_memory(mr3d_mutant_server *s, const char *op, const char *config) {
  memory = s ? s->memory : NULL;
  if (!s) return;
  mr3d_bundle_setf(memory, "request", "%lld", ++s->asked);
  mr3d_bundle_set(memory, "op", op ? op : "");
  mr3d_bundle_set(memory, "config", config ? config : "");
}

mr3d_status mr3d_mutant_server_answer(mr3d_mutant_server *s, const mr3d_bundle *request, mr3d_bundle **answer, mr3d_error *error) {
  mr3d_bundle *decorated[2] = {NULL, NULL}; /* the second may borrow from the first */
  const mr3d_bundle *asked = request;
  memory = s->memory; /* requests are changed with it in sight */
  for (int i = 0; i < 2; i++) {
    if (s->mistakes[i] && s->mistakes[i]->decorate) decorated[i] = s->mistakes[i]->decorate(asked);
    if (decorated[i]) asked = decorated[i];
  }
  mr3d_mutant_server_lend_memory(s, mr3d_bundle_get(asked, "op"), mr3d_bundle_get(asked, "config"));
  mr3d_status status = mr3d_server_answer(s->server, asked, answer, error);
  for (int i = 0; i < 2 && status == MR3D_OK; i++) {
    mr3d_bundle *changed = s->mistakes[i] && s->mistakes[i]->distort ? s->mistakes[i]->distort(request, *answer) : NULL;
    if (!changed) continue;
    mr3d_bundle_free(answer);
    *answer = changed;
  }
  mr3d_bundle_free(&decorated[0]);
  mr3d_bundle_free(&decorated[1]);
  mr3d_mutant_server_lend_memory(NULL, NULL, NULL);
  return status;
}
