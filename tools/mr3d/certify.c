/** mr3d certify: judges a backend under a challenge and signs what came of it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "issue.h"
#include "judging.h"
#include "report.h"
#include "signing.h"
#include "subject.h"
#include "text.h"

/** What was asked for on the command line, opened. */
struct order {
  mr3d_scope scope;
  mr3d_suite *suite;
  int n_tests;
  mr3d_test *tests;
  mr3d_secret_key key;
  mr3d_envelope *waivers;
  cJSON *files;
};

static void close_order(struct order *order) {
  cJSON_Delete(order->files);
  mr3d_envelope_free(&order->waivers);
  mr3d_secret_key_clear(&order->key);
  free(order->tests);
  mr3d_suite_close(&order->suite);
}

/** Judges, checks that the backend's files are still the same, and makes the statement. */
static mr3d_status judge(struct order *order, mr3d_run_options *options, const char *more_files, const char *compiler, const char *driver, bool shown, mr3d_run **run, char **payload,
                         mr3d_conclusion *c, mr3d_error *error) {
  mr3d_wanted_tests wanted = {order->n_tests, order->tests};
  options->challenge = &order->scope.challenge;
  options->selection.tiers = order->scope.tiers;
  options->wanted = mr3d_is_wanted, options->wanted_user = &wanted;
  mr3d_status status = mr3d_run_suite(options, mr3d_show_progress, &(mr3d_shown_progress){.shown = shown}, run, error);
  if (shown) fprintf(stderr, "\r\033[K");
  if (status != MR3D_OK) return status;
  if (mr3d_run_exit_status(*run) == 1) {
    char why[512];
    mr3d_run_verdict(*run, why);
    return mr3d_fail(error, MR3D_INVALID, "nothing is signed: %s", why);
  }
  cJSON *after = NULL;
  status = mr3d_subject_files(options->backend, more_files, &after, error);
  if (status == MR3D_OK && !cJSON_Compare(after, order->files, true)) status = mr3d_fail(error, MR3D_INVALID, "nothing is signed: the backend's files changed while it was judged");
  cJSON_Delete(after);
  if (status != MR3D_OK) return status;
  mr3d_claims claims;
  mr3d_claims_of_run(*run, &order->scope, order->n_tests, order->tests, order->files, more_files, mr3d_subject_machine(*run, compiler, driver), order->waivers, &claims);
  order->files = NULL;
  status = mr3d_statement_make(order->suite, &claims, payload, c, error);
  mr3d_claims_clear(&claims);
  return status;
}

