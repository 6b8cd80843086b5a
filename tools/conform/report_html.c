/** The HTML report: verdict, findings, tables, then every case; one page that loads nothing. Style and script are report.css and report.js,
 * built in. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pitfalls.h"
#include "promises.h"
#include "repeat.h"
#include "report.h"

extern const char mr3d_embedded_report_css[], mr3d_embedded_report_js[]; /* put here by embed.c */

static void text(FILE *to, const char *value) { mr3d_write_escaped(to, value); }

/** Prose of the catalogue: `code` in backquotes, **strong** in asterisks. */
static void prose(FILE *to, const char *value) {
  bool code = false, strong = false;
  for (const char *c = value; *c;) {
    if (*c == '`') fputs(code ? "</code>" : "<code>", to), code = !code, c++;
    else if (!code && c[0] == '*' && c[1] == '*') fputs(strong ? "</strong>" : "<strong>", to), strong = !strong, c += 2;
    else {
      size_t n = 1;
      while (c[n] && c[n] != '`' && !(c[n] == '*' && c[n + 1] == '*')) n++;
      char *part = strndup(c, n);
      text(to, part);
      free(part);
      c += n;
    }
  }
}

static void exactly(FILE *to, double value, int digits) {
  if (isnan(value)) fputs("NaN", to);
  else fprintf(to, "%.*g", digits, value);
}

static void number(FILE *to, double value) { exactly(to, value, 6); }

/** For what only needs its size. */
static void rough(FILE *to, double value) {
  if (isnan(value)) fputs("NaN", to);
  else fprintf(to, "%.2g", value);
}

static void write_badge(FILE *to, mr3d_verdict verdict) {
  fprintf(to, "<span class=\"badge %s\">%s</span>", mr3d_verdict_name(verdict), mr3d_verdict_name(verdict));
}

static void write_head(FILE *to, const mr3d_run *run) {
  char why[512], date[64];
  const char *verdict = mr3d_run_verdict(run, why);
  const char *kind = mr3d_run_exit_status(run) == 0 ? "passed" : mr3d_run_exit_status(run) == 2 ? "failed" : "broken";
  time_t seconds = time(NULL);
  struct tm calendar;
  strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime_r(&seconds, &calendar));
  fprintf(to,
          "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, "
          "initial-scale=1\">\n<title>%s: ",
          verdict);
  text(to, run->info.name[0] ? run->info.name : run->options.backend);
  fprintf(to, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<header>\n<div class=\"verdict %s\"><h1>%s</h1><p>",
          mr3d_embedded_report_css, kind, verdict);
  text(to, why);
  fputs(".</p></div>\n<dl class=\"facts\">\n<dt>Backend</dt><dd>", to);
  text(to, run->info.name);
  fputc(' ', to);
  text(to, run->info.version);
  fputs(" <code>", to);
  text(to, run->options.backend);
  fputs("</code></dd>\n<dt>Tiers it claims</dt><dd>", to);
  for (int i = 0; i < run->info.n_tiers; i++) fprintf(to, "%s%s", i ? ", " : "", mr3d_tier_name(run->info.tiers[i]));
  char kept[96];
  if (run->info.kept) fprintf(to, "</dd>\n<dt>It promises to keep in binary32</dt><dd>%s, and is judged by that", mr3d_promises_text(run->info.kept, kept));
  fprintf(to, "</dd>\n<dt>Operators it offers</dt><dd>%d</dd>\n", run->info.n_ops);
  const mr3d_selection *selection = &run->options.selection;
  const struct {
    const char *name, *value;
  } given[] = {{"case", selection->case_glob},
               {"op", selection->op},
               {"level", selection->level},
               {"pitfall", selection->pitfall},
               {"tag", selection->tag}};
  bool any = selection->tiers != 0 || selection->without_slow;
  for (size_t i = 0; i < sizeof given / sizeof *given; i++) any = any || given[i].value;
  if (any) {
    fputs("<dt>Selection</dt><dd>only", to);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
      if (given[i].value) fprintf(to, " %s ", given[i].name), text(to, given[i].value);
    if (selection->tiers) fputs(" tier", to);
    for (int tier = 0; tier < MR3D_N_TIERS; tier++)
      if (selection->tiers >> tier & 1) fprintf(to, " %s", mr3d_tier_name((mr3d_tier)tier));
    fputs(selection->without_slow ? " without slow cases</dd>\n" : "</dd>\n", to);
  }
  fprintf(to, "<dt>Results</dt><dd>%d passed, %d failed, %d skipped, %d broken, in %.1f s</dd>\n", run->passed, run->failed, run->skipped,
          run->broken, run->seconds);
  if (run->yardsticks_found > 0) {
    fprintf(to, "<dt>Yardstick</dt><dd>%d runs taken from ", run->yardsticks_found);
    text(to, run->options.yardsticks_dir);
    fputs("</dd>\n", to);
  }
  char order[128];
  mr3d_run_order(run, order);
  if (*order) fprintf(to, "<dt>Order</dt><dd>%s; %d results answered otherwise when asked again, within tolerance</dd>\n", order, mr3d_run_unsteady(run));
  fprintf(to, "<dt>Seed</dt><dd>%llu</dd>\n<dt>Golden set</dt><dd>%d files, all verified by SHA-256</dd>\n",
          (unsigned long long)run->options.seed, run->n_golden_files);
  if (run->remarks) fputs("<dt>Remarks</dt><dd>", to), text(to, run->remarks), fputs("</dd>\n", to);
  if (run->info.protections && *run->info.protections) {
    fprintf(to, "<dt>Isolation</dt><dd>%s", run->options.no_isolation ? "none asked for (--no-isolation) but: " : "");
    text(to, run->info.protections);
    if (*run->info.missing_protections) fputs("<br>Not available: ", to), text(to, run->info.missing_protections);
    fputs("</dd>\n", to);
  }
  fprintf(to, "<dt>Made by</dt><dd>mr3d %s on %s</dd>\n</dl>\n</header>\n<main>\n", MR3D_VERSION, date);
}

