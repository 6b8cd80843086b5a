/*
 * builtin:reference, builtin:emulated, mutant:SLUG/NAME and mutant:SLUG/NAME+SLUG/NAME: the reference in this process, whole, in the tier's own arithmetic, or with
 * one mistake, or two. mutant:SLUG/NAME@LAYER has its mistake in one layer of a decoder, mutant:SLUG/NAME@3+SLUG/NAME@model two in two places.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend_kind.h"
#include "frames.h"

#ifndef MR3D_VERSION
#define MR3D_VERSION "unknown"
#endif

typedef struct builtin {
  mr3d_mutant_server *server;
  int n;                   /* mistakes */
  mr3d_mutant_place places[MR3D_MOST_PLACES];
  bool emulates;           /* rounds to nearest wherever stacks store a value */
  mr3d_tier tier;          /* that it emulates now */
} builtin;

/* Never answers: all that can be seen of it is the time that passes. */
static void hang(double timeout, mr3d_reply *reply) {
  if (timeout <= 0)
    for (;;) pause();
  double until = mr3d_now() + timeout;
  for (double left; (left = until - mr3d_now()) > 0;)
    nanosleep(&(struct timespec){(time_t)left, (long)(1e9 * (left - (double)(time_t)left))}, NULL);
  reply->kind = MR3D_REPLY_TIMEOUT;
  snprintf(reply->message, sizeof reply->message, "no answer within %g s", timeout);
}

static void ask(mr3d_backend *backend, const mr3d_bundle *request, double timeout, mr3d_reply *reply) {
  builtin *b = backend->state;
  const char *op = mr3d_bundle_get(request, "op");
  for (int i = 0; i < b->n; i++)
    if (b->places[i].mutant->hangs && op && mr3d_mutant_touches(b->places[i].mutant, op)) {
      hang(timeout, reply);
      return;
    }
  const char *tier = mr3d_bundle_get(request, "tier");
  if (b->emulates && tier && mr3d_tier_named(tier) != b->tier) {
    b->tier = mr3d_tier_named(tier);
    backend->rest(backend);
  }
  mr3d_error error = {0};
  mr3d_status status = mr3d_mutant_server_answer(b->server, request, &reply->answer, &error);
  reply->kind = status == MR3D_OK ? MR3D_REPLY_ANSWER : MR3D_REPLY_ERROR;
  memcpy(reply->message, error.message, sizeof reply->message);
}

/** Forgets sessions, and what a mistake has wrongly kept. */
static void rest(mr3d_backend *backend) {
  builtin *b = backend->state;
  mr3d_server_options options = {.threads = backend->options.threads, .weights = backend->options.weights};
  if (b->emulates && b->tier != MR3D_N_TIERS) {
    options.emulate = true;
    options.arithmetic = mr3d_arithmetic_of(b->tier, MR3D_NEAREST, false, 0);
  }
  mr3d_mutant_server_free(&b->server);
  const bool everywhere = b->n == 0 || b->places[0].layer == MR3D_EVERY_LAYER;
  b->server = everywhere ? mr3d_mutant_server_new(b->n > 0 ? b->places[0].mutant : NULL, b->n > 1 ? b->places[1].mutant : NULL, &options) : mr3d_mutant_server_new_at(b->n, b->places, &options);
}

static void close_builtin(mr3d_backend *backend) {
  builtin *b = backend->state;
  mr3d_mutant_server_free(&b->server);
  free(b);
}

void mr3d_backend_open_builtin(mr3d_backend *backend, bool emulates, int n, const mr3d_mutant_place *places) {
  builtin *b = mr3d_allocate(1, sizeof *b);
  *b = (builtin){.n = n, .emulates = emulates, .tier = MR3D_N_TIERS};
  if (n) memcpy(b->places, places, (size_t)n * sizeof *places);
  backend->state = b, backend->ask = ask, backend->rest = rest, backend->close = close_builtin;

  const char *const *ops = mr3d_server_ops();
  int n_ops = 0;
  while (ops[n_ops]) n_ops++;
  mr3d_tier tiers[MR3D_N_TIERS];
  int n_tiers = 0;
  for (int t = 0; t < MR3D_N_TIERS; t++)
    if (!emulates || t != MR3D_FP64) tiers[n_tiers++] = (mr3d_tier)t; /* fp64 is what it computes in: its roundings cannot be emulated */
  rest(backend);
  mr3d_backend_introduce(backend, n ? "mutant" : emulates ? "emulated" : "reference", MR3D_VERSION, n_ops, ops, n_tiers, tiers);
  backend->info.traces = true;
}
