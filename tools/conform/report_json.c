/** JSON lines: one `run`, one `result` for each case and tier, one `summary` (docs/report.schema.json). */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "promises.h"
#include "repeat.h"
#include "report.h"
#include "report_json.h"

void mr3d_json_add_text(cJSON *object, const char *key, const char *text) {
  char *clean = mr3d_clean_text(text);
  cJSON_AddStringToObject(object, key, clean);
  free(clean);
}

/** Numbers as numbers; what JSON cannot hold as "nan", "inf" or "-inf" (cJSON would print null). */
static void add_number(cJSON *object, const char *key, double value) {
  if (isfinite(value)) cJSON_AddNumberToObject(object, key, value);
  else cJSON_AddStringToObject(object, key, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
}

static void add_texts(cJSON *object, const char *key, int count, const char *const *texts) {
  cJSON *list = cJSON_AddArrayToObject(object, key);
  for (int i = 0; i < count; i++) cJSON_AddItemToArray(list, cJSON_CreateString(texts[i]));
}

void mr3d_json_add_list(cJSON *object, const char *key, const char *joined) {
  cJSON *list = cJSON_AddArrayToObject(object, key);
  for (const char *at = joined ? joined : "", *end; *at; at = *end ? end + 2 : end) {
    end = strstr(at, "; ");
    if (!end) end = at + strlen(at);
    char *word = strndup(at, (size_t)(end - at)), *clean = mr3d_clean_text(word);
    cJSON_AddItemToArray(list, cJSON_CreateString(clean));
    free(word);
    free(clean);
  }
}

/** Seeds have 64 bits, JSON numbers 53: as a string. */
static void add_seed(cJSON *object, const char *key, uint64_t seed) {
  char text[32];
  snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
  cJSON_AddStringToObject(object, key, text);
}

static void print_line(FILE *to, cJSON *object) {
  char *line = cJSON_PrintUnformatted(object);
  fprintf(to, "%s\n", line);
  cJSON_free(line);
  cJSON_Delete(object);
}

static cJSON *tensor_object(const mr3d_tensor_verdict *v) {
  cJSON *tensor = cJSON_CreateObject();
  mr3d_json_add_text(tensor, "name", v->name);
  cJSON_AddBoolToObject(tensor, "passed", v->passed);
  mr3d_json_add_text(tensor, "problem", v->problem);
  cJSON_AddNumberToObject(tensor, "elements", (double)v->elements);
  cJSON_AddNumberToObject(tensor, "wrong", (double)v->wrong);
  if (v->index[0]) {
    cJSON *worst = cJSON_AddObjectToObject(tensor, "worst");
    mr3d_json_add_text(worst, "index", v->index);
    add_number(worst, "got", v->got);
    add_number(worst, "expected", v->expected);
    add_number(worst, "bound", v->bound);
  }
  add_number(tensor, "relative_l2", v->relative_l2);
  add_number(tensor, "worst_slice_relative_l2", v->worst_slice_relative_l2);
  add_number(tensor, "ulp_p50", v->ulp_p50);
  add_number(tensor, "ulp_p99", v->ulp_p99);
  add_number(tensor, "ulp_max", v->ulp_max);
  if (strcmp(v->name, "logits") == 0) add_number(tensor, "top5_overlap", v->top5_overlap);
  cJSON *statistics = cJSON_AddArrayToObject(tensor, "statistics");
  for (int i = 0; i < v->n_statistics; i++) {
    cJSON *statistic = cJSON_CreateObject();
    cJSON_AddStringToObject(statistic, "rule", v->statistics[i].rule);
    add_number(statistic, "value", v->statistics[i].value);
    add_number(statistic, "limit", v->statistics[i].limit);
    cJSON_AddBoolToObject(statistic, "tested", v->statistics[i].tested);
    cJSON_AddBoolToObject(statistic, "passed", v->statistics[i].passed);
    cJSON_AddItemToArray(statistics, statistic);
  }
  return tensor;
}

static cJSON *step_object(const mr3d_step_result *step) {
  cJSON *object = cJSON_CreateObject();
  mr3d_json_add_text(object, "op", step->op);
  cJSON_AddStringToObject(object, "reply", step->asked ? mr3d_reply_name(step->reply.kind) : "not asked");
  mr3d_json_add_text(object, "message", step->reply.message);
  mr3d_json_add_text(object, "log", step->reply.log ? step->reply.log : "");
  add_number(object, "seconds", step->reply.seconds);
  cJSON *tensors = cJSON_AddArrayToObject(object, "tensors");
  for (int t = 0; t < step->judgement.n_tensors; t++) cJSON_AddItemToArray(tensors, tensor_object(&step->judgement.tensors[t]));
  return object;
}

static void add_verdict(cJSON *line, const mr3d_result *result) {
  cJSON_AddStringToObject(line, "verdict", mr3d_verdict_name(result->verdict));
  mr3d_json_add_text(line, "reason", result->reason);
  mr3d_json_add_text(line, "diagnosis", result->diagnosis);
  mr3d_json_add_text(line, "mistake", result->mistake);
}

static void add_difference(cJSON *line, const mr3d_result *result) {
  const mr3d_difference *d = &result->difference;
  char what[600];
  if (!d->repetition) return;
  mr3d_difference_say(d, result, what, sizeof what);
  cJSON *object = cJSON_AddObjectToObject(line, "difference");
  mr3d_json_add_text(object, "says", what);
  cJSON_AddNumberToObject(object, "repetition", d->repetition);
  cJSON_AddNumberToObject(object, "step", d->step);
  cJSON_AddBoolToObject(object, "failed", d->failed);
  mr3d_json_add_text(object, "reason", d->reason);
  cJSON_AddStringToObject(object, "first_reply", mr3d_reply_name(d->first_kind));
  cJSON_AddStringToObject(object, "reply", mr3d_reply_name(d->kind));
  mr3d_json_add_text(object, "tensor", d->tensor);
  mr3d_json_add_text(object, "index", d->index);
  add_number(object, "first", d->first);
  add_number(object, "again", d->again);
  mr3d_json_add_text(object, "first_after", d->first_after ? d->first_after->id : "");
  mr3d_json_add_text(object, "after", d->after ? d->after->id : "");
}

static void add_tokens(cJSON *object, const char *key, int n, const int64_t tokens[]) {
  cJSON *list = cJSON_AddArrayToObject(object, key);
  for (int i = 0; i < n; i++) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)tokens[i]));
}

