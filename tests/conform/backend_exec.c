/* exec:COMMAND: whatever the process does, the suite gets a reply that says what happened (backends/subject.c does it). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend.h"
#include "frames.h"

static const char *program(const char *variable) {
  const char *path = getenv(variable);
  if (!path) fail_msg("%s must name the program (meson test sets it)", variable);
  return path;
}

static mr3d_backend *open_subject_with(const char *arguments, const mr3d_backend_options *options) {
  char spec[4096];
  snprintf(spec, sizeof spec, "exec:'%s' %s", program("MR3D_SUBJECT"), arguments);
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  if (mr3d_backend_open(spec, options, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  return backend;
}

static mr3d_backend *open_subject(void) { return open_subject_with("", NULL); }

/* A request whose one tensor holds 0, 1, 2 ...; `what` is the subject's order, or NULL. */
static mr3d_bundle *request_of(const char *what, int64_t count) {
  mr3d_bundle *request = mr3d_bundle_new();
  mr3d_bundle_set(request, "op", "linear");
  mr3d_bundle_set(request, "tier", "fp32");
  mr3d_bundle_set(request, "config", "{}");
  if (what) mr3d_bundle_set(request, "do", what);
  float *x = mr3d_bundle_add(request, "x", MR3D_F32, 1, &count)->data;
  for (int64_t i = 0; i < count; i++) x[i] = (float)(i % 65536);
  return request;
}

static mr3d_reply ask(mr3d_backend *backend, const char *what, double timeout) {
  mr3d_bundle *request = request_of(what, 6);
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, timeout, &reply);
  mr3d_bundle_free(&request);
  return reply;
}

static void assert_echoed(mr3d_backend *backend) {
  mr3d_reply reply = ask(backend, NULL, 10);
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s", reply.kind, reply.message);
  mr3d_tensor *x = mr3d_bundle_find(reply.answer, "x");
  assert_non_null(x);
  for (int i = 0; i < 6; i++) assert_true(((float *)x->data)[i] == (float)i);
  mr3d_reply_clear(&reply);
}

/* What the subject does with one request, the reply it must become, and that the next request is answered as if nothing had been. */
static void assert_reply(const char *what, mr3d_reply_kind kind, const char *message) {
  mr3d_backend *backend = open_subject();
  assert_echoed(backend);
  mr3d_reply reply = ask(backend, what, strcmp(what, "hang") == 0 || strcmp(what, "drip") == 0 ? 0.3 : 10);
  if (reply.kind != kind || !strstr(reply.message, message)) fail_msg("%s: kind %d: %s", what, reply.kind, reply.message);
  assert_null(reply.answer);
  assert_non_null(reply.log);
  mr3d_reply_clear(&reply);
  assert_echoed(backend);
  mr3d_backend_close(&backend);
  assert_null(backend);
  /* Nothing is left behind: this process has no child, not even a dead one. */
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
}

static void the_hello_is_kept(void **state) {
  (void)state;
  mr3d_backend *backend = open_subject();
  const mr3d_backend_info *info = mr3d_backend_info_of(backend);
  assert_string_equal(info->name, "subject");
  assert_string_equal(info->version, "7");
  assert_int_equal(info->n_ops, 2);
  assert_string_equal(info->ops[1], "rmsnorm");
  assert_int_equal(info->n_tiers, 1);
  assert_int_equal(info->tiers[0], MR3D_FP32);
  mr3d_backend_close(&backend);
}

