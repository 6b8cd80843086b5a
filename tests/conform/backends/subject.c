/*
 * A backend that does what it is told, for the tests of exec: (tests/conform/backend_exec.c, tests/hostile/hostile.c).
 *
 * `subject [HELLO]`: HELLO spoils the hello. Afterwards the metadata `do` of each request says how it is answered; without it
 * the request's tensors come back as they are, or the reference's answer where metadata `from` is `reference`.
 */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "mr3d/safetensors.h"
#include "mr3d/server.h"

static double started; /* seconds: tells one process from the next */

static void read_all(void *bytes, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t n = read(0, (char *)bytes + got, size - got);
    if (n <= 0) exit(4);
    got += (size_t)n;
  }
}

static void write_all(const void *bytes, size_t size) {
  for (size_t sent = 0; sent < size;) {
    ssize_t n = write(1, (const char *)bytes + sent, size - sent);
    if (n <= 0) exit(5);
    sent += (size_t)n;
  }
}

static mr3d_bundle *receive(void) {
  uint64_t size;
  mr3d_bundle *frame;
  mr3d_error error = {0};
  read_all(&size, sizeof size);
  void *bytes = malloc(size);
  read_all(bytes, size);
  if (mr3d_safetensors_adopt(bytes, size, &frame, &error) != MR3D_OK) {
    fprintf(stderr, "subject: %s\n", error.message);
    exit(6);
  }
  return frame;
}

static void *as_bytes(const mr3d_bundle *frame, uint64_t *size) {
  void *bytes;
  size_t n;
  mr3d_error error = {0};
  if (mr3d_safetensors_serialize(frame, &bytes, &n, &error) != MR3D_OK) exit(7);
  *size = n;
  return bytes;
}

static void send(const mr3d_bundle *frame) {
  uint64_t size;
  void *bytes = as_bytes(frame, &size);
  write_all(&size, sizeof size);
  write_all(bytes, size);
  free(bytes);
}

static int open_descriptors(void) {
  int n = 0;
  struct stat s;
  for (int fd = 3; fd < 1024; fd++) n += fstat(fd, &s) == 0;
  return n;
}

static void hello(const char *spoiled, const char *word) {
  const bool named = strcmp(spoiled, "word") == 0;
  mr3d_bundle *frame = mr3d_bundle_new();
  mr3d_bundle_set(frame, "protocol", strcmp(spoiled, "protocol-2") == 0 ? "2" : "1");
  mr3d_bundle_set(frame, "type", strcmp(spoiled, "type") == 0 ? "answer" : "hello");
  if (strcmp(spoiled, "no-name") != 0) mr3d_bundle_set(frame, "name", named ? word : "subject");
  if (strcmp(spoiled, "scores") == 0) mr3d_bundle_set(frame, "scores", word), mr3d_bundle_set(frame, "products", "tier");
  mr3d_bundle_set(frame, "version", "7");
  mr3d_bundle_set(frame, "ops", strcmp(spoiled, "op") == 0     ? "[\"linear\",\"rope2d\"]"
                                : strcmp(spoiled, "twice") == 0 ? "[\"linear\",\"linear\"]"
                                : strcmp(spoiled, "empty") == 0 ? "[]"
                                : strcmp(spoiled, "json") == 0  ? "linear"
                                : strcmp(spoiled, "prefill") == 0 ? "[\"prefill\"]"
                                                                : "[\"linear\",\"rmsnorm\"]");
  mr3d_bundle_set(frame, "tiers", strcmp(spoiled, "tier") == 0 ? "[\"fp8\"]" : "[\"fp32\"]");
  send(frame);
  mr3d_bundle_free(&frame);
}

/* The answer that the reference gives, or its refusal; `what` spoils it. */
static void answer_rightly(const mr3d_bundle *request, const char *what, mr3d_bundle *frame) {
  static int asked;
  const char *threads = getenv("OMP_NUM_THREADS");
  const bool nan = strcmp(what, "nan") == 0, nudged = (strcmp(what, "nudge") == 0 && asked++ > 0) || (strcmp(what, "threads") == 0 && threads && strcmp(threads, "1") == 0), flat = strcmp(what, "wrong-shape") == 0, whole = strcmp(what, "wrong-dtype") == 0;
  mr3d_server *server = mr3d_server_new(&(mr3d_server_options){.threads = 1});
  mr3d_error error = {0};
  mr3d_bundle *right = NULL;
  if (mr3d_server_answer(server, request, &right, &error) != MR3D_OK) {
    mr3d_bundle_set(frame, "type", "error");
    mr3d_bundle_set(frame, "message", error.message);
  }
  for (int i = 0; right && i < mr3d_bundle_count(right); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(right, i);
    const int64_t count = mr3d_tensor_count(t);
    void *data = mr3d_bundle_add(frame, t->name, whole ? MR3D_I32 : MR3D_F32, flat ? 1 : t->rank, flat ? &count : t->shape)->data;
    for (int64_t k = 0; k < count; k++)
      if (whole) ((int32_t *)data)[k] = (int32_t)((const double *)t->data)[k];
      else ((float *)data)[k] = nan ? NAN : (float)((const double *)t->data)[k];
    if (nudged && count > 3) ((float *)data)[3] = nextafterf(((float *)data)[3], INFINITY); /* the first answer is the exact one */
  }
  mr3d_bundle_free(&right);
  mr3d_server_free(&server);
}