static void add_generation(cJSON *line, const mr3d_generation *g) {
  if (g->n == 0) return;
  cJSON *object = cJSON_AddObjectToObject(line, "generation");
  add_tokens(object, "truth", g->n, g->truth);
  add_tokens(object, "own", g->n, g->own);
}

static void print_result(FILE *to, const mr3d_run *run, const mr3d_result *result) {
  cJSON *line = cJSON_CreateObject();
  char *again = mr3d_rerun_command(run, result);
  cJSON_AddStringToObject(line, "type", "result");
  cJSON_AddStringToObject(line, "case", result->test->id);
  cJSON_AddStringToObject(line, "op", mr3d_case_op(result->test));
  cJSON_AddStringToObject(line, "level", result->test->level);
  cJSON_AddStringToObject(line, "tier", mr3d_tier_name(result->tier));
  add_seed(line, "seed", result->seed);
  if (run->options.challenge) cJSON_AddStringToObject(line, "variant", mr3d_variant_suffix(result->variant));
  add_verdict(line, result);
  add_texts(line, "pitfalls", result->test->n_pitfalls, result->test->pitfalls);
  add_number(line, "golden_worst", result->golden_worst);
  add_number(line, "seconds", result->seconds);
  mr3d_json_add_text(line, "again", again);
  add_difference(line, result);
  add_generation(line, &result->generation);
  cJSON *steps = cJSON_AddArrayToObject(line, "steps");
  for (int s = 0; s < result->n_steps; s++) cJSON_AddItemToArray(steps, step_object(&result->steps[s]));
  free(again);
  print_line(to, line);
}

