#include "issue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repeat.h"
#include "report.h"
#include "subject.h"
#include "text.h"

bool mr3d_is_wanted(void *user, const mr3d_case *test, mr3d_tier tier, mr3d_variant variant) {
  const mr3d_wanted_tests *wanted = user;
  for (int i = 0; i < wanted->n; i++) /* by name, for `test` may be of another suite, opened from the same files */
    if (wanted->tests[i].tier == tier && wanted->tests[i].variant == variant && strcmp(wanted->tests[i].test->id, test->id) == 0) return true;
  return false;
}

static const mr3d_result *result_of(const mr3d_run *run, const mr3d_test *test) {
  const mr3d_variant variant = test->variant == MR3D_AGAIN ? MR3D_PLAIN : test->variant;
  for (int i = 0; i < run->n_results; i++) {
    const mr3d_result *result = &run->results[i];
    if (result->tier == test->tier && result->variant == variant && strcmp(result->test->id, test->test->id) == 0) return result;
  }
  return NULL;
}

static void add_reason(cJSON *reasons, const char *name, const char *reason, const char *mistake) {
  cJSON *entry = cJSON_CreateObject();
  cJSON_AddStringToObject(entry, "test", name);
  mr3d_text_add(entry, "reason", reason);
  mr3d_text_add(entry, "mistake", mistake);
  cJSON_AddItemToArray(reasons, entry);
}

void mr3d_claims_of_run(const mr3d_run *run, const mr3d_scope *scope, int n_tests, const mr3d_test tests[], cJSON *files, const char *more_files, cJSON *machine,
                        const mr3d_envelope *waivers, mr3d_claims *claims) {
  *claims = (mr3d_claims){.scope = *scope, .files = files, .machines = cJSON_CreateArray(), .reasons = cJSON_CreateArray(), .unsteady = cJSON_CreateArray()};
  mr3d_text_now(claims->issued);
  snprintf(claims->commit, sizeof claims->commit, "%s", mr3d_suite_commit());
  if (scope->ops) claims->scope.ops = strdup(scope->ops);
  cJSON_AddItemToArray(claims->machines, machine);
  claims->backend = mr3d_subject_backend(run, more_files);
  claims->leaves = mr3d_leaves_print(run, n_tests, tests);
  const char *line = claims->leaves;
  for (int i = 0; i < n_tests && *line; i++, line += mr3d_leaf_length(line) + 1) {
    char name[MR3D_TEST_NAME], what[600];
    const mr3d_result *result = result_of(run, &tests[i]);
    mr3d_test_name(&tests[i], name);
    const bool again = tests[i].variant == MR3D_AGAIN, passed = strncmp(line + strlen(name), " passed", 7) == 0;
    if (passed && again && mr3d_result_unsteady(result)) cJSON_AddItemToArray(claims->unsteady, cJSON_CreateString(name));
    if (passed) continue;
    if (again && result->difference.failed) {
      mr3d_difference_say(&result->difference, result, what, sizeof what);
      add_reason(claims->reasons, name, what, "order-sensitivity");
    } else add_reason(claims->reasons, name, result->reason, result->mistake);
  }
  if (waivers) {
    char *text = mr3d_envelope_print(waivers);
    claims->waivers = cJSON_Parse(text);
    free(text);
  }
}

/* ---- merging ---- */

static mr3d_status must_agree(bool agrees, const char *what, char *const names[], int a, int b, mr3d_error *error) {
  return agrees ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "%s and %s are parts of different runs: %s differs", names[a], names[b], what);
}

