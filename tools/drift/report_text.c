/** A drift on a terminal: the verdict, each fault with its place and evidence, then a line a layer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "drift_report.h"
#include "report.h"

#define MOST_FAULTS 8 /* shown in full */

int mr3d_drift_exit_status(const mr3d_drift_verdict *v) { return v->kind == MR3D_DRIFT_ROUNDING ? 0 : v->kind == MR3D_DRIFT_NOTHING ? 1 : 2; }

static void print_clean(FILE *to, const char *text) {
  char *clean = mr3d_clean_text(text);
  fputs(clean, to);
  free(clean);
}

/** "label       text", the text broken at blanks and indented. */
static void print_item(FILE *to, const char *label, const char *text) {
  enum { INDENT = 14, WIDTH = 100 };
  char *clean = mr3d_clean_text(text);
  fprintf(to, "  %-*s", INDENT - 2, label);
  size_t column = INDENT;
  for (const char *at = clean; *at; at += strspn(at, " ")) {
    const size_t word = strcspn(at, " ");
    if (column > INDENT && column + 1 + word > WIDTH) {
      fprintf(to, "\n%*s", INDENT, "");
      column = INDENT;
    }
    column += (size_t)fprintf(to, "%s%.*s", column > INDENT ? " " : "", (int)word, at);
    at += word;
  }
  fputc('\n', to);
  free(clean);
}

/** The rule that is broken most. */
static const mr3d_statistic *worst_rule(const mr3d_tensor_verdict *v) {
  const mr3d_statistic *worst = NULL;
  double most = 0;
  for (int i = 0; i < v->n_statistics; i++) {
    const mr3d_statistic *s = &v->statistics[i];
    if (!s->tested || s->passed) continue;
    const double ratio = s->limit > 0 ? s->value / s->limit : INFINITY;
    if (!worst || ratio > most) worst = s, most = ratio;
  }
  return worst;
}

static void say_token(const mr3d_drift_run *d, const mr3d_drift_record *r, char text[200]) {
  const mr3d_drift_step *step = mr3d_drift_step_at(d, (int)r->step);
  const int64_t t = r->first_token, at = t % step->q;
  int used = snprintf(text, 200, "%lld", (long long)(step->L + at));
  if (step->B > 1) used += snprintf(text + used, 200 - (size_t)used, " of sample %lld", (long long)(t / step->q));
  used += snprintf(text + used, 200 - (size_t)used, ", %s", mr3d_token_class_name((mr3d_token_class)step->token_class[t]));
  if (step->coords && !isnan(step->coords[3 * t])) snprintf(text + used, 200 - (size_t)used, " at (%g, %g, %g)", step->coords[3 * t], step->coords[3 * t + 1], step->coords[3 * t + 2]);
  else if (step->ids[t] >= 0) snprintf(text + used, 200 - (size_t)used, ", id %lld", (long long)step->ids[t]);
}

static void print_fault(const mr3d_drift_run *d, const mr3d_drift_fault *fault, const char *whose, FILE *to) {
  const mr3d_drift_record *r = mr3d_drift_record_at(d, fault->first);
  const mr3d_tensor_verdict *v = &r->verdict;
  const mr3d_statistic *rule = worst_rule(v);
  char text[1400], place[64];
  mr3d_drift_place(r, place);
  fprintf(to, "\nFAULT %sat %s: ", whose, place);
  print_clean(to, mr3d_points_about[r->point].part);
  fputc('\n', to);
  if (r->diagnosis[0]) print_item(to, "mistake", r->diagnosis);
  print_item(to, "rule", v->problem);
  if (rule) {
    snprintf(text, sizeof text, "%s %.4g, limit %.4g", rule->rule, rule->value, rule->limit);
    print_item(to, "", text);
  }
  if (v->index[0]) {
    if (v->bound > 0) snprintf(text, sizeof text, "%s: got %.9g, expected %.9g from its own inputs, bound %.3g", v->index, v->got, v->expected, v->bound);
    else snprintf(text, sizeof text, "%s: got %.9g, expected %.9g", v->index, v->got, v->expected);
    print_item(to, "element", text);
  }
  int used = snprintf(text, sizeof text, "%s", fault->classes);
  if (fault->heads[0]) used += snprintf(text + used, sizeof text - (size_t)used, "%s%s%s", used ? "; " : "", strcmp(fault->heads, "all") == 0 ? "all heads" : "heads ", strcmp(fault->heads, "all") == 0 ? "" : fault->heads);
  if (fault->dims[0]) snprintf(text + used, sizeof text - (size_t)used, "%s%s%s", used ? "; " : "", strcmp(fault->dims, "all") == 0 ? "all dimensions" : "dimensions ", strcmp(fault->dims, "all") == 0 ? "" : fault->dims);
  if (text[0]) print_item(to, "where", text);
  if (r->first_token >= 0) {
    say_token(d, r, text);
    print_item(to, "first token", text);
  }
  if (fault->n > 1) {
    snprintf(text, sizeof text, "%d points in all%s%s, step%s %s", fault->n, !fault->layers[0] ? "" : strpbrk(fault->layers, ".,") ? ", layers " : ", layer ", fault->layers, strpbrk(fault->steps, ".,") ? "s" : "", fault->steps);
    print_item(to, "also", text);
  }
  snprintf(text, sizeof text, "%s: %s", fault->confidence, fault->why);
  print_item(to, "confidence", text);
  if (fault->settle[0]) print_item(to, "settled by", fault->settle);
}

