#include "report.h"

#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"
#include "pitfalls.h"

const char *mr3d_verdict_name(mr3d_verdict verdict) {
  static const char *const names[] = {"passed", "failed", "skipped", "broken"};
  return names[verdict];
}

const char *mr3d_reply_name(mr3d_reply_kind kind) {
  static const char *const names[] = {"answer", "error", "unsupported", "crash", "timeout", "malformed"};
  return names[kind];
}

const char *mr3d_run_verdict(const mr3d_run *run, char why[512]) {
  int compared = run->passed + run->failed;
  if (run->broken) {
    snprintf(why, 512, "the suite itself is broken in %d result%s: reference and golden set do not agree, so nobody is judged", run->broken,
             run->broken == 1 ? "" : "s");
    return "COULD NOT JUDGE";
  }
  if (compared == 0) {
    snprintf(why, 512, "nothing was compared: all %d selected results were skipped, most of them because %.300s", run->skipped,
             mr3d_run_common_skip(run));
    return "COULD NOT JUDGE";
  }
  if (run->failed) {
    snprintf(why, 512, "%d of %d compared results failed", run->failed, compared);
    return "NOT COMPLIANT";
  }
  snprintf(why, 512, "all %d compared results passed%s", compared, run->skipped ? "; what was skipped is not judged" : "");
  return "COMPLIANT";
}

void mr3d_run_order(const mr3d_run *run, char order[128]) {
  const mr3d_run_options *o = &run->options;
  size_t n = 0;
  order[0] = '\0';
  if (o->challenge) n = (size_t)snprintf(order, 128, "one case in %d asked in other ways too", MR3D_PICKED);
  else if (o->repeat > 1) n = (size_t)snprintf(order, 128, "asked %d times", o->repeat);
  if (o->shuffle && !o->challenge) n += (size_t)snprintf(order + n, 128 - n, ", again in the order of --shuffle %llu", (unsigned long long)o->shuffle_seed);
  if (o->jobs > 1) snprintf(order + n, 128 - n, "%sby %d processes", n ? ", " : "", o->jobs);
}

bool mr3d_result_unsteady(const mr3d_result *result) { return result->difference.repetition && !result->difference.failed; }

int mr3d_run_unsteady(const mr3d_run *run) {
  int n = 0;
  for (int i = 0; i < run->n_results; i++) n += mr3d_result_unsteady(&run->results[i]);
  return n;
}

static bool was_judged(const mr3d_run *run, mr3d_tier tier) {
  for (int i = 0; i < run->n_results; i++)
    if (run->results[i].tier == tier && run->results[i].verdict == MR3D_PASSED) return true;
  return false;
}

/** Operators of which nothing was compared: "voxelize, decode". */
static void list_skipped(const mr3d_run *run, char *to, size_t size) {
  int n;
  mr3d_operator_row *rows = mr3d_operator_rows(run, &n);
  for (int r = 0; r < n; r++) {
    int compared = 0;
    for (int tier = 0; tier < MR3D_N_TIERS; tier++) compared += rows[r].count[tier][MR3D_PASSED] + rows[r].count[tier][MR3D_FAILED];
    if (!compared) snprintf(to + strlen(to), size - strlen(to), "%s%s", *to ? ", " : "", rows[r].op);
  }
  free(rows);
}

/** Pitfalls that no passed result is about. */
static void list_untried(const mr3d_run *run, char *to, size_t size) {
  for (int p = 0; p < mr3d_pitfall_count(); p++) {
    const char *slug = mr3d_pitfall_at(p)->slug;
    bool tried = false;
    for (int i = 0; i < run->n_results && !tried; i++)
      for (int k = 0; k < run->results[i].test->n_pitfalls && run->results[i].verdict == MR3D_PASSED && !tried; k++)
        tried = strcmp(run->results[i].test->pitfalls[k], slug) == 0;
    if (!tried) snprintf(to + strlen(to), size - strlen(to), "%s%s", *to ? ", " : "", slug);
  }
}

const char *mr3d_tier_blind_below(mr3d_tier tier) {
  /* What `mr3d sensitivity` finds, docs/tolerance.md, of the operator where it is most. */
  static const char *const smallest[MR3D_N_TIERS] = {
      [MR3D_FP64] = "errors of an operator below 2e-15 of all outputs, 3e-15 of one token or 1e-14 of one element",
      [MR3D_FP32] = "errors of an operator below 7e-7 of all outputs, 1e-6 of one token or 5e-6 of one element",
      [MR3D_TF32] = "small errors: how small ones are seen has not been measured at this tier",
      [MR3D_BF16_TIER] = "errors of an operator below 0.8 % of all outputs (swiglu; 0.2 % else), 2 % of one token or 9 % of one element",
      [MR3D_FP16] = "errors of an operator below 0.12 % of all outputs (swiglu; 0.03 % else), 0.2 % of one token or 1 % of one element"};
  return smallest[tier];
}

