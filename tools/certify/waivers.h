/** Waivers: failures that somebody answers for, by signature, with a reason and until a day (docs/certificate.md, "Waivers"). */
#ifndef MR3D_CERTIFY_WAIVERS_H
#define MR3D_CERTIFY_WAIVERS_H

#include "envelope.h"
#include "leaves.h"

#define MR3D_WAIVED_CASES 10 /* that one waiver may cover */
#define MR3D_WAIVED_SHARE 10 /* one in so many cases, at least one, may be waived by all together */
#define MR3D_MAX_WAIVERS 64

typedef struct mr3d_waivers mr3d_waivers;

/**
 * Reads the list in an envelope's payload. `day` is "2026-11-29": what expired before it is an error, as are malformed entries and a glob whose operator (all in front of the
 * first stroke) is not spelt out. The signature is the caller's to check. Ownership: mr3d_waivers_free.
 */
mr3d_status mr3d_waivers_read(const mr3d_envelope *, const char *day, mr3d_waivers **, mr3d_error *);
void mr3d_waivers_free(mr3d_waivers **);
int mr3d_waivers_count(const mr3d_waivers *);
/** "attention/gqa* at fp32 until 2027-01-31: REASON (ISSUE)". */
void mr3d_waivers_say(const mr3d_waivers *, int index, char *to, size_t size);

/**
 * Which tests are waived: all of a case at a tier that a waiver covers and of which one did not pass. `waived` holds n_tests.
 * Errors: a waiver that covers nothing that failed (unused), or something that passed, or too many cases (over-broad), or what another covers (a duplicate); all together too many.
 */
mr3d_status mr3d_waivers_settle(const mr3d_waivers *, int n_tests, const mr3d_test tests[], const mr3d_leaf_verdict verdicts[], bool waived[], mr3d_error *);

#endif
