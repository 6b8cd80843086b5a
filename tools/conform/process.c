#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "frames.h"
#include "sanitized.h"

/* Beyond any answer and any cache: only what writes without end meets it (MR3D_PROCESS_LIMITS). */
#define LARGEST_FILE ((rlim_t)64 << 30)

/* ---- words ---- */

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\n'; }

mr3d_status mr3d_words_split(const char *command, char ***words, mr3d_error *error) {
  size_t length = strlen(command);
  char **list = mr3d_allocate((long long)length + 2, sizeof *list);
  int n = 0;
  for (const char *c = command; *c;) {
    if (blank(*c)) {
      c++;
      continue;
    }
    char *word = list[n++] = mr3d_allocate((long long)length + 1, 1);
    char quote = 0;
    for (; *c && (quote || !blank(*c)); c++) {
      if (quote == 0 && (*c == '\'' || *c == '"')) quote = *c;
      else if (*c == quote) quote = 0;
      else if (*c == '\\' && quote != '\'' && c[1] && (quote == 0 || strchr("\\\"$`", c[1]))) *word++ = *++c;
      else *word++ = *c;
    }
    if (quote) {
      mr3d_words_free(&list);
      return mr3d_fail(error, MR3D_INVALID, "a %s quote is never closed in: %s", quote == '"' ? "double" : "single", command);
    }
  }
  if (n == 0) {
    mr3d_words_free(&list);
    return mr3d_fail(error, MR3D_INVALID, "there is no command after \"exec:\"; write, for example, exec:'python3 my_backend.py'");
  }
  *words = list;
  return MR3D_OK;
}

void mr3d_words_free(char ***words) {
  if (!*words) return;
  for (char **w = *words; *w; w++) free(*w);
  free(*words);
  *words = NULL;
}

/* ---- stderr: a thread empties the pipe always, so that a talkative child never waits ---- */

struct mr3d_log {
  int fd, stop; /* the pipe's reading end; an eventfd that ends the thread */
  pthread_t thread;
  pthread_mutex_t lock;
  size_t kept;
  unsigned long long dropped; /* from the middle */
  char text[MR3D_LOG_CAP];
};

/* The beginning tells what it is, the end why it died: the middle goes. */
static void keep(mr3d_log *log, const char *bytes, size_t n) {
  const size_t half = MR3D_LOG_CAP / 2;
  if (log->kept < half) {
    size_t room = half - log->kept, now = n < room ? n : room;
    memcpy(log->text + log->kept, bytes, now);
    log->kept += now, bytes += now, n -= now;
  }
  if (n == 0) return;
  if (n > half) log->dropped += n - half, bytes += n - half, n = half;
  size_t tail = log->kept - half;
  if (tail + n > half) {
    size_t out = tail + n - half;
    memmove(log->text + half, log->text + half + out, tail - out);
    log->kept -= out, log->dropped += out;
  }
  memcpy(log->text + log->kept, bytes, n);
  log->kept += n;
}

/* With the lock held. Bounded, because a child that never stops writing must not keep us here. Returns false at the pipe's end. */
static bool drain(mr3d_log *log) {
  char bytes[16384];
  for (int turn = 0; turn < 64; turn++) {
    ssize_t n = read(log->fd, bytes, sizeof bytes);
    if (n == 0) return false;
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    keep(log, bytes, (size_t)n);
  }
  return true;
}

static void *listen_always(void *user) {
  mr3d_log *log = user;
  struct pollfd wait[2] = {{.fd = log->fd, .events = POLLIN}, {.fd = log->stop, .events = POLLIN}};
  for (;;) {
    if (poll(wait, 2, -1) < 0 && errno != EINTR) return NULL;
    if (wait[1].revents) return NULL;
    if (!wait[0].revents) continue;
    pthread_mutex_lock(&log->lock);
    bool open = drain(log);
    pthread_mutex_unlock(&log->lock);
    if (!open) wait[0].fd = -1;
  }
}

