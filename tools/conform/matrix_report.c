/** The kill matrix as JSON and as one HTML page. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "matrix.h"
#include "pitfalls.h"
#include "report.h"

extern const char mr3d_embedded_report_css[]; /* put here by embed.c */

static const char *const state_names[] = {"untouched", "equal", "hidden", "killed"};

static void add_names(cJSON *list, const mr3d_matrix *x, bool (*wanted)(const mr3d_matrix *, int)) {
  for (int i = 0; i < x->n_cases; i++)
    if (wanted(x, i)) cJSON_AddItemToArray(list, cJSON_CreateString(x->cases[i]->id));
}

static bool is_needless(const mr3d_matrix *x, int test) { return mr3d_matrix_kills(x, test) > 0 && !mr3d_matrix_is_needed(x, test); }
static bool kills_none(const mr3d_matrix *x, int test) { return mr3d_matrix_kills(x, test) == 0; }

static cJSON *row_as_json(const mr3d_matrix *x, int tier, int mutant) {
  mr3d_matrix_row row = mr3d_matrix_row_of(x, tier, mutant);
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "tier", mr3d_tier_name(x->tiers[tier]));
  cJSON_AddBoolToObject(object, "mistake", row.mistake);
  cJSON_AddNumberToObject(object, "touched", row.touched);
  cJSON_AddNumberToObject(object, "killed", row.killed);
  cJSON_AddNumberToObject(object, "hidden", row.hidden);
  cJSON_AddNumberToObject(object, "equal", row.equal);
  cJSON *killers = cJSON_AddArrayToObject(object, "killers");
  cJSON *hidden = cJSON_AddObjectToObject(object, "hidden_sizes");
  for (int i = 0; i < x->n_cases; i++) {
    mr3d_cell cell = mr3d_matrix_cell(x, tier, i, mutant);
    if (cell.state == MR3D_CELL_KILLED) cJSON_AddItemToArray(killers, cJSON_CreateString(x->cases[i]->id));
    if (cell.state == MR3D_CELL_HIDDEN) cJSON_AddNumberToObject(hidden, x->cases[i]->id, (double)cell.size);
  }
  return object;
}

mr3d_status mr3d_matrix_json(const mr3d_matrix *x, const char *path, mr3d_error *error) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddNumberToObject(root, "format", 1);
  cJSON_AddStringToObject(root, "mr3d", MR3D_VERSION);
  char seed[32];
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)x->seed);
  cJSON_AddStringToObject(root, "seed", seed);
  cJSON_AddNumberToObject(root, "cases", x->n_cases);
  cJSON_AddStringToObject(root, "selected", x->selected[0] ? x->selected + 1 : "");
  cJSON_AddNumberToObject(root, "seconds", x->seconds);
  cJSON_AddNumberToObject(root, "holes", mr3d_matrix_holes(x));
  cJSON *mutants = cJSON_AddArrayToObject(root, "mutants");
  for (int m = 0; m < x->n_mutants; m++) {
    char name[128];
    cJSON *object = cJSON_CreateObject(), *tiers;
    snprintf(name, sizeof name, "%s/%s", x->mutants[m]->slug, x->mutants[m]->name);
    cJSON_AddStringToObject(object, "mutant", name);
    cJSON_AddStringToObject(object, "says", x->mutants[m]->says);
    if (x->mutants[m]->harmless) cJSON_AddStringToObject(object, "harmless", x->mutants[m]->harmless);
    tiers = cJSON_AddArrayToObject(object, "tiers");
    for (int t = 0; t < x->n_tiers; t++) cJSON_AddItemToArray(tiers, row_as_json(x, t, m));
    cJSON_AddItemToArray(mutants, object);
  }
  cJSON *seconds = cJSON_AddObjectToObject(root, "case_seconds");
  for (int i = 0; i < x->n_cases; i++) {
    double sum = 0;
    for (int t = 0; t < x->n_tiers; t++) sum += (double)x->case_seconds[t * x->n_cases + i];
    cJSON_AddNumberToObject(seconds, x->cases[i]->id, sum);
  }
  add_names(cJSON_AddArrayToObject(root, "cases_that_kill_none"), x, kills_none);
  add_names(cJSON_AddArrayToObject(root, "cases_that_others_cover"), x, is_needless);
  cJSON *unproven = cJSON_AddArrayToObject(root, "annotations_not_proven");
  for (int i = 0; i < x->n_cases; i++)
    for (int p = 0; p < x->cases[i]->n_pitfalls; p++) {
      if (!mr3d_matrix_unproven(x, i, p)) continue;
      cJSON *object = cJSON_CreateObject();
      cJSON_AddStringToObject(object, "case", x->cases[i]->id);
      cJSON_AddStringToObject(object, "pitfall", x->cases[i]->pitfalls[p]);
      cJSON_AddItemToArray(unproven, object);
    }
  char *text = cJSON_Print(root), *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  fprintf(to, "%s\n", text);
  cJSON_free(text);
  cJSON_Delete(root);
  return mr3d_report_save(to, &bytes, &size, path, error);
}

