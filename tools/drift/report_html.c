/** A drift as one page that loads nothing: verdict and faults as text, heat maps, histograms and the scene drawn by drift.js from data that lie in the page. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "compare.h"
#include "drift_report.h"
#include "report.h"

extern const char mr3d_embedded_report_css[], mr3d_embedded_drift_css[], mr3d_embedded_drift_js[]; /* put here by embed.c */

#define MOST_STEPS 64        /* whose pictures are in the page */
#define NEIGHBOURS 12        /* tokens shown around the first mistaken one */

/* ---- data ---- */

/** Eighths of an octave around 128; 0: nothing there, or no error. */
static unsigned char level(double value) {
  if (!(value > 0)) return 0;
  const double at = 128 + 8 * log2(value);
  return (unsigned char)(at < 1 ? 1 : at > 255 ? 255 : lrint(at));
}

static void add_bytes(cJSON *to, const char *key, const unsigned char *bytes, size_t n) {
  const size_t room = sodium_base64_encoded_len(n, sodium_base64_VARIANT_ORIGINAL);
  char *text = mr3d_allocate((long long)room, 1);
  sodium_bin2base64(text, room, bytes, n, sodium_base64_VARIANT_ORIGINAL);
  cJSON_AddStringToObject(to, key, text);
  free(text);
}

static void add_floats(cJSON *to, const char *key, const float *values, int64_t n) {
  unsigned char *bytes = mr3d_allocate(n, 1);
  for (int64_t i = 0; i < n; i++) bytes[i] = level((double)values[i]);
  add_bytes(to, key, bytes, (size_t)n);
  free(bytes);
}

static void add_number(cJSON *to, const char *key, double value) {
  char text[40] = "null";
  if (isfinite(value)) snprintf(text, sizeof text, "%.4g", value);
  cJSON_AddRawToObject(to, key, text);
}

static void add_errors(cJSON *to, const char *key, const mr3d_drift_record *r, const mr3d_drift_errors *e) {
  cJSON *object = cJSON_AddObjectToObject(to, key);
  if (!e->measured) return;
  add_number(object, "rms", e->rms);
  add_number(object, "worst", e->worst);
  if (e->head_dim) add_floats(object, "dims", e->head_dim, r->heads * r->dims);
  cJSON *histogram = cJSON_AddArrayToObject(object, "histogram");
  for (int i = 0; i < MR3D_DRIFT_HISTOGRAM; i++) cJSON_AddItemToArray(histogram, cJSON_CreateNumber((double)e->histogram[i]));
}

static cJSON *record_object(const mr3d_drift_record *r) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddNumberToObject(object, "step", (double)r->step);
  cJSON_AddNumberToObject(object, "layer", (double)r->layer);
  cJSON_AddNumberToObject(object, "point", r->point);
  cJSON_AddBoolToObject(object, "passed", r->verdict.passed);
  add_number(object, "ratio", r->local_ratio);
  cJSON_AddNumberToObject(object, "heads", (double)r->heads);
  cJSON_AddNumberToObject(object, "dims", (double)r->dims);
  add_errors(object, "local", r, &r->local);
  add_errors(object, "total", r, &r->total);
  return object;
}

/** Errors by layer, point and token. */
static void add_map(cJSON *to, const mr3d_drift_run *d, int64_t n_step, bool local) {
  const mr3d_drift_step *step = mr3d_drift_step_at(d, (int)n_step);
  const int64_t tokens = step->B * step->q, n = mr3d_drift_config(d)->num_hidden_layers * MR3D_N_LAYER_POINTS * tokens;
  unsigned char *bytes = mr3d_allocate(n, 1);
  bool any = false;
  for (int i = 0; i < mr3d_drift_records(d); i++) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
    const mr3d_drift_errors *e = local ? &r->local : &r->total;
    if (r->step != n_step || r->layer < 0 || r->tokens != tokens) continue;
    unsigned char *at = bytes + (r->layer * MR3D_N_LAYER_POINTS + r->point) * tokens;
    for (int64_t t = 0; t < tokens && e->token; t++) at[t] = level((double)e->token[t]);
    if (r->point == MR3D_P_VISIBLE && !r->verdict.passed && local && r->first_token >= 0) at[r->first_token] = 255; /* a mask is right or wrong */
    any |= e->token != NULL;
  }
  if (any) add_bytes(to, local ? "local" : "total", bytes, (size_t)n);
  free(bytes);
}

