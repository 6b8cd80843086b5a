/** mr3d compare: answer files under the judge, without a backend (docs/cli.md, "compare"). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "promises.h"
#include "mr3d/safetensors.h"
#include "report.h"
#include "words.h"

/** What is compared: pairs of files, answered by the truth in order in one session table. */
struct comparison {
  int n;
  char **paths; /**< [2 n]: request, answer, request, answer ... */
  mr3d_bundle **requests;
  mr3d_run run; /**< a result of one step for each pair */
  mr3d_lessons lessons;
  mr3d_tier tier, asked; /**< judged at; --tier, or MR3D_N_TIERS */
  const char *ops;
  int threads;
  uint32_t kept;
  mr3d_truth *truth;
  mr3d_weights_cache *weights;
};

static mr3d_tier tier_of(const mr3d_bundle *request) {
  const char *name = mr3d_bundle_get(request, "tier");
  return name ? mr3d_tier_named(name) : MR3D_N_TIERS;
}

/* ---- the files ---- */

/** Whether there is a reference to compare with: a file may ask anything. */
static mr3d_status check_op(const struct comparison *c, const char *path, const char *op, mr3d_error *error) {
  const char *const *known = mr3d_server_ops();
  if (!op) return mr3d_fail(error, MR3D_INVALID, "%s: metadata \"op\" is missing, so it asks nothing", path);
  if (!mr3d_word_selected(c->ops, op))
    return mr3d_fail(error, MR3D_INVALID, "%s: the request asks %.60s, not %.200s", path, op, c->ops);
  while (*known && strcmp(*known, op) != 0) known++;
  if (!*known)
    return mr3d_fail(error, MR3D_INVALID, "%s: the request asks %.60s, which the reference does not answer; `mr3d list ops` shows what it does",
                     path, op);
  return MR3D_OK;
}

static mr3d_status read_request(const struct comparison *c, const char *path, mr3d_bundle **request, mr3d_error *error) {
  if (mr3d_safetensors_open(path, 0, request, error) != MR3D_OK) return error->status;
  const char *type = mr3d_bundle_get(*request, "type"), *weights = mr3d_bundle_get(*request, "weights");
  if (type && strcmp(type, "request") != 0)
    return mr3d_fail(error, MR3D_INVALID, "%s: metadata \"type\" is \"%.60s\", expected \"request\"", path, type);
  if (check_op(c, path, mr3d_bundle_get(*request, "op"), error) != MR3D_OK) return error->status;
  if (weights && strncmp(weights, "generated:", 10) != 0 && access(weights, R_OK) != 0)
    return mr3d_fail(error, MR3D_IO, "%s: its weights cannot be read, so there is no truth to compare with: %.600s", path, weights);
  return MR3D_OK;
}

/** The reply that an answer file stands for. */
static mr3d_status read_answer(const char *path, const mr3d_bundle *request, mr3d_reply *reply, mr3d_error *error) {
  if (mr3d_safetensors_open(path, 0, &reply->answer, error) != MR3D_OK) return error->status;
  const char *type = mr3d_bundle_get(reply->answer, "type"), *message = mr3d_bundle_get(reply->answer, "message");
  const char *id = mr3d_bundle_get(reply->answer, "id"), *asked = mr3d_bundle_get(request, "id");
  int kind = MR3D_REPLY_ANSWER;
  while (type && kind <= MR3D_REPLY_MALFORMED && strcmp(type, mr3d_reply_name((mr3d_reply_kind)kind)) != 0) kind++;
  if (kind > MR3D_REPLY_MALFORMED)
    return mr3d_fail(error, MR3D_INVALID, "%s: metadata \"type\" is \"%.60s\", expected answer, error or unsupported", path, type);
  if (id && asked && strcmp(id, asked) != 0)
    return mr3d_fail(error, MR3D_INVALID, "%s: it answers the request with id \"%.60s\", not the one with id \"%.60s\"", path, id, asked);
  reply->kind = (mr3d_reply_kind)kind;
  snprintf(reply->message, sizeof reply->message, "%s", message ? message : "");
  if (reply->kind != MR3D_REPLY_ANSWER) mr3d_bundle_free(&reply->answer);
  return MR3D_OK;
}

/** All files, before anything is computed. The tier is that of the first request that has one. */
static mr3d_status read_pairs(struct comparison *c, mr3d_error *error) {
  c->tier = c->asked;
  for (int i = 0; i < c->n; i++) {
    mr3d_step_result *step = c->run.results[i].steps;
    if (read_request(c, c->paths[2 * i], &c->requests[i], error) != MR3D_OK) return error->status;
    if (read_answer(c->paths[2 * i + 1], c->requests[i], &step->reply, error) != MR3D_OK) return error->status;
    step->op = mr3d_bundle_get(c->requests[i], "op");
    step->asked = true;
    if (c->tier == MR3D_N_TIERS) c->tier = tier_of(c->requests[i]);
  }
  if (c->tier == MR3D_N_TIERS) c->tier = MR3D_FP64; /* no request has one, which the reference refuses */
  return MR3D_OK;
}

