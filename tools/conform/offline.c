#include "offline.h"

#include <dirent.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "case_internal.h"
#include "file.h"
#include "mr3d/safetensors.h"
#include "protocol.h"

/* ---- names ---- */

/** Everything but what the envelope adds, and of the weights only the file's name: the folder differs from machine to machine. */
static void digest_of(const mr3d_bundle *request, char hex[33]) {
  mr3d_bundle *bare = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    if (strcmp(key, "protocol") == 0 || strcmp(key, "type") == 0 || strcmp(key, "id") == 0) continue;
    if (strcmp(key, "weights") == 0 && strrchr(value, '/')) value = strrchr(value, '/') + 1;
    mr3d_bundle_set(bare, key, value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(request, i);
    mr3d_bundle_borrow(bare, t->name, t->dtype, t->rank, t->shape, t->data);
  }
  void *bytes = NULL;
  size_t size = 0;
  mr3d_error error = {0};
  unsigned char digest[crypto_hash_sha256_BYTES];
  if (mr3d_safetensors_serialize(bare, &bytes, &size, &error) != MR3D_OK) abort(); /* the suite's own requests are well-formed */
  crypto_hash_sha256(digest, bytes, size);
  sodium_bin2hex(hex, 33, digest, 16);
  free(bytes);
  mr3d_bundle_free(&bare);
}

void mr3d_request_id_of(const char *test, int step, mr3d_tier tier, uint64_t seed, const mr3d_bundle *request, mr3d_request_id *id) {
  const char *op = mr3d_bundle_get(request, "op");
  *id = (mr3d_request_id){.step = step, .seed = seed};
  snprintf(id->test, sizeof id->test, "%s", test);
  snprintf(id->tier, sizeof id->tier, "%s", mr3d_tier_name(tier));
  snprintf(id->op, sizeof id->op, "%s", op ? op : "");
  snprintf(id->version, sizeof id->version, "%s", MR3D_VERSION);
  digest_of(request, id->digest);
}

void mr3d_request_id_print(const mr3d_request_id *id, char text[MR3D_REQUEST_ID_SIZE]) {
  snprintf(text, MR3D_REQUEST_ID_SIZE, "case=%s tier=%s step=%d op=%s seed=%llu mr3d=%s request=%s", id->test, id->tier, id->step, id->op,
           (unsigned long long)id->seed, id->version, id->digest);
}

bool mr3d_request_id_parse(const char *text, mr3d_request_id *id) {
  unsigned long long seed = 0;
  char again[MR3D_REQUEST_ID_SIZE];
  *id = (mr3d_request_id){0};
  int n = sscanf(text, "case=%199s tier=%7s step=%d op=%31s seed=%llu mr3d=%63s request=%32s", id->test, id->tier, &id->step, id->op, &seed,
                 id->version, id->digest);
  id->seed = seed;
  if (n == 7) mr3d_request_id_print(id, again);
  return n == 7 && strcmp(again, text) == 0;
}

void mr3d_request_name(const char *test, mr3d_tier tier, int step, char name[256]) {
  snprintf(name, 256, "%.200s.%s.%03d", test, mr3d_tier_name(tier), step);
  for (char *c = name; *c; c++)
    if (*c == '/') *c = '_';
}

/* ---- export ---- */

struct exporter {
  const mr3d_run_options *options;
  const char *folder;
  mr3d_suite *suite;
  mr3d_weights_cache *weights;
  cJSON *index, *requests, *files; /**< the index and its lists of requests and weights files */
  mr3d_exported count;
};

/** A file's entry in the index; hashed where it lies, since it may be large. */
static mr3d_status add_entry(cJSON *list, const char *folder, const char *file, cJSON **entry, mr3d_error *error) {
  char path[4200], hex[65];
  unsigned char digest[crypto_hash_sha256_BYTES];
  void *bytes;
  size_t size;
  snprintf(path, sizeof path, "%s/%s", folder, file);
  if (mr3d_map(path, &bytes, &size, error) != MR3D_OK) return error->status;
  crypto_hash_sha256(digest, bytes, size);
  mr3d_unmap(bytes, size);
  sodium_bin2hex(hex, sizeof hex, digest, sizeof digest);
  *entry = cJSON_CreateObject();
  cJSON_AddItemToArray(list, *entry);
  cJSON_AddStringToObject(*entry, "file", file);
  cJSON_AddNumberToObject(*entry, "bytes", (double)size);
  cJSON_AddStringToObject(*entry, "sha256", hex);
  return MR3D_OK;
}

