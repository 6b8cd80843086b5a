#include "team.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_set_num_threads(n) (void)(n)
#define omp_get_num_procs() 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mr3d/tensor.h"

struct member {
  pid_t pid;
  int from; /* -1: has finished */
};

bool mr3d_tell(int to, const void *bytes, size_t size) {
  for (const char *at = bytes; size > 0;) {
    ssize_t n = write(to, at, size);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) at += n, size -= (size_t)n;
  }
  return true;
}

bool mr3d_told(int from, void *bytes, size_t size) {
  for (char *at = bytes; size > 0;) {
    ssize_t n = read(from, at, size);
    if (n == 0 || (n < 0 && errno != EINTR)) return false;
    if (n > 0) at += n, size -= (size_t)n;
  }
  return true;
}

void mr3d_team_threads(int threads) {
  atomic_int started = 0;
#pragma omp parallel num_threads(threads > 0 ? threads : omp_get_num_procs())
  atomic_fetch_add(&started, 1);
}

static mr3d_status start(const mr3d_team *team, int i, struct member *member, mr3d_error *error) {
  int ends[2];
  pid_t parent = getpid();
  if (pipe2(ends, O_CLOEXEC) != 0) return mr3d_fail(error, MR3D_IO, "cannot make a pipe");
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    close(ends[0]);
    omp_set_num_threads(team->threads);
    mr3d_team_threads(team->threads);
    team->work(team->user, i, ends[1]);
    _exit(0);
  }
  close(ends[1]);
  if (pid < 0) close(ends[0]);
  else *member = (struct member){pid, ends[0]};
  return pid < 0 ? mr3d_fail(error, MR3D_IO, "cannot start a process") : MR3D_OK;
}

/** Hears who has something to say, until nobody has. */
static mr3d_status hear_all(const mr3d_team *team, int n, struct member members[], mr3d_error *error) {
  mr3d_status status = MR3D_OK;
  struct pollfd *wait = mr3d_allocate(n, sizeof *wait);
  for (int left = n; left > 0;) {
    for (int i = 0; i < n; i++) wait[i] = (struct pollfd){.fd = members[i].from, .events = POLLIN};
    if (poll(wait, (nfds_t)n, -1) < 0) continue;
    for (int i = 0; i < n; i++) {
      if (!wait[i].revents) continue;
      bool finished = false;
      mr3d_error own = {0};
      mr3d_status heard = team->hear(team->user, members[i].from, &finished, &own);
      if (heard != MR3D_OK && status == MR3D_OK) status = mr3d_fail(error, heard, "%s", own.message);
      if (heard == MR3D_OK && !finished) continue;
      close(members[i].from);
      members[i].from = -1;
      left--;
    }
  }
  free(wait);
  return status;
}

mr3d_status mr3d_team_run(const mr3d_team *team, mr3d_error *error) {
  struct member *members = mr3d_allocate(team->members, sizeof *members);
  mr3d_status status = MR3D_OK;
  int n = 0;
  while (n < team->members && start(team, n, &members[n], error) == MR3D_OK) n++;
  if (n == team->members) status = hear_all(team, n, members, error);
  for (int i = 0; i < n && n < team->members; i++) kill(members[i].pid, SIGTERM), close(members[i].from);
  for (int i = 0; i < n; i++) {
    int how = 0;
    while (waitpid(members[i].pid, &how, 0) < 0 && errno == EINTR) {}
    if (WIFSIGNALED(how) && n == team->members) status = mr3d_fail(error, MR3D_IO, "a process that judges died (signal %d)", WTERMSIG(how));
  }
  free(members);
  return n < team->members ? MR3D_IO : status;
}
