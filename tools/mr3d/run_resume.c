/**
 * --checkpoint of mr3d run: a file from which a run that was stopped goes on with the same bits.
 *
 * The file holds what a request of the model has after some of its layers: `hidden` [q,hidden], `N.key` and `N.value` [G,tokens,D] of every layer
 * that has any, the `tokens` generated so far, and in its metadata the request's number (`step`), the layers done (`layer`) and digests of
 * all that the values depend on. A run that resumes sends all its requests again; layers that the file answers for are not computed.
 */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mr3d/safetensors.h"
#include "run_parts.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what a run's values depend on ---- */

static const char *const input_names[] = {"suite", "weights", "configuration", "prompt", "points", "embeddings", "requests"};
#define N_INPUTS ((int)(sizeof input_names / sizeof *input_names))

static void set_digest(mr3d_bundle *inputs, const char *name, const void *bytes, int64_t size) {
  unsigned char digest[crypto_hash_sha256_BYTES];
  char text[2 * sizeof digest + 1];
  crypto_hash_sha256(digest, bytes ? bytes : "", (unsigned long long)(bytes ? size : 0));
  sodium_bin2hex(text, sizeof text, digest, sizeof digest);
  mr3d_bundle_set(inputs, name, text);
}

static mr3d_bundle *inputs_of(const mr3d_run *r, const double *embeds) {
  mr3d_bundle *inputs = mr3d_bundle_new();
  char *weights = mr3d_weights_identity(r->model);
  mr3d_bundle_set(inputs, "suite", MR3D_VERSION);
  set_digest(inputs, "weights", weights, (int64_t)strlen(weights));
  set_digest(inputs, "configuration", r->config_text, (int64_t)strlen(r->config_text));
  set_digest(inputs, "prompt", r->ids, r->T * (int64_t)sizeof *r->ids);
  set_digest(inputs, "points", r->tokens.coords, 3 * r->tokens.N * (int64_t)sizeof *r->tokens.coords);
  set_digest(inputs, "embeddings", embeds, r->splice.S * r->ends.embed_tokens->shape[1] * (int64_t)sizeof *embeds);
  set_digest(inputs, "requests", r->forced, r->n_forced * (int64_t)sizeof *r->forced);
  mr3d_bundle_setf(inputs, "requests", "chunks of %" PRId64 ", forced %s", r->chunk, r->forced ? mr3d_bundle_get(inputs, "requests") : "by no ids");
  free(weights);
  return inputs;
}

/* ---- writing ---- */

