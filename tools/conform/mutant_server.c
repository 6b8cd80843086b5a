/** A server with mistakes: decorated requests, the mutants' operators, distorted answers, and what is wrongly kept between requests. */
#include <stddef.h>
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
  mr3d_operators at_layer; /* of layer number `layer`, where the mistake is in one only */
  int64_t layer;
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

/** A layer of a decoder by the operators with the mistake, or by the reference's. The context's table is that of its server. */
static mr3d_status in_one_layer(const mr3d_context *context, const mr3d_config *config, const mr3d_layer *layer, const mr3d_block_in *in, mr3d_block_out *out,
                                mr3d_error *error) {
  const mr3d_mutant_server *s = (const mr3d_mutant_server *)(const void *)((const char *)context->op - offsetof(mr3d_mutant_server, operators));
  mr3d_context own = *context;
  own.op = context->layer == s->layer ? &s->at_layer : &mr3d_reference_operators;
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

mr3d_mutant_server *mr3d_mutant_server_new_at(const mr3d_mutant *mutant, int64_t layer, const mr3d_server_options *options) {
  const bool in_a_layer = mr3d_mutant_touches(mutant, "decoder_layer") || mr3d_mutant_touches(mutant, "decode");
  if (mutant->hangs || mutant->decorate || mutant->distort || spans_layers(mutant) || !in_a_layer || !replaces_a_part_of_a_layer(&mutant->operators)) return NULL;
  mr3d_operators operators = mr3d_reference_operators;
  operators.decoder_layer = in_one_layer;
  mr3d_server_options own = *options;
  own.operators = &operators;
  mr3d_mutant_server *s = mr3d_mutant_server_new(NULL, NULL, &own);
  s->at_layer = mutant->operators;
  s->layer = layer;
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
