#include "trial.h"

#include <stdlib.h>
#include <string.h>

#include "thinning.h"
#include "widened_request.h"

struct mr3d_trial {
  int n_requests;
  mr3d_bundle **requests;
  const bool *refused;
  mr3d_weights_cache *weights;
  int threads;
  mr3d_thinning *thinning;
  bool has_reference; /* its results are remembered */
};

mr3d_trial *mr3d_trial_new(int n_requests, mr3d_bundle *const requests[], const bool refused[], bool refusal_due, int64_t n_tokens, const int64_t tokens[],
                           mr3d_weights_cache *weights, int threads) {
  mr3d_trial *trial = mr3d_allocate(1, sizeof *trial);
  *trial = (mr3d_trial){.n_requests = n_requests, .refused = refused, .weights = weights, .threads = threads};
  trial->requests = mr3d_allocate(n_requests, sizeof *trial->requests);
  for (int i = 0; i < n_requests; i++) trial->requests[i] = mr3d_widened_request(requests[i], !refusal_due);
  const mr3d_bundle *last = trial->requests[n_requests - 1];
  trial->thinning = mr3d_thinning_new(last, mr3d_bundle_find(last, "hidden") ? n_tokens : 0, tokens, false);
  if (mr3d_thinning_is_thin(trial->thinning)) trial->threads = 1; /* what is left is too little to share */
  return trial;
}

void mr3d_trial_free(mr3d_trial **trial_pointer) {
  mr3d_trial *trial = *trial_pointer;
  if (!trial) return;
  mr3d_thinning_free(&trial->thinning);
  for (int i = 0; i < trial->n_requests; i++) mr3d_bundle_free(&trial->requests[i]);
  free(trial->requests);
  free(trial);
  *trial_pointer = NULL;
}

bool mr3d_trial_has(const mr3d_trial *trial, int64_t token) { return mr3d_thinning_has(trial->thinning, token); }

static mr3d_bundle *answer(mr3d_trial *trial, const mr3d_mutant *mutant, const mr3d_mutant *also) {
  const mr3d_operators thin = mr3d_thinning_operators(mutant, also);
  const mr3d_server_options options = {.operators = &thin, .threads = trial->threads, .weights = trial->weights};
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant, also, &options);
  mr3d_bundle *last = NULL;
  bool alike = true;
  for (int i = 0; i < trial->n_requests && alike; i++) {
    mr3d_bundle_free(&last);
    last = mr3d_thinning_answer(trial->thinning, server, mutant, also, trial->requests[i]);
    alike = !mutant || i + 1 == trial->n_requests || (last == NULL) == trial->refused[i];
  }
  if (!alike) mr3d_bundle_free(&last);
  mr3d_mutant_server_free(&server);
  return last;
}

mr3d_bundle *mr3d_trial_answer(mr3d_trial *trial, const mr3d_mutant *mutant, const mr3d_mutant *also) {
  if (!trial->has_reference) {
    mr3d_bundle *reference = answer(trial, NULL, NULL);
    mr3d_bundle_free(&reference);
    trial->has_reference = true;
  }
  return answer(trial, mutant, also);
}
