/*
 * Hostile backends: whatever one does in one case, the run ends, the verdict says what happened, every other case keeps its verdict, and no process
 * and no file is left. Plug-ins: plugin.c; processes: tests/conform/backends/subject.c.
 */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../conform/small_suite.h"
#include "frames.h"

static char folder[256], scratch[256], work[256];

/* A case that tells the backend what to do with it, between cases that it answers as it should. */
#define CASES                                                                                                           \
  RMSNORM_CASE("a", "", "\"meta\": {\"from\": \"reference\"}, ") ", " REFUSED_CASE("b-refused", "\"meta\": {\"from\": \"reference\"}, ") ", " \
  RMSNORM_CASE("c-hostile", "", "\"meta\": {\"from\": \"reference\", \"do\": \"%s\"}, ") ", "                           \
  RMSNORM_CASE("d", "", "\"meta\": {\"from\": \"reference\"}, ") ", " REFUSED_CASE("e-refused", "\"meta\": {\"from\": \"reference\"}, ")

typedef struct hostile {
  const char *door, *what;
  int exit_status;
  const char *verdict, *reply; /* of the one case */
  const char *told;            /* in its reason, or in the backend's log */
} hostile;

static const hostile table[] = {
  /* ends */
  {"lib", "segfault", 2, "failed", "crash", "killed by signal 11 (Segmentation fault)"},
  {"lib", "abort", 2, "failed", "crash", "killed by signal 6 (Aborted)"},
  {"lib", "exit-0", 2, "failed", "crash", "exited with status 0 before it answered"},
  {"exec", "segfault", 2, "failed", "crash", "killed by signal 11 (Segmentation fault)"},
  {"exec", "abort", 2, "failed", "crash", "killed by signal 6 (Aborted)"},
  {"exec", "exit-0", 2, "failed", "crash", "exited with status 0 before it answered"},
  {"exec", "exit-middle", 2, "failed", "crash", "in the middle of its answer"},
  {"exec", "exit-after", 2, "failed", "answer", "exited with status 9 after its"},
  {"exec", "exit-later", 2, "failed", "answer", "exited with status 9 after its"},
  {"exec", "close-input", 2, "failed", "answer", "closed its input"},
  {"exec", "short-length", 2, "failed", "crash", "in the middle of its answer, after 5 bytes"},
  /* never ends */
  {"lib", "loop", 2, "failed", "timeout", "no reply within"},
  {"lib", "talk", 2, "failed", "timeout", "no reply within"},
  {"lib", "signals", 2, "failed", "timeout", "no reply within"},
  {"exec", "hang", 2, "failed", "timeout", "it had sent 0 bytes of its answer"},
  {"exec", "loop", 2, "failed", "timeout", "it had sent 0 bytes of its answer"},
  {"exec", "drip", 2, "failed", "timeout", "bytes of its answer"},
  {"exec", "signals", 2, "failed", "timeout", "no reply within"},
  {"exec", "endless-output", 2, "failed", "malformed", "announced a frame of"},
  {"exec", "endless-answers", 2, "failed", "answer", "bytes after its answer that nobody asked for"},
  /* takes what there is */
  {"lib", "memory", 2, "failed", "crash", "kept from it"},
  {"lib", "fork-bomb", 2, "failed", "crash", "kept from it"},
  {"exec", "fork-bomb", 2, "failed", "timeout", "no reply within"},
  /* what it was lent */
  {"lib", "byte-past-end", 2, "failed", "crash", "past the end of its output \"y\""},
  {"lib", "byte-before", 2, "failed", "crash", "the plug-in wrote before the beginning of its output \"y\""},
  {"lib", "page-past-end", 2, "failed", "crash", "the plug-in reached past the end of its output \"y\""},
  {"lib", "write-input", 2, "failed", "crash", "the plug-in wrote to its input, which is only lent for reading: \"x\""},
  {"lib", "free-input", 2, "failed", "crash", "killed by signal"},
  {"lib", "free-output", 2, "failed", "crash", "killed by signal"},
  {"lib", "negative-strides", 2, "failed", "crash", "the plug-in changed the description of its output \"y\""},
  {"lib", "larger-shape", 2, "failed", "crash", "the plug-in changed the description of its output \"y\""},
  {"lib", "other-data", 2, "failed", "crash", "the plug-in changed the description of its output \"y\""},
  {"lib", "change-input-shape", 2, "failed", "crash", "the plug-in changed the description of its input \"x\""},
  {"lib", "rounding", 2, "failed", "crash", "left another rounding mode"},
#ifdef __SSE__
  {"lib", "flush", 2, "failed", "crash", "flush"},
#endif
  /* wrong answers */
  {"lib", "nan", 2, "failed", "answer", "nan"},
  {"lib", "wrong-shape", 2, "failed", "answer", "shape"},
  {"lib", "wrong-dtype", 2, "failed", "answer", "I32"},
  {"exec", "nan", 2, "failed", "answer", "nan"},
  {"exec", "wrong-shape", 2, "failed", "answer", "shape"},
  {"exec", "wrong-dtype", 2, "failed", "answer", "I32"},
  {"exec", "refuse", 2, "failed", "error", "refused a request that must be answered"},
  /* breaks the protocol */
  {"exec", "giant", 2, "failed", "malformed", "announced a frame of 1099511627776 bytes"},
  {"exec", "garbage", 2, "failed", "malformed", "no safetensors file"},
  {"exec", "id", 2, "failed", "malformed", "is for request \"77\""},
  {"exec", "twice", 2, "failed", "answer", "bytes after its answer that nobody asked for"},
  {"exec", "type", 2, "failed", "malformed", "a frame of type \"reply\""},
  {"exec", "print", 2, "failed", "malformed", "\"Loading \""},
  {"exec", "close", 2, "failed", "malformed", "and goes on running"},
  {"lib", "write-into-frames", 2, "failed", "malformed", "\"All is w\""},
  {"lib", "close", 2, "failed", "crash", "exited with status 2"},
  /* reaches for what is not its own */
  {"lib", "read-goldens", 2, "failed", "crash", "kept from it"},
  {"lib", "read-others", 2, "failed", "crash", "kept from it"},
  {"lib", "kill-others", 2, "failed", "crash", "kept from it"},
  {"lib", "open-socket", 2, "failed", "crash", "kept from it"},
  {"lib", "write-file", 2, "failed", "crash", "kept from it"},
  {"lib", "start-process", 2, "failed", "crash", "kept from it"},
  {"exec", "stop-suite", 2, "failed", "crash", "kept from it"},
  {"exec", "kill-suite", 2, "failed", "crash", "kept from it"},
  {"exec", "trace-suite", 2, "failed", "crash", "kept from it"},
  {"exec", "limit-suite", 2, "failed", "crash", "kept from it"},
  {"exec", "join-suite", 2, "failed", "crash", "kept from it"},
  {"exec", "freeze-suite", 2, "failed", "crash", "kept from it"},
  {"exec", "read-goldens", 2, "failed", "crash", "kept from it"},
  {"exec", "replace-program", 2, "failed", "crash", "kept from it"},
  {"exec", "write-scratch", 2, "failed", "crash", "kept from it"},
  {"exec", "see-terminals", 2, "failed", "crash", "kept from it"},
  {"exec", "nest-users", 2, "failed", "crash", "kept from it"},
  {"exec", "long-header", 2, "failed", "malformed", "larger than any answer needs"},
  {"exec", "leave-child", 2, "failed", "crash", "killed by signal 6"},
  /* odd, but no mistake: protocol.md counts the first as skipped, and what is left behind or printed harms nobody */
  {"exec", "unsupported", 0, "skipped", "unsupported", "as asked"},
  {"lib", "unsupported", 0, "skipped", "unsupported", "not this one"},
  {"lib", "print", 0, "passed", "answer", "a word to the world"},
  {"exec", "leave-daemon", 0, "passed", "answer", ""},
};
enum { N_ROWS = sizeof table / sizeof *table };

