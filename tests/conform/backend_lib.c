/* lib:PATH.so: a plug-in in the host process; what it may do works, what it may not do is told (backends/plugin.c does it). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "backend.h"

static const char *path_of(const char *variable) {
  const char *path = getenv(variable);
  if (!path) fail_msg("%s must name the plug-in (meson test sets it)", variable);
  return path;
}

static mr3d_status try_open(const char *path, int threads, mr3d_backend **backend, mr3d_error *error) {
  char spec[4096];
  snprintf(spec, sizeof spec, "lib:%s", path);
  return mr3d_backend_open(spec, &(mr3d_backend_options){.threads = threads, .hello_timeout = 20}, backend, error);
}

static mr3d_backend *open_plugin(const char *variable) {
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  if (try_open(path_of(variable), 0, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  return backend;
}

/* Five values; `what` and `globs` may be NULL. */
static mr3d_reply ask_traced(mr3d_backend *backend, const char *op, const char *tier, const char *globs, const char *what) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", tier);
  mr3d_bundle_set(request, "config", "{}");
  if (globs) mr3d_bundle_set(request, "trace", globs);
  if (what) mr3d_bundle_set(request, "do", what);
  float *x = mr3d_bundle_add(request, "x", MR3D_F32, 1, (const int64_t[]){5})->data;
  for (int i = 0; i < 5; i++) x[i] = (float)i;
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 20, &reply);
  mr3d_bundle_free(&request);
  return reply;
}

static mr3d_reply ask(mr3d_backend *backend, const char *what, const char *tier) { return ask_traced(backend, "linear", tier, NULL, what); }

static void assert_doubles(mr3d_backend *backend) {
  mr3d_reply reply = ask(backend, NULL, "fp32");
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s", reply.kind, reply.message);
  assert_int_equal(mr3d_bundle_count(reply.answer), 1);
  const mr3d_tensor *y = mr3d_bundle_find(reply.answer, "y");
  assert_int_equal(y->dtype, MR3D_F32);
  for (int i = 0; i < 5; i++) assert_true(((float *)y->data)[i] == 2.0f * (float)i);
  assert_string_equal(reply.log, "");
  mr3d_reply_clear(&reply);
}

/* One order to the plug-in, the reply it becomes, what the log holds, and that the next request is answered. */
static void assert_reply(const char *what, mr3d_reply_kind kind, const char *message, const char *log) {
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  mr3d_reply reply = ask(backend, what, "fp32");
  if (reply.kind != kind || !strstr(reply.message, message) || !strstr(reply.log, log))
    fail_msg("%s: kind %d: %s\nlog: %s", what, reply.kind, reply.message, reply.log);
  mr3d_reply_clear(&reply);
  assert_doubles(backend);
  mr3d_backend_close(&backend);
}

static void its_table_becomes_the_hello(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  const mr3d_backend_info *info = mr3d_backend_info_of(backend);
  assert_string_equal(info->name, "told");
  assert_string_equal(info->version, "1.2");
  assert_int_equal(info->n_ops, 2);
  assert_string_equal(info->ops[0], "rmsnorm");
  assert_string_equal(info->ops[1], "linear");
  assert_int_equal(info->n_tiers, 2);
  assert_int_equal(info->tiers[0], MR3D_FP32);
  assert_int_equal(info->tiers[1], MR3D_BF16_TIER);
  mr3d_backend_close(&backend);
}

static void it_answers_refuses_and_lacks(void **state) {
  (void)state;
  assert_reply("refuse", MR3D_REPLY_ERROR, "x is not to my taste: ?", "");
  assert_reply("unsupported", MR3D_REPLY_UNSUPPORTED, "not today", "");
  assert_reply("return-3", MR3D_REPLY_ERROR, "the plug-in's linear returned 3 and gave no reason", "");
  assert_reply("bad-dtype", MR3D_REPLY_ERROR, "output \"y\" with a dtype that is not one of safetensors' names", "");
  assert_reply("twice", MR3D_REPLY_ERROR, "asked for output \"y\" twice", "");
}

static void a_pair_it_does_not_support_is_unsupported(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", "rmsnorm");
  mr3d_bundle_set(request, "tier", "bf16");
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 10, &reply);
  assert_int_equal(reply.kind, MR3D_REPLY_UNSUPPORTED);
  assert_string_equal(reply.message, "told offers no rmsnorm at bf16");
  mr3d_reply_clear(&reply);
  mr3d_bundle_set(request, "op", "linear");
  mr3d_bundle_set(request, "config", "{\"a\": 1, \"a\": 2}");
  mr3d_backend_ask(backend, request, 10, &reply);
  assert_int_equal(reply.kind, MR3D_REPLY_ERROR);
  assert_non_null(strstr(reply.message, "config: "));
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
  mr3d_backend_close(&backend);
}

