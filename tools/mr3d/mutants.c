/** mr3d mutants: the kill matrix. */
#include <string.h>
#include <unistd.h>

#include "accuracy.h"
#include "command.h"
#include "matrix.h"

#define LISTED 12 /* cases named in a list before the rest is only counted; --json has all */

static void show_progress(void *user, int done, int total) {
  (void)user;
  fprintf(stderr, "\r\033[K%d/%d cases", done, total);
  fflush(stderr);
}

static void print_rows(const mr3d_matrix *x) {
  for (int m = 0; m < x->n_mutants; m++) {
    const mr3d_mutant *mutant = x->mutants[m];
    printf("%s/%-*s", mutant->slug, 46 - (int)strlen(mutant->slug), mutant->name);
    for (int t = 0; t < x->n_tiers; t++) {
      mr3d_matrix_row row = mr3d_matrix_row_of(x, t, m);
      if (!row.mistake) printf("  %s none", mr3d_tier_name(x->tiers[t]));
      else printf("  %s %3d/%-3d", mr3d_tier_name(x->tiers[t]), row.killed, row.touched);
    }
    int first = mr3d_matrix_row_of(x, 0, m).first_killer;
    printf("%s%s\n", first >= 0 ? "  " : "", first >= 0 ? x->cases[first]->id : "");
  }
}

static void print_survivors(const mr3d_matrix *x) {
  int n = 0;
  for (int t = 0; t < x->n_tiers; t++)
    for (int m = 0; m < x->n_mutants; m++) {
      if (!mr3d_matrix_survives(x, t, m)) continue;
      mr3d_matrix_row row = mr3d_matrix_row_of(x, t, m);
      if (n++ == 0) printf("\nSurvivors: no selected case kills them\n");
      printf("  %s %s/%s: ", mr3d_tier_name(x->tiers[t]), x->mutants[m]->slug, x->mutants[m]->name);
      if (row.touched == 0) printf("no selected case asks its operators (%s)\n", x->mutants[m]->ops);
      else if (row.largest_case < 0) printf("all %d cases that ask its operators are answered as the reference does\n", row.touched);
      else printf("hidden below the tolerance in %d of %d cases; largest %.2g of the limit, in %s\n", row.hidden, row.touched, row.largest, x->cases[row.largest_case]->id);
    }
  for (int m = 0; m < x->n_mutants; m++) {
    bool none = x->mutants[m]->harmless != NULL;
    for (int t = 0; t < x->n_tiers; t++) none = none && !mr3d_mutant_is_mistake_at(x->mutants[m], x->tiers[t]);
    if (none) printf("  %s/%s is no mistake at the selected tiers: %s\n", x->mutants[m]->slug, x->mutants[m]->name, x->mutants[m]->harmless);
  }
}

static void print_cases(const mr3d_matrix *x) {
  int needless = 0, killing = 0;
  for (int i = 0; i < x->n_cases; i++) {
    killing += mr3d_matrix_kills(x, i) > 0;
    needless += mr3d_matrix_kills(x, i) > 0 && !mr3d_matrix_is_needed(x, i);
  }
  printf("\n%d of %d cases kill a mutant; %d of them kill only what others kill too (other sizes and options; --json lists them)\n", killing, x->n_cases, needless);
  int n = 0;
  for (int i = 0; i < x->n_cases; i++)
    for (int p = 0; p < x->cases[i]->n_pitfalls; p++) {
      const char *slug = mr3d_matrix_unproven(x, i, p);
      if (!slug) continue;
      if (n++ == 0) printf("\nCases that name a pitfall of which they kill no mutant\n");
      if (n <= LISTED) printf("  %s: %s\n", x->cases[i]->id, slug);
    }
  if (n > LISTED) printf("  and %d more\n", n - LISTED);
}

static void print_accuracy(const mr3d_matrix *x, const mr3d_accuracy *a) {
  static const char *const namings[] = {"named", "named beside one that answers alike", "half named", "another named", "not named", "not seen"};
  for (int t = 0; t < x->n_tiers; t++)
    for (int pairs = 0; pairs < 2; pairs++) {
      int total = 0;
      for (int k = 0; k <= MR3D_NOT_SEEN; k++) total += mr3d_accuracy_count(a, t, pairs, (mr3d_naming)k);
      if (total == 0) continue;
      printf("\n%s, %d %s as backends in the tier's own arithmetic:", mr3d_tier_name(x->tiers[t]), total, pairs ? "random pairs" : "mutants");
      for (int k = 0; k <= MR3D_NOT_SEEN; k++) {
        int count = mr3d_accuracy_count(a, t, pairs, (mr3d_naming)k);
        if (count) printf("%s %d %s", k ? "," : "", count, namings[k]);
      }
      printf("\n");
      for (int i = 0; i < a->n; i++) {
        const mr3d_namesake *who = &a->all[i];
        if (who->tier != t || (who->second >= 0) != pairs || who->naming == MR3D_NAMED) continue;
        printf("  %s/%s%s%s%s%s: %s%s%s, %d of %d cases failed\n", x->mutants[who->first]->slug, x->mutants[who->first]->name, pairs ? "+" : "",
               pairs ? x->mutants[who->second]->slug : "", pairs ? "/" : "", pairs ? x->mutants[who->second]->name : "", namings[who->naming], who->named[0] ? ": " : "",
               who->named, who->failed, who->asked);
      }
    }
  printf("\n%.0f s\n", a->seconds);
}