typedef struct line {
  int worst;          /* record with the largest local ratio; -1 */
  double total;       /* largest total error, in units of noise; NAN */
  const char *at;
} line;

static line line_of(const mr3d_drift_run *d, int64_t step, int64_t layer) {
  line l = {-1, NAN, ""};
  for (int i = 0; i < mr3d_drift_records(d); i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
    if (r->step != step || r->layer != layer) continue;
    if (r->judged && (l.worst < 0 || r->local_ratio > mr3d_drift_record_at(d, l.worst)->local_ratio)) l.worst = i;
    if (r->total.measured && !(r->total.rms <= l.total)) l.total = r->total.rms, l.at = mr3d_points_about[r->point].name;
  }
  return l;
}

static void print_layers(const mr3d_drift_run *d, const mr3d_drift_verdict *v, int64_t step, FILE *to) {
  const int64_t layers = mr3d_drift_config(d)->num_hidden_layers;
  bool any_total = false;
  for (int i = 0; i < mr3d_drift_records(d); i++) any_total |= mr3d_drift_record_at(d, i)->total.measured;
  fprintf(to, "\n  step %lld   local error, of its bound            %s\n", (long long)step, any_total ? v->compared ? "difference, of rounding" : "total error, of the noise" : "");
  for (int64_t layer = 0; layer <= layers; layer++) {
    const line l = line_of(d, step, layer == layers ? -1 : layer);
    if (l.worst < 0 && isnan(l.total)) continue;
    const mr3d_drift_record *r = l.worst < 0 ? NULL : mr3d_drift_record_at(d, l.worst);
    char label[32], local[96] = "not judged", total[96] = "";
    if (layer == layers) snprintf(label, sizeof label, "model");
    else snprintf(label, sizeof label, "layer %lld", (long long)layer);
    if (r) snprintf(local, sizeof local, "%-9.3g %s", r->local_ratio, mr3d_points_about[r->point].name);
    if (!isnan(l.total)) snprintf(total, sizeof total, "%-9.3g %s", l.total, l.at);
    fprintf(to, "  %-8s %-32s %s %s\n", label, local, r && !r->verdict.passed ? "FAULT" : "     ", total);
  }
}

void mr3d_drift_report_text(const mr3d_drift_run *d, const mr3d_drift_verdict *v, const mr3d_drift_subject *s, FILE *to, bool color) {
  static const char *const words[] = {"NOTHING JUDGED", "ROUNDING", "FAULT", "DIFFERENT INPUTS", "UNEXPLAINED"};
  print_item(to, "subject", s->name);
  if (s->producer) print_item(to, "made by", s->producer);
  print_item(to, "reference", s->reference);
  char text[200];
  snprintf(text, sizeof text, "%s, %d step%s, %lld layers", mr3d_tier_name(mr3d_drift_tier(d)), mr3d_drift_steps(d), mr3d_drift_steps(d) == 1 ? "" : "s", (long long)mr3d_drift_config(d)->num_hidden_layers);
  print_item(to, "judged as", text);
  for (int i = 0; i < s->n_remarks; i++) print_item(to, i ? "" : "remark", s->remarks[i]);
  if (v->n_missing) print_item(to, "not traced", v->missing);
  fprintf(to, "\n%s%s%s\n", color ? (mr3d_drift_exit_status(v) ? "\033[1;31m" : "\033[1;32m") : "", words[v->kind], color ? "\033[0m" : "");
  print_item(to, "", v->headline);
  if (s->findings && s->findings->n_lines) fprintf(to, "\n");
  for (int i = 0; s->findings && i < s->findings->n_lines && i < MOST_FAULTS; i++) print_item(to, i ? "" : "beside", s->findings->lines[i]);
  if (s->findings && s->findings->n_lines > MOST_FAULTS) fprintf(to, "%14sand %d more (--json has them)\n", "", s->findings->n_lines - MOST_FAULTS);
  for (int i = 0; i < v->n_faults && i < MOST_FAULTS; i++) print_fault(d, &v->faults[i], "", to);
  if (v->n_faults > MOST_FAULTS) fprintf(to, "\nand %d more faults (--json has them)\n", v->n_faults - MOST_FAULTS);
  for (int i = 0; i < v->n_other_faults && i < MOST_FAULTS; i++) print_fault(mr3d_drift_other(d), &v->other_faults[i], "of the other trace ", to);
  if (v->n_faults + v->n_other_faults) fprintf(to, "\nPoints behind a fault inherit its error: their total error is large, their local one is not.\n");
  fprintf(to, "\n");
  for (int i = 0; i < v->n_evidence; i++) print_item(to, i ? "" : "evidence", v->evidence[i]);
  for (int step = 0; step < mr3d_drift_steps(d); step++) {
    bool fault = step == 0;
    for (int i = 0; i < v->n_faults; i++) fault |= mr3d_drift_record_at(d, v->faults[i].first)->step == step;
    if (fault) print_layers(d, v, step, to);
  }
  if (s->command) {
    fprintf(to, "\n");
    print_item(to, "again", s->command);
  }
}
