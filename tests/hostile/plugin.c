/*
 * A plug-in that answers rmsnorm as it should, and does what the metadata `do` of a request says instead: for tests/hostile/hostile.c.
 *
 * What tries to reach something answers as it should where it succeeds, and aborts with "kept from it" where it is kept from it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "mr3d/backend.h"

static volatile int always = 1;

/* ---- what can be done to the host ---- */

static void spin(void) {
  while (always) {}
}

static void segfault(void) { *(volatile int *)(uintptr_t)(always - 1) = 1; }
static void end_well(void) { exit(0); }

static void talk_without_end(void) {
  while (always) fputs("and another thing\n", stderr);
}

static void ignore_signals_and_spin(void) {
  for (int s = 1; s < NSIG; s++) signal(s, SIG_IGN);
  spin();
}

static void close_everything(void) {
  for (int fd = 0; fd < 1024; fd++) close(fd);
}

/* The frames' descriptors lie above stderr. */
static void write_into_frames(void) {
  for (int fd = 3; fd < 64; fd++)
    if (write(fd, "All is well, all is well.", 25) == 25) return;
}

static void take_all_memory(void) {
  for (size_t size = (size_t)1 << 24; always;) {
    char *more = malloc(size);
    if (!more) fputs("kept from it\n", stderr), abort();
    memset(more, 1, size);
  }
}

static void fork_without_end(void) {
  int started = 0;
  for (int i = 0; i < 100; i++) { /* where nothing stops it, enough to be seen */
    pid_t child = fork();
    if (child == 0) pause();
    started += child > 0;
  }
  if (started == 0) fputs("kept from it\n", stderr), abort();
  spin();
}

/* ---- what can be reached ---- */

static int readable(const char *folder) {
  char path[4096];
  snprintf(path, sizeof path, "%.4000s/manifest.json", folder);
  int fd = open(path, O_RDONLY);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

/* By its name, by the working folder, and by every other process's eyes. */
static int read_goldens(void) {
  char path[4096];
  const char *folder = getenv("MR3D_GOLDEN");
  int found = readable(folder) || readable(".") || readable("/proc/self/cwd");
  for (int pid = 1; pid < 4; pid++) {
    snprintf(path, sizeof path, "/proc/%d/root%.4000s", pid, folder);
    found |= readable(path);
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    found |= readable(path);
  }
  umount2(folder, MNT_DETACH);
  return found || readable(folder);
}

/* Whether the memory of any other process can be read; the suite's is among them where they can be seen. */
static int read_others(void) {
  int found = 0;
  DIR *all = opendir("/proc");
  for (struct dirent *entry; all && (entry = readdir(all));) {
    char path[300], byte;
    pid_t pid = (pid_t)atoi(entry->d_name);
    if (pid <= 0 || pid == getpid()) continue;
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDONLY);
    if (fd >= 0) found++, close(fd);
    struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)&always, 1};
    found += process_vm_readv(pid, &here, 1, &there, 1, 0) >= 0 || errno != EPERM;
    found += ptrace(PTRACE_ATTACH, pid, NULL, NULL) == 0;
  }
  if (all) closedir(all);
  return found;
}

static int kill_others(void) {
  const pid_t targets[] = {getppid(), 1, 0, -1, getpid() + 1};
  int reached = 0;
  for (int i = 0; i < 5; i++)
    if (targets[i] != 0 || i == 2) reached += kill(targets[i], 0) == 0;
  return reached;
}

static int open_socket(void) {
  const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, AF_PACKET};
  for (int i = 0; i < 5; i++)
    if (socket(families[i], SOCK_DGRAM, 0) >= 0 || socket(families[i], SOCK_STREAM, 0) >= 0) return 1;
  return 0;
}

static int write_file(void) {
  const char *folders[] = {".", "/tmp", "/dev/shm", "/var/tmp", getenv("TMPDIR"), getenv("HOME")};
  int written = 0;
  for (int i = 0; i < 6; i++) {
    char path[4096];
    snprintf(path, sizeof path, "%.4000s/left-by-a-plugin", folders[i] ? folders[i] : ".");
    written += open(path, O_CREAT | O_WRONLY, 0600) >= 0;
  }
  return written;
}

static int start_process(void) {
  pid_t child = fork();
  if (child == 0) {
    setsid();
    if (fork() == 0) pause();
    _exit(0);
  }
  if (child > 0) waitpid(child, NULL, 0);
  return child > 0;
}

/* ---- the operator ---- */

