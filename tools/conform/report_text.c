/** The terminal's report: findings first, grouped by the mistake they show, then a line per operator, the verdict last. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "promises.h"
#include "repeat.h"
#include "report.h"

#define MR3D_MAX_ALSO 8 /* further results of a group that are named */

struct text {
  FILE *to;
  bool colour;
};

static const char *paint(const struct text *t, const char *code) { return t->colour ? code : ""; }
#define RED "\033[31;1m"
#define GREEN "\033[32;1m"
#define YELLOW "\033[33m"
#define DIM "\033[2m"
#define BOLD "\033[1m"
#define OFF "\033[0m"

/** A line break within goes on behind a bar, so that no text of a backend's can begin a line, and look like the report's own. */
static void print_clean(FILE *to, const char *text) {
  char *clean = mr3d_clean_text(text);
  for (const char *c = clean; *c; c++) {
    fputc(*c, to);
    if (*c == '\n' && c[1]) fputs("     | ", to);
  }
  free(clean);
}

static void print_finding(const struct text *t, const mr3d_run *run, const mr3d_result *result) {
  char *again = mr3d_rerun_command(run, result);
  fprintf(t->to, "   %s%s at %s%s - %s\n", paint(t, BOLD), mr3d_result_name(result, (char[192]){0}), mr3d_tier_name(result->tier), paint(t, OFF),
          result->test->title);
  fprintf(t->to, "     ");
  print_clean(t->to, result->reason);
  fprintf(t->to, "\n");
  if (result->diagnosis[0]) {
    fprintf(t->to, "     %s", paint(t, YELLOW));
    print_clean(t->to, result->diagnosis);
    fprintf(t->to, "%s\n", paint(t, OFF));
  }
  for (int p = 0; p < result->test->n_pitfalls; p++) fprintf(t->to, "%s%s", p ? ", " : "     covers: ", result->test->pitfalls[p]);
  if (result->test->n_pitfalls) fprintf(t->to, "  (mr3d explain %s)\n", result->test->pitfalls[0]);
  const char *log = mr3d_result_log(result);
  if (*log) {
    const char *tail = strlen(log) > 600 ? log + strlen(log) - 600 : log;
    fprintf(t->to, "     %sbackend's stderr%s:%s ", paint(t, DIM), tail == log ? "" : " (its end)", paint(t, OFF));
    print_clean(t->to, tail);
    if (log[strlen(log) - 1] != '\n') fprintf(t->to, "\n");
  }
  fprintf(t->to, "     again: ");
  print_clean(t->to, again);
  fprintf(t->to, "\n");
  free(again);
}

static void print_findings(const struct text *t, const mr3d_run *run) {
  int n;
  mr3d_finding *findings = mr3d_findings(run, &n);
  if (n) fprintf(t->to, "%sFindings%s\n\n", paint(t, BOLD), paint(t, OFF));
  for (int f = 0; f < n; f++) {
    int count = findings[f].n_results, also = count - 1 < MR3D_MAX_ALSO ? count - 1 : MR3D_MAX_ALSO;
    fprintf(t->to, "%2d. %s%s%s: %d result%s\n", f + 1, paint(t, RED), findings[f].name, paint(t, OFF), count, count == 1 ? "" : "s");
    print_finding(t, run, findings[f].results[0]);
    for (int i = 1; i <= also; i++)
      fprintf(t->to, "%s%s at %s", i > 1 ? ", " : "     also: ", mr3d_result_name(findings[f].results[i], (char[192]){0}),
              mr3d_tier_name(findings[f].results[i]->tier));
    if (count - 1 > also) fprintf(t->to, " and %d more (--json or --html have all)", count - 1 - also);
    fprintf(t->to, "%s\n", also ? "\n" : "");
  }
  mr3d_findings_free(&findings, n);
}

