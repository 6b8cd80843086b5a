/** mr3d verify --replay: what a certificate says, asked of the backend again; and what no store of answers can hold. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "repeat.h"
#include "subject.h"
#include "text.h"
#include "verifying.h"

struct pick {
  uint64_t draw;
  int test;
};

static int by_draw(const void *a, const void *b) {
  const uint64_t x = ((const struct pick *)a)->draw, y = ((const struct pick *)b)->draw;
  return (x > y) - (x < y);
}

/** In the order of the certificate: both are in one array of tests. */
static int by_place(const void *a, const void *b) { return ((const struct pick *)a)->test - ((const struct pick *)b)->test; }

/** Of those tests for which `may` is true, some that a nonce of the verifier's draws, in their order. Returns how many. */
static int draw_tests(const mr3d_challenge *own, const char *purpose, int n, const mr3d_test tests[], const bool may[], int wanted, mr3d_test picked[]) {
  struct pick *picks = mr3d_allocate(n, sizeof *picks);
  int n_picks = 0;
  for (int i = 0; i < n; i++) {
    char name[MR3D_TEST_NAME];
    if (may[i]) picks[n_picks++] = (struct pick){mr3d_challenge_draw(own, purpose, mr3d_test_name(&tests[i], name), ""), i};
  }
  qsort(picks, (size_t)n_picks, sizeof *picks, by_draw);
  if (wanted > n_picks) wanted = n_picks;
  qsort(picks, (size_t)wanted, sizeof *picks, by_place);
  for (int i = 0; i < wanted; i++) picked[i] = tests[picks[i].test];
  free(picks);
  return wanted;
}

static mr3d_status ask(mr3d_verifying *check, mr3d_run_options *options, const mr3d_challenge *challenge, int n, const mr3d_test tests[], mr3d_run **run, mr3d_error *error) {
  mr3d_wanted_tests wish = {n, tests};
  options->challenge = challenge;
  options->selection.tiers = check->claims.scope.tiers;
  options->wanted = mr3d_is_wanted, options->wanted_user = &wish;
  return mr3d_run_suite(options, NULL, NULL, run, error);
}

/* ---- the recorded inputs ---- */

/** A recorded leaf that begins with a test's name. */
static const char *leaf_of(const char *leaves, const char *name) {
  const size_t n = strlen(name);
  for (const char *line = leaves; *line; line += mr3d_leaf_length(line) + 1)
    if (strncmp(line, name, n) == 0 && line[n] == ' ') return line;
  return NULL;
}

/** Where two leaves of one test part: at the word that differs. */
static size_t first_difference(const char *a, const char *b) {
  size_t i = 0, word = 0;
  for (; a[i] == b[i] && a[i] && a[i] != '\n'; i++)
    if (strchr("|, :", a[i])) word = i + 1;
  return word;
}

static int word_length(const char *at) { return (int)strcspn(at, "|, \n"); }

static void compare_leaves(mr3d_verifying *check, const mr3d_run *run, int n, const mr3d_test picked[], bool other_machine) {
  char *now = mr3d_leaves_print(run, n, picked), name[MR3D_TEST_NAME];
  int same = 0, near = 0;
  for (int i = 0; i < n; i++) {
    mr3d_test_name(&picked[i], name);
    const char *was = leaf_of(check->claims.leaves, name), *is = leaf_of(now, name);
    if (!was || !is) {
      mr3d_refuse(check, "replay: %s was not judged again", name);
      continue;
    }
    const size_t length = mr3d_leaf_length(is), behind = strlen(name) + 1;
    const int verdict = (int)strcspn(is + behind, "|\n"), verdict_then = (int)strcspn(was + behind, "|\n");
    if (length == mr3d_leaf_length(was) && memcmp(was, is, length) == 0) same++;
    else if (verdict != verdict_then || strncmp(was + behind, is + behind, (size_t)verdict) != 0)
      mr3d_refuse(check, "replay: %s: recorded %.*s, now %.*s", name, verdict_then, was + behind, verdict, is + behind);
    else if (other_machine) near++;
    else {
      const size_t at = first_difference(was, is);
      mr3d_refuse(check, "replay: %s: verdict alike, but not the numbers: recorded %.*s, now %.*s (another machine than the certificate's? then --other-machine)", name,
                  word_length(was + at), was + at, word_length(is + at), is + at);
    }
  }
  printf("replayed %d of the tests: %d with the recorded numbers, bit for bit%s\n", n, same, near ? "; others with other numbers and the same verdict" : "");
  free(now);
}

static mr3d_status replay_recorded(mr3d_verifying *check, mr3d_run_options *options, const mr3d_challenge *own, int n_tests, const mr3d_test tests[], const mr3d_replay_wish *wish,
                                   mr3d_error *error) {
  mr3d_test *picked = mr3d_allocate(n_tests, sizeof *picked);
  bool *may = mr3d_allocate(n_tests, sizeof *may);
  mr3d_run *run = NULL;
  for (int i = 0; i < n_tests; i++) may[i] = tests[i].variant != MR3D_AGAIN; /* which cannot be asked alone */
  const int n = draw_tests(own, "replay", n_tests, tests, may, wish->n, picked);
  mr3d_status status = ask(check, options, &check->claims.scope.challenge, n, picked, &run, error);
  if (status == MR3D_OK) compare_leaves(check, run, n, picked, wish->other_machine);
  if (status == MR3D_OK && run->failed + run->broken) mr3d_report_text(run, stdout, true, false);
  mr3d_run_free(&run);
  free(may);
  free(picked);
  return status;
}