/** What is said of a failure, in a card and in the list alike. */
static void write_failure(FILE *to, const mr3d_run *run, const mr3d_result *result) {
  fputs("<p>", to);
  text(to, result->reason);
  fputs("</p>\n", to);
  if (result->diagnosis[0]) {
    fputs("<p><strong>Diagnosis.</strong> ", to);
    text(to, result->diagnosis);
    fputs("</p>\n", to);
  }
  const mr3d_tensor_verdict *v = mr3d_result_failure(result);
  if (v && v->index[0]) {
    fputs(
        "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>tensor</th><th>worst "
        "element</th><th>got</th><th>expected</th><th>bound</th><th>out of bounds</th></tr></thead><tbody><tr><td><code>",
        to);
    text(to, v->name);
    fputs("</code></td><td><code>", to);
    text(to, v->index);
    fputs("</code></td><td>", to);
    exactly(to, v->got, mr3d_verdict_digits(v)), fputs("</td><td>", to), exactly(to, v->expected, mr3d_verdict_digits(v)), fputs("</td><td>", to), number(to, v->bound);
    fprintf(to, "</td><td>%lld of %lld</td></tr></tbody></table></div>\n", (long long)v->wrong, (long long)v->elements);
  }
  char *again = mr3d_rerun_command(run, result);
  fputs("<p class=\"soft\">Again:</p><pre>", to);
  text(to, again);
  fputs("</pre>\n", to);
  free(again);
  if (*mr3d_result_log(result)) {
    fputs("<p class=\"soft\">What the backend wrote to stderr:</p><pre tabindex=\"0\">", to);
    text(to, mr3d_result_log(result));
    fputs("</pre>\n", to);
  }
}

static bool is_finding(const mr3d_result *result) { return result->verdict == MR3D_FAILED || result->verdict == MR3D_BROKEN; }