static void points_that_are_asked_for_come_with_the_answer(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  assert_true(mr3d_backend_info_of(backend)->traces);
  mr3d_reply reply = ask_traced(backend, "linear", "fp32", "*.query,model.hidden", NULL);
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("%s", reply.message);
  assert_int_equal(mr3d_bundle_count(reply.answer), 2);
  const float *query = mr3d_bundle_find(reply.answer, "trace.3.query")->data, *y = mr3d_bundle_find(reply.answer, "y")->data;
  assert_true(query[4] == 4 && y[0] == 100 && y[1] == 2); /* wanted, and not */
  mr3d_reply_clear(&reply);
  reply = ask_traced(backend, "linear", "fp32", "model.*", NULL);
  assert_non_null(mr3d_bundle_find(reply.answer, "trace.model.logits"));
  assert_null(mr3d_bundle_find(reply.answer, "trace.3.query"));
  assert_true(((const float *)mr3d_bundle_find(reply.answer, "trace.model.logits")->data)[1] == 2); /* as it was when it was handed over */
  mr3d_reply_clear(&reply);
  reply = ask_traced(backend, "linear", "fp32", "*", "trace-twice");
  if (reply.kind != MR3D_REPLY_ERROR || !strstr(reply.message, "the plug-in traced \"3.query\" twice")) fail_msg("%s", reply.message);
  mr3d_reply_clear(&reply);
  reply = ask_traced(backend, "linear", "fp32", "*", "trace-dtype");
  if (reply.kind != MR3D_REPLY_ERROR || !strstr(reply.message, "not one of safetensors' names")) fail_msg("%s", reply.message);
  mr3d_reply_clear(&reply);
  assert_doubles(backend); /* nothing is left for a request without */
  mr3d_backend_close(&backend);
}

static void a_plugin_without_traces_says_unsupported(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN_OLD");
  assert_false(mr3d_backend_info_of(backend)->traces);
  mr3d_reply reply = ask_traced(backend, "rope1d", "fp32", "*", NULL);
  assert_int_equal(reply.kind, MR3D_REPLY_UNSUPPORTED);
  assert_string_equal(reply.message, "old gives no traces (metadata trace)");
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

static void its_prints_and_reads_touch_no_frame(void **state) {
  (void)state;
  assert_reply("print", MR3D_REPLY_ANSWER, "", "printed by the plug-in\n");
  assert_reply("read-stdin", MR3D_REPLY_ANSWER, "", "");
}

static void what_it_does_not_write_is_nan_and_told(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  mr3d_reply reply = ask(backend, "unwritten", "fp32");
  assert_int_equal(reply.kind, MR3D_REPLY_ANSWER);
  const float *y = mr3d_bundle_find(reply.answer, "y")->data;
  assert_true(y[2] == 4.0f && isnan(y[3]) && isnan(y[4]));
  assert_non_null(strstr(reply.log, "2 of the 5 elements of output \"y\" were never written, the first at flat index 3"));
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

/* Asks for 2 x of `count` numbers from `first` on; all of y must be right, but for the last two, which are NaN, where they are not written. */
static void assert_large(mr3d_backend *backend, int64_t count, int first, bool unwritten) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", "linear");
  mr3d_bundle_set(request, "tier", "fp32");
  mr3d_bundle_set(request, "config", "{}");
  if (unwritten) mr3d_bundle_set(request, "do", "unwritten");
  float *x = mr3d_bundle_add(request, "x", MR3D_F32, 1, &count)->data;
  for (int64_t i = 0; i < count; i++) x[i] = (float)((first + i) % 65536);
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 20, &reply);
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s\n%s", reply.kind, reply.message, reply.log);
  const mr3d_tensor *y = mr3d_bundle_find(reply.answer, "y");
  assert_int_equal(y->shape[0], count);
  for (int64_t i = 0; i < count; i++) {
    const float got = ((const float *)y->data)[i];
    if (unwritten && i >= count - 2 ? !isnan(got) : got != 2 * x[i]) fail_msg("%lld numbers: y[%lld] is %g", (long long)count, (long long)i, (double)got);
  }
  if (unwritten) {
    char told[100];
    snprintf(told, sizeof told, "2 of the %lld elements of output \"y\" were never written, the first at flat index %lld", (long long)count, (long long)count - 2);
    if (!strstr(reply.log, told)) fail_msg("%s", reply.log);
  }
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
}

