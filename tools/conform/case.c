#include "case_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "file.h"
#include "json.h"
#include "mr3d/safetensors.h"

static const char *const levels[] = {"L0", "L1", "L2", "L3", "L4", "L5", NULL};
static const char *const case_keys[] = {"id",     "title",   "why",   "level", "pitfalls", "tags",
                                        "config", "weights", "tiers", "needs", "steps",    NULL};
static const char *const step_keys[] = {"op", "meta", "inputs", "config", "weights", "expect", "message", NULL};

mr3d_status mr3d_read_json(const char *path, cJSON **json, mr3d_error *error) {
  void *bytes;
  size_t size;
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK) return status;
  status = mr3d_json_parse(bytes, size, MR3D_JSON_ANY_NUMBER, json, error);
  mr3d_unmap(bytes, size);
  return status == MR3D_OK ? MR3D_OK : mr3d_fail_in(error, "%s", path);
}

static bool listed(const char *word, const char *const *list) {
  for (; *list; list++)
    if (strcmp(word, *list) == 0) return true;
  return false;
}

/** Errors name the case (or weight set) they are about: `place`. */
static mr3d_status check_keys(const cJSON *object, const char *const *known, const char *place, mr3d_error *error) {
  if (!cJSON_IsObject(object)) return mr3d_fail(error, MR3D_FORMAT, "%s: expected a JSON object", place);
  for (const cJSON *item = object->child; item; item = item->next) {
    if (listed(item->string, known)) continue;
    char list[256] = "";
    for (int i = 0; known[i]; i++) {
      strncat(list, i ? ", " : "", sizeof list - strlen(list) - 1);
      strncat(list, known[i], sizeof list - strlen(list) - 1);
    }
    return mr3d_fail(error, MR3D_FORMAT, "%s: unknown key \"%s\"; expected one of %s", place, item->string, list);
  }
  return MR3D_OK;
}

static mr3d_status text_of(const cJSON *object, const char *key, bool needed, const char *place, const char **text, mr3d_error *error) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  if (item ? !cJSON_IsString(item) : needed)
    return mr3d_fail(error, MR3D_FORMAT, "%s: key \"%s\" %s; expected a string", place, key, item ? "has another type" : "is missing");
  *text = item ? item->valuestring : NULL;
  return MR3D_OK;
}

/** A list of strings (absent: empty) as an array that is the case's. */
static mr3d_status texts_of(const cJSON *object, const char *key, const char *place, int *count, const char *const **texts,
                            mr3d_error *error) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, key), *item;
  if (list && !cJSON_IsArray(list)) return mr3d_fail(error, MR3D_FORMAT, "%s: key \"%s\" must be a list of strings", place, key);
  int n = list ? cJSON_GetArraySize(list) : 0, i = 0;
  const char **out = mr3d_allocate(n, sizeof *out);
  cJSON_ArrayForEach (item, list) {
    if (!cJSON_IsString(item)) {
      free(out);
      return mr3d_fail(error, MR3D_FORMAT, "%s: key \"%s\" must be a list of strings", place, key);
    }
    out[i++] = item->valuestring;
  }
  *count = n;
  *texts = out;
  return MR3D_OK;
}

static mr3d_status tiers_of(const cJSON *object, const char *place, uint32_t *tiers, mr3d_error *error) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "tiers"), *item;
  *tiers = list ? 0 : (1u << MR3D_N_TIERS) - 1;
  if (list && !cJSON_IsArray(list)) return mr3d_fail(error, MR3D_FORMAT, "%s: key \"tiers\" must be a list of tiers", place);
  cJSON_ArrayForEach (item, list) {
    mr3d_tier tier = cJSON_IsString(item) ? mr3d_tier_named(item->valuestring) : MR3D_N_TIERS;
    if (tier == MR3D_N_TIERS)
      return mr3d_fail(error, MR3D_FORMAT, "%s: unknown tier %s; expected fp64, fp32, tf32, bf16 or fp16", place,
                       cJSON_IsString(item) ? item->valuestring : "(not a string)");
    *tiers |= 1u << tier;
  }
  return MR3D_OK;
}