/* Takes the descriptor over. NULL: there is no thread to be had. */
static mr3d_log *log_start(int fd) {
  mr3d_log *log = mr3d_allocate(1, sizeof *log);
  log->fd = fd;
  log->stop = eventfd(0, EFD_CLOEXEC);
  pthread_mutex_init(&log->lock, NULL);
  sigset_t all, before; /* the program's signals are for its own threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int reason = pthread_create(&log->thread, NULL, listen_always, log);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (reason == 0) return log;
  pthread_mutex_destroy(&log->lock);
  close(fd), close(log->stop);
  free(log);
  return NULL;
}

static void log_end(mr3d_log *log) {
  if (!log) return;
  uint64_t one = 1;
  while (write(log->stop, &one, sizeof one) < 0 && errno == EINTR) {}
  pthread_join(log->thread, NULL);
  pthread_mutex_destroy(&log->lock);
  close(log->fd);
  close(log->stop);
  free(log);
}

char *mr3d_process_log(mr3d_process *process) {
  mr3d_log *log = process->log;
  const size_t half = MR3D_LOG_CAP / 2;
  char *text = mr3d_allocate(MR3D_LOG_CAP + 64, 1);
  pthread_mutex_lock(&log->lock);
  drain(log); /* what was written before the answer is in the pipe by now */
  size_t head = log->kept < half ? log->kept : half, n = head;
  memcpy(text, log->text, head);
  if (log->dropped) n += (size_t)snprintf(text + n, 64, "\n[... %llu bytes left out ...]\n", log->dropped);
  memcpy(text + n, log->text + head, log->kept - head);
  n += log->kept - head;
  log->kept = 0, log->dropped = 0;
  pthread_mutex_unlock(&log->lock);
  for (size_t i = 0; i < n; i++)
    if (text[i] == 0) text[i] = '?';
  return text;
}

/* ---- what is left behind ---- */

/* Parent and start, in ticks since the machine's, of a process; false where there is none. */
static bool origin_of(pid_t pid, pid_t *parent, unsigned long long *start) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return false;
  text[n] = 0;
  const char *behind_name = strrchr(text, ')'); /* the name may hold anything */
  int ppid;
  if (!behind_name || sscanf(behind_name, ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ppid, start) != 2) return false;
  *parent = (pid_t)ppid;
  return true;
}

static struct {
  pthread_mutex_t lock;
  int running;
  unsigned long long since; /* start of the first process */
} processes = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void remember(const mr3d_process *p) {
  pid_t parent;
  unsigned long long start = 0;
  pthread_mutex_lock(&processes.lock);
  if (processes.running++ == 0 && processes.since == 0 && origin_of(p->pid, &parent, &start)) processes.since = start;
  pthread_mutex_unlock(&processes.lock);
}

/* One look at all processes: kills those that this one has adopted. Returns how many there were. */
static int end_adopted(void) {
  int found = 0;
  DIR *all = opendir("/proc");
  for (struct dirent *entry; all && (entry = readdir(all));) {
    pid_t pid = (pid_t)atoi(entry->d_name), parent;
    unsigned long long start;
    if (pid <= 0 || !origin_of(pid, &parent, &start) || parent != getpid() || start < processes.since) continue;
    found++;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {} /* its own children come to this process now */
  }
  if (all) closedir(all);
  return found;
}

/* With the last process: its children that left its group have been adopted by this one (PR_SET_CHILD_SUBREAPER). */
static void end_strays(void) {
  pthread_mutex_lock(&processes.lock);
  double until = mr3d_now() + 5; /* those that fork faster than they are killed are beyond this */
  if (--processes.running == 0 && processes.since)
    while (end_adopted() > 0 && mr3d_now() < until) {}
  pthread_mutex_unlock(&processes.lock);
}

/* ---- start ---- */

static bool executable(const char *path) {
  struct stat s;
  return stat(path, &s) == 0 && S_ISREG(s.st_mode) && access(path, X_OK) == 0;
}