/* ---- one run of the program ---- */

static char mark[64]; /* in the environment of all that a run starts */

enum surroundings { ISOLATED, NO_NAMESPACES, FREE };

static bool write_value(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  if (fd >= 0) close(fd);
  return written;
}

/** Enters a user namespace in which no further ones can be made, as on systems that forbid them. */
static bool forbid_namespaces(void) {
  char map[64];
  unsigned user = getuid(), group = getgid();
  if (unshare(CLONE_NEWUSER) != 0 || !write_value("/proc/self/setgroups", "deny")) return false;
  snprintf(map, sizeof map, "%u %u 1", group, group);
  if (!write_value("/proc/self/gid_map", map)) return false;
  snprintf(map, sizeof map, "%u %u 1", user, user);
  if (!write_value("/proc/self/uid_map", map)) return false;
  static const char *const kinds[] = {"user", "net", "mnt", "pid", "ipc"};
  for (int i = 0; i < 5; i++) {
    snprintf(map, sizeof map, "/proc/sys/user/max_%s_namespaces", kinds[i]);
    if (!write_value(map, "0")) return false;
  }
  return true;
}

/** Starts `mr3d check` in the folder `work` and waits. Returns its exit status; fails when it does not end. */
static int check(const char *door, enum surroundings surroundings) {
  static int runs;
  const char *backend = getenv(strcmp(door, "lib") == 0 ? "MR3D_HOSTILE" : "MR3D_SUBJECT");
  char spec[4096], json[300];
  assert_non_null(backend);
  snprintf(spec, sizeof spec, strcmp(door, "lib") == 0 ? "lib:%s" : "exec:'%s'", backend);
  snprintf(json, sizeof json, "%s/report.json", folder);
  snprintf(mark, sizeof mark, "%d-%d", (int)getpid(), runs++);
  remove(json);
  pid_t pid = fork();
  if (pid == 0) {
    setenv("MR3D_HOSTILE_MARK", mark, 1);
    setenv("TMPDIR", scratch, 1);
    setenv("MR3D_GOLDEN", folder, 1);
    int nothing = open("/dev/null", O_WRONLY);
    dup2(nothing, 1);
    char own[16];
    snprintf(own, sizeof own, "%d", (int)getpid());
    setenv("MR3D_HOSTILE_SUITE", own, 1);
    if (surroundings == NO_NAMESPACES && !forbid_namespaces()) _exit(126);
    if (chdir(work) == 0)
      execl(getenv("MR3D"), "mr3d", "check", "--backend", spec, "--tier", "fp32", "--timeout", "1.5", "--memory", "128", "--json", json, "--quiet",
            surroundings == FREE ? "--no-isolation" : NULL, NULL);
    _exit(127);
  }
  int status = 0;
  double until = mr3d_now() + 30;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (mr3d_now() > until) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      fail_msg("mr3d check hangs");
    }
    usleep(2000);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/** Processes that carry the run's mark; they may take a moment to be gone. */
