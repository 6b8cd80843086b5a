/** Processes that work side by side and tell what they find through pipes. */
#ifndef MR3D_CONFORM_TEAM_H
#define MR3D_CONFORM_TEAM_H

#include <stdbool.h>
#include <stddef.h>

#include "mr3d/status.h"

typedef struct mr3d_team {
  int members;
  int threads; /**< of each, where an OpenMP region names no number */
  void (*work)(void *user, int member, int to);                            /**< in a process of its own, forked from the caller's */
  mr3d_status (*hear)(void *user, int from, bool *finished, mr3d_error *); /**< in the caller's: one message, or the end of what is told */
  void *user;
} mr3d_team;

/**
 * Starts as many OpenMP threads as will compute here (0: one a processor), while they can be had: the runtime keeps them, and a backend that takes all
 * that the system allows comes later.
 */
void mr3d_team_threads(int threads);

/**
 * Forks the members and hears them until all have finished. They end with the caller's process (SIGTERM), and share with it what mr3d_shared_memory
 * gave; pointers to what was there before the fork mean the same in all. Requires: no OpenMP region has run in the caller's process, after which GNU's
 * runtime cannot go on in a forked one.
 * Errors: the first of `hear`, upon which `user` should make the others finish; a member that died, with the signal.
 */
mr3d_status mr3d_team_run(const mr3d_team *, mr3d_error *);

/** All of the bytes, or false: the other end is gone. */
bool mr3d_tell(int to, const void *bytes, size_t size);
bool mr3d_told(int from, void *bytes, size_t size);

#endif