static volatile int always = 1;

/* Processes that leave the group, as a daemon does. */
static void leave_behind(int count) {
  for (int i = 0; i < count; i++)
    if (fork() == 0) {
      setsid();
      if (fork() == 0) pause();
      _exit(0);
    }
}

/* Behind a length that was sent: the answer, and the whole frame again in one piece with it. */
static void answer_again(const void *bytes, uint64_t size, bool without_end) {
  char *twice = malloc(2 * size + 8);
  memcpy(twice, bytes, size);
  memcpy(twice + size, &size, 8);
  memcpy(twice + size + 8, bytes, size);
  write_all(twice, 2 * size + 8);
  while (without_end) write_all(twice + size, size + 8);
  free(twice);
}

/* ---- what reaches for the suite: MR3D_HOSTILE_SUITE is its process's number ---- */

static pid_t suite(void) { return (pid_t)atoi(getenv("MR3D_HOSTILE_SUITE")); }
static bool stop_suite(void) { return kill(suite(), SIGSTOP) == 0; }
static bool kill_suite(void) { return kill(suite(), SIGKILL) == 0; }
static bool trace_suite(void) { return ptrace(PTRACE_SEIZE, suite(), NULL, NULL) == 0; }
static bool limit_suite(void) { return prlimit(suite(), RLIMIT_CPU, &(struct rlimit){1, 1}, NULL) == 0; }
static bool join_suite(void) { return setpgid(0, getpgid(suite())) == 0 || tcgetpgrp(0) > 0 || open("/dev/tty", O_RDWR) >= 0; }

/* Control groups of a system that has them: in one of them the suite could be frozen. */
static bool freeze_suite(void) {
  struct statvfs s;
  return statvfs("/sys/fs/cgroup", &s) == 0 && !(s.f_flag & ST_RDONLY);
}

static bool changes(const char *path) {
  char other[4200];
  snprintf(other, sizeof other, "%s-moved", path);
  if (rename(path, other) == 0) return rename(other, path) == 0;
  return access(path, W_OK) == 0;
}

/* The suite's program, from beside which the host is started again after a crash, or any folder above it. */
static bool replace_program(void) {
  char path[4096];
  if (!realpath(getenv("MR3D"), path) || changes(path)) return true;
  char other[4200];
  for (char *slash; (slash = strrchr(path, '/')) > path;) {
    *slash = 0;
    snprintf(other, sizeof other, "%s-moved", path);
    if (rename(path, other) == 0) return rename(other, path) == 0;
  }
  return false;
}

/* The folder with the weights that requests name. */
static bool write_scratch(void) {
  char path[4096];
  DIR *all = opendir(getenv("TMPDIR"));
  bool reached = !all;
  for (struct dirent *entry; all && (entry = readdir(all));) {
    snprintf(path, sizeof path, "%s/%s", getenv("TMPDIR"), entry->d_name);
    reached |= strncmp(entry->d_name, "mr3d-", 5) == 0 && changes(path);
  }
  if (all) closedir(all);
  return reached;
}

static bool see_terminals(void) {
  DIR *all = opendir("/dev/pts");
  bool found = false;
  for (struct dirent *entry; all && (entry = readdir(all));) found |= entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
  if (all) closedir(all);
  return found;
}

static bool nest_users(void) { return unshare(CLONE_NEWUSER) == 0; }

static bool read_goldens(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/set", getenv("MR3D_GOLDEN"));
  umount2(path, MNT_DETACH);
  DIR *set = opendir(path);
  int found = 0;
  for (struct dirent *entry; set && (entry = readdir(set));) found += entry->d_name[0] != '.';
  if (set) closedir(set);
  return found > 0;
}

static const struct {
  const char *name;
  bool (*reach)(void);
} reaches[] = {{"stop-suite", stop_suite}, {"kill-suite", kill_suite},     {"trace-suite", trace_suite},  {"limit-suite", limit_suite},
               {"join-suite", join_suite}, {"freeze-suite", freeze_suite}, {"read-goldens", read_goldens},
               {"replace-program", replace_program}, {"write-scratch", write_scratch}, {"see-terminals", see_terminals}, {"nest-users", nest_users}};

/* What needs no answer at hand. */
static void misbehave(const char *what) {
  for (size_t i = 0; i < sizeof reaches / sizeof *reaches; i++)
    if (strcmp(what, reaches[i].name) == 0 && !reaches[i].reach()) fputs("kept from it\n", stderr), what = "abort";
  if (strcmp(what, "abort") == 0) signal(SIGABRT, SIG_DFL), abort();
  if (strcmp(what, "fork-bomb") == 0) leave_behind(100), pause();
  if (strcmp(what, "leave-daemon") == 0) leave_behind(1);
  if (strcmp(what, "signals") == 0)
    for (int s = 1; s < NSIG; s++) signal(s, SIG_IGN);
  if (strcmp(what, "signals") == 0 || strcmp(what, "loop") == 0)
    while (always) {}
  if (strcmp(what, "endless-output") == 0)
    while (always) write_all("All work and no play makes Jack a dull boy.\n", 44);
}

