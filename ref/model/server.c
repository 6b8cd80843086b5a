#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_max_threads() 1
#define omp_set_num_threads(n) (void)(n)
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

static const struct {
  const char *name;
  mr3d_status (*answer)(mr3d_request *);
  bool part; /* the configuration may be a part of an open session's */
} operators[] = {
    {"splice", mr3d_answer_splice},
    {"mask", mr3d_answer_mask},
    {"rope1d", mr3d_answer_rope1d},
    {"cis3d", mr3d_answer_cis3d},
    {"rope3d", mr3d_answer_rope3d},
    {"normalize_coords", mr3d_answer_normalize_coords},
    {"mixed_rope", mr3d_answer_mixed_rope},
    {"rmsnorm", mr3d_answer_rmsnorm},
    {"linear", mr3d_answer_linear},
    {"swiglu", mr3d_answer_swiglu},
    {"attention", mr3d_answer_attention},
    {"attention_block", mr3d_answer_attention_block},
    {"decoder_layer", mr3d_answer_decoder_layer},
    {"prefill", mr3d_answer_prefill, true},
    {"decode", mr3d_answer_decode, true},
    {"drop_session", mr3d_answer_drop_session, true},
    {"voxelize", mr3d_answer_voxelize},
    {"token_coords", mr3d_answer_token_coords},
    {"encode_points", mr3d_answer_encode_points},
};
#define N_OPERATORS ((int)(sizeof operators / sizeof *operators))

const char *const *mr3d_server_ops(void) {
  static const char *names[N_OPERATORS + 1];
  for (int i = 0; i < N_OPERATORS; i++) names[i] = operators[i].name;
  return names;
}

mr3d_server *mr3d_server_new(const mr3d_server_options *options) {
  mr3d_server *server = mr3d_allocate(1, sizeof *server);
  server->operators = options->operators ? options->operators : &mr3d_reference_operators;
  server->arithmetic = options->arithmetic;
  server->emulate = options->emulate;
  server->with_scale = options->with_scale;
  server->kept = options->kept;
  server->squares = options->squares;
  server->finite = options->finite;
  server->init_missing = options->init_missing;
  server->init_seed = options->init_seed;
  server->tracer = options->tracer;
  server->watch = options->watch;
  server->threads = options->threads;
  server->own_weights = options->weights ? NULL : mr3d_weights_cache_new();
  server->weights = options->weights ? options->weights : server->own_weights;
  return server;
}

void mr3d_server_free(mr3d_server **server) {
  if (!*server) return;
  while ((*server)->sessions) mr3d_session_drop(&(*server)->sessions, (*server)->sessions);
  mr3d_weights_cache_free(&(*server)->own_weights);
  free(*server);
  *server = NULL;
}

/* Metadata of a frame: a request file has it too, and an answer given for a request is worth a word. */
static mr3d_status check_envelope(const mr3d_bundle *request, mr3d_error *error) {
  const char *protocol = mr3d_bundle_get(request, "protocol"), *type = mr3d_bundle_get(request, "type");
  if (protocol && strcmp(protocol, "1") != 0) return mr3d_fail(error, MR3D_INVALID, "metadata protocol is \"%.40s\", expected \"1\"", protocol);
  if (type && strcmp(type, "request") != 0) return mr3d_fail(error, MR3D_INVALID, "metadata type is \"%.40s\", expected \"request\"", type);
  return MR3D_OK;
}

static mr3d_status read_tier(mr3d_request *r) {
  const char *name;
  MR3D_TRY(mr3d_request_text(r, "tier", &name));
  r->tier = mr3d_tier_named(name);
  if (r->tier != MR3D_N_TIERS) return MR3D_OK;
  char list[96] = "";
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", tier ? ", " : "", mr3d_tier_name((mr3d_tier)tier));
  return mr3d_fail(r->error, MR3D_INVALID, "metadata tier is \"%.40s\", expected one of %s", name, list);
}

static mr3d_status answer(mr3d_request *r) {
  MR3D_TRY(check_envelope(r->bundle, r->error));
  MR3D_TRY(mr3d_request_text(r, "op", &r->op));
  int found = 0;
  while (found < N_OPERATORS && strcmp(operators[found].name, r->op) != 0) found++;
  if (found == N_OPERATORS) {
    char list[400] = "";
    for (int i = 0; i < N_OPERATORS; i++) snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", operators[i].name);
    return mr3d_fail(r->error, MR3D_INVALID, "op \"%.60s\" is unknown; known are %s", r->op, list);
  }
  mr3d_status status = read_tier(r);
  if (status == MR3D_OK) status = mr3d_request_text(r, "config", &r->config_json);
  if (status == MR3D_OK)
    status = (operators[found].part ? mr3d_config_parse_part : mr3d_config_parse)(r->config_json, &r->config, r->error);
  if (status == MR3D_OK) {
    r->units = mr3d_tier_units(r->tier);
    r->units.kept = r->server->kept;
    status = operators[found].answer(r);
  }
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(r->error, "%s", r->op);
}

mr3d_status mr3d_server_answer(mr3d_server *server, const mr3d_bundle *request, mr3d_bundle **out, mr3d_error *error) {
  mr3d_error unread = {0};
  uint64_t calls = server->answered << 32; /* each request of an emulated run draws its own thresholds */
  mr3d_request r = {
      .server = server,
      .bundle = request,
      .answer = mr3d_bundle_new(),
      .context = {.op = server->operators, .arithmetic = server->emulate ? &server->arithmetic : NULL, .threads = server->threads, .calls = &calls, .squares = server->squares},
      .with_scale = server->with_scale,
      .finite = server->finite,
      .error = error ? error : &unread,
  };
  const int callers_threads = omp_get_max_threads();
  if (server->threads > 0) omp_set_num_threads(server->threads); /* conversions and drawings of weights have no context that says how many */
  mr3d_status status = mr3d_request_trace(&r);
  if (status == MR3D_OK) status = answer(&r);
  omp_set_num_threads(callers_threads);
  for (int i = 0; i < r.n_owned; i++) free(r.owned[i]);
  free(r.owned);
  if (status == MR3D_OK) {
    server->answered++;
    *out = r.answer;
    return MR3D_OK;
  }
  mr3d_bundle_free(&r.answer);
  /* A weights file that cannot be read makes the request one that must be refused. */
  r.error->status = status = MR3D_INVALID;
  return status;
}