int mr3d_run_limits(const mr3d_run *run, char limits[MR3D_MAX_LIMITS][1024]) {
  int n = 0;
  char list[900] = "";
  for (int tier = 0; tier < MR3D_N_TIERS; tier++)
    if (was_judged(run, (mr3d_tier)tier)) snprintf(limits[n++], 1024, "at %s, %s", mr3d_tier_name((mr3d_tier)tier), mr3d_tier_blind_below((mr3d_tier)tier));
  if (n > 0 && !was_judged(run, MR3D_FP32) && !was_judged(run, MR3D_FP64))
    snprintf(limits[n++], 1024, "mistakes of logic that are smaller than the rounding of a narrow tier: nothing was judged at fp32 or fp64");
  list_skipped(run, list, sizeof list);
  if (*list && n < MR3D_MAX_LIMITS) snprintf(limits[n++], 1024, "anything in what was not compared: %s", list);
  list[0] = '\0';
  list_untried(run, list, sizeof list);
  if (*list && n < MR3D_MAX_LIMITS) snprintf(limits[n++], 1024, "pitfalls that no compared result is about: %s", list);
  if (run->options.seed == 0 && !run->options.challenge && n < MR3D_MAX_LIMITS) snprintf(limits[n++], 1024, "stored answers: the inputs of seed 0 are public, those of another --seed are not");
  return n;
}

mr3d_worst mr3d_result_worst(const mr3d_result *result) {
  mr3d_worst worst = {0};
  for (int s = 0; s < result->n_steps; s++)
    for (int t = 0; t < result->steps[s].judgement.n_tensors; t++) {
      const mr3d_tensor_verdict *v = &result->steps[s].judgement.tensors[t];
      for (int i = 0; i < v->n_statistics; i++) {
        const mr3d_statistic *statistic = &v->statistics[i];
        double share = statistic->value / statistic->limit;
        if (statistic->tested && statistic->limit > 0 && (!worst.rule || !(share <= worst.share)))
          worst = (mr3d_worst){share, statistic->rule, v->name};
      }
    }
  return worst;
}

/** An array with room for one more element. */
static void *grown(void *array, int count, size_t size) {
  void *larger = mr3d_allocate(count + 1, size);
  if (count) memcpy(larger, array, (size_t)count * size);
  free(array);
  return larger;
}

mr3d_operator_row *mr3d_operator_rows(const mr3d_run *run, int *n_rows) {
  mr3d_operator_row *rows = NULL;
  int n = 0;
  for (int i = 0; i < run->n_results; i++) {
    const mr3d_result *result = &run->results[i];
    int r = 0;
    while (r < n && strcmp(rows[r].op, mr3d_case_op(result->test)) != 0) r++;
    if (r == n) {
      rows = grown(rows, n++, sizeof *rows);
      rows[r].op = mr3d_case_op(result->test);
    }
    rows[r].count[result->tier][result->verdict]++;
    mr3d_worst worst = mr3d_result_worst(result);
    if (worst.rule && (!rows[r].where || !(worst.share <= rows[r].worst.share))) rows[r].worst = worst, rows[r].where = result;
  }
  *n_rows = n;
  return rows;
}

mr3d_finding *mr3d_findings(const mr3d_run *run, int *n_findings) {
  mr3d_finding *findings = NULL;
  int n = 0;
  for (int i = 0; i < run->n_results; i++) {
    const mr3d_result *result = &run->results[i];
    if (result->verdict != MR3D_FAILED && result->verdict != MR3D_BROKEN) continue;
    const char *name = result->verdict == MR3D_BROKEN ? "the suite itself"
                       : result->mistake[0]           ? result->mistake
                                                      : mr3d_case_op(result->test);
    int f = 0;
    while (f < n && strcmp(findings[f].name, name) != 0) f++;
    if (f == n) {
      findings = grown(findings, n++, sizeof *findings);
      findings[f].name = name;
    }
    findings[f].results = grown(findings[f].results, findings[f].n_results, sizeof *findings[f].results);
    findings[f].results[findings[f].n_results++] = result;
  }
  for (int f = 0; f < n; f++) /* the first is shown: one of which all is known, where there is such a one */
    for (int k = 1; k < findings[f].n_results && findings[f].results[0]->not_all_tried; k++) {
      const mr3d_result *first = findings[f].results[0];
      if (findings[f].results[k]->not_all_tried) continue;
      findings[f].results[0] = findings[f].results[k];
      findings[f].results[k] = first;
    }
  *n_findings = n;
  return findings;
}

void mr3d_findings_free(mr3d_finding **findings, int n_findings) {
  for (int f = 0; f < n_findings; f++) free(findings[0][f].results);
  free(*findings);
  *findings = NULL;
}