static int count_marked(void) {
  char wanted[128];
  int found = 0, length = snprintf(wanted, sizeof wanted, "MR3D_HOSTILE_MARK=%s", mark) + 1;
  DIR *all = opendir("/proc");
  for (struct dirent *entry; (entry = readdir(all));) {
    static char environment[1 << 16];
    char path[300];
    snprintf(path, sizeof path, "/proc/%.200s/environ", entry->d_name);
    int fd = atoi(entry->d_name) > 0 ? open(path, O_RDONLY) : -1;
    ssize_t n = fd < 0 ? 0 : read(fd, environment, sizeof environment);
    if (fd >= 0) close(fd);
    found += n > 0 && memmem(environment, (size_t)n, wanted, (size_t)length) != NULL;
  }
  closedir(all);
  return found;
}

static int count_files(const char *path) {
  int n = -2; /* . and .. */
  DIR *all = opendir(path);
  assert_non_null(all);
  while (readdir(all)) n++;
  closedir(all);
  return n;
}

static void assert_nothing_left(const char *what) {
  int processes = 0;
  for (int i = 0; i < 100 && (processes = count_marked()) > 0; i++) usleep(10000);
  if (processes) fail_msg("%s: %d processes are left", what, processes);
  if (count_files(scratch)) fail_msg("%s: files are left in TMPDIR", what);
  if (count_files(work)) fail_msg("%s: files are left in the working folder", what);
}

/* ---- its report ---- */

typedef struct outcome {
  char verdicts[8][64]; /* "rmsnorm/a passed", in order */
  int n;
  char verdict[16], reply[16], told[4096]; /* of the hostile case */
  char missing[1024];                      /* protections that could not be had, as JSON */
} outcome;

static const char *text_of(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsString(item) ? item->valuestring : "";
}