/** "22", "20 x2 -1": passed, failed, skipped, broken with "!"; padded to `width`. */
static void print_cell(const struct text *t, const int count[4], int width) {
  char text[64] = "";
  if (count[MR3D_PASSED]) snprintf(text, sizeof text, "%d", count[MR3D_PASSED]);
  for (int v = MR3D_FAILED; v <= MR3D_BROKEN; v++)
    if (count[v]) snprintf(text + strlen(text), sizeof text - strlen(text), "%s%c%d", *text ? " " : "", "x-!"[v - MR3D_FAILED], count[v]);
  const char *code = count[MR3D_FAILED] || count[MR3D_BROKEN] ? RED : count[MR3D_PASSED] ? GREEN : DIM;
  fprintf(t->to, "%s%-*s%s", paint(t, code), width, text, paint(t, OFF));
}

static void print_table(const struct text *t, const mr3d_run *run) {
  bool used[MR3D_N_TIERS] = {false};
  for (int i = 0; i < run->n_results; i++) used[run->results[i].tier] = true;
  fprintf(t->to, "%s%-18s", paint(t, BOLD), "operator");
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (used[tier]) fprintf(t->to, "%-12s", mr3d_tier_name((mr3d_tier)tier));
  fprintf(t->to, "%s%s\n", "nearest to its limit", paint(t, OFF));
  int n;
  mr3d_operator_row *rows = mr3d_operator_rows(run, &n);
  for (int r = 0; r < n; r++) {
    const mr3d_operator_row *row = &rows[r];
    int passed = 0;
    fprintf(t->to, "%-18s", row->op);
    for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
      if (used[tier]) print_cell(t, row->count[tier], 12);
      passed += row->count[tier][MR3D_PASSED];
    }
    if (row->where && row->worst.share != 0)
      fprintf(t->to, "%.2g (%s, %s, %s)", row->worst.share, row->worst.rule, mr3d_tier_name(row->where->tier), row->where->test->id);
    else if (passed) fprintf(t->to, "exact");
    fprintf(t->to, "\n");
  }
  free(rows);
  fprintf(t->to, "%spassed, x failed, - skipped, ! suite broken; the last column is value / limit, failing above 1%s\n\n", paint(t, DIM),
          paint(t, OFF));
}

/** Why results were skipped, each reason once with its count. */
static void print_skips(const struct text *t, const mr3d_run *run) {
  for (int i = 0; i < run->n_results; i++) {
    if (run->results[i].verdict != MR3D_SKIPPED) continue;
    int same = 0, before = 0;
    for (int j = 0; j < run->n_results; j++)
      if (run->results[j].verdict == MR3D_SKIPPED && strcmp(run->results[j].reason, run->results[i].reason) == 0) j < i ? before++ : same++;
    if (before) continue;
    fprintf(t->to, "skipped %d: ", same);
    print_clean(t->to, run->results[i].reason);
    fprintf(t->to, "\n");
  }
}

/** Results that differ bit for bit when asked again, though all are within tolerance. */
static void print_unsteady(const struct text *t, const mr3d_run *run) {
  int n = mr3d_run_unsteady(run), shown = 0;
  if (n == 0) return;
  fprintf(t->to, "%s%d result%s answered otherwise when asked again, within tolerance (mr3d explain order-sensitivity)%s\n", paint(t, YELLOW), n, n == 1 ? " is" : "s are",
          paint(t, OFF));
  for (int i = 0; i < run->n_results && shown < MR3D_MAX_ALSO; i++) {
    const mr3d_result *result = &run->results[i];
    char what[600];
    if (!mr3d_result_unsteady(result)) continue;
    shown++;
    mr3d_difference_say(&result->difference, result, what, sizeof what);
    fprintf(t->to, "   %s at %s: ", result->test->id, mr3d_tier_name(result->tier));
    print_clean(t->to, what);
    fprintf(t->to, "\n");
  }
  if (n > shown) fprintf(t->to, "   and %d more (--json or --html have all)\n", n - shown);
}