static bool is_listed(const cJSON *list, const char *file) {
  for (const cJSON *item = list->child; item; item = item->next)
    if (strcmp(cJSON_GetObjectItemCaseSensitive(item, "file")->valuestring, file) == 0) return true;
  return false;
}

/** The weights file of a step, made where it is the first to need it; `path` is where it lies, `file` its name seen from the folder. */
static mr3d_status export_weights(struct exporter *e, const char *set, mr3d_tier tier, char path[4096], char file[300], mr3d_error *error) {
  char weights[4096];
  if (snprintf(weights, sizeof weights, "%s/weights", e->folder) >= (int)sizeof weights) return mr3d_fail(error, MR3D_IO, "%s: path too long", e->folder);
  if (mkdir(weights, 0777) != 0 && errno != EEXIST) return mr3d_fail(error, MR3D_IO, "%s: cannot make this folder: %s", weights, strerror(errno));
  if (mr3d_suite_weights(e->suite, set, tier, e->options->seed, weights, path, error) != MR3D_OK) return error->status;
  snprintf(file, 300, "weights/%.280s", strrchr(path, '/') + 1);
  cJSON *entry;
  if (is_listed(e->files, file)) return MR3D_OK;
  e->count.weights++;
  return add_entry(e->files, e->folder, file, &entry, error);
}

static mr3d_status save_request(struct exporter *e, const mr3d_case *test, mr3d_tier tier, int step, mr3d_bundle *request, const char *weights,
                                mr3d_error *error) {
  mr3d_request_id id;
  char text[MR3D_REQUEST_ID_SIZE], name[256], file[300], answer[300], path[4096], *local = NULL;
  cJSON *entry;
  mr3d_request_id_of(test->id, step, tier, e->options->seed, request, &id);
  mr3d_request_id_print(&id, text);
  mr3d_request_name(test->id, tier, step, name);
  snprintf(file, sizeof file, "%s.req.safetensors", name);
  snprintf(answer, sizeof answer, "%s.ans.safetensors", name);
  if (snprintf(path, sizeof path, "%s/%s", e->folder, file) >= (int)sizeof path) return mr3d_fail(error, MR3D_IO, "%s: path too long", e->folder);
  if (weights[0]) {
    local = strdup(mr3d_bundle_get(request, "weights"));
    mr3d_bundle_set(request, "weights", weights);
  }
  mr3d_bundle_set(request, "protocol", MR3D_PROTOCOL);
  mr3d_bundle_set(request, "type", "request");
  mr3d_bundle_set(request, "id", text);
  mr3d_status status = mr3d_safetensors_save(path, request, error);
  if (local) mr3d_bundle_set(request, "weights", local); /* where the reference reads it */
  free(local);
  if (status == MR3D_OK) status = add_entry(e->requests, e->folder, file, &entry, error);
  if (status != MR3D_OK) return status;
  cJSON_AddStringToObject(entry, "answer", answer);
  cJSON_AddStringToObject(entry, "case", test->id);
  cJSON_AddStringToObject(entry, "tier", mr3d_tier_name(tier));
  cJSON_AddNumberToObject(entry, "step", step);
  cJSON_AddStringToObject(entry, "op", id.op);
  cJSON_AddStringToObject(entry, "id", text);
  if (weights[0]) cJSON_AddStringToObject(entry, "weights", weights);
  e->count.requests++;
  return MR3D_OK;
}

/** All steps; a later one may depend on what the reference answers to an earlier one, never on the backend. */
static mr3d_status export_steps(struct exporter *e, const mr3d_case *test, mr3d_tier tier, mr3d_truth *truth, mr3d_bundle *requests[],
                                mr3d_bundle *answers[], mr3d_error *error) {
  mr3d_status status = MR3D_OK;
  for (int step = 0; step < test->n_steps && status == MR3D_OK; step++) {
    char path[4096], weights[300] = "";
    const char *set = test->steps[step].weights;
    if (set) status = export_weights(e, set, tier, path, weights, error);
    if (status == MR3D_OK)
      status = mr3d_case_request(e->suite, test, step, tier, e->options->seed, set ? path : NULL, answers, &requests[step], error);
    if (status == MR3D_OK) status = save_request(e, test, tier, step, requests[step], weights, error);
    if (status != MR3D_OK || test->n_steps == 1) return status;
    const mr3d_bundle *answer = NULL;
    mr3d_error refusal = {0};
    mr3d_truth_step(truth, requests[step], &answer, &refusal); /* refused where it must be: then there is no answer to build on */
    answers[step] = (mr3d_bundle *)answer;
  }
  return status;
}

