/** What is certified, and where: the backend's files, and the machine that judged them. */
#ifndef MR3D_CERTIFY_SUBJECT_H
#define MR3D_CERTIFY_SUBJECT_H

#include <cjson/cJSON.h>

#include "run.h"

/**
 * The files that a backend is made of: the plug-in; the words of a command that are files, its program found in PATH; the suite's own program for builtin: and mutant:; then `more`,
 * paths joined by commas (may be NULL). [{"name", "digest": {"sha256"}}], as in-toto's subjects. Ownership: the caller's.
 * Errors: a file that cannot be read, dir: (stored answers cannot meet a challenge), two files of one name.
 */
mr3d_status mr3d_subject_files(const char *spec, const char *more, cJSON **files, mr3d_error *);

/** How much of a backend the subject names. */
#define MR3D_HASHED_COMMAND "command only"        /* of exec: the words that are files; what that program loads is not known */
#define MR3D_HASHED_FILES "with the files named"  /* --files was given */
#define MR3D_HASHED_PLUGIN "plug-in only"         /* of lib: the plug-in; not the libraries that it loads */
#define MR3D_HASHED_SUITE "the suite itself"      /* of builtin: and mutant: */
const char *mr3d_subject_hashed(const char *spec, const char *more);

/** {"spec", "name", "version", "keeps", "hashed"}. Ownership: the caller's. */
cJSON *mr3d_subject_backend(const mr3d_run *, const char *more);

/**
 * {"processor", "system", "compiler", "driver", "program", "isolation": {...}}: `compiler` and `driver` (NULL: what the first plug-in file and the system say) are claims
 * of the caller's; `program` is the digest of this program. Ownership: the caller's.
 */
cJSON *mr3d_subject_machine(const mr3d_run *, const char *compiler, const char *driver);

#endif
