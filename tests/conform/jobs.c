/** Several processes that judge side by side (--jobs): they find what one finds, each has a backend of its own, and none is left behind. */
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "../program.h"
#include "small_suite.h"
#include "in_folder.h"

static void forget_times(cJSON *json) {
  cJSON *item;
  cJSON_DeleteItemFromObject(json, "seconds");
  cJSON_DeleteItemFromObject(json, "diagnosis_seconds");
  cJSON_DeleteItemFromObject(json, "jobs");
  cJSON_ArrayForEach (item, json) forget_times(item);
}

/** The lines of the JSON report of `mr3d check WORDS --jobs JOBS`, without times; the exit status too. The caller's. */
static char *report_of(const char *words, int jobs, int *status) {
  *status = mr3d("check %s --jobs %d --quiet --json %s/report.json", words, jobs, folder);
  char *text = read_bytes(folder, "report.json", NULL), *bytes = NULL;
  size_t size = 0;
  FILE *to = open_memstream(&bytes, &size);
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    cJSON *json = cJSON_Parse(line);
    assert_non_null(json);
    forget_times(json);
    char *printed = cJSON_PrintUnformatted(json);
    fprintf(to, "%s\n", printed);
    cJSON_free(printed);
    cJSON_Delete(json);
  }
  fclose(to);
  free(text);
  return bytes;
}

static void assert_alike(const char *words, int jobs, int expected) {
  int alone_status, status;
  char *alone = report_of(words, 1, &alone_status), *several = report_of(words, jobs, &status);
  const char *a = alone, *b = several;
  while (*a && *a == *b) a++, b++;
  if (*a || *b) fail_msg("%s: with %d jobs\n%.300s\nwith one\n%.300s", words, jobs, b, a);
  assert_int_equal(alone_status, expected);
  assert_int_equal(status, expected);
  free(alone);
  free(several);
}

/** Of what a command prints about a path. */
static int lines_of(const char *format, const char *path) {
  char command[900], line[600];
  int n = 0;
  snprintf(command, sizeof command, format, path);
  FILE *pipe = popen(command, "r");
  assert_non_null(pipe);
  while (fgets(line, sizeof line, pipe)) n++;
  pclose(pipe);
  return n;
}

#define DO(what) "\"meta\": {\"do\": \"" what "\"}, "

static void make_all_kinds_of_replies(void) {
  make_set(folder, RMSNORM_CASE("a", "", DO("hang")) ", " RMSNORM_CASE("b", "", "") ", " RMSNORM_CASE("c", "", DO("exit")) ", "
           REFUSED_CASE("refused", DO("refuse")) ", " RMSNORM_CASE("e", "", DO("garbage")) ", " RMSNORM_CASE("f", "", DO("unsupported")) ", "
           RMSNORM_CASE("g", "", DO("hang")) ", " REFUSED_CASE("after", DO("refuse")) ", " RMSNORM_CASE("i", "", ""));
}

static void several_processes_report_what_one_does(void **state) {
  (void)state;
  char words[2000];
  const char *const selections[] = {"mutant:qwen2-details/bias-missing --case 'attention-block/option-*'", "builtin:reference --op rmsnorm --tag probe,tiny,onehot,error"};
  for (int i = 0; i < 2; i++) {
    snprintf(words, sizeof words, "--backend %s --tier fp32,bf16 --golden '%s'", selections[i], committed_set());
    assert_alike(words, 2, i == 0 ? 2 : 0);
  }
}

/** Timeouts among them: with one process the operator would not have been asked any more, so what several were told in time does not count. */
static void replies_of_every_kind_and_silence_are_reported_alike(void **state) {
  (void)state;
  char words[2000];
  make_all_kinds_of_replies();
  snprintf(words, sizeof words, "--backend exec:\"'%s'\" --golden %s --timeout 0.2", getenv("MR3D_SUBJECT"), folder);
  assert_alike(words, 2, 2);
  assert_alike(words, 40, 2); /* more than there are cases */
  assert_int_equal(lines_of("grep rmsnorm/after %s/report.json | grep 'not asked'", folder), 1);
}

static void fail_fast_ends_at_the_first_failure_in_order(void **state) {
  (void)state;
  char words[2000];
  make_all_kinds_of_replies();
  snprintf(words, sizeof words, "--backend exec:\"'%s'\" --golden %s --timeout 0.2 --fail-fast", getenv("MR3D_SUBJECT"), folder);
  assert_alike(words, 3, 2);
  assert_said("0 passed, 1 failed, 0 skipped");
}

static void write_script(const char *text) {
  char path[600];
  write_text(folder, "backend.sh", text);
  snprintf(path, sizeof path, "%s/backend.sh", folder);
  assert_int_equal(chmod(path, 0700), 0);
}

