/* The example in plain C (tools/backends/plain): judged, spoilt in one line and judged again, and led through the protocol's corners. */
#include <sys/stat.h>
#include <unistd.h>

#include "../folder.h"
#include "../program.h"
#include "backend.h"
#include "mr3d/safetensors.h"

static char folder[256];

static const char *program(const char *variable) {
  const char *path = getenv(variable);
  if (!path) fail_msg("%s must name the program (meson test sets it)", variable);
  return path;
}

static void it_passes_at_all_that_it_offers(void **state) {
  (void)state;
  if (mr3d("check --quiet --without-slow --backend \"exec:'%s'\"", program("MR3D_PLAIN")) != 0) fail_msg("%.3000s", output);
}

static void with_one_changed_line_it_fails_and_the_mistake_is_named(void **state) {
  (void)state;
  assert_int_equal(mr3d("check --op rmsnorm --without-slow --backend \"exec:'%s'\"", program("MR3D_PLAIN_WRONG")), 2);
  assert_said("1. qwen2-details/eps-outside: ");
  if (strstr(output, "\n 2. ")) fail_msg("%.3000s", output);
}

/* ---- its replies ---- */

/* A request of linear: x [2,3], weight [1,3], all 1; the caller spoils it. */
static mr3d_bundle *request_of(const char *op, const char *tier, const char *config) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", op);
  mr3d_bundle_set(request, "tier", tier);
  mr3d_bundle_set(request, "config", config);
  float *x = mr3d_bundle_add(request, "x", MR3D_F32, 2, (const int64_t[]){2, 3})->data;
  float *weight = mr3d_bundle_add(request, "weight", MR3D_F32, 2, (const int64_t[]){1, 3})->data;
  for (int i = 0; i < 6; i++) x[i] = 1;
  for (int i = 0; i < 3; i++) weight[i] = 1;
  return request;
}

static mr3d_backend *backend;

static void assert_reply(mr3d_bundle *request, mr3d_reply_kind kind, const char *message) {
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 10, &reply);
  if (reply.kind != kind || !strstr(reply.message, message)) fail_msg("kind %d, not %d: %s; %s", reply.kind, kind, reply.message, reply.log);
  if (kind == MR3D_REPLY_ANSWER) {
    const mr3d_tensor *y = mr3d_bundle_find(reply.answer, "y");
    assert_non_null(y);
    assert_int_equal(y->dtype, MR3D_F64);
    assert_int_equal(y->rank, 2);
    assert_true(y->shape[0] == 2 && y->shape[1] == 1);
    assert_true(((double *)y->data)[0] == 3 && ((double *)y->data)[1] == 3);
  }
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
}

