/** mr3d sensitivity: how small an error the judge sees. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "judge_internal.h"
#include "report.h"
#include "sensitivity.h"

static void show_progress(void *user, int done, int total) {
  (void)user;
  fprintf(stderr, "\r\033[K%d/%d cases", done, total);
  fflush(stderr);
}

/** The first case of its operator. */
static bool is_first(const mr3d_sensitivity *x, int index) {
  for (int i = 0; i < index; i++)
    if (strcmp(mr3d_case_op(x->cases[i]), mr3d_case_op(x->cases[index])) == 0) return false;
  return true;
}

/** The median of what honest answers of an operator are off, relative to the truth; NAN: none was asked. */
static double noise_of(const mr3d_sensitivity *x, int tier, const char *op) {
  double *noise = mr3d_allocate(x->n_cases, sizeof *noise), median = NAN;
  int n = 0;
  for (int i = 0; i < x->n_cases; i++)
    if (x->sensed[tier * x->n_cases + i].asked && strcmp(mr3d_case_op(x->cases[i]), op) == 0) noise[n++] = x->sensed[tier * x->n_cases + i].noise;
  if (n > 0) median = mr3d_select(noise, n, n / 2);
  free(noise);
  return median;
}

static void print_size(double size) {
  if (isnan(size)) printf(" | -");
  else if (isinf(size)) printf(" | not seen");
  else printf(" | %.2g", size);
}

/** A table that Markdown understands, since docs/tolerance.md quotes it. */
static void print_tier(const mr3d_sensitivity *x, int tier) {
  printf("| %s | noise", mr3d_tier_name(x->tiers[tier]));
  for (int d = 0; d < MR3D_N_DEFECTS; d++) printf(" | %s", mr3d_defect_text((mr3d_defect)d));
  printf(" |\n|---|---");
  for (int d = 0; d < MR3D_N_DEFECTS; d++) printf("|---");
  printf("|\n");
  for (int i = 0; i < x->n_cases; i++) {
    const char *op = mr3d_case_op(x->cases[i]);
    double noise = noise_of(x, tier, op);
    if (!is_first(x, i) || isnan(noise)) continue;
    printf("| %s | %.1g", op, noise);
    for (int d = 0; d < MR3D_N_DEFECTS; d++) {
      const mr3d_case *where;
      print_size(mr3d_sensitivity_least(x, tier, op, (mr3d_defect)d, &where));
    }
    printf(" |\n");
  }
  printf("\n");
}

static int print_false_alarms(const mr3d_sensitivity *x) {
  int n = 0;
  for (int t = 0; t < x->n_tiers; t++)
    for (int i = 0; i < x->n_cases; i++) {
      if (!x->sensed[t * x->n_cases + i].false_alarm) continue;
      n++;
      printf("false alarm: honest arithmetic fails %s at %s\n", x->cases[i]->id, mr3d_tier_name(x->tiers[t]));
    }
  return n;
}

static mr3d_status write_json(const mr3d_sensitivity *x, const char *path, mr3d_error *error) {
  char *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  for (int t = 0; t < x->n_tiers; t++)
    for (int i = 0; i < x->n_cases; i++) {
      const mr3d_sensed *s = &x->sensed[t * x->n_cases + i];
      if (!s->asked) continue;
      cJSON *line = cJSON_CreateObject(), *least = cJSON_AddObjectToObject(line, "least");
      cJSON_AddStringToObject(line, "case", x->cases[i]->id);
      cJSON_AddStringToObject(line, "op", mr3d_case_op(x->cases[i]));
      cJSON_AddStringToObject(line, "tier", mr3d_tier_name(x->tiers[t]));
      cJSON_AddBoolToObject(line, "false_alarm", s->false_alarm);
      cJSON_AddNumberToObject(line, "noise", s->noise);
      for (int d = 0; d < MR3D_N_DEFECTS; d++) { /* null: not seen; absent: no such defect there */
        if (isinf(s->least[d])) cJSON_AddNullToObject(least, mr3d_defect_text((mr3d_defect)d));
        else if (!isnan(s->least[d])) cJSON_AddNumberToObject(least, mr3d_defect_text((mr3d_defect)d), (double)s->least[d]);
      }
      char *text = cJSON_PrintUnformatted(line);
      fprintf(to, "%s\n", text);
      free(text);
      cJSON_Delete(line);
    }
  return mr3d_report_save(to, &bytes, &size, path, error);
}

int mr3d_command_sensitivity(int argc, char **argv) {
  mr3d_sensitivity_options options = {.selection = {.without_slow = true}};
  mr3d_selection *selection = &options.selection;
  const char *json = NULL, *golden = NULL;
  int64_t jobs = 0;
  const mr3d_option table[] = {
      {"--tier", "LIST", MR3D_OPTION_TIERS, &selection->tiers, "fp64, fp32, tf32, bf16, fp16 (default: all but tf32)"},
      {"--level", "LIST", MR3D_OPTION_TEXT, &selection->level, "cases: L0 .. L5"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &selection->op, "cases: operators"},
      {"--case", "GLOB", MR3D_OPTION_TEXT, &selection->case_glob, "cases: names"},
      {"--tag", "LIST", MR3D_OPTION_TEXT, &selection->tag, "cases: those with these tags"},
      {"--without", "GLOB", MR3D_OPTION_TEXT, &options.without, "cases: not these names ('*/canonical*' saves most of the time)"},
      {"--seed", "N", MR3D_OPTION_SEED, &options.seed, "draw other inputs (default 0)"},
      {"--jobs", "N", MR3D_OPTION_COUNT, &jobs, "processes (default: one a processor)"},
      {"--json", "FILE", MR3D_OPTION_TEXT, &json, "write what each case sees as JSON lines"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set (default: MR3D_GOLDEN, else beside the program)"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {
      "mr3d sensitivity [OPTION ...]",
      "Puts errors of known size into the answers of honest arithmetic and searches the smallest that the judge refuses, for every operator,\n"
      "tier and kind of error: what a passing run can't exclude is what is smaller. A cell is the best of the operator's cases. `noise` is\n"
      "what honest answers are off, relative to the truth (median over cases); \"not seen\": not even e = 1; \"-\": there is no such error.\n\n"
      "Exit status: 0 good, 2 an honest answer was refused, 1 could not run.\n",
      0, 0};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;

  mr3d_error error = {0};
  mr3d_sensitivity *x = NULL;
  char golden_dir[4096];
  if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  options.golden_dir = golden_dir;
  options.jobs = (int)(jobs > 256 ? 256 : jobs);
  bool shown = isatty(STDERR_FILENO);
  mr3d_status ran = mr3d_sensitivity_run(&options, shown ? show_progress : NULL, NULL, &x, &error);
  if (shown) fprintf(stderr, "\r\033[K");
  if (ran != MR3D_OK) return mr3d_complain("%s", error.message);
  for (int t = 0; t < x->n_tiers; t++) print_tier(x, t);
  status = print_false_alarms(x) ? 2 : 0;
  printf("%d cases, seed %llu, %.0f s\n", x->n_cases, (unsigned long long)x->seed, x->seconds);
  if (json && write_json(x, json, &error) != MR3D_OK) status = mr3d_complain("--json: %s", error.message);
  mr3d_sensitivity_free(&x);
  return status;
}