/* ---- the judgement ---- */

/** The reference on one request; whether it answers. Errors: there is no truth to compare with at this tier. */
static mr3d_status step_truth(struct comparison *c, int i, mr3d_error *refusal, bool *answered, mr3d_error *error) {
  const char *path = c->paths[2 * i];
  const mr3d_bundle *answer = NULL;
  mr3d_tier own = tier_of(c->requests[i]);
  if (c->asked != MR3D_N_TIERS) mr3d_bundle_set(c->requests[i], "tier", mr3d_tier_name(c->asked));
  mr3d_status status = mr3d_truth_step(c->truth, c->requests[i], &answer, refusal);
  *answered = status == MR3D_OK;
  if (status == MR3D_UNSUPPORTED || status == MR3D_IO)
    return mr3d_fail(error, status, "%s: the reference cannot answer it: %.800s", path, refusal->message);
  bool other = c->asked != MR3D_N_TIERS && own != MR3D_N_TIERS && mr3d_tier_storage(own) != mr3d_tier_storage(c->asked);
  if (!*answered && other)
    return mr3d_fail(error, MR3D_INVALID, "%s: the request is at %s, and at --tier %s the reference refuses it: %.700s", path,
                     mr3d_tier_name(own), mr3d_tier_name(c->asked), refusal->message);
  if (*answered && tier_of(c->requests[i]) != c->tier)
    return mr3d_fail(error, MR3D_INVALID, "%s: the request is at %s, the first at %s; compare the tiers one by one", path,
                     mr3d_tier_name(own), mr3d_tier_name(c->tier));
  return MR3D_OK;
}

static mr3d_status compare_pair(struct comparison *c, int i, mr3d_error *error) {
  mr3d_result *result = &c->run.results[i];
  mr3d_error refusal = {0};
  bool answered = false;
  if (step_truth(c, i, &refusal, &answered, error) != MR3D_OK) return error->status;
  result->tier = c->tier;
  result->verdict = mr3d_judge_reply(c->truth, answered ? NULL : &refusal, i, 0, result, result->steps);
  if (result->verdict == MR3D_FAILED)
    mr3d_diagnose(&c->lessons, result, c->truth, i + 1, c->requests, &result->steps->reply, c->weights, c->threads);
  int *const counts[] = {&c->run.passed, &c->run.failed, &c->run.skipped, &c->run.broken}; /* in the order of mr3d_verdict */
  ++*counts[result->verdict];
  return MR3D_OK;
}

static mr3d_status compare_all(struct comparison *c, mr3d_error *error) {
  if (read_pairs(c, error) != MR3D_OK) return error->status;
  c->weights = mr3d_weights_cache_new();
  c->truth = mr3d_truth_new(c->tier, NULL, c->weights, c->threads);
  mr3d_truth_promise(c->truth, c->kept);
  for (int i = 0; i < c->n; i++) if (compare_pair(c, i, error) != MR3D_OK) return error->status;
  mr3d_diagnose_settle(&c->run, &c->lessons);
  return MR3D_OK;
}

static void open_comparison(struct comparison *c, int n, char **paths) {
  c->n = c->run.n_results = n;
  c->paths = paths;
  c->requests = mr3d_allocate(n, sizeof *c->requests);
  c->run.results = mr3d_allocate(n, sizeof *c->run.results);
  for (int i = 0; i < n; i++) c->run.results[i] = (mr3d_result){.n_steps = 1, .steps = mr3d_allocate(1, sizeof(mr3d_step_result))};
}

static void close_comparison(struct comparison *c) {
  mr3d_truth_free(&c->truth); /* borrows the requests, so first */
  for (int i = 0; i < c->n; i++) {
    mr3d_step_result *step = c->run.results[i].steps;
    mr3d_reply_clear(&step->reply);
    mr3d_judgement_clear(&step->judgement);
    mr3d_bundle_free(&c->requests[i]);
    free(step);
  }
  free(c->requests);
  free(c->run.results);
  mr3d_weights_cache_free(&c->weights);
}

/** 0 all within tolerance, 2 something not, 1 something not compared. */
static int exit_status(const mr3d_run *run) { return run->failed ? 2 : run->passed < run->n_results ? 1 : 0; }

/* ---- what is printed ---- */

static void print_clean(const char *before, const char *text, const char *behind) {
  char *clean = mr3d_clean_text(text);
  printf("%s%s%s", before, clean, behind);
  free(clean);
}