static mr3d_status write_all(int file, const char *bytes, size_t size) {
  while (size > 0) {
    const ssize_t written = write(file, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return MR3D_IO;
    bytes += written;
    size -= (size_t)written;
  }
  return MR3D_OK;
}

/* Replaces the file at once: whatever happens, power lost included, there is the old one or the new one. */
static mr3d_status replace(const char *path, const mr3d_bundle *bundle, mr3d_error *error) {
  void *bytes;
  size_t size;
  char fresh[4200];
  MR3D_TRY(mr3d_safetensors_serialize(bundle, &bytes, &size, error));
  snprintf(fresh, sizeof fresh, "%s.new", path);
  const int file = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  bool good = file >= 0 && write_all(file, bytes, size) == MR3D_OK && fdatasync(file) == 0;
  int reason = errno;
  if (file >= 0) close(file);
  free(bytes);
  if (good && rename(fresh, path) == 0) return MR3D_OK;
  if (good) reason = errno;
  if (file >= 0) unlink(fresh);
  return mr3d_fail(error, MR3D_IO, "--checkpoint %s: could not write it: %s", path, strerror(reason));
}

static void add_inputs(const mr3d_run_resume *resume, mr3d_bundle *file) {
  for (int i = 0; i < N_INPUTS; i++) mr3d_bundle_set(file, input_names[i], mr3d_bundle_get(resume->inputs, input_names[i]));
}

/* A file of this step; `call` NULL: nothing is computed yet. */
static mr3d_status save(const mr3d_run_resume *resume, const mr3d_call_state *call, mr3d_error *error) {
  mr3d_bundle *file = mr3d_bundle_new();
  char name[40];
  add_inputs(resume, file);
  mr3d_bundle_setf(file, "step", "%" PRId64, resume->step);
  mr3d_bundle_setf(file, "layer", "%" PRId64, call ? call->done : 0);
  const int64_t generated = resume->step - mr3d_run_prefills(resume->run) + 1;
  if (generated > 0) mr3d_bundle_borrow(file, "tokens", MR3D_I64, 1, &generated, resume->tokens);
  if (call) mr3d_bundle_borrow(file, "hidden", MR3D_F64, 2, (int64_t[]){call->q, call->hidden_size}, call->hidden);
  for (int64_t n = 0; call && n < call->layers; n++) {
    const bool done = n < call->done;
    const int64_t shape[3] = {call->kv_heads, call->L + (done ? call->q : 0), call->head_dim};
    if (shape[1] == 0) continue;
    snprintf(name, sizeof name, "%" PRId64 ".key", n);
    mr3d_bundle_borrow(file, name, MR3D_F64, 3, shape, done ? call->key[n] : call->past_key[n]);
    snprintf(name, sizeof name, "%" PRId64 ".value", n);
    mr3d_bundle_borrow(file, name, MR3D_F64, 3, shape, done ? call->value[n] : call->past_value[n]);
  }
  const mr3d_status status = replace(resume->path, file, error);
  mr3d_bundle_free(&file);
  return status;
}

void mr3d_run_resume_layer_done(mr3d_run_resume *resume, const mr3d_call_state *call) {
  if (!resume->path || now() - resume->saved < resume->every) return;
  mr3d_error error = {0};
  if (save(resume, call, &error) && !resume->failed) mr3d_complain("%s; the run goes on, the checkpoint stays as it was", error.message);
  resume->failed = error.message[0] != 0;
  resume->saved = now();
}

/* ---- reading ---- */

static mr3d_status check_inputs(const mr3d_run_resume *resume, mr3d_error *error) {
  char differs[200] = "";
  for (int i = 0; i < N_INPUTS; i++) {
    const char *found = mr3d_bundle_get(resume->found, input_names[i]);
    if (!found) return mr3d_fail(error, MR3D_INVALID, "--checkpoint %s is no checkpoint of mr3d run: metadata %s is missing; give another name", resume->path, input_names[i]);
    if (strcmp(found, mr3d_bundle_get(resume->inputs, input_names[i])) != 0)
      snprintf(differs + strlen(differs), sizeof differs - strlen(differs), "%s%s", *differs ? ", " : "", input_names[i]);
  }
  if (!*differs) return MR3D_OK;
  return mr3d_fail(error, MR3D_INVALID, "--checkpoint %s is of another run, which differs in: %s. Repeat that run as it was, or remove the file to start anew", resume->path, differs);
}

static bool has(const mr3d_bundle *file, const char *name, mr3d_dtype dtype, int rank, const int64_t *shape) {
  const mr3d_tensor *tensor = mr3d_bundle_find(file, name);
  return tensor && tensor->dtype == dtype && tensor->rank == rank && memcmp(tensor->shape, shape, (size_t)rank * sizeof *shape) == 0;
}

/* Whether the file holds all that its step and layer say. */
static bool is_whole(const mr3d_run_resume *resume) {
  const mr3d_run *r = resume->run;
  const mr3d_config *config = &r->config;
  if (resume->found_step < 0 || resume->found_layer < 0 || resume->found_step >= mr3d_run_requests(r) || resume->found_layer > config->num_hidden_layers) return false;
  const mr3d_run_sizes call = mr3d_run_request_sizes(r, resume->found_step);
  const int64_t generated = resume->found_step - mr3d_run_prefills(r) + 1;
  if (generated > 0 && !has(resume->found, "tokens", MR3D_I64, 1, &generated)) return false;
  if (resume->found_layer && !has(resume->found, "hidden", MR3D_F64, 2, (int64_t[]){call.q, r->ends.embed_tokens->shape[1]})) return false;
  for (int64_t n = 0; n < config->num_hidden_layers; n++) {
    const int64_t shape[3] = {config->num_key_value_heads, n < resume->found_layer ? call.K : call.K - call.q, config->head_dim};
    char key[40], value[40];
    snprintf(key, sizeof key, "%" PRId64 ".key", n);
    snprintf(value, sizeof value, "%" PRId64 ".value", n);
    if (shape[1] && !(has(resume->found, key, MR3D_F64, 3, shape) && has(resume->found, value, MR3D_F64, 3, shape))) return false;
  }
  return true;
}

static mr3d_status load(mr3d_run_resume *resume, int64_t *tokens, mr3d_error *error) {
  if (mr3d_safetensors_open(resume->path, 0, &resume->found, error)) return mr3d_fail_in(error, "--checkpoint");
  MR3D_TRY(check_inputs(resume, error));
  const char *step = mr3d_bundle_get(resume->found, "step"), *layer = mr3d_bundle_get(resume->found, "layer");
  resume->found_step = step ? strtoll(step, NULL, 10) : -1;
  resume->found_layer = layer ? strtoll(layer, NULL, 10) : -1;
  if (!is_whole(resume))
    return mr3d_fail(error, MR3D_INVALID, "--checkpoint %s: its tensors do not fit request %.20s, layer %.20s of this run of %" PRId64 " requests; were --steps more before? Remove it to start anew",
                     resume->path, step ? step : "?", layer ? layer : "?", mr3d_run_requests(resume->run));
  const mr3d_tensor *found = mr3d_bundle_find(resume->found, "tokens");
  if (found) memcpy(tokens, found->data, (size_t)found->shape[0] * sizeof *tokens);
  return MR3D_OK;
}

mr3d_status mr3d_run_resume_open(mr3d_run_resume *resume, const mr3d_run *r, const double *embeds, int64_t *tokens, mr3d_error *error) {
  *resume = (mr3d_run_resume){.path = r->checkpoint, .every = r->checkpoint_every, .run = r, .tokens = tokens};
  if (!resume->path) return MR3D_OK;
  resume->inputs = inputs_of(r, embeds);
  resume->saved = now();
  if (access(resume->path, F_OK) == 0) return load(resume, tokens, error);
  return save(resume, NULL, error); /* a place that cannot be written is found before hours of work */
}

bool mr3d_run_resume_knows(const mr3d_run_resume *resume, int64_t step) { return resume->found && step < resume->found_step; }

/* What the file holds of a layer, where it is as long as this request makes it: else a later request brings the length, and no one reads this one's. */
static void fill(const mr3d_run_resume *resume, const mr3d_call_state *call, int64_t layer, const char *part, double *to) {
  char name[40];
  snprintf(name, sizeof name, "%" PRId64 ".%s", layer, part);
  const mr3d_tensor *found = mr3d_bundle_find(resume->found, name);
  if (found && found->shape[1] == call->L + call->q) memcpy(to, found->data, (size_t)mr3d_tensor_count(found) * sizeof *to);
}

int64_t mr3d_run_resume_start(const mr3d_run_resume *resume, const mr3d_call_state *call) {
  if (!resume->found || resume->step > resume->found_step) return 0;
  const bool known = resume->step < resume->found_step; /* then nothing but the keys and values is used of it */
  const int64_t done = known ? call->layers : resume->found_layer;
  for (int64_t n = 0; n < done; n++) {
    fill(resume, call, n, "key", call->key[n]);
    fill(resume, call, n, "value", call->value[n]);
  }
  if (done && !known) memcpy(call->hidden, mr3d_bundle_find(resume->found, "hidden")->data, (size_t)(call->q * call->hidden_size) * sizeof *call->hidden);
  return done;
}

void mr3d_run_resume_close(mr3d_run_resume *resume, bool finished) {
  if (resume->path && finished) unlink(resume->path);
  mr3d_bundle_free(&resume->inputs);
  mr3d_bundle_free(&resume->found);
}