static cJSON *step_object(const mr3d_drift_run *d, int64_t n_step) {
  const mr3d_drift_step *step = mr3d_drift_step_at(d, (int)n_step);
  const int64_t tokens = step->B * step->q;
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "op", step->decode ? "decode" : "prefill");
  cJSON_AddNumberToObject(object, "samples", (double)step->B);
  cJSON_AddNumberToObject(object, "tokens", (double)tokens);
  cJSON_AddNumberToObject(object, "cached", (double)step->L);
  cJSON *classes = cJSON_AddArrayToObject(object, "classes"), *ids = cJSON_AddArrayToObject(object, "ids"), *coords = cJSON_AddArrayToObject(object, "coords");
  for (int64_t t = 0; t < tokens; t++) {
    cJSON_AddItemToArray(classes, cJSON_CreateNumber(step->token_class[t]));
    cJSON_AddItemToArray(ids, cJSON_CreateNumber((double)step->ids[t]));
    for (int a = 0; a < 3; a++) cJSON_AddItemToArray(coords, step->coords && isfinite(step->coords[3 * t + a]) ? cJSON_CreateNumber(step->coords[3 * t + a]) : cJSON_CreateNull());
  }
  add_map(object, d, n_step, true);
  add_map(object, d, n_step, false);
  return object;
}

static void write_data(FILE *to, const mr3d_drift_run *d, const mr3d_drift_verdict *v) {
  cJSON *data = cJSON_CreateObject(), *list;
  cJSON_AddNumberToObject(data, "layers", (double)mr3d_drift_config(d)->num_hidden_layers);
  list = cJSON_AddArrayToObject(data, "points");
  for (int p = 0; p < MR3D_N_LAYER_POINTS; p++) cJSON_AddItemToArray(list, cJSON_CreateString(mr3d_points_about[p].name));
  list = cJSON_AddArrayToObject(data, "steps");
  for (int s = 0; s < mr3d_drift_steps(d) && s < MOST_STEPS; s++) cJSON_AddItemToArray(list, step_object(d, s));
  list = cJSON_AddArrayToObject(data, "records");
  for (int i = 0; i < mr3d_drift_records(d); i++)
    if (mr3d_drift_record_at(d, i)->step < MOST_STEPS) cJSON_AddItemToArray(list, record_object(mr3d_drift_record_at(d, i)));
  if (v->n_faults && mr3d_drift_record_at(d, v->faults[0].first)->step < MOST_STEPS) {
    const mr3d_drift_record *r = mr3d_drift_record_at(d, v->faults[0].first);
    cJSON *first = cJSON_AddObjectToObject(data, "first");
    cJSON_AddNumberToObject(first, "step", (double)r->step);
    cJSON_AddNumberToObject(first, "layer", (double)r->layer);
    cJSON_AddNumberToObject(first, "point", r->point);
    cJSON_AddNumberToObject(first, "token", (double)r->first_token);
  }
  char *text = cJSON_PrintUnformatted(data);
  for (const char *c = text; *c; c++) { /* no string may end the script */
    if (*c == '<') fputs("\\u003c", to);
    else fputc(*c, to);
  }
  cJSON_free(text);
  cJSON_Delete(data);
}

/* ---- text ---- */

static void text(FILE *to, const char *value) { mr3d_write_escaped(to, value); }

static void fact(FILE *to, const char *name, const char *value) {
  if (!value || !*value) return;
  fprintf(to, "<dt>%s</dt><dd>", name);
  text(to, value);
  fputs("</dd>\n", to);
}

