/** Thinned answers: what is looked at has the bits of the whole answer, for every mutant. */
#include "posed.h"

#include "mutants.h"
#include "posing.h"
#include "thinning.h"
#include "trial.h"
#include "widened_request.h"

#define TOKENS 5

static mr3d_bundle *answer_of(const mr3d_mutant *mutant, mr3d_weights_cache *weights, const mr3d_bundle *request, mr3d_thinning *thinning, bool with_reference) {
  const mr3d_operators thin_reference = mr3d_thinning_operators(NULL, NULL), thin = mr3d_thinning_operators(mutant, NULL);
  mr3d_bundle *answer = NULL;
  if (with_reference) { /* later answers may take over its results */
    mr3d_mutant_server *first = mr3d_mutant_server_new(NULL, NULL, &(mr3d_server_options){.operators = &thin_reference, .threads = 1, .weights = weights});
    answer = mr3d_thinning_answer(thinning, first, NULL, NULL, request);
    mr3d_bundle_free(&answer);
    mr3d_mutant_server_free(&first);
  }
  const mr3d_server_options options = {.operators = thinning ? &thin : NULL, .threads = 1, .weights = weights};
  mr3d_mutant_server *server = mr3d_mutant_server_new(mutant, NULL, &options);
  mr3d_error refusal = {0};
  if (thinning) answer = mr3d_thinning_answer(thinning, server, mutant, NULL, request);
  else if (mr3d_mutant_server_answer(server, request, &answer, &refusal) != MR3D_OK) answer = NULL;
  mr3d_mutant_server_free(&server);
  return answer;
}

/** Compares rows of [B,q,n], counted from the end where there are fewer than q; how many differ. */
static int64_t rows_apart(const mr3d_bundle *a, const mr3d_bundle *b, const char *name, int64_t q, const mr3d_thinning *thinning) {
  const mr3d_tensor *x = mr3d_bundle_find(a, name), *y = mr3d_bundle_find(b, name);
  int64_t apart = 0;
  if (!x && !y) return 0;
  assert_true(x && y && mr3d_tensor_count(x) == mr3d_tensor_count(y));
  const int64_t n = x->shape[2], rows = x->shape[1];
  for (int64_t r = 0; r < x->shape[0] * rows; r++)
    if (mr3d_thinning_has(thinning, q - rows + r % rows))
      apart += memcmp((const double *)x->data + r * n, (const double *)y->data + r * n, (size_t)n * sizeof(double)) != 0;
  return apart;
}

/** How many mutants of the operator were compared. `no_further` as in mr3d_thinning_new. */
static int compare_all(const mr3d_bundle *request, const char *op, mr3d_weights_cache *weights, int64_t q, const int64_t tokens[TOKENS], bool no_further) {
  int compared = 0, beyond = 0, apart = 0;
  mr3d_thinning *thinning = mr3d_thinning_new(request, TOKENS, tokens, no_further);
  assert_true(mr3d_thinning_is_thin(thinning));
  for (int i = 0; i < mr3d_mutant_count(); i++) {
    const mr3d_mutant *m = mr3d_mutant_at(i);
    if (!mr3d_mutant_touches(m, op) || m->hangs) continue;
    mr3d_bundle *whole = answer_of(m, weights, request, NULL, false), *thin = answer_of(m, weights, request, thinning, compared == 0);
    if (mr3d_thinning_saw_beyond(thinning)) beyond++;
    else if (whole && thin) {
      if (rows_apart(whole, thin, "hidden", q, thinning) != 0) printf("%s, %s/%s: hidden differs\n", op, m->slug, m->name), apart++;
      if (!no_further && rows_apart(whole, thin, "logits", q, thinning) != 0) printf("%s, %s/%s: logits differ\n", op, m->slug, m->name), apart++;
      compared++;
    } else assert_true(!whole && !thin);
    mr3d_bundle_free(&whole);
    mr3d_bundle_free(&thin);
  }
  mr3d_thinning_free(&thinning);
  assert_int_equal(apart, 0);
  assert_true(no_further ? beyond > 0 && beyond < compared / 4 : beyond == 0);
  return compared;
}

static void a_layers_rows_are_those_of_the_whole_layer(void **state) {
  (void)state;
  mr3d_bundle *request = layer_request(MR3D_FP64, 3, 2, 80);
  assert_true(compare_all(request, "decoder_layer", NULL, 80, (int64_t[TOKENS]){0, 5, 30, 31, 79}, false) > 100);
  mr3d_bundle_free(&request);
}

static mr3d_posing posed;
static mr3d_suite *suite;
static mr3d_weights_cache *weights;
static char scratch[] = "/tmp/mr3d-thinning-XXXXXX";

static int pose_prefill(void **state) {
  (void)state;
  mr3d_error error = {0};
  assert_int_equal(mr3d_suite_open(getenv("MR3D_GOLDEN"), NULL, &suite, &error), MR3D_OK);
  assert_non_null(mkdtemp(scratch));
  weights = mr3d_weights_cache_new();
  mr3d_posing_open(&posed, suite, mr3d_suite_find(suite, "decode/position-300"), MR3D_FP64, 0, scratch, weights, 1);
  if (mr3d_posing_request(&posed, 0, &error) != MR3D_OK) fail_msg("%s", error.message);
  return 0;
}

static int drop_prefill(void **state) {
  (void)state;
  mr3d_posing_close(&posed);
  mr3d_weights_cache_free(&weights);
  mr3d_suite_close(&suite);
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", scratch);
  return system(command);
}

static void a_decoders_last_layer_is_thinned_alone(void **state) {
  (void)state;
  mr3d_bundle *request = mr3d_widened_request(posed.requests[0], true);
  assert_true(compare_all(request, "prefill", weights, 300, (int64_t[TOKENS]){0, 13, 150, 151, 299}, false) > 100);
  mr3d_bundle_free(&request);
}

static void the_first_tokens_need_no_later_ones_unless_the_mask_lets_them_look(void **state) {
  (void)state;
  mr3d_bundle *request = mr3d_widened_request(posed.requests[0], true);
  assert_true(compare_all(request, "prefill", weights, 300, (int64_t[TOKENS]){0, 13, 20, 40, 59}, true) > 100);
  mr3d_bundle_free(&request);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_layers_rows_are_those_of_the_whole_layer),
      cmocka_unit_test(a_decoders_last_layer_is_thinned_alone),
      cmocka_unit_test(the_first_tokens_need_no_later_ones_unless_the_mask_lets_them_look),
  };
  return cmocka_run_group_tests(tests, pose_prefill, drop_prefill);
}