/** Every recipe of an object of recipes: a step's inputs, or a weight set. */
static mr3d_status check_recipes(const cJSON *recipes, const char *place, mr3d_error *error) {
  if (!cJSON_IsObject(recipes)) return mr3d_fail(error, MR3D_FORMAT, "%s: expected an object of tensor names and recipes", place);
  for (const cJSON *recipe = recipes->child; recipe; recipe = recipe->next)
    if (mr3d_recipe_check(recipe, error) != MR3D_OK) return mr3d_fail_in(error, "%s, tensor \"%s\"", place, recipe->string);
  return MR3D_OK;
}

static mr3d_status check_weights(const mr3d_suite *suite, const char *set, const char *place, mr3d_error *error) {
  if (set && !cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(suite->root, "weights"), set))
    return mr3d_fail(error, MR3D_FORMAT, "%s: weight set \"%s\" is not among \"weights\"", place, set);
  return MR3D_OK;
}

/** The keys of an object as an array that is the step's. */
static void name_inputs(const cJSON *inputs, mr3d_step *step) {
  const char **names = mr3d_allocate(inputs ? cJSON_GetArraySize(inputs) : 0, sizeof *names);
  for (const cJSON *item = inputs ? inputs->child : NULL; item; item = item->next) {
    names[step->n_inputs++] = item->string;
    step->feeds = step->feeds || cJSON_GetObjectItemCaseSensitive(item, "argmax");
  }
  step->inputs = names;
}

static mr3d_status parse_step(const mr3d_suite *suite, const cJSON *json, const mr3d_case *test, const char *place, mr3d_step *step,
                              mr3d_error *error) {
  const char *expect;
  const cJSON *inputs = cJSON_GetObjectItemCaseSensitive(json, "inputs"), *meta = cJSON_GetObjectItemCaseSensitive(json, "meta"),
              *config = cJSON_GetObjectItemCaseSensitive(json, "config");
  mr3d_status status = check_keys(json, step_keys, place, error);
  if (status == MR3D_OK) status = text_of(json, "op", true, place, &step->op, error);
  if (status == MR3D_OK) status = text_of(json, "expect", false, place, &expect, error);
  if (status == MR3D_OK) status = text_of(json, "weights", false, place, &step->weights, error);
  if (status == MR3D_OK) status = texts_of(json, "message", place, &step->n_message, &step->message, error);
  if (status == MR3D_OK && inputs) status = check_recipes(inputs, place, error);
  if (status != MR3D_OK) return status;
  name_inputs(inputs, step);

  if (expect && strcmp(expect, "error") != 0)
    return mr3d_fail(error, MR3D_FORMAT, "%s: \"expect\" is \"%s\"; expected \"error\", or no such key", place, expect);
  step->expect_error = expect != NULL;
  if (step->n_message && !expect) return mr3d_fail(error, MR3D_FORMAT, "%s: \"message\" goes only with \"expect\": \"error\"", place);
  if (config && !cJSON_IsObject(config)) return mr3d_fail(error, MR3D_FORMAT, "%s: \"config\" must be a JSON object", place);
  if (meta && !cJSON_IsObject(meta)) return mr3d_fail(error, MR3D_FORMAT, "%s: \"meta\" must be an object of strings", place);
  for (const cJSON *item = meta ? meta->child : NULL; item; item = item->next)
    if (!cJSON_IsString(item)) return mr3d_fail(error, MR3D_FORMAT, "%s: metadata \"%s\" must be a string", place, item->string);
  if (!step->weights) step->weights = test->weights;
  if (strcmp(step->op, "prefill") != 0 && strcmp(step->op, "encode_points") != 0) step->weights = NULL;
  return check_weights(suite, step->weights, place, error);
}

/** The step's operator that the id begins with, written with hyphens there. */
static mr3d_status name_op(mr3d_case *test, mr3d_error *error) {
  for (int s = 0; s < test->n_steps && !test->op; s++) {
    const char *a = test->id, *b = test->steps[s].op;
    while (*b && *a == (*b == '_' ? '-' : *b)) a++, b++;
    if (!*b && *a == '/') test->op = test->steps[s].op;
  }
  if (test->op) return MR3D_OK;
  return mr3d_fail(error, MR3D_FORMAT, "case %s: none of its steps asks the operator that its id begins with", test->id);
}