static void each_process_has_a_backend_of_its_own(void **state) {
  (void)state;
  char text[2000], starts[64] = "/tmp/mr3d-starts-XXXXXX";
  assert_true(close(mkstemp(starts)) == 0);
  make_set(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("b", "", "") ", " RMSNORM_CASE("c", "", ""));
  /* The first start, for the hello, is over at once; the others wait for each other. */
  snprintf(text, sizeof text,
           "#!/bin/sh\nstarts=%s\ncat /proc/sys/kernel/random/uuid >> $starts\n[ $(wc -l < $starts) = 1 ] || for i in $(seq 50); do [ $(wc -l < $starts) -lt 3 ] || break; sleep 0.1; done\nexec '%s'\n",
           starts, getenv("MR3D_SUBJECT"));
  write_script(text);
  assert_int_equal(mr3d("check --backend exec:%s/backend.sh --golden %s --jobs 2", folder, folder), 2);
  assert_int_equal(lines_of("sort -u %s", starts), 3);
  remove(starts);
}

static void a_process_that_judges_and_dies_is_an_error_with_its_signal(void **state) {
  (void)state;
  char text[2000];
  make_set(folder, RMSNORM_CASE("a", "", "") ", " RMSNORM_CASE("b", "", ""));
  snprintf(text, sizeof text, "#!/bin/sh\nif [ -e %s/first ]; then kill -KILL $PPID; fi\ntouch %s/first\nexec '%s'\n", folder, folder, getenv("MR3D_SUBJECT"));
  write_script(text);
  assert_int_equal(mr3d("check --backend exec:%s/backend.sh --golden %s --jobs 2 --no-isolation", folder, folder), 1);
  assert_said("a process that judges died (signal 9)");
}

/** Backends that note which weights their requests name: both processes name the same files, and these are gone when no case needs them, the last at the end. */
static void processes_share_weights_files_and_remove_them(void **state) {
  (void)state;
  char text[2000], scratch[300];
  snprintf(scratch, sizeof scratch, "%s/scratch", folder);
  mkdir(scratch, 0777);
  snprintf(text, sizeof text, "#!/bin/sh\ntee %s/requests.$(cat /proc/sys/kernel/random/uuid) | '%s' prefill\n", folder, getenv("MR3D_SUBJECT"));
  write_script(text);
  setenv("TMPDIR", scratch, 1);
  assert_int_equal(mr3d("check --backend exec:%s/backend.sh --golden '%s' --case 'prefill/[ot]*' --tier fp32 --jobs 2 --no-isolation", folder, committed_set()), 2);
  unsetenv("TMPDIR");
  assert_int_equal(lines_of("grep -la small-probe.fp32 %s/requests.*", folder), 2);
  assert_int_equal(lines_of("grep -aoh '/[^\"]*/small-probe.fp32.0.safetensors' %s/requests.* | sort -u", folder), 1);
  assert_int_equal(rmdir(scratch), 0); /* empty */
}

/** Calls that never return, interrupted from outside: the processes that judge, their backends and their files are gone. */
static void an_interrupted_run_leaves_no_process_and_no_file(void **state) {
  (void)state;
  const int signals[] = {SIGINT, SIGTERM, SIGKILL};
  char scratch[300], spec[1000];
  make_set(folder, RMSNORM_CASE("a", "", DO("hang")) ", " RMSNORM_CASE("b", "", DO("hang")));
  snprintf(scratch, sizeof scratch, "%s/scratch", folder);
  snprintf(spec, sizeof spec, "exec:'%s' plain %s", getenv("MR3D_SUBJECT"), scratch); /* found by the folder, one of its words */
  mkdir(scratch, 0777);
  for (int i = 0; i < 3; i++) {
    pid_t pid = fork();
    if (pid == 0) {
      setenv("TMPDIR", scratch, 1);
      freopen("/dev/null", "w", stdout);
      execl(getenv("MR3D"), "mr3d", "check", "--backend", spec, "--timeout", "60", "--golden", folder, "--jobs", "2", (char *)NULL);
      _exit(127);
    }
    const char *backends = "grep -lsaz '^%s$' /proc/[0-9]*/cmdline";
    const char *files = "find %s -name 'mr3d-*' 2>/dev/null";
    int started = 0;
    for (int wait = 0; wait < 250 && ((started = lines_of(backends, scratch)) < 2 || lines_of(files, scratch) < 1); wait++) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    if (started < 2) {
      kill(pid, SIGTERM);
      fail_msg("after 25 s %d of 2 backends run, and %d folders are there", started, lines_of(files, scratch));
    }
    assert_int_equal(kill(pid, signals[i]), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
    for (int wait = 0; wait < 100 && (lines_of(backends, scratch) > 0 || lines_of(files, scratch) > 0); wait++) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    assert_int_equal(lines_of(backends, scratch), 0);
    assert_int_equal(lines_of(files, scratch), 0);
  }
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, make, drop)
int main(void) {
  const struct CMUnitTest tests[] = {
      FACT(several_processes_report_what_one_does),
      FACT(replies_of_every_kind_and_silence_are_reported_alike),
      FACT(fail_fast_ends_at_the_first_failure_in_order),
      FACT(each_process_has_a_backend_of_its_own),
      FACT(a_process_that_judges_and_dies_is_an_error_with_its_signal),
      FACT(processes_share_weights_files_and_remove_them),
      FACT(an_interrupted_run_leaves_no_process_and_no_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