static void it_answers_refuses_and_lacks_as_the_protocol_says(void **state) {
  (void)state;
  char spec[4096];
  mr3d_error error = {0};
  snprintf(spec, sizeof spec, "exec:'%s'", program("MR3D_PLAIN"));
  if (mr3d_backend_open(spec, NULL, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  assert_reply(request_of("linear", "fp32", "{}"), MR3D_REPLY_ANSWER, "");
  assert_reply(request_of("swiglu", "fp32", "{}"), MR3D_REPLY_UNSUPPORTED, "only rmsnorm");
  assert_reply(request_of("linear", "bf16", "{}"), MR3D_REPLY_UNSUPPORTED, "at fp64 and fp32");
  assert_reply(request_of("linear", "fp64", "{}"), MR3D_REPLY_ERROR, "x has type F32, expected F64");
  assert_reply(request_of("rmsnorm", "fp32", "{}"), MR3D_REPLY_ERROR, "config has no rms_norm_eps");
  assert_reply(request_of("rmsnorm", "fp32", "{\"rms_norm_eps\": \"1e-6\"}"), MR3D_REPLY_ERROR, "rms_norm_eps is not a number");
  assert_reply(request_of("linear", "fp32", "{\"head_dim\": 2, \"head_dim\": 2}"), MR3D_REPLY_ERROR, "stands twice");
  assert_reply(request_of("linear", "fp32", "{\"headDim\": 2}"), MR3D_REPLY_ERROR, "is head_dim meant?");
  assert_reply(request_of("linear", "fp32", "[\"a\", {\"b\": [1.5e3, -2, null, tru]}]"), MR3D_REPLY_ERROR, "no JSON object");
  assert_reply(request_of("linear", "fp32", "{\"a\": [1.5e3, -2, null, true, \"\\u00e9\\ud83d\\ude00\\n\"], \"b\": {}}"), MR3D_REPLY_ANSWER, "");
  mr3d_bundle *more = request_of("linear", "fp32", "{}");
  mr3d_bundle_add(more, "a \"quoted\" name", MR3D_F8_E5M2, 1, (const int64_t[]){3});
  assert_reply(more, MR3D_REPLY_ERROR, "the tensor a \"quoted\" name is none of this operator's");
  mr3d_bundle *nan = request_of("linear", "fp32", "{}");
  memset(mr3d_bundle_find(nan, "weight")->data, 255, 4);
  assert_reply(nan, MR3D_REPLY_ERROR, "weight holds");
  assert_reply(request_of("linear", "fp32", "{}"), MR3D_REPLY_ANSWER, "");
  mr3d_backend_close(&backend);
}

/* ---- its end ---- */

/* Appends a frame of metadata alone; `cut` bytes are left out at its end. */
static void add_frame(FILE *file, const char *protocol, const char *type, size_t cut) {
  mr3d_bundle *frame = mr3d_bundle_new();
  void *bytes;
  size_t size;
  mr3d_error error = {0};
  mr3d_bundle_set(frame, "protocol", protocol);
  mr3d_bundle_set(frame, "type", type);
  assert_int_equal(mr3d_safetensors_serialize(frame, &bytes, &size, &error), MR3D_OK);
  const uint64_t length = size;
  assert_int_equal(fwrite(&length, 8, 1, file), 1);
  assert_int_equal(fwrite(bytes, 1, size - cut, file), size - cut);
  free(bytes);
  mr3d_bundle_free(&frame);
}

static FILE *input(void) {
  char path[300];
  snprintf(path, sizeof path, "%s/input", folder);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  return file;
}

/* Closes the input and lets the backend read it; it ends with the status, saying `message` on stderr. */
static void assert_end(FILE *file, int status, const char *message) {
  char command[5000];
  fclose(file);
  snprintf(command, sizeof command, "'%s' 2>&1 >/dev/null <'%s/input'", program("MR3D_PLAIN"), folder);
  int got = run_command(command);
  if (got != status) fail_msg("exit status %d, expected %d: %s", got, status, output);
  assert_said(message);
}

static void it_ends_with_status_0_after_bye_and_with_another_otherwise(void **state) {
  (void)state;
  make_folder(folder);
  FILE *file = input();
  add_frame(file, "1", "hello", 0), add_frame(file, "1", "bye", 0);
  assert_end(file, 0, "");
  assert_string_equal(output, "");
  file = input();
  assert_end(file, 1, "the input ended without bye");
  file = input();
  add_frame(file, "1", "hello", 0);
  assert_end(file, 1, "the input ended without bye");
  file = input();
  add_frame(file, "1", "bye", 1);
  assert_end(file, 1, "the input ended without bye");
  file = input();
  add_frame(file, "2", "bye", 0);
  assert_end(file, 1, "the suite speaks another protocol");
  file = input();
  add_frame(file, "1", "good morning", 0);
  assert_end(file, 1, "neither hello, request nor bye");
  file = input();
  add_frame(file, "1", "request", 0);
  assert_end(file, 1, "a request has no id");
  static const struct {
    const char *header, *message;
    unsigned char more; /* than there is, by its own claim */
  } malformed[] = {
    {"{\"a\":1}         ", "lacks dtype"},
    {"{\"a\":1}         ", "longer than the frame", 1},
    {"{\"a\":{},\"a\":{}} ", "no JSON object"},
    {"[1,2,3,4,5,6,7] ", "no JSON object"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,0]}}", "a shape does not fit"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,9]}}", "no whole number"},
    {"{\"a\":{\"dtype\":\"U9\",\"shape\":[0],\"data_offsets\":[0,0]}}", "lacks dtype"},
  };
  for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
    const uint64_t size = strlen(malformed[i].header), header = size + malformed[i].more, length = 8 + size;
    file = input();
    fwrite(&length, 8, 1, file), fwrite(&header, 8, 1, file), fputs(malformed[i].header, file);
    assert_end(file, 1, malformed[i].message);
  }
  file = input();
  fputs("\377\377\377\377\377\377\377\377", file);
  assert_end(file, 1, "impossible size");
  remove_folder(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(it_passes_at_all_that_it_offers),
    cmocka_unit_test(with_one_changed_line_it_fails_and_the_mistake_is_named),
    cmocka_unit_test(it_answers_refuses_and_lacks_as_the_protocol_says),
    cmocka_unit_test(it_ends_with_status_0_after_bye_and_with_another_otherwise),
  };
  return cmocka_run_group_tests_name("a backend in plain C", tests, NULL, NULL);
}