mr3d_status mr3d_process_find(const char *name, char path[4096], mr3d_error *error) {
  if (strchr(name, '/')) {
    if (snprintf(path, 4096, "%s", name) >= 4096) return mr3d_fail(error, MR3D_IO, "the command's path is too long");
    if (executable(path)) return MR3D_OK;
    struct stat s;
    if (stat(path, &s) != 0) return mr3d_fail(error, MR3D_IO, "command not found: %s: %s", path, strerror(errno));
    return mr3d_fail(error, MR3D_IO, "%s is %s", path,
                     S_ISREG(s.st_mode) ? "not executable (chmod +x, or name its interpreter)" : "no program file");
  }
  const char *folders = getenv("PATH");
  for (const char *f = folders ? folders : "/usr/bin:/bin"; ; f++) {
    size_t n = strcspn(f, ":");
    if (snprintf(path, 4096, "%.*s%s%s", (int)n, f, n ? "/" : "", name) < 4096 && executable(path)) return MR3D_OK;
    f += n;
    if (!*f) break;
  }
  return mr3d_fail(error, MR3D_IO, "command not found: no folder of PATH holds an executable \"%s\"", name);
}

/* Moves a descriptor out of the way of 0, 1 and 2. */
static int above_stderr(int fd) { return fd > 3 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 4); }

static void lower(int resource, rlim_t most) {
  struct rlimit bound;
  if (getrlimit(resource, &bound) != 0) return;
  if (bound.rlim_max > most) bound.rlim_max = most;
  if (bound.rlim_cur > bound.rlim_max) bound.rlim_cur = bound.rlim_max;
  setrlimit(resource, &bound);
}

/* In the child, between fork and exec: only calls that are safe there. */
static _Noreturn void become(char *const argv[], const char *path, char *const environment[], pid_t parent, bool limits, int in, int out, int err, int report) {
  for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  if (limits) lower(RLIMIT_CORE, 0), lower(RLIMIT_FSIZE, LARGEST_FILE);
  in = above_stderr(in), out = above_stderr(out), err = above_stderr(err), report = above_stderr(report);
  if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0 && dup2(report, 3) >= 0 && fcntl(3, F_SETFD, FD_CLOEXEC) == 0) {
#ifdef SYS_close_range
    if (syscall(SYS_close_range, 4U, ~0U, 0U) != 0)
#endif
      for (int fd = 4; fd < sysconf(_SC_OPEN_MAX); fd++) close(fd);
    report = 3;
    execve(path, argv, environment);
  }
  int reason = errno;
  ssize_t ignored = write(report, &reason, sizeof reason);
  (void)ignored;
  _exit(127);
}

#define THREADS_VARIABLE "OMP_NUM_THREADS=" /* OpenMP's; torch, BLAS libraries and others heed it too */

/* This process's environment with the number of threads, put into `threads`, that the child is given; the list is the caller's. */
static char **environment_with(char *threads) {
  int n = 0;
  while (environ && environ[n]) n++;
  char **list = mr3d_allocate(n + 2, sizeof *list);
  n = 0;
  for (char **e = environ; e && *e; e++)
    if (!*threads || strncmp(*e, THREADS_VARIABLE, strlen(THREADS_VARIABLE)) != 0) list[n++] = *e;
  if (*threads) list[n] = threads;
  return list;
}

static void close_both(int pair[2]) {
  for (int i = 0; i < 2; i++)
    if (pair[i] >= 0) close(pair[i]);
}

void mr3d_process_protections(bool limits, bool own_user, char active[512], char missing[512]) {
  bool adopts = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, closed = !MR3D_SANITIZED && limits && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0;
  snprintf(active, 512, "process group of its own; no inherited descriptors%s", adopts ? "; its children end with it" : "");
  snprintf(missing, 512, "%s", adopts ? "" : "its children end with it: this process cannot adopt them");
  char *list = closed ? active : missing;
  size_t n = strlen(list);
  if (limits)
    snprintf(list + n, 512 - n, "%sthe suite's memory closed to it%s", n ? "; " : "",
             closed ? geteuid() == 0 && !own_user ? " (but not to root's capabilities)" : "" : ": the suite is built with a sanitizer");
}