static void write_fault(FILE *to, const mr3d_drift_run *d, const mr3d_drift_fault *f) {
  const mr3d_drift_record *r = mr3d_drift_record_at(d, f->first);
  char place[64], value[600];
  fputs("<section class=\"card failed\"><h3>", to);
  text(to, mr3d_drift_place(r, place));
  fputs(": ", to);
  text(to, mr3d_points_about[r->point].part);
  fputs("</h3>\n<dl class=\"facts\">\n", to);
  fact(to, "Mistake", r->diagnosis);
  fact(to, "Rule", r->verdict.problem);
  if (r->verdict.index[0]) {
    snprintf(value, sizeof value, "%s: got %.9g, expected %.9g from its own inputs", r->verdict.index, r->verdict.got, r->verdict.expected);
    fact(to, "Worst element", value);
  }
  snprintf(value, sizeof value, "%s%s%s%s%s", f->classes, f->heads[0] ? "; heads: " : "", f->heads, f->dims[0] ? "; dimensions: " : "", f->dims);
  fact(to, "Where", value);
  if (f->n > 1) {
    snprintf(value, sizeof value, "%d points%s%s; steps: %s", f->n, f->layers[0] ? "; layers: " : "", f->layers, f->steps);
    fact(to, "In all", value);
  }
  snprintf(value, sizeof value, "%s: %s", f->confidence, f->why);
  fact(to, "Confidence", value);
  fact(to, "To settle it", f->settle);
  fputs("</dl></section>\n", to);
}

static void write_findings(FILE *to, const mr3d_trace_findings *f) {
  if (!f || !f->n_lines) return;
  fprintf(to, "<h2>%s</h2>\n<ul>\n", f->other_inputs ? "Different inputs, and what the trace shows by itself" : "What the trace shows by itself");
  for (int i = 0; i < f->n_lines; i++) fputs("<li>", to), text(to, f->lines[i]), fputs("</li>\n", to);
  fputs("</ul>\n", to);
}

/** The tokens around the first mistaken one; points side by side are counted. */
static void write_prompt(FILE *to, const mr3d_drift_run *d, const mr3d_drift_verdict *v) {
  if (!v->n_faults) return;
  const mr3d_drift_record *r = mr3d_drift_record_at(d, v->faults[0].first);
  const mr3d_drift_step *step = mr3d_drift_step_at(d, (int)r->step);
  if (r->first_token < 0) return;
  const int64_t first = r->first_token % step->q, base = r->first_token - first;
  fprintf(to, "<h2>The first mistaken token</h2>\n<p>Of step %lld: token %lld, %s. Marked are also the others that are out of bounds there.</p>\n<ol class=\"prompt\" start=\"0\">\n", (long long)r->step,
          (long long)(step->L + first), mr3d_token_class_name((mr3d_token_class)step->token_class[r->first_token]));
  for (int64_t i = 0; i < step->q;) {
    const unsigned char class = step->token_class[base + i];
    const bool near = i >= first - NEIGHBOURS && i <= first + NEIGHBOURS, off = r->local.token && r->local.token[base + i] > 2;
    int64_t end = i + 1;
    while (end < step->q && !near && !(end >= first - NEIGHBOURS && end <= first + NEIGHBOURS) && step->token_class[base + end] == class) end++;
    if (end > i + 1) fprintf(to, "<li%s>%lld %s</li>\n", class == MR3D_POINT_TOKEN ? " class=\"points\"" : "", (long long)(end - i), class == MR3D_POINT_TOKEN ? "points" : "text");
    else {
      fprintf(to, "<li class=\"%s\">%lld", i == first ? "first" : off ? "off" : class == MR3D_POINT_TOKEN ? "points" : "", (long long)(step->L + i));
      if (step->ids[base + i] >= 0) fprintf(to, ": id %lld", (long long)step->ids[base + i]);
      else if (step->coords && isfinite(step->coords[3 * (base + i)]))
        fprintf(to, ": (%g, %g, %g)", step->coords[3 * (base + i)], step->coords[3 * (base + i) + 1], step->coords[3 * (base + i) + 2]);
      fputs(i == first ? " <strong>first</strong></li>\n" : off ? " <em>off</em></li>\n" : "</li>\n", to);
    }
    i = end;
  }
  fputs("</ol>\n", to);
}