/** Tokens of generations that part from the truth's, all within tolerance. */
static void print_generations(const struct text *t, const mr3d_run *run) {
  int n = 0, alike = 0, shown = 0;
  for (int i = 0; i < run->n_results; i++) {
    const mr3d_generation *g = &run->results[i].generation;
    n += g->n > 0;
    alike += g->n > 0 && mr3d_generation_parts_at(g) == g->n;
  }
  if (n == 0) return;
  fprintf(t->to, "%d of %d generations, fed with their own tokens, give the truth's%s\n", alike, n, alike < n ? "; where they part, two tokens are nearly equal" : "");
  for (int i = 0; i < run->n_results && shown < MR3D_MAX_ALSO; i++) {
    const mr3d_result *result = &run->results[i];
    char tokens[1200];
    if (mr3d_generation_parts_at(&result->generation) == result->generation.n) continue;
    shown++;
    mr3d_generation_say(&result->generation, tokens, sizeof tokens);
    fprintf(t->to, "   %s at %s: %s\n", result->test->id, mr3d_tier_name(result->tier), tokens);
  }
  if (n - alike > shown) fprintf(t->to, "   and %d more (--json or --html have all)\n", n - alike - shown);
}

/** What the backend was kept from. Backends in this process have nothing to say. */
static void print_protections(const struct text *t, const mr3d_backend_info *info, bool no_isolation) {
  if (!info->protections || !*info->protections) return;
  fprintf(t->to, "%sisolation: %s", paint(t, DIM), no_isolation ? "none asked for (--no-isolation) but: " : "");
  print_clean(t->to, info->protections);
  if (*info->missing_protections) {
    fprintf(t->to, "%s\n%snot available: ", paint(t, OFF), paint(t, YELLOW));
    print_clean(t->to, info->missing_protections);
  }
  fprintf(t->to, "%s\n", paint(t, OFF));
}

void mr3d_report_text(const mr3d_run *run, FILE *to, bool brief, bool colour) {
  struct text t = {to, colour};
  char why[512];
  fprintf(to, "backend ");
  print_clean(to, run->options.backend);
  if (run->info.name[0]) {
    fprintf(to, " (");
    print_clean(to, run->info.name);
    fprintf(to, "%s", run->info.version[0] ? " " : "");
    print_clean(to, run->info.version);
    fprintf(to, ")");
  }
  char order[128];
  mr3d_run_order(run, order);
  if (run->options.challenge) {
    char nonce[2 * MR3D_MOST_NONCE + 1];
    mr3d_challenge_print(run->options.challenge, nonce);
    fprintf(to, ", nonce %s", nonce);
  } else fprintf(to, ", seed %llu", (unsigned long long)run->options.seed);
  fprintf(to, ", %s%s%d golden files verified\n", order, *order ? ", " : "", run->n_golden_files);
  char kept[96];
  if (run->info.kept) fprintf(to, "it promises to keep in binary32, and is judged by that: %s\n", mr3d_promises_text(run->info.kept, kept));
  if (!brief) print_protections(&t, &run->info, run->options.no_isolation);
  fprintf(to, "\n");
  print_findings(&t, run);
  if (!brief) {
    print_table(&t, run);
    print_skips(&t, run);
  }
  print_unsteady(&t, run);
  if (!brief) print_generations(&t, run);
  if (run->remarks) {
    fprintf(to, "%s", paint(&t, YELLOW));
    print_clean(to, run->remarks);
    fprintf(to, "%s\n", paint(&t, OFF));
  }
  const char *verdict = mr3d_run_verdict(run, why);
  fprintf(to, "%s%s%s: ", paint(&t, mr3d_run_exit_status(run) == 0 ? GREEN : RED), verdict, paint(&t, OFF));
  print_clean(to, why);
  if (mr3d_run_exit_status(run) == 0 && !brief) {
    char limits[MR3D_MAX_LIMITS][1024];
    int n = mr3d_run_limits(run, limits);
    fprintf(to, "\nThis does not exclude");
    for (int i = 0; i < n; i++) fprintf(to, "\n  - %s", limits[i]);
  }
  if (run->yardsticks_found > 0) fprintf(to, "\n%d yardstick runs taken from %s", run->yardsticks_found, run->options.yardsticks_dir);
  if (run->failed > 0) fprintf(to, "\nthe diagnosis took %.1f s", run->diagnosis_seconds);
  fprintf(to, "\n%d passed, %d failed, %d skipped, %d broken in %.1f s\n", run->passed, run->failed, run->skipped, run->broken,
          run->seconds);
}
