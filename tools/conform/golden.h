/** The golden set: integrity by SHA-256, and agreement of the reference with it (docs/cases.md, "A golden file"). */
#ifndef MR3D_CONFORM_GOLDEN_H
#define MR3D_CONFORM_GOLDEN_H

#include "case.h"

/** One golden file opened, or what is wrong with it. */
typedef struct mr3d_golden mr3d_golden;

/**
 * Reads golden/manifest.json and checks every file, goldens and others: listed but missing, changed (size, SHA-256), in set/ or scene/
 * but not listed, cases.json changed, a case without golden. Every problem is one line through `report`. Returns MR3D_FORMAT if there was
 * any; the message holds the first. `n_files` (may be NULL) counts what is listed.
 */
mr3d_status mr3d_golden_verify(const char *golden_dir, void (*report)(void *user, const char *line), void *user, int *n_files,
                               mr3d_error *);

/** Opens the golden of a case after checking its SHA-256 against the manifest. */
mr3d_status mr3d_golden_open(const mr3d_suite *, const mr3d_case *, mr3d_golden **, mr3d_error *);
void mr3d_golden_close(mr3d_golden **);

/**
 * Whether the reference's answer of one step (fp64 tier, seed 0) agrees with the golden: 1e-12 of the tensor's scale (largest absolute
 * value) for L0 to L2 - rotations plus 4 * 2^-53 of the largest angle -, 1e-10 for L3 and L4; integers exactly; rows and digests for large
 * tensors. `answer` NULL: it was refused. `worst` (may be NULL): largest difference over scale. Digests sum R rows, so there sqrt(R) times
 * that. Errors: MR3D_INVALID with tensor, index, got, expected.
 */
mr3d_status mr3d_golden_compare(const mr3d_golden *, const mr3d_case *, int step, const mr3d_bundle *request, const mr3d_bundle *answer,
                                double *worst, mr3d_error *);

/** The generate() tokens recorded for a greedy case, comma-separated, and the prefill step they begin at; or NULL. */
const char *mr3d_golden_tokens(const mr3d_golden *, int *step);

#endif