static void assert_refused_hello(const char *arguments, const char *message) {
  char spec[4096];
  snprintf(spec, sizeof spec, "exec:'%s' %s", program("MR3D_SUBJECT"), arguments);
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  assert_int_not_equal(mr3d_backend_open(spec, &(mr3d_backend_options){.hello_timeout = 0.5}, &backend, &error), MR3D_OK);
  assert_null(backend);
  if (!strstr(error.message, message)) fail_msg("%s: %s", arguments, error.message);
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void a_bad_hello_says_what_is_wrong_with_it(void **state) {
  (void)state;
  assert_refused_hello("protocol-2", "speaks protocol \"2\", this suite speaks \"1\"");
  assert_refused_hello("type", "answered hello with a frame of type \"answer\"");
  assert_refused_hello("no-name", "no metadata \"name\"");
  assert_refused_hello("op", "\"rope2d\"; the protocol knows: splice mask rope1d cis3d");
  assert_refused_hello("tier", "\"fp8\"; the protocol knows: fp64 fp32 tf32 bf16 fp16");
  assert_refused_hello("twice", "\"linear\" twice");
  assert_refused_hello("empty", "is empty");
  assert_refused_hello("json", "no JSON array of names: linear");
  assert_refused_hello("silent", "no hello within 0.5 s");
  assert_refused_hello("print", "\"Hello, I\"");
  assert_refused_hello(
      "exit", "exited with status 1 before it answered the suite's hello; it wrote last: \"ModuleNotFoundError: No module named 'torch'\"");
}

static void assert_not_opened(const char *spec, const char *message) {
  mr3d_backend *backend = NULL;
  mr3d_error error = {0};
  assert_int_not_equal(mr3d_backend_open(spec, NULL, &backend, &error), MR3D_OK);
  assert_null(backend);
  if (!strstr(error.message, message)) fail_msg("%s: %s", spec, error.message);
}

static void a_command_that_cannot_start_says_why(void **state) {
  (void)state;
  assert_not_opened("exec:", "no command");
  assert_not_opened("exec:  \t ", "no command");
  assert_not_opened("exec:no-such-program-here --x", "no folder of PATH holds an executable \"no-such-program-here\"");
  assert_not_opened("exec:./no/such/program", "command not found: ./no/such/program: No such file");
  assert_not_opened("exec:/", "is no program file");
  assert_not_opened("exec:'cat", "single quote is never closed");
  assert_not_opened("exec:cat \"x", "double quote is never closed");
  assert_not_opened("exec:cat", "has no metadata \"name\""); /* our own hello comes back */
  assert_not_opened("exec:true", "exited with status 0 before it answered the suite's hello");
  assert_not_opened("python backend.py", "expected builtin:reference, builtin:emulated, mutant:PITFALL/NAME, exec:COMMAND, lib:PATH.so or dir:ANSWERS");
  char script[] = "not-a-script-XXXXXX";
  int fd = mkstemp(script);
  assert_int_equal(write(fd, "print(1)\n", 9), 9);
  char spec[64];
  snprintf(spec, sizeof spec, "exec:./%s", script);
  assert_not_opened(spec, "not executable (chmod +x");
  fchmod(fd, 0700);
  close(fd);
  assert_not_opened(spec, "needs a first line such as #!");
  unlink(script);
}

static void assert_word(const char *quoted, const char *word) {
  char arguments[256];
  snprintf(arguments, sizeof arguments, "word %s", quoted);
  mr3d_backend *backend = open_subject_with(arguments, NULL);
  assert_string_equal(mr3d_backend_info_of(backend)->name, word);
  mr3d_backend_close(&backend);
}

static void a_command_is_split_as_a_shell_does_but_nothing_is_expanded(void **state) {
  (void)state;
  assert_word("plain  next", "plain");
  assert_word("'two words'", "two words");
  assert_word("\"two words\"", "two words");
  assert_word("two\\ words", "two words");
  assert_word("a'b c'\"d e\"f", "ab cd ef");
  assert_word("'back\\slash'", "back\\slash");
  assert_word("'two\\\\'", "two\\\\");
  assert_word("\"q\\\"uote \\n\"", "q\"uote \\n");
  assert_word("$HOME*~", "$HOME*~");
  assert_word("`id`", "`id`");
}

static void every_mistake_becomes_a_reply_and_the_next_request_is_answered(void **state) {
  (void)state;
  assert_reply("segfault", MR3D_REPLY_CRASH, "killed by signal 11 (Segmentation fault) before it answered");
  assert_reply("exit", MR3D_REPLY_CRASH, "exited with status 3 before it answered; it wrote last: \"no such weights\"");
  assert_reply("exit-0", MR3D_REPLY_CRASH, "exited with status 0 before it answered");
  assert_reply("exit-middle", MR3D_REPLY_CRASH, "exited with status 0 in the middle of its answer, after ");
  assert_reply("short-length", MR3D_REPLY_CRASH, "in the middle of its answer, after 5 bytes");
  assert_reply("hang", MR3D_REPLY_TIMEOUT, "no answer within 0.3 s; it had sent 0 bytes");
  assert_reply("drip", MR3D_REPLY_TIMEOUT, "no answer within 0.3 s; it had sent ");
  assert_reply("giant", MR3D_REPLY_MALFORMED, "announced a frame of 1099511627776 bytes, at most 4294967296");
  assert_reply("print", MR3D_REPLY_MALFORMED, "\"Loading \"");
  assert_reply("garbage", MR3D_REPLY_MALFORMED, "its answer is no safetensors file: ");
  assert_reply("close", MR3D_REPLY_MALFORMED, "and goes on running");
  assert_reply("id", MR3D_REPLY_MALFORMED, "its answer is for request \"77\", but \"2\" was asked");
  assert_reply("no-id", MR3D_REPLY_MALFORMED, "\"(no id)\"");
  assert_reply("type", MR3D_REPLY_MALFORMED, "a frame of type \"reply\"");
  assert_reply("protocol", MR3D_REPLY_MALFORMED, "speaks protocol \"3\"");
  assert_reply("refuse-silently", MR3D_REPLY_MALFORMED, "its error has no metadata \"message\"");
  assert_reply("refuse", MR3D_REPLY_ERROR, "as asked");
  assert_reply("unsupported", MR3D_REPLY_UNSUPPORTED, "as asked");
}

static void a_refusal_does_not_restart_the_process(void **state) {
  (void)state;
  mr3d_backend *backend = open_subject();
  char starts[2][32];
  for (int i = 0; i < 2; i++) {
    mr3d_reply reply = ask(backend, "say-start", 10);
    snprintf(starts[i], sizeof starts[i], "%s", mr3d_bundle_get(reply.answer, "start"));
    mr3d_reply_clear(&reply);
    reply = ask(backend, i == 0 ? "refuse" : "segfault", 10);
    mr3d_reply_clear(&reply);
  }
  assert_string_equal(starts[0], starts[1]);
  mr3d_reply reply = ask(backend, "say-start", 10);
  assert_string_not_equal(starts[0], mr3d_bundle_get(reply.answer, "start"));
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

static void what_it_says_unasked_is_seen_at_the_next_request(void **state) {
  (void)state;
  mr3d_backend *backend = open_subject();
  mr3d_reply reply = ask(backend, "twice", 10);
  assert_int_equal(reply.kind, MR3D_REPLY_ANSWER);
  mr3d_reply_clear(&reply);
  usleep(50000);
  reply = ask(backend, NULL, 10);
  if (reply.kind != MR3D_REPLY_MALFORMED || !strstr(reply.message, "bytes after its last answer that nobody asked for"))
    fail_msg("kind %d: %s", reply.kind, reply.message);
  mr3d_reply_clear(&reply);
  assert_echoed(backend);
  reply = ask(backend, "exit-after", 10);
  assert_int_equal(reply.kind, MR3D_REPLY_ANSWER);
  mr3d_reply_clear(&reply);
  usleep(50000);
  reply = ask(backend, NULL, 10);
  if (reply.kind != MR3D_REPLY_CRASH || !strstr(reply.message, "exited with status 9 after its last answer, before this request was sent"))
    fail_msg("kind %d: %s", reply.kind, reply.message);
  mr3d_reply_clear(&reply);
  assert_echoed(backend);
  mr3d_backend_close(&backend);
}

/* No such process, or a corpse that waits for init. */
static bool is_gone(pid_t pid) {
  char path[64], stat[256] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "r");
  if (!file) return true;
  size_t n = fread(stat, 1, sizeof stat - 1, file);
  fclose(file);
  stat[n] = 0;
  const char *end = strrchr(stat, ')');
  return !end || end[2] == 'Z';
}

static void a_child_it_leaves_behind_neither_delays_nor_survives(void **state) {
  (void)state;
  mr3d_backend *backend = open_subject_with("", &(mr3d_backend_options){.no_isolation = true}); /* tests/hostile has it in a process namespace */
  double start = mr3d_now();
  mr3d_reply reply = ask(backend, "leave-child", 10);
  if (reply.kind != MR3D_REPLY_CRASH || !strstr(reply.message, "killed by signal 6 (Aborted)"))
    fail_msg("kind %d: %s", reply.kind, reply.message);
  assert_true(mr3d_now() - start < 5);
  pid_t child = (pid_t)atoi(reply.log);
  assert_true(child > 1);
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
  for (int i = 0; i < 100 && !is_gone(child); i++) usleep(10000);
  assert_true(is_gone(child));
}

static void a_flood_of_log_is_cut_in_the_middle_and_never_blocks(void **state) {
  (void)state;
  mr3d_backend *backend = open_subject();
  mr3d_reply reply = ask(backend, "flood", 30);
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s", reply.kind, reply.message);
  assert_int_equal(strncmp(reply.log, "first line\nxxx", 14), 0);
  assert_non_null(strstr(reply.log, "bytes left out"));
  const char *end = strstr(reply.log, "xxx\nlast line\n");
  assert_non_null(end);
  assert_string_equal(end, "xxx\nlast line\n");
  assert_true(strlen(reply.log) < MR3D_LOG_CAP + 64);
  mr3d_reply_clear(&reply);
  reply = ask(backend, NULL, 10); /* each request has its own log */
  assert_string_equal(reply.log, "");
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
}

static void it_inherits_no_descriptor(void **state) {
  (void)state;
  int first = open("/dev/null", O_RDONLY), kept = fcntl(first, F_DUPFD, 100); /* without O_CLOEXEC */
  assert_true(kept >= 100);
  mr3d_backend *backend = open_subject();
  mr3d_reply reply = ask(backend, "count-descriptors", 10);
  assert_string_equal(mr3d_bundle_get(reply.answer, "descriptors"), "0");
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
  close(first), close(kept);
}

static void what_cannot_be_started_again_is_a_crash_each_time(void **state) {
  (void)state;
  char lock[] = "once-XXXXXX", arguments[64];
  assert_non_null(mkdtemp(lock));
  snprintf(arguments, sizeof arguments, "once %s/lock", lock);
  mr3d_backend *backend = open_subject_with(arguments, NULL);
  mr3d_reply reply = ask(backend, "segfault", 10);
  assert_int_equal(reply.kind, MR3D_REPLY_CRASH);
  mr3d_reply_clear(&reply);
  for (int i = 0; i < 2; i++) {
    reply = ask(backend, NULL, 10);
    assert_int_equal(reply.kind, MR3D_REPLY_CRASH);
    if (!strstr(reply.message, "could not be started again") || !strstr(reply.message, "already running")) fail_msg("%s", reply.message);
    mr3d_reply_clear(&reply);
  }
  mr3d_backend_close(&backend);
  char path[64];
  snprintf(path, sizeof path, "%s/lock", lock);
  unlink(path);
  rmdir(lock);
}

static void large_frames_pass_both_ways_at_once(void **state) {
  (void)state;
  mr3d_bundle *request = request_of(NULL, (int64_t)16 << 20); /* 64 MB */
  mr3d_backend *backend = open_subject();
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 60, &reply);
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s", reply.kind, reply.message);
  const mr3d_tensor *sent = mr3d_bundle_find(request, "x"), *got = mr3d_bundle_find(reply.answer, "x");
  assert_memory_equal(got->data, sent->data, (size_t)64 << 20);
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);

  char spec[4096];
  snprintf(spec, sizeof spec, "exec:'%s'", program("MR3D_SLOW_READER")); /* answers before it reads */
  mr3d_error error = {0};
  if (mr3d_backend_open(spec, NULL, &backend, &error) != MR3D_OK) fail_msg("%s", error.message);
  mr3d_backend_ask(backend, request, 60, &reply);
  if (reply.kind != MR3D_REPLY_ANSWER) fail_msg("kind %d: %s", reply.kind, reply.message);
  assert_true(mr3d_tensor_count(mr3d_bundle_find(reply.answer, "y")) > (int64_t)64 << 20);
  mr3d_reply_clear(&reply);
  mr3d_backend_close(&backend);
  mr3d_bundle_free(&request);
}

