/** mr3d drift: where a model's numbers part from the reference's, and whether it is rounding or a fault (docs/drift.md). */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "align.h"
#include "calls.h"
#include "command.h"
#include "compare.h"
#include "drift_parts.h"
#include "file.h"
#include "mr3d/safetensors.h"
#include "promises.h"

#define USUAL_RUNS 4

typedef struct drift_command {
  const char *weights, *config_path, *keeps, *json, *html;
  uint32_t tiers;
  int64_t runs, threads;
  bool first_fault, no_diagnosis, quiet;
  mr3d_order init_missing;
  const char *map;
  const mr3d_bundle *trace; /* the subject's file */
  char *config; /* text */
  mr3d_run run; /* what a running backend is asked */
  mr3d_drift_ask ask;
} drift_command;

/* ---- what a trace says of itself, and what the options say instead ---- */

static mr3d_status read_text(const char *path, char **text, mr3d_error *error) {
  void *bytes;
  size_t size;
  if (mr3d_map(path, &bytes, &size, error)) return error->status;
  *text = mr3d_allocate((long long)size + 1, 1);
  memcpy(*text, bytes, size);
  mr3d_unmap(bytes, size);
  return MR3D_OK;
}

/** --config, else config.json of the weights' folder, which the trace's own is then compared with, else what the trace says. */
static mr3d_status find_config(drift_command *c, const char *path, mr3d_error *error) {
  const char *said = c->trace ? mr3d_bundle_get(c->trace, "config") : NULL, *weights = c->weights ? c->weights : c->trace ? mr3d_bundle_get(c->trace, "weights") : NULL;
  char in_folder[4096];
  struct stat about;
  if (c->config_path) return read_text(c->config_path, &c->config, error);
  if (weights && stat(weights, &about) == 0 && S_ISDIR(about.st_mode)) {
    snprintf(in_folder, sizeof in_folder, "%s/config.json", weights);
    if (!said || access(in_folder, R_OK) == 0) return read_text(in_folder, &c->config, error);
  }
  if (!said && !path) return mr3d_fail(error, MR3D_INVALID, "the weights %s come without a configuration; give --config FILE.json", weights ? weights : "(none)");
  if (!said) return mr3d_fail(error, MR3D_INVALID, "%s does not say of which configuration it is (metadata config); give --config FILE.json", path);
  c->config = strdup(said);
  return MR3D_OK;
}

static mr3d_status find_tier(const drift_command *c, const mr3d_bundle *trace, const char *path, mr3d_tier *tier, mr3d_error *error) {
  const char *said = trace ? mr3d_bundle_get(trace, "tier") : NULL;
  *tier = said ? mr3d_tier_named(said) : MR3D_N_TIERS;
  if (!c->tiers && said && *tier == MR3D_N_TIERS) return mr3d_fail(error, MR3D_INVALID, "%s: metadata tier is \"%.40s\"; expected fp64, fp32, tf32, bf16 or fp16 (or give --tier)", path, said);
  int n = 0;
  for (int t = 0; t < MR3D_N_TIERS; t++)
    if (c->tiers >> t & 1) *tier = (mr3d_tier)t, n++;
  if (n > 1) return mr3d_fail(error, MR3D_INVALID, "--tier: a trace is judged at one tier");
  if (*tier == MR3D_N_TIERS) return mr3d_fail(error, MR3D_INVALID, "%s does not say at which tier it was computed (metadata tier); give --tier fp32, bf16 ...", path);
  return MR3D_OK;
}

/* ---- a trace against the reference ---- */

static mr3d_status take_trace(mr3d_drift_run *drift, const mr3d_drift_source *source, int64_t steps, mr3d_error *error) {
  bool stopped = false;
  for (int64_t step = 0; step < steps && !stopped; step++) {
    mr3d_traced_call call;
    mr3d_status status = mr3d_traced_call_read(drift, source, step, &call, error);
    if (status) return status;
    status = mr3d_drift_take(drift, &call.call, source, &stopped, error);
    mr3d_traced_call_clear(&call);
    if (status) return status;
  }
  return MR3D_OK;
}