static void write_layers(FILE *to, const mr3d_drift_run *d, const mr3d_drift_verdict *v) {
  fprintf(to, "<h2>Layer by layer</h2>\n<p>Of each layer the local error nearest to its bound, and the largest %s, of all steps.</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Layer by layer\"><table>\n"
              "<thead><tr><th scope=\"col\">Layer</th><th scope=\"col\">Local, of its bound</th><th scope=\"col\">at</th><th scope=\"col\">%s</th><th scope=\"col\">at</th></tr></thead>\n<tbody>\n",
          v->compared ? "difference" : "total error", v->compared ? "Difference, of rounding" : "Total, of the noise");
  const int64_t layers = mr3d_drift_config(d)->num_hidden_layers;
  for (int64_t n = 0; n <= layers; n++) {
    const mr3d_drift_record *local = NULL, *total = NULL;
    for (int i = 0; i < mr3d_drift_records(d); i++) {
      const mr3d_drift_record *r = mr3d_drift_record_at(d, i);
      if (r->layer != (n == layers ? -1 : n)) continue;
      if (r->judged && (!local || r->local_ratio > local->local_ratio)) local = r;
      if (r->total.measured && (!total || r->total.rms > total->total.rms)) total = r;
    }
    if (!local && !total) continue;
    char place[64];
    fprintf(to, "<tr%s><th scope=\"row\">", local && !local->verdict.passed ? " class=\"fault\"" : "");
    if (n == layers) fputs("model", to);
    else fprintf(to, "%lld", (long long)n);
    fputs("</th>", to);
    if (local) fprintf(to, "<td>%.3g%s</td><td>%s</td>", local->local_ratio, local->verdict.passed ? "" : " fault", mr3d_drift_place(local, place));
    else fputs("<td>not judged</td><td></td>", to);
    if (total) fprintf(to, "<td>%.3g</td><td>%s</td></tr>\n", total->total.rms, mr3d_drift_place(total, place));
    else fputs("<td></td><td></td></tr>\n", to);
  }
  fputs("</tbody></table></div>\n", to);
}

static bool has_scene(const mr3d_drift_run *d) {
  for (int s = 0; s < mr3d_drift_steps(d); s++)
    if (mr3d_drift_step_at(d, s)->coords) return true;
  return false;
}

static void write_pictures(FILE *to, const mr3d_drift_run *d, const mr3d_drift_verdict *v) {
  fputs("<div id=\"pictures\" hidden>\n<h2>Where</h2>\n<form id=\"look\" class=\"filter\">\n"
        "<label>Error<select name=\"kind\"><option value=\"local\">local</option><option value=\"total\">total</option></select></label>\n"
        "<label>Step<select name=\"step\"></select></label>\n<label>Point<select name=\"point\"><option value=\"-1\">the largest</option></select></label>\n"
        "<label>Layer<input type=\"range\" name=\"layer\" min=\"0\" value=\"0\"></label>\n<label>Token<input type=\"range\" name=\"token\" min=\"0\" value=\"0\"></label>\n", to);
  if (v->n_faults) fputs("<button type=\"button\" id=\"to-fault\">Go to the fault</button>\n", to);
  fputs("</form>\n<p id=\"here\" class=\"here\" role=\"status\"></p>\n"
        "<p class=\"key\"><span>1/32 of a unit</span><canvas id=\"ramp\" aria-hidden=\"true\"></canvas><span>1024 units; one unit, the noise, is at a third</span></p>\n"
        "<figure><canvas id=\"map\" tabindex=\"0\" role=\"application\" aria-label=\"Heat map of errors: a row a layer, a column a token. Arrow keys choose a cell, which is told above.\" aria-describedby=\"here\"></canvas>\n"
        "<figcaption>Layers down, tokens across. A click or the arrow keys choose a cell.</figcaption></figure>\n<div class=\"two\">\n"
        "<figure><h3 id=\"dims-title\">Heads and dimensions</h3><canvas id=\"dims\" role=\"img\" aria-labelledby=\"dims-title dims-note\"></canvas><figcaption id=\"dims-note\"></figcaption></figure>\n"
        "<figure><h3 id=\"histogram-title\">Errors in units of noise</h3><svg id=\"histogram\" viewBox=\"0 0 520 180\" width=\"100%\" role=\"img\" aria-labelledby=\"histogram-title histogram-note\"></svg>"
        "<figcaption id=\"histogram-note\"></figcaption></figure>\n</div>\n", to);
  if (has_scene(d))
    fputs("<figure><h3>The scene's tokens</h3><canvas id=\"scene\" tabindex=\"0\" role=\"application\" aria-label=\"Point tokens at their coordinates, coloured by the chosen error; the table and the text say the same. "
          "Left and right arrows turn it.\"></canvas><figcaption>Coloured by the error of the chosen layer and point. Drag it, or use the left and right arrow keys, to turn it.</figcaption></figure>\n", to);
  fputs("</div>\n", to);
}

