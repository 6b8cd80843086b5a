/** A drift as one JSON object (docs/drift.schema.json). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "drift_report.h"

/** Numbers that are no number are null; others keep six digits. */
static void add_number(cJSON *to, const char *key, double value) {
  char text[40] = "null";
  if (isfinite(value)) snprintf(text, sizeof text, "%.6g", value);
  cJSON_AddRawToObject(to, key, text);
}

static void add_count(cJSON *to, const char *key, int64_t value) { cJSON_AddNumberToObject(to, key, (double)value); }

static cJSON *errors_object(const mr3d_drift_errors *e) {
  static const char *const keys[] = {"text_before", "points", "text_after", "generated"};
  cJSON *object = cJSON_CreateObject(), *classes = cJSON_AddObjectToObject(object, "classes");
  add_number(object, "rms", e->rms);
  add_number(object, "worst", e->worst);
  add_number(object, "absolute", e->absolute);
  for (int k = 0; k < MR3D_N_CLASSES; k++)
    if (!isnan(e->of_class[k])) add_number(classes, keys[k], e->of_class[k]);
  return object;
}

static cJSON *rules_array(const mr3d_tensor_verdict *v) {
  cJSON *list = cJSON_CreateArray();
  for (int i = 0; i < v->n_statistics; i++) {
    const mr3d_statistic *s = &v->statistics[i];
    cJSON *rule = cJSON_CreateObject();
    cJSON_AddStringToObject(rule, "rule", s->rule);
    add_number(rule, "value", s->value);
    add_number(rule, "limit", s->limit);
    cJSON_AddBoolToObject(rule, "tested", s->tested);
    cJSON_AddBoolToObject(rule, "passed", s->passed);
    cJSON_AddItemToArray(list, rule);
  }
  return list;
}

static void add_place(cJSON *to, const mr3d_drift_record *r) {
  char place[64];
  add_count(to, "step", r->step);
  if (r->layer >= 0) add_count(to, "layer", r->layer);
  else cJSON_AddNullToObject(to, "layer");
  cJSON_AddStringToObject(to, "point", mr3d_points_about[r->point].name);
  cJSON_AddStringToObject(to, "place", mr3d_drift_place(r, place));
}

static cJSON *point_object(const mr3d_drift_record *r) {
  cJSON *object = cJSON_CreateObject();
  add_place(object, r);
  cJSON_AddStringToObject(object, "operator", mr3d_points_about[r->point].op);
  cJSON_AddBoolToObject(object, "judged", r->judged);
  cJSON_AddBoolToObject(object, "passed", r->verdict.passed);
  if (r->composite) cJSON_AddStringToObject(object, "replayed_from", mr3d_points_about[r->from].name);
  add_number(object, "local_of_bound", r->local_ratio);
  if (r->local.measured) cJSON_AddItemToObject(object, "local", errors_object(&r->local));
  if (r->total.measured) {
    cJSON_AddItemToObject(object, "total", errors_object(&r->total));
    add_number(object, "emulated", r->emulated);
  }
  add_number(object, "size", r->size);
  return object;
}

static cJSON *fault_object(const mr3d_drift_run *d, const mr3d_drift_fault *f) {
  const mr3d_drift_record *r = mr3d_drift_record_at(d, f->first);
  cJSON *object = cJSON_CreateObject();
  add_place(object, r);
  cJSON_AddStringToObject(object, "operator", mr3d_points_about[r->point].op);
  cJSON_AddStringToObject(object, "part", mr3d_points_about[r->point].part);
  if (r->composite) cJSON_AddStringToObject(object, "replayed_from", mr3d_points_about[r->from].name);
  cJSON_AddStringToObject(object, "problem", r->verdict.problem);
  cJSON_AddItemToObject(object, "rules", rules_array(&r->verdict));
  if (r->verdict.index[0]) {
    cJSON *element = cJSON_AddObjectToObject(object, "element");
    cJSON_AddStringToObject(element, "index", r->verdict.index);
    add_number(element, "got", r->verdict.got);
    add_number(element, "expected", r->verdict.expected);
    add_number(element, "bound", r->verdict.bound);
  }
  if (r->first_token >= 0) add_count(object, "first_token", mr3d_drift_step_at(d, (int)r->step)->L + r->first_token % mr3d_drift_step_at(d, (int)r->step)->q);
  if (f->heads[0]) cJSON_AddStringToObject(object, "heads", f->heads);
  if (f->dims[0]) cJSON_AddStringToObject(object, "dimensions", f->dims);
  if (f->classes[0]) cJSON_AddStringToObject(object, "tokens", f->classes);
  cJSON_AddStringToObject(object, "layers", f->layers);
  cJSON_AddStringToObject(object, "steps", f->steps);
  add_count(object, "points", f->n);
  if (r->mistake[0]) cJSON_AddStringToObject(object, "mistake", r->mistake);
  if (r->n_alike > 1) cJSON_AddStringToObject(object, "alike", r->alike);
  cJSON_AddStringToObject(object, "diagnosis", r->diagnosis);
  cJSON_AddStringToObject(object, "confidence", f->confidence);
  cJSON_AddStringToObject(object, "why", f->why);
  if (f->settle[0]) cJSON_AddStringToObject(object, "settle", f->settle);
  return object;
}