/** One card a mistake (or an operator, where none is named), with its first result and a way to all. */
static void write_findings(FILE *to, const mr3d_run *run) {
  int n;
  mr3d_finding *findings = mr3d_findings(run, &n);
  if (n) fputs("<section id=\"findings\"><h2>Findings</h2>\n", to);
  for (int f = 0; f < n; f++) {
    const mr3d_result *first = findings[f].results[0];
    fprintf(to, "<article class=\"card %s\"><h3>", mr3d_verdict_name(first->verdict));
    text(to, findings[f].name);
    fputs("</h3>\n<p>", to);
    write_badge(to, first->verdict);
    fprintf(to, " <code>%s</code> at %s: ", mr3d_result_name(first, (char[192]){0}), mr3d_tier_name(first->tier));
    text(to, first->test->title);
    if (findings[f].n_results > 1) {
      fprintf(to, " (<button data-filter=\"verdict=%s", mr3d_verdict_name(first->verdict));
      if (first->verdict == MR3D_FAILED) fputs(first->mistake[0] ? "&amp;text=" : "&amp;op=", to), text(to, findings[f].name);
      fprintf(to, "\">all %d results</button>)", findings[f].n_results);
    }
    fputs("</p>\n", to);
    write_failure(to, run, first);
    char slug[128];
    snprintf(slug, sizeof slug, "%.*s", (int)strcspn(first->mistake, "/"), first->mistake);
    const mr3d_pitfall *pitfall = slug[0] ? mr3d_pitfall_named(slug) : NULL;
    if (pitfall) {
      fputs("<p><strong>Fix.</strong> ", to);
      prose(to, pitfall->fix);
      fprintf(to, " <a href=\"#%s\">%s: more</a></p>\n", pitfall->slug, pitfall->id);
    }
    fputs("</article>\n", to);
  }
  if (n) fputs("</section>\n", to);
  mr3d_findings_free(&findings, n);
}

static void write_cell(FILE *to, const int count[4], const char *filter) {
  fputs("<td>", to);
  for (int v = 0; v < 4; v++)
    if (count[v])
      fprintf(to, "<button class=\"%s\" data-filter=\"verdict=%s&amp;%s\">%d&nbsp;%s</button> ", mr3d_verdict_name((mr3d_verdict)v),
              mr3d_verdict_name((mr3d_verdict)v), filter, count[v], mr3d_verdict_name((mr3d_verdict)v));
  fputs("</td>", to);
}

static void write_operators(FILE *to, const mr3d_run *run) {
  bool used[MR3D_N_TIERS] = {false};
  for (int i = 0; i < run->n_results; i++) used[run->results[i].tier] = true;
  fputs("<section><h2>Operators</h2>\n<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>operator</th>", to);
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (used[tier]) fprintf(to, "<th>%s</th>", mr3d_tier_name((mr3d_tier)tier));
  fputs("<th>nearest to its limit (1 fails)</th></tr></thead><tbody>\n", to);
  int n;
  mr3d_operator_row *rows = mr3d_operator_rows(run, &n);
  for (int r = 0; r < n; r++) {
    const mr3d_operator_row *row = &rows[r];
    fprintf(to, "<tr><th>%s</th>", row->op);
    for (int tier = 0; tier < MR3D_N_TIERS; tier++) {
      char filter[128];
      snprintf(filter, sizeof filter, "op=%s&amp;tier=%s", row->op, mr3d_tier_name((mr3d_tier)tier));
      if (used[tier]) write_cell(to, row->count[tier], filter);
    }
    fputs("<td>", to);
    if (row->where && row->worst.share != 0)
      rough(to, row->worst.share),
          fprintf(to, " <span class=\"soft\">%s, %s, %s</span>", row->worst.rule, mr3d_tier_name(row->where->tier), row->where->test->id);
    else fputs("<span class=\"soft\">exact, or not measured</span>", to);
    fputs("</td></tr>\n", to);
  }
  free(rows);
  fputs("</tbody></table></div></section>\n", to);
}

static void write_pitfalls(FILE *to, const mr3d_run *run) {
  fputs(
      "<section><h2>Pitfalls</h2>\n<p class=\"soft\">Mistakes that real implementations made, and whether this backend was tested against "
      "them.</p>\n<div class=\"scroll\" "
      "tabindex=\"0\"><table><thead><tr><th></th><th>pitfall</th><th>results</th></tr></thead><tbody>\n",
      to);
  for (int p = 0; p < mr3d_pitfall_count(); p++) {
    const mr3d_pitfall *pitfall = mr3d_pitfall_at(p);
    int count[4] = {0};
    for (int i = 0; i < run->n_results; i++)
      for (int k = 0; k < run->results[i].test->n_pitfalls; k++)
        if (strcmp(run->results[i].test->pitfalls[k], pitfall->slug) == 0) count[run->results[i].verdict]++;
    fprintf(to, "<tr id=\"%s\"><td>%s</td><td class=\"wrap\"><details class=\"pitfall\"><summary>", pitfall->slug, pitfall->id);
    prose(to, pitfall->title);
    fputs("</summary>", to);
    const struct {
      const char *label, *value;
    } parts[] = {{"Mistake", pitfall->mistake}, {"Effect", pitfall->effect}, {"Symptom", pitfall->symptom}, {"Fix", pitfall->fix}};
    for (int k = 0; k < 4; k++) {
      fprintf(to, "<p><strong>%s.</strong> ", parts[k].label);
      prose(to, parts[k].value);
      fputs("</p>", to);
    }
    fputs("</details></td>", to);
    char filter[128];
    snprintf(filter, sizeof filter, "text=%s", pitfall->slug);
    if (count[0] + count[1] + count[2] + count[3]) write_cell(to, count, filter);
    else fputs("<td class=\"soft\">no case in this run</td>", to);
    fputs("</tr>\n", to);
  }
  fputs("</tbody></table></div></section>\n", to);
}