int mr3d_command_certify(int argc, char **argv) {
  mr3d_run_options options = {0};
  struct order order = {0};
  const char *profile = "core", *nonce = NULL, *key = NULL, *passphrase_file = NULL, *out = NULL, *waivers = NULL, *waiver_keys = NULL, *shard = NULL, *more_files = NULL, *compiler = NULL,
             *driver = NULL, *junit = NULL, *json = NULL, *html = NULL, *golden = NULL;
  bool quiet = false;
  int64_t threads = 0, memory = 0, jobs = 1;
  const mr3d_option table[] = {
      {"--backend", "SPEC", MR3D_OPTION_TEXT, &options.backend, "who is certified (needed); as in mr3d check, but no dir:"},
      {"--nonce", "HEX", MR3D_OPTION_TEXT, &nonce, "the number that the one who will verify has chosen (needed; openssl rand -hex 32)"},
      MR3D_KEY_OPTIONS(&key, &passphrase_file),
      MR3D_CERTIFICATE_OPTIONS(&out, &waivers, &waiver_keys),
      {"--profile", "NAME", MR3D_OPTION_TEXT, &profile, "core (default), decoder or scan (mr3d list profiles)"},
      {"--tier", "LIST", MR3D_OPTION_TIERS, &order.scope.tiers, "fp64, fp32, tf32, bf16, fp16 (needed)"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &order.scope.ops, "only cases that ask no other operators; the certificate says so"},
      {"--shard", "I/N", MR3D_OPTION_TEXT, &shard, "judge the I-th of N parts, to be put together by mr3d merge"},
      {"--files", "LIST", MR3D_OPTION_TEXT, &more_files, "further files that the backend is made of; what --backend names is in already"},
      {"--compiler", "TEXT", MR3D_OPTION_TEXT, &compiler, "what built the backend (default: what a plug-in itself says)"},
      {"--driver", "TEXT", MR3D_OPTION_TEXT, &driver, "what drives its device (default: NVIDIA's, where there is one)"},
      {"--timeout", "SECONDS", MR3D_OPTION_SECONDS, &options.timeout, "for one request"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for reference and judge (default: all processors)"},
      {"--jobs", "N", MR3D_OPTION_COUNT, &jobs, "processes that judge side by side (default 1)"},
      {"--no-isolation", NULL, MR3D_OPTION_FLAG, &options.no_isolation, "for plug-ins that need a GPU, the network, processes or files to write to; recorded"},
      {"--memory", "MIB", MR3D_OPTION_COUNT, &memory, "what a lib: backend may allocate"},
      {"--junit", "FILE", MR3D_OPTION_TEXT, &junit, "write JUnit XML"},
      {"--json", "FILE", MR3D_OPTION_TEXT, &json, "write JSON lines"},
      {"--html", "FILE", MR3D_OPTION_TEXT, &html, "write one self-contained page"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set"},
      {"--quiet", NULL, MR3D_OPTION_FLAG, &quiet, "findings and verdict only"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d certify --backend SPEC --tier LIST --nonce HEX --key FILE -o FILE [OPTION ...]",
                            "Judges a backend by a whole profile, with inputs drawn by a nonce, and writes a signed certificate; or, where anything failed or was skipped, a signed report of\n"
                            "failure. mr3d verify checks either, offline. Exit status: 0 certificate (or part) written, 2 report of failure written, 1 nothing written.\n",
                            0, 0, NULL};
  int n = 0, status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  const struct { const char *given, *option, *what; } needed[] = {{options.backend, "--backend", "who is to be certified?"}, {nonce, "--nonce", "the one who will verify chooses it, so that no answer can be known before (openssl rand -hex 32)"},
                                                                  {key, "--key", "the private key to sign with (mr3d keygen)"}, {out, "-o", "where the certificate goes"}};
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (!needed[i].given) return mr3d_complain("%s is missing: %s\nUsage: %s", needed[i].option, needed[i].what, usage.line);
  if (!order.scope.tiers) return mr3d_complain("--tier is missing: a certificate names its tiers, as --tier fp32,bf16\nUsage: %s", usage.line);
  if (jobs < 1) return mr3d_complain("--jobs 0: expected at least 1");
  char golden_dir[4096], failure[4200];
  snprintf(failure, sizeof failure, "%.4000s.failure", out);
  mr3d_error error = {0};
  if (mr3d_new_file(out, &error) != MR3D_OK || mr3d_new_file(failure, &error) != MR3D_OK) return mr3d_complain("%s", error.message);

  mr3d_ignore_stray_signals();
  mr3d_status ready = mr3d_find_golden(golden, golden_dir, &error);
  if (ready == MR3D_OK) ready = mr3d_profile_named(profile, &order.scope.profile, &error);
  if (ready == MR3D_OK) ready = mr3d_challenge_parse(nonce, &order.scope.challenge, &error);
  if (ready == MR3D_OK && shard) ready = mr3d_shard_parse(shard, &order.scope.shard, &error);
  if (ready == MR3D_OK) ready = mr3d_suite_open(golden_dir, NULL, &order.suite, &error);
  if (ready == MR3D_OK) ready = mr3d_selection_check(order.suite, &(mr3d_selection){.op = order.scope.ops}, &error);
  if (ready == MR3D_OK) ready = mr3d_scope_tests(&order.scope, order.suite, &order.tests, &order.n_tests, &error);
  if (ready == MR3D_OK) ready = mr3d_profile_version(order.scope.profile, order.suite, &(int){0}, (char[MR3D_HEX_DIGEST]){0}, &error);
  if (ready == MR3D_OK) ready = mr3d_subject_files(options.backend, more_files, &order.files, &error);
  if (ready == MR3D_OK) ready = mr3d_open_key(key, passphrase_file, &order.key, &error);
  if (ready == MR3D_OK && waivers && shard) ready = mr3d_fail(&error, MR3D_INVALID, "--waivers: a part cannot have them; give them to mr3d merge");
  if (ready == MR3D_OK && waivers) ready = mr3d_open_waivers(waivers, waiver_keys, &order.key.public, &order.waivers, &error);
  const char *const secrets[] = {key, passphrase_file, NULL};
  options.secrets = secrets;
  options.golden_dir = golden_dir;
  options.threads = (int)(threads > 1024 ? 1024 : threads);
  options.jobs = (int)(jobs > 1024 ? 1024 : jobs);
  options.memory = (uint64_t)(memory > (1 << 30) ? 1 << 30 : memory) << 20;
  mr3d_run *run = NULL;
  char *payload = NULL;
  mr3d_conclusion c;
  if (ready == MR3D_OK && strcmp(mr3d_subject_hashed(options.backend, more_files), MR3D_HASHED_COMMAND) == 0)
    fprintf(stderr, "mr3d: note: only the words of the command that are files are hashed, not what its program loads; name that with --files, or the certificate says \"hashed\": \"%s\"\n", MR3D_HASHED_COMMAND);
  if (ready == MR3D_OK) ready = judge(&order, &options, more_files, compiler, driver, !quiet && isatty(STDERR_FILENO), &run, &payload, &c, &error);
  if (run) mr3d_report_text(run, stdout, quiet, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
  if (ready == MR3D_OK) ready = mr3d_issue_statement(payload, &c, &order.key, out, failure, &error);
  status = ready != MR3D_OK ? mr3d_complain("%s", error.message) : c.kind == MR3D_FAILURE ? 2 : 0;
  if (run && mr3d_report_files(run, junit, json, html) != 0) status = 1;
  mr3d_run_free(&run);
  cJSON_free(payload);
  close_order(&order);
  return status;
}