/* ---- the page ---- */

static const char style[] =
    ".matrix td, .matrix th { padding: 0; border: 1px solid var(--page); font-size: .85rem; vertical-align: middle; }\n"
    ".matrix th.name { padding: 0 .6rem 0 0; font-weight: 400; font-size: .85rem; }\n"
    ".matrix th.op { font-weight: 400; font-size: .8rem; padding: 0 .3rem .3rem 0; vertical-align: bottom; }\n"
    ".bar { display: flex; width: 4rem; height: .8rem; }\n"
    "i.equal { background: var(--none-back); } i.hidden { background: var(--odd); } i.killed { background: var(--good); }\n"
    ".matrix thead th { position: sticky; top: 0; background: var(--page); }\n"
    "tr.hole th.name { color: var(--bad); font-weight: 600; }\n"
    ".key i { display: inline-block; width: .9rem; height: .8rem; vertical-align: -.1rem; margin-right: .3rem; }\n"
    ".key span { margin-right: 1.2rem; }\n";

/** Cases grouped by operator, in order of appearance. */
static int operators_of(const mr3d_matrix *x, const char *ops[64]) {
  int n = 0;
  for (int i = 0; i < x->n_cases; i++) {
    int k = 0;
    while (k < n && strcmp(ops[k], mr3d_case_op(x->cases[i])) != 0) k++;
    if (k == n && n < 64) ops[n++] = mr3d_case_op(x->cases[i]);
  }
  return n;
}

#define NAMED_IN_TITLE 6 /* cases; JSON has all */

/** One mutant in the cases of one operator: a bar, as wide as cases are many, of killed, hidden and equal; its tooltip names some. */
static void write_bar(FILE *to, const mr3d_matrix *x, int tier, int mutant, const char *op) {
  int counts[4] = {0}, named = 0;
  for (int i = 0; i < x->n_cases; i++)
    if (strcmp(mr3d_case_op(x->cases[i]), op) == 0) counts[mr3d_matrix_cell(x, tier, i, mutant).state]++;
  int asked = counts[MR3D_CELL_EQUAL] + counts[MR3D_CELL_HIDDEN] + counts[MR3D_CELL_KILLED];
  if (asked == 0) {
    fputs("<td></td>", to);
    return;
  }
  fprintf(to, "<td><div class=\"bar\" role=\"img\" title=\"%d killed, %d hidden, %d equal", counts[MR3D_CELL_KILLED], counts[MR3D_CELL_HIDDEN], counts[MR3D_CELL_EQUAL]);
  for (int state = MR3D_CELL_KILLED; state >= MR3D_CELL_HIDDEN; state--)
    for (int i = 0; i < x->n_cases && named < NAMED_IN_TITLE; i++) {
      mr3d_cell cell = mr3d_matrix_cell(x, tier, i, mutant);
      if (strcmp(mr3d_case_op(x->cases[i]), op) != 0 || cell.state != state) continue;
      fprintf(to, "&#10;%s: %s", x->cases[i]->id, state_names[state]);
      if (!cell.not_judged && cell.size > 0) fprintf(to, ", %.2g of the limit", cell.size);
      named++;
    }
  fputs("\">", to);
  for (int state = MR3D_CELL_KILLED; state >= MR3D_CELL_EQUAL; state--)
    if (counts[state]) fprintf(to, "<i class=\"%s\" style=\"flex:%d\"></i>", state_names[state], counts[state]);
  fputs("</div></td>", to);
}

static void write_tier(FILE *to, const mr3d_matrix *x, int tier) {
  const char *ops[64];
  int n_ops = operators_of(x, ops);
  fprintf(to, "<section><h2>%s</h2>\n<div class=\"scroll\" tabindex=\"0\"><table class=\"matrix\"><thead><tr><th class=\"op\">mutant</th><th class=\"op\">killed</th>", mr3d_tier_name(x->tiers[tier]));
  for (int k = 0; k < n_ops; k++) fprintf(to, "<th class=\"op\">%s</th>", ops[k]);
  fputs("</tr></thead>\n<tbody>\n", to);
  for (int m = 0; m < x->n_mutants; m++) {
    mr3d_matrix_row row = mr3d_matrix_row_of(x, tier, m);
    fprintf(to, "<tr%s><th class=\"name\" title=\"", mr3d_matrix_survives(x, tier, m) ? " class=\"hole\"" : "");
    mr3d_write_escaped(to, x->mutants[m]->says);
    fprintf(to, "\">%s/%s</th>", x->mutants[m]->slug, x->mutants[m]->name);
    if (!row.mistake) {
      fprintf(to, "<td colspan=\"%d\" class=\"soft\">no mistake at this tier: ", n_ops + 1);
      mr3d_write_escaped(to, x->mutants[m]->harmless);
      fputs("</td></tr>\n", to);
      continue;
    }
    fprintf(to, "<td>%d/%d&nbsp;</td>", row.killed, row.touched);
    for (int k = 0; k < n_ops; k++) write_bar(to, x, tier, m, ops[k]);
    fputs("</tr>\n", to);
  }
  fputs("</tbody></table></div></section>\n", to);
}

