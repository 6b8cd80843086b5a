/** What mr3d verify checks, and what it found wrong: shared by its parts. */
#ifndef MR3D_VERIFYING_H
#define MR3D_VERIFYING_H

#include "issue.h"
#include "signing.h"

typedef struct mr3d_verifying {
  const char *path;
  mr3d_suite *suite;
  mr3d_envelope *envelope;
  mr3d_claims claims;
  mr3d_conclusion c;
  bool read; /**< claims and c hold something */
  int n_keys, n_rotations, n_wrong;
  mr3d_public_key keys[MR3D_MAX_KEYS];
  struct { mr3d_public_key from, to; } rotations[MR3D_MAX_KEYS];
} mr3d_verifying;

/** Says what is wrong, as one line without control characters, and counts it. */
void mr3d_refuse(mr3d_verifying *, const char *format, ...) MR3D_PRINTF(2, 3);

/** What --replay asks for. */
typedef struct mr3d_replay_wish {
  int n;                   /**< tests again, and as many cases with inputs of the verifier's own */
  const char *picks;       /**< nonce in hexadecimal that draws both, or NULL: drawn here */
  bool other_machine;      /**< numbers may differ, verdicts may not */
} mr3d_replay_wish;

/** The backend at hand must be made of files that were certified: refuses others. `more_files` as --files. Errors: a file cannot be read. */
mr3d_status mr3d_verify_files(mr3d_verifying *, const char *backend, const char *more_files, mr3d_error *);

/**
 * Judges tests of the certificate again, with its own inputs, and compares the numbers; then cases that it covers, with inputs that nobody has seen, which must pass. Refuses what does
 * not agree. `options` has backend, golden set, threads, limits. Errors: the backend could not be asked.
 */
mr3d_status mr3d_replay(mr3d_verifying *, mr3d_run_options *options, const mr3d_replay_wish *, mr3d_error *);

#endif
