#include "parallel.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scratch.h"

/** What the processes share about the work itself. */
typedef struct shared {
  atomic_int next, done;
  atomic_bool failed;
  char message[1024]; /* of the first that failed */
} shared;

void *mr3d_shared_memory(size_t size) {
  void *memory = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

void mr3d_shared_free(void *memory, size_t size) {
  if (memory) munmap(memory, size ? size : 1);
}

int mr3d_parallel_jobs(int jobs) {
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  return jobs > 0 ? jobs : processors > 0 ? (int)processors : 1;
}

static void be_a_worker(const mr3d_work *work, shared *s) {
  mr3d_worker worker = {.weights = mr3d_weights_cache_new()};
  mr3d_error error = {0};
  mr3d_status status = mr3d_scratch_open(&worker.scratch, &error);
  int index = -1;
  while (status == MR3D_OK && !atomic_load(&s->failed)) {
    index = atomic_fetch_add(&s->next, 1);
    if (index >= work->total) break;
    status = work->one(work->user, &worker, index, &error);
    atomic_fetch_add(&s->done, 1);
  }
  if (status != MR3D_OK && !atomic_exchange(&s->failed, true))
    snprintf(s->message, sizeof s->message, "%s%s%.900s", index >= 0 ? work->name(work->user, index) : "", index >= 0 ? ": " : "", error.message);
  mr3d_weights_cache_free(&worker.weights);
  mr3d_scratch_close();
}

mr3d_status mr3d_parallel(const mr3d_work *work, int jobs, mr3d_error *error) {
  shared *s = mr3d_shared_memory(sizeof *s);
  if (!s) return mr3d_fail(error, MR3D_IO, "no shared memory");
  mr3d_status status = MR3D_OK;
  int running = 0;
  jobs = mr3d_parallel_jobs(jobs);
  fflush(NULL);
  for (; running < jobs; running++) {
    pid_t child = fork();
    if (child == 0) {
      be_a_worker(work, s);
      _exit(0);
    }
    if (child < 0) break;
  }
  if (running == 0) status = mr3d_fail(error, MR3D_IO, "cannot start a process");
  while (running > 0) {
    int how = 0;
    pid_t child = waitpid(-1, &how, WNOHANG);
    if (child == 0) {
      if (work->progress) work->progress(work->progress_user, atomic_load(&s->done), work->total);
      nanosleep(&(struct timespec){0, 50000000}, NULL);
      continue;
    }
    running--;
    if ((child < 0 || !WIFEXITED(how) || WEXITSTATUS(how) != 0) && status == MR3D_OK) {
      atomic_store(&s->failed, true);
      status = mr3d_fail(error, MR3D_IO, "a process died (%s %d)", WIFSIGNALED(how) ? "signal" : "status", WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    }
  }
  if (status == MR3D_OK && s->message[0]) status = mr3d_fail(error, MR3D_INVALID, "%.1000s", s->message);
  mr3d_shared_free(s, sizeof *s);
  return status;
}