static void answer(const mr3d_bundle *request, const char *what) {
  mr3d_bundle *frame = mr3d_bundle_new();
  const bool is = what != NULL;
#define DO(name) (is && strcmp(what, name) == 0)
  mr3d_bundle_set(frame, "protocol", DO("protocol") ? "3" : "1");
  mr3d_bundle_set(frame, "type",
                  DO("refuse") || DO("refuse-silently") ? "error"
                  : DO("unsupported")                   ? "unsupported"
                  : DO("type")                          ? "reply"
                                                        : "answer");
  if (!DO("no-id")) mr3d_bundle_set(frame, "id", DO("id") ? "77" : mr3d_bundle_get(request, "id"));
  if (DO("refuse") || DO("unsupported")) mr3d_bundle_set(frame, "message", "as asked");
  if (DO("count-descriptors")) mr3d_bundle_setf(frame, "descriptors", "%d", open_descriptors());
  if (DO("say-start")) mr3d_bundle_setf(frame, "start", "%.9f", started);
  if (is) misbehave(what);
  if (mr3d_bundle_get(request, "from")) answer_rightly(request, is ? what : "", frame);
  else
    for (int i = 0; i < mr3d_bundle_count(request); i++) mr3d_bundle_copy(frame, NULL, mr3d_bundle_at(request, i));

  if (DO("long-header")) {
    char *words = malloc(5 << 20);
    memset(words, 'w', 5 << 20);
    words[(5 << 20) - 1] = 0;
    mr3d_bundle_set(frame, "words", words);
    free(words);
  }
  uint64_t size;
  void *bytes = as_bytes(frame, &size);
  if (DO("segfault")) signal(SIGSEGV, SIG_DFL), raise(SIGSEGV); /* not a sanitizer's handler */
  if (DO("exit")) fputs("no such weights\n\n", stderr), exit(3);
  if (DO("exit-0")) exit(0);
  if (DO("hang")) pause();
  if (DO("flood")) {
    char line[1001];
    memset(line, 'x', 999);
    line[999] = '\n', line[1000] = 0;
    fputs("first line\n", stderr);
    for (int i = 0; i < 3000; i++) fputs(line, stderr);
    fputs("last line\n", stderr);
  }
  if (DO("giant")) size = (uint64_t)1 << 40;
  if (DO("print")) puts("Loading the model, please wait"), fflush(stdout);
  if (DO("garbage")) memset(bytes, 'g', size);
  write_all(&size, DO("short-length") ? 5 : 8);
  if (DO("short-length")) exit(0);
  if (DO("giant")) pause();
  if (DO("exit-middle")) write_all(bytes, size / 2), exit(0);
  if (DO("drip")) {
    for (uint64_t i = 0; i < size / 2; i++) write_all((char *)bytes + i, 1), usleep(20000);
    pause();
  }
  if (DO("close")) write_all(bytes, size / 2), close(1), pause();
  if (DO("leave-child")) {
    pid_t child = fork();
    if (child == 0) pause();
    fprintf(stderr, "%d\n", (int)child);
    raise(SIGABRT);
  }
  if (DO("twice") || DO("endless-answers")) answer_again(bytes, size, always && DO("endless-answers"));
  else write_all(bytes, size);
  if (DO("exit-after")) exit(9);
  if (DO("exit-later")) usleep(30000), exit(9);
  if (DO("close-input")) close(0), pause();
  free(bytes);
  mr3d_bundle_free(&frame);
}

int main(int argc, char **argv) {
  const char *spoiled = argc > 1 ? argv[1] : "";
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  started = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
  if (strcmp(spoiled, "silent") == 0) pause();
  if (strcmp(spoiled, "exit") == 0) fputs("ModuleNotFoundError: No module named 'torch'\n", stderr), exit(1);
  if (strcmp(spoiled, "print") == 0) puts("Hello, I am a backend"), fflush(stdout), pause();
  if (strcmp(spoiled, "signals") == 0) kill(getppid(), SIGALRM), kill(getppid(), SIGUSR1);
  if (strcmp(spoiled, "once") == 0) { /* starts only once: the second time its lock file is there */
    if (open(argv[2], O_CREAT | O_EXCL, 0600) < 0) fputs("already running\n", stderr), exit(1);
  }
  for (;;) {
    mr3d_bundle *frame = receive();
    const char *type = mr3d_bundle_get(frame, "type"), *what = mr3d_bundle_get(frame, "do");
    if (strcmp(type, "bye") == 0) return strcmp(spoiled, "ends-badly") == 0 ? 3 : 0;
    if (strcmp(type, "hello") == 0) hello(spoiled, argc > 2 ? argv[2] : "");
    else answer(frame, what);
    mr3d_bundle_free(&frame);
  }
}