static void write_page(FILE *to, const mr3d_drift_run *d, const mr3d_drift_verdict *v, const mr3d_drift_subject *s) {
  const int status = mr3d_drift_exit_status(v);
  char value[200];
  fprintf(to, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Drift, %s: ", mr3d_drift_kind_name(v->kind));
  text(to, s->name);
  fprintf(to, "</title>\n<style>\n%s%s</style>\n</head>\n<body>\n<header>\n<div class=\"verdict %s\"><h1>Drift: %s</h1><p>", mr3d_embedded_report_css, mr3d_embedded_drift_css,
          status == 0 ? "passed" : status == 2 ? "failed" : "broken", mr3d_drift_kind_name(v->kind));
  text(to, v->headline);
  fputs("</p></div>\n<dl class=\"facts\">\n", to);
  fact(to, "Subject", s->name);
  fact(to, "Made by", s->producer);
  fact(to, v->compared ? "Compared with" : "Reference", s->reference);
  snprintf(value, sizeof value, "%s, %d step%s, %lld layers", mr3d_tier_name(mr3d_drift_tier(d)), mr3d_drift_steps(d), mr3d_drift_steps(d) == 1 ? "" : "s", (long long)mr3d_drift_config(d)->num_hidden_layers);
  fact(to, "Judged as", value);
  fact(to, "Not traced", v->missing);
  for (int i = 0; i < s->n_remarks; i++) fact(to, "Remark", s->remarks[i]);
  fputs("</dl>\n</header>\n<main>\n", to);
  write_findings(to, s->findings);
  if (v->n_faults) fputs("<h2>Faults</h2>\n<p>Points behind a fault inherit its error: their total error is large, their local one is not.</p>\n", to);
  for (int i = 0; i < v->n_faults; i++) write_fault(to, d, &v->faults[i]);
  if (v->n_other_faults) fputs("<h2>Faults of the other trace</h2>\n<p>Its operators, replayed on its own inputs where the two part.</p>\n", to);
  for (int i = 0; i < v->n_other_faults; i++) write_fault(to, mr3d_drift_other(d), &v->other_faults[i]);
  fputs("<h2>Evidence</h2>\n<ul>\n", to);
  for (int i = 0; i < v->n_evidence; i++) fputs("<li>", to), text(to, v->evidence[i]), fputs("</li>\n", to);
  fputs("</ul>\n", to);
  write_prompt(to, d, v);
  write_pictures(to, d, v);
  write_layers(to, d, v);
  fputs("</main>\n<script type=\"application/json\" id=\"data\">", to);
  write_data(to, d, v);
  fprintf(to, "</script>\n<script type=\"module\">\n%s</script>\n</body>\n</html>\n", mr3d_embedded_drift_js);
}

mr3d_status mr3d_drift_report_html(const mr3d_drift_run *d, const mr3d_drift_verdict *v, const mr3d_drift_subject *s, const char *path, mr3d_error *error) {
  FILE *file = fopen(path, "w");
  if (!file) return mr3d_fail(error, MR3D_IO, "%s cannot be written", path);
  write_page(file, d, v, s);
  const bool good = !ferror(file);
  return fclose(file) == 0 && good ? MR3D_OK : mr3d_fail(error, MR3D_IO, "%s cannot be written", path);
}