static mr3d_status export_case(struct exporter *e, const mr3d_case *test, mr3d_tier tier, mr3d_error *error) {
  if (test->needs_data && !e->suite->data_dir) {
    e->count.skipped++;
    return MR3D_OK;
  }
  mr3d_bundle **requests = mr3d_allocate(test->n_steps, sizeof *requests), **answers = mr3d_allocate(test->n_steps, sizeof *answers);
  mr3d_truth *truth = mr3d_truth_new(tier, NULL, e->weights, e->options->threads);
  mr3d_status status = export_steps(e, test, tier, truth, requests, answers, error);
  mr3d_truth_free(&truth);
  for (int step = 0; step < test->n_steps; step++) mr3d_bundle_free(&requests[step]);
  free(requests);
  free(answers);
  return status;
}

static mr3d_status make_folder(const char *folder, mr3d_error *error) {
  if (mkdir(folder, 0777) != 0 && errno != EEXIST) return mr3d_fail(error, MR3D_IO, "%s: cannot make this folder: %s", folder, strerror(errno));
  DIR *all = opendir(folder);
  if (!all) return mr3d_fail(error, MR3D_IO, "%s: %s", folder, strerror(errno));
  int n = 0;
  while (readdir(all)) n++;
  closedir(all);
  if (n > 2) return mr3d_fail(error, MR3D_IO, "%s holds something already: export into a new folder, so that nothing old is taken for new", folder);
  return MR3D_OK;
}

static mr3d_status save_index(const struct exporter *e, mr3d_error *error) {
  char path[4200], *text = cJSON_Print(e->index);
  snprintf(path, sizeof path, "%s/index.json", e->folder);
  mr3d_status status = mr3d_write_file(path, text, strlen(text), error);
  cJSON_free(text);
  return status;
}

static mr3d_status export_all(struct exporter *e, mr3d_error *error) {
  const mr3d_selection *selection = &e->options->selection;
  const uint32_t tiers = selection->tiers ? selection->tiers : (1u << MR3D_N_TIERS) - 1;
  for (int i = 0; i < e->suite->n_cases; i++) {
    const mr3d_case *test = &e->suite->cases[i];
    for (int tier = 0; tier < MR3D_N_TIERS && mr3d_case_selected(test, selection); tier++)
      if (tiers & test->tiers & 1u << tier && export_case(e, test, (mr3d_tier)tier, error) != MR3D_OK)
        return mr3d_fail_in(error, "case %s at %s", test->id, mr3d_tier_name((mr3d_tier)tier));
  }
  if (e->count.requests == 0) return mr3d_fail(error, MR3D_INVALID, "the selection is empty: %d cases need the data folder (--data), no other has these tiers", e->count.skipped);
  return save_index(e, error);
}

mr3d_status mr3d_export(const mr3d_run_options *options, const char *folder, mr3d_exported *count, mr3d_error *error) {
  struct exporter e = {.options = options, .folder = folder, .index = cJSON_CreateObject(), .weights = mr3d_weights_cache_new()};
  char seed[32];
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)options->seed); /* 64 bits, more than a JSON number has */
  cJSON_AddNumberToObject(e.index, "format", 1);
  cJSON_AddStringToObject(e.index, "mr3d", MR3D_VERSION);
  cJSON_AddStringToObject(e.index, "seed", seed);
  e.requests = cJSON_AddArrayToObject(e.index, "requests");
  e.files = cJSON_AddArrayToObject(e.index, "weights");
  mr3d_status status = mr3d_suite_open(options->golden_dir, options->data_dir, &e.suite, error);
  if (status == MR3D_OK) status = mr3d_selection_check(e.suite, &options->selection, error);
  if (status == MR3D_OK) status = make_folder(folder, error);
  if (status == MR3D_OK) status = export_all(&e, error);
  mr3d_suite_close(&e.suite);
  mr3d_weights_cache_free(&e.weights);
  cJSON_Delete(e.index);
  if (status == MR3D_OK) *count = e.count;
  return status;
}
