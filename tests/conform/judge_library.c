/** libmr3d-judge: a program that links nothing else of the suite judges an answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mr3d/judge.h"
#include "mr3d/random.h"

static mr3d_bundle *rmsnorm_request(const char *tier) {
  mr3d_bundle *r = mr3d_bundle_new();
  mr3d_bundle_set(r, "op", "rmsnorm");
  if (tier) mr3d_bundle_set(r, "tier", tier);
  mr3d_bundle_set(r, "config", "{\"rms_norm_eps\": 1e-6}");
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 1}, mr3d_stream_named(1, "x"), mr3d_bundle_add(r, "x", MR3D_F32, 3, (int64_t[]){1, 40, 64}));
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_UNIFORM, .lo = 0.5, .hi = 2, .scale = 1}, mr3d_stream_named(1, "weight"), mr3d_bundle_add(r, "weight", MR3D_F32, 1, (int64_t[]){64}));
  return r;
}

/** The reference's own answer in binary32, its outputs times `factor`. */
static mr3d_bundle *answer_times(const mr3d_bundle *request, float factor) {
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = 1});
  mr3d_bundle *exact = NULL, *answer = mr3d_bundle_new();
  mr3d_error error = {0};
  assert_int_equal(mr3d_server_answer(server, request, &exact, &error), MR3D_OK);
  const mr3d_tensor *y = mr3d_bundle_find(exact, "y");
  float *values = mr3d_bundle_add(answer, "y", MR3D_F32, y->rank, y->shape)->data;
  for (int64_t i = 0; i < mr3d_tensor_count(y); i++) values[i] = factor * (float)((const double *)y->data)[i];
  mr3d_bundle_free(&exact);
  mr3d_server_free(&server);
  return answer;
}

static void an_answer_is_judged_by_one_call(void **state) {
  (void)state;
  mr3d_bundle *request = rmsnorm_request("fp32");
  for (int wrong = 0; wrong < 2; wrong++) {
    mr3d_bundle *answer = answer_times(request, wrong ? 1.001f : 1);
    mr3d_judgement judgement = {0};
    mr3d_error error = {0};
    assert_int_equal(mr3d_judge_answer(request, answer, 0, 1, &judgement, &error), MR3D_OK);
    assert_int_equal(judgement.passed, !wrong);
    assert_int_equal(judgement.n_tensors, 1);
    assert_string_equal(judgement.tensors[0].name, "y");
    assert_int_equal(judgement.tensors[0].problem[0] != 0, wrong);
    mr3d_judgement_clear(&judgement);
    mr3d_bundle_free(&answer);
  }
  mr3d_bundle_free(&request);
}

static void a_request_that_is_refused_has_no_judgement(void **state) {
  (void)state;
  mr3d_bundle *nameless = rmsnorm_request(NULL), *other = rmsnorm_request("fp64"), *answer = mr3d_bundle_new();
  mr3d_judgement judgement = {0};
  mr3d_error error = {0};
  assert_int_equal(mr3d_judge_answer(nameless, answer, 0, 1, &judgement, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "metadata tier is missing"));
  assert_int_equal(mr3d_judge_answer(other, answer, 0, 1, &judgement, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "F32"));
  mr3d_bundle_free(&nameless), mr3d_bundle_free(&other), mr3d_bundle_free(&answer);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(an_answer_is_judged_by_one_call), cmocka_unit_test(a_request_that_is_refused_has_no_judgement)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
