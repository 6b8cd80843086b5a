/* builtin:reference and mutant:: in this process, through the same door as any other backend. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "backend.h"
#include "frames.h"
#include "mutants.h"

static mr3d_backend *open_backend(const char *spec) {
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  if (mr3d_backend_open(spec, &(mr3d_backend_options){.threads = 1}, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  return backend;
}

/* The mask of one decode step: 3 keys, 1 new token. */
static mr3d_reply ask_mask(mr3d_backend *backend, const char *op, const char *past_len, double timeout) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_bundle_set(request, "config", "{}");
  mr3d_bundle_set(request, "past_len", past_len);
  mr3d_bundle_set(request, "q_len", "1");
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, timeout, &reply);
  mr3d_bundle_free(&request);
  return reply;
}

static void the_reference_answers_and_refuses(void **state) {
  (void)state;
  mr3d_backend *backend = open_backend("builtin:reference");
  assert_string_equal(mr3d_backend_info_of(backend)->spec, "builtin:reference");
  assert_int_equal(mr3d_backend_info_of(backend)->n_tiers, MR3D_N_TIERS);
  mr3d_reply reply = ask_mask(backend, "mask", "2", 10);
  assert_int_equal(reply.kind, MR3D_REPLY_ANSWER);
  const mr3d_tensor *visible = mr3d_bundle_find(reply.answer, "visible");
  assert_int_equal(mr3d_tensor_count(visible), 3);
  assert_memory_equal(visible->data, "\1\1\1", 3);
  assert_string_equal(reply.log, "");
  mr3d_reply_clear(&reply);
  reply = ask_mask(backend, "mask", "-2", 10);
  assert_int_equal(reply.kind, MR3D_REPLY_ERROR);
  assert_non_null(strstr(reply.message, "past_len"));
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

static void refuses(const char *spec, const char *message) {
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_backend_open(spec, NULL, &backend, &error), MR3D_INVALID);
  if (!strstr(error.message, message)) fail_msg("expected \"%s\" in: %s", message, error.message);
}

static void an_unknown_mutant_is_refused_with_the_one_that_was_meant(void **state) {
  (void)state;
  refuses("mutant:something-else-entirely", "there is no mutant \"something-else-entirely\"; `mr3d list mutants`");
  refuses("mutant:mask-length/one-shot", "did you mean \"mask-length/one-short\"?");
  refuses("mutant:mask-length/one-short+something-else", "there is no mutant \"something-else\"");
}

static void two_mutants_combine_unless_they_replace_the_same_operator(void **state) {
  (void)state;
  refuses("mutant:mask-length/one-short+mask-length/unrepaired", "cannot have both");
  refuses("mutant:mask-length/one-short+mask-length/one-short", "cannot have both");
  refuses("mutant:mask-length/one-short+mask-ownership/never-returns", "cannot have both");
  refuses("mutant:mask-length/one-short@1+qwen2-details/gelu", "give both a place (@LAYER or @model), or neither");
  refuses("mutant:mask-length/one-short@1+mask-length/unrepaired@1", "cannot have both");
  refuses("mutant:qwen2-details/gelu@model", "is no mistake of the final norm or the head");
  refuses("mutant:qwen2-details/gelu@0+qwen2-details/gelu@1+qwen2-details/gelu@2+qwen2-details/gelu@3+qwen2-details/gelu@4", "at most 4 mutants at once");
  mr3d_backend *places = open_backend("mutant:mask-length/one-short@1+mask-length/unrepaired@2+qwen2-details/gelu@2+qwen2-details/eps-1e-5@model");
  mr3d_backend_close(&places);
  mr3d_backend *backend = open_backend("mutant:qwen2-details/gelu+mask-ownership/strictly-causal");
  mr3d_reply reply = ask_mask(backend, "mask", "2", 10);
  assert_memory_equal(mr3d_bundle_find(reply.answer, "visible")->data, "\1\1\0", 3);
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

static void a_mutant_that_never_returns_runs_into_the_time_limit(void **state) {
  (void)state;
  mr3d_backend *backend = open_backend("mutant:mask-ownership/never-returns");
  double start = mr3d_now();
  mr3d_reply reply = ask_mask(backend, "mask", "2", 0.3);
  double took = mr3d_now() - start;
  assert_int_equal(reply.kind, MR3D_REPLY_TIMEOUT);
  assert_true(took >= 0.3 && took < 5);
  assert_true(reply.seconds >= 0.3 && reply.seconds <= took);
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_reference_answers_and_refuses),
    cmocka_unit_test(an_unknown_mutant_is_refused_with_the_one_that_was_meant),
    cmocka_unit_test(two_mutants_combine_unless_they_replace_the_same_operator),
    cmocka_unit_test(a_mutant_that_never_returns_runs_into_the_time_limit),
  };
  return cmocka_run_group_tests_name("builtin: and mutant: backends", tests, NULL, NULL);
}