static void large_tensors_come_back_whole_whatever_came_before_them(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  const int64_t counts[] = {5 << 20, (5 << 20) + 1, 3 << 20, 5, (3 << 20) - 1025, (1 << 20) - 2, (1 << 20) - 3, 9 << 20, 0, 2 << 20}; /* pages are used again */
  for (int i = 0; i < 10; i++) {
    assert_large(backend, counts[i], i, false);
    if (counts[i] > 2) assert_large(backend, counts[i], -i + 20, true);
  }
  mr3d_backend_close(&backend);
}

static void the_request_is_lent_as_the_header_says(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN");
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", "rmsnorm");
  mr3d_bundle_set(request, "tier", "fp32");
  mr3d_bundle_set(request, "session", "s1");
  mr3d_bundle_set(request, "config", "{\"rope_theta\": 1e6, \"rope_mixed_3d\": true, \"drift\": \"average\", \"spatial_ratio\": null}");
  mr3d_bundle_add(request, "x", MR3D_F32, 2, (const int64_t[]){2, 3});
  mr3d_bundle_add(request, "b", MR3D_BOOL, 1, (const int64_t[]){3});
  mr3d_bundle_add(request, "h", MR3D_BF16, 1, (const int64_t[]){0});
  ((double *)mr3d_bundle_add(request, "s", MR3D_F64, 0, NULL)->data)[0] = 2.5;
  const double expected[16] = {1e6, 1, 1, -1, 0, 0, 4, 1, 1, 1, 1, 1, 1, 1, 0};
  for (int turn = 0; turn < 2; turn++) {
    mr3d_reply reply;
    mr3d_backend_ask(backend, request, 10, &reply);
    if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s", reply.kind, reply.message);
    const double *got = mr3d_bundle_find(reply.answer, "y")->data;
    for (int i = 0; i < 16; i++)
      if (got[i] != expected[i]) fail_msg("value %d is %g, expected %g", i, got[i], expected[i]);
    mr3d_reply_clear(&reply);
  }
  mr3d_bundle_free(&request);
  mr3d_backend_close(&backend);
}

static void a_plugin_of_an_older_table_works(void **state) {
  (void)state;
  mr3d_backend *backend = open_plugin("MR3D_PLUGIN_OLD");
  const mr3d_backend_info *info = mr3d_backend_info_of(backend);
  assert_int_equal(info->n_ops, 1);
  assert_string_equal(info->ops[0], "rope1d");
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", "rope1d");
  mr3d_bundle_set(request, "tier", "fp64");
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 10, &reply);
  assert_int_equal(reply.kind, MR3D_REPLY_ANSWER);
  assert_true(((float *)mr3d_bundle_find(reply.answer, "y")->data)[0] == 0.0f);
  mr3d_reply_clear(&reply);
  mr3d_bundle_set(request, "op", "cis3d"); /* behind its table's end */
  mr3d_backend_ask(backend, request, 10, &reply);
  assert_int_equal(reply.kind, MR3D_REPLY_UNSUPPORTED);
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
  mr3d_backend_close(&backend);
}

static void assert_not_opened(const char *path, int threads, const char *message) {
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  assert_int_not_equal(try_open(path, threads, &backend, &error), MR3D_OK);
  assert_null(backend);
  if (!strstr(error.message, message)) fail_msg("%s: %s", path, error.message);
}

static void what_is_no_plugin_says_so(void **state) {
  (void)state;
  assert_not_opened("", 0, "plug-in (empty path): No such file");
  assert_not_opened("no/such/plugin.so", 0, "plug-in no/such/plugin.so: No such file");
  assert_not_opened("/proc/self/exe", 0, "could not load the plug-in");
  assert_not_opened(path_of("MR3D_PLUGIN_NONE"), 0, "exports no mr3d_backend_entry");
  assert_not_opened(path_of("MR3D_PLUGIN_OTHER"), 0, "compiled for version 1000 of mr3d/backend.h, this host has version 1");
  assert_not_opened(path_of("MR3D_PLUGIN"), 99, "create() returned 2");
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(its_table_becomes_the_hello),
    cmocka_unit_test(it_answers_refuses_and_lacks),
    cmocka_unit_test(a_pair_it_does_not_support_is_unsupported),
    cmocka_unit_test(its_prints_and_reads_touch_no_frame),
    cmocka_unit_test(what_it_does_not_write_is_nan_and_told),
    cmocka_unit_test(large_tensors_come_back_whole_whatever_came_before_them),
    cmocka_unit_test(the_request_is_lent_as_the_header_says),
    cmocka_unit_test(a_plugin_of_an_older_table_works),
    cmocka_unit_test(points_that_are_asked_for_come_with_the_answer),
    cmocka_unit_test(a_plugin_without_traces_says_unsupported),
    cmocka_unit_test(what_is_no_plugin_says_so),
  };
  return cmocka_run_group_tests_name("lib: backends", tests, NULL, NULL);
}