mr3d_status mr3d_report_json(const mr3d_run *run, const char *path, mr3d_error *error) {
  char *bytes = NULL, why[512];
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  cJSON *head = cJSON_CreateObject();
  cJSON_AddStringToObject(head, "type", "run");
  cJSON_AddNumberToObject(head, "format", 1);
  cJSON_AddStringToObject(head, "mr3d", MR3D_VERSION);
  mr3d_json_add_text(head, "backend", run->options.backend);
  mr3d_json_add_text(head, "name", run->info.name);
  mr3d_json_add_text(head, "version", run->info.version);
  add_texts(head, "ops", run->info.n_ops, run->info.ops);
  cJSON *tiers = cJSON_AddArrayToObject(head, "tiers");
  for (int i = 0; i < run->info.n_tiers; i++) cJSON_AddItemToArray(tiers, cJSON_CreateString(mr3d_tier_name(run->info.tiers[i])));
  cJSON *keeps = cJSON_AddArrayToObject(head, "keeps");
  const mr3d_promise *promise;
  for (int i = 0; (promise = mr3d_promise_at(i)); i++)
    if (run->info.kept >> promise->point & 1) cJSON_AddItemToArray(keeps, cJSON_CreateString(promise->name));
  add_seed(head, "seed", run->options.seed);
  if (run->options.challenge) {
    char nonce[2 * MR3D_MOST_NONCE + 1];
    mr3d_challenge_print(run->options.challenge, nonce);
    cJSON_AddStringToObject(head, "nonce", nonce);
  }
  cJSON_AddNumberToObject(head, "jobs", run->options.jobs > 1 ? run->options.jobs : 1);
  cJSON_AddNumberToObject(head, "repeat", run->options.repeat > 1 ? run->options.repeat : 1);
  if (run->options.shuffle) add_seed(head, "shuffle", run->options.shuffle_seed);
  cJSON_AddNumberToObject(head, "golden_files", run->n_golden_files);
  cJSON *isolation = cJSON_AddObjectToObject(head, "isolation");
  cJSON_AddBoolToObject(isolation, "asked", !run->options.no_isolation);
  mr3d_json_add_list(isolation, "active", run->info.protections);
  mr3d_json_add_list(isolation, "missing", run->info.missing_protections);
  print_line(to, head);
  for (int i = 0; i < run->n_results; i++) print_result(to, run, &run->results[i]);

  cJSON *tail = cJSON_CreateObject();
  cJSON_AddStringToObject(tail, "type", "summary");
  cJSON_AddStringToObject(tail, "verdict", mr3d_run_verdict(run, why));
  mr3d_json_add_text(tail, "why", why);
  cJSON_AddNumberToObject(tail, "passed", run->passed);
  cJSON_AddNumberToObject(tail, "failed", run->failed);
  cJSON_AddNumberToObject(tail, "skipped", run->skipped);
  cJSON_AddNumberToObject(tail, "broken", run->broken);
  cJSON_AddNumberToObject(tail, "unsteady", mr3d_run_unsteady(run));
  cJSON_AddNumberToObject(tail, "exit_status", mr3d_run_exit_status(run));
  cJSON *limits = cJSON_AddArrayToObject(tail, "does_not_exclude");
  char texts[MR3D_MAX_LIMITS][1024];
  int n = mr3d_run_exit_status(run) == 0 ? mr3d_run_limits(run, texts) : 0;
  for (int i = 0; i < n; i++) cJSON_AddItemToArray(limits, cJSON_CreateString(texts[i]));
  cJSON_AddNumberToObject(tail, "yardsticks_taken", run->yardsticks_found);
  add_number(tail, "diagnosis_seconds", run->diagnosis_seconds);
  mr3d_json_add_text(tail, "remarks", run->remarks ? run->remarks : "");
  add_number(tail, "seconds", run->seconds);
  print_line(to, tail);
  return mr3d_report_save(to, &bytes, &size, path, error);
}

static void print_pair(FILE *to, const mr3d_result *result, const char *request, const char *answer) {
  cJSON *line = cJSON_CreateObject(), *step = step_object(&result->steps[0]);
  cJSON_AddStringToObject(line, "type", "pair");
  mr3d_json_add_text(line, "request", request);
  mr3d_json_add_text(line, "answer", answer);
  cJSON_AddStringToObject(line, "tier", mr3d_tier_name(result->tier));
  add_verdict(line, result);
  cJSON_AddItemToObject(line, "step", step);
  print_line(to, line);
}

mr3d_status mr3d_report_pairs_json(const mr3d_run *run, char *const paths[], int exit_status, const char *path, mr3d_error *error) {
  char *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  for (int i = 0; i < run->n_results; i++) print_pair(to, &run->results[i], paths[2 * i], paths[2 * i + 1]);
  cJSON *tail = cJSON_CreateObject();
  cJSON_AddStringToObject(tail, "type", "total");
  cJSON_AddNumberToObject(tail, "format", 1);
  cJSON_AddStringToObject(tail, "mr3d", MR3D_VERSION);
  cJSON_AddNumberToObject(tail, "passed", run->passed);
  cJSON_AddNumberToObject(tail, "failed", run->failed);
  cJSON_AddNumberToObject(tail, "skipped", run->skipped);
  cJSON_AddNumberToObject(tail, "exit_status", exit_status);
  print_line(to, tail);
  return mr3d_report_save(to, &bytes, &size, path, error);
}
