/** What a plug-in is kept from: the host confines itself for good before it loads one (docs/writing-a-backend.md, "Isolation"). */
#ifndef MR3D_HOST_ISOLATION_H
#define MR3D_HOST_ISOLATION_H

#include <stdbool.h>
#include <stdint.h>

/** What is not to be read, by absolute paths. */
typedef struct mr3d_hiding {
  const char *folder; /**< the golden set, or NULL */
  int n_files;
  const char **files; /**< keys; in their place there is an empty file */
} mr3d_hiding;

typedef struct mr3d_isolation {
  mr3d_hiding hiding;
  uint64_t memory;    /**< bytes that may be allocated; 0: three quarters of the machine's */
} mr3d_isolation;

/** Which protections are in force and which could not be had, and why; each list joined by "; ". */
typedef struct mr3d_protections {
  char active[2048], missing[2048];
} mr3d_protections;

void mr3d_protection(mr3d_protections *, bool active, const char *format, ...) __attribute__((format(printf, 3, 4)));

/**
 * Confines this process and all that it may start; what the system does not offer is told, and no error. Where it has process namespaces, this forks
 * and returns in a grandchild; the processes in front end as that one does, by the same status or signal.
 * Requires: one thread.
 */
void mr3d_isolate(const mr3d_isolation *, mr3d_protections *);

/** For a command of the user's own, which needs more than a plug-in. */
typedef struct mr3d_confinement {
  mr3d_hiding hiding;
  bool forgets;       /**< what it writes is its own, and gone when it ends; what cannot be made so is read-only */
  int n_kept;
  const char **kept; /**< files and folders that it may only read, since the suite needs them */
} mr3d_confinement;

/**
 * Keeps the command that this process is to become from other processes, the suite first, from what is hidden, from writing `kept` and the system's programs, and from terminals, and
 * leaves it other files, network and devices. Forks and returns as mr3d_isolate does. Requires: one thread.
 */
void mr3d_confine(const mr3d_confinement *, mr3d_protections *);

/** Denies system calls by which a process reaches beyond itself (seccomp); for good. Returns 0 or an errno. Requires: no_new_privs. */
int mr3d_filter_calls(void);

/** Denies writing to files, and reading below `hidden` where it is not NULL (Landlock); for good. Returns 0 or an errno. Requires: no_new_privs. */
int mr3d_landlock(const char *hidden, int *abi);

#endif
