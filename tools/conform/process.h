/** A child process that speaks frames on its stdin and stdout, its own process group, its stderr kept. */
#ifndef MR3D_CONFORM_PROCESS_H
#define MR3D_CONFORM_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "mr3d/status.h"

typedef struct mr3d_log mr3d_log;

typedef struct mr3d_process {
  pid_t pid;
  int to, from; /**< its stdin, its stdout; non-blocking */
  int watch;    /**< pidfd, or -1 where the kernel has none */
  mr3d_log *log;
} mr3d_process;

/**
 * Splits a command into words as a POSIX shell does: blanks separate, single and double quotes and backslash quote; nothing is expanded.
 * Ownership: *words, NULL-terminated, is the caller's: one free() each word and the array (mr3d_words_free).
 * Errors: no word at all, a quote that is never closed.
 */
mr3d_status mr3d_words_split(const char *command, char ***words, mr3d_error *error);
void mr3d_words_free(char ***words);

/** What `limits` bounds, in words. */
#define MR3D_PROCESS_LIMITS "no core files; files at most 64 GiB"

/**
 * What else holds for each process that is started, each list joined by "; ": its own group, and no descriptor but three; its children end with it
 * where the system lets this process adopt them; with `limits` this process's own memory is closed to it, to root's only in a user namespace (`own_user`).
 */
void mr3d_process_protections(bool limits, bool own_user, char active[512], char missing[512]);

/** The path of a program, searched in PATH where its name holds no slash. Errors: not found, not executable. */
mr3d_status mr3d_process_find(const char *name, char path[4096], mr3d_error *error);

/**
 * Starts argv[0] (as mr3d_process_find finds it) in the caller's working directory and environment, where OMP_NUM_THREADS is `threads` unless that
 * is 0, with no descriptor but stdin, stdout and stderr, default signal handling, and a process group of its own; `limits` as in mr3d_process_protections.
 * On Linux the child is killed when the *thread* that started it ends, so that nothing is left behind when the suite is killed.
 * Errors: command not found, not executable, the system's reason.
 */
mr3d_status mr3d_process_start(char *const argv[], int threads, bool limits, mr3d_process **process, mr3d_error *error);

/** Whether it has ended, within `patience` seconds; `how` then says "exited with status 3" or "killed by signal 11 (Segmentation fault)".
 */
bool mr3d_process_ended(const mr3d_process *process, double patience, char how[128]);

/** What it wrote to stderr since the last call: its beginning and its end where it is long. The caller's; never NULL. */
char *mr3d_process_log(mr3d_process *process);

/**
 * Closes its pipes, gives it `patience` seconds to end, kills its whole group, frees. With the last process that runs, whatever children it left
 * outside its group end too: all of this process's children that are younger than the first process. NULL is fine.
 */
void mr3d_process_end(mr3d_process **process, double patience);

#endif