static void read_report(outcome *o) {
  memset(o, 0, sizeof *o);
  size_t size;
  char *text = read_bytes(folder, "report.json", &size), *rest = text;
  for (char *line; (line = strtok_r(rest, "\n", &rest));) {
    cJSON *json = cJSON_Parse(line);
    assert_non_null(json);
    const cJSON *step = cJSON_GetObjectItemCaseSensitive(json, "steps") ? cJSON_GetObjectItemCaseSensitive(json, "steps")->child : NULL;
    if (strcmp(text_of(json, "type"), "result") == 0 && strstr(text_of(json, "case"), "hostile")) {
      snprintf(o->verdict, sizeof o->verdict, "%s", text_of(json, "verdict"));
      snprintf(o->reply, sizeof o->reply, "%s", text_of(step, "reply"));
      snprintf(o->told, sizeof o->told, "%.1500s\n%.2000s", text_of(json, "reason"), text_of(step, "log"));
    } else if (strcmp(text_of(json, "type"), "run") == 0) {
      char *missing = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(json, "isolation"), "missing"));
      snprintf(o->missing, sizeof o->missing, "%s", missing ? missing : "");
      cJSON_free(missing);
    } else if (strcmp(text_of(json, "type"), "result") == 0) {
      assert_true(o->n < 8);
      snprintf(o->verdicts[o->n++], 64, "%.40s %.20s", text_of(json, "case"), text_of(json, "verdict"));
    }
    cJSON_Delete(json);
  }
  free(text);
}

static void make_cases(const char *what) {
  char *cases = NULL;
  assert_true(asprintf(&cases, CASES, what) > 0);
  make_set(folder, cases);
  free(cases);
}

/** What the other cases' verdicts are where the one asks for nothing odd. */
static const outcome *clean(const char *door) {
  static outcome outcomes[2];
  outcome *o = &outcomes[strcmp(door, "lib") == 0];
  if (o->n) return o;
  make_cases("nothing");
  int status = check(door, ISOLATED);
  read_report(o);
  if (status != 0) fail_msg("%s: a clean run ends with status %d; %s", door, status, o->told);
  assert_string_equal(o->verdict, "passed");
  assert_int_equal(o->n, 4);
  for (int i = 0; i < o->n; i++) assert_non_null(strstr(o->verdicts[i], "passed"));
  return o;
}

/* ---- the tests ---- */

static void judge_row(void **state) {
  const hostile *row = *state;
  const outcome *expected = clean(row->door);
  char what[64];
  outcome got;
  snprintf(what, sizeof what, "%s: %s", row->door, row->what);
  make_cases(row->what);
  int status = check(row->door, ISOLATED);
  assert_nothing_left(what);
  read_report(&got);
  if (status != row->exit_status) fail_msg("%s: exit status %d, expected %d; %s", what, status, row->exit_status, got.told);
  if (strcmp(got.verdict, row->verdict) != 0 || strcmp(got.reply, row->reply) != 0)
    fail_msg("%s: %s by %s, expected %s by %s; %s", what, got.verdict, got.reply, row->verdict, row->reply, got.told);
  if (!strstr(got.told, row->told)) fail_msg("%s: told\n  %s\nwhich lacks\n  %s", what, got.told, row->told);
  assert_int_equal(got.n, expected->n);
  for (int i = 0; i < got.n; i++)
    if (strcmp(got.verdicts[i], expected->verdicts[i]) != 0)
      fail_msg("%s: another case changed: %s, without it %s", what, got.verdicts[i], expected->verdicts[i]);
}

static void one_that_cannot_start_ends_the_run_with_status_1(void **state) {
  (void)state;
  make_cases("nothing");
  setenv("MR3D_HOSTILE_CREATE", "segfault", 1);
  int status = check("lib", ISOLATED);
  unsetenv("MR3D_HOSTILE_CREATE");
  assert_int_equal(status, 1);
  assert_nothing_left("create: segfault");
}

static void what_isolation_forbids_works_without_it(void **state) {
  (void)state;
  static const struct {
    const char *door, *what;
  } freed[] = {{"lib", "read-goldens"}, {"lib", "open-socket"}, {"exec", "read-goldens"}, {"exec", "limit-suite"}, {"exec", "write-scratch"}, {"exec", "see-terminals"}}; /* so that these rows fail where nothing keeps a backend from it */
  for (size_t i = 0; i < sizeof freed / sizeof *freed; i++) {
    outcome got;
    make_cases(freed[i].what);
    int status = check(freed[i].door, FREE);
    read_report(&got);
    if (status != 0) fail_msg("%s: %s: %d, %s", freed[i].door, freed[i].what, status, got.told);
    assert_nothing_left(freed[i].what);
  }
}

