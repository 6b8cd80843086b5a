/* lib:PATH.so: a C plug-in (mr3d/backend.h) in the suite's own host process, which speaks frames like any other command. */
#include <errno.h>
#include <linux/limits.h> /* PATH_MAX; <limits.h> would be the one beside this file */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend_kind.h"

#define MOST_SECRETS 4

#ifndef MR3D_LIBEXECDIR
#define MR3D_LIBEXECDIR "libexec"
#endif

/* Upwards from the running program: the build tree has it in tools/conform/host, an installation in libexec/mr3d. */
char *mr3d_backend_find_host(void) {
  const char *named = getenv("MR3D_HOST");
  if (named && *named) return realpath(named, NULL);
  static const char *const places[] = {"mr3d-host", "conform/host/mr3d-host", "tools/conform/host/mr3d-host",
                                       MR3D_LIBEXECDIR "/mr3d/mr3d-host"};
  char folder[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", folder, sizeof folder - 1);
  if (n <= 0) return NULL;
  folder[n] = 0;
  for (int level = 0; level < 4; level++) {
    char *slash = strrchr(folder, '/');
    if (!slash) break;
    *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
      char path[PATH_MAX + 64];
      snprintf(path, sizeof path, "%s/%s", folder, places[i]);
      struct stat s;
      if (stat(path, &s) == 0 && S_ISREG(s.st_mode) && access(path, X_OK) == 0) return strdup(path);
    }
  }
  return NULL;
}

const char *mr3d_backend_no_host(void) {
  const char *named = getenv("MR3D_HOST");
  return named && *named ? "is not where MR3D_HOST says: unset it or name its path"
                         : "was not found beside this program nor in its build tree or " MR3D_LIBEXECDIR "/mr3d; set MR3D_HOST to its path";
}

static mr3d_status open_host(mr3d_backend *backend, char *host, char *plugin, mr3d_error *error) {
  const mr3d_backend_options *options = &backend->options;
  char threads[16], memory[32], *hidden = options->hidden ? realpath(options->hidden, NULL) : NULL, *words[10 + 2 * MOST_SECRETS], *secrets[MOST_SECRETS];
  static char threads_option[] = "--threads", isolate[] = "--isolate", memory_option[] = "--memory", hide[] = "--hide", blank[] = "--blank";
  int n = 0, n_secrets = 0;
  snprintf(threads, sizeof threads, "%d", options->threads);
  snprintf(memory, sizeof memory, "%llu", (unsigned long long)options->memory);
  words[n++] = host;
  words[n++] = threads_option, words[n++] = threads;
  if (!options->no_isolation) {
    words[n++] = isolate;
    words[n++] = memory_option, words[n++] = memory;
    if (hidden) words[n++] = hide, words[n++] = hidden;
    for (const char *const *secret = options->secrets; secret && *secret && n_secrets < MOST_SECRETS; secret++)
      if ((secrets[n_secrets] = realpath(*secret, NULL))) words[n++] = blank, words[n++] = secrets[n_secrets++];
  }
  words[n++] = plugin, words[n] = NULL;
  mr3d_status status = mr3d_backend_open_exec(backend, words, MR3D_FRONT_PLUGIN, error);
  if (status != MR3D_OK && !options->no_isolation && error) {
    mr3d_error said = *error;
    mr3d_fail(error, status, "%.850s (it is isolated: if it needs a GPU, the network, processes or files to write to, run it with --no-isolation)", said.message);
  }
  free(hidden);
  while (n_secrets > 0) free(secrets[--n_secrets]);
  return status;
}

mr3d_status mr3d_backend_open_lib(mr3d_backend *backend, const char *path, mr3d_error *error) {
  char *whole = realpath(path, NULL);
  if (!whole) return mr3d_fail(error, MR3D_IO, "plug-in %s: %s", *path ? path : "(empty path)", strerror(errno));
  char *host = mr3d_backend_find_host();
  mr3d_status status;
  if (!host) {
    status = mr3d_fail(error, MR3D_IO, "mr3d-host, which loads plug-ins, %s", mr3d_backend_no_host());
  } else {
    status = open_host(backend, host, whole, error);
  }
  free(host);
  free(whole);
  return status;
}
