#include "findings.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_line(mr3d_trace_findings *f, const char *format, ...) MR3D_PRINTF(2, 3);
static void add_line(mr3d_trace_findings *f, const char *format, ...) {
  char line[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  char **lines = mr3d_allocate(f->n_lines + 1, sizeof *lines);
  if (f->n_lines) memcpy(lines, f->lines, (size_t)f->n_lines * sizeof *lines);
  lines[f->n_lines++] = strdup(line);
  free(f->lines);
  f->lines = lines;
}

/* The tensor's name behind its layer: "self_attn.q_proj.weight". */
static const char *behind_layer(const char *name) {
  const char *at = strstr(name, "layers.");
  if (!at) return name;
  at += 7;
  at += strspn(at, "0123456789");
  return *at == '.' ? at + 1 : at;
}

/* Alike: the same tensor of another layer that differs in the same way, or the same input of another step. */
static bool alike(const mr3d_input_difference *a, const mr3d_input_difference *b) {
  if (a->kind != b->kind || a->rounding != b->rounding || strcmp(behind_layer(a->name), behind_layer(b->name)) != 0) return false;
  return strcmp(a->looks, b->looks) == 0 || strncmp(a->looks, "unrelated", 9) == 0 || strncmp(a->looks, "related", 7) == 0 || strncmp(a->looks, "the same with noise", 19) == 0;
}

static void say_differences(mr3d_trace_findings *f) {
  const mr3d_input_differences *d = &f->inputs;
  bool *said = mr3d_allocate(d->count, sizeof *said);
  for (int i = 0; i < d->count; i++) {
    if (said[i]) continue;
    int more = 0;
    double max = d->list[i].max;
    for (int k = i + 1; k < d->count; k++)
      if (!said[k] && alike(&d->list[i], &d->list[k])) said[k] = true, more++, max = fmax(max, d->list[k].max);
    if (!more) add_line(f, "%s", d->list[i].text);
    else add_line(f, "%s; likewise in %d more %s%s", d->list[i].text, more, d->list[i].layer >= 0 ? "layer" : d->list[i].step >= 0 ? "step" : "place", more == 1 ? "" : "s");
    if (d->list[i].rounding || f->other_inputs) continue;
    f->other_inputs = true;
    snprintf(f->headline, sizeof f->headline, "different inputs: %s", f->lines[f->n_lines - 1]);
  }
  free(said);
  int rounded = 0;
  for (int i = 0; i < d->count; i++) rounded += d->list[i].rounding;
  if (f->other_inputs || !rounded) return;
  f->other_inputs = true;
  snprintf(f->headline, sizeof f->headline,
           "different inputs: %d of %d weights differ from the reference's by a number format alone (%.160s %s): give the reference the weights that the subject had (save_pretrained of that model), and what remains is its arithmetic",
           rounded, d->weights_compared, d->list[0].name, d->list[0].looks);
}

void mr3d_findings_gather(mr3d_trace_findings *f, const mr3d_inputs_side *subject, const mr3d_inputs_side *reference) {
  mr3d_inputs_compare(subject, reference, &f->inputs);
  say_differences(f);
  if (!subject->trace) return;
  f->n_symptoms = mr3d_symptoms_of_trace((mr3d_aligned *)(uintptr_t)subject->trace, (int)(sizeof f->symptoms / sizeof *f->symptoms), f->symptoms);
  for (int i = 0; i < f->n_symptoms; i++) {
    const mr3d_signal *s = f->symptoms[i].signal;
    char pitfalls[200] = "";
    for (int p = 0; s->pitfalls[p]; p++) snprintf(pitfalls + strlen(pitfalls), sizeof pitfalls - strlen(pitfalls), "%s%s", p ? ", " : "", s->pitfalls[p]);
    add_line(f, "%s. That is %s: %s. Look at %s", f->symptoms[i].found, pitfalls, s->because, s->look);
  }
}

void mr3d_findings_clear(mr3d_trace_findings *f) {
  for (int i = 0; i < f->n_lines; i++) free(f->lines[i]);
  free(f->lines);
  mr3d_input_differences_free(&f->inputs);
  *f = (mr3d_trace_findings){0};
}

void mr3d_findings_add(const mr3d_trace_findings *f, cJSON *report) {
  cJSON *inputs = cJSON_AddObjectToObject(report, "inputs"), *list = cJSON_AddArrayToObject(inputs, "differences"), *signals = cJSON_AddArrayToObject(report, "signals");
  cJSON_AddBoolToObject(inputs, "config_compared", f->inputs.config_compared);
  cJSON_AddNumberToObject(inputs, "weights_compared", f->inputs.weights_compared);
  cJSON_AddNumberToObject(inputs, "calls_compared", f->inputs.calls_compared);
  for (int i = 0; i < f->inputs.count; i++) {
    const mr3d_input_difference *d = &f->inputs.list[i];
    cJSON *one = cJSON_CreateObject();
    cJSON_AddStringToObject(one, "kind", mr3d_input_kind_name(d->kind));
    cJSON_AddStringToObject(one, "name", d->name);
    if (d->step >= 0) cJSON_AddNumberToObject(one, "step", (double)d->step);
    if (d->layer >= 0) cJSON_AddNumberToObject(one, "layer", (double)d->layer);
    if (isfinite(d->max)) cJSON_AddNumberToObject(one, "max", d->max);
    if (*d->looks) cJSON_AddStringToObject(one, "looks", d->looks);
    cJSON_AddBoolToObject(one, "rounding", d->rounding);
    cJSON_AddStringToObject(one, "text", d->text);
    cJSON_AddItemToArray(list, one);
  }
  for (int i = 0; i < f->n_symptoms; i++) {
    const mr3d_symptom *s = &f->symptoms[i];
    cJSON *one = cJSON_CreateObject(), *pitfalls;
    cJSON_AddStringToObject(one, "signal", s->signal->slug);
    cJSON_AddNumberToObject(one, "step", (double)s->step);
    if (s->layer >= 0) cJSON_AddNumberToObject(one, "layer", (double)s->layer);
    cJSON_AddStringToObject(one, "found", s->found);
    pitfalls = cJSON_AddArrayToObject(one, "pitfalls");
    for (int p = 0; s->signal->pitfalls[p]; p++) cJSON_AddItemToArray(pitfalls, cJSON_CreateString(s->signal->pitfalls[p]));
    cJSON_AddStringToObject(one, "because", s->signal->because);
    cJSON_AddStringToObject(one, "look_at", s->signal->look);
    cJSON_AddItemToArray(signals, one);
  }
}