static int report(const drift_command *c, const mr3d_drift_run *drift, const mr3d_drift_subject *subject) {
  mr3d_drift_verdict verdict;
  mr3d_error error = {0};
  mr3d_drift_conclude(drift, subject->findings && subject->findings->other_inputs ? subject->findings->headline : NULL, &verdict);
  int status = mr3d_drift_exit_status(&verdict);
  mr3d_drift_report_text(drift, &verdict, subject, stdout, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
  if (c->json && mr3d_drift_report_json(drift, &verdict, subject, c->json, &error)) status = mr3d_complain("--json: %s", error.message);
  if (c->html && mr3d_drift_report_html(drift, &verdict, subject, c->html, &error)) status = mr3d_complain("--html: %s", error.message);
  mr3d_drift_verdict_clear(&verdict);
  return status;
}

/* ---- files ---- */

#define MOST_REMARKS 24
#define MOST_SUSPICIOUS 4 /* layers of two traces that are replayed */

/** A trace, and another one or none. */
typedef struct files {
  mr3d_aligned *subject, *other;
  mr3d_trace_findings findings;
  int n_remarks;
  char remark_text[MOST_REMARKS][400];
  const char *remarks[MOST_REMARKS];
} files;

static void gather_remarks(files *f) {
  for (int side = 0; side < 2; side++) {
    const mr3d_aligned *trace = side ? f->other : f->subject;
    for (int i = 0; trace && i < mr3d_aligned_remarks(trace) && f->n_remarks < MOST_REMARKS; i++) {
      snprintf(f->remark_text[f->n_remarks], sizeof f->remark_text[0], "%s%.380s", side ? "the other: " : "", mr3d_aligned_remark(trace, i));
      f->remarks[f->n_remarks] = f->remark_text[f->n_remarks];
      f->n_remarks++;
    }
  }
}

/** Opens the traces, the other one first: it settles what the subject's shapes leave open. */
static mr3d_status open_files(drift_command *c, char **paths, int n, files *f, mr3d_drift_options *options, mr3d_error *error) {
  mr3d_align_options align = {.map = c->map};
  if (n > 1 && mr3d_align_open(paths[1], &(mr3d_align_options){0}, &f->other, error)) return error->status;
  align.reference = f->other;
  mr3d_config config;
  if (c->config_path) {
    if (find_config(c, paths[0], error) || mr3d_config_parse(c->config, &config, error)) return error->status;
    align.config = &config;
  }
  if (mr3d_align_open(paths[0], &align, &f->subject, error)) return error->status;
  c->trace = mr3d_aligned_file(f->subject);
  const mr3d_bundle *other = f->other ? mr3d_aligned_file(f->other) : NULL;
  if (!c->config && find_config(c, paths[0], error) && !(other && mr3d_bundle_get(other, "config"))) return error->status;
  if (!c->config) c->config = strdup(mr3d_bundle_get(other, "config"));
  *error = (mr3d_error){0};
  options->config = c->config;
  if (find_tier(c, c->trace, paths[0], &options->tier, error)) return error->status;
  options->weights = c->weights ? c->weights : mr3d_bundle_get(c->trace, "weights");
  return mr3d_promises_read(c->keeps ? c->keeps : "", &options->kept, error);
}

/** Different inputs first, and the symptoms of the trace. */
static void look_around(files *f, const drift_command *c, mr3d_weights *weights) {
  const mr3d_inputs_side subject = {.trace = f->subject}, reference = {.trace = f->other, .config = c->config_path || !f->other ? c->config : NULL, .weights = weights};
  mr3d_findings_gather(&f->findings, &subject, &reference);
  gather_remarks(f);
}

static int report_files(const drift_command *c, const files *f, const mr3d_drift_run *drift, const char *reference) {
  const mr3d_drift_subject subject = {.name = mr3d_aligned_label(f->subject), .producer = mr3d_bundle_get(c->trace, "producer"), .reference = reference, .n_remarks = f->n_remarks, .remarks = f->remarks,
                                      .findings = &f->findings};
  return report(c, drift, &subject);
}

static int drift_file(drift_command *c, files *f, mr3d_drift_options *options) {
  mr3d_error error = {0};
  mr3d_drift_run *drift = NULL;
  if (!options->weights)
    return mr3d_complain("%s does not say with which weights it was computed (metadata weights); give --weights PATH, a checkpoint or generated:SEED", mr3d_aligned_label(f->subject));
  mr3d_status status = mr3d_drift_new(options, &drift, &error);
  if (!status) look_around(f, c, mr3d_drift_weights(drift));
  const mr3d_drift_source source = {f->subject, mr3d_aligned_find};
  if (!status) status = take_trace(drift, &source, mr3d_aligned_steps(f->subject), &error);
  const int exit_status = status ? mr3d_complain("%s", error.message) : report_files(c, f, drift, options->weights);
  mr3d_drift_free(&drift);
  return exit_status;
}

/** Replays layers of a trace on what it has there itself; *all: what became of them, NULL where there are none. */
static mr3d_status replay_layers(mr3d_aligned *trace, const mr3d_drift_options *options, int n, const int64_t *layers, mr3d_drift_run **all, mr3d_error *error) {
  const mr3d_drift_source source = {trace, mr3d_aligned_find};
  mr3d_status status = MR3D_OK;
  for (int i = 0; i < n && !status; i++) {
    mr3d_drift_options only = *options;
    mr3d_drift_run *local = NULL;
    only.only_layers = true;
    only.first_layer = layers[i] < 0 ? 0 : layers[i];
    only.last_layer = layers[i];
    status = mr3d_drift_new(&only, &local, error);
    if (!status) status = take_trace(local, &source, mr3d_aligned_steps(trace), error);
    if (!status && *all) mr3d_drift_adopt(*all, local);
    else if (!status) *all = local, local = NULL;
    mr3d_drift_free(&local);
  }
  return status;
}

/** Where two traces part, each is replayed on its own inputs: which of them is at fault. */
static mr3d_status replay_suspicious(mr3d_drift_run *drift, const drift_command *c, const files *f, const mr3d_drift_options *options, mr3d_error *error) {
  int64_t layers[MOST_SUSPICIOUS];
  const int n = mr3d_drift_suspicious_layers(drift, layers, MOST_SUSPICIOUS);
  const mr3d_bundle *other = mr3d_aligned_file(f->other);
  mr3d_drift_options of_other = *options;
  mr3d_drift_run *replayed = NULL;
  mr3d_status status = MR3D_OK;
  if (options->weights) status = replay_layers(f->subject, options, n, layers, &replayed, error);
  if (!status && replayed) mr3d_drift_adopt(drift, replayed);
  mr3d_drift_free(&replayed);
  of_other.weights = c->weights ? c->weights : mr3d_bundle_get(other, "weights") ? mr3d_bundle_get(other, "weights") : options->weights;
  mr3d_error no_tier = {0};
  if (find_tier(c, other, "", &of_other.tier, &no_tier)) of_other.tier = options->tier;
  if (!status && of_other.weights) status = replay_layers(f->other, &of_other, n, layers, &replayed, error);
  if (!status && replayed) mr3d_drift_keep_other(drift, &replayed);
  mr3d_drift_free(&replayed);
  return status;
}

static int drift_two(drift_command *c, files *f, mr3d_drift_options *options) {
  mr3d_error error = {0};
  mr3d_drift_run *drift = NULL;
  mr3d_drift_options compared = *options;
  compared.weights = NULL;
  mr3d_status status = mr3d_drift_new(&compared, &drift, &error);
  if (!status) {
    look_around(f, c, NULL);
    const mr3d_drift_source subject = {f->subject, mr3d_aligned_find}, other = {f->other, mr3d_aligned_find};
    const int64_t steps = mr3d_aligned_steps(f->subject), there = mr3d_aligned_steps(f->other);
    mr3d_drift_compare(drift, &subject, &other, steps < there ? steps : there);
    if (mr3d_drift_records(drift) == 0) status = mr3d_fail(&error, MR3D_INVALID, "%s and %s have no point in common", mr3d_aligned_label(f->subject), mr3d_aligned_label(f->other));
  }
  if (!status) status = replay_suspicious(drift, c, f, options, &error);
  const int exit_status = status ? mr3d_complain("%s", error.message) : report_files(c, f, drift, mr3d_aligned_label(f->other));
  mr3d_drift_free(&drift);
  return exit_status;
}

static int drift_files(drift_command *c, char **paths, int n) {
  mr3d_error error = {0};
  files *f = mr3d_allocate(1, sizeof *f);
  mr3d_drift_options options = {.runs = (int)c->runs, .threads = (int)c->threads, .stop_at_fault = c->first_fault, .no_diagnosis = c->no_diagnosis,
                                .init_missing = c->init_missing.given ? &c->init_missing.seed : NULL};
  const mr3d_status status = open_files(c, paths, n, f, &options, &error);
  const int exit_status = status ? mr3d_complain("%s", error.message) : n > 1 ? drift_two(c, f, &options) : drift_file(c, f, &options);
  mr3d_findings_clear(&f->findings);
  mr3d_align_free(&f->subject);
  mr3d_align_free(&f->other);
  free(f);
  return exit_status;
}

/* ---- a running backend ---- */

static int drift_backend(drift_command *c) {
  mr3d_error error = {0};
  mr3d_drift_run *drift = NULL;
  mr3d_drift_subject subject;
  mr3d_run *r = &c->run;
  mr3d_drift_options options = {.runs = (int)c->runs, .threads = (int)c->threads, .stop_at_fault = true, .no_diagnosis = c->no_diagnosis, .weights = c->weights,
                                .init_missing = c->init_missing.given ? &c->init_missing.seed : NULL};
  if (!c->weights) return mr3d_complain("--backend needs --weights PATH: a safetensors file, or generated:SEED with --config FILE.json");
  if (!r->scan != !r->prompt) return mr3d_complain("--scan and --prompt go together; without both, tokens are drawn by --seed");
  r->weights = c->weights;
  r->config_path = c->config_path;
  r->init_missing = c->init_missing;
  r->data = mr3d_find_data(r->data);
  r->json = true; /* says nothing */
  r->said = cJSON_CreateObject();
  mr3d_status status = find_config(c, NULL, &error);
  if (!status) status = mr3d_config_parse(c->config, &r->config, &error);
  if (!status) status = find_tier(c, NULL, c->ask.backend, &options.tier, &error);
  options.config = c->config;
  if (!status) status = mr3d_promises_read(c->keeps ? c->keeps : "", &options.kept, &error);
  if (!status && r->scan) status = mr3d_run_read_inputs(r, &error);
  c->ask.run = r;
  if (!status) status = mr3d_drift_ask_all(&c->ask, &options, &drift, &subject, &error);
  const int exit_status = status ? mr3d_complain("%s", error.message) : report(c, drift, &subject);
  mr3d_drift_free(&drift);
  mr3d_drift_ask_end();
  mr3d_run_clear(r);
  return exit_status;
}

int mr3d_command_drift(int argc, char **argv) {
  drift_command c = {.runs = USUAL_RUNS, .ask = {.text = 31, .points = 64, .memory = 256}, .run = {.steps = 2, .context = {.op = &mr3d_reference_operators}}};
  const mr3d_option options[] = {
      {"--weights", "PATH", MR3D_OPTION_TEXT, &c.weights, "a checkpoint's folder, its index, a safetensors file, or generated:SEED (default: what the trace says)"},
      {"--config", "FILE.json", MR3D_OPTION_TEXT, &c.config_path, "configuration (default: config.json in the weights' folder, else what the trace says)"},
      {"--map", "FILE.json", MR3D_OPTION_TEXT, &c.map, "other names of the trace's points (docs/traces.md, \"Names and layouts of your own\")"},
      {"--init-missing", "SEED", MR3D_OPTION_GIVEN_SEED, &c.init_missing, "draw the learned rotary parameters that the checkpoint lacks, as mr3d run does"},
      {"--tier", "TIER", MR3D_OPTION_TIERS, &c.tiers, "the arithmetic that is claimed (default: what the trace says)"},
      {"--keeps", "LIST", MR3D_OPTION_TEXT, &c.keeps, "judge by these promises: scores, probabilities, products (docs/protocol.md)"},
      {"--runs", "N", MR3D_OPTION_COUNT, &c.runs, "emulated runs that total errors are measured in (default 4); 0: local errors only, and much faster"},
      {"--first-fault", NULL, MR3D_OPTION_FLAG, &c.first_fault, "end behind the layer of the first fault"},
      {"--no-diagnosis", NULL, MR3D_OPTION_FLAG, &c.no_diagnosis, "do not look for the mistake"},
      {"--backend", "SPEC", MR3D_OPTION_TEXT, &c.ask.backend, "ask a running backend for its trace, a range of layers at a time, and stop at the first fault"},
      {"--scan", "FILE.ply", MR3D_OPTION_TEXT, &c.run.scan, "with --backend: the raw scan"},
      {"--prompt", "NAME", MR3D_OPTION_TEXT, &c.run.prompt, "with --backend: prompt of the data folder's prompt_ids.json, or FILE.json:NAME"},
      {"--data", "DIR", MR3D_OPTION_TEXT, &c.run.data, "the data folder (default: $MR3D_DATA)"},
      {"--features", "FILE", MR3D_OPTION_TEXT, &c.run.features_path, "with --backend: safetensors holding `features` [tokens,hidden]; without it they are drawn by --seed"},
      {"--text", "N", MR3D_OPTION_COUNT, &c.ask.text, "with --backend and no scan: text tokens, drawn by --seed (default 31)"},
      {"--point-tokens", "N", MR3D_OPTION_COUNT, &c.ask.points, "with --backend and no scan: point tokens (default 64)"},
      {"--seed", "N", MR3D_OPTION_SEED, &c.run.seed, "for what is drawn (default 0)"},
      {"--steps", "N", MR3D_OPTION_COUNT, &c.run.steps, "with --backend: decode steps (default 2)"},
      {"--memory", "MIB", MR3D_OPTION_COUNT, &c.ask.memory, "with --backend: of points in one answer (default 256)"},
      {"--timeout", "SECONDS", MR3D_OPTION_SECONDS, &c.ask.timeout, "with --backend: for one request (default: none)"},
      {"--json", "FILE", MR3D_OPTION_TEXT, &c.json, "write everything as JSON (docs/drift.schema.json)"},
      {"--html", "FILE", MR3D_OPTION_TEXT, &c.html, "write one page with heat maps, histograms and the scene"},
      {"--threads", "N", MR3D_OPTION_COUNT, &c.threads, "for the reference (default: all processors)"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {
      "mr3d drift TRACE [--weights PATH] [OPTION ...]\n       mr3d drift TRACE OTHER_TRACE [OPTION ...]\n       mr3d drift --backend SPEC --weights PATH --tier TIER [OPTION ...]",
      "Says where the numbers of a trace first part from the reference's, whether that point is itself at fault or only inherits, and which mistake it\n"
      "looks like. Each operator is replayed on the subject's own inputs, so a fault is found whatever came before it.\n\n"
      "Exit status: 0 rounding, 2 a fault, other inputs or unexplained, 1 could not judge.\n",
      0, 2, NULL};
  int n = 0;
  int status = mr3d_options_parse(&usage, options, argc, argv, &n);
  if (status >= 0) return status;
  if (c.runs > 8) return mr3d_complain("--runs %lld: at most 8 are of use", (long long)c.runs);
  if (c.threads > 1024) c.threads = 1024;
  if (c.ask.backend && n) return mr3d_complain("either a trace or --backend: what is %s?", argv[0]);
  if (!c.ask.backend && !n) return mr3d_complain("a trace is needed, for instance: mr3d drift mine.safetensors --weights checkpoint/, or --backend SPEC\nUsage: %s", usage.line);
  status = c.ask.backend ? drift_backend(&c) : drift_files(&c, argv, n);
  free(c.config);
  return status;
}