static void write_tensor(FILE *to, int step, const mr3d_tensor_verdict *v) {
  fprintf(to, "<tr><td>%d</td><td><code>", step);
  text(to, v->name);
  fprintf(to, "</code></td><td>%lld</td><td>", (long long)v->elements);
  for (int i = 0; i < v->n_statistics; i++) {
    const mr3d_statistic *s = &v->statistics[i];
    fprintf(to, "%s<span%s>%s ", i ? "<br>" : "",
            s->tested && !s->passed ? " class=\"failed\""
            : s->tested             ? ""
                                    : " class=\"soft\"",
            s->rule);
    if (s->tested) number(to, s->value), fputs(" of ", to), number(to, s->limit);
    else fputs("not tested, too few values", to);
    fputs("</span>", to);
  }
  fputs("</td><td>", to);
  number(to, v->relative_l2);
  fputs("</td><td>", to);
  number(to, v->ulp_p50), fputs(" / ", to), number(to, v->ulp_p99), fputs(" / ", to), number(to, v->ulp_max);
  fputs("</td></tr>\n", to);
}

static void write_case(FILE *to, const mr3d_run *run, const mr3d_result *result) {
  const mr3d_case *test = result->test;
  fprintf(to, "<details class=\"case\" data-verdict=\"%s\" data-tier=\"%s\" data-op=\"%s\" data-text=\"",
          mr3d_verdict_name(result->verdict), mr3d_tier_name(result->tier), mr3d_case_op(test));
  char *title = strdup(test->title);
  for (char *c = title; *c; c++) *c = (char)tolower((unsigned char)*c);
  text(to, test->id), fputc(' ', to), text(to, title), fprintf(to, " %s", test->level);
  free(title);
  for (int i = 0; i < test->n_pitfalls; i++) fputc(' ', to), text(to, test->pitfalls[i]);
  for (int i = 0; i < test->n_tags; i++) fputc(' ', to), text(to, test->tags[i]);
  fputc(' ', to), text(to, result->mistake);
  if (mr3d_result_unsteady(result)) fputs(" order-sensitivity", to);
  fputs("\"><summary>", to);
  write_badge(to, result->verdict);
  fprintf(to, "<span class=\"id\">%s</span><span>%s</span>", mr3d_result_name(result, (char[192]){0}), mr3d_tier_name(result->tier));
  mr3d_worst worst = mr3d_result_worst(result);
  if (worst.rule) fputs("<span class=\"soft\">", to), rough(to, worst.share), fputs(" &times; its limit</span>", to);
  fputs("</summary><div>\n<p><strong>", to);
  text(to, test->title);
  fputs("</strong></p><p>", to);
  text(to, test->why);
  fprintf(to, "</p>\n<p class=\"soft\">%s", test->level);
  for (int i = 0; i < test->n_pitfalls; i++) fprintf(to, " &middot; <a href=\"#%s\">%s</a>", test->pitfalls[i], test->pitfalls[i]);
  if (!isnan(result->golden_worst))
    fputs(" &middot; reference against PyTorch ", to), rough(to, result->golden_worst), fputs(" of scale", to);
  fprintf(to, " &middot; %.3f s</p>\n", result->seconds);
  if (is_finding(result)) write_failure(to, run, result);
  else if (result->reason[0]) fputs("<p>", to), text(to, result->reason), fputs("</p>\n", to);
  if (result->generation.n > 0) {
    char tokens[1200];
    mr3d_generation_say(&result->generation, tokens, sizeof tokens);
    fputs("<p>Greedy tokens, fed with its own: ", to), text(to, tokens), fputs("</p>\n", to);
  }
  if (mr3d_result_unsteady(result)) {
    char what[600];
    mr3d_difference_say(&result->difference, result, what, sizeof what);
    fputs("<p><strong><a href=\"#order-sensitivity\">Order-sensitive</a></strong>, within tolerance: ", to), text(to, what), fputs("</p>\n", to);
  }
  bool table = false;
  for (int s = 0; s < result->n_steps; s++)
    for (int t = 0; t < result->steps[s].judgement.n_tensors; t++) {
      if (!table)
        fputs(
            "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>step</th><th>tensor</th><th>elements</th><th>statistic of "
            "limit</th><th>relative L2</th><th>ulp p50 / p99 / max</th></tr></thead><tbody>\n",
            to);
      table = true;
      write_tensor(to, s, &result->steps[s].judgement.tensors[t]);
    }
  if (table) fputs("</tbody></table></div>\n", to);
  fputs("</div></details>\n", to);
}

