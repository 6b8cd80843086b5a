/** mr3d check: the suite against a backend. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "judging.h"
#include "report.h"
#include "shard.h"

/** What of the selection this process judges. */
struct part {
  const mr3d_selection *selection;
  mr3d_shard shard;
  mr3d_suite *suite; /* whose cases were dealt out */
  mr3d_deal *deal;
};

static bool is_selected(void *user, const mr3d_case *test) {
  const struct part *part = user;
  return mr3d_case_selected(test, part->selection) && (!part->selection->tiers || part->selection->tiers & test->tiers);
}

static bool is_on_shard(void *user, const mr3d_case *test, mr3d_tier tier, mr3d_variant variant) {
  const struct part *part = user;
  (void)tier, (void)variant;
  return mr3d_deal_shard_of(part->deal, mr3d_suite_find(part->suite, test->id)) == part->shard.index;
}

int mr3d_command_check(int argc, char **argv) {
  mr3d_run_options options = {0};
  mr3d_selection *selection = &options.selection;
  const char *junit = NULL, *json = NULL, *html = NULL, *golden = NULL, *data = NULL;
  bool quiet = false;
  mr3d_shown_progress progress = {0};
  int64_t threads = 0, memory = 0, jobs = 1, repeat = 1;
  mr3d_order order = {0};
  const char *nonce = NULL, *shard = NULL;
  const mr3d_option table[] = {
      {"--backend", "SPEC", MR3D_OPTION_TEXT, &options.backend, "who is judged (needed); see above"},
      {"--tier", "LIST", MR3D_OPTION_TIERS, &selection->tiers, "fp64, fp32, tf32, bf16, fp16 (default: those the backend claims; fp64 for builtin: and mutant:)"},
      MR3D_SELECTION_OPTIONS(selection),
      {"--seed", "N", MR3D_OPTION_SEED, &options.seed, "draw other inputs (default 0, the golden set's)"},
      {"--nonce", "HEX", MR3D_OPTION_TEXT, &nonce, "challenge: draw each case's inputs by this number, as mr3d certify does (docs/certificate.md)"},
      {"--shard", "I/N", MR3D_OPTION_TEXT, &shard, "only the I-th of N parts that take about as long; together they are all"},
      {"--timeout", "SECONDS", MR3D_OPTION_SECONDS, &options.timeout, "for one request (default: 20 s and more by its size)"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for reference and judge (default: all processors)"},
      {"--jobs", "N", MR3D_OPTION_COUNT, &jobs, "processes that judge side by side, each with a backend of its own and a share of the threads (default 1)"},
      {"--repeat", "K", MR3D_OPTION_COUNT, &repeat, "ask each case K times; answers must be the same bit for bit (default 1)"},
      {"--shuffle", "[SEED]", MR3D_OPTION_ORDER, &order, "ask again in another order, drawn by SEED (default 0); at least --repeat 2"},
      {"--no-isolation", NULL, MR3D_OPTION_FLAG, &options.no_isolation, "for plug-ins that need a GPU, the network, processes or files to write to, commands that need other processes or users"},
      {"--memory", "MIB", MR3D_OPTION_COUNT, &memory, "what a lib: backend may allocate (default: three quarters of the machine's)"},
      {"--fail-fast", NULL, MR3D_OPTION_FLAG, &progress.fail_fast, "end after the first failure"},
      {"--junit", "FILE", MR3D_OPTION_TEXT, &junit, "write JUnit XML"},
      {"--json", "FILE", MR3D_OPTION_TEXT, &json, "write JSON lines (docs/report.schema.json)"},
      {"--html", "FILE", MR3D_OPTION_TEXT, &html, "write one self-contained page"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set (default: MR3D_GOLDEN, else beside the program)"},
      {"--data", "DIR", MR3D_OPTION_TEXT, &data, "folder with prompt_ids.json, for cases on real prompts (default: MR3D_DATA)"},
      {"--yardsticks", "DIR", MR3D_OPTION_TEXT, &options.yardsticks_dir, "keep the judge's emulated runs there, and take those kept: faster from the second run on"},
      {"--quiet", NULL, MR3D_OPTION_FLAG, &quiet, "findings and verdict only, no progress, no table"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {
      "mr3d check --backend SPEC [OPTION ...]",
      "Runs the suite against a backend and judges every answer. A LIST is words joined by commas; selections narrow each other.\n\n"
      "SPEC is one of\n"
      "  builtin:reference     the reference itself\n"
      "  builtin:emulated      the reference, rounding wherever stacks store a value of the tier's type\n"
      "  exec:COMMAND          a program that speaks the protocol on stdin and stdout (docs/writing-a-backend.md)\n"
      "  lib:PATH.so           a C plug-in, loaded in a process of its own\n"
      "  dir:ANSWERS           answers to the requests of mr3d export\n"
      "  mutant:SLUG/NAME      the reference with one mistake (mr3d list mutants); two joined by +\n\n"
      "Exit status: 0 compliant, 2 not compliant, 1 could not judge. What the backend does not offer is skipped and counted.\n",
      0, 0};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  if (!options.backend)
    return mr3d_complain("--backend is missing: who is to be judged?\nUsage: %s\nTry --backend builtin:reference, or `mr3d check --help`.",
                         usage.line);

  if (jobs < 1 || repeat < 1) return mr3d_complain("%s 0: expected at least 1", jobs < 1 ? "--jobs" : "--repeat");
  mr3d_ignore_stray_signals();

  mr3d_error error = {0};
  char golden_dir[4096];
  if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  options.golden_dir = golden_dir;
  options.data_dir = mr3d_find_data(data);
  options.threads = (int)(threads > 1024 ? 1024 : threads);
  options.jobs = (int)(jobs > 1024 ? 1024 : jobs);
  options.repeat = (int)(repeat > 1024 ? 1024 : repeat);
  options.shuffle = order.given, options.shuffle_seed = order.seed;
  options.memory = (uint64_t)(memory > (1 << 30) ? 1 << 30 : memory) << 20;

  mr3d_challenge challenge;
  if (nonce && (options.seed || repeat > 1 || order.given))
    return mr3d_complain("--nonce draws the seeds and what is asked again itself: leave out --seed, --repeat and --shuffle");
  if (nonce && strncmp(options.backend, "dir:", 4) == 0) return mr3d_complain("--nonce needs a backend that can be asked again; files of answers cannot");
  if (nonce && mr3d_challenge_parse(nonce, &challenge, &error) != MR3D_OK) return mr3d_complain("--nonce: %s", error.message);
  options.challenge = nonce ? &challenge : NULL;
  struct part part = {.selection = selection};
  mr3d_suite *suite = NULL;
  if (shard) {
    mr3d_status dealt = mr3d_shard_parse(shard, &part.shard, &error);
    if (dealt == MR3D_OK) dealt = mr3d_suite_open(golden_dir, options.data_dir, &suite, &error);
    if (dealt == MR3D_OK) dealt = mr3d_deal_new(suite, is_selected, &part, part.shard.of, &part.deal, &error);
    if (dealt != MR3D_OK) return mr3d_complain("%s", error.message);
    part.suite = suite;
    options.wanted = is_on_shard, options.wanted_user = &part;
  }

  mr3d_run *run = NULL;
  progress.shown = !quiet && isatty(STDERR_FILENO);
  mr3d_status ran = mr3d_run_suite(&options, mr3d_show_progress, &progress, &run, &error);
  if (progress.shown) fprintf(stderr, "\r\033[K");
  if (ran != MR3D_OK) return mr3d_complain("%s", error.message);
  mr3d_report_text(run, stdout, quiet, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
  status = mr3d_run_exit_status(run);
  if (mr3d_report_files(run, junit, json, html) != 0) status = 1;
  mr3d_run_free(&run);
  mr3d_deal_free(&part.deal);
  mr3d_suite_close(&suite);
  return status;
}