static void a_frame_cap_holds_both_ways(void **state) {
  (void)state;
  mr3d_backend *backend = open_subject_with("", &(mr3d_backend_options){.frame_cap = 1000});
  mr3d_bundle *request = request_of(NULL, 1000);
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 10, &reply);
  assert_int_equal(reply.kind, MR3D_REPLY_UNSUPPORTED);
  assert_non_null(strstr(reply.message, "the cap is 1000"));
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
  assert_echoed(backend);
  mr3d_backend_close(&backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_hello_is_kept),
    cmocka_unit_test(a_bad_hello_says_what_is_wrong_with_it),
    cmocka_unit_test(a_command_that_cannot_start_says_why),
    cmocka_unit_test(a_command_is_split_as_a_shell_does_but_nothing_is_expanded),
    cmocka_unit_test(every_mistake_becomes_a_reply_and_the_next_request_is_answered),
    cmocka_unit_test(a_refusal_does_not_restart_the_process),
    cmocka_unit_test(what_it_says_unasked_is_seen_at_the_next_request),
    cmocka_unit_test(a_child_it_leaves_behind_neither_delays_nor_survives),
    cmocka_unit_test(a_flood_of_log_is_cut_in_the_middle_and_never_blocks),
    cmocka_unit_test(it_inherits_no_descriptor),
    cmocka_unit_test(what_cannot_be_started_again_is_a_crash_each_time),
    cmocka_unit_test(large_frames_pass_both_ways_at_once),
    cmocka_unit_test(a_frame_cap_holds_both_ways),
  };
  return cmocka_run_group_tests_name("exec: backends", tests, NULL, NULL);
}