/* ---- inputs of the verifier's own ---- */

/** "replay: attention/gqa at fp32, on inputs of your own: step 0 ...: MISTAKE; ..." */
static void refuse_result(mr3d_verifying *check, const mr3d_result *result) {
  char name[192], what[600] = "";
  if (result->difference.failed) mr3d_difference_say(&result->difference, result, what, sizeof what);
  mr3d_refuse(check, "replay: %s at %s, on inputs of your own: %s%s%s; the certificate's answers may be stored ones", mr3d_result_name(result, name), mr3d_tier_name(result->tier),
              *what ? what : result->reason, result->mistake[0] ? ": " : "", result->mistake);
}

/** Which tests are plain ones of a case that a nonce changes and that passed at that tier in every way (waived ones may fail again). */
static mr3d_status find_fresh(const mr3d_verifying *check, int n, const mr3d_test tests[], bool may[], mr3d_error *error) {
  mr3d_rules *rules = NULL;
  mr3d_status status = mr3d_rules_open(check->suite, &rules, error);
  const char *line = check->claims.leaves;
  int plain = -1;
  for (int i = 0; i < n && status == MR3D_OK; i++, line += mr3d_leaf_length(line) + 1) {
    char name[MR3D_TEST_NAME];
    bool fixed = false;
    const size_t length = strlen(mr3d_test_name(&tests[i], name));
    if (tests[i].variant == MR3D_PLAIN) {
      plain = i;
      status = mr3d_rules_fixed(rules, tests[i].test, &fixed, error);
      may[i] = !fixed;
    } else may[i] = false;
    if (strncmp(line + length, " passed", 7) != 0) may[plain] = false;
  }
  mr3d_rules_close(&rules);
  return status;
}

static mr3d_status replay_fresh(mr3d_verifying *check, mr3d_run_options *options, const mr3d_challenge *own, int n_tests, const mr3d_test tests[], const mr3d_replay_wish *wish,
                                mr3d_error *error) {
  mr3d_test *picked = mr3d_allocate((long long)n_tests * MR3D_N_VARIANTS, sizeof *picked), *all = mr3d_allocate((long long)n_tests * MR3D_N_VARIANTS, sizeof *all);
  bool *may = mr3d_allocate(n_tests, sizeof *may);
  mr3d_run *run = NULL;
  int n_all = 0, n = 0;
  mr3d_status status = find_fresh(check, n_tests, tests, may, error);
  if (status == MR3D_OK) n = draw_tests(own, "fresh", n_tests, tests, may, wish->n, picked);
  for (int i = 0; i < n; i++) /* in all the ways in which that nonce asks them: as mr3d check --nonce does */
    for (int v = 0; v < MR3D_N_VARIANTS; v++)
      if (mr3d_challenge_asks(own, picked[i].test, picked[i].tier, (mr3d_variant)v)) all[n_all++] = (mr3d_test){picked[i].test, picked[i].tier, (mr3d_variant)v};
  if (status == MR3D_OK && n == 0) mr3d_refuse(check, "replay: it has no test whose answers depend on the inputs, so a store of answers could have earned it");
  if (status == MR3D_OK && n > 0) status = ask(check, options, own, n_all, all, &run, error);
  for (int i = 0; run && i < run->n_results; i++)
    if (run->results[i].verdict != MR3D_PASSED) refuse_result(check, &run->results[i]);
  if (run) printf("judged %d of its cases on inputs of your own: %d of %d tests passed\n", n, run->passed, run->passed + run->failed + run->skipped + run->broken);
  mr3d_run_free(&run);
  free(may);
  free(all);
  free(picked);
  return status;
}

/* ---- both ---- */

mr3d_status mr3d_verify_files(mr3d_verifying *check, const char *backend, const char *more_files, mr3d_error *error) {
  cJSON *files = NULL;
  const cJSON *file, *known;
  mr3d_status status = mr3d_subject_files(backend, more_files, &files, error);
  cJSON_ArrayForEach (file, files) {
    bool found = false;
    cJSON_ArrayForEach (known, check->claims.files)
      found = found || cJSON_Compare(cJSON_GetObjectItemCaseSensitive(file, "digest"), cJSON_GetObjectItemCaseSensitive(known, "digest"), true);
    if (!found) mr3d_refuse(check, "subject: %s is none of the files that were certified", cJSON_GetObjectItemCaseSensitive(file, "name")->valuestring);
  }
  cJSON_Delete(files);
  return status;
}

mr3d_status mr3d_replay(mr3d_verifying *check, mr3d_run_options *options, const mr3d_replay_wish *wish, mr3d_error *error) {
  mr3d_challenge own = {.n_bytes = 32};
  char hex[2 * MR3D_MOST_NONCE + 1];
  mr3d_test *tests = NULL;
  int n_tests = 0;
  randombytes_buf(own.nonce, 32);
  if (wish->picks && mr3d_challenge_parse(wish->picks, &own, error) != MR3D_OK) return mr3d_fail_in(error, "--picks");
  mr3d_challenge_print(&own, hex);
  mr3d_status status = mr3d_scope_tests(&check->claims.scope, check->suite, &tests, &n_tests, error);
  if (status == MR3D_OK) printf("replayed is what --picks %s draws\n", hex);
  if (status == MR3D_OK) status = replay_recorded(check, options, &own, n_tests, tests, wish, error);
  if (status == MR3D_OK) status = replay_fresh(check, options, &own, n_tests, tests, wish, error);
  free(tests);
  return status;
}