static void write_options(FILE *to, const char *label, const char *name, int count, const char *const values[]) {
  fprintf(to, "<label>%s<select name=\"%s\"><option value=\"\">all</option>", label, name);
  for (int i = 0; i < count; i++) fprintf(to, "<option>%s</option>", values[i]);
  fputs("</select></label>\n", to);
}

static void write_cases(FILE *to, const mr3d_run *run) {
  const char *ops[64], *tiers[MR3D_N_TIERS], *verdicts[4];
  int n_ops = 0, n_tiers = 0, n_verdicts = 0;
  for (int i = 0; i < run->n_results && n_ops < 64; i++) {
    int k = 0;
    while (k < n_ops && strcmp(ops[k], mr3d_case_op(run->results[i].test)) != 0) k++;
    if (k == n_ops) ops[n_ops++] = mr3d_case_op(run->results[i].test);
  }
  for (int tier = 0; tier < MR3D_N_TIERS; tier++) tiers[n_tiers++] = mr3d_tier_name((mr3d_tier)tier);
  for (int v = 0; v < 4; v++) verdicts[n_verdicts++] = mr3d_verdict_name((mr3d_verdict)v);
  fputs(
      "<section id=\"cases\"><h2>Every case</h2>\n<form class=\"filter\" hidden>\n<label class=\"wide\">words in name, title, pitfall, "
      "tag<input name=\"text\" type=\"search\" autocomplete=\"off\"></label>\n",
      to);
  write_options(to, "verdict", "verdict", n_verdicts, verdicts);
  write_options(to, "tier", "tier", n_tiers, tiers);
  write_options(to, "operator", "op", n_ops, ops);
  fputs(
      "<label>&nbsp;<input type=\"reset\" value=\"Show all\"></label>\n</form>\n<p class=\"soft\" id=\"shown\" aria-live=\"polite\"></p>\n",
      to);
  for (int i = 0; i < run->n_results; i++)
    if (is_finding(&run->results[i])) write_case(to, run, &run->results[i]);
  for (int i = 0; i < run->n_results; i++)
    if (!is_finding(&run->results[i])) write_case(to, run, &run->results[i]);
  fputs("</section>\n", to);
}

static void write_limits(FILE *to, const mr3d_run *run) {
  char limits[MR3D_MAX_LIMITS][1024];
  int n = mr3d_run_exit_status(run) == 0 ? mr3d_run_limits(run, limits) : 0;
  if (n == 0) return;
  fputs("<section id=\"limits\"><h2>What this does not exclude</h2>\n<ul>\n", to);
  for (int i = 0; i < n; i++) fputs("<li>", to), text(to, limits[i]), fputs("</li>\n", to);
  fputs("</ul>\n</section>\n", to);
}

mr3d_status mr3d_report_html(const mr3d_run *run, const char *path, mr3d_error *error) {
  char *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  write_head(to, run);
  write_findings(to, run);
  write_limits(to, run);
  write_operators(to, run);
  write_pitfalls(to, run);
  write_cases(to, run);
  fprintf(to, "</main>\n<script>\n%s</script>\n</body>\n</html>\n", mr3d_embedded_report_js);
  return mr3d_report_save(to, &bytes, &size, path, error);
}