static cJSON *growth_object(const mr3d_drift_growth *g) {
  cJSON *object = cJSON_CreateObject();
  add_count(object, "n", g->n);
  add_number(object, "start", g->start);
  add_number(object, "factor", g->factor);
  add_number(object, "emulated_start", g->emulated_start);
  add_number(object, "emulated_factor", g->emulated_factor);
  return object;
}

cJSON *mr3d_drift_report_object(const mr3d_drift_run *d, const mr3d_drift_verdict *v, const mr3d_drift_subject *s) {
  cJSON *object = cJSON_CreateObject(), *verdict, *list;
  add_count(object, "format", 1);
  cJSON_AddStringToObject(object, "subject", s->name);
  if (s->producer) cJSON_AddStringToObject(object, "producer", s->producer);
  cJSON_AddStringToObject(object, "reference", s->reference);
  cJSON_AddStringToObject(object, "tier", mr3d_tier_name(mr3d_drift_tier(d)));
  add_count(object, "layers", mr3d_drift_config(d)->num_hidden_layers);
  verdict = cJSON_AddObjectToObject(object, "verdict");
  cJSON_AddStringToObject(verdict, "kind", mr3d_drift_kind_name(v->kind));
  cJSON_AddStringToObject(verdict, "headline", v->headline);
  list = cJSON_AddArrayToObject(verdict, "evidence");
  for (int i = 0; i < v->n_evidence; i++) cJSON_AddItemToArray(list, cJSON_CreateString(v->evidence[i]));
  list = cJSON_AddArrayToObject(object, "remarks");
  for (int i = 0; i < s->n_remarks; i++) cJSON_AddItemToArray(list, cJSON_CreateString(s->remarks[i]));
  if (v->n_missing) cJSON_AddStringToObject(object, "not_traced", v->missing);
  if (s->findings) mr3d_findings_add(s->findings, object);
  list = cJSON_AddArrayToObject(object, "faults");
  for (int i = 0; i < v->n_faults; i++) cJSON_AddItemToArray(list, fault_object(d, &v->faults[i]));
  if (mr3d_drift_other(d)) {
    list = cJSON_AddArrayToObject(object, "other_faults");
    for (int i = 0; i < v->n_other_faults; i++) cJSON_AddItemToArray(list, fault_object(mr3d_drift_other(d), &v->other_faults[i]));
  }
  cJSON *growth = cJSON_AddObjectToObject(object, "growth");
  cJSON_AddItemToObject(growth, "layers", growth_object(&v->layers));
  cJSON_AddItemToObject(growth, "steps", growth_object(&v->steps));
  list = cJSON_AddArrayToObject(object, "steps");
  for (int i = 0; i < mr3d_drift_steps(d); i++) {
    const mr3d_drift_step *step = mr3d_drift_step_at(d, i);
    cJSON *one = cJSON_CreateObject();
    cJSON_AddStringToObject(one, "op", step->decode ? "decode" : "prefill");
    add_count(one, "samples", step->B);
    add_count(one, "tokens", step->q);
    add_count(one, "cached", step->L);
    if (step->greedy >= 0) add_count(one, "greedy", step->greedy);
    if (step->truth_greedy >= 0) add_count(one, "reference_greedy", step->truth_greedy);
    cJSON_AddItemToArray(list, one);
  }
  list = cJSON_AddArrayToObject(object, "points");
  for (int i = 0; i < mr3d_drift_records(d); i++) cJSON_AddItemToArray(list, point_object(mr3d_drift_record_at(d, i)));
  return object;
}

mr3d_status mr3d_drift_report_json(const mr3d_drift_run *d, const mr3d_drift_verdict *v, const mr3d_drift_subject *s, const char *path, mr3d_error *error) {
  cJSON *object = mr3d_drift_report_object(d, v, s);
  char *text = cJSON_Print(object);
  FILE *file = fopen(path, "w");
  const bool good = file && text && fputs(text, file) >= 0 && fputc('\n', file) >= 0;
  const bool closed = file && fclose(file) == 0;
  cJSON_free(text);
  cJSON_Delete(object);
  return good && closed ? MR3D_OK : mr3d_fail(error, MR3D_IO, "%s cannot be written", path);
}
