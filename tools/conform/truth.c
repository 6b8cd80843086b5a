/** Truth about a case at one tier: the reference server and, on demand, the emulated servers of its yardstick. */
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_procs() 1
#endif
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "judge_internal.h"
#include "judge_limits.h"
#include "widened_request.h"

#define WORTH_KEEPING 0.05 /* seconds of processor time for a run: reading a file costs less */

const char *mr3d_truth_op(const mr3d_truth *truth) {
  const char *op = truth->n_steps > 0 ? mr3d_bundle_get(truth->requests[truth->n_steps - 1], "op") : NULL;
  return op ? op : "";
}

/** Composed operators are judged by the yardstick; the others have an error scale. */
bool mr3d_op_is_composed(const char *op) {
  static const char *const composed[] = {"attention_block", "decoder_layer", "prefill", "decode", "drop_session", "encode_points"};
  for (size_t i = 0; i < sizeof composed / sizeof *composed; i++)
    if (op && strcmp(op, composed[i]) == 0) return true;
  return false;
}

static mr3d_server *new_server(const mr3d_truth *truth, bool with_scale) {
  mr3d_server_options options = {
      .operators = truth->operators, .threads = truth->threads, .weights = truth->weights, .kept = truth->kept, .with_scale = with_scale};
  return mr3d_server_new(&options);
}

mr3d_truth *mr3d_truth_new(mr3d_tier tier, const mr3d_operators *operators, mr3d_weights_cache *weights, int threads) {
  mr3d_truth *truth = mr3d_allocate(1, sizeof *truth);
  truth->tier = tier;
  truth->operators = operators;
  truth->weights = weights;
  truth->threads = threads;
  truth->plain = new_server(truth, false);
  truth->server = new_server(truth, true);
  return truth;
}

void mr3d_truth_promise(mr3d_truth *truth, uint32_t kept) {
  mr3d_server_free(&truth->server);
  truth->kept = kept;
  truth->server = new_server(truth, true);
}

void mr3d_truth_keep_runs(mr3d_truth *truth, mr3d_yardstick_cache *cache) {
  truth->cache = cache;
  memcpy(truth->line.digest, &truth->kept, sizeof truth->kept); /* other promises, other runs */
  truth->has_line = cache != NULL;
}

void mr3d_truth_spare_runs(mr3d_truth *truth) { truth->spare_runs = true; }

void mr3d_truth_free(mr3d_truth **truth_pointer) {
  mr3d_truth *truth = *truth_pointer;
  if (!truth) return;
  for (int r = 0; r < MR3D_MANY_RUNS; r++) {
    mr3d_bundle_free(&truth->runs[r].errors);
    if (truth->runs[r].server) mr3d_server_free(&truth->runs[r].server);
  }
  for (int s = 0; s < truth->n_steps; s++) {
    mr3d_bundle_free(&truth->answers[s]);
    mr3d_bundle_free(&truth->widened[s]);
  }
  mr3d_bundle_free(&truth->scaled);
  mr3d_kept_squares_free(&truth->squares);
  free(truth->answers);
  free(truth->widened);
  free(truth->requests);
  mr3d_server_free(&truth->plain);
  mr3d_server_free(&truth->server);
  free(truth);
  *truth_pointer = NULL;
}

/** The array with room for one more element. */
static void *grown(void *array, int n, size_t size) {
  void *larger = mr3d_allocate(n + 1, size);
  if (n > 0) memcpy(larger, array, (size_t)n * size);
  free(array);
  return larger;
}

double mr3d_processor_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

mr3d_status mr3d_truth_step(mr3d_truth *truth, const mr3d_bundle *request, const mr3d_bundle **answer, mr3d_error *error) {
  mr3d_bundle *fresh = NULL;
  mr3d_server *server = mr3d_op_is_composed(mr3d_bundle_get(request, "op")) ? truth->server : truth->plain;
  double start = mr3d_processor_seconds();
  mr3d_status status = mr3d_server_answer(server, request, &fresh, error);
  truth->seconds += mr3d_processor_seconds() - start;
  if (status != MR3D_OK) return status; /* a refused request changes nothing, so the emulated servers need not see it */
  mr3d_bundle_free(&truth->scaled);
  for (int r = 0; r < MR3D_MANY_RUNS; r++) mr3d_bundle_free(&truth->runs[r].errors);
  int n = truth->n_steps++;
  truth->requests = grown(truth->requests, n, sizeof *truth->requests);
  truth->answers = grown(truth->answers, n, sizeof *truth->answers);
  truth->widened = grown(truth->widened, n, sizeof *truth->widened);
  truth->requests[n] = request;
  truth->answers[n] = fresh;
  truth->has_line = truth->has_line && mr3d_op_is_composed(mr3d_bundle_get(request, "op")) && mr3d_request_line_add(&truth->line, truth->cache, truth->tier, request);
  *answer = fresh;
  return MR3D_OK;
}

const mr3d_bundle *mr3d_truth_scaled(mr3d_truth *truth) {
  int latest = truth->n_steps - 1;
  if (mr3d_op_is_composed(mr3d_truth_op(truth))) return truth->answers[latest];
  mr3d_error error = {0};
  if (!truth->scaled && mr3d_server_answer(truth->server, truth->requests[latest], &truth->scaled, &error) != MR3D_OK)
    return truth->answers[latest]; /* without scales, which the judge then reports */
  return truth->scaled;
}