static mr3d_status parse_case(const mr3d_suite *suite, const cJSON *json, mr3d_case *test, mr3d_error *error) {
  char place[256] = "a case";
  mr3d_status status = text_of(json, "id", true, place, &test->id, error);
  if (status != MR3D_OK) return status;
  snprintf(place, sizeof place, "case %s", test->id);
  const char *needs;
  const cJSON *config = cJSON_GetObjectItemCaseSensitive(json, "config"), *steps = cJSON_GetObjectItemCaseSensitive(json, "steps"), *item;
  status = check_keys(json, case_keys, place, error);
  if (status == MR3D_OK) status = text_of(json, "title", true, place, &test->title, error);
  if (status == MR3D_OK) status = text_of(json, "why", true, place, &test->why, error);
  if (status == MR3D_OK) status = text_of(json, "level", true, place, &test->level, error);
  if (status == MR3D_OK) status = text_of(json, "weights", false, place, &test->weights, error);
  if (status == MR3D_OK) status = text_of(json, "needs", false, place, &needs, error);
  if (status == MR3D_OK) status = texts_of(json, "pitfalls", place, &test->n_pitfalls, &test->pitfalls, error);
  if (status == MR3D_OK) status = texts_of(json, "tags", place, &test->n_tags, &test->tags, error);
  if (status == MR3D_OK) status = tiers_of(json, place, &test->tiers, error);
  if (status == MR3D_OK) status = check_weights(suite, test->weights, place, error);
  if (status != MR3D_OK) return status;

  if (strspn(test->id, "abcdefghijklmnopqrstuvwxyz0123456789-/") != strlen(test->id) || !strchr(test->id, '/') || test->id[0] == '/' ||
      test->id[strlen(test->id) - 1] == '/' || strstr(test->id, "//"))
    return mr3d_fail(error, MR3D_FORMAT, "%s: an id is made of [a-z0-9-]+ parts, at least two, joined by /", place);
  if (!listed(test->level, levels)) return mr3d_fail(error, MR3D_FORMAT, "%s: unknown level \"%s\"; expected L0 .. L5", place, test->level);
  if (needs && strcmp(needs, "data") != 0)
    return mr3d_fail(error, MR3D_FORMAT, "%s: \"needs\" is \"%s\"; expected \"data\", or no such key", place, needs);
  test->needs_data = needs != NULL;
  if (!cJSON_IsObject(config)) return mr3d_fail(error, MR3D_FORMAT, "%s: \"config\" must be a JSON object", place);
  test->config = cJSON_PrintUnformatted(config);
  if (!cJSON_IsArray(steps) || !steps->child)
    return mr3d_fail(error, MR3D_FORMAT, "%s: \"steps\" must be a list of at least one step", place);

  mr3d_step *parsed = mr3d_allocate(cJSON_GetArraySize(steps), sizeof *parsed);
  test->steps = parsed;
  cJSON_ArrayForEach (item, steps) {
    snprintf(place, sizeof place, "case %s, step %d", test->id, test->n_steps);
    status = parse_step(suite, item, test, place, &parsed[test->n_steps++], error);
    if (status != MR3D_OK) return status;
  }
  return name_op(test, error);
}

static int by_id(const void *a, const void *b) { return strcmp((*(const mr3d_case *const *)a)->id, (*(const mr3d_case *const *)b)->id); }

static mr3d_status check_unique(const mr3d_suite *suite, mr3d_error *error) {
  const mr3d_case **sorted = mr3d_allocate(suite->n_cases, sizeof *sorted);
  for (int i = 0; i < suite->n_cases; i++) sorted[i] = &suite->cases[i];
  qsort(sorted, (size_t)suite->n_cases, sizeof *sorted, by_id);
  mr3d_status status = MR3D_OK;
  for (int i = 1; i < suite->n_cases && status == MR3D_OK; i++)
    if (strcmp(sorted[i - 1]->id, sorted[i]->id) == 0)
      status = mr3d_fail(error, MR3D_FORMAT, "case %s stands twice; ids are unique", sorted[i]->id);
  free(sorted);
  return status;
}