static void without_namespaces_the_other_layers_keep_a_plugin_in(void **state) {
  (void)state;
  for (int i = 0; i < N_ROWS; i++) {
    if (strcmp(table[i].door, "lib") != 0 || strcmp(table[i].told, "kept from it") != 0) continue;
    outcome got;
    make_cases(table[i].what);
    int status = check("lib", NO_NAMESPACES);
    if (status == 126) {
      print_message("namespaces cannot be forbidden here\n");
      skip();
    }
    read_report(&got);
    if (status != 2 || !strstr(got.told, "kept from it")) fail_msg("%s: exit status %d; %s", table[i].what, status, got.told);
    if (!strstr(got.missing, "process namespace") || strstr(got.missing, "Landlock")) fail_msg("missing: %s", got.missing);
    assert_nothing_left(table[i].what);
  }
}

static void without_namespaces_a_command_runs_and_the_report_says_what_is_missing(void **state) {
  (void)state;
  outcome got;
  make_cases("nothing");
  int status = check("exec", NO_NAMESPACES);
  if (status == 126) skip();
  read_report(&got);
  assert_int_equal(status, 0);
  assert_non_null(strstr(got.missing, "process namespace"));
  assert_nothing_left("without namespaces");
}

/** Kills the program in the middle of a run. */
static void nothing_survives_a_suite_that_is_killed(void **state) {
  (void)state;
  make_cases("loop");
  pid_t killer = fork();
  if (killer == 0) {
    double until = mr3d_now() + 10;
    snprintf(mark, sizeof mark, "killed-%d", (int)getppid());
    while (count_marked() < 3 && mr3d_now() < until) usleep(5000); /* the host's processes; the program's own environment is closed */
    _exit(count_marked() < 3);
  }
  pid_t suite = fork();
  if (suite == 0) {
    char spec[4096];
    int nothing = open("/dev/null", O_WRONLY);
    snprintf(mark, sizeof mark, "killed-%d", (int)getppid());
    setenv("MR3D_HOSTILE_MARK", mark, 1);
    setenv("TMPDIR", scratch, 1);
    dup2(nothing, 1);
    snprintf(spec, sizeof spec, "lib:%s", getenv("MR3D_HOSTILE"));
    execl(getenv("MR3D"), "mr3d", "check", "--backend", spec, "--golden", folder, "--case", "*hostile", "--timeout", "30", NULL);
    _exit(127);
  }
  int started = 1, status;
  waitpid(killer, &started, 0);
  kill(suite, SIGKILL);
  waitpid(suite, &status, 0);
  snprintf(mark, sizeof mark, "killed-%d", (int)getpid());
  int processes = 0;
  for (int i = 0; i < 200 && (processes = count_marked()) > 0; i++) usleep(10000);
  assert_int_equal(started, 0);
  assert_int_equal(processes, 0);
  remove_folder(scratch); /* SIGKILL leaves the program no time to remove its folder */
  assert_int_equal(mkdir(scratch, 0700), 0);
}

int main(void) {
  static struct CMUnitTest tests[N_ROWS + 8];
  static char names[N_ROWS][64];
  int n = 0;
  make_folder(folder), make_folder(scratch), make_folder(work);
  int terminal = posix_openpt(O_RDWR | O_NOCTTY); /* one that could be seen */
  if (terminal >= 0) grantpt(terminal), unlockpt(terminal);
  for (int i = 0; i < N_ROWS; i++) {
    snprintf(names[i], sizeof names[i], "%s: %s", table[i].door, table[i].what);
    tests[n++] = (struct CMUnitTest){names[i], judge_row, NULL, NULL, (void *)&table[i]};
  }
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(one_that_cannot_start_ends_the_run_with_status_1);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(what_isolation_forbids_works_without_it);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(without_namespaces_the_other_layers_keep_a_plugin_in);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(without_namespaces_a_command_runs_and_the_report_says_what_is_missing);
  tests[n++] = (struct CMUnitTest)cmocka_unit_test(nothing_survives_a_suite_that_is_killed);
  int failed = _cmocka_run_group_tests("hostile backends", tests, (size_t)n, NULL, NULL);
  remove_folder(folder), remove_folder(scratch), remove_folder(work);
  return failed;
}