static void write_survivors(FILE *to, const mr3d_matrix *x) {
  int n = 0;
  for (int t = 0; t < x->n_tiers; t++)
    for (int m = 0; m < x->n_mutants; m++) {
      if (!mr3d_matrix_survives(x, t, m)) continue;
      mr3d_matrix_row row = mr3d_matrix_row_of(x, t, m);
      if (n++ == 0) fputs("<section><h2>Survivors</h2>\n<table><thead><tr><th>tier</th><th>mutant</th><th>what it does</th><th>size</th></tr></thead><tbody>\n", to);
      fprintf(to, "<tr><td>%s</td><td><code>%s/%s</code></td><td class=\"wrap\">", mr3d_tier_name(x->tiers[t]), x->mutants[m]->slug, x->mutants[m]->name);
      mr3d_write_escaped(to, x->mutants[m]->says);
      if (row.largest_case >= 0) fprintf(to, "</td><td>%.2g of the limit in <code>%s</code></td></tr>\n", row.largest, x->cases[row.largest_case]->id);
      else fprintf(to, "</td><td>%s</td></tr>\n", row.touched ? "equal to the reference in every case" : "no case asks its operators");
    }
  if (n) fputs("</tbody></table></section>\n", to);
}

static void write_list(FILE *to, const mr3d_matrix *x, const char *title, bool (*wanted)(const mr3d_matrix *, int)) {
  int n = 0;
  for (int i = 0; i < x->n_cases; i++) n += wanted(x, i);
  fprintf(to, "<details><summary>%s (%d)</summary><p>", title, n);
  for (int i = 0; i < x->n_cases; i++)
    if (wanted(x, i)) fprintf(to, "<code>%s</code> ", x->cases[i]->id);
  fputs("</p></details>\n", to);
}

mr3d_status mr3d_matrix_html(const mr3d_matrix *x, const char *path, mr3d_error *error) {
  char *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  int holes = mr3d_matrix_holes(x);
  fprintf(to, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
              "<title>Kill matrix</title>\n<style>\n%s%s</style>\n</head>\n<body>\n<header>\n<div class=\"verdict %s\"><h1>%s</h1><p>",
          mr3d_embedded_report_css, style, holes ? "failed" : "passed", holes ? "A MISTAKE SURVIVES" : x->selected[0] ? "EVERY SELECTED MISTAKE IS KILLED" : "EVERY MISTAKE IS KILLED");
  fprintf(to, "%d mutants against %d cases; seed %llu", x->n_mutants, x->n_cases, (unsigned long long)x->seed);
  if (x->selected[0]) fputs("; selected:", to), mr3d_write_escaped(to, x->selected);
  for (int t = 0; t < x->n_tiers; t++) {
    int killed = 0, mistakes = 0;
    for (int m = 0; m < x->n_mutants; m++) {
      killed += mr3d_matrix_row_of(x, t, m).killed > 0;
      mistakes += mr3d_mutant_is_mistake_at(x->mutants[m], x->tiers[t]);
    }
    fprintf(to, "; %s: %d of %d killed", mr3d_tier_name(x->tiers[t]), killed, mistakes);
  }
  fputs(".</p></div>\n<p class=\"key\"><span><i class=\"killed\"></i>killed</span><span><i class=\"hidden\"></i>answered otherwise, within tolerance</span>"
        "<span><i class=\"equal\"></i>answered as the reference does</span></p>\n<p class=\"soft\">One bar is one mutant in the cases of one operator; its tooltip counts and names them. "
        "Empty: no case of that operator asks what the mistake can change.</p>\n</header>\n<main>\n", to);
  write_survivors(to, x);
  for (int t = 0; t < x->n_tiers; t++) write_tier(to, x, t);
  fputs("<section><h2>Cases</h2>\n", to);
  write_list(to, x, "Cases that kill no mutant", kills_none);
  write_list(to, x, "Cases that kill none that no other kills", is_needless);
  fputs("</section>\n</main>\n</body>\n</html>\n", to);
  return mr3d_report_save(to, &bytes, &size, path, error);
}