const mr3d_tensor_verdict *mr3d_result_failure(const mr3d_result *result) {
  for (int s = 0; s < result->n_steps; s++)
    for (int t = 0; t < result->steps[s].judgement.n_tensors; t++)
      if (!result->steps[s].judgement.tensors[t].passed) return &result->steps[s].judgement.tensors[t];
  return NULL;
}

const char *mr3d_result_log(const mr3d_result *result) {
  const char *log = result->n_steps ? result->steps[result->n_steps - 1].reply.log : NULL;
  return log ? log : "";
}

static void write_quoted(FILE *to, const char *word) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./:,@%";
  if (*word && strspn(word, plain) == strlen(word)) {
    fputs(word, to);
    return;
  }
  fputc('\'', to);
  for (; *word; word++)
    if (*word == '\'') fputs("'\\''", to);
    else fputc(*word, to);
  fputc('\'', to);
}

/** What else the run asked, and how: all of its tiers but the result's, which the caller writes. */
static void write_selection(FILE *to, const mr3d_run *run) {
  const mr3d_run_options *o = &run->options;
  const struct {
    const char *option, *value;
  } given[] = {{"--case", o->selection.case_glob}, {"--op", o->selection.op}, {"--level", o->selection.level}, {"--pitfall", o->selection.pitfall}, {"--tag", o->selection.tag}};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
    if (!given[i].value) continue;
    fprintf(to, " %s ", given[i].option);
    write_quoted(to, given[i].value);
  }
  fprintf(to, "%s", o->selection.without_slow ? " --without-slow" : "");
  if (!o->challenge) fprintf(to, " --repeat %d", o->repeat);
  if (o->shuffle && !o->challenge) fprintf(to, " --shuffle %llu", (unsigned long long)o->shuffle_seed);
  if (o->jobs > 1) fprintf(to, " --jobs %d", o->jobs);
}

char *mr3d_rerun_command(const mr3d_run *run, const mr3d_result *result) {
  char *text = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&text, &size);
  fputs("mr3d check --backend ", to);
  write_quoted(to, run->options.backend);
  if (result->difference.repetition) write_selection(to, run); /* a case alone has nothing before it */
  else fprintf(to, " --case %s", result->test->id);
  fprintf(to, " --tier %s", mr3d_tier_name(result->tier));
  if (run->options.challenge) {
    char nonce[2 * MR3D_MOST_NONCE + 1];
    mr3d_challenge_print(run->options.challenge, nonce);
    fprintf(to, " --nonce %s", nonce);
  } else fprintf(to, " --seed %llu", (unsigned long long)result->seed);
  fclose(to);
  return text;
}

char *mr3d_clean_text(const char *text) {
  size_t size = strlen(text), n = 0;
  char *clean = mr3d_allocate((long long)size * 3 + 1, 1);
  for (size_t i = 0; i < size;) {
    size_t bad = size;
    bool valid = mr3d_utf8_valid(text + i, size - i, &bad);
    size_t good = valid ? size : i + bad;
    for (; i < good; i++) {
      unsigned char c = (unsigned char)text[i];
      const unsigned char second = c ? (unsigned char)text[i + 1] : 0, third = second ? (unsigned char)text[i + 2] : 0;
      const bool noncharacter = c == 0xEF && second == 0xBF && third >= 0xBE; /* U+FFFE, U+FFFF: not allowed in XML */
      const bool turns = c == 0xE2 && ((second == 0x80 && (third == 0x8E || third == 0x8F || (third >= 0xA8 && third <= 0xAE))) || (second == 0x81 && third >= 0xA6 && third <= 0xA9)); /* U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069: the direction of writing, and breaks */
      if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) clean[n++] = '?';
      else if (c == 0xC2 && (unsigned char)text[i + 1] < 0xA0) clean[n++] = '?', i++; /* C1 controls */
      else if (noncharacter || turns) clean[n++] = '?', i += 2;
      else clean[n++] = (char)c;
    }
    if (i < size) memcpy(clean + n, "\xEF\xBF\xBD", 3), n += 3, i++;
  }
  clean[n] = '\0';
  return clean;
}

void mr3d_write_escaped(FILE *to, const char *text) {
  char *clean = mr3d_clean_text(text);
  for (const char *c = clean; *c; c++) switch (*c) {
    case '&': fputs("&amp;", to); break;
    case '<': fputs("&lt;", to); break;
    case '>': fputs("&gt;", to); break;
    case '"': fputs("&quot;", to); break;
    case '\'': fputs("&#39;", to); break;
    default: fputc(*c, to);
    }
  free(clean);
}

mr3d_status mr3d_report_save(FILE *stream, char **bytes, size_t *size, const char *path, mr3d_error *error) {
  fclose(stream);
  mr3d_status status = mr3d_write_file(path, *bytes, *size, error);
  free(*bytes);
  *bytes = NULL;
  return status;
}