/** answer - reference of every floating output as binary32; what isn't finite stays so and marks the run unusable. */
static mr3d_bundle *errors_of(const mr3d_bundle *reference, const mr3d_bundle *answer) {
  mr3d_bundle *errors = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_count(reference); i++) {
    const mr3d_tensor *expected = mr3d_bundle_at(reference, i);
    const mr3d_tensor *got = mr3d_bundle_find(answer, expected->name);
    if (!got || expected->dtype != MR3D_F64 || got->dtype != MR3D_F64 || strchr(expected->name, ':')) continue;
    const double *a = got->data, *b = expected->data;
    float *error = mr3d_bundle_add_unset(errors, expected->name, MR3D_F32, expected->rank, expected->shape)->data;
    for (int64_t j = 0; j < mr3d_tensor_count(expected); j++) error[j] = (float)(a[j] - b[j]);
  }
  return errors;
}

static mr3d_server *emulated_server(const mr3d_truth *truth, int run, int threads) {
  /* Half of the runs share one threshold among all tokens: equal tokens round equally in real stacks. */
  mr3d_server_options options = {.operators = truth->operators,
                                 .arithmetic = mr3d_arithmetic_of(truth->tier, MR3D_STOCHASTIC, run % 2 == 1, (uint64_t)run + 1),
                                 .emulate = true,
                                 .threads = threads,
                                 .weights = truth->weights,
                                 .squares = truth->squares,
                                 .finite = true}; /* the reference has answered */
  if (options.arithmetic.units.narrow) options.arithmetic.points &= ~truth->kept; /* elsewhere storage and accumulator are one */
  return mr3d_server_new(&options);
}

/** Brings a run to the latest step, through those that it has not seen, and keeps its errors there. */
static void catch_up(const mr3d_truth *truth, mr3d_emulated *run) {
  int latest = truth->n_steps - 1;
  for (; run->done <= latest; run->done++) {
    mr3d_bundle *answer = NULL;
    mr3d_error error = {0};
    mr3d_status status = mr3d_server_answer(run->server, truth->widened[run->done], &answer, &error);
    if (run->done == latest && status == MR3D_OK) run->errors = errors_of(truth->answers[latest], answer);
    mr3d_bundle_free(&answer);
  }
}

const float *mr3d_emulated_errors(const mr3d_emulated *run, const mr3d_tensor *expected) {
  const mr3d_tensor *errors = run->errors ? mr3d_bundle_find(run->errors, expected->name) : NULL;
  bool fits = errors && errors->dtype == MR3D_F32 && mr3d_tensor_count(errors) == mr3d_tensor_count(expected);
  return fits ? errors->data : NULL;
}

/**
 * Widens the requests so far, once for all runs; those of a weights file stay, for it is read or drawn by the tier that they name. Returns whether there
 * are none of them: then runs have nothing in common that they write.
 */
static bool widen_requests(mr3d_truth *truth) {
  bool all = true;
  for (int s = 0; s < truth->n_steps; s++) {
    const bool stays = mr3d_bundle_get(truth->requests[s], "weights") || mr3d_bundle_get(truth->requests[s], "session");
    if (!truth->widened[s]) truth->widened[s] = mr3d_widened_request(truth->requests[s], !stays);
    all = all && !stays;
  }
  return all;
}

static void make_run(const mr3d_truth *truth, mr3d_emulated *run, int number, int threads) {
  if (!run->server) run->server = emulated_server(truth, number, threads);
  catch_up(truth, run);
}

/** The first run goes ahead for what the others take from it, though its errors may have been found. */
static void share_squares(mr3d_truth *truth, int threads) {
  truth->squares = mr3d_kept_squares_new();
  mr3d_bundle_free(&truth->runs[0].errors);
  make_run(truth, &truth->runs[0], 0, threads);
  mr3d_kept_squares_complete(truth->squares);
}

void mr3d_truth_emulate(mr3d_truth *truth, int n_runs) {
  const bool cached = truth->has_line && !truth->operators;
  int due[MR3D_MANY_RUNS], n_due = 0;
  for (int r = 0; r < n_runs; r++) {
    mr3d_emulated *run = &truth->runs[r];
    if (!run->errors && cached) run->errors = mr3d_yardstick_cache_find(truth->cache, &truth->line, r);
    if (!run->errors) due[n_due++] = r;
  }
  if (n_due == 0) return;

  const int threads = truth->threads > 0 ? truth->threads : omp_get_num_procs();
  const bool apart = widen_requests(truth) && !truth->operators;
  const double start = mr3d_processor_seconds();
  if (apart && truth->n_steps == 1 && !truth->squares && !mr3d_tier_units(truth->tier).narrow) share_squares(truth, threads);
  /* A thread for each run leaves none waiting for another's serial parts. Runs that are no thread's share are made by all threads, one after another; so are
     all runs where there are many threads, for each run made side by side needs memory of its own. */
  int next = truth->runs[due[0]].errors ? 1 : 0;
  const int side_by_side = apart && threads <= MR3D_FEW_RUNS ? (n_due - next) / threads * threads : 0;
  for (; next < n_due - side_by_side; next++) make_run(truth, &truth->runs[due[next]], due[next], threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (side_by_side > 0)
  for (int i = next; i < n_due; i++) make_run(truth, &truth->runs[due[i]], due[i], 1);
  const double seconds = (mr3d_processor_seconds() - start) / n_due;
  for (int i = 0; i < n_due; i++) {
    mr3d_emulated *run = &truth->runs[due[i]];
    run->seconds += seconds;
    if (run->errors && cached && run->seconds > WORTH_KEEPING) mr3d_yardstick_cache_keep(truth->cache, &truth->line, due[i], run->errors);
  }
}