static bool same_ops(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

static mr3d_status check_parts(int n, const mr3d_claims parts[], char *const names[], mr3d_error *error) {
  const mr3d_claims *first = &parts[0];
  for (int i = 0; i < n; i++) {
    const mr3d_claims *part = &parts[i];
    const mr3d_scope *x = &first->scope, *y = &part->scope;
    if (y->shard.of == 0) return mr3d_fail(error, MR3D_INVALID, "%s is no part: it was not made with --shard", names[i]);
    if (part->waivers) return mr3d_fail(error, MR3D_INVALID, "%s bears waivers, which only the whole can have", names[i]);
    mr3d_status status = must_agree(mr3d_challenge_equal(&x->challenge, &y->challenge), "the nonce", names, 0, i, error);
    if (status == MR3D_OK) status = must_agree(x->profile == y->profile && x->tiers == y->tiers && same_ops(x->ops, y->ops), "the profile, its tiers or its operators", names, 0, i, error);
    if (status == MR3D_OK) status = must_agree(x->shard.of == y->shard.of, "the number of shards", names, 0, i, error);
    if (status == MR3D_OK) status = must_agree(strcmp(first->commit, part->commit) == 0, "the suite's commit", names, 0, i, error);
    if (status == MR3D_OK) status = must_agree(cJSON_Compare(first->files, part->files, true), "the backend's files", names, 0, i, error);
    if (status == MR3D_OK) status = must_agree(cJSON_Compare(first->backend, part->backend, true), "the backend", names, 0, i, error);
    for (int k = 0; k < i && status == MR3D_OK; k++)
      if (parts[k].scope.shard.index == y->shard.index) status = mr3d_fail(error, MR3D_INVALID, "shard %d/%d is there twice: %s and %s", y->shard.index, y->shard.of, names[k], names[i]);
    if (status != MR3D_OK) return status;
  }
  for (int shard = 1; shard <= first->scope.shard.of; shard++) {
    bool found = false;
    for (int i = 0; i < n; i++) found = found || parts[i].scope.shard.index == shard;
    if (!found) return mr3d_fail(error, MR3D_INVALID, "shard %d/%d is missing: run it again, alone", shard, first->scope.shard.of);
  }
  return MR3D_OK;
}

/** What is left of a part while its entries are taken, one after the other. */
struct rest {
  const char *line;
  const cJSON *reason, *unsteady;
};

static bool begins_with(const char *line, const char *name) {
  const size_t n = strlen(name);
  return strncmp(line, name, n) == 0 && line[n] == ' ';
}

mr3d_status mr3d_claims_merge(const mr3d_suite *suite, int n, const mr3d_claims parts[], char *const names[], const char digests[][65], mr3d_claims *out, mr3d_error *error) {
  mr3d_status status = check_parts(n, parts, names, error);
  if (status != MR3D_OK) return status;
  mr3d_claims claims = {.scope = parts[0].scope, .files = cJSON_Duplicate(parts[0].files, true), .backend = cJSON_Duplicate(parts[0].backend, true)};
  mr3d_test *tests = NULL;
  int n_tests = 0;
  claims.scope.shard = (mr3d_shard){0};
  claims.scope.ops = parts[0].scope.ops ? strdup(parts[0].scope.ops) : NULL;
  claims.machines = cJSON_CreateArray(), claims.parts = cJSON_CreateArray(), claims.reasons = cJSON_CreateArray(), claims.unsteady = cJSON_CreateArray();
  mr3d_text_now(claims.issued);
  snprintf(claims.commit, sizeof claims.commit, "%s", parts[0].commit);
  struct rest *rests = mr3d_allocate(n, sizeof *rests);
  for (int i = 0; i < n; i++) rests[i] = (struct rest){parts[i].leaves, parts[i].reasons->child, parts[i].unsteady->child};
  for (int shard = 1; shard <= n; shard++)
    for (int i = 0; i < n; i++) {
      if (parts[i].scope.shard.index != shard) continue;
      cJSON_AddItemToArray(claims.machines, cJSON_Duplicate(parts[i].machines->child, true));
      cJSON_AddItemToArray(claims.parts, cJSON_CreateString(digests[i]));
    }
  status = mr3d_scope_tests(&claims.scope, suite, &tests, &n_tests, error);
  size_t size = 0;
  FILE *leaves = open_memstream(&claims.leaves, &size);
  for (int t = 0; t < n_tests; t++) {
    char name[MR3D_TEST_NAME];
    mr3d_test_name(&tests[t], name);
    for (int i = 0; i < n; i++) {
      struct rest *rest = &rests[i];
      if (!begins_with(rest->line, name)) continue;
      const size_t length = mr3d_leaf_length(rest->line) + 1;
      fwrite(rest->line, 1, length, leaves);
      rest->line += length;
      if (rest->reason && strcmp(rest->reason->child->valuestring, name) == 0) {
        cJSON_AddItemToArray(claims.reasons, cJSON_Duplicate(rest->reason, true));
        rest->reason = rest->reason->next;
      }
      if (rest->unsteady && strcmp(rest->unsteady->valuestring, name) == 0) {
        cJSON_AddItemToArray(claims.unsteady, cJSON_CreateString(name));
        rest->unsteady = rest->unsteady->next;
      }
      break;
    }
  }
  fclose(leaves);
  free(rests);
  free(tests);
  if (status == MR3D_OK) *out = claims;
  else mr3d_claims_clear(&claims);
  return status;
}