static mr3d_status parse_suite(mr3d_suite *suite, mr3d_error *error) {
  static const char *const keys[] = {"format", "weights", "cases", NULL};
  mr3d_status status = check_keys(suite->root, keys, "the file", error);
  if (status != MR3D_OK) return status;
  const cJSON *format = cJSON_GetObjectItemCaseSensitive(suite->root, "format"),
              *weights = cJSON_GetObjectItemCaseSensitive(suite->root, "weights"),
              *cases = cJSON_GetObjectItemCaseSensitive(suite->root, "cases");
  if (!cJSON_IsNumber(format) || format->valuedouble != 1)
    return mr3d_fail(error, MR3D_FORMAT, "\"format\" must be 1: this program reads that format only");
  if (weights && !cJSON_IsObject(weights)) return mr3d_fail(error, MR3D_FORMAT, "\"weights\" must be an object of weight sets");
  for (const cJSON *set = weights ? weights->child : NULL; set; set = set->next) {
    char place[256];
    snprintf(place, sizeof place, "weight set %s", set->string);
    if ((status = check_recipes(set, place, error)) != MR3D_OK) return status;
  }
  if (!cJSON_IsArray(cases)) return mr3d_fail(error, MR3D_FORMAT, "\"cases\" must be a list");
  int count = cJSON_GetArraySize(cases);
  suite->cases = mr3d_allocate(count, sizeof *suite->cases);
  suite->json = mr3d_allocate(count, sizeof *suite->json);
  const cJSON *item;
  cJSON_ArrayForEach (item, cases) {
    suite->json[suite->n_cases] = item;
    status = parse_case(suite, item, &suite->cases[suite->n_cases++], error);
    if (status != MR3D_OK) return status;
  }
  return check_unique(suite, error);
}

mr3d_status mr3d_suite_open(const char *golden_dir, const char *data_dir, mr3d_suite **out, mr3d_error *error) {
  mr3d_suite *suite = mr3d_allocate(1, sizeof *suite);
  suite->files = mr3d_allocate(1, sizeof *suite->files);
  suite->golden_dir = strdup(golden_dir);
  suite->data_dir = data_dir ? strdup(data_dir) : NULL;
  char path[4096];
  snprintf(path, sizeof path, "%s/cases.json", golden_dir);
  mr3d_status status = mr3d_read_json(path, &suite->root, error);
  if (status == MR3D_OK && parse_suite(suite, error) != MR3D_OK) status = mr3d_fail_in(error, "%s", path);
  if (status != MR3D_OK) mr3d_suite_close(&suite);
  else *out = suite;
  return status;
}

void mr3d_suite_close(mr3d_suite **pointer) {
  mr3d_suite *suite = *pointer;
  if (!suite) return;
  for (int i = 0; i < suite->n_cases; i++) {
    mr3d_case *test = &suite->cases[i];
    for (int s = 0; s < test->n_steps; s++) free((void *)test->steps[s].message), free((void *)test->steps[s].inputs);
    free((void *)test->steps);
    free((void *)test->pitfalls);
    free((void *)test->tags);
    cJSON_free((void *)test->config);
  }
  free(suite->cases);
  free(suite->json);
  cJSON_Delete(suite->root);
  cJSON_Delete(suite->files->prompts);
  cJSON_Delete(suite->files->manifest);
  mr3d_bundle_free(&suite->files->scene);
  free(suite->files);
  free(suite->golden_dir);
  free(suite->data_dir);
  free(suite);
  *pointer = NULL;
}

int mr3d_suite_count(const mr3d_suite *suite) { return suite->n_cases; }
const mr3d_case *mr3d_suite_at(const mr3d_suite *suite, int index) { return &suite->cases[index]; }
const char *mr3d_suite_golden_dir(const mr3d_suite *suite) { return suite->golden_dir; }
const char *mr3d_suite_data_dir(const mr3d_suite *suite) { return suite->data_dir; }
const char *mr3d_case_op(const mr3d_case *test) { return test->op; }

const mr3d_case *mr3d_suite_find(const mr3d_suite *suite, const char *id) {
  for (int i = 0; i < suite->n_cases; i++)
    if (strcmp(suite->cases[i].id, id) == 0) return &suite->cases[i];
  return NULL;
}