mr3d_status mr3d_process_start(char *const argv[], int threads, bool limits, mr3d_process **process, mr3d_error *error) {
  char path[4096], given[sizeof THREADS_VARIABLE + 12] = "";
  if (mr3d_process_find(argv[0], path, error) != MR3D_OK) return error ? error->status : MR3D_IO;

  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* also where this process was forked from the one that said so in mr3d_process_protections */
  int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, report[2] = {-1, -1};
  pid_t parent = getpid(), pid = -1;
  if (threads > 0) snprintf(given, sizeof given, THREADS_VARIABLE "%d", threads);
  char **environment = environment_with(given);
  if (pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0 && pipe2(report, O_CLOEXEC) == 0) pid = fork();
  if (pid == 0) become(argv, path, environment, parent, limits, in[0], out[1], err[1], report[1]);
  free(environment);
  if (pid < 0) {
    int reason = errno;
    close_both(in), close_both(out), close_both(err), close_both(report);
    return mr3d_fail(error, MR3D_IO, "could not start %s: %s", argv[0], strerror(reason));
  }
  setpgid(pid, pid);
  close(in[0]), close(out[1]), close(err[1]), close(report[1]);
  int reason = 0;
  ssize_t told;
  while ((told = read(report[0], &reason, sizeof reason)) < 0 && errno == EINTR) {}
  close(report[0]);
  if (told > 0) {
    close(in[1]), close(out[0]), close(err[0]);
    waitpid(pid, NULL, 0);
    return mr3d_fail(error, MR3D_IO, "could not start %s: %s%s", path, strerror(reason),
                     reason == ENOEXEC ? " (a script needs a first line such as #!/usr/bin/env python3)" : "");
  }

  fcntl(in[1], F_SETFL, O_NONBLOCK);
  fcntl(out[0], F_SETFL, O_NONBLOCK);
  fcntl(err[0], F_SETFL, O_NONBLOCK);
#ifdef F_SETPIPE_SZ /* fewer turns for large tensors; a refusal only costs speed */
  fcntl(in[1], F_SETPIPE_SZ, 1 << 20);
  fcntl(out[0], F_SETPIPE_SZ, 1 << 20);
#endif
  mr3d_process *p = mr3d_allocate(1, sizeof *p);
  *p = (mr3d_process){.pid = pid, .to = in[1], .from = out[0], .watch = -1, .log = log_start(err[0])};
#ifdef SYS_pidfd_open
  p->watch = (int)syscall(SYS_pidfd_open, pid, 0);
#endif
  remember(p);
  if (!p->log) {
    mr3d_process_end(&p, 0);
    return mr3d_fail(error, MR3D_IO, "could not start a thread that reads what %s writes to stderr: the system's limit of processes and threads is reached", argv[0]);
  }
  *process = p;
  return MR3D_OK;
}

/* ---- end ---- */

bool mr3d_process_ended(const mr3d_process *process, double patience, char how[128]) {
  double until = mr3d_now() + patience;
  for (long pause = 100000;; pause = pause < 10000000 ? 2 * pause : pause) {
    siginfo_t info = {0};
    /* WNOWAIT: it stays a zombie, so that its number and its group's stay ours until mr3d_process_end. */
    if (waitid(P_PID, (id_t)process->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno != EINTR) {
      snprintf(how, 128, "ended (its status was lost)");
      return true;
    }
    if (info.si_pid == process->pid) {
      if (info.si_code == CLD_EXITED) snprintf(how, 128, "exited with status %d", info.si_status);
      else snprintf(how, 128, "killed by signal %d (%s)", info.si_status, strsignal(info.si_status));
      return true;
    }
    if (mr3d_now() >= until) return false;
    nanosleep(&(struct timespec){0, pause}, NULL);
  }
}

void mr3d_process_end(mr3d_process **process, double patience) {
  mr3d_process *p = *process;
  if (!p) return;
  close(p->to);
  close(p->from);
  char how[128];
  mr3d_process_ended(p, patience, how);
  kill(-p->pid, SIGKILL); /* also what it started and did not end */
  while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR) {}
  end_strays();
  if (p->watch >= 0) close(p->watch);
  log_end(p->log);
  free(p);
  *process = NULL;
}