int mr3d_command_mutants(int argc, char **argv) {
  mr3d_matrix_options options = {0};
  mr3d_selection *selection = &options.selection;
  const char *json = NULL, *html = NULL, *golden = NULL, *data = NULL;
  bool quiet = false, diagnosis = false;
  int64_t jobs = 0, pairs = 0;
  const mr3d_option table[] = {
      {"--mutant", "GLOB", MR3D_OPTION_TEXT, &options.mutant_glob, "names SLUG/NAME, * and ? as in a shell (default: all)"},
      {"--mutants-of", "LIST", MR3D_OPTION_TEXT, &options.mutant_pitfall, "mutants of these pitfalls"},
      {"--tier", "LIST", MR3D_OPTION_TIERS, &selection->tiers, "fp64, fp32, tf32, bf16, fp16 (default: fp64,fp32)"},
      {"--level", "LIST", MR3D_OPTION_TEXT, &selection->level, "cases: L0 .. L5"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &selection->op, "cases: operators"},
      {"--case", "GLOB", MR3D_OPTION_TEXT, &selection->case_glob, "cases: names"},
      {"--pitfall", "LIST", MR3D_OPTION_TEXT, &selection->pitfall, "cases: those that cover these pitfalls"},
      {"--tag", "LIST", MR3D_OPTION_TEXT, &selection->tag, "cases: those with these tags"},
      {"--without", "GLOB", MR3D_OPTION_TEXT, &options.without, "cases: not these names ('*/canonical*' saves most of the time)"},
      {"--without-slow", NULL, MR3D_OPTION_FLAG, &selection->without_slow, "not the cases tagged slow or wide (sessions of full width)"},
      {"--seed", "N", MR3D_OPTION_SEED, &options.seed, "draw other inputs (default 0)"},
      {"--jobs", "N", MR3D_OPTION_COUNT, &jobs, "processes (default: one a processor)"},
      {"--diagnosis", NULL, MR3D_OPTION_FLAG, &diagnosis, "then run each as a backend and count how often the diagnosis names it"},
      {"--pairs", "N", MR3D_OPTION_COUNT, &pairs, "with --diagnosis: so many random pairs of mutants at each tier"},
      {"--json", "FILE", MR3D_OPTION_TEXT, &json, "write the whole matrix as JSON (docs/cli.md)"},
      {"--html", "FILE", MR3D_OPTION_TEXT, &html, "write one self-contained page"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set (default: MR3D_GOLDEN, else beside the program)"},
      {"--data", "DIR", MR3D_OPTION_TEXT, &data, "folder with prompt_ids.json: with the cases on real prompts, which take longest"},
      {"--quiet", NULL, MR3D_OPTION_FLAG, &quiet, "survivors and verdict only"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {
      "mr3d mutants [OPTION ...]",
      "Runs every mutant, the reference with one mistake, against every case, and prints how many cases kill it, of those that ask its\n"
      "operators; then the mutants that survive, with their size, and the cases that prove nothing. A mistake hidden below the noise of a\n"
      "narrow tier is listed; at fp64 and fp32 a survivor is a hole in the suite.\n\n"
      "Exit status: 0 every mistake is killed at fp64 and fp32 (of the tiers selected), 2 one survives there, 1 could not run.\n",
      0, 0};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;

  mr3d_error error = {0};
  mr3d_matrix *x = NULL;
  char golden_dir[4096];
  if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  options.golden_dir = golden_dir;
  options.data_dir = data ? mr3d_find_data(data) : NULL;
  options.jobs = (int)(jobs > 256 ? 256 : jobs);
  bool shown = !quiet && isatty(STDERR_FILENO);
  mr3d_status ran = mr3d_matrix_run(&options, shown ? show_progress : NULL, NULL, &x, &error);
  if (shown) fprintf(stderr, "\r\033[K");
  if (ran != MR3D_OK) return mr3d_complain("%s", error.message);

  if (!quiet) print_rows(x);
  print_survivors(x);
  if (!quiet) print_cases(x);
  int holes = mr3d_matrix_holes(x);
  printf("\n%d mutants, %d cases", x->n_mutants, x->n_cases);
  for (int t = 0; t < x->n_tiers; t++) {
    int killed = 0, mistakes = 0;
    for (int m = 0; m < x->n_mutants; m++) {
      killed += mr3d_matrix_row_of(x, t, m).killed > 0;
      mistakes += mr3d_mutant_is_mistake_at(x->mutants[m], x->tiers[t]);
    }
    printf("; %s: %d of %d killed", mr3d_tier_name(x->tiers[t]), killed, mistakes);
  }
  printf("; %.0f s with %d processes\n", x->seconds, x->jobs);
  if (x->not_asked) printf("%d mutants left out: no selected case asks their operators\n", x->not_asked);
  if (x->left_out) printf("%d cases left out: they need the data folder\n", x->left_out);
  status = holes ? 2 : 0;
  if (json && mr3d_matrix_json(x, json, &error) != MR3D_OK) status = mr3d_complain("--json: %s", error.message);
  if (html && mr3d_matrix_html(x, html, &error) != MR3D_OK) status = mr3d_complain("--html: %s", error.message);
  if (diagnosis) {
    mr3d_accuracy *accuracy = NULL;
    ran = mr3d_accuracy_run(x, (int)(pairs > 10000 ? 10000 : pairs), shown ? show_progress : NULL, NULL, &accuracy, &error);
    if (shown) fprintf(stderr, "\r\033[K");
    if (ran == MR3D_OK) print_accuracy(x, accuracy);
    else status = mr3d_complain("--diagnosis: %s", error.message);
    mr3d_accuracy_free(&accuracy);
  }
  mr3d_matrix_free(&x);
  return status;
}