mr3d_status mr3d_case_request(const mr3d_suite *suite, const mr3d_case *test, int step, mr3d_tier tier, uint64_t seed,
                              const char *weights_path, mr3d_bundle *const truth[], mr3d_bundle **request, mr3d_error *error) {
  const cJSON *json = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(suite->json[test - suite->cases], "steps"), step);
  const cJSON *config = cJSON_GetObjectItemCaseSensitive(json, "config"), *meta = cJSON_GetObjectItemCaseSensitive(json, "meta"),
              *inputs = cJSON_GetObjectItemCaseSensitive(json, "inputs");
  mr3d_bundle *bundle = mr3d_bundle_new();
  char *own = config ? cJSON_PrintUnformatted(config) : NULL;
  const char *config_text = own ? own : test->config;
  mr3d_bundle_set(bundle, "op", test->steps[step].op);
  mr3d_bundle_set(bundle, "tier", mr3d_tier_name(tier));
  mr3d_bundle_set(bundle, "config", config_text);
  for (const cJSON *item = meta ? meta->child : NULL; item; item = item->next)
    if (strcmp(item->string, "session") == 0)
      mr3d_bundle_setf(bundle, "session", "%s/%s/%s", item->valuestring, test->id, mr3d_tier_name(tier));
    else mr3d_bundle_set(bundle, item->string, item->valuestring);
  if (test->steps[step].weights && weights_path) mr3d_bundle_set(bundle, "weights", weights_path);

  mr3d_status status = MR3D_OK;
  for (const cJSON *recipe = inputs ? inputs->child : NULL; recipe && status == MR3D_OK; recipe = recipe->next) {
    char stream[512];
    snprintf(stream, sizeof stream, "%s/%d/%s", test->id, step, recipe->string);
    mr3d_recipe_context context = {suite, tier, seed, stream, config_text, weights_path, step, truth};
    status = mr3d_recipe_make(&context, recipe, recipe->string, bundle, error);
    if (status != MR3D_OK) mr3d_fail_in(error, "case %s, step %d, tensor \"%s\"", test->id, step, recipe->string);
  }
  cJSON_free(own);
  if (status != MR3D_OK) mr3d_bundle_free(&bundle);
  else *request = bundle;
  return status;
}

/** Writes a weight set's file. */
static mr3d_status write_weights(const mr3d_suite *suite, const char *set, mr3d_tier tier, uint64_t seed, const char *path, mr3d_error *error) {
  mr3d_safetensors_writer *file;
  mr3d_error failed = {0};
  mr3d_status status = mr3d_safetensors_writer_open(path, &file, error);
  if (status != MR3D_OK) return status;
  const cJSON *recipes = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(suite->root, "weights"), set);
  for (const cJSON *recipe = recipes->child; recipe && status == MR3D_OK; recipe = recipe->next) { /* a model may be too large to be in memory whole */
    char stream[512];
    snprintf(stream, sizeof stream, "%s/%s", set, recipe->string);
    mr3d_recipe_context context = {suite, tier, seed, stream, NULL, NULL, 0, NULL};
    mr3d_bundle *one = mr3d_bundle_new();
    status = mr3d_recipe_make(&context, recipe, recipe->string, one, error);
    if (status != MR3D_OK) mr3d_fail_in(error, "weight set %s, tensor \"%s\"", set, recipe->string);
    else mr3d_safetensors_writer_add(file, NULL, mr3d_bundle_at(one, 0));
    mr3d_bundle_free(&one);
  }
  const mr3d_status written = mr3d_safetensors_writer_close(&file, status == MR3D_OK, status == MR3D_OK ? error : &failed);
  return status == MR3D_OK ? written : status;
}

mr3d_status mr3d_suite_weights(const mr3d_suite *suite, const char *set, mr3d_tier tier, uint64_t seed, const char *directory, char *path,
                               mr3d_error *error) {
  char lock[4096];
  if (snprintf(path, 4096, "%s/%s.%s.%llu.safetensors", directory, set, mr3d_tier_name(tier), (unsigned long long)seed) >= 4096 ||
      snprintf(lock, sizeof lock, "%s.lock", path) >= 4096)
    return mr3d_fail(error, MR3D_IO, "%s: path too long for a weights file", directory);
  if (access(path, R_OK) == 0) return MR3D_OK;
  const int fd = open(lock, O_CREAT | O_WRONLY | O_CLOEXEC, 0600); /* another process of the run may be writing it */
  if (fd < 0 || flock(fd, LOCK_EX)) {
    if (fd >= 0) close(fd);
    return mr3d_fail(error, MR3D_IO, "%s: %s", lock, strerror(errno));
  }
  const mr3d_status status = access(path, R_OK) == 0 ? MR3D_OK : write_weights(suite, set, tier, seed, path, error);
  unlink(lock);
  close(fd);
  return status;
}

mr3d_status mr3d_case_weights(const mr3d_suite *suite, const mr3d_case *test, mr3d_tier tier, uint64_t seed, const char *directory,
                              char *path, mr3d_error *error) {
  if (!test->weights) return mr3d_fail(error, MR3D_INVALID, "case %s names no weight set", test->id);
  return mr3d_suite_weights(suite, test->weights, tier, seed, directory, path, error);
}
