/** A temporary folder for one run's weights files, gone at the end - also when the program is interrupted. */
#ifndef MR3D_CONFORM_SCRATCH_H
#define MR3D_CONFORM_SCRATCH_H

#include "mr3d/status.h"

/**
 * Makes the process's scratch folder below $TMPDIR (else /tmp) and gives its path. SIGINT, SIGTERM and SIGHUP, where they had their default
 * effect, now remove it first. In a process forked from one that has such a folder it lies within that. Requires: this process has opened none. Errors: MR3D_IO with path and reason.
 */
mr3d_status mr3d_scratch_open(const char **path, mr3d_error *);
/** Removes the files whose names begin with `prefix` ("": all). */
void mr3d_scratch_clear(const char *prefix);
/** Removes the folder with everything in it and restores the signals. Fine when none is open. */
void mr3d_scratch_close(void);

#endif
