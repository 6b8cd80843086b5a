/** The inside of a backend: what each kind implements behind the door of backend.h. */
#ifndef MR3D_CONFORM_BACKEND_KIND_H
#define MR3D_CONFORM_BACKEND_KIND_H

#include "backend.h"
#include "mutants.h"

struct mr3d_backend {
  mr3d_backend_info info;
  mr3d_backend_options options;
  /** Fills kind and message, and answer; the door fills the rest unless `log` is set. */
  void (*ask)(mr3d_backend *, const mr3d_bundle *request, double timeout, mr3d_reply *);
  bool (*went_astray)(mr3d_backend *, char message[256]); /**< NULL: it cannot */
  void (*about)(mr3d_backend *, const char *test, int step, mr3d_tier, uint64_t seed); /**< NULL: it need not know */
  char *(*remarks)(mr3d_backend *);                                                    /**< NULL: none */
  void (*rest)(mr3d_backend *);                                                        /**< NULL: nothing of it lasts */
  void (*close)(mr3d_backend *);
  void *state;
};

/* Each fills ask, close, state and info of a backend whose options are set; on failure they leave nothing to free. */

/** `emulates`: in the tier's own arithmetic. Requires: a server can have the n mistakes, at most two of them in every layer, or each in a place that it can be in. */
void mr3d_backend_open_builtin(mr3d_backend *, bool emulates, int n, const mr3d_mutant_place *);
/** What argv[0] of a process is. The suite's own host sends a frame about its protections first, where it isolates. */
typedef enum mr3d_front { MR3D_FRONT_COMMAND, MR3D_FRONT_CONFINED, MR3D_FRONT_PLUGIN } mr3d_front;

/** Takes a copy of the words. */
mr3d_status mr3d_backend_open_exec(mr3d_backend *, char *const argv[], mr3d_front, mr3d_error *);
mr3d_status mr3d_backend_open_dir(mr3d_backend *, const char *path, mr3d_error *);
mr3d_status mr3d_backend_open_lib(mr3d_backend *, const char *path, mr3d_error *);

/** Copies what a backend says of itself; ops and tiers too. */
void mr3d_backend_introduce(mr3d_backend *, const char *name, const char *version, int n_ops, const char *const ops[], int n_tiers,
                            const mr3d_tier tiers[]);

/** What is in force around a backend, and what is not; copies. */
void mr3d_backend_protect(mr3d_backend *, const char *active, const char *missing);

/** The path of a program that belongs to the suite, malloc'ed, or NULL: $MR3D_HOST, the build tree, or libexec, as seen from the running
 * program. */
char *mr3d_backend_find_host(void);
/** What to say where it was not found: "was not found ...; set MR3D_HOST to its path". */
const char *mr3d_backend_no_host(void);

#endif