static const struct {
  const char *name;
  void (*act)(void);
} acts[] = {{"segfault", segfault},        {"abort", abort},
            {"exit-0", end_well},          {"loop", spin},
            {"talk", talk_without_end},    {"signals", ignore_signals_and_spin},
            {"close", close_everything},   {"write-into-frames", write_into_frames},
            {"memory", take_all_memory},   {"fork-bomb", fork_without_end}};

static const struct {
  const char *name;
  int (*reach)(void);
} reaches[] = {{"read-goldens", read_goldens}, {"read-others", read_others}, {"kill-others", kill_others},
               {"open-socket", open_socket},   {"write-file", write_file},   {"start-process", start_process}};

static int is(const mr3d_backend_request *r, const char *what) {
  const char *told = r->metadata(r, "do");
  return told && strcmp(told, what) == 0;
}

static void misbehave(const mr3d_backend_request *r) {
  for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
    if (is(r, acts[i].name)) acts[i].act();
  for (size_t i = 0; i < sizeof reaches / sizeof *reaches; i++)
    if (is(r, reaches[i].name) && !reaches[i].reach()) fputs("kept from it\n", stderr), abort();
}

/* With the inputs, before the answer. */
static void mistreat_inputs(const mr3d_backend_request *r, const DLTensor *x) {
  if (is(r, "write-input")) ((float *)x->data)[0] = 1;
  if (is(r, "free-input")) free(x->data);
}

/* With the output, when it is right. */
static void mistreat_output(const mr3d_backend_request *r, DLTensor *y, int64_t count) {
  char *data = y->data;
  if (is(r, "byte-past-end")) data[count * 4] = 0;
  if (is(r, "byte-before")) data[-1] = 0;
  if (is(r, "page-past-end")) ((volatile char *)data)[count * 4 + 4096] = 0;
  if (is(r, "free-output")) free(data);
  if (is(r, "negative-strides")) y->strides[y->ndim - 1] = -1;
  if (is(r, "larger-shape")) y->shape[0] = 1 << 20;
  if (is(r, "other-data")) y->data = data + 4;
  if (is(r, "nan"))
    for (int64_t i = 0; i < count; i++) ((float *)y->data)[i] = NAN;
  if (is(r, "rounding")) fesetround(FE_UPWARD);
#ifdef __SSE__
  if (is(r, "flush")) _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
  if (is(r, "print")) puts("a word to the world");
}

static int rmsnorm(void *state, const mr3d_backend_request *r, mr3d_backend_reply *reply) {
  (void)state;
  const DLTensor *x = r->tensor(r, "x"), *weight = r->tensor(r, "weight");
  double eps = 0;
  int64_t n = x->shape[x->ndim - 1], rows = 1;
  if (weight->shape[0] != n) return reply->refuse(reply, "weight must be as long as x's rows");
  misbehave(r);
  if (is(r, "unsupported")) return reply->unsupported(reply, "not this one");
  mistreat_inputs(r, x);
  for (int i = 0; i < x->ndim - 1; i++) rows *= x->shape[i];
  r->config_number(r, "rms_norm_eps", &eps);
  const int64_t flat = rows * n;
  DLTensor *y = is(r, "wrong-shape")   ? reply->output(reply, "y", "F32", 1, &flat)
                : is(r, "wrong-dtype") ? reply->output(reply, "y", "I32", x->ndim, x->shape)
                                       : reply->output(reply, "y", "F32", x->ndim, x->shape);
  const float *in = x->data, *scale = weight->data;
  for (int64_t row = 0; row < rows; row++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)in[row * n + i] * in[row * n + i];
    for (int64_t i = 0; i < n; i++) ((float *)y->data)[row * n + i] = (float)(in[row * n + i] / sqrt(sum / (double)n + eps) * scale[i]);
  }
  mistreat_output(r, y, rows * n);
  if (is(r, "change-input-shape")) x->shape[0] = 1 << 20;
  return 0;
}

static int supports(const char *op, const char *tier) { return op && strcmp(tier, "fp32") == 0; }

static int create(const mr3d_backend_host *host, void **state) {
  (void)host, (void)state;
  const char *what = getenv("MR3D_HOSTILE_CREATE");
  if (what && strcmp(what, "loop") == 0) spin();
  if (what && strcmp(what, "segfault") == 0) segfault();
  return 0;
}

const mr3d_backend_plugin *mr3d_backend_entry(uint32_t abi_version) {
  static const mr3d_backend_plugin table = {.abi_version = MR3D_BACKEND_ABI_VERSION,
                                            .struct_size = sizeof table,
                                            .name = "hostile",
                                            .version = "1",
                                            .supports = supports,
                                            .create = create,
                                            .rmsnorm = rmsnorm};
  return abi_version == MR3D_BACKEND_ABI_VERSION ? &table : NULL;
}
