/** The suite run from a test: the same runner as `mr3d check`, so a test and the command cannot disagree. */
#ifndef MR3D_TEST_SUITE_H
#define MR3D_TEST_SUITE_H

#include "model/fixture.h"
#include "mutants.h"
#include "report.h"
#include "run.h"

#define ALL_TIERS ((1u << MR3D_N_TIERS) - 1)

/** The backend under test: $MR3D_BACKEND (meson option `judged_backend`), else the reference. */
static inline const char *backend_under_test(void) {
  const char *backend = getenv("MR3D_BACKEND");
  return backend && *backend ? backend : "builtin:reference";
}

/** The committed golden set: $MR3D_GOLDEN. */
static inline const char *committed_set(void) {
  const char *folder = getenv("MR3D_GOLDEN");
  if (!folder) fail_msg("MR3D_GOLDEN must name the folder of the golden set");
  return folder;
}

/** Runs; the golden set and the data folder come from the environment. The run must take place. */
static inline mr3d_run *run_suite(mr3d_run_options options, mr3d_progress *progress, void *user) {
  mr3d_error error = {0};
  mr3d_run *run = NULL;
  if (!options.golden_dir) options.golden_dir = committed_set();
  if (!options.data_dir) options.data_dir = getenv("MR3D_DATA");
  if (mr3d_run_suite(&options, progress, user, &run, &error) != MR3D_OK) fail_msg("%s", error.message);
  return run;
}

/** The backend under test passes every case of the selection that it offers; a failure prints the report. */
static inline void backend_passes(mr3d_selection selection) {
  mr3d_run *run = run_suite((mr3d_run_options){.backend = backend_under_test(), .selection = selection}, NULL, NULL);
  int status = mr3d_run_exit_status(run);
  if (status != 0) {
    mr3d_report_text(run, stderr, false, false);
    fail_msg("%s is not compliant (exit status %d)", backend_under_test(), status);
  }
  assert_true(run->passed > 0);
  mr3d_run_free(&run);
}

/** Ends a run when a result names the mistake `user` points to. */
static inline bool until_named(void *user, const mr3d_run *run, int total) {
  (void)total;
  return strcmp(run->results[run->n_results - 1].mistake, user) != 0;
}

#define MUTANTS_RUN 4 /* of a pitfall: tests/conform/mutants.c asks for the names of all, `mr3d mutants` for their kills */

/** The first mutants of a pitfall fail the pitfall's cases with exit status 2, and a failing result names them. */
static inline void mutants_fail_and_are_named(const char *slug) {
  int n = 0;
  for (int m = 0; m < mr3d_mutant_count() && n < MUTANTS_RUN; m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    if (strcmp(mutant->slug, slug) != 0) continue;
    n++;
    char spec[160], name[128];
    snprintf(name, sizeof name, "%s/%s", slug, mutant->name);
    snprintf(spec, sizeof spec, "mutant:%s", name);
    mr3d_run *run = run_suite((mr3d_run_options){.backend = spec,
                                                 .timeout = mutant->hangs ? 0.3 : 0,
                                                 .selection = {.pitfall = slug, .tiers = 1u << MR3D_FP64, .without_slow = true}},
                              until_named, name);
    int named = 0, status = mr3d_run_exit_status(run);
    for (int i = 0; i < run->n_results; i++) named += run->results[i].verdict == MR3D_FAILED && strcmp(run->results[i].mistake, name) == 0;
    if (status != 2 || !named) {
      mr3d_report_text(run, stderr, false, false);
      fail_msg("%s: exit status %d, named %d times", name, status, named);
    }
    mr3d_run_free(&run);
  }
  assert_true(n > 0);
}

/**
 * A pitfall's test: facts about the reference, then its mutants; with the argument `backend` the backend under test on all its cases. These
 * cases are those of `mr3d check --pitfall SLUG`: one implementation, two doors.
 */
#define PITFALL_TEST(slug, ...)                                                                                    \
  static void every_mutant_fails_and_is_named(void **state) {                                                      \
    (void)state;                                                                                                   \
    mutants_fail_and_are_named(slug);                                                                              \
  }                                                                                                                \
  static void backend_passes_every_case(void **state) {                                                            \
    (void)state;                                                                                                   \
    backend_passes((mr3d_selection){.pitfall = slug});                                                             \
  }                                                                                                                \
  int main(int argc, char **argv) {                                                                                \
    const struct CMUnitTest facts[] = {__VA_ARGS__, cmocka_unit_test(every_mutant_fails_and_is_named)};            \
    const struct CMUnitTest judged[] = {cmocka_unit_test(backend_passes_every_case)};                              \
    if (argc > 1 && strcmp(argv[1], "backend") == 0) return cmocka_run_group_tests_name(slug, judged, NULL, NULL); \
    return cmocka_run_group_tests_name(slug, facts, NULL, NULL);                                                   \
  }

#endif