static void print_tensor(const mr3d_tensor_verdict *v) {
  bool measured = false;
  print_clean("  ", v->name, v->passed ? ": within tolerance" : ": NOT within tolerance");
  printf(", %lld elements\n", (long long)v->elements);
  if (v->problem[0]) print_clean("    ", v->problem, "\n");
  for (int i = 0; i < v->n_statistics; i++) {
    const mr3d_statistic *s = &v->statistics[i];
    printf("    %-12s %-10.4g limit %-10.4g%s\n", s->rule, s->value, s->limit, !s->tested ? " not tested" : s->passed ? "" : " BROKEN");
    measured = measured || strcmp(s->rule, "exact") != 0;
  }
  if (v->index[0])
    printf("    worst element %s: got %.17g, expected %.17g, bound %.3g\n", v->index, v->got, v->expected, v->bound);
  if (measured)
    printf("    relative L2 %.3g, of the worst slice %.3g; ulps p50 %.3g, p99 %.3g, max %.3g\n", v->relative_l2, v->worst_slice_relative_l2,
           v->ulp_p50, v->ulp_p99, v->ulp_max);
  if (measured && !isnan(v->top5_overlap))
    printf("    of the five favourites %.3g %% are shared\n", 100 * v->top5_overlap);
}

static void print_pair(const struct comparison *c, int i) {
  const mr3d_result *result = &c->run.results[i];
  const mr3d_step_result *step = result->steps;
  print_clean("", c->paths[2 * i + 1], " against ");
  print_clean("", c->paths[2 * i], ": ");
  print_clean("", step->op, "");
  printf(" at %s: %s\n", mr3d_tier_name(result->tier), result->verdict == MR3D_SKIPPED ? "not compared" : mr3d_verdict_name(result->verdict));
  if (result->reason[0]) print_clean("  ", result->reason, "\n");
  if (result->diagnosis[0]) print_clean("  ", result->diagnosis, "\n");
  for (int t = 0; t < step->judgement.n_tensors; t++) print_tensor(&step->judgement.tensors[t]);
  if (result->verdict == MR3D_PASSED && step->reply.kind == MR3D_REPLY_ERROR) printf("  refused, as the reference refuses it\n");
  printf("\n");
}

static void print_comparison(const struct comparison *c) {
  const mr3d_run *run = &c->run;
  static const char *const words[] = {"WITHIN TOLERANCE", "NOT COMPARED", "NOT WITHIN TOLERANCE"};
  for (int i = 0; i < c->n; i++) print_pair(c, i);
  printf("%s: ", words[exit_status(run)]);
  if (run->passed + run->failed == 0) printf("nothing was compared\n");
  else printf("%d of %d passed, %d failed, %d not compared\n", run->passed, c->n, run->failed, run->skipped);
}

/** The tier that --tier names, by the bits of the list; fails when it names several. */
static int only_tier(uint32_t tiers, mr3d_tier *tier) {
  *tier = MR3D_N_TIERS;
  for (int t = 0; t < MR3D_N_TIERS; t++) {
    if (!(tiers >> t & 1)) continue;
    if (*tier != MR3D_N_TIERS) return mr3d_complain("--tier: files are compared at one tier");
    *tier = (mr3d_tier)t;
  }
  return 0;
}

int mr3d_command_compare(int argc, char **argv) {
  struct comparison c = {0};
  uint32_t tiers = 0;
  int64_t threads = 0;
  const char *json = NULL, *keeps = NULL;
  const mr3d_option table[] = {
      {"--tier", "TIER", MR3D_OPTION_TIERS, &tiers, "judge at another tier than the requests' own; their types must fit it"},
      {"--op", "LIST", MR3D_OPTION_TEXT, &c.ops, "the operators that the requests must ask, else it is an error"},
      {"--keeps", "LIST", MR3D_OPTION_TEXT, &keeps, "judge by these promises: scores, probabilities, products (docs/protocol.md)"},
      {"--json", "FILE", MR3D_OPTION_TEXT, &json, "write JSON lines (docs/report.schema.json)"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for the reference (default: all processors)"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {
      "mr3d compare REQUEST ANSWER [REQUEST ANSWER ...] [OPTION ...]",
      "Judges answer files as mr3d check judges a backend's answers (docs/protocol.md, \"Files\"). Several pairs are taken in order in one\n"
      "session table: a prefill, then its decodes. An answer file whose `type` is error is right where the reference refuses the request.\n\n"
      "Exit status: 0 within tolerance, 2 not, 1 could not compare.\n",
      2, -1, "files come in pairs, a request and its answer; for instance: mr3d compare 0.req.safetensors 0.ans.safetensors"};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  mr3d_error error = {0};
  if (n % 2 != 0) return mr3d_complain("%d files, so the last has no partner: %s\nUsage: %s", n, usage.needs, usage.line);
  if (only_tier(tiers, &c.asked) != 0) return 1;
  if (mr3d_promises_read(keeps ? keeps : "", &c.kept, &error) != MR3D_OK) return mr3d_complain("--keeps: %s", error.message);
  c.threads = (int)(threads > 1024 ? 1024 : threads);
  open_comparison(&c, n / 2, argv);
  if (compare_all(&c, &error) != MR3D_OK) status = mr3d_complain("%s", error.message);
  else {
    print_comparison(&c);
    status = exit_status(&c.run);
    if (json && mr3d_report_pairs_json(&c.run, argv, status, json, &error) != MR3D_OK) status = mr3d_complain("--json: %s", error.message);
  }
  close_comparison(&c);
  return status;
}
